//! The present source of a reader: a block of a segment, or runs of the journal.

use std::vec;

use crate::{
    disk::{Share, Shares},
    error::{Error, Result},
    format::{
        Malformed,
        commit::{HeadShape, Run},
        pack::BlockPlace,
        record::{RecordSpans, take_plain_record, take_record},
    },
    ids::{Lsn, Offset, OffsetRange, Timestamp},
    segment::Block,
    store::{ReadStretch, RunAt, damaged_run},
};

/// A record that was read: its offset, and the places of its parts in the source.
pub type Found = (Offset, RecordSpans);

/// The source of a reader.
#[derive(Debug)]
pub enum Source {
    Nothing,
    Block {
        block: Block,
        place: BlockPlace,
        /// The block's body, shared with records that outlive the source.
        body: Shares,
    },
    Runs(OpenRuns),
}

/// Runs of the journal that are being read.
#[derive(Debug)]
pub struct OpenRuns {
    /// The bytes of all of them, shared with records that outlive the source.
    pub body: Shares,
    start: Lsn,
    behind: vec::IntoIter<RunAt>,
    /// The run that is read: its place, where its next record begins, and where it ends.
    run: RunAt,
    at: usize,
    run_end: usize,
    timestamp: Timestamp,
    next: Offset,
    end: Offset,
    /// Records from here on are left out.
    until: Offset,
    /// The shape of its head, if it is a run of one message.
    shape: Option<HeadShape>,
}

impl OpenRuns {
    /// Opens runs before the first record of a range, which the first run holds. Records behind the range are left out, if a
    /// run has some.
    pub fn open(stretch: ReadStretch, offsets: OffsetRange) -> Result<OpenRuns> {
        let (from, until) = (offsets.start, offsets.end);
        let ReadStretch { bytes, start, runs } = stretch;
        let mut runs = OpenRuns {
            body: Shares::new(bytes),
            start,
            behind: runs,
            run: RunAt { at: 0, len: 0 },
            at: 0,
            run_end: 0,
            timestamp: Timestamp(0),
            next: from,
            end: from,
            until,
            shape: None,
        };
        if runs.open_next()? {
            while runs.next < from && runs.step_in_run()?.is_some() {}
        }
        Ok(runs)
    }

    /// Reads all records that are left.
    pub fn check(mut self) -> Result<()> {
        while self.step()?.is_some() {}
        Ok(())
    }

    /// The next record. `None` if there is none, or if it cannot be read: [`step`](OpenRuns::step) tells. What it returns stays
    /// in registers, where it is inlined.
    #[inline]
    pub fn quick(&mut self) -> Option<Found> {
        if self.next == self.end && !self.can_open_next() {
            return None;
        }
        let body = &self.body[..self.run_end];
        let spans = match take_plain_record(body, self.at, self.timestamp) {
            Some(spans) => spans,
            None => take_record(body, self.at, self.timestamp).ok()?,
        };
        let offset = self.next;
        self.at = spans.end();
        self.next = offset.next();
        Some((offset, spans))
    }

    fn can_open_next(&mut self) -> bool {
        self.open_next().is_ok_and(|is_open| is_open)
    }

    fn step(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.step_in_run()? {
                return Ok(Some(found));
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    #[inline]
    fn step_in_run(&mut self) -> Result<Option<Found>> {
        if self.next == self.end {
            return Ok(None);
        }
        let spans = take_record(&self.body[..self.run_end], self.at, self.timestamp);
        let spans = spans.map_err(|what| self.damaged(what, self.run))?;
        let offset = self.next;
        self.at = spans.end();
        self.next = offset.next();
        Ok(Some((offset, spans)))
    }

    /// Opens the next run. `false` if there is none. A run that cannot be opened stays: it is reported again, not skipped.
    #[inline]
    fn open_next(&mut self) -> Result<bool> {
        let Some(place) = self.behind.as_slice().first().copied() else { return Ok(false) };
        let at = place.at as usize;
        let bytes = &self.body[at..at + place.len as usize];
        if let Some(shape) = self.shape
            && let Some((body_at, end)) = shape.next(&self.body[self.run.at as usize..at], bytes)
        {
            self.end = self.next.next();
            (self.run, self.at, self.run_end) = (place, at + body_at, at + end);
            self.behind.next();
            return Ok(true);
        }
        let run = Run::decode(bytes);
        let run = run.map_err(|what| self.damaged(what, place))?;
        let end = run.end().min(self.until);
        let (next, body_at, len) = (run.first, run.body_at, run.len());
        let shape = HeadShape::of(&run);
        (self.timestamp, self.next, self.end, self.shape) = (run.timestamp, next, end, shape);
        (self.run, self.at, self.run_end) = (place, at + body_at, at + len);
        self.behind.next();
        Ok(true)
    }

    #[cold]
    fn damaged(&self, what: Malformed, run: RunAt) -> Error {
        damaged_run(what, Lsn(self.start.0 + u64::from(run.at)))
    }
}

impl Source {
    /// The bytes of the record that was read last.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Source::Block { block, .. } => block.body(),
            Source::Runs(runs) => &runs.body,
            Source::Nothing => &[],
        }
    }

    /// The same bytes, for a record that outlives the source.
    #[inline]
    pub fn share(&mut self) -> Share {
        match self {
            Source::Block { body, .. } | Source::Runs(OpenRuns { body, .. }) => body.take(),
            Source::Nothing => unreachable!("a record has a source"),
        }
    }

    pub fn step(&mut self) -> Result<Option<Found>> {
        match self {
            Source::Block { block, place, .. } => block.step(place),
            Source::Runs(runs) => runs.step(),
            Source::Nothing => Ok(None),
        }
    }

    /// The offset behind the record that was read last.
    pub fn next(&self) -> Option<Offset> {
        match self {
            Source::Block { place, .. } => Some(place.next()),
            Source::Runs(runs) => Some(runs.next),
            Source::Nothing => None,
        }
    }
}
