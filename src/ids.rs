//! Ids, offsets and times. Each is a type of its own, so that code cannot confuse a byte position with
//! an offset.

mod conversions;
mod time;

use std::fmt;

pub use time::{Due, Now, Skew};

use serde::{Deserialize, Serialize};

/// The number of a message in a queue, a topic or one partition of a stream.
///
/// Offsets start at 0 and grow by one per message. They never change and never come back, also after a crash
/// and after space was given back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Offset(pub u64);

impl Offset {
    /// No message has so high an offset.
    pub(crate) const MAX: Offset = Offset(u64::MAX);

    /// The next offset: a consumer that has handled this message goes on there.
    ///
    /// ```
    /// assert_eq!(posthouse::Offset(6).next(), posthouse::Offset(7));
    /// ```
    #[must_use]
    #[inline]
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }

    /// The offsets from this one up to another, without that one.
    #[must_use]
    #[inline]
    pub(crate) fn to(self, end: Offset) -> OffsetRange {
        OffsetRange { start: self, end }
    }

    /// This offset alone.
    #[must_use]
    #[inline]
    pub(crate) fn only(self) -> OffsetRange {
        OffsetRange { start: self, end: self.next() }
    }
}

/// Consecutive offsets from `start` up to `end`, without `end`. The range is empty if `end` is not above
/// `start`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OffsetRange {
    pub start: Offset,
    pub end: Offset,
}

impl OffsetRange {
    #[inline]
    pub fn len(self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    #[inline]
    pub fn contains(self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The part that lies within another range.
    pub fn within(self, bounds: OffsetRange) -> OffsetRange {
        self.start.max(bounds.start).to(self.end.min(bounds.end))
    }
}

impl IntoIterator for OffsetRange {
    type Item = Offset;
    type IntoIter = std::iter::Map<std::ops::Range<u64>, fn(u64) -> Offset>;

    fn into_iter(self) -> Self::IntoIter {
        (self.start.0..self.end.0).map(Offset)
    }
}

impl From<OffsetRange> for std::ops::Range<Offset> {
    fn from(range: OffsetRange) -> std::ops::Range<Offset> {
        range.start..range.end
    }
}

impl fmt::Debug for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OffsetRange({}..{})", self.start, self.end)
    }
}

/// A byte position in the journal, which is one endless sequence: a commit has it, and a later
/// commit has a larger one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

/// A point in time: milliseconds since 1970-01-01 00:00 UTC.
///
/// The order of messages does not depend on timestamps, because clocks can be set. A time of day decides about
/// [`deliver_at`](crate::Message::deliver_at) and schedules. Delays, leases, times to live and ages are durations,
/// which go on evenly: see `docs/TIME.md`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

/// Names one entity: a queue, a topic, a subscription, a stream, a group or a delay index.
///
/// An entity owns one id for each of its partitions: its own id and those that follow it. The log and
/// the cursor of a partition have the number of the partition's id. Only the methods here rest on that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityId(pub u64);

impl EntityId {
    /// The first id that is given to an entity.
    pub const FIRST: EntityId = EntityId(1);

    /// The log of a partition. An entity without partitions has the partition 0.
    #[must_use]
    pub fn log(self, partition: u32) -> LogId {
        LogId(self.0 + u64::from(partition))
    }

    /// The cursor of a partition. An entity without partitions has the partition 0.
    #[must_use]
    pub fn cursor(self, partition: u32) -> CursorId {
        CursorId(self.0 + u64::from(partition))
    }

    /// The id that lies `ids` after this one.
    #[must_use]
    pub fn plus(self, ids: u64) -> EntityId {
        EntityId(self.0 + ids)
    }
}

impl LogId {
    /// The entity whose log of partition 0 this is. Logs of later partitions have no such entity.
    #[must_use]
    pub fn entity(self) -> EntityId {
        EntityId(self.0)
    }

    /// The partition of an entity whose log this is.
    #[must_use]
    pub fn partition_of(self, entity: EntityId) -> u32 {
        (self.0 - entity.0) as u32
    }

    /// The cursor of the queue whose log this is. The log of a topic or a stream has no such cursor.
    #[must_use]
    #[inline]
    pub fn queue_cursor(self) -> CursorId {
        CursorId(self.0)
    }
}

impl CursorId {
    /// The entity whose cursor of partition 0 this is. Cursors of later partitions have no such entity.
    #[must_use]
    pub fn entity(self) -> EntityId {
        EntityId(self.0)
    }
}

/// Names one log: a queue's, a topic's, or that of one partition of a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId(pub u64);

/// Names one cursor over a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CursorId(pub u64);

/// Names one store. Drawn at random when a store is created, and part of every checksum in it,
/// so that a file of another store never verifies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(pub [u8; 16]);

macro_rules! shown_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}
shown_as_number!(Offset, Lsn, EntityId, LogId, CursorId);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// A hash for keys that are counters: they are spread well enough by one multiplication.
#[derive(Default, Clone, Copy, Debug)]
pub struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    #[inline]
    fn write_u64(&mut self, n: u64) {
        // The multiplier is 2^64 divided by the golden ratio (Knuth's multiplicative hash).
        self.0 = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

/// A map from ids. Its order is the same in every run, as the simulated disk needs it.
pub type IdMap<K, V> = std::collections::HashMap<K, V, std::hash::BuildHasherDefault<IdHasher>>;
