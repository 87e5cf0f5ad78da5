//! Subscriptions: handles and builders.

mod late;

use std::{fmt, sync::Arc};

use self::late::{Late, Of};
#[cfg(feature = "sim")]
use crate::{config::Durability, ids::Offset, message::Message, store::Op};
use crate::{
    delivery::{in_force::Difference, settings::Settings},
    engine::{
        commit::{
            definition::{
                self, Beginning, Definition, IfExists, builder_calls, delivery_difference,
                update_call,
            },
            delivery_settings::delivery_settings,
            lifetime::Engine,
        },
        consume::{
            calls::{Consuming, consumer_calls},
            consumer::{ConsumedCursor, Consumer},
        },
        core::Core,
        queue::Redrive,
        stream::Start,
    },
    error::Result,
    format::{
        entity::{Entity, EntityKind},
        filter::HeaderFilter,
    },
    ids::EntityId,
    store::Space,
};

/// A subscription of a topic by its name: to be created, opened or deleted.
///
/// [`Topic::subscription`](crate::Topic::subscription) returns it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct SubscriptionBuilder {
    engine: Engine,
    topic: EntityId,
    topic_name: Arc<str>,
    name: String,
    start: Start,
    settings: Settings,
}

impl SubscriptionBuilder {
    pub(crate) fn new(
        engine: &Engine,
        topic: EntityId,
        topic_name: &Arc<str>,
        name: &str,
    ) -> SubscriptionBuilder {
        let (topic_name, name) = (Arc::clone(topic_name), name.to_owned());
        SubscriptionBuilder {
            engine: engine.clone(),
            topic,
            topic_name,
            name,
            start: Start::Latest,
            settings: Settings::default(),
        }
    }

    fn of_topic(&self) -> Of {
        Of { id: self.topic, topic: Arc::clone(&self.topic_name), log: self.topic.log(0) }
    }

    delivery_settings!("engine.topic(\"order.created\").create()?.subscription(\"shipping\")");

