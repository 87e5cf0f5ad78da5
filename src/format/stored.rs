//! The kinds of entities as they are stored. What most entities do not have is a [`Setting`] behind the kind, so that each
//! new capability adds one setting, and entities without it are stored as they always were.
//! `docs/FORMAT.md` has the tables under "Entities".

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    entity::{Delivering, EntityKind},
    filter::Filter,
};
use crate::ids::EntityId;

/// How long a stream keeps its records. Without any limit they stay until they are trimmed. And how long a topic keeps messages
/// that no subscription needs. Without any limit it does not keep them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Records leave once they are older.
    pub max_age_ms: Option<u64>,
    /// In each partition, old records leave if newer ones take up so many bytes.
    pub max_bytes: Option<u64>,
    /// Each partition keeps so many of its newest records.
    pub max_records: Option<u64>,
}

impl Retention {
    /// These limits, if there are any.
    pub fn if_any(self) -> Option<Box<Retention>> {
        (self != Retention::default()).then(|| Box::new(self))
    }

    /// That of a topic whose limits are lost: it keeps whatever it has.
    pub fn of_everything() -> Box<Retention> {
        Box::new(Retention { max_records: Some(u64::MAX), ..Retention::default() })
    }

    /// Whether a limit has the value 0: nothing would stay.
    fn keeps_nothing(&self) -> bool {
        [self.max_age_ms, self.max_bytes, self.max_records].contains(&Some(0))
    }
}

/// The kinds of entities in the order of their indexes.
#[derive(Serialize, Deserialize)]
pub enum StoredKind {
    Queue(Arc<Delivering>),
    Topic,
    Subscription { topic: EntityId, delivering: Arc<Delivering> },
    Stream { partitions: u32 },
    Group { stream: EntityId, partitions: u32 },
    DelayIndex { queue: EntityId },
    With(Kind, Vec<Setting>),
}

/// A kind that has settings. The indexes are those of [`StoredKind`].
#[derive(Serialize, Deserialize)]
pub enum Kind {
    Queue(Arc<Delivering>),
    Topic,
    Subscription { topic: EntityId, delivering: Arc<Delivering> },
    Stream { partitions: u32 },
    Group { stream: EntityId, partitions: u32 },
}

/// What an entity may have beside what all of its kind have. They are stored in the order of their indexes.
#[derive(Serialize, Deserialize)]
pub enum Setting {
    Retention(Retention),
    /// A group spares the records that it has not passed from the limits of its stream.
    KeepsUnread,
    Filter(Filter),
    /// Nothing of a queue or a subscription is delivered.
    Paused,
}

/// What is stored of deliveries as settings.
fn settings_of(delivering: &Delivering) -> Vec<Setting> {
    let filter = delivering.filter.as_deref().cloned().map(Setting::Filter);
    let is_paused = delivering.is_paused && !seeded!(PauseIsNotStored);
    filter.into_iter().chain(is_paused.then_some(Setting::Paused)).collect()
}

impl From<EntityKind> for StoredKind {
    fn from(kind: EntityKind) -> StoredKind {
        match kind {
            EntityKind::Queue(delivering) => match settings_of(&delivering) {
                none if none.is_empty() => StoredKind::Queue(delivering),
                settings => StoredKind::With(Kind::Queue(delivering), settings),
            },
            EntityKind::Topic { retention: None } => StoredKind::Topic,
            EntityKind::Topic { retention: Some(retention) } => {
                StoredKind::With(Kind::Topic, vec![Setting::Retention(*retention)])
            }
            EntityKind::Subscription { topic, delivering } => match settings_of(&delivering) {
                none if none.is_empty() => StoredKind::Subscription { topic, delivering },
                settings => StoredKind::With(Kind::Subscription { topic, delivering }, settings),
            },
            EntityKind::Stream { partitions, retention: None } => StoredKind::Stream { partitions },
            EntityKind::Stream { partitions, retention: Some(retention) } => {
                let settings = vec![Setting::Retention(*retention)];
                StoredKind::With(Kind::Stream { partitions }, settings)
            }
            EntityKind::Group { stream, partitions, keeps_unread: false } => {
                StoredKind::Group { stream, partitions }
            }
            EntityKind::Group { stream, partitions, keeps_unread: true } => {
                StoredKind::With(Kind::Group { stream, partitions }, vec![Setting::KeepsUnread])
            }
            EntityKind::DelayIndex { queue } => StoredKind::DelayIndex { queue },
        }
    }
}

