//! The committer: the state that all handles and threads of one engine share.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{lack::Lack, pressure::Pressure, space::Space, sync::Syncs};
#[cfg(feature = "cron")]
use crate::schedule::KnownSchedules;
use crate::{
    audit::{Hold, Rank},
    config::Config,
    disk::Disk,
    engine::{
        core::{Core, guard::CoreGuard},
        runtime::{
            checkpointer::CheckpointerSignal, clock::EvenClock, fair::FairMutex, lock::RankedMutex,
            signals::FlusherSignal, within::Within,
        },
    },
    error::{Error, ErrorKind, Result},
    ids::{CursorId, LogId, Now, Timestamp},
    prims::{RwLock, RwLockReadGuard},
    store::Store,
};

/// The core, the functions that lock it, and the other state that commits need.
#[derive(Debug)]
pub struct Committer {
    core: FairMutex<Core>,
    pub syncs: Syncs,
    pub disk: Arc<dyn Disk>,
    pub config: Config,
    pub clock: Arc<EvenClock>,
    /// The epoch of the journal: how many times the store was opened.
    pub epoch: u64,
    pub flusher: FlusherSignal,
    pub checkpointer: CheckpointerSignal,
    /// The space in the journal that tasks await.
    pub space: Space,
    /// Whether space lacks on the disk.
    pub(super) lack: Lack,
    /// How producers are slowed down while the journal is long.
    pub pressure: Pressure,
    /// Held by the thread that makes a checkpoint.
    pub(super) checkpointing: RankedMutex<()>,
    /// Read-locked by threads that work in the store's directory without the core. Shutdown write-locks it
    /// before it releases the store's lock, so that all of that work has ended.
    directory: RwLock<()>,
    /// Which messages are schedules.
    #[cfg(feature = "cron")]
    pub schedules: RankedMutex<KnownSchedules>,
}

/// Marks that a thread works in the store's directory.
#[derive(Debug)]
pub struct Working<'a> {
    _directory: RwLockReadGuard<'a, ()>,
    _hold: Hold,
    _within: Within,
}

/// The message of the error after a panic inside the engine.
pub const PANICKED: &str = "a thread panicked inside the engine; reopen the store";

impl Committer {
    pub fn new(store: Store, disk: Arc<dyn Disk>, config: Config, has_threads: bool) -> Committer {
        let (clock, known) = EvenClock::open(Arc::clone(&disk), store.clock());
        let clock = Arc::new(clock);
        let chance = disk.stopwatch().as_nanos() as u64 ^ disk.now().0 << 20;
        Committer {
            epoch: store.journal.epoch(),
            syncs: Syncs::new(store.journal.durable()),
            core: FairMutex::new(Core::new(
                store,
                &config,
                (Arc::clone(&clock), known),
                disk.tick(),
                chance,
            )),
            flusher: FlusherSignal::new(has_threads, config.sync_interval),
            checkpointer: CheckpointerSignal::new(has_threads, config.idle_after),
            space: Space::default(),
            lack: Lack::default(),
            pressure: Pressure::default(),
            disk,
            config,
            clock,
            checkpointing: RankedMutex::new(&(Rank::Checkpoint, "checkpoint"), ()),
            directory: RwLock::new(()),
            #[cfg(feature = "cron")]
            schedules: RankedMutex::new(&(Rank::Registry, "schedules"), KnownSchedules::default()),
        }
    }

