//! Topics: handles and builders.

mod builder;

use std::{fmt, ops::Range, sync::Arc};

pub use builder::{TopicBuilder, TopicSettings};

use super::subscription::SubscriptionBuilder;
use crate::{
    config::Durability,
    engine::{
        commit::{
            append::Target, asking::committed, committer::Committer, lifetime::Engine,
            ticket::Ticket,
        },
        core::{commit::Receipt, waiters::Receivers},
        runtime::wait::Attempt,
    },
    error::Result,
    format::entity::Entity,
    ids::{EntityId, LogId, Offset},
    message::Message,
    store::Space,
};

/// A topic: every subscription gets a copy of each message. The store keeps each message once.
///
/// A subscription can ask for some messages only: by [patterns](crate::SubscriptionBuilder::pattern) for their
/// [subjects](Message::subject), or by [headers](crate::SubscriptionBuilder::header_equals).
///
/// Clones are cheap and are the same topic. A message that is published while the topic has no subscription
/// reaches no consumer, unless the topic [retains](TopicBuilder::retain_age) it.
///
/// ```
/// use posthouse::Engine;
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let created = engine.topic("order.created").create()?;
/// let shipping = created.subscription("shipping").create()?;
/// let email = created.subscription("email").create()?;
/// created.publish("order 1")?;
/// assert_eq!((shipping.depth()?, email.depth()?), (1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Topic {
    engine: Engine,
    name: Arc<str>,
    id: EntityId,
    durability: Durability,
}

impl Topic {
    fn attach(engine: &Engine, entity: &Entity) -> Result<Topic> {
        let committer = engine.committer();
        // From here on a sync counts what it makes visible, for subscribers that come before it.
        let log = std::iter::once(entity.id.log(0));
        committer.lock_open("open a topic")?.watch(log, Receivers::EachSubscription);
        let durability = committer.config.durability;
        let (engine, name) = (engine.clone(), Arc::clone(&entity.name));
        Ok(Topic { engine, name, id: entity.id, durability })
    }

    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings of the topic, as they are now. Its subscriptions have [theirs](crate::Subscription::settings).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").retain_messages(1000).create()?;
    /// assert_eq!(created.settings()?.retain_messages, Some(1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the topic was deleted.
    pub fn settings(&self) -> Result<TopicSettings> {
        let core = self.engine.committer().lock_open("settings")?;
        let entity = core.store.entity(self.id).ok_or_else(|| core.store.deleted(self.id))?;
        Ok(TopicSettings::of(entity))
    }

    pub(crate) fn log(&self) -> LogId {
        self.id.log(0)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same topic with another durability. It counts for messages that are published through the returned
    /// handle.
    ///
    /// ```
    /// use posthouse::Durability;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let clicks = engine.topic("clicks").create()?.durability(Durability::Buffered);
    /// clicks.publish("a click")?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durability(&self, durability: Durability) -> Topic {
        Topic { durability, ..self.clone() }
    }