    /// Sets where a new subscription begins: at [`Start::Latest`] by default, so that it gets what is published from then on. The
    /// setting counts when the subscription is created. An existing one goes on where it is.
    ///
    /// The topic has to [retain](crate::TopicBuilder::retain_age) messages for those who come late. [`Start::Earliest`] is the first
    /// message that it retains. Letters that were redriven to other subscriptions are not among them. With
    /// [patterns](SubscriptionBuilder::pattern) and conditions on headers the subscription gets the messages that match, before its
    /// creation and after it. They are found by reading all retained messages from the start on, before it is created.
    ///
    /// The creation fails with [`InvalidInput`](crate::ErrorKind::InvalidInput), naming the field `start`, if the topic retains
    /// nothing, or not the offset that was given; and with [`TooLarge`](crate::ErrorKind::TooLarge) if what matches has more than
    /// a million gaps.
    ///
    /// ```
    /// use posthouse::{Message, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").retain_messages(1000).create()?;
    /// orders.publish(Message::new("order 1").subject("orders.eu"))?;
    /// orders.publish(Message::new("order 2").subject("orders.us"))?;
    /// let late = orders.subscription("late").pattern("orders.us").start(Start::Earliest).create()?;
    /// assert_eq!(late.try_receive()?.expect("it is retained").payload(), b"order 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(mut self, start: Start) -> SubscriptionBuilder {
        self.start = start;
        self
    }

    /// Adds a pattern: the subscription gets only messages whose subject matches one of its patterns.
    ///
    /// A pattern has tokens with dots between them, as a [subject](crate::Message::subject) has. The token `*` stands for any
    /// one token, and `>` at the end for one or more. A message without a subject is matched by the name of its topic. What
    /// does not match is as if it had not been published: it counts nowhere, and nothing has to ack it.
    ///
    /// [`create_or_update`](SubscriptionBuilder::create_or_update) puts the patterns that are given in the place of those that
    /// were there. They hold for messages that are published afterwards. Messages that wait stay.
    ///
    /// A subscription has at most 64 patterns, of 255 bytes and 32 tokens at most.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let billing =
    ///     orders.subscription("billing").pattern("orders.*.paid").pattern("refunds.>").create()?;
    /// orders.publish(Message::new("order 1").subject("orders.eu.paid"))?;
    /// orders.publish(Message::new("order 2").subject("orders.eu.created"))?;
    /// orders.publish(Message::new("order 3").subject("refunds.us.asked.late"))?;
    /// assert_eq!(billing.depth()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pattern(mut self, pattern: impl Into<String>) -> SubscriptionBuilder {
        self.settings.patterns.get_or_insert_default().push(pattern.into());
        self
    }

    /// Sets that subjects do not matter. That is the default;
    /// [`create_or_update`](SubscriptionBuilder::create_or_update) takes all patterns away with it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let billing = orders.subscription("billing").pattern("orders.*.paid").create()?;
    /// orders.subscription("billing").without_patterns().create_or_update()?;
    /// orders.publish("order 1")?;
    /// assert_eq!(billing.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_patterns(mut self) -> SubscriptionBuilder {
        self.settings.patterns = Some(Vec::new());
        self
    }

    /// Adds a condition: the subscription gets only messages with a header of this name and this value.
    ///
    /// All conditions on headers must hold, and one of the [patterns](SubscriptionBuilder::pattern) must match, if there are
    /// any. Each message costs as much as there are subscriptions with conditions whose patterns match it.
    /// A subscription has at most 16 conditions, with names and values of at most 1,024 bytes.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let europe = orders.subscription("europe").header_equals("region", "eu").create()?;
    /// orders.publish(Message::new("order 1").header("region", "eu"))?;
    /// orders.publish(Message::new("order 2").header("region", "us"))?;
    /// assert_eq!(europe.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn header_equals(
        self,
        name: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> SubscriptionBuilder {
        self.header_filter(HeaderFilter::Equals { name: name.into(), value: value.into() })
    }

    /// Adds a condition: the subscription gets only messages with a header of this name. See
    /// [`header_equals`](SubscriptionBuilder::header_equals).
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let traced = orders.subscription("traced").header_exists("trace").create()?;
    /// orders.publish(Message::new("order 1").header("trace", "17"))?;
    /// orders.publish("order 2")?;
    /// assert_eq!(traced.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn header_exists(self, name: impl Into<String>) -> SubscriptionBuilder {
        self.header_filter(HeaderFilter::Exists { name: name.into() })
    }

    /// Adds a condition: the subscription gets only messages with a header of this name whose value begins with these bytes.
    /// See [`header_equals`](SubscriptionBuilder::header_equals).
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let texts = orders.subscription("texts").header_prefix("content-type", "text/").create()?;
    /// orders.publish(Message::new("order 1").header("content-type", "text/plain"))?;
    /// orders.publish(Message::new("order 2").header("content-type", "image/png"))?;
    /// assert_eq!(texts.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn header_prefix(
        self,
        name: impl Into<String>,
        prefix: impl Into<Vec<u8>>,
    ) -> SubscriptionBuilder {
        self.header_filter(HeaderFilter::Prefix { name: name.into(), prefix: prefix.into() })
    }

    fn header_filter(mut self, filter: HeaderFilter) -> SubscriptionBuilder {
        self.settings.header_filters.get_or_insert_default().push(filter);
        self
    }

    /// Sets that headers do not matter. That is the default;
    /// [`create_or_update`](SubscriptionBuilder::create_or_update) takes all conditions away with it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let traced = orders.subscription("traced").header_exists("trace").create()?;
    /// orders.subscription("traced").without_header_filters().create_or_update()?;
    /// orders.publish("order 1")?;
    /// assert_eq!(traced.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_header_filters(mut self) -> SubscriptionBuilder {
        self.settings.header_filters = Some(Vec::new());
        self
    }

    builder_calls!(
        "subscription",
        Subscription,
        "engine.topic(\"order.created\").create()?.subscription(\"shipping\")",
        |this: &Self, entity| Subscription::attach(&this.engine, &this.topic_name, entity)
    );

    update_call!(
        "subscription",
        Subscription,
        "engine.topic(\"order.created\").create()?.subscription(\"shipping\").max_attempts(8)",
        |this: &Self, entity| Subscription::attach(&this.engine, &this.topic_name, entity)
    );
}

impl Definition for SubscriptionBuilder {
    type Prepared = Option<Late>;

    fn prepare(&self) -> Result<Option<Late>> {
        // Nothing is read where the subscription exists.
        Ok(Late::new(self.start, self.settings.filter(None).as_deref().cloned()))
    }

