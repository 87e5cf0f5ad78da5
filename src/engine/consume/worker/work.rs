//! What the threads or tasks of a worker share, and their one policy: what becomes of a result and of an error.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    audit::Rank,
    engine::{
        consume::{consumer::Consumer, delivery::Delivery, lease::DeliveryInfo},
        runtime::{application, lock::RankedMutex},
    },
    error::{Error, ErrorKind, Result},
    prims::Condvar,
};

/// How long a thread or task rests after an error that may pass, such as a full disk.
pub const REST: Duration = Duration::from_secs(1);

/// A function of the application that is told the errors of a worker.
#[derive(Clone)]
pub struct OnError(pub Arc<dyn Fn(&Error) + Send + Sync>);

impl fmt::Debug for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnError")
    }
}

/// The state that the threads or tasks of a worker share.
#[derive(Debug)]
pub struct Work {
    pub consumer: Arc<Consumer>,
    pub max_handling_time: Duration,
    pub on_error: Option<OnError>,
    pub is_stopped: AtomicBool,
    pub running: RankedMutex<Running>,
    /// Wakes threads that rest, and the one that waits for the end of the others.
    pub changed: Condvar,
    pub done: AtomicU64,
    pub failed: AtomicU64,
    pub damaged: AtomicU64,
}

/// The threads that run, and the deliveries that they handle.
#[derive(Debug, Default)]
pub struct Running {
    pub threads: usize,
    /// By the number of the thread.
    pub held: BTreeMap<usize, DeliveryInfo>,
}

/// What a worker does after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    Rest,
    End,
}

/// The result of a handler, or the text of its panic. The text of its error is made where panics are caught: making it
/// is code of the application.
pub type Handled = std::result::Result<std::result::Result<(), String>, String>;

/// The text of an error of a handler. Drops the error, which is code of the application, too.
pub fn text_of<E: Display>(error: E) -> String {
    // An error of a crate such as `anyhow` shows its causes in this form.
    format!("{error:#}")
}

impl Work {
    pub fn new(
        consumer: &Consumer,
        max_handling_time: Duration,
        on_error: Option<OnError>,
    ) -> Work {
        Work {
            consumer: Arc::new(consumer.for_worker()),
            max_handling_time,
            on_error,
            is_stopped: AtomicBool::new(false),
            running: RankedMutex::new(&(Rank::Scheduler, "worker"), Running::default()),
            changed: Condvar::new(),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// Notes the result of a handler. Returns the reason of its failure: its error or its panic.
    pub fn note(&self, handled: Handled) -> Option<String> {
        let reason = match handled {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(panic) => Some(format!("the handler panicked: {panic}")),
        };
        let counter = if reason.is_none() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        reason
    }

    /// Gives back a delivery whose handler wanted to release it, which could not be written. Whatever the handler returned,
    /// that is no failed attempt and no success.
    pub fn give_back_released(&self, delivery: &Delivery) -> Next {
        // The handler knows the error, and the next call of this worker meets it if it does not pass.
        if delivery.give_back(false) { Next::Rest } else { Next::GoOn }
    }

    /// Judges the outcome of settling a delivery after its handler.
    pub fn judge_settled(
        &self,
        delivery: &Delivery,
        settled: Result<()>,
        has_failed: bool,
    ) -> Result<Next> {
        let Err(error) = settled else { return Ok(Next::GoOn) };
        if error.kind() == ErrorKind::LeaseLost {
            // The lease ran out, or the handler settled the delivery itself.
            return Ok(Next::GoOn);
        }
        // If the handler is done, that this cannot be written is no failed attempt.
        delivery.give_back(has_failed);
        if error.kind() == ErrorKind::Corrupt {
            // That is no damage of this message: nothing can be written.
            self.tell(&error);
            return Ok(Next::Rest);
        }
        self.judge(error)
    }

    /// Judges an error. `Err` ends the worker.
    pub fn judge(&self, error: Error) -> Result<Next> {
        let next = match error.kind() {
            ErrorKind::Closed => return Ok(Next::End),
            // A damaged message was set aside, so others come at once.
            ErrorKind::Corrupt => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                Next::GoOn
            }
            // A queue for dead letters that was deleted is no end of this one.
            ErrorKind::NotFound if !self.consumer.is_deleted() => Next::Rest,
            _ if error.is_final() => {
                self.tell(&error);
                return Err(error);
            }
            // It may pass, as on a full disk, or concern one message.
            _ => Next::Rest,
        };
        self.tell(&error);
        Ok(next)
    }

    fn tell(&self, error: &Error) {
        if let Some(OnError(tell)) = &self.on_error {
            // A panic does not end the worker.
            application::run(|| tell(error));
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// Ends the rests and the waits of all threads and tasks. They take no more messages.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        drop(self.running.lock());
        self.changed.notify_all();
        self.consumer.wake_all();
    }
}
