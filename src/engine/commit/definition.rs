//! Creates, opens and deletes named entities: queues, topics, subscriptions, streams and groups.

use super::{committer::Committer, lifetime::Engine};
use crate::{
    config::check_name,
    delivery::settings,
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
    },
    error::{Error, ErrorKind, Result},
    format::entity::{Creation, Entity, EntityKind},
    ids::{EntityId, Offset},
    store::{Op, Space},
};

/// The definition of an entity, as a builder holds it.
pub trait Definition {
    /// Data that is read before the core is locked.
    type Prepared;

    fn name(&self) -> &str;
    fn space(&self) -> Space;

    /// The name of the queue for its dead letters. That queue is created, too.
    fn dead_letter_queue(&self) -> Option<String> {
        None
    }

    /// Checks the settings.
    fn check(&self, _dead_letter_queue: Option<&str>) -> Result<()> {
        Ok(())
    }

    /// The stored form. `dead_letters` is the id of the queue for dead letters.
    fn kind(&self, dead_letters: Option<EntityId>) -> EntityKind;

    /// The name of a setting that is given here and has another value in the existing entity.
    fn differs(
        &self,
        _there: &EntityKind,
        _dead_letters: Option<EntityId>,
    ) -> Option<&'static str> {
        None
    }

    /// Reads the data that decide where the cursors of a new entity begin. The core is not held.
    fn prepare(&self) -> Result<Self::Prepared>;

    /// The offsets at which the cursors of a new entity begin.
    fn starts(
        &self,
        _core: &Core,
        entity: &Entity,
        _prepared: &Self::Prepared,
    ) -> Result<Vec<Offset>> {
        Ok(entity.cursors().map(|_| Offset(0)).collect())
    }
}

/// What a builder does if the entity exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    Open,
    Fail,
}

fn not_found(space: Space, name: &str) -> Error {
    let noun = space.noun();
    Error::new(
        ErrorKind::NotFound,
        format!("there is no {noun} named {name:?}: create() makes one"),
    )
}

fn already_exists(space: Space, name: &str, differs: Option<&str>) -> Error {
    let noun = space.noun();
    let how = match differs {
        Some(setting) => {
            format!(
                ", with another {setting}, which stays as it is. Leave out {setting}, or call open(), to use \
                 it; or create another {noun} beside it"
            )
        }
        None => String::new(),
    };
    let what = format!("there is a {noun} named {name:?} already{how}");
    Error::new(ErrorKind::AlreadyExists, what)
}

/// Finds the entity of a builder, or creates it.
pub fn create(
    engine: &Engine,
    definition: &impl Definition,
    if_exists: IfExists,
) -> Result<Entity> {
    let (space, name) = (definition.space(), definition.name());
    check_name(space.noun(), name)?;
    let dead_letter_queue = definition.dead_letter_queue();
    definition.check(dead_letter_queue.as_deref())?;
    if space == Space::Queues && dead_letter_queue.as_deref() == Some(name) {
        let what = format!("the dead letters of queue {name:?} cannot be in itself");
        return Err(Error::invalid("dead_letter_queue", what));
    }
    let committer = engine.committer();
    let new = NewEntity { definition, dead_letter_queue, prepared: definition.prepare()? };
    let committed = committer.transact("create", |core| {
        let letters = new.dead_letter_queue.as_deref();
        let letters = letters.and_then(|name| core.store.find(Space::Queues, name));
        let letters = letters.map(|entity| entity.id);
        let Some(entity) = core.store.find(space, name) else {
            return new.create(core, committer, letters);
        };
        let differs = definition.differs(&entity.kind, letters);
        if if_exists == IfExists::Fail || differs.is_some() {
            return Err(already_exists(space, name, differs).into());
        }
        // The caller relies on the commit that created it.
        Ok((entity.clone(), Receipt::of_what_is_there(&core.store)))
    })?;
    committer.complete(committed, committer.config.durability)
}

/// The entity to create, unless it exists.
struct NewEntity<'a, D: Definition> {
    definition: &'a D,
    dead_letter_queue: Option<String>,
    prepared: D::Prepared,
}

