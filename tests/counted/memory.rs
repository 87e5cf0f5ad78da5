//! The memory that queues, subscriptions and partitions take while they are idle.
//!
//! What one more of them takes is counted at two sizes, so what a store takes in any case is left out. Timers stay in
//! memory until they are due, and a timer of a lease is due when the lease would have ended. They are counted, too.

use std::{path::Path, time::Duration};

use posthouse::{Durability, Engine, Message, Options, Queue, Start, Subscription, Topic};

use super::heap::live;

// A factor of four, so that the tables of both are filled to the same part.
const FEW: usize = 1_000;
const MANY: usize = 4 * FEW;

/// Whether the sizes are those of a whole search. With a few thousand of something one more takes up to 100 bytes more.
fn is_whole() -> bool {
    std::env::var_os("POSTHOUSE_WHOLE").is_some()
}

/// How often they are used once more. The least counts: a timer may still be there.
fn rounds() -> u32 {
    if is_whole() { 3 } else { 1 }
}

fn open(dir: &Path) -> Engine {
    let options = Options::new().durability(Durability::Buffered);
    options.idle_after(Duration::from_secs(3600)).open(dir.join("store")).unwrap()
}

/// What one more of something takes. `kept` makes so many, and returns the bytes that they take, at several times.
fn bytes_each<const N: usize>(kept: impl Fn(usize) -> [usize; N]) -> [usize; N] {
    bytes_each_of((FEW, MANY), kept)
}

fn bytes_each_of<const N: usize>(
    (less, more): (usize, usize),
    kept: impl Fn(usize) -> [usize; N],
) -> [usize; N] {
    let (few, many) = (kept(less), kept(more));
    std::array::from_fn(|n| many[n].saturating_sub(few[n]) / (more - less))
}

fn queue(engine: &Engine, n: usize) -> Queue {
    engine.queue(&format!("queue {n}")).create().unwrap()
}

fn use_once(queue: &Queue) {
    queue.send("a message").unwrap();
    queue.try_receive().unwrap().unwrap().ack().unwrap();
}

/// How long a lease is whose timer a whole search waits for.
const SHORT_LEASE: Duration = Duration::from_secs(2);

/// How many timers of ended leases are still there depends on how fast the machine is: some 100 bytes a queue. A whole
/// search waits until all are gone. Otherwise all are there, and the bounds leave room for them.
fn await_timers() {
    if is_whole() {
        std::thread::sleep(SHORT_LEASE + Duration::from_millis(500));
    }
}

#[test]
fn a_queue_that_was_used_takes_little_memory_once_its_handles_are_gone() {
    alone!();
    let lease = if is_whole() { SHORT_LEASE } else { Duration::from_secs(3600) };
    let queue = |engine: &Engine, n: usize| {
        engine.queue(&format!("queue {n}")).lease(lease).create().unwrap()
    };
    let [created, holding, used, again] =
        bytes_each_of(if is_whole() { (1_500, 10_000) } else { (FEW, MANY) }, |count| {
            let dir = tempfile::tempdir().unwrap();
            let engine = open(dir.path());
            let before = live();
            let take = || live().saturating_sub(before);
            (0..count).for_each(|n| drop(queue(&engine, n)));
            let created = take();
            (0..count).for_each(|n| _ = queue(&engine, n).send("a message").unwrap());
            engine.checkpoint().unwrap();
            let holding = take();
            let use_all = || {
                for n in 0..count {
                    let queue = queue(&engine, n);
                    use_once(&queue);
                }
                await_timers();
                // It takes over what is dead, too.
                engine.checkpoint().unwrap();
                engine.checkpoint().unwrap();
                take()
            };
            let used = use_all();
            let again = (0..rounds()).map(|_| use_all()).min().unwrap();
            [created, holding, used, again]
        });
    let told = format!("{created}, {holding}, {used} and {again} bytes a queue");
    let more = if is_whole() { 0 } else { 150 };
    let (created, holding) = (created.saturating_sub(more), holding.saturating_sub(more));
    assert!(created < 620 && holding < 800 && used < 800 + more, "{told}");
    assert!(again < 800 + more && again < used + 100 + more, "{told}");
}

#[test]
fn a_queue_that_is_reopened_takes_little_memory() {
    alone!();
    let [reopened] = bytes_each(|count| {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        (0..count).for_each(|n| _ = queue(&engine, n).send("a message").unwrap());
        engine.close().unwrap();
        drop(engine);
        let before = live();
        let engine = open(dir.path());
        let reopened = live().saturating_sub(before);
        engine.close().unwrap();
        [reopened]
    });
    assert!(reopened < 1000, "{reopened} bytes a queue");
}

