//! Locks and atomics: what threads meet in.

pub use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, AtomicUsize},
};
