//! What the threads or tasks of a worker share, and their one policy: what becomes of a result and of an error.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::{self, Display},
    panic::{AssertUnwindSafe, catch_unwind},
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
        runtime::lock::RankedMutex,
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
    pub held: BTreeMap<usize, DeliveryInfo>,
}

/// What a worker does after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    GoOn,
    Rest,
    End,
}

/// The result of a handler: `Err` if it panicked.
pub type Handled<E> = std::result::Result<std::result::Result<(), E>, Box<dyn Any + Send>>;

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
            running: RankedMutex::new(Rank::Scheduler, "worker", Running::default()),
            changed: Condvar::new(),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// Notes the result of a handler. Returns the reason of its failure: its error or its panic.
    pub fn note<E: Display>(&self, handled: Handled<E>) -> Option<String> {
        let reason = failure_of(handled);
        let counter = if reason.is_none() { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        reason
    }

    /// Judges the outcome of settling a delivery after its handler.
    pub fn judge_settled(&self, delivery: &Delivery, settled: Result<()>) -> Result<Next> {
        let Err(error) = settled else { return Ok(Next::GoOn) };
        if error.kind() == ErrorKind::LeaseLost {
            // The lease ran out, or the handler settled the delivery itself.
            return Ok(Next::GoOn);
        }
        // The handler is done, so that this cannot be written is no failed attempt.
        delivery.give_back(false);
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
            ErrorKind::Io | ErrorKind::DiskFull => Next::Rest,
            _ => {
                self.tell(&error);
                return Err(error);
            }
        };
        self.tell(&error);
        Ok(next)
    }

    fn tell(&self, error: &Error) {
        if let Some(OnError(tell)) = &self.on_error {
            // The panic hook has reported a panic. It does not end the worker.
            let _ = catch_unwind(AssertUnwindSafe(|| tell(error)));
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

/// The reason of a failure. `None` if the handler succeeded.
fn failure_of<E: Display>(handled: Handled<E>) -> Option<String> {
    let panic = match handled {
        Ok(Ok(())) => return None,
        // An error of a crate such as `anyhow` shows its causes in this form.
        Ok(Err(error)) => return Some(format!("{error:#}")),
        Err(panic) => panic,
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Some(format!("the handler panicked: {}", text.as_deref().unwrap_or("with no message")))
}
