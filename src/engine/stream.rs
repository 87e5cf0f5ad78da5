//! Streams.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    builders::GroupBuilder,
    core::deleted,
    handle::Engine,
    queue::append_at,
    reader::{Reader, Start},
    shared::{Committing, Shared},
    ticket::Ticket,
    wait::Watch,
};
use crate::{
    config::Durability,
    error::{Error, Result},
    format::entity::{Entity, EntityKind},
    ids::{EntityId, LogId, Lsn, Offset},
    message::Message,
    store::{Op, Space},
    stream::partition_of,
};

/// Where a record is: its partition, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The number in the partition.
    pub offset: Offset,
}

/// A stream: an ordered log that stays, to be read from any point by any number of readers.
///
/// Records with one key are in one partition and keep their order; those without a key go to the
/// partitions in turn. Clones are cheap and are the same stream.
#[derive(Clone)]
pub struct Stream {
    shape: Arc<Shape>,
    durability: Durability,
}

/// What all handles of a stream share.
#[derive(Debug)]
pub struct Shape {
    pub engine: Engine,
    pub name: Box<str>,
    pub id: EntityId,
    pub partitions: u32,
    pub watch: Arc<Watch>,
    /// Where the next record without a key goes.
    turn: AtomicU64,
}

impl Shape {
    pub fn log(&self, partition: u32) -> LogId {
        self.id.log(partition)
    }

    pub fn check_partition(&self, partition: u32) -> Result<LogId> {
        if partition < self.partitions {
            return Ok(self.log(partition));
        }
        let partitions = self.partitions;
        let what = format!("partition {partition} of a stream that has {partitions}, from 0 on");
        Err(Error::invalid("partition", what))
    }

    /// The partition for a message.
    pub fn partition_for(&self, message: &Message<'_>) -> u32 {
        match message.key_bytes() {
            Some(key) => partition_of(key, self.partitions),
            None if self.partitions == 1 => 0,
            None => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                (turn % u64::from(self.partitions)) as u32
            }
        }
    }
}

impl Stream {
    pub(super) fn attach(engine: &Engine, entity: &Entity) -> Result<Stream> {
        let EntityKind::Stream { partitions } = entity.kind else {
            unreachable!("the space of streams holds streams");
        };
        let watch = engine.shared().lock_open()?.watch(entity.logs(), false);
        let durability = engine.shared().config.durability;
        let (engine, id, turn) = (engine.clone(), entity.id, AtomicU64::new(0));
        let name = entity.name.as_str().into();
        let shape = Shape { engine, name, id, partitions, watch, turn };
        Ok(Stream { shape: Arc::new(shape), durability })
    }

    /// Has the next record without a key go where it is that number's turn.
    #[cfg(feature = "cron")]
    pub(super) fn begin_turns(&self, turn: u64) {
        self.shape.turn.store(turn, Ordering::Relaxed);
    }

