//! Returned messages of one priority: *released* messages are to be delivered again at once, and *due*
//! messages have waited until their time.
//!
//! Released messages go round-robin by offset. Due messages go in the order in which they came due. The two
//! kinds alternate.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    iter,
};

use super::offset_set::OffsetSet;
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

#[derive(Debug, Default)]
pub struct Returned {
    released: OffsetSet,
    /// The due messages by number, in the order in which they came due. Those that were put back first have the number 0.
    due: BTreeSet<(u64, Offset)>,
    /// The number of each due message.
    numbers: BTreeMap<Offset, u64>,
    /// The number of the message that came due last.
    last_number: u64,
    /// The round-robin goes on at the first released message at or above this offset.
    round_robin_from: Offset,
    due_first: bool,
}

impl Returned {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.released.is_empty() && self.due.is_empty()
    }

    pub fn release(&mut self, offset: Offset) {
        self.released.insert(offset);
    }

    pub fn come_due(&mut self, offset: Offset) {
        if let Entry::Vacant(number) = self.numbers.entry(offset) {
            self.last_number += 1;
            number.insert(self.last_number);
            self.due.insert((self.last_number, offset));
        }
    }

    /// Puts a due message back that was taken: in front of the others.
    pub fn put_first(&mut self, offset: Offset) {
        if let Entry::Vacant(number) = self.numbers.entry(offset) {
            number.insert(0);
            self.due.insert((0, offset));
        }
    }

    /// How many messages are due.
    pub fn due(&self) -> u64 {
        self.due.len() as u64
    }

    /// Whether a message is there.
    pub fn contains(&self, offset: Offset) -> bool {
        self.released.contains(offset) || self.numbers.contains_key(&offset)
    }

    /// Removes a deleted message. Returns whether it was there.
    pub fn forget(&mut self, offset: Offset) -> bool {
        let number = self.numbers.remove(&offset);
        let was_due = number.is_some_and(|number| self.due.remove(&(number, offset)));
        self.released.remove(offset) || was_due
    }

    /// Removes deleted messages.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        for range in ranges {
            audit::step();
            self.released.remove_range(*range);
            let within = range.start..range.end;
            while let Some((&offset, _)) = self.numbers.range(within.clone()).next() {
                audit::step();
                self.forget(offset);
            }
        }
    }

    /// The due messages in a range, by offset.
    pub fn due_in(&self, range: OffsetRange) -> impl Iterator<Item = Offset> {
        self.numbers.range(range.start..range.end).map(|(offset, _)| *offset)
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
            let (_, offset) = self.due.pop_first()?;
            self.numbers.remove(&offset);
            match readiness(offset) {
                Readiness::Ready => return Some(offset),
                // Later ones may be visible.
                Readiness::Invisible => self.come_due(offset),
                Readiness::Gone => {}
            }
        }
        None
    }

    fn take_released(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        while !self.released.is_empty() {
            audit::step();
            let later = self.released.iter_from(self.round_robin_from).next();
            let found = later.or_else(|| self.released.min())?;
            self.round_robin_from = found.next();
            self.released.remove(found);
            // It may have been deleted. If not, it was delivered before, so it is visible. The call
            // must happen all the same: the caller notes where the message is.
            if readiness(found) == Readiness::Ready {
                return Some(found);
            }
        }
        None
    }

    /// All messages. Of the next released and the next due message, the older one goes first.
    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        merge(self.due.iter().map(|(_, offset)| *offset), self.released.iter_from(Offset(0)))
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
