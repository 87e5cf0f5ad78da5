//! Findings of a hostile review of the queues: full queues.

use std::{thread, time::Instant};

use posthouse::{Delivery, Engine, ErrorKind, Message, Options, Overflow, sim::SimDisk};

use crate::model::small_options;
use crate::support::{EMFILE, HOUR, SECOND, Sim, kind, ms, one_in, take, texts};

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
fn due_messages_are_dropped_in_their_order() {
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
fn a_sender_that_waits_for_capacity_is_woken_when_a_message_can_be_dropped_again() {
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
        assert!(begun.elapsed() < 30 * SECOND, "no sender was woken");
        assert_eq!(texts(&queue), ["b"]);
    }
}

#[test]
fn a_sender_that_cannot_use_capacity_leaves_it_to_the_next() {
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
fn a_deleted_message_frees_capacity_only_once() {
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
fn only_limits_that_are_given_are_compared() {
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

/// A queue with a limit in bytes. Its messages are in a segment, and the engine is closed.
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
    for call in (0..).step_by(one_in(3)) {
        let engine = small_options().sim(&disk).open("store").unwrap();
        let before = disk.calls();
        disk.fail_call(before + call, EMFILE, false);
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
    assert!(errors > 10 / one_in(3) as u64, "no read has failed");
}
