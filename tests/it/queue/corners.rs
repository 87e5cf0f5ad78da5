//! Corners of the public functions where two of them meet.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use posthouse::{Alarm, Engine, ErrorKind, Message, Queue, Threshold, sim::SimDisk};

use crate::support::{DAY, HOUR, Sim, field, kind, open, take};

/// The callback crosses its own threshold ten thousand times.
#[test]
fn a_watch_that_crosses_its_own_threshold_does_not_use_up_the_stack() {
    let sim = Sim::new();
    let queue = Arc::new(sim.engine.queue("q").create().unwrap());
    let weak: Weak<Queue> = Arc::downgrade(&queue);
    let calls = Arc::new(AtomicU64::new(0));
    let (counted, deepest) = (Arc::clone(&calls), Arc::new(AtomicU64::new(0)));
    let depth = Arc::new(AtomicU64::new(0));
    let noted = Arc::clone(&deepest);
    let watch = queue.watch(Threshold::Depth(1), move |alarm| {
        let Some(queue) = weak.upgrade() else { return };
        noted.fetch_max(depth.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        if counted.fetch_add(1, Ordering::SeqCst) < 10_000 {
            match alarm {
                Alarm::Raised(_) => drop(queue.purge().unwrap()),
                _ => drop(queue.send("again").unwrap()),
            }
        }
        depth.fetch_sub(1, Ordering::SeqCst);
    });
    queue.send("first").unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 10_001);
    assert_eq!(deepest.load(Ordering::SeqCst), 1, "one call begins after the other has returned");
    drop(watch);
}

#[test]
fn creating_a_queue_that_another_thread_deletes_gives_a_handle() {
    let disk = SimDisk::new(7);
    let engine: Engine = open(&disk).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let deleting = {
        let (engine, is_over) = (engine.clone(), Arc::clone(&is_over));
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let _ = engine.queue("q").delete();
                if let Ok(topic) = engine.topic("t").open() {
                    let _ = topic.subscription("s").delete();
                }
            }
        })
    };
    let topic = engine.topic("t").create().unwrap();
    for _ in 0..500 {
        engine.queue("q").create().unwrap();
        topic.subscription("s").create().unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    deleting.join().unwrap();
}

#[test]
fn a_redrive_leaves_whatever_is_on_lease_and_says_nothing_of_it() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    let dead = sim.engine.queue("q.dead").open().unwrap();
    dead.send("no letter").unwrap();
    queue.send("a letter").unwrap();
    let held = take(&dead).unwrap();
    take(&queue).unwrap().reject("no").unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    held.nack().unwrap();
    assert_eq!(field(dead.redrive().run()), "to", "it is not on lease any more");
}

#[test]
fn a_batch_that_never_fits_is_too_large_and_one_that_may_fit_later_finds_the_queue_full() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(3).create().unwrap();
    assert_eq!(kind(queue.send_batch(["a"; 4])), ErrorKind::TooLarge);
    queue.send("a").unwrap();
    assert_eq!(kind(queue.send_batch(["a"; 3])), ErrorKind::QueueFull);
    let mut tx = sim.engine.transaction();
    for _ in 0..4 {
        tx.send(&queue, "a");
    }
    assert_eq!(kind(tx.commit()), ErrorKind::TooLarge);
    assert_eq!(queue.depth().unwrap(), 1);
}

#[test]
fn a_message_is_delayed_by_a_year_at_most() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for delay in [366 * DAY, Duration::MAX] {
        let late = || Message::new("late").deliver_after(delay);
        assert_eq!(field(queue.send(late())), "deliver_after");
        let mut tx = sim.engine.transaction();
        tx.send(&queue, late());
        assert_eq!(field(tx.commit()), "deliver_after");
    }
    queue.send(Message::new("late").deliver_after(365 * DAY)).unwrap();
    assert_eq!(queue.delayed().unwrap(), 1);
}

#[test]
fn dead_letters_are_shared_only_by_those_that_name_their_queue() {
    let sim = Sim::new();
    let engine = &sim.engine;
    let (deep, flat) = (engine.topic("x.y").create().unwrap(), engine.topic("x").create().unwrap());
    deep.subscription("z").max_attempts(2).create().unwrap();
    let second = flat.subscription("y.z").max_attempts(2);
    assert_eq!(field(second.create()), "dead_letter_queue");
    let third = engine.queue("x.y.z").max_attempts(2);
    assert_eq!(field(third.create()), "dead_letter_queue");
    assert_eq!(kind(engine.queue("x.y.z").open()), ErrorKind::NotFound, "nothing was created");
    // The first one is opened again, and whoever names the queue shares it.
    deep.subscription("z").max_attempts(2).create().unwrap();
    third.dead_letter_queue("x.y.z.dead").create().unwrap();
    second.dead_letter_queue("elsewhere").create().unwrap();
    // A queue that was deleted leaves its dead letters to the next one of its name.
    engine.queue("p").max_attempts(2).create().unwrap();
    engine.queue("p").delete().unwrap();
    engine.queue("p").max_attempts(2).create().unwrap();
}

#[test]
fn the_next_of_a_key_waits_for_the_lease_of_a_head_that_was_deleted() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
    for n in 0..2 {
        queue.send(super::keyed("k", n)).unwrap();
    }
    let head = take(&queue).unwrap();
    assert!(queue.remove(head.offset()).unwrap());
    assert!(take(&queue).is_none(), "a handler works on that key");
    head.nack_after(HOUR).unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"1");
}
