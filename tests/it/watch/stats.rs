//! Statistics, rates and ages.

use std::time::Duration;

use posthouse::{Message, Queue};

use crate::support::{SECOND, Sim, take};

#[test]
fn stats_tell_what_is_where_and_what_has_happened() {
    let sim = Sim::new();
    let queue =
        sim.engine.queue("q").backoff(posthouse::Backoff::None).max_attempts(2).create().unwrap();
    queue.send_batch((0..10).map(|n| n.to_string())).unwrap();
    queue.send(Message::new("later").deliver_after(SECOND)).unwrap();
    let held = queue.receive_batch(3, Duration::ZERO).unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.ready, stats.delayed, stats.in_flight), (11, 7, 1, 3));
    assert_eq!((stats.delivered, stats.redelivered, stats.acked), (3, 0, 0));
    held[0].ack().unwrap();
    held[1].nack().unwrap();
    // It was looked at, so giving it up is a failure.
    assert_eq!(held[2].payload(), b"2");
    drop(held);
    for _ in 0..2 {
        // These two again: now they become dead letters.
        let delivery = loop {
            let delivery = take(&queue).unwrap();
            if delivery.attempt() == 2 {
                break delivery;
            }
            delivery.ack().unwrap();
        };
        delivery.nack().unwrap();
    }
    let stats = queue.stats().unwrap();
    assert_eq!((stats.redelivered, stats.failed, stats.dead), (2, 4, 2));
    assert_eq!(stats.acked + stats.dead + stats.depth, 11);
    assert_eq!(stats.delivered, stats.acked + 4);
    sim.disk.advance(SECOND);
    assert_eq!(queue.stats().unwrap().delayed, 0);
}

#[test]
fn rates_are_what_has_happened_in_a_second_between_two_stats() {
    let sim = Sim::new();
    let queue =
        sim.engine.queue("q").backoff(posthouse::Backoff::None).max_attempts(2).create().unwrap();
    queue.send("before").unwrap();
    let before = queue.stats().unwrap();
    assert_eq!((before.sent, before.rates_since(&before)), (1, posthouse::Rates::default()));
    queue.send_batch((0..19).map(|n| n.to_string())).unwrap();
    for _ in 0..5 {
        take(&queue).unwrap().ack().unwrap();
    }
    take(&queue).unwrap().nack().unwrap();
    take(&queue).unwrap().reject("no").unwrap();
    sim.disk.advance(10 * SECOND);
    take(&queue).unwrap();
    let after = queue.stats().unwrap();
    let rates = after.rates_since(&before);
    assert_eq!((rates.sent, rates.delivered, rates.redelivered, rates.acked), (1.9, 0.8, 0.1, 0.5));
    assert_eq!((rates.failed, rates.dead), (0.3, 0.1));
    assert_eq!(after.uptime - before.uptime, 10 * SECOND);
    assert_eq!(before.rates_since(&after), posthouse::Rates::default(), "the wrong way round");
    // Messages that are moved here count as well.
    let dead = sim.engine.queue("q.dead").open().unwrap();
    assert_eq!(dead.stats().unwrap().sent, 0, "no handle of it was open then");
    take(&queue).unwrap().reject("no").unwrap();
    assert_eq!(dead.stats().unwrap().sent, 1);
    dead.redrive().run().unwrap();
    assert_eq!(queue.stats().unwrap().sent, 22);
}

#[test]
fn stats_tell_the_age_of_the_oldest_message_that_is_not_acked() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let age = |queue: &Queue| {
        let age = queue.stats().unwrap().oldest_age;
        assert_eq!(queue.oldest_age().unwrap(), age);
        age
    };
    assert_eq!(age(&queue), None);
    queue.send("a").unwrap();
    sim.disk.advance(3 * SECOND);
    queue.send("b").unwrap();
    sim.disk.advance(2 * SECOND);
    assert_eq!(age(&queue), Some(5 * SECOND));
    let delivery = take(&queue).unwrap();
    assert_eq!(age(&queue), Some(5 * SECOND), "it is not acked");
    delivery.ack().unwrap();
    assert_eq!(age(&queue), Some(2 * SECOND));
    drop((queue, delivery));
    sim = sim.kill();
    sim.disk.advance(SECOND);
    let queue = sim.engine.queue("q").open().unwrap();
    assert_eq!(age(&queue), Some(3 * SECOND), "ages go on after a restart");
    queue.purge().unwrap();
    assert_eq!(age(&queue), None);
}

#[test]
fn stats_are_there_although_the_oldest_message_is_damaged() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(vec![b'x'; 300]).unwrap();
    sim.engine.checkpoint().unwrap();
    let segments = sim.disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    for path in segments.collect::<Vec<_>>() {
        let mut content = sim.disk.content(&path).unwrap();
        let at = content.windows(8).position(|it| it == b"xxxxxxxx").unwrap();
        content[at] ^= 1;
        sim.disk.plant(&path, Some(content));
    }
    assert_eq!(queue.oldest_age().unwrap(), None, "there is no other");
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.oldest_age), (1, None));
}

/// A letter that goes back to one subscription is acked for the others: nothing was sent to them.
#[test]
fn a_letter_of_one_subscription_is_not_sent_to_the_others() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let a = topic.subscription("a").max_attempts(1).create().unwrap();
    let b = topic.subscription("b").create().unwrap();
    topic.publish("x").unwrap();
    b.try_receive().unwrap().unwrap().ack().unwrap();
    a.try_receive().unwrap().unwrap().nack().unwrap();
    let letters = sim.engine.queue("t.a.dead").open().unwrap();
    assert_eq!(letters.redrive().run().unwrap().moved, 1);
    assert_eq!(a.stats().unwrap().sent, 2);
    let stats = b.stats().unwrap();
    assert_eq!((stats.sent, stats.acked, stats.depth), (1, 1, 0));
    // It is so also for a subscription that rests meanwhile.
    drop(b);
    sim.engine.checkpoint().unwrap();
    a.try_receive().unwrap().unwrap().nack().unwrap();
    assert_eq!(letters.redrive().run().unwrap().moved, 1);
    let b = topic.subscription("b").open().unwrap();
    assert_eq!(b.stats().unwrap().sent, 1);
    sim.disk.advance(60 * SECOND);
    topic.publish("y").unwrap();
    sim.engine.checkpoint().unwrap();
    assert_eq!(b.stats().unwrap().sent, 2);
}
