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
        core::settlement::{Settlement, Settling},
        runtime::wait::{Attempt, Awaited, blocking},
    },
    error::{Error, Result},
};

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
        let received = blocking(None, self.stopwatch(), || {
            if is_stopped.load(Ordering::SeqCst) {
                return Ok(Attempt::Got(None));
            }
            Ok(match self.attempt_one()? {
                Attempt::Got(delivery) => Attempt::Got(Some(delivery)),
                // Now `wake_all` sees that this thread waits. A flag that was set before needs this check.
                Attempt::Wait(_) if is_stopped.load(Ordering::SeqCst) => Attempt::Got(None),
                Attempt::Wait(waiting) => Attempt::Wait(waiting),
            })
        });
        Ok(received?.flatten())
    }

    /// Wakes all consumers of the cursor that wait, so that they try again.
    pub fn wake_all(&self) {
        self.watch.wake(usize::MAX);
        if self.slot.get().is_some() {
            self.committer().lock("wake consumers").wake_slots(self.cursor());
        }
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
        if most == 0 {
            return Err(Error::invalid(
                "most",
                "a batch of at most 0 messages is always empty: give it 1 or more",
            ));
        }
        let got = blocking(Some(timeout), self.stopwatch(), || self.attempt(most))?;
        Ok(got.unwrap_or_default())
    }

    pub fn receive_async(
        self: &Arc<Consumer>,
    ) -> impl Future<Output = Result<Delivery>> + Send + Unpin + use<> {
        let consumer = Arc::clone(self);
        Awaited::new(move || consumer.attempt_one())
    }

    /// Acks deliveries in one commit.
    pub fn ack_batch<'d>(&self, deliveries: impl IntoIterator<Item = &'d Delivery>) -> Result<()> {
        let mut settlements = Vec::new();
        for delivery in deliveries {
            if !self.engine.is_same(&delivery.consumer().engine) {
                let what = "the deliveries of a batch must all come from the same engine";
                return Err(Error::invalid("handle", what));
            }
            settlements.push(delivery.settlement(Settling::Ack));
        }
        Settlement::check_once(&settlements)?;
        let committer = self.committer();
        let settled = committer.transact("ack a batch", |core| {
            let receipt = core.settle(&settlements, committer.elapsed(), committer.now_plain())?;
            Ok(((), receipt))
        })?;
        committer.complete(settled, self.durability)
    }
}