/// The memory of so many queues with handles: as they were created, while all are used, when they are idle again, the same
/// after more rounds, after all were leased at once, and without handles.
fn queues_with_handles(count: usize) -> [usize; 6] {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let before = live();
    let queues: Vec<Queue> = (0..count).map(|n| queue(&engine, n)).collect();
    let take = || live().saturating_sub(before);
    let rest = || {
        engine.checkpoint().unwrap();
        engine.checkpoint().unwrap();
        take()
    };
    let open = take();
    let mut in_use = 0;
    let mut use_all = || {
        queues.iter().for_each(use_once);
        in_use = take();
        rest()
    };
    let used = use_all();
    let again = (0..rounds()).map(|_| use_all()).min().unwrap();
    queues.iter().for_each(|queue| _ = queue.send("a message").unwrap());
    let leased: Vec<_> = queues.iter().map(|it| it.try_receive().unwrap().unwrap()).collect();
    leased.iter().for_each(|it| it.ack().unwrap());
    drop(leased);
    let leased = rest();
    drop(queues);
    [open, in_use, used, again, leased, take()]
}

fn assert_small(each: [usize; 6], what: &str) {
    let [open, in_use, used, again, leased, gone] = each;
    let told = format!(
        "{what}: {open}, {in_use} in use, {used}, {again}, {leased} and, without handles, {gone} bytes a queue"
    );
    println!("{told}");
    assert!(open < 900 && used < 1000 && again < 1000 && leased < 1000 && gone < 750, "{told}");
}

/// What a queue takes while it is used is given back when it is idle again, also beside its handle. And its handle takes
/// little.
#[test]
fn a_queue_with_an_idle_handle_takes_little_memory() {
    alone!();
    assert_small(queues_with_handles(10_000).map(|bytes| bytes / 10_000), "10,000");
    if is_whole() {
        assert_small(bytes_each_of((4_000, 10_000), queues_with_handles), "one more");
    }
}

/// `cargo test --release --test counted -- --ignored --nocapture a_hundred_thousand`
#[test]
#[ignore = "it takes long"]
fn a_hundred_thousand_queues_with_idle_handles_take_little_memory() {
    alone!();
    assert_small(queues_with_handles(100_000).map(|bytes| bytes / 100_000), "100,000");
}

#[test]
fn a_subscription_with_an_idle_handle_takes_little_memory() {
    alone!();
    let of = |count| {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let topic = engine.topic("topic").create().unwrap();
        let before = live();
        let take = || live().saturating_sub(before);
        let subscriptions: Vec<Subscription> =
            (0..count).map(|n| topic.subscription(&n.to_string()).create().unwrap()).collect();
        let use_all = || {
            topic.publish("a message").unwrap();
            for subscription in &subscriptions {
                subscription.try_receive().unwrap().unwrap().ack().unwrap();
            }
            engine.checkpoint().unwrap();
            engine.checkpoint().unwrap();
            take()
        };
        let used = use_all();
        let again = (0..rounds()).map(|_| use_all()).min().unwrap();
        drop(subscriptions);
        [used, again, take()]
    };
    let (few, many) = if is_whole() { (4_000, 10_000) } else { (FEW, MANY) };
    let whole = of(many).map(|bytes| bytes / many);
    let [used, again, gone] = bytes_each_of((few, many), of);
    let told = format!("{used}, {again} and, without handles, {gone} bytes; in all {whole:?}");
    assert!(used < 800 && again < 800 && gone < 600, "{told}");
    let most = if is_whole() { 800 } else { 850 };
    assert!(whole.iter().all(|bytes| *bytes < most), "{told}");
}

#[test]
fn a_subscription_that_was_used_takes_little_memory_once_its_handles_are_gone() {
    alone!();
    let [used, again] = bytes_each(|count| {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let topic = engine.topic("topic").create().unwrap();
        let before = live();
        let subscription =
            |topic: &Topic, n: usize| topic.subscription(&n.to_string()).create().unwrap();
        (0..count).for_each(|n| drop(subscription(&topic, n)));
        let use_all = || {
            topic.publish("a message").unwrap();
            for n in 0..count {
                subscription(&topic, n).try_receive().unwrap().unwrap().ack().unwrap();
            }
            engine.checkpoint().unwrap();
            engine.checkpoint().unwrap();
            live().saturating_sub(before)
        };
        let used = use_all();
        [used, (0..rounds()).map(|_| use_all()).min().unwrap()]
    });
    assert!(used < 600 && again < used + 20, "{used} and {again} bytes a subscription");
}

#[test]
fn a_partition_that_was_used_takes_little_memory() {
    alone!();
    let [used, again] = bytes_each(|count| {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let before = live();
        // A stream has at most 4,096 partitions.
        let streams = (0..count / 500)
            .map(|n| engine.stream(&n.to_string()).partitions(500).create().unwrap());
        let streams: Vec<_> = streams.collect();
        let use_all = || {
            for stream in &streams {
                let keys = (0..500).map(|key| Message::new("a record").key(key.to_string()));
                stream.append_batch(keys).unwrap();
                let records = stream.reader(Start::Earliest).unwrap().count();
                assert!(records >= 500);
            }
            engine.checkpoint().unwrap();
            engine.checkpoint().unwrap();
            live().saturating_sub(before)
        };
        let used = use_all();
        [used, use_all()]
    });
    // The second part of its log is a segment of its own.
    assert!(used < 1000 && again < used + 150, "{used} and {again} bytes a partition");
}
