//! The settings and the limits of a store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    ids::Timestamp,
};

/// When a commit is done. [`Options::durability`](crate::Options::durability) sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Durability {
    /// The commit is on the disk: it survives a power cut. Commits that wait share one sync.
    #[default]
    Sync,
    /// The commit is in the journal's pages: it survives the death of the process at any instruction. The
    /// next sync follows within [`sync_interval`](crate::Options::sync_interval); a power cut loses the commits
    /// after the last sync.
    Buffered,
}

/// How files are read and written. [`Options::io`](crate::Options::io) sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IoMode {
    /// Memory maps where they are known to be safe (ext4, xfs and tmpfs on Linux), calls elsewhere.
    #[default]
    Auto,
    /// Memory maps. On a file system that copies on write, a full disk then kills the process
    /// with SIGBUS; an unreadable sector does so on any file system.
    Map,
    /// Read and write calls only: slower, and no fault of the disk can raise a signal.
    Calls,
}

/// The longest name of a queue, topic, subscription, stream or group, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The highest priority of a message. The lowest is 0, which is also the default.
pub const PRIORITY_MAX: u8 = 9;
/// The most messages that one worker handles side by side. With threads each needs a thread, and many systems give a
/// process some ten thousand.
pub const CONCURRENCY_MAX: usize = 4096;
/// The most partitions that a stream can have.
pub const PARTITIONS_MAX: u32 = 4096;
/// The most messages in one run of a frame. A read of a message in the journal walks its run, so a run is
/// short.
pub const RUN_MESSAGES_MAX: usize = 32;
/// The upper bound of the setting for the largest commit, because lengths have 32 bits on disk.
pub const COMMIT_BYTES_CEILING: u64 = 1 << 30;
/// The fewest bytes that a journal file must hold beside its header.
pub const JOURNAL_FILE_BYTES_FLOOR: u64 = 8 * 1024;
/// One over this number is the share of the current journal file that is kept for acks and deletes while no next
/// file is prepared.
pub const JOURNAL_RESERVE_SHARE: u64 = 4;
/// A segment is rewritten when the share of its live records falls below one over this number. An idle store has more of
/// them rewritten.
pub const REWRITE_SHARE: u64 = 4;
/// A time of day before the year 2000 is that of a machine without a clock.
pub const CLOCKLESS: Timestamp = Timestamp(946_684_800_000);

/// The longest sync interval of buffered commits: an hour.
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// A store that is never idle: a year.
const IDLE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The settings of one engine. They are not stored: each `open` may choose others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub durability: Durability,
    pub io: IoMode,
    pub message_bytes_max: u64,
    pub commit_bytes_max: u64,
    pub journal_bytes: u64,
    pub journal_file_bytes_min: u64,
    pub journal_file_bytes_max: u64,
    pub segment_bytes: u64,
    pub block_bytes: u64,
    pub maps_max: usize,
    /// How many entries, logs or segments a checkpoint deals with in one hold of the core.
    pub slice: usize,
    /// From so many messages on, a call encodes them before it locks the core.
    pub batch_messages: usize,
    pub delayed_in_memory: u64,
    /// So many queues and subscriptions without handles keep their state in memory.
    pub idle_kept: usize,
    pub sync_interval: Duration,
    /// So long after the last commit the store is idle.
    pub idle_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            durability: Durability::Sync,
            io: IoMode::Auto,
            message_bytes_max: 16 << 20,
            commit_bytes_max: 64 << 20,
            journal_bytes: 64 << 20,
            journal_file_bytes_min: 256 << 10,
            journal_file_bytes_max: 8 << 20,
            segment_bytes: 64 << 20,
            block_bytes: 64 << 10,
            maps_max: 128,
            slice: 256,
            batch_messages: 64,
            delayed_in_memory: 65_536,
            idle_kept: 64,
            sync_interval: Duration::from_millis(100),
            idle_after: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// The size up to which journal files grow. Larger files would take the journal past its limits, and the reserve
    /// for a full disk grows with them.
    pub fn journal_file_bytes(&self) -> u64 {
        self.journal_file_bytes_max.min(self.journal_bytes / 4)
    }

    pub fn check(&self) -> Result<()> {
        let within = |field, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(
                field,
                format!("{field} is {value}; it must be from {low} to {high}"),
            ))
        };
        within("message_bytes_max", self.message_bytes_max, 1, COMMIT_BYTES_CEILING / 2)?;
        if self.commit_bytes_max < self.message_bytes_max {
            let (message, commit) = (self.message_bytes_max, self.commit_bytes_max);
            let what = format!(
                "message_bytes_max ({message}) is larger than commit_bytes_max ({commit}): raise \
                 commit_bytes_max, too"
            );
            return Err(Error::invalid("commit_bytes_max", what));
        }
        within("commit_bytes_max", self.commit_bytes_max, 1, COMMIT_BYTES_CEILING)?;
        within(
            "journal_file_bytes_min",
            self.journal_file_bytes_min,
            JOURNAL_FILE_BYTES_FLOOR,
            1 << 30,
        )?;
        within(
            "journal_file_bytes_max",
            self.journal_file_bytes_max,
            self.journal_file_bytes_min,
            1 << 30,
        )?;
        within("journal_bytes", self.journal_bytes, 4 * self.journal_file_bytes_min, 1 << 40)?;
        within("segment_bytes", self.segment_bytes, 4096, 1 << 40)?;
        within("block_bytes", self.block_bytes, 512, 16 << 20)?;
        within("maps_max", self.maps_max as u64, 1, 1 << 20)?;
        within("delayed_in_memory", self.delayed_in_memory, 1, 1 << 40)?;
        let interval = self.sync_interval;
        if !(Duration::from_millis(1)..=SYNC_INTERVAL_MAX).contains(&interval) {
            let what = format!("sync_interval is {interval:?}; it must be from 1 ms to 1 hour");
            return Err(Error::invalid("sync_interval", what));
        }
        let idle = self.idle_after;
        if !(Duration::from_millis(1)..=IDLE_MAX).contains(&idle) {
            let what = format!("idle_after is {idle:?}; it must be from 1 ms to 366 days");
            return Err(Error::invalid("idle_after", what));
        }
        Ok(())
    }
}

