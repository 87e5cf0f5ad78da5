//! Bytes that someone else keeps: of a mapped file, or on the heap.

use std::{fmt, ops::Deref, sync::Arc};

use super::map::SharedRegion;

/// A part of a file, held without a copy where the file is mapped. Cloning copies no bytes, and
/// the bytes stay as they are for as long as any clone lives, even if the file is deleted.
#[derive(Clone)]
pub struct Slice {
    source: Source,
    start: usize,
    end: usize,
}

#[derive(Clone)]
enum Source {
    Heap(Arc<[u8]>),
    Mapped(SharedRegion),
}

impl Slice {
    pub fn heap(bytes: Arc<[u8]>) -> Slice {
        let end = bytes.len();
        Slice { source: Source::Heap(bytes), start: 0, end }
    }

    /// Part of a region. All of it must have been written.
    pub(super) fn mapped(region: SharedRegion, start: usize, end: usize) -> Slice {
        Slice { source: Source::Mapped(region), start, end }
    }

    /// A part of this slice.
    ///
    /// # Panics
    ///
    /// If the range reaches past the end.
    pub fn narrow(mut self, start: usize, end: usize) -> Slice {
        assert!(start <= end && end <= self.end - self.start, "a part lies within its slice");
        self.end = self.start + end;
        self.start += start;
        self
    }
}

impl Deref for Slice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.source {
            Source::Heap(bytes) => &bytes[self.start..self.end],
            Source::Mapped(region) => region.bytes(self.start, self.end),
        }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len())
    }
}
