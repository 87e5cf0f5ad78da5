//! The plain model of a store: everything that an application can see of it, and nothing of its inside.

use std::{collections::BTreeMap, fmt, time::Duration};

use posthouse::{
    Browse, Browsed, DeadLetter, Delivery, Engine, ErrorKind, Message, OwnedRecord, Start,
};

/// A message, as the engine's and the model's side record it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Msg {
    pub payload: Vec<u8>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub priority: u8,
    /// Of a dead letter: its origin, its offset there, and how often it was tried.
    pub note: Option<(String, u64, u32)>,
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.payload[..self.payload.len().min(12)]);
        let Msg { payload, key, headers, priority, note } = self;
        let (key, headers) = (key.as_ref().map(|it| String::from_utf8_lossy(it)), headers.len());
        let bytes = payload.len();
        write!(
            f,
            "{text:?} ({bytes} bytes, key {key:?}, {headers} headers, priority {priority}, note {note:?})"
        )
    }
}

impl Msg {
    /// Message number `n`, of about this many bytes; some have a key and headers.
    pub fn number(n: u64, bytes: usize) -> Msg {
        let mut payload = format!("message {n} ").into_bytes();
        payload.resize(payload.len().max(bytes), b'a' + (n % 26) as u8);
        let key = (!n.is_multiple_of(3)).then(|| format!("key {}", n % 5).into_bytes());
        let header = |name: &str| (name.to_owned(), n.to_le_bytes().to_vec());
        let headers =
            if n.is_multiple_of(4) { vec![header("n"), header("ü")] } else { Vec::new() };
        Msg { payload, key, headers, priority: 0, note: None }
    }

    /// The same message with a priority; some have a higher one than others.
    pub fn urgent(mut self) -> Msg {
        self.priority = [1, 4, 9][self.payload.len() % 3];
        self
    }

    /// The same message with a header that marks a short time to live.
    pub fn brief(mut self) -> Msg {
        self.headers.push((BRIEF_HEADER.to_owned(), Vec::new()));
        self
    }

    pub fn is_brief(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == BRIEF_HEADER)
    }

    pub fn message(&self) -> Message<'_> {
        let mut message = Message::new(&self.payload).priority(self.priority);
        if let Some(key) = &self.key {
            message = message.key(key);
        }
        for (name, value) in &self.headers {
            message = message.header(name.as_str(), value);
        }
        if self.is_brief() { message.expire_after(BRIEF) } else { message }
    }

    /// The bytes that count against a limit in bytes.
    pub fn weight(&self) -> u64 {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        (self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + headers) as u64
    }

    pub fn of_delivery(delivery: &Delivery) -> Msg {
        let header = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        Msg {
            payload: delivery.payload().to_vec(),
            key: delivery.key().map(<[u8]>::to_vec),
            headers: delivery.headers().map(header).collect(),
            priority: delivery.priority(),
            note: delivery.dead_letter().unwrap().map(noted),
        }
    }

    fn of_browsed(browsed: &Browsed) -> Msg {
        let header = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        Msg {
            payload: browsed.payload().to_vec(),
            key: browsed.key().map(<[u8]>::to_vec),
            headers: browsed.headers().map(header).collect(),
            priority: browsed.priority(),
            note: browsed.dead_letter().unwrap().map(noted),
        }
    }

    fn of_record(record: &OwnedRecord) -> Msg {
        let header = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        Msg {
            payload: record.payload().to_vec(),
            key: record.key().map(<[u8]>::to_vec),
            headers: record.headers().map(header).collect(),
            priority: 0,
            note: None,
        }
    }
}

fn noted(letter: DeadLetter) -> (String, u64, u32) {
    (letter.origin, letter.offset.0, letter.attempts)
}

/// A message that is not acked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub msg: Msg,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether it was delayed. It may be due by now.
    pub waits: bool,
    /// When its time to live is over, if ever.
    pub ends: Untold<Option<u64>>,
}

impl Entry {
    pub fn new(msg: &Msg, ends: Option<u64>) -> Entry {
        Entry { msg: msg.clone(), attempts: 0, waits: false, ends: Untold(ends) }
    }
}

/// What the model knows and the engine does not show. It makes no difference between two states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Untold<T>(pub T);

impl<T> PartialEq for Untold<T> {
    fn eq(&self, _: &Untold<T>) -> bool {
        true
    }
}

impl<T> Eq for Untold<T> {}

/// The messages that one consumer has not acked.
pub type Unacked = BTreeMap<u64, Entry>;

