//! Names on their way to handles: create, open, delete.

use std::time::Duration;

use super::{
    core::{Core, deleted},
    group::Group,
    handle::Engine,
    queue::Queue,
    reader::Start,
    shared::Committing,
    stream::Stream,
    topic::{Subscription, Topic},
    wanted::{Wanted, delivering_calls},
};
use crate::{
    config::{Backoff, Overflow, PARTITIONS_MAX, check_name},
    error::{Error, ErrorKind, Result},
    format::entity::{Creation, Entity, EntityKind},
    ids::{EntityId, Now, Offset},
    store::{Op, Space},
};

/// Whether something that exists already will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IfThere {
    Open,
    Fail,
}

fn not_found(space: Space, name: &str) -> Error {
    let noun = space.noun();
    Error::new(ErrorKind::NotFound, format!("there is no {noun} named {name:?}"))
}

/// What is to be created, unless it is there.
struct Plan<'a, K, S, C> {
    name: &'a str,
    space: Space,
    /// The queue for its dead letters; it is created, too.
    grave: Option<&'a str>,
    /// Given the id of that queue.
    kind: K,
    /// Which setting of one that is there is not the wanted one, given the same.
    differs: S,
    /// Where the cursors of a new one begin.
    starts: C,
}

impl<K, S, C> Plan<'_, K, S, C>
where
    K: Fn(Option<EntityId>) -> EntityKind,
    S: Fn(&EntityKind, Option<EntityId>) -> Option<&'static str>,
    C: Fn(&mut Core, &Entity) -> Result<Vec<Offset>>,
{
    /// Finds or creates it.
    fn carry_out(&self, engine: &Engine, if_there: IfThere) -> Result<Entity> {
        let (space, name) = (self.space, self.name);
        let noun = space.noun();
        check_name(noun, name)?;
        if space == Space::Queues && self.grave == Some(name) {
            let what = format!("the dead letters of queue {name:?} cannot be in itself");
            return Err(Error::invalid("dead_letter_queue", what));
        }
        let shared = engine.shared();
        let committed = shared.transact(|core| {
            let grave = self.grave.and_then(|grave| core.store.find(Space::Queues, grave));
            let grave = grave.map(|entity| entity.id);
            if let Some(entity) = core.store.find(space, name) {
                let differs = (self.differs)(&entity.kind, grave);
                if if_there == IfThere::Fail || differs.is_some() {
                    let how = match differs {
                        Some(setting) => format!(
                            ", with another {setting}, which stays as it is: open it, or delete it first"
                        ),
                        None => String::new(),
                    };
                    let what = format!("there is a {noun} named {name:?} already{how}");
                    return Err(Error::new(ErrorKind::AlreadyExists, what));
                }
                // Whoever is told that it is there relies on it.
                return Ok(Committing::Done(entity.clone(), core.store.journal.tail()));
            }
            self.create(core, grave, shared.now())
        })?;
        shared.complete(committed, shared.config.durability)
    }

    fn create(
        &self,
        core: &mut Core,
        grave: Option<EntityId>,
        now: Now,
    ) -> Result<Committing<Entity>> {
        let mut creations = Vec::new();
        let mut grave = grave;
        if let (None, Some(name)) = (grave, self.grave) {
            let plain = Wanted::default().delivering(None);
            let entity = core.store.new_entity(name, EntityKind::Queue(plain));
            grave = Some(entity.id);
            creations.push(Creation { entity, starts: vec![Offset(0)] });
        }
        let mut entity = core.store.new_entity(self.name, (self.kind)(grave));
        if let Some(Creation { entity: before, .. }) = creations.first() {
            entity.id = before.end_of_ids();
        }
        let starts = (self.starts)(core, &entity)?;
        creations.push(Creation { entity, starts });
        let ops: Vec<_> = creations.iter().map(|creation| Op::Create { creation }).collect();
        let outcome = core.commit(&ops, now)?;
        let created = creations.pop().expect("one is created at least");
        Ok(Committing::of(outcome, || created.entity))
    }
}

fn open(engine: &Engine, space: Space, name: &str) -> Result<Entity> {
    check_name(space.noun(), name)?;
    let core = engine.shared().lock_open()?;
    core.store.find(space, name).cloned().ok_or_else(|| not_found(space, name))
}

fn delete(engine: &Engine, space: Space, name: &str) -> Result<()> {
    check_name(space.noun(), name)?;
    let shared = engine.shared();
    let committed = shared.transact(|core| {
        let found = core.store.find(space, name).ok_or_else(|| not_found(space, name))?;
        let entity = found.id;
        if let Some(other) = core.store.uses_as_dead_letters(entity) {
            let what = format!(
                "queue {name:?} holds the dead letters of {other:?}, which must be deleted first"
            );
            return Err(Error::invalid("name", what));
        }
        let outcome = core.commit(&[Op::Delete { entity }], shared.now())?;
        let committing = Committing::of(outcome, || ());
        if let Committing::Done(..) = committing {
            core.forget_deleted();
        }
        Ok(committing)
    })?;
    shared.complete(committed, shared.config.durability)
}

