//! The ends of lives: when a log may hold a message whose time to live is over.
//!
//! A log knows the earliest begin and end of the lives in each part of it: of its segments from the metalog, and of
//! the messages in the journal since they were committed. From that it knows a time before which no life is over. An
//! ordered set has the logs by that time, so nothing ever walks over all logs. When the time has come, the engine
//! *looks* at the log, and then knows the next one.

use std::{collections::BTreeSet, ops::Bound};

use super::{Store, cache::SegmentSource, lazy::Absent, log::Log, state::State};
use crate::{
    audit,
    format::{entity::Entity, lives::Lives, meta::SegmentState},
    ids::{CursorId, LogId, Offset, OffsetRange, Timestamp},
};

/// No life ends.
const NEVER: Timestamp = Timestamp(u64::MAX);

/// What one log knows of the ends of its messages' lives.
#[derive(Debug)]
pub struct Ends {
    /// The shortest time to live of its queue, or of its subscriptions. 0 if none has one.
    shortest_ms: u64,
    /// No life is over before this even time.
    next: Timestamp,
    /// Among logs with the same time, the order in which they were put off. 0 if this one was not.
    turn: u64,
    /// The earliest end among the messages that came since the last look began.
    fresh: Timestamp,
    /// How many looks have begun.
    looks: u64,
    /// The shortest time to live among the cursors that the look has come to, and among those that were limited since it began.
    /// 0 if there is none.
    found_ms: u64,
}

impl Absent for Ends {
    const ABSENT: Ends =
        Ends { shortest_ms: 0, next: NEVER, turn: 0, fresh: NEVER, looks: 0, found_ms: 0 };

    fn absent() -> &'static Ends {
        static ABSENT: Ends = Ends::ABSENT;
        &ABSENT
    }
}

impl Ends {
    /// The messages live for at most so long, for one of the log's cursors. 0 is no limit.
    pub fn limit(&mut self, time_to_live_ms: u64) {
        self.shortest_ms = shorter(self.shortest_ms, time_to_live_ms);
        self.found_ms = shorter(self.found_ms, time_to_live_ms);
    }
}

/// The shorter of two times to live. 0 is no limit.
fn shorter(a: u64, b: u64) -> u64 {
    [a, b].into_iter().filter(|ms| *ms > 0).min().unwrap_or(0)
}

/// The place of a log among those with lives: the time before which none of them is over, how often a log had been put off
/// when this one was, and the log.
pub type EndKey = (Timestamp, u64, LogId);

/// The logs by the time before which none of their messages' lives is over.
#[derive(Debug, Default)]
pub struct Expiring {
    logs: BTreeSet<EndKey>,
    /// How often a log was put off.
    put_off: u64,
}

impl Expiring {
    /// Notes messages that came to a log.
    #[inline(always)]
    pub fn note(&mut self, log: &mut Log, lives: Lives) {
        let shortest_ms = log.ends.get().map_or(0, |ends| ends.shortest_ms);
        if let Some(end) = lives.earliest_end(shortest_ms) {
            self.note_end(log, end);
        }
    }

    fn note_end(&mut self, log: &mut Log, end: Timestamp) {
        let ends = &mut log.ends;
        ends.fresh = ends.fresh.min(end);
        if end < ends.next {
            self.set(log, end);
        }
    }

    /// Has the log looked at, whatever its time is.
    pub fn look_again(&mut self, log: &mut Log) {
        log.ends.looks += 1;
        self.look_soon(log);
    }

    /// Has the log looked at soon, also if it is looked at now.
    fn look_soon(&mut self, log: &mut Log) {
        log.ends.fresh = Timestamp(0);
        self.set(log, Timestamp(0));
    }

    pub fn forget(&mut self, log: &Log) {
        self.logs.remove(&(log.ends.next, log.ends.turn, log.id));
    }

    #[cold]
    fn set(&mut self, log: &mut Log, next: Timestamp) {
        self.set_behind(log, next, 0);
    }

    fn set_behind(&mut self, log: &mut Log, next: Timestamp, turn: u64) {
        self.forget(log);
        (log.ends.next, log.ends.turn) = (next, turn);
        if next != NEVER {
            self.logs.insert((next, turn, log.id));
        }
    }

