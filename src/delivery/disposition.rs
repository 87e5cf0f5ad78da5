//! The disposition of a failed delivery: the message is retried, or moves to the dead letters.
//!
//! [`retry`](super::retry) holds the rules of a queue. This module applies them to one failure.

use std::time::Duration;

use super::Retry;
use crate::{
    format::entity::DeadLetters,
    ids::{Due, Offset, Timestamp},
};

/// What happens to a message after its delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is delivered again.
    Retry {
        attempts: u32,
        /// When it is delivered again.
        due: Due,
    },
    /// It moves to the dead letters.
    DeadLetter(DeadLetters),
    /// It was deleted while it was leased.
    Gone,
}

/// A delivery that has failed.
#[derive(Clone, Copy, Debug)]
pub struct FailedDelivery {
    pub offset: Offset,
    /// The number of this delivery, as its consumer saw it.
    pub attempt: u32,
    /// The delay that the consumer asks for.
    pub delay: Option<Duration>,
    /// Whether its lease ran out.
    pub ran_out: bool,
}

impl FailedDelivery {
    /// Decides the disposition. `tried` is the stored number of attempts, `now` is the even time, rounded up, and
    /// `chance` is any number.
    pub fn disposition(
        &self,
        retry: &Retry,
        tried: u32,
        now: Timestamp,
        chance: u64,
    ) -> Disposition {
        // A queue that counts first has stored this attempt already, unless the disk was full.
        let attempts = match retry.counts_first() {
            true => tried.max(self.attempt),
            false => tried.saturating_add(1),
        };
        if let Some(dead_letters) = retry.dead_letters_after(attempts) {
            return Disposition::DeadLetter(dead_letters);
        }
        let delay = match self.delay {
            Some(delay) => delay,
            // The lease was a wait already.
            None if self.ran_out && attempts <= 1 => Duration::ZERO,
            None => retry.delay(attempts, chance),
        };
        let due = if delay.is_zero() {
            Due::NOW
        } else {
            let ms = delay.as_nanos().div_ceil(1_000_000) as u64;
            let due = Timestamp(now.0.saturating_add(ms));
            if seeded!(DelaysFollowTheClock) { Due::day(due) } else { Due::even(due) }
        };
        Disposition::Retry { attempts, due }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::entity::{BackoffMs, Delivering},
        ids::EntityId,
    };

    const NOW: Timestamp = Timestamp(1000);

    fn failed(attempt: u32, delay: Option<Duration>) -> FailedDelivery {
        FailedDelivery { offset: Offset(7), attempt, delay, ran_out: false }
    }

    fn retry(delivering: &Delivering) -> Retry {
        Retry::of(delivering)
    }

    #[test]
    fn a_failure_waits_for_the_backoff_or_for_the_delay_that_its_consumer_says() {
        let backoff = BackoffMs::Fixed { ms: 50 };
        let retry = retry(&Delivering { backoff, ..Delivering::leasing(1000) });
        let at = |due| Disposition::Retry { attempts: 3, due: Due::even(Timestamp(due)) };
        assert_eq!(failed(1, None).disposition(&retry, 2, NOW, 9), at(1050));
        let at_once = Disposition::Retry { attempts: 3, due: Due::NOW };
        let half = Some(Duration::from_micros(500));
        assert_eq!(failed(1, half).disposition(&retry, 2, NOW, 9), at(1001), "rounded up");
        assert_eq!(failed(1, Some(Duration::ZERO)).disposition(&retry, 2, NOW, 9), at_once);
    }

    #[test]
    fn the_first_retry_after_a_lease_that_ran_out_is_immediate() {
        let backoff = BackoffMs::Fixed { ms: 50 };
        let retry = retry(&Delivering { backoff, ..Delivering::leasing(1000) });
        let ran_out = FailedDelivery { ran_out: true, ..failed(1, None) };
        let again = |attempts, due| {
            let due = if due == 0 { Due::NOW } else { Due::even(Timestamp(due)) };
            Disposition::Retry { attempts, due }
        };
        assert_eq!(ran_out.disposition(&retry, 0, NOW, 9), again(1, 0));
        let second = FailedDelivery { attempt: 2, ..ran_out };
        assert_eq!(second.disposition(&retry, 1, NOW, 9), again(2, 1050));
        assert_eq!(failed(1, None).disposition(&retry, 0, NOW, 9), again(1, 1050));
    }

    #[test]
    fn a_delivery_that_was_counted_first_is_not_counted_twice() {
        let dead_letters = DeadLetters { queue: EntityId(9), attempts_max: 3 };
        let dead = Some(dead_letters);
        let retry = retry(&Delivering { dead_letters: dead, ..Delivering::leasing(1000) });
        let at_once = |attempts| Disposition::Retry { attempts, due: Due::NOW };
        assert_eq!(failed(2, None).disposition(&retry, 2, NOW, 9), at_once(2));
        assert_eq!(failed(2, None).disposition(&retry, 0, NOW, 9), at_once(2), "the disk was full");
        let last = failed(3, None).disposition(&retry, 3, NOW, 9);
        assert_eq!(last, Disposition::DeadLetter(dead_letters));
    }
}
