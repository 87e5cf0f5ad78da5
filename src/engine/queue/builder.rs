//! The builder of a queue: its settings, and the calls that create, open and delete it.

use std::time::Duration;

use super::Queue;
use crate::{
    config::Overflow,
    delivery::{in_force::Difference, settings::Settings},
    engine::commit::{
        definition::{self, Definition, IfExists, builder_calls, delivery_difference, update_call},
        delivery_settings::delivery_settings,
        lifetime::Engine,
    },
    engine::core::Core,
    error::Result,
    format::entity::{Entity, EntityKind},
    ids::EntityId,
    store::Space,
};

/// A queue by its name: to be created, opened or deleted. [`Engine::queue`] returns it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct QueueBuilder {
    engine: Engine,
    name: String,
    settings: Settings,
    is_internal: bool,
}

impl Engine {
    /// A queue by its name: to be created, opened or deleted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(5).create()?;
    /// assert_eq!(payments.name(), "payments");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn queue(&self, name: &str) -> QueueBuilder {
        let (engine, name) = (self.clone(), name.to_owned());
        QueueBuilder { engine, name, settings: Settings::default(), is_internal: false }
    }

    /// The names of all queues, sorted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.queue("payments").max_attempts(5).create()?;
    /// assert_eq!(engine.queues()?, ["payments", "payments.dead"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn queues(&self) -> Result<Vec<String>> {
        self.list(Space::Queues)
    }
}

impl QueueBuilder {
    delivery_settings!("engine.queue(\"payments\")");

    /// Sets how many messages the queue may hold: any number by default. Messages on lease and delayed messages
    /// count.
    ///
    /// A queue that is full refuses messages, alone or in a transaction: see [`overflow`](QueueBuilder::overflow).
    /// Dead letters and redriven messages always fit.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let queue = engine.queue("thumbnails").max_messages(1).create()?;
    /// queue.send("image 1")?;
    /// assert_eq!(queue.send("image 2").unwrap_err().kind(), posthouse::ErrorKind::QueueFull);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_messages(mut self, messages: u64) -> QueueBuilder {
        self.settings.max_messages = Some(Some(messages));
        self
    }

    /// Sets that the queue may hold any number of messages. That is the default;
    /// [`create_or_update`](QueueBuilder::create_or_update) takes a limit away with it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let queue = engine.queue("thumbnails").max_messages(1).create()?;
    /// engine.queue("thumbnails").without_max_messages().create_or_update()?;
    /// queue.send_batch(["image 1", "image 2"])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_max_messages(mut self) -> QueueBuilder {
        self.settings.max_messages = Some(None);
        self
    }

    /// Sets how many bytes the messages in the queue may have together: any number by default. Keys, headers
    /// and subjects count.
    ///
    /// Otherwise it works as [`max_messages`](QueueBuilder::max_messages). The count takes 4 bytes of memory per
    /// message. The engine reads the queue once, when it is first opened. See also [`Queue::bytes`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let queue = engine.queue("images").max_bytes(1 << 30).create()?;
    /// assert_eq!(queue.bytes()?, Some(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_bytes(mut self, bytes: u64) -> QueueBuilder {
        self.settings.max_bytes = Some(Some(bytes));
        self
    }

    /// Sets that the messages in the queue may have any number of bytes. That is the default;
    /// [`create_or_update`](QueueBuilder::create_or_update) takes a limit away with it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.queue("images").max_bytes(1 << 30).create()?;
    /// let images = engine.queue("images").without_max_bytes().create_or_update()?;
    /// assert_eq!(images.bytes()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_max_bytes(mut self) -> QueueBuilder {
        self.settings.max_bytes = Some(None);
        self
    }

    /// Sets what a full queue does with another message: it refuses the message by default.
    ///
    /// ```
    /// use posthouse::Overflow;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let latest = engine.queue("ticks").max_messages(1).overflow(Overflow::DropOldest).create()?;
    /// latest.send("tick 1")?;
    /// latest.send("tick 2")?;
    /// assert_eq!(latest.try_receive()?.expect("one is there").payload(), b"tick 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn overflow(mut self, overflow: Overflow) -> QueueBuilder {
        self.settings.overflow = Some(overflow);
        self
    }

    /// Sets how long each message waits before its first delivery: 0 by default, a year at most.
    ///
    /// A message can have another delay: see [`Message::deliver_after`](crate::Message::deliver_after).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reminders = engine.queue("reminders").delay(std::time::Duration::from_secs(3600)).create()?;
    /// reminders.send("in an hour")?;
    /// assert!(reminders.try_receive()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delay(mut self, delay: Duration) -> QueueBuilder {
        self.settings.delay = Some(delay);
        self
    }

    builder_calls!("queue", Queue, "engine.queue(\"payments\")", |this: &Self, entity| {
        Queue::attach(&this.engine, entity)
    });

    update_call!(
        "queue",
        Queue,
        "engine.queue(\"payments\").max_attempts(8)",
        |this: &Self, entity| { Queue::attach(&this.engine, entity) }
    );
}

impl QueueBuilder {
    /// A queue that the engine keeps for itself: its name is reserved.
    #[cfg_attr(not(feature = "cron"), allow(dead_code))]
    pub(crate) fn internal(self) -> QueueBuilder {
        QueueBuilder { is_internal: true, ..self }
    }
}

impl Definition for QueueBuilder {
    type Prepared = ();

    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn space(&self) -> Space {
        Space::Queues
    }

    fn is_internal(&self) -> bool {
        self.is_internal
    }

    fn dead_letter_queue(&self, there: Option<&EntityKind>) -> Option<String> {
        self.settings.dead_letter_queue_of(&self.name, there.and_then(EntityKind::delivering))
    }

    fn names_dead_letter_queue(&self) -> bool {
        self.settings.dead_letter_queue.is_some()
    }

    fn check(&self, dead_letter_queue: Option<&str>) -> Result<()> {
        self.settings.check(dead_letter_queue)
    }

    fn kind(&self, dead_letters: Option<EntityId>) -> Result<EntityKind> {
        Ok(EntityKind::Queue(self.settings.definition(dead_letters)?.into()))
    }

    fn applied_to(&self, there: &EntityKind, letters: Option<EntityId>) -> Result<EntityKind> {
        match there {
            EntityKind::Queue(stored) => {
                Ok(EntityKind::Queue(self.settings.applied_to(stored, letters)?.into()))
            }
            other => Ok(other.clone()),
        }
    }

    fn differs(&self, core: &Core, there: &Entity) -> Result<Option<Difference>> {
        let named = self.dead_letter_queue(Some(&there.kind));
        delivery_difference(core, &self.settings, named, there)
    }

    /// A limit in bytes counts at once, so the queue is weighed before. What cannot be read is then an error of a call that
    /// has changed nothing.
    fn before_update(&self, entity: &Entity) -> Result<()> {
        let there = entity.delivering().and_then(|it| it.limit?.bytes);
        match self.settings.max_bytes.unwrap_or(there) {
            Some(_) => Queue::attach(&self.engine, entity)?.consumer.weigh(),
            None => Ok(()),
        }
    }
}
