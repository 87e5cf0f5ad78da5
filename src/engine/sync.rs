//! Group commit: whoever waits first syncs for all.
//!
//! One thread leads: it syncs everything that was appended by then, outside the core. Those who
//! come meanwhile wait, and one of them leads the next sync. So a single writer syncs on its own
//! thread, and many writers share a flush. A leader that fails takes all down with it: nobody is
//! left waiting, and nobody tries again.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use event_listener::{Event, EventListener, Listener};

use super::{core::Wakes, shared::Shared};
use crate::{
    error::{Error, Result},
    ids::Lsn,
};

#[derive(Debug)]
pub struct Syncs {
    durable: AtomicU64,
    leading: Mutex<bool>,
    /// Something is durable, or the leader has left.
    moved: Event,
    poison: OnceLock<Error>,
}

impl Syncs {
    pub fn new(durable: Lsn) -> Syncs {
        Syncs {
            durable: AtomicU64::new(durable.0),
            leading: Mutex::new(false),
            moved: Event::new(),
            poison: OnceLock::new(),
        }
    }

    /// `Some` if the wait for a position is over: it is durable, or it never will be.
    #[inline]
    pub fn outcome(&self, position: Lsn) -> Option<Result<()>> {
        if self.durable.load(Ordering::Acquire) >= position.0 {
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
        self.moved.notify(usize::MAX);
    }

    pub fn publish(&self, durable: Lsn) {
        self.durable.fetch_max(durable.0, Ordering::Release);
    }

    /// To be woken when something becomes durable.
    pub fn listen(&self) -> EventListener {
        self.moved.listen()
    }

    /// Becomes the leader, or waits until there may be none.
    fn lead_or_wait(&self, position: Lsn) -> Option<Leader<'_>> {
        let mut leading = self.leading.lock().unwrap_or_else(PoisonError::into_inner);
        if !*leading {
            *leading = true;
            return Some(Leader(self));
        }
        let listener = self.moved.listen();
        drop(leading);
        // What happened before the listener was there woke nobody.
        if self.outcome(position).is_none() {
            listener.wait();
        }
        None
    }
}

/// The right to sync. Ends also when the sync panics, so that nobody waits for ever.
struct Leader<'a>(&'a Syncs);

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        *self.0.leading.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.moved.notify(usize::MAX);
    }
}

impl Shared {
    /// Returns when everything before a position is durable.
    pub fn sync_to(&self, position: Lsn) -> Result<()> {
        loop {
            if let Some(outcome) = self.syncs.outcome(position) {
                return outcome;
            }
            if let Some(leader) = self.syncs.lead_or_wait(position) {
                // The one before may have made it durable meanwhile.
                let synced = match self.syncs.outcome(position) {
                    None => self.sync_now().map(Some),
                    Some(_) => Ok(None),
                };
                // A waker may do anything, such as close the engine: it does not run under the
                // leader's hand.
                drop(leader);
                match synced {
                    Ok(wakes) => wakes.into_iter().for_each(Wakes::wake),
                    Err(error) => {
                        if !seeded!(PoisonIsForgotten) {
                            self.poison(&error);
                        }
                        return Err(error);
                    }
                }
            }
        }
    }

    fn sync_now(&self) -> Result<Wakes> {
        let (job, fresh) = {
            let mut core = self.lock();
            (core.store.journal.begin_sync(), core.begin_visibility())
        };
        if let Some(job) = &job
            && let Err(error) = job.run()
        {
            // Set before the leader leaves: nobody tries again.
            if !seeded!(PoisonIsForgotten) {
                self.syncs.poison(&error);
            }
            return Err(error);
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
