//! Deliveries: which message of a log a consumer gets next, and how long the consumer may keep it.
//!
//! One [`Deliveries`] belongs to one ack cursor: that of a queue or of a subscription. It lives in memory, from
//! open to close. The store keeps the acks, the attempts and the due times. Every function takes the time as
//! an argument. Every operation takes constant or logarithmic time, whatever the backlog.
//!
//! Invariant: an unacked message is in exactly one of eight places.
//!
//! 1. *Leased*: in [`leases`].
//! 2. *Waiting* until it is due: in `waiting`.
//! 3. *Spilled*: on disk, in a block of the [`delay_index`]. The engine brings it back.
//! 4. *Due*: its time has come, in [`returned`].
//! 5. *Released*: to be delivered again, in [`returned`].
//! 6. In the lane of its priority: in [`lanes`].
//! 7. *Parked* behind the head of its key: in [`groups`].
//! 8. *Fresh*: not delivered since the engine was opened, at or above `next`, and not `known`.
//!
//! The other files hold the decisions that need no lock and no disk. `engine/core/` calls them.

pub mod acked;
pub mod admission;
pub mod batch_end;
pub mod delay_index;
pub mod disposition;
mod groups;
pub mod in_force;
mod lanes;
mod leases;
pub mod looks;
mod offset_set;
pub mod oldest;
mod opening;
mod removal;
mod retry;
mod returned;
pub mod settings;
pub mod stats;
mod taken_back;
#[cfg(test)]
mod tests;
pub mod thresholds;
pub mod weights;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use groups::Groups;
use lanes::Lanes;
use leases::Leases;
pub use leases::{Ended, Expired, LeaseKey, SlotId};
use offset_set::OffsetSet;
pub use opening::Delayed;
pub use removal::nth;
pub use retry::Retry;
pub use returned::merge;
use returned::{Readiness, Returned};

use crate::{
    audit,
    ids::{Due, Offset, Skew, Timestamp},
};

/// `next` moves over a run of acked messages once the run is this long.
const PASSED_AT_ONCE: u64 = 1024;

/// The part of a cursor's stored state that deliveries need.
pub trait Acked {
    /// The first unacked offset in `from..end`.
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset>;
    /// The priority of an unacked message.
    fn priority(&self, offset: Offset) -> u8;
    /// The stored due time of an unacked message.
    fn due(&self, offset: Offset) -> Due;
}

/// Whether a message was acked or deleted.
fn is_gone(acked: &impl Acked, offset: Offset) -> bool {
    acked.next_unacked(offset, offset.next()).is_none()
}

/// Whether a message can be delivered now.
fn readiness(
    acked: &impl Acked,
    is_visible: &mut impl FnMut(Offset) -> bool,
) -> impl FnMut(Offset) -> Readiness {
    |offset| match acked.next_unacked(offset, offset.next()) {
        None => Readiness::Gone,
        Some(_) if is_visible(offset) => Readiness::Ready,
        Some(_) => Readiness::Invisible,
    }
}

/// The volatile state of one ack cursor.
#[derive(Debug)]
pub struct Deliveries {
    /// No fresh message at or above this offset was delivered yet.
    next: Offset,
    /// Released and due messages without a priority.
    returned: Returned,
    /// Messages that wait: first those for a time of day, then those for an even time.
    waiting: BTreeSet<(Due, Offset)>,
    /// The same messages by their offsets.
    waits: OffsetSet,
    /// The due times of waiting messages that are not the stored ones: a failure was not counted yet, or cannot be.
    unstored: BTreeMap<Offset, Due>,
    /// The waiting messages of which an attempt is to be taken back, and how many attempts are left then.
    taken_back: BTreeMap<Offset, u32>,
    /// Messages with a priority, fresh or returned. The fresh ones are `known`.
    lanes: Lanes,
    /// Offsets at or above `next` whose messages are in another place, or were deleted there.
    known: OffsetSet,
    /// All messages from `next` up to this offset are `known` or acked. `ready` starts its walk here.
    passed: Offset,
    /// Whether a fresh message goes before a returned one. The two kinds alternate, so that a message that
    /// fails for ever does not hold up the others.
    fresh_first: bool,
    /// Whether a message for a time of day may be among the due ones.
    has_due_days: bool,
    leases: Leases,
    /// Leased messages that were deleted. Their consumers hold them until they settle.
    gone: BTreeSet<Offset>,
    /// Large batches that are being acked. Rarely there.
    batches: Option<Box<batch_end::Batches>>,
}

