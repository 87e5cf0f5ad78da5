//! Checks that what is read from the journal and the metalog refers to messages that exist.

use super::{
    log::Cursor,
    state::{State, UNKNOWN},
};
use crate::{
    format::{Malformed, commit::Change},
    ids::{LogId, Offset},
};

impl State {
    /// Refuses a change that refers to a message that does not exist yet. `next` gives the next
    /// offset of a log.
    pub fn check_is_there(
        &self,
        change: &Change<'_>,
        next: impl Fn(LogId) -> Option<Offset>,
    ) -> Result<(), Malformed> {
        let (cursor, end) = match change {
            Change::Defer { cursor, offset, .. } => (cursor, offset.0 + 1),
            Change::Prioritize { cursor, first, count, .. } => (cursor, first.0 + count),
            Change::Spill { cursor, offsets } => (cursor, offsets.last().map_or(0, |it| it.end.0)),
            Change::AckOthers { log, offsets, .. } => {
                let end = offsets.last().map_or(Offset(0), |it| it.end);
                return if next(*log).is_some_and(|next| end > next) {
                    Err(UNKNOWN)
                } else {
                    Ok(())
                };
            }
            _ => return Ok(()),
        };
        let next = self.cursors.get(cursor).and_then(|cursor| next(cursor.log));
        if next.is_some_and(|next| end > next.0) { Err(UNKNOWN) } else { Ok(()) }
    }

    /// Refuses ack states of a metalog that refer to messages that do not exist. `next` gives the
    /// next offset of a log in the metalog.
    pub fn check_acks(&self, next: impl Fn(LogId) -> Option<Offset>) -> Result<(), Malformed> {
        let is_there = |cursor: &Cursor| {
            cursor.acks().is_none_or(|acks| acks.end() <= next(cursor.log).unwrap_or_default())
        };
        match self.cursors.values().all(is_there) {
            true => Ok(()),
            false => Err(Malformed("an ack state refers to messages that do not exist")),
        }
    }
}
