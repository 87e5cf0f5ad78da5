//! Leases of large batches: many deliveries are acked in one commit, and their leases are looked at in slices before and ended
//! in slices after it.
//!
//! Before the commit the leases are as any other. A batch hears what has happened to leases since it began to look, and looks
//! at those again. Behind the commit the leases of acked messages still exist for a moment: they do not run out, nobody else
//! settles them, and their messages are in flight no more.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use super::{Deliveries, Ended, LeaseKey};
use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

/// The leases of acked messages run out so much later. They are ended long before.
const LATER: Duration = Duration::from_secs(1);

/// So many ranges are compared in a hold of the core, for each batch that looks while another one is acked.
const FEW_RANGES: usize = 16;

/// The most events that are kept for a batch. A lease that a batch has lost may end again and again.
const EVENTS_MOST: usize = 1024;

/// What has happened to leases.
#[derive(Clone, Debug)]
pub enum Event {
    /// One has ended.
    Ended(Offset),
    /// Its message was deleted.
    Gone(Offset),
    /// Its deadline has moved.
    Moved(Offset),
    /// A batch has acked the messages. It has yet to end the leases.
    Acked(Arc<Vec<OffsetRange>>),
}

impl Event {
    /// Whether it is about one of the messages in sorted ranges. Also `true` if that takes more than a few steps to tell.
    fn may_be_about(&self, ranges: &[OffsetRange]) -> bool {
        match self {
            Event::Ended(offset) | Event::Gone(offset) | Event::Moved(offset) => {
                is_in(ranges, *offset)
            }
            Event::Acked(acked) => meet(acked, ranges).unwrap_or(true),
        }
    }
}

/// Whether sorted ranges have an offset.
pub fn is_in(ranges: &[OffsetRange], offset: Offset) -> bool {
    let n = ranges.partition_point(|range| range.end <= offset);
    ranges.get(n).is_some_and(|range| range.start <= offset)
}

/// Whether two lists of sorted ranges have an offset in common. `None` if that takes more than a few steps to tell.
fn meet(some: &[OffsetRange], others: &[OffsetRange]) -> Option<bool> {
    let (few, many) = if some.len() < others.len() { (some, others) } else { (others, some) };
    let is_met = |range: &OffsetRange| {
        audit::step();
        let n = many.partition_point(|it| it.end <= range.start);
        many.get(n).is_some_and(|it| it.start < range.end)
    };
    (few.len() <= FEW_RANGES).then(|| few.iter().any(is_met))
}

/// Messages that were acked in one commit.
#[derive(Debug)]
pub struct Acked {
    /// Sorted, with gaps between them.
    pub ranges: Arc<Vec<OffsetRange>>,
    /// How many of their leases have not ended.
    pub leases: u64,
    /// How many of these are of messages that were not deleted.
    pub leased: u64,
}

/// The number of a batch that looks at leases of a cursor.
pub type BatchId = u64;

/// A batch that looks at leases.
#[derive(Debug)]
struct Looking {
    /// Its messages.
    ranges: Arc<Vec<OffsetRange>>,
    /// What has happened to their leases, and the batch has not taken. What happens to others does not matter to it, however busy
    /// they are.
    events: Vec<Event>,
    /// Whether more has happened than is kept.
    is_full: bool,
}

/// The batches of a cursor.
#[derive(Debug, Default)]
pub struct Batches {
    /// How many batches have begun.
    begun: BatchId,
    looking: BTreeMap<BatchId, Looking>,
    /// The batches that were committed, and of which leases have not ended.
    acked: Vec<Acked>,
}

impl Batches {
    fn note(&mut self, event: &Event) {
        for looking in self.looking.values_mut() {
            audit::step();
            if event.may_be_about(&looking.ranges) {
                looking.is_full |= looking.events.len() >= EVENTS_MOST;
                if !looking.is_full {
                    looking.events.push(event.clone());
                }
            }
        }
    }

    fn acked(&self, offset: Offset) -> Option<usize> {
        audit::steps(self.acked.len() as u64);
        self.acked.iter().position(|it| is_in(&it.ranges, offset))
    }

    fn leased(&self) -> u64 {
        self.acked.iter().map(|it| it.leased).sum()
    }
}

