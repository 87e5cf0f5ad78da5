//! A small store that has seen most of what a store can see.

use std::collections::BTreeMap;

use posthouse::{Backoff, Engine, Options, sim::SimDisk};

use crate::model::{
    small_options,
    state::{Msg, State, dump},
};

/// All messages that were ever sent, by the log's name and the offset.
pub type History = BTreeMap<(String, u64), Msg>;

/// A small store that has seen most of what a store can see.
pub struct Sample {
    pub disk: SimDisk,
    /// The states after each commit since the last opening, the last state last.
    pub states: Vec<State>,
    pub history: History,
}

pub fn options() -> Options {
    small_options().segment_bytes(4096).block_bytes(512)
}

pub fn open(disk: &SimDisk, path: &str) -> posthouse::Result<Engine> {
    options().sim(disk).open(path)
}

pub fn dumped(disk: &SimDisk, path: &str) -> posthouse::Result<State> {
    let disk = disk.fork(1);
    dump(&open(&disk, path)?)
}

/// Fills a store, and records its content.
pub struct Builder {
    pub engine: Engine,
    pub history: History,
    /// How many messages there were.
    pub number: u64,
    /// Messages have fewer bytes than this.
    pub message_bytes: usize,
    /// Whether a subscription has a filter, which changes.
    pub has_filters: bool,
}

impl Builder {
    fn next(&mut self) -> Msg {
        self.number += 1;
        let pace = 37 * (self.message_bytes / 230).max(1);
        Msg::number(self.number, self.number as usize * pace % self.message_bytes)
    }

    pub fn send(&mut self, name: &str, count: usize) {
        let queue = self.engine.queue(name).backoff(Backoff::None).create().unwrap();
        for _ in 0..count {
            let msg = self.next();
            let offset = queue.send(msg.message()).unwrap();
            self.history.insert((format!("queue {name}"), offset.0), msg);
        }
    }

    pub fn publish(&mut self, name: &str, count: usize) {
        let topic = self.engine.topic(name).create().unwrap();
        for _ in 0..count {
            let msg = self.next();
            let offset = topic.publish(msg.message()).unwrap();
            self.history.insert((format!("topic {name}"), offset.0), msg);
        }
    }

    pub fn append(&mut self, name: &str, count: usize) {
        let stream = self.engine.stream(name).partitions(2).create().unwrap();
        for _ in 0..count {
            let mut msg = self.next();
            msg.key = Some(format!("key {}", self.number % 5).into_bytes());
            let at = stream.append(msg.message()).unwrap();
            self.history.insert((format!("stream {name} {}", at.partition), at.offset.0), msg);
        }
    }

    /// Acks one message in three, counts a failure of one in five, and leaves the others.
    pub fn consume(
        &mut self,
        mut receive: impl FnMut() -> Option<posthouse::Delivery>,
        count: usize,
    ) {
        let mut held = Vec::new();
        for n in 0..count {
            let Some(delivery) = receive() else { break };
            match n % 5 {
                0 | 3 => delivery.ack().unwrap(),
                1 => delivery.nack().unwrap(),
                _ => held.push(delivery),
            }
        }
    }

    fn epoch(&mut self, n: u64) {
        let engine = self.engine.clone();
        self.send("orders", 40);
        let topic = engine.topic("events").create().unwrap();
        let subscription = |name: &str| topic.subscription(name).create().unwrap();
        let (a, b) = (subscription("a"), subscription("b"));
        let filtered = self.has_filters.then(|| {
            let filtered = topic.subscription("filtered").pattern(["a.>", "*.b", "*"][n as usize]);
            filtered.backoff(Backoff::None).create_or_update().unwrap()
        });
        self.publish("events", 30);
        self.append("history", 60);
        let orders = engine.queue("orders").open().unwrap();
        self.consume(|| orders.try_receive().unwrap(), 25);
        engine.checkpoint().unwrap();
        self.consume(|| a.try_receive().unwrap(), 20);
        self.consume(|| b.try_receive().unwrap(), 12);
        self.consume(|| filtered.as_ref().and_then(|it| it.try_receive().unwrap()), 5);
        let history = engine.stream("history").open().unwrap();
        let group = history.group("readers").create().unwrap();
        group.commit(0, posthouse::Offset(n * 11)).unwrap();
        self.send(&format!("short-lived {n}"), 8);
        engine.checkpoint().unwrap();
        engine.queue(&format!("short-lived {n}")).delete().unwrap();
        if n == 1 {
            history.partition(0).unwrap().trim_before(posthouse::Offset(9)).unwrap();
        }
        self.send("orders", 5);
        self.append("history", 9);
    }
}

pub fn sample(close: bool) -> Sample {
    sample_with(false, close)
}

/// As [`sample`], with a subscription that has a filter, which changes.
pub fn filtered_sample(close: bool) -> Sample {
    sample_with(true, close)
}

fn sample_with(has_filters: bool, close: bool) -> Sample {
    let disk = SimDisk::new(3);
    let (mut history, mut number) = (History::new(), 0);
    for n in 0..3 {
        let engine = open(&disk, "store").unwrap();
        let mut builder = Builder { engine, history, number, message_bytes: 230, has_filters };
        builder.epoch(n);
        (history, number) = (builder.history, builder.number);
        if n == 1 {
            drop(builder.engine);
        } else {
            disk.kill();
        }
    }
    let engine = open(&disk, "store").unwrap();
    let mut builder = Builder { engine, history, number, message_bytes: 230, has_filters };
    let mut states = vec![dumped(&disk, "store").unwrap()];
    for n in 0..24 {
        match n % 4 {
            0 => builder.send("orders", 1),
            1 => builder.publish("events", 1),
            2 => builder.append("history", 1),
            _ => {
                let orders = builder.engine.queue("orders").open().unwrap();
                orders.try_receive().unwrap().unwrap().ack().unwrap();
            }
        }
        states.push(dumped(&disk, "store").unwrap());
        if n == 10 && has_filters {
            let topic = builder.engine.topic("events").open().unwrap();
            topic.subscription("filtered").pattern("a.*").create_or_update().unwrap();
            states.push(dumped(&disk, "store").unwrap());
        }
    }
    let Builder { engine, history, .. } = builder;
    if close {
        engine.close().unwrap();
    }
    disk.power_cut();
    Sample { disk, states, history }
}
