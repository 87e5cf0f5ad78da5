//! Back-pressure: when the journal grows faster than checkpoints shorten it, producers slow down in proportion to what
//! they write, before any commit meets the wall.
//!
//! Each commit of messages that finds the journal longer than its length makes its thread *owe* time: the time in which
//! checkpoints would shorten the journal by the bytes of the commit, times a factor that grows from nothing where the slope
//! begins without bound towards its end. The thread waits for that time once the commit is done and no lock is held. Time
//! that passes anyway is paid: a thread owes nothing if it writes more slowly than the factor allows, however many others
//! write. So N bulk producers come to a common rate that the disk keeps up with, at N / (N + 1) of the slope, and small
//! commits of other threads do not wait.
//!
//! The last eighth before the wall is left to others: bulk producers that come so far hardly go on. RocksDB slows down its
//! writers with a like aim (its delayed write rate); there one rate holds for all of them.

use std::{cell::Cell, ops::Range, sync::atomic::Ordering, time::Duration};

use super::{committer::Committer, patience};
use crate::{
    audit::Rank,
    engine::{
        core::Core,
        runtime::{lock::RankedMutex, within::Within},
    },
    error::Result,
    ids::Lsn,
    prims::{AtomicU64, Condvar},
};

/// Until a checkpoint was measured: how fast checkpoints shorten the journal, in bytes per second.
const RATE_FIRST: u64 = 128 << 20;
const RATE_MIN: u64 = 1 << 20;
const RATE_MAX: u64 = 1 << 30;
/// Checkpoints of fewer bytes say little about the rate.
const MEASURED_MIN: u64 = 1 << 20;
/// A thread waits once it owes as much: shorter waits cost more than they slow down.
const OWED_MIN: Duration = Duration::from_millis(1);
/// The most that a thread owes. A commit that would owe more has met a checkpoint that takes long.
const OWED_MAX: Duration = Duration::from_millis(250);
/// The factor at the end of the slope.
const FACTOR_MAX: f64 = 64.0;

/// What an engine tells of itself: see [`Engine::stats`](crate::Engine::stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// The length of the journal in bytes. Above [`journal_bytes`](crate::Options::journal_bytes) producers are slowed down,
    /// and at twice that length they wait.
    pub journal_bytes: u64,
    /// How often producers were held back, because the journal was long, since the engine was opened.
    pub held_back: u64,
    /// For how long producers were held back in all: the sum over all threads and tasks.
    pub held_back_for: Duration,
}

/// What a thread owes, as of a time of the stopwatch.
#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    owed: Duration,
    at: Duration,
}

impl Debt {
    fn left(self, now: Duration) -> Duration {
        self.owed.saturating_sub(now.saturating_sub(self.at))
    }
}

thread_local! {
    static DEBT: Cell<Debt> = const { Cell::new(Debt { owed: Duration::ZERO, at: Duration::ZERO }) };
}

fn debt() -> Debt {
    DEBT.try_with(Cell::get).unwrap_or_default()
}

fn set_debt(debt: Debt) {
    // A thread that ends owes nothing.
    let _ = DEBT.try_with(|cell| cell.set(debt));
}

/// A commit of messages that found the journal on the slope.
#[derive(Clone, Copy, Debug)]
pub struct Pressed {
    bytes: u64,
    factor: f64,
}

/// How fast checkpoints shorten the journal, and how long producers have waited for that.
#[derive(Debug)]
pub struct Pressure {
    rate: AtomicU64,
    waits: AtomicU64,
    waited_nanos: AtomicU64,
    /// How many checkpoints have ended.
    ended: RankedMutex<u64>,
    has_ended: Condvar,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure {
            rate: AtomicU64::new(RATE_FIRST),
            waits: AtomicU64::new(0),
            waited_nanos: AtomicU64::new(0),
            ended: RankedMutex::new(&(Rank::Leaf, "back-pressure"), 0),
            has_ended: Condvar::new(),
        }
    }
}

