//! Waiting, by a thread or by a task: for messages, for capacity, or for durability.
//!
//! To wake a thread costs its waker as much as some appends. So a thread that adds messages for many waiters wakes two of
//! them, and each woken thread wakes the next before it goes on ([`Relay`]). So only a few of them compete for a core with the
//! thread that woke them. Only threads pass the wake-up on: a task runs when its executor
//! wants it to. Of many tasks the first ones are woken at once, and the flusher wakes the others.
//!
//! While a wake-up of all waiters is passed on, further ones wake nobody. They are noted, and the last thread of the relay
//! has it go on with those who have begun to wait in the meantime.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    application,
    interest::{Interest, Key, Whom},
    lock::RankedMutex,
    relay::{Passing, Relay, THREADS_AT_ONCE, Watchers},
};
use crate::{
    audit::{self, Rank},
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
    waiters: RankedMutex<Watchers>,
    /// The number of waiters that were not woken, readable without the mutex.
    count: AtomicUsize,
}

#[derive(Debug)]
pub struct Waiter {
    pub(super) interest: Interest,
    state: RankedMutex<Sleep>,
    woken: Condvar,
}

/// What came of waking a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roused {
    /// A thread that was asleep: it goes on with the relay.
    Thread,
    /// A task, or one that was not asleep.
    Other,
    /// A task that was not woken: others would wait for its waker.
    Not,
    /// A task whose waker panicked. Another waiter of its interest is woken in its place.
    Panicked,
}

enum Sleep {
    /// A thread or a task that has begun to wait, and does not sleep yet.
    Begun,
    Thread,
    Task(Waker),
    /// A thread that was asleep may have others to wake.
    Woken(Option<Arc<Relay>>),
    /// It no longer waits.
    Gone,
}

/// How many tasks a thread wakes that has other work to do.
const TASKS_AT_ONCE: usize = 4;

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            waiters: RankedMutex::new(&(Rank::Leaf, "waiters of a watch"), Watchers::default()),
            count: AtomicUsize::new(0),
        }
    }
}

impl Watch {
    /// Begins to wait for whatever comes. The caller holds the core.
    pub fn begin(self: &Arc<Watch>) -> Waiting {
        self.begin_for(Interest::ALL)
    }

    /// Begins to wait with an interest. The caller holds the core.
    pub fn begin_for(self: &Arc<Watch>, interest: Interest) -> Waiting {
        let waiter = Arc::new(Waiter {
            interest,
            state: RankedMutex::new(&(Rank::Leaf, "waiter"), Sleep::Begun),
            woken: Condvar::new(),
        });
        let key = self.change(|it| it.asleep.add(interest, Arc::clone(&waiter)));
        Waiting { watch: Arc::clone(self), waiter, key, is_over: false }
    }

    pub(super) fn change<T>(&self, act: impl FnOnce(&mut Watchers) -> T) -> T {
        let mut watchers = self.waiters.lock();
        let value = act(&mut watchers);
        self.count.store(watchers.asleep.len(), Ordering::Relaxed);
        value
    }

    /// Whether there is a waiter. The caller holds the core.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Wakes up to `most` waiters of each interest, the longest waiting first.
    pub fn wake(self: &Arc<Watch>, most: usize) {
        self.wake_those(Whom::Each, most);
    }

    fn wake_those(self: &Arc<Watch>, whom: Whom, most: usize) {
        if let Some(rest) = self.begin_to_wake(whom, most) {
            rest.finish();
        }
    }

    /// Wakes the first of up to `most` waiters of each interest. Threads among them wake the others. If there are none, and
    /// many tasks are left, returns the others: the caller has them woken.
    #[must_use = "the others sleep until they are woken"]
    pub fn begin_to_wake(self: &Arc<Watch>, whom: Whom, most: usize) -> Option<Arc<Relay>> {
        self.take(whom, most)?.go_on(THREADS_AT_ONCE, TASKS_AT_ONCE)
    }

    /// Wakes one or two waiters. Of more of them, returns the relay.
    fn take(self: &Arc<Watch>, whom: Whom, most: usize) -> Option<Arc<Relay>> {
        let is_of_all = whom == Whom::Each && most == usize::MAX;
        let few = self.change(|it| match &mut it.passing {
            Some(passing) if is_of_all => {
                passing.again = true;
                Some(VecDeque::new())
            }
            passing => {
                let taken = it.asleep.take(whom, most);
                if taken.len() > THREADS_AT_ONCE && is_of_all {
                    *passing = Some(Passing { left: taken, again: false });
                    return None;
                }
                Some(taken)
            }
        });
        let left = match few {
            Some(few) if few.len() <= THREADS_AT_ONCE => {
                self.wake_each(few);
                return None;
            }
            many => many,
        };
        Some(Relay::new(self, left))
    }

    /// Wakes these, and for each whose waker panics the next one of its interest.
    pub(super) fn wake_each(&self, mut woken: VecDeque<Arc<Waiter>>) {
        while let Some(waiter) = woken.pop_front() {
            if waiter.wake(None) == Roused::Panicked {
                woken.extend(self.next_of(waiter.interest));
            }
        }
    }

