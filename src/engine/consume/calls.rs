//! The methods that queues and subscriptions have in common, documented once.
//!
//! A macro makes them as inherent methods. With a trait, an application would have to import the trait to receive
//! a message.

/// The handles that consume: queues and subscriptions.
pub trait Consuming {
    fn consumer(&self) -> &std::sync::Arc<super::consumer::Consumer>;
    fn with_consumer(consumer: std::sync::Arc<super::consumer::Consumer>) -> Self;
}

/// Makes the calls of a handle that consumes. `$noun` is what it is, `$setup` code for the examples that makes
/// a `handle` with one message in it.
macro_rules! consumer_calls {
    ($handle:ty, $noun:literal, $builder:literal, $setup:literal) => {
        #[doc = concat!("The name of the ", $noun, ".")]
        #[must_use]
        pub fn name(&self) -> &str {
            &self.consumer().info.name
        }

        #[doc = concat!("The same ", $noun, ", with another durability for the commits of this handle: what is")]
        /// sent through it, and what becomes of its deliveries.
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

        #[doc = concat!("The same ", $noun, ", as a consumer of its own that holds at most so many deliveries. While it")]
        /// holds that many, it receives nothing, and is woken when one is settled. So a slow consumer does not
        /// lease what others could handle. Clones of the handle share the limit.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let careful = handle.max_in_flight(1)?;
        /// let delivery = careful.try_receive()?.expect("it was sent");
        /// assert!(careful.try_receive()?.is_none());
        /// delivery.ack()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is 0;
        #[doc = concat!("[`NotFound`](crate::ErrorKind::NotFound) if the ", $noun, " was deleted.")]
        #[must_use = "the limit is that of the handle that is returned"]
        pub fn max_in_flight(&self, most: u64) -> crate::Result<Self> {
            let consumer = self.consumer().with_max_in_flight(most)?;
            Ok(Self::with_consumer(std::sync::Arc::new(consumer)))
        }

        /// Whether this consumer is the one that receives: always, but where only
        #[doc = concat!("[one at a time](crate::", $builder, "::single_active_consumer) does.")]
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

        /// Receives the next message, and waits for one if need be. `None` if the time is over.
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
        /// [`Corrupt`](crate::ErrorKind::Corrupt) if the message is damaged: it stays where it is;
        /// [`Io`](crate::ErrorKind::Io) if it cannot be read;
        /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
        pub fn receive(&self, timeout: std::time::Duration) -> crate::Result<Option<crate::Delivery>> {
            self.consumer().receive(Some(timeout))
        }

        /// Receives the next message if there is one.
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
        /// As [`receive`](Self::receive).
        pub fn try_receive(&self) -> crate::Result<Option<crate::Delivery>> {
            self.consumer().try_receive()
        }

        /// Receives up to `most` messages: those that are there, or the first that come within the timeout.
        /// Empty if the time is over.
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
        /// As [`receive`](Self::receive); [`InvalidInput`](crate::ErrorKind::InvalidInput) if `most` is 0.
        pub fn receive_batch(
            &self,
            most: usize,
            timeout: std::time::Duration,
        ) -> crate::Result<Vec<crate::Delivery>> {
            self.consumer().receive_batch(most, timeout)
        }

        /// Receives the next message as a future. It needs no particular runtime, and loses nothing when it is
        /// dropped: a message is leased only when the future is ready.
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
        /// As [`receive`](Self::receive).
        pub fn receive_async(
            &self,
        ) -> impl Future<Output = crate::Result<crate::Delivery>> + Send + Unpin + use<> {
            self.consumer().receive_async()
        }

        /// Acks deliveries in one commit: all of them, or none. They may come from others of the same engine,
        /// too.
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
        /// As [`Delivery::ack`](crate::Delivery::ack). If one lease is lost, none is acked.
        pub fn ack_batch<'d>(
            &self,
            deliveries: impl IntoIterator<Item = &'d crate::Delivery>,
        ) -> crate::Result<()> {
            self.consumer().ack_batch(deliveries)
        }

        /// The messages as they come, for `while let Some(delivery) = deliveries.next().await`. It ends when
        /// the engine is closed, and loses nothing when it is dropped.
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

        #[doc = concat!("A worker that runs a handler for each message of this ", $noun, ", on threads of its own or as")]
        /// tasks.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let worker = handle.worker().threads(2).start(|delivery| {
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

        /// How many messages are not acked, those on lease and those that wait included.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// assert_eq!(handle.depth()?, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        #[doc = concat!("[`NotFound`](crate::ErrorKind::NotFound) if the ", $noun, " was deleted.")]
        pub fn depth(&self) -> crate::Result<u64> {
            self.consumer().depth()
        }

        /// How many messages are on lease.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let delivery = handle.try_receive()?.expect("it was sent");
        /// assert_eq!(handle.in_flight()?, 1);
        /// # delivery.ack()?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth).
        pub fn in_flight(&self) -> crate::Result<u64> {
            self.consumer().in_flight()
        }

        /// How many messages wait until they are due: delayed ones, and those that failed.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let delivery = handle.try_receive()?.expect("it was sent");
        /// delivery.nack_after(std::time::Duration::from_secs(60))?;
        /// assert_eq!(handle.delayed()?, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth).
        pub fn delayed(&self) -> crate::Result<u64> {
            self.consumer().delayed()
        }

        /// The age of the oldest message that is not acked, by its timestamp. `None` if all are acked.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// assert!(handle.oldest_age()?.is_some());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth), and if the message is damaged.
        pub fn oldest_age(&self) -> crate::Result<Option<std::time::Duration>> {
            self.consumer().oldest_age()
        }

        /// How many messages are in which state, and what has happened since a handle was first opened in this
        /// epoch of the engine.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let stats = handle.stats()?;
        /// assert_eq!((stats.depth, stats.ready, stats.in_flight), (1, 1, 0));
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth).
        pub fn stats(&self) -> crate::Result<crate::ConsumerStats> {
            self.consumer().stats()
        }

        /// How long messages have waited to be received, and how long it took until they were acked, since a
        /// handle was first opened in this epoch of the engine.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// handle.try_receive()?.expect("it was sent").ack()?;
        /// assert_eq!(handle.latencies()?.handling.count(), 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth).
        pub fn latencies(&self) -> crate::Result<crate::Latencies> {
            self.consumer().latencies()
        }

        /// Calls a function when a threshold is reached, and when it is left: once for each crossing, and once
        /// at first if it is reached already. The thread that crossed the threshold calls it, after the
        /// commit. The function may do anything but wait for that thread. The watch ends when what is returned
        /// is dropped.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// use posthouse::Threshold;
        ///
        /// let _watch = handle.watch(Threshold::Depth(1000), |alarm| println!("{alarm:?}"))?;
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth); [`InvalidInput`](crate::ErrorKind::InvalidInput) for a threshold of 0.
        pub fn watch(
            &self,
            threshold: crate::Threshold,
            call: impl Fn(crate::Alarm) + Send + Sync + 'static,
        ) -> crate::Result<crate::ThresholdWatch> {
            self.consumer().watch_threshold(threshold, call)
        }

        /// Looks at the messages that are not acked, without taking them.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// for message in handle.browse()? {
        ///     println!("{:?}", message?.payload());
        /// }
        /// assert_eq!(handle.depth()?, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`receive`](Self::receive).
        pub fn browse(&self) -> crate::Result<crate::Browse> {
            self.consumer().browse()
        }

        /// Deletes one message, also one that waits until it is due. `false` if it is not there, because it
        /// was acked or deleted before. A delivery that is under way is not stopped by it.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// let offset = handle.browse()?.next().expect("it was sent")?.offset();
        /// assert!(handle.remove(offset)?);
        /// assert!(!handle.remove(offset)?);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`depth`](Self::depth), and if the commit fails.
        pub fn remove(&self, offset: crate::Offset) -> crate::Result<bool> {
            self.consumer().remove(offset)
        }

        /// Deletes all messages but those on lease, and says how many they were.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// assert_eq!(handle.purge()?, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// As [`remove`](Self::remove).
        pub fn purge(&self) -> crate::Result<u64> {
            self.consumer().purge()
        }
    };
}
pub(crate) use consumer_calls;
