//! Tests that count the allocations, reads and writes of the process or of a thread. Their allocator counts,
//! so they have a binary of their own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

/// For a test that counts the work of the whole process: it runs in a process of its own, so that others may run beside it.
macro_rules! alone {
    () => {
        if !$crate::is_alone() {
            return;
        }
    };
}

mod batches;
mod bounds;
mod deletion;
mod filters;
mod flat;
mod heap;
mod holds;
mod large;
mod lives;
mod memory;
mod plain;
mod reading;
mod removal_slices;
mod segments;
mod slices;
mod waking;
mod work;

use std::{env, process::Command, thread};

/// Set in the process of one test.
const ALONE: &str = "POSTHOUSE_COUNTED_ALONE";

/// True in a process in which only this test runs; else runs it in such a process, and fails if it fails.
fn is_alone() -> bool {
    if runs_alone() {
        return true;
    }
    let this = thread::current();
    let name = this.name().expect("the harness names the thread of a test");
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--include-ignored", "--nocapture"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    print!("{told}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed in its process: {}", output.status);
    assert!(told.contains("test result: ok. 1 passed"), "{name} did not run");
    false
}

/// With one thread the harness runs one test after the other on its own thread.
fn runs_alone() -> bool {
    env::var_os(ALONE).is_some() || thread::current().name() == Some("main")
}
