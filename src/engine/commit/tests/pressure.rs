//! Producers are slowed down while the journal is long.

use std::{
    path::Path,
    pin::pin,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use super::{config, open};
use crate::{
    Engine, Queue,
    config::Config,
    disk::{
        sim::SimDisk,
        witness::{Witness, WitnessedDisk},
    },
};

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

/// Holds the checkpointer at the sync of the metalog in the second part of a checkpoint.
#[derive(Default)]
struct Gate {
    /// How many parts have come to their sync, once there is one to be held.
    parts: AtomicUsize,
    is_closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn close(&self, is_closed: bool) {
        self.parts.store(0, Ordering::SeqCst);
        *self.is_closed.lock().expect("no panic") = is_closed;
        self.changed.notify_all();
    }

    fn pass(&self, when: &str, call: &str, path: &Path) {
        let is_metalog = path.extension().is_some_and(|it| it == "meta");
        if (when, call, is_metalog) == ("before", "sync", true) {
            let part = 1 + self.parts.fetch_add(1, Ordering::SeqCst);
            let mut is_closed = self.is_closed.lock().expect("no panic");
            while *is_closed && part > 1 {
                is_closed = self.changed.wait(is_closed).expect("no panic");
            }
        }
    }
}

/// They waited until all of a long journal was moved.
#[test]
fn who_meets_the_wall_goes_on_after_the_first_part_of_a_checkpoint() {
    let gate = Arc::new(Gate::default());
    let seen = Arc::clone(&gate);
    let witness = Witness::new(move |when, call, path| {
        seen.pass(when, call, path);
        Ok(())
    });
    let disk = SimDisk::new(1);
    let disk = Arc::new(WitnessedDisk::new(Arc::new(disk.process()), witness));
    let file = JOURNAL_BYTES / 16;
    let config = Config { journal_bytes: JOURNAL_BYTES, journal_file_bytes_max: file, ..config() };
    let engine = Engine::open_on(disk, Path::new("store"), config, true).expect("it is well");
    let queue = engine.queue("q").create().expect("the disk is well");
    engine.checkpoint().expect("the disk is well");
    let (tell, told) = mpsc::channel();
    without_checkpoints(&engine, || {
        gate.close(true);
        fill(&engine, &queue, 2 * JOURNAL_BYTES);
        for _ in 0..4 {
            let (producer, tell) = (queue.clone(), tell.clone());
            thread::spawn(move || {
                // Who writes little is not held back before the wall.
                producer.send("little").expect("there is space");
                let _ = tell.send(());
            });
        }
        // They come to the wall. If one is late, the test sees less.
        thread::sleep(Duration::from_millis(100));
    });
    for _ in 0..4 {
        // It is a guard: whoever waits for the second part waits for ever.
        told.recv_timeout(Duration::from_secs(60)).expect("the first part made room");
    }
    assert!(gate.parts.load(Ordering::SeqCst) <= 2, "only the first part was made");
    gate.close(false);
    engine.close().expect("the disk is well");
}
