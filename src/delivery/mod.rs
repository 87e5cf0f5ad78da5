//! Deliveries: which message of a log a consumer gets next, and for how long it is theirs.
//!
//! One [`Deliveries`] belongs to one ack cursor: a queue's, or a subscription's. It is state of
//! this life only; what is acked, how often it was tried and when it is due is the store's.
//! Invariants: an unacked message is in exactly one of seven places: leased, waiting until it is due,
//! due, released, in the lane of its priority, parked behind its group's head, or not looked at yet
//! in this life (at or above `next`, and not `known`). Time is passed in. Every operation takes constant or logarithmic time, whatever the backlog.

mod groups;
mod lanes;
mod leases;
mod retry;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    time::Duration,
};

pub use groups::Groups;
use lanes::Lanes;
use leases::Leases;
pub use leases::{LeaseKey, SeatId};
pub use retry::Retry;
use roaring::RoaringTreemap;

use crate::ids::{Offset, Timestamp};

/// What a cursor has acked, as far as deliveries must know.
pub trait Acked {
    /// The first offset from `from` on, but before `end`, that is not acked.
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset>;
    /// The priority of one that is not acked.
    fn priority(&self, offset: Offset) -> u8;
}

/// The volatile state of one ack cursor.
#[derive(Debug)]
pub struct Deliveries {
    /// Nothing from here on was delivered in this life.
    next: Offset,
    /// Delivered before, and to be delivered again.
    released: RoaringTreemap,
    /// Not to be delivered before a time of day.
    waiting: BTreeSet<(Timestamp, Offset)>,
    /// Those whose time has come, in that order.
    due: VecDeque<Offset>,
    /// Those with a priority, fresh or to be delivered again. All that are fresh are `known`.
    lanes: Lanes,
    /// Those at or above `next` that are in one of the other places, or were deleted there.
    known: RoaringTreemap,
    /// Released messages take turns: the next one is at or above this offset.
    turn: u64,
    /// Fresh messages and others take turns, too, so that one that fails for ever cannot keep the
    /// others waiting; and of the others, those that are due and those that were released.
    fresh_first: bool,
    due_first: bool,
    leases: Leases,
}

impl Deliveries {
    /// Begins a life: everything from the floor on that is not acked is to be delivered.
    pub fn new(floor: Offset) -> Deliveries {
        Deliveries {
            next: floor,
            released: RoaringTreemap::new(),
            waiting: BTreeSet::new(),
            due: VecDeque::new(),
            lanes: Lanes::default(),
            known: RoaringTreemap::new(),
            turn: 0,
            fresh_first: false,
            due_first: false,
            leases: Leases::default(),
        }
    }

    /// Leases the next message until a deadline. `end` is where the log ends, and `is_visible`
    /// says whether a fresh message may be seen yet.
    #[inline]
    pub fn lease_next(
        &mut self,
        acked: &impl Acked,
        end: Offset,
        deadline: Duration,
        mut is_visible: impl FnMut(Offset) -> bool,
    ) -> Option<(Offset, LeaseKey)> {
        let offset = if let Some(offset) = self.take_urgent(acked, &mut is_visible) {
            offset
        } else if self.released.is_empty() && self.due.is_empty() {
            self.take_fresh(acked, end, &mut is_visible)?
        } else if self.fresh_first
            && let Some(offset) = self.take_fresh(acked, end, &mut is_visible)
        {
            self.fresh_first = false;
            offset
        } else {
            self.fresh_first = true;
            match self.take_returning(acked, &mut is_visible) {
                Some(offset) => offset,
                None => self.take_fresh(acked, end, &mut is_visible)?,
            }
        };
        Some((offset, self.leases.grant(offset, deadline)))
    }

    /// Takes the next one that has a priority.
    #[inline]
    fn take_urgent(
        &mut self,
        acked: &impl Acked,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        if self.lanes.is_empty() {
            return None;
        }
        self.lanes.take(&mut |offset| {
            acked.next_unacked(offset, offset.next()).map(|_| is_visible(offset))
        })
    }

