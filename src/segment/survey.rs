//! Reads one segment block by block, damaged or not. Nothing is changed. The survey trusts no table: it walks the file
//! and takes the blocks that verify.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::file_header;
use crate::{
    disk::{Disk, DiskFile, Open, is_no_dir, is_not_a_file},
    error::{Error, Result},
    format::{
        Malformed,
        block::{BLOCK_HEADER_BYTES, BlockHeader, BlockKind},
        lives::Lives,
        meta::{Place, SegmentState},
        pack::Records,
        part::{PART_HEADER_BYTES, PartHeader},
        record::RecordSpans,
        segment::{SEGMENT_HEADER_BYTES, SegmentHeader, TableEntry, take_table},
        wire::{ALIGN, Seed},
    },
    ids::{Offset, Timestamp},
};

const PIECE_BYTES: usize = 1 << 20;

/// A segment that is read from its first block to its last.
#[derive(Debug)]
pub struct SegmentSurvey {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    place: Place,
    seed: Seed,
    /// Where the blocks end: the committed length from the metalog, or the file's end.
    limit: u64,
    len: u64,
    at: u64,
    /// The blocks that verify.
    table: Vec<TableEntry>,
    /// The lives of the messages in these blocks.
    lives: Lives,
}

/// The content of one place in the file.
#[derive(Debug)]
pub enum Piece {
    Block(SurveyedBlock),
    Damage(BlockDamage),
}

/// A block that verifies and whose records all decode.
#[derive(Debug)]
pub struct SurveyedBlock {
    pub header: BlockHeader,
    pub body: Vec<u8>,
    pub records: Vec<(Offset, RecordSpans)>,
}

/// A place without a block that verifies.
#[derive(Debug)]
pub struct BlockDamage {
    pub position: u64,
    pub what: Malformed,
}

