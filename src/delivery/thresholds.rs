//! Thresholds: limits for the amounts of a queue or a subscription, and probes that note when one is reached.

use std::time::Duration;

use super::stats::ConsumerStats;
use crate::error::{Error, Result};

/// A limit for an amount of a queue or a subscription. It is at least 1, or 1 ms.
///
/// [`Queue::watch`](crate::Queue::watch) and [`Subscription::watch`](crate::Subscription::watch) call a
/// function when the amount reaches the threshold, and when it falls below it again.
///
/// ```
/// use std::time::Duration;
/// use posthouse::{Alarm, Engine, Threshold};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let queue = engine.queue("payments").create()?;
/// let watch = queue.watch(Threshold::OldestAge(Duration::from_secs(60)), |alarm| match alarm {
///     Alarm::Raised(ms) => eprintln!("payments is {ms} ms behind"),
///     Alarm::Cleared(_) => eprintln!("payments has caught up"),
///     _ => {}
/// })?;
/// drop(watch); // ends it
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Threshold {
    /// Messages that are not acked.
    Depth(u64),
    /// Messages that wait for nothing but a consumer.
    Ready(u64),
    /// Messages that wait until they are due.
    Delayed(u64),
    /// Messages on lease.
    InFlight(u64),
    /// The age of the oldest message that is not acked, by its timestamp. Delayed messages count, and so do
    /// messages that wait for another attempt. A thread of the engine raises the alarm on time, also when
    /// nothing else happens. If the sender sets timestamps in the past, the alarm may come late by a
    /// quarter of the threshold.
    OldestAge(Duration),
}

impl Threshold {
    pub(crate) fn check(self) -> Result<()> {
        let (what, is_nothing) = match self {
            Threshold::Depth(most) => ("Depth", most == 0),
            Threshold::Ready(most) => ("Ready", most == 0),
            Threshold::Delayed(most) => ("Delayed", most == 0),
            Threshold::InFlight(most) => ("InFlight", most == 0),
            Threshold::OldestAge(most) => ("OldestAge", most < Duration::from_millis(1)),
        };
        if !is_nothing {
            return Ok(());
        }
        let least = if what == "OldestAge" { "1 ms" } else { "1" };
        let what =
            format!("the threshold {what} is 0, which is always reached; give it {least} or more");
        Err(Error::invalid("threshold", what))
    }

    /// The present amount and the threshold. `None` for a threshold of age, which is not in statistics.
    fn amounts(self, stats: &ConsumerStats) -> Option<(u64, u64)> {
        Some(match self {
            Threshold::Depth(most) => (stats.depth, most),
            Threshold::Ready(most) => (stats.ready, most),
            Threshold::Delayed(most) => (stats.delayed, most),
            Threshold::InFlight(most) => (stats.in_flight, most),
            Threshold::OldestAge(_) => return None,
        })
    }
}

/// The news that a threshold was reached or left. The number is the amount now; ages are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alarm {
    /// The threshold is reached.
    Raised(u64),
    /// There is less than the threshold again.
    Cleared(u64),
}

/// A threshold, and whether it is reached.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    threshold: Threshold,
    is_reached: bool,
}

impl Probe {
    pub fn new(threshold: Threshold) -> Probe {
        Probe { threshold, is_reached: false }
    }

    pub fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// The age to reach, if this is a threshold of age.
    pub fn age(&self) -> Option<Duration> {
        match self.threshold {
            Threshold::OldestAge(age) => Some(age),
            _ => None,
        }
    }

    /// Notes new statistics. Returns an alarm if the threshold was reached or left.
    pub fn note_stats(&mut self, stats: &ConsumerStats) -> Option<Alarm> {
        let (now, most) = self.threshold.amounts(stats)?;
        self.note(now, now >= most)
    }

    /// Notes the age of the oldest message: `None` if there is no message.
    pub fn note_age(&mut self, age: Option<Duration>) -> Option<Alarm> {
        let most = self.age()?;
        let ms = age.unwrap_or_default().as_millis() as u64;
        self.note(ms, age.is_some_and(|age| age >= most))
    }

    fn note(&mut self, now: u64, is_reached: bool) -> Option<Alarm> {
        if is_reached == self.is_reached {
            return None;
        }
        self.is_reached = is_reached;
        Some(if is_reached { Alarm::Raised(now) } else { Alarm::Cleared(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_raised_once_and_cleared_once() {
        let mut probe = Probe::new(Threshold::Depth(2));
        let mut note = |depth| probe.note_stats(&ConsumerStats { depth, ..Default::default() });
        let noted = [1, 2, 3, 1, 0].map(&mut note);
        let expected = [None, Some(Alarm::Raised(2)), None, Some(Alarm::Cleared(1)), None];
        assert_eq!(noted, expected);
    }

    #[test]
    fn no_message_has_no_age() {
        let mut probe = Probe::new(Threshold::OldestAge(Duration::from_millis(1)));
        assert_eq!(probe.note_age(None), None);
        assert_eq!(probe.note_age(Some(Duration::from_millis(5))), Some(Alarm::Raised(5)));
        assert_eq!(probe.note_age(None), Some(Alarm::Cleared(0)));
        assert_eq!(probe.note_stats(&ConsumerStats::default()), None);
    }
}
