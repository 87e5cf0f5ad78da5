//! How long the oldest message of a consumer has been there, and levels of that.
//!
//! A message's timestamp is stored with it, so to tell its age is to read it, which nobody does who
//! holds the core. And ages grow where nothing happens. So the engine looks at the oldest message when
//! its age would reach a level: that sets a timer. Mostly the message is gone by then, and the next
//! look is set by the age of the one that is the oldest then. While a level is reached, each change
//! of the oldest message is worth a look, but not more often than [`REST`].

use std::{mem, time::Duration};

use super::{
    consumption::Consumption,
    core::Core,
    shared::Shared,
    watching::{Alarm, Ring},
};
use crate::{
    error::Result,
    ids::{CursorId, Offset, Timestamp},
};

/// So long passes between two looks for which there is no better time.
const REST: Duration = Duration::from_millis(10);

/// The oldest message of a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Oldest {
    offset: Offset,
    stamp: Timestamp,
}

impl Oldest {
    pub fn age(self, now: Timestamp) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.stamp.0))
    }
}

/// What is known of the ages of a consumer's messages.
#[derive(Debug, Default)]
pub struct Ages {
    /// The oldest message, when somebody has looked for the last time.
    oldest: Option<Oldest>,
    /// When that was for the levels that are watched, and when it is to be done again.
    looked: Duration,
    look: Option<Duration>,
    is_looking: bool,
}

impl Ages {
    #[inline]
    pub fn next_look(&self) -> Option<Duration> {
        self.look
    }
}

impl Consumption {
    fn age_alarms(&mut self) -> impl Iterator<Item = &mut Alarm> {
        self.alarms.iter_mut().filter(|alarm| alarm.age().is_some())
    }

    /// Notes which message is the oldest now. Whether a timer is to be set for a look.
    pub fn heed_oldest(&mut self, oldest: Option<Offset>) -> bool {
        let Some(least) = self.alarms.iter().filter_map(Alarm::age).min() else {
            self.ages.look = None;
            return false;
        };
        let is_reached = self.age_alarms().any(|alarm| alarm.is_reached());
        let ages = &mut self.ages;
        let has_changed = oldest != ages.oldest.map(|it| it.offset);
        if !has_changed || ages.is_looking {
            return false;
        }
        let rest = if is_reached { REST } else { REST.max(least / 4) };
        let look = ages.looked.saturating_add(rest);
        // Where none is reached, a message that is gone only puts off the time for which a look is set.
        let wants_look = if is_reached { true } else { ages.look.is_none() && oldest.is_some() };
        let is_sooner = ages.look.is_none_or(|set| look < set);
        if wants_look && is_sooner {
            ages.look = Some(look);
        }
        wants_look && is_sooner
    }

    /// So old is the oldest now: calls are due where that has crossed a level.
    fn heed_age(&mut self, age: Option<Duration>, now: Duration, rings: &mut Vec<Ring>) {
        let mut next: Option<Duration> = None;
        for alarm in self.age_alarms() {
            let level = alarm.age().expect("only those are looked at");
            let is_reached = age.is_some_and(|age| age >= level);
            let ms = age.unwrap_or_default().as_millis() as u64;
            rings.extend(alarm.heed(ms, is_reached));
            if let Some(age) = age.filter(|_| !is_reached) {
                let at = now.saturating_add(level - age);
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        self.ages.look = next;
    }
}

impl Core {
    /// Whether it is time to look at the age of a consumer's oldest message, which the caller does then.
    pub fn take_look(&mut self, cursor: CursorId, now: Duration) -> bool {
        let ages = self.consumers.get_mut(&cursor).map(|it| &mut it.ages);
        ages.is_some_and(|ages| ages.look.take_if(|at| *at <= now).is_some())
    }
}

impl Shared {
    /// The oldest message that a consumer has not acked.
    pub fn oldest(&self, cursor: CursorId) -> Result<Option<Oldest>> {
        let (offset, source) = {
            let mut core = self.lock_open()?;
            let Some(offset) = core.oldest(cursor)? else { return Ok(None) };
            let consumption = core.consumption(cursor)?;
            if let Some(known) = consumption.ages.oldest.filter(|known| known.offset == offset) {
                return Ok(Some(known));
            }
            let log = consumption.log;
            (offset, core.store.locate(log, offset)?)
        };
        let (stored, _) = source.load(offset)?;
        Ok(Some(Oldest { offset, stamp: stored.timestamp() }))
    }

    /// Looks at the age of a consumer's oldest message, for the levels that are watched.
    pub fn look_at_age(&self, cursor: CursorId) {
        let now = self.elapsed();
        {
            let mut core = self.lock();
            let Ok(consumption) = core.consumption(cursor) else { return };
            // Whoever is at it sees to what has changed.
            if mem::replace(&mut consumption.ages.is_looking, true) {
                return;
            }
            (consumption.ages.look, consumption.ages.looked) = (None, now);
        }
        let oldest = self.oldest(cursor);
        let stamp = self.now().stamp;
        let mut core = self.lock();
        let Core { consumers, rings, .. } = &mut *core;
        if let Some(consumption) = consumers.get_mut(&cursor) {
            consumption.ages.is_looking = false;
            match oldest {
                Ok(oldest) => {
                    consumption.ages.oldest = oldest;
                    let age = oldest.map(|oldest| oldest.age(stamp));
                    consumption.heed_age(age, now, rings);
                }
                // It is damaged, or the engine is closed.
                Err(_) => consumption.ages.look = None,
            }
        }
        core.arm(cursor);
        let wakes = core.take_wakes();
        drop(core);
        self.wake(wakes);
    }
}
