//! Writes a segment that has a file of its own: adds records, packs them into blocks, and seals it with a footer when it
//! is full.

use std::{io, path::PathBuf, sync::Arc};

use super::{SegmentReader, Segments, filling::Filling, reader::unreadable};
use crate::{
    disk::{DiskFile, Open},
    error::{Error, ErrorKind, Result},
    format::{
        meta::{Place, SegmentState},
        pack::LoneBlock,
        record::RecordParts,
        segment::put_footer,
    },
    ids::{LogId, Offset},
    layout::Fan,
};

/// Blocks are collected to about this size before they are written, or to a share of a segment, if segments are small.
pub const WRITE_BYTES: usize = 256 << 10;

/// A record with so many bytes of payload is a block of its own, and is not copied.
const LARGE_BYTES_MIN: usize = 256 << 10;

/// Adds blocks to one segment. They count once the metalog holds the segment's new state.
#[derive(Debug)]
pub struct SegmentWriter {
    segments: Segments,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    filling: Filling,
    /// Whole blocks that are not written yet. They end at the state's `bytes`.
    ready: Vec<u8>,
    /// So many bytes are collected before they are written.
    write_bytes: usize,
    /// Whether the file is new.
    is_new: bool,
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
        Ok(SegmentWriter {
            segments: segments.clone(),
            file,
            path,
            filling,
            ready,
            write_bytes: WRITE_BYTES,
            is_new: true,
        })
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
        let (filling, ready) = (Filling::new(segments, state), Vec::new());
        Ok(SegmentWriter {
            segments: segments.clone(),
            file,
            path,
            filling,
            ready,
            write_bytes: WRITE_BYTES,
            is_new: false,
        })
    }

    /// Has at most so many bytes collected before they are written.
    pub fn writing(self, most: usize) -> SegmentWriter {
        SegmentWriter { write_bytes: WRITE_BYTES.min(most), ..self }
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
        let LoneBlock { before, payload, behind, .. } = self.filling.lone(offset, record);
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
        let most = self.write_bytes;
        if needed > most && !self.ready.is_empty() {
            self.write_ready()?;
        } else if needed > most / 8 && self.ready.capacity() < most {
            // This grows the buffer once. Doubling would allocate more than is needed.
            self.ready.reserve_exact(most - self.ready.len());
        }
        self.filling.finish_block(&mut self.ready);
        Ok(())
    }

    fn write_ready(&mut self) -> Result<()> {
        let at = self.state().bytes - self.ready.len() as u64;
        self.write(at, &self.ready)?;
        self.ready.clear();
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_at(at, bytes);
        written.map_err(|error| Error::io(error, "a segment cannot be written", &self.path).at(at))
    }

    /// Writes everything that was added, and frees the buffer: many segments may wait for their sync.
    pub fn flush(&mut self) -> Result<()> {
        if self.filling.unfinished() > 0 {
            self.finish_block()?;
        }
        self.write_ready()?;
        self.ready = Vec::new();
        self.filling.rest();
        Ok(())
    }

    /// Seals the segment: writes its footer. Nothing can be added afterwards.
    pub fn seal(&mut self) -> Result<()> {
        self.flush()?;
        let reader = SegmentReader::open(&self.segments, self.state())?;
        let (mut footer, end) = (Vec::new(), self.state().bytes);
        put_footer(&mut footer, reader.table(), end, self.filling.seed());
        self.write(end, &footer)?;
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
        if self.is_new {
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
