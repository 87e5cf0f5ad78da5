//! Stretches: runs of one log that stand close together in the journal, and are read in one piece.
//!
//! To find a run and to hold its bytes takes longer than to decode it, and a hundred readers of one stream do so at the same
//! time. So the bytes of many runs are found, held and read once.

use std::vec;

use super::{JournalRun, Store, tail::RunPlace};
use crate::{
    audit,
    disk::Slice,
    error::Result,
    ids::{LogId, Lsn, OffsetRange},
    journal::JournalBytes,
};

/// Runs that follow each other in one log, with the bytes from the first run to the end of the last one.
#[derive(Debug)]
pub struct Stretch {
    bytes: JournalBytes,
    /// The position of the first byte.
    start: Lsn,
    runs: Vec<RunAt>,
}

/// The place of a run in a stretch.
#[derive(Clone, Copy, Debug)]
pub struct RunAt {
    pub at: u32,
    pub len: u32,
}

/// A stretch that was read.
#[derive(Debug)]
pub struct ReadStretch {
    pub bytes: Slice,
    pub start: Lsn,
    pub runs: vec::IntoIter<RunAt>,
}

/// The most runs of a stretch.
const RUNS_MAX: usize = 512;

/// The most bytes of a stretch of several runs.
const BYTES_MAX: u64 = 64 << 10;

/// The most bytes of other logs between two runs of a stretch: where the journal is not mapped, they are read, too.
const GAP_BYTES_MAX: u64 = 2048;

impl Stretch {
    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        self.runs.last().map_or(0, |last| u64::from(last.at) + u64::from(last.len))
    }

    /// The runs, to be read one by one.
    pub fn each(self) -> impl Iterator<Item = JournalRun> {
        let Stretch { bytes, start, runs } = self;
        runs.into_iter().map(move |RunAt { at, len }| {
            let bytes = bytes.clone().narrow(at as usize, len as usize);
            JournalRun { bytes, lsn: Lsn(start.0 + u64::from(at)) }
        })
    }

    /// Reads the bytes, all of them or none.
    pub fn read_whole(self) -> Result<ReadStretch> {
        let Stretch { bytes, start, runs } = self;
        Ok(ReadStretch { bytes: bytes.read()?, start, runs: runs.into_iter() })
    }

    /// Reads the bytes. If they cannot be read in one piece, reads those of the first run: the others may be what cannot
    /// be read.
    pub fn read(mut self) -> Result<ReadStretch> {
        let first = self.runs[0].len as usize;
        let is_one = self.runs.len() == 1;
        let again = if is_one { None } else { self.bytes.again(first) };
        let bytes = match (self.bytes.read(), again) {
            (Err(_), Some(again)) => {
                self.runs.truncate(1);
                again.read()?
            }
            (read, _) => read?,
        };
        Ok(ReadStretch { bytes, start: self.start, runs: self.runs.into_iter() })
    }
}

impl ReadStretch {
    /// Reads one run.
    pub fn of(run: JournalRun) -> Result<ReadStretch> {
        let JournalRun { bytes, lsn: start } = run;
        let bytes = bytes.read()?;
        let runs = vec![RunAt { at: 0, len: bytes.len() as u32 }].into_iter();
        Ok(ReadStretch { bytes, start, runs })
    }
}

impl Store {
    /// The runs of the journal with the messages of a range that were committed before a position.
    pub(super) fn stretch(
        &self,
        log: LogId,
        offsets: OffsetRange,
        limit: Lsn,
    ) -> Result<Option<Stretch>> {
        let found = self.state.log(log)?;
        let places = found.tail.runs_from(offsets.start.max(found.moved));
        let mut places = places.take_while(|run| run.first < offsets.end);
        let Some(first) = places.next().filter(|first| first.lsn < limit) else { return Ok(None) };
        audit::step();
        let start = first.lsn;
        let most = self.journal.file_end(start).min(limit).min(Lsn(start.0 + BYTES_MAX));
        let mut runs = vec![RunAt { at: 0, len: first.len as u32 }];
        let mut end = Lsn(start.0 + first.len as u64);
        for RunPlace { lsn, len, .. } in places {
            let behind = Lsn(lsn.0 + len as u64);
            if runs.len() == RUNS_MAX || behind > most || lsn.0 > end.0 + GAP_BYTES_MAX {
                break;
            }
            audit::step();
            runs.push(RunAt { at: (lsn.0 - start.0) as u32, len: len as u32 });
            end = behind;
        }
        let bytes = match self.journal.bytes(start, (end.0 - start.0) as usize) {
            Err(_) if runs.len() > 1 => {
                runs.truncate(1);
                self.journal.bytes(start, first.len)?
            }
            bytes => bytes?,
        };
        Ok(Some(Stretch { bytes, start, runs }))
    }

    /// The last runs of the journal with messages of a range: `most` of them, from the one that holds the last message of the
    /// range backwards.
    pub(super) fn stretch_before(
        &self,
        log: LogId,
        offsets: OffsetRange,
        most: usize,
    ) -> Result<Option<Stretch>> {
        let mut places = self.state.log(log)?.tail.runs_before(offsets.end);
        let Some(last) = places.next().filter(|_| !offsets.is_empty()) else { return Ok(None) };
        audit::step();
        let end = Lsn(last.lsn.0 + last.len as u64);
        let (mut first, mut found) = (last, vec![last]);
        for run in places {
            let gap = first.lsn.0 - (run.lsn.0 + run.len as u64);
            let is_far = end.0 - run.lsn.0 > BYTES_MAX || gap > GAP_BYTES_MAX;
            let is_enough = first.first <= offsets.start || found.len() == most.min(RUNS_MAX);
            if is_enough || is_far || self.journal.file_end(run.lsn) < end {
                break;
            }
            audit::step();
            first = run;
            found.push(run);
        }
        let bytes = match self.journal.bytes(first.lsn, (end.0 - first.lsn.0) as usize) {
            Err(_) if found.len() > 1 => {
                found.truncate(1);
                first = last;
                self.journal.bytes(last.lsn, last.len)?
            }
            bytes => bytes?,
        };
        let at =
            |run: &RunPlace| RunAt { at: (run.lsn.0 - first.lsn.0) as u32, len: run.len as u32 };
        Ok(Some(Stretch { bytes, start: first.lsn, runs: found.iter().rev().map(at).collect() }))
    }
}
