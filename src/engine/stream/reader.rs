//! Readers of streams: they begin at any point, and go on as records come.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    place::Place,
    record::{OwnedRecord, Record},
    search::Search,
    shape::{Position, Shape},
    source::{Found, Source},
    start::{self, Start},
    turns::Turns,
};
use crate::{
    audit,
    engine::runtime::wait::{Attempt, Awaited, Waiting, blocking},
    error::{Error, Result},
    ids::{LogId, Offset},
};

/// Reads a stream or one of its partitions, and goes on as records come.
///
/// A reader keeps its position in memory only. A [`Group`](crate::Group) keeps a position on disk.
///
/// [`try_read`](Reader::try_read) and [`read`](Reader::read) lend records from the reader, which is the
/// fastest way. As an iterator the reader gives out records that stay valid on their own; the iterator ends
/// when it has read all records, and may go on later. After an error it ends, too, and a later call tries again. If
/// the engine was closed or is poisoned, or the stream was deleted, it has ended for good.
///
/// A reader over several partitions reads each partition in order. It takes turns between partitions.
///
/// ```
/// use posthouse::{Engine, Message, Start};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let history = engine.stream("order-history").partitions(8).create()?;
/// history.append(Message::new("created").key("customer-17"))?;
///
/// let mut reader = history.reader(Start::Earliest)?;
/// while let Some(record) = reader.try_read()? {
///     assert_eq!(record.payload(), b"created");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader {
    pub(super) shape: Arc<Shape>,
    pub(super) places: Vec<Place>,
    /// The places that may have something.
    pub(super) turns: Turns,
    /// The place that is read, or that was read last.
    pub(super) turn: usize,
    /// Its partition.
    pub(super) partition: u32,
    source: Source,
    /// What the last error means for the iterator.
    ended: Ended,
    /// Whether it fails where records were trimmed before it came to them.
    pub(super) fails_on_trimmed: bool,
    /// The error behind the last batch: the next read returns it.
    pub(super) pending: Option<Error>,
}

/// Whether an error ended the iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    No,
    /// The next call ends it, and a later one tries again.
    Once,
    ForGood,
}

/// Whether the next chunk is open.
enum Load {
    Opened,
    Nothing(Option<Waiting>),
}

impl Reader {
    pub(crate) fn open(
        shape: &Arc<Shape>,
        starts: impl ExactSizeIterator<Item = (u32, Start)>,
    ) -> Result<Reader> {
        let committer = shape.engine.committer();
        committer.work_alone();
        let mut found = Vec::with_capacity(starts.len());
        for (partition, start) in starts {
            found.push((partition, start.find_time(committer, shape.log(partition))?));
        }
        Reader::at(shape, found)
    }

    pub(super) fn at(shape: &Arc<Shape>, found: Vec<(u32, start::Found)>) -> Result<Reader> {
        let logs = found.len();
        let core = shape.engine.committer().lock_open("read")?;
        let mut places = Vec::with_capacity(logs);
        for (partition, start) in found {
            audit::step();
            let log = shape.log(partition);
            let next = start.resolve(&core, log)?;
            let missed = start.committed().filter(|committed| *committed < next);
            places.push(Place { partition, log, next, end: Offset::MAX, missed });
        }
        let turns = Turns::new(&core, shape.id, logs)?;
        drop(core);
        let shape = Arc::clone(shape);
        Ok(Reader {
            shape,
            places,
            turns,
            turn: 0,
            partition: 0,
            source: Source::Nothing,
            ended: Ended::No,
            fails_on_trimmed: false,
            pending: None,
        })
    }

