//! The getters of a stored message, for all types that show one.

/// Makes the getters of a type with a field `stored`. Its method `look` returns that field. It is called where the
/// application looks into the message.
macro_rules! stored_message_getters {
    () => {
        /// The payload.
        #[must_use]
        pub fn payload(&self) -> &[u8] {
            self.look().payload()
        }

        /// The key, if the message has one.
        #[must_use]
        pub fn key(&self) -> Option<&[u8]> {
            self.look().key()
        }

        /// The headers, in the order in which they were added.
        #[must_use]
        pub fn headers(&self) -> Headers<'_> {
            self.look().headers()
        }

        /// The value of the first header with a name. `None` if no header has it.
        ///
        /// ```
        /// use posthouse::Message;
        ///
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// let payments = engine.queue("payments").create()?;
        /// payments.send(Message::new("order 1").header("region", "eu"))?;
        /// let message = payments.browse()?.next().expect("it was sent")?;
        /// assert_eq!(message.header("region"), Some(&b"eu"[..]));
        /// assert_eq!(payments.try_receive()?.expect("it was sent").header("trace"), None);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn header(&self, name: &str) -> Option<&[u8]> {
            self.headers().named(name)
        }

        /// The [subject](Message::subject) with which the message was published. `None` if its sender has set none:
        /// its topic has matched it by the topic's own name.
        ///
        /// ```
        /// use posthouse::Message;
        ///
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// let orders = engine.topic("orders").create()?;
        /// let all = orders.subscription("all").create()?;
        /// orders.publish(Message::new("order 1").subject("orders.eu"))?;
        /// orders.publish("order 2")?;
        /// assert_eq!(all.try_receive()?.expect("it was published").subject(), Some("orders.eu"));
        /// assert_eq!(all.try_receive()?.expect("it was published").subject(), None);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn subject(&self) -> Option<&str> {
            self.look().subject()
        }

        /// The time of the message's commit, or the [timestamp](Message::timestamp) that its sender has set.
        #[must_use]
        pub fn timestamp(&self) -> Timestamp {
            self.stored.timestamp()
        }

        /// The offset of the message in its queue or topic. It is the same at every delivery.
        #[must_use]
        pub fn offset(&self) -> Offset {
            self.stored.offset
        }

        /// The history of a dead letter: its queue or subscription, its attempts, and the reason. `None` if the
        /// message is no dead letter.
        ///
        /// ```
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// let payments = engine.queue("payments").max_attempts(1).create()?;
        /// payments.send("order 1")?;
        /// payments.try_receive()?.expect("it was sent").nack_because("the card has expired")?;
        ///
        /// let dead = engine.queue("payments.dead").open()?;
        /// let letter = dead.browse()?.next().expect("it was moved")?;
        /// let known = letter.dead_letter()?.expect("it is a dead letter");
        /// assert_eq!((&*known.origin, &*known.reason), ("payments", "the card has expired"));
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`Corrupt`](crate::ErrorKind::Corrupt) if its history cannot be read.
        pub fn dead_letter(&self) -> Result<Option<DeadLetter>> {
            self.look().dead_letter()
        }
    };
}
pub(crate) use stored_message_getters;
