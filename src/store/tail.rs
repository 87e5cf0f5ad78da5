//! The tail index: the positions in the journal of a log's newest messages.
//!
//! It has one entry of 12 bytes per run, so the journal's length bounds its size. It is not stored.
//! Recovery builds it again from the journal.

use std::{collections::VecDeque, mem};

use crate::{
    audit,
    format::lives::Lives,
    ids::{Lsn, Offset},
};

const CHUNK_RUNS: usize = 1024;

/// Runs close to each other, relative to the first.
#[derive(Debug)]
struct Chunk {
    first: u64,
    lsn: u64,
    runs: Vec<Entry>,
    /// The lives of the messages in these runs.
    lives: Lives,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u32,
    lsn: u32,
    len: u32,
}

/// The place of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPlace {
    pub first: Offset,
    pub lsn: Lsn,
    pub len: usize,
}

impl Chunk {
    #[inline]
    fn place(&self, entry: Entry) -> RunPlace {
        RunPlace {
            first: Offset(self.first + u64::from(entry.offset)),
            lsn: Lsn(self.lsn + u64::from(entry.lsn)),
            len: entry.len as usize,
        }
    }
}

/// Memory for new runs of one log. To make it takes longer than to use it, so it is made before the store is locked.
#[derive(Debug)]
pub struct Spare {
    chunks: VecDeque<Chunk>,
    runs: Vec<Entry>,
}

impl Spare {
    /// Memory for so many runs.
    pub fn of(runs: usize) -> Spare {
        let runs = Vec::with_capacity(runs.min(CHUNK_RUNS));
        Spare { chunks: VecDeque::with_capacity(1), runs }
    }
}

/// The runs of one log that are in the journal only, without gaps between them.
#[derive(Debug, Default)]
pub struct Tail {
    chunks: VecDeque<Chunk>,
    /// The offset behind the last run.
    end: Offset,
}

impl Tail {
    /// An empty tail: the next run begins at `end`.
    pub fn new(end: Offset) -> Tail {
        Tail { chunks: VecDeque::new(), end }
    }

    #[inline]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Goes on behind messages whose places nobody asks for.
    pub fn skip_to(&mut self, end: Offset) {
        *self = Tail::new(end);
    }

    /// Adds the run that follows. `end` is the offset behind its last message, and `lives` are the lives of its
    /// messages.
    #[inline]
    pub fn push(&mut self, run: RunPlace, end: Offset, lives: Lives) {
        if !self.push_to_last(run, end, lives) {
            self.begin_chunk(run, Vec::with_capacity(1), lives);
        }
    }

    /// As [`push`](Tail::push), into memory that was made before.
    #[inline]
    pub fn push_with(&mut self, run: RunPlace, end: Offset, lives: Lives, spare: &mut Spare) {
        if self.chunks.capacity() == 0 {
            mem::swap(&mut self.chunks, &mut spare.chunks);
        }
        if !self.push_to_last(run, end, lives) {
            let runs = mem::take(&mut spare.runs);
            self.begin_chunk(run, runs, lives);
        }
    }

    /// Adds a run to the last chunk. Returns whether it has room.
    #[inline(always)]
    fn push_to_last(&mut self, run: RunPlace, end: Offset, lives: Lives) -> bool {
        debug_assert_eq!(run.first, self.end);
        self.end = end;
        let len = run.len as u32;
        if let Some(chunk) = self.chunks.back_mut()
            && chunk.runs.len() < CHUNK_RUNS
            && let Ok(offset) = u32::try_from(run.first.0 - chunk.first)
            && let Ok(lsn) = u32::try_from(run.lsn.0 - chunk.lsn)
        {
            chunk.runs.push(Entry { offset, lsn, len });
            chunk.lives.add(lives);
            return true;
        }
        false
    }

    fn begin_chunk(&mut self, run: RunPlace, mut runs: Vec<Entry>, lives: Lives) {
        if runs.capacity() == 0 {
            runs.reserve_exact(1);
        }
        runs.push(Entry { offset: 0, lsn: 0, len: run.len as u32 });
        if self.chunks.capacity() == 0 {
            // Most logs have one chunk.
            self.chunks.reserve_exact(1);
        }
        self.chunks.push_back(Chunk { first: run.first.0, lsn: run.lsn.0, runs, lives });
    }

    /// Takes back the runs from an offset on.
    pub fn cut(&mut self, end: Offset) {
        while let Some(chunk) = self.chunks.back_mut() {
            if chunk.first < end.0 {
                let behind = |run: &Entry| chunk.first + u64::from(run.offset) < end.0;
                let kept = chunk.runs.partition_point(behind);
                chunk.runs.truncate(kept);
                break;
            }
            self.chunks.pop_back();
        }
        self.end = end;
    }