impl Deliveries {
    /// A batch begins to look at leases, of messages in sorted ranges.
    pub fn begin_batch(&mut self, ranges: Arc<Vec<OffsetRange>>) -> BatchId {
        let batches = self.batches.get_or_insert_default();
        batches.begun += 1;
        batches
            .looking
            .insert(batches.begun, Looking { ranges, events: Vec::new(), is_full: false });
        batches.begun
    }

    /// Whether nothing has happened to the leases of a batch that it does not know.
    pub fn is_current(&self, batch: BatchId) -> bool {
        let looking = self.batches.as_ref().and_then(|it| it.looking.get(&batch));
        looking.is_some_and(|it| it.events.is_empty() && !it.is_full)
    }

    /// Takes what has happened to the leases of a batch. `None` if it is more than was kept.
    pub fn take_events(&mut self, batch: BatchId) -> Option<Vec<Event>> {
        let looking = self.batches.as_mut()?.looking.get_mut(&batch)?;
        let events = mem::take(&mut looking.events);
        (!mem::take(&mut looking.is_full)).then_some(events)
    }

    /// A batch looks at leases no more: it was committed, with `acked`, or has failed.
    pub fn end_batch(&mut self, batch: BatchId, acked: Option<Acked>) {
        let Some(batches) = &mut self.batches else { return };
        batches.looking.remove(&batch);
        if let Some(acked) = acked {
            batches.note(&Event::Acked(Arc::clone(&acked.ranges)));
            batches.acked.extend(Some(acked).filter(|it| it.leases > 0));
        }
        self.tidy_batches();
    }

    fn tidy_batches(&mut self) {
        let Some(batches) = &mut self.batches else { return };
        if batches.looking.is_empty() && batches.acked.is_empty() {
            self.batches = None;
        }
    }

    /// Notes that a deadline is about to be moved. `false` if it must not be: a batch has acked the message.
    #[cold]
    #[inline(never)]
    pub(super) fn may_move_beside(&mut self, key: LeaseKey) -> bool {
        let Some(offset) = self.leases.offset(key) else { return false };
        if let Some(batches) = &mut self.batches {
            batches.note(&Event::Moved(offset));
        }
        !self.is_acked_by_batch(offset)
    }

    /// Until when a lease holds if nothing happens to it.
    pub fn holds_until(&self, key: LeaseKey) -> Option<Duration> {
        self.leases.holds_until(key)
    }

    /// Whether a message was acked by a batch that has yet to end its lease.
    #[cold]
    #[inline(never)]
    pub(super) fn is_acked_by_batch(&self, offset: Offset) -> bool {
        self.batches.as_ref().is_some_and(|it| it.acked(offset).is_some())
    }

    /// Whether a batch has acked the message of a lease, and has yet to end it.
    pub fn is_settled(&self, key: LeaseKey) -> bool {
        let offset = self.batches.as_ref().and_then(|_| self.leases.offset(key));
        offset.is_some_and(|offset| self.is_acked_by_batch(offset))
    }

    /// How many leased messages were acked by batches that have yet to end their leases.
    pub(super) fn acked_by_batches(&self) -> u64 {
        self.batches.as_ref().map_or(0, |it| it.leased())
    }

    /// Notes that a lease has ended. `is_gone` tells whether its message was deleted.
    #[cold]
    #[inline(never)]
    pub(super) fn note_ended_beside(&mut self, offset: Offset, is_gone: bool) {
        let Some(batches) = &mut self.batches else { return };
        batches.note(&Event::Ended(offset));
        if let Some(n) = batches.acked(offset) {
            let acked = &mut batches.acked[n];
            acked.leases -= 1;
            acked.leased -= u64::from(!is_gone);
            if acked.leases == 0 {
                batches.acked.swap_remove(n);
            }
            self.tidy_batches();
        }
    }

    pub(super) fn note_gone_beside(&mut self, offset: Offset) {
        if let Some(batches) = &mut self.batches {
            batches.note(&Event::Gone(offset));
        }
    }

    /// If the lease that runs out first is of a message that a batch has acked, it is put off.
    #[cold]
    #[inline(never)]
    pub(super) fn put_off_acked(&mut self, now: Duration) -> Option<Ended> {
        let offset = self.leases.first_overdue(now)?;
        if !self.is_acked_by_batch(offset) {
            return None;
        }
        self.leases.put_off_first(now + LATER);
        Some(Ended::Renewed)
    }
}
