//! Streams: handles, builders, readers and consumer groups.

mod append;
mod back_source;
mod backward;
mod batches;
mod bounded;
mod builder;
mod conditional;
mod gap;
mod group;
mod group_builder;
mod lag;
mod last;
mod partition;
mod place;
mod reader;
mod record;
#[cfg(feature = "stream")]
mod records;
mod scan;
mod search;
mod shape;
mod skip;
mod source;
mod start;
mod stats;
mod turns;

use std::{fmt, sync::Arc};

#[cfg(feature = "stream")]
pub use self::records::Records;
pub use self::{
    backward::BackwardReader,
    batches::Batches,
    bounded::BoundedReader,
    builder::{StreamBuilder, StreamSettings},
    gap::Gap,
    group::Group,
    group_builder::GroupBuilder,
    partition::Partition,
    reader::Reader,
    record::{OwnedRecord, Record},
    shape::{Position, Shape},
    skip::Skipped,
    start::Start,
    stats::{PartitionStats, StreamStats},
};
use crate::{
    config::Durability,
    engine::{
        commit::{asking::committed, lifetime::Engine, ticket::Ticket},
        runtime::wait::Attempt,
    },
    error::Result,
    format::entity::Entity,
    message::Message,
    store::Space,
};

/// A stream: an ordered log that any number of readers read from any point. Records stay until they are
/// [trimmed](Partition::trim_before), or are beyond a limit of the stream, such as
/// [`max_age`](StreamBuilder::max_age).
///
/// Records with one key are in one partition, in order. Records without a key go to the partitions in turn.
/// Clones are cheap and are the same stream.
///
/// ```
/// use posthouse::{Engine, Message, Start};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let history = engine.stream("order-history").partitions(8).create()?;
/// history.append(Message::new("created").key("customer-17"))?;
/// for record in history.reader(Start::Earliest)? {
///     assert_eq!(record?.payload(), b"created");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Stream {
    shape: Arc<Shape>,
    durability: Durability,
}

impl Stream {
    fn attach(engine: &Engine, entity: &Entity) -> Result<Stream> {
        let shape = Shape::attach(engine, entity)?;
        Ok(Stream { shape, durability: engine.committer().config.durability })
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The stream's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shape.name
    }

