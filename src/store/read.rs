//! Finding messages. The tail index finds them in the journal, and the tables of segments find them
//! there.
//!
//! Finding needs the store, and reading does not. A [`Source`] or a [`Chunk`] is found with access
//! to the store, and read without it.

use std::sync::Arc;

use super::{Store, acks::AckSet, gone, log::Log, tail::RunPlace};
use crate::{
    disk::Slice,
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        commit::Run,
        note::{DeadLetter, Life},
        record::{Headers, RecordSpans},
    },
    ids::{CursorId, LogId, Lsn, Offset, Timestamp},
    segment::{Block, SegmentReader},
};

/// A stored message. It is not copied if its file is mapped.
#[derive(Clone, Debug)]
pub struct Stored {
    bytes: Slice,
    spans: RecordSpans,
    pub offset: Offset,
}

impl Stored {
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.spans.payload(&self.bytes)
    }

    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.spans.key(&self.bytes)
    }

    pub fn headers(&self) -> Headers<'_> {
        Headers::new(self.spans.headers(&self.bytes))
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
        if headers.first() != Some(&0) && most_ms == 0 { None } else { self.end_of_life(most_ms) }
    }

    /// The time to live in the message's note. A note that cannot be read counts as none.
    pub fn life(&self) -> Life {
        Life::of(self.headers()).unwrap_or_default()
    }

    fn end_of_life(&self, most_ms: u64) -> Option<Timestamp> {
        let life = self.life();
        let ms = match (life.ms, most_ms) {
            (None, 0) => return None,
            (Some(noted), 0) => noted,
            (noted, most) => noted.unwrap_or(most).min(most),
        };
        Some(Timestamp(life.from.unwrap_or(self.timestamp()).0.saturating_add(ms)))
    }

    /// The dead letter's origin, if the message is a dead letter.
    pub fn dead_letter(&self) -> Result<Option<DeadLetter>> {
        DeadLetter::of(self.headers()).map_err(|what| {
            let what =
                format!("message {} bears a note that cannot be read: {}", self.offset, what.0);
            Error::new(ErrorKind::Corrupt, what)
        })
    }
}

/// The place of one message.
#[derive(Debug)]
pub enum Source {
    /// In a run of the journal. The position is for errors.
    Run(Slice, Lsn),
    /// In a block that was read before.
    Block(Block),
    /// In a block that must be read.
    Segment(Arc<SegmentReader>, usize),
}

impl Source {
    /// Reads the message. If a block had to be read, it is returned too, for [`Store::remember`].
    #[inline]
    pub fn load(self, offset: Offset) -> Result<(Stored, Option<Block>)> {
        match self {
            Source::Run(bytes, lsn) => {
                let decoded = Run::decode(&bytes)
                    .and_then(|run| Ok((run.record(offset)?, run.body_at, run.len())));
                let (spans, body_at, end) = decoded.map_err(|what| damaged_run(what, lsn))?;
                Ok((Stored { bytes: bytes.narrow(body_at, end), spans, offset }, None))
            }
            Source::Block(block) => Ok((stored_in(&block, offset)?, None)),
            Source::Segment(reader, index) => {
                let block = reader.block(index)?;
                Ok((stored_in(&block, offset)?, Some(block)))
            }
        }
    }
}

fn stored_in(block: &Block, offset: Offset) -> Result<Stored> {
    let mut place = block.seek(offset);
    match block.step(&mut place)? {
        Some((found, spans)) if found == offset => {
            Ok(Stored { bytes: block.body().clone(), spans, offset })
        }
        _ => Err(missing(offset)),
    }
}

fn missing(offset: Offset) -> Error {
    let what = format!("message {offset} is wanted, but it is not where it belongs");
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
}

impl View<'_> {
    /// The offset behind the last message.
    pub fn end(&self) -> Offset {
        self.log.next()
    }

    /// Whether a message is in a segment, and so durable, or is dead.
    pub fn is_moved(&self, offset: Offset) -> bool {
        offset < self.log.moved
    }

    /// The run of the journal that holds a message, unless it was moved.
    pub fn run(&self, offset: Offset) -> Option<RunPlace> {
        if self.is_moved(offset) { None } else { self.log.tail.find(offset) }
    }
}

/// Messages that follow each other, to be read without the store.
#[derive(Debug)]
pub enum Chunk {
    Segment(Arc<SegmentReader>, usize),
    /// Runs of the journal, each with its position.
    Runs(Vec<(Slice, Lsn)>),
}

/// How many runs of the journal are handed out at once.
const CHUNK_RUNS: usize = 64;

impl Store {
    fn log(&self, log: LogId) -> Result<&Log> {
        self.state.logs.get(&log).ok_or_else(|| gone("the queue, topic or stream was deleted"))
    }