fn at_zero(_: &mut Core, entity: &Entity) -> Result<Vec<Offset>> {
    Ok(entity.cursors().map(|_| Offset(0)).collect())
}

macro_rules! builder_calls {
    ($noun:literal, $handle:ty, $from:expr) => {
        #[doc = concat!("Creates the ", $noun, ", or opens it if it is there.")]
        ///
        /// Only settings that were given here are compared with those of one that is there.
        ///
        /// # Errors
        ///
        /// [`AlreadyExists`](ErrorKind::AlreadyExists) if it is there with other settings than
        /// those that were given here; [`InvalidInput`](ErrorKind::InvalidInput) if a setting or
        /// the name is out of range: a name has 1 to 255 bytes.
        pub fn create(&self) -> Result<$handle> {
            $from(self, &self.make(IfThere::Open)?)
        }

        #[doc = concat!("Creates the ", $noun, "; it must not be there.")]
        ///
        /// # Errors
        ///
        /// As [`create`](Self::create), and [`AlreadyExists`](ErrorKind::AlreadyExists) in any case
        /// if it is there.
        pub fn create_new(&self) -> Result<$handle> {
            $from(self, &self.make(IfThere::Fail)?)
        }

        #[doc = concat!("Opens the ", $noun, "; it must be there. Settings given here are ignored.")]
        ///
        /// # Errors
        ///
        /// [`NotFound`](ErrorKind::NotFound) if it is not there;
        /// [`InvalidInput`](ErrorKind::InvalidInput) if the name is out of range.
        pub fn open(&self) -> Result<$handle> {
            $from(self, &open(&self.engine, self.space(), &self.name)?)
        }

        #[doc = concat!("Deletes the ", $noun, " with all that belongs to it. Its handles fail from then on.")]
        ///
        /// # Errors
        ///
        /// [`NotFound`](ErrorKind::NotFound) if it is not there;
        /// [`InvalidInput`](ErrorKind::InvalidInput) if the name is out of range, or if it is a queue that
        /// holds the dead letters of others.
        pub fn delete(&self) -> Result<()> {
            delete(&self.engine, self.space(), &self.name)
        }
    };
}

/// A queue by its name. Got from [`Engine::queue`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct QueueBuilder {
    engine: Engine,
    name: String,
    wanted: Wanted,
}

impl QueueBuilder {
    pub(super) fn new(engine: &Engine, name: &str) -> QueueBuilder {
        let (engine, name) = (engine.clone(), name.to_owned());
        QueueBuilder { engine, name, wanted: Wanted::default() }
    }

    delivering_calls!();

    /// How many messages the queue may hold, those on lease and delayed ones included: any number by
    /// default. It holds for what is sent, alone or in a transaction; what is moved to the queue as
    /// dead letters, or redriven, always fits.
    pub fn max_messages(mut self, messages: u64) -> QueueBuilder {
        self.wanted.messages_max = Some(messages);
        self
    }

    /// How many bytes the messages in the queue may have together, each counted with its key and its
    /// headers; otherwise as [`max_messages`](QueueBuilder::max_messages). To know how many there are
    /// takes 4 bytes of memory a message, and reading the queue once when it is first opened.
    pub fn max_bytes(mut self, bytes: u64) -> QueueBuilder {
        self.wanted.bytes_max = Some(bytes);
        self
    }

    /// What is done about a message when the queue is full: it is refused by default.
    pub fn overflow(mut self, overflow: Overflow) -> QueueBuilder {
        self.wanted.overflow = Some(overflow);
        self
    }

    /// For how long each message is kept back before it is first delivered: not at all by default, a
    /// year at most. A message may say otherwise:
    /// [`deliver_after`](crate::Message::deliver_after).
    pub fn delay(mut self, delay: Duration) -> QueueBuilder {
        self.wanted.delay = Some(delay);
        self
    }

    fn space(&self) -> Space {
        Space::Queues
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let wanted = &self.wanted;
        let grave = wanted.grave(&self.name);
        wanted.check(grave.as_deref())?;
        let plan = Plan {
            name: &self.name,
            space: self.space(),
            grave: grave.as_deref(),
            kind: |grave| EntityKind::Queue(wanted.delivering(grave)),
            differs: |there: &EntityKind, grave| match there {
                EntityKind::Queue(there) => wanted.differs(there, grave),
                _ => Some("kind"),
            },
            starts: at_zero,
        };
        plan.carry_out(&self.engine, if_there)
    }

    builder_calls!("queue", Queue, |this: &Self, it| Queue::attach(&this.engine, it));
}

/// A topic by its name. Got from [`Engine::topic`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct TopicBuilder {
    engine: Engine,
    name: String,
}

impl TopicBuilder {
    pub(super) fn new(engine: &Engine, name: &str) -> TopicBuilder {
        TopicBuilder { engine: engine.clone(), name: name.to_owned() }
    }

