//! The settings that builders of queues and of subscriptions have in common, documented once.

/// The settings that builders of queues and of subscriptions have in common.
macro_rules! delivery_settings {
    ($builder:literal) => {
        /// Sets the lease: how long a consumer holds a delivery before the message is delivered again. From
        /// 1 ms to a day; 30 s by default.
        ///
        /// See also [`Delivery::extend`](crate::Delivery::extend).
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// use std::time::Duration;
        ///
        #[doc = concat!($builder, ".lease(Duration::from_secs(5 * 60)).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn lease(mut self, lease: std::time::Duration) -> Self {
            self.settings.lease = Some(lease);
            self
        }

        /// Sets how long a message waits after a failure before it is delivered again: 100 ms by default, twice as
        /// long after each further failure, up to a minute, with jitter. A year at most.
        ///
        /// A failure is a [`nack`](crate::Delivery::nack), a dropped delivery, or a lease that has run out. The
        /// first retry of a message whose lease has run out is immediate. With
        /// [`Backoff::None`](crate::Backoff::None) every retry is immediate.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// use std::time::Duration;
        /// use posthouse::Backoff;
        ///
        /// let backoff = Backoff::exponential(Duration::from_millis(100), Duration::from_secs(60));
        #[doc = concat!($builder, ".backoff(backoff).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn backoff(mut self, backoff: crate::Backoff) -> Self {
            self.settings.backoff = Some(backoff);
            self
        }

        /// Sets the time to live of messages, from their timestamps on: no limit by default.
        ///
        /// Expired messages are not delivered. They move to the dead letters, or are dropped if there are no
        /// dead letters. The life of a dead letter begins when it is moved. A message can have a shorter life:
        /// see [`expire_after`](crate::Message::expire_after).
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// use std::time::Duration;
        ///
        #[doc = concat!($builder, ".time_to_live(Duration::from_secs(3600)).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn time_to_live(mut self, time_to_live: std::time::Duration) -> Self {
            self.settings.time_to_live = Some(Some(time_to_live));
            self
        }

        /// Sets that messages have no time to live, unless they have one of their own. That is the default;
        /// [`create_or_update`](Self::create_or_update) takes a time to live away with it.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let handle = ", $builder, ".without_time_to_live().create_or_update()?;")]
        /// assert_eq!(handle.settings()?.time_to_live, None);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn without_time_to_live(mut self) -> Self {
            self.settings.time_to_live = Some(None);
            self
        }

        /// Sets whether messages with one key are delivered in order and one at a time: `false` by default.
        ///
        /// The next message of a key is delivered when the one before is acked, moved to the dead letters or
        /// deleted, and not while that one waits for its retry. If the one before is deleted while it is on lease,
        /// the next one is delivered when that lease has ended. Messages with other keys and messages without
        /// a key do not wait for it.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".ordered_by_key(true).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn ordered_by_key(mut self, is_ordered: bool) -> Self {
            self.settings.ordered_by_key = Some(is_ordered);
            self
        }

        /// Sets whether only one consumer receives at a time, while others stand by: `false` by default. For
        /// cases where the order of handling matters, or where only one may call another system.
        ///
        /// A consumer is an opened handle with all its clones. The first consumer that receives is active
        /// until its handles and its deliveries are dropped. Then the consumer that has waited longest takes
        /// over. With [`Delivery::fencing_token`](crate::Delivery::fencing_token) other systems tell an old
        /// consumer from a new one.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let handle = ", $builder, ".single_active_consumer(true).create()?;")]
        /// assert!(handle.try_receive()?.is_none());
        /// assert!(handle.is_active()?);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn single_active_consumer(mut self, is_exclusive: bool) -> Self {
            self.settings.single_active_consumer = Some(is_exclusive);
            self
        }

        /// Sets whether nothing is delivered: `false` by default. Messages are taken as ever. The setting is durable.
        /// [`pause`](crate::Queue::pause) and [`resume`](crate::Queue::resume) of a handle change it, too. `create` leaves what
        /// exists as it is, paused or not; `create_or_update` changes it.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!("let handle = ", $builder, ".paused(true).create()?;")]
        /// assert!(handle.settings()?.paused);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn paused(mut self, is_paused: bool) -> Self {
            self.settings.paused = Some(is_paused);
            self
        }

        /// Sets how often a message is delivered at most: 1 or more. After the last failure the message moves
        /// to the dead letters. Without this setting and without
        /// [`dead_letter_queue`](Self::dead_letter_queue) there is no limit.
        ///
        /// A commit of its own counts each delivery before the handler sees it. So a delivery counts also
        /// if its handler ends the process.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".max_attempts(3).create()?;")]
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            self.settings.max_attempts = Some(attempts);
            self.settings.has_no_dead_letters = false;
            self
        }

        /// Sets the queue of the dead letters. It is created if it does not exist.
        ///
        /// A message moves there after [`max_attempts`](Self::max_attempts) deliveries (5 if that is not
        /// given), or when a handler [rejects](crate::Delivery::reject) it. The default name is the name of
        /// the queue and `.dead`; for a subscription, the name of its topic, a dot, its own name and `.dead`. If a
        /// queue of that name takes the dead letters of another already, `create` fails: two share a queue only if
        /// this setting names it.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".dead_letter_queue(\"failed\").create()?;")]
        /// assert_eq!(engine.queue("failed").open()?.depth()?, 0);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn dead_letter_queue(mut self, name: &str) -> Self {
            self.settings.dead_letter_queue = Some(name.to_owned());
            self.settings.has_no_dead_letters = false;
            self
        }

        /// Sets that no message becomes a dead letter: a message is delivered until it is acked. That is the
        /// default; [`create_or_update`](Self::create_or_update) takes the dead letters away with it. Letters
        /// that are dead already stay in their queue.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        #[doc = concat!($builder, ".max_attempts(3).create()?;")]
        #[doc = concat!("let handle = ", $builder, ".without_dead_letters().create_or_update()?;")]
        /// assert_eq!(handle.settings()?.max_attempts, None);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        pub fn without_dead_letters(mut self) -> Self {
            self.settings.max_attempts = None;
            self.settings.dead_letter_queue = None;
            self.settings.has_no_dead_letters = true;
            self
        }
    };
}
pub(crate) use delivery_settings;
