//! Tests that count the allocations, reads and writes of the process or of a thread. Their allocator counts,
//! so they have a binary of their own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod batches;
mod bounds;
mod flat;
mod heap;
mod holds;
mod large;
mod lives;
mod memory;
mod plain;
mod segments;
mod slices;
mod waking;
mod work;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static PROCESS: RwLock<()> = RwLock::new(());

/// For a test that counts the work of the whole process: no other test runs beside it.
fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that counts the work of its thread: other such tests may run beside it.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}
