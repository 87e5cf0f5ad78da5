//! Returned messages of one priority: *released* messages are to be delivered again at once, and *due*
//! messages have waited until their time.
//!
//! Released messages go round-robin by offset. Due messages go in the order in which they came due. The two
//! kinds alternate.

use std::{collections::VecDeque, iter};

use roaring::RoaringTreemap;

use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

/// Whether a message can be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// It is not durable yet. So no later fresh message is, either.
    Invisible,
    /// It was acked or deleted.
    Gone,
}

/// How many more deleted messages than due ones may be left in `due`.
const STALE_MAX: u64 = 64;

#[derive(Debug, Default)]
pub struct Returned {
    released: RoaringTreemap,
    /// In the order in which they came due. Those that are not in `is_due` were deleted.
    due: VecDeque<Offset>,
    is_due: RoaringTreemap,
    /// How many messages are due. `is_due` would have to count them.
    due_count: u64,
    /// The round-robin goes on at the first released message at or above this offset.
    round_robin_from: u64,
    due_first: bool,
}

/// Whether an offset lies in one of the ranges, which are sorted.
pub fn is_in(ranges: &[OffsetRange], offset: Offset) -> bool {
    let at = ranges.partition_point(|range| range.end <= offset);
    ranges.get(at).is_some_and(|range| range.contains(offset))
}

impl Returned {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.released.is_empty() && self.due_count == 0
    }

    pub fn release(&mut self, offset: Offset) {
        self.released.insert(offset.0);
    }

    pub fn come_due(&mut self, offset: Offset) {
        if self.is_due.insert(offset.0) {
            self.due.push_back(offset);
            self.due_count += 1;
        }
    }

    /// How many messages are due.
    pub fn due(&self) -> u64 {
        self.due_count
    }

    /// Whether a message is there.
    pub fn contains(&self, offset: Offset) -> bool {
        self.released.contains(offset.0) || self.is_due.contains(offset.0)
    }

    /// Removes a released message. Returns whether it was there.
    pub fn remove_released(&mut self, offset: Offset) -> bool {
        self.released.remove(offset.0)
    }

    /// Removes a deleted message. Returns whether it was there.
    pub fn forget(&mut self, offset: Offset) -> bool {
        let was_due = self.is_due.remove(offset.0);
        if was_due {
            self.due_count -= 1;
            self.drop_stale();
        }
        self.released.remove(offset.0) || was_due
    }

    /// Drops what is left in `due` of deleted messages: at its front, and everywhere once it is the larger part.
    fn drop_stale(&mut self) {
        while self.due.front().is_some_and(|offset| !self.is_due.contains(offset.0)) {
            audit::step();
            self.due.pop_front();
        }
        if self.due.len() as u64 > 2 * self.due_count + STALE_MAX {
            audit::steps(self.due.len() as u64);
            let Returned { due, is_due, .. } = self;
            due.retain(|offset| is_due.contains(offset.0));
        }
    }

    /// Removes deleted messages.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        self.forget_first(ranges);
        if !self.due.is_empty() {
            audit::steps(self.due.len() as u64);
            self.due.retain(|offset| !is_in(ranges, *offset));
        }
    }

    /// Removes deleted messages. They are the first ones that `iter` returned.
    pub fn forget_first(&mut self, ranges: &[OffsetRange]) {
        for range in ranges {
            audit::step();
            self.released.remove_range(range.start.0..range.end.0);
            self.due_count -= self.is_due.remove_range(range.start.0..range.end.0);
        }
        while self.due.front().is_some_and(|offset| is_in(ranges, *offset)) {
            audit::step();
            self.due.pop_front();
        }
    }

    /// Takes the next message that is ready.
    pub fn take(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        self.due_first = !self.due_first;
        if self.due_first {
            self.take_due(readiness).or_else(|| self.take_released(readiness))
        } else {
            self.take_released(readiness).or_else(|| self.take_due(readiness))
        }
    }

    fn take_due(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        for _ in 0..self.due.len() {
            audit::step();
            let offset = self.due.pop_front()?;
            if !self.is_due.contains(offset.0) {
                continue;
            }
            match readiness(offset) {
                // Later ones may be visible.
                Readiness::Invisible => self.due.push_back(offset),
                ready => {
                    self.is_due.remove(offset.0);
                    self.due_count -= 1;
                    if ready == Readiness::Ready {
                        return Some(offset);
                    }
                }
            }
        }
        None
    }

    fn take_released(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        while !self.released.is_empty() {
            audit::step();
            let rank = match self.round_robin_from {
                0 => 0,
                from => self.released.rank(from - 1),
            };
            let found = self.released.select(rank).or_else(|| self.released.min())?;
            self.round_robin_from = found + 1;
            self.released.remove(found);
            // It may have been deleted. If not, it was delivered before, so it is visible. The call
            // must happen all the same: the caller notes where the message is.
            if readiness(Offset(found)) == Readiness::Ready {
                return Some(Offset(found));
            }
        }
        None
    }

    /// All messages. Of the next released and the next due message, the older one goes first.
    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        let due = self.due.iter().copied().filter(|offset| self.is_due.contains(offset.0));
        merge(due, self.released.iter().map(Offset))
    }
}

/// Merges two iterators that have no offset in common. Of the two next offsets, the lower one goes first.
pub fn merge(
    one: impl Iterator<Item = Offset>,
    other: impl Iterator<Item = Offset>,
) -> impl Iterator<Item = Offset> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(a), Some(b)) if a > b => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
}
