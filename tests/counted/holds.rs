//! How long the engine's one mutex is held, in steps of loops, and with what that grows.
//!
//! The holds of all operations are measured at two sizes of each thing of which a store may have many. A hold that
//! does not grow has a fixed bound. Operations whose holds grow are listed by name. The simulated disk has no threads,
//! so the thread of the test does all the work.

use std::{collections::BTreeMap, time::Duration};

use posthouse::{
    Delivery, Durability, Engine, ErrorKind, Message, Offset, Options, Overflow, Position, Queue,
    Start, Threshold, Timestamp,
    sim::{SimDisk, take_longest_holds},
};

/// Of what there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    /// Queues that are in use beside the one that is measured.
    Queues,
    /// Subscriptions of the topic.
    Subscriptions,
    /// Subscriptions with filters that match nothing.
    Filtered,
    /// Partitions of the stream.
    Partitions,
    /// Messages that are ready.
    Ready,
    /// Messages on lease.
    Leased,
    /// Messages that wait until they are due.
    Delayed,
    /// Messages that failed, and are ready again.
    Failed,
    /// Leases that run out together.
    Expired,
    /// Messages that come due together.
    Due,
    /// Messages whose times to live end together.
    Brief,
    /// Messages of one call.
    Batch,
    /// Thresholds of one queue.
    Watches,
    /// Queues that are watched.
    Watched,
    /// Segments on disk.
    Segments,
    /// Messages that waited when the store was opened.
    Reopened,
    /// Messages on lease of a full queue that drops its oldest message.
    Full,
    /// Damaged messages of a queue that is watched.
    Damaged,
    /// Keys of a queue that is ordered by key, each with a message on lease and one behind it.
    Keys,
}

use Thing::*;

const THINGS: [Thing; 19] = [
    Queues,
    Subscriptions,
    Filtered,
    Partitions,
    Ready,
    Leased,
    Delayed,
    Failed,
    Expired,
    Due,
    Brief,
    Batch,
    Watches,
    Watched,
    Segments,
    Reopened,
    Full,
    Damaged,
    Keys,
];

const SMALL: usize = 10;
const LARGE: usize = 210;

const HOUR: Duration = Duration::from_secs(3600);

struct Store {
    thing: Thing,
    count: usize,
    disk: SimDisk,
    engine: Engine,
    queue: Queue,
    /// Things that are there as long as they are held.
    leased: Vec<Delivery>,
    kept: Vec<Box<dyn std::any::Any>>,
}

impl Store {
    fn new(thing: Thing, count: usize) -> Store {
        let disk = SimDisk::new(7);
        let engine = Store::options().sim(&disk).open("store").unwrap();
        let of = |it, otherwise| if thing == it { count } else { otherwise };
        let topic = engine.topic("t").create().unwrap();
        // Without handles their state goes.
        let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
        for n in 0..of(Subscriptions, 1) {
            let subscription = topic.subscription(&format!("s{n}"));
            let subscription = subscription.backoff(posthouse::Backoff::None).create().unwrap();
            kept.push(Box::new(subscription));
        }
        for n in 0..of(Filtered, 0) {
            let subscription = topic.subscription(&format!("f{n}")).pattern(format!("f.{n}"));
            kept.push(Box::new(subscription.create().unwrap()));
        }
        // A segment of the topic, which each subscription passes.
        (0..3).for_each(|_| _ = topic.publish("old news").unwrap());
        engine.stream("stream").partitions(of(Partitions, 1) as u32).create().unwrap();
        let queue =
            engine.queue("q").lease(HOUR).backoff(posthouse::Backoff::None).create().unwrap();
        let mut store = Store { thing, count, disk, engine, queue, leased: Vec::new(), kept };
        store.bear(thing, count);
        _ = take_longest_holds();
        if thing == Reopened {
            store.reopen();
        }
        for _ in 0..20 {
            store.queue.send("work").unwrap();
        }
        store.engine.checkpoint().unwrap();
        store
    }

    fn options() -> Options {
        Options::new().durability(Durability::Buffered).segment_bytes(64 << 10).idle_kept(0)
    }

