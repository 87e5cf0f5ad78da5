//! The leases of one cursor. To grant, extend, end or expire a lease takes constant time in the common case.
//!
//! Leases with the same duration run out in the order in which they were granted. They form a doubly linked
//! list in that order, and any entry can be removed from it. The few leases whose deadline is out of
//! that order (extended ones) are in a sorted set beside the list.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
    time::Duration,
};

use slab::Slab;

use super::offset_set::OffsetSet;
use crate::{audit, ids::Offset};

/// The number of a consumer's slot. A lease with slot 0 belongs to no slot.
pub type SlotId = u32;

/// Names one lease. The key of an ended lease is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    index: usize,
    token: u64,
}

impl LeaseKey {
    /// The number of the lease, counted for its cursor since the engine was opened.
    pub fn number(self) -> u64 {
        self.token
    }
}

/// A lease that ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    pub offset: Offset,
    /// Whether the handling of the message was still to begin.
    pub is_untouched: bool,
    /// The number of the attempt.
    pub attempt: u32,
}

/// What became of a lease whose deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    RanOut(Expired),
    Renewed,
}

#[derive(Debug)]
struct Lease {
    offset: Offset,
    /// The number of the attempt. 0 until it is noted.
    attempt: u32,
    slot: SlotId,
    /// Whether it is part of a batch, and the handling of its message has not begun. It is set where attempts are
    /// counted when the handling begins.
    is_untouched: bool,
    token: u64,
    deadline: Duration,
    /// How long one renewal lasts, and the time at which renewals end.
    renewal: Option<(Duration, Duration)>,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the list, between two entries.
    Listed { before: Option<usize>, behind: Option<usize> },
    /// In the sorted set.
    Sorted,
}

/// Leased messages by their offsets.
#[derive(Debug, Default)]
struct ByOffset {
    offsets: OffsetSet,
    /// The leases at these places are listed. Those that are granted later are, too.
    upto: usize,
    is_complete: bool,
}

#[derive(Debug, Default)]
pub struct Leases {
    entries: Slab<Lease>,
    first: Option<usize>,
    last: Option<usize>,
    sorted: BTreeSet<(Duration, usize)>,
    tokens: u64,
    /// How many leases each slot holds. A slot without leases is not in it.
    held_by_slot: BTreeMap<SlotId, u64>,
    /// Whether a lease of a slot has ended since the last call of `take_freed`.
    has_freed: bool,
    /// It is there while someone needs it, as to keep it would make each receive and each ack slower.
    by_offset: Option<Box<ByOffset>>,
}

impl Leases {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Lists the leases at the next `most` places. Returns whether all are listed.
    pub fn list(&mut self, most: usize) -> bool {
        let list = self.by_offset.get_or_insert_default();
        list.is_complete |= self.entries.is_empty();
        if !list.is_complete {
            let upto = (list.upto + most).min(self.entries.capacity());
            for index in list.upto..upto {
                audit::step();
                if let Some(lease) = self.entries.get(index) {
                    list.offsets.insert(lease.offset);
                }
            }
            list.upto = upto;
            list.is_complete = upto == self.entries.capacity();
        }
        list.is_complete
    }

    /// Keeps the list up to date: an offset is on lease now, or no longer. Out of line, as a list is rarely there.
    #[cold]
    #[inline(never)]
    fn note_listed(&mut self, offset: Offset, is_leased: bool) {
        match &mut self.by_offset {
            Some(list) if is_leased => list.offsets.insert(offset),
            Some(list) => _ = list.offsets.remove(offset),
            None => {}
        }
    }

    /// Takes the list away. The caller drops it, without the core.
    pub fn drop_list(&mut self) -> impl Sized + Send + use<> {
        self.by_offset.take()
    }

    /// The listed offsets from one on.
    pub fn listed_from(&self, from: Offset) -> impl Iterator<Item = Offset> {
        let list = self.by_offset.as_ref();
        list.into_iter().flat_map(move |list| list.offsets.iter_from(from))
    }

    /// The number of the last lease. [`count_from`](Leases::count_from) may have skipped numbers before it.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Continues the numbers of leases from `tokens`, unless they are higher already.
    pub fn count_from(&mut self, tokens: u64) {
        self.tokens = self.tokens.max(tokens);
    }

    #[inline]
    pub fn grant(&mut self, offset: Offset, deadline: Duration) -> LeaseKey {
        self.tokens += 1;
        let token = self.tokens;
        let last = self.last;
        let in_order = last.is_none_or(|last| self.entries[last].deadline <= deadline);
        let place = match in_order {
            true => Place::Listed { before: last, behind: None },
            false => Place::Sorted,
        };
        let (attempt, slot, is_untouched, renewal) = (0, 0, false, None);
        let lease = Lease { offset, attempt, slot, is_untouched, token, deadline, renewal, place };
        let index = self.entries.insert(lease);
        if self.by_offset.is_some() {
            self.note_listed(offset, true);
        }
        if in_order {
            match last {
                Some(last) => self.relink(last, |_, behind| *behind = Some(index)),
                None => self.first = Some(index),
            }
            self.last = Some(index);
        } else {
            self.sorted.insert((deadline, index));
        }
        LeaseKey { index, token }
    }

    #[inline]
    fn relink(
        &mut self,
        index: usize,
        change: impl FnOnce(&mut Option<usize>, &mut Option<usize>),
    ) {
        match &mut self.entries[index].place {
            Place::Listed { before, behind } => change(before, behind),
            Place::Sorted => unreachable!("neighbours in the list are listed"),
        }
    }

