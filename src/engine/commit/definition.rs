//! Creates named entities: queues, topics, subscriptions, streams and groups. `existing.rs` opens and deletes them.

pub use super::existing::{delete, open};
use super::{
    committer::Committer,
    lifetime::Engine,
    updating::{check_letters_name, check_update, prepare_update},
};
use crate::{
    config::{check_name, check_not_reserved},
    delivery::{
        in_force::{DeliverySettings, Difference},
        settings::Settings,
    },
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
    },
    error::{Error, ErrorKind, Result},
    format::entity::{Creation, Delivering, Entity, EntityKind},
    ids::{EntityId, Offset, OffsetRange},
    store::{Op, Space},
};

/// The definition of an entity, as a builder holds it.
pub trait Definition {
    /// Data that is read before the core is locked.
    type Prepared;

    fn name(&self) -> &str;
    fn space(&self) -> Space;

    /// Whether the engine keeps it for itself, under a name that is reserved.
    fn is_internal(&self) -> bool {
        false
    }

    /// The name of the queue for its dead letters, if it gets another one than it has. That queue is created, too.
    fn dead_letter_queue(&self, _there: Option<&EntityKind>) -> Option<String> {
        None
    }

    /// Whether that name was given, and does not follow from the name of the entity.
    fn names_dead_letter_queue(&self) -> bool {
        false
    }

    /// Checks the settings.
    fn check(&self, _dead_letter_queue: Option<&str>) -> Result<()> {
        Ok(())
    }

    /// The stored form of a new entity. `dead_letters` is the id of the queue for dead letters.
    fn kind(&self, dead_letters: Option<EntityId>) -> Result<EntityKind>;

    /// The stored form of an existing entity that gets the settings that are given here. Fails if a setting cannot
    /// change.
    fn applied_to(&self, there: &EntityKind, _letters: Option<EntityId>) -> Result<EntityKind> {
        Ok(there.clone())
    }

    /// A setting that is given here and has another value in the existing entity.
    fn differs(&self, _core: &Core, _there: &Entity) -> Result<Option<Difference>> {
        Ok(None)
    }

    /// Work before the settings of an existing entity change. The core is not held.
    fn before_update(&self, _entity: &Entity) -> Result<()> {
        Ok(())
    }

    /// Reads the data that decide where the cursors of a new entity begin. The core is not held.
    fn prepare(&self) -> Result<Self::Prepared>;

    /// Reads what has come since. The core is not held.
    fn prepare_on(&self, _prepared: &mut Self::Prepared) -> Result<()> {
        Ok(())
    }

    /// The offsets at which the cursors of a new entity begin.
    fn starts(
        &self,
        _core: &Core,
        entity: &Entity,
        _prepared: &Self::Prepared,
    ) -> Result<Vec<Offset>> {
        Ok(entity.cursors().map(|_| Offset(0)).collect())
    }

    /// How the cursors of a new entity begin. `None` if more is to be [read](Definition::prepare_on) before.
    fn begin(
        &self,
        core: &mut Core,
        entity: &Entity,
        prepared: &mut Self::Prepared,
    ) -> Result<Option<Beginning>> {
        let starts = self.starts(core, entity, prepared)?;
        Ok(Some(Beginning { starts, acked: Vec::new() }))
    }
}

/// How the cursors of a new entity begin.
#[derive(Debug)]
pub struct Beginning {
    pub starts: Vec<Offset>,
    /// What the first of them does not get of the messages from its beginning on. The ranges are sorted.
    pub acked: Vec<OffsetRange>,
}

fn already_exists(space: Space, name: &str, differs: Option<Difference>) -> Error {
    let noun = space.noun();
    let how = match differs {
        Some(Difference { setting, stored, asked }) => {
            let (left_out, change) = match setting {
                // Records of a key would be in two partitions.
                "number of partitions" => ("partitions()", ""),
                _ => (setting, "; or call create_or_update(), to change it"),
            };
            format!(
                ", with another {setting}: it is {stored} there, and {asked} here. Leave out {left_out}, or \
                 call open(), to use the {noun} as it is{change}"
            )
        }
        None => String::new(),
    };
    let what = format!("there is a {noun} named {name:?} already{how}");
    Error::new(ErrorKind::AlreadyExists, what)
}