    /// The offset of the next record, for each partition that the reader reads.
    ///
    /// See also [`Group::commit`](crate::Group::commit), which takes such offsets.
    ///
    /// ```
    /// use posthouse::{Offset, Position, Start};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("order 1")?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// reader.try_read()?;
    /// assert!(reader.positions().eq([Position { partition: 0, offset: Offset(1) }]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn positions(&self) -> impl Iterator<Item = Position> {
        self.places.iter().enumerate().map(|(n, place)| {
            let reading = self.source.next().filter(|_| n == self.turn);
            let offset = reading.unwrap_or(place.next);
            Position { partition: place.partition, offset }
        })
    }

    pub(crate) fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// Reads the next record. `None` if there is none yet.
    ///
    /// See also [`read`](Reader::read), which waits for a record.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("order 1")?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// assert_eq!(reader.try_read()?.expect("it was appended").payload(), b"order 1");
    /// assert!(reader.try_read()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the next records are damaged: the reader does not skip them, but
    /// see [`skip_damaged`](Reader::skip_damaged);
    /// [`Trimmed`](crate::ErrorKind::Trimmed) if the next records were trimmed, and the reader is to
    /// [fail](Reader::fail_on_trimmed) there;
    /// [`Io`](crate::ErrorKind::Io) if they cannot be read;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    #[inline]
    pub fn try_read(&mut self) -> Result<Option<Record<'_>>> {
        let found = match self.quick() {
            Some(found) => found,
            None => match self.advance()? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        Ok(Some(self.record(found)))
    }

    /// Reads the next record, and waits up to `timeout` for one. `None` if the time is over.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let mut reader = history.reader(Start::Latest)?;
    /// assert!(reader.read(Duration::from_millis(1))?.is_none());
    /// history.append("order 1")?;
    /// let record = reader.read(Duration::from_secs(1))?.expect("it was appended");
    /// assert_eq!(record.payload(), b"order 1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`try_read`](Reader::try_read).
    pub fn read(&mut self, timeout: Duration) -> Result<Option<Record<'_>>> {
        let found = match self.quick() {
            Some(found) => Some(found),
            None => {
                let committer = Arc::clone(self.shape.engine.committer());
                let stopwatch = || committer.disk.stopwatch();
                blocking(Some(timeout), stopwatch, || self.advance_or_wait())?
            }
        };
        Ok(found.map(|found| self.record(found)))
    }

    /// Reads the next record as a future, which waits for one.
    ///
    /// It needs no particular runtime. A future that is dropped skips no record.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("order 1")?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// let reading = async {
    ///     let record = reader.read_async().await?;
    ///     assert_eq!(record.payload(), b"order 1");
    ///     Ok::<(), posthouse::Error>(())
    /// };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(std::pin::pin!(reading).poll(&mut context).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`try_read`](Reader::try_read).
    pub async fn read_async(&mut self) -> Result<Record<'_>> {
        let found = Awaited::new(|| self.advance_or_wait()).await?;
        Ok(self.record(found))
    }

    #[inline]
    pub(super) fn record(&self, (offset, spans): Found) -> Record<'_> {
        Record { bytes: self.source.bytes(), spans, partition: self.partition, offset }
    }

    /// The same, to outlive the source.
    #[inline]
    pub(super) fn own(&mut self, (offset, spans): Found) -> OwnedRecord {
        let (bytes, partition) = (self.source.share(), self.partition);
        OwnedRecord { bytes, spans, partition, offset }
    }

    /// The next record, if it is in the block or the runs that are read: most records are. The compiler inlines this part
    /// of reading into the caller's code.
    #[inline]
    pub(super) fn quick(&mut self) -> Option<Found> {
        match &mut self.source {
            Source::Block { block, place, .. } => block.quick(place),
            Source::Runs(runs) => runs.quick(),
            Source::Nothing => None,
        }
    }

    /// Goes to the next record. `None` if there is none yet.
    pub(super) fn advance(&mut self) -> Result<Option<Found>> {
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        loop {
            if let Some(found) = self.source.step()? {
                return Ok(Some(found));
            }
            if let Load::Nothing(_) = self.load(false)? {
                return Ok(None);
            }
        }
    }

    /// Goes to the next record for the iterator, which ends after an error: a reader would get it again and again.
    fn advance_iterator(&mut self) -> Option<Result<Found>> {
        match self.ended {
            Ended::No => {}
            Ended::Once => {
                self.ended = Ended::No;
                return None;
            }
            Ended::ForGood => return None,
        }
        let next = self.advance().transpose();
        if let Some(Err(error)) = &next {
            self.ended = if error.is_final() { Ended::ForGood } else { Ended::Once };
        }
        next
    }

    /// Has the next read return an error, as records before it are given out first.
    pub(super) fn put_off(&mut self, error: Error) {
        self.pending = Some(error);
        self.ended = Ended::No;
    }

    /// Goes to the next chunk of any partition. If there is none yet, it may have begun to wait.
    fn load(&mut self, waits: bool) -> Result<Load> {
        self.leave_source();
        loop {
            let chunk = match self.search(waits)? {
                Search::Found(chunk) => chunk,
                Search::Nothing(waiting) => return Ok(Load::Nothing(waiting)),
            };
            let place = &mut self.places[self.turn];
            if let Some(source) = place.open(self.shape.engine.committer(), chunk)? {
                self.source = source;
                return Ok(Load::Opened);
            }
        }
    }

    /// Ends the reading of the present source, and notes how far it was read.
    pub(super) fn leave_source(&mut self) {
        if let Some(next) = self.source.next() {
            self.places[self.turn].next = next;
            self.source = Source::Nothing;
        }
    }

    /// The partition of a place, its log and its next offset.
    pub(super) fn place(&self, n: usize) -> (u32, LogId, Offset) {
        let Place { partition, log, next, .. } = self.places[n];
        (partition, log, next)
    }

    /// Goes on at an offset in one place.
    pub(super) fn go_to(&mut self, n: usize, next: Offset) {
        self.places[n].next = next;
        self.turns.add(n);
    }

    pub(super) fn advance_or_wait(&mut self) -> Result<Attempt<Found>> {
        if let Some(error) = self.pending.take() {
            return Err(error);
        }
        loop {
            if let Some(found) = self.source.step()? {
                return Ok(Attempt::Got(found));
            }
            match self.load(true)? {
                Load::Opened => {}
                Load::Nothing(Some(waiting)) => return Ok(Attempt::Wait(waiting)),
                // Others had the core in between, so all is searched once more in one hold.
                Load::Nothing(None) => {
                    if let Some(waiting) = self.search_at_once()? {
                        return Ok(Attempt::Wait(waiting));
                    }
                }
            }
        }
    }
}

/// Gives out records that stay valid on their own, and ends when there are no more, or after an error. A later
/// call may go on.
impl Iterator for Reader {
    type Item = Result<OwnedRecord>;

    #[inline]
    fn next(&mut self) -> Option<Result<OwnedRecord>> {
        let found = match self.quick() {
            Some(found) => found,
            None => match self.advance_iterator()? {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            },
        };
        Some(Ok(self.own(found)))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("stream", &self.shape.name)
            .field("positions", &self.positions().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
