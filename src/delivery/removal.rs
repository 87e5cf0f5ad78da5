//! Removal: which messages a full queue can drop, and how deleted messages leave their places.
//!
//! A message that was deleted leaves every count at once, wherever it was.

use super::{Acked, Deliveries, offset_set::OffsetSet, returned::merge};
use crate::{
    audit,
    ids::{Due, Offset, OffsetRange},
};

/// The offset that `most` sorted ones come before, or `end` if that is not behind it.
pub fn nth(offsets: impl Iterator<Item = Offset>, most: usize, end: Offset) -> Offset {
    let mut before = offsets.take_while(|offset| *offset < end).inspect(|_| audit::step());
    before.nth(most).unwrap_or(end)
}

impl Deliveries {
    /// The messages that can be delivered now: the lowest priority first, and the oldest first within a
    /// priority.
    pub fn ready<'a>(
        &'a mut self,
        acked: &'a impl Acked,
        end: Offset,
    ) -> impl Iterator<Item = Offset> {
        let known = move |known: &OffsetSet, from| {
            acked.next_unacked(from, end).filter(|offset| known.contains(*offset))
        };
        // The walk passes each run of known offsets once, however often `ready` is called.
        self.passed = self.passed.max(self.next);
        while let Some(offset) = known(&self.known, self.passed) {
            audit::step();
            self.passed = self.known.end_of_run(offset);
        }
        let this = &*self;
        let mut next = this.passed;
        let fresh = std::iter::from_fn(move || {
            audit::step();
            while let Some(offset) = known(&this.known, next) {
                audit::step();
                next = this.known.end_of_run(offset);
            }
            let fresh = acked.next_unacked(next, end)?;
            next = fresh.next();
            Some(fresh)
        });
        let plain = merge(this.returned.iter(), fresh);
        let unacked = |offset: &Offset| acked.next_unacked(*offset, offset.next()).is_some();
        plain.chain(this.lanes.iter()).filter(unacked)
    }

    /// Removes deleted messages from every place. `waiting` are those of them that waited.
    pub fn forget_all(&mut self, ranges: &[OffsetRange], waiting: &[(Due, Offset)]) {
        for entry in waiting {
            audit::step();
            self.end_wait(*entry);
            self.forget_wait(entry.1);
        }
        audit::steps(ranges.len() as u64);
        self.returned.forget_all(ranges);
        if !self.lanes.is_empty() {
            self.lanes.forget_all(ranges);
        }
        for range in ranges {
            self.known.remove_range(*range);
        }
    }

    /// When a waiting message is due. `stored` is its stored due time. If the message does not wait, returns that.
    pub fn due_of(&self, offset: Offset, stored: Due) -> Due {
        self.unstored.get(&offset).copied().unwrap_or(stored)
    }

    /// Removes one deleted message. `stored` is its stored due time. Returns `false` if the message
    /// was in none of the places that this state knows: it is leased, spilled or parked.
    pub fn forget_one(&mut self, offset: Offset, stored: Due) -> bool {
        let is_fresh = offset >= self.next && !self.known.contains(offset);
        let due = self.due_of(offset, stored);
        self.forget_wait(offset);
        let was_waiting = self.end_wait((due, offset));
        let was_returned = self.returned.forget(offset) | self.lanes.forget(offset);
        self.known.remove(offset);
        is_fresh || was_waiting || was_returned
    }

    /// Whether a message is in one of the places that this state knows, and can tell without a walk: it is neither leased nor
    /// spilled nor parked. `stored` and `priority` are the due time and the priority that the store has of it.
    pub fn has(&self, offset: Offset, stored: Due, priority: u8) -> bool {
        let is_fresh = offset >= self.next && !self.known.contains(offset);
        is_fresh
            || self.waiting.contains(&(self.due_of(offset, stored), offset))
            || self.returned.contains(offset)
            || self.lanes.contains(offset, priority)
    }

    /// Takes a message out of its place for good, although it was not deleted. Returns `false`, and changes nothing, if it is
    /// in none of the places that this state knows.
    pub fn take_out(&mut self, offset: Offset, stored: Due) -> bool {
        let is_known = self.known.contains(offset);
        let was_there = self.forget_one(offset, stored);
        if offset >= self.next && (is_known || was_there) {
            self.known.insert(offset);
        }
        was_there
    }

    /// The messages of a range that wait, by offset, and when they are due.
    pub fn waiting_in(
        &self,
        range: OffsetRange,
        acked: &impl Acked,
    ) -> impl Iterator<Item = (Due, Offset)> {
        self.waits_from(range.start)
            .take_while(move |offset| *offset < range.end)
            .map(|offset| (self.due_of(offset, acked.due(offset)), offset))
    }

    /// The messages that wait, from an offset on.
    pub fn waits_from(&self, from: Offset) -> impl Iterator<Item = Offset> {
        self.waits.iter_from(from)
    }

    /// Lists leased messages by their offsets: looks at the next `most` places of leases. Returns whether all are listed.
    /// The list is kept up to date until it is dropped.
    pub fn list_leased(&mut self, most: usize) -> bool {
        self.leases.list(most)
    }

    /// The list of the leased messages, which is no longer needed.
    pub fn drop_list_of_leased(&mut self) -> impl Sized + Send + use<> {
        self.leases.drop_list()
    }

    /// The leased messages of a range. They are listed.
    pub fn leased_in(&self, range: OffsetRange) -> impl Iterator<Item = Offset> {
        self.leases.listed_from(range.start).take_while(move |offset| *offset < range.end)
    }

    /// Where a slice ends that begins at the start of a range: it has about `most` messages of each kind that costs
    /// steps when it is removed or passed over.
    pub fn end_of_slice(&self, range: OffsetRange, most: usize) -> Offset {
        let end = nth(self.leased_in(range), most, range.end);
        let end = nth(self.waits_from(range.start), most, end);
        let end = nth(self.returned.due_in(range.start.to(end)), most, end);
        let of_each = (most / self.lanes.len().max(1)).max(1);
        let lanes = self.lanes.due_in(range.start.to(end));
        lanes.fold(end, |end, due| nth(due, of_each, end))
    }

    /// Notes that a leased message was deleted.
    pub fn note_gone(&mut self, offset: Offset) {
        self.gone.insert(offset);
        self.note_gone_beside(offset);
    }
}
