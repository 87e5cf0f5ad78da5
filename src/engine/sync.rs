//! What is durable, and group commit: one syncs for all who wait.
//!
//! The leader syncs everything that was appended by then, outside the core; [`Turns`] says who
//! leads. So a single writer syncs on its own thread, and many writers share a flush. A leader that
//! fails, or panics, takes all down with it: nobody is left waiting, and nobody tries again.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
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
    ids::Lsn,
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
}

/// The turn to sync. If it ends without having come to an end, as by a panic, nothing can be said
/// about the disk.
struct Leading<'a> {
    shared: &'a Shared,
    turn: Leader<'a>,
    has_ended: bool,
}

impl Leading<'_> {
    fn end(mut self, took: Duration) {
        self.turn.took(took);
        self.has_ended = true;
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.shared.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        }
        self.shared.syncs.moved.wake(usize::MAX);
    }
}

impl Shared {
    /// Returns when everything before a position is durable.
    pub fn sync_to(&self, position: Lsn) -> Result<()> {
        loop {
            if let Some(outcome) = self.syncs.outcome(position) {
                return outcome;
            }
            let is_over = || self.syncs.is_durable(position) || self.syncs.poison.get().is_some();
            let Some(turn) = self.syncs.turns.wait(position, is_over) else {
                continue;
            };
            let leading = Leading { shared: self, turn, has_ended: false };
            let began = self.elapsed();
            let synced = self.sync_now();
            // A waker may do anything, such as close the engine: it does not run under the
            // leader's hand.
            leading.end(self.elapsed().saturating_sub(began));
            match synced {
                Ok(wakes) => wakes.wake(),
                Err(error) => {
                    if !seeded!(PoisonIsForgotten) {
                        self.poison(&error);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn sync_now(&self) -> Result<Wakes> {
        let (job, fresh) = {
            let mut core = self.lock();
            self.syncs.turns.covers(core.store.journal.tail());
            (core.store.journal.begin_sync(), core.begin_visibility())
        };
        if let Some(job) = &job {
            self.syncs.flushes.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = job.run() {
                // Set before the leader leaves: nobody tries again.
                if !seeded!(PoisonIsForgotten) {
                    self.syncs.poison(&error);
                }
                return Err(error);
            }
        }
        let mut core = self.lock();
        if let Some(job) = &job {
            core.store.journal.finish_sync(job);
        }
        self.syncs.publish(core.store.journal.durable());
        core.finish_visibility(fresh);
        Ok(core.take_wakes())
    }
}
