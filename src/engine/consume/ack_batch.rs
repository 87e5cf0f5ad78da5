//! Acks of many deliveries in one commit.
//!
//! The commit is one hold of the core, and takes a step for each range of messages that follow each other. Of a large batch the
//! leases are looked at before it and ended after it, in slices. What happens to one of them between the slices is told by
//! [`Event`]s: then the batch looks again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{consumer::Consumer, delivery::Delivery};
use crate::{
    audit,
    delivery::batch_end::{Event, is_in},
    engine::{
        commit::{asking::committed, committer::Committer, ticket::Ticket},
        core::{
            Core,
            batch_acks::{Looked, Part},
            commit::Receipt,
            errors::{lease_lost, leases_lost},
            settlement::{Settlement, Settling},
        },
        runtime::wait::Attempt,
    },
    error::{Error, ErrorKind, Result},
    ids::{CursorId, Offset, OffsetRange},
    store::join,
};

const OPERATION: &str = "ack a batch";

/// The leases of so many deliveries are looked at in one hold of the core.
const AT_ONCE: usize = 32;

/// A batch of no more deliveries is acked in one hold: to look twice takes longer.
const FEW: usize = 128;

/// After so many tries a large batch is acked in one hold, too: something may happen to its leases again and again.
const TRIES: usize = 8;

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
        if batch.settlements.len() > FEW {
            let (_, receipt) = self.ack_in_slices(batch, false)?;
            return Ok(((), receipt));
        }
        self.ack_all_at_once(batch)
    }

    /// Acks all deliveries of a batch, or none, in one hold of the core.
    fn ack_all_at_once(&self, batch: &AckedBatch<'_>) -> Result<((), Receipt)> {
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
        if batch.settlements.len() > FEW {
            return self.ack_in_slices(batch, true);
        }
        self.ack_held_at_once(batch)
    }

    /// Acks the deliveries of a batch whose leases hold, in one hold of the core.
    fn ack_held_at_once(&self, batch: &AckedBatch<'_>) -> Result<(Vec<usize>, Receipt)> {
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
        let mut looks = Looks::new(self.committer(), batch);
        looks.look_at_all()?;
        if let Some(receipt) = looks.commit(may_lose)? {
            let lost = looks.end_leases();
            batch.note_acked(&lost);
            return Ok((lost, receipt));
        }
        drop(looks);
        if may_lose {
            return self.ack_held_at_once(batch);
        }
        let ((), receipt) = self.ack_all_at_once(batch)?;
        Ok((Vec::new(), receipt))
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

/// What has happened to leases of a batch.
#[derive(Debug, Default)]
struct Happened {
    ended: BTreeSet<(CursorId, Offset)>,
    /// Acked by other batches.
    acked: Vec<(CursorId, Arc<Vec<OffsetRange>>)>,
    gone: BTreeSet<(CursorId, Offset)>,
    moved: BTreeSet<(CursorId, Offset)>,
    /// Whether a cursor has no state any more, or more has happened than was kept.
    is_unknown: bool,
}

impl Happened {
    fn note(&mut self, cursor: CursorId, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Ended(offset) => _ = self.ended.insert((cursor, offset)),
                Event::Gone(offset) => _ = self.gone.insert((cursor, offset)),
                Event::Moved(offset) => _ = self.moved.insert((cursor, offset)),
                Event::Acked(ranges) => self.acked.push((cursor, ranges)),
            }
        }
    }

    fn has_ended(&self, (cursor, offset): (CursorId, Offset)) -> bool {
        self.ended.contains(&(cursor, offset))
            || self.acked.iter().any(|(whose, ranges)| *whose == cursor && is_in(ranges, offset))
    }
}

/// What a large batch knows of its leases.
struct Looks<'a> {
    committer: &'a Committer,
    batch: &'a AckedBatch<'a>,
    /// One for each settlement. `None` if its lease is lost.
    looked: Vec<Option<Looked>>,
    parts: BTreeMap<CursorId, Part>,
    /// The messages of the cursors that it has not looked at yet.
    unbegun: BTreeMap<CursorId, Arc<Vec<OffsetRange>>>,
    /// All leases hold until then, unless something happens to one of them.
    until: Duration,
    /// The first error of a lease that is lost.
    error: Option<Error>,
    is_committed: bool,
}

