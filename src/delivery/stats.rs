//! Counts of a queue or subscription, and the rates between two of them.

use std::time::Duration;

/// What is in a queue, or for a subscription, and what has happened since a handle of it was first made in
/// this life of the engine.
/// Got from [`Queue::stats`](crate::Queue::stats) and
/// [`Subscription::stats`](crate::Subscription::stats).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Messages that are not acked. The sum of the next three.
    pub depth: u64,
    /// Those that wait for nothing but a consumer; in a queue that is ordered by key, or for one
    /// before them. What is not durable yet counts, too.
    pub ready: u64,
    /// Those that wait until they are due; and of those that are overdue, those beyond
    /// [`delayed_in_memory`](crate::Options::delayed_in_memory) of them.
    pub delayed: u64,
    /// Those on lease.
    pub in_flight: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Of those, deliveries of messages that were tried before.
    pub redelivered: u64,
    /// Deliveries that were acked.
    pub acked: u64,
    /// Deliveries that have failed: by a nack, a drop or a lease that ran out.
    pub failed: u64,
    /// Messages that were moved to the dead letters.
    pub dead: u64,
    /// Messages that have come: those that were sent or published, and those that were moved here.
    pub sent: u64,
    /// For how long the oldest message that is not acked has been there, by its timestamp. `None` if
    /// there is none, or if it is damaged: `oldest_age` says so then.
    pub oldest_age: Option<Duration>,
    /// For how long the engine had been open.
    pub uptime: Duration,
}

/// How much has happened in a second, in the mean. Got from [`ConsumerStats::rates_since`].
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub struct Rates {
    /// Messages that have come.
    pub sent: f64,
    /// Deliveries.
    pub delivered: f64,
    /// Deliveries of messages that were tried before.
    pub redelivered: f64,
    /// Deliveries that were acked.
    pub acked: f64,
    /// Deliveries that have failed.
    pub failed: f64,
    /// Messages that were moved to the dead letters.
    pub dead: f64,
}

impl ConsumerStats {
    /// How fast things have gone since earlier stats of the same queue or subscription were got, in
    /// this life. All are 0 if no time has passed. Times are measured in ticks of a few milliseconds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let queue = engine.queue("payments").create()?;
    /// let before = queue.stats()?;
    /// // A minute later:
    /// let stats = queue.stats()?;
    /// let rates = stats.rates_since(&before);
    /// println!("{:.0} come, {:.0} are done in a second", rates.sent, rates.acked);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn rates_since(&self, earlier: &ConsumerStats) -> Rates {
        let time = self.uptime.saturating_sub(earlier.uptime).as_secs_f64();
        let rate = |now: u64, before: u64| {
            if time > 0.0 { now.saturating_sub(before) as f64 / time } else { 0.0 }
        };
        Rates {
            sent: rate(self.sent, earlier.sent),
            delivered: rate(self.delivered, earlier.delivered),
            redelivered: rate(self.redelivered, earlier.redelivered),
            acked: rate(self.acked, earlier.acked),
            failed: rate(self.failed, earlier.failed),
            dead: rate(self.dead, earlier.dead),
        }
    }
}

/// What happened to the messages of one cursor since the engine was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub delivered: u64,
    pub redelivered: u64,
    pub acked: u64,
    pub failed: u64,
    pub dead: u64,
}