    /// Locks the core. Tests report the longest hold of each `operation`.
    #[inline]
    pub fn lock(&self, operation: &'static str) -> CoreGuard<'_> {
        let hold = Hold::begin(Rank::Core, operation);
        match self.core.lock() {
            Ok(core) => CoreGuard::new(core, &self.flusher, hold),
            Err(panicked) => {
                drop((panicked, hold));
                self.lock_after_panic(operation)
            }
        }
    }

    /// Locks the core after a thread panicked while it held the core. A change may be half done, so this
    /// poisons the engine.
    #[cold]
    fn lock_after_panic(&self, operation: &'static str) -> CoreGuard<'_> {
        // First the engine, then the mutex: no thread finds the core in order in between.
        self.syncs.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        self.core.clear_poison();
        self.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        let hold = Hold::begin(Rank::Core, operation);
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        CoreGuard::new(core, &self.flusher, hold)
    }

    /// Locks the core. Fails if the engine is closed or poisoned.
    #[inline]
    pub fn lock_open(&self, operation: &'static str) -> Result<CoreGuard<'_>> {
        let core = self.lock(operation);
        self.check_open(&core)?;
        Ok(core)
    }

    /// Unlocks the core between two slices of work, lets a thread that waits for it have its turn, and locks it again.
    pub fn give_way<'a>(&'a self, operation: &'static str, core: CoreGuard<'a>) -> CoreGuard<'a> {
        drop(core);
        self.core.give_way();
        self.lock(operation)
    }

    /// Has messages pass by the cursors that do not get them, in slices.
    #[cold]
    pub fn pass_all(&self, operation: &'static str) {
        let mut core = self.lock(operation);
        while core.pass_some() {
            core = self.give_way(operation, core);
        }
    }

    /// As [`pass_all`](Committer::pass_all), until a cursor has had its turn: it sees all that was committed.
    #[cold]
    pub fn await_turn<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
        (cursor, log): (CursorId, LogId),
    ) -> Result<CoreGuard<'a>> {
        while core.store.awaits_turn(cursor, log) {
            core.pass_some();
            if !core.store.awaits_turn(cursor, log) {
                break;
            }
            core = self.give_way(operation, core);
            self.check_open(&core)?;
        }
        Ok(core)
    }

    /// Takes what was deleted out of memory, in slices.
    #[cold]
    pub fn take_out(&self) {
        let mut core = self.lock("delete");
        while core.take_out() {
            core = self.give_way("delete", core);
        }
    }

    /// After a slice of work that another one follows: lets a thread that waits for the core have its turn first.
    pub fn end_slice(&self, core: CoreGuard<'_>) {
        drop(core);
        self.let_others_go_on();
    }

    /// After a slice of work that another one follows: lets a thread that waits for the core have its turn first. The
    /// caller has just unlocked the core.
    pub fn let_others_go_on(&self) {
        self.core.give_way();
    }

    /// Fails if the engine is closed or poisoned.
    #[inline]
    pub fn check_open(&self, core: &Core) -> Result<()> {
        self.syncs.check()?;
        if core.is_closed {
            return Err(Error::new(ErrorKind::Closed, "the engine was closed"));
        }
        Ok(())
    }

    /// The time of day for a commit that adds no message to a queue or a topic.
    #[inline]
    pub fn now_plain(&self) -> Now {
        Now::from(self.disk.now())
    }

    /// The time for any commit.
    #[inline]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// The time for a commit without delays, as of the last tick. It costs a third.
    #[inline]
    pub fn tick_now(&self) -> Now {
        self.clock.tick_now()
    }

    /// The even time, as of the last tick.
    #[inline]
    pub fn even(&self) -> Timestamp {
        self.clock.even(self.elapsed())
    }

    /// Looks whether the machine has slept, and whether the time of day was set.
    pub fn look_at_clock(&self) {
        self.disk.notice_sleep();
        let mut core = self.lock("look at the clock");
        if self.check_open(&core).is_ok() {
            self.look_at_clock_in(&mut core);
        }
    }

    /// Looks whether the time of day was set. What is recorded of it is synced soon.
    pub fn look_at_clock_in(&self, core: &mut Core) {
        if core.look_at_clock(self.now()) {
            self.sync_soon();
        }
    }

    #[inline]
    pub fn elapsed(&self) -> Duration {
        self.disk.elapsed()
    }

    /// Asks the flusher to sync everything within the sync interval.
    #[inline]
    pub fn sync_soon(&self) {
        self.flusher.sync_soon(|| self.elapsed());
    }

    /// Asks the flusher to sync everything at once.
    pub fn sync_at_once(&self) {
        self.flusher.sync_at_once(|| self.elapsed());
    }

    /// Stops all use of the engine, after an error that leaves the state of the disk unknown.
    pub fn poison(&self, error: &Error) {
        self.syncs.poison(error);
        self.checkpointer.wake_waiters();
        self.lock("poison").wake_everyone();
    }

    /// Poisons the engine if the error is of kind `Poisoned`.
    pub(super) fn poison_if_fatal(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::Poisoned && !seeded!(PoisonIsForgotten) {
            self.poison(&error);
        }
        error
    }

    /// Marks that this thread works in the store's directory, until the guard is dropped.
    pub fn work(&self) -> Working<'_> {
        let hold = Hold::begin(Rank::Directory, "work in the directory");
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        Working { _directory: directory, _hold: hold, _within: Within::enter() }
    }

    /// Waits until no thread works in the store's directory. Later threads find that the engine is closed.
    pub fn await_quiet(&self) {
        drop(self.directory.write().unwrap_or_else(PoisonError::into_inner));
    }
}
