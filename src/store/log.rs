//! The state of one log and of one cursor.

use std::collections::BTreeMap;

use super::{acks::AckSet, tail::Tail};
use crate::{
    format::meta::{ChunkState, LogState, SegmentState},
    ids::{CursorId, LogId, Offset},
};

#[derive(Debug)]
pub struct Log {
    pub id: LogId,
    /// The first offset that is still there; what lies before was given up.
    pub start: Offset,
    /// Everything below is in segments, or dead. Everything from here on is in the tail.
    pub moved: Offset,
    pub tail: Tail,
    /// The segments, by their base. They do not overlap.
    pub segments: BTreeMap<Offset, SegmentState>,
    /// The ack cursors over this log.
    pub cursors: Vec<CursorId>,
    /// Whether messages stay after every cursor has acked them: a stream's do.
    pub keeps_acked: bool,
    /// Whether it changed since it was last captured.
    pub dirty: bool,
}

impl Log {
    pub fn new(id: LogId, keeps_acked: bool) -> Log {
        Log {
            id,
            start: Offset(0),
            moved: Offset(0),
            tail: Tail::new(Offset(0)),
            segments: BTreeMap::new(),
            cursors: Vec::new(),
            keeps_acked,
            dirty: true,
        }
    }

    /// Takes on what a metalog says. The tail is then replayed from the journal.
    pub fn restore(&mut self, state: &LogState) {
        self.start = state.start;
        self.moved = state.moved;
        let live = state.moved.0.saturating_sub(u64::from(seeded!(NextOffsetIsOneTooLow)));
        self.tail = Tail::new(Offset(live));
        self.dirty = false;
    }

    /// The offset that the next message gets.
    #[inline]
    pub fn next(&self) -> Offset {
        self.tail.end()
    }

    pub fn state(&self) -> LogState {
        let (log, start, moved, next) = (self.id, self.start, self.moved, self.next());
        LogState { log, start, moved, next }
    }

    /// The segment that stands for an offset.
    pub fn segment_of(&self, offset: Offset) -> Option<&SegmentState> {
        let (_, segment) = self.segments.range(..=offset).next_back()?;
        (offset < segment.end).then_some(segment)
    }

    /// Where the oldest segment ends: once nothing below is wanted, its space can be had back.
    pub fn first_segment_end(&self) -> Option<Offset> {
        self.segments.values().next().map(|segment| segment.end)
    }
}

/// What a cursor keeps.
#[derive(Debug)]
pub enum Progress {
    /// A queue's consumer, or a topic's subscription: message by message.
    Acks(AckSet),
    /// A group in one partition: the offset at which it goes on.
    At(Offset),
}

#[derive(Debug)]
pub struct Cursor {
    pub id: CursorId,
    pub log: LogId,
    pub progress: Progress,
    pub dirty: bool,
}

impl Cursor {
    /// The parts of the ack state that changed since they were last captured, or all.
    pub fn capture_chunks(&mut self, all: bool) -> Vec<ChunkState> {
        match &mut self.progress {
            Progress::Acks(acks) => acks.capture(self.id, all),
            Progress::At(_) => Vec::new(),
        }
    }

    #[inline]
    pub fn acks(&self) -> Option<&AckSet> {
        match &self.progress {
            Progress::Acks(acks) => Some(acks),
            Progress::At(_) => None,
        }
    }

    /// The floor, or the offset at which a group goes on.
    #[inline]
    pub fn floor(&self) -> Offset {
        match &self.progress {
            Progress::Acks(acks) => acks.floor(),
            Progress::At(next) => *next,
        }
    }
}
