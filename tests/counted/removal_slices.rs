//! Removals and moves of many messages, beside many that are on lease, wait, are due, or are damaged. A slice costs what
//! is in the slice, and the work is linear.

use std::{mem, time::Duration};

use posthouse::{Backoff, Engine, Message, Offset, Overflow, Queue};

use crate::slices::{FEW, MANY, SECOND, STEPS_MAX, Work, assert_sliced, count, open};

/// The most steps for each other subscription, where letters go back to some.
const STEPS_OF_A_SUBSCRIPTION: u64 = 4;

/// The most steps of a hold whose work is small.
const STEPS_OF_FEW: u64 = 64;

const HOUR: Duration = Duration::from_secs(3600);

fn queue(engine: &Engine) -> Queue {
    engine.queue("q").lease(HOUR).backoff(Backoff::None).create().unwrap()
}

/// Sends `count` messages, and leases them.
fn lease(queue: &Queue, count: usize) -> Vec<posthouse::Delivery> {
    queue.send_batch((0..count).map(|_| "work")).unwrap();
    let leased = queue.receive_batch(count, Duration::ZERO).unwrap();
    assert_eq!(leased.len(), count);
    leased
}

fn delay(queue: &Queue, count: usize, delay: Duration) {
    for _ in 0..count / 1000 {
        queue.send_batch((0..1000).map(|_| Message::new("work").deliver_after(delay))).unwrap();
    }
}

#[test]
fn a_purge_between_messages_on_lease_works_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let queue = queue(&engine);
        let mut leased = lease(&queue, 2 * many);
        let mut index = 0;
        leased.retain(|delivery| {
            index += 1;
            let stays = index % 2 == 0;
            if !stays {
                delivery.nack().unwrap();
            }
            stays
        });
        let work = count(|| assert_eq!(queue.purge().unwrap(), many as u64));
        let stats = queue.stats().unwrap();
        assert_eq!((stats.ready, stats.in_flight), (0, many as u64));
        queue.ack_batch(&leased).unwrap();
        assert_eq!(queue.depth().unwrap(), 0);
        work
    });
}

#[test]
fn a_purge_of_messages_that_wait_works_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = queue(&engine);
        delay(&queue, many, HOUR);
        let work = count(|| assert_eq!(queue.purge().unwrap(), many as u64));
        assert_eq!(queue.stats().unwrap().delayed, 0);
        disk.advance(2 * HOUR);
        assert!(queue.try_receive().unwrap().is_none());
        work
    });
}

#[test]
fn a_purge_of_messages_that_are_due_works_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = queue(&engine);
        delay(&queue, many, SECOND);
        disk.advance(2 * SECOND);
        assert_eq!(queue.stats().unwrap().ready, many as u64);
        let work = count(|| assert_eq!(queue.purge().unwrap(), many as u64));
        queue.send("more").unwrap();
        let delivery = queue.try_receive().unwrap().unwrap();
        assert_eq!(delivery.payload(), b"more");
        assert!(queue.try_receive().unwrap().is_none());
        work
    });
}

/// The purge of a queue that is ordered by key, and has many keys whose messages failed.
#[test]
fn a_purge_of_the_heads_of_many_keys_works_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let queue = engine.queue("q").lease(HOUR).ordered_by_key(true);
        let queue = queue.backoff(Backoff::Fixed(HOUR)).create().unwrap();
        for n in (0..many).chain(0..many) {
            queue.send(Message::new("work").key(n.to_string())).unwrap();
        }
        for _ in 0..many {
            queue.try_receive().unwrap().expect("its key is free").nack().unwrap();
        }
        assert!(queue.try_receive().unwrap().is_none(), "the others are parked");
        let work = count(|| assert_eq!(queue.purge().unwrap(), 2 * many as u64));
        queue.send(Message::new("more").key("7")).unwrap();
        assert_eq!(queue.try_receive().unwrap().unwrap().payload(), b"more");
        work
    });
}

/// Asserts that a small piece of work takes as many steps beside many things as beside few.
fn assert_flat(work: impl Fn(usize) -> Work) {
    let (few, many) = (work(FEW), work(MANY));
    for work in [&few, &many] {
        let longest = work.longest.values().max().copied().unwrap_or(0);
        assert!(longest <= STEPS_OF_FEW, "a hold is long: {:?}", work.longest);
    }
    assert!(many.steps <= few.steps + 8, "the steps grow: {few:?}, {many:?}");
}

fn full(engine: &Engine, most: usize) -> Queue {
    let full = engine.queue("q").lease(HOUR).max_messages(most as u64);
    full.overflow(Overflow::DropOldest).create().unwrap()
}

#[test]
fn a_send_to_a_full_queue_whose_messages_are_on_lease_does_not_grow_with_them() {
    assert_flat(|many| {
        let (_disk, engine) = open();
        let queue = full(&engine, many);
        let leased = lease(&queue, many);
        let work = count(|| assert!(queue.send("more").is_err(), "all are on lease"));
        drop(leased);
        work
    });
}

#[test]
fn a_send_that_drops_the_oldest_message_that_waits_does_not_grow_with_those_on_lease() {
    assert_flat(|many| {
        let (_disk, engine) = open();
        let queue = full(&engine, 2 * many);
        let leased = lease(&queue, many);
        delay(&queue, many, HOUR);
        let work = count(|| {
            for _ in 0..3 {
                queue.send(Message::new("more").deliver_after(HOUR)).unwrap();
            }
        });
        let stats = queue.stats().unwrap();
        assert_eq!((stats.delayed, stats.in_flight, stats.dropped), (many as u64, many as u64, 3));
        assert!(!queue.remove(Offset(many as u64 + 2)).unwrap(), "it was dropped");
        assert!(queue.remove(Offset(many as u64 + 3)).unwrap(), "it is the next one");
        drop(leased);
        work
    });
}

