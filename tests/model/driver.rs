//! Does actions on an engine and on the model, and compares the two.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use posthouse::{
    Delivery, Durability, Engine, Error, ErrorKind, Message, Offset, Queue, Stream, Subscription,
    Ticket, Topic, Transaction,
};

use super::{
    World,
    action::{Action, ERRORS, How, Name, TIMES, TxPart},
    oracle::Oracle,
    state::{Msg, PartitionState, State, StreamState, dump},
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
    /// The highest offset that was delivered in this life, for each consumer.
    fresh: BTreeMap<Whose, u64>,
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
    /// Examines the moments that the world has recorded.
    oracle: Option<&'a Oracle>,
}

/// How an action ended.
enum Ended {
    Fine,
    /// The power was gone. The commit that was being made may be there or not.
    Dead,
}

fn text(kind: &str, name: Name) -> String {
    format!("{kind} {name}")
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
            born: BTreeMap::new(),
            numbered: 0,
            doomed: false,
            powerless: false,
            proven: vec![0],
            life: 0,
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
        });
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
        if !candidates.contains(&state) {
            let count = candidates.len();
            panic!(
                "recovered a state that is none of the {count} that it may be\nfound: {state:#?}\n\
                 first: {:#?}\nlast: {:#?}",
                candidates[0],
                candidates[count - 1]
            );
        }
        self.states_before = std::mem::replace(&mut self.states, vec![state]);
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
            Action::Receive { queue } => self.receive(Whose::Queue(text("queue", *queue))),
            Action::ReceiveFrom { topic, subscription } => self.receive(Whose::Subscription(
                text("topic", *topic),
                text("subscription", *subscription),
            )),
            Action::Ack(n) => self.settle(*n, true),
            Action::Nack(n) => self.settle(*n, false),
            Action::Drop(n) => self.drop_delivery(*n),
            Action::Seek { stream, group, to } => self.seek(*stream, *group, *to),
            Action::Trim { stream, to } => self.trim(*stream, *to),
            Action::Transaction(parts, how) => self.transact(parts, *how),
            Action::Churn { queue, rounds, how } => self.churn(*queue, *rounds, *how),
            Action::LeasesEnd => self.leases_end(),
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
                self.world.set_clock(TIMES[usize::from(*time) % TIMES.len()]);
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

    fn create_queue(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("queue", name);
        let made = self.engine().queue(&name).lease(LEASE).create().map(drop);
        self.commit(made, |state| {
            state.queues.entry(name).or_default();
        })
    }

    fn delete_queue(&mut self, name: Name) -> Result<Option<()>, Error> {
        let name = text("queue", name);
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
        let made = self
            .topic(&topic)
            .and_then(|topic| topic.subscription(&name).lease(LEASE).create().map(drop));
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
        let name = text("queue", queue);
        let Some(first) = self.now().queues.get(&name).map(|queue| queue.next) else {
            return Ok(Some(()));
        };
        let messages = self.messages(count, bytes);
        let queue = self.queue(&name)?;
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
        let count = messages.len() as u64;
        let Some(offset) = self.commit_as(how, sent, |state| {
            state.queues.get_mut(&name).unwrap().send(&messages);
        })?
        else {
            return Ok(None);
        };
        assert_eq!(offset, Offset(first));
        self.bear(&Whose::Queue(name), first, count);
        Ok(Some(()))
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
        let free: BTreeMap<u64, (Msg, u32)> = unacked
            .iter()
            .filter(|(n, _)| !held.contains(n))
            .map(|(n, m)| (*n, m.clone()))
            .collect();
        let received = match &whose {
            Whose::Queue(name) => self.queue(name).and_then(|queue| queue.try_receive()),
            Whose::Subscription(topic, name) => {
                self.subscription(topic, name).and_then(|it| it.try_receive())
            }
        };
        let Some(received) = self.outcome(received)? else {
            return Ok(None);
        };
        let Some(delivery) = received else {
            // Everything that is free must be hidden: not durable, as far as we were told.
            for offset in free.keys() {
                let born = self.born.get(&(whose.clone(), *offset)).copied().unwrap_or(0);
                assert!(self.hides_unsynced && born > self.floor, "message {offset} is withheld");
            }
            return Ok(Some(()));
        };
        let offset = delivery.offset().0;
        let Some((message, failed)) = free.get(&offset) else {
            panic!("message {offset} of {whose:?} was delivered, which is acked or on lease");
        };
        assert_eq!(*message, Msg::of_delivery(&delivery));
        assert_eq!(failed + 1, delivery.attempt());
        let last = self.fresh.entry(whose.clone()).or_insert(0);
        if offset >= *last {
            let skipped = free.range(*last..offset).next();
            assert!(skipped.is_none(), "{skipped:?} was skipped by {offset}");
            *last = offset + 1;
        }
        if self.hides_unsynced {
            let born = self.born.get(&(whose.clone(), offset)).copied().unwrap_or(0);
            self.floor = self.floor.max(born);
        }
        self.held.push(Held { whose, delivery });
        Ok(Some(()))
    }

    fn settle(&mut self, n: u8, done: bool) -> Result<Option<()>, Error> {
        if self.held.is_empty() {
            return Ok(Some(()));
        }
        self.settle_at(usize::from(n) % self.held.len(), done)
    }

    fn settle_at(&mut self, index: usize, done: bool) -> Result<Option<()>, Error> {
        let Held { whose, delivery } = self.held.swap_remove(index);
        let result = if done { delivery.ack() } else { delivery.nack() };
        let offset = delivery.offset().0;
        let died = result.is_err();
        let settled = self.commit(result, |state| settle_in(state, &whose, offset, done))?;
        if died {
            // Dropping it now might count a failure; it goes with this life.
            self.held.push(Held { whose, delivery });
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
                if self.receive(Whose::Queue(text("queue", queue)))?.is_none() {
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

    fn settle_last(&mut self) -> Result<Option<()>, Error> {
        let last = self.held.len() - 1;
        self.settle_at(last, true)
    }

    fn drop_delivery(&mut self, n: u8) -> Result<Option<()>, Error> {
        if self.held.is_empty() {
            return Ok(Some(()));
        }
        let Held { whose, delivery } = self.held.swap_remove(usize::from(n) % self.held.len());
        let offset = delivery.offset().0;
        drop(delivery);
        self.committed(|state| settle_in(state, &whose, offset, false));
        // If the power was off, nobody was told.
        Ok(if self.doomed { None } else { Some(()) })
    }

    /// Deliveries of something that is about to be deleted. Their leases end with it.
    fn forget_held(&mut self, of: impl Fn(&Whose) -> bool) {
        let mut kept = Vec::new();
        for held in std::mem::take(&mut self.held) {
            if of(&held.whose) {
                // Counts a failure of a message that is about to be gone.
                let Held { whose, delivery } = held;
                let offset = delivery.offset().0;
                drop(delivery);
                self.committed(|state| settle_in(state, &whose, offset, false));
            } else {
                kept.push(held);
            }
        }
        self.held = kept;
        self.fresh.retain(|whose, _| !of(whose));
        self.born.retain(|(whose, _), _| !of(whose));
    }

    fn leases_end(&mut self) -> Result<Option<()>, Error> {
        if !self.world.advance(LEASE + Duration::from_millis(1)) {
            return Ok(Some(()));
        }
        let mut ended: BTreeMap<Whose, Vec<Delivery>> = BTreeMap::new();
        for Held { whose, delivery } in std::mem::take(&mut self.held) {
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
            self.committed(|state| {
                for delivery in &deliveries {
                    settle_in(state, &whose, delivery.offset().0, false);
                }
            });
            if self.doomed || looked.is_none() {
                // If the power was off, nobody was told. Dropping the others now would count
                // them, or not; they go with this life.
                let held = |whose: Whose| move |delivery| Held { whose: whose.clone(), delivery };
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
        let done = self.commit_as(how, result, |now| *now = state)?;
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
                let name = text("queue", *name);
                let message = self.messages(1, 50);
                if let (Some(queue), Ok(handle)) = (state.queues.get_mut(&name), self.queue(&name))
                {
                    born.push((Whose::Queue(name), queue.next));
                    queue.send(&message);
                    tx.send(&handle, message[0].message());
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
            TxPart::Ack(n) | TxPart::Nack(n) => {
                let done = matches!(part, TxPart::Ack(_));
                let index = usize::from(*n) % self.held.len().max(1);
                if index < self.held.len() && !settled.contains(&index) {
                    settled.push(index);
                    let Held { whose, delivery } = &self.held[index];
                    settle_in(state, whose, delivery.offset().0, done);
                    if done {
                        tx.ack(delivery)
                    } else {
                        tx.nack(delivery)
                    };
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

/// The lease of all queues and subscriptions here.
const LEASE: Duration = Duration::from_secs(60);

fn durability(how: How) -> Durability {
    match how {
        How::Sync | How::Waited => Durability::Sync,
        How::Buffered | How::Ticket => Durability::Buffered,
    }
}

fn unacked<'s>(state: &'s State, whose: &Whose) -> Option<&'s BTreeMap<u64, (Msg, u32)>> {
    match whose {
        Whose::Queue(name) => state.queues.get(name).map(|queue| &queue.unacked),
        Whose::Subscription(topic, name) => state.topics.get(topic)?.subscriptions.get(name),
    }
}

fn settle_in(state: &mut State, whose: &Whose, offset: u64, done: bool) {
    let unacked = match whose {
        Whose::Queue(name) => &mut state.queues.get_mut(name).unwrap().unacked,
        Whose::Subscription(topic, name) => {
            state.topics.get_mut(topic).unwrap().subscriptions.get_mut(name).unwrap()
        }
    };
    if done {
        unacked.remove(&offset).expect("it was on lease");
    } else {
        unacked.get_mut(&offset).expect("it was on lease").1 += 1;
    }
}

fn seek_in(state: &mut State, stream: &str, group: &str, partition: u32, offset: u64) {
    let stream = state.streams.get_mut(stream).unwrap();
    stream.groups.get_mut(group).unwrap()[partition as usize] = offset;
}
