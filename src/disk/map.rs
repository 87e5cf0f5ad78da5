//! Memory maps, slices of them, and the only unsafe code of the crate.
//!
//! # Why this is sound
//!
//! A [`Region`] is one shared map of a file and a frontier. *All bytes below the frontier are
//! never written again while anyone can read them*:
//!
//! - Only a [`MapWindow`] writes, through `&mut self`, and it is never cloned: one writer.
//! - It writes at the frontier or behind it, and then moves the frontier past what it wrote
//!   (release). Readers look only at bytes below the frontier that they loaded (acquire).
//! - The frontier goes back only in `reuse`, which needs the only reference to the region: no
//!   slice is alive then, and none can come to life meanwhile, because that takes `&self`.
//!
//! A [`Slice`] is a pointer to such bytes, or to bytes on the heap, together with a reference count
//! that keeps them where they are.
//!
//! What is assumed of the outside: nobody else writes to or truncates the files of a store whose
//! lock is held, and all blocks below the mapped length were written before (so that no store
//! meets a hole). Whoever cannot assume it sets `IoMode::Calls`.
#![allow(unsafe_code)]

use std::{
    fmt,
    fs::File,
    io,
    ops::Deref,
    slice,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use memmap2::{MmapOptions, MmapRaw};

use super::{Purpose, Window};

/// A mapped file with the frontier below which its bytes stay as they are.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    frontier: AtomicUsize,
}

/// A part of a file, held without a copy where the file is mapped. Cloning copies no bytes, and
/// the bytes stay as they are for as long as any clone lives, even if the file is deleted.
#[derive(Clone)]
pub struct Slice {
    start: *const u8,
    len: usize,
    /// A region, bytes on the heap, or another slice.
    _owner: Arc<dyn Send + Sync>,
}

// SAFETY: the bytes are only read, never change while the owner lives (see `Slice::deref`), and
// the owner is itself `Send` and `Sync`.
unsafe impl Send for Slice {}
// SAFETY: as above; all methods that take `&self` read only.
unsafe impl Sync for Slice {}

impl Slice {
    /// Bytes that were copied.
    pub fn heap(bytes: Arc<Vec<u8>>) -> Slice {
        Slice { start: bytes.as_ptr(), len: bytes.len(), _owner: bytes }
    }

    /// Part of a region. `None` if it was not written, or not all of it.
    fn mapped(region: &Arc<Region>, start: usize, len: usize) -> Option<Slice> {
        let end = start.checked_add(len)?;
        if end > region.frontier.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the range lies in the map, as the frontier never exceeds its length.
        let start = unsafe { region.map.as_ptr().add(start) };
        Some(Slice { start, len, _owner: Arc::<Region>::clone(region) })
    }

    /// A part of this slice.
    ///
    /// # Panics
    ///
    /// If the range reaches past the end.
    pub fn narrow(mut self, start: usize, end: usize) -> Slice {
        let part = self.get(start..end).expect("a part lies within its slice");
        (self.start, self.len) = (part.as_ptr(), part.len());
        self
    }

    /// The same bytes with a reference count of their own, so that whoever clones them often does
    /// not meet others who do so with the same file.
    pub fn alone(self) -> Slice {
        Slice { start: self.start, len: self.len, _owner: Arc::new(self) }
    }
}

impl Deref for Slice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the pointer and the length are those of bytes that the owner keeps in place for
        // as long as it lives, and this borrow ends before. If it is a vector, it cannot be changed
        // while there is an `Arc` to it beside another. If it is a region, the bytes lie below its
        // frontier. They are not written while this borrow lives: `reuse` is
        // the only way back, and it needs the only `Arc` to the region, by `&mut`. The acquire
        // load when the slice was made pairs with the release store in `write`, so the bytes are
        // seen as they were written. If it is a slice, the same holds for that.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}

/// A window through a map.
#[derive(Debug)]
pub struct MapWindow {
    region: Arc<Region>,
    writable: bool,
}

impl MapWindow {
    pub fn open(file: &File, len: u64, purpose: Purpose) -> io::Result<MapWindow> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if file.metadata()?.len() < len as u64 {
            // A map past the end of the file would raise SIGBUS when it is touched.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut options = MmapOptions::new();
        options.len(len);
        let (map, frontier) = match purpose {
            Purpose::Append => {
                let map = options.map_raw(file)?;
                // Without this advice a sync writes the folio around a commit, of up to 2 MiB.
                #[cfg(unix)]
                map.advise(memmap2::Advice::Random)?;
                (map, 0)
            }
            Purpose::Read => (options.map_raw_read_only(file)?, len),
        };
        let region = Region { map, frontier: AtomicUsize::new(frontier) };
        Ok(MapWindow { region: Arc::new(region), writable: purpose == Purpose::Append })
    }
}

impl Window for MapWindow {
    #[inline]
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let region = &*self.region;
        let frontier = region.frontier.load(Ordering::Relaxed) as u64;
        let end = at.checked_add(bytes.len() as u64);
        let end = end.filter(|end| *end <= region.map.len() as u64);
        let (Some(end), true) = (end, self.writable && at >= frontier) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a write that is not behind all others, or past the end of its window",
            ));
        };
        // SAFETY: the range lies in the map, as was just checked, and the map is writable. It lies
        // at or above the frontier, where no reader looks; `&mut self` of the only window makes
        // this the only writer. The source is a borrow and so cannot overlap: readers' borrows
        // end at the frontier.
        unsafe {
            let target = region.map.as_mut_ptr().add(at as usize);
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        region.frontier.store(end as usize, Ordering::Release);
        Ok(())
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<Slice> {
        let start = usize::try_from(at).ok();
        let slice = start.and_then(|start| Slice::mapped(&self.region, start, len));
        slice.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    #[cfg(unix)]
    fn expect(&self, at: u64, len: u64) {
        let all = self.region.map.len();
        let at = usize::try_from(at).map_or(all, |at| at.min(all));
        let len = usize::try_from(len).map_or(all - at, |len| len.min(all - at));
        // It is a hint: what comes of it does not matter.
        let _ = self.region.map.advise_range(memmap2::Advice::WillNeed, at, len);
    }

    fn reuse(&mut self) -> bool {
        let region = Arc::get_mut(&mut self.region).filter(|_| self.writable);
        let Some(region) = region else {
            return false;
        };
        *region.frontier.get_mut() = 0;
        true
    }
}
