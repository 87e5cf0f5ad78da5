//! Acks of many deliveries in one commit: their leases are looked at before it and ended after it, both in slices.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Core,
    commit::{CommitResult, Receipt},
    settlement::Settlement,
};
use crate::{
    audit,
    delivery::batch_end::{Acked, Event, is_in},
    error::Result,
    ids::{CursorId, Now, Offset, OffsetRange},
    store::Op,
};

/// A lease that holds.
#[derive(Clone, Copy, Debug)]
pub struct Looked {
    pub offset: Offset,
    pub is_gone: bool,
    /// It holds until then, unless something happens to it before.
    pub until: Duration,
}

/// The part of a batch that belongs to one cursor.
#[derive(Debug, Default)]
pub struct Part {
    /// The place behind the last event of the cursor's leases that this knows.
    pub place: usize,
    /// The messages that are to be acked. Sorted, with gaps between them.
    pub ranges: Arc<Vec<OffsetRange>>,
    /// How many of them were not deleted.
    pub leased: u64,
}

impl Core {
    /// A batch begins to look at leases of a cursor.
    pub fn begin_batch(&mut self, cursor: CursorId) -> usize {
        self.consumers.get_untouched(cursor).map_or(0, |it| it.deliveries.begin_batch())
    }

    /// A batch has failed, and looks at leases of a cursor no more.
    pub fn end_batch(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get_untouched(cursor) {
            consumption.deliveries.end_batch(None);
        }
    }

    /// Looks at the lease of a delivery.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if it does not hold.
    pub fn look_at(&mut self, it: &Settlement<'_>, elapsed: Duration) -> Result<Looked> {
        audit::step();
        let offset = self.held(it.cursor, it.key, elapsed)?;
        let is_gone = self.is_gone(it.cursor, offset);
        let consumption = self.consumers.get(&it.cursor);
        let until = consumption.and_then(|consumption| consumption.deliveries.holds_until(it.key));
        Ok(Looked { offset, is_gone, until: until.unwrap_or_default() })
    }

    /// What has happened to leases of a cursor since a place: the first `most` events.
    pub fn events_since(&self, cursor: CursorId, place: usize, most: usize) -> &[Event] {
        let events = self.consumers.get(&cursor).map(|it| it.deliveries.events_since(place));
        let events = events.unwrap_or_default();
        &events[..events.len().min(most)]
    }

    /// Whether nothing has happened to the leases of a part since they were looked at. `false` also if more has happened than
    /// can be looked at in one hold.
    fn is_current(&self, cursor: CursorId, part: &Part, most: usize) -> bool {
        let Some(consumption) = self.consumers.get(&cursor) else { return false };
        let events = consumption.deliveries.events_since(part.place);
        if events.len() > most {
            return false;
        }
        audit::steps(events.len() as u64);
        let is_of_part = |event: &Event| {
            let (Event::Ended(offset) | Event::Gone(offset)) = event;
            is_in(&part.ranges, *offset)
        };
        !events.iter().any(is_of_part)
    }

    /// Acks the messages of a batch in one commit. `None`, and changes nothing, if something has happened to one of their
    /// leases, or to more than `most` others.
    pub fn ack_looked<'p>(
        &mut self,
        parts: &'p BTreeMap<CursorId, Part>,
        most: usize,
        now: Now,
    ) -> CommitResult<Option<Receipt>> {
        audit::steps(parts.len() as u64);
        let acked = || parts.iter().filter(|(_, part)| !part.ranges.is_empty());
        if !acked().all(|(cursor, part)| self.is_current(*cursor, part, most)) {
            return Ok(None);
        }
        let ack = |(cursor, part): (&CursorId, &'p Part)| Op::AckRanges {
            cursor: *cursor,
            ranges: &part.ranges,
        };
        let ops: Vec<_> = acked().map(ack).collect();
        let receipt = if ops.is_empty() { Receipt::NOTHING } else { self.commit(&ops, now)? };
        for (cursor, part) in parts {
            if let Some(consumption) = self.consumers.get_mut(cursor) {
                let (ranges, leased) = (Arc::clone(&part.ranges), part.leased);
                consumption.deliveries.end_batch(Some(Acked { ranges, leased }));
            }
        }
        Ok(Some(receipt))
    }
}
