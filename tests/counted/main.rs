//! Tests that count what the process or a thread takes from the heap, and what the process reads
//! and writes. Their allocator counts, so they have a binary of their own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod bounds;
mod heap;
mod holds;
mod work;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static PROCESS: RwLock<()> = RwLock::new(());

/// For a test that counts what the whole process does: no other one runs beside it.
fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

/// For a test that counts what its thread does: others of its kind may run beside it.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}
