//! Counts of a queue or a subscription, and the rates between two of them.

use std::time::Duration;

/// The messages of a queue or a subscription by state, and the events since the first handle was made
/// after the engine was opened.
///
/// [`Queue::stats`](crate::Queue::stats) and [`Subscription::stats`](crate::Subscription::stats) return it.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let payments = engine.queue("payments").create()?;
/// payments.send("charge order 1")?;
/// let stats = payments.stats()?;
/// assert_eq!((stats.depth, stats.ready, stats.in_flight), (1, 1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerStats {
    /// Messages that are not acked: the sum of `ready`, `delayed`, `in_flight` and `damaged`.
    pub depth: u64,
    /// Messages that wait for nothing but a consumer. In a queue that is ordered by key, also messages that
    /// wait for an earlier one of their key. Messages that are not durable yet count, too.
    pub ready: u64,
    /// Messages that wait until they are due. Overdue messages beyond
    /// [`delayed_in_memory`](crate::Options::delayed_in_memory) count here, too.
    pub delayed: u64,
    /// Messages on lease. A message that was removed while it is on lease does not count.
    pub in_flight: u64,
    /// Messages that a consumer could not be given because they are damaged on disk. A consumer gets the error of
    /// each of them once. They stay until they are removed, and are tried again after the next open. If a block of the delay
    /// index is damaged, it counts as one message while other messages are on disk, and then as all that it names.
    pub damaged: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries of messages that were tried before. They count in `delivered`, too.
    pub redelivered: u64,
    /// Deliveries that were acked.
    pub acked: u64,
    /// Deliveries that failed: by a nack, by a drop, or by a lease that ran out.
    pub failed: u64,
    /// Messages that were moved to the dead letters.
    pub dead: u64,
    /// Messages whose time to live was over: they were dropped, or moved to the dead letters. The moved ones count
    /// in `dead`, too.
    pub expired: u64,
    /// Messages that were deleted to make room for others: see
    /// [`Overflow::DropOldest`](crate::Overflow::DropOldest).
    pub dropped: u64,
    /// Messages that were deleted by [`remove`](crate::Queue::remove), or moved away by
    /// [`redrive`](crate::Queue::redrive).
    pub removed: u64,
    /// Messages that were deleted by [`purge`](crate::Queue::purge).
    pub purged: u64,
    /// Messages that were sent, published or moved here.
    pub sent: u64,
    /// The age of the oldest message that is not acked, by its timestamp. Damaged messages are passed over. `None` if there is
    /// no other, or if it cannot be read: [`oldest_age`](crate::Queue::oldest_age) then returns the error.
    pub oldest_age: Option<Duration>,
    /// How long the engine was open when the counts were taken.
    pub uptime: Duration,
}

/// Events per second, as a mean. [`ConsumerStats::rates_since`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub struct Rates {
    /// Messages that were sent, published or moved here.
    pub sent: f64,
    /// Deliveries.
    pub delivered: f64,
    /// Deliveries of messages that were tried before.
    pub redelivered: f64,
    /// Deliveries that were acked.
    pub acked: f64,
    /// Deliveries that failed.
    pub failed: f64,
    /// Messages that were moved to the dead letters.
    pub dead: f64,
}

impl ConsumerStats {
    /// The rates since earlier statistics of the same queue or subscription. Both statistics must have been
    /// taken since the engine was opened.
    ///
    /// All rates are 0 if no time has passed. The clock has ticks of a few milliseconds.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let queue = engine.queue("payments").create()?;
    /// let before = queue.stats()?;
    /// // A minute later:
    /// let stats = queue.stats()?;
    /// let rates = stats.rates_since(&before);
    /// println!("per second: {:.0} sent, {:.0} acked", rates.sent, rates.acked);
    /// # assert_eq!(rates.sent, 0.0);
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

/// The events of one queue or subscription since the engine was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub delivered: u64,
    pub redelivered: u64,
    pub acked: u64,
    pub failed: u64,
    pub dead: u64,
    pub expired: u64,
    pub dropped: u64,
    pub removed: u64,
    pub purged: u64,
    /// Messages that entered the log for other cursors, and were acked for this one at once. At rest they are no number of
    /// their own: the first message counts as later.
    pub passed_by: u64,
}

impl Counts {
    /// The counts in their order, without `passed_by`.
    pub fn to_numbers(self) -> [u64; 9] {
        let Counts { delivered, redelivered, acked, failed, dead, expired, .. } = self;
        let Counts { dropped, removed, purged, .. } = self;
        [delivered, redelivered, acked, failed, dead, expired, dropped, removed, purged]
    }

    /// The counts that [`to_numbers`](Counts::to_numbers) gave.
    pub fn from_numbers(mut next: impl FnMut() -> u64) -> Counts {
        Counts {
            delivered: next(),
            redelivered: next(),
            acked: next(),
            failed: next(),
            dead: next(),
            expired: next(),
            dropped: next(),
            removed: next(),
            purged: next(),
            passed_by: 0,
        }
    }
}
