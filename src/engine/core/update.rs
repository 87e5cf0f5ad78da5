//! What changes in memory when the settings of a queue or a subscription change.

use std::{mem, sync::Arc, time::Duration};

use super::{
    Core,
    consumption::{CursorInfo, may_spill},
    rules::Rules,
};
use crate::{
    delivery::{Groups, delay_index::DelayIndex, weights::Weights},
    format::entity::Entity,
    ids::CursorId,
    store::Store,
};

impl CursorInfo {
    /// The rules of a cursor that exists in the store. `tick` is the resolution of the clock.
    pub(super) fn rules_in(&self, store: &Store, tick: Duration) -> Option<Rules> {
        let entity = store.entity(self.cursor.entity())?;
        Some(Rules::of(entity.delivering()?, tick))
    }
}

impl Core {
    /// How many messages of a cursor are not acked.
    pub fn depth(&self, cursor: CursorId) -> u64 {
        let Some(entity) = self.store.entity(cursor.entity()) else { return 0 };
        let log = entity.cursors().find(|(id, _)| *id == cursor).map(|(_, log)| log);
        let end = log.and_then(|log| self.store.end_for(cursor, log));
        match (end, self.store.acks(cursor)) {
            (Some(end), Some(acks)) => self.store.unacked(acks, end),
            _ => 0,
        }
    }

    /// Makes the consumers of an entity follow the settings that were just committed.
    ///
    /// Messages that wait keep their due times, and deliveries keep their leases. Everything else follows the
    /// new settings from now on.
    pub fn follow_settings(&mut self, entity: &Entity) {
        let cursor = entity.id.cursor(0);
        let Ok(consumption) = self.consumption(cursor) else { return };
        let info = Arc::clone(&consumption.info);
        let Some(rules) = info.rules_in(&self.store, self.dormancy.tick()) else { return };
        let end = self.store.end_for(cursor, info.log).unwrap_or_default();
        let Core { consumers, effects, weighs, settings_changes, dormancy, .. } = self;
        let Some(consumption) = consumers.get_mut(&cursor) else { return };
        let before = mem::replace(&mut consumption.rules, rules);
        consumption.counted_first |= before.retry.counts_first();
        info.current.set(dormancy.share(rules));
        *settings_changes += 1;
        if before.is_ordered != rules.is_ordered {
            consumption.groups = rules.is_ordered.then(Groups::default);
        }
        if !rules.weighs() {
            consumption.weights = None;
        } else {
            *weighs = true;
            consumption.weights.get_or_insert_with(|| Weights::new(end));
        }
        if before.is_exclusive != rules.is_exclusive {
            consumption.slots.admission.vacate();
        }
        // Senders may have capacity now, and consumers may be admitted.
        consumption.note_capacity(effects, usize::MAX);
        consumption.wake_others(effects);
        if !consumption.thresholds.is_empty() {
            consumers.set_watched(cursor, Some(self.store.is_filtered(cursor)));
        }
        self.follow_spilling(cursor, &info, before, rules);
        self.wake_whatever_its_filter(cursor, info.log);
        self.arm(cursor);
    }

    /// Begins or ends to spill. A queue that is ordered by key is empty when it begins to be so, so nothing of
    /// it is spilled.
    fn follow_spilling(
        &mut self,
        cursor: CursorId,
        info: &CursorInfo,
        before: Rules,
        rules: Rules,
    ) {
        if rules.is_ordered {
            if let Some(consumption) = self.consumers.get_mut(&cursor) {
                consumption.delay_index = DelayIndex::unused();
            }
        } else if may_spill(info, &rules) && !may_spill(info, &before) {
            let is_used = self.consumers.get(&cursor).is_some_and(|it| it.delay_index.is_used());
            if !is_used {
                self.find_delay_index(cursor);
            }
        }
    }
}