    fn space(&self) -> Space {
        Space::Topics
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let plan = Plan {
            name: &self.name,
            space: self.space(),
            grave: None,
            kind: |_| EntityKind::Topic,
            differs: |_: &EntityKind, _| None,
            starts: at_zero,
        };
        plan.carry_out(&self.engine, if_there)
    }

    builder_calls!("topic", Topic, |this: &Self, it| Topic::attach(&this.engine, it));
}

/// A topic's subscription by its name. Got from [`Topic::subscription`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct SubscriptionBuilder {
    engine: Engine,
    topic: EntityId,
    topic_name: String,
    name: String,
    wanted: Wanted,
}

impl SubscriptionBuilder {
    pub(super) fn new(
        engine: &Engine,
        (topic, topic_name): (EntityId, &str),
        name: &str,
    ) -> SubscriptionBuilder {
        let (engine, topic_name, name) = (engine.clone(), topic_name.to_owned(), name.to_owned());
        SubscriptionBuilder { engine, topic, topic_name, name, wanted: Wanted::default() }
    }

    delivering_calls!();

    fn space(&self) -> Space {
        Space::Subscriptions { topic: self.topic }
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let (wanted, topic) = (&self.wanted, self.topic);
        let grave = wanted.grave(&format!("{}.{}", self.topic_name, self.name));
        wanted.check(grave.as_deref())?;
        let plan = Plan {
            name: &self.name,
            space: self.space(),
            grave: grave.as_deref(),
            kind: |grave| EntityKind::Subscription { topic, delivering: wanted.delivering(grave) },
            differs: |there: &EntityKind, grave| match there {
                EntityKind::Subscription { delivering, .. } => wanted.differs(delivering, grave),
                _ => Some("kind"),
            },
            starts: |core: &mut Core, entity: &Entity| {
                // A subscription receives only what is published after its creation.
                let next = |log| core.store.bounds(log).map(|(_, next)| next);
                let starts = entity.cursors().map(|(_, log)| next(log));
                starts.collect::<Option<_>>().ok_or_else(deleted)
            },
        };
        plan.carry_out(&self.engine, if_there)
    }

    builder_calls!("subscription", Subscription, |this: &Self, it| Subscription::attach(
        &this.engine,
        &this.topic_name,
        it
    ));
}

/// A stream by its name. Got from [`Engine::stream`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct StreamBuilder {
    engine: Engine,
    name: String,
    partitions: Option<u32>,
}

impl StreamBuilder {
    pub(super) fn new(engine: &Engine, name: &str) -> StreamBuilder {
        StreamBuilder { engine: engine.clone(), name: name.to_owned(), partitions: None }
    }

    /// Into how many partitions the stream is divided; 1 by default, 4096 at most. Messages with
    /// one key are in one partition, in order.
    pub fn partitions(mut self, partitions: u32) -> StreamBuilder {
        self.partitions = Some(partitions);
        self
    }

    fn space(&self) -> Space {
        Space::Streams
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let partitions = self.partitions.unwrap_or(1);
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            let what = format!("{partitions} partitions: a stream has 1 to {PARTITIONS_MAX}");
            return Err(Error::invalid("partitions", what));
        }
        let kind = EntityKind::Stream { partitions };
        let plan = Plan {
            name: &self.name,
            space: self.space(),
            grave: None,
            kind: |_| kind.clone(),
            differs: |there: &EntityKind, _| {
                (self.partitions.is_some() && *there != kind).then_some("number of partitions")
            },
            starts: at_zero,
        };
        plan.carry_out(&self.engine, if_there)
    }

    builder_calls!("stream", Stream, |this: &Self, it| Stream::attach(&this.engine, it));
}

/// A stream's consumer group by its name. Got from [`Stream::group`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct GroupBuilder {
    engine: Engine,
    stream: EntityId,
    partitions: u32,
    name: String,
    start: Start,
}

impl GroupBuilder {
    pub(super) fn new(
        engine: &Engine,
        stream: EntityId,
        partitions: u32,
        name: &str,
    ) -> GroupBuilder {
        let (engine, name) = (engine.clone(), name.to_owned());
        GroupBuilder { engine, stream, partitions, name, start: Start::Earliest }
    }

    /// Where a new group begins; [`Start::Earliest`] by default. It counts only when the group is
    /// made: one that is there goes on where it is.
    pub fn start(mut self, start: Start) -> GroupBuilder {
        self.start = start;
        self
    }

    fn space(&self) -> Space {
        Space::Groups { stream: self.stream }
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let kind = EntityKind::Group { stream: self.stream, partitions: self.partitions };
        let start = self.start;
        let plan = Plan {
            name: &self.name,
            space: self.space(),
            grave: None,
            kind: |_| kind.clone(),
            differs: |_: &EntityKind, _| None,
            starts: |core: &mut Core, entity: &Entity| {
                entity.cursors().map(|(_, log)| start.resolve(core, log)).collect()
            },
        };
        plan.carry_out(&self.engine, if_there)
    }

    builder_calls!("group", Group, |this: &Self, it| Group::attach(&this.engine, it));
}
