//! The ack state of a cursor with a filter.
//!
//! It gets the messages that match, and no others. It has an end, *seen*: the offset behind the last message that matched.
//! Everything from there on counts as acked. A message that matches acks all messages between it and the end that was, and
//! becomes the last one. So a message that the filter rejects changes nothing here, and what lies between two that match is
//! one range.

use super::{AckSet, upper::ALL};
use crate::ids::{Offset, OffsetRange};

impl AckSet {
    /// The offset behind the last message that matched, if the cursor has a filter.
    #[inline]
    pub fn seen(&self) -> Option<Offset> {
        let seen = self.upper.get()?.seen;
        (seen != ALL).then_some(Offset(seen))
    }

    /// The end of the cursor's own messages before an offset.
    #[inline]
    pub(super) fn own_end(&self, end: Offset) -> Offset {
        match self.upper.get() {
            None => end,
            Some(upper) => Offset(upper.seen.min(end.0)),
        }
    }

    /// The end of a log, as the cursor sees it: behind it there is nothing for it.
    #[inline]
    pub fn end_of(&self, log_end: Offset) -> Offset {
        self.own_end(log_end)
    }

    /// Has the cursor get only messages that match, from `seen` on. Its earlier messages stay.
    pub fn begin_filter(&mut self, seen: Offset) {
        self.upper.seen = seen.0;
    }

    /// Has the cursor get every message from `end` on. What was rejected before stays so. Returns how many that is.
    pub fn end_filter(&mut self, end: Offset) -> u64 {
        let Some(seen) = self.seen() else { return 0 };
        self.upper.seen = ALL;
        self.ack_own(seen.to(end));
        end.0.saturating_sub(seen.0)
    }

    /// Takes messages that follow each other and match. Messages that it has seen stay as they are. Returns how many messages
    /// before them were rejected.
    pub fn take(&mut self, range: OffsetRange) -> Option<u64> {
        let seen = self.seen().filter(|seen| *seen <= range.start)?;
        self.upper.seen = range.end.0;
        if !seeded!(RejectedStaysUnacked) {
            self.ack_own(seen.to(range.start));
        }
        Some(range.start.0 - seen.0)
    }

    /// The first message that the cursor needs, as far as its floor tells. `None` if it has a filter, and needs none.
    #[inline]
    pub fn held(&self) -> Option<Offset> {
        match self.seen() {
            Some(seen) if seen <= self.floor() => None,
            _ => Some(self.floor()),
        }
    }

    /// Sets the end from a metalog, once the floor is restored.
    pub fn restore_seen(&mut self, seen: Option<Offset>) {
        if let Some(seen) = seen {
            self.upper.seen = seen.0;
        }
    }
}
