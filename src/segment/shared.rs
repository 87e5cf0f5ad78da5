//! Writes a file that logs share: small segments of many logs, one behind the other.

use std::{path::PathBuf, sync::Arc};

use super::{
    Segments,
    filling::Filling,
    packing::Held,
    writer::{create_file, sync_failed},
};
use crate::{
    disk::DiskFile,
    error::{Error, Result},
    format::{
        meta::{Place, SegmentState},
        part::{PART_HEADER_BYTES, PartHeader},
        segment::{SEGMENT_HEADER_BYTES, SegmentHeader},
    },
    ids::{LogId, OffsetRange},
};

/// Parts are collected to about this size before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Adds parts to one new file. They count once the metalog names them.
#[derive(Debug)]
pub struct SharedWriter {
    segments: Segments,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    number: u64,
    /// Whole parts that are not written yet. They end at `end`.
    ready: Vec<u8>,
    end: u64,
}

impl SharedWriter {
    /// Begins the file with a number. Its directory must exist.
    pub fn create(segments: &Segments, number: u64) -> Result<SharedWriter> {
        let (file, path) = create_file(segments, number)?;
        let ready = SegmentHeader::shared(segments.store, number).encode();
        let end = SEGMENT_HEADER_BYTES;
        Ok(SharedWriter { segments: segments.clone(), file, path, number, ready, end })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// The length of the file once everything is written.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Adds the messages of a log as a part that stands for a range of offsets. There must be some. Returns the state of
    /// the segment.
    pub fn add(&mut self, log: LogId, range: OffsetRange, held: &[Held]) -> Result<SegmentState> {
        if self.ready.len() >= WRITE_BYTES {
            self.write_ready()?;
        }
        let at = self.end;
        let state = Filling::nothing(log, range.start, self.number, Place::Part(at));
        let mut filling = Filling::new(&self.segments, state);
        let header_at = self.ready.len();
        self.ready.resize(header_at + PART_HEADER_BYTES as usize, 0);
        for (offset, record) in held.iter().flat_map(Held::records) {
            if filling.is_full_for(offset, &record) {
                filling.finish_block(&mut self.ready);
            }
            filling.add(offset, &record);
        }
        filling.finish_block(&mut self.ready);
        let mut state = filling.state;
        state.end = state.end.max(range.end);
        let blocks_len = u32::try_from(state.bytes - state.blocks_at()).expect("a part is small");
        let header = PartHeader { log, base: state.base, blocks_len };
        let header = header.encode(self.segments.store, self.number, at);
        self.ready[header_at..][..header.len()].copy_from_slice(&header);
        self.end = state.bytes;
        Ok(state)
    }

    /// Writes everything that was added.
    pub fn write_ready(&mut self) -> Result<()> {
        let at = self.end - self.ready.len() as u64;
        self.file
            .write_at(at, &self.ready)
            .map_err(|error| Error::io(error, "a segment cannot be written", &self.path).at(at))?;
        self.ready.clear();
        Ok(())
    }

    /// Makes the content of the file durable. Its name is synced with those of other files.
    pub fn sync(&self) -> Result<()> {
        debug_assert!(self.ready.is_empty());
        if seeded!(SharedFileIsNotSynced) {
            return Ok(());
        }
        self.file.sync().map_err(|error| sync_failed(error, &self.path))
    }
}
