//! A consumer: the state that the handles of one queue or subscription share.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::slot::SharedSlot;
use crate::{
    config::Durability,
    delivery::in_force::DeliverySettings,
    engine::{
        commit::{committer::Committer, lifetime::Engine},
        core::{Core, consumption::CursorInfo, guard::CoreGuard, rules::Rules},
        runtime::histogram::Latencies,
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
    pub(super) slot: SharedSlot,
    pub durability: Durability,
    /// The number of the last damage of spilled messages that a worker was told of, which is told of all damage itself.
    pub(super) worker_told: Option<Arc<AtomicU64>>,
    /// It is dropped last: then nothing else of the consumer is left.
    pub(super) _open: OpenConsumer,
}

/// An open consumer. It closes when its handles and its deliveries are dropped.
#[derive(Debug)]
pub(super) struct OpenConsumer {
    engine: Engine,
    /// `None` once it is closed.
    info: Option<Arc<CursorInfo>>,
}

impl OpenConsumer {
    /// `info` was counted as opened.
    fn new(engine: &Engine, info: &Arc<CursorInfo>) -> OpenConsumer {
        OpenConsumer { engine: engine.clone(), info: Some(Arc::clone(info)) }
    }
}

impl Clone for OpenConsumer {
    fn clone(&self) -> OpenConsumer {
        if let Some(info) = &self.info {
            info.note_cloned();
        }
        OpenConsumer { engine: self.engine.clone(), info: self.info.clone() }
    }
}

impl Drop for OpenConsumer {
    fn drop(&mut self) {
        if let Some(info) = self.info.take() {
            let cursor = info.cursor;
            // The core tells by the references that are left whether a transaction needs the rules.
            drop(info);
            self.engine.committer().lock("close a consumer").close_consumer(cursor);
        }
    }
}

/// A cursor that is to be consumed from.
#[derive(Debug)]
pub struct ConsumedCursor<'a> {
    pub cursor: CursorId,
    pub log: LogId,
    /// The name of the queue, or of the subscription.
    pub name: Arc<str>,
    /// The topic's name, for a subscription.
    pub topic: Option<Arc<str>>,
    pub delivering: &'a Delivering,
}

impl Consumer {
    /// Opens a consumer of a cursor.
    pub fn attach(engine: &Engine, consumed: ConsumedCursor<'_>) -> Result<Consumer> {
        let ConsumedCursor { cursor, log, name, topic, delivering } = consumed;
        let committer = engine.committer();
        let rules = Rules::of(delivering, committer.disk.tick());
        let operation = "open a consumer";
        let (mut core, mut prepared) = (committer.lock_open(operation)?, None);
        if let Some(mut preparing) = core.begin_preparing(cursor) {
            while core.go_on_preparing(&mut preparing) {
                core = committer.give_way(operation, core);
            }
            drop(core);
            prepared = Some(preparing.end());
            core = committer.lock_open(operation)?;
        }
        let info = CursorInfo::new((cursor, log), name, topic, core.share(rules));
        let info = core.begin_consuming(info, prepared)?;
        let (engine, slot) = (engine.clone(), SharedSlot::default());
        let durability = committer.config.durability;
        let open = OpenConsumer::new(&engine, &info);
        let consumer = Consumer { engine, info, slot, durability, worker_told: None, _open: open };
        let slot = consumer.slot_in(&mut core).map(drop);
        // A consumer that is dropped locks the core.
        drop(core);
        slot.map(|()| consumer)
    }

    pub fn with_durability(&self, durability: Durability) -> Consumer {
        Consumer { durability, ..self.clone() }
    }

    /// This consumer, for a worker, which is told of all damage itself.
    pub fn for_worker(&self) -> Consumer {
        Consumer { worker_told: Some(Arc::default()), ..self.clone() }
    }

    /// The number of the last damage of spilled messages that this consumer was told of.
    pub(super) fn told(&self) -> &AtomicU64 {
        self.worker_told.as_deref().unwrap_or(&self.slot.told)
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
            let core = self.committer().lock_open(operation)?;
            if core.store.is_passing() {
                let of = (self.cursor(), self.log());
                return self.committer().await_turn(operation, core, of);
            }
            Ok(core)
        } else {
            Ok(self.lock_current(operation)?.0)
        }
    }

    /// How many committed messages are not acked.
    pub fn depth(&self) -> Result<u64> {
        let core = self.lock_looked("depth")?;
        let end = core.end_for(self.cursor(), self.log())?;
        Ok(core.store.unacked(core.store.acks_of(self.cursor())?, end))
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
            Ok(waiting + core.spilled_and_lost(self.cursor()).0)
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
        let mut core = self.lock_looked("latencies")?;
        let handling = core.consumption(self.cursor())?.handling.snapshot();
        Ok(Latencies { waiting: self.info.waited.snapshot(), handling })
    }
}
