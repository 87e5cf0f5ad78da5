//! What users are told of queues: retries, dead letters, delays, and looking into a queue.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;
mod sim;

use std::{thread, time::Duration};

use model::small_options;
use posthouse::{
    Backoff, Delivery, Durability, Engine, ErrorKind, Message, Offset, Overflow, Queue, Timestamp,
};
use sim::{SECOND, Sim, Task, field, kind, take, texts};

// Retry.

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
    assert!(take(&queue).is_none(), "the lease has run out, and the message waits");
    assert_eq!(kind(held.ack()), ErrorKind::LeaseLost);
    sim.disk.advance(5 * SECOND);
    assert_eq!(take(&queue).unwrap().attempt(), 3);
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
    queue.send(Message::new("later").deliver_after(Duration::from_millis(80))).unwrap();
    let began = std::time::Instant::now();
    let delivery = queue.receive(Duration::from_secs(30)).unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(75), "it came too early");
    assert!(began.elapsed() < Duration::from_secs(20), "it was polled for, or never told");
    delivery.nack_after(Duration::from_millis(50)).unwrap();
    let other = queue.clone();
    let waiting = thread::spawn(move || other.receive(Duration::from_secs(30)).unwrap());
    assert_eq!(waiting.join().unwrap().unwrap().attempt(), 2);
    assert!(began.elapsed() < Duration::from_secs(20));
}

// Dead letters.

#[test]
fn a_message_that_fails_for_ever_goes_to_the_dead_letters() {
    let sim = Sim::new();
    let queue = sim.engine.queue("payments").max_attempts(3).create().unwrap();
    let dead = sim.engine.queue("payments.dead").open().unwrap();
    let order = Message::new("order 1").key("customer").header("n", "1").timestamp(Timestamp(5));
    let offset = queue.send(&order).unwrap();
    for attempt in 1..=3 {
        let delivery = take(&queue).unwrap();
        assert_eq!(delivery.attempt(), attempt);
        assert!(delivery.dead_letter().unwrap().is_none());
        assert_eq!(dead.depth().unwrap(), 0);
        delivery.nack_because("the bank is closed").unwrap();
    }
    assert!(take(&queue).is_none());
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
    let letter = take(&dead).unwrap();
    assert_eq!((letter.payload(), letter.key()), (&b"order 1"[..], Some(&b"customer"[..])));
    assert_eq!((letter.header("n"), letter.timestamp()), (Some(&b"1"[..]), Timestamp(5)));
    assert_eq!(letter.headers().count(), 1, "what is noted is no header");
    let note = letter.dead_letter().unwrap().unwrap();
    assert_eq!((&*note.reason, &*note.origin), ("the bank is closed", "payments"));
    assert_eq!((note.offset, note.attempts, note.died), (offset, 3, sim.now()));
}

/// A handler that takes the process down with it never gets to say that it failed.
#[test]
fn a_message_that_kills_its_process_counts_its_attempts() {
    let mut sim = Sim::new();
    sim.engine.queue("q").max_attempts(3).create().unwrap().send_batch(["bad", "good"]).unwrap();
    for attempt in 1..=3 {
        let queue = sim.engine.queue("q").open().unwrap();
        let delivery = take(&queue).unwrap();
        assert_eq!((delivery.payload(), delivery.attempt()), (&b"bad"[..], attempt));
        std::mem::forget((delivery, queue));
        sim = sim.kill();
    }
    let queue = sim.engine.queue("q").open().unwrap();
    let delivery = take(&queue).unwrap();
    assert_eq!((delivery.payload(), delivery.attempt()), (&b"good"[..], 1));
    sim.engine.sync().unwrap();
    let letter = take(&sim.engine.queue("q.dead").open().unwrap()).unwrap();
    let note = letter.dead_letter().unwrap().unwrap();
    assert_eq!((letter.payload(), note.attempts), (&b"bad"[..], 3));
    assert!(note.reason.contains("took the process down"), "{}", note.reason);
}

#[test]
fn drops_and_lost_leases_lead_to_the_dead_letters() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).max_attempts(2).create().unwrap();
    let dead = sim.engine.queue("q.dead").open().unwrap();
    queue.send("dropped").unwrap();
    drop(take(&queue).unwrap());
    drop(take(&queue).unwrap());
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1), "at once");
    queue.send("too slow").unwrap();
    for _ in 0..2 {
        let delivery = take(&queue).unwrap();
        sim.disk.advance(2 * SECOND);
        assert_eq!(kind(delivery.ack()), ErrorKind::LeaseLost);
    }
    assert!(take(&queue).is_none());
    sim.engine.sync().unwrap();
    assert_eq!(texts(&dead), ["dropped", "too slow"]);
}

/// Nobody has to receive for it: the engine's own thread moves it.
#[test]
fn the_last_lease_that_runs_out_moves_the_message_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").lease(Duration::from_millis(30)).max_attempts(1);
    let queue = queue.create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send("too slow").unwrap();
    let held = take(&queue).unwrap();
    let letter = dead.receive(Duration::from_secs(30)).unwrap().expect("it was never moved");
    assert_eq!(letter.payload(), b"too slow");
    assert_eq!(kind(held.ack()), ErrorKind::LeaseLost);
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_message_can_be_rejected_at_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(9).dead_letter_queue("bin").create().unwrap();
    queue.send("nonsense").unwrap();
    let delivery = take(&queue).unwrap();
    let long = "é".repeat(1000);
    delivery.reject(&long).unwrap();
    assert_eq!(kind(delivery.ack()), ErrorKind::LeaseLost);
    let bin = sim.engine.queue("bin").open().unwrap();
    let note = take(&bin).unwrap().dead_letter().unwrap().unwrap();
    assert_eq!((note.attempts, note.reason), (1, "é".repeat(512)));

    let plain = sim.engine.queue("plain").create().unwrap();
    plain.send("a").unwrap();
    let delivery = take(&plain).unwrap();
    assert_eq!(field(delivery.reject("no")), "dead_letter_queue");
    delivery.ack().unwrap();
}