/// Checks the length of a name. A name may hold any text.
pub fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let length = name.len();
        return Err(Error::invalid(
            "name",
            format!("a {what}'s name has 1 to {NAME_BYTES_MAX} bytes, this one has {length}"),
        ));
    }
    Ok(())
}

/// Why messages have no priority, where they have none.
pub fn no_priority(is_queue: bool, is_ordered: bool) -> Option<&'static str> {
    match (is_queue, is_ordered) {
        (true, false) => None,
        (true, true) => {
            Some("the queue is ordered by key, so its messages have no priority: set none")
        }
        (false, _) => Some("messages of topics and streams have no priority: set none"),
    }
}

/// Names that begin like this belong to the engine.
pub const RESERVED_PREFIX: &str = "posthouse.";

/// Refuses a name that belongs to the engine. Entities that exist under such a name can be opened and deleted.
pub fn check_not_reserved(field: &'static str, name: &str) -> Result<()> {
    if name.starts_with(RESERVED_PREFIX) {
        let what = format!(
            "names that begin with {RESERVED_PREFIX:?} belong to the engine: give {name:?} another name"
        );
        return Err(Error::invalid(field, what));
    }
    Ok(())
}

/// The lease of a queue or a subscription without a lease setting.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// The shortest lease.
pub const LEASE_MIN: Duration = Duration::from_millis(1);

/// The longest lease: a day. A consumer that works longer extends it.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks the length of a lease.
pub fn check_lease(lease: Duration) -> Result<Duration> {
    if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
        let what = format!("the lease is {lease:?}; it must be from 1 ms to 1 day");
        return Err(Error::invalid("lease", what));
    }
    Ok(lease)
}

/// Checks how long a lease is to be held.
pub fn check_hold(most: Duration) -> Result<Duration> {
    if !(LEASE_MIN..=LEASE_MAX).contains(&most) {
        let what = format!("the lease is to be held for {most:?}; that must be from 1 ms to 1 day");
        return Err(Error::invalid("most", what));
    }
    Ok(most)
}

/// The longest delay: a year.
pub const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The longest delay in milliseconds.
pub const DELAY_MAX_MS: u64 = DELAY_MAX.as_millis() as u64;

/// Checks the length of a delay.
pub fn check_delay(field: &'static str, delay: Duration) -> Result<Duration> {
    if delay > DELAY_MAX {
        let what = format!("{field} is {delay:?}; it must be a year at most");
        return Err(Error::invalid(field, what));
    }
    Ok(delay)
}

/// What a full queue does with another message. [`QueueBuilder::overflow`](crate::QueueBuilder::overflow)
/// sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// It refuses the message, with [`QueueFull`](crate::ErrorKind::QueueFull). To wait until there is room,
    /// use [`send_within`](crate::Queue::send_within).
    #[default]
    Reject,
    /// It deletes the oldest messages of the lowest priority to make room. It deletes delayed messages only if
    /// no others are left, and never messages on lease. If all messages are on lease, it acts as
    /// [`Reject`](Overflow::Reject).
    DropOldest,
}

/// The most deliveries of a message, where there are dead letters and no other number is set.
pub const ATTEMPTS_DEFAULT: u32 = 5;

/// The backoff of a queue or a subscription to which none was given: from the first to the longest wait.
pub const BACKOFF_DEFAULT: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(60));

/// How long a message waits after a failure before it is delivered again.
///
/// The default is 100 ms, twice as long after each further failure, up to a minute, with jitter. The first retry of a
/// message whose lease has run out is immediate, whatever the backoff: the lease was a wait.
///
/// ```
/// use std::time::Duration;
/// use posthouse::Backoff;
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// // After 1, 2, 4 ... seconds, a minute at most; by chance up to half as long.
/// let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60));
/// engine.queue("payments").backoff(backoff).max_attempts(8).create()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backoff {
    /// It is delivered again at once. A message that always fails then keeps its consumers busy.
    None,
    /// It is delivered again after the same time at each failure.
    Fixed(Duration),
    /// It is delivered again after a time that doubles with each failure.
    Exponential {
        /// The time after the first failure.
        first: Duration,
        /// The longest time.
        most: Duration,
        /// Whether chance shortens the time by up to half, so that messages that failed together are not tried
        /// together again and again.
        jitter: bool,
    },
}

impl Default for Backoff {
    fn default() -> Backoff {
        let (first, most) = BACKOFF_DEFAULT;
        Backoff::exponential(first, most)
    }
}

impl Backoff {
    /// A backoff that doubles with each failure, from `first` up to `most`, with jitter.
    ///
    /// Jitter shortens each time at random, by up to half. See also
    /// [`QueueBuilder::backoff`](crate::QueueBuilder::backoff).
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::Backoff;
    ///
    /// let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
    /// let expected = Backoff::Exponential { first, most, jitter: true };
    /// assert_eq!(Backoff::exponential(first, most), expected);
    /// ```
    #[must_use]
    pub fn exponential(first: Duration, most: Duration) -> Backoff {
        Backoff::Exponential { first, most, jitter: true }
    }
}
