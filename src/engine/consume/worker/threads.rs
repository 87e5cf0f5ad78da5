//! A worker on threads of its own.

use std::{
    fmt::{self, Display},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::work::{Next, REST, Running, Work, text_of};
use crate::{
    engine::{
        commit::{
            committer::PANICKED,
            patience::{self, Past},
        },
        consume::{delivery::Delivery, lease::DeliveryInfo},
        runtime::application,
    },
    error::{Error, ErrorKind, Result},
    prims::thread::{self, JoinHandle},
};

/// How long a worker that is dropped waits for its handlers.
const DROP_WAIT: Duration = Duration::from_secs(30);

/// Threads that run a handler for each message of a queue or a subscription.
///
/// They run until [`stop`](Worker::stop) or [`stop_within`](Worker::stop_within), until the worker is dropped, or until
/// the engine is closed. Dropping the worker waits for at most 30 s. If handlers still run then, it prints a message to
/// the standard error output, and gives their messages back.
///
/// ```
/// use std::time::Duration;
/// use posthouse::{Backoff, Engine};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let payments = engine
///     .queue("payments")
///     .backoff(Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)))
///     .max_attempts(5)
///     .create()?;
/// let worker = payments.worker().concurrency(4).start(|delivery| {
///     let order = std::str::from_utf8(delivery.payload()).map_err(|_| "not an order")?;
///     println!("charging {order}");
///     Ok::<(), &str>(())
/// })?;
/// payments.send("order 1")?;
/// # while payments.depth()? > 0 { std::thread::yield_now(); }
/// worker.stop()?; // the handlers finish their messages first
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "it is stopped when it is dropped"]
pub struct Worker {
    work: Arc<Work>,
    pub(super) threads: Vec<JoinHandle<Result<()>>>,
}

impl Worker {
    pub(super) fn start<E: Display>(
        work: Work,
        concurrency: usize,
        handler: impl Fn(&Delivery) -> std::result::Result<(), E> + Send + Sync + 'static,
    ) -> Result<Worker> {
        let mut worker = Worker { work: Arc::new(work), threads: Vec::new() };
        let handler = Arc::new(handler);
        for n in 0..concurrency {
            let (work, handler) = (Arc::clone(&worker.work), Arc::clone(&handler));
            let builder = thread::Builder::new().name(format!("posthouse-work-{n}"));
            worker.work.running.lock().threads += 1;
            let started = builder.spawn(move || {
                let _ended = Ended(&work);
                let outcome = work.run(n, &*handler);
                // What the handler has captured may panic when it is dropped.
                application::run(|| drop(handler));
                outcome
            });
            let started = started.map_err(|error| {
                worker.work.running.lock().threads -= 1;
                Error::new(ErrorKind::Io, "a thread cannot be started").because(error)
            })?;
            worker.threads.push(started);
        }
        Ok(worker)
    }

    /// How many messages handlers have handled with success since the worker was started.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let worker = payments.worker().start(|_| Ok::<(), String>(()))?;
    /// while payments.depth()? > 0 {
    ///     std::thread::yield_now();
    /// }
    /// assert_eq!((worker.handled(), worker.failed(), worker.damaged()), (1, 0, 0));
    /// worker.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.work.done.load(Ordering::Relaxed)
    }

    /// How many times a handler has failed since the worker was started. See [`handled`](Worker::handled) for an
    /// example.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.work.failed.load(Ordering::Relaxed)
    }

    /// How many messages could not be handled since the worker was started, because they are damaged on disk. They are
    /// set aside: see [`ConsumerStats::damaged`](crate::ConsumerStats::damaged).
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.work.damaged.load(Ordering::Relaxed)
    }

    /// Stops the worker: it takes no more messages, and the call returns when all handlers have returned and
    /// their deliveries are settled. If a handler hangs, so does this call: see [`stop_within`](Worker::stop_within).
    ///
    /// A handler may call it; the call then does not wait for that handler.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let worker = payments.worker().start(|_| Ok::<(), String>(()))?;
    /// worker.stop()?;
    /// payments.send("charge order 1")?;
    /// assert_eq!(payments.depth()?, 1); // nobody handles it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error that ended a thread before, such as [`Poisoned`](ErrorKind::Poisoned), or
    /// [`NotFound`](ErrorKind::NotFound) if the queue was deleted.
    pub fn stop(mut self) -> Result<()> {
        self.end(None).map(drop)
    }

    /// Stops the worker, and waits for its handlers for at most `most`. Messages whose handlers still run then are given
    /// back: they are delivered again at once, and that is no failed attempt. Returns how many these are.
    ///
    /// A thread cannot be ended from outside, so a handler that hangs goes on. What it does to its delivery later fails
    /// with [`LeaseLost`](ErrorKind::LeaseLost) and has no effect.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    ///
    /// let payments = engine.queue("payments").create()?;
    /// let worker = payments.worker().start(|_| Ok::<(), String>(()))?;
    /// assert_eq!(worker.stop_within(Duration::from_secs(10))?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`stop`](Worker::stop).
    pub fn stop_within(mut self, most: Duration) -> Result<u64> {
        self.end(Some(most))
    }

    fn end(&mut self, most: Option<Duration>) -> Result<u64> {
        self.work.stop();
        // A handler may stop its own worker. That thread ends when the handler has returned.
        let own = thread::current().id();
        let is_own = |thread: &JoinHandle<Result<()>>| thread.thread().id() == own;
        let own = self.threads.iter().position(is_own);
        let threads = std::mem::take(&mut self.threads);
        if !self.work.await_end(own.map_or(0, |_| 1), most) {
            // The threads that hang are left alone.
            return Ok(self.work.give_back_held(own));
        }
        let mut outcome = Ok(());
        for thread in threads.into_iter().filter(|thread| !is_own(thread)) {
            // Panics of the application's code are caught, so this is one of the engine's own code.
            let panicked = |_| Err(Error::new(ErrorKind::Poisoned, PANICKED));
            outcome = outcome.and(thread.join().unwrap_or_else(panicked));
        }
        outcome.map(|()| 0)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        // An error is lost here. An application that needs it calls `stop`.
        if let Ok(hanging @ 1..) = self.end(Some(DROP_WAIT)) {
            let name = &self.work.consumer.info.name;
            eprintln!(
                "posthouse: a worker of {name:?} was dropped, and {hanging} of its handlers still run after \
                 {DROP_WAIT:?}. Their messages are given back. Call Worker::stop to wait for them, or \
                 Worker::stop_within for another time."
            );
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("of", &self.work.consumer.info.name)
            .field("threads", &self.threads.len())
            .field("handled", &self.handled())
            .field("failed", &self.failed())
            .field("damaged", &self.damaged())
            .finish()
    }
}

