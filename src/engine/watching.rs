//! Watching: how much of what is in a queue, and being told when that crosses a level.

use std::{
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::{
    consumer::Consumer,
    core::{Core, deleted},
};
use crate::{
    error::{Error, Result},
    ids::{CursorId, Offset},
};

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

/// What has happened to the messages of one consumer in this life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub delivered: u64,
    pub redelivered: u64,
    pub acked: u64,
    pub failed: u64,
    pub dead: u64,
}

/// What is to be watched, and the level from which on there is too much of it. Levels begin at 1, and
/// at 1 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Messages that are not acked.
    Depth(u64),
    /// Messages that wait for nothing but a consumer.
    Ready(u64),
    /// Messages that wait until they are due.
    Delayed(u64),
    /// Messages on lease.
    InFlight(u64),
    /// For how long the oldest message that is not acked has been there, by its timestamp. Delayed
    /// messages, and those that wait for another attempt, are as old as others. That the level is
    /// reached is told when it is, although nothing happens then, by a thread of the engine; one
    /// whose sender has set its timestamp into the past may be noticed a quarter of the level
    /// late.
    OldestAge(Duration),
}

impl Level {
    fn check(self) -> Result<()> {
        let (what, is_nothing) = match self {
            Level::Depth(level) => ("Depth", level == 0),
            Level::Ready(level) => ("Ready", level == 0),
            Level::Delayed(level) => ("Delayed", level == 0),
            Level::InFlight(level) => ("InFlight", level == 0),
            Level::OldestAge(level) => ("OldestAge", level < Duration::from_millis(1)),
        };
        if is_nothing {
            let least = if what == "OldestAge" { "1 ms" } else { "1" };
            let what =
                format!("a level of {what} is at least {least}: there is always more than 0");
            return Err(Error::invalid("level", what));
        }
        Ok(())
    }

    /// How much there is, and how much is too much. What the amounts do not tell is `None`.
    fn of(self, stats: &ConsumerStats) -> Option<(u64, u64)> {
        Some(match self {
            Level::Depth(level) => (stats.depth, level),
            Level::Ready(level) => (stats.ready, level),
            Level::Delayed(level) => (stats.delayed, level),
            Level::InFlight(level) => (stats.in_flight, level),
            Level::OldestAge(_) => return None,
        })
    }
}

/// A level was crossed. Ages are told in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crossing {
    /// It was reached; this is how much there is.
    Reached(u64),
    /// There is less by now.
    Left(u64),
}

type Call = Arc<dyn Fn(Crossing) + Send + Sync>;

/// A level that is watched.
pub struct Alarm {
    number: u64,
    level: Level,
    is_reached: bool,
    call: Call,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("level", &self.level).finish_non_exhaustive()
    }
}

/// A call that is due because a level was crossed.
pub struct Ring(Call, Crossing);

impl Ring {
    pub fn ring(self) {
        // One that panics has said so; whoever has caused the crossing is not to pay for it.
        let _ = catch_unwind(AssertUnwindSafe(|| (self.0)(self.1)));
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ring").field(&self.1).finish_non_exhaustive()
    }
}

/// A watch over a level. It ends when this is dropped.
#[must_use = "the watch ends when it is dropped"]
pub struct LevelWatch {
    consumer: Arc<Consumer>,
    number: u64,
}

impl fmt::Debug for LevelWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LevelWatch").field("of", &self.consumer.name).finish_non_exhaustive()
    }
}

impl Drop for LevelWatch {
    fn drop(&mut self) {
        let mut core = self.consumer.shared().lock();
        let ended = core.end_alarm(self.consumer.cursor, self.number);
        // What the application's function holds may be the last handle: it wants the core, too.
        drop(core);
        drop(ended);
    }
}

impl Alarm {
    /// The age that is watched, if it is one.
    pub fn age(&self) -> Option<Duration> {
        match self.level {
            Level::OldestAge(age) => Some(age),
            _ => None,
        }
    }

    pub fn is_reached(&self) -> bool {
        self.is_reached
    }

    /// There is so much now. What is to be called if the level was crossed.
    pub fn heed(&mut self, now: u64, is_reached: bool) -> Option<Ring> {
        if is_reached == self.is_reached {
            return None;
        }
        self.is_reached = is_reached;
        let crossing = if is_reached { Crossing::Reached(now) } else { Crossing::Left(now) };
        Some(Ring(Arc::clone(&self.call), crossing))
    }
}

