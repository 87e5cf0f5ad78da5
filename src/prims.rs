//! Locks, atomics and threads: the standard library's; or, where interleavings are checked, those
//! of loom or shuttle, which try them out. `docs/TESTING.md` says how.

#[cfg(any(loom, shuttle))]
mod checked;

#[cfg(any(loom, shuttle))]
pub use checked::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub use loom::{
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread,
};
#[cfg(shuttle)]
pub use shuttle::{
    sync::{
        Arc, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread,
};
pub use std::thread::panicking;
#[cfg(not(any(loom, shuttle)))]
pub use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    thread,
};
