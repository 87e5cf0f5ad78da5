//! The signal that calls the flusher. `checkpointer.rs` has that of the other thread. The loops of the threads are in
//! `commit/threads.rs`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    mem,
    sync::{Arc, atomic::Ordering},
    task::Waker,
    time::Duration,
};

use super::{lock::RankedMutex, relay::Relay, wait::wake_task};
use crate::{
    audit::Rank,
    ids::{CursorId, Lsn},
    prims::{AtomicBool, Condvar},
};

/// A timer of a cursor: a lease ends, or a message comes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    pub at: Duration,
    pub cursor: CursorId,
}

/// Calls the flusher.
#[derive(Debug)]
pub struct FlusherSignal {
    has_thread: bool,
    interval: Duration,
    /// Whether a sync is due within the interval. A caller that finds it set skips the mutex.
    is_scheduled: AtomicBool,
    /// Whether a sync is due at once. A caller that finds it set skips the mutex.
    is_urgent: AtomicBool,
    /// Whether a watermark frame is due after a quiet moment. A caller that finds it set skips the mutex.
    is_marking: AtomicBool,
    agenda: RankedMutex<Agenda>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Agenda {
    stop: bool,
    urgent: bool,
    /// When to sync.
    flush_at: Option<Duration>,
    /// When to write a watermark frame, unless there were commits since.
    mark_at: Option<(Duration, Lsn)>,
    timers: BinaryHeap<Reverse<Timer>>,
    /// When to look at the lives of messages.
    sweep_at: Option<Duration>,
    /// When messages are to move to the dead letters.
    move_at: Option<Duration>,
    /// When a round over the queues is made.
    rest_at: Option<Duration>,
    /// Whether such a round was asked for, and its time is not set yet.
    rest_soon: bool,
    /// When the clocks were looked at.
    looked_at: Duration,
    /// Tasks that sleep, by the time at which they wake and by their number. That is the time of the stopwatch, which stands
    /// still while the machine sleeps.
    sleepers: BTreeMap<(Duration, u64), Waker>,
    last_sleeper: u64,
    /// Waiters that are to be woken.
    relays: Vec<Arc<Relay>>,
}

/// While timers are set, the clocks are looked at this often. A machine that wakes up, and a clock that is set, is
/// noticed by then.
const LOOK: Duration = Duration::from_secs(1);

/// Without a thread, a sync that was to come at once comes so much later.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The timers take up no more than so many places, or eight times as many as there are.
const PLACES_KEPT: usize = 1024;

impl Agenda {
    fn take_timer(&mut self, now: Duration) -> Option<Timer> {
        let is_due = self.timers.peek().is_some_and(|Reverse(timer)| timer.at <= now);
        if is_due { self.pop_timer() } else { None }
    }

    fn take_sleeper(&mut self, stopwatch: impl Fn() -> Duration) -> Option<Waker> {
        let sleeper = self.sleepers.first_entry()?;
        (sleeper.key().0 <= stopwatch()).then(|| sleeper.remove())
    }

    fn pop_timer(&mut self) -> Option<Timer> {
        let popped = self.timers.pop();
        if self.timers.capacity() > PLACES_KEPT.max(8 * self.timers.len()) {
            self.timers.shrink_to(2 * self.timers.len());
        }
        popped.map(|Reverse(timer)| timer)
    }

    fn take_rest(&mut self, now: Duration) -> bool {
        if mem::take(&mut self.rest_soon) {
            self.rest_at.get_or_insert(now + REST_AFTER);
        }
        self.rest_at.take_if(|at| *at <= now).is_some()
    }

    fn take_move(&mut self, now: Duration) -> bool {
        self.move_at.take_if(|at| *at <= now).is_some()
    }

    fn next_look(&self) -> Option<Duration> {
        let waits = !self.timers.is_empty() || self.sweep_at.is_some();
        waits.then_some(self.looked_at + LOOK)
    }

    fn next(&self) -> Option<Duration> {
        let timer = self.timers.peek().map(|Reverse(timer)| timer.at);
        let mark = self.mark_at.map(|(at, _)| at);
        let plans = [self.sweep_at, self.move_at, self.rest_at, self.next_look()];
        [self.flush_at, mark, timer].into_iter().chain(plans).flatten().min()
    }

