//! Tickets: they tell when a commit is durable.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use super::lifetime::Engine;
use crate::{
    engine::{core::commit::Receipt, runtime::wait::Waiting},
    error::Result,
};

/// A commit that may not be durable yet.
///
/// [`wait`](Ticket::wait) for it, or await it in any runtime. One thread can have thousands of commits under
/// way, which share their syncs. Dropping a ticket takes nothing back: the commit still becomes durable.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let queue = engine.queue("payments").create()?;
/// let tickets: Vec<_> =
///     (0..100).map(|n| queue.send_ticket(format!("order {n}"))).collect::<Result<_, _>>()?;
/// for ticket in tickets {
///     ticket.wait()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a ticket says when a commit is durable; wait for it, or use a call that does"]
pub struct Ticket<T> {
    engine: Engine,
    value: Option<T>,
    receipt: Receipt,
    waiting: Option<Waiting>,
}

impl<T> Ticket<T> {
    pub(crate) fn new(engine: &Engine, (value, receipt): (T, Receipt)) -> Ticket<T> {
        engine.committer().sync_at_once();
        engine.committer().pay();
        Ticket { engine: engine.clone(), value: Some(value), receipt, waiting: None }
    }

    /// Waits until the commit is durable, and returns its value.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let ticket = payments.send_ticket("charge order 1")?;
    /// // Other work; then:
    /// assert_eq!(ticket.wait()?, Offset(0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the sync failed: the commit may be lost, or not.
    pub fn wait(self) -> Result<T> {
        self.engine.committer().await_durable(self.receipt)?;
        Ok(self.value.expect("a ticket has its value until it is awaited"))
    }

    /// Whether the commit is durable now. It does not wait.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let ticket = payments.send_ticket("charge order 1")?;
    /// engine.sync()?;
    /// assert!(ticket.is_durable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.engine.committer().work_alone();
        self.is_durable_by_now()
    }

    fn is_durable_by_now(&self) -> bool {
        matches!(self.outcome(), Some(Ok(())))
    }

    /// `Some` if the wait is over.
    fn outcome(&self) -> Option<Result<()>> {
        match self.receipt.end() {
            Some(end) => self.engine.committer().syncs.outcome(end),
            None => Some(Ok(())),
        }
    }

    /// The value of the commit, such as the offset of the message that was sent. `None` after the ticket was
    /// awaited.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let ticket = payments.send_ticket("charge order 1")?;
    /// assert_eq!(ticket.value(), Some(&Offset(0))); // known before it is durable
    /// # ticket.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T: Unpin> Future for Ticket<T> {
    type Output = Result<T>;

    /// # Panics
    ///
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let this = &mut *self;
        let committer = this.engine.committer();
        if !committer.flusher.has_thread() {
            // The engine has no flusher thread, so this thread syncs.
            let synced = committer.await_durable(this.receipt);
            let value = this.value.take().expect("a ticket is polled until it is ready");
            return Poll::Ready(synced.map(|()| value));
        }
        loop {
            if let Some(outcome) = this.outcome() {
                let value = this.value.take().expect("a ticket is polled until it is ready");
                return Poll::Ready(outcome.map(|()| value));
            }
            match &mut this.waiting {
                // A sync that ended before the wait began did not wake this task: check once more.
                None => {
                    this.waiting = Some(committer.syncs.listen());
                    committer.sync_at_once();
                }
                Some(waiting) => match waiting.poll(context) {
                    Poll::Ready(()) => this.waiting = None,
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("value", &self.value)
            .field("is_durable", &self.is_durable_by_now())
            .finish_non_exhaustive()
    }
}
