//! A clock that is set back: messages for a time of day that had come due wait again.

use std::{collections::BTreeMap, time::Duration};

use super::{Core, consumption::Consumption};
use crate::ids::{CursorId, Offset, Skew};

/// How often the clock was set back, and how far its messages were looked at since.
#[derive(Debug, Default)]
pub struct Setbacks {
    pub(super) count: u32,
    /// Cursors of which a part was looked at, with the offset at which the next slice begins.
    begun: BTreeMap<CursorId, Offset>,
}

impl Setbacks {
    /// Notes a setting of the clock.
    pub(super) fn note(&mut self, before: Skew, after: Skew) {
        if after.0 > before.0 {
            self.count += 1;
            self.begun.clear();
        }
    }

    /// Whether messages that are due may have to wait again.
    #[inline]
    pub(super) fn concern(&self, consumption: &mut Consumption) -> bool {
        if consumption.setbacks != self.count && consumption.deliveries.due() == 0 {
            consumption.setbacks = self.count;
        }
        consumption.setbacks != self.count
    }
}

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
