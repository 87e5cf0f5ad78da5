//! Messages of one priority that are to be delivered once more, or were to wait first.
//!
//! Those that were released take turns, the next one being the one behind the last; those that have come
//! due are served in that order; and both take turns with each other.

use crate::audit;
use std::{collections::VecDeque, iter};

use roaring::RoaringTreemap;

use crate::ids::{Offset, OffsetRange};

#[derive(Debug, Default)]
pub struct Returned {
    released: RoaringTreemap,
    /// Those whose time has come, in that order.
    due: VecDeque<Offset>,
    /// The next one that was released is at or above this offset.
    turn: u64,
    due_first: bool,
}

/// Whether an offset lies in one of some ranges, which are sorted.
pub fn is_in(ranges: &[OffsetRange], offset: Offset) -> bool {
    let at = ranges.partition_point(|range| range.end <= offset);
    ranges.get(at).is_some_and(|range| range.contains(offset))
}

impl Returned {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.released.is_empty() && self.due.is_empty()
    }

    pub fn release(&mut self, offset: Offset) {
        self.released.insert(offset.0);
    }

    pub fn come_due(&mut self, offset: Offset) {
        self.due.push_back(offset);
    }

    /// How many have come due.
    pub fn due(&self) -> u64 {
        self.due.len() as u64
    }

    /// Takes one that was released.
    pub fn remove_released(&mut self, offset: Offset) -> bool {
        self.released.remove(offset.0)
    }

    /// Messages are gone.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        self.forget_first(ranges);
        if !self.due.is_empty() {
            audit::steps(self.due.len() as u64);
            self.due.retain(|offset| !is_in(ranges, *offset));
        }
    }

    /// Messages are gone that `iter` has told of, from the first on.
    pub fn forget_first(&mut self, ranges: &[OffsetRange]) {
        for range in ranges {
            audit::step();
            self.released.remove_range(range.start.0..range.end.0);
        }
        while self.due.front().is_some_and(|offset| is_in(ranges, *offset)) {
            audit::step();
            self.due.pop_front();
        }
    }

    /// Takes the next message for which `is_wanted` says `true`; one for which it says `None` is gone,
    /// and one for which it says `false` is not visible yet.
    pub fn take(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        self.due_first = !self.due_first;
        if self.due_first {
            self.take_due(is_wanted).or_else(|| self.take_released(is_wanted))
        } else {
            self.take_released(is_wanted).or_else(|| self.take_due(is_wanted))
        }
    }

    fn take_due(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        for _ in 0..self.due.len() {
            audit::step();
            let offset = self.due.pop_front()?;
            match is_wanted(offset) {
                Some(true) => return Some(offset),
                // It is not durable yet; those behind it may be.
                Some(false) => self.due.push_back(offset),
                None => {}
            }
        }
        None
    }

    fn take_released(
        &mut self,
        is_wanted: &mut impl FnMut(Offset) -> Option<bool>,
    ) -> Option<Offset> {
        while !self.released.is_empty() {
            audit::step();
            let rank = match self.turn {
                0 => 0,
                turn => self.released.rank(turn - 1),
            };
            let found = self.released.select(rank).or_else(|| self.released.min())?;
            self.turn = found + 1;
            self.released.remove(found);
            // It may have been deleted meanwhile. If not, it was delivered before, and is visible:
            // this tells the caller where it is.
            if is_wanted(Offset(found)) == Some(true) {
                return Some(Offset(found));
            }
        }
        None
    }

    /// All of them: of those that were released and of those that have come due the next one is the older.
    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        merge(self.due.iter().copied(), self.released.iter().map(Offset))
    }
}

/// The offsets of two that have none in common: of the next ones the lower.
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
