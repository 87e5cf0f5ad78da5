//! What runs schedules: a thread that receives from their queue, or whoever asks for one step.
//!
//! A run is one commit. It acks the schedule's message, sends what is to be sent, and sends the schedule
//! again with its next time: so no crash makes a run twice, and none loses the schedule.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    board::{Board, name_of, now},
    delivery::Delivery,
    handle::Engine,
    schedule::Schedule,
    transaction::Transaction,
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::schedule::Target,
    prims::{
        Condvar, Mutex, MutexGuard,
        thread::{self, JoinHandle},
    },
};

/// How long a scheduler rests when it cannot receive, before it goes on.
const REST: Duration = Duration::from_secs(1);

/// A schedule could not be run. It stays, and is tried again, a second later at first and a minute later
/// at most.
#[derive(Debug)]
#[non_exhaustive]
pub struct ScheduleFailure {
    /// The schedule's name. `None` if the failure is of none, as where schedules cannot be received.
    pub schedule: Option<String>,
    /// How often it was tried by now.
    pub attempt: u32,
    /// Why: [`NotFound`](ErrorKind::NotFound) if its target was deleted,
    /// [`QueueFull`](ErrorKind::QueueFull), [`DiskFull`](ErrorKind::DiskFull) and others.
    pub error: Error,
}

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
        let work = Arc::new(Work {
            board: Mutex::new(Board::create(&self.engine)?),
            engine: self.engine,
            on_failure: self.on_failure,
            is_stopped: AtomicBool::new(false),
            stopping: Mutex::default(),
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
        let Some(board) = Board::open(&self.engine)? else { return Ok(0) };
        let (mut runs, mut failure) = (0, None);
        while let Some(delivery) = board.consumer().try_receive()? {
            match run(&self.engine, &board, &delivery) {
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
        let mut board = Board::create(&self.engine)?;
        loop {
            let delivery = match board.consumer().receive_async().await {
                Ok(delivery) => delivery,
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    board = Board::create(&self.engine)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let ticket =
                prepare(&self.engine, &board, &delivery).and_then(|(tx, _)| tx.commit_ticket());
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

/// Whether there is no use in trying again.
fn ends(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Poisoned)
}

/// Has a schedule that could not be run wait for its next try.
fn put_off(delivery: &Delivery, error: Error) -> ScheduleFailure {
    // Nobody need wait for the disk. If that cannot be committed, as when it is full, the schedule waits
    // all the same, in this life.
    let _ = delivery.nack_ticket();
    let schedule = name_of(delivery.key()).map(str::to_owned);
    ScheduleFailure { schedule, attempt: delivery.attempt(), error }
}

/// Does what is to be done about a schedule that has come up. Whether a message was sent.
fn run(engine: &Engine, board: &Board, delivery: &Delivery) -> Result<bool> {
    let committed = prepare(engine, board, delivery).and_then(|(tx, runs)| {
        tx.commit()?;
        Ok(runs)
    });
    match committed {
        // It was deleted or replaced meanwhile; or somebody else has it.
        Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(false),
        committed => committed,
    }
}

fn prepare(engine: &Engine, board: &Board, delivery: &Delivery) -> Result<(Transaction, bool)> {
    let schedule = Schedule::read(delivery.key(), delivery.payload(), delivery.attempt())?;
    let mut tx = engine.transaction();
    tx.ack_if_there(delivery);
    if board.is_superseded(schedule.name(), delivery.offset())? {
        // A salvage may have brought it back.
        return Ok((tx, false));
    }
    let now = now(engine);
    let turn = schedule.rhythm()?.turn(schedule.next_run(), schedule.missed_runs(), now)?;
    if let Some(time) = turn.run {
        let message = schedule.message_of(time)?;
        match schedule.target() {
            Target::Queue(name) => tx.send(&engine.queue(name).open()?, message),
            Target::Topic(name) => tx.publish(&engine.topic(name).open()?, message),
            Target::Stream(name) => {
                let stream = engine.stream(name).open()?;
                // A handle of its own would begin with the same partition each time.
                stream.begin_turns(delivery.offset().0);
                tx.append(&stream, message)
            }
        };
    }
    if let Some(next) = turn.next {
        tx.send(board.queue(), schedule.going_on(next).stored(now));
    }
    Ok((tx, turn.run.is_some()))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a scheduler and its thread share.
struct Work {
    engine: Engine,
    /// Changes when the queue was deleted.
    board: Mutex<Board>,
    on_failure: Option<OnFailure>,
    is_stopped: AtomicBool,
    stopping: Mutex<()>,
    /// For the thread when it rests.
    stopped: Condvar,
    runs: AtomicU64,
    failed: AtomicU64,
}

impl Work {
    /// Runs schedules until it is stopped, or the engine is closed.
    fn run(&self) -> Result<()> {
        loop {
            let board = locked(&self.board).clone();
            let outcome = match board.consumer().receive_unless(&self.is_stopped) {
                Ok(None) => return Ok(()),
                Ok(Some(delivery)) => self.handle(&board, &delivery),
                Err(error) if error.kind() == ErrorKind::NotFound => self.begin_anew(board),
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

    fn handle(&self, board: &Board, delivery: &Delivery) -> Result<()> {
        match run(&self.engine, board, delivery) {
            Ok(ran) => drop(self.runs.fetch_add(u64::from(ran), Ordering::Relaxed)),
            Err(error) if ends(&error) => return Err(error),
            Err(error) => self.tell(&put_off(delivery, error)),
        }
        Ok(())
    }

    /// Somebody has deleted the queue, and all schedules with it. There may be others.
    fn begin_anew(&self, old: Board) -> Result<()> {
        let board = Board::create(&self.engine)?;
        *locked(&self.board) = board;
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
        drop(self.stopped.wait_timeout_while(locked(&self.stopping), REST, goes_on));
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        drop(locked(&self.stopping));
        self.stopped.notify_all();
        let board = locked(&self.board).clone();
        board.consumer().wake_all();
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
