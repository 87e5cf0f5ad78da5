//! What a hostile review of the queues found: each defect has a test here that failed before its mend.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;
mod sim;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use model::{rot_first_record, small_options};
use posthouse::{
    Backoff, Delivery, Durability, Engine, ErrorKind, Message, Offset, Options, Overflow, Queue,
    Threshold, Timestamp, sim::SimDisk,
};
use sim::{SECOND, Sim, Task, field, kind, take, texts};

const HOUR: Duration = Duration::from_secs(3600);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

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
    assert!(dead.receive(60 * SECOND).unwrap().is_some(), "never buried");
    assert!(begun.elapsed() < 30 * SECOND);
}

/// What there is once a message was delivered that could not be counted as tried.
struct Uncounted {
    engine: Engine,
    queue: Queue,
    found: Delivery,
    /// Those that came before.
    _held: Vec<Delivery>,
}

/// Fills the disk until an attempt cannot be counted. Then there is space again.
fn uncounted(max_attempts: u32) -> Uncounted {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(max_attempts).create().unwrap();
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

/// Everything that a queue has to give, on lease.
fn take_all(queue: &Queue) -> Vec<Delivery> {
    std::iter::from_fn(|| take(queue)).collect()
}

/// An engine whose queue `q` has its messages in a segment, and that segment's first block damaged.
struct Damaged {
    disk: SimDisk,
    engine: Engine,
    segment: PathBuf,
    good: Vec<u8>,
}

fn damaged() -> Damaged {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(2).create().unwrap();
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
    assert_eq!(dead.depth().unwrap(), 0, "some are dead that nobody ever saw");
}

#[test]
fn a_letter_of_a_subscription_does_not_go_to_a_queue_of_its_name() {
    let Sim { engine, .. } = Sim::new();
    let topic = engine.topic("orders").create().unwrap();
    let billing = topic.subscription("billing").max_attempts(1).create().unwrap();
    let other = engine.queue("orders/billing").create().unwrap();
    topic.publish("secret").unwrap();
    billing.try_receive().unwrap().unwrap().nack().unwrap();
    let dead = engine.queue("orders.billing.dead").open().unwrap();
    assert!(dead.redrive().run().is_err(), "a subscription takes back no message");
    assert_eq!((dead.depth().unwrap(), other.depth().unwrap()), (1, 0));
}

#[test]
fn a_letter_that_waited_and_is_redriven_waits_no_more() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    take(&dead).unwrap().nack_after(HOUR).unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!((dead.depth().unwrap(), dead.delayed().unwrap()), (0, 0));
}

#[test]
fn the_field_that_says_when_is_named() {
    let topic = Sim::new().engine.topic("t").create().unwrap();
    let at = Message::new("x").deliver_at(Timestamp(2_000_000_000_000));
    assert_eq!(field(topic.publish(at)), "deliver_at");
    assert_eq!(field(topic.publish(Message::new("x").deliver_after(SECOND))), "deliver_after");
}

#[test]
fn a_batch_larger_than_a_commit_is_counted() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(3).create().unwrap();
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
    assert!(take(&queue).is_none());
    drop(held);
    disk.advance(61 * SECOND);
    assert_eq!(take(&queue).unwrap().attempt(), 2);
}

#[test]
fn a_letter_that_its_note_makes_too_large_is_moved_all_the_same() {
    let disk = SimDisk::new(7);
    let options = small_options().commit_bytes_max((64 << 10) + 100);
    let engine = options.sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send(vec![1; 64 << 10]).unwrap();
    take(&queue).unwrap().nack_because(&"r".repeat(2000)).unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
}

#[test]
fn a_letter_above_a_limit_that_was_lowered_is_moved_all_the_same() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send(vec![1; 10 << 10]).unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let engine = small_options().message_bytes_max(4 << 10).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    take(&queue).unwrap().nack().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
}

#[test]
fn a_death_in_a_transaction_is_no_ack() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send("a").unwrap();
    let delivery = take(&queue).unwrap();
    let mut tx = engine.transaction();
    tx.nack(&delivery);
    tx.commit().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.acked, stats.dead, stats.failed), (0, 1, 1));
}