impl Core {
    /// All but what takes a look at a message, or at the clock.
    pub fn stats(&self, cursor: CursorId) -> Result<ConsumerStats> {
        let consumption = self.consumers.get(&cursor).ok_or_else(deleted)?;
        let (_, end) = self.store.bounds(consumption.log).ok_or_else(deleted)?;
        let depth = self.store.acks(cursor).ok_or_else(deleted)?.unacked(end);
        let Counts { delivered, redelivered, acked, failed, dead } = consumption.counts;
        let delayed = consumption.deliveries.waiting() + self.shelved(cursor);
        let in_flight = consumption.deliveries.in_flight();
        Ok(ConsumerStats {
            sent: end.0.saturating_sub(consumption.first.0),
            depth,
            // A message on lease may have been deleted.
            ready: depth.saturating_sub(delayed + in_flight),
            delayed,
            in_flight,
            delivered,
            redelivered,
            acked,
            failed,
            dead,
            ..ConsumerStats::default()
        })
    }

    /// The oldest message that a consumer has not acked.
    pub fn oldest(&self, cursor: CursorId) -> Result<Option<Offset>> {
        let consumption = self.consumers.get(&cursor).ok_or_else(deleted)?;
        let (_, end) = self.store.bounds(consumption.log).ok_or_else(deleted)?;
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        Ok(acks.next_unacked(acks.floor().to(end)))
    }

    fn add_alarm(&mut self, cursor: CursorId, level: Level, call: Call) -> Result<u64> {
        self.alarms += 1;
        let number = self.alarms;
        self.consumption(cursor)?.alarms.push(Alarm { number, level, is_reached: false, call });
        if !self.alarmed.contains(&cursor) {
            self.alarmed.push(cursor);
        }
        Ok(number)
    }

    fn end_alarm(&mut self, cursor: CursorId, number: u64) -> Option<Alarm> {
        let alarms = &mut self.consumers.get_mut(&cursor)?.alarms;
        let at = alarms.iter().position(|alarm| alarm.number == number)?;
        let ended = alarms.remove(at);
        if alarms.is_empty() {
            self.alarmed.retain(|it| *it != cursor);
        }
        Some(ended)
    }

    /// Finds the levels that were crossed since this was last done.
    pub fn check_alarms(&mut self) {
        for cursor in mem::take(&mut self.alarmed) {
            let (Ok(stats), Ok(oldest)) = (self.stats(cursor), self.oldest(cursor)) else {
                continue;
            };
            let Some(consumption) = self.consumers.get_mut(&cursor) else { continue };
            for alarm in &mut consumption.alarms {
                if let Some((now, level)) = alarm.level.of(&stats) {
                    self.rings.extend(alarm.heed(now, now >= level));
                }
            }
            if consumption.heed_oldest(oldest) {
                self.arm(cursor);
            }
            self.alarmed.push(cursor);
        }
    }
}

impl Consumer {
    pub fn stats(&self) -> Result<ConsumerStats> {
        let shared = self.shared();
        let mut stats = self.looked(|core| core.stats(self.cursor))?;
        // Stats are there for those, too, who have a damaged message.
        let oldest = shared.oldest(self.cursor).ok().flatten();
        stats.oldest_age = oldest.map(|oldest| oldest.age(shared.now().stamp));
        stats.uptime = shared.lock_open()?.uptime(shared.elapsed());
        Ok(stats)
    }

    /// Asks the core, once what has run out or come due is noted.
    pub fn looked<T>(&self, ask: impl FnOnce(&mut Core) -> Result<T>) -> Result<T> {
        let (mut core, _): (_, Duration) = self.lock_expired()?;
        let answer = ask(&mut core);
        let wakes = core.take_wakes();
        drop(core);
        self.shared().wake(wakes);
        answer
    }

    pub fn watch_level(
        self: &Arc<Consumer>,
        level: Level,
        call: impl Fn(Crossing) + Send + Sync + 'static,
    ) -> Result<LevelWatch> {
        level.check()?;
        let number = self.looked(|core| core.add_alarm(self.cursor, level, Arc::new(call)))?;
        let watch = LevelWatch { consumer: self.aside(), number };
        if matches!(level, Level::OldestAge(_)) {
            self.shared().look_at_age(self.cursor);
        }
        Ok(watch)
    }
}
