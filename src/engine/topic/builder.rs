//! The builder of a topic: its settings, and the calls that create, open and delete it.

use std::time::Duration;

use super::{Engine, EntityId, Space, Topic};
use crate::{
    delivery::in_force::Difference,
    engine::{
        commit::definition::{self, Definition, IfExists, builder_calls, update_call},
        core::Core,
    },
    error::{Error, Result},
    format::entity::{Entity, EntityKind, Retention, ms},
};

/// A topic by its name: to be created, opened or deleted. [`Engine::topic`] returns it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct TopicBuilder {
    engine: Engine,
    name: String,
    asked: Asked,
}

/// What is asked for of a retention. What is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Whether what was there is taken away.
    is_anew: bool,
    age: Option<Duration>,
    bytes: Option<u64>,
    messages: Option<u64>,
}

impl Asked {
    fn applied_to(self, there: Option<&Retention>) -> Retention {
        let there = there.filter(|_| !self.is_anew).copied().unwrap_or_default();
        Retention {
            max_age_ms: self.age.map(ms).or(there.max_age_ms),
            max_bytes: self.bytes.or(there.max_bytes),
            max_records: self.messages.or(there.max_records),
        }
    }
}

impl Engine {
    /// A topic by its name: to be created, opened or deleted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// assert_eq!(created.name(), "order.created");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn topic(&self, name: &str) -> TopicBuilder {
        TopicBuilder { engine: self.clone(), name: name.to_owned(), asked: Asked::default() }
    }

    /// The names of all topics, sorted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.topic("order.created").create()?;
    /// assert_eq!(engine.topics()?, ["order.created"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn topics(&self) -> Result<Vec<String>> {
        self.list(Space::Topics)
    }
}

impl TopicBuilder {
    /// Retains each message for so long, also if no subscription needs it. A subscription that is created later can
    /// [start](crate::SubscriptionBuilder::start) with it.
    ///
    /// By default a message is gone once every subscription has acked it. What a subscription has not acked stays in any case,
    /// whatever its age is. With several limits a message is retained as long as it is within all of them.
    ///
    /// A message leaves late by up to a sixteenth of the age: by ten seconds at least, and by an hour at most. The clock of the
    /// machine decides. A topic that gets its first limit retains what is published from then on.
    ///
    /// ```
    /// use posthouse::Start;
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// const DAY: Duration = Duration::from_secs(24 * 3600);
    /// let orders = engine.topic("orders").retain_age(DAY).create()?;
    /// orders.publish("order 1")?;
    /// let late = orders.subscription("late").start(Start::Earliest).create()?;
    /// assert_eq!(late.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain_age(mut self, age: Duration) -> TopicBuilder {
        self.asked.age = Some(age);
        self
    }

    /// Retains the newest messages that take up so many bytes in segments, also if no subscription needs them. See
    /// [`retain_age`](TopicBuilder::retain_age).
    ///
    /// Whole [blocks](crate::Options::block_bytes) of messages leave, after each checkpoint. What is still in the journal does
    /// not count.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").retain_bytes(1 << 30).create()?;
    /// assert_eq!(orders.settings()?.retain_bytes, Some(1 << 30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain_bytes(mut self, bytes: u64) -> TopicBuilder {
        self.asked.bytes = Some(bytes);
        self
    }

    /// Retains so many of the newest messages, also if no subscription needs them. Older ones leave at the next checkpoint. See
    /// [`retain_age`](TopicBuilder::retain_age).
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let prices = engine.topic("prices").retain_messages(2).create()?;
    /// prices.publish_batch(["1.10", "1.20", "1.30"])?;
    /// engine.checkpoint()?;
    /// let late = prices.subscription("late").start(Start::Earliest).create()?;
    /// assert_eq!(late.depth()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn retain_messages(mut self, messages: u64) -> TopicBuilder {
        self.asked.messages = Some(messages);
        self
    }

    /// Retains nothing that no subscription needs. That is the default;
    /// [`create_or_update`](TopicBuilder::create_or_update) takes all limits away with it, and what was retained is gone. Limits
    /// that are given with it, before it or behind it, are the only ones then.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.topic("prices").retain_messages(2).retain_bytes(1 << 20).create()?;
    /// let prices =
    ///     engine.topic("prices").without_retention().retain_messages(5).create_or_update()?;
    /// let settings = prices.settings()?;
    /// assert_eq!((settings.retain_messages, settings.retain_bytes), (Some(5), None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_retention(mut self) -> TopicBuilder {
        self.asked.is_anew = true;
        self
    }

    builder_calls!("topic", Topic, "engine.topic(\"order.created\")", |this: &Self, entity| {
        Topic::attach(&this.engine, entity)
    });

    update_call!("topic", Topic, "engine.topic(\"order.created\")", |this: &Self, entity| {
        Topic::attach(&this.engine, entity)
    });
}

