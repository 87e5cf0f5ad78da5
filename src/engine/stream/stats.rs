//! The numbers of a partition and of a stream: how many records it has, and how many bytes of the disk they take up.

use super::partition::Partition;
use crate::{
    error::Result,
    ids::{Offset, OffsetRange},
};

/// The most segments and commits that are counted in one hold of the core.
const COUNTED_AT_ONCE: usize = 256;

/// The numbers of one partition. [`Partition::stats`] returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStats {
    /// The number of the partition.
    pub partition: u32,
    /// The offset of the first record that was not trimmed.
    pub start: Offset,
    /// The offset one past the last record that can be read.
    pub end: Offset,
    /// What the partition takes up on disk: see [`Partition::bytes`].
    pub bytes: u64,
}

impl PartitionStats {
    /// How many records can be read: see [`Partition::len`].
    #[must_use]
    pub fn records(&self) -> u64 {
        OffsetRange { start: self.start, end: self.end }.len()
    }
}

/// The numbers of a stream. [`Stream::stats`](crate::Stream::stats) returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamStats {
    /// The numbers of each partition, in their order.
    pub partitions: Vec<PartitionStats>,
}

impl StreamStats {
    /// How many records can be read, in all partitions.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.partitions.iter().map(PartitionStats::records).sum()
    }

    /// What all partitions take up on disk: see [`Partition::bytes`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|it| it.bytes).sum()
    }
}

impl Partition {
    /// How many records can be read. Offsets whose records are missing, in a salvaged store, count, too.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid"])?;
    /// assert_eq!(history.partition(0)?.len()?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn len(&self) -> Result<u64> {
        let core = self.shape.engine.committer().lock_to_look("look at a partition")?;
        let (start, _) = core.bounds(self.log())?;
        let end = core.store.end_before(self.log(), core.visible())?;
        Ok(OffsetRange { start, end }.len())
    }

    /// Whether the partition has no record to read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// assert!(engine.stream("order-history").create()?.partition(0)?.is_empty()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`len`](Partition::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// How many bytes of the disk the records of the partition take up: with their keys, headers and what the engine stores
    /// beside them, and with records that others do not see yet.
    ///
    /// These count: the segments of the partition, as a whole, so also with trimmed records until a checkpoint gives their
    /// space back; and its records in the journal, from the first one that was not trimmed. These do not: what belongs to the
    /// store and to no partition, which are the heads of journal files and of commits, and space that is ready for more.
    ///
    /// It takes a step for each segment, and for each commit to the partition that is still in the journal. It reads nothing
    /// from the disk, and holds up other calls for a short time only. Commits and checkpoints meanwhile count or not.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// assert_eq!(history.partition(0)?.bytes()?, 0);
    /// history.append(vec![7; 1000])?;
    /// let bytes = history.partition(0)?.bytes()?;
    /// assert!((1000..1100).contains(&bytes));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`len`](Partition::len).
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.stats()?.bytes)
    }

    /// The numbers of the partition at once. See [`bytes`](Partition::bytes) for what they take.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid"])?;
    /// let partition = history.partition(0)?;
    /// partition.trim_before(Offset(1))?;
    /// let stats = partition.stats()?;
    /// assert_eq!((stats.start, stats.end, stats.records()), (Offset(1), Offset(2), 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`len`](Partition::len).
    pub fn stats(&self) -> Result<PartitionStats> {
        let (operation, log) = ("size of a partition", self.log());
        let committer = self.shape.engine.committer();
        let mut core = committer.lock_to_look(operation)?;
        let (mut bytes, mut from) = (0, Some(Offset(0)));
        while let Some(at) = from {
            if at > Offset(0) {
                core = committer.give_way(operation, core);
                committer.check_open(&core)?;
            }
            let counted = core.store.bytes_from(log, at, COUNTED_AT_ONCE)?;
            bytes += counted.0;
            from = counted.1;
        }
        let (start, _) = core.bounds(log)?;
        let end = core.store.end_before(log, core.visible())?;
        Ok(PartitionStats { partition: self.number, start, end, bytes })
    }
}
