//! Acks of many deliveries in one commit.
//!
//! The commit is one hold of the core, and takes a step for each range of messages that follow each other. Of a large batch the
//! leases are looked at before it and ended after it, in slices. Between the slices they are pinned.

use std::{collections::BTreeMap, mem, sync::atomic::Ordering};

use super::{consumer::Consumer, delivery::Delivery};
use crate::{
    delivery::batch_end::Pin,
    engine::{
        commit::{asking::committed, committer::Committer, ticket::Ticket},
        core::{
            Core,
            batch_acks::Acked,
            commit::Receipt,
            errors::leases_lost,
            settlement::{Settlement, Settling},
        },
        runtime::wait::Attempt,
    },
    error::{Error, ErrorKind, Result},
    ids::CursorId,
    store::join,
};

const OPERATION: &str = "ack a batch";

/// The leases of so many deliveries are looked at in one hold of the core. A batch that has no more is acked in one.
const AT_ONCE: usize = 64;

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
        if batch.settlements.len() > AT_ONCE {
            let (_, receipt) = self.ack_in_slices(batch, false)?;
            return Ok(((), receipt));
        }
        let committer = self.committer();
        let mut lost = Vec::new();
        let acked = committer.transact(OPERATION, |core| {
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
        if batch.settlements.len() > AT_ONCE {
            return self.ack_in_slices(batch, true);
        }
        let committer = self.committer();
        let (lost, receipt) = committer.transact(OPERATION, |core| {
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

    /// Acks many deliveries. If leases are lost, it acks the others, or none. Returns the places of the lost ones.
    fn ack_in_slices(
        &self,
        batch: &AckedBatch<'_>,
        may_lose: bool,
    ) -> Result<(Vec<usize>, Receipt)> {
        let committer = self.committer();
        let mut pins = Pins::new(committer, &batch.settlements);
        pins.pin_all()?;
        if let Some(error) = pins.error.take_if(|_| !may_lose) {
            return Err(match error.kind() {
                ErrorKind::LeaseLost => batch.explain(&pins.lost),
                _ => error,
            });
        }
        let acked = pins.acked();
        let attempt = |core: &mut Core| Ok(((), core.ack_pinned(&acked, committer.now_plain())?));
        let ((), receipt) = committer.transact(OPERATION, attempt)?;
        let lost = pins.end();
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

/// The pinned leases of a batch. Those that are left when it is dropped are let go of.
struct Pins<'a> {
    committer: &'a Committer,
    settlements: &'a [Settlement<'a>],
    /// One for each settlement that was looked at. `None` if its lease is lost.
    pins: Vec<Option<Pin>>,
    /// The places of those whose leases are lost.
    lost: Vec<usize>,
    /// The first error.
    error: Option<Error>,
}

impl<'a> Pins<'a> {
    fn new(committer: &'a Committer, settlements: &'a [Settlement<'a>]) -> Pins<'a> {
        let pins = Vec::with_capacity(settlements.len());
        Pins { committer, settlements, pins, lost: Vec::new(), error: None }
    }

    fn pin_all(&mut self) -> Result<()> {
        self.committer.work_alone();
        for some in self.settlements.chunks(AT_ONCE) {
            let mut core = self.committer.lock_open(OPERATION)?;
            let elapsed = self.committer.elapsed();
            for it in some {
                let pinned = core.pin(it, elapsed);
                if let Err(error) = pinned {
                    self.lost.push(self.pins.len());
                    self.pins.push(None);
                    self.error.get_or_insert(error);
                } else {
                    self.pins.push(pinned.ok());
                }
            }
            self.committer.end_slice(core);
        }
        Ok(())
    }

    /// What is to be acked.
    fn acked(&self) -> BTreeMap<CursorId, Acked> {
        let mut all: BTreeMap<CursorId, Acked> = BTreeMap::new();
        for (it, pin) in self.settlements.iter().zip(&self.pins) {
            let Some(Pin { offset, is_in_flight }) = *pin else { continue };
            let acked = all.entry(it.cursor).or_default();
            acked.ranges.push(offset.only());
            acked.in_flight += u64::from(is_in_flight);
        }
        all.values_mut().for_each(|acked| join(&mut acked.ranges));
        all
    }

    /// Ends the leases, as their messages were acked. Returns the places of the lost ones.
    fn end(mut self) -> Vec<usize> {
        let elapsed = self.committer.elapsed();
        self.for_each(|core, it, pin| core.end_pinned(it, pin, elapsed));
        mem::take(&mut self.lost)
    }

    /// Does something for each pinned lease, in slices. None is left then.
    fn for_each(&mut self, act: impl Fn(&mut Core, &Settlement<'_>, Pin)) {
        let pins = mem::take(&mut self.pins);
        for (some, pins) in self.settlements.chunks(AT_ONCE).zip(pins.chunks(AT_ONCE)) {
            let mut core = self.committer.lock(OPERATION);
            for (it, pin) in some.iter().zip(pins) {
                if let Some(pin) = *pin {
                    act(&mut core, it, pin);
                }
            }
            self.committer.end_slice(core);
        }
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.for_each(|core, it, _| core.unpin(it));
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
