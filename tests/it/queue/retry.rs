//! Retries: how long a message waits after a failure, and which messages pass it meanwhile.

use std::{thread, time::Duration};

use posthouse::{Backoff, Engine, ErrorKind, Message};

use crate::support::{SECOND, Sim, field, kind, take};

#[test]
fn a_failed_message_waits_as_long_as_its_backoff_says() {
    let sim = Sim::new();
    let backoff = Backoff::Exponential { first: SECOND, most: 4 * SECOND, jitter: false };
    let queue = sim.engine.queue("q").backoff(backoff).create().unwrap();
    queue.send("a").unwrap();
    for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (4, 4)] {
        let delivery = take(&queue).unwrap();
        assert_eq!(delivery.attempt(), attempt);
        delivery.nack().unwrap();
        assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (1, 1));
        sim.disk.advance(seconds * SECOND - Duration::from_millis(1));
        assert!(take(&queue).is_none(), "attempt {attempt} came too early");
        sim.disk.advance(Duration::from_millis(1));
        assert_eq!(queue.delayed().unwrap(), 0);
    }
    assert_eq!(take(&queue).unwrap().attempt(), 5);
}

#[test]
fn a_dropped_delivery_and_a_lease_that_ran_out_wait_too() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).backoff(Backoff::Fixed(5 * SECOND));
    let queue = queue.create().unwrap();
    queue.send("a").unwrap();
    drop(take(&queue).unwrap());
    assert!(take(&queue).is_none());
    sim.disk.advance(5 * SECOND);
    let held = take(&queue).unwrap();
    sim.disk.advance(SECOND);
    assert!(
        take(&queue).is_none(),
        "the lease has run out, and the message waits, as it failed before"
    );
    assert_eq!(kind(held.ack()), ErrorKind::LeaseLost);
    sim.disk.advance(5 * SECOND);
    assert_eq!(take(&queue).unwrap().attempt(), 3);
}

#[test]
fn a_queue_by_default_does_not_spin() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send("forgotten").unwrap();
    // Nobody acks it, for ten minutes.
    let (mut deliveries, step) = (0, Duration::from_millis(10));
    for _ in 0..60_000 {
        while let Some(delivery) = take(&queue) {
            deliveries += 1;
            drop(delivery);
            assert!(deliveries < 40, "the queue spins");
        }
        sim.disk.advance(step);
    }
    assert!(deliveries >= 15, "{deliveries}: it comes each minute at least");
    let settings = queue.settings().unwrap();
    let (first, most) = (Duration::from_millis(100), Duration::from_secs(60));
    assert_eq!(settings.backoff, Backoff::exponential(first, most));
    assert_eq!(settings.backoff, Backoff::default());
    let topic = sim.engine.topic("t").create().unwrap();
    let subscription = topic.subscription("s").max_attempts(2).create().unwrap();
    assert_eq!(subscription.settings().unwrap().backoff, Backoff::default());
    let letters = sim.engine.queue("t.s.dead").open().unwrap();
    assert_eq!(letters.settings().unwrap().backoff, Backoff::default());
}

#[test]
fn the_first_retry_after_a_lease_that_ran_out_or_a_process_that_died_is_immediate() {
    let mut sim = Sim::new();
    for (name, most) in [("plain", None), ("counted", Some(9))] {
        let builder = sim.engine.queue(name).lease(SECOND);
        let builder = most.into_iter().fold(builder, posthouse::QueueBuilder::max_attempts);
        let queue = builder.create().unwrap();
        queue.send("a").unwrap();
        let held = take(&queue).unwrap();
        sim.disk.advance(SECOND);
        let again = take(&queue).expect("the lease was a wait");
        sim.disk.advance(SECOND);
        assert!(take(&queue).is_none(), "the second retry waits");
        sim.disk.advance(SECOND);
        let third = take(&queue).unwrap();
        assert_eq!((again.attempt(), third.attempt()), (2, 3));
        drop((held, again, queue));
        std::mem::forget(third);
    }
    sim = sim.kill();
    for name in ["plain", "counted"] {
        assert!(
            take(&sim.engine.queue(name).open().unwrap()).is_some(),
            "{name}: the process died"
        );
    }
}

#[test]
fn the_consumer_may_say_how_long_it_waits() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::Fixed(SECOND)).create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    take(&queue).unwrap().nack_after(60 * SECOND).unwrap();
    let delivery = take(&queue).unwrap();
    let mut tx = sim.engine.transaction();
    tx.nack_after(&delivery, Duration::ZERO);
    tx.commit().unwrap();
    let again = take(&queue).unwrap();
    assert_eq!((again.payload(), again.attempt()), (&b"b"[..], 2));
    again.ack().unwrap();
    sim.disk.advance(59 * SECOND);
    assert!(take(&queue).is_none());
    sim.disk.advance(SECOND);
    let again = take(&queue).unwrap();
    assert_eq!(again.payload(), b"a");
    let too_long = Duration::from_secs(366 * 24 * 3600);
    assert_eq!(field(again.nack_after(too_long)), "delay");
    again.ack().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_wait_and_the_attempts_survive_a_kill_and_a_checkpoint() {
    let mut sim = Sim::new();
    let make = |sim: &Sim| sim.engine.queue("q").backoff(Backoff::Fixed(60 * SECOND)).create();
    let queue = make(&sim).unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    sim.disk.advance(20 * SECOND);
    drop(queue);
    sim = sim.kill();
    assert!(take(&make(&sim).unwrap()).is_none());
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(20 * SECOND);
    sim = sim.kill();
    let queue = make(&sim).unwrap();
    assert!(take(&queue).is_none());
    sim.disk.advance(20 * SECOND);
    assert_eq!(take(&queue).unwrap().attempt(), 2);
}

#[test]
fn other_messages_pass_those_that_wait() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::Fixed(SECOND)).create().unwrap();
    queue.send_batch((0..100).map(|n| n.to_string())).unwrap();
    for n in 0..100 {
        let delivery = take(&queue).unwrap();
        assert_eq!(delivery.payload(), n.to_string().as_bytes());
        if n % 2 == 0 { delivery.nack().unwrap() } else { delivery.ack().unwrap() }
    }
    assert!(take(&queue).is_none());
    sim.disk.advance(SECOND);
    for n in (0..100).step_by(2) {
        let delivery = take(&queue).unwrap();
        assert_eq!(delivery.payload(), n.to_string().as_bytes());
        delivery.ack().unwrap();
    }
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_waiting_thread_is_woken_when_a_message_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let began = std::time::Instant::now();
    queue.send(Message::new("later").deliver_after(Duration::from_millis(80))).unwrap();
    let delivery = queue.receive(Duration::from_secs(30)).unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(75), "it came too early");
    assert!(began.elapsed() < Duration::from_secs(20), "it was polled for, or never told");
    delivery.nack_after(Duration::from_millis(50)).unwrap();
    let other = queue.clone();
    let waiting = thread::spawn(move || other.receive(Duration::from_secs(30)).unwrap());
    assert_eq!(waiting.join().unwrap().unwrap().attempt(), 2);
    assert!(began.elapsed() < Duration::from_secs(20));
}
