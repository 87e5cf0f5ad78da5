//! Receives: blocking, without waiting, in batches, and as a future.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{consumer::Consumer, delivery::Delivery};
use crate::{
    engine::{
        commit::asking::Asked,
        runtime::wait::{Attempt, blocking},
    },
    error::{Error, Result},
};

/// Fails if a batch can have no message.
pub fn check_most(most: usize) -> Result<()> {
    if most > 0 {
        return Ok(());
    }
    let what = "a batch of at most 0 is always empty: give it 1 or more";
    Err(Error::invalid("most", what))
}

impl Consumer {
    fn stopwatch(&self) -> impl Fn() -> Duration {
        || self.committer().disk.stopwatch()
    }

    pub fn receive(self: &Arc<Consumer>, timeout: Option<Duration>) -> Result<Option<Delivery>> {
        blocking(timeout, self.stopwatch(), || self.attempt_one())
    }

    /// Receives the next message, and waits for one. `None` once `is_stopped` is set. The thread that sets it
    /// calls [`wake_all`](Consumer::wake_all) afterwards.
    pub fn receive_unless(
        self: &Arc<Consumer>,
        is_stopped: &AtomicBool,
    ) -> Result<Option<Delivery>> {
        let received = blocking(None, self.stopwatch(), || self.attempt_unless(is_stopped));
        Ok(received?.flatten())
    }

    /// The same as a future.
    pub async fn receive_unless_async(
        self: &Arc<Consumer>,
        is_stopped: &AtomicBool,
    ) -> Result<Option<Delivery>> {
        Asked::new(self.committer(), || self.attempt_unless(is_stopped)).await
    }

    fn attempt_unless(
        self: &Arc<Consumer>,
        is_stopped: &AtomicBool,
    ) -> Result<Attempt<Option<Delivery>>> {
        if is_stopped.load(Ordering::SeqCst) {
            return Ok(Attempt::Got(None));
        }
        Ok(match self.attempt_one()? {
            Attempt::Got(delivery) => Attempt::Got(Some(delivery)),
            // Now `wake_all` sees that this consumer waits. A flag that was set before needs this check.
            Attempt::Wait(_) if is_stopped.load(Ordering::SeqCst) => Attempt::Got(None),
            Attempt::Wait(waiting) => Attempt::Wait(waiting),
        })
    }

    /// Wakes all consumers of the cursor that wait, so that they try again.
    pub fn wake_all(&self) {
        let mut core = self.committer().lock("wake consumers");
        core.wake_consumers(self.cursor(), self.log(), usize::MAX);
        core.wake_receivers(self.cursor());
    }

    pub fn try_receive(self: &Arc<Consumer>) -> Result<Option<Delivery>> {
        Ok(match self.attempt_one()? {
            Attempt::Got(delivery) => Some(delivery),
            Attempt::Wait(_) => None,
        })
    }

    pub fn receive_batch(
        self: &Arc<Consumer>,
        most: usize,
        timeout: Duration,
    ) -> Result<Vec<Delivery>> {
        check_most(most)?;
        let got = blocking(Some(timeout), self.stopwatch(), || self.attempt(most))?;
        Ok(got.unwrap_or_default())
    }

    pub fn receive_async(
        self: &Arc<Consumer>,
    ) -> impl Future<Output = Result<Delivery>> + Send + Unpin + use<> {
        let consumer = Arc::clone(self);
        Asked::new(self.committer(), move || consumer.attempt_one())
    }

    pub fn receive_batch_async(
        self: &Arc<Consumer>,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Delivery>>> + Send + Unpin + use<> {
        let consumer = Arc::clone(self);
        Asked::new(self.committer(), move || {
            check_most(most)?;
            consumer.attempt(most)
        })
    }
}
