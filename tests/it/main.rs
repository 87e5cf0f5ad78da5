//! The tests of the public functions, in one binary, so the library is linked once. There is a folder or a
//! file for each model and kind of test.
//!
//! Two kinds of tests have a binary of their own: tests that count the allocations of the whole process
//! (`tests/counted`), and tests of the source code itself (`tests/floors.rs`).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;
use posthouse_model as model;

mod support;

#[cfg(target_os = "linux")]
mod backlog;
mod batches;
mod corpus;
mod crash;
mod deleted;
mod ends;
mod engine;
mod faults;
mod full_disk;
mod hostile;
mod incidents;
mod queue;
mod salvage;
#[cfg(feature = "cron")]
mod schedule;
mod stream;
mod topic;
mod transaction;
mod versions;
mod watch;