#[test]
fn a_transaction_moves_to_the_dead_letters_too() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    let (dead, log) = (sim.engine.queue("q.dead").open().unwrap(), sim.engine.stream("log"));
    let log = log.create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    let (a, b) = (take(&queue).unwrap(), take(&queue).unwrap());
    let mut tx = sim.engine.transaction();
    tx.nack(&a).ack(&b).append(&log, Message::new("one failed").key("k"));
    assert_eq!(tx.commit().unwrap().len(), 1);
    assert_eq!((queue.depth().unwrap(), texts(&dead)), (0, vec!["a".to_owned()]));
}

#[test]
fn a_subscription_has_dead_letters_of_its_own() {
    let sim = Sim::new();
    let topic = sim.engine.topic("orders").create().unwrap();
    let (email, other) = (topic.subscription("email").max_attempts(1), topic.subscription("o"));
    let (email, other) = (email.create().unwrap(), other.create().unwrap());
    topic.publish("order 1").unwrap();
    email.try_receive().unwrap().unwrap().nack().unwrap();
    assert_eq!((email.depth().unwrap(), other.depth().unwrap()), (0, 1));
    let dead = sim.engine.queue("orders.email.dead").open().unwrap();
    let note = take(&dead).unwrap().dead_letter().unwrap().unwrap();
    assert_eq!(note.origin, "orders/email");
}

#[test]
fn dead_letters_are_redriven() {
    let sim = Sim::new();
    let [one, two] = ["one", "two"].map(|name| {
        let builder = sim.engine.queue(name).max_attempts(1).dead_letter_queue("dead");
        builder.create().unwrap()
    });
    for n in 0..250 {
        let queue = if n % 2 == 0 { &one } else { &two };
        queue.send(Message::new(n.to_string()).key("k").header("h", "v")).unwrap();
        take(queue).unwrap().nack().unwrap();
    }
    let dead = sim.engine.queue("dead").open().unwrap();
    assert_eq!(dead.depth().unwrap(), 250);
    let held = take(&dead).unwrap();

    let of_two = |letter: &posthouse::Browsed| {
        letter.dead_letter().unwrap().is_some_and(|note| note.origin == "two")
    };
    let mut steps = Vec::new();
    let done = dead.redrive().only(of_two).most(110).progress(|it| steps.push(it.moved)).run();
    assert_eq!((done.unwrap().moved, steps), (110, vec![100, 110]));
    assert_eq!((one.depth().unwrap(), two.depth().unwrap(), dead.depth().unwrap()), (0, 110, 140));
    let back = take(&two).unwrap();
    assert_eq!((back.payload(), back.attempt(), back.key()), (&b"1"[..], 1, Some(&b"k"[..])));
    assert!(back.dead_letter().unwrap().is_none());

    assert_eq!(dead.redrive().run().unwrap().moved, 139, "the one on lease stays");
    assert_eq!((one.depth().unwrap(), two.depth().unwrap()), (124, 125));
    held.nack().unwrap();
    let elsewhere = sim.engine.queue("elsewhere").create().unwrap();
    assert_eq!(dead.redrive().to(&elsewhere).run().unwrap().moved, 1);
    assert_eq!((texts(&elsewhere), dead.depth().unwrap()), (vec!["0".to_owned()], 0));

    assert_eq!(field(elsewhere.redrive().run()), "to");
    assert_eq!(field(elsewhere.redrive().to(&elsewhere).run()), "to");
    back.ack().unwrap();
    two.purge().unwrap();
    two.send("x").unwrap();
    drop((back, two));
    let two = sim.engine.queue("two").open().unwrap();
    take(&two).unwrap().nack().unwrap();
    sim.engine.queue("two").delete().unwrap();
    assert_eq!(kind(dead.redrive().run()), ErrorKind::NotFound);
    assert_eq!(dead.depth().unwrap(), 1, "nothing is lost");
}

#[test]
fn on_a_full_disk_nothing_dies_and_nothing_is_lost() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    let dead = sim.engine.queue("q.dead").open().unwrap();
    queue.send_batch([vec![1; 2000], vec![2; 2000]]).unwrap();
    sim.disk.set_capacity(Some(sim.disk.bytes_used()));
    let filler = sim.engine.queue("filler").create();
    while filler.as_ref().is_ok_and(|filler| filler.send(vec![0; 100]).is_ok()) {}
    let delivery = take(&queue).expect("what is there can be received");
    // Whether there was still room for its letter, it is in one place.
    let _ = delivery.nack();
    drop(delivery);
    assert_eq!(queue.depth().unwrap() + dead.depth().unwrap(), 2);
    sim.disk.set_capacity(None);
    sim.disk.advance(2 * SECOND);
    while let Some(delivery) = take(&queue) {
        let _ = delivery.nack();
    }
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 2));
}

// Delay and schedule.

