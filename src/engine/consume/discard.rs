//! Discards leased messages instead of delivering them: they were tried too often, or have expired.

use super::{consumer::Consumer, lease::DeliveryInfo};
use crate::{
    engine::core::{
        commit::Receipt,
        dead_letters::{DeadMessage, EXPIRED, UNSETTLED},
        settlement::{Settlement, Settling},
    },
    error::Result,
    format::entity::DeadLetters,
    ids::Timestamp,
    store::Stored,
};

impl Consumer {
    /// Discards a leased message if it was tried too often or has expired: moves it to the dead letters, or
    /// drops it. Returns whether it was discarded.
    #[inline(always)]
    pub(super) fn discards(
        &self,
        stored: &Stored,
        delivered: DeliveryInfo,
        exhausted: Option<DeadLetters>,
    ) -> Result<bool> {
        let expires = stored.expires(self.info.current.time_to_live_ms());
        // Most messages live for ever, and are not tried too often.
        if exhausted.is_none() && expires.is_none() {
            return Ok(false);
        }
        self.discards_over(stored, delivered, exhausted, expires)
    }

    #[inline(never)]
    fn discards_over(
        &self,
        stored: &Stored,
        delivered: DeliveryInfo,
        exhausted: Option<DeadLetters>,
        expires: Option<Timestamp>,
    ) -> Result<bool> {
        match (exhausted, expires) {
            (None, None) => Ok(false),
            (Some(dead_letters), _) => {
                let attempts = delivered.attempt;
                self.move_to_dead_letters(stored, delivered, dead_letters, attempts, UNSETTLED)?;
                Ok(true)
            }
            (None, Some(expires)) => {
                let now = self.committer().even();
                let is_over = expires <= now || seeded!(ExpiresTooEarly);
                if !is_over || seeded!(ExpiredIsDelivered) {
                    return Ok(false);
                }
                self.discard_expired(stored, delivered)?;
                Ok(true)
            }
        }
    }

    fn discard_expired(&self, stored: &Stored, delivered: DeliveryInfo) -> Result<()> {
        let tried = delivered.attempt.saturating_sub(1);
        if let Some(dead_letters) = self.info.current.all().retry.dead_letters {
            return self.move_to_dead_letters(stored, delivered, dead_letters, tried, EXPIRED);
        }
        let committer = self.committer();
        if seeded!(ExpiredIsDroppedWithoutACommit) {
            let mut core = committer.lock_open("drop an expired message")?;
            core.end_deleted(self.cursor(), delivered.key, false);
        } else {
            let _: Receipt = committer
                .settle("drop an expired message", &self.settlement(delivered, Settling::Drop))?;
        }
        committer.sync_soon();
        committer.lock("drop an expired message").note_undelivered(self.cursor(), tried > 0);
        Ok(())
    }

    /// Moves a message that was not delivered to the dead letters.
    fn move_to_dead_letters(
        &self,
        stored: &Stored,
        delivered: DeliveryInfo,
        dead_letters: DeadLetters,
        attempts: u32,
        reason: &str,
    ) -> Result<()> {
        let committer = self.committer();
        let dead = DeadMessage { stored, attempts, priority: delivered.priority, reason };
        let letter = Box::new(dead.letter(&self.info.origin(), dead_letters, committer.now()));
        let how = Settling::DeadLetter { letter, has_failed: false };
        let was_moved = committer.move_or_wait(&self.settlement(delivered, how))?;
        let mut core = committer.lock("move to the dead letters");
        core.note_undelivered(self.cursor(), attempts > 0);
        if was_moved && reason == EXPIRED {
            core.count(self.cursor(), |counts| counts.expired += 1);
        }
        Ok(())
    }

    /// A settlement of a delivery of this consumer.
    pub fn settlement<'a>(&self, delivered: DeliveryInfo, how: Settling<'a>) -> Settlement<'a> {
        let DeliveryInfo { key, attempt, leased, .. } = delivered;
        Settlement { cursor: self.cursor(), key, attempt, leased, how }
    }
}
