//! Names on their way to handles: create, open, delete.

use std::time::Duration;

use super::{
    group::Group,
    handle::Engine,
    queue::Queue,
    reader::Start,
    shared::Committing,
    stream::Stream,
    topic::{Subscription, Topic},
};
use crate::{
    config::{LEASE_DEFAULT, PARTITIONS_MAX, check_lease, check_name},
    error::{Error, ErrorKind, Result},
    format::entity::{Creation, Entity, EntityKind},
    ids::Offset,
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

/// Finds or creates an entity. `suits` says whether one that is there has the wanted settings, and
/// `starts` where the cursors of a new one begin.
fn create(
    engine: &Engine,
    name: &str,
    kind: &EntityKind,
    if_there: IfThere,
    suits: impl Fn(&EntityKind) -> bool,
    starts: impl Fn(&mut super::core::Core, &Entity) -> Result<Vec<Offset>>,
) -> Result<Entity> {
    let space = Space::of(kind);
    let noun = space.noun();
    check_name(noun, name)?;
    let shared = engine.shared();
    let committed = shared.transact(|core| {
        if let Some(entity) = core.store.find(space, name) {
            if if_there == IfThere::Fail || !suits(&entity.kind) {
                let how = if if_there == IfThere::Fail { "" } else { " with other settings" };
                let what = format!("there is a {noun} named {name:?} already{how}");
                return Err(Error::new(ErrorKind::AlreadyExists, what));
            }
            // Whoever is told that it is there relies on it.
            return Ok(Committing::Done(entity.clone(), core.store.journal.tail()));
        }
        let entity = core.store.new_entity(name, kind.clone());
        let starts = starts(core, &entity)?;
        let creation = Creation { entity, starts };
        let outcome = core.commit(&[Op::Create { creation: &creation }], shared.now())?;
        Ok(Committing::of(outcome, || creation.entity))
    })?;
    shared.complete(committed, shared.config.durability)
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
        let outcome = core.commit(&[Op::Delete { entity }], shared.now())?;
        let committing = Committing::of(outcome, || ());
        if let Committing::Done(..) = committing {
            core.forget_deleted();
        }
        Ok(committing)
    })?;
    shared.complete(committed, shared.config.durability)
}

fn at_zero(_: &mut super::core::Core, entity: &Entity) -> Result<Vec<Offset>> {
    Ok(entity.cursors().map(|_| Offset(0)).collect())
}

macro_rules! builder_calls {
    ($noun:literal, $handle:ty, $from:path) => {
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
            $from(&self.engine, &self.make(IfThere::Open)?)
        }

        #[doc = concat!("Creates the ", $noun, "; it must not be there.")]
        ///
        /// # Errors
        ///
        /// As [`create`](Self::create), and [`AlreadyExists`](ErrorKind::AlreadyExists) in any case
        /// if it is there.
        pub fn create_new(&self) -> Result<$handle> {
            $from(&self.engine, &self.make(IfThere::Fail)?)
        }

        #[doc = concat!("Opens the ", $noun, "; it must be there. Settings given here are ignored.")]
        ///
        /// # Errors
        ///
        /// [`NotFound`](ErrorKind::NotFound) if it is not there;
        /// [`InvalidInput`](ErrorKind::InvalidInput) if the name is out of range.
        pub fn open(&self) -> Result<$handle> {
            $from(&self.engine, &open(&self.engine, self.space(), &self.name)?)
        }

        #[doc = concat!("Deletes the ", $noun, " with all that belongs to it. Its handles fail from then on.")]
        ///
        /// # Errors
        ///
        /// [`NotFound`](ErrorKind::NotFound) if it is not there;
        /// [`InvalidInput`](ErrorKind::InvalidInput) if the name is out of range.
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
    lease: Option<Duration>,
}

impl QueueBuilder {
    pub(super) fn new(engine: &Engine, name: &str) -> QueueBuilder {
        QueueBuilder { engine: engine.clone(), name: name.to_owned(), lease: None }
    }

    /// How long a delivery belongs to its consumer before it is delivered again; 30 s by default,
    /// from 1 ms to a day.
    pub fn lease(mut self, lease: Duration) -> QueueBuilder {
        self.lease = Some(lease);
        self
    }

    fn space(&self) -> Space {
        Space::Queues
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let lease_ms = lease_ms(self.lease)?;
        let kind = EntityKind::Queue { lease_ms };
        let suits = |there: &EntityKind| self.lease.is_none() || *there == kind;
        create(&self.engine, &self.name, &kind, if_there, suits, at_zero)
    }

    builder_calls!("queue", Queue, Queue::attach);
}

fn lease_ms(lease: Option<Duration>) -> Result<u64> {
    Ok(check_lease(lease.unwrap_or(LEASE_DEFAULT))?.as_millis() as u64)
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
        create(&self.engine, &self.name, &EntityKind::Topic, if_there, |_| true, at_zero)
    }

    builder_calls!("topic", Topic, Topic::attach);
}

/// A topic's subscription by its name. Got from [`Topic::subscription`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct SubscriptionBuilder {
    engine: Engine,
    topic: u64,
    name: String,
    lease: Option<Duration>,
}

impl SubscriptionBuilder {
    pub(super) fn new(engine: &Engine, topic: u64, name: &str) -> SubscriptionBuilder {
        SubscriptionBuilder { engine: engine.clone(), topic, name: name.to_owned(), lease: None }
    }

    /// How long a delivery belongs to its consumer before it is delivered again; 30 s by default,
    /// from 1 ms to a day.
    pub fn lease(mut self, lease: Duration) -> SubscriptionBuilder {
        self.lease = Some(lease);
        self
    }

    fn space(&self) -> Space {
        Space::Subscriptions { topic: self.topic }
    }

    fn make(&self, if_there: IfThere) -> Result<Entity> {
        let topic = self.topic;
        let kind = EntityKind::Subscription { topic, lease_ms: lease_ms(self.lease)? };
        let suits = |there: &EntityKind| self.lease.is_none() || *there == kind;
        create(&self.engine, &self.name, &kind, if_there, suits, |core, entity| {
            // A subscription receives only what is published after its creation.
            let next = |log| core.store.bounds(log).map(|(_, next)| next);
            let starts = entity.cursors().map(|(_, log)| next(log));
            starts.collect::<Option<_>>().ok_or_else(super::core::deleted)
        })
    }

    builder_calls!("subscription", Subscription, Subscription::attach);
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
        let suits = |there: &EntityKind| self.partitions.is_none() || *there == kind;
        create(&self.engine, &self.name, &kind, if_there, suits, at_zero)
    }

    builder_calls!("stream", Stream, Stream::attach);
}

/// A stream's consumer group by its name. Got from [`Stream::group`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct GroupBuilder {
    engine: Engine,
    stream: u64,
    partitions: u32,
    name: String,
    start: Start,
}

impl GroupBuilder {
    pub(super) fn new(engine: &Engine, stream: u64, partitions: u32, name: &str) -> GroupBuilder {
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
        create(
            &self.engine,
            &self.name,
            &kind,
            if_there,
            |_| true,
            |core, entity| entity.cursors().map(|(_, log)| start.resolve(core, log)).collect(),
        )
    }

    builder_calls!("group", Group, Group::attach);
}
