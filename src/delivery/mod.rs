//! Deliveries: which message of a log a consumer gets next, and for how long it is theirs.
//!
//! One [`Deliveries`] belongs to one ack cursor: a queue's, or a subscription's. It is state of
//! this life only; what is acked and how often it failed is the store's. Invariants: an unacked
//! message is in exactly one of three places: leased, released, or not delivered yet in this life
//! (at or above `next`). Time is passed in. Every operation takes constant or logarithmic time,
//! whatever the backlog.

mod leases;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use leases::LeaseKey;
use leases::Leases;
use roaring::RoaringTreemap;

use crate::ids::Offset;

/// What a cursor has acked, as far as deliveries must know.
pub trait Acked {
    /// The first offset from `from` on, but before `end`, that is not acked.
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset>;
}

/// The volatile state of one ack cursor.
#[derive(Debug)]
pub struct Deliveries {
    /// Nothing from here on was delivered in this life.
    next: Offset,
    /// Delivered before, and to be delivered again.
    released: RoaringTreemap,
    /// Released messages take turns: the next one is at or above this offset.
    turn: u64,
    /// Fresh messages and released ones take turns, too, so that one that fails for ever cannot
    /// keep the others waiting.
    fresh_first: bool,
    leases: Leases,
}

impl Deliveries {
    /// Begins a life: everything from the floor on that is not acked is to be delivered.
    pub fn new(floor: Offset) -> Deliveries {
        Deliveries {
            next: floor,
            released: RoaringTreemap::new(),
            turn: 0,
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
        let offset = if self.released.is_empty() {
            self.take_fresh(acked, end, &mut is_visible)?
        } else if self.fresh_first
            && let Some(offset) = self.take_fresh(acked, end, &mut is_visible)
        {
            self.fresh_first = false;
            offset
        } else {
            self.fresh_first = true;
            self.take_released()?
        };
        Some((offset, self.leases.grant(offset, deadline)))
    }

    #[inline]
    fn take_fresh(
        &mut self,
        acked: &impl Acked,
        end: Offset,
        is_visible: &mut impl FnMut(Offset) -> bool,
    ) -> Option<Offset> {
        let offset = acked.next_unacked(self.next, end)?;
        if !is_visible(offset) {
            return None;
        }
        self.next = offset.next();
        Some(offset)
    }

    fn take_released(&mut self) -> Option<Offset> {
        let rank = match self.turn {
            0 => 0,
            turn => self.released.rank(turn - 1),
        };
        let found = self.released.select(rank).or_else(|| self.released.min())?;
        self.released.remove(found);
        self.turn = found + 1;
        Some(Offset(found))
    }

    /// The offset of a delivery whose lease still holds at `now`.
    #[inline]
    pub fn held(&self, key: LeaseKey, now: Duration) -> Option<Offset> {
        let now = if seeded!(AckWithoutALease) { Duration::ZERO } else { now };
        self.leases.held(key, now)
    }

    /// Ends a lease: the message was acked.
    #[inline]
    pub fn settle(&mut self, key: LeaseKey) {
        self.leases.end(key);
    }

    /// Ends a lease: the message is to be delivered again. Nothing happens if it ended before.
    pub fn release(&mut self, key: LeaseKey) -> Option<Offset> {
        let offset = self.leases.end(key)?;
        self.released.insert(offset.0);
        Some(offset)
    }

    /// Moves a lease's deadline. `false` if the lease does not hold at `now`.
    pub fn extend(&mut self, key: LeaseKey, now: Duration, deadline: Duration) -> bool {
        self.leases.extend(key, now, deadline)
    }

    /// Ends one lease whose deadline has come; its message is to be delivered again.
    #[inline]
    pub fn expire_one(&mut self, now: Duration) -> Option<Offset> {
        let offset = self.leases.expire_one(now)?;
        self.released.insert(offset.0);
        Some(offset)
    }

    /// When the next lease runs out.
    #[inline]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.leases.next_deadline()
    }

    /// How many messages are leased.
    pub fn in_flight(&self) -> u64 {
        self.leases.len() as u64
    }
}
