//! Waiting, by a thread or by a task: for messages, for capacity, or for durability.

use std::{
    collections::BTreeMap,
    fmt, mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{application, lock::RankedMutex};
use crate::{
    audit::Rank,
    error::Result,
    prims::{AtomicUsize, Condvar},
};

/// The waiters for one event, such as messages of one queue, topic or stream.
///
/// A waiter registers under the core. A thread that adds messages checks for waiters under the core, too. So either
/// the waiter sees the messages, or the thread sees the waiter. A thread that wakes others holds no lock: a woken
/// waiter would block on it and sleep again.
#[derive(Debug)]
pub struct Watch {
    waiters: RankedMutex<Waiters>,
    /// The number of waiters that were not woken, readable without the mutex.
    count: AtomicUsize,
}

/// The waiters that were not woken, in the order in which they registered.
#[derive(Debug, Default)]
struct Waiters {
    asleep: BTreeMap<u64, Arc<Waiter>>,
    last: u64,
}

#[derive(Debug)]
struct Waiter {
    state: RankedMutex<Sleep>,
    woken: Condvar,
}

enum Sleep {
    /// A sleeping thread, or a task that was not polled yet.
    Sound,
    Task(Waker),
    Woken,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            waiters: RankedMutex::new(Rank::Leaf, "waiters of a watch", Waiters::default()),
            count: AtomicUsize::new(0),
        }
    }
}

impl Watch {
    /// Begins to wait. The caller holds the core.
    pub fn begin(self: &Arc<Watch>) -> Waiting {
        let waiter = Arc::new(Waiter {
            state: RankedMutex::new(Rank::Leaf, "waiter", Sleep::Sound),
            woken: Condvar::new(),
        });
        let number = self.change(|waiters| {
            waiters.last += 1;
            waiters.asleep.insert(waiters.last, Arc::clone(&waiter));
            waiters.last
        });
        Waiting { watch: Arc::clone(self), waiter, number, is_over: false }
    }

    fn change<T>(&self, act: impl FnOnce(&mut Waiters) -> T) -> T {
        let mut waiters = self.waiters.lock();
        let value = act(&mut waiters);
        self.count.store(waiters.asleep.len(), Ordering::Relaxed);
        value
    }

    /// Whether there is a waiter. The caller holds the core.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Wakes up to `most` waiters, the longest waiting first.
    pub fn wake(&self, most: usize) {
        let woken = self.change(|waiters| {
            let rest = match waiters.asleep.keys().nth(most).copied() {
                Some(first) => waiters.asleep.split_off(&first),
                None => BTreeMap::new(),
            };
            mem::replace(&mut waiters.asleep, rest)
        });
        woken.into_values().for_each(|waiter| waiter.wake());
    }
}

/// Wakes a task. If its waker panics, the other waiters are woken all the same.
pub fn wake_task(waker: Waker) {
    application::run(|| waker.wake());
}

impl Waiter {
    fn wake(&self) {
        let before = mem::replace(&mut *self.state.lock(), Sleep::Woken);
        match before {
            Sleep::Sound => self.woken.notify_one(),
            Sleep::Task(waker) => wake_task(waker),
            Sleep::Woken => {}
        }
    }
}

/// One wait. If it is dropped after it was woken and before its waiter noticed, it wakes the next waiter instead.
#[derive(Debug)]
pub struct Waiting {
    watch: Arc<Watch>,
    waiter: Arc<Waiter>,
    number: u64,
    is_over: bool,
}

impl Waiting {
    /// Blocks until woken. Returns `false` if the time was over before. `None` waits for ever.
    pub fn wait(mut self, timeout: Option<Duration>) -> bool {
        let sleeps = |state: &mut Sleep| !matches!(state, Sleep::Woken);
        let state = self.waiter.state.lock();
        let state = match timeout {
            Some(timeout) => state.wait_timeout_while(&self.waiter.woken, timeout, sleeps),
            None => state.wait_while(&self.waiter.woken, sleeps),
        };
        let is_woken = matches!(*state, Sleep::Woken);
        drop(state);
        self.is_over = is_woken;
        is_woken
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Cloning a waker runs code of the application, so no lock is held.
        let waker = context.waker().clone();
        let mut state = self.waiter.state.lock();
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
        if self.watch.change(|waiters| waiters.asleep.remove(&number)).is_none() {
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

/// Calls `attempt` until it has a result, and waits in between. Returns `None` if the time is over.
/// `stopwatch` is an exact clock. It is read only if the call has to wait.
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
            // The result may have come at the last moment.
            return match attempt()? {
                Attempt::Got(value) => Ok(Some(value)),
                Attempt::Wait(_) => Ok(None),
            };
        }
    }
}

/// The result of one attempt.
#[derive(Debug)]
pub enum Attempt<T> {
    Got(T),
    /// There is no result yet. The wait ends when there may be one.
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
