//! The space in the journal that tasks await. A helper thread makes it: `asking.rs` starts that.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use crate::{
    audit::Rank,
    engine::runtime::{
        lock::RankedMutex,
        wait::{Waiting, Watch},
    },
    error::{Error, Result},
};

/// The space that tasks await. One helper at a time makes it.
#[derive(Debug)]
pub struct Space {
    round: RankedMutex<Option<Arc<Round>>>,
}

/// One attempt of a helper to make space.
#[derive(Debug, Default)]
pub struct Round {
    watch: Arc<Watch>,
    outcome: OnceLock<Option<Error>>,
}

/// A task's wait for space.
#[derive(Debug)]
pub struct SpaceWait {
    round: Arc<Round>,
    waiting: Waiting,
}

impl Default for Space {
    fn default() -> Space {
        Space { round: RankedMutex::new(Rank::Leaf, "space for tasks", None) }
    }
}

impl Space {
    /// Begins to wait for the helper that runs. If none runs, returns the round of a new one, which the caller starts.
    pub fn wait(&self) -> (SpaceWait, Option<Arc<Round>>) {
        let mut running = self.round.lock();
        let new = running.is_none();
        let round = Arc::clone(running.get_or_insert_default());
        drop(running);
        let waiting = round.watch.begin();
        let new = new.then(|| Arc::clone(&round));
        (SpaceWait { round, waiting }, new)
    }

    /// Ends a round, and wakes the tasks that wait for it.
    pub fn finish(&self, round: &Round, outcome: Result<()>) {
        *self.round.lock() = None;
        let _ = round.outcome.set(outcome.err());
        round.watch.wake(usize::MAX);
    }
}

impl SpaceWait {
    /// Ready when the helper has ended, with the reason if it could not make space.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Error>> {
        let is_over = self.round.outcome.get().is_some();
        if !is_over && self.waiting.poll(context).is_pending() && self.round.outcome.get().is_none()
        {
            // A helper that ends from now on wakes this task.
            return Poll::Pending;
        }
        Poll::Ready(self.round.outcome.get().and_then(|failure| failure.as_ref().map(Error::again)))
    }
}