#[test]
fn delayed_messages_come_when_they_are_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").delay(10 * SECOND).create().unwrap();
    let now = sim.now();
    queue.send("by default").unwrap();
    queue.send(Message::new("after").deliver_after(5 * SECOND)).unwrap();
    queue.send(Message::new("at").deliver_at(Timestamp(now.0 + 20_000))).unwrap();
    let mut tx = sim.engine.transaction();
    tx.send(&queue, Message::new("at once").deliver_after(Duration::ZERO)).send(&queue, "tx");
    tx.commit().unwrap();
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (5, 4));
    let mut came = Vec::new();
    for second in 0..30 {
        while let Some(delivery) = take(&queue) {
            came.push((second, String::from_utf8(delivery.payload().to_vec()).unwrap()));
            assert_eq!(delivery.attempt(), 1);
            delivery.ack().unwrap();
        }
        sim.disk.advance(SECOND);
    }
    let expected = [(0, "at once"), (5, "after"), (10, "by default"), (10, "tx"), (20, "at")];
    assert_eq!(came, expected.map(|(second, text)| (second, text.to_owned())));
}

#[test]
fn a_schedule_survives_a_power_cut_and_a_checkpoint() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for n in 0..200u64 {
        let message = Message::new(n.to_string());
        queue.send(message.deliver_after(Duration::from_secs(1 + n * 7 % 200))).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    queue.send(Message::new("200").deliver_after(Duration::from_secs(1000))).unwrap();
    drop(queue);
    let Sim { disk, engine } = sim;
    disk.power_cut();
    drop(engine);
    sim = Sim { engine: small_options().sim(&disk).open("store").unwrap(), disk };
    let queue = sim.engine.queue("q").open().unwrap();
    let browsed: Vec<_> = queue.browse().unwrap().map(|it| it.unwrap().due().unwrap()).collect();
    assert_eq!(browsed.len(), 201);
    let mut came = 0;
    for second in 1..=200u64 {
        sim.disk.advance(SECOND);
        let delivery = take(&queue).unwrap();
        let n: u64 = std::str::from_utf8(delivery.payload()).unwrap().parse().unwrap();
        assert_eq!(1 + n * 7 % 200, second);
        delivery.ack().unwrap();
        assert!(take(&queue).is_none());
        came += 1;
    }
    assert_eq!((came, queue.depth().unwrap(), queue.delayed().unwrap()), (200, 1, 1));
}

#[test]
fn a_scheduled_message_can_be_cancelled() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let offset = queue.send(Message::new("a").deliver_after(SECOND)).unwrap();
    assert!(queue.remove(offset).unwrap());
    assert!(!queue.remove(offset).unwrap(), "it is gone");
    assert!(!queue.remove(Offset(99)).unwrap(), "it never was");
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (0, 0));
    sim.disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
}

// Looking and deleting.

#[test]
fn browsing_takes_nothing() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch((0..300).map(|n| n.to_string())).unwrap();
    sim.engine.checkpoint().unwrap();
    queue.send_batch((300..310).map(|n| n.to_string())).unwrap();
    let held = take(&queue).unwrap();
    take(&queue).unwrap().ack().unwrap();
    take(&queue).unwrap().nack_after(SECOND).unwrap();
    let looking = queue.browse().unwrap();
    queue.send("too late").unwrap();
    let seen: Vec<_> = looking.map(Result::unwrap).collect();
    let offsets: Vec<u64> = seen.iter().map(|it| it.offset().0).collect();
    assert_eq!(offsets, std::iter::once(0).chain(2..310).collect::<Vec<_>>());
    assert_eq!((seen[1].attempts(), seen[1].due().is_some()), (1, true));
    assert_eq!((seen[2].attempts(), seen[2].due()), (0, None));
    assert!(seen.iter().all(|it| it.payload() == it.offset().0.to_string().as_bytes()));
    assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (310, 1));
    held.ack().unwrap();
}

#[test]
fn deleted_messages_do_not_come() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch((0..10).map(|n| n.to_string())).unwrap();
    let (zero, one) = (take(&queue).unwrap(), take(&queue).unwrap());
    take(&queue).unwrap().nack().unwrap();
    for offset in [0, 2, 4] {
        assert!(queue.remove(Offset(offset)).unwrap());
    }
    // Those who had one of them on lease are not disturbed.
    zero.nack().unwrap();
    one.ack().unwrap();
    let mut rest = Vec::new();
    while let Some(delivery) = take(&queue) {
        rest.push(delivery.offset().0);
        std::mem::forget(delivery);
    }
    assert_eq!(rest, [3, 5, 6, 7, 8, 9]);
    drop(queue);
    sim = sim.kill();
    assert_eq!(texts(&sim.engine.queue("q").open().unwrap()), ["3", "5", "6", "7", "8", "9"]);
}

#[test]
fn purging_leaves_what_is_on_lease() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch((0..1000).map(|n| n.to_string())).unwrap();
    let all = queue.receive_batch(20, Duration::ZERO).unwrap();
    let held: Vec<_> = all.into_iter().step_by(2).collect();
    queue.send(Message::new("later").deliver_after(SECOND)).unwrap();
    assert_eq!(queue.purge().unwrap(), 1001 - 10);
    assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (10, 10));
    assert_eq!(queue.purge().unwrap(), 0);
    sim.disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
    for delivery in &held {
        delivery.nack().unwrap();
    }
    assert_eq!(take(&queue).unwrap().offset(), Offset(0));
    assert_eq!(queue.purge().unwrap(), 10);
    queue.send("fresh").unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"fresh");
}

// Bad input.

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

    let past = Timestamp(sim.now().0 - 1);
    assert_eq!(field(made.send(Message::new("a").deliver_at(past))), "deliver_at");
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

