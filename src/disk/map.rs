//! Memory maps, and the only unsafe code of the crate.
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
//! What is assumed of the outside: nobody else writes to or truncates the files of a store whose
//! lock is held, and all blocks below the mapped length were written before (so that no store
//! meets a hole). Whoever cannot assume it sets `IoMode::Calls`.
#![allow(unsafe_code)]

use std::{fs::File, io, slice, sync::atomic::Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::{Purpose, Slice, Window};
use crate::prims::{Arc, AtomicUsize};

/// What a window and its slices share.
pub type SharedRegion = Arc<Region>;

/// A mapped file with the frontier below which its bytes stay as they are.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    frontier: AtomicUsize,
    trace: Trace,
}

impl Region {
    #[cfg(all(test, loom))]
    pub fn frontier(&self) -> usize {
        self.frontier.load(Ordering::Acquire)
    }

    /// Bytes that were written.
    ///
    /// # Panics
    ///
    /// If the range is not below the frontier.
    #[inline]
    pub fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(start <= end && end <= self.frontier.load(Ordering::Acquire));
        self.trace.read(start, end);
        // SAFETY: the range lies in the map, as the frontier never exceeds its length, and bytes
        // below the frontier are not written while this borrow lives: `reuse` is the only way
        // back, and it needs the only `Arc` to this region, by `&mut`. The acquire load pairs
        // with the release store in `write`, so the bytes are seen as they were written.
        unsafe { slice::from_raw_parts(self.map.as_ptr().add(start), end - start) }
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
        let frontier = AtomicUsize::new(frontier);
        let region = Region { map, frontier, trace: Trace::new(len) };
        Ok(MapWindow { region: Arc::new(region), writable: purpose == Purpose::Append })
    }

    #[cfg(all(test, loom))]
    pub fn region(&self) -> SharedRegion {
        Arc::clone(&self.region)
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
        region.trace.write(at as usize, end as usize);
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
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.region.frontier.load(Ordering::Acquire) => {
                Ok(Slice::mapped(Arc::clone(&self.region), start, end))
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn reuse(&mut self) -> bool {
        let region = Arc::get_mut(&mut self.region).filter(|_| self.writable);
        let Some(region) = region else {
            return false;
        };
        region.frontier.store(0, Ordering::Relaxed);
        true
    }
}

/// Tells loom which bytes are written and read, so that it finds those that could be both at once.
/// Elsewhere it is nothing.
#[derive(Debug)]
struct Trace {
    #[cfg(loom)]
    bytes: Vec<loom::cell::UnsafeCell<()>>,
}

// SAFETY: loom looks after each access; there is nothing in the cells.
#[cfg(loom)]
unsafe impl Sync for Trace {}

impl Trace {
    fn new(len: usize) -> Trace {
        let _ = len;
        Trace {
            #[cfg(loom)]
            bytes: (0..len).map(|_| loom::cell::UnsafeCell::new(())).collect(),
        }
    }

    #[inline]
    fn read(&self, start: usize, end: usize) {
        let _ = (start, end);
        #[cfg(loom)]
        self.bytes[start..end].iter().for_each(|byte| byte.with(|_| ()));
    }

    #[inline]
    fn write(&self, start: usize, end: usize) {
        let _ = (start, end);
        #[cfg(loom)]
        self.bytes[start..end].iter().for_each(|byte| byte.with_mut(|_| ()));
    }
}