#[test]
fn the_last_failure_is_a_failure_too() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.acked, stats.dead, stats.failed), (0, 1, 1));
}

#[test]
fn what_expired_was_not_acked() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").time_to_live(SECOND).create().unwrap();
    queue.send("a").unwrap();
    disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
    assert_eq!(queue.stats().unwrap().acked, 0);
}

#[test]
fn letters_with_a_way_back_are_redriven_beside_those_without() {
    let Sim { engine, .. } = Sim::new();
    let a = engine.queue("a").max_attempts(1).dead_letter_queue("dead").create().unwrap();
    let b = engine.queue("b").max_attempts(1).dead_letter_queue("dead").create().unwrap();
    a.send("1").unwrap();
    take(&a).unwrap().nack().unwrap();
    b.send("2").unwrap();
    take(&b).unwrap().nack().unwrap();
    drop(b);
    engine.queue("b").delete().unwrap();
    let dead = engine.queue("dead").open().unwrap();
    assert!(dead.redrive().run().is_err());
    assert_eq!(a.depth().unwrap(), 1);
}

#[test]
fn a_letter_that_is_redriven_begins_a_new_life() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).time_to_live(10 * SECOND).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    disk.advance(20 * SECOND);
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert!(take(&queue).is_some());
}

#[test]
fn the_oldest_that_is_ready_is_dropped_before_those_that_wait() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_messages(3).overflow(Overflow::DropOldest).create().unwrap();
    for text in ["w1", "w2"] {
        queue.send(Message::new(text).deliver_after(HOUR)).unwrap();
    }
    queue.send("ready").unwrap();
    queue.send_batch(["n1", "n2"]).unwrap();
    assert_eq!(texts(&queue), ["w2", "n1", "n2"]);
}

#[test]
fn what_is_due_is_dropped_in_its_order() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_messages(2).overflow(Overflow::DropOldest).create().unwrap();
    queue.send(Message::new("old").deliver_after(SECOND)).unwrap();
    queue.send("young").unwrap();
    disk.advance(2 * SECOND);
    assert_eq!(queue.delayed().unwrap(), 0, "old is due");
    queue.send("n1").unwrap();
    assert_eq!(texts(&queue), ["young", "n1"]);
}

#[test]
fn letters_larger_than_a_commit_together_are_redriven() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    for _ in 0..5 {
        queue.send(vec![1; 40 << 10]).unwrap();
        take(&queue).unwrap().nack().unwrap();
    }
    assert_eq!(dead.redrive().run().unwrap().moved, 5);
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (5, 0));
}

#[test]
fn a_hundred_letters_with_large_headers_are_redriven() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    let big = vec![7u8; 1 << 20];
    for _ in 0..100 {
        queue.send(Message::new("").header("h", &big)).unwrap();
        take(&queue).unwrap().nack().unwrap();
    }
    assert_eq!(dead.redrive().run().unwrap().moved, 100);
}

#[test]
fn a_message_due_at_the_end_of_time_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send(Message::new("x").deliver_at(Timestamp(u64::MAX))).unwrap();
    queue.send(Message::new("y").deliver_after(ms(100))).unwrap();
    let delivery = queue.receive(60 * SECOND).unwrap().expect("one is due soon");
    assert_eq!(delivery.payload(), b"y");
}

#[test]
fn a_message_that_is_redriven_keeps_the_length_of_its_life() {
    let Sim { disk, engine } = Sim::new();
    let (a, b) = (engine.queue("a").create().unwrap(), engine.queue("b").create().unwrap());
    a.send(Message::new("x").expire_after(10 * SECOND)).unwrap();
    a.redrive().to(&b).run().unwrap();
    disk.advance(HOUR);
    assert!(take(&b).is_none());
}