    fn reopen(&mut self) {
        self.engine.close().unwrap();
        self.engine = Store::options().sim(&self.disk).open("store").unwrap();
        self.queue = self.engine.queue("q").open().unwrap();
    }

    fn take(&self) -> Delivery {
        self.queue.try_receive().unwrap().expect("there are enough")
    }

    fn bear(&mut self, thing: Thing, count: usize) {
        let queue = self.queue.clone();
        let send = |message: Message<'_>| _ = queue.send(message).unwrap();
        match thing {
            Queues => {
                for n in 0..count {
                    let other = self.engine.queue(&format!("other {n}")).create().unwrap();
                    other.send("work").unwrap();
                    self.leased.extend(other.try_receive().unwrap());
                }
            }
            Subscriptions | Filtered | Partitions | Batch => {}
            Ready => (0..count).for_each(|_| send(Message::new("work"))),
            Leased | Failed => {
                (0..count).for_each(|_| send(Message::new("work")));
                self.leased = (0..count).map(|_| self.take()).collect();
                if thing == Failed {
                    self.leased.drain(..).for_each(|it| it.nack().unwrap());
                }
            }
            Delayed | Reopened => {
                (0..count).for_each(|_| send(Message::new("work").deliver_after(HOUR)));
            }
            Due => {
                let second = Duration::from_secs(1);
                (0..count).for_each(|_| send(Message::new("work").deliver_after(second)));
            }
            Brief => {
                let second = Duration::from_secs(1);
                (0..count).for_each(|_| send(Message::new("work").expire_after(second)));
            }
            Expired => {
                (0..count).for_each(|_| send(Message::new("work")));
                let second = Duration::from_secs(1);
                let leased: Vec<_> = (0..count).map(|_| self.take()).collect();
                leased.iter().for_each(|it| it.extend(second).unwrap());
                self.leased = leased;
            }
            Watches => {
                for n in 0..count {
                    let threshold = match n % 2 {
                        0 => Threshold::Depth(1 << 40),
                        _ => Threshold::OldestAge(HOUR * 24),
                    };
                    self.kept.push(Box::new(queue.watch(threshold, |_| {}).unwrap()));
                }
            }
            Watched => {
                for n in 0..count {
                    let other = self.engine.queue(&format!("other {n}")).create().unwrap();
                    self.kept.push(Box::new(other.watch(Threshold::Depth(2), |_| {}).unwrap()));
                    self.kept.push(Box::new(other));
                }
            }
            Full => {
                let full = self.engine.queue("full").lease(HOUR).max_messages(count as u64);
                let full = full.overflow(Overflow::DropOldest).create().unwrap();
                (0..count).for_each(|_| _ = full.send("work").unwrap());
                self.leased = (0..count).map(|_| full.try_receive().unwrap().unwrap()).collect();
                self.kept.push(Box::new(full));
            }
            Damaged => self.bear_damage(count),
            Keys => {
                let ordered = self.engine.queue("keys").lease(HOUR).ordered_by_key(true);
                let ordered = ordered.create().unwrap();
                for n in (0..count).chain(0..count) {
                    ordered.send(Message::new("work").key(n.to_string())).unwrap();
                }
                self.leased = (0..count).map(|_| ordered.try_receive().unwrap().unwrap()).collect();
                assert!(ordered.try_receive().unwrap().is_none(), "the others are parked");
            }
            Segments => {
                let stream = self.engine.stream("stream").open().unwrap();
                for _ in 0..count {
                    stream.append(vec![7; 64 << 10]).unwrap();
                    self.engine.checkpoint().unwrap();
                }
            }
        }
    }

