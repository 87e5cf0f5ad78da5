//! A store that was written without faults, then damaged, then read.
//!
//! Whatever the damage is, the store is refused with a typed error that says where, or it shows one of the
//! states to which its commits have led. It never shows data that was not written, never a part of a commit,
//! and never panics. One flipped bit takes back at most one commit: the last one, if nothing behind it proves
//! that it was durable.

use std::{collections::BTreeMap, path::PathBuf};

use posthouse::{
    Backoff, Delivery, Engine, Error, ErrorKind, IoMode, Offset, Options, sim::SimDisk,
};

use super::{
    input::Input,
    model::{
        small_options,
        state::{
            Entry, Msg, PartitionState, QueueState, State, StreamState, SubscriptionState,
            TopicState, dump,
        },
    },
};

const OPERATIONS_MOST: usize = 60;

pub fn run(settings: u8, mut input: Input<'_>) {
    let io = if settings & 1 == 0 { IoMode::Map } else { IoMode::Calls };
    let damages = 1 + usize::from(settings >> 1) % 3;
    let marks: Vec<[u8; 5]> = (0..damages).map(|_| std::array::from_fn(|_| input.byte())).collect();
    let mut story = Story::begin(io);
    for _ in 0..OPERATIONS_MOST {
        if input.is_empty() {
            break;
        }
        story.operate(&mut input);
    }
    let how = input.byte();
    story.end_life(how);
    story.check_undamaged();
    let mut bits = 0;
    for mark in &marks {
        bits += usize::from(story.damage(&mut Input::new(mark)));
    }
    let closed = usize::from(how.is_multiple_of(3));
    let floor = match bits == 1 && marks.len() == 1 {
        true => story.states.len() - 2 + closed,
        false => 0,
    };
    story.check(floor);
}

/// The operations, and the states to which they have led.
struct Story {
    disk: SimDisk,
    options: Options,
    engine: Option<Engine>,
    states: Vec<State>,
    numbered: u64,
    /// The content of files at earlier times.
    versions: BTreeMap<PathBuf, Vec<Vec<u8>>>,
    /// The damage to the files, as text for the message of a failure.
    marks: Vec<String>,
    full: bool,
    /// Deliveries that could not be settled. Dropping one would count a failure.
    unsettled: Vec<Delivery>,
}

impl Story {
    fn begin(io: IoMode) -> Story {
        let (disk, options) = (SimDisk::new(1), small_options().io(io));
        let mut story = Story {
            disk,
            options,
            engine: None,
            states: vec![State::default()],
            numbered: 0,
            versions: BTreeMap::new(),
            marks: Vec::new(),
            full: false,
            unsettled: Vec::new(),
        };
        story.open();
        let engine = story.engine().clone();
        engine.queue("q").backoff(Backoff::None).create().unwrap();
        story.committed(|state| {
            state.queues.insert("q".to_owned(), QueueState::default());
        });
        let topic = engine.topic("t").create().unwrap();
        story.committed(|state| {
            state.topics.insert("t".to_owned(), TopicState::default());
        });
        topic.subscription("s").create().unwrap();
        story.committed(|state| {
            let subscriptions = &mut state.topics.get_mut("t").unwrap().subscriptions;
            subscriptions.insert("s".to_owned(), SubscriptionState::default());
        });
        let stream = engine.stream("e").create().unwrap();
        story.committed(|state| {
            let partitions = vec![PartitionState::default()];
            let groups = BTreeMap::new();
            state.streams.insert("e".to_owned(), StreamState { partitions, groups, limit: None });
        });
        stream.group("g").create().unwrap();
        story.committed(|state| {
            state.streams.get_mut("e").unwrap().groups.insert("g".to_owned(), vec![0]);
        });
        story
    }

