//! Messages that only one cursor of a log gets: they pass all others by.
//!
//! One change says so, however many others there are. In memory each of them acks the messages. The commit leaves that to
//! slices, as a topic may have 100,000 subscriptions, and the caller goes on with them, each in a hold of the core of its
//! own. Until its turn has come, a cursor sees the log end before the messages. The messages of one commit in one log have
//! one turn, so each cursor sees none of them, or all that it gets. A capture ends when nothing is left. Recovery gives all
//! turns at its end.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Store,
    acks::AckSet,
    log::{Cursor, Log},
    ranges::join,
    state::{State, UNKNOWN, ack_in},
};
use crate::{
    audit,
    format::{Malformed, commit::OffsetRanges},
    ids::{CursorId, LogId, Lsn, Offset, OffsetRange},
};

/// So many steps are done in one slice.
const AT_ONCE: usize = 24;

/// So many steps of a slice in a recovery: nobody waits for it, and what a slice has done takes memory.
const RECOVERED_AT_ONCE: usize = 1 << 16;

/// A recovery would take long once so many acks were given in slices: a capture spares it them.
const WORK_MAX: u64 = if cfg!(test) { 1 << 9 } else { 1 << 24 };

/// The messages of a commit in one log of which each has one cursor that gets it.
#[derive(Debug)]
pub struct Passing {
    log: LogId,
    /// The position of the commit. `None` in a recovery, where those of all commits have one turn.
    at: Option<Lsn>,
    /// The first of the messages.
    first: Offset,
    /// The messages of each cursor that gets some. Sorted by the cursors, and each of them once, when the first cursor has its
    /// turn.
    kept: Vec<(CursorId, Vec<OffsetRange>)>,
    /// All messages, from then on.
    all: Option<Messages>,
    /// Cursors up to here have had their turn.
    done: Option<CursorId>,
    /// The last cursor that was there. Those that came later begin behind the messages.
    last: CursorId,
}

type Messages = Arc<[OffsetRange]>;

/// Messages for which cursors are still to have their turn, in the order of their commits.
#[derive(Debug, Default)]
pub struct AllPassing {
    all: VecDeque<Passing>,
    /// How many ranges were acked in slices since the last capture.
    work: u64,
}

/// What a slice has done.
#[derive(Debug)]
pub struct Passed {
    /// The cursors that messages have passed by, and which messages.
    pub by: Vec<(CursorId, Messages)>,
    /// The cursors that have had their turn: they see what is there from the messages on.
    pub done: Vec<CursorId>,
}

impl AllPassing {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a recovery would have to ack so much again that it is worth a capture.
    pub fn wants_capture(&self) -> bool {
        self.work >= WORK_MAX
    }

    /// What was acked in slices so far is captured.
    pub fn is_captured(&mut self) {
        self.work = 0;
    }

    /// The messages of a commit in a log to which a change adds some.
    fn of(&mut self, log: LogId, at: Option<Lsn>) -> Option<&mut Passing> {
        let of_commit = self.all.iter_mut().rev().take_while(|it| it.at == at);
        of_commit.inspect(|_| audit::step()).find(|it| it.log == log && it.all.is_none())
    }
}

impl Passing {
    /// Whether the turn of a cursor is still to come.
    fn awaits(&self, cursor: CursorId) -> bool {
        cursor <= self.last && self.done.is_none_or(|done| done < cursor)
    }

    fn all(&mut self) -> Messages {
        if let Some(all) = &self.all {
            return Arc::clone(all);
        }
        self.kept.sort_by_key(|(keeper, _)| *keeper);
        self.kept.dedup_by(|next, before| {
            let is_same = next.0 == before.0;
            if is_same {
                before.1.append(&mut next.1);
            }
            is_same
        });
        self.kept.iter_mut().for_each(|(_, ranges)| join(ranges));
        let kept = self.kept.iter().flat_map(|(_, ranges)| ranges);
        let mut all: Vec<OffsetRange> = kept.copied().collect();
        audit::steps(all.len() as u64);
        join(&mut all);
        Arc::clone(self.all.insert(all.into()))
    }

