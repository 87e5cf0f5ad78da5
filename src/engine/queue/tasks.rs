//! Sends in tasks, which never block their thread, and sends of batches without waiting for the disk.

use std::{ops::Range, slice, time::Duration};

use super::Queue;
use crate::{
    engine::{
        commit::{
            asking::{Asked, committed, within},
            ticket::Ticket,
        },
        core::commit::Receipt,
        runtime::wait::Attempt,
    },
    error::Result,
    ids::Offset,
    message::Message,
};

impl Queue {
    /// Sends a message as a future. It is ready when the message is as durable as the
    /// [durability](Queue::durability) of the handle asks for.
    ///
    /// It never blocks its thread: it awaits space in a full journal, too. Nothing is sent before it is polled. If it is
    /// dropped before it is ready, the message may have been sent, or not.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let sent = async { payments.send_async("charge order 1").await };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut sent = std::pin::pin!(sent);
    /// # while sent.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # assert_eq!(payments.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`send`](Queue::send).
    pub fn send_async<'m, M: Into<Message<'m>>>(
        &self,
        message: M,
    ) -> impl Future<Output = Result<Offset>> + Send + use<'m, M> {
        let (queue, message) = (self.clone(), message.into());
        let (engine, durability) = (self.engine().clone(), self.durability_of_commits());
        committed(engine, durability, move || {
            Ok(Attempt::Got(queue.append(slice::from_ref(&message))?))
        })
    }

    /// Sends messages in one commit, as a future: see [`send_batch`](Queue::send_batch) and
    /// [`send_async`](Queue::send_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`send`](Queue::send).
    pub fn send_batch_async<'m, M: Into<Message<'m>>, I: IntoIterator<Item = M>>(
        &self,
        messages: I,
    ) -> impl Future<Output = Result<Range<Offset>>> + Send + use<'m, M, I> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let queue = self.clone();
        let (engine, durability) = (self.engine().clone(), self.durability_of_commits());
        committed(engine, durability, move || Ok(Attempt::Got(queue.append_range(&messages)?)))
    }

    /// Sends messages in one commit, without waiting for the disk: see [`send_batch`](Queue::send_batch) and
    /// [`send_ticket`](Queue::send_ticket).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let offsets = payments.send_batch_ticket(["charge order 1", "charge order 2"])?.wait()?;
    /// assert_eq!(offsets.end.0 - offsets.start.0, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`send`](Queue::send). An error of the sync comes from the ticket.
    pub fn send_batch_ticket<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Ticket<Range<Offset>>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        Ok(Ticket::new(self.engine(), self.append_range(&messages)?))
    }

    /// Sends a message as a future. If the queue is full, it awaits capacity, for at most `timeout`: see
    /// [`send_within`](Queue::send_within) and [`send_async`](Queue::send_async).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    ///
    /// let images = engine.queue("images").max_messages(10).create()?;
    /// let sent = async { images.send_within_async("image 1", Duration::from_secs(5)).await };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut sent = std::pin::pin!(sent);
    /// # while sent.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # assert_eq!(images.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`send_within`](Queue::send_within).
    pub fn send_within_async<'m, M: Into<Message<'m>>>(
        &self,
        message: M,
        timeout: Duration,
    ) -> impl Future<Output = Result<Offset>> + Send + use<'m, M> {
        let (queue, message) = (self.clone(), message.into());
        async move {
            let (engine, durability) = (queue.engine().clone(), queue.durability_of_commits());
            let attempt = || queue.send_or_wait(slice::from_ref(&message), None);
            let sent = Asked::new(engine.committer(), attempt).patient();
            let Some(sent) = within(engine.committer(), timeout, sent).await else {
                return Err(queue.was_full(timeout));
            };
            let mut sent = Some(sent?);
            // It is committed. What is left is to await that it is durable.
            committed(engine, durability, || {
                Ok(Attempt::Got(sent.take().expect("the commit is awaited once")))
            })
            .await
        }
    }

    fn append_range(&self, messages: &[Message<'_>]) -> Result<(Range<Offset>, Receipt)> {
        let (first, receipt) = self.append(messages)?;
        Ok((first..Offset(first.0 + messages.len() as u64), receipt))
    }
}
