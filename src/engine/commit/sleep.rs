//! Sleeps of tasks: the flusher wakes them. On the simulated disk, the next call after the clock has moved does.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::committer::Committer;

/// A future that is ready at a time of the stopwatch, or once the engine is closed. As the timeouts of threads, it pauses
/// while the machine sleeps.
#[derive(Debug)]
pub struct Sleep {
    committer: Arc<Committer>,
    at: Duration,
    number: Option<u64>,
}

impl Sleep {
    pub fn lasting(committer: &Arc<Committer>, time: Duration) -> Sleep {
        let at = committer.disk.stopwatch().saturating_add(time);
        Sleep { committer: Arc::clone(committer), at, number: None }
    }

    fn end(&mut self) {
        if let Some(number) = self.number.take() {
            self.committer.flusher.end_sleep(self.at, number);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.end();
        if self.committer.disk.stopwatch() >= self.at {
            return Poll::Ready(());
        }
        // Cloning a waker runs code of the application, so no lock is held.
        let waker = context.waker().clone();
        self.number = self.committer.flusher.wake_at(self.at, waker);
        if self.number.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.end();
    }
}
