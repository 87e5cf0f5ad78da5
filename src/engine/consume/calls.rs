//! The calls that queues and subscriptions have in common, documented once. `state_calls.rs` has the calls about
//! their messages as a whole.
//!
//! A macro makes them as inherent methods. With a trait, an application would have to import the trait to
//! receive a message.

/// The handles that consume: queues and subscriptions.
pub trait Consuming {
    fn consumer(&self) -> &std::sync::Arc<super::consumer::Consumer>;
    fn with_consumer(consumer: std::sync::Arc<super::consumer::Consumer>) -> Self;
}

/// Makes the calls of a handle that consumes. `$noun` names the kind of the handle. `$setup` is code for the
/// examples: it makes a `handle` with one message in it.
macro_rules! consumer_calls {
    ($handle:ty, $noun:literal, $builder:literal, $setup:literal) => {
        #[doc = concat!("The name of the ", $noun, ".")]
        #[must_use]
        pub fn name(&self) -> &str {
            &self.consumer().info.name
        }

        #[doc = concat!("The settings of the ", $noun, ", as they are now.")]
        ///
        /// [`create_or_update`](crate::QueueBuilder::create_or_update) changes them.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// assert!(!handle.settings()?.ordered_by_key);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        #[doc = concat!("[`NotFound`](crate::ErrorKind::NotFound) if the ", $noun, " was deleted.")]
        pub fn settings(&self) -> crate::Result<crate::DeliverySettings> {
            self.consumer().settings()
        }

        #[doc = concat!("The same ", $noun, " with another durability.")]
        ///
        /// It counts for the commits of the returned handle: for messages that are sent through it, and for
        /// the settling of its deliveries.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// use posthouse::Durability;
        ///
        /// let fast = handle.durability(Durability::Buffered);
        /// fast.try_receive()?.expect("it was sent").ack()?; // does not wait for the disk
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn durability(&self, durability: crate::Durability) -> Self {
            let consumer = self.consumer().with_durability(durability);
            Self::with_consumer(std::sync::Arc::new(consumer))
        }

        #[doc = concat!("The same ", $noun, " as another consumer, which holds at most `most` deliveries at a time.")]
        ///
        /// At the limit the consumer receives nothing. It is woken when one of its deliveries is settled. So
        /// a slow consumer does not lease messages that other consumers could handle. Clones of the handle
        /// share the limit. The handle that this is called on has no limit: receive from the handle that is returned.
        /// Nothing warns of a call whose handle is dropped after a `?`.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let careful = handle.with_max_in_flight(1)?;
        /// let delivery = careful.try_receive()?.expect("it was sent");
        /// assert!(careful.try_receive()?.is_none());
        /// delivery.ack()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `most` is 0;
        #[doc = concat!("[`NotFound`](crate::ErrorKind::NotFound) if the ", $noun, " was deleted.")]
        #[must_use = "the limit is that of the handle that is returned"]
        pub fn with_max_in_flight(&self, most: u64) -> crate::Result<Self> {
            let consumer = self.consumer().with_max_in_flight(most)?;
            Ok(Self::with_consumer(std::sync::Arc::new(consumer)))
        }

        /// Whether this consumer is active: only an active consumer receives messages.
        ///
        /// It may be inactive only where a
        #[doc = concat!("[single consumer](crate::", $builder, "::single_active_consumer) receives at a time.")]
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// assert!(handle.is_active()?);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        #[doc = concat!("[`NotFound`](crate::ErrorKind::NotFound) if the ", $noun, " was deleted.")]
        pub fn is_active(&self) -> crate::Result<bool> {
            self.consumer().is_active()
        }

        /// Receives the next message, and waits up to `timeout` for one. `None` if the time is over.
        ///
        /// The time is for a message to come. What the call has to write or to read takes as long as the disk needs, also
        /// where the journal is short of space.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// use std::time::Duration;
        ///
        /// while let Some(delivery) = handle.receive(Duration::from_millis(1))? {
        ///     println!("{:?}", delivery.payload());
        ///     delivery.ack()?;
        /// }
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed, also while the call waits;
        #[doc = concat!("[`NotFound`](crate::ErrorKind::NotFound) if the ", $noun, " was deleted;")]
        /// [`Corrupt`](crate::ErrorKind::Corrupt) if the message is damaged: it stays in its place;
        /// [`Io`](crate::ErrorKind::Io) if it cannot be read;
        /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
        pub fn receive(&self, timeout: std::time::Duration) -> crate::Result<Option<crate::Delivery>> {
            self.consumer().receive(Some(timeout))
        }

        /// Receives the next message. `None` if there is none now.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let delivery = handle.try_receive()?.expect("it was sent");
        /// assert!(handle.try_receive()?.is_none());
        /// # delivery.ack()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`receive`](Self::receive).
        pub fn try_receive(&self) -> crate::Result<Option<crate::Delivery>> {
            self.consumer().try_receive()
        }

        /// Receives up to `most` messages, and waits up to `timeout` for the first. The result is empty if the
        /// time is over.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// use std::time::Duration;
        ///
        /// let batch = handle.receive_batch(100, Duration::from_secs(1))?;
        /// assert_eq!(batch.len(), 1);
        /// handle.ack_batch(&batch)?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`receive`](Self::receive);
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `most` is 0.
        pub fn receive_batch(
            &self,
            most: usize,
            timeout: std::time::Duration,
        ) -> crate::Result<Vec<crate::Delivery>> {
            self.consumer().receive_batch(most, timeout)
        }

        /// Receives the next message as a future, which waits for one. It needs no particular runtime. A future
        /// that is dropped loses no message: a message is leased only when the future is ready.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let handled = async {
        ///     let delivery = handle.receive_async().await?;
        ///     delivery.ack_ticket()?.await
        /// };
        /// # let waker = std::task::Waker::noop();
        /// # let mut context = std::task::Context::from_waker(waker);
        /// # assert!(std::pin::pin!(handled).poll(&mut context).is_pending() || true);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`receive`](Self::receive).
        pub fn receive_async(
            &self,
        ) -> impl Future<Output = crate::Result<crate::Delivery>> + Send + Unpin + use<> {
            self.consumer().receive_async()
        }

        /// Receives up to `most` messages as a future, which waits for the first. A future that is dropped loses no
        /// message.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let handled = async {
        ///     let batch = handle.receive_batch_async(100).await?;
        ///     handle.ack_batch_async(&batch).await
        /// };
        /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        /// # let mut handled = std::pin::pin!(handled);
        /// # while handled.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
        /// # assert_eq!(handle.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`receive_batch`](Self::receive_batch).
        pub fn receive_batch_async(
            &self,
            most: usize,
        ) -> impl Future<Output = crate::Result<Vec<crate::Delivery>>> + Send + Unpin + use<> {
            self.consumer().receive_batch_async(most)
        }

        /// Acks deliveries in one commit: all of them, or none. They may come from several queues and
        /// subscriptions of the same engine.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let batch = handle.receive_batch(100, std::time::Duration::ZERO)?;
        /// handle.ack_batch(&batch)?; // one flush for all
        /// assert_eq!(handle.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`Delivery::ack`](crate::Delivery::ack). If one lease is lost, no delivery is
        /// acked, and the error names the messages whose leases are lost.
        /// [`ack_batch_held`](Self::ack_batch_held) acks the others.
        pub fn ack_batch<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<()> {
            self.consumer().ack_batch(deliveries)
        }

        /// Acks the deliveries whose leases hold in one commit. Returns the places of the others among the deliveries,
        /// counted from 0: they may be delivered again.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let batch = handle.receive_batch(100, std::time::Duration::ZERO)?;
        /// for late in handle.ack_batch_held(&batch)? {
        ///     eprintln!("the lease of message {} was lost", batch[late].offset());
        /// }
        /// assert_eq!(handle.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`ack_batch`](Self::ack_batch), except [`LeaseLost`](crate::ErrorKind::LeaseLost).
        pub fn ack_batch_held<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<Vec<usize>> {
            self.consumer().ack_batch_held(deliveries)
        }

        /// Acks deliveries as [`ack_batch`](Self::ack_batch), without waiting for the disk.
        ///
        /// # Errors
        ///
        /// The same errors as [`ack_batch`](Self::ack_batch). An error of the sync comes from the ticket.
        pub fn ack_batch_ticket<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<crate::Ticket<()>> {
            self.consumer().ack_batch_ticket(deliveries)
        }

        /// Acks deliveries as [`ack_batch`](Self::ack_batch), as a future. See
        /// [`receive_batch_async`](Self::receive_batch_async) for an example.
        ///
        /// # Errors
        ///
        /// The same errors as [`ack_batch`](Self::ack_batch).
        pub async fn ack_batch_async<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<()> {
            self.consumer().ack_batch_async(deliveries).await
        }

        /// Acks deliveries as [`ack_batch_held`](Self::ack_batch_held), without waiting for the disk. The ticket has the places
        /// of those whose leases are lost.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let batch = handle.receive_batch(100, std::time::Duration::ZERO)?;
        /// let ticket = handle.ack_batch_held_ticket(&batch)?;
        /// assert!(ticket.wait()?.is_empty()); // or `ticket.await`
        /// # assert_eq!(handle.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`ack_batch_held`](Self::ack_batch_held). An error of the sync comes from the ticket.
        pub fn ack_batch_held_ticket<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<crate::Ticket<Vec<usize>>> {
            self.consumer().ack_batch_held_ticket(deliveries)
        }

        /// Acks deliveries as [`ack_batch_held`](Self::ack_batch_held), as a future.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let handled = async {
        ///     let batch = handle.receive_batch_async(100).await?;
        ///     for late in handle.ack_batch_held_async(&batch).await? {
        ///         eprintln!("the lease of message {} was lost", batch[late].offset());
        ///     }
        ///     Ok::<(), posthouse::Error>(())
        /// };
        /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        /// # let mut handled = std::pin::pin!(handled);
        /// # while handled.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
        /// # assert_eq!(handle.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// The same errors as [`ack_batch_held`](Self::ack_batch_held).
        pub async fn ack_batch_held_async<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<Vec<usize>> {
            self.consumer().ack_batch_held_async(deliveries).await
        }

        /// The messages as a `Stream`, for `while let Some(delivery) = deliveries.next().await`. It ends when
        /// the engine is closed. A stream that is dropped loses no message.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// use futures_core::Stream;
        ///
        /// let mut deliveries = handle.deliveries();
        /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        /// let next = std::pin::Pin::new(&mut deliveries).poll_next(&mut context);
        /// assert!(next.is_ready());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[cfg(feature = "stream")]
        #[must_use]
        pub fn deliveries(&self) -> crate::Deliveries {
            crate::Deliveries::new(self.consumer())
        }

        #[doc = concat!("A worker that runs a handler for each message of this ", $noun, ".")]
        ///
        /// It runs on threads of its own, or as tasks of an async runtime. See [`Worker`](crate::Worker).
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let worker = handle.worker().concurrency(2).start(|delivery| {
        ///     println!("{:?}", delivery.payload());
        ///     Ok::<(), std::io::Error>(())
        /// })?;
        /// # while handle.depth()? > 0 { std::thread::yield_now(); }
        /// worker.stop()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn worker(&self) -> crate::WorkerBuilder {
            crate::WorkerBuilder::new(self.consumer())
        }

        crate::engine::consume::state_calls::consumer_state_calls!($noun, $setup);
    };
}
pub(crate) use consumer_calls;