    #[inline]
    fn take_fresh(
        &mut self,
        acked: &impl Acked,
        end: Offset,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        loop {
            let offset = acked.next_unacked(self.next, end)?;
            let is_known = !self.known.is_empty() && self.known.contains(offset.0);
            if !is_known && !is_visible(offset) {
                return None;
            }
            self.next = offset.next();
            if !is_known {
                return Some(offset);
            }
            self.known.remove_range(..self.next.0);
        }
    }

    fn take_returning(
        &mut self,
        acked: &impl Acked,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        self.due_first = !self.due_first;
        if self.due_first {
            let found = self.take_due(acked, is_visible);
            found.or_else(|| self.take_released(acked, is_visible))
        } else {
            let found = self.take_released(acked, is_visible);
            found.or_else(|| self.take_due(acked, is_visible))
        }
    }

    fn take_due(
        &mut self,
        acked: &impl Acked,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        for _ in 0..self.due.len() {
            let offset = self.due.pop_front()?;
            if acked.next_unacked(offset, offset.next()).is_none() {
                // It was deleted meanwhile.
                continue;
            }
            if is_visible(offset) {
                return Some(offset);
            }
            self.due.push_back(offset);
        }
        None
    }

    fn take_released(
        &mut self,
        acked: &impl Acked,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        while !self.released.is_empty() {
            let rank = match self.turn {
                0 => 0,
                turn => self.released.rank(turn - 1),
            };
            let found = self.released.select(rank).or_else(|| self.released.min())?;
            self.turn = found + 1;
            self.released.remove(found);
            let offset = Offset(found);
            // It may have been deleted meanwhile. If not, it was delivered before, and is visible:
            // this tells the caller where it is.
            if acked.next_unacked(offset, offset.next()).is_some() && is_visible(offset) {
                return Some(offset);
            }
        }
        None
    }

    /// A message has come that has a priority. Where it is to wait, too, that is said afterwards.
    pub fn prioritize(&mut self, offset: Offset, priority: u8) {
        self.lanes.insert(offset, priority);
        self.known.insert(offset.0);
    }

    /// Keeps a message back that is not on lease.
    pub fn defer(&mut self, offset: Offset, due: Timestamp) {
        self.lanes.forget(offset);
        self.waiting.insert((due, offset));
        if offset >= self.next {
            self.known.insert(offset.0);
        }
    }

    /// Releases those that are due, and says how many they were.
    #[inline]
    pub fn release_due(&mut self, now: Timestamp, acked: &impl Acked) -> usize {
        let mut count = 0;
        while let Some((due, offset)) = self.waiting.first().copied()
            && due <= now
        {
            self.waiting.pop_first();
            match acked.priority(offset) {
                0 => self.due.push_back(offset),
                priority => self.lanes.put_back(offset, priority),
            }
            count += 1;
        }
        count
    }

    /// The offset of a delivery whose lease still holds at `now`.
    #[inline]
    pub fn held(&self, key: LeaseKey, now: Duration) -> Option<Offset> {
        let now = if seeded!(AckWithoutALease) { Duration::ZERO } else { now };
        self.leases.held(key, now)
    }

    /// Ends a lease, if it has not ended before: the message was acked, or is to be put somewhere.
    #[inline]
    pub fn settle(&mut self, key: LeaseKey) -> Option<Offset> {
        self.leases.end(key)
    }

    /// Ends a lease: the message is to be delivered again, not before it is due (0: at once).
    /// Nothing happens if it ended before.
    pub fn release(&mut self, key: LeaseKey, due: Timestamp, acked: &impl Acked) -> Option<Offset> {
        let offset = self.leases.end(key)?;
        self.put(offset, due, acked);
        Some(offset)
    }

    /// Ends a lease as if it had never been granted: a message that was fresh is fresh again, where
    /// nothing else was delivered behind it. To be called for the last one first.
    pub fn take_back(&mut self, key: LeaseKey, acked: &impl Acked) {
        let Some(offset) = self.leases.end(key) else { return };
        if acked.priority(offset) > 0 {
            self.put(offset, Timestamp(0), acked);
        } else if offset < self.next && acked.next_unacked(offset.next(), self.next).is_none() {
            self.next = offset;
        } else {
            self.released.insert(offset.0);
        }
    }

