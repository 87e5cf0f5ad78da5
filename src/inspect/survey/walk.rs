//! Walks one log: merges its messages from all segments and the journal, in the order of their offsets.

use std::{cmp::Reverse, collections::BinaryHeap, path::PathBuf};

use super::{Survey, files::SegmentFiles, replay::RunAt};
use crate::{
    disk::read_exact_at,
    error::{Error, Result},
    format::{
        Malformed,
        commit::Run,
        frame::decode_frame,
        meta::{Place, SegmentState},
        record::{RecordParts, RecordSpans},
        segment::SegmentHeader,
    },
    ids::{LogId, Offset, OffsetRange},
    inspect::verify::take_within,
    segment::{Piece, SegmentSurvey, file_header, path_of},
    store::join,
};

/// The result of walking one log.
#[derive(Debug, Default)]
pub struct Walked {
    pub segments: u64,
    pub blocks: u64,
    pub records: u64,
    pub spots: Vec<Spot>,
    /// Messages that a cursor needs and that were not found.
    pub lost: Vec<OffsetRange>,
    /// The offset behind the last message.
    pub end: Offset,
    /// The ranges of undamaged segments. Messages of these ranges that the segments do not hold are
    /// dead.
    pub intact: Vec<OffsetRange>,
}

/// A damaged place in a segment.
#[derive(Debug)]
pub struct Spot {
    pub path: PathBuf,
    pub position: u64,
    pub what: &'static str,
    /// Messages with these offsets may have been there.
    pub bounds: OffsetRange,
}

/// Takes a message.
pub type Sink<'a> = dyn FnMut(Offset, &RecordParts<'_>) -> Result<()> + 'a;

/// One segment, or the runs of the journal.
struct Source<'a> {
    feed: Feed<'a>,
    /// If two sources have the same message, the lower rank counts.
    rank: u8,
    body: Vec<u8>,
    records: std::vec::IntoIter<(Offset, RecordSpans)>,
}

enum Feed<'a> {
    Segment(Box<SegmentFeed>),
    Runs(std::slice::Iter<'a, RunAt>),
}

struct SegmentFeed {
    state: SegmentState,
    /// Whether the metalog gives the segment's length. If not, the file is read to its end.
    is_named: bool,
    /// Whether the metalog refers to it.
    is_current: bool,
    opened: Option<SegmentSurvey>,
    last: Offset,
    records: u64,
    /// Spots whose upper bound is not known yet.
    open_spots: usize,
}

type Key = Reverse<(Offset, u8, usize)>;

impl Survey {
    /// Walks one log. With `all`, files that nothing refers to fill holes. Without, only data that
    /// an engine would find is used.
    pub fn walk(&self, log: LogId, all: bool, sink: &mut Sink<'_>) -> Result<Walked> {
        let mut sources = self.sources(log, all)?;
        let mut heap: BinaryHeap<Key> = BinaryHeap::new();
        for (n, source) in sources.iter().enumerate() {
            heap.push(Reverse((source.bound(), source.rank, n)));
        }
        let (mut walked, mut at) = (Walked::default(), Offset(0));
        let state = self.state.logs.get(&log);
        while let Some(Reverse((offset, rank, n))) = heap.pop() {
            let source = &mut sources[n];
            let Some(first) = source.peek(self, log, &mut walked)? else { continue };
            if first != offset {
                heap.push(Reverse((first, rank, n)));
                continue;
            }
            let other = heap.peek().map_or((Offset(u64::MAX), u8::MAX, 0), |Reverse(key)| *key);
            while let Some((offset, spans)) = source.records.as_slice().first()
                && (*offset, rank, n) <= other
            {
                if *offset >= at {
                    if *offset > at {
                        walked.lost.extend(self.needed(log, at.to(*offset)));
                    }
                    at = offset.next();
                    if state.is_some_and(|it| !self.state.is_dead(it, *offset)) {
                        sink(*offset, &RecordParts::stored(&source.body, spans))?;
                    }
                }
                source.records.next();
            }
            let next = source.records.as_slice().first().map(|(offset, _)| *offset);
            heap.push(Reverse((next.unwrap_or(at), rank, n)));
        }
        walked.end = at;
        let next = self.next(log);
        if at < next {
            walked.lost.extend(self.needed(log, at.to(next)));
        }
        join(&mut walked.lost);
        join(&mut walked.intact);
        if state.is_some_and(|log| log.keeps_acked) {
            // An undamaged segment of a stream lacks only messages that an earlier salvage has
            // lost.
            for intact in &walked.intact {
                take_within(&mut walked.lost, *intact);
            }
        }
        for spot in &mut walked.spots {
            spot.bounds.end = spot.bounds.end.min(next.max(at));
        }
        Ok(walked)
    }

    /// What the segment files hold by what they say themselves.
    fn files(&self) -> Result<&SegmentFiles> {
        if let Some(known) = self.files.get() {
            return Ok(known);
        }
        let found = SegmentFiles::read(&*self.disk, &self.layout, self.id)?;
        Ok(self.files.get_or_init(|| found))
    }