    fn open(&mut self) {
        self.engine = Some(self.options.clone().sim(&self.disk).open("store").unwrap());
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn committed(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
    }

    /// Takes the outcome of a commit. On a full disk it may have failed, and changed nothing.
    fn commit<T>(&mut self, result: Result<T, Error>, change: impl FnOnce(&mut State)) -> bool {
        match result {
            Ok(_) => self.committed(change),
            Err(error) if self.full && error.kind() == ErrorKind::DiskFull => return false,
            Err(error) => panic!("{error:?}"),
        }
        true
    }

    /// Fills the disk, or gives it space again.
    fn fill_disk(&mut self, full: bool) {
        self.full = full;
        self.disk.set_capacity(full.then(|| self.disk.bytes_used()));
    }

    fn messages(&mut self, input: &mut Input<'_>) -> Vec<Msg> {
        let (count, bytes) = (1 + input.below(64) / 20, input.size());
        let first = self.numbered;
        self.numbered += count as u64;
        (first..self.numbered).map(|n| Msg::number(n, usize::from(bytes))).collect()
    }

    fn operate(&mut self, input: &mut Input<'_>) {
        let engine = self.engine().clone();
        match input.byte() % 21 {
            0..=4 => self.send(input),
            5 | 6 => self.publish(input),
            7..=9 => self.append(input),
            10..=12 => self.settle(true),
            13 => self.settle(false),
            14 => self.settle_subscription(),
            15 => self.transact(input),
            16 => self.commit_offset(input),
            17 => self.trim(input),
            18 => {
                match engine.checkpoint() {
                    Err(error) if self.full && error.kind() == ErrorKind::DiskFull => {}
                    made => made.unwrap(),
                }
                self.keep_versions();
            }
            19 => self.fill_disk(!self.full),
            _ => {
                drop(engine);
                self.end_life(input.byte());
                self.keep_versions();
                self.open();
            }
        }
    }

    fn send(&mut self, input: &mut Input<'_>) {
        let messages = self.messages(input);
        let queue = self.engine().queue("q").open().unwrap();
        let sent = queue.send_batch(messages.iter().map(Msg::message));
        self.commit(sent, |state| add(state.queues.get_mut("q").unwrap(), &messages));
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        let messages = self.messages(input);
        let topic = self.engine().topic("t").open().unwrap();
        let published = topic.publish_batch(messages.iter().map(Msg::message));
        self.commit(published, |state| {
            let topic = state.topics.get_mut("t").unwrap();
            for message in messages {
                let subscription = topic.subscriptions.get_mut("s").unwrap();
                subscription.unacked.insert(topic.next, Entry::new(&message, 0, None));
                topic.next += 1;
            }
        });
    }

    fn append(&mut self, input: &mut Input<'_>) {
        let messages = self.messages(input);
        let stream = self.engine().stream("e").open().unwrap();
        let appended = stream.append_batch(messages.iter().map(Msg::message));
        self.commit(appended, |state| {
            messages.iter().for_each(|message| append_to(state, message));
        });
    }

    fn received(&self) -> Option<Delivery> {
        self.engine().queue("q").open().unwrap().try_receive().unwrap()
    }

    fn settle(&mut self, done: bool) {
        let Some(delivery) = self.received() else { return };
        let offset = delivery.offset().0;
        let settled = if done { delivery.ack() } else { delivery.nack() };
        let settled = self.commit(settled, |state| {
            let unacked = &mut state.queues.get_mut("q").unwrap().unacked;
            if done {
                unacked.remove(&offset);
            } else {
                unacked.get_mut(&offset).unwrap().attempts += 1;
            }
        });
        self.unsettled.extend((!settled).then_some(delivery));
    }

    fn settle_subscription(&mut self) {
        let topic = self.engine().topic("t").open().unwrap();
        let subscription = topic.subscription("s").open().unwrap();
        let Some(delivery) = subscription.try_receive().unwrap() else { return };
        let (acked, offset) = (delivery.ack(), delivery.offset().0);
        let acked = self.commit(acked, |state| {
            let subscriptions = &mut state.topics.get_mut("t").unwrap().subscriptions;
            subscriptions.get_mut("s").unwrap().unacked.remove(&offset);
        });
        self.unsettled.extend((!acked).then_some(delivery));
    }

    fn transact(&mut self, input: &mut Input<'_>) {
        let messages = self.messages(input);
        let delivery = self.received();
        let engine = self.engine().clone();
        let queue = engine.queue("q").open().unwrap();
        let stream = engine.stream("e").open().unwrap();
        let mut tx = engine.transaction();
        if let Some(delivery) = &delivery {
            tx.ack(delivery);
        }
        tx.append(&stream, messages[0].message());
        for message in &messages {
            tx.send(&queue, message.message());
        }
        let committed = tx.commit();
        let committed = self.commit(committed, |state| {
            let queue = state.queues.get_mut("q").unwrap();
            if let Some(delivery) = &delivery {
                queue.unacked.remove(&delivery.offset().0);
            }
            add(queue, &messages);
            append_to(state, &messages[0]);
        });
        self.unsettled.extend(delivery.filter(|_| !committed));
    }

    fn commit_offset(&mut self, input: &mut Input<'_>) {
        let next = self.now().streams["e"].partitions[0].next;
        let to = input.below(256) as u64 % (next + 1);
        let stream = self.engine().stream("e").open().unwrap();
        let committed = stream.group("g").open().unwrap().commit(0, Offset(to));
        self.commit(committed, |state| {
            state.streams.get_mut("e").unwrap().groups.get_mut("g").unwrap()[0] = to;
        });
    }

    fn trim(&mut self, input: &mut Input<'_>) {
        let next = self.now().streams["e"].partitions[0].next;
        let to = input.below(256) as u64 % (next + 1);
        let stream = self.engine().stream("e").open().unwrap();
        let trimmed = stream.partition(0).unwrap().trim_before(Offset(to));
        self.commit(trimmed, |state| {
            let partition = &mut state.streams.get_mut("e").unwrap().partitions[0];
            partition.start = partition.start.max(to);
            partition.records = partition.records.split_off(&partition.start);
        });
    }

    fn end_life(&mut self, how: u8) {
        match how % 3 {
            0 => self.engine().close().unwrap(),
            1 => self.disk.kill(),
            _ => self.disk.power_cut(),
        }
        self.unsettled.clear();
        self.engine = None;
        self.fill_disk(false);
    }

    fn keep_versions(&mut self) {
        for path in self.disk.files() {
            let content = self.disk.content(&path).unwrap();
            let versions = self.versions.entry(path).or_default();
            if versions.last() != Some(&content) {
                versions.push(content);
            }
        }
    }

    /// Damages a file. Returns `true` if it flipped one bit.
    fn damage(&mut self, input: &mut Input<'_>) -> bool {
        let files = self.disk.files();
        let kind = input.byte() % 10;
        let path = files[input.below(files.len())].clone();
        let mut content = self.disk.content(&path).unwrap();
        let at = input.below(content.len().max(257)) % content.len().max(1);
        let mut mark = format!("{} at {at}", path.display());
        match kind {
            0 | 1 if !content.is_empty() => content[at] ^= 1 << (kind + 2 * (at as u8 & 3)),
            2 => content.truncate(at),
            3 => content[at & !511..].iter_mut().take(512).for_each(|byte| *byte = 0),
            4 => content[at & !4095..].iter_mut().take(4096).for_each(|byte| *byte = 0),
            5 => content.extend_from_slice(&[0xA5; 700]),
            6 => {
                self.disk.plant(&path, None);
                self.marks.push(format!("removed {}", path.display()));
                return false;
            }
            7 => {
                let other = &files[(at + 1) % files.len()];
                self.disk.plant(&path, self.disk.content(other));
                self.disk.plant(other, Some(content));
                self.marks.push(format!("swapped {} {}", path.display(), other.display()));
                return false;
            }
            8 => {
                // The disk has lost the later writes.
                let versions = self.versions.get(&path).map_or(&[][..], Vec::as_slice);
                if let Some(version) = versions.get(at % versions.len().max(1)) {
                    content.clone_from(version);
                }
            }
            _ => {
                // A sector was written to the wrong place.
                let to = at & !511;
                let from = ((at * 7) % content.len().max(1)) & !511;
                let sector: Vec<u8> = content[from..].iter().take(512).copied().collect();
                let room = (content.len() - to).min(sector.len());
                content[to..to + room].copy_from_slice(&sector[..room]);
                mark = format!("{mark} from {from}");
            }
        }
        self.marks.push(format!("kind {kind}: {mark}"));
        self.disk.plant(&path, Some(content));
        kind < 2
    }

    fn check_undamaged(&self) {
        let found = outcome(&self.disk, &self.options).expect("nothing is damaged");
        if found != *self.now() {
            panic!("undamaged, yet\nfound: {found:#?}\nwritten: {:#?}", self.now());
        }
    }

    /// The states before `floor` must not come back.
    fn check(&self, floor: usize) {
        let first = outcome(&self.disk, &self.options);
        if let Ok(found) = &first {
            let known = self.states[floor..].contains(found);
            let before = self.states[..floor].contains(found);
            let what = if before { "durable commits are lost" } else { "a state that never was" };
            assert!(known, "{:#?}: {what}: {found:#?}", self.marks);
        }
        // Opening it changes nothing for those who open it later.
        let copy = self.disk.fork(2);
        let opened = self.options.clone().sim(&copy).open("store").map(drop);
        copy.kill();
        let second = outcome(&copy, &self.options);
        let first = first.map_err(|error| self.expected(error));
        let second = second.map_err(|error| self.expected(error));
        assert_eq!(first, second, "{:#?}: opened in between: {opened:?}", self.marks);
    }

    /// Damage is reported as such, with its place.
    fn expected(&self, error: Refusal) -> ErrorKind {
        let error = error.0;
        let expected = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
        assert!(expected && error.file().is_some(), "{:#?}: {error:?}", self.marks);
        error.kind()
    }
}

#[derive(Debug)]
struct Refusal(Error);

impl PartialEq for Refusal {
    fn eq(&self, other: &Refusal) -> bool {
        self.0.kind() == other.0.kind()
    }
}

/// The state of the store, read from a copy.
fn outcome(disk: &SimDisk, options: &Options) -> Result<State, Refusal> {
    let copy = disk.fork(1);
    let engine = options.clone().sim(&copy).open("store").map_err(Refusal)?;
    dump(&engine).map_err(Refusal)
}

fn add(queue: &mut QueueState, messages: &[Msg]) {
    for message in messages {
        queue.unacked.insert(queue.next, Entry::new(message, 0, None));
        queue.next += 1;
    }
}

fn append_to(state: &mut State, message: &Msg) {
    let partition = &mut state.streams.get_mut("e").unwrap().partitions[0];
    partition.records.insert(partition.next, message.clone());
    partition.next += 1;
}
