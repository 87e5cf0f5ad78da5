//! A worker as a future: its handlers run side by side in one task.

use std::{fmt::Display, pin::pin, sync::atomic::Ordering, task::Poll, time::Duration};

use super::work::{Handled, Next, REST, Work, text_of};
use crate::{
    engine::{
        commit::sleep::Sleep,
        consume::delivery::Delivery,
        runtime::{
            application,
            together::{Together, give_way},
        },
    },
    error::Result,
};

/// Runs a worker until `stop` is ready, or the engine is closed. After `stop` the handlers that run have `grace` to end.
pub async fn run_until<E: Display, F: Future<Output = std::result::Result<(), E>>>(
    work: Work,
    concurrency: usize,
    grace: Option<Duration>,
    stop: impl Future,
    handler: impl Fn(Delivery) -> F,
) -> Result<()> {
    let work = &work;
    let handler = &handler;
    let mut all = pin!(Together::new((0..concurrency).map(|_| work.run_task(handler))));
    let mut stop = pin!(stop);
    let mut over = pin!(None);
    std::future::poll_fn(|context| {
        if !work.is_stopped() && stop.as_mut().poll(context).is_ready() {
            work.stop();
            all.wake_all();
            over.set(grace.map(|grace| Sleep::lasting(work.consumer.committer(), grace)));
        }
        if let Poll::Ready(ended) = all.as_mut().poll(context) {
            return Poll::Ready(ended);
        }
        // Handlers that still run are dropped with this future, which gives their messages back.
        match over.as_mut().as_pin_mut() {
            Some(over) => over.poll(context).map(Ok),
            None => Poll::Pending,
        }
    })
    .await
}

impl Work {
    /// Handles one message after the other, until the worker is stopped or the engine is closed.
    async fn run_task<E: Display, F: Future<Output = std::result::Result<(), E>>>(
        &self,
        handler: &impl Fn(Delivery) -> F,
    ) -> Result<()> {
        loop {
            let next = match self.consumer.receive_unless_async(&self.is_stopped).await {
                Ok(None) => return Ok(()),
                Ok(Some(delivery)) => self.handle_in_task(delivery, handler).await?,
                Err(error) => self.judge(error)?,
            };
            match next {
                // With a backlog nothing has to wait. The other handlers, the one who stops this worker and the other tasks
                // of this thread come in turn.
                Next::GoOn => give_way().await,
                Next::Rest => self.rest_in_task().await,
                Next::End => return Ok(()),
            }
        }
    }

    /// Runs the handler for a delivery and settles it. If this is cancelled, the delivery is given back uncounted.
    async fn handle_in_task<E: Display, F: Future<Output = std::result::Result<(), E>>>(
        &self,
        delivery: Delivery,
        handler: &impl Fn(Delivery) -> F,
    ) -> Result<Next> {
        // If the lease is lost already, the handler runs in vain. That does no harm.
        let _ = delivery.hold(self.max_handling_time);
        let (lent, is_released) = delivery.lend();
        let handled = async {
            let reason = self.note(catch(|| handler(lent)).await);
            if is_released.load(Ordering::Relaxed) {
                return Ok(self.give_back_released(&delivery));
            }
            let settled = match &reason {
                None => delivery.ack_async().await,
                Some(reason) => delivery.nack_because_async(reason).await,
            };
            self.judge_settled(&delivery, settled, reason.is_some())
        };
        delivery.handling(handled).await
    }

    async fn rest_in_task(&self) {
        let mut rest = pin!(Sleep::lasting(self.consumer.committer(), REST));
        std::future::poll_fn(|context| {
            if self.is_stopped() { Poll::Ready(()) } else { rest.as_mut().poll(context) }
        })
        .await;
    }
}

/// Runs a handler to its end. `Err` if it panics, or if making its future does.
async fn catch<E: Display, F: Future<Output = std::result::Result<(), E>>>(
    make: impl FnOnce() -> F,
) -> Handled {
    let mut future = pin!(Some(application::call(make)?));
    let handled = std::future::poll_fn(|context| {
        let polled = application::call(|| {
            let running = future.as_mut().as_pin_mut().expect("it is dropped below");
            running.poll(context).map(|handled| handled.map_err(text_of))
        });
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(handled)) => Poll::Ready(Ok(handled)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await;
    // What it has captured may panic when it is dropped.
    application::run(|| future.set(None));
    handled
}
