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

use std::{
    fs::File,
    io, slice,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use memmap2::{MmapOptions, MmapRaw};

use super::{Purpose, Slice, Window};

/// A mapped file with the frontier below which its bytes stay as they are.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    frontier: AtomicUsize,
}

impl Region {
    /// Bytes that were written.
    ///
    /// # Panics
    ///
    /// If the range is not below the frontier.
    #[inline]
    pub fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(start <= end && end <= self.frontier.load(Ordering::Acquire));
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
        *region.frontier.get_mut() = 0;
        true
    }
}
