//! Statistics of a consumer, and callbacks for thresholds.

use std::{fmt, sync::Arc};

use super::consumer::Consumer;
use crate::{
    delivery::{
        stats::ConsumerStats,
        thresholds::{Alarm, Threshold},
    },
    error::Result,
};

/// A watch over a threshold. Dropping it ends the watch.
///
/// [`Queue::watch`](crate::Queue::watch) and [`Subscription::watch`](crate::Subscription::watch) return it.
///
/// ```
/// # use std::sync::{Arc, Mutex};
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// use posthouse::{Alarm, Threshold};
///
/// let payments = engine.queue("payments").create()?;
/// let alarms = Arc::new(Mutex::new(Vec::new()));
/// let noted = Arc::clone(&alarms);
/// let watch = payments.watch(Threshold::Depth(1), move |alarm| noted.lock().unwrap().push(alarm))?;
/// payments.send("charge order 1")?;
/// assert_eq!(*alarms.lock().unwrap(), [Alarm::Raised(1)]);
/// drop(watch); // no more alarms
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the watch ends when it is dropped"]
pub struct ThresholdWatch {
    consumer: Arc<Consumer>,
    number: u64,
}

impl fmt::Debug for ThresholdWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThresholdWatch")
            .field("of", &self.consumer.info.name)
            .finish_non_exhaustive()
    }
}

impl Drop for ThresholdWatch {
    fn drop(&mut self) {
        let mut core = self.consumer.committer().lock("unwatch");
        core.unwatch_threshold(self.consumer.cursor(), self.number);
    }
}

impl Consumer {
    pub fn stats(&self) -> Result<ConsumerStats> {
        let (cursor, committer) = (self.cursor(), self.committer());
        let mut stats = self.query("stats", |core| core.stats(cursor))?;
        // Statistics do not fail if the oldest message is damaged.
        let oldest = committer.oldest(cursor).ok().flatten();
        stats.oldest_age = oldest.map(|oldest| oldest.age(committer.even()));
        stats.uptime = committer.lock_open("stats")?.uptime(committer.elapsed());
        Ok(stats)
    }

    pub fn watch_threshold(
        self: &Arc<Consumer>,
        threshold: Threshold,
        call: impl Fn(Alarm) + Send + Sync + 'static,
    ) -> Result<ThresholdWatch> {
        threshold.check()?;
        let cursor = self.cursor();
        let number =
            self.query("watch", |core| core.watch_threshold(cursor, threshold, Arc::new(call)))?;
        let watch = ThresholdWatch { consumer: self.without_slot(), number };
        if matches!(threshold, Threshold::OldestAge(_)) {
            self.committer().check_oldest(cursor);
        }
        Ok(watch)
    }
}