    /// Lets messages rot on disk, and has a consumer find them. The queue is watched.
    fn bear_damage(&mut self, count: usize) {
        (0..count).for_each(|_| _ = self.queue.send("rotten").unwrap());
        self.engine.checkpoint().unwrap();
        self.engine.close().unwrap();
        for path in self.disk.files() {
            let mut content = self.disk.content(&path).unwrap();
            let places: Vec<usize> =
                (0..content.len()).filter(|at| content[*at..].starts_with(b"rotten")).collect();
            if path.starts_with("store/segments") && !places.is_empty() {
                places.iter().for_each(|at| content[*at] ^= 1);
                self.disk.plant(&path, Some(content));
            }
        }
        self.reopen();
        for _ in 0..count {
            assert_eq!(self.queue.try_receive().unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(self.queue.stats().unwrap().damaged, count as u64);
        let watch = self.queue.watch(Threshold::Depth(1 << 40), |_| {}).unwrap();
        self.kept.push(Box::new(watch));
    }

    /// One of each operation. Returns the longest hold of each.
    fn round(&mut self, batch: usize) -> BTreeMap<&'static str, u64> {
        let brief = Message::new("brief").expire_after(Duration::from_secs(1));
        self.queue.send(brief).unwrap();
        self.disk.advance(Duration::from_secs(2));
        assert!(self.queue.stats().unwrap().expired > 0);
        self.queue_round();
        self.batch_round(batch);
        self.topic_round();
        self.stream_round();
        self.catalog_round();
        if let Ok(full) = self.engine.queue("full").open() {
            assert!(full.send("more").is_err(), "all are on lease");
        }
        self.ordered_round();
        self.clock_round();
        self.deletion_round();
        self.engine.sync().unwrap();
        self.engine.verify().unwrap();
        self.engine.checkpoint().unwrap();
        self.queue.purge().unwrap();
        self.engine.close().unwrap();
        take_longest_holds()
    }

    fn queue_round(&self) {
        self.queue.send("work").unwrap();
        self.queue.send(Message::new("work").deliver_after(HOUR)).unwrap();
        self.take().ack().unwrap();
        self.take().nack().unwrap();
        self.take().nack_after(HOUR).unwrap();
        drop(self.take());
        let delivery = self.take();
        delivery.extend(HOUR).unwrap();
        let mut tx = self.engine.transaction();
        tx.ack(&delivery);
        tx.send(&self.queue, "more");
        tx.commit().unwrap();
        drop(self.queue.watch(Threshold::Depth(1 << 30), |_| {}).unwrap());
        self.queue.stats().unwrap();
        self.queue.in_flight().unwrap();
        let is_damaged = self.thing == Damaged;
        assert!(self.queue.oldest_age().unwrap().is_some(), "damaged ones are passed over");
        let first = self.queue.browse().unwrap().next().unwrap();
        assert_eq!(first.is_err(), is_damaged);
        let first = first.map_or_else(|error| error.offset().unwrap(), |first| first.offset());
        assert!(self.queue.remove(first).unwrap());
    }

    /// Removes a message of a key that is on lease, and one that waits behind it.
    fn ordered_round(&self) {
        let ordered = self.engine.queue("keys").lease(HOUR).ordered_by_key(true);
        let ordered = ordered.create().unwrap();
        for _ in 0..2 {
            ordered.send(Message::new("work").key("one more")).unwrap();
        }
        let leased = ordered.try_receive().unwrap().expect("its key is free");
        assert!(ordered.try_receive().unwrap().is_none());
        let parked = Offset(leased.offset().0 + 1);
        assert!(ordered.remove(parked).unwrap());
        assert!(ordered.remove(leased.offset()).unwrap());
    }

    /// Deletes a topic with its subscriptions, and a stream with its groups.
    fn deletion_round(&self) {
        let of = |it, otherwise| if self.thing == it { self.count } else { otherwise };
        let topic = self.engine.topic("old topic").create().unwrap();
        let names = (0..of(Subscriptions, 1)).map(|n| format!("s{n}"));
        let all: Vec<_> = names.map(|it| topic.subscription(&it).create().unwrap()).collect();
        assert_eq!(topic.subscriptions().unwrap().len(), all.len());
        self.engine.topic("old topic").delete().unwrap();
        let stream = self.engine.stream("old stream").partitions(of(Partitions, 1) as u32);
        stream.create().unwrap().group("g").create().unwrap();
        self.engine.stream("old stream").delete().unwrap();
    }

    /// Sets the clock. A receive looks at it, and so does a commit.
    fn clock_round(&self) {
        self.disk.set_now(Timestamp(2_000_000_000_000));
        self.take().ack().unwrap();
        self.disk.set_now(Timestamp(2_000_000_060_000));
        self.queue.send("work").unwrap();
    }

    fn batch_round(&self, batch: usize) {
        let other = self.engine.queue("batches").create().unwrap();
        other.send_batch((0..batch).map(|_| "work")).unwrap();
        let deliveries = other.receive_batch(batch, Duration::ZERO).unwrap();
        assert_eq!(deliveries.len(), batch);
        other.ack_batch(&deliveries).unwrap();
        let mut tx = self.engine.transaction();
        (0..batch).for_each(|_| _ = tx.send(&other, "work"));
        tx.commit().unwrap();
        other.purge().unwrap();
    }

    fn topic_round(&self) {
        let topic = self.engine.topic("t").open().unwrap();
        topic.publish("news").unwrap();
        let subscription = topic.subscription("s0").open().unwrap();
        for _ in 0..4 {
            subscription.try_receive().unwrap().expect("it was published").ack().unwrap();
        }
        let letters = self.engine.queue("letters").create().unwrap();
        let failing = topic.subscription("failing").max_attempts(1).dead_letter_queue("letters");
        let failing = failing.create().unwrap();
        topic.publish("news").unwrap();
        failing.try_receive().unwrap().expect("it was published").nack().unwrap();
        letters.redrive().run().unwrap();
        assert_eq!((failing.depth().unwrap(), letters.depth().unwrap()), (1, 0));
    }

    fn stream_round(&self) {
        let stream = self.engine.stream("stream").open().unwrap();
        let Position { partition, offset } = stream.append("event").unwrap();
        stream.append_batch(["one", "two"]).unwrap();
        let end = stream.partition(partition).unwrap();
        let conflict = end.append_if(offset, "event").unwrap_err();
        assert!(matches!(conflict.kind(), ErrorKind::Conflict { .. }), "{conflict}");
        let group = stream.group("g").create().unwrap();
        let mut reader = group.reader().unwrap();
        assert!(reader.try_read().unwrap().is_some());
        drop(reader);
        group.commit(partition, offset).unwrap();
        group.lag().unwrap();
        assert!(group.lag_time().unwrap().is_some());
        stream.len().unwrap();
        assert!(stream.stats().unwrap().bytes() > 0);
        end.last().unwrap().expect("there are three");
        assert!(end.reader_back(Start::Latest).unwrap().count() > 0);
        let kept: Vec<Position> = stream.reader(Start::Earliest).unwrap().positions().collect();
        let reader = stream.reader_at(kept).unwrap().until_now().unwrap();
        assert!(reader.count() > 0);
        drop(stream.reader(Start::Time(Timestamp(1))).unwrap());
        stream.partition(partition).unwrap().trim_before(offset).unwrap();
    }

    fn catalog_round(&self) {
        let name = "new";
        let dead = self.engine.queue("new.dead").create().unwrap();
        let new = self.engine.queue(name).max_attempts(1).create().unwrap();
        new.send("work").unwrap();
        new.try_receive().unwrap().expect("it was sent").nack().unwrap();
        dead.redrive().run().unwrap();
        self.engine.queues().unwrap();
        drop(new);
        self.engine.queue(name).delete().unwrap();
    }
}

fn measure(thing: Thing, count: usize) -> BTreeMap<&'static str, u64> {
    let mut store = Store::new(thing, count);
    store.round(if thing == Batch { count } else { 1 })
}

