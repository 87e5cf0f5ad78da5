//! Reads the oldest message of a cursor, and checks its age. `delivery/oldest.rs` sets the times of checks.

use super::committer::Committer;
use crate::{
    delivery::oldest::Oldest,
    error::{ErrorKind, Result},
    ids::CursorId,
};

impl Committer {
    /// The oldest message that a cursor has not acked. Damaged ones are passed over: they tell no age.
    pub fn oldest(&self, cursor: CursorId) -> Result<Option<Oldest>> {
        loop {
            let mut core = self.lock_open("oldest message")?;
            if core.pass_damaged(cursor)? {
                self.end_slice(core);
                continue;
            }
            let Some(offset) = core.oldest(cursor)? else { return Ok(None) };
            let consumption = core.consumption(cursor)?;
            if let Some(known) = consumption.oldest.known(offset) {
                return Ok(Some(known));
            }
            let log = consumption.info.log;
            let source = core.store.locate(log, offset);
            drop(core);
            match source.and_then(|source| self.read("oldest message", log, offset, source)) {
                Ok(stored) => return Ok(Some(Oldest { offset, since: stored.begins() })),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.lock_open("oldest message")?.pass_oldest(cursor, offset)?;
                }
                // It was deleted while it was read. If the queue was, the next round says so.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks the age of a cursor's oldest message against the watched thresholds.
    pub fn check_oldest(&self, cursor: CursorId) {
        let now = self.elapsed();
        // Another thread that runs a check sets the next one.
        if !self.lock("oldest message").begin_check(cursor, now) {
            return;
        }
        let oldest = self.oldest(cursor);
        let time = self.even();
        self.lock("oldest message").finish_check(cursor, &oldest, time, now);
    }
}
