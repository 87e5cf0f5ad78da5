//! Files that logs share, open for reading: all parts of a file are read through one map of it.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{SegmentReader, Segments, reader::unreadable};
use crate::{
    disk::{Open, Purpose, Window, window},
    error::Result,
    format::meta::{Place, SegmentState},
};

/// A shared file. It never changes once the metalog names it.
#[derive(Debug)]
pub struct SharedFile {
    pub path: Arc<PathBuf>,
    pub window: Box<dyn Window>,
}

impl SharedFile {
    /// Opens the file in which a segment is a part.
    pub fn open(segments: &Segments, state: &SegmentState) -> Result<SharedFile> {
        let path = Arc::new(segments.path(state));
        let failed = |error| unreadable(error, &path, 0);
        let file = segments.disk.open(&path, Open::Existing).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let window = window(&file, len, segments.access, Purpose::Read).map_err(failed)?;
        Ok(SharedFile { path, window })
    }
}

/// A checkpoint keeps so many shared files open at most. A log has parts in fewer files than that.
const OPEN_MAX: usize = 32;

/// The shared files that a checkpoint reads.
#[derive(Debug)]
pub struct OpenFiles {
    open: BTreeMap<u64, Arc<SharedFile>>,
    most: usize,
}

impl OpenFiles {
    /// So many files are kept open at most, or fewer.
    pub fn new(most: usize) -> OpenFiles {
        OpenFiles { open: BTreeMap::new(), most: most.clamp(1, OPEN_MAX) }
    }

    /// Closes a file.
    pub fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Opens a segment, and its file unless that is open.
    pub fn reader(&mut self, segments: &Segments, state: &SegmentState) -> Result<SegmentReader> {
        if !matches!(state.place, Place::Part(_)) {
            return SegmentReader::open(segments, state);
        }
        if let Some(file) = self.open.get(&state.generation) {
            return SegmentReader::in_file(segments, state, Arc::clone(file));
        }
        let file = Arc::new(SharedFile::open(segments, state)?);
        if self.open.len() >= self.most {
            self.open.pop_first();
        }
        self.open.insert(state.generation, Arc::clone(&file));
        SegmentReader::in_file(segments, state, file)
    }
}
