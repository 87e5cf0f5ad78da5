//! The slots of a cursor's consumers, and where a consumer waits that is not admitted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    delivery::{
        SlotId,
        admission::{Admission, Place},
    },
    engine::runtime::wait::{Waiting, Watch},
    ids::CursorId,
};

/// The place of one consumer among the consumers of a cursor.
#[derive(Debug)]
pub struct Slot {
    pub(super) cursor: CursorId,
    pub(super) number: SlotId,
    /// It holds at most this many deliveries.
    pub(super) prefetch: u64,
    /// Where the consumer waits while another one is active.
    pub(super) standby: Arc<Watch>,
    /// Its place among the slots that stand by. It changes under the core only.
    pub(super) place: AtomicU64,
}

impl Slot {
    pub fn number(&self) -> SlotId {
        self.number
    }

    pub(super) fn place(&self) -> Place {
        Place(self.place.load(Ordering::Relaxed))
    }
}

/// The slots of one cursor, and where their consumers wait.
#[derive(Debug, Default)]
pub struct Slots {
    pub(super) admission: Admission,
    pub(super) standby: BTreeMap<SlotId, Arc<Watch>>,
    /// Where consumers wait that have reached their prefetch limits.
    pub full: Option<Arc<Watch>>,
}

impl Slots {
    /// All watches on which consumers of the cursor wait for something other than a message.
    pub fn watches(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.standby.values().chain(&self.full)
    }

    /// Begins to wait until the slot becomes the active one.
    pub(super) fn stand_by(&mut self, slot: &Slot) -> Waiting {
        if !slot.standby.has_waiters() {
            let place = self.admission.stand_by(slot.number, slot.place());
            slot.place.store(place.0, Ordering::Relaxed);
            self.standby.insert(slot.number, Arc::clone(&slot.standby));
        }
        slot.standby.begin()
    }
}

/// The answer to a consumer that wants to lease.
#[derive(Debug)]
pub enum Admittance {
    /// Up to this many messages, at least one.
    UpTo(u64),
    /// Not now. The wait ends when it may be admitted.
    Wait(Waiting),
}
