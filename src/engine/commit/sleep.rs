//! Sleeps of tasks: the flusher wakes them. On the simulated disk, the next call after the clock has moved does.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::committer::Committer;

/// A future that is ready at a time of the engine's clock, or once the engine is closed.
#[derive(Debug)]
pub struct Sleep {
    committer: Arc<Committer>,
    at: Duration,
    number: Option<u64>,
}

impl Sleep {
    pub fn until(committer: &Arc<Committer>, at: Duration) -> Sleep {
        Sleep { committer: Arc::clone(committer), at, number: None }
    }

    pub fn lasting(committer: &Arc<Committer>, time: Duration) -> Sleep {
        // The clock lags by up to one tick.
        let at = committer.elapsed().saturating_add(time).saturating_add(committer.disk.tick());
        Sleep::until(committer, at)
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
        if self.committer.elapsed() >= self.at {
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
