//! Finds the messages that follow an offset of a log, for those who read a log in its order. As a single message, a
//! [`Chunk`] is found while the caller holds the store, and read without holding it.

use super::{Store, cache::SegmentSource, stretch::Stretch};
use crate::{
    audit,
    error::Result,
    ids::{LogId, Lsn, Offset, OffsetRange, Timestamp},
};

/// Messages that follow each other, to be read without the store.
#[derive(Debug)]
pub enum Chunk {
    /// The first block of a segment that reaches to `from`, or beyond. If the segment has none, reading
    /// goes on at its `end`.
    Segment {
        segment: SegmentSource,
        from: Offset,
        end: Offset,
    },
    Runs(Stretch),
}

/// The last messages of a log before an offset, to be read without the store.
#[derive(Debug)]
pub struct Before {
    pub chunk: Chunk,
    /// Messages below are trimmed, or in another chunk.
    pub floor: Offset,
}

impl Store {
    /// The offset behind the last message that was committed before a position.
    pub fn end_before(&self, log: LogId, limit: Lsn) -> Result<Offset> {
        let log = self.state.log(log)?;
        Ok(log.tail.first_at_or_behind(limit).max(log.moved))
    }

    /// The messages from an offset on that were committed before a position. `None` if there are
    /// none yet.
    pub fn scan(&mut self, log: LogId, from: Offset, limit: Lsn) -> Result<Option<Chunk>> {
        self.scan_until(log, from.to(Offset::MAX), limit)
    }

    /// As [`scan`](Store::scan), for the messages of a range. A segment or a run may have others behind these.
    pub fn scan_until(
        &mut self,
        log: LogId,
        offsets: OffsetRange,
        limit: Lsn,
    ) -> Result<Option<Chunk>> {
        let found = self.state.log(log)?;
        let from = offsets.start.max(found.start);
        if from < found.moved
            && let Some(segment) = found.segment_at_or_behind(from)
        {
            if segment.base >= offsets.end {
                return Ok(None);
            }
            let end = segment.end;
            let segment = self.cache.source(&self.segments, segment);
            return Ok(Some(Chunk::Segment { segment, from, end }));
        }
        Ok(self.stretch(log, from.to(offsets.end), limit)?.map(Chunk::Runs))
    }

    /// What has the last message of a log that was committed before a position: its run, or the last segment. `None` if there
    /// is none.
    pub fn scan_last(&mut self, log: LogId, limit: Lsn) -> Result<Option<Chunk>> {
        let found = self.state.log(log)?;
        let (start, end) = (found.start, self.end_before(log, limit)?);
        if end <= start {
            return Ok(None);
        }
        if end > found.moved {
            let last = Offset(end.0 - 1);
            return Ok(self.stretch(log, last.to(end), limit)?.map(Chunk::Runs));
        }
        let Some(segment) = found.segments.values().next_back() else { return Ok(None) };
        let (from, end) = (segment.base.max(start), segment.end);
        let segment = self.cache.source(&self.segments, segment);
        Ok(Some(Chunk::Segment { segment, from, end }))
    }

    /// The last messages of a log before an offset: `most` runs of the journal at most, or a segment. `None` if there are none.
    /// The caller sees all messages before the offset.
    pub fn scan_before(
        &mut self,
        log: LogId,
        before: Offset,
        most: usize,
    ) -> Result<Option<Before>> {
        let found = self.state.log(log)?;
        let (start, moved) = (found.start, found.moved);
        let floor = start.max(moved);
        if before > floor
            && let Some(runs) = self.stretch_before(log, floor.to(before), most)?
        {
            return Ok(Some(Before { chunk: Chunk::Runs(runs), floor }));
        }
        let segment = self.state.log(log)?.segments.range(..before.min(moved)).next_back();
        let segment = segment.filter(|segment| segment.end > start && before > start);
        let is_left_out = seeded!(OlderSegmentsAreNotReadBackwards) && before < moved;
        let Some(segment) = segment.filter(|_| !is_left_out) else {
            return Ok(None);
        };
        let floor =
            if seeded!(TrimmedIsReadBackwards) { segment.base } else { segment.base.max(start) };
        let end = segment.end;
        let segment = self.cache.source(&self.segments, segment);
        Ok(Some(Before { chunk: Chunk::Segment { segment, from: floor, end }, floor }))
    }

    /// The first offset of the run of the journal that holds an offset.
    pub fn start_of_run(&self, log: LogId, offset: Offset) -> Offset {
        let run = self.state.logs.get(&log).and_then(|log| log.tail.find(offset));
        run.map_or(offset, |run| run.first)
    }

    /// The offset behind the run of the journal that holds an offset.
    pub fn end_of_run(&self, log: LogId, offset: Offset) -> Offset {
        let Some(log) = self.state.logs.get(&log) else { return offset };
        let mut runs = log.tail.runs_from(offset.max(log.moved));
        runs.nth(1).map_or(log.tail.end(), |next| next.first)
    }

    /// The next segment from an offset on, to be read ahead.
    pub fn upcoming(&mut self, log: LogId, from: Offset) -> Option<SegmentSource> {
        let segment = self.state.logs.get(&log)?.segments.range(from..).next()?;
        Some(self.cache.source(&self.segments, segment))
    }

    /// The next messages from an offset on among which one may have this timestamp or a later one. As
    /// [`scan`](Store::scan), but skips segments that are older.
    pub fn scan_from_time(
        &mut self,
        log: LogId,
        from: Offset,
        time: Timestamp,
        limit: Lsn,
    ) -> Result<Option<Chunk>> {
        let found = self.state.log(log)?;
        let from = from.max(found.start);
        for segment in found.segments.values() {
            audit::step();
            if segment.end > from && segment.max_time >= time {
                let (from, end) = (from.max(segment.base), segment.end);
                let segment = self.cache.source(&self.segments, segment);
                return Ok(Some(Chunk::Segment { segment, from, end }));
            }
        }
        Ok(self.stretch(log, from.to(Offset::MAX), limit)?.map(Chunk::Runs))
    }
}
