//! An allocator that counts, in builds with debug assertions: the bytes on the heap, and the allocations of each thread.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

fn count(gained: usize, lost: usize) {
    if cfg!(debug_assertions) {
        LIVE.fetch_add(gained.wrapping_sub(lost), Ordering::Relaxed);
        if gained > 0 {
            let _ = TAKEN.try_with(|it| it.set(it.get() + 1));
        }
    }
}

/// The bytes on the heap. Zero in a build that does not count.
pub fn live() -> u64 {
    LIVE.load(Ordering::Relaxed) as u64
}

/// The allocations of this thread so far.
pub fn taken() -> u64 {
    TAKEN.get()
}

// SAFETY: all calls go to the system's allocator unchanged; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's obligations are those of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
