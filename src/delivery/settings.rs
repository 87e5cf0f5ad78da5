//! The settings of queues and subscriptions: builders collect and check them here, and make the definition that
//! is stored.

use std::time::Duration;

use crate::{
    config::{
        ATTEMPTS_DEFAULT, Backoff, LEASE_DEFAULT, Overflow, check_delay, check_lease, check_name,
    },
    error::{Error, Result},
    format::entity::{BackoffMs, DeadLetters, Delivering, Limit},
    ids::EntityId,
};

/// Why a queue that is ordered by key delays no message.
pub const UNDELAYED: &str = "a queue that is ordered by key delays no message, because later \
                             messages of its key would have to wait, too";

/// The settings that the application gave. In a new queue, a setting that was not given has its default. In an
/// existing queue, it stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub lease: Option<Duration>,
    pub delay: Option<Duration>,
    pub backoff: Option<Backoff>,
    pub time_to_live: Option<Duration>,
    pub max_attempts: Option<u32>,
    pub dead_letter_queue: Option<String>,
    pub ordered_by_key: Option<bool>,
    pub single_active_consumer: Option<bool>,
    pub max_messages: Option<u64>,
    pub max_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
}

/// The definition of a queue with default settings.
pub fn plain() -> Delivering {
    Settings::default().definition(None)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn lease_ms(lease: Duration) -> u64 {
    lease.as_millis() as u64
}

impl Settings {
    /// The name of the queue for the dead letters of queue `name`, if the settings ask for one.
    pub fn dead_letter_queue_of(&self, name: &str) -> Option<String> {
        let by_default = || self.max_attempts.map(|_| format!("{name}.dead"));
        self.dead_letter_queue.clone().or_else(by_default)
    }

    /// Checks the settings. `dead_letter_queue` is the name of the queue for dead letters, if any.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with the name of the setting.
    pub fn check(&self, dead_letter_queue: Option<&str>) -> Result<()> {
        check_lease(self.lease.unwrap_or(LEASE_DEFAULT))?;
        check_delay("delay", self.delay.unwrap_or_default())?;
        self.check_backoff()?;
        self.check_limits()?;
        if self.time_to_live.is_some_and(|ttl| ttl.is_zero()) {
            let what = "a time to live of 0 ms: give messages 1 ms or more";
            return Err(Error::invalid("time_to_live", what));
        }
        let is_delayed = self.delay.is_some_and(|delay| !delay.is_zero());
        if self.ordered_by_key == Some(true) && is_delayed {
            return Err(Error::invalid("delay", UNDELAYED));
        }
        if self.max_attempts == Some(0) {
            let what =
                "max_attempts is 0: give it 1 or more, as a message is delivered at least once";
            return Err(Error::invalid("max_attempts", what));
        }
        if let Some(name) = dead_letter_queue {
            check_name("dead-letter queue", name)
                .map_err(|error| Error::invalid("dead_letter_queue", error.to_string()))?;
        }
        Ok(())
    }

    fn check_backoff(&self) -> Result<()> {
        match self.backoff {
            None | Some(Backoff::None) => Ok(()),
            Some(Backoff::Fixed(delay)) => check_delay("backoff", delay).map(drop),
            Some(Backoff::Exponential { first, most, .. }) => {
                check_delay("backoff", most)?;
                if first.is_zero() || first > most {
                    let what = format!(
                        "a backoff from {first:?} to {most:?}: the first delay must be more than 0, \
                         and not longer than the longest one"
                    );
                    return Err(Error::invalid("backoff", what));
                }
                Ok(())
            }
        }
    }

    fn check_limits(&self) -> Result<()> {
        if self.max_messages == Some(0) {
            let what = "a queue for 0 messages would refuse all: give it 1 or more";
            return Err(Error::invalid("max_messages", what));
        }
        if self.max_bytes == Some(0) {
            let what = "a queue for 0 bytes would refuse all: give it 1 or more";
            return Err(Error::invalid("max_bytes", what));
        }
        if self.overflow.is_some() && self.max_messages.or(self.max_bytes).is_none() {
            let what = "overflow needs a limit: give the queue max_messages or max_bytes, too";
            return Err(Error::invalid("overflow", what));
        }
        Ok(())
    }

    /// The definition to store. The settings are checked already. `dead_letters` is the id of the queue for
    /// dead letters.
    pub fn definition(&self, dead_letters: Option<EntityId>) -> Delivering {
        let attempts_max = self.max_attempts.unwrap_or(ATTEMPTS_DEFAULT);
        Delivering {
            lease_ms: lease_ms(self.lease.unwrap_or(LEASE_DEFAULT)),
            delay_ms: ms(self.delay.unwrap_or_default()),
            backoff: backoff_ms(self.backoff.unwrap_or_default()),
            time_to_live_ms: self.time_to_live.map_or(0, ms),
            dead_letters: dead_letters.map(|queue| DeadLetters { queue, attempts_max }),
            is_ordered: self.ordered_by_key.unwrap_or(false),
            is_exclusive: self.single_active_consumer.unwrap_or(false),
            limit: self.max_messages.or(self.max_bytes).map(|_| Limit {
                messages: self.max_messages,
                bytes: self.max_bytes,
                drops_oldest: self.overflow == Some(Overflow::DropOldest),
            }),
        }
    }

    /// The name of the first given setting that differs from a stored definition. `dead_letters` is the id of
    /// the queue for dead letters that these settings name.
    pub fn differs(
        &self,
        stored: &Delivering,
        dead_letters: Option<EntityId>,
    ) -> Option<&'static str> {
        /// Whether a setting was given and differs.
        fn differ<T: Copy + PartialEq>(given: Option<T>, stored: T) -> bool {
            given.is_some_and(|given| given != stored)
        }
        let limit = stored.limit;
        let letters = stored.dead_letters;
        let drops_oldest = limit.is_some_and(|limit| limit.drops_oldest);
        let overflow = if drops_oldest { Overflow::DropOldest } else { Overflow::Reject };
        let max_messages = limit.and_then(|limit| limit.messages);
        let max_bytes = limit.and_then(|limit| limit.bytes);
        if differ(self.lease.map(lease_ms), stored.lease_ms) {
            Some("lease")
        } else if differ(self.delay.map(ms), stored.delay_ms) {
            Some("delay")
        } else if differ(self.backoff.map(backoff_ms), stored.backoff) {
            Some("backoff")
        } else if differ(self.time_to_live.map(ms), stored.time_to_live_ms) {
            Some("time_to_live")
        } else if differ(self.max_messages.map(Some), max_messages) {
            Some("max_messages")
        } else if differ(self.max_bytes.map(Some), max_bytes) {
            Some("max_bytes")
        } else if differ(self.overflow, overflow) {
            Some("overflow")
        } else if differ(self.ordered_by_key, stored.is_ordered) {
            Some("ordered_by_key")
        } else if differ(self.single_active_consumer, stored.is_exclusive) {
            Some("single_active_consumer")
        } else if differ(self.max_attempts.map(Some), letters.map(|it| it.attempts_max)) {
            Some("max_attempts")
        } else if self.dead_letter_queue.is_some()
            && (dead_letters.is_none() || letters.map(|it| it.queue) != dead_letters)
        {
            Some("dead_letter_queue")
        } else {
            None
        }
    }
}

fn backoff_ms(backoff: Backoff) -> BackoffMs {
    match backoff {
        Backoff::None => BackoffMs::None,
        Backoff::Fixed(delay) => BackoffMs::Fixed { ms: ms(delay) },
        Backoff::Exponential { first, most, jitter } => {
            BackoffMs::Exponential { first_ms: ms(first), most_ms: ms(most), has_jitter: jitter }
        }
    }
}
