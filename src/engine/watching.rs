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
use crate::{error::Result, ids::CursorId};

/// What is in a queue, or for a subscription, and what has happened since the engine was opened.
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
    /// Those that wait until they are due.
    pub delayed: u64,
    /// Those on lease.
    pub in_flight: u64,
    /// Deliveries since the first consumer came.
    pub delivered: u64,
    /// Of those, deliveries of messages that were tried before.
    pub redelivered: u64,
    /// Deliveries that were acked.
    pub acked: u64,
    /// Deliveries that have failed: by a nack, a drop or a lease that ran out.
    pub failed: u64,
    /// Messages that were moved to the dead letters.
    pub dead: u64,
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

/// What is to be watched, and the level from which on there is too much of it. Levels begin at 1.
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
}

impl Level {
    fn of(self, stats: &ConsumerStats) -> (u64, u64) {
        match self {
            Level::Depth(level) => (stats.depth, level),
            Level::Ready(level) => (stats.ready, level),
            Level::Delayed(level) => (stats.delayed, level),
            Level::InFlight(level) => (stats.in_flight, level),
        }
    }
}

/// A level was crossed.
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
        core.end_alarm(self.consumer.cursor, self.number);
    }
}

impl Core {
    pub fn stats(&self, cursor: CursorId) -> Result<ConsumerStats> {
        let consumption = self.consumers.get(&cursor).ok_or_else(deleted)?;
        let (_, end) = self.store.bounds(consumption.log).ok_or_else(deleted)?;
        let depth = self.store.acks(cursor).ok_or_else(deleted)?.unacked(end);
        let Counts { delivered, redelivered, acked, failed, dead } = consumption.counts;
        let (delayed, in_flight) =
            (consumption.deliveries.waiting(), consumption.deliveries.in_flight());
        Ok(ConsumerStats {
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
        })
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

    fn end_alarm(&mut self, cursor: CursorId, number: u64) {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.alarms.retain(|alarm| alarm.number != number);
            if consumption.alarms.is_empty() {
                self.alarmed.retain(|it| *it != cursor);
            }
        }
    }

    /// Finds the levels that were crossed since this was last done.
    pub fn check_alarms(&mut self) {
        for cursor in mem::take(&mut self.alarmed) {
            let Ok(stats) = self.stats(cursor) else { continue };
            let Some(consumption) = self.consumers.get_mut(&cursor) else { continue };
            for alarm in &mut consumption.alarms {
                let (now, level) = alarm.level.of(&stats);
                if (now >= level) != alarm.is_reached {
                    alarm.is_reached = !alarm.is_reached;
                    let crossing =
                        if alarm.is_reached { Crossing::Reached(now) } else { Crossing::Left(now) };
                    self.rings.push(Ring(Arc::clone(&alarm.call), crossing));
                }
            }
            self.alarmed.push(cursor);
        }
    }
}

impl Consumer {
    pub fn stats(&self) -> Result<ConsumerStats> {
        self.looked(|core| core.stats(self.cursor))
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
        let number = self.looked(|core| core.add_alarm(self.cursor, level, Arc::new(call)))?;
        Ok(LevelWatch { consumer: self.aside(), number })
    }
}
