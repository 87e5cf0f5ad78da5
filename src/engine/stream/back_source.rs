//! The present source of a reader that reads backwards: a block of a segment, or runs of the journal. Its last record comes first.

use std::vec;

use super::source::Found;
use crate::{
    disk::{Share, Shares},
    error::Result,
    format::{Malformed, commit::Run, record::take_record},
    ids::{Lsn, Offset, OffsetRange},
    segment::Block,
    store::{ReadStretch, RunAt, damaged_run},
};

/// The source of a reader that reads backwards.
#[derive(Debug)]
pub enum BackSource {
    Nothing,
    Block {
        block: Block,
        /// How many of its records are left: the first ones.
        left: u32,
        /// The block's body, shared with records that outlive the source.
        body: Shares,
    },
    Runs(BackRuns),
}

/// Runs of the journal that are read backwards.
#[derive(Debug)]
pub struct BackRuns {
    /// The bytes of all of them, shared with records that outlive the source.
    body: Shares,
    start: Lsn,
    /// The runs that are left.
    runs: vec::IntoIter<RunAt>,
    /// The records that are left of the run that was opened last. A run has few.
    found: Vec<Found>,
    /// Records of these offsets are read.
    offsets: OffsetRange,
}

impl BackRuns {
    fn new(stretch: ReadStretch, offsets: OffsetRange) -> BackRuns {
        let ReadStretch { bytes, start, runs } = stretch;
        BackRuns { body: Shares::new(bytes), start, runs, found: Vec::new(), offsets }
    }

    fn step(&mut self) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.found.pop() {
                return Ok(Some(found));
            }
            // A run that is damaged stays: it is reported again, and not skipped.
            let Some(run) = self.runs.as_slice().last().copied() else { return Ok(None) };
            if let Err(what) = self.open(run) {
                self.found.clear();
                return Err(damaged_run(what, Lsn(self.start.0 + u64::from(run.at))));
            }
            self.runs.next_back();
        }
    }

    /// Finds the records of a run. They have to be found from the first one on.
    fn open(&mut self, RunAt { at, len }: RunAt) -> Result<(), Malformed> {
        let at = at as usize;
        let run = Run::decode(&self.body[at..at + len as usize])?;
        // It holds the record before the one that was read last.
        if run.first >= self.offsets.end || run.end() < self.offsets.end {
            return Err(Malformed("a run with other messages than it should have"));
        }
        let (end, mut record_at) = (at + run.len(), at + run.body_at);
        for offset in run.first.to(run.end()) {
            let spans = take_record(&self.body[..end], record_at, run.timestamp)?;
            record_at = spans.end();
            if self.offsets.contains(offset) {
                self.found.push((offset, spans));
            }
        }
        if record_at != end {
            return Err(Malformed("bytes are left over behind the messages of a run"));
        }
        self.offsets.end = run.first;
        Ok(())
    }
}

impl BackSource {
    /// The records of a block before an offset.
    pub fn block(block: Block, before: Offset) -> BackSource {
        let block = block.before(before);
        let body = Shares::new(block.body().clone());
        BackSource::Block { left: block.count(), block, body }
    }

    /// The records of runs whose offsets are in a range.
    pub fn runs(stretch: ReadStretch, offsets: OffsetRange) -> BackSource {
        BackSource::Runs(BackRuns::new(stretch, offsets))
    }

    /// The record before the one that was read last. `None` if there is none. After an error the next step gives it again.
    pub fn step(&mut self) -> Result<Option<Found>> {
        match self {
            BackSource::Block { block, left, .. } => {
                let Some(last) = left.checked_sub(1) else { return Ok(None) };
                let found = block.nth(last)?;
                *left = last;
                Ok(found)
            }
            BackSource::Runs(runs) => runs.step(),
            BackSource::Nothing => Ok(None),
        }
    }

    /// The first offset of the block that is read.
    pub fn first_of_block(&self) -> Option<Offset> {
        match self {
            BackSource::Block { block, .. } => Some(block.first()),
            _ => None,
        }
    }

    /// The bytes of the record that was read last.
    pub fn bytes(&self) -> &[u8] {
        match self {
            BackSource::Block { block, .. } => block.body(),
            BackSource::Runs(runs) => &runs.body,
            BackSource::Nothing => &[],
        }
    }

    /// The same bytes, for a record that outlives the source.
    pub fn share(&mut self) -> Share {
        match self {
            BackSource::Block { body, .. } | BackSource::Runs(BackRuns { body, .. }) => body.take(),
            BackSource::Nothing => unreachable!("a record has a source"),
        }
    }
}
