//! Waiting for messages, by a thread or by a task.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use event_listener::{Event, EventListener, Listener};

use crate::error::Result;

/// Where those wait who want messages of one queue, topic or stream.
///
/// Who waits registers while it holds the core; who brings messages looks while it holds the core,
/// too: so either the one sees the messages, or the other sees the one that waits.
#[derive(Debug, Default)]
pub struct Watch {
    event: Event,
    waiting: AtomicUsize,
}

impl Watch {
    /// Begins to wait. To be called with the core in hand.
    pub fn begin(self: &Arc<Watch>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting { listener: self.event.listen(), _counted: Counted(Arc::clone(self)) }
    }

    /// Whether anyone waits. To be asked with the core in hand.
    pub fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Wakes up to so many.
    pub fn wake(&self, most: usize) {
        if most == usize::MAX {
            self.event.notify(most);
        } else {
            self.event.notify_additional(most);
        }
    }
}

/// One that waits.
#[derive(Debug)]
pub struct Waiting {
    listener: EventListener,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted(Arc<Watch>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Waiting {
    /// Blocks until woken; `false` if the time ran out before. `None` is for ever.
    pub fn wait(self, timeout: Option<Duration>) -> bool {
        match timeout {
            Some(timeout) => self.listener.wait_timeout(timeout).is_some(),
            None => {
                self.listener.wait();
                true
            }
        }
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.listener).poll(context)
    }
}

/// Calls `attempt` until it has a result, waiting in between for as long as the time lasts.
/// `elapsed` is the clock.
pub fn blocking<T>(
    timeout: Option<Duration>,
    elapsed: impl Fn() -> Duration,
    mut attempt: impl FnMut() -> Result<Attempt<T>>,
) -> Result<Option<T>> {
    let deadline = timeout.map(|timeout| elapsed().saturating_add(timeout));
    loop {
        let waiting = match attempt()? {
            Attempt::Got(value) => return Ok(Some(value)),
            Attempt::Wait(waiting) => waiting,
        };
        let left = deadline.map(|deadline| deadline.saturating_sub(elapsed()));
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
