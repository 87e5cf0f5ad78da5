//! The state that all handles of one stream share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    engine::{
        commit::lifetime::Engine,
        core::{Core, waiters::Receivers},
        runtime::wait::Watch,
    },
    error::{Error, Result},
    format::entity::{Entity, EntityKind},
    ids::{EntityId, LogId, Offset},
    message::Message,
    stream::partition_of,
};

/// The place of a message: its partition, and its offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition. It is 0 in queues and topics.
    pub partition: u32,
    /// The offset in the partition.
    pub offset: Offset,
}

/// The state that all handles of a stream share.
#[derive(Debug)]
pub struct Shape {
    pub engine: Engine,
    pub name: Arc<str>,
    pub id: EntityId,
    pub partitions: u32,
    pub watch: Arc<Watch>,
    /// Counts the records without a key: they go to the partitions in turn.
    round_robin: AtomicU64,
}

impl Shape {
    pub fn attach(engine: &Engine, entity: &Entity) -> Result<Arc<Shape>> {
        let EntityKind::Stream { partitions, .. } = entity.kind else {
            unreachable!("the space of streams holds streams");
        };
        let mut core = engine.committer().lock_open("open a stream")?;
        let watch = core.watch(entity.logs(), Receivers::Readers);
        drop(core);
        Ok(Arc::new(Shape {
            engine: engine.clone(),
            name: Arc::clone(&entity.name),
            id: entity.id,
            partitions,
            watch,
            round_robin: AtomicU64::new(0),
        }))
    }

    pub fn log(&self, partition: u32) -> LogId {
        self.id.log(partition)
    }

    pub fn check_partition(&self, partition: u32) -> Result<LogId> {
        if partition < self.partitions {
            return Ok(self.log(partition));
        }
        let partitions = self.partitions;
        let what = format!(
            "there is no partition {partition}; the stream has partitions 0 to {}",
            partitions - 1
        );
        Err(Error::invalid("partition", what))
    }

    /// The partition for a message.
    pub fn partition_for(&self, message: &Message<'_>) -> u32 {
        match message.key_bytes() {
            Some(key) => partition_of(key, self.partitions),
            None if self.partitions == 1 => 0,
            None => {
                let count = self.round_robin.fetch_add(1, Ordering::Relaxed);
                (count % u64::from(self.partitions)) as u32
            }
        }
    }

    /// Fails if a message has a key that belongs to another partition.
    pub fn check_key(&self, message: &Message<'_>, partition: u32) -> Result<()> {
        let Some(key) = message.key_bytes() else { return Ok(()) };
        let its = partition_of(key, self.partitions);
        if its == partition {
            return Ok(());
        }
        let what = format!(
            "the key belongs to partition {its}, and not to {partition}: posthouse::partition_of gives the \
             partition of a key"
        );
        Err(Error::invalid("key", what))
    }

    /// The error of a partition that does not end at `expected`. All records count that are committed, also those that nobody
    /// sees yet. `None` if the stream was deleted, too: the caller finds that.
    #[inline]
    pub fn conflict(&self, core: &Core, partition: u32, expected: Offset) -> Option<Error> {
        let log = self.log(partition);
        let (_, mut actual) = core.store.bounds(log)?;
        if seeded!(ExpectedEndIsTheVisibleOne) {
            actual = core.store.end_before(log, core.visible()).ok()?;
        }
        if actual == expected || seeded!(ConflictIsNotSeen) {
            return None;
        }
        Some(Error::conflict(&self.name, partition, expected, actual))
    }

    /// Sends the next record without a key to the partition whose turn this number is.
    #[cfg(feature = "cron")]
    pub fn set_round_robin(&self, count: u64) {
        self.round_robin.store(count, Ordering::Relaxed);
    }
}