/// The setting of a queue or a subscription that is given and has another value in the existing entity.
pub fn delivery_difference(
    core: &Core,
    settings: &Settings,
    named: Option<String>,
    there: &Entity,
) -> Result<Option<Difference>> {
    let Some(stored) = there.delivering() else { return Ok(None) };
    // The id does not matter: names are compared.
    let asked = settings.applied_to(stored, named.as_ref().map(|_| there.id))?;
    let dead_letter_queue = core.store.dead_letter_queue_of(stored);
    let asked_queue = named.or_else(|| dead_letter_queue.clone());
    let asked_queue = asked_queue.filter(|_| asked.dead_letters.is_some());
    let asked = DeliverySettings::of(&asked, asked_queue);
    Ok(DeliverySettings::of(stored, dead_letter_queue).difference(&asked))
}

/// What a builder does if the entity exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfExists {
    Open,
    Fail,
    Update,
}

/// Finds the entity of a builder, or creates it.
pub fn create(
    engine: &Engine,
    definition: &impl Definition,
    if_exists: IfExists,
) -> Result<Entity> {
    let (committer, committed) = (engine.committer(), commit(engine, definition, if_exists)?);
    committer.complete(committed, committer.config.durability)
}

/// The same, and does not wait until it is durable.
pub fn commit(
    engine: &Engine,
    definition: &impl Definition,
    if_exists: IfExists,
) -> Result<(Entity, Receipt)> {
    let (space, name) = (definition.space(), definition.name());
    check_name(space.noun(), name)?;
    let of_a_new_one = definition.dead_letter_queue(None);
    check_letters_name(definition, of_a_new_one.as_deref())?;
    definition.check(of_a_new_one.as_deref())?;
    if space == Space::Queues && of_a_new_one.as_deref() == Some(name) {
        let what = format!("the dead letters of queue {name:?} cannot be in itself");
        return Err(Error::invalid("dead_letter_queue", what));
    }
    let committer = engine.committer();
    if if_exists == IfExists::Update {
        prepare_update(committer, definition)?;
    }
    let mut wanted = Wanted { definition, prepared: definition.prepare()? };
    loop {
        let (entity, receipt) = committer.transact("create", |core| {
            let Some(entity) = core.store.find(space, name) else {
                return wanted.create(core, committer);
            };
            let entity = entity.clone();
            if if_exists == IfExists::Update {
                let (entity, receipt) = wanted.update(core, committer, &entity)?;
                return Ok((Some(entity), receipt));
            }
            let differs = definition.differs(core, &entity)?;
            if if_exists == IfExists::Fail || differs.is_some() {
                return Err(already_exists(space, name, differs).into());
            }
            // The caller relies on the commit that created it.
            Ok((Some(entity), Receipt::of_what_is_there(&core.store)))
        })?;
        if let Some(entity) = entity {
            return Ok((entity, receipt));
        }
        definition.prepare_on(&mut wanted.prepared)?;
    }
}

/// Creates an entity and makes a handle of it. If another thread deletes the entity in between, creates it again.
pub fn attach_created<T>(
    create: impl Fn() -> Result<Entity>,
    attach: impl Fn(&Entity) -> Result<T>,
) -> Result<T> {
    loop {
        match attach(&create()?) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            attached => return attached,
        }
    }
}

/// The entity that a builder asks for.
struct Wanted<'a, D: Definition> {
    definition: &'a D,
    prepared: D::Prepared,
}

/// The queue for dead letters, and its creation if it does not exist.
struct LetterQueue {
    id: EntityId,
    creation: Option<Creation>,
}

