//! Checks that changes refer to what exists: those that are to be committed, and those that are read from the journal and the
//! metalog.

use super::{
    log::Cursor,
    state::{State, UNKNOWN},
};
use crate::{
    error,
    format::{Malformed, commit::Change},
    ids::{LogId, Offset},
};

impl State {
    /// Checks that the entity, the log or the cursor of a change exists.
    #[inline]
    pub fn check_target(&self, change: &Change<'_>) -> error::Result<()> {
        let (is_there, id) = match change {
            Change::Run(_) | Change::Create(_) | Change::Clock(_) => return Ok(()),
            Change::Update(entity) => (self.catalog.get(entity.id).is_some(), entity.id),
            Change::Delete { entity } => (self.catalog.get(*entity).is_some(), *entity),
            Change::Trim { log, .. } => (self.logs.contains_key(log), log.entity()),
            Change::Ack { cursor, .. }
            | Change::AckOthers { keeper: cursor, .. }
            | Change::Defer { cursor, .. }
            | Change::Seek { cursor, .. }
            | Change::Prioritize { cursor, .. }
            | Change::Spill { cursor, .. } => (self.cursors.contains_key(cursor), cursor.entity()),
        };
        if is_there { Ok(()) } else { Err(self.catalog.deleted(id)) }
    }

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
