//! The calls about the messages of a queue or a subscription as a whole: counts, thresholds, browsing, deleting.

/// Makes these calls for a handle that consumes. The parameters are those of `consumer_calls`.
macro_rules! consumer_state_calls {
    ($noun:literal, $setup:literal) => {
        /// The number of messages that are not acked. Messages on lease and delayed messages count.
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

        /// The number of messages on lease.
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
        /// The same errors as [`depth`](Self::depth).
        pub fn in_flight(&self) -> crate::Result<u64> {
            self.consumer().in_flight()
        }

        /// The number of messages that wait until they are due: delayed messages, and messages that wait for
        /// their retry.
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
        /// The same errors as [`depth`](Self::depth).
        pub fn delayed(&self) -> crate::Result<u64> {
            self.consumer().delayed()
        }

        /// The age of the oldest message that is not acked, by its timestamp. Damaged messages are passed over. `None` if there
        /// is no other.
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
        /// The same errors as [`depth`](Self::depth); [`Io`](crate::ErrorKind::Io) if the message cannot be read.
        pub fn oldest_age(&self) -> crate::Result<Option<std::time::Duration>> {
            self.consumer().oldest_age()
        }

        /// Counts of the messages by state, and of the events since the first handle was made after the
        /// engine was opened.
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
        /// The same errors as [`depth`](Self::depth).
        pub fn stats(&self) -> crate::Result<crate::ConsumerStats> {
            self.consumer().stats()
        }

        /// Histograms of two times: how long messages waited for a consumer, and how long they were handled
        /// until their ack. They begin when the first handle is made after the engine was opened.
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
        /// The same errors as [`depth`](Self::depth).
        pub fn latencies(&self) -> crate::Result<crate::Latencies> {
            self.consumer().latencies()
        }

        /// Calls a function when a threshold is reached, and when it is left again.
        ///
        /// The function is called once for each crossing, and once at first if the threshold is reached
        /// already. The thread that crosses the threshold calls it, after the commit. The function must not
        /// wait for that thread. If the function itself crosses a threshold, the call for that comes after the
        /// function has returned. The watch ends when the returned value is dropped.
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
        /// The same errors as [`depth`](Self::depth);
        /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a threshold of 0.
        pub fn watch(
            &self,
            threshold: crate::Threshold,
            call: impl Fn(crate::Alarm) + Send + Sync + 'static,
        ) -> crate::Result<crate::ThresholdWatch> {
            self.consumer().watch_threshold(threshold, call)
        }

        /// The messages that are not acked, in the order of their offsets. It reads them, and leaves them
        /// where they are.
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
        /// The same errors as [`receive`](Self::receive).
        pub fn browse(&self) -> crate::Result<crate::Browse> {
            self.consumer().browse()
        }

        /// Has nothing be delivered until it is [resumed](Self::resume): consumers wait, in every process that opens the store
        /// later, too. Messages that are on lease stay with their consumers, and messages are taken as ever.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// handle.pause()?;
        /// assert!(handle.try_receive()?.is_none());
        /// handle.resume()?;
        /// assert!(handle.try_receive()?.is_some());
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`DiskFull`](crate::ErrorKind::DiskFull); [`InvalidInput`](crate::ErrorKind::InvalidInput) for a queue of the engine
        /// itself; the same errors as [`depth`](Self::depth).
        pub fn pause(&self) -> crate::Result<()> {
            self.consumer().set_paused(true)
        }

        /// Has messages delivered again, after a [`pause`](Self::pause). Consumers that wait are woken.
        ///
        /// # Errors
        ///
        /// The same errors as [`pause`](Self::pause).
        pub fn resume(&self) -> crate::Result<()> {
            self.consumer().set_paused(false)
        }

        /// Deletes one message, also a delayed one. `false` if it was acked or deleted before.
        ///
        /// A consumer that holds the message on lease is not interrupted.
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
        /// The same errors as [`depth`](Self::depth); [`Io`](crate::ErrorKind::Io) or
        /// [`Poisoned`](crate::ErrorKind::Poisoned) if the commit fails.
        pub fn remove(&self, offset: crate::Offset) -> crate::Result<bool> {
            self.consumer().remove(offset)
        }

        /// Deletes all messages except messages on lease, and returns how many it has deleted.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($setup)]
        /// assert_eq!(handle.purge()?, 1);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// Messages that follow each other are deleted together, and up to 96 ranges in one commit. A purge of more is several
        /// commits, between which other calls have their turn.
        ///
        /// # Errors
        ///
        /// The same errors as [`remove`](Self::remove). If a purge of more ranges fails, each of its commits has
        /// deleted all of its messages, or none.
        pub fn purge(&self) -> crate::Result<u64> {
            self.consumer().purge()
        }
    };
}
pub(crate) use consumer_state_calls;
