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
    error::Result,
    ids::LogId,
    journal::Urgency,
    store::Shortage,
};

/// The space that tasks await. One helper at a time makes it for ordinary commits, and one for commits that free space:
/// on a full disk the first fails, and the second does not. A third one makes room in full queues, so that acks do not wait
/// for it.
#[derive(Debug)]
pub struct Space {
    running: RankedMutex<Running>,
}

/// The rounds that run.
#[derive(Debug, Default)]
struct Running {
    ordinary: Option<Arc<Round>>,
    freeing: Option<Arc<Round>>,
    room: Option<Arc<Round>>,
}

impl Running {
    fn of(&mut self, lacks: Shortage) -> &mut Option<Arc<Round>> {
        match lacks {
            Shortage::Lives { .. } => &mut self.room,
            Shortage::File { urgency, .. } | Shortage::Checkpoint { urgency } => match urgency {
                Urgency::Ordinary => &mut self.ordinary,
                Urgency::Freeing => &mut self.freeing,
            },
        }
    }
}

/// The log of the queue that lacks room.
fn log_of(lacks: Shortage) -> Option<LogId> {
    match lacks {
        Shortage::Lives { log, .. } => Some(log),
        _ => None,
    }
}

/// One attempt of a helper to make space.
#[derive(Debug, Default)]
pub struct Round {
    watch: Arc<Watch>,
    /// The log of the queue in which it makes room.
    log: Option<LogId>,
    outcome: OnceLock<Result<u64>>,
}

/// A task's wait for space.
#[derive(Debug)]
pub struct SpaceWait {
    round: Arc<Round>,
    waiting: Waiting,
    log: Option<LogId>,
    /// Whether this task began the round.
    pub is_own: bool,
}

impl Default for Space {
    fn default() -> Space {
        Space { running: RankedMutex::new(&(Rank::Leaf, "space for tasks"), Running::default()) }
    }
}

impl Space {
    /// Begins to wait for the helper that runs. If none runs, returns the round of a new one, which the caller starts.
    pub fn wait(&self, lacks: Shortage) -> (SpaceWait, Option<Arc<Round>>) {
        let log = log_of(lacks);
        let mut all = self.running.lock();
        let running = all.of(lacks);
        let is_own = running.is_none();
        let begin = || Arc::new(Round { log, ..Round::default() });
        let round = Arc::clone(running.get_or_insert_with(begin));
        drop(all);
        let waiting = round.watch.begin();
        let new = is_own.then(|| Arc::clone(&round));
        (SpaceWait { round, waiting, log, is_own }, new)
    }

    /// Ends a round, and wakes the tasks that wait for it.
    pub fn finish(&self, lacks: Shortage, round: &Round, outcome: Result<u64>) {
        *self.running.lock().of(lacks) = None;
        let _ = round.outcome.set(outcome);
        round.watch.wake(usize::MAX);
    }
}

impl SpaceWait {
    /// Whether the space is that of the journal, and not room in a full queue.
    pub fn is_for_journal(&self) -> bool {
        self.log.is_none()
    }

    /// Ready when the helper has ended: with the reason if it could not make space, or else with how far it has looked for
    /// room in the queue that this task sends to.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<u64>> {
        let is_over = self.round.outcome.get().is_some();
        if !is_over && self.waiting.poll(context).is_pending() && self.round.outcome.get().is_none()
        {
            // A helper that ends from now on wakes this task.
            return Poll::Pending;
        }
        Poll::Ready(match self.round.outcome.get() {
            Some(Err(failure)) => Err(failure.again()),
            Some(Ok(looked)) if self.round.log == self.log => Ok(*looked),
            // It has made room in another queue.
            Some(Ok(_)) | None => Ok(0),
        })
    }
}
