//! Memory maps, slices of them, and the only unsafe code of the crate.
//!
//! # Why this is sound
//!
//! A [`Region`] is one shared map of a file and a frontier. *All bytes below the frontier are
//! never written again while anyone can read them*:
//!
//! - Only a [`MapWindow`] writes, through `&mut self`, and it is never cloned: one writer. It writes at the frontier or behind
//!   it, and then moves the frontier past what it wrote (release). Readers look only at bytes below the frontier that they
//!   loaded (acquire).
//! - The frontier goes back only in `reuse`, which needs the only reference to the region. No slice
//!   is alive then, and none can be made meanwhile, because that takes `&self`.
//!
//! [`Written`] takes pages out of the map, not out of the file. A later access finds the same bytes: the map is shared.
//!
//! A [`Slice`] is a pointer to such bytes, or to bytes on the heap, together with a reference count that keeps
//! them in place. [`Shares`] makes many references to one slice and counts them in advance. The count in
//! [`Shared`] covers the shares that are alive and the shares that are still to be made. The owner that brings it
//! to zero is the last one, and frees the slice.
//!
//! Assumptions about the outside: no other program writes to or truncates the files of a store whose lock is
//! held, and all blocks below the mapped length were written before (so that no store meets a hole). An
//! application that cannot assume this sets `IoMode::Calls`.
#![allow(unsafe_code)]

use std::{
    fmt, fs, io,
    ops::Deref,
    process,
    ptr::NonNull,
    slice,
    sync::{
        Arc as StdArc,
        atomic::{Ordering, fence},
    },
};

use memmap2::{MmapOptions, MmapRaw};

use super::{Bounds, Purpose, Window, ahead::Ahead};
use crate::prims::{Arc, AtomicUsize};

/// The page size that is assumed. Where pages are larger, this is a part of a page.
const PAGE_BYTES: usize = 4096;
/// With fewer written bytes than this, taking pages out of the map costs more than it saves.
const UNMAPPED_BYTES_MIN: usize = 8 * PAGE_BYTES;

/// A mapped file with the frontier below which its bytes stay as they are.
#[derive(Debug)]
pub struct Region {
    pub(super) map: MmapRaw,
    frontier: AtomicUsize,
    trace: Trace,
}

impl Region {
    #[cfg(all(test, loom))]
    pub fn frontier(&self) -> usize {
        self.frontier.load(Ordering::Acquire)
    }

    /// A reference that keeps a region's bytes in place.
    fn owner(region: &Arc<Region>) -> StdArc<dyn Send + Sync> {
        #[cfg(not(loom))]
        return Arc::<Region>::clone(region);
        #[cfg(loom)]
        return StdArc::new(Arc::clone(region));
    }
}

/// A part of a file, held without a copy where the file is mapped. Cloning copies no bytes, and
/// the bytes stay as they are for as long as any clone lives, even if the file is deleted.
#[derive(Clone)]
pub struct Slice {
    start: *const u8,
    len: usize,
    /// A region, or bytes on the heap.
    _owner: StdArc<dyn Send + Sync>,
    #[cfg(loom)]
    region: Option<Arc<Region>>,
}

// SAFETY: the bytes are only read, they never change while the owner lives (see `Slice::deref`; after a failed
// sync this depends on the system, see "Not promised" in docs/DURABILITY.md), and the owner is itself `Send` and
// `Sync`.
unsafe impl Send for Slice {}
// SAFETY: as above; all methods that take `&self` read only.
unsafe impl Sync for Slice {}

impl Slice {
    /// Bytes that were copied.
    pub fn heap(bytes: StdArc<Vec<u8>>) -> Slice {
        Slice {
            start: bytes.as_ptr(),
            len: bytes.len(),
            _owner: bytes,
            #[cfg(loom)]
            region: None,
        }
    }

