//! The scheduler runs schedules: on a thread, as a future, or step by step.
//!
//! A run is one commit. It acks the message of the schedule, sends the schedule's message, and sends the
//! schedule again with its next time. So no crash makes a run twice, and no crash loses the schedule.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    registry::Registry,
    run::{ScheduleFailure, ends, put_off, put_off_in_task, run, run_in_task},
};
use crate::{
    audit::Rank,
    engine::{
        commit::{committer::PANICKED, lifetime::Engine, sleep::Sleep},
        consume::delivery::Delivery,
        runtime::{application, lock::RankedMutex, together::give_way},
    },
    error::{Error, ErrorKind, Result},
    prims::{
        Condvar,
        thread::{self, JoinHandle},
    },
};

/// How long a scheduler pauses after it could not receive.
const REST: Duration = Duration::from_secs(1);

type OnFailure = Arc<dyn Fn(&ScheduleFailure) + Send + Sync>;

/// The settings of a scheduler, before it starts. [`Engine::scheduler`] returns it.
#[derive(Clone)]
#[must_use = "nothing is run before it is started"]
pub struct SchedulerBuilder {
    engine: Engine,
    on_failure: Option<OnFailure>,
}

impl SchedulerBuilder {
    /// Calls a function when a run of a schedule fails, and when a schedule has ended. The thread that tried the run calls it. The function
    /// must not wait for that thread.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// let scheduler = engine
    ///     .scheduler()
    ///     .on_failure(|failure| eprintln!("{:?}: {}", failure.schedule, failure.error))
    ///     .start()?;
    /// scheduler.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_failure(
        mut self,
        call: impl Fn(&ScheduleFailure) + Send + Sync + 'static,
    ) -> SchedulerBuilder {
        self.on_failure = Some(Arc::new(call));
        self
    }

    /// Starts a thread that runs schedules when they are due. The thread sleeps between runs; it does not poll.
    ///
    /// Any number of schedulers may be started. One is active, and the others stand by until it stops.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("often").cron("* * * * * *").to_queue(&reports, "report").create()?;
    /// let scheduler = engine.scheduler().start()?;
    /// let report = reports.receive(std::time::Duration::from_secs(60))?;
    /// assert_eq!(report.expect("it runs each second").payload(), b"report");
    /// scheduler.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if the application created the queue of schedules with
    /// settings of its own; [`Io`](ErrorKind::Io) if a thread cannot be started; the errors of
    /// [`send`](crate::Queue::send) if a commit fails.
    pub fn start(self) -> Result<Scheduler> {
        let registry = Registry::create(&self.engine)?;
        let work = Arc::new(Work {
            registry: RankedMutex::new(&(Rank::Scheduler, "scheduler's registry"), registry),
            engine: self.engine,
            on_failure: self.on_failure,
            is_stopped: AtomicBool::new(false),
            stopping: RankedMutex::new(&(Rank::Scheduler, "scheduler"), ()),
            stopped: Condvar::new(),
            runs: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let builder = thread::Builder::new().name("posthouse-schedule".to_owned());
        let started = {
            let work = Arc::clone(&work);
            builder.spawn(move || work.run())
        };
        let started = started.map_err(|error| {
            Error::new(ErrorKind::Io, "a thread cannot be started").because(error)
        })?;
        Ok(Scheduler { work, thread: Some(started) })
    }

    /// Runs the schedules that are due now, on this thread, and returns how many messages it sent. For loops of
    /// an application, and for tests on a simulated clock.
    ///
    /// If another scheduler is active, the call does nothing.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// let disk = SimDisk::new(7);
    /// let engine = Options::new().sim(&disk).open("store")?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// disk.advance(Duration::from_secs(3600));
    /// assert_eq!((engine.scheduler().run_due()?, reports.depth()?), (1, 1));
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first failure of a run, after all other runs were tried: the failed run is tried again later. The
    /// errors of [`Queue::receive`](crate::Queue::receive), if schedules cannot be received.
    pub fn run_due(&self) -> Result<u64> {
        let Some(registry) = Registry::open(&self.engine)? else { return Ok(0) };
        let (mut runs, mut failure) = (0, None);
        while let Some(delivery) = registry.consumer().try_receive()? {
            match run(&self.engine, &registry, &delivery) {
                Ok((ran, end)) => {
                    runs += u64::from(ran);
                    end.iter().for_each(|end| self.tell(end));
                }
                Err(error) if ends(&error) => return Err(error),
                Err(error) => {
                    let failed = put_off(&delivery, error);
                    self.tell(&failed);
                    failure.get_or_insert(failed.error);
                }
            }
        }
        failure.map_or(Ok(runs), Err)
    }

    /// Runs schedules when they are due, as a future, for tasks. The future ends when the engine is closed.
    ///
    /// It needs no particular runtime. If it is dropped, a run that has begun is either done or not done. See
    /// also [`start`](SchedulerBuilder::start).
    ///
    /// ```
    /// use posthouse::{Options, sim::SimDisk};
    ///
    /// # let disk = SimDisk::new(7);
    /// # let engine = Options::new().sim(&disk).open("store")?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// let scheduler = engine.scheduler().run_async(); // to be spawned
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # disk.advance(std::time::Duration::from_secs(3600));
    /// # assert!(std::pin::pin!(scheduler).poll(&mut context).is_pending());
    /// # assert_eq!(reports.depth()?, 1);
    /// # Ok::<(), posthouse::Error>(())
    /// ```
    ///
    /// It awaits room in a full journal, and syncs, without blocking its thread.
    ///
    /// # Errors
    ///
    /// [`Poisoned`](ErrorKind::Poisoned) if a sync failed; the errors of [`start`](SchedulerBuilder::start). After any other
    /// error it calls [`on_failure`](SchedulerBuilder::on_failure), rests for a second and goes on, as the thread does.
    pub async fn run_async(self) -> Result<()> {
        let mut registry = Registry::create_in_task(&self.engine).await?;
        loop {
            if let Err(error) = self.run_next(&mut registry).await {
                if !goes_on(error, |failure| self.tell(failure))? {
                    return Ok(());
                }
                Sleep::lasting(self.engine.committer(), REST).await;
            }
            give_way().await;
        }
    }

    /// Awaits the next schedule that is due, and runs it.
    async fn run_next(&self, registry: &mut Registry) -> Result<()> {
        let delivery = match registry.consumer().receive_async().await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The application has deleted the queue of schedules.
                *registry = Registry::create_in_task(&self.engine).await?;
                return Ok(());
            }
            received => received?,
        };
        let ran = async {
            match run_in_task(&self.engine, registry, &delivery).await {
                Ok(end) => end.iter().for_each(|end| self.tell(end)),
                Err(error) if ends(&error) => return Err(error),
                Err(error) => self.tell(&put_off_in_task(&delivery, error).await),
            }
            Ok(())
        };
        delivery.handling(ran).await
    }

    fn tell(&self, failure: &ScheduleFailure) {
        if let Some(call) = &self.on_failure {
            application::run(|| call(failure));
        }
    }
}

