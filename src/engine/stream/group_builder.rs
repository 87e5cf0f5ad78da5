//! The builder of a consumer group.

use std::sync::Arc;

use super::{
    group::Group,
    shape::Shape,
    start::{Found, Start},
};
use crate::{
    engine::{
        commit::{
            definition::{self, Definition, IfExists, builder_calls},
            lifetime::Engine,
        },
        core::Core,
    },
    error::Result,
    format::entity::{Entity, EntityKind},
    ids::{EntityId, Offset},
    store::Space,
};

/// A consumer group of a stream by its name: to be created, opened or deleted.
///
/// [`Stream::group`](crate::Stream::group) returns it.
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
    pub(super) fn new(shape: &Arc<Shape>, name: &str) -> GroupBuilder {
        GroupBuilder {
            engine: shape.engine.clone(),
            stream: shape.id,
            partitions: shape.partitions,
            name: name.to_owned(),
            start: Start::Earliest,
        }
    }

    /// Sets where a new group begins: at [`Start::Earliest`] by default. The setting counts when the group is
    /// created. An existing group keeps its offsets.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("created")?;
    /// let live = history.group("live").start(Start::Latest).create()?;
    /// assert_eq!(live.lag()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(mut self, start: Start) -> GroupBuilder {
        self.start = start;
        self
    }

    builder_calls!(
        "group",
        Group,
        "engine.stream(\"order-history\").create()?.group(\"analytics\")",
        |this: &Self, entity| Group::attach(&this.engine, entity)
    );
}

impl Definition for GroupBuilder {
    type Prepared = Vec<Found>;

    fn name(&self) -> &str {
        &self.name
    }

    fn space(&self) -> Space {
        Space::Groups { stream: self.stream }
    }

    fn kind(&self, _dead_letters: Option<EntityId>) -> Result<EntityKind> {
        Ok(EntityKind::Group { stream: self.stream, partitions: self.partitions })
    }

    fn prepare(&self) -> Result<Vec<Found>> {
        let committer = self.engine.committer();
        let logs = (0..self.partitions).map(|partition| self.stream.log(partition));
        logs.map(|log| self.start.find_time(committer, log)).collect()
    }

    fn starts(&self, core: &Core, entity: &Entity, found: &Vec<Found>) -> Result<Vec<Offset>> {
        let logs = (0..).zip(entity.cursors().map(|(_, log)| log));
        logs.zip(found).map(|(of, start)| start.resolve(core, of)).collect()
    }
}