impl<'a> Looks<'a> {
    fn new(committer: &'a Committer, batch: &'a AckedBatch<'a>) -> Looks<'a> {
        let (looked, parts) = (vec![None; batch.settlements.len()], BTreeMap::new());
        let all = batch.settlements.iter().zip(&batch.deliveries);
        let unbegun = ranges_of(all.map(|(it, delivery)| (it.cursor, delivery.offset())));
        let (until, error, is_committed) = (Duration::MAX, None, false);
        Looks { committer, batch, looked, parts, unbegun, until, error, is_committed }
    }

    /// Looks at all leases for the first time.
    fn look_at_all(&mut self) -> Result<()> {
        self.committer.work_alone();
        self.look_at(|_, _| true)
    }

    /// Looks at leases, in slices: at those of which `is_meant` says so by what is known of them.
    fn look_at(&mut self, is_meant: impl Fn(CursorId, &Option<Looked>) -> bool) -> Result<()> {
        for start in (0..self.batch.settlements.len()).step_by(AT_ONCE) {
            let end = self.batch.settlements.len().min(start + AT_ONCE);
            let places =
                self.batch.settlements[start..end].iter().zip(&mut self.looked[start..end]);
            let mut meant = places.filter(|(it, known)| is_meant(it.cursor, known)).peekable();
            if meant.peek().is_none() {
                continue;
            }
            let mut core = self.committer.lock_open(OPERATION)?;
            let elapsed = self.committer.elapsed();
            for (it, known) in meant {
                if let Some(ranges) = self.unbegun.remove(&it.cursor) {
                    let batch = core.begin_batch(it.cursor, ranges);
                    self.parts.insert(it.cursor, Part { batch, ..Part::default() });
                }
                let looked = core.look_at(it, elapsed);
                if let Ok(looked) = &looked {
                    self.until = self.until.min(looked.until);
                }
                *known = looked.map_err(|error| self.error.get_or_insert(error)).ok();
            }
            self.committer.end_slice(core);
        }
        self.note_ranges();
        Ok(())
    }

    /// Acks all that are held, or fails if leases are lost and may not be. `None` if something has happened to them each time.
    fn commit(&mut self, may_lose: bool) -> Result<Option<Receipt>> {
        for _ in 0..TRIES {
            if let Some(error) = self.error.take_if(|_| !may_lose) {
                return Err(match error.kind() {
                    ErrorKind::LeaseLost => self.batch.explain(&self.lost()),
                    _ => error,
                });
            }
            let committer = self.committer;
            let attempt = |core: &mut Core| {
                if committer.elapsed() >= self.until {
                    return Ok((false, Receipt::NOTHING));
                }
                let acked = core.ack_looked(&self.parts, committer.now_plain())?;
                Ok((acked.is_some(), acked.unwrap_or(Receipt::NOTHING)))
            };
            let (is_committed, receipt) = committer.transact(OPERATION, attempt)?;
            if is_committed {
                self.is_committed = true;
                return Ok(Some(receipt));
            }
            self.look_again()?;
        }
        Ok(None)
    }

    /// Follows what has happened to leases since they were looked at. Looks at all again only if one may have run out, or what
    /// has happened is not known.
    fn look_again(&mut self) -> Result<()> {
        let mut happened = Happened::default();
        for (cursor, part) in &self.parts {
            let mut core = self.committer.lock_open(OPERATION)?;
            let events = core.take_events(*cursor, part);
            self.committer.end_slice(core);
            happened.is_unknown |= events.is_none() && !part.ranges.is_empty();
            happened.note(*cursor, events.unwrap_or_default());
        }
        for (it, known) in self.batch.settlements.iter().zip(&mut self.looked) {
            let Some(looked) = known else { continue };
            let place = (it.cursor, looked.offset);
            looked.is_gone |= happened.gone.contains(&place);
            if happened.has_ended(place) {
                *known = None;
                self.error.get_or_insert_with(lease_lost);
            }
        }
        if happened.is_unknown || self.committer.elapsed() >= self.until {
            self.until = Duration::MAX;
            return self.look_at(|_, known| known.is_some());
        }
        let is_moved = |cursor, known: &Option<Looked>| {
            known.as_ref().is_some_and(|it| happened.moved.contains(&(cursor, it.offset)))
        };
        self.look_at(is_moved)
    }

    /// Notes what is to be acked.
    fn note_ranges(&mut self) {
        self.parts.values_mut().for_each(|part| (part.leases, part.leased) = (0, 0));
        let places = self.batch.settlements.iter().zip(&self.looked);
        let held = places.filter_map(|(it, looked)| Some((it.cursor, (*looked)?)));
        for (cursor, looked) in held.clone() {
            let part = self.parts.get_mut(&cursor).expect("it was looked at");
            part.leases += 1;
            part.leased += u64::from(!looked.is_gone);
        }
        let mut all = ranges_of(held.map(|(cursor, looked)| (cursor, looked.offset)));
        for (cursor, part) in &mut self.parts {
            part.ranges = all.remove(cursor).unwrap_or_default();
        }
    }

    /// The places of those whose leases are lost.
    fn lost(&self) -> Vec<usize> {
        let places = self.looked.iter().enumerate();
        places.filter(|(_, looked)| looked.is_none()).map(|(n, _)| n).collect()
    }

    /// Ends the leases, as their messages were acked, in slices. Returns the places of the lost ones.
    fn end_leases(&self) -> Vec<usize> {
        let elapsed = self.committer.elapsed();
        let places = self.batch.settlements.chunks(AT_ONCE).zip(self.looked.chunks(AT_ONCE));
        for (some, looked) in places {
            let mut core = self.committer.lock(OPERATION);
            for (it, _) in some.iter().zip(looked).filter(|(_, looked)| looked.is_some()) {
                audit::step();
                core.end_acked(it.cursor, it.key, elapsed.saturating_sub(it.leased));
            }
            self.committer.end_slice(core);
        }
        self.lost()
    }
}

impl Drop for Looks<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            let mut core = self.committer.lock(OPERATION);
            self.parts.iter().for_each(|(cursor, part)| core.end_batch(*cursor, part, None));
        }
    }
}

/// The ranges of messages, by their cursors. Those of a batch mostly come in the order of their offsets.
fn ranges_of(
    messages: impl Iterator<Item = (CursorId, Offset)>,
) -> BTreeMap<CursorId, Arc<Vec<OffsetRange>>> {
    let mut all: BTreeMap<CursorId, Vec<OffsetRange>> = BTreeMap::new();
    for (cursor, offset) in messages {
        let ranges = all.entry(cursor).or_default();
        match ranges.last_mut().filter(|last| last.end == offset) {
            Some(last) => last.end = offset.next(),
            None => ranges.push(offset.only()),
        }
    }
    let joined = |(cursor, mut ranges): (CursorId, Vec<OffsetRange>)| {
        join(&mut ranges);
        (cursor, Arc::new(ranges))
    };
    all.into_iter().map(joined).collect()
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

#[cfg(all(test, not(loom)))]
mod tests;