    /// The messages that a cursor gets, if it gets some.
    fn kept_by(&self, cursor: CursorId) -> Option<&[OffsetRange]> {
        let at = self.kept.binary_search_by_key(&cursor, |(keeper, _)| *keeper).ok()?;
        Some(&self.kept[at].1)
    }
}

/// The parts of sorted ranges outside other sorted ranges.
fn outside(all: &[OffsetRange], others: &[OffsetRange]) -> Vec<OffsetRange> {
    let (mut parts, mut others) = (Vec::new(), others.iter().peekable());
    for range in all {
        let mut at = range.start;
        while let Some(other) = others.peek().filter(|it| it.start < range.end) {
            audit::step();
            parts.push(at.to(other.start.max(at)));
            at = at.max(other.end);
            if other.end > range.end {
                break;
            }
            others.next();
        }
        parts.push(at.min(range.end).to(range.end));
    }
    parts.retain(|part| !part.is_empty());
    parts
}

impl State {
    /// Has messages of a commit pass by all cursors of a log but one. The turns are still to come.
    pub(super) fn begin_passing(
        &mut self,
        log: LogId,
        keeper: CursorId,
        messages: OffsetRanges<'_>,
        at: Option<Lsn>,
    ) -> Result<(), Malformed> {
        let there = self.logs.get(&log).ok_or(UNKNOWN)?;
        if self.cursors.get(&keeper).is_some_and(|it| it.log != log) {
            return Err(UNKNOWN);
        }
        let Some(last) = there.cursors.last().copied() else { return Ok(()) };
        let kept = (keeper, messages.collect::<Vec<_>>());
        let first = kept.1.first().map_or(there.next(), |range| range.start);
        match self.passing.of(log, at) {
            Some(passing) => {
                passing.first = passing.first.min(first);
                passing.last = passing.last.max(last);
                passing.kept.push(kept);
            }
            None => {
                let (kept, all, done) = (vec![kept], None, None);
                self.passing.all.push_back(Passing { log, at, first, kept, all, done, last });
            }
        }
        Ok(())
    }

    /// Gives all cursors their turns. The caller holds no lock.
    pub fn end_passing(&mut self) {
        while self.pass_some(RECOVERED_AT_ONCE).is_some() {}
    }

    /// Does a slice of the oldest messages. `None` if no cursor awaits its turn.
    fn pass_some(&mut self, most: usize) -> Option<Passed> {
        let mut passing = self.passing.all.pop_front()?;
        let (log, all) = (passing.log, passing.all());
        let most = (most / (1 + all.len())).max(1);
        let next: Vec<CursorId> = match self.logs.get(&log) {
            // The topic was deleted.
            None => Vec::new(),
            Some(log) => {
                let is_done = |it: &CursorId| passing.done.is_some_and(|done| *it <= done);
                let from = log.cursors.partition_point(is_done);
                let rest = log.cursors[from..].iter().copied();
                rest.take_while(|it| *it <= passing.last).take(most).collect()
            }
        };
        let mut by = Vec::with_capacity(next.len());
        for id in &next {
            audit::step();
            let mut messages = Arc::clone(&all);
            if let Some(own) = passing.kept_by(*id)
                && !seeded!(OneAcksForItselfToo)
            {
                messages = outside(&all, own).into();
            }
            if let Some(unacked) = self.not_rejected(*id, &messages) {
                messages = unacked;
            }
            if seeded!(LettersOfOthersAreRetained) && id.0 == log.0 {
                continue;
            }
            if !messages.is_empty() && self.ack_passing(*id, &messages) {
                by.push((*id, messages));
            }
        }
        passing.done = next.last().copied().or(Some(passing.last));
        if passing.awaits(passing.last) {
            self.passing.all.push_front(passing);
        }
        self.passing.work += next.len() as u64 * all.len() as u64;
        Some(Passed { by, done: next })
    }

