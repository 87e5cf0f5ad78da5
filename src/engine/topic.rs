//! Topics and subscriptions.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

#[cfg(feature = "stream")]
use super::deliveries::Deliveries;
use super::{
    browse::Browse,
    builders::SubscriptionBuilder,
    consumer::Consumer,
    delivery::Delivery,
    handle::Engine,
    latency::Latencies,
    queue::append,
    ticket::Ticket,
    watching::{ConsumerStats, Crossing, Level, LevelWatch},
    worker::WorkerBuilder,
};
use crate::{
    config::Durability,
    error::Result,
    format::entity::{Entity, EntityKind},
    ids::{EntityId, LogId, Offset},
    message::Message,
    store::Space,
};

/// A topic: every subscription gets its own copy of each message, stored once.
///
/// Clones are cheap and are the same topic. What is published while there is no subscription is
/// for nobody.
#[derive(Clone)]
pub struct Topic {
    engine: Engine,
    name: Arc<str>,
    id: EntityId,
    durability: Durability,
}

impl Topic {
    pub(super) fn attach(engine: &Engine, entity: &Entity) -> Result<Topic> {
        let shared = engine.shared();
        // From here on it is counted what a sync makes visible, for those who come before it.
        shared.lock_open()?.watch(std::iter::once(entity.id.log(0)), false);
        let durability = shared.config.durability;
        let (engine, name) = (engine.clone(), entity.name.as_str().into());
        Ok(Topic { engine, name, id: entity.id, durability })
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn log(&self) -> LogId {
        self.id.log(0)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same topic, with another durability for what is published through this handle.
    #[must_use]
    pub fn durability(&self, durability: Durability) -> Topic {
        Topic { durability, ..self.clone() }
    }

    /// A subscription by its name: to be created, opened or deleted. A new one receives only
    /// what is published after its creation.
    pub fn subscription(&self, name: &str) -> SubscriptionBuilder {
        SubscriptionBuilder::new(&self.engine, (self.id, &self.name), name)
    }

    /// The names of the subscriptions, sorted.
    ///
    /// # Errors
    ///
    /// If the engine is closed or poisoned.
    pub fn subscriptions(&self) -> Result<Vec<String>> {
        self.engine.list(Space::Subscriptions { topic: self.id })
    }

    /// Publishes a message. It is durable when the call returns, unless the durability says
    /// otherwise.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`NotFound`](crate::ErrorKind::NotFound) if the topic was deleted: the message was not
    /// published. [`Poisoned`](crate::ErrorKind::Poisoned): it may have been, or not.
    pub fn publish<'m>(&self, message: impl Into<Message<'m>>) -> Result<Offset> {
        let committed = append(self.engine.shared(), self.log(), &[message.into()])?;
        self.engine.shared().complete(committed, self.durability)
    }

    /// Publishes messages as one commit: all of them, or none. Returns their offsets.
    ///
    /// # Errors
    ///
    /// As [`publish`](Topic::publish).
    pub fn publish_batch<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Range<Offset>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let committed = append(self.engine.shared(), self.log(), &messages)?;
        let first = self.engine.shared().complete(committed, self.durability)?;
        Ok(first..Offset(first.0 + messages.len() as u64))
    }

    /// Publishes a message without waiting for the disk: the ticket says when it is durable. It
    /// waits only where the journal has no room, until there is some.
    ///
    /// # Errors
    ///
    /// As [`publish`](Topic::publish), up to the commit.
    pub fn publish_ticket<'m>(&self, message: impl Into<Message<'m>>) -> Result<Ticket<Offset>> {
        let (offset, end) = append(self.engine.shared(), self.log(), &[message.into()])?;
        Ok(Ticket::new(&self.engine, offset, end))
    }
}

/// A durable subscription of a topic: a place of its own in what was published, with leases,
/// attempts and acks of its own.
///
/// Any number of threads receive from it, and each message goes to one of them. Clones are cheap
/// and are the same subscription.
#[derive(Clone)]
pub struct Subscription {
    consumer: Arc<Consumer>,
}

impl Subscription {
    pub(super) fn attach(
        engine: &Engine,
        topic_name: &str,
        entity: &Entity,
    ) -> Result<Subscription> {
        let EntityKind::Subscription { topic, delivering } = &entity.kind else {
            unreachable!("the space of subscriptions holds subscriptions");
        };
        let origin = format!("{topic_name}/{}", entity.name);
        let (names, ids) = ((&*entity.name, &*origin), (entity.id.cursor(0), topic.log(0)));
        let consumer = Arc::new(Consumer::attach(engine, names, ids, delivering, false)?);
        Ok(Subscription { consumer })
    }

