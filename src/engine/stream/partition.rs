//! One partition of a stream.

use std::{fmt, sync::Arc};

use super::{reader::Reader, shape::Shape, start::Start};
use crate::{
    config::Durability,
    error::{Error, Result},
    ids::{LogId, Offset},
    store::Op,
};

/// One partition of a stream. [`Stream::partition`] returns it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let history = engine.stream("order-history").partitions(8).create()?;
/// let partition = history.partition(3)?;
/// assert_eq!(partition.start()?, partition.end()?); // it is empty
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Stream::partition`]: crate::Stream::partition
#[derive(Clone)]
pub struct Partition {
    pub(super) shape: Arc<Shape>,
    pub(super) number: u32,
    /// The durability of records that are appended through this handle.
    pub(super) durability: Durability,
}

impl Partition {
    pub(super) fn new(
        shape: &Arc<Shape>,
        number: u32,
        durability: Durability,
    ) -> Result<Partition> {
        shape.check_partition(number)?;
        Ok(Partition { shape: Arc::clone(shape), number, durability })
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The number of the partition: 0 for the first.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn log(&self) -> LogId {
        self.shape.log(self.number)
    }

    /// The offset of the first record that is still there.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("order 1")?;
    /// let partition = history.partition(0)?;
    /// partition.trim_before(Offset(1))?;
    /// assert_eq!(partition.start()?, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn start(&self) -> Result<Offset> {
        let core = self.shape.engine.committer().lock_to_look("look at a partition")?;
        Ok(core.bounds(self.log())?.0)
    }

    /// The offset one past the last record that can be read.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("order 1")?;
    /// assert_eq!(history.partition(0)?.end()?, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn end(&self) -> Result<Offset> {
        let core = self.shape.engine.committer().lock_to_look("look at a partition")?;
        core.store.end_before(self.log(), core.visible())
    }

    /// A reader over this partition, in the order of the offsets.
    ///
    /// See also [`Stream::reader`](crate::Stream::reader), which reads all partitions.
    ///
    /// ```
    /// use posthouse::{Message, Start, partition_of};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// history.append(Message::new("created").key("customer-17"))?;
    /// let partition = history.partition(partition_of(b"customer-17", 8))?;
    /// let mut reader = partition.reader(Start::Earliest)?;
    /// assert_eq!(reader.try_read()?.expect("it was appended").payload(), b"created");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`Stream::reader`](crate::Stream::reader).
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::open(&self.shape, std::iter::once((self.number, start)))
    }

    /// Removes the records before an offset.
    ///
    /// Their space is given back with the segments that hold no other records, at the next
    /// [checkpoint](crate::Engine::checkpoint). Groups and readers skip the removed records.
    ///
    /// ```
    /// use posthouse::{Offset, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("order 1")?;
    /// history.append("order 2")?;
    /// history.partition(0)?.trim_before(Offset(1))?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// assert_eq!(reader.try_read()?.expect("it is there").payload(), b"order 2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the offset is past the end;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn trim_before(&self, offset: Offset) -> Result<()> {
        let (log, committer) = (self.log(), self.shape.engine.committer());
        let committed = committer.transact("trim", |core| {
            let (_, end) = core.bounds(log)?;
            if offset > end {
                let what = format!("a trim before {offset}, but the partition ends at {end}");
                return Err(Error::invalid("offset", what).into());
            }
            Ok(((), core.commit(&[Op::Trim { log, start: offset }], committer.now_plain())?))
        })?;
        committer.complete(committed, committer.config.durability)
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
