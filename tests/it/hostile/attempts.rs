//! Findings of a hostile review of the queues: attempts that are counted, or cannot be counted.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use posthouse::{
    Backoff, Delivery, Durability, Engine, ErrorKind, Message, Offset, Options, Queue, sim::SimDisk,
};

use crate::model::{rot_first_record, small_options};
use crate::support::{HOUR, SECOND, Sim, ms, take};

#[test]
fn a_lease_that_lapses_wakes_a_consumer_although_a_delay_is_far_away() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").lease(ms(300)).create().unwrap();
    queue.send(Message::new("later").deliver_after(HOUR)).unwrap();
    queue.send("now").unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    let begun = Instant::now();
    assert!(queue.receive(60 * SECOND).unwrap().is_some());
    assert!(begun.elapsed() < 30 * SECOND, "only the end of the wait has woken it");
    drop(held);
}

#[test]
fn a_last_lease_that_lapses_buries_although_a_delay_is_far_away() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").lease(ms(300)).max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send(Message::new("later").deliver_after(HOUR)).unwrap();
    queue.send("now").unwrap();
    let _held = queue.try_receive().unwrap().unwrap();
    let begun = Instant::now();
    assert!(dead.receive(60 * SECOND).unwrap().is_some(), "never moved to the dead letters");
    assert!(begun.elapsed() < 30 * SECOND);
}

/// The state after a delivery that could not be counted as an attempt.
struct Uncounted {
    engine: Engine,
    queue: Queue,
    found: Delivery,
    /// The messages that came before.
    _held: Vec<Delivery>,
}

/// Fills the disk until an attempt cannot be counted. Then there is space again.
fn uncounted(max_attempts: u32) -> Uncounted {
    let Sim { disk, engine } = Sim::new();
    let queue =
        engine.queue("q").backoff(Backoff::None).max_attempts(max_attempts).create().unwrap();
    let filler = engine.queue("filler").create().unwrap();
    for _ in 0..30 {
        queue.send_batch((0..200).map(|n| n.to_string())).unwrap();
    }
    disk.set_capacity(Some(disk.bytes_used()));
    while filler.send(vec![0; 100]).is_ok() {}
    let mut held = Vec::new();
    let found = loop {
        let delivery = take(&queue).expect("the disk is full long before the last of them");
        let mut browsed = queue.browse().unwrap().map(Result::unwrap);
        let it = browsed.find(|it| it.offset() == delivery.offset()).unwrap();
        if it.attempts() == 0 {
            break delivery;
        }
        held.push(delivery);
    };
    disk.set_capacity(None);
    Uncounted { engine, queue, found, _held: held }
}

/// All messages that a queue can deliver, on lease.
fn take_all(queue: &Queue) -> Vec<Delivery> {
    std::iter::from_fn(|| take(queue)).collect()
}

/// An engine whose queue `q` has its messages in a segment. The first block of that segment is damaged.
struct Damaged {
    disk: SimDisk,
    engine: Engine,
    segment: PathBuf,
    good: Vec<u8>,
}

fn damaged() -> Damaged {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").backoff(Backoff::None).max_attempts(2).create().unwrap();
    for n in 0..60 {
        queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let (segment, good) = rot_first_record(&disk);
    let engine = small_options().sim(&disk).open("store").unwrap();
    Damaged { disk, engine, segment, good }
}

#[test]
fn an_attempt_that_was_not_counted_is_nacked_and_comes_once() {
    let Uncounted { queue, found, _held, engine: _ } = uncounted(3);
    let offset = found.offset();
    found.nack().unwrap();
    drop(found);
    let times = take_all(&queue).iter().filter(|it| it.offset() == offset).count();
    assert_eq!(times, 1, "message {offset} is on lease {times} times at once");
}

#[test]
fn a_transaction_over_an_attempt_that_was_not_counted_is_committed() {
    let Uncounted { engine, queue, found, _held } = uncounted(2);
    let offset = found.offset();
    found.nack().unwrap();
    drop(found);
    let again = take_all(&queue).into_iter().find(|it| it.offset() == offset).unwrap();
    let mut tx = engine.transaction();
    tx.nack(&again);
    tx.commit().unwrap();
    let depths = (queue.depth().unwrap(), engine.queue("q.dead").open().unwrap().depth().unwrap());
    assert_eq!(depths, (5999, 1));
}

#[test]
fn a_last_attempt_that_was_not_counted_is_the_last() {
    let Uncounted { engine, found, queue: _queue, _held } = uncounted(1);
    assert_eq!(found.attempt(), 1);
    found.nack().unwrap();
    assert_eq!(engine.queue("q.dead").open().unwrap().depth().unwrap(), 1);
}

#[test]
fn a_message_is_removed_or_buried_and_never_both() {
    const MESSAGES: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    for _ in 0..MESSAGES / 1000 {
        queue.send_batch((0..1000).map(|_| Message::new("x").expire_after(ms(1)))).unwrap();
    }
    thread::sleep(ms(20));
    let remove_close_behind_the_consumer = || {
        let mut removed = 0;
        while let Some(first) = queue.browse().unwrap().next() {
            let Offset(first) = first.unwrap().offset();
            removed += (first..first + 4).filter(|it| queue.remove(Offset(*it)).unwrap()).count();
        }
        removed as u64
    };
    let removed = thread::scope(|scope| {
        scope.spawn(|| {
            while queue.depth().unwrap() > 0 {
                assert!(take(&queue).is_none(), "all have expired");
            }
        });
        scope.spawn(remove_close_behind_the_consumer).join().unwrap()
    });
    let dead = engine.queue("q.dead").open().unwrap().depth().unwrap();
    assert_eq!(removed + dead, MESSAGES, "{removed} removed, {dead} dead");
}

#[test]
fn a_damaged_message_counts_no_attempt_of_its_neighbours() {
    let Damaged { engine, .. } = damaged();
    let queue = engine.queue("q").open().unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        match queue.receive_batch(10, Duration::ZERO) {
            Ok(all) => seen.extend(all.iter().map(|it| {
                it.ack().unwrap();
                it.offset()
            })),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
        }
    }
    assert!(!seen.is_empty(), "some come before the damaged one");
    let dead = engine.queue("q.dead").open().unwrap();
    assert_eq!(dead.depth().unwrap(), 0, "some that were never delivered are dead");
}

