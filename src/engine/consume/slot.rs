//! The slot of a consumer, open while its handles and deliveries exist.
//!
//! A handle, its clones and their deliveries are one consumer. A consumer has a slot only if the queue has a single
//! active consumer, or if the consumer has a prefetch limit. `delivery/admission.rs` has the rules.

use std::sync::Arc;

use super::consumer::Consumer;
use crate::{
    delivery::{SlotId, admission::SlotRules},
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
        rules: SlotRules,
    ) -> Result<Arc<OwnedSlot>> {
        let slot = core.open_slot(cursor, rules)?;
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
        if self.slot.is_exclusive() {
            self.engine.committer().lock("close a consumer").close_slot(&self.slot);
        }
    }
}

impl Consumer {
    /// The same consumer without a slot, for callers that only read. They do not keep the slot open.
    pub fn without_slot(&self) -> Arc<Consumer> {
        Arc::new(Consumer { slot: None, ..self.clone() })
    }

    /// A new consumer that holds at most `prefetch` deliveries.
    pub fn with_max_in_flight(&self, prefetch: u64) -> Result<Consumer> {
        if prefetch == 0 {
            return Err(Error::invalid(
                "max_in_flight",
                "max_in_flight is 0, so the consumer could receive nothing: give it 1 or more",
            ));
        }
        let rules = SlotRules { is_exclusive: self.info.is_exclusive, prefetch };
        let mut core = self.committer().lock_open("open a consumer")?;
        let slot = OwnedSlot::open(&self.engine, &mut core, self.cursor(), rules)?;
        drop(core);
        Ok(Consumer { slot: Some(slot), ..self.clone() })
    }

    /// Whether this consumer is the one that receives.
    pub fn is_active(&self) -> Result<bool> {
        let active = self.committer().lock_open("active consumer")?.active_slot(self.cursor())?;
        Ok(match &self.slot {
            Some(slot) if slot.slot().is_exclusive() => active == Some(slot.number()),
            _ => true,
        })
    }
}
