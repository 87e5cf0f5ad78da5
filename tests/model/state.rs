//! The plain model of a store: everything that an application can see of it, and nothing of its inside.

use std::{collections::BTreeMap, fmt, time::Duration};

use posthouse::{
    Browse, Browsed, DeadLetter, Delivery, Engine, HeaderFilter, Message, OwnedRecord, Start, sim,
};
#[cfg(feature = "cron")]
use posthouse::{MissedRuns, Target};

/// A message, as the engine's and the model's side record it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Msg {
    pub payload: Vec<u8>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub subject: Option<String>,
    pub priority: u8,
    /// Of a dead letter: its origin, its offset there, and how often it was tried.
    pub note: Option<(String, u64, u32)>,
}

impl fmt::Debug for Msg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.payload[..self.payload.len().min(12)]);
        let Msg { payload, key, headers, subject, priority, note } = self;
        let (key, headers) = (key.as_ref().map(|it| String::from_utf8_lossy(it)), headers.len());
        let bytes = payload.len();
        write!(
            f,
            "{text:?} ({bytes} bytes, key {key:?}, {headers} headers, subject {subject:?}, \
             priority {priority}, note {note:?})"
        )
    }
}

impl Msg {
    /// Message number `n`, of about this many bytes; some have a key, headers and a subject.
    pub fn number(n: u64, bytes: usize) -> Msg {
        let mut payload = format!("message {n} ").into_bytes();
        payload.resize(payload.len().max(bytes), b'a' + (n % 26) as u8);
        let key = (!n.is_multiple_of(3)).then(|| format!("key {}", n % 5).into_bytes());
        let header = |name: &str| (name.to_owned(), n.to_le_bytes().to_vec());
        let headers =
            if n.is_multiple_of(4) { vec![header("n"), header("ü")] } else { Vec::new() };
        let subject = SUBJECTS.get((n % 7) as usize).map(|it| (*it).to_owned());
        Msg { payload, key, headers, subject, priority: 0, note: None }
    }

    /// The same message with a priority; some have a higher one than others.
    pub fn urgent(mut self) -> Msg {
        self.priority = [1, 4, 9][self.payload.len() % 3];
        self
    }

    /// The same message with a time to live of its own, of so many moments. A header bears it, too.
    pub fn living(mut self, moments: u8) -> Msg {
        self.headers.push((LIFE_HEADER.to_owned(), vec![moments]));
        self
    }

    /// The same message with a short time to live.
    pub fn brief(self) -> Msg {
        self.living(BRIEF_MOMENTS)
    }

    /// The time to live of its own, if it has one.
    pub fn own_life(&self) -> Option<Duration> {
        let (_, moments) = self.headers.iter().find(|(name, _)| name == LIFE_HEADER)?;
        Some(MOMENT * u32::from(moments[0]))
    }

    pub fn message(&self) -> Message<'_> {
        let mut message = Message::new(&self.payload).priority(self.priority);
        if let Some(key) = &self.key {
            message = message.key(key);
        }
        for (name, value) in &self.headers {
            message = message.header(name.as_str(), value);
        }
        if let Some(subject) = &self.subject {
            message = message.subject(subject);
        }
        match self.own_life() {
            Some(life) => message.expire_after(life),
            None => message,
        }
    }

    /// The bytes that count against a limit in bytes.
    pub fn weight(&self) -> u64 {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let subject = self.subject.as_ref().map_or(0, String::len);
        (self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + headers + subject) as u64
    }

    pub fn of_delivery(delivery: &Delivery) -> Msg {
        let header = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
        Msg {
            payload: delivery.payload().to_vec(),
            key: delivery.key().map(<[u8]>::to_vec),
            headers: delivery.headers().map(header).collect(),
            subject: delivery.subject().map(str::to_owned),
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
            subject: browsed.subject().map(str::to_owned),
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
            subject: record.subject().map(str::to_owned),
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
    pub life: Untold<Life>,
}

/// The life of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    begin: u64,
    own: Option<Duration>,
    /// When it is over, if ever.
    end: Option<u64>,
}

impl Life {
    /// A life by its own time to live, and by that of the queue or subscription.
    fn new(begin: u64, own: Option<Duration>, limit: Option<Duration>) -> Life {
        let shortest = own.into_iter().chain(limit).min();
        Life { begin, own, end: shortest.map(|life| begin + life.as_millis() as u64) }
    }
}