/// The header of a segment's file. `None` if it is damaged.
pub fn header_of(disk: &dyn Disk, path: &Path) -> Result<Option<SegmentHeader>> {
    let failed = |error| Error::io(error, "a segment cannot be read", path);
    let file = match disk.open(path, Open::Reading) {
        Err(error) if is_not_a_file(&error) => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    let read = file.read_at(0, &mut header).map_err(failed)?;
    Ok(SegmentHeader::decode(&header[..read]).ok())
}

impl SegmentSurvey {
    /// Opens a segment. Its header is known from its name, or from the part's own header, and need not verify. `limit` is
    /// where its blocks end, if that is known. It must be for a part. `None` if there is no such regular file.
    pub fn open(
        disk: &dyn Disk,
        path: PathBuf,
        header: &SegmentHeader,
        place: Place,
        limit: Option<u64>,
    ) -> Result<Option<SegmentSurvey>> {
        let failed = |error| Error::io(error, "a segment cannot be read", &path);
        let file = match disk.open(&path, Open::Reading) {
            Err(error) if is_not_a_file(&error) || is_no_dir(&error) => return Ok(None),
            file => file.map_err(failed)?,
        };
        let len = file.len().map_err(failed)?;
        let limit = limit.unwrap_or(len);
        let (seed, at) = (header.seed(), place.blocks_at());
        let (table, lives, header) = (Vec::new(), Lives::NONE, *header);
        Ok(Some(SegmentSurvey { path, file, header, place, seed, limit, len, at, table, lives }))
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// What is wrong with the header of the file, and of the part in it, and at which position.
    pub fn check_header(&self) -> Result<Option<(u64, Malformed)>> {
        let bytes = self.read(0, SEGMENT_HEADER_BYTES as usize)?;
        match SegmentHeader::decode(&bytes) {
            Ok(header) if header == file_header(&self.header, self.place) => {}
            Ok(_) => return Ok(Some((0, Malformed("a segment that belongs elsewhere")))),
            Err(what) => return Ok(Some((0, what))),
        }
        let Place::Part(at) = self.place else { return Ok(None) };
        let SegmentHeader { store, log, base, generation } = self.header;
        let bytes = self.read(at, PART_HEADER_BYTES as usize)?;
        let is_right =
            |it: &PartHeader| (it.log, it.base) == (log, base) && at + it.len() == self.limit;
        Ok(match PartHeader::decode(&bytes, store, generation, at) {
            Ok(header) if is_right(&header) => None,
            Ok(_) => Some((at, Malformed("a part that belongs elsewhere"))),
            Err(what) => Some((at, what)),
        })
    }

    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len.min(self.len.saturating_sub(at) as usize)];
        let read = self
            .file
            .read_at(at, &mut bytes)
            .map_err(|error| Error::io(error, "a segment cannot be read", &self.path).at(at))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The next block, or the next damage. `None` behind the last block.
    pub fn next(&mut self) -> Result<Option<Piece>> {
        let end = self.limit.min(self.len);
        if self.at >= end {
            // The last block may be whole without the bytes that fill it up. A store with such a file does not open.
            let is_short = self.len < self.limit && self.at <= self.limit;
            return Ok(is_short.then(|| self.cut_short()));
        }
        let position = self.at;
        let bytes = self.read(position, BLOCK_HEADER_BYTES)?;
        let header = BlockHeader::decode(&bytes, position, self.seed);
        let header = header.and_then(|header| self.fitting(header));
        let header = match header {
            Ok(header) if header.kind == BlockKind::Footer => {
                self.at = self.limit;
                return Ok(None);
            }
            Ok(header) => header,
            Err(what) => {
                self.at = self.resync(position + ALIGN, end)?;
                return Ok(Some(Piece::Damage(BlockDamage { position, what })));
            }
        };
        self.at = position + header.block_len();
        let body = self.read(position + BLOCK_HEADER_BYTES as u64, header.body_len as usize)?;
        match verified(&header, &body, self.seed) {
            Ok(records) => {
                self.table.push(TableEntry::of(&header, self.table.last()));
                for (_, spans) in &records {
                    self.lives.add(Lives::of(spans.timestamp, spans.headers(&body)));
                }
                Ok(Some(Piece::Block(SurveyedBlock { header, body, records })))
            }
            Err(what) => Ok(Some(Piece::Damage(BlockDamage { position, what }))),
        }
    }

    /// Checks that a header can stand here.
    fn fitting(&self, header: BlockHeader) -> Result<BlockHeader, Malformed> {
        let in_order = self.table.last().is_none_or(|before| before.last < header.first);
        let is_last = self.limit == self.len && !matches!(self.place, Place::Part(_));
        match header.kind {
            BlockKind::Footer if is_last => Ok(header),
            BlockKind::Records
                if in_order && header.position + header.block_len() <= self.limit =>
            {
                Ok(header)
            }
            _ => Err(Malformed("a block does not fit between its neighbours")),
        }
    }

    fn cut_short(&mut self) -> Piece {
        let position = self.len;
        self.at = u64::MAX;
        Piece::Damage(BlockDamage { position, what: Malformed("a segment ends too early") })
    }

    /// The next place with a block's header that verifies. The end if there is none.
    fn resync(&self, from: u64, end: u64) -> Result<u64> {
        let mut at = from;
        while at < end {
            let bytes = self.read(at, PIECE_BYTES + BLOCK_HEADER_BYTES)?;
            let until = bytes.len().saturating_sub(BLOCK_HEADER_BYTES - 1);
            for n in (0..until).step_by(ALIGN as usize) {
                let position = at + n as u64;
                // A cheap check first: a header repeats its position, so most places fail here.
                let bears = bytes[n + 56..n + 64] == position.to_le_bytes();
                if bears && position < end {
                    let header = BlockHeader::decode(&bytes[n..], position, self.seed);
                    if header.and_then(|header| self.fitting(header)).is_ok() {
                        return Ok(position);
                    }
                }
            }
            at += PIECE_BYTES as u64;
        }
        Ok(end)
    }

    /// What is wrong with the lives in the segment's entry, once all of its blocks were read. Messages that have expired
    /// would stay on disk.
    pub fn check_lives(&self, state: &SegmentState) -> Option<Malformed> {
        let is_wrong = state.lives.is_some_and(|lives| !lives.covers(self.lives));
        is_wrong.then_some(Malformed(
            "a segment's entry in the metalog says that its messages live longer than they do",
        ))
    }

    /// What is wrong with the footer. It must stand behind the blocks that were read.
    pub fn check_footer(&self) -> Result<Option<Malformed>> {
        let bytes = self.read(self.limit, BLOCK_HEADER_BYTES)?;
        let header = match BlockHeader::decode(&bytes, self.limit, self.seed) {
            Ok(header) => header,
            Err(what) => return Ok(Some(what)),
        };
        let at = self.limit + BLOCK_HEADER_BYTES as u64;
        let body = self.read(at, header.body_len as usize)?;
        let table = header.verify(&body, self.seed).and_then(|()| take_table(&header, &body));
        Ok(match table {
            Ok(table) if table == self.table => None,
            Ok(_) => Some(Malformed("a footer that does not fit its blocks")),
            Err(what) => Some(what),
        })
    }
}

/// The records of a block, if the whole block fits its header.
fn verified(
    header: &BlockHeader,
    body: &[u8],
    seed: Seed,
) -> Result<Vec<(Offset, RecordSpans)>, Malformed> {
    header.verify(body, seed)?;
    let walk = Records::new(header, body)?;
    let (mut place, mut records) = (walk.start(body), Vec::new());
    let mut max_time = Timestamp(0);
    while let Some((offset, spans)) = walk.step(body, &mut place)? {
        max_time = max_time.max(spans.timestamp);
        records.push((offset, spans));
    }
    if records.len() != header.count as usize || max_time != header.max_time {
        return Err(Malformed("a block's header contradicts its records"));
    }
    Ok(records)
}
