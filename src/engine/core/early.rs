//! A clock that is set back: messages for a time of day that had come due wait again.

use std::time::Duration;

use super::Core;
use crate::ids::{CursorId, Offset};

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
}