    /// A part of a region. `None` unless all of it was written.
    pub(super) fn mapped(region: &Arc<Region>, start: usize, len: usize) -> Option<Slice> {
        let end = start.checked_add(len)?;
        if end > region.frontier.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the range lies in the map, as the frontier never exceeds its length.
        let start = unsafe { region.map.as_ptr().add(start) };
        Some(Slice {
            start,
            len,
            _owner: Region::owner(region),
            #[cfg(loom)]
            region: Some(Arc::clone(region)),
        })
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
}

impl Deref for Slice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        #[cfg(loom)]
        if let Some(region) = &self.region {
            let at = self.start as usize - region.map.as_ptr() as usize;
            region.trace.read(at, at + self.len);
        }
        // SAFETY: the pointer and the length are those of bytes that the owner keeps in place for
        // as long as it lives, and this borrow ends before. If it is a vector, nobody changes it,
        // as that takes the only `Arc`. If it is a region, the bytes lie below its frontier, and
        // are not written while this borrow lives: `reuse` is the only way back, and it needs the
        // only `Arc` to the region, by `&mut`. The acquire load when the slice was made pairs with
        // the release store in `write`, so the bytes are seen as they were written.
        unsafe { slice::from_raw_parts(self.start, self.len) }
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len)
    }
}

/// A slice with the count of its shares.
struct Shared {
    bytes: Slice,
    count: AtomicUsize,
}

impl Shared {
    /// Counts more shares.
    fn add(this: NonNull<Shared>, shares: usize) {
        // SAFETY: the caller holds a share, so it is alive.
        let before = unsafe { this.as_ref() }.count.fetch_add(shares, Ordering::Relaxed);
        if before > isize::MAX as usize {
            // So many shares exist only if a program leaks them. `Arc` aborts in this case, too.
            process::abort();
        }
    }

    /// Subtracts shares that the caller held and does not use any more.
    #[inline]
    fn give_up(this: NonNull<Shared>, shares: usize) {
        // SAFETY: the caller's shares are still counted, so it is alive.
        if unsafe { this.as_ref() }.count.fetch_sub(shares, Ordering::Release) == shares {
            Shared::free(this);
        }
    }

    #[cold]
    fn free(this: NonNull<Shared>) {
        // Every use by other threads happened before they gave up their shares.
        fence(Ordering::Acquire);
        // SAFETY: it came from a box, and the count has just gone to zero, which happens once. No share is left, and a
        // new share can only be made from another one.
        drop(unsafe { Box::from_raw(this.as_ptr()) });
    }
}

/// Makes references to one slice. Many references are counted in advance, so making one touches no counter, and
/// costs half the time of an `Arc`.
pub struct Shares {
    shared: NonNull<Shared>,
    /// Shares that are counted but not made yet. At least one, so that the slice is alive.
    left: usize,
}

/// This many shares are counted in advance.
const SHARES_AT_ONCE: usize = 1 << 12;

// SAFETY: it is a counted reference to a slice, which is `Send` and `Sync` itself, and the count is
// atomic. `left` changes by `&mut self` only.
unsafe impl Send for Shares {}
// SAFETY: as above.
unsafe impl Sync for Shares {}

impl Shares {
    pub fn new(bytes: Slice) -> Shares {
        let shared = Shared { bytes, count: AtomicUsize::new(SHARES_AT_ONCE) };
        Shares { shared: NonNull::from(Box::leak(Box::new(shared))), left: SHARES_AT_ONCE }
    }

    #[inline]
    pub fn take(&mut self) -> Share {
        if self.left == 1 {
            Shared::add(self.shared, SHARES_AT_ONCE);
            self.left += SHARES_AT_ONCE;
        }
        self.left -= 1;
        Share(self.shared)
    }
}

impl Deref for Shares {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: at least one share is left, so it is alive for as long as this borrow.
        unsafe { &self.shared.as_ref().bytes }
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        Shared::give_up(self.shared, self.left);
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shares({} bytes)", self.len())
    }
}

/// A reference to a shared slice.
pub struct Share(NonNull<Shared>);

// SAFETY: as of `Shares`.
unsafe impl Send for Share {}
// SAFETY: as of `Shares`.
unsafe impl Sync for Share {}

impl Clone for Share {
    fn clone(&self) -> Share {
        Shared::add(self.0, 1);
        Share(self.0)
    }
}

impl Deref for Share {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: this share is counted, so it is alive for as long as this borrow.
        unsafe { &self.0.as_ref().bytes }
    }
}

impl Drop for Share {
    #[inline]
    fn drop(&mut self) {
        Shared::give_up(self.0, 1);
    }
}