/// Without dead letters nothing is counted before it fails, so receiving writes nothing.
#[test]
fn receiving_writes_nothing_without_dead_letters() {
    let sim = Sim::new();
    let options = small_options().durability(Durability::Buffered);
    sim.engine.close().unwrap();
    let engine = options.sim(&sim.disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    let before = sim.disk.bytes_written("journal");
    std::mem::forget(take(&queue).unwrap());
    assert_eq!(sim.disk.bytes_written("journal"), before);
}

// Order by key.

fn keyed(key: &str, n: u64) -> Message<'static> {
    Message::new(n.to_string()).key(key.to_owned())
}

#[test]
fn messages_with_one_key_come_in_order_and_one_at_a_time() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
    queue.send_batch([keyed("a", 1), keyed("a", 2), keyed("b", 3), keyed("a", 4)]).unwrap();
    queue.send("no key").unwrap();
    queue.send("no key either").unwrap();
    let all = queue.receive_batch(9, Duration::ZERO).unwrap();
    let got: Vec<_> = all.iter().map(|it| it.offset().0).collect();
    assert_eq!(got, [0, 2, 4, 5], "the first of each key, and all without");
    assert!(take(&queue).is_none());
    all[0].nack().unwrap();
    let again = take(&queue).unwrap();
    assert_eq!((again.offset(), again.attempt()), (Offset(0), 2), "those behind it wait");
    assert!(take(&queue).is_none());
    again.nack_after(SECOND).unwrap();
    assert!(take(&queue).is_none(), "they wait while it waits");
    sim.disk.advance(SECOND);
    take(&queue).unwrap().ack().unwrap();
    let second = take(&queue).unwrap();
    assert_eq!(second.offset(), Offset(1));
    assert!(take(&queue).is_none());
    drop(second);
    assert_eq!(take(&queue).unwrap().offset(), Offset(1), "a drop is a failure");
    assert!(queue.remove(Offset(1)).unwrap());
    let fourth = take(&queue).unwrap();
    assert_eq!(fourth.offset(), Offset(3), "the one before it was deleted");
    let mut tx = sim.engine.transaction();
    tx.ack(&fourth).send(&queue, keyed("a", 5)).send(&queue, keyed("b", 6));
    tx.commit().unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"5");
}

#[test]
fn dead_letters_and_deletions_let_the_next_of_a_key_come() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).max_attempts(1).create().unwrap();
    queue.send_batch((0..6).map(|n| keyed("a", n))).unwrap();
    let first = take(&queue).unwrap();
    assert!(take(&queue).is_none());
    first.nack().unwrap();
    drop(take(&queue).unwrap());
    let third = take(&queue).unwrap();
    assert_eq!(third.offset(), Offset(2), "two died");
    assert!(queue.remove(Offset(2)).unwrap(), "it is on lease");
    assert!(take(&queue).is_none(), "its holder is still at work");
    third.nack().unwrap();
    assert_eq!(take(&queue).unwrap().offset(), Offset(3));
    assert_eq!(queue.purge().unwrap(), 2);
    queue.send(keyed("a", 9)).unwrap();
    assert_eq!(take(&queue).unwrap().payload(), b"9");
}

/// A failure that waits keeps its key busy, also in the next life.
#[test]
fn the_order_of_a_key_survives_a_kill() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
    queue.send_batch([keyed("a", 0), keyed("a", 1), keyed("b", 2)]).unwrap();
    take(&queue).unwrap().nack_after(60 * SECOND).unwrap();
    drop(queue);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    let b = take(&queue).unwrap();
    assert_eq!(b.offset(), Offset(2));
    assert!(take(&queue).is_none());
    sim.disk.advance(60 * SECOND);
    assert_eq!(take(&queue).unwrap().offset(), Offset(0));
}

/// The cost of a message does not depend on how many of a key wait behind one that is stuck.
#[test]
fn a_stuck_key_is_walked_past_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").ordered_by_key(true).create().unwrap();
    let stuck = 20_000;
    for _ in 0..20 {
        queue.send_batch((0..stuck / 20).map(|n| keyed("stuck", n))).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    queue.send_batch((0..500).map(|n| keyed(&format!("key {n}"), n))).unwrap();
    sim.engine.checkpoint().unwrap();
    let held = take(&queue).unwrap();
    take(&queue).unwrap().ack().unwrap();
    let before = sim.disk.bytes_read();
    let mut rest = 0;
    while let Some(delivery) = take(&queue) {
        delivery.ack().unwrap();
        rest += 1;
    }
    let read = sim.disk.bytes_read() - before;
    assert_eq!(rest, 499);
    assert!(read < 200_000, "{read} bytes were read for {rest} messages");
    held.ack().unwrap();
    assert_eq!(take(&queue).unwrap().offset(), Offset(1));
}

