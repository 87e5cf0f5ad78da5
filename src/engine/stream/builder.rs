//! The builder of a stream: its settings, and the calls that create, open and delete it.

use std::time::Duration;

use super::Stream;
use crate::{
    config::PARTITIONS_MAX,
    delivery::in_force::Difference,
    engine::{
        commit::{
            definition::{self, Definition, IfExists, builder_calls, update_call},
            lifetime::Engine,
        },
        core::Core,
    },
    error::{Error, Result},
    format::entity::{Entity, EntityKind, Retention, ms},
    ids::EntityId,
    store::Space,
};

/// A stream by its name: to be created, opened or deleted. [`Engine::stream`] returns it.
#[derive(Clone, Debug)]
#[must_use = "nothing happens before it is created, opened or deleted"]
pub struct StreamBuilder {
    engine: Engine,
    name: String,
    partitions: Option<u32>,
    retention: AskedRetention,
}

/// What is asked for of a retention. What is `None` stays as it is.
#[derive(Clone, Debug, Default)]
struct AskedRetention {
    max_age: Option<Option<Duration>>,
    max_bytes: Option<Option<u64>>,
    max_records: Option<Option<u64>>,
}

impl AskedRetention {
    fn applied_to(&self, there: Option<&Retention>) -> Retention {
        let there = there.copied().unwrap_or_default();
        Retention {
            max_age_ms: self.max_age.map_or(there.max_age_ms, |it| it.map(ms)),
            max_bytes: self.max_bytes.unwrap_or(there.max_bytes),
            max_records: self.max_records.unwrap_or(there.max_records),
        }
    }

    fn check(&self) -> Result<()> {
        let of_zero = |field, what: &str| {
            let what = format!("a stream that keeps {what} would keep nothing: give it more");
            Err(Error::invalid(field, what))
        };
        if self.max_age.flatten().is_some_and(|age| age.is_zero()) {
            return of_zero("max_age", "no age");
        }
        if self.max_bytes == Some(Some(0)) {
            return of_zero("max_bytes", "0 bytes");
        }
        if self.max_records == Some(Some(0)) {
            return of_zero("max_records", "0 records");
        }
        Ok(())
    }
}

impl Engine {
    /// A stream by its name: to be created, opened or deleted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// assert_eq!(history.name(), "order-history");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream(&self, name: &str) -> StreamBuilder {
        let (name, retention) = (name.to_owned(), AskedRetention::default());
        StreamBuilder { engine: self.clone(), name, partitions: None, retention }
    }

    /// The names of all streams, sorted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.stream("order-history").create()?;
    /// assert_eq!(engine.streams()?, ["order-history"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn streams(&self) -> Result<Vec<String>> {
        self.list(Space::Streams)
    }
}

impl StreamBuilder {
    /// Sets the number of partitions: 1 by default, 4096 at most. Messages with one key are in one partition, in
    /// order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// assert_eq!(history.partitions(), 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn partitions(mut self, partitions: u32) -> StreamBuilder {
        self.partitions = Some(partitions);
        self
    }

    /// Lets records leave once they are older than this, by their timestamps. Without it, age makes no record leave.
    ///
    /// A record leaves late by up to a sixteenth of the age: by ten seconds at least, and by an hour at most.
    ///
    /// The clock of the machine decides. [The guide to streams](crate::guide::streams) says what a clock does that is wrong.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    /// let clicks = engine.stream("clicks").max_age(WEEK).create()?;
    /// assert_eq!(clicks.settings()?.max_age, Some(WEEK));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_age(mut self, age: Duration) -> StreamBuilder {
        self.retention.max_age = Some(Some(age));
        self
    }

    /// Takes a limit of age away.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.stream("clicks").max_age(std::time::Duration::from_secs(3600)).create()?;
    /// let clicks = engine.stream("clicks").without_max_age().create_or_update()?;
    /// assert_eq!(clicks.settings()?.max_age, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_max_age(mut self) -> StreamBuilder {
        self.retention.max_age = Some(None);
        self
    }

    /// Lets the oldest records of a partition leave while newer ones take up at least so many bytes in segments.
    ///
    /// Whole [blocks](crate::Options::block_bytes) of records leave, after each checkpoint. What is still in the journal does not
    /// count. The disk has the space back when most of a segment has left.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let clicks = engine.stream("clicks").max_bytes(10 << 30).create()?;
    /// assert_eq!(clicks.settings()?.max_bytes, Some(10 << 30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_bytes(mut self, bytes: u64) -> StreamBuilder {
        self.retention.max_bytes = Some(Some(bytes));
        self
    }

    /// Takes a limit in bytes away.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.stream("clicks").max_bytes(10 << 30).create()?;
    /// let clicks = engine.stream("clicks").without_max_bytes().create_or_update()?;
    /// assert_eq!(clicks.settings()?.max_bytes, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_max_bytes(mut self) -> StreamBuilder {
        self.retention.max_bytes = Some(None);
        self
    }

    /// Keeps so many of the newest records of each partition. Older ones leave at the next checkpoint.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let prices = engine.stream("prices").max_records(2).create()?;
    /// prices.append_batch(["1.10", "1.20", "1.30"])?;
    /// engine.checkpoint()?;
    /// assert_eq!(prices.len()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_records(mut self, records: u64) -> StreamBuilder {
        self.retention.max_records = Some(Some(records));
        self
    }

    /// Takes a limit of records away.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// engine.stream("prices").max_records(2).create()?;
    /// let prices = engine.stream("prices").without_max_records().create_or_update()?;
    /// assert_eq!(prices.settings()?.max_records, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn without_max_records(mut self) -> StreamBuilder {
        self.retention.max_records = Some(None);
        self
    }

    builder_calls!("stream", Stream, "engine.stream(\"order-history\")", |this: &Self, entity| {
        Stream::attach(&this.engine, entity)
    });

    update_call!("stream", Stream, "engine.stream(\"order-history\")", |this: &Self, entity| {
        Stream::attach(&this.engine, entity)
    });
}

