//! What topics keep for those who come late.
//!
//! A topic with limits has an ack cursor of its own, its *keeper*. To the store that is one more subscription: it needs the
//! messages within the limits, and a message that leaves by a limit is acked for it. So nothing else is to be known of it when
//! space is freed, when segments are rewritten, in a checkpoint, or after a crash. Messages that only one subscription gets pass
//! it by, as they pass all others.
//!
//! The keeper comes and goes with the limits. It begins behind all messages that are there.

use super::{
    acks::AckSet,
    log::{Cursor, Progress},
    state::{State, held_by},
};
use crate::{
    format::entity::Entity,
    ids::{CursorId, LogId, Offset},
};

impl State {
    /// The cursor by which a topic keeps messages for those who come late, if it does.
    pub fn keeper_of(&self, log: LogId) -> Option<CursorId> {
        self.catalog.get(log.entity())?.keeper()
    }

    /// Follows limits of a topic that come or go. If they only change, the keeper stays.
    pub(super) fn change_keeper(&mut self, there: &Entity, entity: &Entity) {
        match (there.keeper(), entity.keeper()) {
            (None, Some(keeper)) => self.add_keeper(keeper, entity.id.log(0)),
            (Some(keeper), None) => self.take_out_cursor(keeper),
            _ => {}
        }
    }

    fn add_keeper(&mut self, keeper: CursorId, log_id: LogId) {
        let State { logs, cursors, changed, filtering, .. } = self;
        let Some(log) = logs.get_mut(&log_id) else { return };
        // In a damaged store nobody knows where the log ended then: it keeps whatever is there.
        let start = match (filtering.is_in_doubt, filtering.is_whole) {
            (false, _) => log.next(),
            (true, true) => log.moved,
            (true, false) => Offset(0),
        };
        let progress = Progress::Acks(AckSet::new(start));
        let mut cursor = Cursor { id: keeper, log: log_id, progress, dirty: false, spares: false };
        if !seeded!(KeeperIsNotCaptured) {
            changed.cursor(&mut cursor);
        }
        cursors.insert(keeper, Box::new(cursor));
        let held_by = |cursor| held_by(cursors, cursor);
        log.add_cursor(keeper, held_by(keeper), held_by);
    }
}
