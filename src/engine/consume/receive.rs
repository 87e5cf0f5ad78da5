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
        commit::{
            asking::{Asked, committed},
            ticket::Ticket,
        },
        core::{
            commit::Receipt,
            errors::leases_lost,
            settlement::{Settlement, Settling},
        },
        runtime::wait::{Attempt, blocking},
    },
    error::{Error, ErrorKind, Result},
};

fn check_most(most: usize) -> Result<()> {
    if most > 0 {
        return Ok(());
    }
    let what = "a batch of at most 0 messages is always empty: give it 1 or more";
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

/// Deliveries that are acked in one commit.
struct AckedBatch<'d> {
    deliveries: Vec<&'d Delivery>,
    settlements: Vec<Settlement<'d>>,
}

impl Consumer {
    fn batch<'d>(
        &self,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
    ) -> Result<AckedBatch<'d>> {
        let deliveries: Vec<&Delivery> = deliveries.into_iter().collect();
        let mut settlements = Vec::with_capacity(deliveries.len());
        for delivery in &deliveries {
            if !self.engine.is_same(&delivery.consumer().engine) {
                let what = "the deliveries of a batch must all come from the same engine";
                return Err(Error::invalid("handle", what));
            }
            settlements.push(delivery.settlement(Settling::Ack));
        }
        Settlement::check_once(&settlements)?;
        Ok(AckedBatch { deliveries, settlements })
    }

    /// Acks all deliveries of a batch, or none.
    fn ack_all(&self, batch: &AckedBatch<'_>) -> Result<((), Receipt)> {
        let committer = self.committer();
        let mut lost = Vec::new();
        let acked = committer.transact("ack a batch", |core| {
            let elapsed = committer.elapsed();
            let settled = core.settle(&batch.settlements, elapsed, committer.now_plain());
            if settled.is_err() {
                lost = core.lost(&batch.settlements, elapsed);
            }
            Ok(((), settled?))
        });
        match acked {
            Err(error) if error.kind() == ErrorKind::LeaseLost => Err(batch.explain(&lost)),
            acked => {
                let acked = acked?;
                batch.note_acked(&[]);
                Ok(acked)
            }
        }
    }

    /// Acks the deliveries of a batch whose leases hold. Returns the places of the others.
    fn ack_held(&self, batch: &AckedBatch<'_>) -> Result<(Vec<usize>, Receipt)> {
        let committer = self.committer();
        let (lost, receipt) = committer.transact("ack a batch", |core| {
            let elapsed = committer.elapsed();
            let lost = core.lost(&batch.settlements, elapsed);
            let held: Vec<Settlement<'_>> = batch
                .settlements
                .iter()
                .enumerate()
                .filter(|(n, _)| lost.binary_search(n).is_err())
                .map(|(_, it)| Settlement { how: Settling::Ack, ..*it })
                .collect();
            let receipt = core.settle(&held, elapsed, committer.now_plain())?;
            Ok((lost, receipt))
        })?;
        batch.note_acked(&lost);
        Ok((lost, receipt))
    }

    /// Acks deliveries in one commit.
    pub fn ack_batch<'d>(&self, deliveries: impl IntoIterator<Item = &'d Delivery>) -> Result<()> {
        let batch = self.batch(deliveries)?;
        self.committer().complete(self.ack_all(&batch)?, self.durability)
    }

    pub fn ack_batch_ticket<'d>(
        &self,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
    ) -> Result<Ticket<()>> {
        let batch = self.batch(deliveries)?;
        Ok(Ticket::new(&self.engine, self.ack_all(&batch)?))
    }

    pub async fn ack_batch_async<'d>(
        &self,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
    ) -> Result<()> {
        let batch = self.batch(deliveries)?;
        let attempt = || Ok(Attempt::Got(self.ack_all(&batch)?));
        committed(self.engine.clone(), self.durability, attempt).await
    }

    /// Acks the deliveries whose leases hold in one commit. Returns the places of the others.
    pub fn ack_batch_held<'d>(
        &self,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
    ) -> Result<Vec<usize>> {
        let batch = self.batch(deliveries)?;
        self.committer().complete(self.ack_held(&batch)?, self.durability)
    }

    pub fn ack_batch_held_ticket<'d>(
        &self,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
    ) -> Result<Ticket<Vec<usize>>> {
        let batch = self.batch(deliveries)?;
        Ok(Ticket::new(&self.engine, self.ack_held(&batch)?))
    }

    pub async fn ack_batch_held_async<'d>(
        &self,
        deliveries: impl IntoIterator<Item = &'d Delivery>,
    ) -> Result<Vec<usize>> {
        let batch = self.batch(deliveries)?;
        let attempt = || Ok(Attempt::Got(self.ack_held(&batch)?));
        committed(self.engine.clone(), self.durability, attempt).await
    }
}

impl AckedBatch<'_> {
    /// Notes that all deliveries were acked, except the ones at these places.
    fn note_acked(&self, lost: &[usize]) {
        let acked =
            self.deliveries.iter().enumerate().filter(|(n, _)| lost.binary_search(n).is_err());
        acked.for_each(|(_, delivery)| delivery.is_settled.store(true, Ordering::Relaxed));
    }

    /// The error of a batch that was not acked because leases are lost.
    fn explain(&self, lost: &[usize]) -> Error {
        let named = lost.iter().map(|n| {
            let delivery = self.deliveries[*n];
            (delivery.offset(), Some(&*delivery.consumer().info.name))
        });
        let then = "Nothing was acked: ack_batch_held acks the others";
        leases_lost(named, self.deliveries.len(), then)
    }
}
