//! Durability: how far the journal is durable, and how a thread waits for it.
//!
//! The leader of a group commit syncs everything that was appended by then, outside the core. So a lone writer
//! syncs on its own thread, and many writers share a sync. A leader that fails, or panics, poisons the engine. Then
//! no thread is left waiting, and no thread retries the sync. `group_commit.rs` chooses the leader.

use std::{
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use super::{
    committer::{Committer, PANICKED},
    group_commit::{GroupCommit, Leader},
};
use crate::{
    engine::{
        core::{
            effects::Effects,
            waiters::{Fresh, LOGS_AT_ONCE, Visibility},
        },
        runtime::wait::{Waiting, Watch},
    },
    error::{Error, ErrorKind, Result},
    ids::Lsn,
    journal::SyncJob,
    prims::AtomicU64,
    store::BatchArrivals,
};

/// How far the journal is durable, and the threads and tasks that wait for it.
#[derive(Debug)]
pub struct Syncs {
    durable: AtomicU64,
    group_commit: GroupCommit,
    /// Where tasks wait for a sync or for poison. Threads wait in the group commit.
    moved: Arc<Watch>,
    poison: OnceLock<Error>,
    flushes: AtomicU64,
}

/// A log that can be synced: the engine's journal, or a model in the tests.
pub trait Synced {
    type Job;
    type Effects;

    /// Begins a sync: calls `covers` with the tail, while nothing can be appended.
    fn begin_sync(&self, covers: impl FnOnce(Lsn)) -> Self::Job;
    /// Syncs. `false` if there was nothing to sync.
    fn run_sync(&self, job: &Self::Job) -> Result<bool>;
    /// Notes the end of the sync: calls `publish` with the position that is durable now.
    fn finish_sync(&self, job: Self::Job, publish: impl FnOnce(Lsn)) -> Self::Effects;
    /// Wakes the waiters of messages that are visible now. The caller holds no lock.
    fn run_effects(&self, effects: Self::Effects);
    /// Stops all use: the state of the disk is unknown.
    fn poison(&self, error: &Error);
    fn stopwatch(&self) -> Duration;
}

impl Syncs {
    pub fn new(durable: Lsn) -> Syncs {
        Syncs {
            durable: AtomicU64::new(durable.0),
            group_commit: GroupCommit::new(),
            moved: Arc::default(),
            poison: OnceLock::new(),
            flushes: AtomicU64::new(0),
        }
    }

    /// How many syncs were made.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    fn is_durable(&self, position: Lsn) -> bool {
        self.durable.load(Ordering::Acquire) >= position.0
    }

    /// `Some` if the wait for a position is over: the position is durable, or the engine is poisoned.
    #[inline]
    pub fn outcome(&self, position: Lsn) -> Option<Result<()>> {
        if self.is_durable(position) {
            return Some(Ok(()));
        }
        self.poison.get().map(|error| Err(error.again()))
    }

    /// Fails if the engine is poisoned.
    #[inline]
    pub fn check(&self) -> Result<()> {
        self.poison.get().map_or(Ok(()), |error| Err(error.again()))
    }

    pub fn poison(&self, error: &Error) {
        let _ = self.poison.set(error.again());
        self.group_commit.wake_all();
        self.moved.wake(usize::MAX);
    }

    fn publish(&self, durable: Lsn) {
        self.durable.fetch_max(durable.0, Ordering::Release);
    }

    /// Begins to wait until something becomes durable.
    pub fn listen(&self) -> Waiting {
        self.moved.begin()
    }

    /// Waits until everything before a position is durable. The caller has appended it.
    pub fn sync_to<S: Synced>(&self, position: Lsn, synced: &S) -> Result<()> {
        loop {
            if let Some(outcome) = self.outcome(position) {
                return outcome;
            }
            let is_over = || self.is_durable(position) || self.poison.get().is_some();
            let Some(leader) = self.group_commit.wait(position, is_over) else { continue };
            let leading = Leading { syncs: self, synced, leader: Some(leader), has_ended: false };
            let began = synced.stopwatch();
            let led = self.lead(synced);
            // A waker may close the engine. So wakers run only after this thread has stopped leading.
            leading.end(synced.stopwatch().saturating_sub(began));
            match led {
                Ok(effects) => synced.run_effects(effects),
                Err(error) => {
                    if !seeded!(PoisonIsForgotten) {
                        synced.poison(&error);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn lead<S: Synced>(&self, synced: &S) -> Result<S::Effects> {
        let job = synced.begin_sync(|tail| self.group_commit.covers(tail));
        match synced.run_sync(&job) {
            Ok(was_due) => {
                self.flushes.fetch_add(u64::from(was_due), Ordering::Relaxed);
                Ok(synced.finish_sync(job, |durable| self.publish(durable)))
            }
            Err(error) => {
                // This comes before the leader leaves, so that no other thread retries the sync.
                if !seeded!(PoisonIsForgotten) {
                    self.poison(&error);
                }
                Err(error)
            }
        }
    }
}

/// A thread that leads. If it panics, the state of the disk is unknown, and the drop poisons the engine.
struct Leading<'a, S: Synced> {
    syncs: &'a Syncs,
    synced: &'a S,
    leader: Option<Leader<'a>>,
    has_ended: bool,
}

impl<S: Synced> Leading<'_, S> {
    fn end(mut self, took: Duration) {
        self.has_ended = true;
        if let Some(mut leader) = self.leader.take() {
            leader.took(took);
        }
        // A waker may send or close. This thread has stopped leading.
        self.syncs.moved.wake(usize::MAX);
    }
}

impl<S: Synced> Drop for Leading<'_, S> {
    fn drop(&mut self) {
        if !self.has_ended {
            // This wakes all waiters. Their next calls fail at once, and wait for no leader.
            self.synced.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        }
    }
}

/// A sync of the journal, and the messages that it makes visible.
#[derive(Debug)]
pub struct JournalSync {
    /// `None` if there is nothing to sync.
    job: Option<SyncJob>,
    visibility: Visibility,
}

impl Committer {
    /// Waits until everything before a position is durable. A quiet moment later, a frame says so.
    pub fn sync_to(&self, position: Lsn) -> Result<()> {
        self.syncs.sync_to(position, self)?;
        self.flusher.mark_later(|| self.elapsed(), position);
        Ok(())
    }
}

impl Synced for Committer {
    type Job = JournalSync;
    type Effects = (Effects, Vec<Fresh>, Vec<BatchArrivals>);

    fn begin_sync(&self, covers: impl FnOnce(Lsn)) -> JournalSync {
        let mut core = self.lock("begin a sync");
        covers(core.store.journal.tail());
        let visibility = core.begin_visibility();
        JournalSync { job: core.store.journal.begin_sync(), visibility }
    }

    fn run_sync(&self, sync: &JournalSync) -> Result<bool> {
        sync.job.as_ref().map_or(Ok(false), |job| job.run().map(|()| true))
    }

    fn finish_sync(&self, mut sync: JournalSync, publish: impl FnOnce(Lsn)) -> Self::Effects {
        let mut touched = sync.visibility.fresh();
        let batches = sync.visibility.batches;
        let rest = touched.split_off(touched.len().min(LOGS_AT_ONCE));
        let mut core = self.lock("finish a sync");
        if let Some(job) = &sync.job {
            core.store.journal.finish_sync(job);
        }
        publish(core.store.journal.durable());
        core.wake_fresh(&touched);
        (core.into_effects(), rest, batches)
    }

    fn run_effects(&self, (effects, rest, batches): Self::Effects) {
        effects.run_or_hold(&self.flusher);
        for some in rest.chunks(LOGS_AT_ONCE) {
            let mut core = self.lock("finish a sync");
            core.wake_fresh(some);
            self.end_slice(core);
        }
        batches.iter().for_each(|batch| self.note_batch(batch));
    }

    fn poison(&self, error: &Error) {
        Committer::poison(self, error);
    }

    fn stopwatch(&self) -> Duration {
        self.disk.stopwatch()
    }
}
