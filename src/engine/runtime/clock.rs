//! The time of day: for applications, and as a steady clock within one epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    disk::{Disk, os::OsDisk},
    ids::{Now, Timestamp},
};

impl Timestamp {
    /// The system's time of day. The engine on a simulated disk has another clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::{Message, Timestamp};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reminders = engine.queue("reminders").create()?;
    /// let in_an_hour = Timestamp(Timestamp::now().0 + 3_600_000);
    /// reminders.send(Message::new("order 1").deliver_at(in_an_hour))?;
    /// assert_eq!(reminders.delayed()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn now() -> Timestamp {
        OsDisk::new().now()
    }
}

/// Times before 1970 become 0. Parts of a millisecond are cut off.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use posthouse::Timestamp;
///
/// assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_secs(2)), Timestamp(2000));
/// ```
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The time of day at the start of this epoch, and the time that has passed since.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    stamp: Timestamp,
    elapsed: Duration,
}

impl SteadyClock {
    pub fn new(stamp: Timestamp, elapsed: Duration) -> SteadyClock {
        // Without this limit, an absurd system time would saturate and stop the clock.
        SteadyClock { stamp: stamp.min(Timestamp(1 << 62)), elapsed }
    }

    /// How long this epoch has lasted.
    pub fn since(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.elapsed)
    }

    pub fn at(&self, elapsed: Duration) -> Timestamp {
        Timestamp(self.stamp.0.saturating_add(self.since(elapsed).as_millis() as u64))
    }

    /// The time for a commit. If the system's clock was not set since opening, both times of `Now` are the
    /// same. The two clocks tick a little apart, and a small difference is no setting.
    #[inline]
    pub fn now(&self, disk: &dyn Disk) -> Now {
        let (stamp, steady) = (disk.now(), self.at(disk.elapsed()));
        let apart = Duration::from_millis(stamp.0.abs_diff(steady.0));
        let was_set = apart > 2 * disk.tick() + Duration::from_millis(1);
        Now { stamp: if was_set { stamp } else { steady }, steady }
    }

    /// The engine time at which a time of day comes. A past time gives the time of opening.
    pub fn when(&self, time: Timestamp) -> Duration {
        let left = Duration::from_millis(time.0.saturating_sub(self.stamp.0));
        self.elapsed.saturating_add(left)
    }
}
