//! The time of day for applications, and the engine's clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use crate::{
    config::CLOCKLESS,
    disk::{Disk, os::OsDisk},
    format::clock::ClockState,
    ids::{Now, Skew, Timestamp},
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
        // Exactly: it is never before the timestamp of a message that was sent.
        let (day, _) = OsDisk::new().exact();
        timestamp(ms(nanos(day)))
    }
}

/// The clock of one engine: the even time, and the time of day as the engine knows it.
///
/// The even time is the time since the machine has booted, plus a base. `core/times.rs` follows the time of day when
/// it is set.
#[derive(Debug)]
pub struct EvenClock {
    disk: Arc<dyn Disk>,
    /// So far apart are the clocks of the last tick, at most, if none was set.
    apart_ms: u64,
    /// When the engine was opened.
    opened: Duration,
    /// The even time less the time since boot, in milliseconds.
    base_ms: AtomicI64,
    /// The skew that the engine knows.
    skew: AtomicI64,
}

/// What the store knows of the clocks, beside the skew of this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownClock {
    boot: [u8; 16],
    /// The skew from before a time of day that is in doubt; else the skew.
    trusted: Skew,
    is_doubtful: bool,
    /// Whether messages were sent while the time of day was in doubt, and it was not set since. It will not tell how
    /// long the machine is off.
    is_behind: bool,
    /// Whether the store holds all of this.
    pub is_recorded: bool,
}

/// Settings of the clock up to this one are not noticed. Readings of the two clocks are rounded to milliseconds.
const UNNOTICED_MS: u64 = 1;

/// A clock that was behind counts as right once it is set forward by this.
const PUT_RIGHT_MS: i64 = 1000;

/// Times beyond this one are absurd. It leaves room for sums.
const MOST_MS: i128 = 1 << 61;

fn ms(nanos: i128) -> i64 {
    nanos.div_euclid(1_000_000).clamp(-MOST_MS, MOST_MS) as i64
}

fn ms_up(nanos: i128) -> i64 {
    ms(nanos + 999_999)
}

fn nanos(time: Duration) -> i128 {
    time.as_nanos() as i128
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms).unwrap_or(0))
}

impl EvenClock {
    /// The clock of an engine whose store has recorded `stored`.
    ///
    /// Within one boot of the machine the even time goes on as it did, whatever the time of day says. After a restart
    /// of the machine the time of day tells how long it was off. If the time of day is behind the store's, it tells
    /// nothing: then no time has passed, until the time of day catches up.
    pub fn open(disk: Arc<dyn Disk>, stored: Option<&ClockState>) -> (EvenClock, KnownClock) {
        let boot = disk.boot();
        let (day, elapsed) = disk.exact();
        let (day, since_boot) = (ms(nanos(day)), ms_up(nanos(elapsed)));
        let mut known = KnownClock { boot, ..KnownClock::default() };
        let mut base_ms = day - since_boot;
        if let Some(stored) = stored {
            let latest = stored.latest.0 as i64;
            known.trusted =
                if seeded!(SkewIsReadAsTheLatest) { Skew(latest - day) } else { stored.skew };
            let goes_on = stored.base_ms + since_boot;
            let by_day = day.saturating_add(known.trusted.0);
            if stored.boot == boot && boot != [0; 16] && goes_on >= latest {
                (base_ms, known.is_doubtful) = (stored.base_ms, stored.is_doubtful);
                known.is_recorded = true;
                if stored.day_is_unknown() {
                    known.is_behind = true;
                    known.trusted = Skew(base_ms + since_boot - day);
                }
            } else if stored.day_is_unknown() {
                base_ms = latest - since_boot;
                known.is_behind = timestamp(day) < CLOCKLESS;
                known.trusted = Skew(latest - day);
            } else if stored.skew.day_of(stored.latest) < CLOCKLESS && timestamp(day) >= CLOCKLESS {
                // The clock was set while the store was closed. How much time has passed is not known.
                base_ms = latest - since_boot;
                known.trusted = Skew(latest - day);
            } else {
                known.is_doubtful = by_day < latest;
                base_ms = by_day.max(latest) - since_boot;
            }
        }
        let skew = if known.is_doubtful { base_ms + since_boot - day } else { known.trusted.0 };
        let clock = EvenClock {
            apart_ms: (2 * disk.tick()).as_millis() as u64 + UNNOTICED_MS,
            disk,
            opened: elapsed,
            base_ms: AtomicI64::new(base_ms),
            skew: AtomicI64::new(skew),
        };
        (clock, known)
    }