    /// The chunks from the one that holds an offset on: where each ends, and the lives of its messages.
    pub fn lives_from(&self, offset: Offset) -> impl Iterator<Item = (Offset, Lives)> {
        let first = self.chunks.partition_point(|chunk| chunk.first <= offset.0).saturating_sub(1);
        let ends = self.chunks.range((first + 1).min(self.chunks.len())..);
        let ends = ends.map(|next| Offset(next.first)).chain([self.end]);
        self.chunks.range(first..).zip(ends).map(|(chunk, end)| (end, chunk.lives))
    }

    /// The chunk that holds an offset below the end.
    #[inline]
    fn chunk_of(&self, offset: Offset) -> Option<usize> {
        let first = self.chunks.front()?.first;
        // If every run holds one message, the distance tells the chunk.
        let guess = (offset.0.checked_sub(first)? / CHUNK_RUNS as u64) as usize;
        let holds = |chunk: &Chunk| chunk.first <= offset.0;
        if self.chunks.get(guess).is_some_and(holds)
            && !self.chunks.get(guess + 1).is_some_and(holds)
        {
            return Some(guess);
        }
        self.chunks.partition_point(holds).checked_sub(1)
    }

    /// The index of the chunk and of the run in it that hold an offset.
    #[inline]
    fn position(&self, offset: Offset) -> Option<(usize, usize)> {
        if offset >= self.end {
            return None;
        }
        let chunk = self.chunk_of(offset)?;
        let runs = &self.chunks[chunk].runs;
        let distance = offset.0 - self.chunks[chunk].first;
        // If every run holds one message, the distance is the index.
        if let Some(run) = runs.get(distance as usize)
            && u64::from(run.offset) == distance
        {
            return Some((chunk, distance as usize));
        }
        let run = runs.partition_point(|run| u64::from(run.offset) <= distance);
        Some((chunk, run - 1))
    }

    /// The run that holds an offset.
    #[inline]
    pub fn find(&self, offset: Offset) -> Option<RunPlace> {
        let (chunk, run) = self.position(offset)?;
        let chunk = &self.chunks[chunk];
        Some(chunk.place(chunk.runs[run]))
    }

    /// The runs from the one that holds an offset on.
    pub fn runs_from(&self, offset: Offset) -> impl Iterator<Item = RunPlace> {
        let (first_chunk, first_run) = self.position(offset).unwrap_or((self.chunks.len(), 0));
        let chunks = self.chunks.range(first_chunk.min(self.chunks.len())..).enumerate();
        chunks.flat_map(move |(n, chunk)| {
            let skip = if n == 0 { first_run } else { 0 };
            chunk.runs[skip..].iter().map(|run| chunk.place(*run))
        })
    }

    /// The runs before an offset, the last one first: from the one that holds the offset before it.
    pub fn runs_before(&self, offset: Offset) -> impl Iterator<Item = RunPlace> {
        let last = offset.min(self.end).0.checked_sub(1).and_then(|it| self.position(Offset(it)));
        let (last_chunk, runs) = last.map_or((0, 0), |(chunk, run)| (chunk, run + 1));
        let chunks = self.chunks.range(..(last_chunk + 1).min(self.chunks.len()));
        chunks.enumerate().rev().flat_map(move |(n, chunk)| {
            let upto = if n == last_chunk { runs } else { chunk.runs.len() };
            chunk.runs[..upto].iter().rev().map(|run| chunk.place(*run))
        })
    }

    /// The first offset whose run is at or behind a position. The end if there is none.
    pub fn first_at_or_behind(&self, lsn: Lsn) -> Offset {
        let Some(chunk) = self.chunks.partition_point(|chunk| chunk.lsn < lsn.0).checked_sub(1)
        else {
            return self.chunks.front().map_or(self.end, |chunk| Offset(chunk.first));
        };
        let runs = &self.chunks[chunk].runs;
        let from = self.chunks[chunk].lsn;
        let run = runs.partition_point(|run| from + u64::from(run.lsn) < lsn.0);
        match runs.get(run) {
            Some(run) => Offset(self.chunks[chunk].first + u64::from(run.offset)),
            None => self.chunks.get(chunk + 1).map_or(self.end, |chunk| Offset(chunk.first)),
        }
    }

    /// Forgets runs before an offset. It forgets whole chunks only, which is cheap.
    #[inline]
    pub fn drop_below(&mut self, offset: Offset) {
        while let Some(chunk) = self.chunks.front() {
            audit::step();
            let end = self.chunks.get(1).map_or(self.end.0, |next| next.first);
            if end > offset.0 {
                break;
            }
            debug_assert!(chunk.first <= offset.0);
            self.chunks.pop_front();
        }
    }

    /// Gives back the memory of runs that were forgotten.
    pub fn shrink(&mut self) {
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }

    /// The first offset that is indexed. The end if there is none.
    pub fn start(&self) -> Offset {
        self.chunks.front().map_or(self.end, |chunk| Offset(chunk.first))
    }
}
