//! Workers: threads or tasks that run a handler for each message, and settle the delivery by its result.
//!
//! `work.rs` has the policy that threads and tasks share, `threads.rs` the threads and `task.rs` the future.

mod task;
#[cfg(test)]
mod tests;
mod threads;
mod work;

use std::{fmt::Display, sync::Arc, time::Duration};

pub use self::threads::Worker;
use self::work::{OnError, Work};
use super::{consumer::Consumer, delivery::Delivery};
use crate::{
    config::{CONCURRENCY_MAX, LEASE_MAX, LEASE_MIN},
    error::{Error, Result},
};

/// The settings of a worker, before it starts.
///
/// [`Queue::worker`](crate::Queue::worker) and [`Subscription::worker`](crate::Subscription::worker) return
/// it.
#[derive(Clone, Debug)]
#[must_use = "nothing is handled before it is started"]
pub struct WorkerBuilder {
    consumer: Arc<Consumer>,
    concurrency: usize,
    max_handling_time: Duration,
    grace: Option<Duration>,
    on_error: Option<OnError>,
}

impl WorkerBuilder {
    pub(crate) fn new(consumer: &Arc<Consumer>) -> WorkerBuilder {
        WorkerBuilder {
            consumer: Arc::clone(consumer),
            concurrency: 1,
            max_handling_time: LEASE_MAX,
            grace: None,
            on_error: None,
        }
    }