    fn sources(&self, log: LogId, all: bool) -> Result<Vec<Source<'_>>> {
        let mut sources = Vec::new();
        let (Some(state), Some(known)) = (self.state.logs.get(&log), self.logs.get(&log)) else {
            return Ok(sources);
        };
        let of = |state: &SegmentState, rank| SegmentFeed::source(state.clone(), rank);
        sources.extend(state.segments.values().map(|segment| of(segment, 0)));
        let mut runs = &known.runs[..];
        if all {
            let mut former: Vec<&SegmentState> =
                self.former.iter().filter(|former| former.log == log).collect();
            // Of each file the longest former state counts.
            former.sort_by_key(|it| (it.base, it.generation, it.blocks_at(), Reverse(it.bytes)));
            former.dedup_by_key(|it| (it.base, it.generation, it.blocks_at()));
            let is_current = |it: &&SegmentState| {
                let now = state.segments.get(it.base);
                now.is_some_and(|now| (now.generation, now.place) == (it.generation, it.place))
            };
            sources.extend(former.into_iter().filter(|it| !is_current(it)).map(|it| of(it, 1)));
            if self.metas.damaged {
                sources.extend(self.unnamed(log, &sources)?);
            }
        } else {
            let moved = state.moved;
            runs = &runs[runs.partition_point(|run| run.end() <= moved)..];
        }
        let (feed, records) = (Feed::Runs(runs.iter()), Vec::new().into_iter());
        sources.push(Source { feed, rank: 2, body: Vec::new(), records });
        Ok(sources)
    }

    /// Segments that no remaining entry names.
    fn unnamed(&self, log: LogId, named: &[Source<'_>]) -> Result<Vec<Source<'static>>> {
        let is_named = |found: &SegmentState| {
            named.iter().any(|source| match &source.feed {
                Feed::Segment(it) => {
                    let it = &it.state;
                    (it.base, it.generation, it.place)
                        == (found.base, found.generation, found.place)
                }
                Feed::Runs(_) => false,
            })
        };
        let unnamed = self.files()?.of(log).iter().filter(|found| !is_named(found));
        Ok(unnamed.map(|found| SegmentFeed::source(found.clone(), 3)).collect())
    }
}

impl Source<'_> {
    /// A lower bound of the offsets of its messages.
    fn bound(&self) -> Offset {
        match &self.feed {
            Feed::Segment(segment) => segment.state.base,
            Feed::Runs(runs) => runs.as_slice().first().map_or(Offset(u64::MAX), |run| run.first),
        }
    }

    /// The offset of the next message.
    fn peek(&mut self, survey: &Survey, log: LogId, walked: &mut Walked) -> Result<Option<Offset>> {
        loop {
            if let Some((offset, _)) = self.records.as_slice().first() {
                return Ok(Some(*offset));
            }
            let more = match &mut self.feed {
                Feed::Segment(segment) => segment.load(survey, walked)?,
                Feed::Runs(runs) => match runs.next() {
                    Some(run) => read_run(survey, log, run, walked)?,
                    None => None,
                },
            };
            let Some((body, records)) = more else { return Ok(None) };
            (self.body, self.records) = (body, records.into_iter());
        }
    }
}

type Records = (Vec<u8>, Vec<(Offset, RecordSpans)>);

