//! The present source of a reader: a block of a segment, or runs of the journal.

use std::vec;

use crate::{
    disk::Shares,
    error::Result,
    format::{
        commit::Run,
        pack::BlockPlace,
        record::{RecordSpans, take_record},
    },
    ids::{Lsn, Offset, Timestamp},
    segment::Block,
    store::{JournalRun, damaged_run},
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
    Run {
        run: OpenRun,
        behind: vec::IntoIter<JournalRun>,
    },
}

/// A run of the journal that is being read.
#[derive(Debug)]
pub struct OpenRun {
    /// The records.
    pub body: Shares,
    lsn: Lsn,
    timestamp: Timestamp,
    at: usize,
    next: Offset,
    end: Offset,
}

impl OpenRun {
    /// Opens a run before the first record from `from` on.
    pub fn open(run: JournalRun, from: Offset) -> Result<OpenRun> {
        let JournalRun { bytes, lsn } = run;
        let bytes = bytes.read()?;
        let run = Run::decode(&bytes).map_err(|what| damaged_run(what, lsn))?;
        let (timestamp, next, end) = (run.timestamp, run.first, run.end());
        let (start, len) = (run.body_at, run.len());
        let body = Shares::new(bytes.narrow(start, len));
        let mut run = OpenRun { lsn, timestamp, at: 0, next, end, body };
        while run.next < from && run.step()?.is_some() {}
        Ok(run)
    }

    /// Reads all records that are left.
    pub fn check(mut self) -> Result<()> {
        while self.step()?.is_some() {}
        Ok(())
    }

    pub fn step(&mut self) -> Result<Option<Found>> {
        if self.next == self.end {
            return Ok(None);
        }
        let spans = take_record(&self.body, self.at, self.timestamp);
        let spans = spans.map_err(|what| damaged_run(what, self.lsn))?;
        let offset = self.next;
        self.at = spans.end();
        self.next = offset.next();
        Ok(Some((offset, spans)))
    }
}

impl Source {
    /// The bytes of the record that was read last.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Source::Block { block, .. } => block.body(),
            Source::Run { run, .. } => &run.body,
            Source::Nothing => &[],
        }
    }

    pub fn step(&mut self) -> Result<Option<Found>> {
        match self {
            Source::Block { block, place, .. } => block.step(place),
            Source::Run { run, behind } => loop {
                if let Some(found) = run.step()? {
                    return Ok(Some(found));
                }
                // A run that cannot be opened stays: it is reported again, not skipped.
                let Some(next) = behind.as_slice().first().cloned() else {
                    return Ok(None);
                };
                *run = OpenRun::open(next, run.next)?;
                behind.next();
            },
            Source::Nothing => Ok(None),
        }
    }

    /// The offset behind the record that was read last.
    pub fn next(&self) -> Option<Offset> {
        match self {
            Source::Block { place, .. } => Some(place.next()),
            Source::Run { run, .. } => Some(run.next),
            Source::Nothing => None,
        }
    }
}
