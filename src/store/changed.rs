//! What changed since the last checkpoint: lists, so that the work of a checkpoint follows what changed, and not what
//! there is.
//!
//! Invariants: a log or a cursor whose flag `dirty` is set is in its list. A list may also name what was deleted or
//! captured meanwhile; that is passed over. A log with messages in the journal that no checkpoint moved is in
//! `unmoved`. A log with a segment in which messages became dead, since that segment was judged, is in `suspects`.
//! `wasteful` names segments until they leave their files.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Bound,
};

use super::log::{Cursor, Log};
use crate::{
    audit,
    format::commit::OffsetRanges,
    ids::{CursorId, EntityId, LogId, Lsn, Offset, OffsetRange},
};

#[derive(Debug, Default)]
pub struct Changed {
    /// Entities that were created, changed or deleted since they were captured.
    pub entities: BTreeSet<EntityId>,
    /// Entities whose deletion the last capture has. The next one says it again.
    pub gone: BTreeSet<EntityId>,
    /// Whether the clocks were recorded since they were captured.
    pub clock: bool,
    logs: VecDeque<LogId>,
    cursors: VecDeque<CursorId>,
    /// By a position that is not behind the first such message.
    unmoved: BTreeSet<(Lsn, LogId)>,
    suspects: BTreeSet<LogId>,
    /// Segments that were judged and stay, but are rewritten once the store is idle.
    wasteful: BTreeSet<(LogId, Offset)>,
    /// Whether segments are to be judged as after an open: nobody counted what is dead in them.
    pub unjudged: bool,
    /// How many times a log or a cursor was listed.
    pub listings: u64,
    /// About how many bytes died in segments since they were judged.
    pub dead: u64,
    /// Logs with limits of age, bytes or records to which messages came, or in which they were moved, since they were looked at.
    to_look_at: BTreeSet<LogId>,
}

impl Changed {
    #[inline]
    pub fn log(&mut self, log: &mut Log) {
        if !log.dirty {
            log.dirty = true;
            self.listings += 1;
            if !seeded!(ChangedLogIsNotListed) {
                self.logs.push_back(log.id);
            }
        }
    }

    #[inline]
    pub fn cursor(&mut self, cursor: &mut Cursor) {
        if !cursor.dirty {
            cursor.dirty = true;
            self.listings += 1;
            if !seeded!(ChangedCursorIsNotListed) {
                self.cursors.push_back(cursor.id);
            }
        }
    }

    pub fn next_log(&mut self) -> Option<LogId> {
        self.logs.pop_front()
    }

    pub fn next_cursor(&mut self) -> Option<CursorId> {
        self.cursors.pop_front()
    }

    /// Lists a log again that was captured in part. The others come first, or one that changes all the time would keep them
    /// waiting.
    pub fn rest_of_log(&mut self, log: &mut Log) {
        log.dirty = true;
        self.logs.push_back(log.id);
    }

    /// Lists a cursor again that was captured in part.
    pub fn rest_of(&mut self, cursor: CursorId) {
        self.cursors.push_back(cursor);
    }

    /// Whether everything was captured.
    pub fn is_captured(&self) -> bool {
        self.entities.is_empty() && self.logs.is_empty() && self.cursors.is_empty()
    }

    /// Empties the lists of what is to be captured: everything is about to be.
    pub fn forget_all(&mut self) {
        self.entities.clear();
        (self.logs, self.cursors) = (VecDeque::new(), VecDeque::new());
    }

    /// How many logs and cursors are listed.
    pub fn listed(&self) -> (usize, usize) {
        (self.logs.len(), self.cursors.len())
    }

    /// Notes a run of messages that is in the journal only.
    #[inline]
    pub fn arrival(&mut self, log: &mut Log, lsn: Lsn) {
        if log.unmoved_from.is_none() {
            self.list_unmoved(log, lsn);
        }
    }

    /// Takes back the first run of a log that no checkpoint moved: its commit was not made.
    pub fn never_arrived(&mut self, log: &mut Log) {
        if let Some(lsn) = log.unmoved_from.take() {
            self.unmoved.remove(&(lsn, log.id));
        }
    }

    #[cold]
    fn list_unmoved(&mut self, log: &mut Log, lsn: Lsn) {
        log.unmoved_from = Some(lsn);
        self.unmoved.insert((lsn, log.id));
        self.look_at(log);
    }

    /// Notes that a log has other messages, or has them elsewhere, than when its limits were looked at.
    fn look_at(&mut self, log: &Log) {
        if log.retains && !seeded!(ArrivalsAreNotLookedAt) {
            self.to_look_at.insert(log.id);
        }
    }

