//! One stage of the work, and its progress.

use std::{
    io::{self, IsTerminal},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sales::Result;

/// A stage that has not moved for this time is stuck. The time is longer than a lease, because after a stall
/// of the machine a message may have to wait for one.
const STALL_MAX: Duration = Duration::from_secs(90);

/// Progress is told in so many steps.
const STEPS: u64 = 5;

pub struct Stage<'a> {
    pub name: &'static str,
    /// The orders that earlier runs have done.
    pub before: u64,
    pub total: u64,
    done: AtomicU64,
    /// When it last moved, in milliseconds since its start.
    moved_ms: AtomicU64,
    started: Instant,
    took: OnceLock<Duration>,
    /// Whether somebody looks on.
    is_shown: bool,
    /// Whether another thread has failed.
    failed: &'a AtomicBool,
}

impl<'a> Stage<'a> {
    pub fn new(
        name: &'static str,
        before: u64,
        total: u64,
        failed: &'a AtomicBool,
    ) -> Result<Stage<'a>> {
        if before > total {
            let what = format!("the store has {before} orders {name}, but there are only {total}");
            return Err(what.into());
        }
        let stage = Stage {
            name,
            before,
            total,
            done: AtomicU64::new(before),
            moved_ms: AtomicU64::new(0),
            started: Instant::now(),
            took: OnceLock::new(),
            is_shown: io::stderr().is_terminal(),
            failed,
        };
        stage.advance(0);
        Ok(stage)
    }

    /// Counts orders that are done.
    pub fn advance(&self, count: u64) {
        let elapsed = self.started.elapsed();
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        self.moved_ms.store(elapsed.as_millis() as u64, Ordering::Relaxed);
        if done >= self.total {
            self.took.get_or_init(|| elapsed);
        }
        let step = |done: u64| done * STEPS / self.total.max(1);
        if self.is_shown && step(done) > step(done - count) {
            eprintln!("{:>9} {done:>7} of {}", self.name, self.total);
        }
    }

    /// Whether there is anything left to do.
    pub fn is_open(&self) -> Result<bool> {
        let left = self.total.saturating_sub(self.done.load(Ordering::Relaxed));
        if left == 0 || self.failed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        if self.started.elapsed().saturating_sub(moved) > STALL_MAX {
            let (name, stall) = (self.name, STALL_MAX.as_secs());
            let what = format!("{left} orders are still to be {name}, but none came for {stall} s");
            return Err(what.into());
        }
        Ok(true)
    }

    /// Whether this run goes on; `false` if another thread has failed.
    pub fn goes_on(&self) -> bool {
        !self.failed.load(Ordering::Relaxed)
    }

    /// How long this run took, from its start to the last order.
    pub fn took(&self) -> Duration {
        self.took.get().copied().unwrap_or_else(|| self.started.elapsed())
    }
}
