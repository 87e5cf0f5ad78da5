//! Acks of many deliveries in one commit: their leases are pinned before it and ended after it, both in slices.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Core,
    commit::{CommitResult, Receipt},
    errors::lease_lost,
    settlement::Settlement,
};
use crate::{
    audit,
    delivery::batch_end::Pin,
    error::Result,
    ids::{CursorId, Now, OffsetRange},
    store::Op,
};

/// The messages of a cursor that are acked.
#[derive(Debug, Default)]
pub struct Acked {
    /// Sorted, with gaps between them.
    pub ranges: Vec<OffsetRange>,
    /// How many of the messages are in flight.
    pub in_flight: u64,
}

impl Core {
    /// Pins the lease of a delivery.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if it does not hold.
    pub fn pin(&mut self, it: &Settlement<'_>, elapsed: Duration) -> Result<Pin> {
        audit::step();
        match self.consumers.get_untouched(it.cursor) {
            Some(consumption) => consumption.deliveries.pin(it.key, elapsed).ok_or_else(lease_lost),
            None => Err(self.not_held(it.cursor)),
        }
    }

    /// Lets go of a lease that was pinned: its message was not acked.
    pub fn unpin(&mut self, it: &Settlement<'_>) {
        audit::step();
        if let Some(consumption) = self.consumers.get_untouched(it.cursor) {
            consumption.deliveries.unpin(it.key);
            self.arm(it.cursor);
        }
    }

    /// Acks messages whose leases are pinned.
    pub fn ack_pinned(
        &mut self,
        acked: &BTreeMap<CursorId, Acked>,
        now: Now,
    ) -> CommitResult<Receipt> {
        if acked.is_empty() {
            return Ok(Receipt::NOTHING);
        }
        let ops: Vec<_> = acked
            .iter()
            .map(|(cursor, it)| Op::AckRanges { cursor: *cursor, ranges: &it.ranges })
            .collect();
        let receipt = self.commit(&ops, now)?;
        for (cursor, it) in acked {
            audit::step();
            if let Some(consumption) = self.consumers.get_mut(cursor) {
                consumption.deliveries.note_settled(it.in_flight);
            }
        }
        Ok(receipt)
    }

    /// Ends the lease of a message that was acked so.
    pub fn end_pinned(&mut self, it: &Settlement<'_>, pin: Pin, elapsed: Duration) {
        audit::step();
        if pin.is_in_flight
            && let Some(consumption) = self.consumers.get_untouched(it.cursor)
        {
            consumption.deliveries.note_ending();
        }
        self.end_acked(it.cursor, it.key, elapsed.saturating_sub(it.leased));
    }
}
