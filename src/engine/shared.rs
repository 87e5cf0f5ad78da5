//! What handles and threads share: the core, and the ways to commit and to wait.

use std::{
    mem,
    sync::{Arc, PoisonError},
    time::Duration,
};

#[cfg(feature = "cron")]
use super::board::Known;
use super::{
    background::{self, Flusher, Keeper},
    closing::Within,
    core::{Core, Wakes},
    sync::Syncs,
    time::SteadyClock,
};
use crate::{
    config::{Config, Durability},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    ids::{Lsn, Now},
    inspect::{self, VerifyReport},
    journal::Urgency,
    prims::{Mutex, MutexGuard, RwLock, RwLockReadGuard},
    store::{self, Commit, Extent, Outcome, Store},
};

#[derive(Debug)]
pub struct Shared {
    core: Mutex<Core>,
    pub syncs: Syncs,
    pub disk: Arc<dyn Disk>,
    pub config: Config,
    clock: SteadyClock,
    /// Which life of the store this is.
    pub life: u64,
    pub flusher: Flusher,
    pub keeper: Keeper,
    /// Checkpoints are made one at a time.
    checkpointing: Mutex<()>,
    /// Read by whoever works in the store's directory without the core, written by whoever closes
    /// the engine: the lock is let go of when all of that has ended.
    working: RwLock<()>,
    /// Where the schedules are. Nothing but the core is taken by whoever holds it.
    #[cfg(feature = "cron")]
    pub(super) schedules: Mutex<Known>,
}

/// A thread works in the store's directory.
#[derive(Debug)]
pub struct Working<'a> {
    _turn: RwLockReadGuard<'a, ()>,
    _within: Within,
}

/// What came of an attempt to commit.
#[derive(Debug)]
pub enum Committing<T> {
    Done(T, Lsn),
    NotYet(Outcome),
}

impl<T> Committing<T> {
    /// A value and the end of the commit, or why there is none yet.
    pub fn of(outcome: Outcome, value: impl FnOnce() -> T) -> Committing<T> {
        match outcome {
            Outcome::Done(Commit { end }) => Committing::Done(value(), end),
            other => Committing::NotYet(other),
        }
    }
}

impl Shared {
    pub fn new(store: Store, disk: Arc<dyn Disk>, config: Config, threads: bool) -> Shared {
        let clock = SteadyClock::new(disk.now(), disk.elapsed());
        let chance = disk.stopwatch().as_nanos() as u64 ^ disk.now().0 << 20;
        Shared {
            life: store.journal.epoch(),
            syncs: Syncs::new(store.journal.durable()),
            core: Mutex::new(Core::new(store, &config, clock, chance)),
            flusher: Flusher::new(threads, config.sync_interval),
            keeper: Keeper::new(threads),
            disk,
            config,
            clock,
            checkpointing: Mutex::new(()),
            working: RwLock::new(()),
            #[cfg(feature = "cron")]
            schedules: Mutex::default(),
        }
    }

