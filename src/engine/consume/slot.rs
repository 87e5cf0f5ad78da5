//! The slot of a consumer, open while its handles and deliveries exist.
//!
//! A handle, its clones and their deliveries are one consumer. A consumer has a slot only if the queue has a single
//! active consumer or had one, or if the consumer has a prefetch limit. `delivery/admission.rs` has the rules.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::consumer::Consumer;
use crate::{
    delivery::SlotId,
    engine::{
        commit::lifetime::Engine,
        core::{Core, slots::Slot},
    },
    error::{Error, Result},
    ids::CursorId,
};

/// A slot that closes when the last handle and the last delivery of its consumer are dropped.
#[derive(Debug)]
pub struct OwnedSlot {
    engine: Engine,
    slot: Slot,
}

impl OwnedSlot {
    pub fn open(
        engine: &Engine,
        core: &mut Core,
        cursor: CursorId,
        prefetch: u64,
    ) -> Result<Arc<OwnedSlot>> {
        let slot = core.open_slot(cursor, prefetch)?;
        Ok(Arc::new(OwnedSlot { engine: engine.clone(), slot }))
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    pub fn number(&self) -> SlotId {
        self.slot.number()
    }
}

impl Drop for OwnedSlot {
    fn drop(&mut self) {
        self.engine.committer().lock("close a consumer").close_slot(&self.slot);
    }
}

/// What the handles and deliveries of a consumer share.
#[derive(Debug, Default)]
pub struct Shared {
    /// The slot. It is opened when the consumer needs one: the queue may get a single active consumer later.
    slot: OnceLock<Arc<OwnedSlot>>,
    /// The number of the last damage of spilled messages that the consumer was told of.
    pub told: AtomicU64,
}

pub type SharedSlot = Arc<Shared>;

impl Shared {
    #[inline]
    pub fn get(&self) -> Option<&Arc<OwnedSlot>> {
        self.slot.get()
    }

    /// As much was told as of another consumer.
    fn told_as(other: &Shared, slot: OnceLock<Arc<OwnedSlot>>) -> SharedSlot {
        let told = AtomicU64::new(other.told.load(Ordering::Relaxed));
        Arc::new(Shared { slot, told })
    }
}

impl Consumer {
    /// The slot of this consumer, if it needs one.
    pub(super) fn slot_in(&self, core: &mut Core) -> Result<Option<&Arc<OwnedSlot>>> {
        if self.slot.get().is_none() && self.info.current.is_exclusive() {
            let slot = OwnedSlot::open(&self.engine, core, self.cursor(), u64::MAX)?;
            // Slots are opened under the core, so no other thread has opened one meanwhile.
            let _ = self.slot.slot.set(slot);
        }
        Ok(self.slot.get())
    }

    /// The same consumer without a slot, for callers that only read. They do not keep the slot open.
    pub fn without_slot(&self) -> Arc<Consumer> {
        let slot = Shared::told_as(&self.slot, OnceLock::new());
        Arc::new(Consumer { slot, ..self.clone() })
    }

    /// A new consumer that holds at most `prefetch` deliveries.
    pub fn with_max_in_flight(&self, prefetch: u64) -> Result<Consumer> {
        if prefetch == 0 {
            return Err(Error::invalid(
                "max_in_flight",
                "max_in_flight is 0, so the consumer could receive nothing: give it 1 or more",
            ));
        }
        let mut core = self.committer().lock_open("open a consumer")?;
        let slot = OwnedSlot::open(&self.engine, &mut core, self.cursor(), prefetch)?;
        drop(core);
        let slot = Shared::told_as(&self.slot, OnceLock::from(slot));
        Ok(Consumer { slot, ..self.clone() })
    }

    /// Whether this consumer is the one that receives.
    pub fn is_active(&self) -> Result<bool> {
        let active = self.committer().lock_open("active consumer")?.active_slot(self.cursor())?;
        let is_exclusive = self.info.current.is_exclusive();
        let ours = self.slot.get().map(|slot| slot.number());
        Ok(!is_exclusive || (active.is_some() && active == ours))
    }
}
