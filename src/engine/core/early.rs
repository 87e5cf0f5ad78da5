//! A clock that is set back: messages for a time of day that had come due wait again.

use std::time::Duration;

use super::Core;
use crate::{
    delivery::Deliveries,
    ids::{CursorId, Offset},
    store::AckSet,
};

impl Core {
    /// Has messages of a cursor wait again whose time of day is still to come: about `most` of them. Returns whether there may
    /// be more.
    #[inline]
    pub(super) fn send_back_early(
        &mut self,
        cursor: CursorId,
        elapsed: Duration,
        most: usize,
    ) -> bool {
        let consumption = self.consumers.get_untouched(cursor);
        if consumption.is_none_or(|it| it.setbacks == self.setbacks.count) {
            return false;
        }
        self.send_some_back(cursor, elapsed, most)
    }

    #[cold]
    fn send_some_back(&mut self, cursor: CursorId, elapsed: Duration, most: usize) -> bool {
        let (now, skew) = (self.even(elapsed), self.skew());
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
        let Some(acks) = self.store.acks(cursor) else { return false };
        let from = self.setbacks.begun.remove(&cursor).unwrap_or(Offset(0));
        let end =
            consumption.deliveries.wait_again(from, most, |due| due.even_time(skew) > now, acks);
        match end {
            Some(end) => _ = self.setbacks.begun.insert(cursor, end),
            None => consumption.setbacks = self.setbacks.count,
        }
        end.is_some()
    }

    /// Whether a consumer is to look at the clock before it receives: messages for a time of day have come due, and wait again
    /// if it was set back. No timer is set for them.
    #[inline]
    pub fn depends_on_clock(&self, cursor: CursorId) -> bool {
        self.consumers.get(&cursor).is_some_and(|it| it.deliveries.may_wait_again())
    }

    /// Puts a message back whose lease has ended and that was not handled: by `put`, or among those that wait if it is for a
    /// time of day to which the clock was set back meanwhile.
    pub(super) fn put_unhandled(
        &mut self,
        cursor: CursorId,
        offset: Offset,
        put: impl FnOnce(&mut Deliveries, Offset, &AckSet),
    ) {
        let skew = self.skew();
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let Some(acks) = self.store.acks(cursor) else { return };
        let log = consumption.info.log;
        let due = acks.due(offset);
        if acks.is_acked(offset) {
            self.advance_key(cursor, offset);
        } else if due.is_day() && due.even_time(skew) > self.clock.now().even {
            consumption.deliveries.put(offset, due, acks);
            self.arm(cursor);
        } else {
            put(&mut consumption.deliveries, offset, acks);
            self.wake_one(cursor, log);
        }
    }
}
