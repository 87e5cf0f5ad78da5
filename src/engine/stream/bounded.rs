//! Readers that begin and end at given positions.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Stream,
    batches::Batches,
    gap::Gap,
    reader::Reader,
    record::{OwnedRecord, Record},
    shape::Position,
    skip::Skipped,
    source::Found,
    start::Start,
};
use crate::{
    audit,
    engine::runtime::wait::{Attempt, Awaited, blocking},
    error::{Error, Result},
    ids::Offset,
};

impl Stream {
    /// A reader over all partitions that begins at positions. Partitions that are not named begin at the first record that is
    /// still there.
    ///
    /// So an application keeps its place in its own database, beside the results of the records. Its place are the
    /// [positions](Reader::positions) of the reader, behind the record that was read last.
    ///
    /// ```
    /// use posthouse::{Position, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid"])?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// reader.try_read()?;
    /// let kept: Vec<Position> = reader.positions().collect(); // in a database, for example
    ///
    /// let mut later = history.reader_at(kept)?;
    /// assert_eq!(later.try_read()?.expect("it is there").payload(), b"paid");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): its field is `partition` if there is no such partition, `positions` if
    /// one is named twice, and `start` if an offset was trimmed. [`NotFound`](crate::ErrorKind::NotFound) if the stream was
    /// deleted.
    pub fn reader_at(&self, positions: impl IntoIterator<Item = Position>) -> Result<Reader> {
        let mut starts = vec![Start::Earliest; self.shape.partitions as usize];
        for Position { partition, offset } in positions {
            self.shape.check_partition(partition)?;
            let start = &mut starts[partition as usize];
            if *start != Start::Earliest {
                return Err(named_twice(partition));
            }
            *start = Start::Offset(offset);
        }
        Reader::open(&self.shape, (0..self.shape.partitions).zip(starts))
    }
}

fn named_twice(partition: u32) -> Error {
    Error::invalid("positions", format!("partition {partition} is named twice"))
}

impl Reader {
    /// Ends the reader at the records that can be read now: those of one moment, in all its partitions. It does not read what
    /// comes later.
    ///
    /// So an application that builds its state from a stream knows when that is up to date. It can then go on with
    /// [`into_reader`](BoundedReader::into_reader).
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let prices = engine.stream("prices").partitions(8).create()?;
    /// prices.append_batch(["tea costs 3", "milk costs 1"])?;
    /// let mut reader = prices.reader(Start::Earliest)?.until_now()?;
    /// prices.append("tea costs 4")?;
    /// assert_eq!(reader.by_ref().count(), 2);
    /// assert!(reader.is_done());
    ///
    /// let mut reader = reader.into_reader();
    /// assert_eq!(reader.try_read()?.expect("it has come since").payload(), b"tea costs 4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn until_now(mut self) -> Result<BoundedReader> {
        self.leave_source();
        let committer = Arc::clone(self.shape.engine.committer());
        let core = committer.lock_to_look("read")?;
        let visible = core.visible();
        for place in &mut self.places {
            audit::step();
            place.end = core.store.end_before(place.log, visible)?;
        }
        drop(core);
        Ok(BoundedReader { reader: self })
    }

    /// Ends the reader at positions: in each partition before the record with the given offset. Partitions that are not named
    /// are not read.
    ///
    /// An end may lie behind the records that are there. Then the reader waits for them, and is
    /// [done](BoundedReader::is_done) when it has read them.
    ///
    /// ```
    /// use posthouse::{Offset, Position, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid", "shipped"])?;
    /// let end = Position { partition: 0, offset: Offset(2) };
    /// let mut reader = history.reader(Start::Earliest)?.until([end])?;
    /// assert_eq!(reader.by_ref().count(), 2);
    /// assert!(reader.is_done());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): its field is `partition` if there is no such partition or the reader
    /// does not read it, and `positions` if one is named twice.
    pub fn until(mut self, ends: impl IntoIterator<Item = Position>) -> Result<BoundedReader> {
        self.leave_source();
        let first = self.places.first().map_or(0, |place| place.partition);
        let mut named = vec![false; self.places.len()];
        self.places.iter_mut().for_each(|place| place.end = place.next);
        for Position { partition, offset } in ends {
            self.shape.check_partition(partition)?;
            // A reader reads one partition, or all of them in their order.
            let n = partition.checked_sub(first).map(|n| n as usize);
            let Some(n) = n.filter(|n| *n < named.len()) else {
                let what = format!("the reader reads partition {first} only, and not {partition}");
                return Err(Error::invalid("partition", what));
            };
            if std::mem::replace(&mut named[n], true) {
                return Err(named_twice(partition));
            }
            self.places[n].end = offset;
        }
        Ok(BoundedReader { reader: self })
    }

    /// Whether it has read all that is before its ends.
    fn is_done(&self) -> bool {
        let mut places = self.positions().zip(&self.places).inspect(|_| audit::step());
        places.all(|(position, place)| position.offset >= place.end)
    }
}