    /// The next of those logs behind one.
    pub fn next_to_look_at(&self, last: LogId) -> Option<LogId> {
        self.to_look_at.range((Bound::Excluded(last), Bound::Unbounded)).next().copied()
    }

    /// Nobody has to look at the limits of a log.
    pub fn looked_at(&mut self, log: LogId) {
        self.to_look_at.remove(&log);
    }

    /// Follows a checkpoint that moved messages before a position. The log stays listed while it has messages behind
    /// that, also if they are dead: the metalog has to say that they are not to be replayed.
    pub fn moved(&mut self, log: &mut Log, upto: Lsn) {
        self.look_at(log);
        let Some(before) = log.unmoved_from.take() else { return };
        self.unmoved.remove(&(before, log.id));
        if log.moved < log.next() && !seeded!(RestOfTheJournalIsNotListed) {
            let first = log.tail.find(log.moved).map_or(upto, |run| run.lsn);
            self.list_unmoved(log, first);
        }
    }

    /// The next logs with messages in the journal before a position, in the order of their first messages.
    pub fn unmoved_behind(
        &self,
        last: (Lsn, LogId),
        upto: Lsn,
    ) -> impl Iterator<Item = (Lsn, LogId)> {
        let range = (Bound::Excluded(last), Bound::Excluded((upto.max(last.0), LogId(0))));
        let is_empty = (upto, LogId(0)) <= last;
        (!is_empty).then(|| self.unmoved.range(range).copied()).into_iter().flatten()
    }

    /// Notes messages that became dead for a cursor, and may be in segments.
    #[cold]
    pub fn died(&mut self, log: &mut Log, offsets: &OffsetRanges<'_>) {
        if !log.segments.is_empty() {
            offsets.for_each(|range| {
                self.suspect(log, range);
                // With several cursors a message is dead once all that need it have acked it.
                let moved = range.within(Offset(0).to(log.moved)).len();
                self.dead += moved * log.judging.record_bytes / log.needing();
            });
        }
    }

    /// Notes records that were trimmed, and may be in segments.
    pub fn trimmed(&mut self, log: &mut Log, range: OffsetRange) {
        self.suspect(log, range);
        let moved = range.within(Offset(0).to(log.moved)).len();
        self.dead += moved * log.judging.record_bytes;
    }

    /// Has the segments that hold offsets of a range judged by the next checkpoint.
    pub fn suspect(&mut self, log: &mut Log, range: OffsetRange) {
        audit::step();
        let range = range.within(Offset(0).to(log.moved));
        if range.is_empty() || log.judging.suspect.covers(range) {
            return;
        }
        let first = log.segment_at_or_behind(range.start).filter(|it| it.base < range.end);
        let Some(first) = first else { return };
        let start = first.base.min(range.start);
        log.judging.record_bytes = first.len() / first.records.max(1);
        let last = log.segment_of(Offset(range.end.0 - 1));
        let end = last.map_or(range.end, |it| it.end);
        log.judging.suspect.add(start.to(end));
        self.suspects.insert(log.id);
    }

    /// The next log with segments to be judged.
    pub fn suspect_behind(&self, last: Option<LogId>) -> Option<LogId> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.suspects.range((from, Bound::Unbounded)).next().copied()
    }

    /// Notes that segments stay as they are. They are judged again when more messages in them are dead.
    pub fn judged(&mut self, log: &mut Log, range: OffsetRange) {
        if !range.is_empty() && !log.judging.suspect.is_empty() {
            log.judging.suspect.remove(range);
        }
        log.shrink_judging();
        if log.judging.suspect.is_empty() {
            self.suspects.remove(&log.id);
        }
    }

    /// Notes whether a segment that stays is to be rewritten once the store is idle.
    pub fn stays(&mut self, log: LogId, base: Offset, is_wasteful: bool) {
        if is_wasteful {
            self.wasteful.insert((log, base));
        } else if !self.wasteful.is_empty() {
            self.wasteful.remove(&(log, base));
        }
    }

    /// Whether an idle store has segments to be rewritten.
    pub fn has_wasteful(&self) -> bool {
        !self.wasteful.is_empty()
    }

    /// Takes some of the segments that are rewritten once the store is idle.
    pub fn take_wasteful(&mut self, most: usize) -> Vec<(LogId, Offset)> {
        let taken = std::iter::from_fn(|| self.wasteful.pop_first());
        taken.inspect(|_| audit::step()).take(most).collect()
    }

    /// Forgets a log that was deleted.
    pub fn forget(&mut self, log: &Log) {
        self.suspects.remove(&log.id);
        if let Some(lsn) = log.unmoved_from {
            self.unmoved.remove(&(lsn, log.id));
        }
    }
}
