//! Writes a segment that has a file of its own: adds records, packs them into blocks, and seals it with a footer when it
//! is full.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    SegmentReader, Segments,
    filling::Filling,
    reader::{read_footer, unreadable},
    skip_unreadable,
};
use crate::{
    disk::{DiskFile, Open},
    error::{Error, ErrorKind, Result},
    format::{
        block::BlockHeader,
        meta::{Place, SegmentState},
        pack::LoneBlock,
        record::RecordParts,
        segment::{TABLE_ENTRY_BYTES, TableEntry, put_footer},
    },
    ids::{LogId, Offset},
    layout::Fan,
};

/// Blocks are written in pieces of this size, each at a multiple of it, or of a share of a segment, if segments are small.
/// Linux keeps such a piece in memory as one large page, and maps it as one.
const PIECE_BYTES: u64 = 2 << 20;

/// A block may be so much longer than it should be, but for a large record.
const ROUNDING_BYTES: usize = 1024;

/// The table of a segment that is not full is written again by each checkpoint that adds to it, unless it has more than
/// one byte for so many that are added.
const TABLE_SHARE: u64 = 64;

/// A record with so many bytes of payload is a block of its own, and is not copied.
const LARGE_BYTES_MIN: usize = 256 << 10;

/// Adds blocks to one segment. They count once the metalog holds the segment's new state.
#[derive(Debug)]
pub struct SegmentWriter {
    segments: Segments,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    filling: Filling,
    /// Blocks that are not written yet. They end at the state's `bytes`.
    ready: Vec<u8>,
    /// The size of the pieces in which they are written.
    piece: u64,
    /// The blocks, if they are known. Those of a segment that is gone on with are in its footer, if it has one.
    table: Option<Vec<TableEntry>>,
    /// The segment that is gone on with.
    old: Option<SegmentState>,
}

impl SegmentWriter {
    /// Begins a segment in the file with a number. If there is such a file, a failed attempt has left it. Its directory
    /// must exist. If it is gone, durable messages are gone with it: a new one would hide that.
    pub fn create(
        segments: &Segments,
        log: LogId,
        base: Offset,
        number: u64,
    ) -> Result<SegmentWriter> {
        let state = Filling::nothing(log, base, number, Place::Own);
        let (file, path) = create_file(segments, number)?;
        let ready = segments.header(&state).encode();
        let filling = Filling::new(segments, state);
        let segments = segments.clone();
        let (piece, table, old) = (PIECE_BYTES, Some(Vec::new()), None);
        Ok(SegmentWriter { segments, file, path, filling, ready, piece, table, old })
    }

    /// Goes on with a segment that is not sealed, behind its committed length.
    pub fn reopen(segments: &Segments, state: &SegmentState) -> Result<SegmentWriter> {
        debug_assert!(state.is_open());
        let path = segments.path(state);
        let failed = |error| unreadable(error, &path, 0);
        let file = segments.disk.open(&path, Open::Existing).map_err(failed)?;
        if file.len().map_err(failed)? < state.bytes {
            let what = "a segment is shorter than its committed length";
            return Err(Error::corrupt(what, path, state.bytes));
        }
        let mut state = state.clone();
        if seeded!(AppendsBehindTheFilesEnd) {
            state.bytes = file.len().map_err(failed)?.next_multiple_of(8);
        }
        let old = Some(state.clone());
        let filling = Filling::new(segments, state);
        let table = read_footer(&*file, &filling.state, filling.seed());
        let (segments, ready, piece) = (segments.clone(), Vec::new(), PIECE_BYTES);
        Ok(SegmentWriter { segments, file, path, filling, ready, piece, table, old })
    }

    /// Has the blocks written in pieces of about so many bytes at most, and collected in a buffer of another writer.
    pub fn writing(mut self, most: u64, mut buffer: Vec<u8>) -> SegmentWriter {
        self.piece = PIECE_BYTES.min(1 << most.max(1).ilog2());
        buffer.clear();
        buffer.append(&mut self.ready);
        self.ready = buffer;
        self
    }

