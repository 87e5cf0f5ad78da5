//! Messages that only one cursor of a log gets: they pass all others by.
//!
//! One change says so, however many others there are. In memory each of them acks the messages. The commit leaves that to
//! slices, as a topic may have 100,000 subscriptions, and the caller goes on with them, each in a hold of the core of its
//! own. Until its turn has come, a cursor sees the log end before the messages. A checkpoint comes when nothing is left, so
//! it captures no cursor whose turn is still to come. Recovery does all slices at once.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Store,
    log::Log,
    state::{State, UNKNOWN, ack_in},
};
use crate::{
    audit,
    format::{Malformed, commit::OffsetRanges},
    ids::{CursorId, LogId, Offset, OffsetRange},
};

/// So many steps are done in one slice.
const AT_ONCE: usize = 32;

/// Messages of one log that pass by all cursors but one.
#[derive(Debug)]
pub struct Passing {
    log: LogId,
    /// The cursor that gets the messages.
    keeper: CursorId,
    messages: Arc<[OffsetRange]>,
    /// Cursors up to here have had their turn.
    done: Option<CursorId>,
    /// The last cursor that was there. Those that came later begin behind the messages.
    last: CursorId,
}

/// Messages whose cursors have not all had their turn, in the order of their commits.
pub type AllPassing = VecDeque<Passing>;

/// What a slice has done.
#[derive(Debug)]
pub struct Passed {
    pub log: LogId,
    /// The cursors that the messages have passed by.
    pub cursors: Vec<CursorId>,
    pub messages: Arc<[OffsetRange]>,
    /// Whether all cursors have had their turn.
    pub ended: bool,
}

impl Passing {
    /// Whether the turn of a cursor is still to come.
    fn awaits(&self, cursor: CursorId) -> bool {
        cursor <= self.last && self.done.is_none_or(|done| done < cursor)
    }

    fn first(&self) -> Offset {
        self.messages.first().map_or(Offset(u64::MAX), |range| range.start)
    }
}

impl State {
    /// Has messages pass by all cursors of a log but one. The slices are still to be done.
    pub(super) fn begin_passing(
        &mut self,
        log: LogId,
        keeper: CursorId,
        messages: OffsetRanges<'_>,
    ) -> Result<(), Malformed> {
        let cursors = &self.logs.get(&log).ok_or(UNKNOWN)?.cursors;
        if let Some(last) = cursors.last().copied() {
            let messages = messages.collect();
            self.passing.push_back(Passing { log, keeper, messages, done: None, last });
        }
        Ok(())
    }

    /// Has messages pass by all cursors of a log but one, at once. The caller holds no lock.
    pub(super) fn pass_by(
        &mut self,
        log: LogId,
        keeper: CursorId,
        messages: OffsetRanges<'_>,
    ) -> Result<(), Malformed> {
        if seeded!(OthersGetWhatOneGets) {
            return Ok(());
        }
        self.begin_passing(log, keeper, messages)?;
        while self.pass_some(usize::MAX).is_some() {}
        Ok(())
    }

    /// Does a slice of the oldest messages. `None` if no cursor awaits its turn.
    pub(super) fn pass_some(&mut self, most: usize) -> Option<Passed> {
        let mut passing = self.passing.pop_front()?;
        let (log, messages) = (passing.log, Arc::clone(&passing.messages));
        let next: Vec<CursorId> = match self.logs.get(&log) {
            // The topic was deleted.
            None => Vec::new(),
            Some(log) => {
                let from =
                    log.cursors.partition_point(|it| passing.done.is_some_and(|done| *it <= done));
                let most = (most / (1 + messages.len())).max(1);
                log.cursors[from..]
                    .iter()
                    .copied()
                    .take_while(|it| *it <= passing.last)
                    .take(most)
                    .collect()
            }
        };
        let mut cursors = Vec::with_capacity(next.len());
        for id in &next {
            audit::step();
            let is_passed_by = *id != passing.keeper || seeded!(OneAcksForItselfToo);
            if is_passed_by && self.ack_passing(*id, &messages) {
                cursors.push(*id);
            }
        }
        passing.done = next.last().copied().or(Some(passing.last));
        let ended = !passing.awaits(passing.last);
        if !ended {
            self.passing.push_front(passing);
        }
        Some(Passed { log, cursors, messages, ended })
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

    /// The end of a log for a cursor: where messages begin for which the turn of the cursor is still to come.
    #[inline]
    pub(super) fn end_for(&self, cursor: CursorId, log: &Log) -> Offset {
        let end = log.next();
        if self.passing.is_empty() {
            end
        } else {
            self.first_passing(cursor, log.id).unwrap_or(end)
        }
    }

    #[cold]
    fn first_passing(&self, cursor: CursorId, log: LogId) -> Option<Offset> {
        let passing = self.passing.iter().inspect(|_| audit::step());
        // The messages of later commits are behind those of earlier ones.
        passing.filter(|it| it.log == log && it.awaits(cursor)).map(Passing::first).next()
    }
}

impl Store {
    /// Whether messages pass by cursors whose turn is still to come.
    #[inline]
    pub fn is_passing(&self) -> bool {
        !self.state.passing.is_empty()
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
