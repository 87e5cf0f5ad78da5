//! Consumer groups.

use std::{fmt, sync::Arc};

use super::{reader::Reader, shape::Shape, start::Start};
use crate::{
    audit,
    engine::{
        commit::lifetime::Engine,
        core::{Core, commit::Receipt, errors::deleted},
    },
    error::{Error, Result},
    format::entity::{Entity, EntityKind},
    ids::{CursorId, EntityId, Offset},
    store::Op,
};

/// A durable cursor over a stream: an offset for each partition, kept on disk.
///
/// Commit the offset *one past* the last record that was handled; a [`reader`](Group::reader) then
/// goes on there. To handle each record exactly once, commit the offset in the
/// [`Transaction`](crate::Transaction) that holds what came of it.
///
/// Run one reader per group: a group does not yet divide partitions among readers, so each of two
/// would read all records, and the one that commits last decides.
#[derive(Clone)]
pub struct Group {
    shape: Arc<Shape>,
    name: Arc<str>,
    id: EntityId,
}

impl Group {
    pub(crate) fn attach(engine: &Engine, entity: &Entity) -> Result<Group> {
        let EntityKind::Group { stream, .. } = entity.kind else {
            unreachable!("the space of groups holds groups");
        };
        let found = engine.committer().lock_open("open a group")?.store.entity(stream).cloned();
        let shape = Shape::attach(engine, &found.ok_or_else(deleted)?)?;
        Ok(Group { shape, name: entity.name.as_str().into(), id: entity.id })
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shape.engine
    }

    pub(crate) fn cursor(&self, partition: u32) -> Result<CursorId> {
        self.shape.check_partition(partition)?;
        Ok(self.id.cursor(partition))
    }

    /// The offset at which the group goes on in a partition.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such partition;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn committed(&self, partition: u32) -> Result<Offset> {
        let cursor = self.cursor(partition)?;
        let core = self.shape.engine.committer().lock_open("look at a group")?;
        core.store.floor(cursor).ok_or_else(deleted)
    }

    /// Commits the offset at which the group is to go on in a partition. It may lie before the one
    /// committed last, to read records again.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such partition, or if the
    /// offset is past its end; [`NotFound`](crate::ErrorKind::NotFound) if the group was
    /// deleted.
    pub fn commit(&self, partition: u32, next: Offset) -> Result<()> {
        self.commit_all(std::iter::once((partition, next)))
    }

    /// Commits how far a reader has come at the time of the call, in all its partitions at once:
    /// the record that it has read last counts as handled.
    ///
    /// # Errors
    ///
    /// As [`commit`](Group::commit); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the reader
    /// reads another stream.
    pub fn commit_reader(&self, reader: &Reader) -> Result<()> {
        if !self.suits(reader) {
            return Err(Group::unsuited());
        }
        self.commit_all(reader.positions().map(|place| (place.partition, place.offset)))
    }

    /// Whether a reader reads the group's stream.
    pub(crate) fn suits(&self, reader: &Reader) -> bool {
        reader.shape().id == self.shape.id && reader.shape().engine.is_same(self.engine())
    }

    pub(crate) fn unsuited() -> Error {
        Error::invalid("reader", "the reader reads another stream than the group")
    }

    fn commit_all(&self, offsets: impl Iterator<Item = (u32, Offset)>) -> Result<()> {
        let committer = self.shape.engine.committer();
        let offsets: Vec<(u32, Offset)> = offsets.collect();
        let committed = committer.transact("commit offsets", |core| {
            let mut ops = Vec::with_capacity(offsets.len());
            for (partition, next) in &offsets {
                audit::step();
                ops.push(self.seek(core, *partition, *next, 0)?);
            }
            if ops.is_empty() {
                return Ok(((), Receipt::NOTHING));
            }
            Ok(((), core.commit(&ops, committer.now_plain())?))
        })?;
        committer.complete(committed, committer.config.durability)
    }

    /// The operation that commits an offset. `added` is how many records the same commit appends
    /// to the partition. Nobody goes on past the end: records that come there would be skipped.
    pub(crate) fn seek(
        &self,
        core: &Core,
        partition: u32,
        next: Offset,
        added: u64,
    ) -> Result<Op<'static>> {
        let cursor = self.cursor(partition)?;
        let (_, end) = core.bounds(self.shape.log(partition))?;
        if next.0 > end.0 + added {
            let what = format!("offset {next} is past the partition's end, which is {end}");
            return Err(Error::invalid("offset", what));
        }
        Ok(Op::Seek { cursor, next })
    }

    /// How many records the group has not come to yet, for each partition.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn lags(&self) -> Result<Vec<u64>> {
        let core = self.shape.engine.committer().lock_open("look at a group")?;
        let visible = core.visible();
        let lag = |partition| {
            audit::step();
            let end = core.store.end_before(self.shape.log(partition), visible)?;
            let (start, _) = core.bounds(self.shape.log(partition))?;
            let next = core.store.floor(self.cursor(partition)?).ok_or_else(deleted)?;
            Ok(end.0.saturating_sub(next.max(start).0))
        };
        (0..self.shape.partitions).map(lag).collect()
    }

    /// How many records the group has not come to yet.
    ///
    /// # Errors
    ///
    /// As [`lags`](Group::lags).
    pub fn lag(&self) -> Result<u64> {
        Ok(self.lags()?.into_iter().sum())
    }

    /// A reader over all partitions that begins where the group goes on.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn reader(&self) -> Result<Reader> {
        let starts = (0..self.shape.partitions).map(|partition| {
            let core = self.shape.engine.committer().lock_open("look at a group")?;
            let (first, _) = core.bounds(self.shape.log(partition))?;
            let next = core.store.floor(self.cursor(partition)?).ok_or_else(deleted)?;
            Ok((partition, Start::Offset(next.max(first))))
        });
        Reader::open(&self.shape, starts.collect::<Result<Vec<_>>>()?.into_iter())
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name())
            .field("stream", &self.shape.name)
            .finish_non_exhaustive()
    }
}
