//! Moves messages to the dead letters.

use std::time::Duration;

use super::committer::Committer;
use crate::{
    engine::core::{
        commit::Receipt,
        dead_letters::{DeadMessage, UNSETTLED},
        failures::Exhausted,
        settlement::{Settlement, Settling},
    },
    error::{ErrorKind, Result},
    ids::Due,
};

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
        self.settle_or_wait("move to the dead letters", settlement)
    }

    /// Has a leased message leave its queue before a handler sees it. Returns whether it left. If that fails, for example
    /// on a full disk, the message stays in its queue and waits a little. Others are delivered meanwhile. If its lease has run
    /// out meanwhile, the message is another delivery's.
    pub fn settle_or_wait(
        &self,
        operation: &'static str,
        settlement: &Settlement<'_>,
    ) -> Result<bool> {
        let settle = || self.settle(operation, settlement);
        let moved = self.without_debt(|| self.wait_for_space_once(settle));
        let Err(error) = moved else {
            self.sync_soon();
            return Ok(true);
        };
        let mut core = self.lock(operation);
        if error.is_lack_of_space() {
            core.put_back(settlement.cursor, settlement.key);
            return Err(error);
        }
        let now = self.elapsed();
        let later = now.saturating_add(self.lack.wait_of_unmoved(now));
        let due = Due::even(core.even(later));
        if matches!(settlement.how, Settling::DeadLetter { .. }) {
            core.move_later(settlement.cursor, settlement.key, later);
        }
        core.release(settlement.cursor, settlement.key, due);
        drop(core);
        match error.kind() {
            ErrorKind::DiskFull
            | ErrorKind::TooLarge
            | ErrorKind::LeaseLost
            | ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        }
    }

    /// Moves the messages whose last lease ran out to the dead letters, in the order in which the leases ran
    /// out: `most` of them. Returns whether there may be more to move. If one cannot be moved, this stops, and the
    /// consumers that lease the others move them.
    pub fn move_exhausted(&self, most: usize) -> bool {
        let operation = "move to the dead letters";
        self.lock(operation).take_unmoved(self.elapsed());
        for _ in 0..most {
            let mut core = self.lock(operation);
            if self.check_open(&core).is_err() {
                return false;
            }
            let Some(message) = core.next_exhausted() else { return false };
            let now = self.elapsed();
            let Some(exhausted) = core.lease_exhausted(message, now) else {
                core.keep_unmoved(message, now);
                continue;
            };
            let priority =
                core.store.acks(message.cursor).map_or(0, |it| it.priority(message.offset));
            let Ok(consumption) = core.consumption(message.cursor) else { continue };
            let info = std::sync::Arc::clone(&consumption.info);
            drop(core);
            let Exhausted { key, source, attempts, dead_letters } = exhausted;
            let stored = match self.read(operation, info.log, message.offset, source) {
                Ok(stored) => stored,
                Err(error) => {
                    let mut core = self.lock(operation);
                    if error.kind() == ErrorKind::Corrupt {
                        let error = core.set_aside(message.cursor, message.offset, key, &error);
                        core.tell_later(message.cursor, error);
                        continue;
                    }
                    // The consumer that leases this message next gets the error. Without one it is tried again.
                    let later = now.saturating_add(READ_AGAIN);
                    core.move_later(message.cursor, key, later);
                    let due = Due::even(core.even(later));
                    core.release(message.cursor, key, due);
                    return false;
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
            if !self.move_or_wait(&settlement).is_ok_and(|moved| moved) {
                return false;
            }
        }
        true
    }
}