    /// The same stream with another durability. It counts for records that are appended through the returned
    /// handle.
    ///
    /// ```
    /// use posthouse::Durability;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let clicks = engine.stream("clicks").create()?.durability(Durability::Buffered);
    /// clicks.append("a click")?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durability(&self, durability: Durability) -> Stream {
        Stream { shape: Arc::clone(&self.shape), durability }
    }

    /// The settings of the stream, as they are now.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// assert_eq!(history.settings()?.partitions, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn settings(&self) -> Result<StreamSettings> {
        let core = self.shape.engine.committer().lock_open("settings")?;
        let entity =
            core.store.entity(self.shape.id).ok_or_else(|| core.store.deleted(self.shape.id))?;
        Ok(StreamSettings::of(entity))
    }

    /// The number of partitions of the stream.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.shape.partitions
    }

    /// One partition of the stream. Partitions are numbered from 0.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// assert_eq!(history.partition(7)?.number(), 7);
    /// assert!(history.partition(8).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such partition.
    pub fn partition(&self, number: u32) -> Result<Partition> {
        Partition::new(&self.shape, number, self.durability)
    }

    /// How many records can be read, in all partitions.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("created")?;
    /// assert_eq!(history.len()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn len(&self) -> Result<u64> {
        let core = self.shape.engine.committer().lock_to_look("length of a stream")?;
        let visible = core.visible();
        let mut records = 0;
        for partition in 0..self.shape.partitions {
            crate::audit::step();
            let log = self.shape.log(partition);
            let (start, _) = core.bounds(log)?;
            records += core.store.end_before(log, visible)?.0.saturating_sub(start.0);
        }
        Ok(records)
    }

    /// Whether the stream has no record to read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// assert!(engine.stream("order-history").create()?.is_empty()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`len`](Stream::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The numbers of each partition, one after the other: records that come meanwhile count in some partitions, and not in
    /// others. See [`Partition::bytes`] for what they take.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// let position = history.append(Message::new("created").key("customer-17"))?;
    /// let stats = history.stats()?;
    /// assert_eq!(stats.records(), 1);
    /// assert_eq!(stats.partitions[position.partition as usize].records(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`Partition::len`].
    pub fn stats(&self) -> Result<StreamStats> {
        let numbers = 0..self.partitions();
        let stats = numbers.map(|number| self.partition(number)?.stats());
        Ok(StreamStats { partitions: stats.collect::<Result<_>>()? })
    }
    /// Appends a record, and returns its position.
    ///
    /// The record is durable when the call returns, unless the handle has another
    /// [durability](Stream::durability).
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// let first = history.append(Message::new("created").key("customer-17"))?;
    /// let second = history.append(Message::new("paid").key("customer-17"))?;
    /// assert_eq!((second.partition, second.offset), (first.partition, first.offset.next()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the message has a delay, a priority or a time to live, or a header
    /// without a name; [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted: nothing was appended.
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed: the commit may be lost, or not.
    pub fn append<'m>(&self, message: impl Into<Message<'m>>) -> Result<Position> {
        let committed = self.commit_one(&message.into())?;
        self.shape.engine.committer().complete(committed, self.durability)
    }

    /// Appends records in one commit: all of them, or none. It returns their positions, in the order of the
    /// records.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let positions = history.append_batch(["created", "paid", "shipped"])?; // one flush for all
    /// assert_eq!(positions[2].offset, posthouse::Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`append`](Stream::append).
    pub fn append_batch<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Vec<Position>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let committed = self.commit(&messages)?;
        self.shape.engine.committer().complete(committed, self.durability)
    }

    /// Appends a record without waiting for the disk. The [`Ticket`] tells when the record is durable.
    ///
    /// The call waits only if the journal is full, until it has room.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let ticket = history.append_ticket("created")?;
    /// let position = ticket.wait()?;
    /// assert_eq!(position.offset, posthouse::Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`append`](Stream::append). An error of the sync comes from the ticket.
    pub fn append_ticket<'m>(&self, message: impl Into<Message<'m>>) -> Result<Ticket<Position>> {
        Ok(Ticket::new(&self.shape.engine, self.commit_one(&message.into())?))
    }

    /// Appends records in one commit, without waiting for the disk: see [`append_batch`](Stream::append_batch) and
    /// [`append_ticket`](Stream::append_ticket).
    ///
    /// # Errors
    ///
    /// The same errors as [`append`](Stream::append). An error of the sync comes from the ticket.
    pub fn append_batch_ticket<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Ticket<Vec<Position>>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        Ok(Ticket::new(&self.shape.engine, self.commit(&messages)?))
    }

    /// Appends a record as a future. It never blocks its thread: it awaits space in a full journal, too. See
    /// [`Queue::send_async`](crate::Queue::send_async).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let appended = async { history.append_async("created").await };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut appended = std::pin::pin!(appended);
    /// # while appended.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`append`](Stream::append).
    pub fn append_async<'m, M: Into<Message<'m>>>(
        &self,
        message: M,
    ) -> impl Future<Output = Result<Position>> + Send + use<'m, M> {
        let (stream, message) = (self.clone(), message.into());
        committed(self.shape.engine.clone(), self.durability, move || {
            Ok(Attempt::Got(stream.commit_one(&message)?))
        })
    }

    /// Appends records in one commit, as a future: see [`append_batch`](Stream::append_batch) and
    /// [`append_async`](Stream::append_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`append`](Stream::append).
    pub fn append_batch_async<'m, M: Into<Message<'m>>, I: IntoIterator<Item = M>>(
        &self,
        messages: I,
    ) -> impl Future<Output = Result<Vec<Position>>> + Send + use<'m, M, I> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let stream = self.clone();
        committed(self.shape.engine.clone(), self.durability, move || {
            Ok(Attempt::Got(stream.commit(&messages)?))
        })
    }

    /// A reader over all partitions.
    ///
    /// It reads each partition in order, and takes turns between partitions. See also [`Partition::reader`].
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("created")?;
    /// assert_eq!(history.reader(Start::Earliest)?.count(), 1);
    /// assert_eq!(history.reader(Start::Latest)?.count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it should start at an offset that was
    /// trimmed; [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::open(&self.shape, (0..self.shape.partitions).map(|number| (number, start)))
    }

    /// A consumer group by its name: to be created, opened or deleted. The group keeps an offset for each
    /// partition.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("created")?;
    /// let analytics = history.group("analytics").create()?;
    /// assert_eq!(analytics.lag()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group(&self, name: &str) -> GroupBuilder {
        GroupBuilder::new(&self.shape, name)
    }

    /// The names of the consumer groups, sorted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.group("analytics").create()?;
    /// assert_eq!(history.groups()?, ["analytics"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn groups(&self) -> Result<Vec<String>> {
        self.shape.engine.list(Space::Groups { stream: self.shape.id })
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
