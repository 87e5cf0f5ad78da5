//! Producers are slowed down while the journal is long.

use std::{
    pin::pin,
    sync::mpsc,
    task::{Context, Waker},
    thread,
    time::Duration,
};

use super::{config, open};
use crate::{Engine, Queue, config::Config, disk::sim::SimDisk};

const JOURNAL_BYTES: u64 = 1 << 20;

fn open_with_queue() -> (Engine, Queue) {
    let config = Config { journal_bytes: JOURNAL_BYTES, ..config() };
    let engine = open(&SimDisk::new(1), config);
    let queue = engine.queue("q").create().expect("the disk is well");
    (engine, queue)
}

/// Does something while no checkpoint can be made.
fn without_checkpoints(engine: &Engine, act: impl FnOnce()) {
    let (held, is_held) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let _checkpointing = engine.committer().checkpointing.lock();
            held.send(()).expect("it is awaited");
            let _ = is_done.recv();
        });
        is_held.recv().expect("it is held");
        act();
        drop(done);
    });
}

/// Sends until the journal has a length.
fn fill(engine: &Engine, queue: &Queue, length: u64) {
    while engine.stats().expect("it is open").journal_bytes < length {
        queue.send(vec![7; 10_000]).expect("there is space");
    }
}

/// The clock of the simulated disk stands still, so what is owed passes by waiting only.
#[test]
fn who_writes_much_is_held_back_and_who_writes_little_or_acks_is_not() {
    let (engine, queue) = open_with_queue();
    let held_back = || engine.stats().expect("it is open").held_back;
    fill(&engine, &queue, JOURNAL_BYTES);
    assert_eq!(held_back(), 0, "the journal is not long");
    without_checkpoints(&engine, || {
        fill(&engine, &queue, JOURNAL_BYTES / 2 * 3);
        let early = held_back();
        fill(&engine, &queue, JOURNAL_BYTES / 16 * 29);
        let late = held_back() - early;
        assert!(late > 4 * early && late > 5, "{early} times, then {late} times");

        let before = held_back();
        let other = queue.clone();
        let little = thread::spawn(move || {
            for _ in 0..10 {
                other.send("little").expect("there is space");
            }
            for _ in 0..180 {
                let delivery = other.try_receive().expect("it is open").expect("there are some");
                delivery.ack().expect("it is held");
            }
        });
        little.join().expect("no panic");
        assert_eq!(held_back(), before);
    });
    engine.close().expect("the disk is well");
}

#[test]
fn a_task_that_is_held_back_sleeps_and_does_not_block_its_thread() {
    let (engine, queue) = open_with_queue();
    without_checkpoints(&engine, || {
        fill(&engine, &queue, JOURNAL_BYTES / 16 * 29);
        let mut context = Context::from_waker(Waker::noop());
        let mut sent = pin!(queue.send_async(vec![7; 100_000]));
        let before = engine.stats().expect("it is open");
        assert!(sent.as_mut().poll(&mut context).is_pending(), "it owes some milliseconds");
        let after = engine.stats().expect("it is open");
        assert!(after.journal_bytes > before.journal_bytes, "it is committed");
        assert!(after.held_back_for > before.held_back_for + Duration::from_millis(1));
    });
    engine.close().expect("the disk is well");
}

#[test]
fn a_thread_owes_nothing_for_a_message_that_becomes_a_dead_letter() {
    let (engine, queue) = open_with_queue();
    let tried = engine.queue("tried").max_attempts(1).create().expect("the disk is well");
    for _ in 0..2 {
        tried.send(vec![7; 100_000]).expect("there is space");
    }
    let held_back = || engine.stats().expect("it is open").held_back;
    without_checkpoints(&engine, || {
        fill(&engine, &queue, JOURNAL_BYTES / 16 * 29);
        let before = held_back();
        let consumer = tried.clone();
        let consumes = thread::spawn(move || {
            let next = || consumer.try_receive().expect("it is open").expect("there are two");
            let (fails, succeeds) = (next(), next());
            drop(fails);
            succeeds.ack().expect("it is held");
        });
        consumes.join().expect("no panic");
        assert_eq!(held_back(), before);
        let letters = engine.queue("tried.dead").open().expect("it was created beside its queue");
        assert_eq!(letters.depth().expect("it is open"), 1);
    });
    engine.close().expect("the disk is well");
}
