//! The cost of a send, a receive and an ack does not depend on how many messages there are. The tests count
//! the work: allocations of the thread, calls and steps of the disk, and bytes written and read. Each kind of
//! queue bears a burden, and then one ten times larger. The costs of its rounds may differ by a
//! fifth.
//!
//! These counts do not show a walk through memory. So `src/delivery/tests.rs` counts the messages that are
//! passed over to find the next one. Other walks are not counted.
//!
//! Not asserted, because its cost is known to grow: sending to a full queue that drops its oldest if all its
//! messages wait or are on lease.

use std::time::Duration;

use posthouse::{
    Delivery, Durability, Engine, IoMode, Message, Options, Overflow, Queue, Subscription, Topic,
    sim::SimDisk,
};

use super::heap::taken;

/// The kind of queue.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    /// Messages are counted when they are delivered, and become dead letters.
    Retried,
    /// Messages with one key come one at a time.
    Ordered,
    /// Its messages have a time to live, and it has a limit of messages.
    Limited,
    /// It is full, and each message that is sent drops the oldest.
    Dropping,
    /// A subscription to a topic, with another beside it that receives nothing.
    Subscribed,
}

/// The messages that are there besides those whose cost is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Burden {
    backlog: u64,
    in_flight: u64,
    /// On lease, by leases that were extended.
    extended: u64,
    /// Delayed.
    delayed: u64,
    /// Nacked, and delivered again later.
    retrying: u64,
    /// Nacked, and due again by now.
    due: u64,
    /// Nacked, and delivered again at once.
    failed: u64,
    dead: u64,
    /// Of one key, behind one of them that is on lease.
    parked: u64,
    /// Of all priorities above the lowest, ready to be delivered.
    urgent: u64,
}

/// Enough for the rounds.
const BACKLOG: u64 = 200;
const ASIDE: u64 = 50;
const LARGER: u64 = 10;

impl Burden {
    /// The burdens that a kind of queue can bear: each alone, and all at once.
    fn all(kind: Kind) -> Vec<Burden> {
        let light = Burden { backlog: BACKLOG, ..Burden::default() };
        let mut every =
            Burden { in_flight: ASIDE, extended: ASIDE, retrying: ASIDE, failed: ASIDE, ..light };
        let mut all = vec![
            light,
            Burden { in_flight: ASIDE, ..light },
            Burden { extended: ASIDE, ..light },
            Burden { retrying: ASIDE, ..light },
            Burden { failed: ASIDE, ..light },
        ];
        match kind {
            Kind::Ordered => {
                all.push(Burden { parked: ASIDE, ..light });
                // Not all at once. If failed messages alternate with messages that are to be parked, parking
                // them takes as many rounds, and each of these rounds reads one message in vain.
                (every.parked, every.failed) = (ASIDE, 0);
            }
            Kind::Subscribed => {}
            Kind::Plain | Kind::Retried | Kind::Limited | Kind::Dropping => {
                all.push(Burden { delayed: ASIDE, ..light });
                all.push(Burden { urgent: BACKLOG, ..light });
                all.push(Burden { due: BACKLOG, ..light });
                (every.delayed, every.urgent) = (ASIDE, BACKLOG);
            }
        }
        if kind == Kind::Retried {
            all.push(Burden { dead: ASIDE, ..light });
            every.dead = ASIDE;
        }
        all.push(every);
        all
    }

    fn larger(self) -> Burden {
        let Burden { backlog, in_flight, extended, delayed, retrying, .. } = self;
        let Burden { failed, dead, parked, urgent, due, .. } = self;
        Burden {
            backlog: backlog * LARGER,
            in_flight: in_flight * LARGER,
            extended: extended * LARGER,
            delayed: delayed * LARGER,
            retrying: retrying * LARGER,
            failed: failed * LARGER,
            dead: dead * LARGER,
            parked: parked * LARGER,
            urgent: urgent * LARGER,
            due: due * LARGER,
        }
    }
}

/// The handles to send to, and to receive from.
enum Place {
    Queue(Queue),
    Topic(Topic, Subscription),
}

impl Place {
    fn create(engine: &Engine, kind: Kind, all: u64) -> Place {
        let builder = engine.queue("q").lease(HOUR).backoff(posthouse::Backoff::None);
        let queue = match kind {
            Kind::Plain => builder,
            Kind::Retried => builder.max_attempts(3),
            Kind::Ordered => builder.ordered_by_key(true),
            Kind::Limited => builder.time_to_live(HOUR).max_messages(1_000_000).max_bytes(1 << 30),
            Kind::Dropping => builder.max_messages(all).overflow(Overflow::DropOldest),
            Kind::Subscribed => {
                let topic = engine.topic("t").create().unwrap();
                topic.subscription("idle").create().unwrap();
                let subscription = topic
                    .subscription("s")
                    .lease(HOUR)
                    .backoff(posthouse::Backoff::None)
                    .create()
                    .unwrap();
                return Place::Topic(topic, subscription);
            }
        };
        Place::Queue(queue.create().unwrap())
    }

