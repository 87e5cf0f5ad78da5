//! What handles and threads share: the core, and the ways to commit and to wait.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use super::{
    background::{self, Flusher, Keeper},
    core::Core,
    sync::Syncs,
};
use crate::{
    config::{Config, Durability},
    disk::Disk,
    error::{Error, ErrorKind, Result},
    ids::{Lsn, Timestamp},
    store::{self, Commit, Extent, Outcome, Store},
};

#[derive(Debug)]
pub struct Shared {
    core: Mutex<Core>,
    pub syncs: Syncs,
    pub disk: Arc<dyn Disk>,
    pub config: Config,
    pub flusher: Flusher,
    pub keeper: Keeper,
    /// Checkpoints are made one at a time.
    checkpointing: Mutex<()>,
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
        Shared {
            syncs: Syncs::new(store.journal.durable()),
            core: Mutex::new(Core::new(store, &config)),
            flusher: Flusher::new(threads, config.sync_interval),
            keeper: Keeper::new(threads),
            disk,
            config,
            checkpointing: Mutex::new(()),
        }
    }

    /// Takes the core.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(|panicked| {
            // A thread panicked in the middle of a change: what the core holds may be half done.
            let what = "a thread panicked inside the engine; reopen the store";
            self.syncs.poison(&Error::new(ErrorKind::Poisoned, what));
            panicked.into_inner()
        })
    }

    /// Takes the core, if the engine is in working order.
    pub fn lock_open(&self) -> Result<MutexGuard<'_, Core>> {
        let core = self.lock();
        self.check_open(&core)?;
        Ok(core)
    }

    pub fn check_open(&self, core: &Core) -> Result<()> {
        self.syncs.check()?;
        if core.closed {
            return Err(Error::new(ErrorKind::Closed, "the engine was closed"));
        }
        Ok(())
    }

    pub fn now(&self) -> Timestamp {
        self.disk.now()
    }

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
        wakes.wake();
    }

    /// Poisons the engine if the error says so.
    fn heed(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Poisoned {
            self.poison(&error);
        }
        error
    }

    /// Commits: calls `attempt` with the core in hand until there is room for the commit.
    pub fn transact<T>(
        &self,
        mut attempt: impl FnMut(&mut Core) -> Result<Committing<T>>,
    ) -> Result<(T, Lsn)> {
        loop {
            let mut core = self.lock_open()?;
            let attempted = attempt(&mut core);
            let wakes = core.take_wakes();
            let wants_keeping = core.wants_keeping();
            drop(core);
            wakes.wake();
            if wants_keeping && self.keeper.has_thread() {
                self.keeper.call();
            }
            match attempted? {
                Committing::Done(value, end) => {
                    if wants_keeping && !self.keeper.has_thread() {
                        // As with a thread: the commit does not depend on how it goes.
                        let _ = background::keep_once(self);
                    }
                    return Ok((value, end));
                }
                Committing::NotYet(outcome) => self.make_room(outcome)?,
            }
        }
    }

    /// Does what a commit needs before it can be tried again.
    fn make_room(&self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::NeedsFile(bytes) => match self.prepare_file(Some(bytes)) {
                Err(error) if error.kind() == ErrorKind::DiskFull => {
                    self.shorten_journal(Extent::All)?;
                    self.prepare_file(Some(bytes))
                }
                prepared => prepared,
            },
            Outcome::NeedsCheckpoint => self.shorten_journal(Extent::Older),
            Outcome::Done(_) => Ok(()),
        }
    }

    /// Has a checkpoint made, by the keeper if there is one.
    fn shorten_journal(&self, extent: Extent) -> Result<()> {
        if self.keeper.has_thread() {
            self.keeper.await_checkpoint(self, extent)
        } else {
            self.checkpoint(extent)
        }
    }

    /// Counts the failures of deliveries that ended without being settled. Where that fails, as on
    /// a full disk, they go uncounted: the messages are delivered again all the same.
    pub fn count_failures<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        while core.has_failures() {
            if core.closed {
                core.forget_failures();
                break;
            }
            match core.commit_failures(self.now()) {
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
    pub fn complete<T>(&self, (value, end): (T, Lsn), durability: Durability) -> Result<T> {
        match durability {
            Durability::Sync => self.sync_to(end)?,
            Durability::Buffered => self.flusher.soon(self),
        }
        Ok(value)
    }

    /// Prepares the next journal file, unless someone does it already.
    pub fn prepare_file(&self, room: Option<u64>) -> Result<()> {
        let job = {
            let mut core = self.lock_open()?;
            let job = core.store.journal.begin_prepare(room);
            if job.is_none() && core.store.journal.is_preparing() {
                drop(core);
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

    /// Makes a checkpoint. On a full disk it makes what gives back space, at least.
    pub fn checkpoint(&self, extent: Extent) -> Result<()> {
        let turn = self.checkpointing.lock();
        let _turn = turn.unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(self.lock_open()?);
        let mut made = store::checkpoint(self, extent);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
            let given_up = self.lock().store.journal.give_up_spares();
            for path in given_up {
                let _ = self.disk.remove(&path);
            }
            if store::checkpoint(self, Extent::Nothing).is_ok() {
                made = store::checkpoint(self, extent);
            }
        }
        made.map_err(|error| self.heed(error))
    }
}

impl store::Shared for Shared {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        act(&mut self.lock().store)
    }

    fn sync_to(&self, position: Lsn) -> Result<()> {
        Shared::sync_to(self, position)
    }
}