    fn prepare_on(&self, late: &mut Option<Late>) -> Result<()> {
        match late {
            Some(late) => late.prepare(self.engine.committer(), &self.of_topic()),
            None => Ok(()),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn space(&self) -> Space {
        Space::Subscriptions { topic: self.topic }
    }

    fn dead_letter_queue(&self, there: Option<&EntityKind>) -> Option<String> {
        let name = format!("{}.{}", self.topic_name, self.name);
        self.settings.dead_letter_queue_of(&name, there.and_then(EntityKind::delivering))
    }

    fn names_dead_letter_queue(&self) -> bool {
        self.settings.dead_letter_queue.is_some()
    }

    fn check(&self, dead_letter_queue: Option<&str>) -> Result<()> {
        self.settings.check(dead_letter_queue)
    }

    fn kind(&self, dead_letters: Option<EntityId>) -> Result<EntityKind> {
        let delivering = self.settings.definition(dead_letters)?;
        Ok(EntityKind::Subscription { topic: self.topic, delivering: delivering.into() })
    }

    fn applied_to(&self, there: &EntityKind, letters: Option<EntityId>) -> Result<EntityKind> {
        match there {
            EntityKind::Subscription { topic, delivering } => {
                let delivering = self.settings.applied_to(delivering, letters)?;
                Ok(EntityKind::Subscription { topic: *topic, delivering: delivering.into() })
            }
            other => Ok(other.clone()),
        }
    }

    fn differs(&self, core: &Core, there: &Entity) -> Result<Option<Difference>> {
        let named = self.dead_letter_queue(Some(&there.kind));
        delivery_difference(core, &self.settings, named, there)
    }

    fn begin(
        &self,
        core: &mut Core,
        entity: &Entity,
        late: &mut Option<Late>,
    ) -> Result<Option<Beginning>> {
        if let Some(late) = late {
            return late.begin(core, self.engine.committer(), &self.of_topic());
        }
        let starts = entity.cursors().map(|(_, log)| Ok(core.bounds(log)?.1));
        Ok(Some(Beginning { starts: starts.collect::<Result<_>>()?, acked: Vec::new() }))
    }
}

/// A durable subscription of a topic. It has a position in the topic, and leases, attempts and acks of its
/// own.
///
/// Any number of threads receive from it, and each message goes to one of them. Clones are cheap and are the
/// same subscription.
///
/// ```
/// use std::time::Duration;
/// use posthouse::Engine;
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let created = engine.topic("order.created").create()?;
/// let shipping = created.subscription("shipping").create()?;
/// created.publish("order 1")?;
/// if let Some(delivery) = shipping.receive(Duration::from_secs(1))? {
///     assert_eq!(delivery.payload(), b"order 1");
///     delivery.ack()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Subscription {
    consumer: Arc<Consumer>,
}

impl Consuming for Subscription {
    fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    fn with_consumer(consumer: Arc<Consumer>) -> Subscription {
        Subscription { consumer }
    }
}

impl Subscription {
    fn attach(engine: &Engine, topic_name: &Arc<str>, entity: &Entity) -> Result<Subscription> {
        let EntityKind::Subscription { topic, delivering } = &entity.kind else {
            unreachable!("the space of subscriptions holds subscriptions");
        };
        let consumed = ConsumedCursor {
            cursor: entity.id.cursor(0),
            log: topic.log(0),
            name: Arc::clone(&entity.name),
            topic: Some(Arc::clone(topic_name)),
            delivering,
        };
        Ok(Subscription { consumer: Arc::new(Consumer::attach(engine, consumed)?) })
    }

    /// Moves messages of the subscription to a queue, which [`to`](Redrive::to) names.
    ///
    /// They are moved as they are, with attempts and due times, and are acked for this subscription only. Its dead
    /// letters are in a queue of their own: [`Queue::redrive`](crate::Queue::redrive) of that queue moves them back
    /// here.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// let shipping = created.subscription("shipping").create()?;
    /// created.publish("order 1")?;
    /// let later = engine.queue("later").create()?;
    /// shipping.redrive().to(&later).run()?;
    /// assert_eq!((shipping.depth()?, later.depth()?), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn redrive<'f>(&self) -> Redrive<'f> {
        Redrive::new(&self.consumer)
    }

    consumer_calls!(
        Subscription,
        "subscription",
        "SubscriptionBuilder",
        "let topic = engine.topic(\"order.created\").create()?;\nlet handle = topic.subscription(\"shipping\").create()?;\ntopic.publish(\"order 1\")?;"
    );
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// Publishes a message that only one subscription of its topic gets, as the redrive of a dead letter does. For tests: a message
/// needs no life as a dead letter before that.
///
/// # Errors
///
/// Those of [`Topic::publish`](crate::Topic::publish).
#[cfg(feature = "sim")]
pub fn publish_to(
    subscription: &Subscription,
    message: Message<'_>,
    durability: Durability,
) -> Result<Offset> {
    let (consumer, messages) = (&subscription.consumer, [message]);
    let (committer, log) = (consumer.committer(), consumer.log());
    let committed = committer.transact("publish", |core| {
        let ranges = [core.bounds(log)?.1.only()];
        let ops = [
            Op::Append { log, messages: &messages, delay_ms: 0 },
            Op::AckOthers { log, keeper: consumer.cursor(), ranges: &ranges },
        ];
        let receipt = core.commit(&ops, committer.now())?;
        Ok((core.first_placed(), receipt))
    })?;
    committer.pass_all("publish");
    committer.complete(committed, durability)
}
