//! Messages that pass by all cursors of a log but one, as those of a redrive do: the slices of `store/passing.rs`, under the
//! core.
//!
//! The commit has woken who waits for the messages. Whoever looks at a cursor goes on with the slices until the cursor has had
//! its turn. So a slice wakes nobody.

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
        let Some(Passed { by, done }) = self.store.pass_some() else {
            return false;
        };
        let acks = by.iter().map(|(cursor, ranges)| Op::AckRanges { cursor: *cursor, ranges });
        let acks: Vec<Op<'_>> = acks.collect();
        if self.watches_thresholds() {
            self.consumers.touch_changed(&acks);
        }
        if !self.dormancy.notes.is_empty() {
            self.note_operations(&acks);
        }
        for (cursor, messages) in &by {
            audit::step();
            let count: u64 = messages.iter().map(|range| range.len()).sum();
            self.count(*cursor, |counts| counts.passed_by += count);
        }
        if self.watches_thresholds() {
            for cursor in &done {
                audit::step();
                _ = self.consumers.get_mut(cursor);
            }
        }
        self.store.is_passing()
    }
}
