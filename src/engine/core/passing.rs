//! Messages that pass by all cursors of a log but one, as those of a redrive do: the slices of `store/passing.rs`, under the
//! core.

use super::Core;
use crate::{
    audit,
    error::Result,
    ids::{CursorId, LogId, Offset},
    store::{Op, Passed},
};

impl Core {
    /// The end of a log, as a cursor sees it.
    #[inline]
    pub fn end_for(&self, cursor: CursorId, log: LogId) -> Result<Offset> {
        self.store.end_for(cursor, log).ok_or_else(|| self.store.deleted(log.entity()))
    }

    /// Does a slice. Returns whether there is more to do.
    pub fn pass_some(&mut self) -> bool {
        let Some(Passed { log, cursors, messages, ended }) = self.store.pass_some() else {
            return false;
        };
        let ack = |cursor: &CursorId| Op::AckRanges { cursor: *cursor, ranges: &messages };
        let acks: Vec<Op<'_>> = cursors.iter().map(ack).collect();
        self.touch_changed(&acks);
        let count: u64 = messages.iter().map(|range| range.len()).sum();
        for cursor in &cursors {
            audit::step();
            self.count(*cursor, |counts| counts.passed_by += count);
        }
        if ended {
            self.end_passing(log, messages.first().map_or(Offset(0), |range| range.start));
        }
        self.store.is_passing()
    }

    /// Wakes the waiters that found the log to end at an offset.
    fn end_passing(&mut self, log: LogId, first: Offset) {
        // The topic may be deleted.
        let Some((_, end)) = self.store.bounds(log) else { return };
        self.wake_some(log, usize::try_from(end.0 - first.0).unwrap_or(usize::MAX));
        if self.watches_thresholds() {
            self.consumers.touch_log(log);
        }
    }
}
