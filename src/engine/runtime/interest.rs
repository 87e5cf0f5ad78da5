//! The waiters of one event, and what of it each of them waits for.

use std::{
    collections::{BTreeMap, VecDeque},
    iter, mem,
};

use crate::ids::CursorId;

/// The waiters that were not woken: those of each interest, in the order in which they registered.
#[derive(Debug)]
pub struct Waiters<W> {
    asleep: BTreeMap<Key, W>,
    last: u64,
}

/// The interest of a waiter, and its number.
pub type Key = (Interest, u64);

/// What a waiter waits for, among those of one watch: one subscription of a topic, or one partition of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interest(u64);

impl Interest {
    /// Whatever comes.
    pub const ALL: Interest = Interest(0);

    pub fn of_cursor(cursor: CursorId) -> Interest {
        Interest(cursor.0 + 1)
    }

    /// That of a subscription with a filter: it waits for messages that match, and not for whatever comes to the topic. These
    /// interests are behind all others.
    pub fn of_filtered(cursor: CursorId) -> Interest {
        Interest(Interest::FILTERED.0 + cursor.0 + 1)
    }

    const FILTERED: Interest = Interest(1 << 63);

    fn is_filtered(self) -> bool {
        self >= Interest::FILTERED
    }

    pub fn of_partition(partition: u32) -> Interest {
        Interest(u64::from(partition) + 1)
    }
}

/// Which waiters of a watch are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The longest waiting of each interest: there are messages for each.
    Each,
    /// As `Each`, without subscriptions that have a filter.
    Unfiltered,
    /// Those of one interest, and those that wait for whatever comes.
    Only(Interest),
}

impl Whom {
    /// Whether it leaves out subscriptions with filters, or is one of them. There may be very many, so nobody wakes all of them
    /// for one.
    pub fn minds_filters(self) -> bool {
        match self {
            Whom::Each => false,
            Whom::Unfiltered => true,
            Whom::Only(interest) => interest.is_filtered(),
        }
    }
}

impl<W> Default for Waiters<W> {
    fn default() -> Waiters<W> {
        Waiters { asleep: BTreeMap::new(), last: 0 }
    }
}

impl<W> Waiters<W> {
    pub fn len(&self) -> usize {
        self.asleep.len()
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.asleep.values()
    }

    /// Adds a waiter behind all others of its interest.
    pub fn add(&mut self, interest: Interest, waiter: W) -> Key {
        self.last += 1;
        self.asleep.insert((interest, self.last), waiter);
        (interest, self.last)
    }

    /// Removes a waiter. `None` if it was taken.
    pub fn remove(&mut self, key: Key) -> Option<W> {
        self.asleep.remove(&key)
    }

    /// Takes up to `most` waiters of each interest that is woken.
    pub fn take(&mut self, whom: Whom, most: usize) -> VecDeque<W> {
        if whom == Whom::Each && most >= self.asleep.len() {
            return mem::take(&mut self.asleep).into_values().collect();
        }
        let first_of = |interest: Interest| {
            let of_it = self.asleep.range((interest, 0)..=(interest, u64::MAX));
            of_it.take(most).map(|(key, _)| *key)
        };
        let keys: Vec<Key> = match whom {
            Whom::Only(Interest::ALL) => first_of(Interest::ALL).collect(),
            Whom::Only(interest) => first_of(Interest::ALL).chain(first_of(interest)).collect(),
            Whom::Each | Whom::Unfiltered => {
                let mut next = self.asleep.first_key_value().map(|(key, _)| key.0);
                let interests = iter::from_fn(|| {
                    let is_woken = |it: &Interest| whom == Whom::Each || !it.is_filtered();
                    let interest = next.filter(is_woken)?;
                    let behind = self.asleep.range((interest, u64::MAX)..).next();
                    next = behind.map(|(key, _)| key.0);
                    Some(interest)
                });
                interests.flat_map(first_of).collect()
            }
        };
        let of_key = |key: &Key| self.asleep.remove(key);
        keys.iter().filter_map(of_key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_interests() -> Waiters<&'static str> {
        let mut waiters = Waiters::default();
        let all = [("b1", 7), ("any1", 0), ("a1", 3), ("b2", 7), ("a2", 3), ("b3", 7), ("any2", 0)];
        all.iter().for_each(|(name, interest)| _ = waiters.add(Interest(*interest), *name));
        waiters
    }

    #[test]
    fn the_longest_waiting_of_those_who_are_concerned_are_taken() {
        let b = Interest(7);
        for (whom, most, taken) in [
            (Whom::Each, 1, vec!["any1", "a1", "b1"]),
            (Whom::Each, 2, vec!["any1", "any2", "a1", "a2", "b1", "b2"]),
            (Whom::Each, 100, vec!["any1", "any2", "a1", "a2", "b1", "b2", "b3"]),
            (Whom::Only(b), 1, vec!["any1", "b1"]),
            (Whom::Only(b), usize::MAX, vec!["any1", "any2", "b1", "b2", "b3"]),
            (Whom::Only(Interest::ALL), 1, vec!["any1"]),
            (Whom::Only(Interest(5)), 1, vec!["any1"]),
            (Whom::Unfiltered, 1, vec!["any1", "a1", "b1"]),
        ] {
            let mut waiters = three_interests();
            assert_eq!(waiters.take(whom, most), taken, "{whom:?}, {most}");
            assert_eq!(waiters.len(), 7 - taken.len());
        }
    }

    #[test]
    fn subscriptions_with_filters_are_woken_by_name() {
        let of = |cursor: u64| Interest::of_filtered(CursorId(cursor));
        let waiters = || {
            let mut waiters = three_interests();
            for (name, n) in [("f1", 1), ("f2", 2), ("f3", 2)] {
                waiters.add(of(n), name);
            }
            waiters
        };
        for (whom, most, taken) in [
            (Whom::Unfiltered, 1, vec!["any1", "a1", "b1"]),
            (Whom::Unfiltered, 100, vec!["any1", "any2", "a1", "a2", "b1", "b2", "b3"]),
            (Whom::Only(of(2)), 2, vec!["any1", "any2", "f2", "f3"]),
            (Whom::Each, 1, vec!["any1", "a1", "b1", "f1", "f2"]),
        ] {
            assert_eq!(waiters().take(whom, most), taken, "{whom:?}, {most}");
        }
    }
}
