//! Leases: granted, extended, ended and run out, each in constant time in the common case.
//!
//! Leases that are granted with the same duration run out in the order in which they were granted,
//! so they hang in a list of that order, from which any one can be taken out. The few whose
//! deadline is not in that order (extended ones) are kept in a sorted set beside it.

use crate::audit;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
    time::Duration,
};

use slab::Slab;

use crate::ids::Offset;

/// Whose lease it is, where that matters. 0 is anyone's.
pub type SlotId = u32;

/// Names one lease. A key of a lease that has ended names nothing, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    slot: usize,
    token: u64,
}

impl LeaseKey {
    /// Which lease of the cursor it is, counted in this life.
    pub fn number(self) -> u64 {
        self.token
    }
}

#[derive(Debug)]
struct Lease {
    offset: Offset,
    seat: SlotId,
    token: u64,
    deadline: Duration,
    /// By how much it is renewed when its deadline has come, and up to when.
    renewal: Option<(Duration, Duration)>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the list, between two slots.
    Listed { before: Option<usize>, behind: Option<usize> },
    /// In the sorted set.
    Sorted,
}

#[derive(Debug, Default)]
pub struct Leases {
    slots: Slab<Lease>,
    first: Option<usize>,
    last: Option<usize>,
    sorted: BTreeSet<(Duration, usize)>,
    tokens: u64,
    /// How many belong to each seat that has any.
    seated: BTreeMap<SlotId, u64>,
    /// Whether a seat has lost one since this was last asked.
    has_freed: bool,
}

impl Leases {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn offsets(&self) -> impl Iterator<Item = Offset> {
        self.slots.iter().map(|(_, lease)| lease.offset)
    }

    /// How many were granted, those included that are only counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Goes on counting from a number.
    pub fn count_from(&mut self, tokens: u64) {
        self.tokens = self.tokens.max(tokens);
    }

    #[inline]
    pub fn grant(&mut self, offset: Offset, deadline: Duration) -> LeaseKey {
        self.tokens += 1;
        let token = self.tokens;
        let last = self.last;
        let in_order = last.is_none_or(|last| self.slots[last].deadline <= deadline);
        let place = match in_order {
            true => Place::Listed { before: last, behind: None },
            false => Place::Sorted,
        };
        let slot =
            self.slots.insert(Lease { offset, seat: 0, token, deadline, renewal: None, place });
        if in_order {
            match last {
                Some(last) => self.relink(last, |_, behind| *behind = Some(slot)),
                None => self.first = Some(slot),
            }
            self.last = Some(slot);
        } else {
            self.sorted.insert((deadline, slot));
        }
        LeaseKey { slot, token }
    }

    #[inline]
    fn relink(&mut self, slot: usize, change: impl FnOnce(&mut Option<usize>, &mut Option<usize>)) {
        match &mut self.slots[slot].place {
            Place::Listed { before, behind } => change(before, behind),
            Place::Sorted => unreachable!("neighbours in the list are listed"),
        }
    }

    #[inline]
    fn take_out(&mut self, slot: usize) {
        let Lease { place, deadline, .. } = self.slots[slot];
        let Place::Listed { before, behind } = place else {
            self.sorted.remove(&(deadline, slot));
            return;
        };
        match before {
            Some(before) => self.relink(before, |_, link| *link = behind),
            None => self.first = behind,
        }
        match behind {
            Some(behind) => self.relink(behind, |link, _| *link = before),
            None => self.last = before,
        }
    }

    #[inline]
    fn get(&self, key: LeaseKey) -> Option<&Lease> {
        self.slots.get(key.slot).filter(|lease| lease.token == key.token)
    }

    #[inline]
    pub fn held(&self, key: LeaseKey, now: Duration) -> Option<Offset> {
        let holds = |lease: &&Lease| {
            now < lease.deadline || lease.renewal.is_some_and(|(_, until)| now < until)
        };
        self.get(key).filter(holds).map(|lease| lease.offset)
    }

    /// Ends a lease, if it has not ended before.
    #[inline]
    pub fn end(&mut self, key: LeaseKey) -> Option<Offset> {
        self.get(key)?;
        Some(self.remove(key.slot))
    }

    #[inline]
    fn remove(&mut self, slot: usize) -> Offset {
        self.take_out(slot);
        let Lease { offset, seat, .. } = self.slots.remove(slot);
        if seat != 0 {
            self.free(seat);
        }
        offset
    }

    fn free(&mut self, seat: SlotId) {
        if let Entry::Occupied(mut held) = self.seated.entry(seat) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.has_freed = true;
    }

    /// Says whose lease it is.
    pub fn assign(&mut self, key: LeaseKey, seat: SlotId) {
        if self.get(key).is_some_and(|lease| lease.seat == 0) {
            self.slots[key.slot].seat = seat;
            *self.seated.entry(seat).or_default() += 1;
        }
    }

    /// How many leases a seat has.
    pub fn held_by(&self, seat: SlotId) -> u64 {
        self.seated.get(&seat).copied().unwrap_or(0)
    }

    /// Whether a seat has lost a lease since this was last asked.
    #[inline]
    pub fn take_freed(&mut self) -> bool {
        mem::take(&mut self.has_freed)
    }

    pub fn extend(&mut self, key: LeaseKey, now: Duration, deadline: Duration) -> bool {
        if self.held(key, now).is_none() {
            return false;
        }
        self.put_off(key.slot, deadline);
        true
    }

    fn put_off(&mut self, slot: usize, deadline: Duration) {
        self.take_out(slot);
        let lease = &mut self.slots[slot];
        lease.place = Place::Sorted;
        lease.deadline = deadline;
        self.sorted.insert((deadline, slot));
    }

    pub fn hold(&mut self, key: LeaseKey, now: Duration, renewal: (Duration, Duration)) -> bool {
        let holds = self.held(key, now).is_some();
        if holds {
            self.slots[key.slot].renewal = Some(renewal);
        }
        holds
    }

    #[inline]
    fn next(&self) -> Option<(Duration, usize)> {
        let listed = self.first.map(|slot| (self.slots[slot].deadline, slot));
        let sorted = self.sorted.first().copied();
        listed.into_iter().chain(sorted).min()
    }

    #[inline]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.next().map(|(deadline, _)| deadline)
    }

    #[inline]
    pub fn expire_one(&mut self, now: Duration) -> Option<Offset> {
        loop {
            audit::step();
            let (deadline, slot) = self.next()?;
            if now < deadline {
                return None;
            }
            match self.slots[slot].renewal {
                Some((by, until)) if now < until => self.put_off(slot, (now + by).min(until)),
                _ => return Some(self.remove(slot)),
            }
        }
    }
}