    /// A subscription by its name: to be created, opened or deleted.
    ///
    /// A new subscription receives only the messages that are published after its creation, unless it has another
    /// [start](SubscriptionBuilder::start).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// created.publish("order 1")?;
    /// let shipping = created.subscription("shipping").create()?;
    /// created.publish("order 2")?;
    /// assert_eq!(shipping.try_receive()?.expect("it was published").payload(), b"order 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscription(&self, name: &str) -> SubscriptionBuilder {
        SubscriptionBuilder::new(&self.engine, self.id, &self.name, name)
    }

    /// The names of the subscriptions, sorted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// created.subscription("shipping").create()?;
    /// created.subscription("email").create()?;
    /// assert_eq!(created.subscriptions()?, ["email", "shipping"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the topic was deleted;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn subscriptions(&self) -> Result<Vec<String>> {
        self.engine.list(Space::Subscriptions { topic: self.id })
    }

    fn append(&self, messages: &[Message<'_>]) -> Result<(Offset, Receipt)> {
        let target = Target { log: self.log(), keeps_acked: false };
        self.engine.committer().append("publish", target, messages, Committer::tick_now)
    }

    /// Publishes a message, and returns its offset in the topic.
    ///
    /// The message is durable when the call returns, unless the handle has another
    /// [durability](Topic::durability).
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// created.publish(Message::new("order 1").key("customer-17").header("region", "eu"))?;
    /// created.publish(Message::new("order 2").subject("orders.eu.created"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the message has a delay or a priority, a header without a name, a time
    /// to live of 0, or a [subject](Message::subject) that is not valid;
    /// [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`NotFound`](crate::ErrorKind::NotFound) if the topic was deleted: the message was not
    /// published. [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed: the commit may be lost, or not.
    pub fn publish<'m>(&self, message: impl Into<Message<'m>>) -> Result<Offset> {
        let committed = self.append(&[message.into()])?;
        self.engine.committer().complete(committed, self.durability)
    }

    /// Publishes messages in one commit: all of them, or none. It returns their offsets.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// created.publish_batch(["order 1", "order 2"])?; // one flush for both
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`publish`](Topic::publish).
    pub fn publish_batch<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Range<Offset>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let first = self.engine.committer().complete(self.append(&messages)?, self.durability)?;
        Ok(first..Offset(first.0 + messages.len() as u64))
    }

    /// Publishes messages in one commit, without waiting for the disk: see [`publish_batch`](Topic::publish_batch) and
    /// [`publish_ticket`](Topic::publish_ticket).
    ///
    /// # Errors
    ///
    /// The same errors as [`publish`](Topic::publish). An error of the sync comes from the ticket.
    pub fn publish_batch_ticket<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Ticket<Range<Offset>>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let (first, receipt) = self.append(&messages)?;
        let offsets = first..Offset(first.0 + messages.len() as u64);
        Ok(Ticket::new(&self.engine, (offsets, receipt)))
    }

    /// Publishes a message as a future. It never blocks its thread: it awaits space in a full journal, too. See
    /// [`Queue::send_async`](crate::Queue::send_async).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// let published = async { created.publish_async("order 1").await };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut published = std::pin::pin!(published);
    /// # while published.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`publish`](Topic::publish).
    pub fn publish_async<'m, M: Into<Message<'m>>>(
        &self,
        message: M,
    ) -> impl Future<Output = Result<Offset>> + Send + use<'m, M> {
        let (topic, message) = (self.clone(), message.into());
        committed(self.engine.clone(), self.durability, move || {
            Ok(Attempt::Got(topic.append(std::slice::from_ref(&message))?))
        })
    }

    /// Publishes messages in one commit, as a future: see [`publish_batch`](Topic::publish_batch) and
    /// [`publish_async`](Topic::publish_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`publish`](Topic::publish).
    pub fn publish_batch_async<'m, M: Into<Message<'m>>, I: IntoIterator<Item = M>>(
        &self,
        messages: I,
    ) -> impl Future<Output = Result<Range<Offset>>> + Send + use<'m, M, I> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let topic = self.clone();
        committed(self.engine.clone(), self.durability, move || {
            let (first, receipt) = topic.append(&messages)?;
            let offsets = first..Offset(first.0 + messages.len() as u64);
            Ok(Attempt::Got((offsets, receipt)))
        })
    }

    /// Publishes a message without waiting for the disk. The [`Ticket`] tells when the message is durable.
    ///
    /// The call waits only if the journal is full, until it has room.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// let ticket = created.publish_ticket("order 1")?;
    /// ticket.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`publish`](Topic::publish). An error of the sync comes from the ticket.
    pub fn publish_ticket<'m>(&self, message: impl Into<Message<'m>>) -> Result<Ticket<Offset>> {
        Ok(Ticket::new(&self.engine, self.append(&[message.into()])?))
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.name()).finish_non_exhaustive()
    }
}