impl<D: Definition> NewEntity<'_, D> {
    fn create(
        &self,
        core: &mut Core,
        committer: &Committer,
        mut dead_letters: Option<EntityId>,
    ) -> CommitResult<(Entity, Receipt)> {
        let definition = self.definition;
        let mut creations = Vec::new();
        if let (None, Some(name)) = (dead_letters, &self.dead_letter_queue) {
            let entity = core.store.new_entity(name, EntityKind::Queue(settings::plain()));
            dead_letters = Some(entity.id);
            creations.push(Creation { entity, starts: vec![Offset(0)] });
        }
        let mut entity = core.store.new_entity(definition.name(), definition.kind(dead_letters));
        if let Some(Creation { entity: before, .. }) = creations.first() {
            entity.id = before.end_of_ids();
        }
        let starts = definition.starts(core, &entity, &self.prepared)?;
        creations.push(Creation { entity: entity.clone(), starts });
        let ops: Vec<_> = creations.iter().map(|creation| Op::Create { creation }).collect();
        let receipt = core.commit(&ops, committer.now_plain())?;
        Ok((entity, receipt))
    }
}

/// Finds an existing entity.
pub fn open(engine: &Engine, space: Space, name: &str) -> Result<Entity> {
    check_name(space.noun(), name)?;
    let core = engine.committer().lock_open("open")?;
    core.store.find(space, name).cloned().ok_or_else(|| not_found(space, name))
}

/// Deletes an existing entity.
pub fn delete(engine: &Engine, space: Space, name: &str) -> Result<()> {
    check_name(space.noun(), name)?;
    let committer = engine.committer();
    let committed = committer.transact("delete", |core| {
        let found = core.store.find(space, name).ok_or_else(|| not_found(space, name))?;
        let entity = found.id;
        if let Some(other) = core.store.uses_as_dead_letters(entity) {
            let what =
                format!("queue {name:?} takes the dead letters of {other}: delete that first");
            return Err(Error::invalid("name", what).into());
        }
        let receipt = core.commit(&[Op::Delete { entity }], committer.now_plain())?;
        core.forget_deleted();
        Ok(((), receipt))
    })?;
    committer.complete(committed, committer.config.durability)
}

/// The calls that every builder has. `$builder` is code for the examples: it makes a builder.
macro_rules! builder_calls {
    ($noun:literal, $handle:ty, $builder:literal, $from:expr) => {
        #[doc = concat!("Creates the ", $noun, ", or opens it if it exists.")]
        ///
        /// If it exists, its settings must equal the settings that are given here. Settings that are not given
        /// may have any value.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let created = ", $builder, ".create()?;")]
        #[doc = concat!("let opened = ", $builder, ".create()?;")]
        /// assert_eq!(created.name(), opened.name());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if it exists with another value of a setting
        /// that is given here; [`InvalidInput`](crate::ErrorKind::InvalidInput) if a setting or the name
        /// is out of range: a name has 1 to 255 bytes.
        pub fn create(&self) -> crate::Result<$handle> {
            $from(self, &definition::create(&self.engine, self, IfExists::Open)?)
        }

        #[doc = concat!("Creates the ", $noun, ". It must not exist.")]
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".create_new()?;")]
        #[doc = concat!("let again = ", $builder, ".create_new();")]
        /// assert_eq!(again.unwrap_err().kind(), posthouse::ErrorKind::AlreadyExists);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`create`](Self::create); [`AlreadyExists`](crate::ErrorKind::AlreadyExists) if it
        /// exists, whatever its settings.
        pub fn create_new(&self) -> crate::Result<$handle> {
            $from(self, &definition::create(&self.engine, self, IfExists::Fail)?)
        }

        #[doc = concat!("Opens the ", $noun, ". It must exist. Settings that are given here are ignored.")]
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let missing = ", $builder, ".open();")]
        /// assert_eq!(missing.unwrap_err().kind(), posthouse::ErrorKind::NotFound);
        #[doc = concat!($builder, ".create()?;")]
        #[doc = concat!("let opened = ", $builder, ".open()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`NotFound`](crate::ErrorKind::NotFound) if it does not exist;
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the name is out of range.
        pub fn open(&self) -> crate::Result<$handle> {
            $from(self, &definition::open(&self.engine, self.space(), &self.name)?)
        }

        #[doc = concat!("Deletes the ", $noun, " with everything in it. Its handles then fail with")]
        /// [`NotFound`](crate::ErrorKind::NotFound).
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".create()?;")]
        #[doc = concat!($builder, ".delete()?;")]
        #[doc = concat!("assert!(", $builder, ".open().is_err());")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`NotFound`](crate::ErrorKind::NotFound) if it does not exist;
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the name is out of range, or if it is a queue
        /// that holds the dead letters of others.
        pub fn delete(&self) -> crate::Result<()> {
            definition::delete(&self.engine, self.space(), &self.name)
        }
    };
}
pub(crate) use builder_calls;

