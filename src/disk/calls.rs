//! A window that uses read and write calls. It keeps the same rules as a mapped window.

use crate::audit;
use std::{io, sync::Arc};

use super::{Bounds, DiskFile, LateSlice, Purpose, Slice, UnreadSlice, Window};

const WHY: &str = "frames are in the order of their commits, so one is written under the core";

/// Parts that wait have no more bytes than this.
const GATHERED_BYTES_MAX: usize = 64 << 10;

/// Parts that are written together.
struct Gathered<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    bytes: Vec<u8>,
}

impl Gathered<'_> {
    fn flush(&mut self) -> io::Result<()> {
        if !self.bytes.is_empty() {
            self.file.write_at(self.at, &self.bytes)?;
            self.at += self.bytes.len() as u64;
            self.bytes.clear();
        }
        Ok(())
    }
}

#[derive(Debug)]
pub struct CallsWindow {
    file: Arc<dyn DiskFile>,
    bounds: Bounds,
    /// Held by each slice that is still to be read.
    pin: Arc<()>,
}

impl CallsWindow {
    pub fn new(file: Arc<dyn DiskFile>, len: u64, purpose: Purpose) -> CallsWindow {
        CallsWindow { file, bounds: Bounds::new(len, purpose), pin: Arc::default() }
    }
}

impl Window for CallsWindow {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.bounds.write_end(at, bytes.len())?;
        let _may = audit::Unchecked::begin(WHY);
        self.file.write_at(at, bytes)?;
        self.bounds.written = end;
        Ok(())
    }

    /// Small parts are gathered. Large ones are written as they are, so that no memory is needed for a second copy.
    fn write_parts(
        &mut self,
        at: u64,
        len: usize,
        parts: &mut dyn Iterator<Item = &[u8]>,
    ) -> io::Result<()> {
        let end = self.bounds.write_end(at, len)?;
        let _may = audit::Unchecked::begin(WHY);
        let mut gathered = Gathered { file: &*self.file, at, bytes: Vec::new() };
        for part in parts {
            if gathered.bytes.len() + part.len() > GATHERED_BYTES_MAX {
                gathered.flush()?;
            }
            if part.len() > GATHERED_BYTES_MAX {
                self.file.write_at(gathered.at, part)?;
                gathered.at += part.len() as u64;
            } else {
                gathered.bytes.extend_from_slice(part);
            }
        }
        gathered.flush()?;
        self.bounds.written = end;
        Ok(())
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<Slice> {
        self.late_slice(at, len)?.get()
    }

    fn forget_cached(&self) {
        self.file.forget_cached();
    }

    fn late_slice(&self, at: u64, len: usize) -> io::Result<LateSlice> {
        self.bounds.check_read(at, len)?;
        let (file, pin) = (Arc::clone(&self.file), Arc::clone(&self.pin));
        Ok(LateSlice::Unread(UnreadSlice { file, at, len, _pin: pin }))
    }

    /// Slices that were read are copies. Only slices that are still to be read forbid a reuse.
    fn reuse(&mut self) -> bool {
        let is_free = Arc::strong_count(&self.pin) == 1;
        if is_free {
            self.bounds.written = 0;
        }
        is_free
    }
}