    /// How long this epoch has lasted.
    pub fn since_open(&self, elapsed: Duration) -> Duration {
        elapsed.saturating_sub(self.opened)
    }

    fn base_ms(&self) -> i64 {
        self.base_ms.load(Ordering::Relaxed)
    }

    /// The skew that the engine knows.
    #[inline]
    pub fn skew(&self) -> Skew {
        Skew(self.skew.load(Ordering::Relaxed))
    }

    /// The even time, rounded down.
    #[inline]
    pub fn even(&self, elapsed: Duration) -> Timestamp {
        timestamp(self.base_ms().saturating_add(elapsed.as_millis() as i64))
    }

    /// The engine time at which an even time comes. A past time gives a past time.
    pub fn when(&self, even: Timestamp) -> Duration {
        let ms = i128::from(even.0) - i128::from(self.base_ms());
        Duration::from_millis(ms.clamp(0, MOST_MS) as u64)
    }

    /// The time now, exactly.
    pub fn now(&self) -> Now {
        let (day, elapsed) = self.disk.exact();
        let base_ms = self.base_ms();
        let skew = ms_up(nanos(elapsed) - nanos(day)) + base_ms;
        let even = timestamp(base_ms + ms(nanos(elapsed)));
        let start = timestamp(base_ms + ms_up(nanos(elapsed)));
        let known = self.skew();
        if skew.abs_diff(known.0) <= UNNOTICED_MS {
            Now { stamp: known.day_of(even), even, start, set: None }
        } else {
            Now { stamp: timestamp(ms(nanos(day))), even, start, set: Some(Skew(skew)) }
        }
    }

    /// The time now as of the last tick, for commits without delays. Two such clocks tick a little apart, and a small
    /// difference is no setting.
    #[inline]
    pub fn tick_now(&self) -> Now {
        let (day, elapsed) = self.disk.ticks();
        let even = self.even(elapsed);
        let stamp = self.skew().day_of(even);
        if stamp.0.abs_diff(day.0) > self.apart_ms {
            return self.now();
        }
        Now { stamp, even, start: even, set: None }
    }

    /// Follows the time of day, which was set. Until it has caught up with the store's, a doubtful one stays in doubt.
    pub fn follow(&self, known: &mut KnownClock, skew: Skew) {
        let before = self.skew.swap(skew.0, Ordering::Relaxed);
        known.is_recorded = false;
        known.is_behind &= before.saturating_sub(skew.0) < PUT_RIGHT_MS;
        if !known.is_doubtful {
            known.trusted = skew;
        }
    }

    /// Ends the doubt once the time of day has caught up with the store's: then the even time goes forward by the
    /// time for which the machine was off. Returns whether it did.
    pub fn settle(&self, known: &mut KnownClock, now: Now) -> bool {
        let by_day = known.trusted.even_of(now.stamp);
        if !known.is_doubtful || by_day < now.even {
            return false;
        }
        let forward = (by_day.0 - now.even.0) as i64;
        self.base_ms.fetch_add(forward, Ordering::Relaxed);
        self.skew.store(known.trusted.0, Ordering::Relaxed);
        (known.is_doubtful, known.is_recorded) = (false, false);
        true
    }

    /// Ends the doubt without counting the time for which the machine was off: a message is sent whose delay or time
    /// to live begins now, and that time was before.
    pub fn stop_doubting(&self, known: &mut KnownClock) {
        if known.is_doubtful {
            let skew = self.skew();
            *known = KnownClock {
                boot: known.boot,
                trusted: skew,
                is_behind: true,
                ..KnownClock::default()
            };
        }
    }

    /// The state to record.
    pub fn state(&self, known: &KnownClock) -> ClockState {
        let latest = self.even(self.disk.exact().1);
        let KnownClock { boot, trusted, is_doubtful, is_behind, .. } = *known;
        let skew = if is_behind { ClockState::skew_of_unknown_day(latest) } else { trusted };
        ClockState { boot, base_ms: self.base_ms(), skew, latest, is_doubtful }
    }
}

impl KnownClock {
    #[inline]
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }
}
