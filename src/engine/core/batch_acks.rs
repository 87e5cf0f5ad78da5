//! Acks of many deliveries in one commit: their leases are looked at before it and ended after it, both in slices.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Core,
    commit::{CommitResult, Receipt},
    settlement::Settlement,
};
use crate::{
    audit,
    delivery::batch_end::{Acked, BatchId, Event},
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
    /// `None` if the cursor has no state, and so no leases.
    pub batch: Option<BatchId>,
    /// The messages that are to be acked. Sorted, with gaps between them.
    pub ranges: Arc<Vec<OffsetRange>>,
    /// How many they are.
    pub leases: u64,
    /// How many of them were not deleted.
    pub leased: u64,
}

impl Core {
    /// A batch begins to look at leases of a cursor, of messages in sorted ranges.
    pub fn begin_batch(
        &mut self,
        cursor: CursorId,
        ranges: Arc<Vec<OffsetRange>>,
    ) -> Option<BatchId> {
        let consumption = self.consumers.get_untouched(cursor)?;
        Some(consumption.deliveries.begin_batch(ranges))
    }

    /// A batch looks at leases of a cursor no more.
    pub fn end_batch(&mut self, cursor: CursorId, part: &Part, acked: Option<Acked>) {
        if let Some(batch) = part.batch
            && let Some(consumption) = self.consumers.get_mut(&cursor)
        {
            consumption.deliveries.end_batch(batch, acked);
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

    /// What has happened to the leases of a part. `None` if the cursor has no state any more, or more has happened than is kept.
    pub fn take_events(&mut self, cursor: CursorId, part: &Part) -> Option<Vec<Event>> {
        let consumption = self.consumers.get_untouched(cursor)?;
        consumption.deliveries.take_events(part.batch?)
    }

    /// Whether nothing has happened to the leases of a part since they were looked at.
    fn is_current(&self, cursor: CursorId, part: &Part) -> bool {
        let consumption = self.consumers.get(&cursor).zip(part.batch);
        consumption.is_some_and(|(it, batch)| it.deliveries.is_current(batch))
    }

    /// Acks the messages of a batch in one commit. `None`, and changes nothing, if something has happened to one of their
    /// leases.
    pub fn ack_looked<'p>(
        &mut self,
        parts: &'p BTreeMap<CursorId, Part>,
        now: Now,
    ) -> CommitResult<Option<Receipt>> {
        audit::steps(parts.len() as u64);
        let acked = || parts.iter().filter(|(_, part)| !part.ranges.is_empty());
        if !acked().all(|(cursor, part)| self.is_current(*cursor, part)) {
            return Ok(None);
        }
        let ack = |(cursor, part): (&CursorId, &'p Part)| Op::AckRanges {
            cursor: *cursor,
            ranges: &part.ranges,
        };
        let ops: Vec<_> = acked().map(ack).collect();
        let receipt = if ops.is_empty() { Receipt::NOTHING } else { self.commit(&ops, now)? };
        for (cursor, part) in parts {
            let Part { leases, leased, .. } = *part;
            let acked = Acked { ranges: Arc::clone(&part.ranges), leases, leased };
            self.end_batch(*cursor, part, Some(acked).filter(|it| !it.ranges.is_empty()));
        }
        Ok(Some(receipt))
    }
}