    /// Takes the next waiter of an interest.
    pub(super) fn next_of(&self, interest: Interest) -> VecDeque<Arc<Waiter>> {
        self.change(|it| it.asleep.take(Whom::Only(interest), 1))
    }
}

/// Wakes a task. If its waker panics, the other waiters are woken all the same.
pub fn wake_task(waker: Waker) {
    application::run(|| waker.wake());
}

impl Waiter {
    /// Wakes a waiter, unless it is a task for whose waker further wake-ups of all would wait.
    pub(super) fn wake(&self, relay: Option<&Arc<Relay>>) -> Roused {
        let mut state = self.state.lock();
        let goes_on = matches!(*state, Sleep::Thread);
        if matches!(*state, Sleep::Gone) {
            return Roused::Other;
        }
        if matches!(*state, Sleep::Task(_)) && relay.is_some_and(|it| it.is_passing()) {
            return Roused::Not;
        }
        audit::step();
        let before = mem::replace(&mut *state, Sleep::Woken(relay.filter(|_| goes_on).cloned()));
        drop(state);
        match before {
            Sleep::Thread => self.woken.notify_one(),
            Sleep::Task(waker) => {
                if !application::has_run(|| waker.wake()) {
                    return Roused::Panicked;
                }
            }
            Sleep::Begun | Sleep::Woken(_) | Sleep::Gone => {}
        }
        if goes_on { Roused::Thread } else { Roused::Other }
    }
}

/// One wait. If it is dropped after it was woken and before its waiter noticed, it wakes the next waiter instead.
#[derive(Debug)]
pub struct Waiting {
    watch: Arc<Watch>,
    waiter: Arc<Waiter>,
    key: Key,
    is_over: bool,
}

impl Waiting {
    /// Blocks until woken. Returns `false` if the time was over before. `None` waits for ever.
    pub fn wait(mut self, timeout: Option<Duration>) -> bool {
        let sleeps = |state: &mut Sleep| !matches!(state, Sleep::Woken(_));
        let mut state = self.waiter.state.lock();
        if sleeps(&mut state) {
            *state = Sleep::Thread;
        }
        let mut state = match timeout {
            Some(timeout) => state.wait_timeout_while(&self.waiter.woken, timeout, sleeps),
            None => state.wait_while(&self.waiter.woken, sleeps),
        };
        let (is_woken, relay) = match &mut *state {
            Sleep::Woken(relay) => (true, relay.take()),
            _ => (false, None),
        };
        drop(state);
        self.is_over = is_woken;
        if let Some(relay) = relay {
            relay.finish();
        }
        is_woken
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Cloning a waker runs code of the application, so no lock is held.
        let waker = context.waker().clone();
        let mut state = self.waiter.state.lock();
        if matches!(*state, Sleep::Woken(_)) {
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
        let key = self.key;
        if self.watch.change(|it| it.asleep.remove(key)).is_some() {
            return;
        }
        let before = mem::replace(&mut *self.waiter.state.lock(), Sleep::Gone);
        if let Sleep::Woken(Some(relay)) = &before {
            relay.finish();
        }
        self.watch.wake_those(Whom::Only(key.0), 1);
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sleep::Begun => "Begun",
            Sleep::Thread => "Thread",
            Sleep::Task(_) => "Task",
            Sleep::Woken(_) => "Woken",
            Sleep::Gone => "Gone",
        })
    }
}

/// Calls `attempt` until it has a result, and waits in between. Returns `None` if the time is over.
/// `stopwatch` is an exact clock. It is read only if the call has to wait.
pub fn blocking<T>(
    timeout: Option<Duration>,
    stopwatch: impl Fn() -> Duration,
    attempt: impl FnMut() -> Result<Attempt<T>>,
) -> Result<Option<T>> {
    let deadline = Deadline::default();
    blocking_while(|| timeout.map(|timeout| deadline.left(timeout, &stopwatch)), attempt)
}

/// When the time of a call is over. It begins when the call first asks how much is left.
#[derive(Debug, Default)]
pub struct Deadline(Cell<Option<Duration>>);

impl Deadline {
    /// The time that is left of `timeout`. `stopwatch` is an exact clock.
    pub fn left(&self, timeout: Duration, stopwatch: impl Fn() -> Duration) -> Duration {
        let now = stopwatch();
        let at = self.0.get().unwrap_or_else(|| now.saturating_add(timeout));
        self.0.set(Some(at));
        at.saturating_sub(now)
    }
}

/// As [`blocking`], while there is time `left`. `None` is for ever.
pub fn blocking_while<T>(
    left: impl Fn() -> Option<Duration>,
    mut attempt: impl FnMut() -> Result<Attempt<T>>,
) -> Result<Option<T>> {
    loop {
        let waiting = match attempt()? {
            Attempt::Got(value) => return Ok(Some(value)),
            Attempt::Wait(waiting) => waiting,
        };
        let left = left();
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

#[cfg(all(test, not(loom)))]
mod tests;
