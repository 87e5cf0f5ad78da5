//! A walk over the messages of one cursor whose lives may be over: how far it has come. `slices.rs` goes on with it.
//!
//! A walk belongs to no thread. Any thread takes its next *slice*, reads it without the core, and ends it. Meanwhile the
//! walk is busy, and others wait for the slice. So several threads that want the messages looked at do the work of one,
//! and a walk that is broken off goes on where it was.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    audit,
    engine::runtime::wait::Watch,
    ids::{CursorId, LogId, Offset, Timestamp},
};

/// When to look again at messages that could not leave: the commit failed, or they were not visible yet.
pub const AGAIN_MS: u64 = 1000;

/// When to look again at messages that could not be read, or are too large to leave.
const MUCH_LATER_MS: u64 = 60_000;

/// A look at all cursors of a log, one after the other.
#[derive(Debug)]
pub struct LogLook {
    pub number: u64,
    /// The cursor whose turn it is.
    pub now: Option<CursorId>,
    /// The cursors from here on had no turn yet.
    pub from: CursorId,
    /// Cursors whose walks were broken off. They go on after the others.
    pub broken_off: VecDeque<CursorId>,
    /// Those of them whose walks have ended since.
    pub ended: BTreeSet<CursorId>,
    /// The first time at which another life may be over, for the cursors whose walks have ended.
    pub next: Option<Timestamp>,
}

impl LogLook {
    pub fn new(number: u64) -> LogLook {
        LogLook {
            number,
            now: None,
            from: CursorId(0),
            broken_off: VecDeque::new(),
            ended: BTreeSet::new(),
            next: None,
        }
    }

    /// The cursor whose turn it is. `behind` tells the first cursor of the log from one on. `None` if the look is over.
    pub fn turn(&mut self, behind: impl FnOnce(CursorId) -> Option<CursorId>) -> Option<CursorId> {
        if self.now.is_none() {
            self.now = behind(self.from);
            match self.now {
                Some(cursor) => self.from = CursorId(cursor.0 + 1),
                None => self.now = self.next_broken_off(),
            }
        }
        self.now
    }

    fn next_broken_off(&mut self) -> Option<CursorId> {
        loop {
            audit::step();
            let cursor = self.broken_off.pop_front()?;
            if !self.ended.remove(&cursor) {
                return Some(cursor);
            }
        }
    }

    /// Has the walk of the next cursor go on, and that of this one later.
    pub fn break_off(&mut self) {
        self.broken_off.extend(self.now.take());
    }

    /// Notes that the walk of a cursor is over.
    pub fn end(&mut self, cursor: CursorId) {
        if self.now == Some(cursor) {
            self.now = None;
        } else if !self.broken_off.is_empty() {
            // The look was broken off meanwhile.
            self.ended.insert(cursor);
        }
    }
}

/// A look at the messages of one cursor.
#[derive(Debug)]
pub struct Walk {
    /// The number of the look at the log during which it began.
    pub look: u64,
    /// What its slices have in common.
    pub(super) of: WalkOf,
    /// What is known of messages below is to be forgotten first.
    pub(super) forgotten_below: Option<Offset>,
    /// Where the walk goes on.
    pub(super) from: Offset,
    /// The end of the log when the walk began.
    pub(super) end: Offset,
    /// The first time at which another life may be over, as far as the walk has come.
    pub(super) next: Option<Timestamp>,
    /// Segments that end here, or before, were asked for the lives in them.
    pub(super) asked_upto: Offset,
    /// Whether a thread reads a slice.
    pub is_busy: bool,
    /// Where others wait for that.
    pub watch: Arc<Watch>,
}

#[derive(Clone, Copy, Debug)]
pub struct WalkOf {
    pub cursor: CursorId,
    pub log: LogId,
    /// The even time of the look.
    pub now: Timestamp,
    /// The time to live of the cursor.
    pub time_to_live_ms: u64,
}

impl WalkOf {
    /// When to look again at messages that cannot leave now.
    pub fn again(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_add(AGAIN_MS))
    }

    pub fn much_later(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_add(MUCH_LATER_MS))
    }
}

impl Walk {
    pub fn expect(&mut self, end: Timestamp) {
        self.next = Some(self.next.map_or(end, |next| next.min(end)));
    }

    /// Goes on with messages that were not read.
    pub fn go_back_to(&mut self, offset: Offset) {
        self.from = self.from.min(offset);
    }
}