    /// The subscription's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.consumer.name
    }

    /// The same subscription, with another durability for what becomes of the deliveries that are
    /// received through this handle.
    #[must_use]
    pub fn durability(&self, durability: Durability) -> Subscription {
        let consumer = self.consumer.with_durability(durability);
        Subscription { consumer: Arc::new(consumer) }
    }

    /// The same subscription, as a consumer of its own that holds so many deliveries at most: while it does,
    /// it receives nothing, and is woken when one is settled. So one slow consumer does not lease what
    /// others could handle. Clones of the handle share the limit.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is 0;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the subscription was deleted.
    pub fn max_in_flight(&self, most: u64) -> Result<Subscription> {
        let consumer = Arc::new(self.consumer.with_max_in_flight(most)?);
        Ok(Subscription { consumer })
    }

    /// Whether this consumer is the one that receives; always, but where only
    /// [one at a time](crate::SubscriptionBuilder::single_active_consumer) does.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the subscription was deleted.
    pub fn is_active(&self) -> Result<bool> {
        self.consumer.is_active()
    }

    /// Receives the next message, and waits for one if need be. `None` if the time ran out.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed, also while the call waits;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the subscription was deleted;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the message is damaged: it is not skipped;
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn receive(&self, timeout: Duration) -> Result<Option<Delivery>> {
        self.consumer.receive(Some(timeout))
    }

    /// Receives the next message if there is one.
    ///
    /// # Errors
    ///
    /// As [`receive`](Subscription::receive).
    pub fn try_receive(&self) -> Result<Option<Delivery>> {
        self.consumer.try_receive()
    }

    /// Receives up to `most` messages: those that are there, or the first that come within the
    /// timeout. Empty if the time ran out.
    ///
    /// # Errors
    ///
    /// As [`receive`](Subscription::receive); [`InvalidInput`](crate::ErrorKind::InvalidInput) if
    /// `most` is 0.
    pub fn receive_batch(&self, most: usize, timeout: Duration) -> Result<Vec<Delivery>> {
        self.consumer.receive_batch(most, timeout)
    }

    /// Receives the next message, asynchronously. Needs no particular runtime, and loses nothing
    /// when it is dropped: a message is leased only when the future is ready.
    ///
    /// # Errors
    ///
    /// As [`receive`](Subscription::receive).
    pub fn receive_async(&self) -> impl Future<Output = Result<Delivery>> + Send + Unpin + use<> {
        self.consumer.receive_async()
    }

    /// How many messages this subscription has not acked, those in flight included.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the subscription was deleted.
    pub fn depth(&self) -> Result<u64> {
        self.consumer.depth()
    }

    /// How many messages are on lease.
    ///
    /// # Errors
    ///
    /// As [`depth`](Subscription::depth).
    pub fn in_flight(&self) -> Result<u64> {
        self.consumer.in_flight()
    }

    /// How many messages there are in which state, and what has happened since it was first opened
    /// in this life of the engine.
    ///
    /// # Errors
    ///
    /// As [`depth`](Subscription::depth).
    pub fn stats(&self) -> Result<ConsumerStats> {
        self.consumer.stats()
    }

    /// How long messages have waited to be received, and how long it took until they were acked, since
    /// a handle of the subscription was first made in this life of the engine.
    ///
    /// # Errors
    ///
    /// As [`depth`](Subscription::depth).
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
    /// As [`depth`](Subscription::depth); [`InvalidInput`](crate::ErrorKind::InvalidInput) for a level of 0.
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

    /// A worker that runs a handler for each message of this subscription, on threads of its own or as tasks.
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(&self.consumer)
    }

    /// How many messages wait until they are due, as they failed.
    ///
    /// # Errors
    ///
    /// As [`depth`](Subscription::depth).
    pub fn delayed(&self) -> Result<u64> {
        self.consumer.delayed()
    }

    /// Looks at the messages that are not acked, without taking them.
    ///
    /// # Errors
    ///
    /// As [`receive`](Subscription::receive).
    pub fn browse(&self) -> Result<Browse> {
        self.consumer.browse()
    }

    /// Deletes one message for this subscription. `false` if it is not there, as it was acked or
    /// deleted before. A delivery that is under way is not stopped by it.
    ///
    /// # Errors
    ///
    /// As [`depth`](Subscription::depth), and if the commit fails.
    pub fn remove(&self, offset: Offset) -> Result<bool> {
        self.consumer.remove(offset)
    }

    /// Deletes all messages for this subscription but those on lease, and says how many they were.
    ///
    /// # Errors
    ///
    /// As [`remove`](Subscription::remove).
    pub fn purge(&self) -> Result<u64> {
        self.consumer.purge()
    }

    /// For how long the oldest message that is not acked has been there, by its timestamp. `None`
    /// if all are acked.
    ///
    /// # Errors
    ///
    /// As [`depth`](Subscription::depth), and if the message is damaged.
    pub fn oldest_age(&self) -> Result<Option<Duration>> {
        self.consumer.oldest_age()
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("name", &self.name()).finish_non_exhaustive()
    }
}
