//! Runs sequences of actions on an engine beside a plain model, over any disk, with crashes.
//!
//! The model is the list of states to which the commits have led. After a crash the engine must show one of
//! them (*prefix*), none before the last state that was reported durable (*durable*), and none before a state
//! of which something was delivered (*no phantoms*).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

pub mod action;
pub mod driver;
pub mod explore;
pub mod oracle;
pub mod state;

use std::path::PathBuf;

use posthouse::{Delivery, Engine, Options, Queue, Timestamp, sim::SimDisk};

/// The disk and the clock on which the actions run.
pub trait World {
    fn open(&self) -> posthouse::Result<Engine>;
    /// A copy of the disk as it is, if this world can be copied, with all processes ended.
    fn copy(&self) -> Option<Box<dyn World>>;
    /// Kills the process. `false` if this world cannot.
    fn kill(&self) -> bool;
    /// Cuts the power. `false` if this world cannot.
    fn cut_power(&self) -> bool;
    /// Cuts the power at the n-th step from now on.
    fn cut_power_in(&self, steps: u64);
    /// Makes the n-th call from now on fail. `false` if this world cannot.
    fn fail_call_in(&self, _calls: u64, _error: i32) -> bool {
        false
    }
    /// Makes the n-th sync from now on fail. `false` if this world cannot.
    fn fail_sync_in(&self, _which: u64) -> bool {
        false
    }
    /// Sets the time of day. `false` if this world cannot.
    fn set_clock(&self, _time: u64) -> bool {
        false
    }
    /// Copies of the world at the moments since the last call of this function.
    fn moments(&self) -> Vec<SimDisk> {
        Vec::new()
    }
    /// Moves the clock. `false` if this world's clock moves by itself.
    fn advance(&self, by: std::time::Duration) -> bool;
}

/// A simulated disk.
pub struct Simulated {
    pub disk: SimDisk,
    pub options: Options,
}

impl World for Simulated {
    fn open(&self) -> posthouse::Result<Engine> {
        self.options.clone().sim(&self.disk).open("store")
    }
    fn copy(&self) -> Option<Box<dyn World>> {
        let disk = self.disk.fork(1);
        Some(Box::new(Simulated { disk, options: self.options.clone() }))
    }
    fn kill(&self) -> bool {
        self.disk.heal();
        self.disk.kill();
        true
    }
    fn cut_power(&self) -> bool {
        self.disk.heal();
        self.disk.power_cut();
        true
    }
    fn cut_power_in(&self, steps: u64) {
        self.disk.stop_at_step(self.disk.steps() + steps);
    }
    fn fail_call_in(&self, calls: u64, error: i32) -> bool {
        self.disk.fail_call(self.disk.calls() + calls, error, false);
        true
    }
    fn fail_sync_in(&self, which: u64) -> bool {
        self.disk.fail_sync(which, 5);
        true
    }
    fn set_clock(&self, time: u64) -> bool {
        self.disk.set_now(Timestamp(time));
        true
    }
    fn moments(&self) -> Vec<SimDisk> {
        self.disk.take_moments()
    }
    fn advance(&self, by: std::time::Duration) -> bool {
        self.disk.advance(by);
        true
    }
}

/// The real disk, in a directory of its own. It knows no crash: it can only be closed.
pub struct Real {
    pub dir: tempfile::TempDir,
    pub options: Options,
}

impl World for Real {
    fn open(&self) -> posthouse::Result<Engine> {
        self.options.open(self.dir.path().join("store"))
    }
    fn copy(&self) -> Option<Box<dyn World>> {
        None
    }
    fn kill(&self) -> bool {
        false
    }
    fn cut_power(&self) -> bool {
        false
    }
    fn cut_power_in(&self, _: u64) {}
    fn advance(&self, _: std::time::Duration) -> bool {
        false
    }
}

/// Options with small files, so that a short sequence rolls, checkpoints and seals.
pub fn small_options() -> Options {
    Options::new()
        .journal_file_bytes_min(8 << 10)
        .journal_file_bytes_max(16 << 10)
        .journal_bytes(32 << 10)
        .segment_bytes(4096)
        .block_bytes(512)
        .message_bytes_max(64 << 10)
        .commit_bytes_max(128 << 10)
        .maps_max(2)
        .delayed_in_memory(8)
        .idle_kept(0)
}

/// Damages the first record of a store's first segment. Returns the place, and the byte that was there.
pub fn rot_first_record(disk: &SimDisk) -> (PathBuf, Vec<u8>) {
    let segment = disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let good = disk.content(&segment).unwrap();
    let mut content = good.clone();
    content[64 + 64 + 20] ^= 1;
    disk.plant(&segment, Some(content));
    (segment, good)
}

/// The payloads of all messages in a queue, in the order of delivery. They stay on lease.
pub fn drain(queue: &Queue) -> Vec<Vec<u8>> {
    let mut held: Vec<Delivery> = Vec::new();
    while let Some(delivery) = queue.try_receive().unwrap() {
        held.push(delivery);
    }
    let seen = held.iter().map(|it| it.payload().to_vec()).collect();
    std::mem::forget(held);
    seen
}
