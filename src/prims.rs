//! Locks, atomics and threads: from the standard library, or from loom in the builds that check interleavings.
//! `docs/TESTING.md` explains these builds.

#[cfg(loom)]
mod checked;

#[cfg(loom)]
pub use checked::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub use loom::{
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread,
};
pub use std::thread::panicking;
#[cfg(not(loom))]
pub use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread,
};
