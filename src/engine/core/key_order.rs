//! Order by key, under the core: which message of a key may be delivered. [`Groups`](crate::delivery::Groups)
//! holds the state, and `engine/consume/key_order.rs` reads the keys.

use super::Core;
use crate::{
    audit,
    delivery::LeaseKey,
    error::Result,
    ids::{CursorId, Due, Offset, OffsetRange},
};

/// So many messages that wait for another attempt are listed in one hold of the core.
const RETRIES_AT_ONCE: usize = 1000;

impl Core {
    /// Claims the key of a leased message. Returns whether the message may be delivered. If not, its lease
    /// ends, and it is parked behind the head of its key.
    pub fn claim_key(
        &mut self,
        cursor: CursorId,
        group: u64,
        offset: Offset,
        lease: LeaseKey,
        was_tried: bool,
    ) -> Result<bool> {
        let consumption = self.consumption(cursor)?;
        let Some(groups) = &mut consumption.groups else { return Ok(true) };
        let may = groups.claim(group, offset);
        if !may {
            consumption.deliveries.settle(lease);
            self.note_undelivered(cursor, was_tried);
            self.note_freed_slots(cursor);
            self.look_after_lease(cursor, offset);
        }
        Ok(may)
    }

    /// Whether a message is the first of its key that is not settled, and known to be. Until it is settled, no later one of its
    /// key is delivered.
    pub fn has_claimed_its_key(&self, cursor: CursorId, offset: Offset) -> bool {
        let groups = self.consumers.get(&cursor).and_then(|it| it.groups.as_ref());
        groups.is_some_and(|groups| groups.heads_from(offset).next() == Some(offset))
    }

    /// Ends a message that was acked, deleted or moved: the next message of its key can be delivered.
    pub fn advance_key(&mut self, cursor: CursorId, offset: Offset) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let (Some(groups), Some(acks)) = (&mut consumption.groups, self.store.acks(cursor)) else {
            return;
        };
        let next = groups.done(offset, |offset| !acks.is_acked(offset));
        let is_advancing = groups.is_advancing();
        self.deliver_head(cursor, next);
        if is_advancing {
            self.arm(cursor);
        }
    }

    /// Goes on with keys whose next messages are looked for: passes over `most` messages. Returns whether there may be more.
    pub(super) fn advance_keys(&mut self, cursor: CursorId, mut most: usize) -> bool {
        while most > 0 {
            let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
            let (Some(groups), Some(acks)) = (&mut consumption.groups, self.store.acks(cursor))
            else {
                return false;
            };
            if !groups.is_advancing() {
                return false;
            }
            let next = groups.go_on(&mut most, |offset| !acks.is_acked(offset));
            self.deliver_head(cursor, next);
        }
        true
    }

    /// Has the next message of a key delivered.
    fn deliver_head(&mut self, cursor: CursorId, head: Option<Offset>) {
        if let Some(head) = head
            && let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(acks) = self.store.acks(cursor)
        {
            consumption.deliveries.put(head, Due::NOW, acks);
            let log = consumption.info.log;
            self.wake_one(cursor, log);
        }
    }

    /// Advances the keys whose heads were deleted and were not leased.
    pub(super) fn advance_keys_of_deleted(&mut self, cursor: CursorId, deleted: &[OffsetRange]) {
        for range in deleted {
            let mut rest = *range;
            while let Some(head) = self.next_head(cursor, rest) {
                audit::step();
                self.advance_key(cursor, head);
                rest.start = head.next();
            }
        }
    }

    /// The first head of a key in a range.
    fn next_head(&self, cursor: CursorId, within: OffsetRange) -> Option<Offset> {
        let groups = self.consumers.get(&cursor)?.groups.as_ref()?;
        groups.heads_from(within.start).next().filter(|head| *head < within.end)
    }

    /// The next messages, from an offset on, that wait for another attempt since an earlier epoch. Their keys must be claimed
    /// first. `None` if that was done before.
    pub fn unclaimed_retries(
        &mut self,
        cursor: CursorId,
        from: Offset,
    ) -> Result<Option<Vec<Offset>>> {
        let groups = &self.consumption(cursor)?.groups;
        if groups.as_ref().is_none_or(|groups| groups.is_prepared) {
            return Ok(None);
        }
        let acks = self.store.acks_of(cursor)?;
        let waiting = acks.deferred(acks.floor().max(from)).take(RETRIES_AT_ONCE);
        let waiting: Vec<Offset> = waiting.map(|(offset, _)| offset).collect();
        audit::steps(waiting.len() as u64);
        Ok(Some(waiting))
    }

    /// Makes a message that waits for another attempt the head of its key.
    pub fn claim_retry(&mut self, cursor: CursorId, group: u64, offset: Offset) -> Result<()> {
        // It may have left meanwhile: its life was over, or it was removed.
        if !self.store.acks_of(cursor)?.is_acked(offset)
            && let Some(groups) = &mut self.consumption(cursor)?.groups
        {
            groups.claim(group, offset);
        }
        Ok(())
    }

    /// Notes that all messages that wait for another attempt have claimed their keys.
    pub fn finish_claiming_retries(&mut self, cursor: CursorId) -> Result<()> {
        if let Some(groups) = &mut self.consumption(cursor)?.groups {
            groups.is_prepared = true;
        }
        Ok(())
    }
}
