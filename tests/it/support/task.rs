//! Futures that are polled by hand, and a minimal runtime.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

/// Counts how often it was woken.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    pub fn woken(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<Count>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(count));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

/// Wakes a thread.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end. A future that is never woken is polled again after half a minute.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park_timeout(Duration::from_secs(30)),
        }
    }
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
    /// A future that is not ready yet.
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
