//! Workers: threads or tasks that run a handler for each message, and settle the delivery by its result.

use std::{
    any::Any,
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use super::{consumer::Consumer, delivery::Delivery};
use crate::{
    audit::Rank,
    config::{LEASE_MAX, LEASE_MIN},
    engine::runtime::lock::RankedMutex,
    error::{Error, ErrorKind, Result},
    prims::{
        Condvar,
        thread::{self, JoinHandle},
    },
};

/// How long a worker pauses after a message could not be read or settled.
const REST: Duration = Duration::from_secs(1);

/// The settings of a worker, before it starts.
///
/// [`Queue::worker`](crate::Queue::worker) and [`Subscription::worker`](crate::Subscription::worker) return
/// it.
#[derive(Clone, Debug)]
#[must_use = "nothing is handled before it is started"]
pub struct WorkerBuilder {
    consumer: Arc<Consumer>,
    threads: usize,
    max_handling_time: Duration,
}

impl WorkerBuilder {
    pub(crate) fn new(consumer: &Arc<Consumer>) -> WorkerBuilder {
        WorkerBuilder { consumer: Arc::clone(consumer), threads: 1, max_handling_time: LEASE_MAX }
    }

    /// Sets how many threads handle messages side by side: 1 by default. It counts for
    /// [`start`](WorkerBuilder::start) only.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let thumbnails = engine.queue("thumbnails").create()?;
    /// let worker = thumbnails.worker().threads(4).start(|_| Ok::<(), String>(()))?;
    /// worker.stop()?;
    /// assert!(thumbnails.worker().threads(0).start(|_| Ok::<(), String>(())).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn threads(mut self, threads: usize) -> WorkerBuilder {
        self.threads = threads;
        self
    }

    /// Sets how long a handler may work on one message: from 1 ms to a day; a day by default.
    ///
    /// The worker extends the lease for that long. After that the lease runs out, and the message is delivered
    /// again. See also [`Delivery::hold`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    ///
    /// let thumbnails = engine.queue("thumbnails").create()?;
    /// let worker = thumbnails
    ///     .worker()
    ///     .max_handling_time(Duration::from_secs(60))
    ///     .start(|_| Ok::<(), String>(()))?;
    /// worker.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_handling_time(mut self, time: Duration) -> WorkerBuilder {
        self.max_handling_time = time;
        self
    }

    /// Starts the threads. They run the handler for each message.
    ///
    /// If the handler returns `Ok`, the message is acked. If it returns an error or panics, the message is
    /// [nacked](Delivery::nack_because), with the error or the panic as the reason. A handler may settle its
    /// delivery itself, as in a transaction with its results; then the worker does nothing more.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// let worker = payments.worker().start(|delivery| match delivery.payload() {
    ///     b"charge order 1" => Ok(()),
    ///     _ => Err("not an order"),
    /// })?;
    /// payments.send("charge order 1")?;
    /// payments.send("?")?;
    /// # while payments.depth()? > 0 { std::thread::yield_now(); }
    /// worker.stop()?;
    /// assert_eq!(engine.queue("payments.dead").open()?.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for 0 threads, or for a handling time of 0 or of more than a
    /// day; [`Io`](ErrorKind::Io) if a thread cannot be started.
    pub fn start<E: Display>(
        self,
        handler: impl Fn(&Delivery) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<Worker> {
        self.check()?;
        let WorkerBuilder { consumer, threads, max_handling_time } = self;
        let shared = Arc::new(Work {
            consumer,
            max_handling_time,
            is_stopped: AtomicBool::new(false),
            stopping: RankedMutex::new(Rank::Scheduler, "worker", ()),
            stopped: Condvar::new(),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let mut worker = Worker { work: shared, threads: Vec::new() };
        let handler = Arc::new(handler);
        for n in 0..threads {
            let (work, handler) = (Arc::clone(&worker.work), Arc::clone(&handler));
            let builder = thread::Builder::new().name(format!("posthouse-work-{n}"));
            let started = builder.spawn(move || work.run(&*handler)).map_err(|error| {
                Error::new(ErrorKind::Io, "a thread cannot be started").because(error)
            })?;
            worker.threads.push(started);
        }
        Ok(worker)
    }

    /// Handles one message after the other as a future, for tasks. The future ends when the engine is closed.
    ///
    /// It needs no particular runtime. To handle messages side by side, spawn several futures. A future that is
    /// dropped gives back the message that it handles. The handler's result counts as with
    /// [`start`](WorkerBuilder::start).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let handled = payments.worker().run_async(async |delivery| {
    ///     println!("{:?}", delivery.payload());
    ///     Ok::<(), std::io::Error>(())
    /// });
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut handled = std::pin::pin!(handled);
    /// # while payments.depth()? > 0 { assert!(handled.as_mut().poll(&mut context).is_pending()); }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`start`](WorkerBuilder::start) and [`receive`](crate::Queue::receive), except
    /// [`Closed`](ErrorKind::Closed).
    pub async fn run_async<E: Display>(
        self,
        mut handler: impl AsyncFnMut(&Delivery) -> Result<(), E>,
    ) -> Result<()> {
        self.check()?;
        loop {
            let delivery = match self.consumer.receive_async().await {
                Ok(delivery) => delivery,
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) => return Err(error),
            };
            delivery.hold(self.max_handling_time)?;
            let mut handled = pin!(handler(&delivery));
            let caught = std::future::poll_fn(|context| {
                let polled = catch_unwind(AssertUnwindSafe(|| handled.as_mut().poll(context)));
                match polled {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(handled)) => Poll::Ready(Ok(handled)),
                    Err(panic) => Poll::Ready(Err(panic)),
                }
            });
            let ticket = match failure_of(caught.await) {
                None => delivery.ack_ticket(),
                Some(reason) => delivery.nack_because_ticket(&reason),
            };
            let settled = match ticket {
                Ok(ticket) => ticket.await,
                Err(error) => Err(error),
            };
            match settled {
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) if error.kind() != ErrorKind::LeaseLost => return Err(error),
                _ => {}
            }
        }
    }

    fn check(&self) -> Result<()> {
        if self.threads == 0 {
            return Err(Error::invalid(
                "threads",
                "a worker without threads handles nothing: give it 1 or more",
            ));
        }
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.max_handling_time) {
            let what = format!(
                "a handler may work for {:?}: give it from 1 ms to 1 day",
                self.max_handling_time
            );
            return Err(Error::invalid("max_handling_time", what));
        }
        Ok(())
    }
}

