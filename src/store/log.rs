//! The state of one log and of one cursor.

use std::ops::Range;

use super::{
    acks::AckSet,
    ends::Ends,
    filters::Filters,
    floor_counts::FloorCounts,
    lazy::{Absent, Lazy},
    living::Belongs,
    ranges::Ranges,
    series::Series,
    tail::Tail,
};
use crate::{
    format::meta::{ChunkState, LogState, SegmentState},
    ids::{CursorId, EntityId, LogId, Lsn, Offset},
};

#[derive(Debug)]
pub struct Log {
    pub id: LogId,
    /// The first offset that was not trimmed.
    pub start: Offset,
    /// Messages below are in segments, or dead. Messages from here on are in the tail.
    pub moved: Offset,
    pub tail: Tail,
    /// The segments, by their base. They do not overlap.
    pub segments: Series,
    /// The ack cursors over this log, sorted.
    pub cursors: Vec<CursorId>,
    /// Whether messages stay after every cursor has acked them. A stream's messages do.
    pub keeps_acked: bool,
    /// Whether its stream has limits of age, bytes or records.
    pub retains: bool,
    pub ends: Lazy<Ends>,
    pub judging: Lazy<Judging>,
    /// Whether the log changed since its last capture.
    pub dirty: bool,
    /// The position of the first message that no checkpoint moved, when it was listed.
    pub unmoved_from: Option<Lsn>,
    /// The floors of the cursors that need messages. `None` while there are fewer than two cursors.
    floors: Option<Box<FloorCounts>>,
    /// The filters of its subscriptions. Most logs have none.
    pub filters: Option<Box<Filters>>,
}

/// What is known of some of a log's segments until the next checkpoint.
#[derive(Debug)]
pub struct Judging {
    /// Segments that did not say when the lives in them begin and end, and that were read since: the next capture says it.
    pub learned: Vec<Offset>,
    /// Segments in which messages became dead since they were judged.
    pub suspect: Ranges,
    /// About how many bytes a message takes up in the segment in which one became dead.
    pub record_bytes: u64,
}

impl Absent for Judging {
    const ABSENT: Judging =
        Judging { learned: Vec::new(), suspect: Ranges::Empty, record_bytes: 0 };

    fn absent() -> &'static Judging {
        static ABSENT: Judging = Judging::ABSENT;
        &ABSENT
    }
}

impl Log {
    pub fn new(id: LogId, keeps_acked: bool) -> Log {
        Log {
            id,
            start: Offset(0),
            moved: Offset(0),
            tail: Tail::new(Offset(0)),
            segments: Series::default(),
            cursors: Vec::new(),
            keeps_acked,
            retains: false,
            ends: Lazy::default(),
            judging: Lazy::default(),
            dirty: false,
            unmoved_from: None,
            floors: None,
            filters: None,
        }
    }

    /// Gives back the memory of what is known of segments, once nothing is.
    pub fn shrink_judging(&mut self) {
        if self.judging.suspect.is_empty() && self.judging.learned.is_empty() {
            self.judging = Lazy::default();
        }
    }

    /// Takes the values of a metalog. Recovery then replays the tail from the journal.
    pub fn restore(&mut self, state: &LogState) {
        self.start = state.start;
        self.moved = state.moved;
        let live = state.moved.0.saturating_sub(u64::from(seeded!(NextOffsetIsOneTooLow)));
        self.tail = Tail::new(Offset(live));
    }