    /// Takes the core.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(|panicked| {
            // A thread panicked in the middle of a change: what the core holds may be half done.
            self.core.clear_poison();
            drop(panicked);
            self.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
            self.core.lock().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Takes the core, if the engine is in working order.
    #[inline]
    pub fn lock_open(&self) -> Result<MutexGuard<'_, Core>> {
        let core = self.lock();
        self.check_open(&core)?;
        Ok(core)
    }

    #[inline]
    pub fn check_open(&self, core: &Core) -> Result<()> {
        self.syncs.check()?;
        if core.closed {
            return Err(Error::new(ErrorKind::Closed, "the engine was closed"));
        }
        Ok(())
    }

    /// The time for a commit of which nothing is due later, and no life ends.
    #[inline]
    pub fn now_plain(&self) -> Now {
        Now::from(self.disk.now())
    }

    /// The time for any commit.
    #[inline]
    pub fn now(&self) -> Now {
        self.clock.now(&*self.disk)
    }

    /// Wakes those who wait, and sets timers. Nothing is held then.
    #[inline]
    pub fn wake(&self, wakes: Wakes) {
        if !wakes.is_empty() {
            wakes.wake(|at, cursor| self.flusher.at_lease_end(at, cursor));
        }
    }

    #[inline]
    pub fn elapsed(&self) -> Duration {
        self.disk.elapsed()
    }

    /// Ends the engine: an error after which nothing can be said about the disk.
    pub fn poison(&self, error: &Error) {
        self.syncs.poison(error);
        self.keeper.wake_waiters();
        let mut core = self.lock();
        core.wake_all();
        let wakes = core.take_wakes();
        drop(core);
        self.wake(wakes);
    }

    /// Poisons the engine if the error says so.
    fn heed(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Poisoned && !seeded!(PoisonIsForgotten) {
            self.poison(&error);
        }
        error
    }

    /// Commits: calls `attempt` with the core in hand until there is room for the commit.
    #[inline]
    pub fn transact<T>(
        &self,
        mut attempt: impl FnMut(&mut Core) -> Result<Committing<T>>,
    ) -> Result<(T, Lsn)> {
        loop {
            let mut core = self.lock_open()?;
            let attempted = attempt(&mut core);
            let wakes = core.take_wakes();
            let wants_keeping = core.wants_keeping();
            let crowded = match attempted {
                Ok(Committing::Done(..)) => mem::take(&mut core.crowded),
                _ => Vec::new(),
            };
            drop(core);
            self.wake(wakes);
            match attempted? {
                Committing::Done(value, end) => {
                    crowded.into_iter().for_each(|queue| self.shelve(queue));
                    if wants_keeping {
                        self.keep_up();
                    }
                    return Ok((value, end));
                }
                Committing::NotYet(outcome) => self.make_room(outcome)?,
            }
        }
    }

    /// Has the keeper do what there is for it to do.
    fn keep_up(&self) {
        if self.keeper.has_thread() {
            self.keeper.call();
        } else {
            // As with a thread: the commit does not depend on how it goes.
            let _ = background::keep_once(self);
        }
    }

    /// Does what a commit needs before it can be tried again.
    pub fn make_room(&self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::NeedsFile(bytes, urgency) => {
                match self.prepare_file(Some(bytes), Urgency::Ordinary) {
                    Err(error) if error.kind() == ErrorKind::DiskFull => {
                        let shortened = match urgency {
                            Urgency::Ordinary => self.shorten_journal(Extent::All),
                            // The keeper may be resting. What frees space does not wait for it.
                            Urgency::Freeing => self.checkpoint(Extent::All, urgency),
                        };
                        shortened?;
                        self.prepare_file(Some(bytes), urgency)
                    }
                    prepared => prepared,
                }
            }
            Outcome::NeedsCheckpoint => self.shorten_journal(Extent::Older),
            Outcome::Done(_) => Ok(()),
        }
    }

    /// Has a checkpoint made, by the keeper if there is one.
    fn shorten_journal(&self, extent: Extent) -> Result<()> {
        if self.keeper.has_thread() {
            self.keeper.await_checkpoint(self, extent)
        } else {
            self.checkpoint(extent, Urgency::Ordinary)
        }
    }

    /// Counts the failures of deliveries that ended without being settled. Where that fails, as on
    /// a full disk, they go uncounted: the messages are delivered again all the same. So they do in an
    /// engine that is closed or poisoned, which commits nothing more.
    pub fn count_failures<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        while core.has_failures() {
            if self.check_open(&core).is_err() {
                core.forget_failures();
                break;
            }
            let now = self.now_plain();
            match core.commit_failures(now) {
                Ok(Outcome::Done(_)) => self.flusher.soon(self),
                Ok(outcome) => {
                    drop(core);
                    let made = self.make_room(outcome);
                    core = self.lock();
                    if made.is_err() {
                        core.forget_failures();
                    }
                }
                Err(_) => core.forget_failures(),
            }
        }
        core
    }

    /// Waits for what a commit was promised.
    #[inline]
    pub fn complete<T>(&self, (value, end): (T, Lsn), durability: Durability) -> Result<T> {
        match durability {
            Durability::Sync => self.sync_to(end)?,
            Durability::Buffered => self.flusher.soon(self),
        }
        Ok(value)
    }

    /// Says that this thread works in the store's directory. Ends when the guard is dropped.
    pub fn work(&self) -> Working<'_> {
        let turn = self.working.read().unwrap_or_else(PoisonError::into_inner);
        Working { _turn: turn, _within: Within::enter() }
    }

    /// Returns when nobody works in the store's directory. Those who come later find that the
    /// engine is closed.
    pub fn await_quiet(&self) {
        drop(self.working.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Prepares the next journal file, unless someone does it already.
    pub fn prepare_file(&self, room: Option<u64>, urgency: Urgency) -> Result<()> {
        let working = self.work();
        let job = {
            let mut core = self.lock_open()?;
            let job = core.store.journal.begin_prepare(room, urgency);
            if job.is_none() && core.store.journal.is_preparing() {
                drop((core, working));
                return self.keeper.await_file(self);
            }
            job
        };
        let Some(job) = job else {
            return Ok(());
        };
        let prepared = job.run();
        let finished = self.lock().store.journal.finish_prepare(prepared);
        self.keeper.file_is_ready();
        finished.map_err(|error| self.heed(error))
    }

    /// Verifies the store while it is in use.
    pub fn verify(&self) -> Result<VerifyReport> {
        let mut report = {
            let _working = self.work();
            let _turn = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.lock_open()?);
            inspect::verify_base(self)?
        };
        inspect::verify_segments(self, &mut report, &|| self.lock_open().map(drop))?;
        Ok(report)
    }

    /// Makes a checkpoint. On a full disk what is kept for later is given up, the reserve only if
    /// that is for a commit which frees space; and the journal is moved file by file: each gives
    /// back the space that it took, and more.
    pub fn checkpoint(&self, extent: Extent, urgency: Urgency) -> Result<()> {
        let _working = self.work();
        let _turn = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.lock_open()?);
        let mut made = store::checkpoint(self, extent);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
            self.give_up_spares(urgency);
            made = store::checkpoint(self, Extent::Nothing);
            let older = self.lock_open()?.store.journal.older_files();
            for _ in 0..older {
                made = made.and_then(|()| store::checkpoint(self, Extent::Oldest));
            }
            made = made.and_then(|()| store::checkpoint(self, extent));
        }
        made.map_err(|error| self.heed(error))
    }

    fn give_up_spares(&self, urgency: Urgency) {
        let Some(given_up) = self.lock().store.journal.give_up_spares(urgency) else {
            return;
        };
        for path in given_up {
            let _ = self.disk.remove(&path);
        }
        self.lock().store.journal.spares_are_gone();
        self.keeper.file_is_ready();
    }
}

pub const PANICKED: &str = "a thread panicked inside the engine; reopen the store";

impl store::Shared for Shared {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        act(&mut self.lock().store)
    }

    fn sync_to(&self, position: Lsn) -> Result<()> {
        Shared::sync_to(self, position)
    }
}