    #[inline]
    fn take_out(&mut self, index: usize) {
        let Lease { place, deadline, .. } = self.entries[index];
        let Place::Listed { before, behind } = place else {
            self.sorted.remove(&(deadline, index));
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
        self.entries.get(key.index).filter(|lease| lease.token == key.token)
    }

    #[inline]
    pub fn held(&self, key: LeaseKey, now: Duration) -> Option<Offset> {
        let holds = |lease: &&Lease| {
            now < lease.deadline || lease.renewal.is_some_and(|(_, until)| now < until)
        };
        self.get(key).filter(holds).map(|lease| lease.offset)
    }

    /// The lease whose deadline comes first, and the number of its attempt.
    pub fn first(&self) -> Option<(LeaseKey, u32)> {
        let (_, index) = self.next()?;
        let Lease { token, attempt, .. } = self.entries[index];
        Some((LeaseKey { index, token }, attempt))
    }

    /// Ends a lease. Returns `None` if it has ended before.
    #[inline]
    pub fn end(&mut self, key: LeaseKey) -> Option<Offset> {
        self.get(key)?;
        Some(self.remove(key.index))
    }

    #[inline]
    fn remove(&mut self, index: usize) -> Offset {
        self.take_out(index);
        let Lease { offset, slot, .. } = self.entries.remove(index);
        if slot != 0 {
            self.free(slot);
        }
        if self.by_offset.is_some() {
            self.note_listed(offset, false);
        }
        offset
    }

    fn free(&mut self, slot: SlotId) {
        if let Entry::Occupied(mut held) = self.held_by_slot.entry(slot) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        self.has_freed = true;
    }

    /// Notes the number of the attempt.
    #[inline]
    pub fn set_attempt(&mut self, key: LeaseKey, attempt: u32) {
        if self.get(key).is_some() {
            self.entries[key.index].attempt = attempt;
        }
    }

    /// Whether a lease has not ended. It may have run out.
    pub fn exists(&self, key: LeaseKey) -> bool {
        self.get(key).is_some()
    }

    /// Notes whether the handling of a message is still to begin.
    pub fn set_untouched(&mut self, key: LeaseKey, is_untouched: bool) {
        if self.get(key).is_some() {
            self.entries[key.index].is_untouched = is_untouched;
        }
    }

    /// Assigns a lease to a slot. A lease that has a slot keeps it.
    pub fn assign(&mut self, key: LeaseKey, slot: SlotId) {
        if self.get(key).is_some_and(|lease| lease.slot == 0) {
            self.entries[key.index].slot = slot;
            *self.held_by_slot.entry(slot).or_default() += 1;
        }
    }

    /// How many leases a slot holds.
    pub fn held_by(&self, slot: SlotId) -> u64 {
        self.held_by_slot.get(&slot).copied().unwrap_or(0)
    }

    /// Whether a lease of a slot has ended since the last call.
    #[inline]
    pub fn take_freed(&mut self) -> bool {
        mem::take(&mut self.has_freed)
    }

    pub fn extend(&mut self, key: LeaseKey, now: Duration, deadline: Duration) -> bool {
        if self.held(key, now).is_none() {
            return false;
        }
        self.postpone(key.index, deadline);
        true
    }

    fn postpone(&mut self, index: usize, deadline: Duration) {
        self.take_out(index);
        let lease = &mut self.entries[index];
        lease.place = Place::Sorted;
        lease.deadline = deadline;
        self.sorted.insert((deadline, index));
    }

    pub fn hold(&mut self, key: LeaseKey, now: Duration, renewal: (Duration, Duration)) -> bool {
        let holds = self.held(key, now).is_some();
        if holds {
            self.entries[key.index].renewal = Some(renewal);
        }
        holds
    }

    #[inline]
    fn next(&self) -> Option<(Duration, usize)> {
        let listed = self.first.map(|index| (self.entries[index].deadline, index));
        // Most leases are not extended.
        match (listed, self.sorted.first()) {
            (listed, None) => listed,
            (None, Some(sorted)) => Some(*sorted),
            (Some(listed), Some(sorted)) => Some(listed.min(*sorted)),
        }
    }

    #[inline]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.next().map(|(deadline, _)| deadline)
    }

    /// The message of the lease whose deadline came first, if it has come.
    pub fn first_overdue(&self, now: Duration) -> Option<Offset> {
        let (deadline, index) = self.next()?;
        (deadline <= now).then(|| self.entries[index].offset)
    }

    /// Puts the first deadline off.
    pub fn put_off_first(&mut self, deadline: Duration) {
        if let Some((_, index)) = self.next() {
            self.postpone(index, deadline);
        }
    }

    /// The message of a lease.
    pub fn offset(&self, key: LeaseKey) -> Option<Offset> {
        self.get(key).map(|lease| lease.offset)
    }

    /// Until when a lease holds, with its renewals.
    pub fn holds_until(&self, key: LeaseKey) -> Option<Duration> {
        let lease = self.get(key)?;
        Some(lease.renewal.map_or(lease.deadline, |(_, until)| until.max(lease.deadline)))
    }

    /// Ends or renews the lease whose deadline came first. `None` if no deadline has come.
    #[inline]
    pub fn expire_one(&mut self, now: Duration) -> Option<Ended> {
        audit::step();
        let (deadline, index) = self.next()?;
        if now < deadline {
            return None;
        }
        if let Some((by, until)) = self.entries[index].renewal
            && now < until
        {
            self.postpone(index, (now + by).min(until));
            return Some(Ended::Renewed);
        }
        let Lease { is_untouched, attempt, .. } = self.entries[index];
        Some(Ended::RanOut(Expired { offset: self.remove(index), is_untouched, attempt }))
    }
}
