//! Admission of consumers: which may lease, and how many messages.

use std::sync::{Arc, atomic::AtomicU64};

use super::{
    Core,
    slots::{Admittance, Slot, Slots},
};
use crate::{
    delivery::{
        SlotId,
        admission::{Admitted, SlotRules},
    },
    error::Result,
    ids::CursorId,
};

impl Core {
    /// Opens a slot for a new consumer.
    pub fn open_slot(&mut self, cursor: CursorId, prefetch: u64) -> Result<Slot> {
        let number = self.consumption(cursor)?.slots.admission.open_slot();
        Ok(Slot { cursor, number, prefetch, standby: Arc::default(), place: AtomicU64::new(0) })
    }

    /// The active slot of a cursor with a single active consumer.
    pub fn active_slot(&mut self, cursor: CursorId) -> Result<Option<SlotId>> {
        Ok(self.consumption(cursor)?.slots.admission.active())
    }

    /// How many messages a consumer may lease now. If none, the consumer begins to wait.
    pub fn admit(&mut self, slot: &Slot) -> Result<Admittance> {
        let consumption = self.consumption(slot.cursor)?;
        let held = consumption.deliveries.held_by(slot.number);
        let is_exclusive = consumption.rules.is_exclusive;
        let rules = SlotRules { is_exclusive, prefetch: slot.prefetch };
        let slots = &mut consumption.slots;
        match slots.admission.admit(slot.number, rules, held) {
            Admitted::UpTo(most) => Ok(Admittance::UpTo(most)),
            Admitted::Standby => Ok(Admittance::Wait(slots.stand_by(slot))),
            Admitted::Full => {
                let waiting = slots.full.get_or_insert_default().begin();
                // This consumer may have used up the wake-up for a message that it cannot take. Another
                // consumer is woken for that message.
                let log = consumption.info.log;
                self.wake_one(slot.cursor, log);
                Ok(Admittance::Wait(waiting))
            }
        }
    }

    /// Wakes every consumer of a cursor that waits for something other than a message.
    pub fn wake_receivers(&mut self, cursor: CursorId) {
        let Core { consumers, effects, .. } = self;
        if let Some(consumption) = consumers.get(&cursor) {
            let watches = consumption.slots.watches().chain(&consumption.returning);
            watches.for_each(|watch| effects.wake_all(watch));
        }
    }

    /// Closes the slot of a consumer that was dropped.
    pub fn close_slot(&mut self, slot: &Slot) {
        let Ok(consumption) = self.consumption(slot.cursor) else { return };
        let Slots { admission, standby, .. } = &mut consumption.slots;
        standby.remove(&slot.number);
        let still_waits = |slot| standby.get(&slot).is_some_and(|watch| watch.has_waiters());
        if let Some(next) = admission.leave(slot.number, slot.place(), still_waits)
            && let Some(watch) = standby.remove(&next)
        {
            self.effects.wake_all(&watch);
        }
    }
}
