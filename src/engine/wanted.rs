//! What the builders of queues and subscriptions are told of how messages are to be delivered.

use std::time::Duration;

use super::grouped::UNDELAYED;
use crate::{
    config::{
        ATTEMPTS_DEFAULT, Backoff, LEASE_DEFAULT, Overflow, check_delay, check_lease, check_name,
    },
    error::{Error, Result},
    format::entity::{BackoffMs, DeadLetters, Delivering, Limit},
    ids::EntityId,
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
    pub bytes_max: Option<u64>,
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
            return Err(Error::invalid(
                "time_to_live",
                "messages would live for no time: give them 1 ms or more",
            ));
        }
        if self.messages_max == Some(0) {
            return Err(Error::invalid(
                "max_messages",
                "a queue for 0 messages would refuse all: give it 1 or more",
            ));
        }
        if self.bytes_max == Some(0) {
            return Err(Error::invalid(
                "max_bytes",
                "a queue for 0 bytes would refuse all: give it 1 or more",
            ));
        }
        if self.overflow.is_some() && self.messages_max.or(self.bytes_max).is_none() {
            let what = "overflow says what to do when a queue is full; give it max_messages or \
                        max_bytes, too";
            return Err(Error::invalid("overflow", what));
        }
        if self.is_ordered == Some(true) && self.delay.is_some_and(|delay| !delay.is_zero()) {
            return Err(Error::invalid("delay", UNDELAYED));
        }
        if self.attempts_max == Some(0) {
            let what = "max_attempts is 0: a message is delivered once at least";
            return Err(Error::invalid("max_attempts", what));
        }
        match grave {
            Some(grave) => check_name("dead-letter queue", grave)
                .map_err(|error| Error::invalid("dead_letter_queue", error.to_string())),
            None => Ok(()),
        }
    }

    /// The settings to be stored, once they are checked.
    pub fn delivering(&self, grave: Option<EntityId>) -> Delivering {
        let attempts_max = self.attempts_max.unwrap_or(ATTEMPTS_DEFAULT);
        Delivering {
            lease_ms: self.lease.unwrap_or(LEASE_DEFAULT).as_millis() as u64,
            delay_ms: ms(self.delay.unwrap_or_default()),
            backoff: self.backoff_ms(),
            life_ms: self.life.map_or(0, ms),
            dead_letters: grave.map(|queue| DeadLetters { queue, attempts_max }),
            is_ordered: self.is_ordered.unwrap_or(false),
            is_exclusive: self.is_exclusive.unwrap_or(false),
            limit: self.messages_max.or(self.bytes_max).map(|_| Limit {
                messages: self.messages_max,
                bytes: self.bytes_max,
                drops_oldest: self.overflow == Some(Overflow::DropOldest),
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

    /// The first setting that was given and is another one there.
    pub fn differs(&self, there: &Delivering, grave: Option<EntityId>) -> Option<&'static str> {
        let wanted = self.delivering(grave);
        let dead = |it: &Delivering| it.dead_letters;
        let messages = |it: &Delivering| it.limit.and_then(|limit| limit.messages);
        let bytes = |it: &Delivering| it.limit.and_then(|limit| limit.bytes);
        let drops = |it: &Delivering| it.limit.is_some_and(|limit| limit.drops_oldest);
        let attempts = dead(there).map(|it| it.attempts_max);
        let letters = dead(there).map(|it| it.queue);
        // Which it is, whether it was given, and whether it is the same.
        let settings = [
            ("lease", self.lease.is_some(), wanted.lease_ms == there.lease_ms),
            ("delay", self.delay.is_some(), wanted.delay_ms == there.delay_ms),
            ("backoff", self.backoff.is_some(), wanted.backoff == there.backoff),
            ("time_to_live", self.life.is_some(), wanted.life_ms == there.life_ms),
            ("max_messages", self.messages_max.is_some(), messages(&wanted) == messages(there)),
            ("max_bytes", self.bytes_max.is_some(), bytes(&wanted) == bytes(there)),
            ("overflow", self.overflow.is_some(), drops(&wanted) == drops(there)),
            ("ordered_by_key", self.is_ordered.is_some(), wanted.is_ordered == there.is_ordered),
            (
                "single_active_consumer",
                self.is_exclusive.is_some(),
                wanted.is_exclusive == there.is_exclusive,
            ),
            ("max_attempts", self.attempts_max.is_some(), attempts == self.attempts_max),
            ("dead_letter_queue", self.dead_letters.is_some(), letters == grave && grave.is_some()),
        ];
        settings.into_iter().find(|(_, is_given, is_same)| *is_given && !is_same).map(|it| it.0)
    }
}

/// What the builders of queues and of subscriptions have in common.
macro_rules! delivering_calls {
    () => {
        /// How long a delivery belongs to its consumer before it is delivered again; 30 s by default,
        /// from 1 ms to a day.
        pub fn lease(mut self, lease: Duration) -> Self {
            self.wanted.lease = Some(lease);
            self
        }

        /// How long a message waits after a failure before it is delivered again: not at all by
        /// default. A failure is a [`nack`](crate::Delivery::nack), a delivery that was dropped, or
        /// a lease that has run out.
        pub fn backoff(mut self, backoff: Backoff) -> Self {
            self.wanted.backoff = Some(backoff);
            self
        }

        /// For how long messages live at most, from their timestamps on: later they are not delivered,
        /// but dropped, or moved to the dead letters if there are any. For ever by default. The life of
        /// a dead letter begins when it is moved. A message may say that it lives for less: [`expire_after`](crate::Message::expire_after).
        pub fn time_to_live(mut self, life: Duration) -> Self {
            self.wanted.life = Some(life);
            self
        }

        /// Whether messages with one key are delivered in order and one at a time: the next one comes
        /// when the one before is acked, moved to the dead letters or deleted, and not while it waits
        /// for its retry. Those with other keys, and those without, flow past. Not so by default.
        pub fn ordered_by_key(mut self, is_ordered: bool) -> Self {
            self.wanted.is_ordered = Some(is_ordered);
            self
        }

        /// Whether one consumer receives at a time, and the others stand by: where the order of
        /// handling matters, or what is called may be called by one only. Not so by default.
        ///
        /// A consumer is a handle that was opened, with all its clones. The first that receives is
        /// active until its handles and its deliveries are dropped; then the one takes over that has
        /// waited longest. [`Delivery::fencing_token`](crate::Delivery::fencing_token) tells others
        /// who was first.
        pub fn single_active_consumer(mut self, is_exclusive: bool) -> Self {
            self.wanted.is_exclusive = Some(is_exclusive);
            self
        }

        /// How often a message is delivered at most: then it is moved to the dead letters. From 1 on;
        /// without it, and without [`dead_letter_queue`](Self::dead_letter_queue), it is tried for
        /// ever.
        ///
        /// Deliveries are counted before the handler sees them, in a commit of their own: so a
        /// message counts, too, that takes the whole process down with it.
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            self.wanted.attempts_max = Some(attempts);
            self
        }

        /// The queue to which messages are moved that were delivered
        /// [`max_attempts`](Self::max_attempts) times (5, if that was not given), or
        /// [rejected](crate::Delivery::reject). It is created if it is not there. By default, the
        /// name of this one with `.dead` behind it; of a subscription, that of its topic and a dot
        /// come first.
        pub fn dead_letter_queue(mut self, name: &str) -> Self {
            self.wanted.dead_letters = Some(name.to_owned());
            self
        }
    };
}
pub(super) use delivering_calls;
