//! A consumer: the state that the handles of one queue or subscription share.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::slot::SharedSlot;
use crate::{
    config::Durability,
    delivery::in_force::DeliverySettings,
    engine::{
        commit::{committer::Committer, lifetime::Engine},
        core::{
            Core,
            consumption::{CursorInfo, Origin},
            guard::CoreGuard,
            rules::Rules,
            waiters::Receivers,
        },
        runtime::{histogram::Latencies, wait::Watch},
    },
    error::Result,
    format::entity::{Delivering, Entity},
    ids::{CursorId, LogId},
};

/// A consumer of one ack cursor.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub engine: Engine,
    pub info: Arc<CursorInfo>,
    /// Where it waits for messages.
    pub(super) watch: Arc<Watch>,
    pub(super) slot: SharedSlot,
    pub durability: Durability,
    /// Set for workers: whether this one was told of the damage of spilled messages. Another consumer is told of it
    /// each time it finds no message.
    pub(super) was_told: Option<Arc<AtomicBool>>,
    /// It is dropped last: then nothing else of the consumer is left.
    pub(super) _open: Arc<OpenConsumer>,
}

/// A consumer that closes when its last handle and its last delivery are dropped.
#[derive(Debug)]
pub(super) struct OpenConsumer {
    engine: Engine,
    cursor: CursorId,
}

impl Drop for OpenConsumer {
    fn drop(&mut self) {
        self.engine.committer().lock("close a consumer").close_consumer(self.cursor);
    }
}

/// A cursor that is to be consumed from.
#[derive(Debug)]
pub struct ConsumedCursor<'a> {
    pub cursor: CursorId,
    pub log: LogId,
    /// The name of the queue, or of the subscription.
    pub name: &'a str,
    pub origin: Origin,
    pub delivering: &'a Delivering,
}

impl Consumer {
    /// Opens a consumer of a cursor.
    pub fn attach(engine: &Engine, consumed: ConsumedCursor<'_>) -> Result<Consumer> {
        let ConsumedCursor { cursor, log, name, origin, delivering } = consumed;
        let committer = engine.committer();
        let receivers = if origin.is_subscription { Receivers::All } else { Receivers::One };
        let tick = committer.disk.tick();
        let info = CursorInfo::new(cursor, log, name, origin, Rules::of(delivering, tick), tick);
        let mut core = committer.lock_open("open a consumer")?;
        let info = core.begin_consuming(info)?;
        let watch = core.watch(std::iter::once(log), receivers);
        let (engine, slot) = (engine.clone(), SharedSlot::default());
        let durability = committer.config.durability;
        let open = Arc::new(OpenConsumer { engine: engine.clone(), cursor });
        let was_told = None;
        let consumer = Consumer { engine, info, watch, slot, durability, was_told, _open: open };
        let slot = consumer.slot_in(&mut core).map(drop);
        // A consumer that is dropped locks the core.
        drop(core);
        slot.map(|()| consumer)
    }

    pub fn with_durability(&self, durability: Durability) -> Consumer {
        Consumer { durability, ..self.clone() }
    }

    /// This consumer, for a worker.
    pub fn for_worker(&self) -> Consumer {
        Consumer { was_told: Some(Arc::default()), ..self.clone() }
    }

    #[inline]
    pub fn committer(&self) -> &Arc<Committer> {
        self.engine.committer()
    }

    #[inline]
    pub fn cursor(&self) -> CursorId {
        self.info.cursor
    }

    #[inline]
    pub fn log(&self) -> LogId {
        self.info.log
    }

    /// Runs a query under the core, after leases have run out and messages have come due as of now.
    pub fn query<T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&mut Core) -> Result<T>,
    ) -> Result<T> {
        let (mut core, _) = self.lock_current(operation)?;
        ask(&mut core)
    }

    /// Locks the core to look at the messages. The flusher's thread does what is due in time; without it, as on the
    /// simulated disk, this call does it first.
    pub fn lock_looked(&self, operation: &'static str) -> Result<CoreGuard<'_>> {
        if self.committer().flusher.has_thread() {
            self.committer().lock_open(operation)
        } else {
            Ok(self.lock_current(operation)?.0)
        }
    }

    /// How many committed messages are not acked.
    pub fn depth(&self) -> Result<u64> {
        let core = self.lock_looked("depth")?;
        let (_, end) = core.bounds(self.log())?;
        Ok(core.store.acks_of(self.cursor())?.unacked(end))
    }

    pub fn settings(&self) -> Result<DeliverySettings> {
        let core = self.committer().lock_open("settings")?;
        let id = self.cursor().entity();
        let stored = core.store.entity(id).and_then(Entity::delivering);
        let stored = stored.ok_or_else(|| core.store.deleted(id))?;
        Ok(DeliverySettings::of(stored, core.store.dead_letter_queue_of(stored)))
    }

    pub fn in_flight(&self) -> Result<u64> {
        self.query("in flight", |core| Ok(core.consumption(self.cursor())?.deliveries.in_flight()))
    }

    pub fn delayed(&self) -> Result<u64> {
        self.query("delayed", |core| {
            let waiting = core.consumption(self.cursor())?.deliveries.waiting();
            Ok(waiting + core.spilled(self.cursor()))
        })
    }

    /// The age of the oldest message that is not acked.
    pub fn oldest_age(&self) -> Result<Option<Duration>> {
        drop(self.lock_looked("oldest message")?);
        let committer = self.committer();
        let oldest = committer.oldest(self.cursor())?;
        Ok(oldest.map(|oldest| oldest.age(committer.even())))
    }

    pub fn latencies(&self) -> Result<Latencies> {
        // This fails if the queue was deleted.
        self.depth()?;
        Ok(self.info.latencies.snapshot())
    }
}