    /// Lets the logs go first that have been due for longer.
    fn put_off(&mut self, log: &mut Log, now: Timestamp) {
        self.put_off += 1;
        let turn = self.put_off;
        self.set_behind(log, log.ends.next.max(now), turn);
    }
}

impl State {
    /// Notes the lives in the segments, once the metalog was read.
    pub fn note_segments(&mut self) {
        let State { logs, expiring, .. } = self;
        for log in logs.values_mut().filter(|log| !log.keeps_acked && !log.cursors.is_empty()) {
            let mut all = Lives::NONE;
            log.segments.values().for_each(|it| all.add(it.lives.unwrap_or(Lives::UNKNOWN)));
            expiring.note(log, all);
        }
    }

    /// Follows a time to live that is about to change.
    pub fn change_time_to_live(&mut self, before: &Entity, after: &Entity) {
        let ms = |entity: &Entity| entity.delivering().map_or(0, |it| it.time_to_live_ms);
        if ms(before) == ms(after) || seeded!(ChangedLivesAreNotLookedAt) {
            return;
        }
        for (_, log) in after.cursors() {
            if let Some(log) = self.logs.get_mut(&log) {
                log.limit_lives(ms(after));
                self.expiring.look_again(log);
            }
        }
    }
}

/// Messages that follow each other, and the lives of them.
#[derive(Clone, Copy, Debug)]
pub struct LivesIn {
    pub range: OffsetRange,
    pub lives: Lives,
    /// Whether the lives are known. A segment that a build of version 1 has written says nothing of them.
    is_known: bool,
}

impl LivesIn {
    /// Whether these are the messages of a segment that says nothing of the lives in it, and that ends behind `asked_upto`.
    pub fn is_unknown(&self, asked_upto: Offset) -> bool {
        !self.is_known && self.range.end > asked_upto
    }
}

/// So many cursors are asked at most, each time that messages of a log leave.
const ASKED_MAX: usize = 16;

impl Store {
    /// The first time at which a life may be over, and the log.
    #[inline]
    pub fn first_end(&self) -> Option<(Timestamp, LogId)> {
        self.state.expiring.logs.first().map(|(end, _, log)| (*end, *log))
    }