impl Pressure {
    /// Notes that a checkpoint has shortened the journal. Threads that wait for it go on.
    pub fn relieve(&self, bytes: u64, took: Duration) {
        if bytes >= MEASURED_MIN {
            let rate = (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64;
            // Where consumers keep up, a checkpoint has little to move and is quick. That says nothing of the next one: a
            // slow one counts at once, and a quick one by and by.
            let before = self.rate.load(Ordering::Relaxed);
            let risen = before / 8 * 7 + rate.min(RATE_MAX) / 8;
            self.rate.store(rate.min(risen).clamp(RATE_MIN, RATE_MAX), Ordering::Relaxed);
        }
        if bytes > 0 {
            *self.ended.lock() += 1;
            self.has_ended.notify_all();
        }
    }

    /// What a commit makes its thread owe.
    fn owed_for(&self, pressed: Pressed) -> Duration {
        let seconds = pressed.bytes as f64 / self.rate.load(Ordering::Relaxed) as f64;
        Duration::from_secs_f64((seconds * pressed.factor).min(OWED_MAX.as_secs_f64()))
    }

    /// Notes that a thread has waited for space.
    pub fn note_wait(&self, waited: Duration) {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.waited_nanos.fetch_add(waited.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How often and how long threads and tasks have waited for space.
    pub fn waits(&self) -> (u64, Duration) {
        let nanos = self.waited_nanos.load(Ordering::Relaxed);
        (self.waits.load(Ordering::Relaxed), Duration::from_nanos(nanos))
    }
}

/// The factor at a length of the journal: nothing where the slope begins, one in its middle.
fn factor(length: u64, slope: Range<u64>) -> f64 {
    let share = length.saturating_sub(slope.start) as f64 / (slope.end - slope.start) as f64;
    if share >= 1.0 { FACTOR_MAX } else { (share / (1.0 - share)).min(FACTOR_MAX) }
}

impl Core {
    /// What the commits since a position have met, if they added messages and the journal is on the slope.
    #[cold]
    pub fn pressed(&self, since: Lsn) -> Option<Pressed> {
        let journal = &self.store.journal;
        let bytes = journal.tail().0 - since.0;
        let is_on_slope = journal.bytes_behind() > self.slope().start;
        if bytes == 0 || !is_on_slope || !self.store.has_placed() {
            return None;
        }
        let length = journal.tail().0 - journal.start().0;
        Some(Pressed { bytes, factor: factor(length, self.slope()) })
    }
}

impl Committer {
    /// Makes this thread owe time for a commit.
    #[cold]
    pub(super) fn owe(&self, pressed: Pressed) {
        // Without threads, a commit that finds the journal long makes the checkpoint itself. The engine's own threads, and
        // callbacks on them, do not wait for each other.
        if !self.checkpointer.has_thread() || Within::is_here() {
            return;
        }
        let now = self.disk.stopwatch();
        let owed = debt().left(now) + self.pressure.owed_for(pressed);
        set_debt(Debt { owed: owed.min(OWED_MAX), at: now });
    }

    /// Commits what is no message of the caller: delayed messages that leave the memory, or dead letters. The thread owes
    /// nothing for that.
    pub fn without_debt<T>(&self, act: impl FnOnce() -> T) -> T {
        let before = debt();
        let done = act();
        set_debt(before);
        done
    }

    /// Takes what this thread owes, if it is worth waiting for.
    fn take_debt(&self) -> Option<Duration> {
        if debt().owed.is_zero() {
            return None;
        }
        let now = self.disk.stopwatch();
        let owed = debt().left(now);
        if owed < OWED_MIN {
            return None;
        }
        set_debt(Debt::default());
        Some(owed)
    }

    /// Waits for what this thread owes. No lock is held.
    #[inline]
    pub fn pay(&self) {
        if !debt().owed.is_zero() {
            self.pay_now();
        }
    }

    #[cold]
    fn pay_now(&self) {
        if patience::is_asking() {
            // A task sleeps instead: see `asking.rs`.
            return;
        }
        let Some(owed) = self.take_debt() else { return };
        let begun = self.disk.stopwatch();
        let ended = self.pressure.ended.lock();
        let before = *ended;
        drop(ended.wait_timeout_while(&self.pressure.has_ended, owed, |ended| *ended == before));
        self.pressure.note_wait(self.disk.stopwatch().saturating_sub(begun));
    }

    /// What the task that runs on this thread owes for the commit that it just made. It sleeps for that time.
    pub fn debt_of_task(&self) -> Option<Duration> {
        self.take_debt().inspect(|owed| self.pressure.note_wait(*owed))
    }

    /// What the engine tells of itself.
    pub fn stats(&self) -> Result<EngineStats> {
        let core = self.lock_open("stats")?;
        let journal_bytes = core.store.journal.tail().0 - core.store.journal.start().0;
        drop(core);
        let (held_back, held_back_for) = self.pressure.waits();
        Ok(EngineStats { journal_bytes, held_back, held_back_for })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_nothing_at_its_begin_and_one_in_its_middle() {
        assert_eq!(factor(100, 100..200), 0.0);
        assert_eq!(factor(50, 100..200), 0.0);
        assert_eq!(factor(150, 100..200), 1.0);
        assert!((factor(190, 100..200) - 9.0).abs() < 1e-9, "nine producers share the rate");
        assert_eq!(factor(200, 100..200), FACTOR_MAX);
        assert_eq!(factor(u64::MAX, 100..200), FACTOR_MAX);
    }

    #[test]
    fn what_a_thread_owes_grows_with_its_bytes_and_passes_with_time() {
        let pressure = Pressure::default();
        let owed = |bytes, factor| pressure.owed_for(Pressed { bytes, factor });
        assert_eq!(owed(RATE_FIRST / 128, 1.0), Duration::from_secs(1) / 128);
        assert_eq!(owed(RATE_FIRST / 128, 8.0), Duration::from_secs(1) / 16);
        assert_eq!(owed(RATE_FIRST, 64.0), OWED_MAX, "bounded");
        let debt = Debt { owed: Duration::from_millis(10), at: Duration::from_secs(1) };
        assert_eq!(debt.left(Duration::from_millis(1004)), Duration::from_millis(6));
        assert_eq!(debt.left(Duration::from_secs(9)), Duration::ZERO);
    }

    #[test]
    fn the_rate_follows_what_checkpoints_do() {
        let pressure = Pressure::default();
        pressure.relieve(64 << 20, Duration::from_secs(4));
        let rate = pressure.rate.load(Ordering::Relaxed);
        assert_eq!(rate, 16 << 20, "a slow one counts at once");
        pressure.relieve(1000, Duration::from_secs(4));
        assert_eq!(pressure.rate.load(Ordering::Relaxed), rate, "small ones do not count");
        pressure.relieve(64 << 20, Duration::ZERO);
        let quick = pressure.rate.load(Ordering::Relaxed);
        assert!((rate..=rate + RATE_MAX / 8).contains(&quick), "{quick}: a quick one by and by");
    }
}