    /// The buffer of a writer that was flushed, for the next one. What is left needs no more than its sync.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.table = None;
        std::mem::take(&mut self.ready)
    }

    /// The state of the segment once everything that was added is flushed and synced.
    pub fn state(&self) -> &SegmentState {
        &self.filling.state
    }

    /// The bytes of the segment, unflushed ones included.
    pub fn bytes(&self) -> u64 {
        self.state().bytes + self.filling.unfinished() as u64
    }

    /// Adds a record. Offsets must grow.
    pub fn push(&mut self, offset: Offset, record: &RecordParts<'_>) -> Result<()> {
        if record.payload.len() >= LARGE_BYTES_MIN {
            return self.push_large(offset, record);
        }
        if self.filling.is_full_for(offset, record) {
            self.finish_block()?;
        }
        self.filling.add(offset, record);
        Ok(())
    }

    /// Writes a large record as a block of its own, from where it is: it takes no memory.
    fn push_large(&mut self, offset: Offset, record: &RecordParts<'_>) -> Result<()> {
        if self.filling.unfinished() > 0 {
            self.finish_block()?;
        }
        self.write_ready()?;
        let mut at = self.state().bytes;
        let LoneBlock { header, before, payload, behind } = self.filling.lone(offset, record);
        self.note(&header);
        for part in [&before[..], payload, &behind] {
            self.write(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Extends the segment's range to `end`. Messages of the range that the segment does not hold are dead.
    pub fn extend_to(&mut self, end: Offset) {
        self.filling.state.end = self.state().end.max(end);
    }

    fn finish_block(&mut self) -> Result<()> {
        let needed = self.ready.len() + self.filling.block_len();
        let most = (self.piece + self.segments.block_bytes) as usize + ROUNDING_BYTES;
        if needed > self.ready.capacity() && needed > most / 8 {
            // This grows the buffer once. Doubling would allocate more than is needed.
            self.ready.reserve_exact(most.max(needed) - self.ready.len());
        }
        let header = self.filling.finish_block(&mut self.ready);
        self.note(&header);
        let (begin, end) = (self.ready_at(), self.state().bytes / self.piece * self.piece);
        if begin < end {
            let whole = (end - begin) as usize;
            self.write(begin, &self.ready[..whole])?;
            self.ready.drain(..whole);
        }
        Ok(())
    }

    fn note(&mut self, block: &BlockHeader) {
        if let Some(table) = &mut self.table {
            let entry = TableEntry::of(block, table.last());
            table.push(entry);
        }
    }

    /// Where the bytes begin that are not written yet.
    fn ready_at(&self) -> u64 {
        self.state().bytes - self.ready.len() as u64
    }

    fn write_ready(&mut self) -> Result<()> {
        self.write(self.ready_at(), &self.ready)?;
        self.ready.clear();
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_at(at, bytes);
        written.map_err(|error| Error::io(error, "a segment cannot be written", &self.path).at(at))
    }

    /// Writes everything that was added, and the table of the blocks behind it.
    pub fn flush(&mut self) -> Result<()> {
        if self.state().sealed {
            return Ok(());
        }
        self.flush_blocks()?;
        let added = self.state().bytes - self.old.as_ref().map_or(0, |old| old.bytes);
        let blocks = self.state().bytes / self.segments.block_bytes + 1;
        if blocks * TABLE_ENTRY_BYTES as u64 * TABLE_SHARE <= added
            && self.learn_table().is_ok()
            && let Some(table) = &self.table
        {
            match self.write_footer(table) {
                Err(error) if error.kind() == ErrorKind::DiskFull => {}
                written => return written,
            }
        }
        // A checkpoint that failed may have left the footer of other blocks here, but not in a new file.
        if self.old.is_none() { Ok(()) } else { self.write_footer(&[]) }
    }

    fn flush_blocks(&mut self) -> Result<()> {
        if self.filling.unfinished() > 0 {
            self.finish_block()?;
        }
        self.write_ready()?;
        self.filling.rest();
        Ok(())
    }

    /// Reads the table from the blocks, unless it is known.
    fn learn_table(&mut self) -> Result<()> {
        if self.table.is_none() {
            let reader = SegmentReader::open_unfinished(&self.segments, self.state())?;
            self.table = Some(reader.table().to_vec());
        }
        Ok(())
    }

    fn write_footer(&self, table: &[TableEntry]) -> Result<()> {
        let (mut footer, end) = (Vec::new(), self.state().bytes);
        put_footer(&mut footer, table, end, self.filling.seed());
        self.write(end, &footer)
    }

    /// Seals the segment: writes its footer. Nothing can be added afterwards. If the table cannot be read from an older part
    /// of it, the segment is complete all the same, and stays unsealed.
    pub fn seal(&mut self) -> Result<()> {
        self.flush_blocks()?;
        if skip_unreadable(self.learn_table())?.is_none() {
            return Ok(());
        }
        self.write_footer(self.table.as_deref().unwrap_or_default())?;
        self.filling.state.sealed = true;
        Ok(())
    }

    /// Makes the content of the file durable. Its name is synced with those of other files: see [`Output`](super::Output).
    pub fn sync(&self) -> Result<()> {
        if seeded!(SegmentIsNotSynced) {
            return Ok(());
        }
        self.file.sync().map_err(|error| sync_failed(error, &self.path))
    }

    /// Gives up a segment that was begun, because writing its content failed.
    pub fn abandon(self) {
        if self.old.is_none() {
            // If the removal fails, a sweep removes the file.
            let _ = self.segments.disk.remove(&self.path);
        }
    }
}

/// Makes the file with a number.
pub fn create_file(segments: &Segments, number: u64) -> Result<(Arc<dyn DiskFile>, PathBuf)> {
    let path = segments.layout.segment_file(number);
    let file = segments.disk.open(&path, Open::Fresh).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let what = "a directory of segments is missing, and messages with it; \
                        put it back, or close the engine and salvage the store";
            return Error::corrupt(what, segments.layout.fan_dir(Fan::of(number)), 0);
        }
        Error::io(error, "a segment cannot be made", &path)
    })?;
    Ok((file, path))
}

pub fn sync_failed(error: io::Error, path: &std::path::Path) -> Error {
    let what = "a sync of a segment failed; reopen the store to find out what is there";
    Error::new(ErrorKind::Poisoned, what).in_file(path).because(error)
}
