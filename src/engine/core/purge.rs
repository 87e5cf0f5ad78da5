//! Which messages a purge deletes next: those that are not on lease.
//!
//! A slice costs what is in it, whatever else there is: it ends where it has enough messages of a kind that costs steps. A
//! purge first lists the leased messages by their offsets, in slices as well, and passes over those of its slice.

use super::{Core, capacity::Dropped, consumption::Consumption};
use crate::{
    audit,
    delivery::{Groups, nth},
    error::Result,
    ids::{CursorId, Offset, OffsetRange},
    store::AckSet,
};

/// How many leases are listed in one hold of the core.
const LISTED_AT_ONCE: usize = 512;

/// The most messages of each kind, and the most ranges, in one slice.
const AT_ONCE: usize = 72;

/// The most offsets in one slice. The acks are kept in chunks of offsets.
const OFFSETS_AT_ONCE: u64 = 1 << 22;

/// A slice of messages that are not on lease.
#[derive(Debug, Default)]
pub struct Idle {
    pub dropped: Dropped,
    /// Where the next slice begins. `None` if nothing is left.
    pub next: Option<Offset>,
}

impl Core {
    /// The next messages in a range that are not on lease. There may be none in a slice, and some in the next one.
    pub fn idle(&mut self, cursor: CursorId, within: OffsetRange) -> Result<Idle> {
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks_of(cursor)?;
        if !consumption.deliveries.list_leased(LISTED_AT_ONCE) {
            return Ok(Idle { next: Some(within.start), ..Idle::default() });
        }
        let Some(from) = acks.next_unacked(within) else { return Ok(Idle::default()) };
        let most = within.end.min(Offset(from.0.saturating_add(OFFSETS_AT_ONCE)));
        let range = from.to(consumption.end_of_slice(from.to(most)));
        let (ranges, upto) = consumption.idle_ranges(acks, range);
        let waiting = consumption.deliveries.waiting_in(from.to(upto), acks).collect();
        let next = (upto < within.end).then_some(upto);
        Ok(Idle { dropped: Dropped { ranges, waiting }, next })
    }

    /// Ends a purge: the list of leased messages is no longer needed. A purge that still runs makes it again.
    pub fn end_purge(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            let list = consumption.deliveries.drop_list_of_leased();
            self.effects.drop_after(Some(list));
        }
    }
}

impl Consumption {
    /// Where a slice ends that begins at the start of a range.
    fn end_of_slice(&self, range: OffsetRange) -> Offset {
        let end = self.deliveries.end_of_slice(range, AT_ONCE);
        let end = nth(self.damaged.from(range.start), AT_ONCE, end);
        let heads = |groups: &Groups| nth(groups.heads_from(range.start), AT_ONCE, end);
        self.groups.as_ref().map_or(end, heads)
    }

    /// The ranges of messages that are neither acked nor leased, and where they end.
    fn idle_ranges(&self, acks: &AckSet, within: OffsetRange) -> (Vec<OffsetRange>, Offset) {
        let mut idle: Vec<OffsetRange> = Vec::new();
        let mut at = within.start;
        for leased in self.deliveries.leased_in(within).chain([within.end]) {
            audit::step();
            idle.extend(acks.unacked_up_to(at.to(leased), AT_ONCE - idle.len()));
            if let [.., last] = idle[..]
                && idle.len() == AT_ONCE
            {
                return (idle, last.end);
            }
            at = leased.next();
        }
        (idle, within.end)
    }
}
