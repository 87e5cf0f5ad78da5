//! The settings of queues and subscriptions: builders collect and check them here, and make the definition that
//! is stored.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{
        ATTEMPTS_DEFAULT, Backoff, LEASE_DEFAULT, Overflow, check_delay, check_lease, check_name,
    },
    error::{Error, Result},
    format::{
        entity::{BackoffMs, DeadLetters, Delivering, Limit, ms},
        filter::{Filter, HeaderFilter},
    },
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
    pub time_to_live: Option<Option<Duration>>,
    pub max_attempts: Option<u32>,
    pub dead_letter_queue: Option<String>,
    /// There are to be no dead letters.
    pub has_no_dead_letters: bool,
    pub ordered_by_key: Option<bool>,
    pub single_active_consumer: Option<bool>,
    pub max_messages: Option<Option<u64>>,
    pub max_bytes: Option<Option<u64>>,
    pub overflow: Option<Overflow>,
    pub patterns: Option<Vec<String>>,
    pub header_filters: Option<Vec<HeaderFilter>>,
    pub paused: Option<bool>,
}

/// A lease in whole milliseconds, rounded up: it ends no earlier than it says.
fn lease_ms(lease: Duration) -> u64 {
    lease.as_nanos().div_ceil(1_000_000) as u64
}

impl Settings {
    /// The name of the queue for the dead letters of queue `name`, if the settings ask for one. An existing queue
    /// keeps the one that it has, unless the settings name another.
    pub fn dead_letter_queue_of(&self, name: &str, stored: Option<&Delivering>) -> Option<String> {
        let has_one = stored.is_some_and(|stored| stored.dead_letters.is_some());
        let by_default = || self.max_attempts.filter(|_| !has_one).map(|_| format!("{name}.dead"));
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
        self.check_filter()?;
        if self.time_to_live.flatten().is_some_and(|ttl| ttl.is_zero()) {
            let what = "a time to live of 0 ms: give messages 1 ms or more";
            return Err(Error::invalid("time_to_live", what));
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
        if self.max_messages == Some(Some(0)) {
            let what = "a queue for 0 messages would refuse all: give it 1 or more";
            return Err(Error::invalid("max_messages", what));
        }
        if self.max_bytes == Some(Some(0)) {
            let what = "a queue for 0 bytes would refuse all: give it 1 or more";
            return Err(Error::invalid("max_bytes", what));
        }
        Ok(())
    }

    fn check_filter(&self) -> Result<()> {
        let (patterns, headers) = (&self.patterns, &self.header_filters);
        let given = Filter {
            patterns: patterns.clone().unwrap_or_default(),
            headers: headers.clone().unwrap_or_default(),
        };
        given.check().map_err(|(field, what)| Error::invalid(field, what))
    }

    /// The filter that `stored` becomes.
    pub fn filter(&self, stored: Option<&Arc<Filter>>) -> Option<Arc<Filter>> {
        if self.patterns.is_none() && self.header_filters.is_none() {
            return stored.cloned();
        }
        let there = stored.map(|filter| Filter::clone(filter)).unwrap_or_default();
        let patterns = self.patterns.clone().unwrap_or(there.patterns);
        let headers = self.header_filters.clone().unwrap_or(there.headers);
        Filter::of(patterns, headers).map(Arc::new)
    }

    /// The definition of a new queue or subscription. `dead_letters` is the id of the queue for dead letters.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if two settings contradict each other.
    pub fn definition(&self, dead_letters: Option<EntityId>) -> Result<Delivering> {
        self.applied_to(&Delivering::plain(), dead_letters)
    }

    /// A definition with the given settings changed, and all others as they are. The values are checked already.
    /// `dead_letters` is the id of the queue for dead letters that these settings ask for.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if two settings contradict each other.
    pub fn applied_to(
        &self,
        stored: &Delivering,
        dead_letters: Option<EntityId>,
    ) -> Result<Delivering> {
        let is_limited = stored.limit;
        let limit = Limit {
            messages: self.max_messages.unwrap_or(is_limited.and_then(|it| it.messages)),
            bytes: self.max_bytes.unwrap_or(is_limited.and_then(|it| it.bytes)),
            drops_oldest: self
                .overflow
                .map_or(is_limited.is_some_and(|it| it.drops_oldest), |overflow| {
                    overflow == Overflow::DropOldest
                }),
        };
        let has_limit = limit.messages.or(limit.bytes).is_some();
        if self.overflow.is_some() && !has_limit {
            let what = "overflow needs a limit: give the queue max_messages or max_bytes, too";
            return Err(Error::invalid("overflow", what));
        }
        let definition = Delivering {
            lease_ms: self.lease.map_or(stored.lease_ms, lease_ms),
            delay_ms: self.delay.map_or(stored.delay_ms, ms),
            backoff: self.backoff.map_or(stored.backoff, BackoffMs::from),
            time_to_live_ms: self
                .time_to_live
                .map_or(stored.time_to_live_ms, |it| it.map_or(0, ms)),
            dead_letters: self.dead_letters(stored, dead_letters),
            is_ordered: self.ordered_by_key.unwrap_or(stored.is_ordered),
            is_exclusive: self.single_active_consumer.unwrap_or(stored.is_exclusive),
            limit: has_limit.then_some(limit),
            filter: self.filter(stored.filter.as_ref()),
            is_paused: self.paused.unwrap_or(stored.is_paused),
        };
        if definition.is_ordered && definition.delay_ms > 0 {
            return Err(Error::invalid("delay", UNDELAYED));
        }
        let says_when = self.delay.is_some() || self.time_to_live.is_some();
        let Delivering { delay_ms, time_to_live_ms, .. } = definition;
        if says_when && time_to_live_ms > 0 && time_to_live_ms <= delay_ms {
            let what = format!(
                "a time to live of {time_to_live_ms} ms with a delay of {delay_ms} ms: each message would expire \
                 before it is due; give the queue a longer time to live"
            );
            return Err(Error::invalid("time_to_live", what));
        }
        Ok(definition)
    }

    fn dead_letters(
        &self,
        stored: &Delivering,
        dead_letters: Option<EntityId>,
    ) -> Option<DeadLetters> {
        if self.has_no_dead_letters {
            return None;
        }
        let (queue, attempts) = match stored.dead_letters {
            Some(it) => (dead_letters.unwrap_or(it.queue), it.attempts_max),
            None => (dead_letters?, ATTEMPTS_DEFAULT),
        };
        Some(DeadLetters { queue, attempts_max: self.max_attempts.unwrap_or(attempts) })
    }
}
