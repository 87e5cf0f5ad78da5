//! The plain case: what a send, a receive and an ack allocate, and how often a message of many subscriptions is read.

use std::time::Duration;

use posthouse::{Durability, Engine, IoMode, Offset, Options, Queue, sim::SimDisk};

use super::heap::taken;

fn engine(dir: &std::path::Path) -> Engine {
    Options::new().durability(Durability::Buffered).open(dir.join("store")).unwrap()
}

/// How often this thread allocates in each of the rounds of an act, the most frequent number.
fn allocations(rounds: usize, mut act: impl FnMut()) -> u64 {
    let mut all: Vec<u64> = (0..rounds)
        .map(|_| {
            let before = taken().0;
            act();
            taken().0 - before
        })
        .collect();
    all.sort_unstable();
    // The index of the journal grows now and then.
    all[rounds / 2]
}

#[test]
fn a_plain_send_receive_and_ack_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path());
    let queue = engine.queue("q").create().unwrap();
    let round = || {
        queue.send(&[7; 100]).unwrap();
        queue.try_receive().unwrap().unwrap().ack().unwrap();
    };
    (0..100).for_each(|_| round());
    assert_eq!(allocations(200, || _ = queue.send(&[7; 100]).unwrap()), 0, "a send");
    let mut held = Vec::with_capacity(200);
    assert_eq!(
        allocations(200, || held.push(queue.try_receive().unwrap().unwrap())),
        0,
        "a receive"
    );
    let mut acked = held.iter();
    assert_eq!(allocations(200, || acked.next().unwrap().ack().unwrap()), 0, "an ack");
    let stream = engine.stream("s").create().unwrap();
    (0..100).for_each(|_| _ = stream.append(&[7; 100]).unwrap());
    assert_eq!(allocations(200, || _ = stream.append(&[7; 100]).unwrap()), 0, "an append");
    let (partition, mut end) = (stream.partition(0).unwrap(), stream.partition(0).unwrap().end());
    let mut append_if = || {
        let at = end.as_mut().unwrap();
        *at = partition.append_if(*at, &[7; 100]).unwrap().next();
    };
    assert_eq!(allocations(200, &mut append_if), 0, "a conditional append");
}

#[test]
fn a_batch_is_received_and_acked_by_a_few_allocations_however_many_messages_it_has() {
    let of = |messages: usize| {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path());
        let queue: Queue = engine.queue("q").create().unwrap();
        let take = || queue.receive_batch(messages, Duration::ZERO).unwrap();
        (0..30 * messages).for_each(|_| _ = queue.send(&[7; 100]).unwrap());
        let mut batches = Vec::with_capacity(20);
        let received = allocations(20, || batches.push(take()));
        assert!(batches.iter().all(|batch| batch.len() == messages));
        let mut left = batches.iter();
        let acked = allocations(20, || queue.ack_batch(left.next().unwrap()).unwrap());
        (received, acked)
    };
    let (few, many) = (of(10), of(1000));
    // A list that grows is allocated anew each time it has doubled.
    assert!(many.0 <= few.0 + 20, "{few:?} and {many:?} allocations to receive");
    assert!(many.1 <= few.1 + 20, "{few:?} and {many:?} allocations to ack");
}

/// The bytes that are read while all subscriptions of a topic receive its messages, by turns.
fn bytes_read(subscriptions: usize) -> u64 {
    const MESSAGES: usize = 2000;
    let disk = SimDisk::new(5);
    let options = Options::new().durability(Durability::Buffered).io(IoMode::Calls);
    let engine = options.sim(&disk).open("store").unwrap();
    let topic = engine.topic("t").create().unwrap();
    let make = |n| topic.subscription(&format!("s{n}")).create().unwrap();
    let subscriptions: Vec<_> = (0..subscriptions).map(make).collect();
    (0..MESSAGES).for_each(|_| _ = topic.publish(&[7; 100]).unwrap());
    engine.checkpoint().unwrap();
    let before = disk.bytes_read();
    for _ in 0..MESSAGES / 20 {
        for subscription in &subscriptions {
            let batch = subscription.receive_batch(20, Duration::ZERO).unwrap();
            assert_eq!(batch.len(), 20);
            subscription.ack_batch(&batch).unwrap();
        }
    }
    disk.bytes_read() - before
}

#[test]
fn the_messages_of_a_topic_are_read_once_for_however_many_subscriptions() {
    let (few, many) = (bytes_read(2), bytes_read(20));
    assert!(few >= 2000 * 100, "they were read from a segment: {few} bytes");
    assert!(many <= few + few / 10, "{few} bytes with 2 subscriptions, and {many} with 20");
}

/// The bytes and calls of the disk for the last record of a partition, in a segment and in the journal.
fn cost_of_last(records: usize) -> [(u64, u64); 2] {
    let disk = SimDisk::new(5);
    let options = Options::new().durability(Durability::Buffered).io(IoMode::Calls);
    let engine = options.sim(&disk).open("store").unwrap();
    let partition = engine.stream("s").create().unwrap().partition(0).unwrap();
    partition.append_batch_if(Offset(0), (0..records).map(|_| &[7; 100])).unwrap();
    engine.checkpoint().unwrap();
    [false, true].map(|is_in_journal| {
        if is_in_journal {
            let end = partition.end().unwrap();
            partition.append_batch_if(end, (0..records).map(|_| &[7; 100])).unwrap();
        }
        partition.last().unwrap().expect("there are many");
        let before = (disk.bytes_read(), disk.calls());
        let last = partition.last().unwrap().expect("there are many").offset();
        assert_eq!(last.next(), partition.end().unwrap());
        (disk.bytes_read() - before.0, disk.calls() - before.1)
    })
}

#[test]
fn the_last_record_takes_one_block_or_one_run_however_many_there_are() {
    let (few, many) = (cost_of_last(5_000), cost_of_last(50_000));
    for ((few, many), what) in few.into_iter().zip(many).zip(["a segment", "the journal"]) {
        assert!(few.0 > 100 && many.1 <= few.1, "in {what}: {few:?}, {many:?}");
        assert!(few.0.max(many.0) < 400 << 10, "in {what}: {few:?}, {many:?}");
    }
}
