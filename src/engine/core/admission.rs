//! The slots of a cursor's consumers, and where the consumers wait that are not admitted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Core;
use crate::{
    delivery::{
        SlotId,
        admission::{Admission, Admitted, Place, SlotRules},
    },
    engine::runtime::wait::{Waiting, Watch},
    error::Result,
    ids::CursorId,
};

/// The place of one consumer among the consumers of a cursor.
#[derive(Debug)]
pub struct Slot {
    cursor: CursorId,
    number: SlotId,
    rules: SlotRules,
    /// Where the consumer waits while another one is active.
    standby: Arc<Watch>,
    /// Its place among the slots that stand by. It changes under the core only.
    place: AtomicU64,
}

impl Slot {
    pub fn number(&self) -> SlotId {
        self.number
    }

    pub fn is_exclusive(&self) -> bool {
        self.rules.is_exclusive
    }

    fn place(&self) -> Place {
        Place(self.place.load(Ordering::Relaxed))
    }
}

/// The slots of one cursor, and where their consumers wait.
#[derive(Debug, Default)]
pub struct Slots {
    admission: Admission,
    standby: BTreeMap<SlotId, Arc<Watch>>,
    /// Where the consumers wait whose prefetch limit is reached.
    pub full: Option<Arc<Watch>>,
}

impl Slots {
    /// Where any consumer of the cursor waits for something other than a message.
    pub fn watches(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.standby.values().chain(&self.full)
    }

    /// Begins to wait until the slot becomes the active one.
    fn stand_by(&mut self, slot: &Slot) -> Waiting {
        if !slot.standby.has_waiters() {
            let place = self.admission.stand_by(slot.number, slot.place());
            slot.place.store(place.0, Ordering::Relaxed);
            self.standby.insert(slot.number, Arc::clone(&slot.standby));
        }
        slot.standby.begin()
    }
}

/// Whether a consumer may lease.
#[derive(Debug)]
pub enum Admittance {
    /// Up to this many messages, at least one.
    UpTo(u64),
    /// Not now. The wait ends when it may be admitted.
    Wait(Waiting),
}

impl Core {
    /// Opens a slot for a new consumer.
    pub fn open_slot(&mut self, cursor: CursorId, rules: SlotRules) -> Result<Slot> {
        let number = self.consumption(cursor)?.slots.admission.open_slot();
        Ok(Slot { cursor, number, rules, standby: Arc::default(), place: AtomicU64::new(0) })
    }

    /// The slot that is active, where only one may be.
    pub fn active_slot(&mut self, cursor: CursorId) -> Result<Option<SlotId>> {
        Ok(self.consumption(cursor)?.slots.admission.active())
    }

    /// How many messages a consumer may lease now; if none, where it waits.
    pub fn admit(&mut self, slot: &Slot) -> Result<Admittance> {
        let consumption = self.consumption(slot.cursor)?;
        let held = consumption.deliveries.held_by(slot.number);
        let slots = &mut consumption.slots;
        match slots.admission.admit(slot.number, slot.rules, held) {
            Admitted::UpTo(room) => Ok(Admittance::UpTo(room)),
            Admitted::Standby => Ok(Admittance::Wait(slots.stand_by(slot))),
            Admitted::Full => {
                let waiting = slots.full.get_or_insert_default().begin();
                // This consumer may have been woken for a message that it cannot take: another is woken.
                let log = consumption.info.log;
                self.wake_one(log);
                Ok(Admittance::Wait(waiting))
            }
        }
    }

    /// Wakes every consumer of a cursor that waits for something other than a message.
    pub fn wake_slots(&mut self, cursor: CursorId) {
        let Core { consumers, effects, .. } = self;
        if let Some(consumption) = consumers.get(&cursor) {
            consumption.slots.watches().for_each(|watch| effects.wake_all(watch));
        }
    }

    /// Closes the slot of a consumer that is gone.
    pub fn close_slot(&mut self, slot: &Slot) {
        let Core { consumers, effects, .. } = self;
        let Some(consumption) = consumers.get_mut(&slot.cursor) else { return };
        let Slots { admission, standby, .. } = &mut consumption.slots;
        standby.remove(&slot.number);
        let still_waits = |slot| standby.get(&slot).is_some_and(|watch| watch.has_waiters());
        if let Some(next) = admission.leave(slot.number, slot.place(), still_waits)
            && let Some(watch) = standby.remove(&next)
        {
            effects.wake_all(&watch);
        }
    }
}