    /// Leases one of those that were released.
    pub fn lease_released(
        &mut self,
        offset: Offset,
        deadline: Duration,
        acked: &impl Acked,
    ) -> Option<LeaseKey> {
        let was_there = match acked.priority(offset) {
            0 => self.released.remove(offset.0),
            priority => self.lanes.remove_returned(offset, priority),
        };
        was_there.then(|| self.leases.grant(offset, deadline))
    }

    /// Says whose lease it is, of those who hold so many at most.
    pub fn assign(&mut self, key: LeaseKey, seat: SeatId) {
        self.leases.assign(key, seat);
    }

    /// How many leases someone holds.
    pub fn held_by(&self, seat: SeatId) -> u64 {
        self.leases.held_by(seat)
    }

    /// Whether one of those has ended since this was last asked.
    #[inline]
    pub fn take_freed(&mut self) -> bool {
        self.leases.take_freed()
    }

    /// Takes one back that was on lease.
    pub fn put(&mut self, offset: Offset, due: Timestamp, acked: &impl Acked) {
        match acked.priority(offset) {
            _ if due != Timestamp(0) => self.defer(offset, due),
            0 => drop(self.released.insert(offset.0)),
            priority => self.lanes.put_back(offset, priority),
        }
    }

    /// Messages that could be delivered now: those of the lowest priority first, and of one the oldest
    /// first.
    pub fn ready<'a>(&'a self, acked: &'a impl Acked, end: Offset) -> impl Iterator<Item = Offset> {
        let unacked = |offset: &Offset| acked.next_unacked(*offset, offset.next()).is_some();
        let mut due: Vec<Offset> = self.due.iter().copied().collect();
        due.sort_unstable();
        let mut due = due.into_iter().peekable();
        let mut released = self.released.iter().map(Offset).peekable();
        let mut released = std::iter::from_fn(move || match (due.peek(), released.peek()) {
            (Some(due_one), Some(released_one)) if due_one > released_one => released.next(),
            (Some(_), _) => due.next(),
            (None, _) => released.next(),
        })
        .filter(unacked)
        .peekable();
        let mut next = self.next;
        let plain = std::iter::from_fn(move || {
            let mut fresh = acked.next_unacked(next, end);
            while let Some(offset) = fresh.filter(|offset| self.known.contains(offset.0)) {
                next = offset.next();
                fresh = acked.next_unacked(next, end);
            }
            match (released.peek(), fresh) {
                (Some(released), Some(fresh)) if *released > fresh => {}
                (Some(_), _) => return released.next(),
                (None, _) => {}
            }
            next = fresh?.next();
            fresh
        });
        plain.chain(self.lanes.iter().filter(unacked))
    }

    /// Messages are gone, wherever they were.
    pub fn forget_all(&mut self, ranges: &[Range<u64>]) {
        if !self.waiting.is_empty() {
            let gone = |offset: &Offset| {
                let at = ranges.partition_point(|range| range.end <= offset.0);
                ranges.get(at).is_some_and(|range| range.contains(&offset.0))
            };
            self.waiting.retain(|(_, offset)| !gone(offset));
        }
    }

    /// A message that was to wait is gone.
    pub fn forget_waiting(&mut self, offset: Offset, due: Timestamp) {
        self.waiting.remove(&(due, offset));
    }

    /// Moves a lease's deadline. `false` if the lease does not hold at `now`.
    pub fn extend(&mut self, key: LeaseKey, now: Duration, deadline: Duration) -> bool {
        self.leases.extend(key, now, deadline)
    }

    /// Has a lease renewed by itself, by so much each time, up to a deadline. `false` if it does not
    /// hold at `now`.
    pub fn hold(&mut self, key: LeaseKey, now: Duration, renewal: (Duration, Duration)) -> bool {
        self.leases.hold(key, now, renewal)
    }

    /// Ends one lease whose deadline has come. Its message is to be put somewhere.
    #[inline]
    pub fn expire_one(&mut self, now: Duration) -> Option<Offset> {
        self.leases.expire_one(now)
    }

    /// When the next lease runs out.
    #[inline]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.leases.next_deadline()
    }

    /// When the next message is due.
    #[inline]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// How many messages wait until they are due.
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The messages on lease, in order.
    pub fn leased(&self) -> BTreeSet<Offset> {
        self.leases.offsets().collect()
    }

    /// How many messages are leased.
    pub fn in_flight(&self) -> u64 {
        self.leases.len() as u64
    }
}