    /// How long to wait for the next duty.
    fn wait_for(&self, now: Duration, stopwatch: impl Fn() -> Duration) -> Option<Duration> {
        let next = self.next().map(|at| at.saturating_sub(now));
        let sleeper = self.sleepers.keys().next();
        let sleeper = sleeper.map(|(at, _)| at.saturating_sub(stopwatch()));
        next.into_iter().chain(sleeper).min()
    }
}

/// The time from a use of a queue to the next round.
const REST_AFTER: Duration = Duration::from_secs(10);

/// The longest quiet moment after which a watermark frame is written.
const MARK_MAX: Duration = Duration::from_secs(1);

/// What the flusher does next.
#[derive(Debug)]
pub enum Duty {
    Stop,
    Sync,
    /// Writes a watermark frame, if the journal's tail is still at this position.
    Mark(Lsn),
    Timer(Timer),
    /// Has the checkpointer look at the lives of messages.
    Sweep,
    /// Moves messages to the dead letters, some at a time.
    Move,
    /// Makes a slice of a round over the queues and subscriptions.
    Rest,
    /// Looks at the clocks.
    Look,
    /// Wakes a task.
    Wake(Waker),
    /// Wakes waiters.
    Rouse(Arc<Relay>),
}

impl FlusherSignal {
    pub fn new(has_thread: bool, interval: Duration) -> FlusherSignal {
        FlusherSignal {
            has_thread,
            interval,
            is_scheduled: AtomicBool::new(false),
            is_urgent: AtomicBool::new(false),
            is_marking: AtomicBool::new(false),
            agenda: RankedMutex::new(&(Rank::Leaf, "flusher's agenda"), Agenda::default()),
            changed: Condvar::new(),
        }
    }

    #[inline]
    pub fn has_thread(&self) -> bool {
        self.has_thread
    }

    /// Asks for a sync of everything within the interval.
    #[inline]
    pub fn sync_soon(&self, elapsed: impl FnOnce() -> Duration) {
        // The flusher clears the flag before it begins a sync. So that sync covers every commit that finds the
        // flag set.
        if !self.is_scheduled.load(Ordering::Relaxed) {
            self.is_scheduled.store(true, Ordering::Relaxed);
            let at = elapsed() + self.interval;
            self.agenda.lock().flush_at.get_or_insert(at);
            self.changed.notify_one();
        }
    }

    /// Asks for a sync of everything at once. Without a thread, it is due as soon as the clock has moved.
    pub fn sync_at_once(&self, elapsed: impl FnOnce() -> Duration) {
        if self.is_urgent.load(Ordering::Relaxed) {
            return;
        }
        self.is_urgent.store(true, Ordering::Relaxed);
        let mut agenda = self.agenda.lock();
        if self.has_thread {
            agenda.urgent = true;
        } else {
            let soon = elapsed() + AT_ONCE;
            agenda.flush_at = Some(agenda.flush_at.map_or(soon, |at| at.min(soon)));
        }
        drop(agenda);
        self.changed.notify_one();
    }

    /// Sets a timer.
    pub fn set_timer(&self, timer: Timer) {
        self.plan(timer.at, |agenda| agenda.timers.push(Reverse(timer)));
    }

    /// Adds something to the agenda that is due at a time.
    fn plan(&self, at: Duration, add: impl FnOnce(&mut Agenda)) {
        let mut agenda = self.agenda.lock();
        let is_next = agenda.next().is_none_or(|next| at < next);
        add(&mut agenda);
        drop(agenda);
        if is_next {
            self.changed.notify_one();
        }
    }

    /// Takes the first timer that is due. Without a thread, calls take what is due.
    pub fn take_timer(&self, now: Duration) -> Option<Timer> {
        self.agenda.lock().take_timer(now)
    }

    /// Whether a sync is due. The caller makes it.
    pub fn take_sync(&self, now: Duration) -> bool {
        self.take_sync_of(&mut self.agenda.lock(), now)
    }

    fn take_sync_of(&self, agenda: &mut Agenda, now: Duration) -> bool {
        let is_due = agenda.urgent || agenda.flush_at.is_some_and(|at| at <= now);
        if is_due {
            agenda.urgent = false;
            agenda.flush_at = None;
            self.is_urgent.store(false, Ordering::Relaxed);
            self.is_scheduled.store(false, Ordering::Relaxed);
        }
        is_due
    }

    /// Takes the watermark frame that is due: its position.
    pub fn take_mark(&self, now: Duration) -> Option<Lsn> {
        self.take_mark_of(&mut self.agenda.lock(), now)
    }

    fn take_mark_of(&self, agenda: &mut Agenda, now: Duration) -> Option<Lsn> {
        let (_, position) = agenda.mark_at.take_if(|(at, _)| *at <= now)?;
        self.is_marking.store(false, Ordering::Relaxed);
        Some(position)
    }

    /// Takes a task whose sleep is over at a time of the stopwatch.
    pub fn take_sleeper(&self, stopwatch: Duration) -> Option<Waker> {
        self.agenda.lock().take_sleeper(|| stopwatch)
    }

    /// Has the lives of messages looked at. Without a thread, each call asks the store whether it is time.
    pub fn sweep_at(&self, at: Duration) {
        if self.has_thread {
            self.plan(at, |agenda| {
                agenda.sweep_at = Some(agenda.sweep_at.map_or(at, |set| set.min(at)));
            });
        }
    }