impl TryFrom<StoredKind> for EntityKind {
    type Error = &'static str;

    fn try_from(stored: StoredKind) -> Result<EntityKind, &'static str> {
        let (mut kind, settings) = match stored {
            StoredKind::Queue(delivering) => (EntityKind::Queue(delivering), Vec::new()),
            StoredKind::Topic => (EntityKind::Topic { retention: None }, Vec::new()),
            StoredKind::Subscription { topic, delivering } => {
                (EntityKind::Subscription { topic, delivering }, Vec::new())
            }
            StoredKind::Stream { partitions } => {
                (EntityKind::Stream { partitions, retention: None }, Vec::new())
            }
            StoredKind::Group { stream, partitions } => {
                (EntityKind::Group { stream, partitions, keeps_unread: false }, Vec::new())
            }
            StoredKind::DelayIndex { queue } => (EntityKind::DelayIndex { queue }, Vec::new()),
            StoredKind::With(_, settings) if settings.is_empty() => {
                return Err("a kind with settings that has none");
            }
            StoredKind::With(kind, settings) => (kind.into(), settings),
        };
        let indexes = || settings.iter().map(Setting::index);
        if !indexes().zip(indexes().skip(1)).all(|(before, behind)| before < behind) {
            return Err("settings are out of order");
        }
        for setting in settings {
            setting.apply(&mut kind)?;
        }
        Ok(kind)
    }
}

impl From<Kind> for EntityKind {
    fn from(kind: Kind) -> EntityKind {
        match kind {
            Kind::Queue(delivering) => EntityKind::Queue(delivering),
            Kind::Topic => EntityKind::Topic { retention: None },
            Kind::Subscription { topic, delivering } => {
                EntityKind::Subscription { topic, delivering }
            }
            Kind::Stream { partitions } => EntityKind::Stream { partitions, retention: None },
            Kind::Group { stream, partitions } => {
                EntityKind::Group { stream, partitions, keeps_unread: false }
            }
        }
    }
}

impl Setting {
    fn index(&self) -> u8 {
        match self {
            Setting::Retention(_) => 0,
            Setting::KeepsUnread => 1,
            Setting::Filter(_) => 2,
            Setting::Paused => 3,
        }
    }

    fn apply(self, kind: &mut EntityKind) -> Result<(), &'static str> {
        match (self, kind) {
            (
                Setting::Retention(limits),
                EntityKind::Stream { retention, .. } | EntityKind::Topic { retention },
            ) => {
                *retention = limits.if_any().filter(|it| !it.keeps_nothing());
                if retention.is_none() {
                    return Err("a retention without a limit, or with the limit 0");
                }
            }
            (Setting::KeepsUnread, EntityKind::Group { keeps_unread, .. }) => *keeps_unread = true,
            (Setting::Filter(filter), EntityKind::Subscription { delivering, .. }) => {
                if !filter.is_stored_form() {
                    return Err("an impossible filter");
                }
                Arc::make_mut(delivering).filter = Some(Arc::new(filter));
            }
            (
                Setting::Paused,
                EntityKind::Queue(delivering) | EntityKind::Subscription { delivering, .. },
            ) => Arc::make_mut(delivering).is_paused = true,
            _ => return Err("a setting of a kind that does not have it"),
        }
        Ok(())
    }
}
