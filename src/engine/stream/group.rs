//! Consumer groups: positions in a stream that are kept on disk.

use std::{fmt, sync::Arc};

use super::{reader::Reader, shape::Shape, start::Found};
use crate::{
    audit,
    engine::{
        commit::{asking::committed, lifetime::Engine, ticket::Ticket},
        core::{Core, commit::Receipt},
        runtime::wait::Attempt,
    },
    error::{Error, Result},
    format::entity::{Entity, EntityKind},
    ids::{CursorId, EntityId, Offset},
    store::Op,
};

/// A durable position in a stream: an offset for each partition, kept on disk.
///
/// Commit the offset *one past* the last record that was handled. A [`reader`](Group::reader) of the group
/// begins there. To handle each record exactly once, commit the offset in the
/// [`Transaction`](crate::Transaction) that holds the results of the record.
///
/// Run one reader per group. A group does not divide partitions among readers: each of two readers would
/// read all records, and the later commit would win.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let history = engine.stream("order-history").create()?;
/// let billing = history.group("billing").create()?;
/// history.append("order 1")?;
///
/// let mut reader = billing.reader()?;
/// while let Some(record) = reader.try_read()? {
///     println!("{:?}", record.payload());
/// }
/// billing.commit_reader(&reader)?; // a restart goes on here
/// assert_eq!(billing.lag()?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        let core = engine.committer().lock_open("open a group")?;
        let found = core.store.entity(stream).cloned();
        let found = found.ok_or_else(|| core.store.deleted(stream))?;
        drop(core);
        let shape = Shape::attach(engine, &found)?;
        Ok(Group { shape, name: Arc::clone(&entity.name), id: entity.id })
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

    /// The offset of the next record of a partition for this group.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// assert_eq!(billing.committed(0)?, Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such partition;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn committed(&self, partition: u32) -> Result<Offset> {
        let cursor = self.cursor(partition)?;
        let core = self.shape.engine.committer().lock_open("look at a group")?;
        core.store.floor_of(cursor)
    }

    /// Commits the offset at which the group goes on in a partition. It may be lower than the last one, to read
    /// records again.
    ///
    /// See also [`commit_reader`](Group::commit_reader) and
    /// [`Transaction::commit_offset`](crate::Transaction::commit_offset).
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// for record in history.reader(Start::Earliest)? {
    ///     let record = record?;
    ///     billing.commit(record.partition(), record.offset().next())?;
    /// }
    /// assert_eq!(billing.lag()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such partition, or if the offset is past
    /// its end; [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn commit(&self, partition: u32, next: Offset) -> Result<()> {
        self.commit_all(&[(partition, next)])
    }

    /// Commits the [positions](Reader::positions) of a reader, in all its partitions at once. The last record
    /// that the reader has read counts as handled.
    ///
    /// See also [`Transaction::commit_reader`](crate::Transaction::commit_reader).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// let mut reader = billing.reader()?;
    /// while let Some(record) = reader.try_read()? {
    ///     println!("{:?}", record.payload());
    /// }
    /// billing.commit_reader(&reader)?;
    /// assert!(billing.reader()?.try_read()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`commit`](Group::commit); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the
    /// reader reads another stream.
    pub fn commit_reader(&self, reader: &Reader) -> Result<()> {
        self.commit_all(&self.places_of(reader)?)
    }

    /// Whether a reader reads the group's stream.
    pub(crate) fn suits(&self, reader: &Reader) -> bool {
        reader.shape().id == self.shape.id && reader.shape().engine.is_same(self.engine())
    }

    pub(crate) fn unsuited() -> Error {
        Error::invalid("reader", "the reader reads another stream than the group")
    }

    /// Commits an offset as [`commit`](Group::commit), without waiting for the disk. The [`Ticket`] tells when it is durable.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// let ticket = billing.commit_ticket(0, Offset(1))?;
    /// assert_eq!(billing.committed(0)?, Offset(1));
    /// ticket.wait()?; // or `ticket.await`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`commit`](Group::commit). An error of the sync comes from the ticket.
    pub fn commit_ticket(&self, partition: u32, next: Offset) -> Result<Ticket<()>> {
        Ok(Ticket::new(self.engine(), self.commit_once(&[(partition, next)])?))
    }

    /// Commits the positions of a reader as [`commit_reader`](Group::commit_reader), without waiting for the disk. See
    /// [`commit_ticket`](Group::commit_ticket).
    ///
    /// # Errors
    ///
    /// The same errors as [`commit_reader`](Group::commit_reader). An error of the sync comes from the ticket.
    pub fn commit_reader_ticket(&self, reader: &Reader) -> Result<Ticket<()>> {
        Ok(Ticket::new(self.engine(), self.commit_once(&self.places_of(reader)?)?))
    }

    /// Commits an offset as a future: see [`commit`](Group::commit). It never blocks its thread.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// let handled = async {
    ///     let mut reader = billing.reader()?;
    ///     let record = reader.read_async().await?;
    ///     billing.commit_async(record.partition(), record.offset().next()).await
    /// };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut handled = std::pin::pin!(handled);
    /// # while handled.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # assert_eq!(billing.lag()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`commit`](Group::commit).
    pub fn commit_async(
        &self,
        partition: u32,
        next: Offset,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        self.commit_in_task(Ok(vec![(partition, next)]))
    }

    /// Commits the positions of a reader as a future: see [`commit_reader`](Group::commit_reader). It never blocks its
    /// thread.
    ///
    /// # Errors
    ///
    /// The same errors as [`commit_reader`](Group::commit_reader).
    pub fn commit_reader_async(
        &self,
        reader: &Reader,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        self.commit_in_task(self.places_of(reader))
    }

    fn commit_in_task(
        &self,
        offsets: Result<Vec<(u32, Offset)>>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (group, engine) = (self.clone(), self.engine().clone());
        let durability = engine.committer().config.durability;
        committed(engine, durability, move || {
            let offsets = offsets.as_ref().map_err(Error::again)?;
            Ok(Attempt::Got(group.commit_once(offsets)?))
        })
    }

    /// The places of a reader of the group's stream.
    fn places_of(&self, reader: &Reader) -> Result<Vec<(u32, Offset)>> {
        if !self.suits(reader) {
            return Err(Group::unsuited());
        }
        Ok(reader.positions().map(|place| (place.partition, place.offset)).collect())
    }

    fn commit_all(&self, offsets: &[(u32, Offset)]) -> Result<()> {
        let committer = self.shape.engine.committer();
        committer.complete(self.commit_once(offsets)?, committer.config.durability)
    }

    fn commit_once(&self, offsets: &[(u32, Offset)]) -> Result<((), Receipt)> {
        let committer = self.shape.engine.committer();
        committer.transact("commit offsets", |core| {
            let mut ops = Vec::with_capacity(offsets.len());
            for (partition, next) in offsets {
                audit::step();
                ops.push(self.seek(core, *partition, *next, 0)?);
            }
            if ops.is_empty() {
                return Ok(((), Receipt::NOTHING));
            }
            Ok(((), core.commit(&ops, committer.now_plain())?))
        })
    }

    /// The operation that commits an offset. `added` is how many records the same commit appends to the
    /// partition. An offset past the end is refused: the group would skip the records that come there.
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

    /// How many records are ahead of the group, for each partition.
    ///
    /// See also [`lag`](Group::lag), the sum.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(2).create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// assert_eq!(billing.lags()?.iter().sum::<u64>(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn lags(&self) -> Result<Vec<u64>> {
        let core = self.shape.engine.committer().lock_to_look("look at a group")?;
        let visible = core.visible();
        let lag = |partition| {
            audit::step();
            let end = core.store.end_before(self.shape.log(partition), visible)?;
            let (start, _) = core.bounds(self.shape.log(partition))?;
            let next = core.store.floor_of(self.cursor(partition)?)?;
            Ok(end.0.saturating_sub(next.max(start).0))
        };
        (0..self.shape.partitions).map(lag).collect()
    }

    /// How many records are ahead of the group, in all partitions together.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// assert_eq!(billing.lag()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`lags`](Group::lags).
    pub fn lag(&self) -> Result<u64> {
        Ok(self.lags()?.into_iter().sum())
    }

    /// A reader over all partitions. It begins at the committed offsets of the group.
    ///
    /// Reading commits nothing: call [`commit_reader`](Group::commit_reader) or [`commit`](Group::commit).
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1")?;
    /// history.append("order 2")?;
    /// billing.commit(0, Offset(1))?;
    /// let mut reader = billing.reader()?;
    /// assert_eq!(reader.try_read()?.expect("it is there").payload(), b"order 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the group was deleted.
    pub fn reader(&self) -> Result<Reader> {
        let starts = (0..self.shape.partitions).map(|partition| {
            let core = self.shape.engine.committer().lock_open("look at a group")?;
            let next = core.store.floor_of(self.cursor(partition)?)?;
            Ok((partition, Found::Committed(next)))
        });
        Reader::at(&self.shape, starts.collect::<Result<Vec<_>>>()?)
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
