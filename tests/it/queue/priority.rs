//! Priorities of messages.

use posthouse::{Message, Queue};

use crate::support::{SECOND, Sim, field, take};

fn payloads(queue: &Queue) -> Vec<String> {
    let mut held = Vec::new();
    while let Some(delivery) = take(queue) {
        held.push(delivery);
    }
    held.iter().map(|it| String::from_utf8(it.payload().to_vec()).unwrap()).collect()
}

#[test]
fn higher_priorities_come_first_and_each_in_the_order_of_sending() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
    for (text, priority) in [("a", 0), ("b", 5), ("c", 9), ("d", 5), ("e", 0), ("f", 9)] {
        queue.send(Message::new(text).priority(priority)).unwrap();
    }
    assert_eq!(payloads(&queue), ["c", "f", "b", "d", "a", "e"]);
    let sim = sim.kill();
    let queue = sim.engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
    assert_eq!(payloads(&queue), ["c", "f", "b", "d", "a", "e"], "after a crash");
    sim.engine.checkpoint().unwrap();
    let sim = sim.kill();
    let queue = sim.engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
    assert_eq!(payloads(&queue), ["c", "f", "b", "d", "a", "e"], "after a checkpoint");
}

#[test]
fn a_message_with_a_priority_can_wait_fail_die_and_be_redriven() {
    let sim = Sim::new();
    let queue =
        sim.engine.queue("q").backoff(posthouse::Backoff::None).max_attempts(2).create().unwrap();
    queue.send("low").unwrap();
    queue.send(Message::new("late").priority(3).deliver_after(SECOND)).unwrap();
    let low = take(&queue).unwrap();
    assert_eq!((low.payload(), low.priority()), (&b"low"[..], 0));
    low.nack().unwrap();
    drop(low);
    sim.disk.advance(SECOND);
    for attempt in 1..=2 {
        let late = take(&queue).unwrap();
        assert_eq!((late.payload(), late.priority(), late.attempt()), (&b"late"[..], 3, attempt));
        late.nack().unwrap();
    }
    let dead = sim.engine.queue("q.dead").open().unwrap();
    assert_eq!(dead.browse().unwrap().next().unwrap().unwrap().priority(), 3);
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!(payloads(&queue), ["late", "low"]);
}

#[test]
fn where_priorities_cannot_be_they_are_refused_by_name() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let ordered = sim.engine.queue("o").ordered_by_key(true).create().unwrap();
    let topic = sim.engine.topic("t").create().unwrap();
    let stream = sim.engine.stream("s").create().unwrap();
    let urgent = |priority| Message::new("a").priority(priority);
    assert_eq!(field(queue.send(urgent(10))), "priority");
    assert_eq!(field(ordered.send(urgent(1))), "priority");
    assert_eq!(field(topic.publish(urgent(1))), "priority");
    assert_eq!(field(stream.append(urgent(1))), "priority");
    assert_eq!(queue.depth().unwrap() + ordered.depth().unwrap(), 0);
    queue.send(urgent(9)).unwrap();
}
