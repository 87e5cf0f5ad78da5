//! Runs that are encoded before the offsets of their messages are known.
//!
//! The records of a run do not depend on its offsets, so they are encoded first, with their checksum where they are many
//! bytes. Room is left in front of them. Once the first offset is known, the run's head is written into this room so that
//! it ends where the records begin. So nothing is moved, and the bytes are those that `run.rs` encodes in one go.

use super::{
    lives::Lives,
    run::{Run, head_len_max, put_head_before},
    wire::{Head, Sum},
};
use crate::ids::{LogId, Offset, Timestamp};

/// Records of fewer bytes are summed up together with what stands before them: to join two sums takes as long.
const SUMMED_BYTES_MIN: usize = 16 << 10;

/// The head of a run has no more bytes than this.
const HEAD_BYTES: usize = 40;

/// Runs of one timestamp, in the order in which they stand in the frame.
#[derive(Debug)]
pub struct EncodedRuns {
    timestamp: Timestamp,
    /// The records of each run, and room in front of them.
    bytes: Vec<u8>,
    records_len: usize,
    runs: Vec<EncodedRun>,
    /// The bytes of the runs whose heads were written.
    len: usize,
}

#[derive(Debug)]
struct EncodedRun {
    log: LogId,
    count: u32,
    /// Where the room for its head begins.
    room: usize,
    /// Where its head begins, once it was written.
    start: usize,
    /// Where its records begin, and end.
    body: usize,
    end: usize,
    sum: Option<Sum>,
    lives: Lives,
}

/// A run whose head was written.
#[derive(Clone, Copy, Debug)]
pub struct PlacedRun {
    pub len: usize,
    /// The offset behind its last message.
    pub end: Offset,
    pub lives: Lives,
}

impl EncodedRuns {
    /// No runs, with memory for so many, and for so many bytes of records.
    pub fn with_capacity(timestamp: Timestamp, runs: usize, records_bytes: usize) -> EncodedRuns {
        let bytes = Vec::with_capacity(records_bytes + runs * HEAD_BYTES + Head::BYTES);
        EncodedRuns { timestamp, bytes, records_len: 0, runs: Vec::with_capacity(runs), len: 0 }
    }

    /// Adds a run of `count` messages. `put` appends its records, and returns whether all lives begin at the timestamp of
    /// the run, and none has an end of its own.
    pub fn add<E>(
        &mut self,
        log: LogId,
        count: usize,
        put: impl FnOnce(&mut Vec<u8>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let room = self.bytes.len();
        let body = room + head_len_max(log, count, self.timestamp);
        self.bytes.resize(body, 0);
        let is_plain = put(&mut self.bytes)?;
        let end = self.bytes.len();
        let (timestamp, records) = (self.timestamp, &self.bytes[body..]);
        let lives = match is_plain {
            true => Lives { begin: timestamp, end: None },
            false => {
                let (first, count) = (Offset(0), count as u32);
                Lives::of_run(&Run { log, first, count, timestamp, body: records, body_at: 0 })
            }
        };
        let sum = (records.len() >= SUMMED_BYTES_MIN).then(|| Sum::of(records));
        self.records_len += records.len();
        self.runs.push(EncodedRun {
            log,
            count: count as u32,
            room,
            start: room,
            body,
            end,
            sum,
            lives,
        });
        Ok(())
    }

    /// The bytes of all records.
    pub fn records_len(&self) -> usize {
        self.records_len
    }

    /// The most bytes that the runs can have.
    pub fn len_max(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of the runs whose heads were written since [`begin`](EncodedRuns::begin).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Begins to write heads.
    pub fn begin(&mut self) {
        self.len = 0;
    }

    /// Writes the head of a run.
    pub fn place(&mut self, n: usize, first: Offset) -> PlacedRun {
        let run = &mut self.runs[n];
        let room = &mut self.bytes[run.room..run.body];
        let head = (run.log, first, run.count as usize);
        run.start = run.room + put_head_before(room, head, self.timestamp, run.end - run.body);
        let len = run.end - run.start;
        self.len += len;
        PlacedRun { len, end: Offset(first.0 + u64::from(run.count)), lives: run.lives }
    }

    /// A run whose first offset is known.
    pub fn run(&self, n: usize, first: Offset) -> Run<'_> {
        let EncodedRun { log, count, body, end, .. } = self.runs[n];
        let (timestamp, body) = (self.timestamp, &self.bytes[body..end]);
        Run { log, first, count, timestamp, body, body_at: 0 }
    }

    /// Adds the bytes of all runs to a checksum.
    pub(super) fn add_to(&self, sum: &mut Sum) {
        for run in &self.runs {
            match &run.sum {
                Some(records) => {
                    sum.add(&self.bytes[run.start..run.body]);
                    sum.append(records);
                }
                None => sum.add(&self.bytes[run.start..run.end]),
            }
        }
    }

    /// The bytes, run by run.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| &self.bytes[run.start..run.end])
    }
}
