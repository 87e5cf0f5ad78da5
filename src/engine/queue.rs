//! Queues.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

#[cfg(feature = "stream")]
use super::deliveries::Deliveries;
use super::{
    browse::Browse,
    consumer::Consumer,
    core::Core,
    delivery::Delivery,
    grouped::check_ordered,
    handle::Engine,
    latency::Latencies,
    redrive::Redrive,
    room::Load,
    shared::{Committing, Shared},
    ticket::Ticket,
    watching::{ConsumerStats, Crossing, Level, LevelWatch},
    worker::WorkerBuilder,
};
use crate::{
    config::Durability,
    error::Result,
    format::entity::{Entity, EntityKind, Limit},
    ids::{CursorId, LogId, Lsn, Now, Offset},
    message::Message,
    store::{Op, Outcome},
};

/// A queue: each message goes to one consumer, and is delivered again until it is acked.
///
/// Any number of threads send and receive; clones are cheap and are the same queue. First
/// deliveries are in the order of sending. A message that comes back takes turns with fresh ones.
#[derive(Clone)]
pub struct Queue {
    consumer: Arc<Consumer>,
    delay_ms: u64,
    limit: Option<Limit>,
}

/// Commits messages to a log that is not a queue's. Returns the offset of the first.
pub fn append(shared: &Shared, log: LogId, messages: &[Message<'_>]) -> Result<(Offset, Lsn)> {
    append_at(shared, log, messages, Shared::now)
}

#[inline]
pub fn append_at(
    shared: &Shared,
    log: LogId,
    messages: &[Message<'_>],
    now: impl Fn(&Shared) -> Now,
) -> Result<(Offset, Lsn)> {
    shared.transact(|core| {
        if messages.is_empty() {
            let (_, next) = core.store.bounds(log).ok_or_else(super::core::deleted)?;
            return Ok(Committing::Done(next, Lsn(0)));
        }
        let outcome = core.commit(&[Op::Append { log, messages, delay_ms: 0 }], now(shared))?;
        let placed = core.store.placed().next();
        Ok(Committing::of(outcome, || placed.expect("messages were committed").1.start))
    })
}

impl Queue {
    pub(super) fn attach(engine: &Engine, entity: &Entity) -> Result<Queue> {
        let EntityKind::Queue(delivering) = &entity.kind else {
            unreachable!("the space of queues holds queues");
        };
        let (names, ids) =
            ((&*entity.name, &*entity.name), (entity.id.cursor(0), entity.id.log(0)));
        let consumer = Arc::new(Consumer::attach(engine, names, ids, delivering, true)?);
        if delivering.limit.is_some_and(|limit| limit.bytes.is_some()) {
            consumer.weigh()?;
        }
        Ok(Queue { consumer, delay_ms: delivering.delay_ms, limit: delivering.limit })
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.consumer.name
    }

    pub(super) fn log(&self) -> LogId {
        self.consumer.log
    }

    /// For how long messages are kept back that do not say otherwise.
    pub(super) fn delay_ms(&self) -> u64 {
        self.delay_ms
    }

    /// Whether a message can be sent to this queue.
    pub(super) fn admit(&self, message: &Message<'_>) -> Result<()> {
        if self.consumer.is_ordered { check_ordered(message) } else { Ok(()) }
    }

    #[inline]
    fn append(&self, messages: &[Message<'_>]) -> Result<(Offset, Lsn)> {
        self.append_or(messages, |_, _| {})
    }

    /// The same; `full` is called if there is no room for them.
    pub(super) fn append_or(
        &self,
        messages: &[Message<'_>],
        mut full: impl FnMut(&mut Core, CursorId),
    ) -> Result<(Offset, Lsn)> {
        let (shared, log, delay_ms) = (self.consumer.shared(), self.log(), self.delay_ms);
        let is_endless = self.consumer.life_ms == 0;
        let is_plain =
            delay_ms == 0 && is_endless && self.limit.is_none() && !self.consumer.is_ordered;
        if is_plain && !messages.iter().any(Message::has_more) {
            return append_at(shared, log, messages, Shared::now_plain);
        }
        messages.iter().try_for_each(|message| self.admit(message))?;
        let cursor = self.consumer.cursor;
        shared.transact(|core| {
            if messages.is_empty() {
                let (_, next) = core.store.bounds(log).ok_or_else(super::core::deleted)?;
                return Ok(Committing::Done(next, Lsn(0)));
            }
            let mut dropped = Vec::new();
            if let Some(limit) = self.limit {
                let load = Load::of(limit, messages);
                let room = core.room_for((cursor, log, limit), load, &[]);
                if room.is_err() {
                    full(core, cursor);
                }
                dropped = room?;
            }
            let mut ops = vec![Op::Append { log, messages, delay_ms }];
            if !dropped.is_empty() {
                ops.push(Op::AckRanges { cursor, ranges: &dropped });
            }
            let now = shared.now();
            let outcome = core.commit(&ops, now)?;
            if matches!(outcome, Outcome::Done(_)) {
                core.note_made_room(cursor, &dropped);
            }
            let placed = core.store.placed().next();
            Ok(Committing::of(outcome, || placed.expect("messages were committed").1.start))
        })
    }

    #[cfg(feature = "cron")]
    pub(super) fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    #[cfg(feature = "cron")]
    pub(super) fn is_ordered(&self) -> bool {
        self.consumer.is_ordered
    }

    pub(super) fn cursor(&self) -> CursorId {
        self.consumer.cursor
    }

    pub(super) fn limit(&self) -> Option<Limit> {
        self.limit
    }

    pub(super) fn durability_set(&self) -> Durability {
        self.consumer.durability
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.consumer.engine
    }

    /// The same queue, with another durability for the commits that are made through this handle:
    /// what is sent, and what becomes of its deliveries.
    #[must_use]
    pub fn durability(&self, durability: Durability) -> Queue {
        let consumer = Arc::new(self.consumer.with_durability(durability));
        Queue { consumer, ..self.clone() }
    }

    /// Sends a message. It is durable when the call returns, unless the durability says otherwise.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`NotFound`](crate::ErrorKind::NotFound) if the queue was deleted,
    /// [`QueueFull`](crate::ErrorKind::QueueFull) if it may hold no more: the message was not
    /// sent. [`Poisoned`](crate::ErrorKind::Poisoned): it may have been, or not.
    pub fn send<'m>(&self, message: impl Into<Message<'m>>) -> Result<Offset> {
        let committed = self.append(&[message.into()])?;
        self.consumer.shared().complete(committed, self.consumer.durability)
    }

    /// Sends messages as one commit: all of them, or none. Returns their offsets.
    ///
    /// # Errors
    ///
    /// As [`send`](Queue::send).
    pub fn send_batch<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Range<Offset>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let committed = self.append(&messages)?;
        let first = self.consumer.shared().complete(committed, self.consumer.durability)?;
        Ok(first..Offset(first.0 + messages.len() as u64))
    }

    /// Sends a message without waiting for the disk: the ticket says when it is durable. It waits
    /// only where the journal has no room, until there is some.
    ///
    /// # Errors
    ///
    /// As [`send`](Queue::send), up to the commit.
    pub fn send_ticket<'m>(&self, message: impl Into<Message<'m>>) -> Result<Ticket<Offset>> {
        let (offset, end) = self.append(&[message.into()])?;
        Ok(Ticket::new(self.engine(), offset, end))
    }

    /// The same queue, as a consumer of its own that holds so many deliveries at most: while it does,
    /// it receives nothing, and is woken when one is settled. So one slow consumer does not lease what
    /// others could handle. Clones of the handle share the limit.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is 0;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the queue was deleted.
    pub fn max_in_flight(&self, most: u64) -> Result<Queue> {
        let consumer = Arc::new(self.consumer.with_max_in_flight(most)?);
        Ok(Queue { consumer, ..self.clone() })
    }

    /// Whether this consumer is the one that receives; always, but where only
    /// [one at a time](crate::QueueBuilder::single_active_consumer) does.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the queue was deleted.
    pub fn is_active(&self) -> Result<bool> {
        self.consumer.is_active()
    }

    /// Receives the next message, and waits for one if need be. `None` if the time ran out.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed, also while the call waits;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the queue was deleted;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the message is damaged: it stays in the queue;
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Delivery>> {
        self.consumer.receive(Some(timeout))
    }

    /// Receives the next message if there is one.
    ///
    /// # Errors
    ///
    /// As [`receive`](Queue::receive).
    pub fn try_receive(&self) -> Result<Option<Delivery>> {
        self.consumer.try_receive()
    }

    /// Receives up to `most` messages: those that are there, or the first that come within the
    /// timeout. Empty if the time ran out.
    ///
    /// # Errors
    ///
    /// As [`receive`](Queue::receive); [`InvalidInput`](crate::ErrorKind::InvalidInput) if `most`
    /// is 0.
    pub fn receive_batch(&self, most: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        self.consumer.receive_batch(most, timeout)
    }

    /// Receives the next message, asynchronously. Needs no particular runtime, and loses nothing
    /// when it is dropped: a message is leased only when the future is ready.
    ///
    /// # Errors
    ///
    /// As [`receive`](Queue::receive).
    pub fn receive_async(&self) -> impl Future<Output = Result<Delivery>> + Send + Unpin + use<> {
        self.consumer.receive_async()
    }

    /// How many messages are in the queue, those in flight included.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the queue was deleted.
    pub fn depth(&self) -> Result<u64> {
        self.consumer.depth()
    }

    /// How many bytes the messages have that are in the queue, with their keys and headers. Known only
    /// where there is a [limit](crate::QueueBuilder::max_bytes), else `None`.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth).
    pub fn bytes(&self) -> Result<Option<u64>> {
        self.consumer.bytes()
    }

    /// How many messages are on lease.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth).
    pub fn in_flight(&self) -> Result<u64> {
        self.consumer.in_flight()
    }

    /// How many messages there are in which state, and what has happened since it was first opened
    /// in this life of the engine.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth).
    pub fn stats(&self) -> Result<ConsumerStats> {
        self.consumer.stats()
    }

    /// How long messages have waited to be received, and how long it took until they were acked, since
    /// a handle of the queue was first made in this life of the engine.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth).
    pub fn latencies(&self) -> Result<Latencies> {
        self.consumer.latencies()
    }

    /// Has a function called when a level is reached, and when it is left: once for each crossing,
    /// and once at first if it is reached already. It is called by whoever has caused it, after the
    /// commit, and may do anything but wait for that thread. The watch ends when what is returned is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth); [`InvalidInput`](crate::ErrorKind::InvalidInput) for a level of 0.
    pub fn watch(
        &self,
        level: Level,
        call: impl Fn(Crossing) + Send + Sync + 'static,
    ) -> Result<LevelWatch> {
        self.consumer.watch_level(level, call)
    }

    /// Acks deliveries as one commit: all of them, or none. They may be of other queues, too.
    ///
    /// # Errors
    ///
    /// As [`Delivery::ack`]; if one lease is lost, none is acked.
    pub fn ack_batch<'d>(&self, deliveries: impl IntoIterator<Item = &'d Delivery>) -> Result<()> {
        self.consumer.ack_batch(deliveries)
    }

    /// The messages, as they come, for `while let Some(delivery) = deliveries.next().await`. It ends
    /// when the engine is closed, and loses nothing when it is dropped.
    #[cfg(feature = "stream")]
    #[must_use]
    pub fn deliveries(&self) -> Deliveries {
        Deliveries::new(&self.consumer)
    }

    /// A worker that runs a handler for each message of this queue, on threads of its own or as tasks.
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(&self.consumer)
    }

    /// How many messages wait until they are due: delayed ones, and those that failed.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth).
    pub fn delayed(&self) -> Result<u64> {
        self.consumer.delayed()
    }

    /// Looks at the messages that are not acked, without taking them.
    ///
    /// # Errors
    ///
    /// As [`receive`](Queue::receive).
    pub fn browse(&self) -> Result<Browse> {
        self.consumer.browse()
    }

    /// Deletes one message, also one that waits until it is due: so a scheduled message is cancelled.
    /// `false` if it is not there, as it was acked or deleted before. A delivery that is under way
    /// is not stopped by it.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth), and if the commit fails.
    pub fn remove(&self, offset: Offset) -> Result<bool> {
        self.consumer.remove(offset)
    }

    /// Deletes all messages but those on lease, and says how many they were.
    ///
    /// # Errors
    ///
    /// As [`remove`](Queue::remove).
    pub fn purge(&self) -> Result<u64> {
        self.consumer.purge()
    }

    /// Moves the dead letters that are in this queue back to where they came from, or elsewhere.
    pub fn redrive<'f>(&self) -> Redrive<'f> {
        Redrive::new(&self.consumer)
    }

    /// For how long the oldest message that is not acked has been in the queue, by its timestamp.
    /// `None` if the queue is empty.
    ///
    /// # Errors
    ///
    /// As [`depth`](Queue::depth), and if the message is damaged.
    pub fn oldest_age(&self) -> Result<Option<Duration>> {
        self.consumer.oldest_age()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("name", &self.name()).finish_non_exhaustive()
    }
}