impl SegmentFeed {
    fn source(state: SegmentState, rank: u8) -> Source<'static> {
        let feed = SegmentFeed {
            last: state.base,
            state,
            is_named: rank < 3,
            is_current: rank == 0,
            opened: None,
            records: 0,
            open_spots: 0,
        };
        let (feed, records) = (Feed::Segment(Box::new(feed)), Vec::new().into_iter());
        Source { feed, rank, body: Vec::new(), records }
    }

    fn load(&mut self, survey: &Survey, walked: &mut Walked) -> Result<Option<Records>> {
        if self.opened.is_none() && !self.open(survey, walked)? {
            return Ok(None);
        }
        loop {
            let piece = match &mut self.opened {
                Some(opened) => opened.next()?,
                None => None,
            };
            match piece {
                Some(Piece::Block(block)) => {
                    self.close_spots(walked, block.header.first);
                    self.last = block.header.last.next();
                    self.records += block.records.len() as u64;
                    walked.blocks += u64::from(self.is_current);
                    walked.records += if self.is_current { block.records.len() as u64 } else { 0 };
                    return Ok(Some((block.body, block.records)));
                }
                Some(Piece::Damage(damage)) => self.note(walked, damage.position, damage.what.0),
                None => {
                    self.finish(survey, walked)?;
                    return Ok(None);
                }
            }
        }
    }

    fn header(&self, survey: &Survey) -> SegmentHeader {
        let SegmentState { log, base, generation, .. } = self.state;
        SegmentHeader { store: survey.id, log, base, generation }
    }

    fn path(&self, survey: &Survey) -> PathBuf {
        path_of(&survey.layout, &self.state)
    }

    fn open(&mut self, survey: &Survey, walked: &mut Walked) -> Result<bool> {
        let header = self.header(survey);
        let is_part = matches!(self.state.place, Place::Part(_));
        let limit = (self.is_named || is_part).then_some(self.state.bytes);
        let (disk, path) = (&*survey.disk, self.path(survey));
        let opened = SegmentSurvey::open(disk, path, &header, self.state.place, limit)?;
        walked.segments += u64::from(self.is_current);
        let wrong = match &opened {
            Some(opened) => opened.check_header()?,
            None => Some((0, Malformed("a segment is missing"))),
        };
        self.opened = opened;
        if wrong.is_some()
            && let Some(elsewhere) =
                survey.files()?.misplaced(&file_header(&header, self.state.place))
            && let Some(opened) =
                SegmentSurvey::open(disk, elsewhere.clone(), &header, self.state.place, limit)?
        {
            if self.is_current
                && let Some((at, what)) = wrong
            {
                self.note_harmless(survey, walked, at, what);
            }
            self.opened = Some(opened);
            return Ok(true);
        }
        match &self.opened {
            None => {
                if self.is_current {
                    let (path, what) = (self.path(survey), "a segment is missing");
                    let bounds = self.state.base.to(self.state.end);
                    walked.spots.push(Spot { path, position: 0, what, bounds });
                }
                Ok(false)
            }
            Some(_) => {
                if let (true, Some((at, what))) = (self.is_current, wrong) {
                    self.note_harmless(survey, walked, at, what);
                }
                Ok(true)
            }
        }
    }

    fn note(&mut self, walked: &mut Walked, position: u64, what: &'static str) {
        if self.is_current
            && let Some(opened) = &self.opened
        {
            let (path, bounds) = (opened.path().clone(), self.last.to(Offset(u64::MAX)));
            walked.spots.push(Spot { path, position, what, bounds });
            self.open_spots += 1;
        }
    }

    fn note_harmless(&self, survey: &Survey, walked: &mut Walked, position: u64, what: Malformed) {
        let path = self.path(survey);
        walked.spots.push(Spot { path, position, what: what.0, bounds: OffsetRange::default() });
    }

    fn close_spots(&mut self, walked: &mut Walked, upto: Offset) {
        let Some(opened) = &self.opened else { return };
        let of_this = walked.spots.iter_mut().rev().filter(|spot| spot.path == *opened.path());
        for spot in of_this.take(std::mem::take(&mut self.open_spots)) {
            spot.bounds.end = spot.bounds.end.min(upto);
        }
    }

    fn finish(&mut self, survey: &Survey, walked: &mut Walked) -> Result<()> {
        if !self.is_current {
            return Ok(());
        }
        let is_whole = self.records == self.state.records;
        if self.open_spots == 0 && is_whole {
            walked.intact.push(self.state.base.to(self.state.end));
        }
        let had_damage = walked.spots.iter().any(|spot| spot.path == self.path(survey));
        self.close_spots(walked, self.state.end);
        if !had_damage && (!is_whole || self.last > self.state.end) {
            let what = Malformed("a segment does not match its entry in the metalog");
            self.note_harmless(survey, walked, 0, what);
        }
        if let Some(what) = self.opened.as_ref().and_then(|it| it.check_lives(&self.state))
            && !had_damage
        {
            self.note_harmless(survey, walked, 0, what);
        }
        if let (Some(opened), true) = (&self.opened, self.state.has_footer())
            && let Some(what) = opened.check_footer()?
            && !had_damage
        {
            // No message is lost: the footer is built again from the blocks.
            self.note_harmless(survey, walked, self.state.bytes, what);
        }
        Ok(())
    }
}

/// Reads one run, and verifies its frame once more.
fn read_run(
    survey: &Survey,
    log: LogId,
    run: &RunAt,
    walked: &mut Walked,
) -> Result<Option<Records>> {
    let found = survey.journal.file(run.frame.file);
    let position = run.frame.lsn.0 - found.header.start.0;
    let failed = |error| Error::io(error, "a journal file cannot be read", &found.path);
    let mut frame = vec![0; run.frame.len as usize];
    read_exact_at(&*found.file, position, &mut frame).map_err(failed)?;
    let seed = found.header.frame_seed();
    let decoded = decode_frame(&frame, run.frame.lsn, seed).and_then(|(_, payload)| {
        let from = run.at as usize;
        let bytes = payload.get(from..from + run.len as usize).unwrap_or_default();
        let decoded = Run::decode(bytes)?;
        if (decoded.log, decoded.first, decoded.count) != (log, run.first, run.count) {
            return Err(Malformed("a run has changed between two reads"));
        }
        let records = decoded.records().collect::<Result<Vec<_>, Malformed>>()?;
        Ok((decoded.body.to_vec(), records))
    });
    Ok(Some(decoded.unwrap_or_else(|what| {
        let (path, what) = (found.path.clone(), what.0);
        let bounds = run.first.to(run.end());
        walked.spots.push(Spot { path, position, what, bounds });
        (Vec::new(), Vec::new())
    })))
}