impl fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulerBuilder").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// The state that a scheduler and its thread share.
struct Work {
    engine: Engine,
    /// Changes when the queue was deleted.
    registry: RankedMutex<Registry>,
    on_failure: Option<OnFailure>,
    is_stopped: AtomicBool,
    stopping: RankedMutex<()>,
    /// Wakes the thread when it pauses.
    stopped: Condvar,
    runs: AtomicU64,
    failed: AtomicU64,
}

/// Judges an error that belongs to no schedule, for the thread and for the task: tells it. Returns whether the scheduler goes on
/// after a rest. It ends when the engine is closed, and with an error if the engine is poisoned.
fn goes_on(error: Error, tell: impl FnOnce(&ScheduleFailure)) -> Result<bool> {
    if error.kind() == ErrorKind::Closed {
        return Ok(false);
    }
    let failure = ScheduleFailure { schedule: None, attempt: 1, error, has_ended: false };
    tell(&failure);
    if ends(&failure.error) { Err(failure.error) } else { Ok(true) }
}

impl Work {
    /// Runs schedules until it is stopped, or the engine is closed.
    fn run(&self) -> Result<()> {
        loop {
            let registry = self.registry.lock().clone();
            let outcome = match registry.consumer().receive_unless(&self.is_stopped) {
                Ok(None) => return Ok(()),
                Ok(Some(delivery)) => self.handle(&registry, &delivery),
                Err(error) if error.kind() == ErrorKind::NotFound => self.begin_anew(registry),
                Err(error) => Err(error),
            };
            let Err(error) = outcome else { continue };
            if !goes_on(error, |failure| self.tell(failure))? {
                return Ok(());
            }
            self.rest();
        }
    }

