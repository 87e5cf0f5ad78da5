//! The oldest message of a cursor, and when to look at its age again.
//!
//! A message's timestamp is stored with the message, so its age is known only once it was read; nobody
//! reads under the core. And ages grow while nothing happens. So a look is set for the time at which the
//! oldest message would reach a threshold. Mostly the message is gone by then, and the next look is set by
//! the message that is the oldest then. While a threshold is reached, each change of the oldest message is
//! worth a look, at most one in [`REST`].

use crate::audit;
use std::time::Duration;

use super::thresholds::{Alarm, Probe};
use crate::ids::{Offset, Timestamp};

/// The least time between two looks for which there is no better time.
const REST: Duration = Duration::from_millis(10);

/// The oldest message of a cursor.
#[derive(Clone, Copy, Debug)]
pub struct Oldest {
    pub offset: Offset,
    pub timestamp: Timestamp,
}

impl Oldest {
    pub fn age(self, now: Timestamp) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.timestamp.0))
    }
}

/// What is known of the oldest message of a cursor.
#[derive(Debug, Default)]
pub struct OldestWatch {
    /// The oldest message at the last look.
    known: Option<Oldest>,
    looked: Duration,
    next_look: Option<Duration>,
    is_looking: bool,
}

impl OldestWatch {
    #[inline]
    pub fn next_look(&self) -> Option<Duration> {
        self.next_look
    }

    /// The oldest message, if it is the one with this offset.
    pub fn known(&self, offset: Offset) -> Option<Oldest> {
        self.known.filter(|known| known.offset == offset)
    }

    /// Takes note of which message is the oldest now. Returns whether a new look was set, so that a timer
    /// is needed.
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
            self.next_look = None;
            return false;
        };
        let has_changed = oldest != self.known.map(|it| it.offset);
        if !has_changed || self.is_looking {
            return false;
        }
        // Where no threshold is reached, a message that is gone only puts off the look that is set.
        if !is_reached && (self.next_look.is_some() || oldest.is_none()) {
            return false;
        }
        let rest = if is_reached { REST } else { REST.max(least / 4) };
        let look = self.looked.saturating_add(rest);
        let is_sooner = self.next_look.is_none_or(|set| look < set);
        if is_sooner {
            self.next_look = Some(look);
        }
        is_sooner
    }

    /// Takes the look that is due. The caller looks then.
    pub fn take_look(&mut self, now: Duration) -> bool {
        self.next_look.take_if(|at| *at <= now).is_some()
    }

    /// Begins a look. `false` if another thread is looking.
    pub fn begin_look(&mut self, now: Duration) -> bool {
        if self.is_looking {
            return false;
        }
        (self.is_looking, self.next_look, self.looked) = (true, None, now);
        true
    }

    /// Ends a look that failed: the message is damaged, or the engine is closed.
    pub fn fail_look(&mut self) {
        (self.is_looking, self.next_look) = (false, None);
    }

    /// Ends a look, and sets the next one: when the first threshold is reached that is not yet. `time` is the
    /// time of day, `now` the time of the engine's clock. Alarms go to `raise`, with the number of the
    /// probe.
    pub fn finish_look<'p>(
        &mut self,
        oldest: Option<Oldest>,
        time: Timestamp,
        now: Duration,
        probes: impl Iterator<Item = &'p mut Probe>,
        mut raise: impl FnMut(usize, Alarm),
    ) {
        (self.is_looking, self.known, self.next_look) = (false, oldest, None);
        let age = oldest.map(|oldest| oldest.age(time));
        for (n, probe) in probes.enumerate() {
            audit::step();
            let Some(most) = probe.age() else { continue };
            if let Some(alarm) = probe.note_age(age) {
                raise(n, alarm);
            }
            if let Some(age) = age.filter(|age| *age < most) {
                let at = now.saturating_add(most - age);
                self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
            }
        }
    }
}