/// How often a message of [`RETRIED`] is delivered before it is moved to [`DEAD`].
pub const ATTEMPTS_MAX: u32 = 2;
/// The queue with a limit of attempts.
pub const RETRIED: &str = "queue 1";
/// Its dead letters.
pub const DEAD: &str = "queue 1.dead";
/// The queue that holds at most this many messages, and drops its oldest for more.
pub const BOUNDED: &str = "queue 3";
pub const MESSAGES_MAX: u64 = 10;
/// The queue whose time to live is [`TIME_TO_LIVE`], as that of [`RETRIED`] is. It has a limit in bytes.
pub const EXPIRING: &str = "queue 4";
/// A limit in bytes that is never reached: the tests need the sum only.
pub const BYTES_MAX: u64 = 1 << 40;
/// The time to live of some queues.
pub const TIME_TO_LIVE: Duration = Duration::from_millis(45_021);
/// The time to live of messages that have one of their own.
pub const BRIEF: Duration = Duration::from_millis(30_014);
/// The header of such messages.
const BRIEF_HEADER: &str = "brief";
/// The subscription that is ordered by key.
pub const ORDERED: &str = "subscription 1";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueState {
    pub next: u64,
    pub unacked: Unacked,
    /// The time to live of its messages, if they have one.
    pub time_to_live: Untold<Option<Duration>>,
    /// Its limit in bytes. It is never reached: it is a setting that changes.
    pub max_bytes: Option<u64>,
    /// Whether one consumer is active at a time.
    pub is_exclusive: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicState {
    pub next: u64,
    pub subscriptions: BTreeMap<String, Unacked>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionState {
    pub start: u64,
    pub records: BTreeMap<u64, Msg>,
    pub next: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamState {
    pub partitions: Vec<PartitionState>,
    pub groups: BTreeMap<String, Vec<u64>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub queues: BTreeMap<String, QueueState>,
    pub topics: BTreeMap<String, TopicState>,
    pub streams: BTreeMap<String, StreamState>,
}

impl QueueState {
    pub fn with_time_to_live(time_to_live: Option<Duration>) -> QueueState {
        QueueState { time_to_live: Untold(time_to_live), ..QueueState::default() }
    }

    /// Sends messages without a time to live of their own.
    pub fn send(&mut self, messages: &[Msg], now: u64) {
        self.send_with_time_to_live(messages, None, now);
    }

    /// Sends messages with a time to live.
    pub fn send_with_time_to_live(
        &mut self,
        messages: &[Msg],
        time_to_live: Option<Duration>,
        now: u64,
    ) {
        let ends = end_of(time_to_live.into_iter().chain(self.time_to_live.0).min(), now);
        for message in messages {
            self.unacked.insert(self.next, Entry::new(message, ends));
            self.next += 1;
        }
    }
}

/// When a time to live that starts now is over.
fn end_of(time_to_live: Option<Duration>, now: u64) -> Option<u64> {
    time_to_live.map(|time_to_live| now + time_to_live.as_millis() as u64)
}

impl TopicState {
    pub fn publish(&mut self, messages: &[Msg]) {
        self.publish_with_time_to_live(messages, None, 0);
    }

    /// Publishes messages with a time to live.
    pub fn publish_with_time_to_live(
        &mut self,
        messages: &[Msg],
        time_to_live: Option<Duration>,
        now: u64,
    ) {
        let ends = end_of(time_to_live, now);
        for message in messages {
            for unacked in self.subscriptions.values_mut() {
                unacked.insert(self.next, Entry::new(message, ends));
            }
            self.next += 1;
        }
    }
}

impl StreamState {
    /// Returns the partition and the offset.
    pub fn append(&mut self, message: &Msg) -> (u32, u64) {
        let count = self.partitions.len() as u32;
        let number = posthouse::partition_of(message.key.as_deref().unwrap(), count);
        let partition = &mut self.partitions[number as usize];
        let offset = partition.next;
        partition.records.insert(offset, message.clone());
        partition.next += 1;
        (number, offset)
    }
}

impl State {
    /// This state, as [`look`] shows it.
    pub fn looked_at(&self) -> State {
        let mut state = self.clone();
        state.queues.values_mut().for_each(|queue| queue.next = 0);
        state.topics.values_mut().for_each(|topic| topic.next = 0);
        state
    }
}

/// Everything that an engine shows. Looking changes the engine: ask a copy.
pub fn dump(engine: &Engine) -> posthouse::Result<State> {
    dump_and(engine, true, &mut Vec::new())
}

/// Everything that an engine shows without being changed, as long as the deliveries are held. Only the next
/// offsets of queues and topics are missing; they are 0 here.
pub fn look(engine: &Engine) -> posthouse::Result<(State, Vec<Delivery>)> {
    let mut held = Vec::new();
    let state = dump_and(engine, false, &mut held)?;
    Ok((state, held))
}

fn dump_and(
    engine: &Engine,
    probe: bool,
    all_held: &mut Vec<Delivery>,
) -> posthouse::Result<State> {
    let mut state = State::default();
    for name in engine.queues()? {
        let queue = engine.queue(&name).open()?;
        let unacked = all(queue.browse()?)?;
        assert_eq!(queue.depth()?, unacked.len() as u64, "depth of {name}");
        if let Some(bytes) = queue.bytes()? {
            assert_eq!(bytes, unacked.values().map(|it| it.msg.weight()).sum(), "bytes of {name}");
        }
        // Receiving would count attempts there. A message on lease frees no capacity here. A message whose
        // time to live is over would be dropped.
        let can_expire = has_time_to_live(engine, &name)? || has_brief(&unacked);
        if name != RETRIED && name != BOUNDED && !can_expire {
            let held = drain(&unacked, || queue.receive_batch(7, Duration::ZERO))?;
            all_held.extend(held);
        }
        let next = if probe { queue.send("probe")?.0 } else { 0 };
        let settings = queue.settings()?;
        let (max_bytes, is_exclusive) = (settings.max_bytes, settings.single_active_consumer);
        let time_to_live = Untold(None);
        let queue = QueueState { next, unacked, time_to_live, max_bytes, is_exclusive };
        state.queues.insert(name, queue);
    }
    for name in engine.topics()? {
        let topic = engine.topic(&name).open()?;
        let mut subscriptions = BTreeMap::new();
        for name in topic.subscriptions()? {
            let subscription = topic.subscription(&name).open()?;
            let unacked = all(subscription.browse()?)?;
            // Of the messages with one key, only the first can be received.
            if name != ORDERED && !has_brief(&unacked) {
                let held = drain(&unacked, || subscription.receive_batch(7, Duration::ZERO))?;
                all_held.extend(held);
            }
            assert_eq!(subscription.depth()?, unacked.len() as u64, "depth of {name}");
            subscriptions.insert(name, unacked);
        }
        let next = if probe { topic.publish("probe")?.0 } else { 0 };
        state.topics.insert(name, TopicState { next, subscriptions });
    }
    for name in engine.streams()? {
        state.streams.insert(name.clone(), dump_stream(engine, &name)?);
    }
    Ok(state)
}

/// Whether the time to live of an existing queue is [`TIME_TO_LIVE`].
fn has_time_to_live(engine: &Engine, name: &str) -> posthouse::Result<bool> {
    match engine.queue(name).time_to_live(TIME_TO_LIVE).create() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn has_brief(unacked: &Unacked) -> bool {
    unacked.values().any(|entry| entry.msg.is_brief())
}

fn dump_stream(engine: &Engine, name: &str) -> posthouse::Result<StreamState> {
    let stream = engine.stream(name).open()?;
    let mut state = StreamState::default();
    for number in 0..stream.partitions() {
        let partition = stream.partition(number)?;
        let mut records = BTreeMap::new();
        for record in partition.reader(Start::Earliest)? {
            let record = record?;
            assert_eq!(record.partition(), number);
            records.insert(record.offset().0, Msg::of_record(&record));
        }
        let (start, next) = (partition.start()?.0, partition.end()?.0);
        state.partitions.push(PartitionState { start, records, next });
    }
    for name in stream.groups()? {
        let group = stream.group(&name).open()?;
        let committed = (0..stream.partitions()).map(|number| Ok(group.committed(number)?.0));
        state.groups.insert(name, committed.collect::<posthouse::Result<_>>()?);
    }
    Ok(state)
}

/// All messages that a consumer has not acked.
fn all(browse: Browse) -> posthouse::Result<Unacked> {
    let entry = |browsed: posthouse::Result<Browsed>| {
        let browsed = browsed?;
        let (msg, attempts) = (Msg::of_browsed(&browsed), browsed.attempts());
        let (waits, ends) = (browsed.due().is_some(), Untold(None));
        Ok((browsed.offset().0, Entry { msg, attempts, waits, ends }))
    };
    browse.map(entry).collect()
}

/// Receives all messages, and holds them: nothing is given back before all were received. They must be those
/// that were seen before, but for messages that wait.
fn drain(
    unacked: &Unacked,
    mut receive: impl FnMut() -> posthouse::Result<Vec<Delivery>>,
) -> posthouse::Result<Vec<Delivery>> {
    let mut held = Vec::new();
    loop {
        let batch = receive()?;
        if batch.is_empty() {
            break;
        }
        held.extend(batch);
    }
    let mut missing = unacked.clone();
    for delivery in &held {
        let offset = delivery.offset();
        let entry = missing.remove(&offset.0);
        let entry = entry.unwrap_or_else(|| panic!("message {offset} comes twice, or is acked"));
        assert_eq!(entry.msg, Msg::of_delivery(delivery));
        assert_eq!(entry.attempts + 1, delivery.attempt());
    }
    missing.retain(|_, entry| !entry.waits);
    assert!(missing.is_empty(), "these are not delivered: {missing:?}");
    Ok(held)
}