    fn handle(&self, registry: &Registry, delivery: &Delivery) -> Result<()> {
        match run(&self.engine, registry, delivery) {
            Ok((ran, end)) => {
                self.runs.fetch_add(u64::from(ran), Ordering::Relaxed);
                end.iter().for_each(|end| self.tell(end));
            }
            Err(error) if ends(&error) => return Err(error),
            Err(error) => self.tell(&put_off(delivery, error)),
        }
        Ok(())
    }

    /// Opens the queue of schedules anew: the application has deleted it, with all schedules.
    fn begin_anew(&self, old: Registry) -> Result<()> {
        let registry = Registry::create(&self.engine)?;
        *self.registry.lock() = registry;
        drop(old);
        Ok(())
    }

    fn tell(&self, failure: &ScheduleFailure) {
        self.failed.fetch_add(u64::from(!failure.has_ended), Ordering::Relaxed);
        if let Some(call) = &self.on_failure {
            application::run(|| call(failure));
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
        let registry = self.registry.lock().clone();
        registry.consumer().wake_all();
    }
}

/// A thread that runs schedules.
///
/// It runs until [`stop`](Scheduler::stop), until the scheduler is dropped, or until the engine is closed.
/// Dropping the scheduler waits as `stop` does. See [`SchedulerBuilder::start`] for an example.
#[must_use = "it is stopped when it is dropped"]
pub struct Scheduler {
    work: Arc<Work>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Scheduler {
    /// How many messages the scheduler has sent.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.work.runs.load(Ordering::Relaxed)
    }

    /// How many runs have failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.work.failed.load(Ordering::Relaxed)
    }

    /// Stops the scheduler, and waits for a run that has begun.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let scheduler = engine.scheduler().start()?;
    /// scheduler.stop()?; // schedules stay in the store, and wait
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error that ended the thread before, such as [`Poisoned`](ErrorKind::Poisoned).
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.work.stop();
        match self.thread.take() {
            // The application's function stops its own scheduler. The thread ends when the function has returned.
            Some(thread) if thread.thread().id() == thread::current().id() => Ok(()),
            // Panics of the application's function are caught, so this is one of the engine's own code.
            Some(thread) => {
                let panicked = |_| Err(Error::new(ErrorKind::Poisoned, PANICKED));
                thread.join().unwrap_or_else(panicked)
            }
            None => Ok(()),
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // An error is lost here. An application that needs it calls `stop`.
        let _ = self.end();
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("runs", &self.runs()).finish_non_exhaustive()
    }
}

impl Engine {
    /// A scheduler, which runs the [schedules](Engine::schedule) of this store: to be started, or run step by
    /// step.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reports = engine.queue("reports").create()?;
    /// engine.schedule("hourly").cron("@hourly").to_queue(&reports, "report").create()?;
    /// let scheduler = engine.scheduler().start()?;
    /// assert_eq!(scheduler.failed(), 0);
    /// scheduler.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scheduler(&self) -> SchedulerBuilder {
        SchedulerBuilder { engine: self.clone(), on_failure: None }
    }
}
