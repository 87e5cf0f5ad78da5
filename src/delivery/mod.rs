//! Deliveries: which message of a log a consumer gets next, and for how long it is theirs.
//!
//! One [`Deliveries`] belongs to one ack cursor: a queue's, or a subscription's. It is state of
//! this life only; what is acked, how often it was tried and when it is due is the store's.
//! Invariants: an unacked message is in exactly one of eight places: leased, waiting until it is due,
//! shelved, which is the engine's business, due, released, in the lane of its priority, parked behind its group's head, or not looked at yet
//! in this life (at or above `next`, and not `known`). Time is passed in. Every operation takes constant or logarithmic time, whatever the backlog.

pub mod acked;
pub mod admission;
pub mod delay_index;
pub mod disposition;
mod groups;
mod lanes;
mod leases;
pub mod oldest;
mod retry;
mod returned;
pub mod settings;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod thresholds;
pub mod weights;

use crate::audit;
use std::{collections::BTreeSet, time::Duration};

pub use groups::Groups;
use lanes::Lanes;
use leases::Leases;
pub use leases::{LeaseKey, SlotId};
pub use retry::Retry;
use returned::{Returned, is_in, merge};
use roaring::RoaringTreemap;

use crate::ids::{Offset, OffsetRange, Timestamp};

/// So many that are acked are passed over at once.
const PASSED_AT_ONCE: u64 = 1024;

/// What a cursor has acked, as far as deliveries must know.
pub trait Acked {
    /// The first offset from `from` on, but before `end`, that is not acked.
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset>;
    /// The priority of one that is not acked.
    fn priority(&self, offset: Offset) -> u8;
}

/// Whether a message can be delivered: `None` if it is acked, as it may have been deleted.
fn wanted(
    acked: &impl Acked,
    is_visible: &mut impl FnMut(Offset) -> bool,
) -> impl FnMut(Offset) -> Option<bool> {
    |offset| acked.next_unacked(offset, offset.next()).map(|_| is_visible(offset))
}

/// The volatile state of one ack cursor.
#[derive(Debug)]
pub struct Deliveries {
    /// Nothing from here on was delivered in this life.
    next: Offset,
    /// To be delivered again, or due.
    returned: Returned,
    /// Not to be delivered before a time of day.
    waiting: BTreeSet<(Timestamp, Offset)>,
    /// Those with a priority, fresh or to be delivered again. All that are fresh are `known`.
    lanes: Lanes,
    /// Those at or above `next` that are in one of the other places, or were deleted there.
    known: RoaringTreemap,
    /// What lies from `next` up to here is `known`, or acked.
    passed: Offset,
    /// Fresh messages and others take turns, so that one that fails for ever cannot keep the others
    /// waiting.
    fresh_first: bool,
    leases: Leases,
}