/// Whatever fails, is deleted or dies: a key's messages are never on lease two at a time, and each
/// comes for the first time only when those before it are gone.
#[test]
fn the_order_of_keys_holds_whatever_happens() {
    for seed in 0..60 {
        let mut chance = model::oracle::Chance(seed);
        let mut sim = Sim::new();
        let options = |sim: &Sim| {
            let builder = sim.engine.queue("q").ordered_by_key(true).lease(5 * SECOND);
            let builder = builder.backoff(Backoff::Fixed(SECOND));
            if seed % 2 == 0 { builder.max_attempts(3) } else { builder }
        };
        let mut queue = options(&sim).create().unwrap();
        // With the second in which the lease runs out.
        let mut held: Vec<(String, Delivery, u64)> = Vec::new();
        let mut seconds = 0;
        // What of each key is there, in order.
        let mut there: std::collections::BTreeMap<String, Vec<u64>> = Default::default();
        let refresh = |queue: &Queue, there: &mut std::collections::BTreeMap<String, Vec<u64>>| {
            there.clear();
            for it in queue.browse().unwrap() {
                let it = it.unwrap();
                let key = String::from_utf8(it.key().unwrap().to_vec()).unwrap();
                there.entry(key).or_default().push(it.offset().0);
            }
        };
        for step in 0..400u64 {
            let pick =
                |chance: &mut model::oracle::Chance, n: usize| chance.below(n as u64) as usize;
            match chance.below(100) {
                0..30 => {
                    let key = format!("k{}", chance.below(5));
                    queue.send(keyed(&key, step)).unwrap();
                }
                30..60 => {
                    let Some(delivery) = take(&queue) else { continue };
                    let key = String::from_utf8(delivery.key().unwrap().to_vec()).unwrap();
                    refresh(&queue, &mut there);
                    let first = there[&key][0];
                    assert_eq!(delivery.offset().0, first, "seed {seed}, step {step}: {key}");
                    assert!(held.iter().all(|it| it.0 != key), "seed {seed}, step {step}: {key}");
                    held.push((key, delivery, seconds + 5));
                }
                60..80 if !held.is_empty() => {
                    held.swap_remove(pick(&mut chance, held.len())).1.ack().unwrap();
                }
                80..86 if !held.is_empty() => {
                    held.swap_remove(pick(&mut chance, held.len())).1.nack().unwrap();
                }
                86..89 if !held.is_empty() => {
                    drop(held.swap_remove(pick(&mut chance, held.len())));
                }
                89..92 => {
                    refresh(&queue, &mut there);
                    let all: Vec<u64> = there.values().flatten().copied().collect();
                    if !all.is_empty() {
                        let offset = Offset(all[pick(&mut chance, all.len())]);
                        if held.iter().all(|it| it.1.offset() != offset) {
                            queue.remove(offset).unwrap();
                        }
                    }
                }
                92..96 => {
                    let by = if chance.below(4) == 0 { 6 } else { 1 };
                    sim.disk.advance(by * SECOND);
                    seconds += u64::from(by);
                    held.retain(|it| it.2 > seconds);
                }
                96 => sim.engine.checkpoint().unwrap(),
                97 => {
                    held.into_iter().for_each(std::mem::forget);
                    held = Vec::new();
                    drop(queue);
                    sim = sim.kill();
                    queue = sim.engine.queue("q").open().unwrap();
                }
                _ => {}
            }
        }
        held.clear();
        let mut idle = 0;
        while queue.depth().unwrap() > 0 && idle < 20 {
            sim.disk.advance(6 * SECOND);
            idle += 1;
            while let Some(delivery) = take(&queue) {
                delivery.ack().unwrap();
                idle = 0;
            }
        }
        assert_eq!(queue.depth().unwrap(), 0, "seed {seed}: some never come");
    }
}

#[test]
fn what_an_order_by_key_cannot_have_is_refused_by_name() {
    let sim = Sim::new();
    let queue = || sim.engine.queue("q").ordered_by_key(true);
    assert_eq!(field(queue().delay(SECOND).create()), "delay");
    let made = queue().create().unwrap();
    assert_eq!(kind(queue().ordered_by_key(false).create()), ErrorKind::AlreadyExists);
    assert_eq!(field(made.send(Message::new("a").key("k".repeat(1 << 20)))), "key");
    assert_eq!(field(made.send(keyed("a", 1).deliver_after(SECOND))), "deliver_after");
    assert_eq!(field(made.send(keyed("a", 1).deliver_at(Timestamp(u64::MAX)))), "deliver_at");
    let mut tx = sim.engine.transaction();
    tx.send(&made, keyed("a", 1).deliver_after(SECOND));
    assert_eq!(field(tx.commit()), "deliver_after");
    assert_eq!(made.depth().unwrap(), 0);
}

// Time to live.

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

#[test]
fn a_message_whose_life_is_over_counts_as_no_delivery() {
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
fn messages_whose_life_is_over_do_not_come() {
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
    assert_eq!(queue.depth().unwrap(), 1, "it counts until it is met");
    assert!(take(&queue).is_none());
    assert_eq!(queue.depth().unwrap(), 0);
    queue.send("fresh").unwrap();
    drop((queue, delivery, rest));
    sim.engine.sync().unwrap();
    sim.disk.advance(9 * SECOND);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    take(&queue).unwrap().nack().unwrap();
    sim.disk.advance(SECOND);
    assert!(take(&queue).is_none(), "its life goes on behind a restart");
}

#[test]
fn a_life_that_is_over_leads_to_the_dead_letters_and_begins_anew_there() {
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
fn lives_end_for_subscriptions_and_for_keys_in_order() {
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

// Limits.

#[test]
fn a_full_queue_refuses_what_does_not_fit() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(3).create().unwrap();
    queue.send(Message::new("later").deliver_after(60 * SECOND)).unwrap();
    assert_eq!(kind(queue.send_batch(["a", "b", "c"])), ErrorKind::QueueFull);
    queue.send_batch(["a", "b"]).unwrap();
    assert_eq!(kind(queue.send("c")), ErrorKind::QueueFull);
    assert_eq!(kind(queue.send_ticket("c")), ErrorKind::QueueFull);
    let delivery = take(&queue).unwrap();
    assert_eq!(kind(queue.send("c")), ErrorKind::QueueFull, "what is on lease counts");
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "c").send(&queue, "d").ack(&delivery);
    assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "c").ack(&delivery);
    tx.commit().unwrap();
    assert_eq!(texts(&queue), ["later", "b", "c"]);
    queue.send_batch(Vec::<&str>::new()).unwrap();
    queue.remove(Offset(0)).unwrap();
    queue.send("d").unwrap();

    let builder = || sim.engine.queue("r");
    assert_eq!(field(builder().max_messages(0).create()), "max_messages");
    let overflow = Overflow::DropOldest;
    assert_eq!(field(builder().overflow(overflow).create()), "overflow");
}