#[test]
fn salvage_keeps_notes_attempts_and_waits() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_attempts(2).create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    take(&queue).unwrap().nack_after(HOUR).unwrap();
    take(&queue).unwrap().reject("why").unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    small_options().sim(&disk).salvage("store", "rescued").unwrap();
    let engine = small_options().sim(&disk).open("rescued").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let waiting = queue.browse().unwrap().next().unwrap().unwrap();
    assert_eq!((waiting.attempts(), waiting.due().is_some()), (1, true));
    assert_eq!(queue.delayed().unwrap(), 1);
    let dead = engine.queue("q.dead").open().unwrap();
    let letter = dead.browse().unwrap().next().unwrap().unwrap();
    assert_eq!(letter.dead_letter().unwrap().unwrap().reason, "why");
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

// Priorities.

#[test]
fn one_priority_is_in_order_although_counting_has_to_wait_for_a_journal_file() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(5).create().unwrap();
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
fn those_of_one_priority_that_had_to_wait_come_in_the_order_in_which_they_are_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for (text, seconds) in [("third", 3), ("first", 1), ("second", 2)] {
        let message = Message::new(text).priority(3).deliver_after(seconds * SECOND);
        queue.send(message).unwrap();
    }
    sim.disk.advance(3 * SECOND);
    let got: Vec<Delivery> = std::iter::from_fn(|| take(&queue)).collect();
    let got: Vec<&[u8]> = got.iter().map(Delivery::payload).collect();
    assert_eq!(got, [&b"first"[..], b"second", b"third"]);
}

// Limits.

#[test]
fn who_waits_for_room_is_woken_when_a_message_can_be_dropped_again() {
    let ways: [fn(Delivery); 2] = [|it| it.nack().unwrap(), drop];
    for way in ways {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path().join("store")).unwrap();
        let builder = engine.queue("q").max_messages(1).overflow(Overflow::DropOldest);
        let queue = builder.create().unwrap();
        queue.send("a").unwrap();
        let held = take(&queue).unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            let sender = scope.spawn(|| queue.send_within("b", 60 * SECOND));
            thread::sleep(ms(100));
            way(held);
            sender.join().unwrap().unwrap();
        });
        assert!(begun.elapsed() < 30 * SECOND, "nobody was woken");
        assert_eq!(texts(&queue), ["b"]);
    }
}

#[test]
fn who_waits_for_room_and_cannot_use_it_leaves_it_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Options::new().message_bytes_max(1000).open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    queue.send("a").unwrap();
    let held = take(&queue).unwrap();
    let begun = Instant::now();
    thread::scope(|scope| {
        let large = scope.spawn(|| queue.send_within(vec![0; 2000], 60 * SECOND));
        thread::sleep(ms(100));
        let small = scope.spawn(|| queue.send_within("b", 60 * SECOND));
        thread::sleep(ms(100));
        held.ack().unwrap();
        assert_eq!(kind(large.join().unwrap()), ErrorKind::TooLarge);
        small.join().unwrap().unwrap();
    });
    assert!(begun.elapsed() < 30 * SECOND, "the second was not woken");
}

#[test]
fn a_message_that_was_deleted_makes_room_but_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(1).create().unwrap();
    queue.send("a").unwrap();
    let held = take(&queue).unwrap();
    assert!(queue.remove(held.offset()).unwrap());
    queue.send("b").unwrap();
    let mut tx = sim.engine.transaction();
    tx.ack(&held).send(&queue, "c");
    assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
    assert_eq!(queue.depth().unwrap(), 1);
}

#[test]
fn of_several_limits_those_are_compared_that_are_given() {
    let sim = Sim::new();
    let build = || sim.engine.queue("q");
    let drops = Overflow::DropOldest;
    build().max_messages(10).max_bytes(100).overflow(drops).create().unwrap();
    build().max_messages(10).max_bytes(100).create().unwrap();
    build().max_messages(10).overflow(drops).create().unwrap();
    build().max_bytes(100).create().unwrap();
    let there = ErrorKind::AlreadyExists;
    assert_eq!(kind(build().max_messages(11).create()), there);
    assert_eq!(kind(build().max_bytes(101).create()), there);
    assert_eq!(kind(build().max_bytes(100).overflow(Overflow::Reject).create()), there);
}

/// A queue with a limit in bytes, in a segment, and the engine closed.
fn weighed() -> SimDisk {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_bytes(1 << 30).create().unwrap();
    queue.send_batch((0..100).map(|_| vec![1; 100])).unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    disk
}

