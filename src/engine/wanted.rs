//! What the builders of queues and subscriptions are told of how messages are to be delivered.

use std::time::Duration;

use super::grouped::UNDELAYED;
use crate::{
    config::{
        ATTEMPTS_DEFAULT, Backoff, LEASE_DEFAULT, Overflow, check_delay, check_lease, check_name,
    },
    error::{Error, Result},
    format::entity::{BackoffMs, DeadLetters, Delivering, Limit},
};

/// Settings that were given; what was not is as by default, or as it is.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub lease: Option<Duration>,
    pub delay: Option<Duration>,
    pub backoff: Option<Backoff>,
    pub life: Option<Duration>,
    pub attempts_max: Option<u32>,
    pub dead_letters: Option<String>,
    pub is_ordered: Option<bool>,
    pub is_exclusive: Option<bool>,
    pub messages_max: Option<u64>,
    pub overflow: Option<Overflow>,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Wanted {
    /// What the queue for dead letters is called, if there is to be one. `name` is what it is called
    /// if nothing is said.
    pub fn grave(&self, name: &str) -> Option<String> {
        let by_default = || self.attempts_max.map(|_| format!("{name}.dead"));
        self.dead_letters.clone().or_else(by_default)
    }

    /// Checks the settings, for something of which the dead letters are to be in a queue.
    pub fn check(&self, grave: Option<&str>) -> Result<()> {
        check_lease(self.lease.unwrap_or(LEASE_DEFAULT))?;
        check_delay("delay", self.delay.unwrap_or_default())?;
        match self.backoff {
            None | Some(Backoff::None) => {}
            Some(Backoff::Fixed(delay)) => drop(check_delay("backoff", delay)?),
            Some(Backoff::Exponential { first, most, .. }) => {
                check_delay("backoff", most)?;
                if first.is_zero() || first > most {
                    let what = format!(
                        "a backoff from {first:?} to {most:?}: the first is more than 0, and not \
                         more than the most"
                    );
                    return Err(Error::invalid("backoff", what));
                }
            }
        }
        if self.life.is_some_and(|life| life.is_zero()) {
            return Err(Error::invalid("time_to_live", "messages that live for no time at all"));
        }
        if self.messages_max == Some(0) {
            return Err(Error::invalid("max_messages", "a queue for no messages at all"));
        }
        if self.overflow.is_some() && self.messages_max.is_none() {
            let what = "overflow says what to do when a queue is full; give it max_messages, too";
            return Err(Error::invalid("overflow", what));
        }
        if self.is_ordered == Some(true) && self.delay.is_some_and(|delay| !delay.is_zero()) {
            return Err(Error::invalid("delay", UNDELAYED));
        }
        if self.attempts_max == Some(0) {
            let what = "max_attempts is 0: a message is delivered once at least";
            return Err(Error::invalid("max_attempts", what));
        }
        grave.map_or(Ok(()), |grave| check_name("dead-letter queue", grave))
    }

    /// The settings to be stored, once they are checked.
    pub fn delivering(&self, grave: Option<u64>) -> Delivering {
        let attempts_max = self.attempts_max.unwrap_or(ATTEMPTS_DEFAULT);
        Delivering {
            lease_ms: self.lease.unwrap_or(LEASE_DEFAULT).as_millis() as u64,
            delay_ms: ms(self.delay.unwrap_or_default()),
            backoff: self.backoff_ms(),
            life_ms: self.life.map_or(0, ms),
            dead_letters: grave.map(|queue| DeadLetters { queue, attempts_max }),
            is_ordered: self.is_ordered.unwrap_or(false),
            is_exclusive: self.is_exclusive.unwrap_or(false),
            limit: self.messages_max.map(|messages| {
                let drops_oldest = self.overflow == Some(Overflow::DropOldest);
                Limit { messages, drops_oldest }
            }),
        }
    }

    fn backoff_ms(&self) -> BackoffMs {
        match self.backoff.unwrap_or_default() {
            Backoff::None => BackoffMs::None,
            Backoff::Fixed(delay) => BackoffMs::Fixed { ms: ms(delay) },
            Backoff::Exponential { first, most, jitter } => BackoffMs::Exponential {
                first_ms: ms(first),
                most_ms: ms(most),
                has_jitter: jitter,
            },
        }
    }

    /// Whether settings that are there are those that were given.
    pub fn suits(&self, there: &Delivering, grave: Option<u64>) -> bool {
        let wanted = self.delivering(grave);
        let same = |is_given: bool, same: bool| !is_given || same;
        let dead = |it: &Delivering| it.dead_letters;
        same(self.lease.is_some(), wanted.lease_ms == there.lease_ms)
            && same(self.delay.is_some(), wanted.delay_ms == there.delay_ms)
            && same(self.backoff.is_some(), wanted.backoff == there.backoff)
            && same(self.life.is_some(), wanted.life_ms == there.life_ms)
            && same(self.messages_max.is_some(), wanted.limit == there.limit)
            && same(self.is_ordered.is_some(), wanted.is_ordered == there.is_ordered)
            && same(self.is_exclusive.is_some(), wanted.is_exclusive == there.is_exclusive)
            && same(
                self.attempts_max.is_some(),
                dead(there).map(|it| it.attempts_max) == self.attempts_max,
            )
            && same(
                self.dead_letters.is_some(),
                dead(there).map(|it| it.queue) == grave && grave.is_some(),
            )
    }
}