    /// Has messages moved to the dead letters.
    pub fn move_at(&self, at: Duration) {
        self.plan(at, |agenda| {
            agenda.move_at = Some(agenda.move_at.map_or(at, |set| set.min(at)));
        });
    }

    /// Whether messages are to be moved to the dead letters. Without a thread, calls move them.
    pub fn take_move(&self, now: Duration) -> bool {
        self.agenda.lock().take_move(now)
    }

    /// Has a round over the queues and subscriptions made after [`REST_AFTER`].
    pub fn rest_soon(&self) {
        self.plan(Duration::ZERO, |agenda| agenda.rest_soon = true);
    }

    /// Has the next slice of a round made at once, after other duties.
    pub fn rest_on(&self) {
        self.plan(Duration::ZERO, |agenda| agenda.rest_at = Some(Duration::ZERO));
    }

    /// Whether a round is due: without a thread, calls make it.
    pub fn take_rest(&self, now: Duration) -> bool {
        self.agenda.lock().take_rest(now)
    }

    /// Has a task woken at a time of the stopwatch. Returns the number of its sleep. `None` if the flusher has stopped.
    pub fn wake_at(&self, at: Duration, waker: Waker) -> Option<u64> {
        let mut agenda = self.agenda.lock();
        if agenda.stop {
            return None;
        }
        agenda.last_sleeper += 1;
        let number = agenda.last_sleeper;
        agenda.sleepers.insert((at, number), waker);
        drop(agenda);
        self.changed.notify_one();
        Some(number)
    }

    /// Has waiters woken. Without a thread, wakes them here.
    pub fn rouse(&self, relay: Arc<Relay>) {
        let mut agenda = self.agenda.lock();
        if agenda.stop || !self.has_thread {
            drop(agenda);
            relay.finish();
            return;
        }
        agenda.relays.push(relay);
        drop(agenda);
        self.changed.notify_one();
    }

    /// Ends a sleep before its time.
    pub fn end_sleep(&self, at: Duration, number: u64) {
        let waker = self.agenda.lock().sleepers.remove(&(at, number));
        // This may run code of the application, so no lock is held.
        drop(waker);
    }

    /// Notes that everything before a position is durable. If no commit follows within the interval, the flusher
    /// writes a watermark frame that records it.
    #[inline]
    pub fn mark_later(&self, elapsed: impl FnOnce() -> Duration, position: Lsn) {
        // The flusher clears the flag before it looks at the journal. So it sees each sync that finds the flag set.
        if !self.is_marking.load(Ordering::Relaxed) {
            self.is_marking.store(true, Ordering::Relaxed);
            let at = elapsed() + self.interval.min(MARK_MAX);
            self.agenda.lock().mark_at.get_or_insert((at, position));
            self.changed.notify_one();
        }
    }

    pub fn stop(&self) {
        let mut agenda = self.agenda.lock();
        agenda.stop = true;
        let sleepers = mem::take(&mut agenda.sleepers);
        let relays = mem::take(&mut agenda.relays);
        drop(agenda);
        self.changed.notify_one();
        sleepers.into_values().for_each(wake_task);
        relays.iter().for_each(Relay::finish);
    }

    /// Waits for the next duty. The clock lags by up to one `tick`.
    pub fn next_duty(
        &self,
        now: impl Fn() -> Duration,
        stopwatch: impl Fn() -> Duration,
        tick: Duration,
    ) -> Duty {
        let mut agenda = self.agenda.lock();
        loop {
            let now = now();
            if agenda.stop {
                return Duty::Stop;
            }
            if let Some(relay) = agenda.relays.pop() {
                return Duty::Rouse(relay);
            }
            if self.take_sync_of(&mut agenda, now) {
                return Duty::Sync;
            }
            if agenda.next_look().is_some_and(|at| at <= now) {
                agenda.looked_at = now;
                return Duty::Look;
            }
            if let Some(position) = self.take_mark_of(&mut agenda, now) {
                return Duty::Mark(position);
            }
            // Timers and moves may be many, and each is followed by the next.
            if let Some(sleeper) = agenda.take_sleeper(&stopwatch) {
                return Duty::Wake(sleeper);
            }
            if let Some(timer) = agenda.take_timer(now) {
                return Duty::Timer(timer);
            }
            if agenda.sweep_at.take_if(|at| *at <= now).is_some() {
                return Duty::Sweep;
            }
            if agenda.take_rest(now) {
                return Duty::Rest;
            }
            if agenda.take_move(now) {
                return Duty::Move;
            }
            agenda = match agenda.wait_for(now, &stopwatch) {
                // The clock moves once a tick, so after a shorter sleep it would show the same time.
                Some(time) => agenda.wait_timeout(&self.changed, time.max(tick / 2)).0,
                None => agenda.wait(&self.changed),
            };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
