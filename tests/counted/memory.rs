//! The memory that queues, subscriptions and partitions take while they are idle.
//!
//! What one more of them takes is counted at two sizes, so what a store takes in any case is left out. Timers stay in
//! memory until they are due, and a timer of a lease is due when the lease would have ended. They are counted, too.

use std::{path::Path, time::Duration};

use posthouse::{Durability, Engine, Message, Options, Queue, Start, Topic};

use super::{alone, heap::live};

// A factor of four, so that the tables of both are filled to the same part.
const FEW: usize = 1_000;
const MANY: usize = 4 * FEW;

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

#[test]
fn a_queue_that_was_used_takes_little_memory_once_its_handles_are_gone() {
    let _alone = alone();
    let [created, holding, used, again] = bytes_each_of((1_500, 10_000), |count| {
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
            // It takes over what is dead, too.
            engine.checkpoint().unwrap();
            engine.checkpoint().unwrap();
            take()
        };
        let used = use_all();
        let again = (0..3).map(|_| use_all()).min().unwrap();
        [created, holding, used, again]
    });
    let told = format!("{created}, {holding}, {used} and {again} bytes a queue");
    // At a few thousand queues it is some 100 bytes more.
    assert!(created < 900 && holding < 1000 && used < 1000, "{told}");
    assert!(again < used + 20, "{told}");
}

#[test]
fn a_queue_that_is_reopened_takes_little_memory() {
    let _alone = alone();
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

/// The state of a queue with a handle is larger. It does not grow with the use.
#[test]
fn a_queue_with_a_handle_takes_no_more_memory_when_it_is_used_again() {
    let _alone = alone();
    let [open, used, again, gone] = bytes_each(|count| {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let before = live();
        let queues: Vec<Queue> = (0..count).map(|n| queue(&engine, n)).collect();
        let take = || live().saturating_sub(before);
        let use_all = || {
            queues.iter().for_each(use_once);
            engine.checkpoint().unwrap();
            engine.checkpoint().unwrap();
            take()
        };
        let open = take();
        let used = use_all();
        let again = (0..3).map(|_| use_all()).min().unwrap();
        drop(queues);
        [open, used, again, take()]
    });
    let told = format!("{open}, {used}, {again} and, without handles, {gone} bytes a queue");
    assert!(used < 3500 && again < used + 100 && gone < 1150, "{told}");
}

#[test]
fn a_subscription_that_was_used_takes_little_memory_once_its_handles_are_gone() {
    let _alone = alone();
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
        [used, (0..3).map(|_| use_all()).min().unwrap()]
    });
    assert!(used < 800 && again < used + 20, "{used} and {again} bytes a subscription");
}

#[test]
fn a_partition_that_was_used_takes_little_memory() {
    let _alone = alone();
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