impl Definition for StreamBuilder {
    type Prepared = ();

    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn space(&self) -> Space {
        Space::Streams
    }

    fn check(&self, _dead_letter_queue: Option<&str>) -> Result<()> {
        let partitions = self.partitions.unwrap_or(1);
        if (1..=PARTITIONS_MAX).contains(&partitions) {
            return self.retention.check();
        }
        let what = format!("{partitions} partitions: a stream has 1 to {PARTITIONS_MAX}");
        Err(Error::invalid("partitions", what))
    }

    fn kind(&self, _dead_letters: Option<EntityId>) -> Result<EntityKind> {
        let retention = self.retention.applied_to(None).if_any();
        Ok(EntityKind::Stream { partitions: self.partitions.unwrap_or(1), retention })
    }

    fn applied_to(&self, there: &EntityKind, _letters: Option<EntityId>) -> Result<EntityKind> {
        match (there, self.partitions) {
            (EntityKind::Stream { partitions, .. }, Some(asked)) if *partitions != asked => {
                let what = format!(
                    "stream {:?} has {partitions} partitions, and keeps that number: with {asked} the records of \
                     a key would go to another partition than the earlier ones, out of order. Create another \
                     stream with {asked} partitions, and append the records there",
                    self.name
                );
                Err(Error::invalid("partitions", what))
            }
            (EntityKind::Stream { partitions, retention }, _) => {
                let retention = self.retention.applied_to(retention.as_deref()).if_any();
                Ok(EntityKind::Stream { partitions: *partitions, retention })
            }
            _ => Ok(there.clone()),
        }
    }

    fn differs(&self, _core: &Core, there: &Entity) -> Result<Option<Difference>> {
        let stored = StreamSettings::of(there);
        let EntityKind::Stream { retention, .. } = &there.kind else { return Ok(None) };
        let asked = StreamSettings {
            partitions: self.partitions.unwrap_or(stored.partitions),
            ..StreamSettings::of_retention(self.retention.applied_to(retention.as_deref()))
        };
        let mut pairs = stored.named().into_iter().zip(asked.named());
        let differing = pairs.find(|((_, stored), (_, asked))| stored != asked);
        Ok(differing.map(|((setting, stored), (_, asked))| Difference { setting, stored, asked }))
    }
}

/// The settings of a stream. [`Stream::settings`] returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSettings {
    /// The number of partitions. It never changes.
    pub partitions: u32,
    /// How old records become before they leave. `None`: they do not leave by their age.
    pub max_age: Option<Duration>,
    /// How many bytes each partition keeps at least, while it has as many. `None`: it has no such limit.
    pub max_bytes: Option<u64>,
    /// How many of the newest records each partition keeps. `None`: it has no such limit.
    pub max_records: Option<u64>,
}

impl StreamSettings {
    pub(super) fn of(entity: &Entity) -> StreamSettings {
        let retention = match &entity.kind {
            EntityKind::Stream { retention: Some(retention), .. } => **retention,
            _ => Retention::default(),
        };
        StreamSettings {
            partitions: entity.partitions(),
            ..StreamSettings::of_retention(retention)
        }
    }

    fn of_retention(retention: Retention) -> StreamSettings {
        let Retention { max_age_ms, max_bytes, max_records } = retention;
        let max_age = max_age_ms.map(Duration::from_millis);
        StreamSettings { partitions: 1, max_age, max_bytes, max_records }
    }

    /// Each setting by its name, as a text.
    fn named(&self) -> [(&'static str, String); 4] {
        let StreamSettings { partitions, max_age, max_bytes, max_records } = self;
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        [
            ("number of partitions", partitions.to_string()),
            ("max_age", or_none(max_age.map(|it| format!("{it:?}")))),
            ("max_bytes", or_none(max_bytes.map(|it| it.to_string()))),
            ("max_records", or_none(max_records.map(|it| it.to_string()))),
        ]
    }
}
