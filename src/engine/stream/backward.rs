//! Readers that read a partition backwards: the newest record first.

use std::{fmt, sync::Arc};

use super::{
    back_source::BackSource,
    partition::Partition,
    record::{OwnedRecord, Record},
    scan::open_segment,
    shape::{Position, Shape},
    skip::Skipped,
    source::Found,
    start::Start,
};
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{LogId, Offset},
    store::Chunk,
};

impl Partition {
    /// A reader that reads the partition backwards: it begins where a [`reader`](Partition::reader) with the same start would
    /// begin, and reads the records before that place, the last one first.
    ///
    /// With [`Start::Latest`] these are all records that can be read now, the newest one first. With [`Start::Offset`] they are
    /// those before the offset, and with [`Start::Time`] those before the first record that is as late or later.
    ///
    /// There is none over all partitions of a stream: between partitions there is no order that it could go back in. To see the
    /// newest records of a stream, read some of each partition, and sort them by their timestamps.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid", "shipped"])?;
    /// let newest = history.partition(0)?.reader_back(Start::Latest)?.take(2);
    /// let newest = newest.collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(newest[0].payload(), b"shipped");
    /// assert_eq!(newest[1].payload(), b"paid");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`Stream::reader`](crate::Stream::reader).
    pub fn reader_back(&self, start: Start) -> Result<BackwardReader> {
        let (log, committer) = (self.log(), self.shape.engine.committer());
        committer.work_alone();
        let found = start.find_time(committer, log)?;
        let core = committer.lock_open("read")?;
        let place = found.resolve(&core, log)?;
        let before = place.min(core.store.end_before(log, core.visible())?);
        drop(core);
        let (shape, partition) = (Arc::clone(&self.shape), self.number);
        let (source, floor) = (BackSource::Nothing, Offset(0));
        Ok(BackwardReader {
            shape,
            partition,
            log,
            before,
            floor,
            source,
            unread: None,
            has_failed: false,
        })
    }
}

/// Reads a partition backwards: the newest record first. [`Partition::reader_back`] returns it.
///
/// It reads the records that were there when it was made, and those that come later not. It reads one block of a segment at a time,
/// or records of the journal that stand close together: 64 KiB of either, or one record that is larger. So the last ten of a
/// million records cost as much as the last ten of ten thousand.
///
/// [`try_read`](BackwardReader::try_read) lends records. As an iterator the reader gives out records that stay valid on their own.
/// The iterator ends at the first record of the partition, and after an error. A later call then tries again.
///
/// ```
/// use posthouse::{Engine, Start};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let prices = engine.stream("prices").create()?;
/// prices.append_batch(["tea costs 3", "milk costs 1", "tea costs 4", "milk costs 2"])?;
///
/// // What did tea cost last?
/// let mut reader = prices.partition(0)?.reader_back(Start::Latest)?;
/// while let Some(record) = reader.try_read()? {
///     if record.payload().starts_with(b"tea") {
///         assert_eq!(record.payload(), b"tea costs 4");
///         break;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BackwardReader {
    shape: Arc<Shape>,
    partition: u32,
    log: LogId,
    /// Records before it are to be read.
    before: Offset,
    /// Records of the source below it are not read: they are trimmed, or in another source.
    floor: Offset,
    source: BackSource,
    /// A record that was read, and not returned.
    unread: Option<Found>,
    /// The iterator ends once after an error.
    has_failed: bool,
}

/// The next record cannot be read.
struct Failed {
    error: Error,
    /// The first of the records that cannot be read, if it is known which they are.
    from: Option<Offset>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, from: None }
    }
}

impl Failed {
    fn from_offset(from: Offset) -> impl FnOnce(Error) -> Failed {
        move |error| Failed { error, from: Some(from) }
    }
}

