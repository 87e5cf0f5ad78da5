//! Reads the oldest message of a cursor, and checks its age. `delivery/oldest.rs` sets the times of checks.

use std::{error::Error as _, io};

use super::committer::Committer;
use crate::{
    delivery::oldest::Oldest,
    error::{Error, ErrorKind, Result},
    ids::{CursorId, Offset},
    store::Source,
};

/// So many damaged blocks are passed over in one check. The flusher has other duties.
const BLOCKS_PASSED_MAX: usize = 64;

impl Committer {
    /// The oldest message that a cursor has not acked. Damaged ones are passed over: they tell no age.
    pub fn oldest(&self, cursor: CursorId) -> Result<Option<Oldest>> {
        self.oldest_behind(cursor, usize::MAX)
    }

    /// The same, behind so many damaged blocks at most. The error of the next one says that there are more.
    fn oldest_behind(&self, cursor: CursorId, blocks: usize) -> Result<Option<Oldest>> {
        let operation = "oldest message";
        let mut passed = 0;
        loop {
            let mut core = self.lock_open(operation)?;
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
            let source = match core.store.locate(log, offset) {
                Err(error) if is_rot(&error) && passed < blocks => {
                    passed += 1;
                    core.pass_oldest(cursor, offset.next())?;
                    continue;
                }
                located => located?,
            };
            drop(core);
            match self.read(operation, log, offset, source.clone()) {
                Ok(stored) => return Ok(Some(Oldest { offset, since: stored.begins() })),
                // It was deleted while it was read. If the queue was, the next round says so.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if is_rot(&error) && passed < blocks => {
                    passed += 1;
                    let end = end_of_block(&source, offset);
                    self.lock_open(operation)?.pass_oldest(cursor, end)?;
                }
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
        let oldest = self.oldest_behind(cursor, BLOCKS_PASSED_MAX);
        let time = self.even();
        self.lock("oldest message").finish_check(cursor, &oldest, time, now);
    }
}

/// Whether an error tells of bytes that are wrong for good. A file that is missing may come back.
fn is_rot(error: &Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    error.kind() == ErrorKind::Corrupt
        && source.is_none_or(|source| source.kind() != io::ErrorKind::NotFound)
}

/// The end of the block in which a damaged message is.
fn end_of_block(source: &Source, offset: Offset) -> Offset {
    let segment = source.segment().cloned().and_then(|segment| segment.open().ok());
    let last = segment
        .and_then(|(reader, _)| reader.block_at(offset).map(|block| reader.table()[block].last));
    last.unwrap_or(offset).next()
}
