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
    journal::Urgency,
};

/// The space that tasks await. One helper at a time makes it for ordinary commits, and one for commits that free space:
/// on a full disk the first fails, and the second does not.
#[derive(Debug)]
pub struct Space {
    running: RankedMutex<Running>,
}

/// The rounds that run.
#[derive(Debug, Default)]
struct Running {
    ordinary: Option<Arc<Round>>,
    freeing: Option<Arc<Round>>,
}

impl Running {
    fn of(&mut self, urgency: Urgency) -> &mut Option<Arc<Round>> {
        match urgency {
            Urgency::Ordinary => &mut self.ordinary,
            Urgency::Freeing => &mut self.freeing,
        }
    }
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
    /// Whether this task began the round.
    pub is_own: bool,
}

impl Default for Space {
    fn default() -> Space {
        Space { running: RankedMutex::new(Rank::Leaf, "space for tasks", Running::default()) }
    }
}

impl Space {
    /// Begins to wait for the helper that runs. If none runs, returns the round of a new one, which the caller starts.
    pub fn wait(&self, urgency: Urgency) -> (SpaceWait, Option<Arc<Round>>) {
        let mut all = self.running.lock();
        let running = all.of(urgency);
        let is_own = running.is_none();
        let round = Arc::clone(running.get_or_insert_default());
        drop(all);
        let waiting = round.watch.begin();
        let new = is_own.then(|| Arc::clone(&round));
        (SpaceWait { round, waiting, is_own }, new)
    }

    /// Ends a round, and wakes the tasks that wait for it.
    pub fn finish(&self, urgency: Urgency, round: &Round, outcome: Result<()>) {
        *self.running.lock().of(urgency) = None;
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