impl Deliveries {
    /// The state when the engine opens: every unacked message from the floor on is fresh.
    pub fn new(floor: Offset) -> Deliveries {
        Deliveries {
            next: floor,
            returned: Returned::default(),
            waiting: BTreeSet::new(),
            waits: OffsetSet::default(),
            unstored: BTreeMap::new(),
            taken_back: BTreeMap::new(),
            lanes: Lanes::default(),
            known: OffsetSet::default(),
            passed: floor,
            fresh_first: false,
            has_due_days: false,
            leases: Leases::default(),
            gone: BTreeSet::new(),
            batches: None,
        }
    }

    /// Leases the next message until `deadline`. `end` is the end of the log. `is_visible` tells
    /// whether a fresh message is visible to consumers yet.
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
            let returned = self.returned.take(&mut readiness(acked, &mut is_visible));
            match returned {
                Some(offset) => offset,
                None => self.take_fresh(acked, end, &mut is_visible)?,
            }
        };
        Some((offset, self.leases.grant(offset, deadline)))
    }

    /// Takes the next message with a priority.
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
        // If every message has a priority, `take_fresh` never runs. Then `next` moves over acked messages here.
        let unacked = acked.next_unacked(self.next, end).unwrap_or(end);
        if unacked.0 - self.next.0 >= PASSED_AT_ONCE {
            self.next = unacked;
            self.known.remove_below(unacked);
        }
        self.lanes.take(&mut readiness(acked, is_visible))
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
            let is_known = !self.known.is_empty() && self.known.contains(offset);
            if !is_known && !is_visible(offset) {
                return None;
            }
            if !is_known {
                self.next = offset.next();
                return Some(offset);
            }
            self.next = self.known.end_of_run(offset);
            self.known.remove_below(self.next);
        }
    }

    /// Adds a message with a priority. For a delayed message, [`defer`](Deliveries::defer) comes after this.
    pub fn prioritize(&mut self, offset: Offset, priority: u8) {
        self.lanes.insert(offset, priority);
        self.known.insert(offset);
    }

    /// Makes a message that is not leased wait until it is due.
    pub fn defer(&mut self, offset: Offset, due: Due) {
        self.lanes.forget(offset);
        self.waiting.insert((due, offset));
        self.waits.insert(offset);
        if offset >= self.next {
            self.known.insert(offset);
        }
    }

    /// The waiting message that is due first.
    fn first_waiting(&self, skew: Skew) -> Option<(Due, Offset)> {
        let day = self.waiting.first().filter(|(due, _)| !due.is_even());
        let even = self.waiting.range((Due::FIRST_EVEN, Offset(0))..).next();
        day.into_iter().chain(even).min_by_key(|(due, _)| due.even_time(skew)).copied()
    }

    /// Moves messages whose time has come from `waiting` to the due ones: `at_once` of them, and until `most` are due.
    /// `now` is the even time. Returns how many it moved. `came_due` gets each of them, and how many attempts are left if one
    /// is to be taken back.
    #[inline]
    pub fn release_due(
        &mut self,
        now: Timestamp,
        skew: Skew,
        (most, at_once): (u64, usize),
        acked: &impl Acked,
        mut came_due: impl FnMut(Offset, Option<u32>),
    ) -> usize {
        let mut count = 0;
        self.has_due_days = self.may_wait_again();
        while count < at_once
            && let Some((due, offset)) = self.first_waiting(skew)
            && due.even_time(skew) <= now
            && self.due() < most
        {
            audit::step();
            self.end_wait((due, offset));
            let attempts_left = self.forget_wait(offset);
            self.has_due_days |= acked.due(offset).is_day();
            self.returned_like(offset, acked).come_due(offset);
            came_due(offset, attempts_left);
            count += 1;
        }
        count
    }

    /// The returned messages of the same priority.
    #[inline]
    fn returned_like(&mut self, offset: Offset, acked: &impl Acked) -> &mut Returned {
        match acked.priority(offset) {
            0 => &mut self.returned,
            priority => self.lanes.returned(priority),
        }
    }

    /// Whether due messages may wait again once the clock is set back: some are for a time of day.
    #[inline]
    pub fn may_wait_again(&self) -> bool {
        self.has_due_days && self.due() > 0
    }

    /// Has a message that is to be delivered, and is not on lease, wait until it is due. `false` if it waits already, or is
    /// gone.
    pub fn wait_until(&mut self, offset: Offset, due: Due, acked: &impl Acked) -> bool {
        if self.waits.contains(offset) || is_gone(acked, offset) {
            return false;
        }
        self.returned.forget(offset);
        self.unstored.insert(offset, due);
        self.defer(offset, due);
        true
    }

    /// Has due messages from an offset on wait again whose time is still to come: about `most` of them. Returns where the next
    /// slice begins. `None` if there is none.
    pub fn wait_again(
        &mut self,
        from: Offset,
        most: usize,
        is_early: impl Fn(Due) -> bool,
        acked: &impl Acked,
    ) -> Option<Offset> {
        let last = Offset(u64::MAX);
        let range = from.to(self.end_of_slice(from.to(last), most));
        let lanes = self.lanes.due_in(range).flatten();
        let due = self.returned.due_in(range).chain(lanes).inspect(|_| audit::step());
        let early = due.map(|offset| (acked.due(offset), offset));
        let early: Vec<_> = early.filter(|(due, _)| due.waits() && is_early(*due)).collect();
        for (due, offset) in early {
            self.returned.forget(offset);
            self.defer(offset, due);
        }
        (range.end < last).then_some(range.end)
    }

    /// The `count` waiting messages that are due last.
    pub fn latest(&self, count: u64, skew: Skew) -> Vec<(Due, Offset)> {
        let first_even = (Due::FIRST_EVEN, Offset(0));
        let mut days = self.waiting.range(..first_even).rev().copied().peekable();
        let mut evens = self.waiting.range(first_even..).rev().copied().peekable();
        let later = || {
            let (day, even) = (days.peek(), evens.peek());
            let at = |it: Option<&(Due, Offset)>| it.map(|(due, _)| due.even_time(skew));
            if at(day) > at(even) { days.next() } else { evens.next() }
        };
        std::iter::from_fn(later).take(count as usize).collect()
    }

    /// Removes waiting messages that were spilled to disk. They come back with [`defer`](Deliveries::defer).
    pub fn remove_spilled(&mut self, entries: &[(Due, Offset)]) {
        audit::steps(entries.len() as u64);
        for entry in entries {
            self.end_wait(*entry);
            self.forget_wait(entry.1);
        }
    }

    /// Takes a message out of those that wait. Returns whether it was there.
    fn end_wait(&mut self, entry: (Due, Offset)) -> bool {
        let was_there = self.waiting.remove(&entry);
        if was_there {
            self.waits.remove(entry.1);
        }
        was_there
    }

    /// How many messages have waited, and are due.
    #[inline]
    pub fn due(&self) -> u64 {
        self.returned.due() + self.lanes.due()
    }

    /// The offset of the leased message, if the lease still holds at `now`.
    #[inline]
    pub fn held(&self, key: LeaseKey, now: Duration) -> Option<Offset> {
        let now = if seeded!(AckWithoutALease) { Duration::ZERO } else { now };
        let offset = self.leases.held(key, now)?;
        let is_acked = self.batches.is_some() && self.is_acked_by_batch(offset);
        (!is_acked).then_some(offset)
    }

    /// Ends a lease. The caller has acked the message, or puts it into another place. Returns `None` if the
    /// lease has ended before.
    #[inline]
    pub fn settle(&mut self, key: LeaseKey) -> Option<Offset> {
        let offset = self.leases.end(key)?;
        self.note_ended(offset);
        Some(offset)
    }

    #[inline]
    fn note_ended(&mut self, offset: Offset) {
        let is_gone = !self.gone.is_empty() && self.gone.remove(&offset);
        if self.batches.is_some() {
            self.note_ended_beside(offset, is_gone);
        }
    }

    /// Ends a lease, and delivers the message again once it is due (`Due::NOW`: at once). Returns `None`, and
    /// changes nothing, if the lease has ended before.
    pub fn release(&mut self, key: LeaseKey, due: Due, acked: &impl Acked) -> Option<Offset> {
        let offset = self.settle(key)?;
        self.put(offset, due, acked);
        Some(offset)
    }

    /// Puts a message back that no consumer has seen: behind the others. One for a time of day is due again, so that it waits
    /// once the clock is set back.
    pub fn put_unseen(&mut self, offset: Offset, acked: &impl Acked) {
        if is_gone(acked, offset) || !acked.due(offset).is_day() {
            return self.put(offset, Due::NOW, acked);
        }
        self.has_due_days = true;
        self.returned_like(offset, acked).come_due(offset);
    }

    /// Puts a message whose lease has ended back as if it had never been leased. A message that was fresh is fresh
    /// again, unless an unacked message lies between it and `next`. To put back several, begin with the last one.
    pub fn take_back(&mut self, offset: Offset, acked: &impl Acked) {
        if is_gone(acked, offset) {
            return;
        }
        if acked.due(offset).is_day() {
            self.has_due_days = true;
            return self.returned_like(offset, acked).put_first(offset);
        }
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

    /// Leases a message that was released or has come due. `None` if it is not among those.
    pub fn lease_returned(
        &mut self,
        offset: Offset,
        deadline: Duration,
        acked: &impl Acked,
    ) -> Option<LeaseKey> {
        let was_there = match acked.priority(offset) {
            0 => self.returned.forget(offset),
            priority => self.lanes.remove_returned(offset, priority),
        };
        was_there.then(|| self.leases.grant(offset, deadline))
    }

    /// The number of the last lease.
    pub fn last_number(&self) -> u64 {
        self.leases.tokens()
    }

    /// Gives all later leases numbers above `number`.
    pub fn number_above(&mut self, number: u64) {
        self.leases.count_from(number);
    }

    /// Assigns a lease to the slot of its consumer, whose leases are counted.
    pub fn assign(&mut self, key: LeaseKey, slot: SlotId) {
        self.leases.assign(key, slot);
    }

    /// Notes the number of the attempt that a lease is for.
    #[inline]
    pub fn set_attempt(&mut self, key: LeaseKey, attempt: u32) {
        self.leases.set_attempt(key, attempt);
    }

    /// Whether a lease has not ended. It may have run out.
    pub fn is_leased(&self, key: LeaseKey) -> bool {
        self.leases.exists(key)
    }

    /// Notes whether the handling of a leased message is still to begin.
    pub fn set_untouched(&mut self, key: LeaseKey, is_untouched: bool) {
        self.leases.set_untouched(key, is_untouched);
    }

    /// How many leases a slot holds.
    pub fn held_by(&self, slot: SlotId) -> u64 {
        self.leases.held_by(slot)
    }

    /// Whether a lease of a slot has ended since the last call.
    #[inline]
    pub fn take_freed(&mut self) -> bool {
        self.leases.take_freed()
    }

    /// Puts a message whose lease has ended into its place: waiting, or released if it is not to wait. A message that
    /// was deleted has no place.
    pub fn put(&mut self, offset: Offset, due: Due, acked: &impl Acked) {
        if is_gone(acked, offset) {
            return;
        }
        if !due.waits() {
            return self.returned_like(offset, acked).release(offset);
        }
        if acked.due(offset) != due {
            self.unstored.insert(offset, due);
        }
        self.defer(offset, due);
    }

    /// Moves the deadline of a lease. Returns `false` if the lease does not hold at `now`.
    pub fn extend(&mut self, key: LeaseKey, now: Duration, deadline: Duration) -> bool {
        let may_move = self.batches.is_none() || self.may_move_beside(key);
        may_move && self.leases.extend(key, now, deadline)
    }

    /// Renews a lease each time it would run out. `renewal` is how long one renewal lasts, and the time at
    /// which renewals end. Returns `false` if the lease does not hold at `now`.
    pub fn hold(&mut self, key: LeaseKey, now: Duration, renewal: (Duration, Duration)) -> bool {
        let may_move = self.batches.is_none() || self.may_move_beside(key);
        may_move && self.leases.hold(key, now, renewal)
    }

    /// Ends or renews one lease whose deadline has come. If it ran out, the caller puts its message into another place.
    #[inline]
    pub fn expire_one(&mut self, now: Duration) -> Option<Ended> {
        if self.batches.is_some()
            && let Some(ended) = self.put_off_acked(now)
        {
            return Some(ended);
        }
        let ended = self.leases.expire_one(now)?;
        if let Ended::RanOut(expired) = ended {
            self.note_ended(expired.offset);
        }
        Some(ended)
    }

    /// The lease that runs out first, and the number of its attempt.
    pub fn first_lease(&self) -> Option<(LeaseKey, u32)> {
        self.leases.first()
    }

    /// When the next lease expires.
    #[inline]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.leases.next_deadline()
    }

    /// The even time at which the next message is due.
    #[inline]
    pub fn next_due(&self, skew: Skew) -> Option<Timestamp> {
        self.first_waiting(skew).map(|(due, _)| due.even_time(skew))
    }

    /// How many messages wait until they are due.
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Whether all messages are fresh or gone, and none is on lease: the acks tell all that this knows.
    pub fn is_at_rest(&self) -> bool {
        self.leases.len() == 0
            && self.waiting.is_empty()
            && self.returned.is_empty()
            && self.lanes.is_empty()
            && self.unstored.is_empty()
            && self.batches.is_none()
    }

    /// How many messages are leased. Deleted ones do not count, and acked ones.
    pub fn in_flight(&self) -> u64 {
        (self.leases.len() - self.gone.len()) as u64 - self.acked_by_batches()
    }
}
