//! Finds messages: in the journal by the tail index, and in segments by their tables.
//!
//! To find a message needs the store, and to read it does not. A [`Source`] is found while the caller holds the store, and
//! read without holding it.

use std::sync::Arc;

use super::{
    Store,
    acks::AckSet,
    cache::{OpenedSegment, SegmentSource},
    log::Log,
    tail::RunPlace,
};
use crate::{
    disk::Slice,
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        commit::Run,
        note::{DeadLetter, TimeToLive},
        record::{Headers, RecordSpans},
    },
    ids::{CursorId, LogId, Lsn, Offset, Timestamp},
    journal::JournalBytes,
    segment::Block,
};

/// A stored message. It is not copied if its file is mapped.
#[derive(Clone, Debug)]
pub struct Stored {
    bytes: Slice,
    spans: RecordSpans,
    pub offset: Offset,
}

impl Stored {
    /// A message of a run. `bytes` are those of the run.
    #[inline]
    pub fn in_run(bytes: &Slice, run: &Run<'_>, spans: RecordSpans, offset: Offset) -> Stored {
        Stored { bytes: bytes.clone().narrow(run.body_at, run.len()), spans, offset }
    }

    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.spans.payload(&self.bytes)
    }

    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.spans.key(&self.bytes)
    }

    /// The size of the headers, and of the engine's note.
    pub fn headers_len(&self) -> usize {
        self.spans.headers(&self.bytes).len()
    }

    pub fn headers(&self) -> Headers<'_> {
        Headers::new(self.spans.headers(&self.bytes))
    }

    pub fn subject(&self) -> Option<&str> {
        self.headers().subject()
    }

    #[inline]
    pub fn timestamp(&self) -> Timestamp {
        self.spans.timestamp
    }

    /// When the message expires, by its note and by the time to live of its queue (0 if the queue
    /// has none).
    #[inline]
    pub fn expires(&self, most_ms: u64) -> Option<Timestamp> {
        let headers = self.spans.headers(&self.bytes);
        // A note is the first header, and its name is empty.
        if headers.first() != Some(&0) && most_ms == 0 { None } else { self.expiry(most_ms) }
    }

    /// The time to live in the message's note. A note that cannot be read counts as none.
    #[inline]
    pub fn time_to_live(&self) -> TimeToLive {
        // A note is the first header, and its name is empty.
        if self.spans.headers(&self.bytes).first() != Some(&0) {
            return TimeToLive::default();
        }
        TimeToLive::of(self.headers()).unwrap_or_default()
    }

    /// The even time at which its age and its time to live begin.
    pub fn begins(&self) -> Timestamp {
        self.time_to_live().from.unwrap_or(self.timestamp())
    }

    fn expiry(&self, most_ms: u64) -> Option<Timestamp> {
        let noted = self.time_to_live();
        let ms = match (noted.ms, most_ms) {
            (None, 0) => return None,
            (Some(ms), 0) => ms,
            (ms, most) => ms.unwrap_or(most).min(most),
        };
        Some(Timestamp(noted.from.unwrap_or(self.timestamp()).0.saturating_add(ms)))
    }

    /// The dead letter's origin, if the message is a dead letter.
    pub fn dead_letter(&self) -> Result<Option<DeadLetter>> {
        DeadLetter::of(self.headers()).map_err(|what| self.unreadable(what))
    }

    /// The note of the message when it is redriven, if it is a dead letter.
    pub fn redriven_note(&self, now: Timestamp) -> Result<Vec<u8>> {
        DeadLetter::redriven(self.headers(), now).map_err(|what| self.unreadable(what))
    }

    fn unreadable(&self, what: Malformed) -> Error {
        let what = format!("message {} bears a note that cannot be read: {}", self.offset, what.0);
        Error::new(ErrorKind::Corrupt, what)
    }
}

/// The place of one message, to be read without holding the store.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a run of the journal.
    Run(JournalRun),
    /// In a block that was read before.
    Block(Arc<Block>),
    /// In a block that must be read.
    Segment(SegmentSource),
}