    /// Sets how many messages are handled side by side: 1 by default. With [`start`](WorkerBuilder::start) it is the number
    /// of threads. The most is 4,096, because many systems give a process some ten thousand threads. Several workers may
    /// share a queue.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let thumbnails = engine.queue("thumbnails").create()?;
    /// let worker = thumbnails.worker().concurrency(4).start(|_| Ok::<(), String>(()))?;
    /// worker.stop()?;
    /// assert!(thumbnails.worker().concurrency(0).start(|_| Ok::<(), String>(())).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn concurrency(mut self, most: usize) -> WorkerBuilder {
        self.concurrency = most;
        self
    }

    /// Calls a function with each error of the worker. The errors of handlers are not among them.
    ///
    /// After [`Corrupt`](crate::ErrorKind::Corrupt) the worker goes on at once: the damaged message is set aside, and the
    /// [offset](Error::offset) names it. [`Poisoned`](crate::ErrorKind::Poisoned) ends the worker, and so does
    /// [`NotFound`](crate::ErrorKind::NotFound), because the queue or the subscription was deleted. After any other error,
    /// such as [`Io`](crate::ErrorKind::Io) or [`DiskFull`](crate::ErrorKind::DiskFull), it rests for a second and goes
    /// on. The function is not called with [`Closed`](crate::ErrorKind::Closed), which is the worker's ordinary end.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let worker = payments
    ///     .worker()
    ///     .on_error(|error| eprintln!("payments: {error}"))
    ///     .start(|_| Ok::<(), String>(()))?;
    /// worker.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_error(mut self, call: impl Fn(&Error) + Send + Sync + 'static) -> WorkerBuilder {
        self.on_error = Some(OnError(Arc::new(call)));
        self
    }

    /// Sets how long handlers may go on after [`run_until`](WorkerBuilder::run_until) was told to stop: without an end by
    /// default. After that they are dropped, and their messages are given back, which is no failed attempt. For threads
    /// see [`Worker::stop_within`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use std::{future::ready, time::Duration};
    ///
    /// let payments = engine.queue("payments").create()?;
    /// let handled = payments
    ///     .worker()
    ///     .grace(Duration::from_secs(10))
    ///     .run_until(ready(()), async |_delivery| Ok::<(), std::io::Error>(()));
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(std::pin::pin!(handled).poll(&mut context).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn grace(mut self, time: Duration) -> WorkerBuilder {
        self.grace = Some(time);
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
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a concurrency of 0 or of more than 4,096, or for a handling time of
    /// less than 1 ms or of more than a day; [`Io`](crate::ErrorKind::Io) if a thread cannot be started.
    pub fn start<E: Display>(
        self,
        handler: impl Fn(&Delivery) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<Worker> {
        Worker::start(self.work()?, self.concurrency, handler)
    }

    /// Handles messages as a future, for tasks. It ends when the engine is closed. For one that can be stopped see
    /// [`run_until`](WorkerBuilder::run_until).
    ///
    /// It is `run_until` with a `stop` that never comes.
    ///
    /// # Errors
    ///
    /// The same errors as [`run_until`](WorkerBuilder::run_until).
    pub async fn run_async<E: Display, F: Future<Output = Result<(), E>>>(
        self,
        handler: impl Fn(Delivery) -> F,
    ) -> Result<()> {
        self.run_until(std::future::pending::<()>(), handler).await
    }

    /// Handles messages as a future, for tasks, until `stop` is ready or the engine is closed.
    ///
    /// It needs no particular runtime. [`concurrency`](WorkerBuilder::concurrency) says how many messages it handles side
    /// by side, in this one task. To use several threads of a runtime, spawn several workers. The handler owns its
    /// delivery. Its result counts as with [`start`](WorkerBuilder::start), and the worker settles the delivery when the
    /// handler's future is ready, also if the delivery was dropped or moved elsewhere before.
    ///
    /// After `stop` it takes no more messages and awaits the handlers that run, for at most the
    /// [`grace`](WorkerBuilder::grace). A worker that is dropped before it is ready cancels its handlers. A cancelled
    /// handler is no failed attempt: its message is given back.
    ///
    /// The handler may be a function, or a closure that returns an `async` block:
    ///
    /// ```
    /// use posthouse::{Delivery, Queue, Result};
    ///
    /// # #[derive(Clone)] struct Bank;
    /// # impl Bank { async fn charge(&self, _: &[u8]) -> std::io::Result<()> { Ok(()) } }
    /// async fn handle(delivery: Delivery) -> std::io::Result<()> {
    ///     println!("{:?}", delivery.payload());
    ///     Ok(())
    /// }
    ///
    /// async fn work(payments: Queue, bank: Bank, stop: impl Future) -> Result<()> {
    ///     let handler = move |delivery: Delivery| {
    ///         let bank = bank.clone(); // each future has its own
    ///         async move { bank.charge(delivery.payload()).await }
    ///     };
    ///     payments.worker().concurrency(16).run_until(stop, handler).await
    /// }
    ///
    /// async fn others(payments: Queue, stop: impl Future) -> Result<()> {
    ///     payments.worker().run_async(handle).await?;
    ///     payments.worker().run_async(async |delivery| handle(delivery).await).await?;
    ///     payments
    ///         .worker()
    ///         .run_until(stop, move |delivery| async move {
    ///             println!("{:?}", delivery.payload());
    ///             Ok::<(), std::io::Error>(())
    ///         })
    ///         .await
    /// }
    ///
    /// // What a runtime with threads asks for, such as `tokio::spawn`:
    /// fn spawn(task: impl Future<Output = Result<()>> + Send + 'static) {
    /// #   drop(task);
    /// }
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// spawn(work(payments.clone(), Bank, std::future::pending::<()>()));
    /// spawn(others(payments.clone(), std::future::pending::<()>()));
    /// spawn(async move {
    ///     payments.worker().run_async(move |delivery| async move { handle(delivery).await }).await
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// An `async |delivery|` closure is accepted if it borrows nothing from its environment. The compiler says so
    /// otherwise; a closure that returns an `async move` block is accepted then.
    ///
    /// With tokio, `stop` may be `tokio::signal::ctrl_c()` or the `cancelled()` of a `CancellationToken`. Any other future
    /// will do:
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let all_are_done = std::future::poll_fn(|context| {
    ///     context.waker().wake_by_ref(); // look again soon
    ///     if payments.depth().is_ok_and(|depth| depth == 0) {
    ///         std::task::Poll::Ready(())
    ///     } else {
    ///         std::task::Poll::Pending
    ///     }
    /// });
    /// let handled = payments
    ///     .worker()
    ///     .run_until(all_are_done, async |_delivery| Ok::<(), std::io::Error>(()));
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut handled = std::pin::pin!(handled);
    /// # let done = loop { if let std::task::Poll::Ready(done) = handled.as_mut().poll(&mut context) { break done; } };
    /// # done?;
    /// # assert_eq!(payments.depth()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`start`](WorkerBuilder::start). [`Poisoned`](crate::ErrorKind::Poisoned) and
    /// [`NotFound`](crate::ErrorKind::NotFound) end the worker; after other errors it goes on: see
    /// [`on_error`](WorkerBuilder::on_error).
    pub async fn run_until<E: Display, F: Future<Output = Result<(), E>>>(
        self,
        stop: impl Future,
        handler: impl Fn(Delivery) -> F,
    ) -> Result<()> {
        let work = self.work()?;
        task::run_until(work, self.concurrency, self.grace, stop, handler).await
    }

    fn work(&self) -> Result<Work> {
        self.check()?;
        Ok(Work::new(&self.consumer, self.max_handling_time, self.on_error.clone()))
    }

    fn check(&self) -> Result<()> {
        if self.concurrency == 0 {
            let what =
                "a worker that handles 0 messages at a time handles nothing: give it 1 or more";
            return Err(Error::invalid("concurrency", what));
        }
        if self.concurrency > CONCURRENCY_MAX {
            let what = format!(
                "a worker would handle {} messages at a time; the most is {CONCURRENCY_MAX}: start several workers \
                 for more",
                self.concurrency
            );
            return Err(Error::invalid("concurrency", what));
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
