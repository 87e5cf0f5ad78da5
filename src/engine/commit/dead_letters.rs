//! Moves messages to the dead letters.

use std::time::Duration;

use super::committer::Committer;
use crate::{
    engine::core::{
        commit::Receipt,
        consumption::CursorInfo,
        dead_letters::{DeadMessage, UNSETTLED},
        failures::{Exhausted, MessageId},
        settlement::{Settlement, Settling},
    },
    error::{ErrorKind, Result},
    ids::Due,
};

const MOVE: &str = "move to the dead letters";

/// A message that cannot be read for the moment is tried again so much later.
const READ_AGAIN: Duration = Duration::from_secs(1);

impl Committer {
    /// Settles one delivery in a commit of its own.
    pub fn settle(&self, operation: &'static str, settlement: &Settlement<'_>) -> Result<Receipt> {
        let settlements = std::slice::from_ref(settlement);
        let settled = self.transact(operation, |core| {
            let receipt = core.settle(settlements, self.elapsed(), self.now())?;
            Ok(((), receipt))
        })?;
        Ok(settled.1)
    }

    /// Moves a leased message to the dead letters. Returns whether it was moved: see
    /// [`settle_or_wait`](Committer::settle_or_wait).
    pub fn move_or_wait(&self, settlement: &Settlement<'_>) -> Result<bool> {
        self.settle_or_wait(MOVE, settlement)
    }

    /// Has a leased message leave its queue before a handler sees it. Returns whether it left. If that fails, for example
    /// on a full disk, the message stays in its queue and waits a little. Others are delivered meanwhile. If its lease has run
    /// out meanwhile, the message is another delivery's.
    pub fn settle_or_wait(
        &self,
        operation: &'static str,
        settlement: &Settlement<'_>,
    ) -> Result<bool> {
        let Err(error) = self.settle_or_release(operation, settlement) else { return Ok(true) };
        match error.kind() {
            _ if error.is_lack_of_space() => Err(error),
            ErrorKind::DiskFull
            | ErrorKind::TooLarge
            | ErrorKind::LeaseLost
            | ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        }
    }

    fn settle_or_release(
        &self,
        operation: &'static str,
        settlement: &Settlement<'_>,
    ) -> Result<()> {
        let settle = || self.settle(operation, settlement);
        let moved = self.without_debt(|| self.wait_for_space_once(settle));
        let Err(error) = moved else {
            self.sync_soon();
            return Ok(());
        };
        let mut core = self.lock(operation);
        if error.is_lack_of_space() {
            core.put_back(settlement.cursor, settlement.key);
            return Err(error);
        }
        let now = self.elapsed();
        let due = Due::even(core.even(now.saturating_add(self.lack.wait_of_unmoved(now))));
        core.release(settlement.cursor, settlement.key, due);
        Err(error)
    }

    /// Moves the messages whose last attempts failed to the dead letters, in the order in which they failed: `most` of
    /// them. If there are more, the mover is called again. If one cannot be moved, it waits, and so do those behind it, unless
    /// a consumer leases and moves them.
    pub fn move_exhausted(&self, most: usize) {
        let all_moved = (0..most).try_for_each(|_| self.move_next_exhausted());
        let now = self.elapsed();
        let at = match all_moved {
            Ok(()) => now,
            Err(NotMoved::NoneLeft) => return,
            Err(NotMoved::ReadFailed) => now.saturating_add(READ_AGAIN),
            Err(NotMoved::NoSpace) => now.saturating_add(self.lack.wait_of_unmoved(now)),
        };
        self.lock(MOVE).call_mover(at);
    }

    /// Moves the next message to the dead letters whose last attempt failed. One that is gone, or is on lease, needs it no
    /// more: what ends that lease sees to it.
    fn move_next_exhausted(&self) -> std::result::Result<(), NotMoved> {
        let mut core = self.count_failures(MOVE, self.lock(MOVE));
        if self.check_open(&core).is_err() || !core.has_exhausted() {
            return Err(NotMoved::NoneLeft);
        }
        if core.has_failures() {
            return Err(NotMoved::NoSpace);
        }
        let Some(message) = core.next_exhausted() else { return Err(NotMoved::NoneLeft) };
        let now = self.elapsed();
        let Some(exhausted) = core.lease_exhausted(message, now) else { return Ok(()) };
        let priority = core.store.acks(message.cursor).map_or(0, |it| it.priority(message.offset));
        let Ok(consumption) = core.consumption(message.cursor) else { return Ok(()) };
        let info = std::sync::Arc::clone(&consumption.info);
        drop(core);
        self.move_leased(message, &info, priority, exhausted)
    }

    /// Moves a message that was leased for it.
    pub(super) fn move_leased(
        &self,
        message: MessageId,
        info: &CursorInfo,
        priority: u8,
        exhausted: Exhausted,
    ) -> std::result::Result<(), NotMoved> {
        let now = self.elapsed();
        let Exhausted { key, source, attempts, dead_letters } = exhausted;
        let stored = source.and_then(|it| self.read(MOVE, info.log, message.offset, it));
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                let mut core = self.lock(MOVE);
                if error.kind() == ErrorKind::Corrupt {
                    let error = core.set_aside(message.cursor, message.offset, key, &error);
                    core.tell_later(message.cursor, error);
                    return Ok(());
                }
                if error.kind() == ErrorKind::NotFound {
                    // It was deleted meanwhile. Those behind it do not wait for that.
                    core.put_back(message.cursor, key);
                    return Ok(());
                }
                // The consumer that leases this message next gets the error. Without one it is tried again.
                let due = Due::even(core.even(now.saturating_add(READ_AGAIN)));
                core.release(message.cursor, key, due);
                return Err(NotMoved::ReadFailed);
            }
        };
        let dead = DeadMessage { stored: &stored, attempts, priority, reason: UNSETTLED };
        let letter = Box::new(dead.letter(&info.origin(), dead_letters));
        let settlement = Settlement {
            cursor: message.cursor,
            key,
            attempt: attempts,
            leased: now,
            how: Settling::DeadLetter { letter, has_failed: false },
        };
        let moved = self.settle_or_release(MOVE, &settlement);
        match moved.map_err(|error| error.kind()) {
            // Others can be moved.
            Ok(()) | Err(ErrorKind::TooLarge | ErrorKind::LeaseLost | ErrorKind::NotFound) => {
                Ok(())
            }
            Err(_) => Err(NotMoved::NoSpace),
        }
    }
}

/// Why a message was not moved to the dead letters.
#[derive(Debug)]
pub enum NotMoved {
    NoneLeft,
    ReadFailed,
    NoSpace,
}
