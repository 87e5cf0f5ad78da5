//! Discards leased messages instead of delivering them: they were tried too often, or have expired.

use super::{consumer::Consumer, lease::DeliveryInfo};
use crate::{
    engine::core::{
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
            let settlement = self.settlement(delivered, Settling::Drop);
            committer.settle_or_wait("drop an expired message", &settlement)?;
        }
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
        let letter = Box::new(dead.letter(&self.info.origin(), dead_letters));
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use crate::{Engine, config::Config, disk::sim::SimDisk};

    /// The read of a message may take longer than its lease, and than its life. `receive` returned `LeaseLost` then.
    #[test]
    fn a_lease_that_ends_before_an_expired_message_is_dropped_is_no_error() {
        let second = Duration::from_secs(1);
        for has_letters in [false, true] {
            let disk = SimDisk::new(1);
            let process = Arc::new(disk.process());
            let engine = Engine::open_on(process, Path::new("store"), Config::default(), false);
            let engine = engine.expect("the disk is well");
            let builder = engine.queue("q").lease(second).time_to_live(10 * second);
            let builder = if has_letters { builder.max_attempts(3) } else { builder };
            let queue = builder.create().expect("there is space");
            queue.send_batch(["a", "b"]).expect("there is space");
            let one = queue.try_receive().expect("it is there").expect("it was sent");
            disk.advance(20 * second);
            // Another consumer has noticed that the lease has run out.
            assert!(queue.try_receive().expect("there is space").is_none());
            let discarded = one.consumer.discards(&one.stored, one.info, None);
            assert!(discarded.expect("no error"), "it is not delivered");
            let counts = queue.stats().expect("it is there");
            assert_eq!((counts.depth, counts.in_flight), (0, 0));
        }
    }
}