/// A run of the journal, and its position for errors.
#[derive(Clone, Debug)]
pub struct JournalRun {
    pub bytes: JournalBytes,
    pub lsn: Lsn,
}

/// How far messages were read that follow each other. In a run of many, each record is looked at once, and a block of a
/// segment is read once.
#[derive(Debug, Default)]
pub struct Walk {
    run: Lsn,
    next: Offset,
    /// Where the record of `next` begins.
    at: usize,
    /// The block that was read last, and its segment.
    block: Option<(SegmentSource, Arc<Block>)>,
}

impl Walk {
    /// Reads a message from the block that was read last, if the block holds it.
    pub fn load(&self, source: &Source, offset: Offset) -> Option<Result<Stored>> {
        let (Source::Segment(segment), Some((read, block))) = (source, &self.block) else {
            return None;
        };
        let holds = segment.is_same(read) && (block.first()..=block.last()).contains(&offset);
        holds.then(|| stored_in(block, offset))
    }

    /// Keeps a block that was read for a message.
    pub fn keep(&mut self, segment: Option<SegmentSource>, read: &ReadParts) {
        if let (Some(segment), Some(block)) = (segment, &read.block) {
            self.block = Some((segment, Arc::clone(block)));
        }
    }
}

impl JournalRun {
    /// Reads a message of the run.
    pub fn load(self, offset: Offset) -> Result<Stored> {
        self.load_behind(&mut Walk::default(), offset)
    }

    /// As [`load`](JournalRun::load). If the walk has come to a message of this run that is not behind this one, the messages
    /// before are not looked at.
    #[inline(always)]
    pub fn load_behind(self, walk: &mut Walk, offset: Offset) -> Result<Stored> {
        let JournalRun { bytes, lsn } = self;
        let bytes = bytes.read()?;
        let decoded = Run::decode(&bytes).and_then(|run| {
            let goes_on = walk.run == lsn && walk.next <= offset;
            let from = if goes_on { (walk.next, walk.at) } else { (run.first, 0) };
            Ok((run.record_behind(from, offset)?, run.body_at, run.len()))
        });
        let (spans, body_at, end) = decoded.map_err(|what| damaged_run(what, lsn))?;
        (walk.run, walk.next, walk.at) = (lsn, offset.next(), spans.end());
        Ok(Stored { bytes: bytes.narrow(body_at, end), spans, offset })
    }
}

/// The segment and the block that were read for a message. [`Store::keep`] keeps them for the next message.
#[derive(Debug, Default)]
pub struct ReadParts {
    pub opened: Option<OpenedSegment>,
    pub block: Option<Arc<Block>>,
}

impl ReadParts {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.opened.is_none() && self.block.is_none()
    }
}

impl Source {
    /// Reads the message. Also returns the segment and the block that were read for it.
    #[inline]
    pub fn load(self, offset: Offset) -> Result<(Stored, ReadParts)> {
        match self {
            Source::Run(run) => Ok((run.load(offset)?, ReadParts::default())),
            Source::Block(block) => Ok((stored_in(&block, offset)?, ReadParts::default())),
            Source::Segment(segment) => {
                let (reader, opened) = segment.open()?;
                let index = reader.block_at(offset).ok_or_else(|| missing(offset))?;
                let block = reader.block(index)?;
                let stored = stored_in(&block, offset)?;
                Ok((stored, ReadParts { opened, block: Some(Arc::new(block)) }))
            }
        }
    }

    /// The segment that is read, if the message is in a block that must be read.
    pub fn segment(&self) -> Option<&SegmentSource> {
        match self {
            Source::Segment(segment) => Some(segment),
            _ => None,
        }
    }

    /// The segment that the read must open, if any. A checkpoint may replace that segment before the read.
    #[inline]
    pub fn closed_segment(&self) -> Option<SegmentSource> {
        match self {
            Source::Segment(segment @ SegmentSource::Closed(_)) => Some(segment.clone()),
            _ => None,
        }
    }
}

