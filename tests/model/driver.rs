//! Does actions on an engine and on the model, and compares the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use posthouse::{
    Delivery, Durability, Engine, Error, ErrorKind, Message, Offset, Overflow, Queue, Stream,
    Subscription, Ticket, Topic, Transaction,
};

use super::{
    World,
    action::{Action, ERRORS, How, Name, TIMES, TxPart},
    oracle::Oracle,
    state::{
        ATTEMPTS_MAX, BOUNDED, BRIEF, DEAD, Entry, LIFE, MESSAGES_MAX, MORTAL, Msg, ORDERED,
        PartitionState, QueueState, RETRIED, State, StreamState, Unacked, dump,
    },
};

/// Whose deliveries: a queue's, or a subscription's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Queue(String),
    Subscription(String, String),
}

struct Held {
    whose: Whose,
    delivery: Delivery,
    /// Counts leases, in the order in which they were granted.
    granted: u64,
    /// When the lease runs out.
    until: u64,
}

pub struct Driver<'a> {
    world: &'a dyn World,
    engine: Option<Engine>,
    /// The state after each commit since the last recovery; the first is the recovered one.
    states: Vec<Rc<State>>,
    /// Those of the life before.
    states_before: Vec<Rc<State>>,
    /// The states before this one cannot come back: it is durable, or was seen.
    floor: usize,
    /// Whether consumers must see durable messages only.
    hides_unsynced: bool,
    held: Vec<Held>,
    /// The highest offset that was delivered in this life, for each consumer and priority.
    fresh: BTreeMap<(Whose, u8), u64>,
    /// What was delivered in this life.
    seen: BTreeSet<(Whose, u64)>,
    /// The state in which each message came, for the messages since the last recovery.
    born: BTreeMap<(Whose, u64), usize>,
    numbered: u64,
    /// Whether the power may be gone, or a call may fail: then any error is the last thing that this
    /// life says.
    doomed: bool,
    /// Whether the power may be gone.
    powerless: bool,
    /// For each state, what was durable when the commit to it was made: its frame says so.
    proven: Vec<usize>,
    /// Counts recoveries.
    life: u64,
    granted: u64,
    /// By how many milliseconds the clock was moved on, and for messages that wait, by how many it
    /// was when they began to.
    time: u64,
    waits_since: BTreeMap<(Whose, u64), u64>,
    /// Whether the time of day was set: then nothing is known of when messages are due, nor of when
    /// their lives are over.
    clock_was_set: bool,
    /// Examines the moments that the world has recorded.
    oracle: Option<&'a Oracle>,
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Settling {
    Ack,
    Nack,
    NackAfter,
    Reject,
}

/// How an action ended.
enum Ended {
    Fine,
    /// The power was gone. The commit that was being made may be there or not.
    Dead,
}

/// The name of [`RETRIED`].
const RETRIED_NAME: Name = 1;

fn text(kind: &str, name: Name) -> String {
    format!("{kind} {name}")
}

fn queue_name(name: Name) -> String {
    if name == 2 { DEAD.to_owned() } else { format!("queue {name}") }
}

