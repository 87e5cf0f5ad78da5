//! What runs schedules: a thread that receives from their queue, or whoever asks for one step.
//!
//! A run is one commit. It acks the schedule's message, sends what is to be sent, and sends the schedule
//! again with its next time: so no crash makes a run twice, and none loses the schedule.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    registry::Registry,
    run::{ScheduleFailure, ends, prepare, put_off, run},
};
use crate::{
    audit::Rank,
    engine::{commit::lifetime::Engine, consume::delivery::Delivery, runtime::lock::RankedMutex},
    error::{Error, ErrorKind, Result},
    prims::{
        Condvar,
        thread::{self, JoinHandle},
    },
};

/// How long a scheduler rests when it cannot receive, before it goes on.
const REST: Duration = Duration::from_secs(1);

type OnFailure = Arc<dyn Fn(&ScheduleFailure) + Send + Sync>;

/// A scheduler that is about to be started. Got from [`Engine::scheduler`].
#[derive(Clone)]
#[must_use = "nothing is run before it is started"]
pub struct SchedulerBuilder {
    engine: Engine,
    on_failure: Option<OnFailure>,
}

impl SchedulerBuilder {
    /// Has a function called when a schedule could not be run, by the thread that has tried. It may do
    /// anything but wait for that thread.
    pub fn on_failure(
        mut self,
        call: impl Fn(&ScheduleFailure) + Send + Sync + 'static,
    ) -> SchedulerBuilder {
        self.on_failure = Some(Arc::new(call));
        self
    }

    /// Starts a thread that runs schedules when they are due. It sleeps in between, and is woken.
    ///
    /// Any number may be started. One is active, until it is stopped; the others stand by.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if the queue of schedules was made with settings
    /// of somebody's own; [`Io`](ErrorKind::Io) if a thread cannot be started; if a commit fails.
    pub fn start(self) -> Result<Scheduler> {
        let registry = Registry::create(&self.engine)?;
        let work = Arc::new(Work {
            registry: RankedMutex::new(Rank::Scheduler, "scheduler's registry", registry),
            engine: self.engine,
            on_failure: self.on_failure,
            is_stopped: AtomicBool::new(false),
            stopping: RankedMutex::new(Rank::Scheduler, "scheduler", ()),
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

    /// Runs what is due now, on this thread, and says how many messages were sent. For loops of your
    /// own, and for tests on a simulated clock. Where a scheduler is active, it does nothing.
    ///
    /// # Errors
    ///
    /// The first failure, after all others were run: what has failed is tried again later. If
    /// schedules cannot be received, as [`Queue::receive`](crate::Queue::receive).
    pub fn run_due(&self) -> Result<u64> {
        let Some(registry) = Registry::open(&self.engine)? else { return Ok(0) };
        let (mut runs, mut failure) = (0, None);
        while let Some(delivery) = registry.consumer().try_receive()? {
            match run(&self.engine, &registry, &delivery) {
                Ok(ran) => runs += u64::from(ran),
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

    /// The same as [`start`](SchedulerBuilder::start), as a future, for tasks: it runs schedules when they
    /// are due, and ends when the engine is closed. Needs no particular runtime. One that is dropped
    /// leaves the run under way done or not done.
    ///
    /// # Errors
    ///
    /// What [`receive`](crate::Queue::receive) fails with, but for [`Closed`](ErrorKind::Closed).
    pub async fn run_async(self) -> Result<()> {
        let mut registry = Registry::create(&self.engine)?;
        loop {
            let delivery = match registry.consumer().receive_async().await {
                Ok(delivery) => delivery,
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    registry = Registry::create(&self.engine)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let ticket =
                prepare(&self.engine, &registry, &delivery).and_then(|(tx, _)| tx.commit_ticket());
            let committed = match ticket {
                Ok(ticket) => ticket.await.map(drop),
                Err(error) => Err(error),
            };
            match committed {
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) if ends(&error) => return Err(error),
                // It was deleted or replaced meanwhile; or somebody else has it.
                Err(error) if error.kind() == ErrorKind::LeaseLost => {}
                Err(error) => self.tell(&put_off(&delivery, error)),
                Ok(()) => {}
            }
        }
    }

    fn tell(&self, failure: &ScheduleFailure) {
        if let Some(call) = &self.on_failure {
            call(failure);
        }
    }
}

impl fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulerBuilder").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// What a scheduler and its thread share.
struct Work {
    engine: Engine,
    /// Changes when the queue was deleted.
    registry: RankedMutex<Registry>,
    on_failure: Option<OnFailure>,
    is_stopped: AtomicBool,
    stopping: RankedMutex<()>,
    /// For the thread when it rests.
    stopped: Condvar,
    runs: AtomicU64,
    failed: AtomicU64,
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
            if error.kind() == ErrorKind::Closed {
                return Ok(());
            }
            if ends(&error) {
                let again = error.again();
                self.tell(&ScheduleFailure { schedule: None, attempt: 1, error });
                return Err(again);
            }
            self.tell(&ScheduleFailure { schedule: None, attempt: 1, error });
            self.rest();
        }
    }

    fn handle(&self, registry: &Registry, delivery: &Delivery) -> Result<()> {
        match run(&self.engine, registry, delivery) {
            Ok(ran) => drop(self.runs.fetch_add(u64::from(ran), Ordering::Relaxed)),
            Err(error) if ends(&error) => return Err(error),
            Err(error) => self.tell(&put_off(delivery, error)),
        }
        Ok(())
    }

    /// Somebody has deleted the queue, and all schedules with it. There may be others.
    fn begin_anew(&self, old: Registry) -> Result<()> {
        let registry = Registry::create(&self.engine)?;
        *self.registry.lock() = registry;
        drop(old);
        Ok(())
    }

    fn tell(&self, failure: &ScheduleFailure) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Some(call) = &self.on_failure {
            // One that panics has said so, and the schedules go on.
            let _ = catch_unwind(AssertUnwindSafe(|| call(failure)));
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
/// It goes on until [`stop`](Scheduler::stop), or until the scheduler is dropped, which does the same;
/// or until the engine is closed.
#[must_use = "it is stopped when it is dropped"]
pub struct Scheduler {
    work: Arc<Work>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Scheduler {
    /// How many messages were sent.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.work.runs.load(Ordering::Relaxed)
    }

    /// How often a schedule could not be run.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.work.failed.load(Ordering::Relaxed)
    }

    /// Runs no more schedules, and returns when the one under way is done.
    ///
    /// # Errors
    ///
    /// What has ended the thread before, such as [`Poisoned`](ErrorKind::Poisoned).
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.work.stop();
        match self.thread.take() {
            // It is stopped from within, and ends when that returns.
            Some(thread) if thread.thread().id() == thread::current().id() => Ok(()),
            // Panics of the application's function are caught; there are none of ours.
            Some(thread) => thread.join().unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.end();
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("runs", &self.runs()).finish_non_exhaustive()
    }
}

impl Engine {
    /// What runs the [schedules](Engine::schedule) of this store: to be started, or done by hand.
    pub fn scheduler(&self) -> SchedulerBuilder {
        SchedulerBuilder { engine: self.clone(), on_failure: None }
    }
}