/// What still grows: with what, in which operation, and by how many steps for each. An entry leaves this list
/// when the operation works in slices.
const GROWING: [(Thing, &str, u64); 18] = [
    (Queues, "close", 2),
    (Partitions, "close", 1),
    (Partitions, "create", 1),
    (Partitions, "length of a stream", 1),
    (Partitions, "look at a group", 1),
    (Partitions, "open a stream", 1),
    (Partitions, "read", 1),
    // The chunk of a message that has expired is looked at without a gap, up to 256 messages in a hold.
    (Ready, "drop expired messages", 2),
    (Leased, "drop expired messages", 1),
    (Delayed, "drop expired messages", 2),
    (Failed, "drop expired messages", 2),
    (Expired, "drop expired messages", 2),
    (Due, "drop expired messages", 2),
    // At most 256 at once.
    (Brief, "drop expired messages", 3),
    // At most 512 at once.
    (Batch, "receive", 2),
    // As with queues that are not watched.
    (Watched, "close", 2),
    (Reopened, "drop expired messages", 2),
    (Damaged, "drop expired messages", 1),
];

/// What works in slices: a hold grows up to a bound that `slices.rs`, `removal_slices.rs` and `deletion.rs` assert. A timer ends leases
/// that have run out, and releases messages that come due. Without threads, the next call runs it. Delayed
/// messages are copied before a consumer is opened.
const SLICED: [(Thing, &str); 18] = [
    (Segments, "size of a partition"),
    // After the clock was set, a timer sets those of all queues and subscriptions anew.
    (Queues, "timer"),
    (Watched, "timer"),
    (Subscriptions, "timer"),
    (Filtered, "timer"),
    // A deletion is one commit. What it deletes leaves in slices.
    (Subscriptions, "delete"),
    (Partitions, "delete"),
    (Expired, "timer"),
    (Due, "timer"),
    (Leased, "purge"),
    (Delayed, "purge"),
    (Due, "purge"),
    (Reopened, "purge"),
    (Damaged, "purge"),
    (Failed, "purge"),
    (Expired, "purge"),
    (Batch, "purge"),
    (Reopened, "open a consumer"),
];