#[test]
fn a_read_error_counts_no_attempt() {
    let Damaged { disk, engine, segment, good } = damaged();
    let queue = engine.queue("q").open().unwrap();
    let mut errors = 0;
    for _ in 0..6 {
        match queue.try_receive() {
            Ok(delivery) => delivery.into_iter().for_each(|it| it.ack().unwrap()),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 0, "the damage was not met");
    disk.plant(&segment, Some(good));
    engine.close().unwrap();
    drop((queue, engine));
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    take_all(&queue).iter().for_each(|it| it.ack().unwrap());
    assert_eq!(queue.depth().unwrap(), 0);
    let dead = engine.queue("q.dead").open().unwrap();
    assert_eq!(dead.depth().unwrap(), 0, "some became dead letters that no consumer ever saw");
}

#[test]
fn a_batch_larger_than_a_commit_is_counted() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").backoff(Backoff::None).max_attempts(3).create().unwrap();
    for _ in 0..80 {
        queue.send_batch((0..500).map(|_| "")).unwrap();
    }
    assert_eq!(queue.receive_batch(40_000, Duration::ZERO).unwrap().len(), 40_000);
}

#[test]
fn more_failures_than_a_commit_holds_are_counted() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").lease(SECOND).backoff(Backoff::Fixed(60 * SECOND));
    let queue = queue.create().unwrap();
    for _ in 0..40 {
        queue.send_batch((0..500).map(|_| "")).unwrap();
    }
    let held = queue.receive_batch(20_000, Duration::ZERO).unwrap();
    assert_eq!(held.len(), 20_000);
    disk.advance(2 * SECOND);
    assert_eq!(take(&queue).unwrap().attempt(), 2);
    drop(held);
}

#[test]
fn a_message_that_was_removed_while_on_lease_can_be_nacked() {
    let topic = Sim::new().engine.topic("t").create().unwrap();
    let subscription = topic.subscription("s").create().unwrap();
    topic.publish("a").unwrap();
    let delivery = subscription.try_receive().unwrap().unwrap();
    assert!(subscription.remove(delivery.offset()).unwrap());
    delivery.nack().unwrap();
    assert_eq!(subscription.in_flight().unwrap(), 0);
}

#[test]
fn one_priority_is_in_order_although_counting_has_to_wait_for_a_journal_file() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::None).max_attempts(5).create().unwrap();
    for n in 0..5000 {
        queue.send(Message::new(n.to_string()).priority(3)).unwrap();
    }
    let mut held: Vec<Delivery> = Vec::new();
    while let Some(next) = take(&queue) {
        assert!(held.last().is_none_or(|last| last.offset() < next.offset()), "{next:?}");
        held.push(next);
    }
    assert_eq!(held.len(), 5000);
}

#[test]
fn messages_of_one_priority_that_waited_come_in_the_order_in_which_they_are_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::None).create().unwrap();
    for (text, seconds) in [("third", 3), ("first", 1), ("second", 2)] {
        let message = Message::new(text).priority(3).deliver_after(seconds * SECOND);
        queue.send(message).unwrap();
    }
    sim.disk.advance(3 * SECOND);
    let got: Vec<Delivery> = std::iter::from_fn(|| take(&queue)).collect();
    let got: Vec<&[u8]> = got.iter().map(Delivery::payload).collect();
    assert_eq!(got, [&b"first"[..], b"second", b"third"]);
}