/// The settings that builders of queues and of subscriptions have in common.
macro_rules! delivery_settings {
    ($builder:literal) => {
        /// Sets the lease: how long a consumer holds a delivery before the message is delivered again. From
        /// 1 ms to a day; 30 s by default.
        ///
        /// See also [`Delivery::extend`](crate::Delivery::extend).
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// use std::time::Duration;
        ///
        #[doc = concat!($builder, ".lease(Duration::from_secs(5 * 60)).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn lease(mut self, lease: std::time::Duration) -> Self {
            self.settings.lease = Some(lease);
            self
        }

        /// Sets how long a message waits after a failure before it is delivered again: not at all by
        /// default, a year at most.
        ///
        /// A failure is a [`nack`](crate::Delivery::nack), a dropped delivery, or a lease that has run out.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// use std::time::Duration;
        /// use posthouse::Backoff;
        ///
        /// let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(60));
        #[doc = concat!($builder, ".backoff(backoff).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn backoff(mut self, backoff: crate::Backoff) -> Self {
            self.settings.backoff = Some(backoff);
            self
        }

        /// Sets the time to live of messages, from their timestamps on: no limit by default.
        ///
        /// Expired messages are not delivered. They move to the dead letters, or are dropped if there are no
        /// dead letters. The life of a dead letter begins when it is moved. A message can have a shorter life:
        /// see [`expire_after`](crate::Message::expire_after).
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// use std::time::Duration;
        ///
        #[doc = concat!($builder, ".time_to_live(Duration::from_secs(3600)).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn time_to_live(mut self, time_to_live: std::time::Duration) -> Self {
            self.settings.time_to_live = Some(time_to_live);
            self
        }

        /// Sets whether messages with one key are delivered in order and one at a time: `false` by default.
        ///
        /// The next message of a key is delivered when the one before is acked, moved to the dead letters or
        /// deleted, and not while that one waits for its retry. Messages with other keys and messages without
        /// a key do not wait for it.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".ordered_by_key(true).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn ordered_by_key(mut self, is_ordered: bool) -> Self {
            self.settings.ordered_by_key = Some(is_ordered);
            self
        }

        /// Sets whether only one consumer receives at a time, while others stand by: `false` by default. For
        /// cases where the order of handling matters, or where only one may call another system.
        ///
        /// A consumer is an opened handle with all its clones. The first consumer that receives is active
        /// until its handles and its deliveries are dropped. Then the consumer that has waited longest takes
        /// over. With [`Delivery::fencing_token`](crate::Delivery::fencing_token) other systems tell an old
        /// consumer from a new one.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let handle = ", $builder, ".single_active_consumer(true).create()?;")]
        /// assert!(handle.try_receive()?.is_none());
        /// assert!(handle.is_active()?);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn single_active_consumer(mut self, is_exclusive: bool) -> Self {
            self.settings.single_active_consumer = Some(is_exclusive);
            self
        }

        /// Sets how often a message is delivered at most: 1 or more. After the last failure the message moves
        /// to the dead letters. Without this setting and without
        /// [`dead_letter_queue`](Self::dead_letter_queue) there is no limit.
        ///
        /// A commit of its own counts each delivery before the handler sees it. So a delivery counts also
        /// if its handler ends the process.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".max_attempts(3).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            self.settings.max_attempts = Some(attempts);
            self
        }

        /// Sets the queue of the dead letters. It is created if it does not exist.
        ///
        /// A message moves there after [`max_attempts`](Self::max_attempts) deliveries (5 if that is not
        /// given), or when a handler [rejects](crate::Delivery::reject) it. The default name is the name of
        /// the queue and `.dead`; for a subscription, the name of its topic, a dot, its own name and `.dead`.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".dead_letter_queue(\"failed\").create()?;")]
        /// assert_eq!(engine.queue("failed").open()?.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn dead_letter_queue(mut self, name: &str) -> Self {
            self.settings.dead_letter_queue = Some(name.to_owned());
            self
        }
    };
}
pub(crate) use delivery_settings;
