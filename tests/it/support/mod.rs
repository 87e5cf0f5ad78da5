//! Helpers that tests of several modules use.
#![allow(dead_code)]

#[cfg(unix)]
pub mod process;
mod sim;
mod task;

use std::time::Duration;

use posthouse::{Durability, Engine, Error, ErrorKind, IoMode, Options, sim::SimDisk};
use proptest::test_runner::Config;

use crate::model::small_options;

pub use sim::{Sim, take, texts};
pub use task::{Count, Task, block_on, poll};

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const ENOMEM: i32 = 12;
pub const EACCES: i32 = 13;
pub const EMFILE: i32 = 24;
pub const ENOSPC: i32 = 28;

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A search takes one in `n` of its cases: `cargo test` ends soon. With `POSTHOUSE_WHOLE` it takes all of them, as CI does.
pub fn one_in(n: usize) -> usize {
    if std::env::var_os("POSTHOUSE_WHOLE").is_some() { 1 } else { n }
}

/// How many cases proptest tries in a whole search. `cargo test` tries one in 25 of them, and `POSTHOUSE_CASES` another
/// number.
pub fn cases(whole: u32) -> Config {
    let cases = std::env::var("POSTHOUSE_CASES").ok().and_then(|n| n.parse().ok());
    let cases = cases.unwrap_or_else(|| whole.div_ceil(one_in(25) as u32));
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Opens a store with small files on a simulated disk.
pub fn open(disk: &SimDisk) -> Result<Engine, Error> {
    small_options().sim(disk).open("store")
}

/// An engine on the real disk, and its directory.
pub fn real() -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Engine::open(dir.path().join("store")).unwrap(), dir)
}

/// The kind of an error that is expected.
pub fn kind<T>(result: posthouse::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.kind(),
    }
}

/// The field that an expected error names.
pub fn field<T>(result: posthouse::Result<T>) -> &'static str {
    match kind(result) {
        ErrorKind::InvalidInput { field } => field,
        other => panic!("it failed with {other:?}"),
    }
}

/// Runs a body on both disks, through maps and through calls, with both durabilities.
pub fn everywhere(body: impl Fn(&dyn Fn() -> Engine)) {
    for io in [IoMode::Map, IoMode::Calls] {
        for durability in [Durability::Sync, Durability::Buffered] {
            let options = Options::new().io(io).durability(durability);
            let disk = SimDisk::new(1);
            body(&|| options.clone().sim(&disk).open("store").unwrap());
            let dir = tempfile::tempdir().unwrap();
            body(&|| options.open(dir.path().join("store")).unwrap());
        }
    }
}
