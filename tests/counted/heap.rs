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

fn count_alloc(size: usize) {
    let live = LIVE.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(live, Ordering::Relaxed);
    let _ = TAKEN.try_with(|it| {
        let (times, bytes) = it.get();
        it.set((times + 1, bytes + size as u64));
    });
}

fn count_dealloc(size: usize) {
    LIVE.fetch_sub(size, Ordering::Relaxed);
}

// SAFETY: all calls go to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_alloc(layout.size());
        // SAFETY: the caller's obligations are those of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_alloc(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    /// Counts as much as a new allocation to which the bytes are copied: the worst case.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count_alloc(new_size);
        count_dealloc(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count_dealloc(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How many bytes are on the heap.
pub fn live() -> usize {
    assert!(super::runs_alone(), "the heap is that of the process: begin the test with alone!()");
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
