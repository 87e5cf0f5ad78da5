//! The entities of the catalog: queues, topics, subscriptions, streams, groups and delay indexes.
//! `docs/FORMAT.md` has the table under "Entities".

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use super::stored::Retention;
use super::{
    filter::Filter,
    stored::StoredKind,
    wire::{Decoded, Malformed, NUMBER_CEILING},
};
use crate::{
    config::{Backoff, LEASE_DEFAULT, NAME_BYTES_MAX, PARTITIONS_MAX},
    ids::{CursorId, EntityId, LogId, Offset},
};

/// One entity. Ids come from one counter and are never used twice. An entity with several logs or cursors owns that many
/// ids in a row. Handles share its name, and entities with equal settings may share those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    pub id: EntityId,
    pub name: Arc<str>,
    pub kind: EntityKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "StoredKind", try_from = "StoredKind")]
pub enum EntityKind {
    /// One log with one ack cursor, both with the entity's id.
    Queue(Arc<Delivering>),
    /// One log with the entity's id. With limits, it keeps messages for those who come late: an ack cursor with the entity's id
    /// over that log needs what is within the limits.
    Topic { retention: Option<Box<Retention>> },
    /// An ack cursor with the entity's id, over the topic's log.
    Subscription { topic: EntityId, delivering: Arc<Delivering> },
    /// As many logs as partitions: the entity's id and those behind it. The limits, if it has any.
    Stream { partitions: u32, retention: Option<Box<Retention>> },
    /// An offset cursor for each partition of the stream: the entity's id and those behind it.
    /// Whether the limits of the stream spare records that the group has not passed.
    Group { stream: EntityId, partitions: u32, keeps_unread: bool },
    /// The blocks of a queue's spilled messages, as messages: one log with one ack cursor, both with
    /// the entity's id.
    DelayIndex { queue: EntityId },
}

/// How the messages of a queue or a subscription are delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivering {
    pub lease_ms: u64,
    /// How long a message waits before its first delivery.
    pub delay_ms: u64,
    pub backoff: BackoffMs,
    /// The longest time to live of a message; 0 for no limit.
    pub time_to_live_ms: u64,
    pub dead_letters: Option<DeadLetters>,
    /// Whether messages with one key are delivered in order, and one at a time.
    pub is_ordered: bool,
    /// Whether only one consumer receives at a time.
    pub is_exclusive: bool,
    /// The capacity of a queue. Subscriptions have none.
    pub limit: Option<Limit>,
    /// Which messages a subscription gets. `None`: all of them. It is stored as a setting of its own.
    #[serde(skip)]
    pub filter: Option<Arc<Filter>>,
    /// Whether nothing is delivered. It is stored as a setting of its own.
    #[serde(skip)]
    pub is_paused: bool,
}

/// The capacity of a queue, and what happens when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub messages: Option<u64>,
    /// Bytes of payloads, keys and headers.
    pub bytes: Option<u64>,
    /// Whether a full queue drops its oldest messages. Otherwise it refuses new ones.
    pub drops_oldest: bool,
}

/// How long a message waits after its n-th failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackoffMs {
    None,
    Fixed {
        ms: u64,
    },
    /// Twice as long each time, up to a limit. Jitter takes away up to half at random.
    Exponential {
        first_ms: u64,
        most_ms: u64,
        has_jitter: bool,
    },
}

/// Where messages move that fail too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The queue that they move to.
    pub queue: EntityId,
    /// How many attempts a message has before it moves.
    pub attempts_max: u32,
}

/// A time in whole milliseconds, rounded up.
pub fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl From<Backoff> for BackoffMs {
    fn from(backoff: Backoff) -> BackoffMs {
        match backoff {
            Backoff::None => BackoffMs::None,
            Backoff::Fixed(delay) => BackoffMs::Fixed { ms: ms(delay) },
            Backoff::Exponential { first, most, jitter } => BackoffMs::Exponential {
                first_ms: ms(first),
                most_ms: ms(most),
                has_jitter: jitter,
            },
        }
    }
}

