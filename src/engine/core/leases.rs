//! How leases end: settled, released or taken back.

use std::time::Duration;

use super::{Core, consumption::Consumption, errors::lease_lost};
use crate::{
    delivery::{Deliveries, LeaseKey, stats::Counts},
    error::{Error, Result},
    ids::{CursorId, Due, LogId, Offset},
};

impl Core {
    /// The offset of a delivery whose lease holds.
    #[inline(always)]
    pub fn held(&mut self, cursor: CursorId, key: LeaseKey, now: Duration) -> Result<Offset> {
        match self.consumers.get(&cursor) {
            Some(consumption) => consumption.deliveries.held(key, now).ok_or_else(lease_lost),
            None => Err(self.not_held(cursor)),
        }
    }

    /// The error of a delivery whose cursor has no state. A dormant cursor has no leases.
    #[cold]
    fn not_held(&self, cursor: CursorId) -> Error {
        if self.store.acks(cursor).is_some() {
            lease_lost()
        } else {
            self.store.deleted(cursor.entity())
        }
    }

    /// Ends the lease of a message that has left the cursor, and counts it.
    #[inline]
    fn end_lease(&mut self, cursor: CursorId, key: LeaseKey, count: impl FnOnce(&mut Consumption)) {
        let Core { consumers, effects, .. } = self;
        if let Some(consumption) = consumers.get_mut(&cursor)
            && let Some(offset) = consumption.deliveries.settle(key)
        {
            count(consumption);
            consumption.note_capacity(effects, 1);
            consumption.note_freed_slots(effects);
            if consumption.groups.is_some() {
                self.advance_key(cursor, offset);
            }
        }
    }

    /// Ends the lease of a message that was deleted. `has_failed` counts this delivery as failed.
    pub fn end_deleted(&mut self, cursor: CursorId, key: LeaseKey, has_failed: bool) {
        self.end_lease(cursor, key, |consumption| {
            consumption.counts.failed += u64::from(has_failed);
        });
    }

    /// Ends the lease of a message that was dropped because its time to live is over.
    pub fn end_expired(&mut self, cursor: CursorId, key: LeaseKey) {
        self.end_lease(cursor, key, |consumption| consumption.counts.expired += 1);
    }

    /// Ends the lease of an acked message. `took` is the time since it was received.
    #[inline]
    pub fn end_acked(&mut self, cursor: CursorId, key: LeaseKey, took: Duration) {
        self.end_lease(cursor, key, |consumption| {
            consumption.counts.acked += 1;
            consumption.handling.record(took);
        });
    }

    /// Ends the lease of a message that moved to the dead letters. `has_failed` counts this delivery as failed.
    pub fn end_dead(&mut self, cursor: CursorId, key: LeaseKey, has_failed: bool) {
        self.end_lease(cursor, key, |consumption| {
            consumption.counts.dead += 1;
            consumption.counts.failed += u64::from(has_failed);
        });
    }

    /// Ends a lease, and delivers the message again once it is due.
    pub fn release(&mut self, cursor: CursorId, key: LeaseKey, due: Due) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(acks) = self.store.acks(cursor)
            && let Some(offset) = consumption.deliveries.release(key, due, acks)
        {
            let log = consumption.info.log;
            if consumption.groups.is_some() && acks.is_acked(offset) {
                // It was deleted while it was on lease. The next message of its key goes on.
                self.advance_key(cursor, offset);
            }
            self.wake_or_arm(cursor, log, due);
            self.note_freed_slots(cursor);
            self.note_returned(cursor, offset);
        }
    }

    /// Ends a lease because the delivery failed.
    pub fn release_failed(&mut self, cursor: CursorId, key: LeaseKey, due: Due) {
        self.count(cursor, |counts| counts.failed += 1);
        self.release(cursor, key, due);
    }

    /// Ends the lease of a message that no handler has seen. That is no failure.
    pub fn put_back(&mut self, cursor: CursorId, key: LeaseKey) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let Some(offset) = consumption.deliveries.settle(key) else { return };
        self.put_unhandled(cursor, offset, Deliveries::put_unseen);
        self.note_freed_slots(cursor);
        self.note_returned(cursor, offset);
        self.move_if_exhausted(cursor, Some(offset));
    }

    /// Ends a lease as if it had never been granted. Its attempt was not counted.
    pub fn take_back(&mut self, cursor: CursorId, key: LeaseKey) {
        let offset = self.held(cursor, key, Duration::ZERO).ok();
        self.give_back_uncounted(cursor, key, 0);
        self.move_if_exhausted(cursor, offset);
    }

    /// Notes whether the handling of a leased message is still to begin. It does nothing where attempts are counted when
    /// they fail.
    pub fn set_untouched(&mut self, cursor: CursorId, key: LeaseKey, is_untouched: bool) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && consumption.rules.retry.counts_first()
        {
            consumption.deliveries.set_untouched(key, is_untouched);
        }
    }

    /// Wakes a waiter for a returned message, or sets a timer if the message has to wait.
    pub(super) fn wake_or_arm(&mut self, cursor: CursorId, log: LogId, due: Due) {
        if due == Due::NOW {
            self.wake_one(cursor, log);
        } else {
            self.arm(cursor);
        }
    }

    /// Changes the counts of a cursor.
    pub fn count(&mut self, cursor: CursorId, change: impl FnOnce(&mut Counts)) {
        match self.consumers.get_mut(&cursor) {
            Some(consumption) => change(&mut consumption.counts),
            None => self.dormancy.count(cursor, change),
        }
    }

    /// Corrects the counts for a leased message that was not delivered.
    pub fn note_undelivered(&mut self, cursor: CursorId, was_tried: bool) {
        self.count(cursor, |counts| {
            counts.delivered -= 1;
            counts.redelivered -= u64::from(was_tried);
        });
    }

    /// Whether a message was acked or deleted, for example while it was leased.
    pub fn is_gone(&self, cursor: CursorId, offset: Offset) -> bool {
        self.store.acks(cursor).is_none_or(|acks| acks.is_acked(offset))
    }
}
