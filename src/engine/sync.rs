//! What is durable, and group commit: one syncs for all who wait.
//!
//! The leader syncs everything that was appended by then, outside the core; [`Turns`] says who
//! leads. So a single writer syncs on its own thread, and many writers share a flush. A leader that
//! fails, or panics, takes all down with it: nobody is left waiting, and nobody tries again.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use super::{
    core::Wakes,
    shared::{PANICKED, Shared},
    turns::{Leader, Turns},
    wait::{Waiting, Watch},
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{LogId, Lsn},
    journal::SyncJob,
    prims::AtomicU64,
};

#[derive(Debug)]
pub struct Syncs {
    durable: AtomicU64,
    turns: Turns,
    /// For tasks: something is durable, or never will be. Threads wait for their turns.
    moved: Arc<Watch>,
    poison: OnceLock<Error>,
    flushes: AtomicU64,
}

/// What is synced, and who else is to know.
pub trait Synced {
    type Job;
    type Wakes;

    /// Begins a sync: calls `covers` with the tail, where nothing can be appended meanwhile.
    fn begin_sync(&self, covers: impl FnOnce(Lsn)) -> Self::Job;
    /// Syncs, unless there is nothing to sync: then it is `false`.
    fn run_sync(&self, job: &Self::Job) -> Result<bool>;
    /// Takes note of it: calls `publish` with what is durable by now.
    fn finish_sync(&self, job: Self::Job, publish: impl FnOnce(Lsn)) -> Self::Wakes;
    /// Wakes those who wait for what can be seen by now. Nothing is held then.
    fn wake(&self, wakes: Self::Wakes);
    /// Ends everything, as nothing can be said about the disk.
    fn poison(&self, error: &Error);
    fn stopwatch(&self) -> Duration;
}

impl Syncs {
    pub fn new(durable: Lsn) -> Syncs {
        Syncs {
            durable: AtomicU64::new(durable.0),
            turns: Turns::new(),
            moved: Arc::default(),
            poison: OnceLock::new(),
            flushes: AtomicU64::new(0),
        }
    }

    /// How many syncs were begun.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    fn is_durable(&self, position: Lsn) -> bool {
        self.durable.load(Ordering::Acquire) >= position.0
    }

    /// `Some` if the wait for a position is over: it is durable, or it never will be.
    #[inline]
    pub fn outcome(&self, position: Lsn) -> Option<Result<()>> {
        if self.is_durable(position) {
            return Some(Ok(()));
        }
        self.poison.get().map(|error| Err(error.again()))
    }

    #[inline]
    pub fn check(&self) -> Result<()> {
        self.poison.get().map_or(Ok(()), |error| Err(error.again()))
    }

    pub fn poison(&self, error: &Error) {
        let _ = self.poison.set(error.again());
        self.turns.wake_all();
        self.moved.wake(usize::MAX);
    }

    fn publish(&self, durable: Lsn) {
        self.durable.fetch_max(durable.0, Ordering::Release);
    }

    /// To be woken when something becomes durable.
    pub fn listen(&self) -> Waiting {
        self.moved.begin()
    }

    /// Returns when everything before a position is durable. It must have been appended.
    pub fn sync_to<S: Synced>(&self, position: Lsn, synced: &S) -> Result<()> {
        loop {
            if let Some(outcome) = self.outcome(position) {
                return outcome;
            }
            let is_over = || self.is_durable(position) || self.poison.get().is_some();
            let Some(turn) = self.turns.wait(position, is_over) else {
                continue;
            };
            let turn = Some(turn);
            let leading = Leading { syncs: self, synced, turn, has_ended: false };
            let began = synced.stopwatch();
            let led = self.lead(synced);
            // A waker may do anything, such as close the engine: it does not run under the
            // leader's hand.
            leading.end(synced.stopwatch().saturating_sub(began));
            match led {
                Ok(wakes) => synced.wake(wakes),
                Err(error) => {
                    if !seeded!(PoisonIsForgotten) {
                        synced.poison(&error);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn lead<S: Synced>(&self, synced: &S) -> Result<S::Wakes> {
        let job = synced.begin_sync(|tail| self.turns.covers(tail));
        match synced.run_sync(&job) {
            Ok(was_due) => {
                self.flushes.fetch_add(u64::from(was_due), Ordering::Relaxed);
                Ok(synced.finish_sync(job, |durable| self.publish(durable)))
            }
            Err(error) => {
                // Set before the leader leaves: nobody tries again.
                if !seeded!(PoisonIsForgotten) {
                    self.poison(&error);
                }
                Err(error)
            }
        }
    }
}

/// The turn to sync. If it is left before the end, by a panic, nothing can be said about the disk.
struct Leading<'a, S: Synced> {
    syncs: &'a Syncs,
    synced: &'a S,
    turn: Option<Leader<'a>>,
    has_ended: bool,
}

impl<S: Synced> Leading<'_, S> {
    fn end(mut self, took: Duration) {
        self.has_ended = true;
        if let Some(mut turn) = self.turn.take() {
            turn.took(took);
        }
        // A waker may do anything, such as send or close: the turn was left before it runs.
        self.syncs.moved.wake(usize::MAX);
    }
}

impl<S: Synced> Drop for Leading<'_, S> {
    fn drop(&mut self) {
        if !self.has_ended {
            // That wakes all; whatever they do then fails at once, and waits for no turn.
            self.synced.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        }
    }
}

impl Shared {
    /// Returns when everything before a position is durable.
    pub fn sync_to(&self, position: Lsn) -> Result<()> {
        self.syncs.sync_to(position, self)
    }
}

impl Synced for Shared {
    /// What is to be run, and whose messages can be seen after it.
    type Job = (Option<SyncJob>, Vec<(LogId, usize)>);
    type Wakes = Wakes;

    fn begin_sync(&self, covers: impl FnOnce(Lsn)) -> Self::Job {
        let mut core = self.lock();
        covers(core.store.journal.tail());
        (core.store.journal.begin_sync(), core.begin_visibility())
    }

    fn run_sync(&self, (job, _): &Self::Job) -> Result<bool> {
        job.as_ref().map_or(Ok(false), |job| job.run().map(|()| true))
    }

    fn finish_sync(&self, (job, fresh): Self::Job, publish: impl FnOnce(Lsn)) -> Wakes {
        let mut core = self.lock();
        if let Some(job) = &job {
            core.store.journal.finish_sync(job);
        }
        publish(core.store.journal.durable());
        core.finish_visibility(fresh);
        core.take_wakes()
    }

    fn wake(&self, wakes: Wakes) {
        Shared::wake(self, wakes);
    }

    fn poison(&self, error: &Error) {
        Shared::poison(self, error);
    }

    fn stopwatch(&self) -> Duration {
        self.disk.stopwatch()
    }
}
