//! An allocator that counts: the bytes on the heap, the most there were, and the allocations of each thread.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static TAKEN: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

// SAFETY: all calls go to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        let _ = TAKEN.try_with(|it| {
            let (times, bytes) = it.get();
            it.set((times + 1, bytes + layout.size() as u64));
        });
        // SAFETY: the caller's obligations are those of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many bytes are on the heap.
pub fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// The most bytes that were on the heap during an act, beyond those before it.
pub fn peak_of<T>(act: impl FnOnce() -> T) -> (usize, T) {
    let before = live();
    PEAK.store(before, Ordering::Relaxed);
    let value = act();
    (PEAK.load(Ordering::Relaxed) - before, value)
}

/// How often this thread has allocated, and how many bytes.
pub fn taken() -> (u64, u64) {
    TAKEN.get()
}