/// The reason of a failure: the handler's error or its panic. `None` if the handler succeeded.
fn failure_of<E: Display>(
    handled: std::result::Result<Result<(), E>, Box<dyn Any + Send>>,
) -> Option<String> {
    let panic = match handled {
        Ok(Ok(())) => return None,
        Ok(Err(error)) => return Some(error.to_string()),
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Some(format!("the handler panicked: {}", text.as_deref().unwrap_or("with no message")))
}

/// The state that the threads of a worker share.
#[derive(Debug)]
struct Work {
    consumer: Arc<Consumer>,
    max_handling_time: Duration,
    is_stopped: AtomicBool,
    stopping: RankedMutex<()>,
    /// Wakes threads that rest.
    stopped: Condvar,
    done: AtomicU64,
    failed: AtomicU64,
}

impl Work {
    /// Handles messages until it is stopped, or the engine is closed.
    fn run<E: Display>(&self, handler: &impl Fn(&Delivery) -> Result<(), E>) -> Result<()> {
        loop {
            match self.consumer.receive_unless(&self.is_stopped) {
                Ok(None) => return Ok(()),
                Ok(Some(delivery)) => self.handle(&delivery, handler)?,
                Err(error) => match error.kind() {
                    ErrorKind::Closed => return Ok(()),
                    // A damaged message stays in the queue, and others are delivered meanwhile.
                    ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::DiskFull => self.rest(),
                    _ => return Err(error),
                },
            }
        }
    }

    fn handle<E: Display>(
        &self,
        delivery: &Delivery,
        handler: &impl Fn(&Delivery) -> Result<(), E>,
    ) -> Result<()> {
        // If the lease is lost already, the handler runs in vain. That does no harm.
        let _ = delivery.hold(self.max_handling_time);
        let reason = failure_of(catch_unwind(AssertUnwindSafe(|| handler(delivery))));
        let counter = if reason.is_none() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let settled = match &reason {
            None => delivery.ack(),
            Some(reason) => delivery.nack_because(reason),
        };
        match settled {
            // The lease ran out, or the handler settled the delivery itself.
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::DiskFull | ErrorKind::Io) => {
                self.rest();
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            settled => settled,
        }
    }

    fn rest(&self) {
        let goes_on = |(): &mut ()| !self.is_stopped.load(Ordering::SeqCst);
        drop(self.stopping.lock().wait_timeout_while(&self.stopped, REST, goes_on));
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        drop(self.stopping.lock());
        self.stopped.notify_all();
        self.consumer.wake_all();
    }
}

/// Threads that run a handler for each message of a queue or a subscription.
///
/// They run until [`stop`](Worker::stop), until the worker is dropped, or until the engine is closed.
/// Dropping the worker waits as `stop` does.
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
/// let worker = payments.worker().threads(4).start(|delivery| {
///     let order = std::str::from_utf8(delivery.payload()).map_err(|_| "not an order")?;
///     println!("charging {order}");
///     Ok::<(), &str>(())
/// })?;
/// payments.send("order 1")?;
/// # while payments.depth()? > 0 { std::thread::yield_now(); }
/// worker.stop()?; // the handlers finish their messages first
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "it is stopped when it is dropped"]
pub struct Worker {
    work: Arc<Work>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Worker {
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
    /// assert_eq!((worker.handled(), worker.failed()), (1, 0));
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

    /// Stops the worker: it takes no more messages, and the call returns when all handlers have returned and
    /// their deliveries are settled.
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
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.work.stop();
        let mut outcome = Ok(());
        // A handler may stop its own worker. That thread ends when the handler has returned.
        let own = thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != own) {
            // Panics of handlers are caught, and the engine's own code does not panic.
            outcome = outcome.and(thread.join().unwrap_or(Ok(())));
        }
        outcome
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An error is lost here. An application that needs it calls `stop`.
        let _ = self.end();
    }
}
