//! Messages whose time to live is over.

use std::time::Duration;

use posthouse::{Message, Timestamp};

use super::keyed;
use crate::support::{SECOND, Sim, block_on, field, take};

#[test]
fn a_message_that_would_be_over_before_it_is_due_is_refused() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let brief = || Message::new("a").expire_after(10 * SECOND);
    assert_eq!(field(queue.send(brief().deliver_after(10 * SECOND))), "expire_after");
    let now = Timestamp::now();
    assert_eq!(field(queue.send(brief().deliver_at(Timestamp(now.0 * 2)))), "expire_after");
    queue.send(brief().deliver_after(9 * SECOND)).unwrap();
    sim.disk.advance(9 * SECOND);
    assert!(take(&queue).is_some());
}

/// Each way into a queue with a delay of its own.
#[test]
fn a_message_that_would_be_over_before_its_queue_has_it_due_is_refused() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").delay(10 * SECOND).create().unwrap();
    let brief = || Message::new("a").expire_after(10 * SECOND);
    assert_eq!(field(queue.send(brief())), "expire_after");
    assert_eq!(field(queue.send_within(brief(), SECOND)), "expire_after");
    assert_eq!(field(queue.send_ticket(brief())), "expire_after");
    assert_eq!(field(queue.send_batch([Message::new("b"), brief()])), "expire_after");
    assert_eq!(field(block_on(queue.send_async(brief()))), "expire_after");
    assert_eq!(field(block_on(queue.send_batch_async([brief()]))), "expire_after");
    let mut tx = sim.engine.transaction();
    tx.send(&queue, brief());
    assert_eq!(field(tx.commit()), "expire_after");
    assert_eq!(queue.depth().unwrap(), 0);

    // A delay of the message takes the place of the queue's.
    queue.send(brief().deliver_after(SECOND)).unwrap();
    queue.send(Message::new("b").expire_after(11 * SECOND)).unwrap();
    sim.disk.advance(SECOND);
    assert!(take(&queue).is_some_and(|it| it.payload() == b"a"));
    sim.disk.advance(9 * SECOND);
    assert!(take(&queue).is_some_and(|it| it.payload() == b"b"));

    // What is moved has had its wait.
    let other = sim.engine.queue("r").create().unwrap();
    other.send(brief()).unwrap();
    other.redrive().to(&queue).run().unwrap();
    assert!(take(&queue).is_some());

    // The settings may change later.
    sim.engine.queue("q").delay(SECOND).create_or_update().unwrap();
    queue.send(brief()).unwrap();
    sim.engine.queue("q").delay(20 * SECOND).create_or_update().unwrap();
    assert_eq!(field(queue.send(brief())), "expire_after");
}

#[test]
fn a_queue_whose_messages_would_all_be_over_before_they_are_due_is_refused() {
    let sim = Sim::new();
    let builder = |name| sim.engine.queue(name).time_to_live(10 * SECOND);
    assert_eq!(field(builder("q").delay(10 * SECOND).create()), "time_to_live");
    builder("q").delay(9 * SECOND).create().unwrap();
    assert_eq!(field(sim.engine.queue("q").delay(11 * SECOND).create_or_update()), "time_to_live");
    let shorter = sim.engine.queue("q").time_to_live(SECOND);
    assert_eq!(field(shorter.create_or_update()), "time_to_live");
    sim.engine.queue("q").without_time_to_live().delay(11 * SECOND).create_or_update().unwrap();
}

#[test]
fn an_expired_message_counts_as_no_delivery() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(SECOND).create().unwrap();
    let letters = sim.engine.queue("r").time_to_live(SECOND).max_attempts(3).create().unwrap();
    for queue in [&queue, &letters] {
        queue.send_batch(["a", "b"]).unwrap();
        take(queue).unwrap().nack().unwrap();
        sim.disk.advance(SECOND);
        assert!(take(queue).is_none());
        let stats = queue.stats().unwrap();
        assert_eq!((stats.delivered, stats.redelivered, stats.depth), (1, 0, 0));
    }
}

#[test]
fn expired_messages_do_not_come() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(10 * SECOND).create().unwrap();
    queue.send("by the queue").unwrap();
    queue.send(Message::new("shorter").expire_after(5 * SECOND)).unwrap();
    queue.send(Message::new("no longer").expire_after(60 * SECOND)).unwrap();
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(5 * SECOND);
    let delivery = take(&queue).unwrap();
    assert_eq!(delivery.payload(), b"by the queue");
    let rest = take(&queue).unwrap();
    assert_eq!((rest.payload(), queue.depth().unwrap()), (&b"no longer"[..], 2), "one is gone");
    rest.nack().unwrap();
    delivery.ack().unwrap();
    sim.disk.advance(5 * SECOND);
    assert_eq!(queue.depth().unwrap(), 0);
    assert!(take(&queue).is_none());
    queue.send("fresh").unwrap();
    drop((queue, delivery, rest));
    sim.engine.sync().unwrap();
    sim.disk.advance(9 * SECOND);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    take(&queue).unwrap().nack().unwrap();
    sim.disk.advance(SECOND);
    assert!(take(&queue).is_none(), "its time to live goes on after a restart");
}

#[test]
fn an_expired_message_becomes_a_dead_letter_and_its_time_to_live_starts_again() {
    let sim = Sim::new();
    sim.engine.queue("bin").time_to_live(100 * SECOND).create().unwrap();
    let queue = sim.engine.queue("q").time_to_live(SECOND).dead_letter_queue("bin").create();
    let queue = queue.unwrap();
    queue.send(Message::new("a").key("k").header("h", "v")).unwrap();
    sim.disk.advance(200 * SECOND);
    assert!(take(&queue).is_none());
    sim.engine.sync().unwrap();
    let bin = sim.engine.queue("bin").open().unwrap();
    let letter = take(&bin).unwrap();
    let note = letter.dead_letter().unwrap().unwrap();
    assert_eq!((&*note.reason, note.attempts), ("its time to live is over", 0));
    assert_eq!((letter.key(), letter.header("h")), (Some(&b"k"[..]), Some(&b"v"[..])));
    letter.nack().unwrap();
    sim.disk.advance(100 * SECOND);
    assert!(take(&bin).is_none());
    assert_eq!((queue.depth().unwrap(), bin.depth().unwrap()), (0, 0));
}

#[test]
fn times_to_live_end_for_subscriptions_and_for_keys_in_order() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let short = topic.subscription("short").time_to_live(SECOND).ordered_by_key(true);
    let (short, long) = (short.create().unwrap(), topic.subscription("long").create().unwrap());
    topic.publish(keyed("a", 0)).unwrap();
    topic.publish(keyed("a", 1).expire_after(100 * SECOND)).unwrap();
    let held = short.try_receive().unwrap().unwrap();
    assert!(short.try_receive().unwrap().is_none());
    sim.disk.advance(2 * SECOND);
    topic.publish(keyed("a", 2)).unwrap();
    held.ack().unwrap();
    assert_eq!(short.try_receive().unwrap().unwrap().payload(), b"2");
    assert_eq!(long.receive_batch(9, Duration::ZERO).unwrap().len(), 3);

    assert_eq!(field(topic.publish(keyed("a", 1).expire_after(Duration::ZERO))), "expire_after");
    let stream = sim.engine.stream("s").create().unwrap();
    assert_eq!(field(stream.append(keyed("a", 1).expire_after(SECOND))), "expire_after");
    let forever = sim.engine.queue("q").time_to_live(Duration::ZERO);
    assert_eq!(field(forever.create()), "time_to_live");
}