/// The same message was delayed once, came due and is on lease.
#[test]
fn a_send_that_drops_a_message_that_waits_does_not_grow_with_leases_of_delayed_messages() {
    assert_flat(|many| {
        let (disk, engine) = open();
        let queue = full(&engine, many + 1);
        delay(&queue, many, SECOND);
        disk.advance(2 * SECOND);
        let leased = queue.receive_batch(many, Duration::ZERO).unwrap();
        assert_eq!(leased.len(), many);
        queue.send(Message::new("work").deliver_after(HOUR)).unwrap();
        let work = count(|| queue.send("more").map(drop).unwrap());
        assert_eq!(queue.stats().unwrap().delayed, 0);
        drop(leased);
        work
    });
}

#[test]
fn a_redrive_does_not_grow_with_the_messages_on_lease() {
    assert_flat(|many| {
        let (_disk, engine) = open();
        let (queue, other) = (queue(&engine), engine.queue("other").create().unwrap());
        queue.send_batch(["work", "more"]).unwrap();
        let mut leased = queue.receive_batch(2, Duration::ZERO).unwrap();
        mem::forget(lease(&queue, many));
        leased.drain(..).for_each(|delivery| delivery.nack().unwrap());
        let redrive = queue.redrive().to(&other).most(2);
        let work = count(|| assert_eq!(redrive.run().unwrap().moved, 2));
        // Each message on lease has no way back, and is looked at.
        let one_by_one = count(|| assert_eq!(queue.redrive().run().unwrap().moved, 0));
        assert!(one_by_one.longest.values().all(|longest| *longest <= STEPS_MAX), "{one_by_one:?}");
        assert!(one_by_one.steps <= 20 * many as u64, "{one_by_one:?}");
        work
    });
}

/// Messages of one key are parked behind its head, and leave. When the head is acked, the next one of the key is behind
/// them all.
fn ack_before_many_that_have_left(many: usize, leave: impl FnOnce(&Queue)) -> Work {
    let (_disk, engine) = open();
    let queue = engine.queue("q").lease(HOUR).ordered_by_key(true).create().unwrap();
    let send = |what: &'static str| _ = queue.send(Message::new(what).key("hot")).unwrap();
    let receive = || queue.try_receive().unwrap();
    (0..=many).for_each(|_| send("work"));
    let head = receive().expect("its key is free");
    assert!(receive().is_none(), "the others are parked");
    leave(&queue);
    assert_eq!(queue.depth().unwrap(), 1, "the head is on lease");
    send("more");
    assert!(receive().is_none(), "it is parked");
    let mut work = count(|| head.ack().unwrap());
    let received = count(|| {
        send("last");
        let next = receive().expect("its key is free");
        assert_eq!(next.payload(), b"more");
        assert!(receive().is_none(), "the last one is parked");
        next.ack().unwrap();
    });
    assert_eq!(receive().unwrap().payload(), b"last");
    work.steps += received.steps;
    for (operation, steps) in received.longest {
        let longest = work.longest.entry(operation).or_default();
        *longest = steps.max(*longest);
    }
    work
}

#[test]
fn an_ack_of_a_key_whose_other_messages_were_purged_works_in_slices() {
    assert_sliced(|many| {
        ack_before_many_that_have_left(many, |queue| {
            assert_eq!(queue.purge().unwrap(), many as u64);
        })
    });
}

#[test]
fn an_ack_of_a_key_whose_other_messages_were_removed_works_in_slices() {
    assert_sliced(|many| {
        ack_before_many_that_have_left(many, |queue| {
            (1..=many as u64).for_each(|n| assert!(queue.remove(Offset(n)).unwrap()));
        })
    });
}

/// Letters go back to subscriptions of a topic with many. Each letter is acked for all subscriptions but its own: as a range
/// for each of them, in one commit of many letters.
fn redrive_to(subscriptions: usize, targets: usize) -> Work {
    const LETTERS: usize = 100;
    let (_disk, engine) = open();
    let letters = engine.queue("letters").create().unwrap();
    let topic = engine.topic("t").create().unwrap();
    let all: Vec<_> = (0..subscriptions)
        .map(|n| {
            let subscription = topic.subscription(&format!("s{n}"));
            subscription.max_attempts(1).dead_letter_queue("letters").create().unwrap()
        })
        .collect();
    for _ in 0..LETTERS / targets {
        topic.publish("news").unwrap();
        for subscription in &all[..targets] {
            subscription.try_receive().unwrap().expect("it was published").nack().unwrap();
        }
    }
    let depths = || all.iter().map(|it| it.depth().unwrap()).collect::<Vec<_>>();
    let before = depths();
    assert_eq!(letters.depth().unwrap(), LETTERS as u64);
    let work = count(|| assert_eq!(letters.redrive().run().unwrap().moved, LETTERS as u64));
    let grown = |n| if n < targets { (LETTERS / targets) as u64 } else { 0 };
    assert!(depths().iter().enumerate().all(|(n, depth)| *depth == before[n] + grown(n)));
    work
}

#[test]
fn a_redrive_to_subscriptions_takes_no_step_for_each_letter_and_each_subscription() {
    for targets in [1, 10] {
        let [few, many] = [30, 300].map(|subscriptions| redrive_to(subscriptions, targets));
        let steps = many.steps.saturating_sub(few.steps);
        assert!(steps <= 270 * STEPS_OF_A_SUBSCRIPTION, "{targets}: {few:?}, {many:?}");
        assert!(few.steps <= 100 * 30, "{few:?}");
    }
}
