//! Removal: which messages a full queue can drop, and how deleted messages leave their places.
//!
//! A message that was deleted leaves every count at once, wherever it was.

use super::{
    Acked, Deliveries,
    offset_set::OffsetSet,
    returned::{is_in, merge},
};
use crate::{
    audit,
    ids::{Due, Offset, OffsetRange},
};

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

    /// Removes deleted messages. They are the first ones that `ready` returned, so none of them waits.
    pub fn forget_ready(&mut self, ranges: &[OffsetRange]) {
        audit::steps(ranges.len() as u64);
        self.returned.forget_first(ranges);
        if !self.lanes.is_empty() {
            self.lanes.forget_first(ranges);
        }
        for range in ranges {
            self.known.remove_range(*range);
        }
    }

    /// Removes deleted messages from every place.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        if !self.waiting.is_empty() {
            audit::steps(self.waiting.len() as u64);
            self.waiting.retain(|(_, offset)| !is_in(ranges, *offset));
            self.unstored.retain(|offset, _| !is_in(ranges, *offset));
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
        let due = self.unstored.remove(&offset).unwrap_or(stored);
        let was_waiting = self.waiting.remove(&(due, offset));
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

    /// Notes that a leased message was deleted.
    pub fn note_gone(&mut self, offset: Offset) {
        self.gone.insert(offset);
    }
}
