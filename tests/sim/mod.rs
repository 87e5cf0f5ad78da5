//! An engine on a simulated disk, for tests of what users are told.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake},
    time::Duration,
};

use posthouse::{Delivery, Engine, ErrorKind, Queue, Timestamp, sim::SimDisk};

use super::model::small_options;

pub const SECOND: Duration = Duration::from_secs(1);

/// An engine on a simulated disk, whose clocks only move when they are told to.
pub struct Sim {
    pub disk: SimDisk,
    pub engine: Engine,
}

impl Sim {
    pub fn new() -> Sim {
        let disk = SimDisk::new(7);
        disk.set_now(Timestamp(1_700_000_000_000));
        let engine = small_options().sim(&disk).open("store").unwrap();
        Sim { disk, engine }
    }

    pub fn now(&self) -> Timestamp {
        // What a message bears that is sent now.
        let probe = self.engine.stream("probe").create().unwrap();
        let at = probe.append("now").unwrap();
        let reader = probe.partition(at.partition).unwrap().reader(posthouse::Start::Earliest);
        reader.unwrap().last().unwrap().unwrap().timestamp()
    }

    /// The process dies, and the next one begins.
    pub fn kill(self) -> Sim {
        let Sim { disk, engine } = self;
        disk.kill();
        drop(engine);
        let engine = small_options().sim(&disk).open("store").unwrap();
        Sim { disk, engine }
    }
}

pub fn kind<T>(result: posthouse::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.kind(),
    }
}

pub fn field<T>(result: posthouse::Result<T>) -> &'static str {
    match kind(result) {
        ErrorKind::InvalidInput { field } => field,
        other => panic!("it failed with {other:?}"),
    }
}

pub fn take(queue: &Queue) -> Option<Delivery> {
    queue.try_receive().unwrap()
}

pub fn texts(queue: &Queue) -> Vec<String> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    queue.browse().unwrap().map(|it| text(it.unwrap().payload())).collect()
}

/// Whether a task was woken.
#[derive(Default)]
struct Alarm(AtomicBool);

impl Wake for Alarm {
    fn wake(self: Arc<Alarm>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A future that is polled by hand.
pub struct Task<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    alarm: Arc<Alarm>,
}

impl<T> Task<T> {
    /// One that has nothing to give yet.
    pub fn waiting(future: impl Future<Output = T> + 'static) -> Task<T> {
        let mut task = Task { future: Box::pin(future), alarm: Arc::default() };
        assert!(task.poll().is_none(), "there is something already");
        task
    }

    /// Whether it was woken since it was last polled.
    pub fn is_woken(&self) -> bool {
        self.alarm.0.load(Ordering::SeqCst)
    }

    pub fn poll(&mut self) -> Option<T> {
        self.alarm.0.store(false, Ordering::SeqCst);
        match self.future.as_mut().poll(&mut Context::from_waker(&Arc::clone(&self.alarm).into())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}