#[test]
fn a_full_queue_may_drop_its_oldest() {
    let mut sim = Sim::new();
    let drops = Overflow::DropOldest;
    let queue = sim.engine.queue("q").max_messages(4).overflow(drops).create().unwrap();
    queue.send_batch(["0", "1", "2", "3"]).unwrap();
    let held = take(&queue).unwrap();
    take(&queue).unwrap().nack().unwrap();
    queue.send("4").unwrap();
    assert_eq!(texts(&queue), ["0", "2", "3", "4"], "the oldest is on lease, the next one goes");
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "5").send(&queue, "6");
    tx.commit().unwrap();
    assert_eq!(texts(&queue), ["0", "4", "5", "6"]);
    take(&queue).unwrap().nack_after(SECOND).unwrap();
    queue.send_batch(["7", "8", "9"]).unwrap();
    assert_eq!(texts(&queue), ["0", "7", "8", "9"], "those that wait go, too, when they must");
    assert_eq!(queue.delayed().unwrap(), 0);
    assert_eq!(kind(queue.send_batch(["a"; 5])), ErrorKind::TooLarge, "it will never fit");
    assert_eq!(kind(queue.send_batch(["a"; 4])), ErrorKind::QueueFull, "one is on lease");
    held.ack().unwrap();
    drop(queue);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    assert_eq!(texts(&queue), ["7", "8", "9"]);
    queue.send_batch(["a", "b"]).unwrap();
    assert_eq!(texts(&queue), ["8", "9", "a", "b"]);
}

#[test]
fn a_sender_waits_for_room_and_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    queue.send_within("a", Duration::ZERO).unwrap();
    assert_eq!(kind(queue.send_within("b", Duration::from_millis(20))), ErrorKind::QueueFull);
    let began = std::time::Instant::now();
    let senders: Vec<_> = (0..4)
        .map(|n| {
            let queue = queue.clone();
            thread::spawn(move || queue.send_within(n.to_string(), Duration::from_secs(60)))
        })
        .collect();
    for _ in 0..5 {
        queue.receive(Duration::from_secs(60)).unwrap().unwrap().ack().unwrap();
    }
    for sender in senders {
        sender.join().unwrap().unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(30), "nobody was woken");
    queue.send("full").unwrap();
    for end in ["purge", "delete"] {
        let other = queue.clone();
        let waiting = thread::spawn(move || other.send_within("x", Duration::from_secs(60)));
        thread::sleep(Duration::from_millis(20));
        match end {
            "purge" => drop(queue.purge().unwrap()),
            _ => engine.queue("q").delete().unwrap(),
        }
        let sent = waiting.join().unwrap();
        assert_eq!(sent.is_ok(), end == "purge");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "nobody was woken");
}

// Consumers that are told apart.

#[test]
fn one_consumer_is_active_and_another_takes_over_when_it_is_gone() {
    let sim = Sim::new();
    let build = || sim.engine.queue("q").single_active_consumer(true);
    let first = build().create().unwrap();
    let second = build().create().unwrap();
    first.send_batch(["a", "b", "c", "d"]).unwrap();
    let held = take(&first).unwrap();
    assert_eq!((first.is_active().unwrap(), second.is_active().unwrap()), (true, false));
    assert!(take(&second).is_none());
    assert!(second.receive_batch(2, Duration::ZERO).unwrap().is_empty());
    // A clone is the same consumer, and so is a handle with another durability.
    let clone = first.durability(Durability::Buffered);
    assert_eq!(take(&clone).unwrap().payload(), b"b");
    // Who only looks does not count.
    let _watch = first.watch(posthouse::Threshold::Depth(100), |_| {}).unwrap();
    let _browse = first.browse().unwrap();
    drop((first, clone));
    assert!(take(&second).is_none(), "a delivery of the first is out there");
    held.ack().unwrap();
    drop(held);
    assert_eq!(second.receive_batch(9, Duration::ZERO).unwrap().len(), 3);
    assert!(second.is_active().unwrap());
    assert_eq!(kind(build().single_active_consumer(false).create()), ErrorKind::AlreadyExists);
}

#[test]
fn who_stands_by_is_woken_when_the_active_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let topic = engine.topic("t").create().unwrap();
    let open = || topic.subscription("s").single_active_consumer(true).create().unwrap();
    let active = open();
    topic.publish_batch(["a", "b"]).unwrap();
    active.receive(60 * SECOND).unwrap().unwrap().ack().unwrap();
    let standbys: Vec<_> = (0..3)
        .map(|_| {
            let standby = open();
            thread::spawn(move || {
                let got = standby.receive(60 * SECOND).unwrap();
                got.map(|it| it.ack().unwrap()).is_some()
            })
        })
        .collect();
    // Whatever comes is not for those who stand by.
    topic.publish_batch(["c", "d"]).unwrap();
    drop(active);
    let took = standbys.into_iter().map(|it| it.join().unwrap());
    assert_eq!(took.filter(|took| *took).count(), 3);
}

