//! The two kinds of time.
//!
//! *Even time* goes on evenly: nobody sets it, and on Linux it goes on while the machine sleeps. It counts durations: delays,
//! backoffs, times to live, ages. The *time of day* is the one that people and programs set. Both are milliseconds, and a
//! [`Timestamp`] holds either. They are equal in a store whose clock was never set; their difference is the [`Skew`].

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// How much the even time is ahead of the time of day, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skew(pub i64);

impl Skew {
    /// The even time at which a time of day comes.
    pub fn even_of(self, day: Timestamp) -> Timestamp {
        Timestamp(day.0.saturating_add_signed(self.0))
    }

    /// The time of day at an even time.
    pub fn day_of(self, even: Timestamp) -> Timestamp {
        Timestamp(even.0.saturating_add_signed(self.0.saturating_neg()))
    }
}

/// When a waiting message is due: at a time of day, or at an even time.
///
/// The highest bit says which, so it is stored as one number. Messages of older stores wait for a time of day. In the
/// order of these numbers all times of day come first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Due(u64);

const EVEN: u64 = 1 << 63;

impl Due {
    /// The message does not wait.
    pub const NOW: Due = Due(0);
    /// The first even time in the order of all.
    pub const FIRST_EVEN: Due = Due(EVEN);

    pub fn day(time: Timestamp) -> Due {
        Due(time.0.min(EVEN - 1))
    }

    pub fn even(time: Timestamp) -> Due {
        Due(time.0.min(EVEN - 1) | EVEN)
    }

    pub fn from_stored(number: u64) -> Due {
        Due(number)
    }

    pub fn to_stored(self) -> u64 {
        self.0
    }

    pub fn waits(self) -> bool {
        self != Due::NOW
    }

    pub fn is_even(self) -> bool {
        self.0 & EVEN != 0
    }

    /// Whether the message waits for a time of day. A setting of the clock moves that.
    #[inline]
    pub fn is_day(self) -> bool {
        self.waits() && !self.is_even()
    }

    /// The time without its kind.
    pub fn time(self) -> Timestamp {
        Timestamp(self.0 & !EVEN)
    }

    /// The even time at which it comes.
    #[inline]
    pub fn even_time(self, skew: Skew) -> Timestamp {
        if self.is_even() { self.time() } else { skew.even_of(self.time()) }
    }

    /// The time of day at which it comes, unless the clock is set before.
    pub fn day_time(self, skew: Skew) -> Timestamp {
        if self.is_even() { skew.day_of(self.time()) } else { self.time() }
    }
}

/// The times of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The time of day that messages bear.
    pub stamp: Timestamp,
    /// The even time, rounded down. Times to live begin here.
    pub even: Timestamp,
    /// The even time, rounded up. Delays begin here, so that none is too short.
    pub start: Timestamp,
    /// The skew, if it is not the one that the engine knows: the clock was set.
    pub set: Option<Skew>,
}

impl Now {
    pub fn skew(&self) -> Skew {
        Skew((self.even.0 as i64).saturating_sub(self.stamp.0 as i64))
    }

    /// When the time to live of a message with this timestamp begins, in even time. `None` if it begins at its
    /// timestamp. It differs once the clock was set.
    #[inline]
    pub fn time_to_live_start(&self, timestamp: Timestamp) -> Option<Timestamp> {
        if self.stamp == self.even {
            return None;
        }
        let begin = i128::from(timestamp.0) - i128::from(self.stamp.0) + i128::from(self.even.0);
        Some(Timestamp(u64::try_from(begin.max(0)).unwrap_or(u64::MAX)))
    }
}

/// The time of a commit without delays and times to live.
impl From<Timestamp> for Now {
    fn from(stamp: Timestamp) -> Now {
        Now { stamp, even: stamp, start: stamp, set: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_time_knows_its_kind_and_old_ones_are_times_of_day() {
        let skew = Skew(-500);
        let (day, even) = (Due::day(Timestamp(1000)), Due::even(Timestamp(1000)));
        assert_eq!((day.is_even(), even.is_even()), (false, true));
        assert_eq!((day.even_time(skew), even.even_time(skew)), (Timestamp(500), Timestamp(1000)));
        assert_eq!((day.day_time(skew), even.day_time(skew)), (Timestamp(1000), Timestamp(1500)));
        assert_eq!(Due::from_stored(1000), day);
        assert_eq!(Due::from_stored(even.to_stored()), even);
        assert!(Due::day(Timestamp(u64::MAX)) < Due::FIRST_EVEN);
        assert!(Due::even(Timestamp(u64::MAX)) > Due::even(Timestamp(0)));
    }
}