    /// The messages live for at most so long, for one of the cursors. 0 is no limit.
    pub fn limit_lives(&mut self, time_to_live_ms: u64) {
        if time_to_live_ms > 0 {
            self.ends.limit(time_to_live_ms);
        }
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

    /// The segment whose range holds an offset.
    pub fn segment_of(&self, offset: Offset) -> Option<&SegmentState> {
        let segment = self.segments.range(..=offset).next_back()?;
        (offset < segment.end).then_some(segment)
    }

    /// The segment that holds an offset, or else the first one behind it.
    pub fn segment_at_or_behind(&self, offset: Offset) -> Option<&SegmentState> {
        self.segment_of(offset).or_else(|| self.segments.range(offset..).next())
    }

    /// Adds a cursor that [holds](Cursor::held) messages from a floor on, unless it is there. `held_by` tells the floors of
    /// others.
    pub fn add_cursor(
        &mut self,
        cursor: CursorId,
        held: Option<Offset>,
        held_by: impl Fn(CursorId) -> Option<Offset>,
    ) {
        let Err(at) = self.cursors.binary_search(&cursor) else { return };
        if self.cursors.is_empty() {
            // A queue's log has one.
            self.cursors.reserve_exact(1);
        }
        self.cursors.insert(at, cursor);
        match &mut self.floors {
            Some(floors) => held.into_iter().for_each(|floor| floors.add(floor)),
            None => self.count_floors(held_by),
        }
    }

    /// Removes a cursor.
    pub fn remove_cursor(&mut self, cursor: CursorId, held: Option<Offset>) {
        let Ok(at) = self.cursors.binary_search(&cursor) else { return };
        self.cursors.remove(at);
        if self.cursors.len() < 2 {
            self.floors = None;
        } else if let Some(floors) = &mut self.floors {
            held.into_iter().for_each(|floor| floors.remove(floor));
        }
    }

    /// Counts the floors of the cursors anew.
    pub fn count_floors(&mut self, held_by: impl Fn(CursorId) -> Option<Offset>) {
        let is_shared = self.cursors.len() > 1;
        let held = || self.cursors.iter().filter_map(|it| held_by(*it));
        let count = || Box::new(FloorCounts::of(held()));
        self.floors = is_shared.then(count);
    }

    /// Notes that the floor of a cursor has moved.
    #[inline]
    pub fn note_floor(&mut self, before: Option<Offset>, held: Option<Offset>) {
        if let Some(floors) = &mut self.floors {
            floors.replace(before, held);
        }
    }

    /// Whether the floors of all cursors are at `end` or above it. That of the cursor that has just moved is.
    pub fn all_reach(&self, end: Offset) -> bool {
        self.floors.as_ref().is_none_or(|floors| floors.least().is_none_or(|least| least >= end))
    }

    /// How many cursors need messages, at least one.
    pub fn needing(&self) -> u64 {
        self.floors.as_ref().map_or(1, |floors| floors.cursors().max(1))
    }

    /// The end of the oldest segment. Once all messages below are dead, its space can be freed.
    pub fn first_segment_end(&self) -> Option<Offset> {
        self.segments.values().next().map(|segment| segment.end)
    }
}

impl Belongs for Log {
    fn belongs_to(&self, owner: &Range<EntityId>) -> bool {
        owner.contains(&self.id.entity())
    }
}

/// The progress of a cursor.
#[derive(Debug)]
pub enum Progress {
    /// Acks of single messages: a queue or a subscription.
    Acks(AckSet),
    /// The next offset of a group in one partition.
    At(Offset),
}

#[derive(Debug)]
pub struct Cursor {
    pub id: CursorId,
    pub log: LogId,
    pub progress: Progress,
    pub dirty: bool,
    /// Whether it is that of a group that has the stream keep what it has not passed.
    pub spares: bool,
}

impl Cursor {
    /// The next part of the ack state that changed since it was captured.
    pub fn next_changed_chunk(&mut self) -> Option<ChunkState> {
        match &mut self.progress {
            Progress::Acks(acks) => acks.capture_changed(self.id),
            Progress::At(_) => None,
        }
    }

    /// Whether there may be such a part.
    pub fn has_changed_chunks(&self) -> bool {
        self.acks().is_some_and(AckSet::may_have_changed)
    }

    /// The first part of the ack state from an index on.
    pub fn capture_chunk_from(&mut self, from: u64) -> Option<ChunkState> {
        match &mut self.progress {
            Progress::Acks(acks) => acks.capture_from(self.id, from),
            Progress::At(_) => None,
        }
    }

    /// The whole ack state, in parts.
    pub fn capture_chunks(&mut self) -> Vec<ChunkState> {
        match &mut self.progress {
            Progress::Acks(acks) => acks.capture_all(self.id),
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

    /// The floor from which on the cursor may need messages. `None` if it has a filter, and needs none.
    #[inline]
    pub fn held(&self) -> Option<Offset> {
        match &self.progress {
            Progress::Acks(acks) => acks.held(),
            Progress::At(next) => Some(*next),
        }
    }

    /// The offset behind the last message that a cursor with a filter got.
    pub fn seen(&self) -> Option<Offset> {
        self.acks().and_then(AckSet::seen)
    }

    /// The floor of the acks, or the next offset of a group.
    #[inline]
    pub fn floor(&self) -> Offset {
        match &self.progress {
            Progress::Acks(acks) => acks.floor(),
            Progress::At(next) => *next,
        }
    }
}

impl Belongs for Cursor {
    fn belongs_to(&self, owner: &Range<EntityId>) -> bool {
        owner.contains(&self.id.entity()) || owner.contains(&self.log.entity())
    }
}

/// The states of cursors and logs that were deleted.
#[derive(Debug, Default)]
// They are boxed already, and moving the boxes is quick.
#[allow(clippy::vec_box)]
pub struct Freed {
    pub cursors: Vec<Box<Cursor>>,
    pub logs: Vec<Box<Log>>,
}
