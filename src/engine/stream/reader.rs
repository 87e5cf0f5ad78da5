//! Readers of streams: they begin at any point, and go on as records come.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    place::Place,
    record::{OwnedRecord, Record},
    shape::{Position, Shape},
    source::{Found, Source},
    start::Start,
    turns::Turns,
};
use crate::{
    audit,
    engine::{
        core::Core,
        runtime::{
            interest::Interest,
            wait::{Attempt, Awaited, blocking},
        },
    },
    error::Result,
    ids::{LogId, Offset},
    store::Chunk,
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
    shape: Arc<Shape>,
    pub(super) places: Vec<Place>,
    /// The places that may have something.
    turns: Turns,
    /// The place that is read, or that was read last.
    turn: usize,
    /// Its partition.
    partition: u32,
    source: Source,
    /// What the last error means for the iterator.
    ended: Ended,
}

/// Whether an error ended the iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    No,
    /// The next call ends it, and a later one tries again.
    Once,
    ForGood,
}

/// How many partitions a reader looks at in one hold of the core.
const LOOKS_AT_ONCE: usize = 256;

impl Reader {
    pub(crate) fn open(
        shape: &Arc<Shape>,
        starts: impl ExactSizeIterator<Item = (u32, Start)>,
    ) -> Result<Reader> {
        let committer = shape.engine.committer();
        committer.work_alone();
        let logs = starts.len();
        let mut found = Vec::with_capacity(logs);
        for (partition, start) in starts {
            found.push((partition, start.find_time(committer, shape.log(partition))?));
        }
        let core = committer.lock_open("read")?;
        let mut places = Vec::with_capacity(logs);
        for (partition, start) in found {
            audit::step();
            let log = shape.log(partition);
            let next = start.resolve(&core, log)?;
            places.push(Place { partition, log, next });
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
        let committer = Arc::clone(self.shape.engine.committer());
        let advanced =
            blocking(Some(timeout), || committer.disk.stopwatch(), || self.advance_or_wait())?;
        Ok(advanced.map(|found| self.record(found)))
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
    fn record(&self, (offset, spans): Found) -> Record<'_> {
        Record { bytes: self.source.bytes(), spans, partition: self.partition, offset }
    }

    /// The next record, if it is in the block that is read: most records are. The compiler inlines this part
    /// of reading into the caller's code.
    #[inline]
    fn quick(&mut self) -> Option<Found> {
        match &mut self.source {
            Source::Block { block, place, .. } => block.quick(place),
            _ => None,
        }
    }

    /// Goes to the next record. `None` if there is none yet.
    fn advance(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.source.step()? {
                return Ok(Some(found));
            }
            if !self.load()? {
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

    /// Goes to the next chunk of any partition. `false` if there is none yet.
    fn load(&mut self) -> Result<bool> {
        self.leave_source();
        while let Some(chunk) = self.find_chunk()? {
            let place = &mut self.places[self.turn];
            if let Some(source) = place.open(self.shape.engine.committer(), chunk)? {
                self.source = source;
                return Ok(true);
            }
        }
        Ok(false)
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

    /// Finds the next chunk of any partition, in turn, among those that may have something.
    fn find_chunk(&mut self) -> Result<Option<Chunk>> {
        let committer = Arc::clone(self.shape.engine.committer());
        let mut core = committer.lock_to_look("read")?;
        self.turns.note_arrivals(&core, self.shape.id)?;
        let mut rounds = self.turns.len();
        loop {
            let found = self.look(&mut core, rounds.min(LOOKS_AT_ONCE))?;
            rounds -= rounds.min(LOOKS_AT_ONCE);
            if found.is_some() || rounds == 0 {
                return Ok(found);
            }
            core = committer.give_way("read", core);
            committer.check_open(&core)?;
        }
    }

    /// Looks at some places. Those that have nothing more are left out until something comes.
    fn look(&mut self, core: &mut Core, most: usize) -> Result<Option<Chunk>> {
        let visible = core.visible();
        for _ in 0..most {
            audit::step();
            let Some(n) = self.turns.next() else { return Ok(None) };
            self.turn = n;
            let place = &mut self.places[n];
            self.partition = place.partition;
            // Records that were trimmed meanwhile are skipped. If the stream was deleted, the search says so.
            let bounds = core.store.bounds(place.log);
            let (start, end) = bounds.unwrap_or((place.next, Offset(u64::MAX)));
            place.next = place.next.max(start);
            if let Some(chunk) = core.store.scan(place.log, place.next, visible)? {
                return Ok(Some(chunk));
            }
            // Records before the end of the log may become visible.
            if place.next >= end {
                self.turns.leave_out();
            }
        }
        Ok(None)
    }

    /// Goes on at an offset in one place.
    pub(super) fn go_to(&mut self, n: usize, next: Offset) {
        self.places[n].next = next;
        self.turns.add(n);
    }

    /// What it waits for: its partition, if it reads one of several.
    fn interest(&self) -> Interest {
        match self.places[..] {
            [Place { partition, .. }] if self.shape.partitions > 1 => {
                Interest::of_partition(partition)
            }
            _ => Interest::ALL,
        }
    }

    fn advance_or_wait(&mut self) -> Result<Attempt<Found>> {
        loop {
            if let Some(found) = self.advance()? {
                return Ok(Attempt::Got(found));
            }
            // Search once more while the core is held. A record that comes later wakes this waiter.
            let committer = Arc::clone(self.shape.engine.committer());
            let mut core = committer.lock_open("read")?;
            self.turns.note_arrivals(&core, self.shape.id)?;
            let visible = core.visible();
            let has_come = |n: usize| {
                let Place { log, next, .. } = self.places[n];
                core.store.scan(log, next, visible).transpose()
            };
            match self.turns.iter().find_map(has_come) {
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) => {}
                None => return Ok(Attempt::Wait(self.shape.watch.begin_for(self.interest()))),
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
        let (offset, spans) = match self.quick() {
            Some(found) => found,
            None => match self.advance_iterator()? {
                Ok(found) => found,
                Err(error) => return Some(Err(error)),
            },
        };
        let bytes = match &mut self.source {
            Source::Block { body, .. } => body.take(),
            Source::Run { run, .. } => run.body.take(),
            Source::Nothing => unreachable!("a record has a source"),
        };
        Some(Ok(OwnedRecord { bytes, spans, partition: self.partition, offset }))
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