/// Notes the end of a thread when it is dropped.
struct Ended<'a>(&'a Work);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.running.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}

impl Work {
    /// Handles messages until it is stopped, or the engine is closed. `n` is the number of the thread.
    fn run<E: Display>(
        &self,
        n: usize,
        handler: &impl Fn(&Delivery) -> std::result::Result<(), E>,
    ) -> Result<()> {
        loop {
            let next = match self.consumer.receive_unless(&self.is_stopped) {
                Ok(None) => return Ok(()),
                Ok(Some(delivery)) => self.handle(n, &delivery, handler)?,
                Err(error) => self.judge(error)?,
            };
            match next {
                Next::GoOn => {}
                Next::Rest => self.rest(),
                Next::End => return Ok(()),
            }
        }
    }

    pub(super) fn handle<E: Display>(
        &self,
        n: usize,
        delivery: &Delivery,
        handler: &impl Fn(&Delivery) -> std::result::Result<(), E>,
    ) -> Result<Next> {
        if !self.begin(n, delivery) {
            delivery.give_back(false);
            return Ok(Next::GoOn);
        }
        // If the lease is lost already, the handler runs in vain. That does no harm.
        let _ = delivery.hold(self.max_handling_time);
        let reason = self.note(application::call(|| handler(delivery).map_err(text_of)));
        if delivery.is_released() {
            let next = self.give_back_released(delivery);
            self.running.lock().held.remove(&n);
            return Ok(next);
        }
        let settled = match &reason {
            None => delivery.ack(),
            Some(reason) => delivery.nack_because(reason),
        };
        self.running.lock().held.remove(&n);
        self.judge_settled(delivery, settled, reason.is_some())
    }

    /// Notes that a thread begins to handle a delivery. `false` if the worker was stopped before: whoever stopped it
    /// counts on it that no handler begins any more, unless its delivery is noted.
    fn begin(&self, n: usize, delivery: &Delivery) -> bool {
        let mut running = self.running.lock();
        let begins = !self.is_stopped();
        if begins {
            running.held.insert(n, delivery.info);
        }
        begins
    }

    fn rest(&self) {
        let goes_on = |_: &mut Running| !self.is_stopped();
        drop(self.running.lock().wait_timeout_while(&self.changed, REST, goes_on));
    }

    /// Waits until all threads but `own` have ended. Returns `false` if the time is over before.
    fn await_end(&self, own: usize, most: Option<Duration>) -> bool {
        let Some(most) = most else {
            let runs = |running: &mut Running| running.threads > own;
            drop(self.running.lock().wait_while(&self.changed, runs));
            return true;
        };
        let now = || self.consumer.committer().disk.stopwatch();
        let deadline = now().saturating_add(most);
        let mut running = self.running.lock();
        while running.threads > own {
            let left = deadline.saturating_sub(now());
            if left.is_zero() {
                return false;
            }
            running = running.wait_timeout(&self.changed, left).0;
        }
        true
    }

    /// Gives the messages back whose handlers still run, except that of the calling thread `own`. Returns how many. It does
    /// not wait for space: without it, what was given back is written later.
    fn give_back_held(&self, own: Option<usize>) -> u64 {
        let mut held = std::mem::take(&mut self.running.lock().held);
        if let Some(own) = own {
            held.remove(&own);
        }
        let operation = "give back";
        let committer = self.consumer.committer();
        let give_back = || {
            let mut core = committer.lock(operation);
            let mut given = 0;
            for delivered in held.values() {
                let DeliveryInfo { key, attempt, .. } = *delivered;
                let is_given = core.give_back_uncounted(self.consumer.cursor(), key, attempt);
                given += u64::from(is_given);
            }
            drop(committer.count_failures(operation, core));
            given
        };
        patience::ask(Past::default(), give_back).0
    }
}