#[test]
fn a_consumer_holds_so_many_deliveries_at_most() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).create().unwrap();
    assert_eq!(field(queue.max_in_flight(0)), "max_in_flight");
    queue.send_batch((0..10).map(|n| n.to_string())).unwrap();
    let limited = queue.max_in_flight(2).unwrap();
    let mut held = limited.receive_batch(5, Duration::ZERO).unwrap();
    assert_eq!(held.len(), 2);
    assert!(take(&limited).is_none());
    // Others are not limited by it.
    let of_others = queue.receive_batch(3, Duration::ZERO).unwrap();
    assert_eq!(of_others.len(), 3);
    held.pop().unwrap().ack().unwrap();
    let another = take(&limited.clone()).unwrap();
    assert!(take(&limited).is_none());
    another.nack().unwrap();
    let mut tx = sim.engine.transaction();
    tx.ack(&held[0]);
    tx.commit().unwrap();
    assert_eq!(limited.receive_batch(5, Duration::ZERO).unwrap().len(), 2);
    // They were dropped, and are back.
    let held = limited.receive_batch(5, Duration::ZERO).unwrap();
    assert!(take(&limited).is_none());
    sim.disk.advance(SECOND);
    assert_eq!(limited.receive_batch(5, Duration::ZERO).unwrap().len(), 2, "the leases ran out");
    assert_eq!(kind(held[0].ack()), ErrorKind::LeaseLost);
}

#[test]
fn who_holds_enough_is_woken_when_one_is_settled() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).create().unwrap();
    let limited = queue.max_in_flight(1).unwrap();
    queue.send_batch((0..6).map(|n| n.to_string())).unwrap();
    let ways: [fn(&Sim, Delivery); 4] = [
        |_, it| it.ack().unwrap(),
        |_, it| it.nack().unwrap(),
        |_, it| drop(it),
        |sim, it| {
            let mut tx = sim.engine.transaction();
            tx.ack(&it);
            tx.commit().unwrap();
        },
    ];
    for (n, settle) in ways.into_iter().enumerate() {
        let held = take(&limited).unwrap();
        let mut sated = Task::waiting(limited.receive_async());
        settle(&sim, held);
        assert!(sated.is_woken(), "way {n}");
        sated.poll().expect("there is room").unwrap().ack().unwrap();
    }
}

#[test]
fn who_holds_enough_leaves_a_message_to_others_who_wait() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let limited = queue.max_in_flight(1).unwrap();
    let mut of_one: Vec<_> = (0..2).map(|_| Task::waiting(limited.receive_async())).collect();
    let mut other = Task::waiting(queue.receive_async());
    queue.send("a").unwrap();
    assert!(of_one[0].is_woken());
    let _held = of_one[0].poll().unwrap().unwrap();
    queue.send("b").unwrap();
    assert!(of_one[1].is_woken() && !other.is_woken());
    assert!(of_one[1].poll().is_none(), "it holds as much as it may");
    assert!(other.is_woken());
    assert_eq!(other.poll().unwrap().unwrap().payload(), b"b");
}

#[test]
fn of_those_who_stand_by_the_first_is_woken_when_the_active_one_is_gone() {
    let sim = Sim::new();
    let open = || sim.engine.queue("q").single_active_consumer(true).create().unwrap();
    let active = open();
    active.send_batch(["a", "b"]).unwrap();
    take(&active).unwrap().ack().unwrap();
    let mut standbys: Vec<_> = (0..2).map(|_| Task::waiting(open().receive_async())).collect();
    active.send("c").unwrap();
    assert!(!standbys.iter().any(Task::is_woken), "a message is not for those who stand by");
    drop(active);
    assert_eq!(standbys.iter().map(Task::is_woken).collect::<Vec<_>>(), [true, false]);
    // It is gone without having looked: the next one is told.
    drop(standbys.remove(0));
    assert!(standbys[0].is_woken());
    assert_eq!(standbys[0].poll().unwrap().unwrap().payload(), b"b");
}

#[test]
fn fencing_tokens_grow_from_delivery_to_delivery_and_from_life_to_life() {
    let mut sim = Sim::new();
    let mut last = 0;
    for life in 0..4 {
        let queue = sim.engine.queue("q").create().unwrap();
        if life == 0 {
            queue.send_batch(["a", "b"]).unwrap();
        }
        for _ in 0..5 {
            let delivery = take(&queue).unwrap();
            assert!(delivery.fencing_token() > last);
            last = delivery.fencing_token();
            assert!(last < 1 << 63);
        }
        if life == 1 {
            sim.engine.close().unwrap();
        }
        drop(queue);
        // The power fails, and nothing was synced in this life.
        let Sim { disk, engine } = sim;
        if life == 2 {
            disk.power_cut();
        } else {
            disk.kill();
        }
        drop(engine);
        let engine = small_options().sim(&disk).open("store").unwrap();
        sim = Sim { disk, engine };
    }
}

// Priorities.

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
    let queue = sim.engine.queue("q").create().unwrap();
    for (text, priority) in [("a", 0), ("b", 5), ("c", 9), ("d", 5), ("e", 0), ("f", 9)] {
        queue.send(Message::new(text).priority(priority)).unwrap();
    }
    assert_eq!(payloads(&queue), ["c", "f", "b", "d", "a", "e"]);
    let sim = sim.kill();
    let queue = sim.engine.queue("q").create().unwrap();
    assert_eq!(payloads(&queue), ["c", "f", "b", "d", "a", "e"], "after a crash");
    sim.engine.checkpoint().unwrap();
    let sim = sim.kill();
    let queue = sim.engine.queue("q").create().unwrap();
    assert_eq!(payloads(&queue), ["c", "f", "b", "d", "a", "e"], "after a checkpoint");
}