/// The part of a window that was written from a position on, and is about to be synced.
#[derive(Debug)]
pub struct Written {
    region: Arc<Region>,
    start: usize,
}

impl Written {
    /// Takes the pages out of the map, unless they are few. A sync write-protects each page that it finds in
    /// a map, and interrupts all processors for each page. This call does that for all pages at once,
    /// including the pages that were only made ready for writes. The next access faults a page in again.
    pub fn unmap(&self) {
        let written = self.region.frontier.load(Ordering::Relaxed).saturating_sub(self.start);
        if written < UNMAPPED_BYTES_MIN {
            return;
        }
        let len = self.region.map.len() - self.start;
        // SAFETY: the range lies in the map, as the frontier did not exceed its length. The map is a shared map of
        // a file: the system notes which pages are dirty when it takes them out, and any access, now or later,
        // finds the bytes of the file's page, which is the same as before. If the call fails, nothing has
        // happened, and the sync takes longer.
        #[cfg(target_os = "linux")]
        let _ = unsafe {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            self.region.map.unchecked_advise_range(advice, self.start, len)
        };
    }
}

/// A window through a map.
#[derive(Debug)]
pub struct MapWindow {
    region: Arc<Region>,
    writable: bool,
}

impl MapWindow {
    pub fn open(file: &fs::File, len: u64, purpose: Purpose) -> io::Result<MapWindow> {
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
    pub fn region(&self) -> Arc<Region> {
        Arc::clone(&self.region)
    }

    /// Writes `len` bytes, which `fill` puts into the map.
    #[inline]
    fn fill(&mut self, at: u64, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let region = &*self.region;
        let written = region.frontier.load(Ordering::Relaxed) as u64;
        let len_max = if self.writable { region.map.len() as u64 } else { 0 };
        let end = Bounds { written, len: len_max }.write_end(at, len)?;
        region.trace.write(at as usize, end as usize);
        // SAFETY: the range lies in the map, as was just checked, the map is writable, and its bytes are initialized, as
        // those of every file. It lies at or above the frontier, where no reader looks; `&mut self` of the only window
        // makes this the only borrow of it.
        fill(unsafe { slice::from_raw_parts_mut(region.map.as_mut_ptr().add(at as usize), len) });
        region.frontier.store(end as usize, Ordering::Release);
        Ok(())
    }
}

impl Window for MapWindow {
    #[inline]
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.fill(at, bytes.len(), |room| room.copy_from_slice(bytes))
    }

    #[inline]
    fn write_with(
        &mut self,
        at: u64,
        len: usize,
        _scratch: &mut Vec<u8>,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> io::Result<()> {
        self.fill(at, len, |room| fill(crate::audit::spoiled(room)))
    }

    fn takes_parts(&self) -> bool {
        true
    }

    fn slice(&self, at: u64, len: usize) -> io::Result<Slice> {
        let start = usize::try_from(at).ok();
        let slice = start.and_then(|start| Slice::mapped(&self.region, start, len));
        slice.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn warm(&self) {
        Ahead::of(&self.region, 0, u64::MAX).make_ready();
    }

    fn ahead(&self, at: u64, len: u64) -> Option<Ahead> {
        Some(Ahead::of(&self.region, at, len))
    }

    fn written(&self, from: u64) -> Option<Written> {
        let start = usize::try_from(from).ok()? / PAGE_BYTES * PAGE_BYTES;
        Some(Written { region: Arc::clone(&self.region), start })
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

/// Tells loom which bytes are written and read, so that it finds a write and a read at the same time. In other
/// builds it does nothing.
#[derive(Debug)]
struct Trace {
    #[cfg(loom)]
    bytes: Vec<loom::cell::UnsafeCell<()>>,
}

// SAFETY: loom checks each access, and the cells hold no data.
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

    #[cfg(loom)]
    fn read(&self, start: usize, end: usize) {
        self.bytes[start..end].iter().for_each(|byte| byte.with(|_| ()));
    }

    #[inline]
    fn write(&self, start: usize, end: usize) {
        let _ = (start, end);
        #[cfg(loom)]
        self.bytes[start..end].iter().for_each(|byte| byte.with_mut(|_| ()));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