    pub(super) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The stream's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shape.name
    }

    /// The same stream, with another durability for what is appended through this handle.
    #[must_use]
    pub fn durability(&self, durability: Durability) -> Stream {
        Stream { shape: Arc::clone(&self.shape), durability }
    }

    /// How many partitions the stream has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.shape.partitions
    }

    /// One partition, by its number from 0 on.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such partition.
    pub fn partition(&self, number: u32) -> Result<Partition> {
        self.shape.check_partition(number)?;
        Ok(Partition { shape: Arc::clone(&self.shape), number })
    }

    /// How many records can be read, in all partitions.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn len(&self) -> Result<u64> {
        let core = self.shape.engine.shared().lock_open()?;
        let visible = core.visible();
        let records = |partition| {
            let log = self.shape.log(partition);
            let (start, _) = core.store.bounds(log).ok_or_else(deleted)?;
            Ok(core.store.end_before(log, visible)?.0.saturating_sub(start.0))
        };
        (0..self.shape.partitions).map(records).sum()
    }

    /// Whether there is no record to be read.
    ///
    /// # Errors
    ///
    /// As [`len`](Stream::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Appends a record. It is durable when the call returns, unless the durability says
    /// otherwise.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted: nothing was appended.
    /// [`Poisoned`](crate::ErrorKind::Poisoned): it may have been, or not.
    pub fn append<'m>(&self, message: impl Into<Message<'m>>) -> Result<Position> {
        let committed = self.commit_one(&message.into())?;
        self.shape.engine.shared().complete(committed, self.durability)
    }

    /// Appends records as one commit: all of them, or none. Returns where they are, in the order
    /// in which they were given.
    ///
    /// # Errors
    ///
    /// As [`append`](Stream::append).
    pub fn append_batch<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Vec<Position>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let committed = self.commit(&messages)?;
        self.shape.engine.shared().complete(committed, self.durability)
    }

    /// Appends a record without waiting for the disk: the ticket says when it is durable. It waits
    /// only where the journal has no room, until there is some.
    ///
    /// # Errors
    ///
    /// As [`append`](Stream::append), up to the commit.
    pub fn append_ticket<'m>(&self, message: impl Into<Message<'m>>) -> Result<Ticket<Position>> {
        let (position, end) = self.commit_one(&message.into())?;
        Ok(Ticket::new(&self.shape.engine, position, end))
    }

    fn commit_one(&self, message: &Message<'_>) -> Result<(Position, Lsn)> {
        let shape = &self.shape;
        let partition = shape.partition_for(message);
        let messages = std::slice::from_ref(message);
        let shared = shape.engine.shared();
        let (offset, end) = append_at(shared, shape.log(partition), messages, Shared::now_plain)?;
        Ok((Position { partition, offset }, end))
    }

    fn commit(&self, messages: &[Message<'_>]) -> Result<(Vec<Position>, Lsn)> {
        let shape = &self.shape;
        let shared = shape.engine.shared();
        let partitions: Vec<u32> = messages.iter().map(|it| shape.partition_for(it)).collect();
        // Neighbours of one partition go into one run.
        let mut ops = Vec::new();
        let mut at = 0;
        for same in partitions.chunk_by(|a, b| a == b) {
            let messages = &messages[at..at + same.len()];
            ops.push(Op::Append { log: shape.log(same[0]), messages, delay_ms: 0 });
            at += same.len();
        }
        shared.transact(|core| {
            if messages.is_empty() {
                core.store.bounds(shape.log(0)).ok_or_else(deleted)?;
                return Ok(Committing::Done(Vec::new(), Lsn(0)));
            }
            let outcome = core.commit(&ops, shared.now_plain())?;
            let offsets = core.store.placed().flat_map(|(_, it)| it);
            let position = |(&partition, offset)| Position { partition, offset };
            let positions = partitions.iter().zip(offsets).map(position);
            Ok(Committing::of(outcome, || positions.collect()))
        })
    }

    /// A reader over all partitions. Each partition is read in order; between partitions there is
    /// no order, as they are read in turn.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it should start at an offset that was
    /// trimmed; [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::open(&self.shape, (0..self.shape.partitions).map(|number| (number, start)))
    }

    /// A consumer group by its name: to be created, opened or deleted. It keeps an offset for each
    /// partition.
    pub fn group(&self, name: &str) -> GroupBuilder {
        GroupBuilder::new(&self.shape.engine, self.shape.id, self.shape.partitions, name)
    }

    /// The names of the consumer groups, sorted.
    ///
    /// # Errors
    ///
    /// If the engine is closed or poisoned.
    pub fn groups(&self) -> Result<Vec<String>> {
        self.shape.engine.list(Space::Groups { stream: self.shape.id })
    }
}

/// One partition of a stream.
#[derive(Clone)]
pub struct Partition {
    shape: Arc<Shape>,
    number: u32,
}

impl Partition {
    /// The partition's number, from 0 on.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    fn log(&self) -> LogId {
        self.shape.log(self.number)
    }

    /// The first offset that is still there.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn start(&self) -> Result<Offset> {
        let core = self.shape.engine.shared().lock_open()?;
        Ok(core.store.bounds(self.log()).ok_or_else(deleted)?.0)
    }

    /// The offset one past the last record that can be read.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn end(&self) -> Result<Offset> {
        let core = self.shape.engine.shared().lock_open()?;
        core.store.end_before(self.log(), core.visible())
    }

    /// A reader over this partition, in the order of the offsets.
    ///
    /// # Errors
    ///
    /// As [`Stream::reader`].
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::open(&self.shape, std::iter::once((self.number, start)))
    }

    /// Trims the stream: the records before an offset are gone. Their space is given back with the
    /// segments that hold nothing else, at the next checkpoint. Groups and readers that have not
    /// come so far skip them.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the offset is past the end;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn trim_before(&self, offset: Offset) -> Result<()> {
        let shared = self.shape.engine.shared();
        let log = self.log();
        let committed = shared.transact(|core| {
            let (_, end) = core.store.bounds(log).ok_or_else(deleted)?;
            if offset > end {
                let what = format!("a trim before {offset}, but the partition ends at {end}");
                return Err(Error::invalid("offset", what));
            }
            let outcome = core.commit(&[Op::Trim { log, start: offset }], shared.now())?;
            Ok(Committing::of(outcome, || ()))
        })?;
        shared.complete(committed, shared.config.durability)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("name", &self.name())
            .field("partitions", &self.partitions())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("stream", &self.shape.name)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
