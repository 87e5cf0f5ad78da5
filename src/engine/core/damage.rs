//! Messages that are damaged. A consumer that meets one gets the error once. The message stays in its queue, and is
//! not delivered again before the store is opened again. So it never holds up the others.

use super::{Core, consumption::Consumption};
use crate::{
    delivery::LeaseKey,
    error::Error,
    ids::{CursorId, Offset},
};

impl Consumption {
    /// The error of a damaged message, with its offset and its queue.
    pub fn damage(&self, offset: Offset, error: &Error) -> Error {
        error.of_message(&self.info.name, offset)
    }
}

impl Core {
    /// Ends the lease of a damaged message, and sets the message aside. Returns the error that tells of it.
    pub fn set_aside(
        &mut self,
        cursor: CursorId,
        offset: Offset,
        lease: LeaseKey,
        error: &Error,
    ) -> Error {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return error.again() };
        let told = consumption.damage(offset, error);
        if consumption.deliveries.settle(lease).is_some() {
            if self.store.acks(cursor).is_some_and(|acks| !acks.is_acked(offset)) {
                consumption.damaged.offsets.insert(offset);
            }
            self.note_freed_slots(cursor);
            // The next message of its key does not wait for it.
            self.advance_key(cursor, offset);
        }
        told
    }

    /// Sets a message aside that was found to be damaged while no consumer had it. The next consumer that receives gets the
    /// error. A message on lease, spilled or parked is left to the consumer that meets it.
    pub fn set_aside_unread(&mut self, cursor: CursorId, offset: Offset, error: &Error) {
        // A cursor at rest that has consumers wakes, as they are to be told.
        if self.consumption(cursor).is_err() {
            return;
        }
        let (Some(consumption), Some(acks)) =
            (self.consumers.get_mut(&cursor), self.store.acks(cursor))
        else {
            return;
        };
        if acks.is_acked(offset)
            || acks.is_spilled(offset)
            || !consumption.deliveries.take_out(offset, acks.due(offset))
        {
            return;
        }
        consumption.damaged.offsets.insert(offset);
        let told = consumption.damage(offset, error);
        self.advance_key(cursor, offset);
        self.tell_later(cursor, told);
    }

    /// Keeps an error for the next consumer that receives.
    pub fn tell_later(&mut self, cursor: CursorId, error: Error) {
        if let Ok(consumption) = self.consumption(cursor) {
            consumption.damaged.untold.push_back(error);
            let log = consumption.info.log;
            self.has_told_later = true;
            self.wake_one(cursor, log);
        }
    }

    /// The next damage that no consumer was told of.
    #[inline]
    pub fn take_untold(&mut self, cursor: CursorId) -> Option<Error> {
        // Most stores never have any.
        if !self.has_told_later {
            return None;
        }
        self.consumers.get_mut(&cursor)?.damaged.take_untold()
    }
}
