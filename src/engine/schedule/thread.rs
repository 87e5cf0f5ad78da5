//! A scheduler on a thread of its own.

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
    run::{Next, OnFailure, REST, ScheduleFailure, ended_by, ends, judge, put_off, run},
};
use crate::{
    audit::Rank,
    engine::{
        commit::{committer::PANICKED, lifetime::Engine},
        consume::delivery::Delivery,
        runtime::{application, lock::RankedMutex},
    },
    error::{Error, ErrorKind, Result},
    prims::{
        Condvar,
        thread::{self, JoinHandle},
    },
};

/// How long a scheduler that is dropped waits for its thread.
const DROP_WAIT: Duration = Duration::from_secs(30);

/// The state that a scheduler and its thread share.
struct Work {
    engine: Engine,
    /// Changes when the queue was deleted.
    registry: RankedMutex<Registry>,
    on_failure: Option<OnFailure>,
    is_stopped: AtomicBool,
    /// Whether the thread runs.
    is_running: RankedMutex<bool>,
    /// Wakes the thread when it pauses, and the one that waits for its end.
    changed: Condvar,
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
            match judge(error, |failure| self.tell(failure)) {
                Ok((Next::GoOn, _)) => {}
                Ok((Next::Rest, _)) => self.rest(),
                Err(error) => return ended_by(error),
            }
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
        let goes_on = |_: &mut bool| !self.is_stopped.load(Ordering::SeqCst);
        drop(self.is_running.lock().wait_timeout_while(&self.changed, REST, goes_on));
    }

    /// Waits for the end of the thread, for at most `most`. Returns whether it has ended.
    fn await_end(&self, most: Option<Duration>) -> bool {
        let runs = |runs: &mut bool| *runs;
        let running = self.is_running.lock();
        match most {
            None => !*running.wait_while(&self.changed, runs),
            Some(most) => !*running.wait_timeout_while(&self.changed, most, runs),
        }
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        drop(self.is_running.lock());
        self.changed.notify_all();
        let registry = self.registry.lock().clone();
        registry.consumer().wake_all();
    }
}

/// A thread that runs schedules.
///
/// It runs until [`stop`](Scheduler::stop), until the scheduler is dropped, or until the engine is closed.
/// Dropping the scheduler waits for at most 30 s. If its thread still runs then, because the function of
/// [`on_failure`](crate::SchedulerBuilder::on_failure) does not return, it prints a message to the standard error output. See
/// [`SchedulerBuilder::start`](crate::SchedulerBuilder::start) for an example.
#[must_use = "it is stopped when it is dropped"]
pub struct Scheduler {
    work: Arc<Work>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Notes the end of the thread when it is dropped.
struct Ended<'a>(&'a Work);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.is_running.lock() = false;
        self.0.changed.notify_all();
    }
}

impl Scheduler {
    pub(super) fn start(
        engine: Engine,
        registry: Registry,
        on_failure: Option<OnFailure>,
    ) -> Result<Scheduler> {
        let work = Arc::new(Work {
            registry: RankedMutex::new(&(Rank::Scheduler, "scheduler's registry"), registry),
            engine,
            on_failure,
            is_stopped: AtomicBool::new(false),
            is_running: RankedMutex::new(&(Rank::Scheduler, "scheduler"), true),
            changed: Condvar::new(),
            runs: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let builder = thread::Builder::new().name("posthouse-schedule".to_owned());
        let started = {
            let work = Arc::clone(&work);
            builder.spawn(move || {
                let _ended = Ended(&work);
                work.run()
            })
        };
        let started = started.map_err(|error| {
            Error::new(ErrorKind::Io, "a thread cannot be started").because(error)
        })?;
        Ok(Scheduler { work, thread: Some(started) })
    }

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
        self.end(None).map(drop)
    }

    /// Stops the thread, and waits for at most `most`. Returns whether it has ended.
    fn end(&mut self, most: Option<Duration>) -> Result<bool> {
        self.work.stop();
        match self.thread.take() {
            // The application's function stops its own scheduler. The thread ends when the function has returned.
            Some(thread) if thread.thread().id() == thread::current().id() => Ok(true),
            // A thread that hangs is left alone.
            Some(_) if !self.work.await_end(most) => Ok(false),
            // Panics of the application's function are caught, so this is one of the engine's own code.
            Some(thread) => {
                let panicked = |_| Err(Error::new(ErrorKind::Poisoned, PANICKED));
                thread.join().unwrap_or_else(panicked).map(|()| true)
            }
            None => Ok(true),
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // An error is lost here. An application that needs it calls `stop`.
        if let Ok(false) = self.end(Some(DROP_WAIT)) {
            eprintln!(
                "posthouse: a scheduler was dropped, and its function of on_failure still runs after {DROP_WAIT:?}. \
                 The thread is left alone. Call Scheduler::stop to wait for it."
            );
        }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("runs", &self.runs()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    #[test]
    fn a_scheduler_that_is_dropped_does_not_wait_for_ever_for_its_function() {
        let dir = tempfile::tempdir().expect("there is space");
        let engine = Engine::open(dir.path().join("store")).expect("the disk is well");
        let queue = engine.queue("q").create().expect("there is space");
        let schedule = engine.schedule("fails").cron("* * * * * *").to_queue(&queue, "x");
        schedule.create().expect("there is space");
        engine.queue("q").delete().expect("it is there");
        let ((began, has_begun), (go, goes_on)) = (mpsc::channel(), mpsc::channel::<()>());
        let goes_on = Mutex::new(goes_on);
        let scheduler = engine.scheduler().on_failure(move |_| {
            let _ = began.send(());
            // It waits for the thread that drops the scheduler.
            let _ = goes_on.lock().map(|it| it.recv());
        });
        let mut scheduler = scheduler.start().expect("it starts");
        has_begun.recv_timeout(DROP_WAIT).expect("it fails each second");
        let short = Some(Duration::from_millis(1));
        assert!(!scheduler.end(short).expect("nothing has failed"), "the function hangs");
        let work = Arc::clone(&scheduler.work);
        drop(scheduler);
        drop(go);
        assert!(work.await_end(Some(DROP_WAIT)), "it has ended when its function has returned");
    }

    #[test]
    fn a_damaged_schedule_keeps_the_others_waiting_for_nothing() {
        use ErrorKind::*;
        let judged = |kind| {
            let told = Mutex::new(0);
            let tell = |_: &ScheduleFailure| *told.lock().expect("nobody panics") += 1;
            let next = judge(Error::new(kind, "for a test"), tell).map(|(next, _)| next);
            (next.map_err(|error| error.kind()), told.into_inner().expect("nobody panics"))
        };
        assert_eq!(judged(Corrupt), (Ok(Next::GoOn), 1));
        assert_eq!(judged(Closed), (Err(Closed), 0));
        assert_eq!(judged(Poisoned), (Err(Poisoned), 1));
        for kind in [Io, DiskFull, LeaseLost, NotFound] {
            assert_eq!(judged(kind), (Ok(Next::Rest), 1), "{kind:?}");
        }
    }
}