#[test]
fn a_message_with_a_priority_can_wait_fail_die_and_be_redriven() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(2).create().unwrap();
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

// Limits in bytes.

#[test]
fn a_queue_holds_so_many_bytes_and_counts_them_over_crashes() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_bytes(100).create().unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(0));
    queue.send(Message::new(&[1; 30]).key("0123456789").header("name", "value6")).unwrap();
    queue.send(&[2; 40]).unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(30 + 10 + 10 + 40));
    let full = queue.send(&[3; 11]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::QueueFull);
    assert!(full.to_string().contains("100 bytes"), "{full}");
    queue.send_batch([&[4; 5], &[5; 5]]).unwrap();
    assert_eq!(kind(queue.send("a")), ErrorKind::QueueFull);
    assert_eq!(kind(queue.send(&[0; 101])), ErrorKind::TooLarge, "that is never going to fit");
    // An empty one weighs nothing.
    queue.send("").unwrap();
    let mut sim = sim.kill();
    for _ in 0..2 {
        let queue = sim.engine.queue("q").open().unwrap();
        assert_eq!(queue.bytes().unwrap(), Some(100));
        sim.engine.checkpoint().unwrap();
        sim = sim.kill();
    }
    let queue = sim.engine.queue("q").open().unwrap();
    let (first, second) = (take(&queue).unwrap(), take(&queue).unwrap());
    second.ack().unwrap();
    assert_eq!((queue.bytes().unwrap(), queue.depth().unwrap()), (Some(60), 4));
    queue.send(&[6; 40]).unwrap();
    assert_eq!(kind(queue.send("a")), ErrorKind::QueueFull);
    // What a transaction acks makes room for what it sends.
    let mut tx = sim.engine.transaction();
    tx.ack(&first).send(&queue, &[7; 50]);
    tx.commit().unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(100));
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "a");
    assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
    let offset = queue.browse().unwrap().next().unwrap().unwrap().offset();
    assert!(queue.remove(offset).unwrap());
    assert_eq!(queue.bytes().unwrap(), Some(95));
    assert_eq!(queue.purge().unwrap(), 4);
    assert_eq!(queue.bytes().unwrap(), Some(0));
    // A queue without such a limit does not know.
    assert_eq!(sim.engine.queue("r").create().unwrap().bytes().unwrap(), None);
}

#[test]
fn the_oldest_make_room_for_bytes_but_not_those_on_lease() {
    let sim = Sim::new();
    let builder = sim.engine.queue("q").max_bytes(100).overflow(Overflow::DropOldest);
    let queue = builder.create().unwrap();
    for n in 1..=5 {
        queue.send(&[n; 20]).unwrap();
    }
    let held = take(&queue).unwrap();
    queue.send(&[6; 30]).unwrap();
    assert_eq!((queue.depth().unwrap(), queue.bytes().unwrap()), (4, Some(90)));
    let left: Vec<u8> = queue.browse().unwrap().map(|it| it.unwrap().payload()[0]).collect();
    assert_eq!(left, [1, 4, 5, 6], "what is on lease stays, although it is the oldest");
    assert_eq!(kind(queue.send(&[7; 81])), ErrorKind::QueueFull, "one on lease has 20");
    assert_eq!(queue.depth().unwrap(), 4, "nothing was dropped for nothing");
    queue.send(&[8; 80]).unwrap();
    held.ack().unwrap();
    assert_eq!((queue.depth().unwrap(), queue.bytes().unwrap()), (1, Some(80)));
}

#[test]
fn dead_letters_and_redrives_count_and_limits_in_bytes_are_checked_by_name() {
    let sim = Sim::new();
    sim.engine.queue("dead").max_bytes(10).create().unwrap();
    let queue = sim.engine.queue("q").max_bytes(50).dead_letter_queue("dead").create().unwrap();
    let dead = sim.engine.queue("dead").open().unwrap();
    for _ in 0..2 {
        queue.send(&[1; 25]).unwrap();
    }
    take(&queue).unwrap().reject("no").unwrap();
    assert_eq!((queue.bytes().unwrap(), dead.bytes().unwrap()), (Some(25), Some(25)));
    assert_eq!(kind(dead.send("a")), ErrorKind::QueueFull, "a letter fits in, and counts");
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!((queue.bytes().unwrap(), dead.bytes().unwrap()), (Some(50), Some(0)));
    let builder = || sim.engine.queue("x");
    assert_eq!(field(builder().max_bytes(0).create()), "max_bytes");
    assert_eq!(field(builder().overflow(Overflow::DropOldest).create()), "overflow");
    builder().max_bytes(5).create().unwrap();
    assert_eq!(kind(builder().max_bytes(6).create()), ErrorKind::AlreadyExists);
    assert_eq!(kind(builder().max_messages(6).create()), ErrorKind::AlreadyExists);
    builder().max_bytes(5).create().unwrap();
}

#[test]
fn who_waits_for_bytes_is_woken_when_they_fit() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_bytes(10).create().unwrap();
    queue.send_batch([&[1; 4], &[2; 4]]).unwrap();
    thread::scope(|scope| {
        let big = scope.spawn(|| queue.send_within(&[3; 9], 60 * SECOND));
        let small = scope.spawn(|| queue.send_within(&[4; 1], 60 * SECOND));
        small.join().unwrap().unwrap();
        for _ in 0..2 {
            take(&queue).unwrap().ack().unwrap();
        }
        big.join().unwrap().unwrap();
    });
    assert_eq!(queue.bytes().unwrap(), Some(10));
}
