//! Messages that an application sends: a payload with an optional key, headers and timestamp.

mod bytes;
mod checks;

use std::{borrow::Cow, time::Duration};

pub use bytes::IntoBytes;

use crate::ids::{Due, Timestamp};

/// A message to send, publish or append.
///
/// A message borrows its parts where it can, so that sending copies a payload once: into the journal. Text
/// and bytes convert into a message: `queue.send("hello")` works. A [`Delivery`](crate::Delivery) and a
/// [`Record`](crate::Record) convert, too, to send them on.
///
/// ```
/// use posthouse::Message;
///
/// let order = Message::new("{\"total\": 1999}")
///     .key("customer-17")
///     .header("content-type", "application/json");
/// assert_eq!(order.payload(), b"{\"total\": 1999}");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    payload: Cow<'a, [u8]>,
    key: Option<Cow<'a, [u8]>>,
    headers: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
    subject: Option<Cow<'a, str>>,
    timestamp: Option<Timestamp>,
    /// The parts that few messages have.
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    delay: Option<Delay>,
    time_to_live_ms: Option<u64>,
    priority: u8,
    /// The engine's note about it, in the stored form.
    note: Option<Vec<u8>>,
    /// Whether the engine moves it. The engine accepted it before, so present limits do not count.
    is_moved: bool,
    /// What it keeps when it is moved from another queue.
    kept: Option<Kept>,
}

/// The attempts and the due time of a message that is moved as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub attempts: u32,
    pub due: Due,
}

/// When a message is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// This number of milliseconds after its commit.
    After(u64),
    At(Timestamp),
    /// Of a message that the engine writes: a due time of either kind, which may have come.
    Until(Due),
}