impl Entry {
    /// A message that comes now. The time to live of a dead letter's own rests.
    pub fn new(msg: &Msg, now: u64, limit: Option<Duration>) -> Entry {
        let own = if msg.note.is_some() { None } else { msg.own_life() };
        let life = Untold(Life::new(now, own, limit));
        Entry { msg: msg.clone(), attempts: 0, waits: false, life }
    }

    /// When its life is over, if ever.
    pub fn end(&self) -> Option<u64> {
        self.life.0.end
    }
}

/// The time to live of a queue or a subscription changes. It counts for the messages that are there, too.
pub fn limit_lives(unacked: &mut Unacked, limit: Option<Duration>) {
    for Entry { life, .. } in unacked.values_mut() {
        life.0 = Life::new(life.0.begin, life.0.own, limit);
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
/// The queue that holds as many, and refuses more.
pub const REFUSING: &str = "queue 5";
/// The queue whose time to live is [`TIME_TO_LIVE`] at first, as that of [`RETRIED`] is. It has a limit in bytes.
pub const EXPIRING: &str = "queue 4";
/// A limit in bytes that is never reached: the tests need the sum only.
pub const BYTES_MAX: u64 = 1 << 40;
/// The step of the clock. Times to live and waits are whole numbers of it, so they end exactly. Leases are
/// not, so no lease ends at the very end of a step.
pub const MOMENT: Duration = Duration::from_millis(15_007);
/// The time to live of some queues.
pub const TIME_TO_LIVE: Duration = Duration::from_millis(45_021);
/// The time to live of many messages that have one of their own, in moments.
pub const BRIEF_MOMENTS: u8 = 2;
/// The header of messages with a time to live of their own.
const LIFE_HEADER: &str = "life";
/// The queue that holds the schedules.
pub const REGISTRY: &str = "posthouse.schedules";
/// The subjects that messages have. Some have none.
const SUBJECTS: [&str; 4] = ["a.b", "a.b.c", "a.c", "b"];
/// The subscription that has a filter from its creation on.
pub const FILTERED: &str = "subscription 2";
/// The stream that keeps so many of the newest records of each partition at first.
pub const RETAINING: &str = "stream 1";
pub const RECORDS_MAX: u64 = 12;
/// The group of that stream that has it keep what it has not read.
pub const SPARING: &str = "group 0";
/// The subscription that is ordered by key.
pub const ORDERED: &str = "subscription 1";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueState {
    pub next: u64,
    pub unacked: Unacked,
    /// The time to live of its messages, if they have one.
    pub time_to_live: Option<Duration>,
    /// Its limit in bytes. It is never reached: it is a setting that changes.
    pub max_bytes: Option<u64>,
    /// Whether one consumer is active at a time.
    pub is_exclusive: bool,
    /// Whether nothing is delivered.
    pub is_paused: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionState {
    pub unacked: Unacked,
    pub time_to_live: Option<Duration>,
    pub filter: FilterState,
    /// Whether nothing is delivered.
    pub is_paused: bool,
}

/// Which messages a subscription gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterState {
    pub patterns: Vec<String>,
    pub headers: Vec<HeaderFilter>,
}

impl FilterState {
    /// One of a few filters. Number 0 rejects nothing.
    pub fn number(n: u8) -> FilterState {
        let exists = HeaderFilter::Exists { name: "n".to_owned() };
        let prefix = HeaderFilter::Prefix { name: "n".to_owned(), prefix: vec![4] };
        let (patterns, headers): (&[&str], _) = match n % 7 {
            0 => (&[], vec![]),
            1 | 2 => (&["a.>"], vec![]),
            3 => (&["*.b", "b"], vec![]),
            // The name of a topic is one token.
            4 => (&["*"], vec![]),
            5 => (&[], vec![exists]),
            _ => (&["*.*.c", "a.b"], vec![exists, prefix]),
        };
        let mut headers = headers;
        headers.sort();
        FilterState { patterns: patterns.iter().map(|it| (*it).to_owned()).collect(), headers }
    }

    /// Whether a message of a topic passes it.
    pub fn admits(&self, topic: &str, message: &Msg) -> bool {
        fn matches(pattern: &[&str], subject: &[&str]) -> bool {
            match (pattern, subject) {
                ([], []) => true,
                ([">"], [_, ..]) => true,
                ([token, pattern @ ..], [same, subject @ ..]) => {
                    (*token == "*" || token == same) && matches(pattern, subject)
                }
                _ => false,
            }
        }
        let subject = message.subject.as_deref().unwrap_or(topic);
        let subject: Vec<&str> = subject.split('.').collect();
        let is_match = |pattern: &String| {
            let pattern: Vec<&str> = pattern.split('.').collect();
            matches(&pattern, &subject)
        };
        let is_met = |filter: &HeaderFilter| {
            message.headers.iter().any(|(name, value)| match filter {
                HeaderFilter::Exists { name: wanted } => name == wanted,
                HeaderFilter::Prefix { name: wanted, prefix } => {
                    name == wanted && value.starts_with(prefix)
                }
                other => panic!("{other:?} is none of the filters"),
            })
        };
        (self.patterns.is_empty() || self.patterns.iter().any(is_match))
            && self.headers.iter().all(is_met)
    }

    fn of(settings: posthouse::DeliverySettings) -> FilterState {
        FilterState { patterns: settings.patterns, headers: settings.header_filters }
    }
}

#[derive(Clone, Debug, Default)]
pub struct TopicState {
    pub next: u64,
    pub subscriptions: BTreeMap<String, SubscriptionState>,
    /// How many messages the topic retains for those who come late, if it retains some.
    pub retains: Option<u64>,
    /// What is retained; in the model, all that may be. `None` if it was not looked at: only who comes late sees it.
    pub retained: Option<Unacked>,
}

/// A limit that is never reached.
pub const RETAINED_ALL: u64 = 1 << 40;

impl PartialEq for TopicState {
    fn eq(&self, other: &TopicState) -> bool {
        let parts = |it: &TopicState| (it.next, it.retains);
        let is_retained = match (&self.retained, &other.retained) {
            (Some(ours), Some(theirs)) => {
                let (fewer, more) =
                    if ours.len() < theirs.len() { (ours, theirs) } else { (theirs, ours) };
                // What is beyond the limit may have left, from the oldest on.
                let first = fewer.keys().next().copied().unwrap_or(self.next);
                let within = self.next.saturating_sub(self.retains.unwrap_or(0));
                let kept = more.range(within..).next().map_or(self.next, |(offset, _)| *offset);
                first <= kept && more.range(first..).eq(fewer)
            }
            _ => true,
        };
        parts(self) == parts(other) && self.subscriptions == other.subscriptions && is_retained
    }
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
    /// How many records each partition keeps. Only [`RETAINING`] has a limit, and [`SPARING`] has it
    /// keep what it has not read.
    pub limit: Option<u64>,
}

/// A schedule.
#[cfg(feature = "cron")]
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleState {
    pub cron: String,
    pub missed: MissedRuns,
    pub target: Target,
    /// The time of day of its next run.
    pub next: u64,
    /// How often that run has failed.
    pub attempts: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub queues: BTreeMap<String, QueueState>,
    pub topics: BTreeMap<String, TopicState>,
    pub streams: BTreeMap<String, StreamState>,
    #[cfg(feature = "cron")]
    pub schedules: BTreeMap<String, ScheduleState>,
}

impl QueueState {
    pub fn send(&mut self, messages: &[Msg], now: u64) {
        for message in messages {
            self.unacked.insert(self.next, Entry::new(message, now, self.time_to_live));
            self.next += 1;
        }
    }
}

impl TopicState {
    /// Publishes messages to the topic of this name.
    pub fn publish(&mut self, name: &str, messages: &[Msg], now: u64) {
        for message in messages {
            for subscription in self.subscriptions.values_mut() {
                let SubscriptionState { unacked, time_to_live, filter, .. } = subscription;
                if filter.admits(name, message) {
                    unacked.insert(self.next, Entry::new(message, now, *time_to_live));
                }
            }
            if self.retains.is_some() {
                let retained = self.retained.get_or_insert_default();
                retained.insert(self.next, Entry::new(message, now, None));
            }
            self.next += 1;
        }
    }

    /// The topic retains so many messages from now on, or none.
    pub fn retain(&mut self, retains: Option<u64>) {
        if self.retains.is_none() || retains.is_none() {
            self.retained = Some(Unacked::new());
        }
        self.retains = retains;
    }

    /// What a subscription with a filter gets that comes now.
    pub fn late(&self, topic: &str, filter: &FilterState) -> Unacked {
        let retained = self.retained.iter().flatten();
        let matching = retained.filter(|(_, entry)| filter.admits(topic, &entry.msg));
        matching.map(|(offset, entry)| (*offset, entry.clone())).collect()
    }

    /// A message that only one subscription gets.
    pub fn publish_to(&mut self, subscription: &str, message: &Msg, now: u64) {
        let it = self.subscriptions.get_mut(subscription).expect("it was there");
        it.unacked.insert(self.next, Entry::new(message, now, it.time_to_live));
        self.next += 1;
    }
}

impl PartitionState {
    pub fn trim(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.records = self.records.split_off(&self.start);
    }
}

impl StreamState {
    fn may_become(&self, found: &StreamState) -> bool {
        let pairs = self.partitions.iter().zip(&found.partitions);
        let may = |(it, found): (&PartitionState, &PartitionState)| {
            it.next == found.next && it.records.range(found.start..).eq(&found.records)
        };
        let leaves = |(n, found): (usize, &PartitionState)| {
            (self.partitions[n].start..=self.may_leave(n)).contains(&found.start)
        };
        let is_alike = (&self.groups, self.limit, self.partitions.len())
            == (&found.groups, found.limit, found.partitions.len());
        is_alike && pairs.into_iter().all(may) && found.partitions.iter().enumerate().all(leaves)
    }

    /// The offset before which records of a partition may leave by the limit.
    pub fn may_leave(&self, partition: usize) -> u64 {
        let PartitionState { start, next, .. } = self.partitions[partition];
        let beyond = self.limit.map_or(0, |limit| next.saturating_sub(limit));
        let unread = self.groups.get(SPARING).map_or(u64::MAX, |it| it[partition]);
        beyond.min(unread).max(start)
    }

    /// Where a group begins.
    pub fn starts(&self) -> Vec<u64> {
        self.partitions.iter().map(|partition| partition.start).collect()
    }

    /// Returns the partition and the offset.
    pub fn append(&mut self, message: &Msg) -> (u32, u64) {
        let count = self.partitions.len() as u32;
        let number = posthouse::partition_of(message.key.as_deref().unwrap(), count);
        (number, self.append_to(number, message))
    }

    /// Returns the offset.
    pub fn append_to(&mut self, number: u32, message: &Msg) -> u64 {
        let partition = &mut self.partitions[number as usize];
        let offset = partition.next;
        partition.records.insert(offset, message.clone());
        partition.next += 1;
        offset
    }
}

impl State {
    /// This state, if checkpoints have let records leave [`RETAINING`] as in `found`. More than its limit lets go stay.
    pub fn retained_as(&self, found: &State) -> State {
        let mut state = self.clone();
        let streams = (state.streams.get_mut(RETAINING), found.streams.get(RETAINING));
        if let (Some(stream), Some(found)) = streams {
            for (n, found) in found.partitions.iter().enumerate() {
                let most = stream.may_leave(n);
                let partition = &mut stream.partitions[n];
                partition.trim(found.start.clamp(partition.start, most));
            }
        }
        state
    }

    /// Whether `found` is this state, but for records that checkpoints may have let leave [`RETAINING`].
    pub fn may_become(&self, found: &State) -> bool {
        let is_retained = |(name, stream): (&String, &StreamState)| {
            let found = found.streams.get(name);
            name == RETAINING && found.is_some_and(|found| stream.may_become(found))
        };
        let is_same = |it: (&String, &StreamState)| found.streams.get(it.0) == Some(it.1);
        let streams = self.streams.len() == found.streams.len()
            && self.streams.iter().all(|it| is_same(it) || is_retained(it));
        #[cfg(feature = "cron")]
        let streams = streams && self.schedules == found.schedules;
        streams && self.queues == found.queues && self.topics == found.topics
    }

    /// The last record that left [`RETAINING`], over all partitions.
    pub fn has_left(&self) -> u64 {
        let stream = self.streams.get(RETAINING);
        stream.map_or(0, |it| it.partitions.iter().map(|partition| partition.start).sum())
    }

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
    // What has expired is to be seen.
    sim::still(|| dump_still(engine, probe, all_held))
}

fn dump_still(
    engine: &Engine,
    probe: bool,
    all_held: &mut Vec<Delivery>,
) -> posthouse::Result<State> {
    let mut state = State::default();
    for name in engine.queues()? {
        let queue = engine.queue(&name).open()?;
        if name == REGISTRY {
            #[cfg(feature = "cron")]
            {
                state.schedules = dump_schedules(engine)?;
                let there = state.schedules.len() as u64;
                assert_eq!(queue.depth()?, there, "one message for each schedule");
            }
            continue;
        }
        let unacked = all(queue.browse()?)?;
        assert_eq!(queue.depth()?, unacked.len() as u64, "depth of {name}");
        if let Some(bytes) = queue.bytes()? {
            assert_eq!(bytes, unacked.values().map(|it| it.msg.weight()).sum(), "bytes of {name}");
        }
        let settings = queue.settings()?;
        let time_to_live = settings.time_to_live;
        let (max_bytes, is_exclusive) = (settings.max_bytes, settings.single_active_consumer);
        let is_paused = settings.paused;
        // Receiving would count attempts there. A message on lease frees no capacity here. A message whose
        // time to live is over would be dropped.
        let can_expire = time_to_live.is_some() || has_lives(&unacked);
        if ![RETRIED, BOUNDED, REFUSING].contains(&&*name) && !can_expire && !is_paused {
            let held = drain(&unacked, || queue.receive_batch(7, Duration::ZERO))?;
            all_held.extend(held);
        }
        if probe && name == REFUSING {
            queue.purge()?;
        }
        let next = if probe { queue.send("probe")?.0 } else { 0 };
        let queue = QueueState { next, unacked, time_to_live, max_bytes, is_exclusive, is_paused };
        state.queues.insert(name, queue);
    }
    for name in engine.topics()? {
        let topic = engine.topic(&name).open()?;
        let mut subscriptions = BTreeMap::new();
        for name in topic.subscriptions()? {
            let subscription = topic.subscription(&name).open()?;
            let unacked = all(subscription.browse()?)?;
            let settings = subscription.settings()?;
            let (time_to_live, is_paused) = (settings.time_to_live, settings.paused);
            // Of the messages with one key, only the first can be received.
            if name != ORDERED && time_to_live.is_none() && !has_lives(&unacked) && !is_paused {
                let held = drain(&unacked, || subscription.receive_batch(7, Duration::ZERO))?;
                all_held.extend(held);
            }
            assert_eq!(subscription.depth()?, unacked.len() as u64, "depth of {name}");
            let filter = FilterState::of(settings);
            let subscription = SubscriptionState { unacked, time_to_live, filter, is_paused };
            subscriptions.insert(name, subscription);
        }
        let retains = topic.settings()?.retain_messages;
        let mut retained = None;
        if probe && retains.is_some() {
            let late = topic.subscription("who comes late").start(Start::Earliest).create()?;
            retained = Some(all(late.browse()?)?);
        }
        let next = if probe { topic.publish("probe")?.0 } else { 0 };
        state.topics.insert(name, TopicState { next, subscriptions, retains, retained });
    }
    for name in engine.streams()? {
        state.streams.insert(name.clone(), dump_stream(engine, &name)?);
    }
    Ok(state)
}

fn has_lives(unacked: &Unacked) -> bool {
    unacked.values().any(|entry| entry.msg.own_life().is_some())
}

/// All schedules.
#[cfg(feature = "cron")]
pub fn dump_schedules(engine: &Engine) -> posthouse::Result<BTreeMap<String, ScheduleState>> {
    let state = |schedule: posthouse::Schedule| {
        let state = ScheduleState {
            cron: schedule.cron().to_owned(),
            missed: schedule.missed_runs(),
            target: schedule.target().clone(),
            next: schedule.next_run().0,
            attempts: schedule.failed_attempts(),
        };
        (schedule.name().to_owned(), state)
    };
    Ok(engine.schedules()?.into_iter().map(state).collect())
}

fn dump_stream(engine: &Engine, name: &str) -> posthouse::Result<StreamState> {
    let stream = engine.stream(name).open()?;
    let mut state = StreamState { limit: stream.settings()?.max_records, ..StreamState::default() };
    for number in 0..stream.partitions() {
        let partition = stream.partition(number)?;
        let mut records = BTreeMap::new();
        for record in partition.reader(Start::Earliest)? {
            let record = record?;
            assert_eq!(record.partition(), number);
            records.insert(record.offset().0, Msg::of_record(&record));
        }
        let back = partition.reader_back(Start::Latest)?;
        let back = back.map(|it| it.map(|it| (it.offset().0, Msg::of_record(&it))));
        let back = back.collect::<posthouse::Result<Vec<_>>>()?;
        let is_same = back.iter().map(|(n, msg)| (n, msg)).eq(records.iter().rev());
        assert!(
            is_same,
            "partition {number} of {name:?}, backwards: {back:?}, forwards: {records:?}"
        );
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
        let (waits, life) = (browsed.due().is_some(), Untold::default());
        Ok((browsed.offset().0, Entry { msg, attempts, waits, life }))
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