#[test]
fn a_damaged_segment_does_not_keep_a_queue_with_a_limit_in_bytes_from_being_opened() {
    let disk = weighed();
    let segment = disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let mut content = disk.content(&segment).unwrap();
    content[9] ^= 1;
    disk.plant(&segment, Some(content));
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    queue.send(&[1; 10]).unwrap();
    assert_eq!(queue.purge().unwrap(), 101);
    assert_eq!(queue.bytes().unwrap(), Some(0));
}

#[test]
fn an_error_while_bytes_are_counted_is_told_and_makes_no_queue_lighter() {
    let disk = weighed();
    let mut errors = 0;
    for call in 0.. {
        let engine = small_options().sim(&disk).open("store").unwrap();
        let before = disk.calls();
        disk.fail_call(before + call, 5, false);
        let opened = engine.queue("q").open();
        let was_met = disk.calls() - before > call;
        disk.heal();
        errors += u64::from(opened.is_err());
        let queue = opened.or_else(|_| engine.queue("q").open()).unwrap();
        assert_eq!(queue.bytes().unwrap(), Some(10_000), "call {call}");
        engine.close().unwrap();
        if !was_met {
            break;
        }
    }
    assert!(errors > 10, "no read has failed");
}

// Consumers that are told apart.

#[test]
fn all_who_wait_for_the_consumer_that_takes_over_receive() {
    let sim = Sim::new();
    let open = || sim.engine.queue("q").single_active_consumer(true).create().unwrap();
    let (active, next, last) = (open(), open(), open());
    active.send_batch(["a", "b", "c"]).unwrap();
    take(&active).unwrap().ack().unwrap();
    let mut of_next: Vec<_> = (0..2).map(|_| Task::waiting(next.receive_async())).collect();
    let of_last = Task::waiting(last.receive_async());
    drop(active);
    assert!(of_next.iter().all(Task::is_woken) && !of_last.is_woken());
    let got = of_next.iter_mut().map(|it| it.poll().expect("there are two").unwrap());
    let got: Vec<Delivery> = got.collect();
    assert_eq!([got[0].payload(), got[1].payload()], [b"b", b"c"]);
}

#[test]
fn who_comes_by_does_not_take_the_place_of_who_has_waited() {
    let sim = Sim::new();
    let open = || sim.engine.queue("q").single_active_consumer(true).create().unwrap();
    let (active, early, late) = (open(), open(), open());
    active.send_batch(["a", "b"]).unwrap();
    take(&active).unwrap().ack().unwrap();
    // It has looked first, but it does not wait.
    assert!(take(&late).is_none());
    let mut waiting = Task::waiting(early.receive_async());
    drop(active);
    assert!(take(&late).is_none(), "another one has waited for that");
    assert!(early.is_active().unwrap() && waiting.is_woken());
    assert_eq!(waiting.poll().unwrap().unwrap().payload(), b"b");
    drop((waiting, early));
    assert!(take(&late).is_some(), "nobody waits: it is for the first that comes");
}

#[test]
fn a_watch_may_hold_the_last_handle_of_a_consumer() {
    for is_deleted in [false, true] {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let sim = Sim::new();
            let queue = sim.engine.queue("q").single_active_consumer(true).create().unwrap();
            let held = queue.clone();
            let watch = queue.watch(Threshold::Depth(1), move |_| drop(held.depth())).unwrap();
            drop(queue);
            if is_deleted {
                sim.engine.queue("q").delete().unwrap();
            }
            drop(watch);
            tell.send(()).unwrap();
        });
        assert!(told.recv_timeout(60 * SECOND).is_ok(), "it waits for itself");
    }
}

#[test]
fn fencing_tokens_grow_although_the_queue_is_made_anew() {
    let sim = Sim::new();
    let mut last = 0;
    for _ in 0..3 {
        let queue = sim.engine.queue("q").create().unwrap();
        queue.send("a").unwrap();
        let token = take(&queue).unwrap().fencing_token();
        assert!(token > last);
        last = token;
        sim.engine.queue("q").delete().unwrap();
    }
}
