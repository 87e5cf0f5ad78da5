//! Leases of large batches: many deliveries are acked in one commit, and their leases are looked at in slices before and ended
//! in slices after it.
//!
//! Before the commit the leases are as any other. A batch hears what has happened to leases since it began to look, and looks
//! at those again. Behind the commit the leases of acked messages still exist for a moment: they do not run out, nobody else
//! settles them, and their messages are in flight no more.

use std::{sync::Arc, time::Duration};

use super::{Deliveries, Ended, LeaseKey};
use crate::ids::{Offset, OffsetRange};

/// The leases of acked messages run out so much later. They are ended long before.
const LATER: Duration = Duration::from_secs(1);

/// What has happened to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It has ended.
    Ended(Offset),
    /// Its message was deleted.
    Gone(Offset),
}

/// Messages that were acked in one commit.
#[derive(Debug)]
pub struct Acked {
    /// Sorted, with gaps between them.
    pub ranges: Arc<Vec<OffsetRange>>,
    /// How many of their leases have not ended, of messages that were not deleted.
    pub leased: u64,
}

/// The batches of a cursor.
#[derive(Debug, Default)]
pub struct Batches {
    /// How many batches look at leases.
    looking: usize,
    /// What has happened since the first of them began.
    events: Vec<Event>,
    /// Those that were committed, and of which leases have not ended.
    acked: Vec<Acked>,
}

impl Batches {
    fn note(&mut self, event: Event) {
        if self.looking > 0 {
            self.events.push(event);
        }
    }

    fn acked(&self, offset: Offset) -> Option<usize> {
        self.acked.iter().position(|it| is_in(&it.ranges, offset))
    }

    fn leased(&self) -> u64 {
        self.acked.iter().map(|it| it.leased).sum()
    }
}

/// Whether sorted ranges have an offset.
pub fn is_in(ranges: &[OffsetRange], offset: Offset) -> bool {
    let n = ranges.partition_point(|range| range.end <= offset);
    ranges.get(n).is_some_and(|range| range.start <= offset)
}

impl Deliveries {
    /// A batch begins to look at leases. Returns its place among the events.
    pub fn begin_batch(&mut self) -> usize {
        let batches = self.batches.get_or_insert_default();
        batches.looking += 1;
        batches.events.len()
    }

    /// What has happened since a place, that [`begin_batch`](Deliveries::begin_batch) or this function has told.
    pub fn events_since(&self, place: usize) -> &[Event] {
        self.batches.as_ref().and_then(|it| it.events.get(place..)).unwrap_or_default()
    }

    /// A batch looks at leases no more: it was committed, with `acked`, or has failed.
    pub fn end_batch(&mut self, acked: Option<Acked>) {
        let Some(batches) = &mut self.batches else { return };
        batches.looking = batches.looking.saturating_sub(1);
        batches.acked.extend(acked.filter(|it| it.leased > 0));
        self.tidy_batches();
    }

    fn tidy_batches(&mut self) {
        let Some(batches) = &mut self.batches else { return };
        if batches.looking == 0 {
            batches.events.clear();
        }
        if batches.looking == 0 && batches.acked.is_empty() {
            self.batches = None;
        }
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

    /// How many leased messages were acked by batches that have yet to end their leases.
    pub(super) fn acked_by_batches(&self) -> u64 {
        self.batches.as_ref().map_or(0, |it| it.leased())
    }

    /// Notes that a lease has ended. `is_gone` tells whether its message was deleted.
    #[cold]
    #[inline(never)]
    pub(super) fn note_ended_beside(&mut self, offset: Offset, is_gone: bool) {
        let Some(batches) = &mut self.batches else { return };
        batches.note(Event::Ended(offset));
        if !is_gone && let Some(n) = batches.acked(offset) {
            batches.acked[n].leased -= 1;
            if batches.acked[n].leased == 0 {
                batches.acked.swap_remove(n);
            }
            self.tidy_batches();
        }
    }

    pub(super) fn note_gone_beside(&mut self, offset: Offset) {
        if let Some(batches) = &mut self.batches {
            batches.note(Event::Gone(offset));
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