/// What works in slices, whatever there is: `flat.rs` asserts the bound of a hold, and that its work follows what changed.
const ALWAYS_SLICED: &str = "checkpoint";

/// The most steps of a hold that does not grow.
const STEPS_MAX: u64 = 64;

fn growth(thing: Thing) -> Vec<(&'static str, u64)> {
    let (small, large) = (measure(thing, SMALL), measure(thing, LARGE));
    let things = (LARGE - SMALL) as u64;
    // Many messages of one call are encoded before the lock is taken, and their waiters are woken in slices.
    let of_all = |it: &&&str| thing != Batch || **it != "wake for a batch";
    let operations = |of: &BTreeMap<&'static str, u64>| -> Vec<&'static str> {
        of.keys().filter(of_all).copied().collect()
    };
    assert_eq!(operations(&small), operations(&large));
    let growth = |(operation, steps): (&&'static str, &u64)| {
        let grown = steps.saturating_sub(small.get(operation).copied().unwrap_or(0));
        let growth = (grown + things / 2) / things;
        let is_short = growth > 0 || *steps <= STEPS_MAX || SLICED.contains(&(thing, operation));
        assert!(is_short, "{thing:?}, {operation}: {steps} steps");
        (*operation, growth)
    };
    large.iter().map(growth).collect()
}

#[test]
fn a_hold_grows_only_with_what_is_named_here() {
    let mut found = Vec::new();
    for thing in THINGS.into_iter().filter(|thing| *thing != Watches) {
        let growing = growth(thing).into_iter();
        let is_sliced = |it| it == ALWAYS_SLICED || SLICED.contains(&(thing, it));
        let growing = growing.filter(|(it, steps)| *steps > 0 && !is_sliced(*it));
        found.extend(growing.map(|(operation, steps)| (thing, operation, steps)));
    }
    assert_eq!(found, GROWING);
}

/// Who watches one queue by many thresholds has each change of that queue look at all of them.
#[test]
fn a_change_of_a_queue_looks_at_the_thresholds_of_that_queue_once() {
    const STEPS_OF_A_THRESHOLD: u64 = 2;
    let growth = growth(Watches);
    assert!(growth.len() > 40, "operations are missing: {growth:?}");
    for (operation, steps) in growth {
        assert!(steps <= STEPS_OF_A_THRESHOLD, "{operation}: {steps}");
    }
}
