//! Deliveries as a `Stream` of the crate `futures`.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{consumer::Consumer, delivery::Delivery};

use crate::error::{ErrorKind, Result};

/// The messages of a queue or a subscription, as a `Stream` of the crate `futures`. It ends when the engine
/// is closed. After an error that cannot pass, as when the queue is deleted, it gives the error once and ends.
///
/// It needs the feature `stream`. The method `next` comes from `StreamExt` of a crate such as `futures` or
/// `tokio-stream`. See [`Queue::deliveries`](crate::Queue::deliveries) for an example.
pub struct Deliveries {
    consumer: Arc<Consumer>,
    next: Pin<Box<dyn Future<Output = Result<Delivery>> + Send>>,
    is_over: bool,
}

impl Deliveries {
    pub(crate) fn new(consumer: &Arc<Consumer>) -> Deliveries {
        let next = Box::pin(consumer.receive_async());
        Deliveries { consumer: Arc::clone(consumer), next, is_over: false }
    }
}

impl futures_core::Stream for Deliveries {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(received) = self.next.as_mut().poll(context) else {
            return Poll::Pending;
        };
        let closed = received.as_ref().is_err_and(|error| error.kind() == ErrorKind::Closed);
        if closed {
            self.is_over = true;
            return Poll::Ready(None);
        }
        // After a message that cannot be read the stream goes on with the next one, and a full disk may have space again. Any
        // other error ends the stream.
        let goes_on =
            |kind| matches!(kind, ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::DiskFull);
        self.is_over = received.as_ref().is_err_and(|error| !goes_on(error.kind()));
        self.next = Box::pin(self.consumer.receive_async());
        Poll::Ready(Some(received))
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("of", &self.consumer.info.name).finish_non_exhaustive()
    }
}
