//! Leases that end together: many deliveries are acked in one commit, and their leases are looked at in slices before and after
//! it. In between the leases are *pinned*: they do not run out, and nobody else settles them.

use std::time::Duration;

use super::{Deliveries, LeaseKey};
use crate::ids::Offset;

/// A lease that was pinned.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    pub offset: Offset,
    /// Whether the message is in flight: it was not deleted while it was on lease.
    pub is_in_flight: bool,
}

impl Deliveries {
    /// Pins a lease. `None` if it does not hold at `now`.
    pub fn pin(&mut self, key: LeaseKey, now: Duration) -> Option<Pin> {
        let now = if seeded!(AckWithoutALease) { Duration::ZERO } else { now };
        let offset = self.leases.pin(key, now)?;
        Some(Pin { offset, is_in_flight: !self.gone.contains(&offset) })
    }

    /// Lets go of a lease: its message was not acked.
    pub fn unpin(&mut self, key: LeaseKey) {
        self.leases.unpin(key);
    }

    /// Notes that so many messages in flight were acked, whose leases are pinned.
    pub fn note_settled(&mut self, messages: u64) {
        self.settled += messages;
    }

    /// Notes that the lease of one of them is about to end.
    pub fn note_ending(&mut self) {
        self.settled = self.settled.saturating_sub(1);
    }
}
