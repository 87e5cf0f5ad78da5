//! The oldest message of a cursor, and when to read its age again.
//!
//! The timestamp of a message is stored with the message, so its age is known only after a read, and no thread
//! reads under the core. An age also grows while nothing happens. So a *check* is set for the time at which the
//! oldest message would reach a threshold. Usually that message is gone by then, and the next check is set
//! for the message that is the oldest then. While a threshold is reached, each change of the oldest message
//! sets a check, but at most one in [`REST`]. `engine/commit/oldest.rs` runs the checks.

use std::time::Duration;

use super::thresholds::{Alarm, Probe};
use crate::{
    audit,
    ids::{Offset, Timestamp},
};

/// The shortest time between two checks.
const REST: Duration = Duration::from_millis(10);

/// How much longer the time is after a check that failed.
const FAILED_REST: Duration = Duration::from_secs(1);

/// The oldest message of a cursor.
#[derive(Clone, Copy, Debug)]
pub struct Oldest {
    pub offset: Offset,
    /// The even time from which its age counts.
    pub since: Timestamp,
}

impl Oldest {
    pub fn age(self, now: Timestamp) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.since.0))
    }
}

/// What is known of the oldest message of a cursor.
#[derive(Debug, Default)]
pub struct OldestWatch {
    /// The oldest message at the last check.
    known: Option<Oldest>,
    checked: Duration,
    next_check: Option<Duration>,
    is_checking: bool,
}

impl OldestWatch {
    #[inline]
    pub fn next_check(&self) -> Option<Duration> {
        self.next_check
    }

    /// Whether a check runs.
    pub fn is_checking(&self) -> bool {
        self.is_checking
    }

    /// The oldest message, if it is the one with this offset.
    pub fn known(&self, offset: Offset) -> Option<Oldest> {
        self.known.filter(|known| known.offset == offset)
    }

    /// Notes which message is the oldest now. Returns whether a check was set, so that a timer is needed.
    pub fn note_oldest<'p>(
        &mut self,
        oldest: Option<Offset>,
        probes: impl Iterator<Item = &'p Probe>,
    ) -> bool {
        let (mut least, mut is_reached) = (None::<Duration>, false);
        for probe in probes {
            audit::step();
            let Some(age) = probe.age() else { continue };
            least = Some(least.map_or(age, |least| least.min(age)));
            is_reached |= probe.is_reached();
        }
        let Some(least) = least else {
            self.next_check = None;
            return false;
        };
        let has_changed = oldest != self.known.map(|it| it.offset);
        if !has_changed || self.is_checking {
            return false;
        }
        // While no threshold is reached, a check that is set stays: a younger oldest message only makes it
        // early.
        if !is_reached && (self.next_check.is_some() || oldest.is_none()) {
            return false;
        }
        let rest = if is_reached { REST } else { REST.max(least / 4) };
        let check = self.checked.saturating_add(rest);
        let is_sooner = self.next_check.is_none_or(|set| check < set);
        if is_sooner {
            self.next_check = Some(check);
        }
        is_sooner
    }

    /// Has a check made at once, if one is set: even time has moved forward.
    pub fn hurry(&mut self) {
        if self.next_check.is_some() {
            self.next_check = Some(Duration::ZERO);
        }
    }

    /// Takes the check that is due. Returns whether there is one; the caller runs it.
    pub fn take_check(&mut self, now: Duration) -> bool {
        self.next_check.take_if(|at| *at <= now).is_some()
    }

    /// Begins a check. Returns `false` if another thread is running one.
    pub fn begin_check(&mut self, now: Duration) -> bool {
        if self.is_checking {
            return false;
        }
        (self.is_checking, self.next_check, self.checked) = (true, None, now);
        true
    }

    /// Ends a check that failed: the message cannot be read, or the engine is closed. The next one comes a while later.
    pub fn fail_check(&mut self, now: Duration) {
        (self.is_checking, self.next_check) = (false, None);
        self.checked = now.saturating_add(FAILED_REST);
    }

    /// Ends a check. Sets the next one for the time at which the next threshold is reached. `time` is the even
    /// time, `now` the time of the engine's clock. Alarms go to `raise`, with the index of the probe.
    pub fn finish_check<'p>(
        &mut self,
        oldest: Option<Oldest>,
        time: Timestamp,
        now: Duration,
        probes: impl Iterator<Item = &'p mut Probe>,
        mut raise: impl FnMut(usize, Alarm),
    ) {
        (self.is_checking, self.known, self.next_check) = (false, oldest, None);
        let age = oldest.map(|oldest| oldest.age(time));
        for (n, probe) in probes.enumerate() {
            audit::step();
            let Some(most) = probe.age() else { continue };
            if let Some(alarm) = probe.note_age(age) {
                raise(n, alarm);
            }
            if let Some(age) = age.filter(|age| *age < most) {
                let at = now.saturating_add(most - age);
                self.next_check = Some(self.next_check.map_or(at, |next| next.min(at)));
            }
        }
    }
}
