//! The cursors that have consumers.

use std::sync::Arc;

use super::{
    Core,
    consumption::{Consumption, CursorInfo, may_spill},
};
use crate::{
    audit,
    delivery::Deliveries,
    engine::runtime::wait::Waiting,
    error::Result,
    ids::{CursorId, Due, Offset, OffsetRange},
    store::Store,
};

impl Core {
    /// Prepares a cursor for consumers, unless it is prepared. Returns the `CursorInfo` of its first handle,
    /// which all handles share.
    pub fn begin_consuming(&mut self, info: CursorInfo) -> Result<Arc<CursorInfo>> {
        let cursor = info.cursor;
        if let Some(there) = self.consumers.get(&cursor) {
            return Ok(Arc::clone(&there.info));
        }
        let (_, end) = self.bounds(info.log)?;
        let acks = self.store.acks_of(cursor)?;
        let mut deliveries = Deliveries::new(acks.floor());
        deliveries.number_above(self.leases_deleted);
        for (offset, priority) in acks.prioritized() {
            audit::step();
            deliveries.prioritize(offset, priority);
        }
        for (offset, due) in acks.deferred(acks.floor()) {
            audit::step();
            deliveries.defer(offset, due);
        }
        // The settings may have changed since the caller read them.
        info.current.set(self.rules_of(&info).ok_or_else(|| self.store.deleted(cursor.entity()))?);
        let info = Arc::new(info);
        let consumption = Consumption::new(Arc::clone(&info), end, deliveries);
        self.consumers.insert(cursor, consumption);
        // A queue that did not drop its oldest messages before may have spilled some.
        let rules = info.current.all();
        let has_spilled = !rules.is_ordered && acks.spilled() > 0;
        let spills = may_spill(&info, &rules) || has_spilled;
        if spills {
            self.find_delay_index(cursor);
        }
        self.arm(cursor);
        Ok(info)
    }

    #[inline]
    pub fn consumption(&mut self, cursor: CursorId) -> Result<&mut Consumption> {
        self.consumers.get_mut(&cursor).ok_or_else(|| self.store.deleted(cursor.entity()))
    }

    /// The store and the state of a cursor at once.
    #[inline]
    pub fn store_and(&mut self, cursor: CursorId) -> Result<(&mut Store, &mut Consumption)> {
        let consumption =
            self.consumers.get_mut(&cursor).ok_or_else(|| self.store.deleted(cursor.entity()))?;
        Ok((&mut self.store, consumption))
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

    /// Begins to wait for capacity in a queue.
    pub fn wait_for_capacity(&mut self, cursor: CursorId) -> Option<Waiting> {
        let consumption = self.consumers.get_mut(&cursor)?;
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