impl Definition for TopicBuilder {
    type Prepared = ();

    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn space(&self) -> Space {
        Space::Topics
    }

    fn check(&self, _dead_letter_queue: Option<&str>) -> Result<()> {
        let Asked { age, bytes, messages, .. } = self.asked;
        let limits = [
            ("retain_age", age.is_some_and(|age| age.is_zero())),
            ("retain_bytes", bytes == Some(0)),
            ("retain_messages", messages == Some(0)),
        ];
        match limits.into_iter().find(|(_, is_zero)| *is_zero) {
            None => Ok(()),
            Some((field, _)) => {
                let what = "a limit of 0 would retain nothing: call without_retention() for that, or leave it out to keep \
                            the limit that is stored";
                Err(Error::invalid(field, what))
            }
        }
    }

    fn kind(&self, _dead_letters: Option<EntityId>) -> Result<EntityKind> {
        Ok(EntityKind::Topic { retention: self.asked.applied_to(None).if_any() })
    }

    fn applied_to(&self, there: &EntityKind, _letters: Option<EntityId>) -> Result<EntityKind> {
        match there {
            EntityKind::Topic { retention } => {
                let retention = self.asked.applied_to(retention.as_deref()).if_any();
                Ok(EntityKind::Topic { retention })
            }
            _ => Ok(there.clone()),
        }
    }

    fn differs(&self, _core: &Core, there: &Entity) -> Result<Option<Difference>> {
        let asked = Entity { kind: self.applied_to(&there.kind, None)?, ..there.clone() };
        let mut pairs =
            TopicSettings::of(there).named().into_iter().zip(TopicSettings::of(&asked).named());
        let differing = pairs.find(|((_, stored), (_, asked))| stored != asked);
        Ok(differing.map(|((setting, stored), (_, asked))| Difference { setting, stored, asked }))
    }
}

/// The settings of a topic. [`Topic::settings`] returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSettings {
    /// How long messages are retained that no subscription needs. `None`: their age does not matter.
    pub retain_age: Option<Duration>,
    /// How many bytes of such messages are retained. `None`: their size does not matter.
    pub retain_bytes: Option<u64>,
    /// How many of the newest messages are retained. `None`: their number does not matter. If all three are `None`, messages are
    /// gone once no subscription needs them.
    pub retain_messages: Option<u64>,
}

impl TopicSettings {
    pub(super) fn of(entity: &Entity) -> TopicSettings {
        let Retention { max_age_ms, max_bytes, max_records } = match &entity.kind {
            EntityKind::Topic { retention: Some(retention) } => **retention,
            _ => Retention::default(),
        };
        TopicSettings {
            retain_age: max_age_ms.map(Duration::from_millis),
            retain_bytes: max_bytes,
            retain_messages: max_records,
        }
    }

    /// Each setting by its name, as a text.
    fn named(&self) -> [(&'static str, String); 3] {
        let number = |it: Option<u64>| it.map_or_else(|| "none".to_owned(), |it| it.to_string());
        let age = self.retain_age.map_or_else(|| "none".to_owned(), |it| format!("{it:?}"));
        [
            ("retain_age", age),
            ("retain_bytes", number(self.retain_bytes)),
            ("retain_messages", number(self.retain_messages)),
        ]
    }
}
