//! Writes segments: adds records, packs them into blocks, and seals full segments with a footer.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{SegmentReader, Segments, reader::unreadable};
use crate::{
    disk::{DiskFile, Open},
    error::{Error, ErrorKind, Result},
    format::{
        block::BLOCK_HEADER_BYTES,
        lives::Lives,
        meta::SegmentState,
        pack::BlockBuilder,
        record::RecordParts,
        segment::{SEGMENT_HEADER_BYTES, put_footer},
        wire::Seed,
    },
    ids::{LogId, Offset, Timestamp},
};

/// Blocks are collected to about this size before they are written.
const WRITE_BYTES: usize = 256 << 10;

/// Adds blocks to one segment. They count once the metalog holds the segment's new state.
#[derive(Debug)]
pub struct SegmentWriter {
    segments: Segments,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    seed: Seed,
    block: BlockBuilder,
    /// Whole blocks that are not written yet. They end at `state.bytes`.
    ready: Vec<u8>,
    state: SegmentState,
    /// Whether the file's name is new, so that its directory must be synced.
    is_new: bool,
}

impl SegmentWriter {
    /// Begins a segment. If there is a file with its name, a failed attempt has left it. Makes the log's directory if
    /// this is the log's first segment. Otherwise the directory holds durable messages: if it is gone, a new one would
    /// hide that.
    pub fn create(
        segments: &Segments,
        log: LogId,
        base: Offset,
        generation: u64,
        is_first: bool,
    ) -> Result<SegmentWriter> {
        let state = SegmentState {
            log,
            base,
            generation,
            end: base,
            bytes: SEGMENT_HEADER_BYTES,
            records: 0,
            max_time: Timestamp(0),
            sealed: false,
            lives: Some(Lives::NONE),
        };
        let path = segments.path(&state);
        let failed = |error| Error::io(error, "a segment cannot be made", &path);
        let dir = segments.layout.log_dir(log);
        if is_first {
            segments.disk.create_subdir(&dir).map_err(failed)?;
        }
        let file = segments.disk.open(&path, Open::Fresh).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                let what = "the directory of a log's segments is missing, and its messages with it; \
                            put it back, or close the engine and salvage the store";
                return Error::corrupt(what, &dir, 0);
            }
            failed(error)
        })?;
        let header = segments.header(&state);
        let ready = header.encode();
        Ok(SegmentWriter {
            segments: segments.clone(),
            file,
            seed: header.seed(),
            path,
            block: BlockBuilder::default(),
            ready,
            state,
            is_new: true,
        })
    }

    /// Goes on with a segment that is not sealed, behind its committed length.
    pub fn reopen(segments: &Segments, state: &SegmentState) -> Result<SegmentWriter> {
        debug_assert!(!state.sealed);
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
        Ok(SegmentWriter {
            segments: segments.clone(),
            file,
            seed: segments.header(&state).seed(),
            path,
            block: BlockBuilder::default(),
            ready: Vec::new(),
            state,
            is_new: false,
        })
    }

    /// The state of the segment once everything that was added is flushed and synced.
    pub fn state(&self) -> &SegmentState {
        &self.state
    }

    /// The bytes of the segment, unflushed ones included.
    pub fn bytes(&self) -> u64 {
        self.state.bytes + if self.block.is_empty() { 0 } else { self.block.len() as u64 }
    }

    /// Adds a record. Offsets must grow.
    pub fn push(&mut self, offset: Offset, record: &RecordParts<'_>) -> Result<()> {
        debug_assert!(offset >= self.state.end);
        let size = record.weight() as usize;
        let full = self.block.len() + size > self.segments.block_bytes as usize;
        if !self.block.is_empty() && (full || !self.block.fits(offset)) {
            self.finish_block()?;
        }
        self.block.push(offset, record);
        self.state.end = offset.next();
        self.state.records += 1;
        self.state.max_time = self.state.max_time.max(record.timestamp);
        if let Some(lives) = &mut self.state.lives
            && !seeded!(LivesOfSegmentsAreNotKept)
            && !(seeded!(LivesAreLostInRewrites) && self.state.generation > 0)
        {
            lives.add(Lives::of_record(record));
        }
        Ok(())
    }

    /// Extends the segment's range to `end`. Messages of the range that the segment does not hold are dead.
    pub fn extend_to(&mut self, end: Offset) {
        self.state.end = self.state.end.max(end);
    }

    fn finish_block(&mut self) -> Result<()> {
        let needed = self.ready.len() + BLOCK_HEADER_BYTES + self.block.len();
        if needed > WRITE_BYTES && !self.ready.is_empty() {
            self.write_ready()?;
        } else if needed > WRITE_BYTES / 8 && self.ready.capacity() < WRITE_BYTES {
            // This grows the buffer once. Doubling would allocate more than is needed.
            self.ready.reserve_exact(WRITE_BYTES - self.ready.len());
        }
        let header = self.block.finish(&mut self.ready, self.state.bytes, self.seed);
        self.state.bytes += header.block_len();
        Ok(())
    }

    fn write_ready(&mut self) -> Result<()> {
        let at = self.state.bytes - self.ready.len() as u64;
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
        if !self.block.is_empty() {
            self.finish_block()?;
        }
        self.write_ready()?;
        self.ready = Vec::new();
        self.block = BlockBuilder::default();
        Ok(())
    }

    /// Seals the segment: writes its footer. Nothing can be added afterwards.
    pub fn seal(&mut self) -> Result<()> {
        self.flush()?;
        let reader = SegmentReader::open(&self.segments, &self.state)?;
        let mut footer = Vec::new();
        put_footer(&mut footer, reader.table(), self.state.bytes, self.seed);
        self.write(self.state.bytes, &footer)?;
        self.state.sealed = true;
        Ok(())
    }

    /// Makes the segment durable, with its name.
    pub fn sync(&self) -> Result<()> {
        let failed = |error| {
            let what = "a sync of a segment failed; reopen the store to find out what is there";
            Error::new(ErrorKind::Poisoned, what).in_file(&self.path).because(error)
        };
        if !seeded!(SegmentIsNotSynced) {
            self.file.sync().map_err(failed)?;
        }
        if self.is_new {
            let (layout, disk) = (&self.segments.layout, &self.segments.disk);
            let sync_dir = |dir: &Path| {
                let opened = disk.open_dir(dir);
                let unopened = |error| Error::io(error, "a directory cannot be opened", dir);
                opened.map_err(unopened)?.sync().map_err(failed)
            };
            if !seeded!(SegmentNameIsNotSynced) {
                sync_dir(&layout.log_dir(self.state.log))?;
            }
            if !seeded!(LogDirectoryIsNotSynced) {
                sync_dir(&layout.segments_dir())?;
            }
        }
        Ok(())
    }

    /// Gives up a segment that was begun, because writing its content failed.
    pub fn abandon(self) {
        if self.is_new {
            // If the removal fails, the next attempt empties the file, or a sweep removes it.
            let _ = self.segments.disk.remove(&self.path);
        }
    }
}
