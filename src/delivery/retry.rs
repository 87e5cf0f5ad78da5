//! The retry rules of a queue or a subscription: how long a failed message waits, and when it is dead.

use std::time::Duration;

use crate::format::entity::{BackoffMs, DeadLetters, Delivering};

/// How a queue or a subscription retries failed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    backoff: BackoffMs,
    pub dead_letters: Option<DeadLetters>,
}

impl Retry {
    pub fn of(delivering: &Delivering) -> Retry {
        Retry { backoff: delivering.backoff, dead_letters: delivering.dead_letters }
    }

    /// Whether an attempt is counted before the delivery, and not after its failure. Then an attempt that
    /// crashes the whole process is counted, too.
    #[inline]
    pub fn counts_first(&self) -> bool {
        self.dead_letters.is_some()
    }

    /// The dead-letter queue, if a message with `attempts` attempts belongs there.
    #[inline]
    pub fn dead_letters_after(&self, attempts: u32) -> Option<DeadLetters> {
        self.dead_letters.filter(|it| attempts >= it.attempts_max)
    }

    /// How long a message waits after `attempts` attempts. `chance` is any number.
    pub fn delay(&self, attempts: u32, chance: u64) -> Duration {
        let ms = match self.backoff {
            BackoffMs::None => 0,
            BackoffMs::Fixed { ms } => ms,
            BackoffMs::Exponential { first_ms, most_ms, has_jitter } => {
                let doublings = attempts.saturating_sub(1).min(63);
                let ms = first_ms.saturating_mul(1 << doublings).min(most_ms);
                // Jitter takes away up to half, so that messages that failed together spread out.
                if has_jitter { ms - chance % (ms / 2 + 1) } else { ms }
            }
        };
        Duration::from_millis(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(backoff: BackoffMs) -> Retry {
        Retry { backoff, dead_letters: None }
    }

    #[test]
    fn delays_double_up_to_the_most() {
        let backoff = BackoffMs::Exponential { first_ms: 100, most_ms: 1000, has_jitter: false };
        let delays: Vec<_> =
            [1, 2, 3, 4, 5, 64, u32::MAX].map(|n| retry(backoff).delay(n, 7).as_millis()).into();
        assert_eq!(delays, [100, 200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(retry(BackoffMs::Fixed { ms: 5 }).delay(9, 7), Duration::from_millis(5));
        assert_eq!(retry(BackoffMs::None).delay(9, 7), Duration::ZERO);
    }

    #[test]
    fn jitter_takes_away_half_at_most() {
        let backoff = BackoffMs::Exponential { first_ms: 100, most_ms: 1000, has_jitter: true };
        let delays: Vec<_> =
            (0..200).map(|chance| retry(backoff).delay(2, chance).as_millis()).collect();
        assert_eq!((delays.iter().min(), delays.iter().max()), (Some(&100), Some(&200)));
        assert_eq!(
            retry(BackoffMs::Exponential { first_ms: 1, most_ms: 1, has_jitter: true }).delay(1, 9),
            Duration::from_millis(1)
        );
    }

    #[test]
    fn the_last_attempt_is_the_one_that_was_set() {
        let dead_letters = Some(DeadLetters { queue: crate::ids::EntityId(9), attempts_max: 3 });
        let retry = Retry { backoff: BackoffMs::None, dead_letters };
        assert_eq!(
            [1, 2, 3, 4].map(|n| retry.dead_letters_after(n).is_some()),
            [false, false, true, true]
        );
    }
}
