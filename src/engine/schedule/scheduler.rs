//! The scheduler runs schedules: on a thread, as a future, or step by step.
//!
//! A run is one commit. It acks the message of the schedule, sends the schedule's message, and sends the
//! schedule again with its next time. So no crash makes a run twice, and no crash loses the schedule.

use std::{fmt, sync::Arc};

use super::{
    registry::Registry,
    run::{
        Next, OnFailure, REST, ScheduleFailure, ended_by, ends, judge, put_off, put_off_in_task,
        run, run_in_task,
    },
    thread::Scheduler,
};
use crate::{
    engine::{
        commit::{lifetime::Engine, sleep::Sleep},
        runtime::{application, together::give_way},
    },
    error::{ErrorKind, Result},
};

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
        Scheduler::start(self.engine, registry, self.on_failure)
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
    /// The first failure of a run, after all other runs were tried: the failed run is tried again later. Likewise
    /// [`Corrupt`](ErrorKind::Corrupt) if a schedule is damaged, once for each: it is set aside. (Damage to what says when
    /// waiting schedules are due is told at each call.) The other errors of
    /// [`Queue::receive`](crate::Queue::receive), if schedules cannot be received.
    pub fn run_due(&self) -> Result<u64> {
        let (mut runs, mut failure) = (0, None);
        let mut opened = Registry::open(&self.engine)?;
        loop {
            let Some(registry) = &opened else { return failure.map_or(Ok(runs), Err) };
            let delivery = match registry.consumer().try_receive() {
                Ok(Some(delivery)) => delivery,
                Ok(None) => return failure.map_or(Ok(runs), Err),
                // The queue of schedules was deleted meanwhile, and there may be a new one.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    opened = Registry::open(&self.engine)?;
                    continue;
                }
                Err(error) => match judge(error, |failure| self.tell(failure))? {
                    (Next::GoOn, damage) => {
                        failure.get_or_insert(damage);
                        continue;
                    }
                    (Next::Rest, error) => return Err(error),
                },
            };
            match run(&self.engine, registry, &delivery) {
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
    /// error it calls [`on_failure`](SchedulerBuilder::on_failure), and goes on as the thread does: at once after a damaged
    /// schedule, and after a second otherwise.
    pub async fn run_async(self) -> Result<()> {
        let mut registry = Registry::create_in_task(&self.engine).await?;
        loop {
            if let Err(error) = self.run_next(&mut registry).await {
                match judge(error, |failure| self.tell(failure)) {
                    Ok((Next::GoOn, _)) => {}
                    Ok((Next::Rest, _)) => Sleep::lasting(self.engine.committer(), REST).await,
                    Err(error) => return ended_by(error),
                }
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