    fn send(&self, message: Message<'_>) {
        match self {
            Place::Queue(queue) => queue.send(message).unwrap(),
            Place::Topic(topic, _) => topic.publish(message).unwrap(),
        };
    }

    fn receive(&self) -> Delivery {
        let received = match self {
            Place::Queue(queue) => queue.try_receive(),
            Place::Topic(_, subscription) => subscription.try_receive(),
        };
        received.unwrap().expect("there are enough")
    }

    /// Sends many messages. They are visible once the engine has synced.
    fn fill(&self, engine: &Engine, count: u64, message: impl Fn(u64) -> Message<'static>) {
        for n in (0..count).step_by(500) {
            let batch = (n..count.min(n + 500)).map(&message);
            let sent = match self {
                Place::Queue(queue) => queue.durability(Durability::Buffered).send_batch(batch),
                Place::Topic(topic, _) => {
                    topic.durability(Durability::Buffered).publish_batch(batch)
                }
            };
            sent.unwrap();
        }
        engine.sync().unwrap();
    }

    /// Receives many messages, and settles their deliveries without a sync.
    fn take(&self, count: u64) -> Vec<Delivery> {
        let receive = |_| match self {
            Place::Queue(queue) => queue.durability(Durability::Buffered).try_receive(),
            Place::Topic(_, it) => it.durability(Durability::Buffered).try_receive(),
        };
        (0..count).map(|n| receive(n).unwrap().expect("there are enough")).collect()
    }

    /// The numbers of all messages, of those that wait, and of those on lease.
    fn stats(&self) -> (u64, u64, u64) {
        let stats = match self {
            Place::Queue(queue) => queue.stats(),
            Place::Topic(_, subscription) => subscription.stats(),
        };
        let stats = stats.unwrap();
        (stats.depth, stats.delayed, stats.in_flight)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const PAYLOAD: [u8; 100] = [7; 100];

fn keyed(what: &str, n: u64) -> Message<'static> {
    Message::new(&PAYLOAD).key(format!("{what} {n}"))
}

/// A queue with its burden.
struct Burdened {
    kind: Kind,
    place: Place,
    disk: SimDisk,
    /// Notes that more messages were sent.
    sent: u64,
    _engine: Engine,
    _held: Vec<Delivery>,
}

impl Burdened {
    fn new(kind: Kind, burden: Burden) -> Burdened {
        let disk = SimDisk::new(1);
        let io = if kind == Kind::Limited { IoMode::Map } else { IoMode::Calls };
        // Small segments of small blocks, so that even a few messages lie in many of them.
        let options = Options::new().io(io).block_bytes(512).segment_bytes(8 << 10);
        let options = options.journal_file_bytes_min(1 << 20).journal_file_bytes_max(1 << 20);
        let engine = options.sim(&disk).open("store").unwrap();
        let waiting = burden.delayed + burden.retrying;
        let idle = burden.backlog + burden.failed + burden.parked + burden.urgent + burden.due;
        let all = idle + burden.in_flight + burden.extended + waiting;
        let place = Place::create(&engine, kind, all);
        let Burden { backlog, in_flight, extended, delayed, retrying, .. } = burden;
        let Burden { failed, dead, parked, urgent, due, .. } = burden;
        let mut held = Vec::new();
        let fill = |count, message: &dyn Fn(u64) -> Message<'static>| {
            place.fill(&engine, count, message);
        };
        fill(dead, &|n| keyed("dead", n));
        place.take(dead).iter().for_each(|it| it.reject("no").unwrap());
        fill(due, &|n| keyed("due", n));
        place.take(due).iter().for_each(|it| it.nack_after(SECOND).unwrap());
        disk.advance(SECOND);
        fill(delayed, &|n| keyed("delayed", n).deliver_after(HOUR));
        fill(retrying, &|n| keyed("retrying", n));
        place.take(retrying).iter().for_each(|it| it.nack_after(HOUR).unwrap());
        fill(failed, &|n| keyed("failed", n));
        let failing = place.take(failed);
        fill(in_flight + extended, &|n| keyed("in flight", n));
        held.extend(place.take(in_flight + extended));
        for delivery in held.iter().take(extended as usize) {
            delivery.extend(HOUR / 2).unwrap();
        }
        fill(parked, &|_| keyed("parked", 0));
        held.extend(place.take(parked.min(1)));
        fill(urgent, &|n| keyed("urgent", n).priority(9 - (n * 9 / urgent) as u8));
        fill(backlog, &|n| keyed("backlog", n / 2));
        failing.into_iter().for_each(|delivery| delivery.nack().unwrap());
        engine.checkpoint().unwrap();
        assert_eq!(place.stats(), (all, waiting, in_flight + extended + parked.min(1)));
        let mut burdened = Burdened { kind, place, disk, sent: 0, _engine: engine, _held: held };
        // The first deliveries after an open walk past the parked messages.
        (0..WARM).for_each(|_| _ = burdened.round());
        burdened
    }