impl<'a> Driver<'a> {
    pub fn new(world: &'a dyn World, hides_unsynced: bool) -> Driver<'a> {
        let mut driver = Driver {
            world,
            engine: None,
            states: vec![Rc::default()],
            states_before: Vec::new(),
            floor: 0,
            hides_unsynced,
            held: Vec::new(),
            fresh: BTreeMap::new(),
            seen: BTreeSet::new(),
            born: BTreeMap::new(),
            numbered: 0,
            doomed: false,
            powerless: false,
            proven: vec![0],
            life: 0,
            granted: 0,
            time: 0,
            waits_since: BTreeMap::new(),
            clock_was_set: false,
            oracle: None,
        };
        driver.open();
        driver
    }

    /// Has an oracle examine what the world records from now on.
    pub fn examined_by(mut self, oracle: &'a Oracle) -> Driver<'a> {
        self.oracle = Some(oracle);
        self
    }

    pub fn run(&mut self, actions: &[Action]) {
        for action in actions {
            self.one(action);
        }
        self.examined(|driver| driver.crash(false));
        self.examined(|driver| driver.crash(true));
    }

    /// Does one action, and what follows if the power goes in the middle of it.
    pub fn one(&mut self, action: &Action) {
        self.examined(|driver| {
            if let Ended::Dead = driver.act(action) {
                // After an error the machine may stay up, with what the system has cached.
                driver.crash(driver.powerless || driver.numbered.is_multiple_of(2));
            }
            driver.compare_bytes();
        });
    }

    /// Compares what the engine has counted of a queue with a limit in bytes.
    fn compare_bytes(&self) {
        let (false, Some(known)) = (self.doomed, self.now().queues.get(MORTAL)) else { return };
        let bytes = self.queue(MORTAL).and_then(|queue| queue.bytes());
        let bytes = bytes.unwrap_or_else(|error| panic!("the bytes are not known: {error}"));
        let sum = known.unacked.values().map(|entry| entry.msg.weight()).sum();
        assert_eq!(bytes, Some(sum), "bytes of {MORTAL}");
    }

    /// Does something, and has the oracle examine the moments in which it could have been cut off.
    fn examined(&mut self, act: impl FnOnce(&mut Self)) {
        let Some(oracle) = self.oracle else {
            return act(self);
        };
        let (floor, life) = (self.floor, self.life);
        let proven = self.proven[floor];
        act(self);
        let all = if self.life == life { &self.states } else { &self.states_before };
        for moment in self.world.moments() {
            oracle.examine(&moment, all, floor, proven);
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is open")
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    // What the model knows of commits.

    fn committed(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        // What changes nothing, such as creating what is there, may have written no frame.
        let proven =
            if state == *self.now() { self.proven[self.states.len() - 1] } else { self.floor };
        self.states.push(Rc::new(state));
        self.proven.push(proven);
    }

    fn is_durable(&mut self) {
        self.floor = self.states.len() - 1;
    }

    /// Takes the outcome of a commit: what it gave, or what it failed with if that was expected.
    fn outcome<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.doomed && is_of_power(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    // Opening, closing and crashing.

    fn open(&mut self) {
        let engine = self.world.open().unwrap_or_else(|error| panic!("cannot open: {error}"));
        self.engine = Some(engine);
        self.held.clear();
        self.fresh.clear();
        self.seen.clear();
        self.born.clear();
        self.doomed = false;
        self.powerless = false;
    }

    /// Ends the life in an orderly way.
    fn reopen(&mut self) {
        for held in std::mem::take(&mut self.held) {
            // The engine is closed first, so that dropping it counts no failure.
            self.engine().close().unwrap();
            drop(held);
        }
        self.engine().close().unwrap();
        self.engine = None;
        self.is_durable();
        let last = self.states.last().unwrap().clone();
        self.recovered(&[last]);
    }

    /// Ends the life by a power cut or a kill, and finds out which state it has left.
    fn crash(&mut self, power: bool) {
        let cuts = power || self.powerless;
        let crashed = if cuts { self.world.cut_power() } else { self.world.kill() };
        if !crashed {
            return self.reopen();
        }
        if !power && !self.doomed {
            // What was committed is in the system's memory, and that has stayed.
            self.is_durable();
        }
        self.held.clear();
        self.engine = None;
        let candidates = self.states[self.floor..].to_vec();
        self.recovered(&candidates);
    }

    fn recovered(&mut self, candidates: &[Rc<State>]) {
        let state = match self.world.copy() {
            Some(copy) => {
                let engine = copy.open().unwrap_or_else(|error| panic!("cannot recover: {error}"));
                let found = dump(&engine).unwrap_or_else(|error| panic!("cannot read: {error}"));
                drop(engine);
                Rc::new(found)
            }
            None => candidates.last().unwrap().clone(),
        };
        // The model's own state has what the engine does not tell.
        let known = candidates.iter().rfind(|it| **it == state);
        let Some(known) = known.cloned() else {
            let count = candidates.len();
            panic!(
                "recovered a state that is none of the {count} that it may be\nfound: {state:#?}\n\
                 first: {:#?}\nlast: {:#?}",
                candidates[0],
                candidates[count - 1]
            );
        };
        self.states_before = std::mem::replace(&mut self.states, vec![known]);
        self.proven = vec![0];
        self.floor = 0;
        self.life += 1;
        self.open();
    }

    // The actions.

    fn act(&mut self, action: &Action) -> Ended {
        let done = match action {
            Action::CreateQueue(name) => self.create_queue(*name),
            Action::DeleteQueue(name) => self.delete_queue(*name),
            Action::CreateTopic(name) => self.create_topic(*name),
            Action::DeleteTopic(name) => self.delete_topic(*name),
            Action::Subscribe(topic, name) => self.subscribe(*topic, *name),
            Action::Unsubscribe(topic, name) => self.unsubscribe(*topic, *name),
            Action::CreateStream(name) => self.create_stream(*name),
            Action::DeleteStream(name) => self.delete_stream(*name),
            Action::CreateGroup(stream, name) => self.create_group(*stream, *name),
            Action::Send { queue, messages, bytes, how } => {
                self.send(*queue, *messages, *bytes, *how)
            }
            Action::Publish { topic, messages, bytes, how } => {
                self.publish(*topic, *messages, *bytes, *how)
            }
            Action::Append { stream, messages, bytes, how } => {
                self.append(*stream, *messages, *bytes, *how)
            }
            Action::Receive { queue } => self.receive(Whose::Queue(queue_name(*queue))),
            Action::ReceiveFrom { topic, subscription } => self.receive(Whose::Subscription(
                text("topic", *topic),
                text("subscription", *subscription),
            )),
            Action::Ack(n) => self.settle(*n, Settling::Ack),
            Action::Nack(n) => self.settle(*n, Settling::Nack),
            Action::NackAfter(n) => self.settle(*n, Settling::NackAfter),
            Action::Reject(n) => self.settle(*n, Settling::Reject),
            Action::SendLater { queue, bytes, how } => self.send_later(*queue, *bytes, *how),
            Action::SendBrief { queue, bytes, how } => self.send_brief(*queue, *bytes, *how),
            Action::SendUrgent { queue, bytes, how } => self.send_urgent(*queue, *bytes, *how),
            Action::PublishBrief { topic, bytes, how } => self.publish_brief(*topic, *bytes, *how),
            Action::Remove { queue, which } => self.remove(*queue, *which),
            Action::Purge { queue } => self.purge(&Whose::Queue(queue_name(*queue))),
            Action::Redrive => self.redrive(),
            Action::Drop(n) => self.drop_delivery(*n),
            Action::Seek { stream, group, to } => self.seek(*stream, *group, *to),
            Action::Trim { stream, to } => self.trim(*stream, *to),
            Action::Transaction(parts, how) => self.transact(parts, *how),
            Action::Churn { queue, rounds, how } => self.churn(*queue, *rounds, *how),
            Action::Die { moments, how } => self.die(*moments, *how),
            Action::LeasesEnd => self.time_passes(LEASE + Duration::from_millis(1)),
            Action::TimePasses => self.time_passes(MOMENT),
            Action::Sync => {
                let synced = self.engine().sync();
                self.durably(synced)
            }
            Action::Checkpoint => {
                let made = self.engine().checkpoint();
                self.durably(made)
            }
            Action::Reopen if self.doomed => Ok(Some(())),
            Action::Reopen => {
                self.reopen();
                Ok(Some(()))
            }
            Action::Kill => {
                self.crash(false);
                Ok(Some(()))
            }
            Action::PowerCut => {
                self.crash(true);
                Ok(Some(()))
            }
            Action::PowerCutIn(steps) => {
                self.world.cut_power_in(u64::from(*steps));
                self.doomed = self.world.copy().is_some();
                self.powerless = self.doomed;
                Ok(Some(()))
            }
            Action::CallFails(calls, error) => {
                let error = ERRORS[usize::from(*error) % ERRORS.len()];
                self.doomed |= self.world.fail_call_in(u64::from(*calls), error);
                Ok(Some(()))
            }
            Action::SyncFails(which) => {
                self.doomed |= self.world.fail_sync_in(u64::from(*which));
                Ok(Some(()))
            }
            Action::CheckpointFails(which) => {
                self.doomed |= self.world.fail_sync_in(u64::from(*which));
                let made = self.engine().checkpoint();
                self.durably(made)
            }
            Action::Clock(time) => {
                let time = TIMES[usize::from(*time) % TIMES.len()];
                self.clock_was_set |= self.world.set_clock(time);
                Ok(Some(()))
            }
        };
        match done {
            Ok(Some(())) => Ended::Fine,
            Ok(None) => Ended::Dead,
            // It failed before there was anything to commit.
            Err(error) if self.doomed && is_of_power(&error) => Ended::Dead,
            Err(error) => panic!("{action:?}: {error:?}"),
        }
    }

    fn durably(&mut self, result: Result<(), Error>) -> Result<Option<()>, Error> {
        let done = self.outcome(result)?;
        if done.is_some() {
            self.is_durable();
        }
        Ok(done)
    }

    /// A commit of the engine's own durability.
    fn commit<T>(
        &mut self,
        result: Result<T, Error>,
        change: impl FnOnce(&mut State),
    ) -> Result<Option<T>, Error> {
        let done = self.outcome(result)?;
        self.committed(change);
        if done.is_some() && self.hides_unsynced {
            self.is_durable();
        }
        Ok(done)
    }

    fn queue(&self, name: &str) -> Result<Queue, Error> {
        self.engine().queue(name).open()
    }

    fn topic(&self, name: &str) -> Result<Topic, Error> {
        self.engine().topic(name).open()
    }

    fn stream(&self, name: &str) -> Result<Stream, Error> {
        self.engine().stream(name).open()
    }

    fn subscription(&self, topic: &str, name: &str) -> Result<Subscription, Error> {
        self.topic(topic)?.subscription(name).open()
    }

    fn depth(&self, whose: &Whose) -> Result<u64, Error> {
        match whose {
            Whose::Queue(name) => self.queue(name)?.depth(),
            Whose::Subscription(topic, name) => self.subscription(topic, name)?.depth(),
        }
    }

    fn create_queue(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = queue_name(name);
        let builder = self.engine().queue(&name);
        // Dead letters have the lease with which they are created beside their queue.
        let builder = if name == DEAD { builder } else { builder.lease(LEASE) };
        let is_retried = name == RETRIED;
        // Dead letters that were not created for themselves live for ever.
        let lives = [RETRIED, MORTAL].contains(&&*name)
            || (name == DEAD && !self.now().queues.contains_key(DEAD));
        let life = lives.then_some(LIFE);
        let builder = match life {
            Some(life) => builder.time_to_live(life),
            None => builder,
        };
        let builder = match &*name {
            RETRIED => builder.max_attempts(ATTEMPTS_MAX),
            BOUNDED => builder.max_messages(MESSAGES_MAX).overflow(Overflow::DropOldest),
            // Never reached: what counts is the sum.
            MORTAL => builder.max_bytes(1 << 40),
            _ => builder,
        };
        let made = builder.create().map(drop);
        self.commit(made, |state| {
            if is_retried && !state.queues.contains_key(RETRIED) {
                state.queues.entry(DEAD.to_owned()).or_default();
            }
            state.queues.entry(name).or_insert_with(|| QueueState::of_life(life));
        })
    }

    fn delete_queue(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = queue_name(name);
        if !self.now().queues.contains_key(&name) {
            let error = self.engine().queue(&name).delete();
            return self.expect(error, ErrorKind::NotFound);
        }
        self.forget_held(|whose| *whose == Whose::Queue(name.clone()));
        let gone = self.engine().queue(&name).delete();
        self.commit(gone, |state| drop(state.queues.remove(&name)))
    }

    fn create_topic(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("topic", name);
        let made = self.engine().topic(&name).create().map(drop);
        self.commit(made, |state| {
            state.topics.entry(name).or_default();
        })
    }

    fn delete_topic(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("topic", name);
        if !self.now().topics.contains_key(&name) {
            let error = self.engine().topic(&name).delete();
            return self.expect(error, ErrorKind::NotFound);
        }
        let of = |whose: &Whose| matches!(whose, Whose::Subscription(topic, _) if *topic == name);
        self.forget_held(of);
        let gone = self.engine().topic(&name).delete();
        self.commit(gone, |state| drop(state.topics.remove(&name)))
    }

    fn subscribe(&mut self, topic: Name, name: Name) -> Result<Option<()>, Error> {
        let (topic, name) = (text("topic", topic), text("subscription", name));
        if !self.now().topics.contains_key(&topic) {
            return Ok(Some(()));
        }
        let made = self.topic(&topic).and_then(|topic| {
            let builder = topic.subscription(&name).lease(LEASE);
            builder.ordered_by_key(name == ORDERED).create().map(drop)
        });
        self.commit(made, |state| {
            let topic = state.topics.get_mut(&topic).unwrap();
            topic.subscriptions.entry(name).or_default();
        })
    }

    fn unsubscribe(&mut self, topic: Name, name: Name) -> Result<Option<()>, Error> {
        let (topic, name) = (text("topic", topic), text("subscription", name));
        let there = self.now().topics.get(&topic);
        if !there.is_some_and(|it| it.subscriptions.contains_key(&name)) {
            return Ok(Some(()));
        }
        self.forget_held(|whose| *whose == Whose::Subscription(topic.clone(), name.clone()));
        let gone = self.topic(&topic).and_then(|topic| topic.subscription(&name).delete());
        self.commit(gone, |state| {
            state.topics.get_mut(&topic).unwrap().subscriptions.remove(&name);
        })
    }

    fn create_stream(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("stream", name);
        let made = self.engine().stream(&name).partitions(2).create().map(drop);
        self.commit(made, |state| {
            let partitions = vec![PartitionState::default(); 2];
            let fresh = StreamState { partitions, ..StreamState::default() };
            state.streams.entry(name).or_insert(fresh);
        })
    }

    fn delete_stream(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("stream", name);
        if !self.now().streams.contains_key(&name) {
            return Ok(Some(()));
        }
        let gone = self.engine().stream(&name).delete();
        self.commit(gone, |state| drop(state.streams.remove(&name)))
    }

    fn create_group(&mut self, stream: Name, name: Name) -> Result<Option<()>, Error> {
        let (stream, name) = (text("stream", stream), text("group", name));
        if !self.now().streams.contains_key(&stream) {
            return Ok(Some(()));
        }
        let made = self.stream(&stream).and_then(|it| it.group(&name).create().map(drop));
        self.commit(made, |state| {
            let stream = state.streams.get_mut(&stream).unwrap();
            let starts = stream.partitions.iter().map(|partition| partition.start).collect();
            stream.groups.entry(name).or_insert(starts);
        })
    }

    fn expect(&mut self, result: Result<(), Error>, kind: ErrorKind) -> Result<Option<()>, Error> {
        match result {
            Err(error) if error.kind() == kind => Ok(Some(())),
            Ok(()) => panic!("{kind:?} was expected"),
            Err(error) => self.outcome(Err(error)),
        }
    }

    /// Makes so many new messages.
    fn messages(&mut self, count: u8, bytes: u16) -> Vec<Msg> {
        let first = self.numbered;
        self.numbered += u64::from(count);
        // Batches of many large messages would exceed the limit of a commit.
        let bytes = if count > 5 { bytes % 200 } else { bytes };
        (first..self.numbered).map(|n| Msg::number(n, usize::from(bytes))).collect()
    }

    /// Takes the outcome of a commit of any durability.
    fn commit_as<T>(
        &mut self,
        how: How,
        result: Result<T, Error>,
        change: impl FnOnce(&mut State),
    ) -> Result<Option<T>, Error> {
        let done = self.outcome(result)?;
        self.committed(change);
        if done.is_some() && matches!(how, How::Sync | How::Waited) {
            self.is_durable();
        }
        Ok(done)
    }

    fn send(&mut self, queue: Name, count: u8, bytes: u16, how: How) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let Some(first) = self.now().queues.get(&name).map(|queue| queue.next) else {
            return Ok(Some(()));
        };
        let count = if name == BOUNDED { count % 8 } else { count };
        let messages = self.messages(count, bytes);
        let queue = self.queue(&name)?;
        let Some(dropped) = self.dropped(&name, messages.len()) else {
            let refused = queue.send_batch(messages.iter().map(Msg::message)).map(drop);
            return self.expect(refused, ErrorKind::QueueFull);
        };
        let sent = match how {
            _ if messages.len() != 1 => {
                let batch = messages.iter().map(Msg::message);
                queue.durability(durability(how)).send_batch(batch).map(|range| range.start)
            }
            How::Ticket => queue.send_ticket(messages[0].message()).map(|it| *it.value().unwrap()),
            How::Waited => queue.send_ticket(messages[0].message()).and_then(Ticket::wait),
            how => queue.durability(durability(how)).send(messages[0].message()),
        };
        // A batch of none is no commit.
        let how = if messages.is_empty() { How::Buffered } else { how };
        let how = if messages.len() > 1 && how == How::Waited { How::Sync } else { how };
        let (count, now) = (messages.len() as u64, self.time);
        let Some(offset) = self.commit_as(how, sent, |state| {
            let queue = state.queues.get_mut(&name).unwrap();
            queue.unacked.retain(|offset, _| !dropped.contains(offset));
            queue.send(&messages, now);
        })?
        else {
            return Ok(None);
        };
        assert_eq!(offset, Offset(first));
        self.bear(&Whose::Queue(name), first, count);
        Ok(Some(()))
    }

    /// What a queue drops when so many more are sent; `None` if they do not fit.
    fn dropped(&self, name: &str, more: usize) -> Option<Vec<u64>> {
        let depth = self.now().queues[name].unacked.len() + more;
        let excess = depth.saturating_sub(MESSAGES_MAX as usize);
        if name != BOUNDED || excess == 0 {
            return Some(Vec::new());
        }
        let mut idle = self.idle(name).unwrap_or_default();
        let unacked = &self.now().queues[name].unacked;
        idle.sort_by_key(|offset| unacked[offset].msg.priority);
        (idle.len() >= excess).then(|| idle[..excess].to_vec())
    }

    fn bear(&mut self, whose: &Whose, first: u64, count: u64) {
        let state = self.states.len() - 1;
        for offset in first..first + count {
            self.born.insert((whose.clone(), offset), state);
        }
    }

    fn publish(
        &mut self,
        topic: Name,
        count: u8,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = text("topic", topic);
        let Some(first) = self.now().topics.get(&name).map(|topic| topic.next) else {
            return Ok(Some(()));
        };
        let messages = self.messages(count.clamp(1, 40), bytes);
        let topic = self.topic(&name)?;
        let batch = messages.iter().map(Msg::message);
        let published = match how {
            How::Ticket if messages.len() == 1 => {
                topic.publish_ticket(messages[0].message()).map(|it| *it.value().unwrap())
            }
            _ => topic.durability(durability(how)).publish_batch(batch).map(|range| range.start),
        };
        let how = if how == How::Waited { How::Sync } else { how };
        let Some(offset) = self.commit_as(how, published, |state| {
            state.topics.get_mut(&name).unwrap().publish(&messages);
        })?
        else {
            return Ok(None);
        };
        assert_eq!(offset, Offset(first));
        let subscriptions: Vec<String> =
            self.now().topics[&name].subscriptions.keys().cloned().collect();
        for subscription in subscriptions {
            let whose = Whose::Subscription(name.clone(), subscription);
            self.bear(&whose, first, messages.len() as u64);
        }
        Ok(Some(()))
    }

    fn append(
        &mut self,
        stream: Name,
        count: u8,
        bytes: u16,
        how: How,
    ) -> Result<Option<()>, Error> {
        let name = text("stream", stream);
        if !self.now().streams.contains_key(&name) {
            return Ok(Some(()));
        }
        let mut messages = self.messages(count.max(1), bytes);
        // Which partition a message without a key goes to is the handle's business.
        for message in &mut messages {
            message.key.get_or_insert_with(|| b"no key".to_vec());
        }
        let stream = self.stream(&name)?;
        let batch = messages.iter().map(Msg::message);
        let appended = match how {
            How::Waited if messages.len() == 1 => {
                stream.append_ticket(messages[0].message()).and_then(Ticket::wait).map(|p| vec![p])
            }
            _ => stream.durability(durability(how)).append_batch(batch),
        };
        let how = if how == How::Waited { How::Sync } else { how };
        let mut expected = Vec::new();
        let done = self.commit_as(how, appended, |state| {
            let stream = state.streams.get_mut(&name).unwrap();
            expected.extend(messages.iter().map(|message| stream.append(message)));
        })?;
        if let Some(positions) = done {
            let got: Vec<_> = positions.iter().map(|it| (it.partition, it.offset.0)).collect();
            assert_eq!(got, expected);
            return Ok(Some(()));
        }
        Ok(None)
    }

    fn receive(&mut self, whose: Whose) -> Result<Option<()>, Error> {
        let Some(unacked) = unacked(self.now(), &whose) else {
            return Ok(Some(()));
        };
        let held: Vec<u64> = self
            .held
            .iter()
            .filter(|it| it.whose == whose)
            .map(|it| it.delivery.offset().0)
            .collect();
        let free: Unacked = unacked
            .iter()
            .filter(|(n, _)| !held.contains(n))
            .map(|(n, m)| (*n, m.clone()))
            .collect();
        let (depth, is_retried) = (unacked.len(), whose.is_retried());
        let doomed: Vec<u64> = free
            .iter()
            .filter(|(_, entry)| self.may_be_over(entry) || whose.is_worn_out(entry))
            .map(|(offset, _)| *offset)
            .collect();
        let (fresh, others): (Vec<u64>, Vec<u64>) =
            doomed.iter().partition(|offset| self.is_in_order(&whose, **offset, &free));
        if !is_retried && others.len() > UNORDERED_MAX {
            // In which order so many are dropped cannot be told.
            return self.purge(&whose);
        }
        let received = match &whose {
            Whose::Queue(name) => self.queue(name).and_then(|queue| queue.try_receive()),
            Whose::Subscription(topic, name) => {
                self.subscription(topic, name).and_then(|it| it.try_receive())
            }
        };
        let received = self.outcome(received)?;
        let gone = self.find_gone(&whose, &doomed);
        if received.is_some() && !self.doomed {
            let left = self.depth(&whose)?;
            assert_eq!(left, (depth - gone.len()) as u64, "one is lost, and its life is not over");
        }
        if is_retried {
            if received.is_none() {
                self.may_have_counted(&free, &gone);
                return Ok(None);
            }
            gone.iter().for_each(|offset| self.commit_burial(*offset));
        } else {
            let of = |all: Vec<u64>| -> Vec<u64> {
                all.into_iter().filter(|n| gone.contains(n)).collect()
            };
            self.commit_drops(&whose, &of(fresh), &of(others));
        }
        let Some(received) = received else {
            return Ok(None);
        };
        let Some(delivery) = received else {
            // Everything that is free must be withheld for a reason.
            for (offset, entry) in free.iter().filter(|(n, _)| !gone.contains(n)) {
                let may_be = self.may_be_withheld(&whose, *offset, entry);
                assert!(may_be, "message {offset} is withheld");
            }
            return Ok(Some(()));
        };
        let offset = delivery.offset().0;
        let Some(entry) = free.get(&offset) else {
            panic!("message {offset} of {whose:?} was delivered, which is acked or on lease");
        };
        assert_eq!(entry.msg, Msg::of_delivery(&delivery));
        assert_eq!(entry.attempts + 1, delivery.attempt());
        let too_early = entry.waits && self.is_due(&whose, offset) == Some(false);
        assert!(!too_early, "message {offset} of {whose:?} came too early");
        let is_over = self.is_over(entry) == Some(true);
        assert!(!is_over, "message {offset} of {whose:?} came when its life was over");
        // What has waited, or was there before, is not in the order of those that are fresh.
        let is_fresh = !entry.waits && !self.seen.contains(&(whose.clone(), offset));
        if whose.is_ordered() && entry.msg.key.is_some() {
            assert_eq!(self.first_of_key(&whose, entry), offset, "it is not its turn");
        }
        let is_fresh = is_fresh && !whose.is_ordered();
        let priority = entry.msg.priority;
        for (n, other) in
            free.iter().filter(|(n, it)| it.msg.priority > priority && !doomed.contains(n))
        {
            let may_be = self.may_be_withheld(&whose, *n, other);
            assert!(may_be, "message {offset} was preferred to {n}, which is more urgent");
        }
        let last = self.fresh.entry((whose.clone(), priority)).or_insert(0);
        self.seen.insert((whose.clone(), offset));
        if is_fresh && offset >= *last {
            let mut skipped = free.range(*last..offset);
            let seen = |n: &u64| self.seen.contains(&(whose.clone(), *n));
            let is_fresh = |n: &u64, entry: &Entry| {
                let is_alike = !entry.waits && entry.msg.priority == priority;
                is_alike && !doomed.contains(n) && !gone.contains(n) && !seen(n)
            };
            let skipped = skipped.find(|(n, entry)| is_fresh(n, entry));
            assert!(skipped.is_none(), "{skipped:?} was skipped by {offset}");
            *last = offset + 1;
        }
        if self.hides_unsynced {
            let born = self.born.get(&(whose.clone(), offset)).copied().unwrap_or(0);
            self.floor = self.floor.max(born);
        }
        if is_retried && self.was_counted(&delivery) {
            self.committed(|state| {
                let entry = unacked_mut(state, &whose).get_mut(&offset).expect("it was delivered");
                entry.attempts += 1;
                entry.waits = false;
            });
        }
        self.granted += 1;
        let until = self.time + whose.lease().as_millis() as u64;
        self.held.push(Held { whose, delivery, granted: self.granted, until });
        Ok(Some(()))
    }

    /// Whether a message that is not on lease may not be delivered, as far as we were told.
    fn may_be_withheld(&self, whose: &Whose, offset: u64, entry: &Entry) -> bool {
        let born = self.born.get(&(whose.clone(), offset)).copied().unwrap_or(0);
        let is_hidden = self.hides_unsynced && born > self.floor;
        let may_wait = entry.waits && self.is_due(whose, offset) != Some(true);
        // One that cannot be moved to the dead letters stays, and is not delivered.
        let is_doomed = self.doomed && whose.is_retried();
        let is_behind = whose.is_ordered() && self.first_of_key(whose, entry) < offset;
        is_hidden || may_wait || is_doomed || is_behind
    }

    /// A delivery was settled; or was it not, as the power went?
    fn note_wait(&mut self, whose: &Whose, offset: u64, how: Settling) {
        let key = (whose.clone(), offset);
        if self.doomed {
            self.waits_since.remove(&key);
        } else if how == Settling::NackAfter {
            self.waits_since.insert(key, self.time);
        }
    }

    /// The first message with the same key, of those that are not acked.
    fn first_of_key(&self, whose: &Whose, entry: &Entry) -> u64 {
        let unacked = unacked(self.now(), whose).expect("it is there");
        let key = &entry.msg.key;
        let same = unacked.iter().find(|(_, other)| key.is_some() && other.msg.key == *key);
        same.map_or(u64::MAX, |(offset, _)| *offset)
    }

    /// Whether a message that waits is due; `None` if that cannot be told.
    fn is_due(&self, whose: &Whose, offset: u64) -> Option<bool> {
        let since = self.waits_since.get(&(whose.clone(), offset))?;
        let due = since + WAIT.as_millis() as u64;
        (!self.clock_was_set).then_some(due <= self.time)
    }

    /// Whether the life of a message is over; `None` if that cannot be told.
    fn is_over(&self, entry: &Entry) -> Option<bool> {
        match entry.ends.0 {
            None => Some(false),
            Some(_) if self.clock_was_set => None,
            Some(end) => Some(end <= self.time),
        }
    }

    fn may_be_over(&self, entry: &Entry) -> bool {
        self.is_over(entry) != Some(false)
    }

    /// Whether a message that is not on lease is met behind all of lower offsets of which that holds.
    fn is_in_order(&self, whose: &Whose, offset: u64, free: &Unacked) -> bool {
        let entry = &free[&offset];
        let is_plain = !whose.is_ordered() && !entry.waits && entry.msg.priority == 0;
        is_plain && !self.seen.contains(&(whose.clone(), offset))
    }

    /// Those of some messages that are not there any more, in the order in which they have become
    /// dead letters, if they have. A copy of the disk tells, also of what is not durable yet.
    fn find_gone(&self, whose: &Whose, doomed: &[u64]) -> Vec<u64> {
        if doomed.is_empty() {
            return Vec::new();
        }
        let copy = self.world.copy();
        let copy = copy.map(|copy| copy.open().unwrap_or_else(|it| panic!("cannot recover: {it}")));
        let engine = copy.as_ref().unwrap_or(self.engine());
        let found = offsets_of(engine, whose).and_then(|there| {
            let mut gone: Vec<u64> =
                doomed.iter().copied().filter(|it| !there.contains(it)).collect();
            if whose.is_retried() {
                let mut letters = BTreeMap::new();
                for letter in engine.queue(DEAD).open()?.browse()? {
                    let letter = letter?;
                    let note = letter.dead_letter()?.expect("it is a dead letter");
                    letters.insert(note.offset.0, letter.offset().0);
                }
                gone.sort_by_key(|offset| letters.get(offset).copied());
            }
            Ok(gone)
        });
        found.unwrap_or_else(|error| panic!("cannot browse: {error}"))
    }

    /// Messages were dropped, each in a commit of its own: the fresh ones in their order, and the others
    /// in any.
    fn commit_drops(&mut self, whose: &Whose, fresh: &[u64], others: &[u64]) {
        let base = self.now().clone();
        for some in 0..1 << others.len() {
            let mut state = base.clone();
            let unacked = unacked_mut(&mut state, whose);
            for (n, offset) in others.iter().enumerate() {
                if some >> n & 1 == 1 {
                    unacked.remove(offset);
                }
            }
            for offset in [None].into_iter().chain(fresh.iter().map(Some)) {
                offset.map(|offset| unacked_mut(&mut state, whose).remove(offset));
                if state != *self.now() {
                    self.committed(|now| *now = state.clone());
                }
            }
        }
    }

    /// Whether a delivery of [`RETRIED`] was counted: it is not where the disk is full.
    fn was_counted(&self, delivery: &Delivery) -> bool {
        if !self.doomed {
            return true;
        }
        let browsed = self.queue(RETRIED).and_then(|queue| queue.browse());
        let browsed = browsed.ok().into_iter().flatten().filter_map(Result::ok);
        let mut same = browsed.filter(|it| it.offset() == delivery.offset());
        same.next().is_none_or(|it| it.attempts() == delivery.attempt())
    }

    /// A receive was cut off, somewhere in the midst of its commits: some messages have become dead
    /// letters, and one more may have been counted.
    fn may_have_counted(&mut self, free: &Unacked, buried: &[u64]) {
        let others: Vec<u64> = free.keys().copied().filter(|it| !buried.contains(it)).collect();
        for count in 0..=buried.len() {
            if let Some(last) = count.checked_sub(1) {
                self.commit_burial(buried[last]);
            }
            let base = self.now().clone();
            for offset in &others {
                let mut counted = base.clone();
                let unacked = &mut counted.queues.get_mut(RETRIED).unwrap().unacked;
                let entry = unacked.get_mut(offset).unwrap();
                entry.attempts += 1;
                entry.waits = false;
                self.committed(|state| *state = counted);
            }
            self.committed(|state| *state = base);
        }
    }

    /// A message was moved to the dead letters, in a commit of its own.
    fn commit_burial(&mut self, offset: u64) {
        let letter = self.now().queues[DEAD].next;
        let now = self.time;
        self.committed(|state| bury(state, offset, now));
        self.bear(&Whose::Queue(DEAD.to_owned()), letter, 1);
    }

    /// What has come to the dead letters with the last commit.
    fn bear_letters(&mut self, before: u64) {
        let after = self.letters();
        self.bear(&Whose::Queue(DEAD.to_owned()), before, after - before);
    }

    /// How many dead letters there have ever been.
    fn letters(&self) -> u64 {
        self.now().queues.get(DEAD).map_or(0, |queue| queue.next)
    }

    fn send_later(&mut self, queue: Name, bytes: u16, how: How) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let Some(offset) = self.now().queues.get(&name).map(|queue| queue.next) else {
            return Ok(Some(()));
        };
        // Now and then so many that they do not stay in memory.
        let count = if self.numbered.is_multiple_of(3) { 9 } else { 1 };
        let messages = self.messages(count, bytes);
        let (message, now) = (messages[0].message().deliver_after(WAIT), self.time);
        let queue = self.queue(&name)?;
        let sent = match how {
            _ if count > 1 => {
                let batch = messages.iter().map(|it| it.message().deliver_after(WAIT));
                queue.durability(durability(how)).send_batch(batch).map(|range| range.start)
            }
            How::Ticket => queue.send_ticket(message).map(|it| *it.value().unwrap()),
            How::Waited => queue.send_ticket(message).and_then(Ticket::wait),
            how => queue.durability(durability(how)).send(message),
        };
        let done = self.commit_as(how, sent, |state| {
            let queue = state.queues.get_mut(&name).unwrap();
            queue.send(&messages, now);
            queue.unacked.range_mut(offset..).for_each(|(_, entry)| entry.waits = true);
        })?;
        let whose = Whose::Queue(name);
        self.bear(&whose, offset, u64::from(count));
        for offset in offset..offset + u64::from(count) {
            self.waits_since.insert((whose.clone(), offset), self.time);
        }
        Ok(done.map(|sent| assert_eq!(sent, Offset(offset))))
    }

    fn send_brief(&mut self, queue: Name, bytes: u16, how: How) -> Result<Option<()>, Error> {
        let message = self.messages(1, bytes).remove(0).brief();
        self.send_one(&queue_name(queue), &message, Some(BRIEF), how)
    }

    fn send_urgent(&mut self, queue: Name, bytes: u16, how: How) -> Result<Option<()>, Error> {
        let message = self.messages(1, bytes).remove(0).urgent();
        self.send_one(&queue_name(queue), &message, None, how)
    }

    fn send_one(
        &mut self,
        name: &str,
        message: &Msg,
        life: Option<Duration>,
        how: How,
    ) -> Result<Option<()>, Error> {
        let Some(offset) = self.now().queues.get(name).map(|queue| queue.next) else {
            return Ok(Some(()));
        };
        let (queue, now) = (self.queue(name)?, self.time);
        let Some(dropped) = self.dropped(name, 1) else {
            return self.expect(queue.send(message.message()).map(drop), ErrorKind::QueueFull);
        };
        let sent = match how {
            How::Ticket => queue.send_ticket(message.message()).map(|it| *it.value().unwrap()),
            How::Waited => queue.send_ticket(message.message()).and_then(Ticket::wait),
            how => queue.durability(durability(how)).send(message.message()),
        };
        let done = self.commit_as(how, sent, |state| {
            let queue = state.queues.get_mut(name).unwrap();
            queue.unacked.retain(|offset, _| !dropped.contains(offset));
            queue.send_living(std::slice::from_ref(message), life, now);
        })?;
        self.bear(&Whose::Queue(name.to_owned()), offset, 1);
        Ok(done.map(|sent| assert_eq!(sent, Offset(offset))))
    }

    fn publish_brief(&mut self, topic: Name, bytes: u16, how: How) -> Result<Option<()>, Error> {
        let name = text("topic", topic);
        let Some(offset) = self.now().topics.get(&name).map(|topic| topic.next) else {
            return Ok(Some(()));
        };
        let (message, now) = (self.messages(1, bytes).remove(0).brief(), self.time);
        let how = if how == How::Ticket { How::Buffered } else { how };
        let topic = self.topic(&name)?.durability(durability(how));
        let published = topic.publish(message.message());
        let done = self.commit_as(how, published, |state| {
            state.topics.get_mut(&name).unwrap().publish_living(&[message], Some(BRIEF), now);
        })?;
        for subscription in self.now().topics[&name].subscriptions.clone().into_keys() {
            self.bear(&Whose::Subscription(name.clone(), subscription), offset, 1);
        }
        Ok(done.map(|published| assert_eq!(published, Offset(offset))))
    }

    /// The messages of a queue that are not on lease.
    fn idle(&self, name: &str) -> Option<Vec<u64>> {
        self.idle_of(&Whose::Queue(name.to_owned()))
    }

    fn idle_of(&self, whose: &Whose) -> Option<Vec<u64>> {
        let held =
            |n: &u64| self.held.iter().any(|it| it.whose == *whose && it.delivery.offset().0 == *n);
        let unacked = unacked(self.now(), whose)?;
        Some(unacked.keys().copied().filter(|n| !held(n)).collect())
    }

    fn remove(&mut self, queue: Name, which: u8) -> Result<Option<()>, Error> {
        let name = queue_name(queue);
        let idle = self.idle(&name).unwrap_or_default();
        if idle.is_empty() {
            return Ok(Some(()));
        }
        let offset = idle[usize::from(which) % idle.len()];
        let removed = self.queue(&name).and_then(|queue| queue.remove(Offset(offset)));
        let done = self.commit(removed, |state| {
            state.queues.get_mut(&name).unwrap().unacked.remove(&offset);
        })?;
        Ok(done.map(|removed| assert!(removed, "message {offset} was there")))
    }

    fn purge(&mut self, whose: &Whose) -> Result<Option<()>, Error> {
        let Some(idle) = self.idle_of(whose) else { return Ok(Some(())) };
        let purged = match whose {
            Whose::Queue(name) => self.queue(name).and_then(|queue| queue.purge()),
            Whose::Subscription(topic, name) => {
                self.subscription(topic, name).and_then(|it| it.purge())
            }
        };
        let done = self.commit(purged, |state| {
            unacked_mut(state, whose).retain(|offset, _| !idle.contains(offset));
        })?;
        Ok(done.map(|purged| assert_eq!(purged, idle.len() as u64)))
    }

    fn redrive(&mut self) -> Result<Option<()>, Error> {
        let (Some(idle), true) = (self.idle(DEAD), self.now().queues.contains_key(RETRIED)) else {
            return Ok(Some(()));
        };
        let redriven = self.queue(DEAD).and_then(|dead| dead.redrive().run());
        // Those that are not visible yet stay, and those that cannot be read.
        let done = self.outcome(redriven)?;
        let moved = match (self.world.copy(), done) {
            (Some(_), _) => self.find_gone(&Whose::Queue(DEAD.to_owned()), &idle),
            (None, Some(done)) => idle[..done.moved as usize].to_vec(),
            (None, None) => unreachable!("only what can be copied fails"),
        };
        if let Some(done) = done {
            assert_eq!(done.moved, moved.len() as u64);
        }
        let (first, now) = (self.now().queues[RETRIED].next, self.time);
        for (n, offset) in moved.iter().copied().enumerate() {
            self.committed(|state| {
                let letter = state.queues.get_mut(DEAD).unwrap().unacked.remove(&offset).unwrap();
                let message = Msg { note: None, ..letter.msg };
                // What the message said of its life is forgotten among the dead letters.
                state.queues.get_mut(RETRIED).unwrap().send(&[message], now);
            });
            self.bear(&Whose::Queue(RETRIED.to_owned()), first + n as u64, 1);
        }
        if done.is_some() && self.hides_unsynced && !moved.is_empty() {
            self.is_durable();
        }
        Ok(done.map(drop))
    }

    fn settle(&mut self, n: u8, how: Settling) -> Result<Option<()>, Error> {
        if self.held.is_empty() {
            return Ok(Some(()));
        }
        self.settle_at(usize::from(n) % self.held.len(), how)
    }

    fn settle_at(&mut self, index: usize, how: Settling) -> Result<Option<()>, Error> {
        if how == Settling::Reject && !self.held[index].whose.is_retried() {
            let error = self.held[index].delivery.reject("no").unwrap_err().kind();
            assert_eq!(error, ErrorKind::InvalidInput { field: "dead_letter_queue" });
            return Ok(Some(()));
        }
        let Held { whose, delivery, granted, until } = self.held.swap_remove(index);
        let is_bounded = whose == Whose::Queue(BOUNDED.to_owned());
        // Which of those that wait are dropped is none of the model's business.
        let how = if is_bounded && how == Settling::NackAfter { Settling::Nack } else { how };
        let result = match how {
            Settling::Ack => delivery.ack(),
            Settling::Nack => delivery.nack(),
            Settling::NackAfter => delivery.nack_after(WAIT),
            Settling::Reject => delivery.reject("no"),
        };
        let offset = delivery.offset().0;
        let died = result.is_err();
        let (letters, now) = (self.letters(), self.time);
        let settled = self.commit(result, |state| settle_in(state, &whose, offset, how, now))?;
        self.bear_letters(letters);
        self.note_wait(&whose, offset, how);
        if died {
            // Dropping it now might count a failure; it goes with this life.
            self.held.push(Held { whose, delivery, granted, until });
        } else if !self.doomed {
            let again = delivery.ack().expect_err("it was settled");
            assert_eq!(again.kind(), ErrorKind::LeaseLost);
        }
        Ok(settled)
    }

    fn churn(&mut self, queue: Name, rounds: u8, how: How) -> Result<Option<()>, Error> {
        // Either they die young, or they die in segments.
        let at_once = rounds.is_multiple_of(2);
        if at_once {
            for _ in 0..rounds {
                if self.send(queue, 6, 190, how)?.is_none() {
                    return Ok(None);
                }
            }
            let made = self.engine().checkpoint();
            if self.durably(made)?.is_none() {
                return Ok(None);
            }
        }
        for round in 0..rounds {
            if !at_once && self.send(queue, 6, 190, how)?.is_none() {
                return Ok(None);
            }
            // One in seven stays.
            for n in 0..6 {
                let held = self.held.len();
                if self.receive(Whose::Queue(queue_name(queue)))?.is_none() {
                    return Ok(None);
                }
                let is_new = self.held.len() > held;
                if is_new && (u32::from(round) * 6 + n) % 7 != 0 && self.settle_last()?.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    }

    /// A message comes, and is moved to the dead letters after so many moments.
    fn die(&mut self, moments: u8, how: How) -> Result<Option<()>, Error> {
        if self.send(RETRIED_NAME, 1, 60, how)?.is_none() {
            return Ok(None);
        }
        if self.time_passes(MOMENT * u32::from(moments))?.is_none() {
            return Ok(None);
        }
        let held = self.held.len();
        if self.receive(Whose::Queue(RETRIED.to_owned()))?.is_none() {
            return Ok(None);
        }
        if self.held.len() == held {
            return Ok(Some(()));
        }
        self.settle_at(held, Settling::Reject)
    }

    fn settle_last(&mut self) -> Result<Option<()>, Error> {
        let last = self.held.len() - 1;
        self.settle_at(last, Settling::Ack)
    }

    fn drop_delivery(&mut self, n: u8) -> Result<Option<()>, Error> {
        if self.held.is_empty() {
            return Ok(Some(()));
        }
        let index = usize::from(n) % self.held.len();
        let Held { whose, delivery, .. } = self.held.swap_remove(index);
        self.drop_one(&whose, delivery);
        // If the power was off, nobody was told.
        Ok(if self.doomed { None } else { Some(()) })
    }

    fn drop_one(&mut self, whose: &Whose, delivery: Delivery) {
        let offset = delivery.offset().0;
        drop(delivery);
        let (letters, now) = (self.letters(), self.time);
        self.committed(|state| settle_in(state, whose, offset, Settling::Nack, now));
        self.bear_letters(letters);
    }

    /// Deliveries of something that is about to be deleted. Their leases end with it.
    fn forget_held(&mut self, of: impl Fn(&Whose) -> bool) {
        let mut kept = Vec::new();
        for held in std::mem::take(&mut self.held) {
            if of(&held.whose) {
                // Counts a failure of a message that is about to be gone.
                let Held { whose, delivery, .. } = held;
                self.drop_one(&whose, delivery);
            } else {
                kept.push(held);
            }
        }
        self.held = kept;
        self.fresh.retain(|(whose, _), _| !of(whose));
        self.seen.retain(|(whose, _)| !of(whose));
        self.waits_since.retain(|(whose, _), _| !of(whose));
        self.born.retain(|(whose, _), _| !of(whose));
    }

    fn time_passes(&mut self, by: Duration) -> Result<Option<()>, Error> {
        if !self.world.advance(by) {
            return Ok(Some(()));
        }
        self.time += by.as_millis() as u64;
        let now = self.time;
        let mut ended: BTreeMap<Whose, Vec<Delivery>> = BTreeMap::new();
        let mut lapsed: Vec<Held> = self.held.extract_if(.., |it| it.until <= now).collect();
        lapsed.sort_unstable_by_key(|it| it.granted);
        for Held { whose, delivery, .. } in lapsed {
            ended.entry(whose).or_default().push(delivery);
        }
        while let Some((whose, deliveries)) = ended.pop_first() {
            for delivery in deliveries.iter().filter(|_| !self.doomed) {
                assert_eq!(delivery.ack().expect_err("too late").kind(), ErrorKind::LeaseLost);
                let mut tx = self.engine().transaction();
                tx.ack(delivery);
                assert_eq!(tx.commit().expect_err("too late").kind(), ErrorKind::LeaseLost);
            }
            // Looking has the engine count the failures, in one commit.
            let looked = match &whose {
                Whose::Queue(name) => self.queue(name).and_then(|it| it.in_flight()),
                Whose::Subscription(topic, name) => {
                    self.subscription(topic, name).and_then(|it| it.in_flight())
                }
            };
            let looked = self.outcome(looked)?;
            let is_last = |it: &&Delivery| whose.is_retried() && it.attempt() >= ATTEMPTS_MAX;
            self.committed(|state| {
                for delivery in deliveries.iter().filter(|it| !is_last(it)) {
                    settle_in(state, &whose, delivery.offset().0, Settling::Nack, now);
                }
            });
            for delivery in deliveries.iter().filter(is_last) {
                self.commit_burial(delivery.offset().0);
            }
            if self.doomed || looked.is_none() {
                // If the power was off, nobody was told. Dropping the others now would count
                // them, or not; they go with this life.
                let held = |whose: Whose| {
                    move |delivery| Held { whose: whose.clone(), delivery, granted: 0, until: 0 }
                };
                let rest = ended.into_iter();
                self.held.extend(rest.flat_map(|(whose, all)| all.into_iter().map(held(whose))));
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn seek(&mut self, stream: Name, group: Name, to: u8) -> Result<Option<()>, Error> {
        let (stream, group) = (text("stream", stream), text("group", group));
        let Some((partition, offset)) = self.seek_target(&stream, &group, to) else {
            return Ok(Some(()));
        };
        let handle = self.stream(&stream).and_then(|stream| stream.group(&group).open());
        let behind = Offset(self.now().streams[&stream].partitions[partition as usize].next + 1);
        if let Ok(handle) = &handle
            && !self.doomed
        {
            let error = handle.commit(partition, behind).expect_err("behind the end");
            assert!(matches!(error.kind(), ErrorKind::InvalidInput { field: "offset" }));
        }
        let committed = handle.and_then(|group| group.commit(partition, Offset(offset)));
        self.commit(committed, |state| seek_in(state, &stream, &group, partition, offset))
    }

    fn seek_target(&self, stream: &str, group: &str, to: u8) -> Option<(u32, u64)> {
        let stream = self.now().streams.get(stream)?;
        stream.groups.get(group)?;
        let partition = u32::from(to % 2);
        let next = stream.partitions[partition as usize].next;
        Some((partition, u64::from(to) % (next + 1)))
    }

    fn trim(&mut self, stream: Name, to: u8) -> Result<Option<()>, Error> {
        let name = text("stream", stream);
        let Some(stream) = self.now().streams.get(&name) else {
            return Ok(Some(()));
        };
        let number = u32::from(to % 2);
        let offset = u64::from(to) % (stream.partitions[number as usize].next + 1);
        let trimmed = self
            .stream(&name)
            .and_then(|stream| stream.partition(number)?.trim_before(Offset(offset)));
        self.commit(trimmed, |state| {
            let stream = state.streams.get_mut(&name).unwrap();
            let partition = &mut stream.partitions[number as usize];
            partition.start = partition.start.max(offset);
            partition.records = partition.records.split_off(&partition.start);
        })
    }

    fn transact(&mut self, parts: &[TxPart], how: How) -> Result<Option<()>, Error> {
        let mut state = self.now().clone();
        let mut tx = self.engine().transaction();
        tx.durability(durability(how));
        let mut settled: Vec<usize> = Vec::new();
        let mut born = Vec::new();
        for part in parts {
            self.add_part(part, &mut tx, &mut state, &mut settled, &mut born);
        }
        let result = match how {
            How::Ticket => tx.commit_ticket().map(drop),
            How::Waited => tx.commit_ticket().and_then(Ticket::wait).map(drop),
            _ => tx.commit().map(drop),
        };
        // A transaction of nothing is no commit.
        let how = if state == *self.now() { How::Buffered } else { how };
        let letters = self.letters();
        let done = self.commit_as(how, result, |now| *now = state)?;
        self.bear_letters(letters);
        for (whose, offset) in born {
            self.bear(&whose, offset, 1);
        }
        if done.is_none() {
            return Ok(None);
        }
        settled.sort_unstable();
        for index in settled.into_iter().rev() {
            let held = self.held.remove(index);
            assert!(held.delivery.ack().is_err(), "it was settled by the transaction");
        }
        Ok(done)
    }

    fn add_part(
        &mut self,
        part: &TxPart,
        tx: &mut Transaction,
        state: &mut State,
        settled: &mut Vec<usize>,
        born: &mut Vec<(Whose, u64)>,
    ) {
        match part {
            TxPart::Send(name) => {
                let name = queue_name(*name);
                let message = self.messages(1, 50);
                if let (Some(queue), Ok(handle)) = (state.queues.get_mut(&name), self.queue(&name))
                {
                    // What makes room for it depends on what else the transaction does.
                    if name == BOUNDED && queue.unacked.len() as u64 >= MESSAGES_MAX {
                        return;
                    }
                    born.push((Whose::Queue(name), queue.next));
                    queue.send(&message, self.time);
                    tx.send(&handle, message[0].message());
                }
            }
            TxPart::SendLater(name) => {
                let name = queue_name(*name);
                let message = self.messages(1, 50);
                if let (Some(queue), Ok(handle)) = (state.queues.get_mut(&name), self.queue(&name))
                {
                    let (whose, offset) = (Whose::Queue(name), queue.next);
                    queue.send(&message, self.time);
                    queue.unacked.get_mut(&offset).unwrap().waits = true;
                    tx.send(&handle, message[0].message().deliver_after(WAIT));
                    self.waits_since.insert((whose.clone(), offset), self.time);
                    born.push((whose, offset));
                }
            }
            TxPart::SendBrief(name) => {
                let name = queue_name(*name);
                let message = self.messages(1, 50).remove(0).brief();
                if let (Some(queue), Ok(handle)) = (state.queues.get_mut(&name), self.queue(&name))
                {
                    born.push((Whose::Queue(name), queue.next));
                    tx.send(&handle, message.message());
                    queue.send_living(&[message], Some(BRIEF), self.time);
                }
            }
            TxPart::SendUrgent(name) => {
                let name = queue_name(*name);
                let message = self.messages(1, 50).remove(0).urgent();
                if let (Some(queue), Ok(handle)) = (state.queues.get_mut(&name), self.queue(&name))
                {
                    if name == BOUNDED && queue.unacked.len() as u64 >= MESSAGES_MAX {
                        return;
                    }
                    born.push((Whose::Queue(name), queue.next));
                    tx.send(&handle, message.message());
                    queue.send(&[message], self.time);
                }
            }
            TxPart::Publish(name) => {
                let name = text("topic", *name);
                let message = self.messages(1, 50);
                if let (Some(topic), Ok(handle)) = (state.topics.get_mut(&name), self.topic(&name))
                {
                    for subscription in topic.subscriptions.keys() {
                        let whose = Whose::Subscription(name.clone(), subscription.clone());
                        born.push((whose, topic.next));
                    }
                    topic.publish(&message);
                    tx.publish(&handle, message[0].message());
                }
            }
            TxPart::Append(name) => {
                let name = text("stream", *name);
                let mut message = self.messages(1, 50).remove(0);
                message.key = Some(b"tx".to_vec());
                if let (Some(stream), Ok(handle)) =
                    (state.streams.get_mut(&name), self.stream(&name))
                {
                    stream.append(&message);
                    tx.append(&handle, Message::from(&message.message()));
                }
            }
            TxPart::Ack(n) | TxPart::Nack(n) | TxPart::NackAfter(n) => {
                let how = match part {
                    TxPart::Ack(_) => Settling::Ack,
                    TxPart::Nack(_) => Settling::Nack,
                    _ => Settling::NackAfter,
                };
                let index = usize::from(*n) % self.held.len().max(1);
                if index < self.held.len() && !settled.contains(&index) {
                    settled.push(index);
                    let Held { whose, delivery, .. } = &self.held[index];
                    let is_bounded = *whose == Whose::Queue(BOUNDED.to_owned());
                    let waits = how == Settling::NackAfter;
                    let how = if is_bounded && waits { Settling::Nack } else { how };
                    let offset = delivery.offset().0;
                    settle_in(state, whose, offset, how, self.time);
                    match how {
                        Settling::Ack => tx.ack(delivery),
                        Settling::Nack => tx.nack(delivery),
                        _ => tx.nack_after(delivery, WAIT),
                    };
                    let whose = whose.clone();
                    self.note_wait(&whose, offset, how);
                }
            }
            TxPart::Seek { stream, group, to } => {
                let (stream, group) = (text("stream", *stream), text("group", *group));
                if let Some((partition, offset)) = self.seek_target(&stream, &group, *to)
                    && let Ok(handle) = self.stream(&stream)
                    && let Ok(handle) = handle.group(&group).open()
                {
                    tx.commit_offset(&handle, partition, Offset(offset));
                    seek_in(state, &stream, &group, partition, offset);
                }
            }
        }
    }
}

/// The simulated power is off, or a call fails as was ordered; or a sync failed because of it.
fn is_of_power(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::DiskFull | ErrorKind::Poisoned)
}

/// The lease of all queues and subscriptions here, but for the dead letters.
const LEASE: Duration = Duration::from_secs(60);

fn durability(how: How) -> Durability {
    match how {
        How::Sync | How::Waited => Durability::Sync,
        How::Buffered | How::Ticket => Durability::Buffered,
    }
}

/// What passes at a time. Lives and waits are so many of these, so that they end on the dot; leases
/// are not, so that none ends at the very end of it.
const MOMENT: Duration = Duration::from_millis(15_007);

/// How long messages wait that are to wait: less than a lease.
const WAIT: Duration = Duration::from_millis(30_014);

/// So many messages are dropped at once in an order that is not known.
const UNORDERED_MAX: usize = 3;

impl Whose {
    fn is_ordered(&self) -> bool {
        matches!(self, Whose::Subscription(_, name) if name == ORDERED)
    }

    fn is_retried(&self) -> bool {
        matches!(self, Whose::Queue(name) if name == RETRIED)
    }

    fn lease(&self) -> Duration {
        let is_by_default = *self == Whose::Queue(DEAD.to_owned());
        if is_by_default { Duration::from_secs(30) } else { LEASE }
    }

    /// Whether a message was tried so often that it belongs to the dead letters.
    fn is_worn_out(&self, entry: &Entry) -> bool {
        self.is_retried() && entry.attempts >= ATTEMPTS_MAX
    }
}

/// What is in a queue or a subscription.
fn offsets_of(engine: &Engine, whose: &Whose) -> Result<BTreeSet<u64>, Error> {
    let browse = match whose {
        Whose::Queue(name) => engine.queue(name).open()?.browse()?,
        Whose::Subscription(topic, name) => {
            engine.topic(topic).open()?.subscription(name).open()?.browse()?
        }
    };
    browse.map(|it| Ok(it?.offset().0)).collect()
}

fn unacked<'s>(state: &'s State, whose: &Whose) -> Option<&'s Unacked> {
    match whose {
        Whose::Queue(name) => state.queues.get(name).map(|queue| &queue.unacked),
        Whose::Subscription(topic, name) => state.topics.get(topic)?.subscriptions.get(name),
    }
}

fn unacked_mut<'s>(state: &'s mut State, whose: &Whose) -> &'s mut Unacked {
    match whose {
        Whose::Queue(name) => &mut state.queues.get_mut(name).unwrap().unacked,
        Whose::Subscription(topic, name) => {
            state.topics.get_mut(topic).unwrap().subscriptions.get_mut(name).unwrap()
        }
    }
}

fn settle_in(state: &mut State, whose: &Whose, offset: u64, how: Settling, now: u64) {
    let unacked = unacked_mut(state, whose);
    if how == Settling::Ack {
        unacked.remove(&offset).expect("it was on lease");
        return;
    }
    let entry = unacked.get_mut(&offset).expect("it was on lease");
    if whose.is_retried() {
        // It was counted when it was delivered.
        if how == Settling::Reject || entry.attempts >= ATTEMPTS_MAX {
            return bury(state, offset, now);
        }
    } else {
        entry.attempts += 1;
    }
    entry.waits = how == Settling::NackAfter;
}

fn bury(state: &mut State, offset: u64, now: u64) {
    let entry = state.queues.get_mut(RETRIED).unwrap().unacked.remove(&offset).unwrap();
    let note = Some((RETRIED.to_owned(), offset, entry.attempts));
    state.queues.get_mut(DEAD).unwrap().send(&[Msg { note, ..entry.msg }], now);
}

fn seek_in(state: &mut State, stream: &str, group: &str, partition: u32, offset: u64) {
    let stream = state.streams.get_mut(stream).unwrap();
    stream.groups.get_mut(group).unwrap()[partition as usize] = offset;
}
