//! Locks, atomics and threads: the standard library's; or, where interleavings are checked, those
//! of loom, which tries them out. `docs/TESTING.md` says how.

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
