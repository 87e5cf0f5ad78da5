//! The settings of a queue or a subscription, as its handles show them.

use std::time::Duration;

use crate::{
    config::{Backoff, Overflow},
    format::{
        entity::{BackoffMs, Delivering},
        filter::HeaderFilter,
    },
};

/// The settings of a queue or a subscription that exists. [`Queue::settings`](crate::Queue::settings) and
/// [`Subscription::settings`](crate::Subscription::settings) return them.
///
/// [`create_or_update`](crate::QueueBuilder::create_or_update) changes them. Times have a resolution of 1 ms.
///
/// ```
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let payments = engine.queue("payments").max_attempts(8).create()?;
/// let settings = payments.settings()?;
/// assert_eq!(settings.lease, Duration::from_secs(30));
/// assert_eq!(settings.max_attempts, Some(8));
/// assert_eq!(settings.dead_letter_queue.as_deref(), Some("payments.dead"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliverySettings {
    /// How long a consumer holds a delivery before the message is delivered again.
    pub lease: Duration,
    /// How long a message without a delay of its own waits before its first delivery. Zero in a subscription.
    pub delay: Duration,
    /// How long a message waits after a failure.
    pub backoff: Backoff,
    /// The longest time to live of a message. `None`: there is no limit.
    pub time_to_live: Option<Duration>,
    /// The most messages in a queue. `None`: there is no limit.
    pub max_messages: Option<u64>,
    /// The most bytes of messages in a queue. `None`: there is no limit.
    pub max_bytes: Option<u64>,
    /// What a full queue does with another message.
    pub overflow: Overflow,
    /// Whether messages with one key are delivered in order and one at a time.
    pub ordered_by_key: bool,
    /// Whether only one consumer receives at a time.
    pub single_active_consumer: bool,
    /// How often a message is delivered before it becomes a dead letter. `None`: there are no dead letters.
    pub max_attempts: Option<u32>,
    /// The name of the queue of the dead letters. `None`: there are no dead letters.
    pub dead_letter_queue: Option<String>,
    /// The patterns of which one matches the subject of each message, sorted. Empty: every subject matches. Those of a queue
    /// are empty.
    pub patterns: Vec<String>,
    /// The conditions that the headers of each message meet, sorted. Empty in a queue.
    pub header_filters: Vec<HeaderFilter>,
    /// Whether nothing is delivered.
    pub paused: bool,
}

/// A setting with two values: one is stored, and another one is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub setting: &'static str,
    pub stored: String,
    pub asked: String,
}

impl DeliverySettings {
    /// The settings of a stored definition.
    pub(crate) fn of(stored: &Delivering, dead_letter_queue: Option<String>) -> DeliverySettings {
        let limit = stored.limit;
        let drops_oldest = limit.is_some_and(|limit| limit.drops_oldest);
        let ttl = stored.time_to_live_ms;
        DeliverySettings {
            lease: Duration::from_millis(stored.lease_ms),
            delay: Duration::from_millis(stored.delay_ms),
            backoff: backoff(stored.backoff),
            time_to_live: (ttl > 0).then(|| Duration::from_millis(ttl)),
            max_messages: limit.and_then(|limit| limit.messages),
            max_bytes: limit.and_then(|limit| limit.bytes),
            overflow: if drops_oldest { Overflow::DropOldest } else { Overflow::Reject },
            ordered_by_key: stored.is_ordered,
            single_active_consumer: stored.is_exclusive,
            max_attempts: stored.dead_letters.map(|it| it.attempts_max),
            dead_letter_queue,
            patterns: stored.filter.as_ref().map_or(Vec::new(), |it| it.patterns.clone()),
            header_filters: stored.filter.as_ref().map_or(Vec::new(), |it| it.headers.clone()),
            paused: stored.is_paused,
        }
    }

    /// Each setting by its name, with its value for people. A pause is what somebody has asked for meanwhile: it makes no other
    /// queue.
    fn named(&self) -> [(&'static str, String); 13] {
        fn or_none<T: std::fmt::Debug>(value: Option<&T>) -> String {
            value.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"))
        }
        [
            ("lease", format!("{:?}", self.lease)),
            ("delay", format!("{:?}", self.delay)),
            ("backoff", format!("{:?}", self.backoff)),
            ("time_to_live", or_none(self.time_to_live.as_ref())),
            ("max_messages", or_none(self.max_messages.as_ref())),
            ("max_bytes", or_none(self.max_bytes.as_ref())),
            ("overflow", format!("{:?}", self.overflow)),
            ("ordered_by_key", self.ordered_by_key.to_string()),
            ("single_active_consumer", self.single_active_consumer.to_string()),
            ("max_attempts", or_none(self.max_attempts.as_ref())),
            ("dead_letter_queue", or_none(self.dead_letter_queue.as_ref())),
            ("pattern", format!("{:?}", self.patterns)),
            ("header_filter", format!("{:?}", self.header_filters)),
        ]
    }

    /// The first setting that differs from the one that is asked for.
    pub(crate) fn difference(&self, asked: &DeliverySettings) -> Option<Difference> {
        let pairs = self.named().into_iter().zip(asked.named());
        let differing = pairs.into_iter().find(|((_, stored), (_, asked))| stored != asked);
        differing.map(|((setting, stored), (_, asked))| Difference { setting, stored, asked })
    }
}

fn backoff(stored: BackoffMs) -> Backoff {
    let ms = Duration::from_millis;
    match stored {
        BackoffMs::None => Backoff::None,
        BackoffMs::Fixed { ms: delay } => Backoff::Fixed(ms(delay)),
        BackoffMs::Exponential { first_ms, most_ms, has_jitter } => {
            Backoff::Exponential { first: ms(first_ms), most: ms(most_ms), jitter: has_jitter }
        }
    }
}
