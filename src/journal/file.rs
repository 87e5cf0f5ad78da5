//! One journal file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::grain::Grain;
use crate::{
    disk::{DiskFile, LateSlice, Slice, Window, Written},
    error::{Error, ErrorKind, Result},
    format::journal::JournalHeader,
    ids::Lsn,
};

#[derive(Debug)]
pub struct JournalFile {
    pub header: JournalHeader,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    pub window: Box<dyn Window>,
    /// How it was zeroed, if this epoch has made it.
    pub grain: Grain,
    /// Whether this epoch has made the file. Only such a file may be filled again. The system caches a file
    /// that recovery read in large pieces, which makes its syncs slow.
    pub of_this_epoch: bool,
}

impl JournalFile {
    #[inline]
    pub fn start(&self) -> Lsn {
        self.header.start
    }

    #[inline]
    pub fn end(&self) -> Lsn {
        self.header.end()
    }

    #[inline]
    pub fn write(&mut self, lsn: Lsn, frame: &[u8]) -> Result<()> {
        let at = lsn.0 - self.header.start.0;
        self.window
            .write(at, frame)
            .map_err(|error| Error::io(error, "a frame cannot be written", &self.path).at(at))
    }

    /// Writes a frame that `fill` encodes: straight into the map, if there is one.
    #[inline]
    pub fn write_with(
        &mut self,
        lsn: Lsn,
        len: usize,
        scratch: &mut Vec<u8>,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        let at = lsn.0 - self.header.start.0;
        self.window
            .write_with(at, len, scratch, fill)
            .map_err(|error| Error::io(error, "a frame cannot be written", &self.path).at(at))
    }

    /// Writes a frame that consists of parts.
    pub fn write_parts(
        &mut self,
        lsn: Lsn,
        len: usize,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<()> {
        let at = lsn.0 - self.header.start.0;
        self.window
            .write_parts(at, len, parts)
            .map_err(|error| Error::io(error, "a frame cannot be written", &self.path).at(at))
    }

    /// The part of this file that was written from a position on.
    pub fn written(&self, from: Lsn) -> Option<Written> {
        self.window.written(from.0.saturating_sub(self.header.start.0))
    }

    /// The bytes at a position, to be read without holding the journal.
    #[inline]
    pub fn bytes(&self, lsn: Lsn, len: usize) -> Result<JournalBytes> {
        let at = lsn.0 - self.header.start.0;
        match self.window.late_slice(at, len) {
            Ok(LateSlice::Ready(slice)) => Ok(JournalBytes(Bytes::Ready(slice))),
            Ok(late) => {
                let late = Late { late, path: self.path.clone(), at };
                Ok(JournalBytes(Bytes::Late(Box::new(late))))
            }
            Err(error) => Err(unreadable(error, &self.path, at)),
        }
    }
}

/// Bytes of the journal, perhaps not read from the disk yet.
#[derive(Clone, Debug)]
pub struct JournalBytes(Bytes);

#[derive(Clone, Debug)]
enum Bytes {
    Ready(Slice),
    Late(Box<Late>),
}

/// Bytes that are read when they are asked for.
#[derive(Clone, Debug)]
struct Late {
    late: LateSlice,
    path: PathBuf,
    at: u64,
}

impl JournalBytes {
    /// A part of these bytes. Bytes that were not read yet are read for this part alone.
    pub fn narrow(self, start: usize, len: usize) -> JournalBytes {
        JournalBytes(match self.0 {
            Bytes::Ready(slice) => Bytes::Ready(slice.narrow(start, start + len)),
            Bytes::Late(late) => {
                let Late { late, path, at } = *late;
                let (late, at) = (late.narrow(start, len), at + start as u64);
                Bytes::Late(Box::new(Late { late, path, at }))
            }
        })
    }

    /// The first bytes of these, to be read if all of them cannot be. `None` if they are read already.
    pub fn again(&self, len: usize) -> Option<JournalBytes> {
        matches!(self.0, Bytes::Late(_)).then(|| self.clone().narrow(0, len))
    }

    /// Returns the bytes, and reads them if they were not read yet.
    #[inline]
    pub fn read(self) -> Result<Slice> {
        match self.0 {
            Bytes::Ready(slice) => Ok(slice),
            Bytes::Late(late) => {
                let Late { late, path, at } = *late;
                late.get().map_err(|error| unreadable(error, &path, at))
            }
        }
    }
}

fn unreadable(error: std::io::Error, path: &Path, at: u64) -> Error {
    Error::io(error, "a frame cannot be read", path).at(at)
}

/// The error of a failed sync. The engine must not go on: the system may have dropped the data that it could not
/// write, and would report success for the next sync.
pub fn sync_failed(error: std::io::Error, path: impl Into<PathBuf>) -> Error {
    let what = "a sync failed, so what this engine wrote may be lost; \
                reopen the store to find out what is there";
    Error::new(ErrorKind::Poisoned, what).in_file(path).because(error)
}
