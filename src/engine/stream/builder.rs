//! The builder of a stream: its settings, and the calls that create, open and delete it.

use super::Stream;
use crate::{
    config::PARTITIONS_MAX,
    delivery::in_force::Difference,
    engine::{
        commit::{
            definition::{self, Definition, IfExists, builder_calls, update_call},
            lifetime::Engine,
        },
        core::Core,
    },
    error::{Error, Result},
    format::entity::{Entity, EntityKind},
    ids::EntityId,
    store::Space,
};

/// A stream by its name: to be created, opened or deleted. [`Engine::stream`] returns it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct StreamBuilder {
    engine: Engine,
    name: String,
    partitions: Option<u32>,
}

impl Engine {
    /// A stream by its name: to be created, opened or deleted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// assert_eq!(history.name(), "order-history");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream(&self, name: &str) -> StreamBuilder {
        StreamBuilder { engine: self.clone(), name: name.to_owned(), partitions: None }
    }

    /// The names of all streams, sorted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.stream("order-history").create()?;
    /// assert_eq!(engine.streams()?, ["order-history"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn streams(&self) -> Result<Vec<String>> {
        self.list(Space::Streams)
    }
}

impl StreamBuilder {
    /// Sets the number of partitions: 1 by default, 4096 at most. Messages with one key are in one partition, in
    /// order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// assert_eq!(history.partitions(), 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partitions(mut self, partitions: u32) -> StreamBuilder {
        self.partitions = Some(partitions);
        self
    }

    builder_calls!("stream", Stream, "engine.stream(\"order-history\")", |this: &Self, entity| {
        Stream::attach(&this.engine, entity)
    });

    update_call!("stream", Stream, "engine.stream(\"order-history\")", |this: &Self, entity| {
        Stream::attach(&this.engine, entity)
    });
}

impl Definition for StreamBuilder {
    type Prepared = ();

    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn space(&self) -> Space {
        Space::Streams
    }

    fn check(&self, _dead_letter_queue: Option<&str>) -> Result<()> {
        let partitions = self.partitions.unwrap_or(1);
        if (1..=PARTITIONS_MAX).contains(&partitions) {
            return Ok(());
        }
        let what = format!("{partitions} partitions: a stream has 1 to {PARTITIONS_MAX}");
        Err(Error::invalid("partitions", what))
    }

    fn kind(&self, _dead_letters: Option<EntityId>) -> Result<EntityKind> {
        Ok(EntityKind::Stream { partitions: self.partitions.unwrap_or(1), retention: None })
    }

    fn applied_to(&self, there: &EntityKind, _letters: Option<EntityId>) -> Result<EntityKind> {
        match (there, self.partitions) {
            (EntityKind::Stream { partitions, .. }, Some(asked)) if *partitions != asked => {
                let what = format!(
                    "stream {:?} has {partitions} partitions, and keeps that number: with {asked} the records of \
                     a key would go to another partition than the earlier ones, out of order. Create another \
                     stream with {asked} partitions, and append the records there",
                    self.name
                );
                Err(Error::invalid("partitions", what))
            }
            _ => Ok(there.clone()),
        }
    }

    fn differs(&self, _core: &Core, there: &Entity) -> Result<Option<Difference>> {
        let stored = there.partitions();
        let asked = self.partitions.unwrap_or(stored);
        Ok((asked != stored).then(|| Difference {
            setting: "number of partitions",
            stored: stored.to_string(),
            asked: asked.to_string(),
        }))
    }
}

/// The settings of a stream. [`Stream::settings`] returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSettings {
    /// The number of partitions. It never changes.
    pub partitions: u32,
}