    /// Sends one message, receives one and acks it.
    fn round(&mut self) -> Round {
        self.sent += 1;
        let message = || keyed("round", self.sent);
        if self.kind == Kind::Dropping {
            // The first message has the capacity of the message that was acked.
            self.place.send(message());
        }
        let ((), send) = self.counted(|place| place.send(message()));
        let (delivery, receive) = self.counted(Place::receive);
        let ((), ack) = self.counted(|_| delivery.ack().unwrap());
        Round([send, receive, ack])
    }

    fn counted<T>(&self, act: impl FnOnce(&Place) -> T) -> (T, Work) {
        let before = self.count();
        let value = act(&self.place);
        let after = self.count();
        (value, std::array::from_fn(|n| after[n] - before[n]))
    }

    fn count(&self) -> Work {
        let ((times, bytes), disk) = (taken(), &self.disk);
        [times, bytes, disk.calls(), disk.steps(), disk.bytes_written(""), disk.bytes_read()]
    }
}

impl Drop for Burdened {
    fn drop(&mut self) {
        // Messages on lease must not be counted as failed, one by one.
        self.disk.kill();
    }
}

const ACTS: [&str; 3] = ["send", "receive", "ack"];
const WORK: [&str; 6] =
    ["allocations", "bytes allocated", "calls", "steps", "bytes written", "bytes read"];

type Work = [u64; WORK.len()];

/// The costs of the three acts of a round.
struct Round([Work; ACTS.len()]);

const WARM: u64 = 20;
const ROUNDS: usize = 100;
/// The number of rounds that do not count, in which a larger buffer or another file was needed.
const SPARED: usize = 7;

/// The costs of some rounds together, by act.
fn cost(kind: Kind, burden: Burden) -> [Work; ACTS.len()] {
    let mut burdened = Burdened::new(kind, burden);
    let rounds: Vec<Round> = (0..ROUNDS).map(|_| burdened.round()).collect();
    let work = |act: usize, what: usize| {
        let mut all: Vec<u64> = rounds.iter().map(|it| it.0[act][what]).collect();
        all.sort_unstable();
        all[..ROUNDS - SPARED].iter().sum()
    };
    std::array::from_fn(|act| std::array::from_fn(|what| work(act, what)))
}

fn assert_alike(kind: Kind) {
    for burden in Burden::all(kind) {
        let (small, large) = (cost(kind, burden), cost(kind, burden.larger()));
        for (act, name) in ACTS.iter().enumerate() {
            for (n, what) in WORK.iter().enumerate() {
                let (less, more) = (small[act][n], large[act][n]);
                assert!(
                    more <= less + less / 5,
                    "{kind:?}: {ROUNDS} times to {name} took {less} {what} beside {burden:?}, and \
                     {more} beside {LARGER} times as much"
                );
            }
        }
    }
}

#[test]
fn the_work_of_a_queue_does_not_grow_with_its_burden() {
    assert_alike(Kind::Plain);
}

#[test]
fn the_work_of_a_queue_with_dead_letters_does_not_grow_with_its_burden() {
    assert_alike(Kind::Retried);
}

#[test]
fn the_work_of_a_queue_ordered_by_key_does_not_grow_with_its_burden() {
    assert_alike(Kind::Ordered);
}

#[test]
fn the_work_of_a_queue_with_limits_does_not_grow_with_its_burden() {
    assert_alike(Kind::Limited);
}

#[test]
fn the_work_of_a_queue_that_drops_its_oldest_does_not_grow_with_its_burden() {
    assert_alike(Kind::Dropping);
}

#[test]
fn the_work_of_a_subscription_does_not_grow_with_its_burden() {
    assert_alike(Kind::Subscribed);
}