impl<'a> Message<'a> {
    /// A message with this payload, without a key and headers.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// assert_eq!(Message::new("order 1"), Message::new(b"order 1"));
    /// assert_eq!(Message::new(vec![1, 2, 3]).payload(), [1, 2, 3]);
    /// ```
    pub fn new(payload: impl IntoBytes<'a>) -> Message<'a> {
        Message { payload: payload.into_bytes(), ..Message::default() }
    }

    /// A stored message, to be sent on.
    pub(crate) fn borrowed(
        payload: &'a [u8],
        key: Option<&'a [u8]>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Message<'a> {
        let headers = headers.map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value)));
        Message {
            payload: Cow::Borrowed(payload),
            key: key.map(Cow::Borrowed),
            headers: headers.collect(),
            subject: None,
            timestamp: None,
            more: None,
        }
    }

    /// The same message with the subject of a stored one, if that has one.
    pub(crate) fn with_subject(self, subject: Option<&'a str>) -> Message<'a> {
        Message { subject: subject.map(Cow::Borrowed), ..self }
    }

    /// Sets the key. A stream puts all messages with one key into one partition, in order.
    ///
    /// Queues use it where they are [ordered by key](crate::QueueBuilder::ordered_by_key).
    ///
    /// ```
    /// use posthouse::{Message, partition_of};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").partitions(8).create()?;
    /// let position = history.append(Message::new("created").key("customer-17"))?;
    /// assert_eq!(position.partition, partition_of(b"customer-17", 8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn key(mut self, key: impl IntoBytes<'a>) -> Message<'a> {
        self.key = Some(key.into_bytes());
        self
    }

    /// Adds a header. Headers keep their order, and several may have one name. An empty name is an error when
    /// the message is sent.
    ///
    /// ```
    /// let order = posthouse::Message::new("order 1").header("region", "eu").header("trace", "17");
    /// assert_eq!(order.headers().count(), 2);
    /// ```
    #[must_use]
    pub fn header(
        mut self,
        name: impl Into<Cow<'a, str>>,
        value: impl IntoBytes<'a>,
    ) -> Message<'a> {
        self.headers.push((name.into(), value.into_bytes()));
        self
    }

    /// Sets the subject under which a topic publishes the message: tokens with dots between them, such as
    /// `orders.eu.created`.
    ///
    /// Subscriptions choose subjects by [patterns](crate::SubscriptionBuilder::pattern). A message without a subject is
    /// matched by the name of its topic. The subject stays with the message wherever it goes, also in queues and streams,
    /// which do not look at it.
    ///
    /// A subject has 1 to 255 bytes and at most 32 tokens. A token is not empty, and has no space, no control character,
    /// no `*` and no `>`. Anything else is an error when the message is sent.
    ///
    /// ```
    /// use posthouse::{ErrorKind, Message};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let orders = engine.topic("orders").create()?;
    /// let europe = orders.subscription("europe").pattern("orders.eu.>").create()?;
    /// orders.publish(Message::new("order 1").subject("orders.eu.created"))?;
    /// orders.publish(Message::new("order 2").subject("orders.us.created"))?;
    /// assert_eq!(europe.depth()?, 1);
    /// let delivery = europe.try_receive()?.expect("it was published");
    /// assert_eq!(delivery.subject(), Some("orders.eu.created"));
    ///
    /// let refused = orders.publish(Message::new("order 3").subject("orders.*"));
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput { field: "subject" });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn subject(mut self, subject: impl Into<Cow<'a, str>>) -> Message<'a> {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the timestamp, for events of another time. Without it a message has the time of its commit.
    ///
    /// ```
    /// use posthouse::{Message, Timestamp};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append(Message::new("created").timestamp(Timestamp(1_000)))?;
    /// let mut reader = history.reader(posthouse::Start::Earliest)?;
    /// assert_eq!(reader.try_read()?.expect("it was appended").timestamp(), Timestamp(1_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Message<'a> {
        self.timestamp = Some(timestamp);
        self
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Delays the delivery: a queue delivers the message no earlier than `delay` after its commit. Only for
    /// queues.
    ///
    /// A delay goes on evenly, however the clock is set, also while the engine is closed and, on Linux, while the machine sleeps.
    /// Parts of a millisecond are rounded up. A delay of 0 delivers at once, also where the queue has a delay of its own.
    /// A delay of more than a year is an error when the message is sent. See also [`QueueBuilder::delay`](crate::QueueBuilder::delay).
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reminders = engine.queue("reminders").create()?;
    /// reminders.send(Message::new("order 1").deliver_after(Duration::from_secs(3600)))?;
    /// assert!(reminders.try_receive()?.is_none());
    /// assert_eq!(reminders.delayed()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn deliver_after(mut self, delay: Duration) -> Message<'a> {
        let ms = u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.more().delay = Some(Delay::After(ms));
        self
    }

    /// Delays the delivery until a time of day. Only for queues.
    ///
    /// If the clock is set, the delivery follows it within a second. See also `docs/TIME.md`.
    ///
    /// A time in the past delivers at once. A time before the year 2000 or after 9999 is a mistake, such as seconds
    /// in the place of milliseconds: it is an error when the message is sent.
    ///
    /// ```
    /// use posthouse::{ErrorKind, Message, Timestamp};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let reminders = engine.queue("reminders").create()?;
    /// let in_an_hour = Timestamp(Timestamp::now().0 + 3_600_000);
    /// reminders.send(Message::new("order 1").deliver_at(in_an_hour))?;
    /// assert_eq!(reminders.delayed()?, 1);
    ///
    /// reminders.send(Message::new("order 2").deliver_at(Timestamp(Timestamp::now().0 - 1000)))?;
    /// assert_eq!(reminders.try_receive()?.expect("it is due").payload(), b"order 2");
    ///
    /// let seconds = Timestamp(Timestamp::now().0 / 1000);
    /// let refused = reminders.send(Message::new("order 3").deliver_at(seconds));
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput { field: "deliver_at" });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn deliver_at(mut self, at: Timestamp) -> Message<'a> {
        self.more().delay = Some(Delay::At(at));
        self
    }

    /// Delays a message of the engine's own.
    pub(crate) fn deliver_when(mut self, due: Due) -> Message<'a> {
        self.more().delay = Some(Delay::Until(due));
        self
    }

    /// Sets the message's time to live, from its timestamp on. Not for streams.
    ///
    /// After that time a queue or a subscription drops the message, or moves it to its dead letters, within about a second
    /// and by itself. Until then it counts as any other. A time of 0 is an error when the message is sent, and so is one
    /// that ends before it is due. See also [`time_to_live`](crate::QueueBuilder::time_to_live).
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let offers = engine.queue("offers").create()?;
    /// offers.send(Message::new("today only").expire_after(Duration::from_millis(1)))?;
    /// std::thread::sleep(Duration::from_millis(50));
    /// assert!(offers.try_receive()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn expire_after(mut self, life: Duration) -> Message<'a> {
        let ms = u64::try_from(life.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.more().time_to_live_ms = Some(ms);
        self
    }

    /// Sets the priority, from 0 to 9: a queue delivers messages of higher priority first. The default is 0.
    ///
    /// Only for queues, and not for queues that are ordered by key. A priority above 9 is an error when the
    /// message is sent.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("a gift")?;
    /// payments.send(Message::new("a rent").priority(9))?;
    /// assert_eq!(payments.try_receive()?.expect("it was sent").payload(), b"a rent");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Message<'a> {
        if priority > 0 || self.has_more() {
            self.more().priority = priority;
        }
        self
    }

    #[inline]
    pub(crate) fn priority_set(&self) -> u8 {
        self.more.as_ref().map_or(0, |more| more.priority)
    }

    /// Whether it has a delay, a time to live, a priority or a note.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        self.more.is_some()
    }

    /// Whether it has only a payload.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        let Message { payload: _, key, headers, subject, timestamp, more } = self;
        key.is_none()
            && headers.is_empty()
            && subject.is_none()
            && timestamp.is_none()
            && more.is_none()
    }

    /// Its time to live in milliseconds.
    #[inline]
    pub(crate) fn time_to_live_ms(&self) -> Option<u64> {
        self.more.as_ref().and_then(|more| more.time_to_live_ms)
    }

    #[inline]
    pub(crate) fn delay(&self) -> Option<Delay> {
        self.more.as_ref().and_then(|more| more.delay)
    }

    /// Adds a note, which is stored with the message. The headers do not show it.
    pub(crate) fn noting(mut self, note: Vec<u8>) -> Message<'a> {
        self.more().note = Some(note);
        self.more().is_moved = true;
        self
    }

    /// Marks a message that the engine moves: present limits do not count.
    pub(crate) fn moved(mut self) -> Message<'a> {
        self.more().is_moved = true;
        self
    }

    /// A message that is moved as it is, with its attempts and its due time.
    pub(crate) fn keeping(mut self, kept: Kept) -> Message<'a> {
        self.more().kept = Some(kept);
        self.moved()
    }

    pub(crate) fn kept(&self) -> Option<Kept> {
        self.more.as_ref().and_then(|more| more.kept)
    }

    pub(crate) fn is_moved(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.is_moved)
    }

    /// The note.
    pub(crate) fn note(&self) -> Option<&[u8]> {
        self.more.as_ref().and_then(|more| more.note.as_deref())
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The key, if one was set.
    #[must_use]
    pub fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The headers, in the order in which they were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The subject, if one was set.
    #[must_use]
    #[inline]
    pub fn subject_set(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The timestamp, if one was set.
    #[must_use]
    pub fn timestamp_set(&self) -> Option<Timestamp> {
        self.timestamp
    }

    /// Copies all borrowed parts, so that the message can live on its own.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// fn greeting(name: &str) -> Message<'static> {
    ///     Message::new(&format!("hello {name}")).into_owned()
    /// }
    /// assert_eq!(greeting("world").payload(), b"hello world");
    /// ```
    #[must_use]
    pub fn into_owned(self) -> Message<'static> {
        let own = |bytes: Cow<'a, [u8]>| Cow::Owned(bytes.into_owned());
        Message {
            payload: own(self.payload),
            key: self.key.map(own),
            headers: self
                .headers
                .into_iter()
                .map(|(name, value)| (Cow::Owned(name.into_owned()), own(value)))
                .collect(),
            subject: self.subject.map(|subject| Cow::Owned(subject.into_owned())),
            timestamp: self.timestamp,
            more: self.more,
        }
    }
}

/// Borrows a message, to send it to several places.
impl<'a> From<&'a Message<'_>> for Message<'a> {
    fn from(message: &'a Message<'_>) -> Message<'a> {
        Message {
            payload: Cow::Borrowed(&message.payload),
            key: message.key.as_deref().map(Cow::Borrowed),
            headers: message
                .headers
                .iter()
                .map(|(name, value)| (Cow::Borrowed(&**name), Cow::Borrowed(&**value)))
                .collect(),
            subject: message.subject.as_deref().map(Cow::Borrowed),
            timestamp: message.timestamp,
            more: message.more.clone(),
        }
    }
}