    /// The first such time and log behind another one.
    pub fn end_after(&self, last: Option<EndKey>) -> Option<EndKey> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.state.expiring.logs.range((from, Bound::Unbounded)).next().copied()
    }

    /// The time before which no life in a log is over. `None` if none ends.
    #[inline]
    pub fn next_end(&self, log: LogId) -> Option<Timestamp> {
        self.state.logs.get(&log).map(|log| log.ends.next).filter(|next| *next != NEVER)
    }

    /// The time to live of the messages of a cursor. 0 if it is not limited. `None` if it is no queue and no
    /// subscription.
    pub fn time_to_live_ms(&self, cursor: CursorId) -> Option<u64> {
        Some(self.state.catalog.get(cursor.entity())?.delivering()?.time_to_live_ms)
    }

    /// Begins to look at a log. Returns the number of the look.
    pub fn begin_look(&mut self, log: LogId) -> Option<u64> {
        let log = self.state.logs.get_mut(&log)?;
        log.ends.looks += 1;
        (log.ends.fresh, log.ends.found_ms) = (NEVER, 0);
        Some(log.ends.looks)
    }

    /// The first cursor of a log from one on, for the look at it.
    pub fn cursor_to_look_at(&mut self, log: LogId, from: CursorId) -> Option<CursorId> {
        let State { logs, catalog, .. } = &mut self.state;
        let log = logs.get_mut(&log)?;
        let cursor = *log.cursors.get(log.cursors.partition_point(|cursor| *cursor < from))?;
        let delivering = catalog.get(cursor.entity()).and_then(Entity::delivering);
        let limit = delivering.map_or(0, |it| it.time_to_live_ms);
        if limit > 0 {
            log.ends.found_ms = shorter(log.ends.found_ms, limit);
        }
        Some(cursor)
    }

    /// Ends a look at all cursors. `next` is the time before which no life is over, of the messages that were there.
    pub fn end_look(&mut self, log: LogId, number: u64, next: Option<Timestamp>) {
        let State { logs, expiring, .. } = &mut self.state;
        let Some(log) = logs.get_mut(&log) else { return };
        let next = next.unwrap_or(NEVER).min(log.ends.fresh);
        // If the time to live has changed meanwhile, the log is looked at again.
        let is_last = log.ends.looks == number;
        if is_last {
            log.ends.shortest_ms = log.ends.found_ms;
        }
        if is_last || next < log.ends.next {
            expiring.set(log, next);
        }
    }

    /// Has a log looked at soon: a message is there that was left out.
    pub fn look_soon(&mut self, log: LogId) {
        let State { logs, expiring, .. } = &mut self.state;
        if let Some(log) = logs.get_mut(&log) {
            expiring.look_soon(log);
        }
    }

    /// Lets the logs go first that have been due for longer.
    pub fn put_off(&mut self, log: LogId, now: Timestamp) {
        let State { logs, expiring, .. } = &mut self.state;
        if let Some(log) = logs.get_mut(&log).filter(|log| log.ends.next <= now) {
            expiring.put_off(log, now);
        }
    }

    /// The segment that holds an offset, or else the first one behind it.
    pub fn segment_at(&mut self, log: LogId, at: Offset) -> Option<(SegmentState, SegmentSource)> {
        let segment = self.state.logs.get(&log)?.segment_at_or_behind(at)?;
        Some((segment.clone(), self.cache.source(&self.segments, segment)))
    }

    /// Notes the lives in a segment that says nothing of them. Returns whether the segment is there still, as it was.
    pub fn learn_lives(&mut self, of: &SegmentState, lives: Option<Lives>) -> bool {
        let State { logs, changed, .. } = &mut self.state;
        let log = logs.get_mut(&of.log);
        let Some(log) = log.filter(|log| log.segments.get(of.base) == Some(of)) else {
            return false;
        };
        if let (Some(segment), Some(lives)) = (log.segments.get_mut(of.base), lives) {
            segment.lives = Some(lives);
            log.judging.learned.push(of.base);
            changed.log(log);
            self.state.reclaimable = true;
        }
        true
    }

    /// The parts of a log from an offset on, in their order, with the lives in each.
    pub fn lives_from(&self, log: LogId, from: Offset) -> impl Iterator<Item = LivesIn> {
        let log = self.state.logs.get(&log);
        let segments = log.into_iter().flat_map(move |log| {
            let first = log.segment_at_or_behind(from).map_or(log.moved, |segment| segment.base);
            log.segments.range(first..).map(|it| (it.end, it.lives))
        });
        let tail = log.into_iter().flat_map(move |log| log.tail.lives_from(from.max(log.moved)));
        let tail = tail.map(|(end, lives)| (end, Some(lives)));
        let mut at = from;
        segments.chain(tail).map(move |(end, lives)| {
            let range = at.to(end.max(at));
            at = range.end;
            let is_known = lives.is_some();
            LivesIn { range, lives: lives.unwrap_or(Lives::UNKNOWN), is_known }
        })
    }

    /// Makes all segments as those that a build of version 1 has written: they say nothing of the lives in them. The next
    /// checkpoint captures everything.
    #[cfg(test)]
    pub fn forget_lives(&mut self) {
        self.begin_metalog_anew();
        let State { logs, expiring, .. } = &mut self.state;
        for log in logs.values_mut() {
            log.segments.values_mut().into_iter().for_each(|segment| segment.lives = None);
            expiring.look_again(log);
        }
    }

    /// The cursors of a log.
    #[cfg(test)]
    pub fn cursors_of(&self, log: LogId) -> Vec<CursorId> {
        self.state.logs.get(&log).map_or(Vec::new(), |log| log.cursors.clone())
    }

    /// Notices segments that are dead by now, among those that hold offsets of a range.
    pub fn note_dead(&mut self, log: LogId, range: OffsetRange) {
        let Some(found) = self.state.logs.get(&log) else { return };
        let mut at = range.start;
        while let Some(segment) = found.segment_at_or_behind(at).filter(|it| it.base < range.end) {
            audit::step();
            let whole = segment.base.to(segment.end);
            // With many cursors it is told by their floors. What that leaves is found by the next checkpoint, in slices.
            let is_dead = match found.cursors.len() > ASKED_MAX {
                true => found.all_reach(segment.end),
                false => self.state.dead(found, whole) == whole.len(),
            };
            if is_dead {
                self.state.reclaimable = true;
                self.state.has_dead_segment = true;
                return;
            }
            at = segment.end;
        }
    }
}
