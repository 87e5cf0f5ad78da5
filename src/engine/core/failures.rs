//! Deliveries that ended without a settlement and are not counted yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    delivery::LeaseKey,
    error::Result,
    format::entity::DeadLetters,
    ids::{CursorId, Due, Offset},
    store::Source,
};

/// Failures that are to be counted, and messages that are to move to the dead letters.
#[derive(Debug)]
pub struct Failures {
    /// Failures to be counted before the next delivery: the last one of each message.
    pub(super) uncounted: BTreeMap<MessageId, Counted>,
    /// Attempts whose handling has begun, and that could not be counted for lack of space.
    pub(super) begun: Vec<Begun>,
    /// Messages whose last attempt failed: they are to move to the dead letters.
    pub(super) exhausted: Queued,
    pub(super) chance: Chance,
}

/// A message of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId {
    pub cursor: CursorId,
    pub offset: Offset,
}

/// What a failed delivery leaves: the number of attempts so far, and when the message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    pub attempts: u32,
    pub due: Due,
}

/// An attempt whose handling has begun. It is to be counted as long as its lease exists: what ends the lease counts the
/// attempt, or takes it back.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    pub cursor: CursorId,
    pub offset: Offset,
    pub key: LeaseKey,
    pub attempt: u32,
}

/// Messages in the order in which they came, each once.
#[derive(Debug, Default)]
pub struct Queued {
    queue: VecDeque<MessageId>,
    known: BTreeSet<MessageId>,
}

impl Queued {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn push(&mut self, message: MessageId) {
        if self.known.insert(message) {
            self.queue.push_back(message);
        }
    }

    pub fn pop(&mut self) -> Option<MessageId> {
        let message = self.queue.pop_front()?;
        self.known.remove(&message);
        Some(message)
    }
}

/// Pseudo-random numbers for jitter (xorshift; Marsaglia, 2003).
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Failures {
    pub fn new(chance: u64) -> Failures {
        // A generator with state zero stays at zero.
        Failures {
            uncounted: BTreeMap::new(),
            begun: Vec::new(),
            exhausted: Queued::default(),
            chance: Chance(chance | 1),
        }
    }

    /// Whether a message has no failure that is still to be counted.
    pub(super) fn is_counted(&self, message: MessageId) -> bool {
        !self.uncounted.contains_key(&message)
    }

    /// Whether failures of a cursor are still to be counted, or attempts of it to be taken back.
    pub(super) fn concern(&self, cursor: CursorId) -> bool {
        let of = |offset| MessageId { cursor, offset: Offset(offset) };
        self.uncounted.range(of(0)..=of(u64::MAX)).next().is_some()
    }

    /// How many attempts a message is to have whose failure is still to be counted, or whose attempt is to be taken back.
    pub(super) fn attempts_of(&self, message: MessageId) -> Option<u32> {
        self.uncounted.get(&message).map(|counted| counted.attempts)
    }

    /// Notes a failure that is to be counted. If the message has failed twice by then, its last failure is stored.
    pub(super) fn count_later(&mut self, message: MessageId, counted: Counted) {
        let known = self.uncounted.entry(message).or_insert(counted);
        *known = counted.max(*known);
    }
}

/// A message on lease that is about to move to the dead letters.
#[derive(Debug)]
pub struct Exhausted {
    pub key: LeaseKey,
    pub source: Result<Source>,
    pub attempts: u32,
    pub dead_letters: DeadLetters,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each try of a consumer on a full disk left the mover one more.
    #[test]
    fn a_message_is_queued_once() {
        let message = |offset| MessageId { cursor: CursorId(1), offset: Offset(offset) };
        let mut queued = Queued::default();
        (0..100).for_each(|n| queued.push(message(n % 2)));
        assert_eq!((queued.queue.len(), queued.known.len()), (2, 2));
        assert_eq!([(); 3].map(|()| queued.pop()), [Some(message(0)), Some(message(1)), None]);
        queued.push(message(0));
        assert_eq!(queued.pop(), Some(message(0)));
    }
}