impl Delivering {
    /// The default settings of a queue.
    pub fn plain() -> Delivering {
        let backoff = Backoff::default().into();
        Delivering { backoff, ..Delivering::leasing(LEASE_DEFAULT.as_millis() as u64) }
    }

    /// Settings with a lease, and no other features.
    pub fn leasing(lease_ms: u64) -> Delivering {
        Delivering {
            lease_ms,
            delay_ms: 0,
            backoff: BackoffMs::None,
            time_to_live_ms: 0,
            dead_letters: None,
            is_ordered: false,
            is_exclusive: false,
            limit: None,
            filter: None,
            is_paused: false,
        }
    }
}

impl EntityKind {
    /// The settings of deliveries, for a queue or a subscription.
    pub fn delivering(&self) -> Option<&Delivering> {
        match self {
            EntityKind::Queue(delivering) | EntityKind::Subscription { delivering, .. } => {
                Some(delivering)
            }
            _ => None,
        }
    }
}

impl Entity {
    /// The settings of deliveries, for a queue or a subscription.
    pub fn delivering(&self) -> Option<&Delivering> {
        self.kind.delivering()
    }

    /// The filter of a subscription.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        self.delivering()?.filter.as_ref()
    }

    /// How many ids the entity owns, its own id first: one for each partition.
    pub fn partitions(&self) -> u32 {
        match self.kind {
            EntityKind::Stream { partitions, .. } | EntityKind::Group { partitions, .. } => {
                partitions
            }
            _ => 1,
        }
    }

    /// The first id behind the entity's ids.
    pub fn end_of_ids(&self) -> EntityId {
        self.id.plus(u64::from(self.partitions()))
    }

    /// All ids that the entity owns.
    pub fn ids(&self) -> impl Iterator<Item = EntityId> + use<> {
        (self.id.0..self.end_of_ids().0).map(EntityId)
    }

    /// The logs that the entity owns.
    pub fn logs(&self) -> impl ExactSizeIterator<Item = LogId> + use<> {
        let count = match self.kind {
            EntityKind::Queue(_)
            | EntityKind::Topic { .. }
            | EntityKind::Stream { .. }
            | EntityKind::DelayIndex { .. } => self.partitions(),
            EntityKind::Subscription { .. } | EntityKind::Group { .. } => 0,
        };
        let id = self.id;
        (0..count).map(move |partition| id.log(partition))
    }

    /// The cursors that the entity owns, each with the log that it moves over.
    pub fn cursors(&self) -> impl Iterator<Item = (CursorId, LogId)> + use<> {
        let (count, owner) = match self.kind {
            EntityKind::Queue(_) | EntityKind::DelayIndex { .. } => (1, self.id),
            EntityKind::Subscription { topic, .. } => (1, topic),
            EntityKind::Group { stream, partitions, .. } => (partitions, stream),
            EntityKind::Topic { ref retention } => (u32::from(retention.is_some()), self.id),
            EntityKind::Stream { .. } => (0, self.id),
        };
        let id = self.id;
        (0..count).map(move |partition| (id.cursor(partition), owner.log(partition)))
    }

    /// The cursor by which a topic keeps messages for those who come late, if it does.
    pub fn keeper(&self) -> Option<CursorId> {
        match self.kind {
            EntityKind::Topic { retention: Some(_) } => Some(self.id.cursor(0)),
            _ => None,
        }
    }

    /// The cursor that a topic has no more: it keeps nothing for those who come late.
    pub fn lost_keeper(&self) -> Option<CursorId> {
        match self.kind {
            EntityKind::Topic { retention: None } => Some(self.id.cursor(0)),
            _ => None,
        }
    }

    /// The topic of a subscription, the stream of a group, the queue of a delay index.
    pub fn parent(&self) -> Option<EntityId> {
        match self.kind {
            EntityKind::Subscription { topic, .. } => Some(topic),
            EntityKind::Group { stream, .. } => Some(stream),
            EntityKind::DelayIndex { queue } => Some(queue),
            _ => None,
        }
    }

    pub fn decode(bytes: &[u8]) -> Decoded<Entity> {
        let entity: Entity = take_value(bytes)?;
        entity.check()?;
        Ok(entity)
    }

    /// Whether this is `other` with other settings: all that names messages, logs and cursors is the same.
    pub fn has_shape_of(&self, other: &Entity) -> bool {
        let is_same_kind = match (&self.kind, &other.kind) {
            (EntityKind::Queue(_), EntityKind::Queue(_))
            | (EntityKind::Topic { .. }, EntityKind::Topic { .. }) => true,
            (
                EntityKind::Subscription { topic, .. },
                EntityKind::Subscription { topic: same, .. },
            ) => topic == same,
            (EntityKind::Stream { .. }, EntityKind::Stream { .. })
            | (EntityKind::Group { .. }, EntityKind::Group { .. }) => {
                (self.parent(), self.partitions()) == (other.parent(), other.partitions())
            }
            (ours, theirs) => ours == theirs,
        };
        is_same_kind && self.id == other.id && self.name == other.name
    }

    /// Checks the entity's own fields, for any source of the bytes.
    pub(super) fn check(&self) -> Decoded<()> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(Malformed("a name's length is impossible"));
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions()) {
            return Err(Malformed("a number of partitions is impossible"));
        }
        // Ids are assigned in order, so a parent has a lower id than its children. And there is always
        // a next id.
        let parent = self.parent().unwrap_or(EntityId(0));
        if parent >= self.id || self.id.0 >= NUMBER_CEILING - u64::from(PARTITIONS_MAX) {
            return Err(Malformed("an id is impossible"));
        }
        let dead_letters = self.delivering().and_then(|it| it.dead_letters);
        if dead_letters.is_some_and(|it| it.queue == self.id || it.attempts_max == 0) {
            return Err(Malformed("dead letters have no queue"));
        }
        if let Some(limit) = self.delivering().and_then(|it| it.limit)
            && (limit.messages.or(limit.bytes).is_none()
                || limit.messages == Some(0)
                || limit.bytes == Some(0))
        {
            return Err(Malformed("a limit without a value, or with the value 0"));
        }
        Ok(())
    }
}

