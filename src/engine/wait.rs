//! Waiting, by a thread or by a task: for messages, or for something to become durable.

use std::{
    collections::BTreeMap,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    error::Result,
    prims::{AtomicUsize, Condvar, Mutex, MutexGuard},
};

/// Where those wait who want the same: messages of one queue, topic or stream.
///
/// Who waits registers while holding the core; who brings messages looks while holding the core,
/// too: so either the one sees the messages, or the other sees the one that waits. Who wakes has let
/// go of all locks by then, as whoever is woken would else run into them, and sleep once more.
#[derive(Debug, Default)]
pub struct Watch {
    sleepers: Mutex<Sleepers>,
    /// How many they are.
    asleep: AtomicUsize,
}

/// Those who wait and were not woken, in the order in which they came.
#[derive(Debug, Default)]
struct Sleepers {
    asleep: BTreeMap<u64, Arc<Sleeper>>,
    next: u64,
}

#[derive(Debug, Default)]
struct Sleeper {
    state: Mutex<Sleep>,
    woken: Condvar,
}

#[derive(Default)]
enum Sleep {
    /// Of a thread, or of a task that was not polled yet.
    #[default]
    Sound,
    Task(Waker),
    Woken,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Begins to wait. To be called with the core in hand.
    pub fn begin(self: &Arc<Watch>) -> Waiting {
        let sleeper = Arc::new(Sleeper::default());
        let number = self.change(|sleepers| {
            sleepers.next += 1;
            sleepers.asleep.insert(sleepers.next, Arc::clone(&sleeper));
            sleepers.next
        });
        Waiting { watch: Arc::clone(self), sleeper, number, is_over: false }
    }

    fn change<T>(&self, act: impl FnOnce(&mut Sleepers) -> T) -> T {
        let mut sleepers = locked(&self.sleepers);
        let value = act(&mut sleepers);
        self.asleep.store(sleepers.asleep.len(), Ordering::Relaxed);
        value
    }

    /// Whether anyone waits. To be asked with the core in hand.
    pub fn has_waiters(&self) -> bool {
        self.asleep.load(Ordering::Relaxed) > 0
    }

    /// Wakes up to so many, those first who have waited longest.
    pub fn wake(&self, most: usize) {
        let woken = self.change(|sleepers| {
            let rest = match sleepers.asleep.keys().nth(most).copied() {
                Some(first) => sleepers.asleep.split_off(&first),
                None => BTreeMap::new(),
            };
            mem::replace(&mut sleepers.asleep, rest)
        });
        woken.into_values().for_each(|sleeper| sleeper.wake());
    }
}

impl Sleeper {
    fn wake(&self) {
        let before = mem::replace(&mut *locked(&self.state), Sleep::Woken);
        match before {
            Sleep::Sound => self.woken.notify_one(),
            // One that panics has said so, and the others are to be woken all the same.
            Sleep::Task(waker) => drop(catch_unwind(AssertUnwindSafe(|| waker.wake()))),
            Sleep::Woken => {}
        }
    }
}

/// One that waits. Whoever is woken and does not want it any more has the next one woken instead.
#[derive(Debug)]
pub struct Waiting {
    watch: Arc<Watch>,
    sleeper: Arc<Sleeper>,
    number: u64,
    is_over: bool,
}

impl Waiting {
    /// Blocks until woken; `false` if the time ran out before. `None` is for ever.
    pub fn wait(mut self, timeout: Option<Duration>) -> bool {
        let sleeps = |state: &mut Sleep| !matches!(state, Sleep::Woken);
        let state = locked(&self.sleeper.state);
        let state = match timeout {
            Some(timeout) => {
                let waited = self.sleeper.woken.wait_timeout_while(state, timeout, sleeps);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.sleeper.woken.wait_while(state, sleeps);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        };
        let is_woken = matches!(*state, Sleep::Woken);
        drop(state);
        self.is_over = is_woken;
        is_woken
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The application's code runs without locks.
        let waker = context.waker().clone();
        let mut state = locked(&self.sleeper.state);
        if matches!(*state, Sleep::Woken) {
            self.is_over = true;
            return Poll::Ready(());
        }
        let before = mem::replace(&mut *state, Sleep::Task(waker));
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let number = self.number;
        if self.watch.change(|sleepers| sleepers.asleep.remove(&number)).is_none() {
            self.watch.wake(1);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sleep::Sound => "Sound",
            Sleep::Task(_) => "Task",
            Sleep::Woken => "Woken",
        })
    }
}

/// Calls `attempt` until it has a result, waiting in between for as long as the time lasts.
/// `stopwatch` is an exact clock, which is read only if there is something to wait for.
pub fn blocking<T>(
    timeout: Option<Duration>,
    stopwatch: impl Fn() -> Duration,
    mut attempt: impl FnMut() -> Result<Attempt<T>>,
) -> Result<Option<T>> {
    let mut deadline = None;
    loop {
        let waiting = match attempt()? {
            Attempt::Got(value) => return Ok(Some(value)),
            Attempt::Wait(waiting) => waiting,
        };
        let left = timeout.map(|timeout| {
            let now = stopwatch();
            deadline.get_or_insert(now.saturating_add(timeout)).saturating_sub(now)
        });
        if left == Some(Duration::ZERO) || !waiting.wait(left) {
            // It may have come at the last moment.
            return match attempt()? {
                Attempt::Got(value) => Ok(Some(value)),
                Attempt::Wait(_) => Ok(None),
            };
        }
    }
}

/// What came of an attempt to get something.
#[derive(Debug)]
pub enum Attempt<T> {
    Got(T),
    /// Nothing is there; this ends when there may be.
    Wait(Waiting),
}

/// Calls `attempt` until it has a result: the asynchronous form of [`blocking`].
#[derive(Debug)]
pub struct Awaited<F> {
    attempt: F,
    waiting: Option<Waiting>,
}

impl<F> Awaited<F> {
    pub fn new(attempt: F) -> Awaited<F> {
        Awaited { attempt, waiting: None }
    }
}

impl<T, F: FnMut() -> Result<Attempt<T>> + Unpin> Future for Awaited<F> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                if waiting.poll(context).is_pending() {
                    return Poll::Pending;
                }
                this.waiting = None;
            }
            match (this.attempt)() {
                Ok(Attempt::Got(value)) => return Poll::Ready(Ok(value)),
                Ok(Attempt::Wait(waiting)) => this.waiting = Some(waiting),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