/// A [`Reader`] with an end in each partition. [`Reader::until_now`] and [`Reader::until`] return it.
///
/// As an iterator it ends when it has read all records before its ends, and as a [`Reader`] does: after an error, and where a
/// record has not come yet. [`is_done`](BoundedReader::is_done) tells.
///
/// ```
/// use posthouse::{Engine, Start};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let prices = engine.stream("prices").create()?;
/// prices.append("tea costs 3")?;
/// let mut reader = prices.reader(Start::Earliest)?.until_now()?;
/// while let Some(record) = reader.try_read()? {
///     assert_eq!(record.payload(), b"tea costs 3");
/// }
/// assert!(reader.is_done());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BoundedReader {
    reader: Reader,
}

impl BoundedReader {
    /// Whether the reader has read all records before its ends. Records that were trimmed count as read, and so do those that
    /// [`skip_damaged`](BoundedReader::skip_damaged) has skipped.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    /// Reads the next record before the ends. `None` if there is none, or none yet. See [`Reader::try_read`].
    ///
    /// # Errors
    ///
    /// The same errors as [`Reader::try_read`].
    #[inline]
    pub fn try_read(&mut self) -> Result<Option<Record<'_>>> {
        self.reader.try_read()
    }

    /// Reads the next record before the ends, and waits up to `timeout` for one. `None` if the reader is done, at once, or if
    /// the time is over.
    ///
    /// # Errors
    ///
    /// The same errors as [`Reader::try_read`].
    pub fn read(&mut self, timeout: Duration) -> Result<Option<Record<'_>>> {
        let found = match self.reader.quick() {
            Some(found) => Some(found),
            None => {
                let committer = Arc::clone(self.reader.shape.engine.committer());
                let stopwatch = || committer.disk.stopwatch();
                blocking(Some(timeout), stopwatch, || self.advance_or_wait())?.flatten()
            }
        };
        Ok(found.map(|found| self.reader.record(found)))
    }

    /// Reads the next record before the ends as a future, which waits for one. `None` if the reader is done.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let prices = engine.stream("prices").create()?;
    /// prices.append_batch(["tea costs 3", "milk costs 1"])?;
    /// let mut reader = prices.reader(Start::Earliest)?.until_now()?;
    /// let reading = async {
    ///     let mut count = 0;
    ///     while let Some(record) = reader.read_async().await? {
    ///         count += 1;
    ///     }
    ///     assert_eq!(count, 2);
    ///     Ok::<(), posthouse::Error>(())
    /// };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(std::pin::pin!(reading).poll(&mut context).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`Reader::try_read`].
    pub async fn read_async(&mut self) -> Result<Option<Record<'_>>> {
        let found = Awaited::new(|| self.advance_or_wait()).await?;
        Ok(found.map(|found| self.reader.record(found)))
    }

    /// An iterator over batches of the records before the ends: see [`Reader::batches`].
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let prices = engine.stream("prices").create()?;
    /// prices.append_batch(["tea costs 3", "milk costs 1", "tea costs 4"])?;
    /// let mut reader = prices.reader(Start::Earliest)?.until_now()?;
    /// for batch in reader.batches(2)? {
    ///     println!("{} more", batch?.len()); // one commit of your database, for example
    /// }
    /// assert!(reader.is_done());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`Reader::batches`].
    pub fn batches(&mut self, most: usize) -> Result<Batches<'_>> {
        self.reader.batches(most)
    }

    /// Goes on behind trimmed records: see [`Reader::skip_trimmed`].
    ///
    /// # Errors
    ///
    /// The same errors as [`Reader::skip_trimmed`].
    pub fn skip_trimmed(&mut self) -> Result<Option<Gap>> {
        self.reader.skip_trimmed()
    }

    /// Skips damaged records: see [`Reader::skip_damaged`].
    ///
    /// # Errors
    ///
    /// The same errors as [`Reader::skip_damaged`].
    pub fn skip_damaged(&mut self) -> Result<Option<Skipped>> {
        self.reader.skip_damaged()
    }

    /// The reader, for its [positions](Reader::positions), and for [`Group::commit_reader`](crate::Group::commit_reader).
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Takes the ends away: the reader goes on with the records behind those that it has read.
    #[must_use]
    pub fn into_reader(self) -> Reader {
        let mut reader = self.reader;
        reader.leave_source();
        for n in 0..reader.places.len() {
            let (.., next) = reader.place(n);
            reader.places[n].end = Offset::MAX;
            reader.go_to(n, next);
        }
        reader
    }

    fn advance_or_wait(&mut self) -> Result<Attempt<Option<Found>>> {
        Ok(match self.reader.advance_or_wait()? {
            Attempt::Got(found) => Attempt::Got(Some(found)),
            Attempt::Wait(_) if self.is_done() => Attempt::Got(None),
            Attempt::Wait(waiting) => Attempt::Wait(waiting),
        })
    }
}

/// Gives out records that stay valid on their own.
impl Iterator for BoundedReader {
    type Item = Result<OwnedRecord>;

    #[inline]
    fn next(&mut self) -> Option<Result<OwnedRecord>> {
        self.reader.next()
    }
}

impl fmt::Debug for BoundedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedReader")
            .field("reader", &self.reader)
            .field("is_done", &self.is_done())
            .finish()
    }
}