/// The creation of an entity, with the offsets at which its cursors begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    pub entity: Entity,
    pub starts: Vec<Offset>,
}

/// Encodes a value with postcard, whose format is stable. Values on the hot path have their own layouts.
pub fn put_value(out: &mut Vec<u8>, value: &impl Serialize) {
    let encoded = postcard::to_extend(value, std::mem::take(out));
    *out = encoded.expect("values of ours hold nothing that postcard cannot encode");
}

pub fn take_value<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Decoded<T> {
    match take_first(bytes)? {
        (value, []) => Ok(value),
        _ => Err(Malformed("bytes are left over behind a value")),
    }
}

/// The value that the bytes begin with, and the bytes behind it.
pub fn take_first<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Decoded<(T, &'a [u8])> {
    postcard::take_from_bytes(bytes).map_err(|_| Malformed("a value cannot be decoded"))
}

impl Creation {
    /// The creation of an entity of which only later settings are left: its cursors begin at the first offset.
    pub fn at_first(entity: Entity) -> Creation {
        let starts = entity.cursors().map(|_| Offset(0)).collect();
        Creation { entity, starts }
    }

    pub fn decode(bytes: &[u8]) -> Decoded<Creation> {
        let creation: Creation = take_value(bytes)?;
        creation.entity.check()?;
        if creation.starts.len() != creation.entity.cursors().count() {
            return Err(Malformed("a creation has a wrong number of starts"));
        }
        Ok(creation)
    }
}