pub(super) fn stored_in(block: &Block, offset: Offset) -> Result<Stored> {
    let mut place = block.seek(offset);
    match block.step(&mut place)? {
        Some((found, spans)) if found == offset => {
            Ok(Stored { bytes: block.body().clone(), spans, offset })
        }
        _ => Err(missing(offset)),
    }
}

pub(super) fn missing(offset: Offset) -> Error {
    let what = format!("message {offset} is missing from its place");
    Error::new(ErrorKind::Corrupt, what)
}

/// An error about a run that does not decode although its frame verified.
pub fn damaged_run(what: Malformed, lsn: Lsn) -> Error {
    Error::corrupt(what.0, "journal", lsn.0)
}

/// A cursor and its log, looked up once.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub acks: &'a AckSet,
    log: &'a Log,
    end: Offset,
}

impl View<'_> {
    /// The offset behind the last message that the cursor sees.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Whether a message is in a segment, and so durable, or is dead.
    pub fn is_moved(&self, offset: Offset) -> bool {
        offset < self.log.moved
    }

    /// The run of the journal that holds a message, unless it was moved.
    #[inline]
    pub fn run(&self, offset: Offset) -> Option<RunPlace> {
        if self.is_moved(offset) { None } else { self.log.tail.find(offset) }
    }
}

impl Store {
    fn log(&self, log: LogId) -> Result<&Log> {
        self.state.log(log)
    }

    /// A cursor and its log, for finding the next message.
    #[inline]
    pub fn view(&self, cursor: CursorId, log: LogId) -> Option<View<'_>> {
        let log = self.state.logs.get(&log)?;
        Some(View { acks: self.acks(cursor)?, log, end: self.state.end_for(cursor, log) })
    }

    /// The place of a run of the journal.
    #[inline]
    pub fn at_run(&self, run: RunPlace) -> Result<Source> {
        Ok(Source::Run(self.journal_run(run)?))
    }

    #[inline]
    fn journal_run(&self, run: RunPlace) -> Result<JournalRun> {
        Ok(JournalRun { bytes: self.journal.bytes(run.lsn, run.len)?, lsn: run.lsn })
    }

    /// The place of the message with an offset. The message must not be dead.
    pub fn locate(&mut self, log: LogId, offset: Offset) -> Result<Source> {
        let found = self.state.log(log)?;
        if offset >= found.moved {
            return self.at_run(found.tail.find(offset).ok_or_else(|| missing(offset))?);
        }
        let segment = found.segment_of(offset).ok_or_else(|| missing(offset))?;
        if let Some(block) = self.cache.recent(segment, offset) {
            return Ok(Source::Block(block));
        }
        Ok(Source::Segment(self.cache.source(&self.segments, segment)))
    }

    /// The place of a message that was located before.
    ///
    /// # Errors
    ///
    /// `NotFound` if the message is dead by now: a checkpoint may have dropped it.
    pub fn locate_again(&mut self, log: LogId, offset: Offset) -> Result<Source> {
        let found = self.log(log)?;
        if self.state.is_dead(found, offset) {
            let what = "the message was acked or trimmed while it was read";
            return Err(Error::new(ErrorKind::NotFound, what));
        }
        self.locate(log, offset)
    }

    /// Keeps the segment and the block that were read for a message, for the next read of that segment.
    pub fn keep(&mut self, log: LogId, parts: ReadParts) {
        let ReadParts { opened, block } = parts;
        let Some(found) = self.state.logs.get(&log) else { return };
        if let Some(OpenedSegment { state, reader }) = opened
            && found.segments.get(state.base).is_some_and(|there| *there == state)
        {
            self.cache.keep(&state, reader);
        }
        if let Some(block) = block
            && let Some(segment) = found.segment_of(block.first())
        {
            self.cache.remember(segment, block);
        }
    }
}