impl<D: Definition> Wanted<'_, D> {
    /// The queue for dead letters, if the entity gets one. Fails if another entity has it already, and the name was
    /// not given: nobody shares a queue by an accident of names.
    fn letter_queue(&self, core: &Core, there: Option<&EntityKind>) -> Result<Option<LetterQueue>> {
        let Some(name) = self.definition.dead_letter_queue(there) else { return Ok(None) };
        check_not_reserved("dead_letter_queue", &name)?;
        let Some(found) = core.store.find(Space::Queues, &name) else {
            let entity =
                core.store.new_entity(&name, EntityKind::Queue(Delivering::plain().into()));
            let (id, starts) = (entity.id, vec![Offset(0)]);
            return Ok(Some(LetterQueue { id, creation: Some(Creation { entity, starts }) }));
        };
        let id = found.id;
        if !self.definition.names_dead_letter_queue()
            && let Some(other) = core.store.uses_as_dead_letters(id)
        {
            let what = format!(
                "queue {name:?} takes the dead letters of {other} already. To share it, give its name with \
                 dead_letter_queue; or give another name"
            );
            return Err(Error::invalid("dead_letter_queue", what));
        }
        Ok(Some(LetterQueue { id, creation: None }))
    }

    /// Creates the entity, unless more is to be read before.
    fn create(
        &mut self,
        core: &mut Core,
        committer: &Committer,
    ) -> CommitResult<(Option<Entity>, Receipt)> {
        let definition = self.definition;
        if !definition.is_internal() {
            check_not_reserved("name", definition.name())?;
        }
        let letters = self.letter_queue(core, None)?;
        let kind = definition.kind(letters.as_ref().map(|it| it.id))?;
        let mut entity = core.store.new_entity(definition.name(), kind);
        let mut creations: Vec<Creation> = letters.and_then(|it| it.creation).into_iter().collect();
        if let Some(Creation { entity: before, .. }) = creations.first() {
            entity.id = before.end_of_ids();
        }
        let Some(Beginning { starts, acked }) =
            definition.begin(core, &entity, &mut self.prepared)?
        else {
            return Ok((None, Receipt::NOTHING));
        };
        creations.push(Creation { entity: entity.clone(), starts });
        let mut ops: Vec<_> = creations.iter().map(|creation| Op::Create { creation }).collect();
        if !acked.is_empty() {
            ops.push(Op::AckRanges { cursor: entity.id.cursor(0), ranges: &acked });
        }
        let receipt = core.commit(&ops, committer.now_plain())?;
        Ok((Some(entity), receipt))
    }

    /// Changes the settings of an existing entity.
    fn update(
        &self,
        core: &mut Core,
        committer: &Committer,
        there: &Entity,
    ) -> CommitResult<(Entity, Receipt)> {
        if !self.definition.is_internal() {
            check_not_reserved("name", self.definition.name())?;
        }
        let letters = self.letter_queue(core, Some(&there.kind))?;
        let kind = self.definition.applied_to(&there.kind, letters.as_ref().map(|it| it.id))?;
        let entity = Entity { kind, ..there.clone() };
        if entity == *there {
            return Ok((entity, Receipt::of_what_is_there(&core.store)));
        }
        check_update(core, there, &entity)?;
        let creation = letters.and_then(|it| it.creation);
        let mut ops: Vec<_> = creation.iter().map(|creation| Op::Create { creation }).collect();
        ops.push(Op::Update { entity: &entity });
        let receipt = core.commit(&ops, committer.now_plain())?;
        core.follow_settings(&entity);
        // What kept messages for those who come late may be gone.
        core.follow_deletions();
        Ok((entity, receipt))
    }
}

/// The calls that every builder has. `$builder` is code for the examples: it makes a builder.
macro_rules! builder_calls {
    ($noun:literal, $handle:ty, $builder:literal, $from:expr) => {
        #[doc = concat!("Creates the ", $noun, ", or opens it if it exists.")]
        ///
        /// If it exists, its settings must equal the settings that are given here. Settings that are not given
        /// may have any value. A pause is no such setting: what exists may be paused or not.
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
        /// is out of range: a name has 1 to 255 bytes, and does not begin with `posthouse.`.
        pub fn create(&self) -> crate::Result<$handle> {
            let create = || definition::create(&self.engine, self, IfExists::Open);
            definition::attach_created(create, |entity| $from(self, entity))
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
            let create = || definition::create(&self.engine, self, IfExists::Fail);
            definition::attach_created(create, |entity| $from(self, entity))
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

/// The call that changes the settings of what exists. `$what` says what it does.
macro_rules! update_call {
    ($noun:literal, $handle:ty, $builder:literal, $from:expr) => {
        #[doc = concat!("Creates the ", $noun, ", or changes its settings if it exists.")]
        ///
        /// The settings that are given here change, in one durable commit. The others stay as they are. Handles
        /// that are open follow at once: messages that wait keep their due times, deliveries keep their leases,
        /// and everything else follows the new settings. The guide has the rule of each setting under *Changing
        /// settings*.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let created = ", $builder, ".create_or_update()?;")]
        #[doc = concat!("let again = ", $builder, ".create_or_update()?;")]
        /// assert_eq!(created.name(), again.name());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a setting or the name is out of range, if two
        /// settings contradict each other, or if a setting cannot change while there are messages: the error
        /// says what to do. [`DiskFull`](crate::ErrorKind::DiskFull): nothing was changed.
        pub fn create_or_update(&self) -> crate::Result<$handle> {
            let create = || definition::create(&self.engine, self, IfExists::Update);
            definition::attach_created(create, |entity| $from(self, entity))
        }
    };
}
pub(crate) use update_call;
