//! A window through read and write calls: the same discipline without a map.

use std::{io, sync::Arc};

use super::{Bounds, DiskFile, Purpose, Slice, Window, read_exact_at};

#[derive(Debug)]
pub struct CallsWindow {
    file: Arc<dyn DiskFile>,
    bounds: Bounds,
}

impl CallsWindow {
    pub fn new(file: Arc<dyn DiskFile>, len: u64, purpose: Purpose) -> CallsWindow {
        CallsWindow { file, bounds: Bounds::new(len, purpose) }
    }
}

impl Window for CallsWindow {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.bounds.write_end(at, bytes.len())?;
        self.file.write_at(at, bytes)?;
        self.bounds.written = end;
        Ok(())
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<Slice> {
        self.bounds.check_read(at, len)?;
        let mut bytes = vec![0; len];
        read_exact_at(&*self.file, at, &mut bytes)?;
        Ok(Slice::heap(Arc::new(bytes)))
    }

    fn expect(&self, at: u64, len: u64) {
        self.file.expect(at, len);
    }

    /// Slices are copies here, so nothing is in the way.
    fn reuse(&mut self) -> bool {
        self.bounds.written = 0;
        true
    }
}