impl Deliveries {
    /// Begins a life: everything from the floor on that is not acked is to be delivered.
    pub fn new(floor: Offset) -> Deliveries {
        Deliveries {
            next: floor,
            returned: Returned::default(),
            waiting: BTreeSet::new(),
            lanes: Lanes::default(),
            known: RoaringTreemap::new(),
            passed: floor,
            fresh_first: false,
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
        let offset = if let Some(offset) = self.take_urgent(acked, end, &mut is_visible) {
            offset
        } else if self.returned.is_empty() {
            self.take_fresh(acked, end, &mut is_visible)?
        } else if self.fresh_first
            && let Some(offset) = self.take_fresh(acked, end, &mut is_visible)
        {
            self.fresh_first = false;
            offset
        } else {
            self.fresh_first = true;
            let returned = self.returned.take(&mut wanted(acked, &mut is_visible));
            match returned {
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
        end: Offset,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        if self.lanes.is_empty() {
            return None;
        }
        // Where all have a priority nobody else would ever pass over what is acked.
        let unacked = acked.next_unacked(self.next, end).unwrap_or(end);
        if unacked.0 - self.next.0 >= PASSED_AT_ONCE {
            self.next = unacked;
            self.known.remove_range(..unacked.0);
        }
        self.lanes.take(&mut wanted(acked, is_visible))
    }

    #[inline]
    fn take_fresh(
        &mut self,
        acked: &impl Acked,
        end: Offset,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        loop {
            audit::step();
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

    /// Releases those that are due, until there are so many, and says how many they were.
    #[inline]
    pub fn release_due(&mut self, now: Timestamp, most: u64, acked: &impl Acked) -> usize {
        let mut count = 0;
        while let Some((due, offset)) = self.waiting.first().copied()
            && due <= now
            && self.due() < most
        {
            audit::step();
            self.waiting.pop_first();
            match acked.priority(offset) {
                0 => self.returned.come_due(offset),
                priority => self.lanes.returned(priority).come_due(offset),
            }
            count += 1;
        }
        count
    }

    /// So many of those that are due the latest, the soonest of them first.
    pub fn latest(&self, count: u64) -> Vec<(Timestamp, Offset)> {
        let mut latest: Vec<_> = self.waiting.iter().rev().take(count as usize).copied().collect();
        latest.reverse();
        latest
    }

    /// These are kept back by others from now on: they come with `defer` again.
    pub fn spill(&mut self, entries: &[(Timestamp, Offset)]) {
        audit::steps(entries.len() as u64);
        entries.iter().for_each(|entry| _ = self.waiting.remove(entry));
    }

    /// These are kept back by others, since an earlier life.
    pub fn know(&mut self, offsets: impl Iterator<Item = Offset>) {
        for offset in offsets {
            audit::step();
            self.lanes.forget(offset);
            self.known.insert(offset.0);
        }
    }

    /// How many messages are due that have waited.
    pub fn due(&self) -> u64 {
        self.returned.due()
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
        let priority = acked.priority(offset);
        if priority > 0 {
            self.lanes.insert(offset, priority);
        } else if offset < self.next && acked.next_unacked(offset.next(), self.next).is_none() {
            self.next = offset;
            self.passed = self.passed.min(offset);
        } else {
            self.returned.release(offset);
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
            0 => self.returned.remove_released(offset),
            priority => self.lanes.remove_released(offset, priority),
        };
        was_there.then(|| self.leases.grant(offset, deadline))
    }

    /// The number of the last lease.
    pub fn last_number(&self) -> u64 {
        self.leases.tokens()
    }

    /// Has all leases from now on have higher numbers.
    pub fn number_above(&mut self, number: u64) {
        self.leases.count_from(number);
    }

    /// Says whose lease it is, of those who hold so many at most.
    pub fn assign(&mut self, key: LeaseKey, seat: SlotId) {
        self.leases.assign(key, seat);
    }

    /// How many leases someone holds.
    pub fn held_by(&self, seat: SlotId) -> u64 {
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
            0 => self.returned.release(offset),
            priority => self.lanes.returned(priority).release(offset),
        }
    }

    /// Messages that could be delivered now: those of the lowest priority first, and of one the oldest
    /// first.
    pub fn ready<'a>(
        &'a mut self,
        acked: &'a impl Acked,
        end: Offset,
    ) -> impl Iterator<Item = Offset> {
        let known = move |known: &RoaringTreemap, from| {
            acked.next_unacked(from, end).filter(|offset| known.contains(offset.0))
        };
        // Each is walked past once, however often this is asked.
        self.passed = self.passed.max(self.next);
        while let Some(offset) = known(&self.known, self.passed) {
            audit::step();
            self.passed = offset.next();
        }
        let this = &*self;
        let mut next = this.passed;
        let fresh = std::iter::from_fn(move || {
            audit::step();
            while let Some(offset) = known(&this.known, next) {
                audit::step();
                next = offset.next();
            }
            let fresh = acked.next_unacked(next, end)?;
            next = fresh.next();
            Some(fresh)
        });
        let plain = merge(this.returned.iter(), fresh);
        let unacked = |offset: &Offset| acked.next_unacked(*offset, offset.next()).is_some();
        plain.chain(this.lanes.iter()).filter(unacked)
    }

    /// Messages are gone that `ready` has told of, from the first on. Those that wait are not looked at.
    pub fn forget_ready(&mut self, ranges: &[OffsetRange]) {
        audit::steps(ranges.len() as u64);
        self.returned.forget_first(ranges);
        if !self.lanes.is_empty() {
            self.lanes.forget_first(ranges);
        }
        for range in ranges {
            self.known.remove_range(range.start.0..range.end.0);
        }
    }

    /// Messages are gone, wherever they were.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        if !self.waiting.is_empty() {
            audit::steps(self.waiting.len() as u64);
            self.waiting.retain(|(_, offset)| !is_in(ranges, *offset));
        }
        audit::steps(ranges.len() as u64);
        self.returned.forget_all(ranges);
        if !self.lanes.is_empty() {
            self.lanes.forget_all(ranges);
        }
        for range in ranges {
            self.known.remove_range(range.start.0..range.end.0);
        }
    }

    /// One message is gone, which was to wait if it has a time.
    pub fn forget_one(&mut self, offset: Offset, due: Timestamp) {
        self.waiting.remove(&(due, offset));
        self.returned.remove_released(offset);
        self.lanes.forget(offset);
        self.known.remove(offset.0);
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
        audit::steps(self.in_flight());
        self.leases.offsets().collect()
    }

    /// How many messages are leased.
    pub fn in_flight(&self) -> u64 {
        self.leases.len() as u64
    }
}
