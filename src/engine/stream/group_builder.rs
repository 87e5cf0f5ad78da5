//! The builder of a consumer group.

use std::sync::Arc;

use super::{
    group::Group,
    shape::Shape,
    start::{Found, Start},
};
use crate::{
    delivery::in_force::Difference,
    engine::{
        commit::{
            definition::{self, Definition, IfExists, builder_calls, update_call},
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
    keeps_unread: Option<bool>,
}

impl GroupBuilder {
    pub(super) fn new(shape: &Arc<Shape>, name: &str) -> GroupBuilder {
        GroupBuilder {
            engine: shape.engine.clone(),
            stream: shape.id,
            partitions: shape.partitions,
            name: name.to_owned(),
            start: Start::Earliest,
            keeps_unread: None,
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

    /// Sets whether records stay that the group has not passed, whatever the limits of the stream say: not by default.
    ///
    /// Without this, a record leaves by [`max_age`](crate::StreamBuilder::max_age) and the other limits, whether the group has
    /// read it or not. With it, a group that nobody reads makes the stream grow without an end: watch its
    /// [`lag`](Group::lag). [`trim_before`](crate::Partition::trim_before) spares nothing.
    ///
    /// It changes with [`create_or_update`](GroupBuilder::create_or_update).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let clicks = engine.stream("clicks").max_records(1).create()?;
    /// let billing = clicks.group("billing").keeps_unread(true).create()?;
    /// clicks.append_batch(["a", "b", "c"])?;
    /// engine.checkpoint()?;
    /// assert_eq!(billing.lag()?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keeps_unread(mut self, keeps: bool) -> GroupBuilder {
        self.keeps_unread = Some(keeps);
        self
    }

    builder_calls!(
        "group",
        Group,
        "engine.stream(\"order-history\").create()?.group(\"analytics\")",
        |this: &Self, entity| Group::attach(&this.engine, entity)
    );

    update_call!(
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
        Ok(EntityKind::Group {
            stream: self.stream,
            partitions: self.partitions,
            keeps_unread: self.keeps_unread.unwrap_or(false),
        })
    }

    fn applied_to(&self, there: &EntityKind, _letters: Option<EntityId>) -> Result<EntityKind> {
        let mut kind = there.clone();
        if let (EntityKind::Group { keeps_unread, .. }, Some(asked)) =
            (&mut kind, self.keeps_unread)
        {
            *keeps_unread = asked;
        }
        Ok(kind)
    }

    fn differs(&self, _core: &Core, there: &Entity) -> Result<Option<Difference>> {
        let EntityKind::Group { keeps_unread: stored, .. } = there.kind else { return Ok(None) };
        let asked = self.keeps_unread.unwrap_or(stored);
        Ok((asked != stored).then(|| Difference {
            setting: "keeps_unread",
            stored: stored.to_string(),
            asked: asked.to_string(),
        }))
    }

    fn prepare(&self) -> Result<Vec<Found>> {
        let committer = self.engine.committer();
        let logs = (0..self.partitions).map(|partition| self.stream.log(partition));
        logs.map(|log| self.start.find_time(committer, log)).collect()
    }

    fn starts(&self, core: &Core, entity: &Entity, found: &Vec<Found>) -> Result<Vec<Offset>> {
        let logs = entity.cursors().map(|(_, log)| log);
        logs.zip(found).map(|(log, start)| start.resolve(core, log)).collect()
    }
}