    /// A cursor and its log, for finding the next message.
    #[inline]
    pub fn view(&self, cursor: CursorId, log: LogId) -> Option<View<'_>> {
        Some(View { acks: self.acks(cursor)?, log: self.state.logs.get(&log)? })
    }

    /// The place of a run of the journal.
    #[inline]
    pub fn at_run(&self, run: RunPlace) -> Result<Source> {
        Ok(Source::Run(self.journal.slice(run.lsn, run.len)?, run.lsn))
    }

    /// The place of the message with an offset. The message must not be dead.
    pub fn locate(&mut self, log: LogId, offset: Offset) -> Result<Source> {
        let found = self.log(log)?;
        if offset >= found.moved {
            return self.at_run(found.tail.find(offset).ok_or_else(|| missing(offset))?);
        }
        let segment = found.segment_of(offset).ok_or_else(|| missing(offset))?;
        if let Some(block) = self.cache.recent(segment, offset) {
            return Ok(Source::Block(block));
        }
        let segment = segment.clone();
        let reader = self.cache.reader(&self.segments, &segment)?;
        let index = reader.block_at(offset).ok_or_else(|| missing(offset))?;
        Ok(Source::Segment(reader, index))
    }

    /// Keeps a block for the next read of its segment.
    pub fn remember(&mut self, log: LogId, block: Block) {
        let log = self.state.logs.get(&log);
        if let Some(segment) = log.and_then(|log| log.segment_of(block.first())) {
            self.cache.remember(segment, block);
        }
    }

    /// The offset behind the last message that was committed before a position.
    pub fn end_before(&self, log: LogId, limit: Lsn) -> Result<Offset> {
        let log = self.log(log)?;
        Ok(log.tail.first_at_or_behind(limit).max(log.moved))
    }

    /// The messages from an offset on that were committed before a position. `None` if there are
    /// none yet.
    pub fn scan(&mut self, log: LogId, from: Offset, limit: Lsn) -> Result<Option<Chunk>> {
        let found = self.log(log)?;
        let from = from.max(found.start);
        let (mut at, moved) = (from, found.moved);
        while at < moved {
            let found = self.log(log)?;
            let segment =
                found.segment_of(at).or_else(|| found.segments.range(at..).next()?.1.into());
            let Some(segment) = segment.cloned() else { break };
            let reader = self.cache.reader(&self.segments, &segment)?;
            if let Some(index) = reader.block_at(at) {
                return Ok(Some(Chunk::Segment(reader, index)));
            }
            at = segment.end;
        }
        let found = self.log(log)?;
        let runs = found.tail.runs_from(from.max(found.moved));
        let runs = runs.take_while(|run| run.lsn < limit).take(CHUNK_RUNS);
        let slices = runs.map(|run| Ok((self.journal.slice(run.lsn, run.len)?, run.lsn)));
        let slices = slices.collect::<Result<Vec<_>>>()?;
        Ok(if slices.is_empty() { None } else { Some(Chunk::Runs(slices)) })
    }

    /// The next segment from an offset on, to be read ahead. Errors are ignored: the read itself
    /// will report them.
    pub fn upcoming(&mut self, log: LogId, from: Offset) -> Option<Arc<SegmentReader>> {
        let (_, segment) = self.state.logs.get(&log)?.segments.range(from..).next()?;
        let segment = segment.clone();
        self.cache.reader(&self.segments, &segment).ok()
    }

    /// The first offset whose message has this timestamp or a later one, among messages that were
    /// committed before a position. The end if there is none.
    pub fn seek_time(&mut self, log: LogId, time: Timestamp, limit: Lsn) -> Result<Offset> {
        let found = self.log(log)?;
        let start = found.start;
        let candidates: Vec<_> = found
            .segments
            .values()
            .filter(|segment| segment.max_time >= time && segment.end > start)
            .cloned()
            .collect();
        for segment in candidates {
            let reader = self.cache.reader(&self.segments, &segment)?;
            let Some(first) = reader.block_at_time(time) else { continue };
            for index in first..reader.table().len() {
                let block = reader.block(index)?;
                let mut place = block.seek(start);
                while let Some((offset, spans)) = block.step(&mut place)? {
                    if spans.timestamp >= time {
                        return Ok(offset);
                    }
                }
            }
        }
        self.seek_time_in_tail(log, time, limit)
    }

    fn seek_time_in_tail(&self, log: LogId, time: Timestamp, limit: Lsn) -> Result<Offset> {
        let found = self.log(log)?;
        let from = found.start.max(found.moved);
        for place in found.tail.runs_from(from).take_while(|run| run.lsn < limit) {
            let bytes = self.journal.slice(place.lsn, place.len)?;
            let run = Run::decode(&bytes).map_err(|what| damaged_run(what, place.lsn))?;
            for record in run.records() {
                let (offset, spans) = record.map_err(|what| damaged_run(what, place.lsn))?;
                if offset >= from && spans.timestamp >= time {
                    return Ok(offset);
                }
            }
        }
        self.end_before(log, limit)
    }
}