    /// The messages that a cursor would get if it has acks at or behind the first of them. Only one that has a filter, or had one,
    /// can have them: it got the filter when some of the messages were there already. It has rejected the others.
    fn not_rejected(&self, cursor: CursorId, messages: &[OffsetRange]) -> Option<Messages> {
        let first = messages.first()?.start;
        let acks = self.cursors.get(&cursor).and_then(Cursor::acks)?;
        if acks.has_nothing_from(first) {
            return None;
        }
        audit::steps(messages.len() as u64);
        Some(messages.iter().flat_map(|range| acks.unacked_in(*range)).collect())
    }

    /// `false` if the cursor is gone, or no ack cursor.
    fn ack_passing(&mut self, cursor: CursorId, messages: &[OffsetRange]) -> bool {
        let Some(cursor) = self.cursors.get_mut(&cursor) else { return false };
        let acked = ack_in(cursor, &mut self.changed, |acks| {
            for range in messages {
                audit::step();
                acks.ack(*range);
            }
        });
        let Ok(floors) = acked else { return false };
        self.note_acked(floors, &OffsetRanges::Ranges(messages));
        true
    }

    /// The end of a log for a cursor: where messages begin for which the turn of the cursor is still to come. For a cursor with
    /// a filter, it is behind the last message that has matched.
    #[inline]
    pub(super) fn end_for(&self, cursor: CursorId, log: &Log) -> Offset {
        let end = if self.passing.is_empty() { log.next() } else { self.end_beside(cursor, log) };
        if log.filters.is_none() {
            return end;
        }
        let acks = self.cursors.get(&cursor).and_then(Cursor::acks);
        acks.map_or(end, |acks| acks.end_of(end))
    }

    #[cold]
    fn end_beside(&self, cursor: CursorId, log: &Log) -> Offset {
        let passing = self.passing.all.iter().inspect(|_| audit::step());
        // The messages of a later commit are behind those of an earlier one.
        let first = passing.filter(|it| it.log == log.id && it.awaits(cursor)).map(|it| it.first);
        first.min().unwrap_or(log.next())
    }
}

impl Store {
    /// Whether messages pass by cursors whose turn is still to come.
    #[inline]
    pub fn is_passing(&self) -> bool {
        !self.state.passing.is_empty()
    }

    /// How many messages of a cursor are not acked before the end of its log, as the cursor [sees](Store::end_for) it.
    #[inline]
    pub fn unacked(&self, acks: &AckSet, end: Offset) -> u64 {
        if self.is_passing() { acks.unacked_before(end) } else { acks.unacked(end) }
    }

    /// Whether the turn of a cursor is still to come.
    pub fn awaits_turn(&self, cursor: CursorId, log: LogId) -> bool {
        let mut passing = self.state.passing.all.iter().inspect(|_| audit::step());
        passing.any(|it| it.log == log && it.awaits(cursor))
    }

    /// Does a slice of that. `None` if nothing is left.
    pub fn pass_some(&mut self) -> Option<Passed> {
        self.state.pass_some(AT_ONCE)
    }

    /// The end of a log, as a cursor sees it.
    #[inline]
    pub fn end_for(&self, cursor: CursorId, log: LogId) -> Option<Offset> {
        Some(self.state.end_for(cursor, self.state.logs.get(&log)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_outside() {
        let ranges = |all: &[(u64, u64)]| -> Vec<OffsetRange> {
            all.iter().map(|(start, end)| Offset(*start).to(Offset(*end))).collect()
        };
        for (all, others, expected) in [
            (&[(3, 8)][..], &[][..], &[(3, 8)][..]),
            (&[(3, 8)], &[(3, 8)], &[]),
            (&[(3, 8)], &[(3, 4)], &[(4, 8)]),
            (&[(3, 8)], &[(7, 8)], &[(3, 7)]),
            (&[(3, 8)], &[(4, 6), (7, 8)], &[(3, 4), (6, 7)]),
            (&[(3, 8), (10, 12)], &[(4, 5), (10, 11)], &[(3, 4), (5, 8), (11, 12)]),
            (&[(3, 8), (10, 12)], &[(6, 11)], &[(3, 6), (11, 12)]),
            (&[(3, 8), (10, 12)], &[(0, 20)], &[]),
        ] {
            assert_eq!(outside(&ranges(all), &ranges(others)), ranges(expected), "{others:?}");
        }
    }
}