impl BackwardReader {
    /// The place of the reader: it goes on with the records before this offset. It is the offset of the record that was returned
    /// last. A reader that begins there goes on as this one, backwards or forwards.
    ///
    /// ```
    /// use posthouse::{Offset, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid", "shipped"])?;
    /// let partition = history.partition(0)?;
    /// let mut newest = partition.reader_back(Start::Latest)?;
    /// newest.by_ref().take(2).count();
    /// let place = newest.place().offset; // of the last page, for example
    /// assert_eq!(place, Offset(1));
    /// let mut older = partition.reader_back(Start::Offset(place))?;
    /// assert_eq!(older.try_read()?.expect("there is one").payload(), b"created");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn place(&self) -> Position {
        Position { partition: self.partition, offset: self.before }
    }

    /// Reads the record before the one that was read last. `None` if there is none: all were read, or are trimmed.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid"])?;
    /// let mut reader = history.partition(0)?.reader_back(Start::Latest)?;
    /// assert_eq!(reader.try_read()?.expect("there are two").payload(), b"paid");
    /// assert_eq!(reader.try_read()?.expect("there is one more").payload(), b"created");
    /// assert!(reader.try_read()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](ErrorKind::NotFound) if the stream was deleted;
    /// [`Corrupt`](ErrorKind::Corrupt) if the next records are damaged: the reader does not skip them, but see
    /// [`skip_damaged`](BackwardReader::skip_damaged);
    /// [`Io`](ErrorKind::Io) if they cannot be read;
    /// [`Poisoned`](ErrorKind::Poisoned) if a sync failed.
    pub fn try_read(&mut self) -> Result<Option<Record<'_>>> {
        let Some((offset, spans)) = self.advance()? else { return Ok(None) };
        let (bytes, partition) = (self.source.bytes(), self.partition);
        Ok(Some(Record { bytes, spans, partition, offset }))
    }

    /// Skips the damaged records that the reader stands before, on its way back: those of one block, of a segment that cannot be
    /// opened, or of one run of the journal. `None`, and nothing is skipped, if the next record is sound or if there is none.
    ///
    /// See [`Reader::skip_damaged`](crate::Reader::skip_damaged), which has an example.
    ///
    /// # Errors
    ///
    /// The same errors as [`try_read`](BackwardReader::try_read), except [`Corrupt`](ErrorKind::Corrupt).
    pub fn skip_damaged(&mut self) -> Result<Option<Skipped>> {
        if self.unread.is_some() {
            return Ok(None);
        }
        match self.step() {
            Ok(found) => {
                self.unread = found;
                Ok(None)
            }
            Err(Failed { error, from: Some(from) }) if error.kind() == ErrorKind::Corrupt => {
                let damage = self.told(&error);
                let offsets = from..self.before;
                (self.before, self.source) = (from, BackSource::Nothing);
                Ok(Some(Skipped { partition: self.partition, offsets, damage }))
            }
            Err(Failed { error, .. }) => Err(self.told(&error)),
        }
    }

    /// Goes to the record before. `None` if there is none.
    fn advance(&mut self) -> Result<Option<Found>> {
        let found = match self.unread.take() {
            Some(found) => Some(found),
            None => self.step().map_err(|failed| self.told(&failed.error))?,
        };
        if let Some((offset, _)) = found {
            self.before = offset;
        }
        Ok(found)
    }

    fn step(&mut self) -> Result<Option<Found>, Failed> {
        loop {
            match self.source.step() {
                Ok(Some(found)) if found.0 >= self.floor => return Ok(Some(found)),
                Ok(Some(_)) => self.before = self.floor,
                Ok(None) => {}
                Err(error) => return Err(self.failed_in_source(error)),
            }
            self.source = BackSource::Nothing;
            if !self.load(usize::MAX)? {
                return Ok(None);
            }
        }
    }

    fn failed_in_source(&self, error: Error) -> Failed {
        let from = self.source.first_of_block().unwrap_or_else(|| {
            let core = self.shape.engine.committer().lock("read");
            core.store.start_of_run(self.log, Offset(self.before.0.saturating_sub(1)))
        });
        Failed { error, from: Some(from.max(self.floor)) }
    }

    /// Opens the source that has the record before the place. `false` if there is none.
    fn load(&mut self, most_runs: usize) -> Result<bool, Failed> {
        let committer = Arc::clone(self.shape.engine.committer());
        loop {
            let mut core = committer.lock_to_look("read")?;
            let found = core.store.scan_before(self.log, self.before, most_runs)?;
            let Some(found) = found else { return Ok(false) };
            let last_run =
                core.store.start_of_run(self.log, Offset(self.before.0.saturating_sub(1)));
            drop(core);
            self.floor = found.floor;
            let segment = match found.chunk {
                Chunk::Runs(runs) => match runs.read_whole() {
                    Ok(runs) => {
                        self.source = BackSource::runs(runs, self.floor.to(self.before));
                        return Ok(true);
                    }
                    // The runs before the last one may be what cannot be read.
                    Err(_) if most_runs > 1 => return self.load(1),
                    Err(error) => return Err(Failed::from_offset(last_run)(error)),
                },
                Chunk::Segment { segment, .. } => segment,
            };
            let opened = open_segment(&committer, self.log, segment);
            // A checkpoint may have replaced it.
            let Some(reader) = opened.map_err(Failed::from_offset(self.floor))? else { continue };
            let Some(index) = reader.block_before(self.before) else {
                self.before = self.floor;
                continue;
            };
            if reader.table()[index].last < self.floor {
                // Only trimmed records are left in the segment.
                self.before = self.floor;
                continue;
            }
            let first = reader.table()[index].first.max(self.floor);
            let block = reader.block(index).map_err(Failed::from_offset(first))?;
            self.source = BackSource::block(block, self.before);
            return Ok(true);
        }
    }

    /// The error, with the record that cannot be read.
    fn told(&self, error: &Error) -> Error {
        let last = Offset(self.before.0.saturating_sub(1));
        match error.kind() {
            ErrorKind::Corrupt => error.of_message(&self.shape.name, last),
            _ => error.while_reading(&self.shape.name, last),
        }
    }
}

/// Gives out records that stay valid on their own, and ends when there are no more, or after an error. A later call then tries
/// again.
impl Iterator for BackwardReader {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Result<OwnedRecord>> {
        if std::mem::take(&mut self.has_failed) {
            return None;
        }
        let (offset, spans) = match self.advance().transpose()? {
            Ok(found) => found,
            Err(error) => {
                self.has_failed = true;
                return Some(Err(error));
            }
        };
        let (bytes, partition) = (self.source.share(), self.partition);
        Some(Ok(OwnedRecord { bytes, spans, partition, offset }))
    }
}

impl fmt::Debug for BackwardReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackwardReader")
            .field("stream", &self.shape.name)
            .field("place", &self.place())
            .finish_non_exhaustive()
    }
}
