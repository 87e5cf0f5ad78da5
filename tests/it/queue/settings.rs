//! Settings of a queue that are out of range.

use std::time::Duration;

use posthouse::{Backoff, ErrorKind, Message, Timestamp};

use crate::support::{SECOND, Sim, field, kind};

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let sim = Sim::new();
    let queue = || sim.engine.queue("q");
    let year = Duration::from_secs(366 * 24 * 3600);
    assert_eq!(field(queue().lease(Duration::ZERO).create()), "lease");
    assert_eq!(field(queue().delay(year).create()), "delay");
    assert_eq!(field(queue().backoff(Backoff::Fixed(year)).create()), "backoff");
    let backwards = Backoff::exponential(2 * SECOND, SECOND);
    assert_eq!(field(queue().backoff(backwards).create()), "backoff");
    let nothing = Backoff::exponential(Duration::ZERO, SECOND);
    assert_eq!(field(queue().backoff(nothing).create()), "backoff");
    assert_eq!(field(queue().max_attempts(0).create()), "max_attempts");
    assert_eq!(field(queue().dead_letter_queue("q").create()), "dead_letter_queue");
    assert_eq!(field(queue().dead_letter_queue("").create()), "dead_letter_queue");
    assert!(sim.engine.queues().unwrap().is_empty(), "nothing was made");

    let made = queue().max_attempts(3).create().unwrap();
    let other = queue().max_attempts(4).create().unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyExists);
    assert!(other.to_string().contains("another max_attempts"), "{other}");
    assert_eq!(kind(queue().dead_letter_queue("other").create()), ErrorKind::AlreadyExists);
    assert_eq!(kind(queue().backoff(Backoff::Fixed(SECOND)).create()), ErrorKind::AlreadyExists);
    queue().max_attempts(3).dead_letter_queue("q.dead").create().unwrap();
    queue().create().unwrap();
    assert_eq!(field(sim.engine.queue("q.dead").delete()), "name");

    let seconds = Timestamp(sim.now().0 / 1000);
    assert_eq!(field(made.send(Message::new("a").deliver_at(seconds))), "deliver_at");
    assert_eq!(field(made.send(Message::new("a").header("", "x"))), "header");
    let topic = sim.engine.topic("t").create().unwrap();
    let later = || Message::new("a").key("k").deliver_after(SECOND);
    assert_eq!(field(topic.publish(later())), "deliver_after");
    let stream = sim.engine.stream("s").create().unwrap();
    assert_eq!(field(stream.append(later())), "deliver_after");
    assert_eq!(made.depth().unwrap(), 0, "nothing was sent");
    sim.engine.queue("q").delete().unwrap();
    sim.engine.queue("q.dead").delete().unwrap();
}
