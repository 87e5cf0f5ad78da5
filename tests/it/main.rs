//! The tests of the public face, in one binary: the library is linked once. There is a folder or a
//! file for each model and kind of test.
//!
//! A binary of their own have the tests that count what the whole process takes
//! (`tests/counted`), and those of the source code itself (`tests/floors.rs`).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;
use posthouse_model as model;

mod support;

#[cfg(target_os = "linux")]
mod backlog;
mod corpus;
mod crash;
mod engine;
mod faults;
mod hostile;
mod incidents;
mod queue;
mod salvage;
#[cfg(feature = "cron")]
mod schedule;
mod stream;
mod topic;
mod transaction;
mod watch;
