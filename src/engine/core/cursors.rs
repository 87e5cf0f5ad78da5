//! The cursors that are in use.

use std::{iter, sync::Arc};

use super::{
    Core,
    consumption::{Consumption, CursorInfo},
    dormant::Attached,
    failures::MessageId,
    preparing::Prepared,
    rules::Rules,
};
use crate::{
    engine::runtime::wait::Waiting,
    error::Result,
    ids::{CursorId, Due, LogId, Offset, OffsetRange},
    store::Store,
};

impl Core {
    /// Opens a consumer of a cursor. Returns the `CursorInfo` of its first consumer, which all of them share. The caller
    /// [closes](Core::close_consumer) it. `prepared` are its delayed messages, if they were copied before.
    pub fn begin_consuming(
        &mut self,
        info: CursorInfo,
        prepared: Option<Prepared>,
    ) -> Result<Arc<CursorInfo>> {
        let cursor = info.cursor;
        let delayed = prepared.and_then(|prepared| self.end_preparing(prepared));
        let Core { consumers, store, dormancy, .. } = self;
        let info = match consumers.get(&cursor) {
            Some(there) => Arc::clone(&there.info),
            None => match dormancy.attach(store, info, delayed)? {
                Attached::Dormant(info) => info,
                Attached::Awake(consumption) => {
                    let info = Arc::clone(&consumption.info);
                    consumers.insert(cursor, consumption);
                    info
                }
            },
        };
        if info.note_opened() {
            self.arm(cursor);
        }
        self.dormancy.ask_for_round(self.consumers.loosened(), &mut self.effects);
        Ok(info)
    }

    /// The state of a cursor that has consumers. If it is dormant, it wakes.
    #[inline]
    pub fn consumption(&mut self, cursor: CursorId) -> Result<&mut Consumption> {
        Ok(self.store_and(cursor)?.1)
    }

    /// The store and the state of a cursor at once. If it is dormant, it wakes.
    #[inline]
    pub fn store_and(&mut self, cursor: CursorId) -> Result<(&mut Store, &mut Consumption)> {
        if !self.consumers.contains_key(&cursor) {
            self.wake(cursor)?;
        }
        let consumption = self.consumers.get_mut(&cursor).expect("it is awake");
        Ok((&mut self.store, consumption))
    }

    /// The store and the state of a cursor, for what is done most often. `None` if it is dormant, or was deleted.
    #[inline(always)]
    pub fn store_and_awake(&mut self, cursor: CursorId) -> Option<(&mut Store, &mut Consumption)> {
        let consumption = self.consumers.get_mut(&cursor)?;
        Some((&mut self.store, consumption))
    }

    /// Wakes a dormant cursor. Fails if it was deleted.
    #[cold]
    #[inline(never)]
    pub fn wake(&mut self, cursor: CursorId) -> Result<()> {
        let woken = self.dormancy.wake(&self.store, cursor)?;
        self.arrivals.watch_one(woken.info.log, woken.info.receivers());
        self.consumers.insert(cursor, woken);
        self.dormancy.ask_for_round(self.consumers.loosened(), &mut self.effects);
        Ok(())
    }

    /// Begins to wait for a message.
    pub fn wait_for_message(&mut self, info: &CursorInfo) -> Waiting {
        let receivers = info.receivers();
        let interest = receivers.interest_of(info.cursor, self.store.is_filtered(info.cursor));
        self.watch(iter::once(info.log), receivers).begin_for(interest)
    }

    /// The rules of the cursors, shared by those that have the same.
    pub fn share(&mut self, rules: Rules) -> Arc<Rules> {
        self.dormancy.share(rules)
    }

    /// Prepares a cursor that may have no consumer, for an operation that knows only its id: a transaction keeps no
    /// deliveries.
    pub fn revive(&mut self, cursor: CursorId) -> Result<()> {
        let Core { consumers, store, dormancy, .. } = self;
        if !consumers.contains_key(&cursor) {
            consumers.insert(cursor, dormancy.revive(store, cursor)?);
        }
        Ok(())
    }

    /// Wakes senders: a queue has capacity for `messages` more.
    pub fn note_capacity(&mut self, cursor: CursorId, messages: usize) {
        if let Some(consumption) = self.consumers.get(&cursor) {
            consumption.note_capacity(&mut self.effects, messages);
        }
    }

    /// If leases of a cursor ended, wakes the consumers that had reached their prefetch limits.
    pub fn note_freed_slots(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.note_freed_slots(&mut self.effects);
        }
    }

    /// Notes that a message is not leased any more. A queue that drops its oldest messages can drop it now, and if its life
    /// is over, it leaves.
    pub fn note_returned(&mut self, cursor: CursorId, offset: Offset) {
        self.look_after_lease(cursor, offset);
        if let Some(consumption) = self.consumers.get(&cursor)
            && consumption.rules.drops_oldest()
        {
            consumption.note_capacity(&mut self.effects, 1);
        }
    }

    /// When a message is due that is not spilled. `Due::NOW` if it does not wait.
    pub fn due_of(&self, cursor: CursorId, offset: Offset) -> Due {
        let stored = self.store.acks(cursor).map_or(Due::NOW, |acks| acks.due(offset));
        let consumption = self.consumers.get(&cursor);
        consumption.map_or(stored, |it| it.deliveries.due_of(offset, stored))
    }

    /// Whether a queue has as many due messages in memory as it may have delayed ones.
    pub fn has_many_due(&self, log: LogId) -> bool {
        let consumption = self.consumers.get(&log.queue_cursor());
        consumption.is_some_and(|it| it.deliveries.due() >= self.delayed_in_memory)
    }

    /// How many attempts a message has once all is counted and taken back.
    pub fn attempts_of(&self, cursor: CursorId, offset: Offset) -> u32 {
        let stored = self.store.acks(cursor).map_or(0, |acks| acks.attempts(offset));
        let left = self.consumers.get(&cursor).and_then(|it| it.deliveries.attempts_left(offset));
        left.or_else(|| self.failures.attempts_of(MessageId { cursor, offset })).unwrap_or(stored)
    }

    /// Begins to wait for capacity in a queue.
    pub fn wait_for_capacity(&mut self, cursor: CursorId) -> Option<Waiting> {
        let consumption = self.consumption(cursor).ok()?;
        Some(consumption.capacity.get_or_insert_default().begin())
    }

    /// Notes that messages were deleted that were not on lease: advances their keys, and wakes senders that wait for
    /// capacity.
    pub fn note_deleted(&mut self, cursor: CursorId, deleted: &[OffsetRange]) {
        self.advance_keys_of_deleted(cursor, deleted);
        self.note_room(cursor);
    }

    /// Notes that a queue has room: wakes senders that wait for capacity.
    pub(super) fn note_room(&mut self, cursor: CursorId) {
        self.note_capacity(cursor, usize::MAX);
        // The due messages that kept the timer off may be among the deleted ones.
        self.arm(cursor);
    }
}
