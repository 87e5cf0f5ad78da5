//! Dead letters: which messages become dead letters, and how they are redriven.

use std::time::Duration;

use posthouse::{Durability, Engine, ErrorKind, Message, Timestamp};

use crate::model::small_options;
use crate::support::{SECOND, Sim, field, kind, take, texts};

#[test]
fn a_message_that_fails_for_ever_goes_to_the_dead_letters() {
    let sim = Sim::new();
    let queue = sim
        .engine
        .queue("payments")
        .backoff(posthouse::Backoff::None)
        .max_attempts(3)
        .create()
        .unwrap();
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

/// A handler that kills its process never reports that it failed.
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
    let queue = sim
        .engine
        .queue("q")
        .backoff(posthouse::Backoff::None)
        .lease(SECOND)
        .max_attempts(2)
        .create()
        .unwrap();
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

/// No consumer has to receive for it: the engine's own thread moves the message.
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
fn on_a_full_disk_no_message_is_moved_and_none_is_lost() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    let dead = sim.engine.queue("q.dead").open().unwrap();
    queue.send_batch([vec![1; 2000], vec![2; 2000]]).unwrap();
    sim.disk.set_capacity(Some(sim.disk.bytes_used()));
    let filler = sim.engine.queue("filler").create();
    while filler.as_ref().is_ok_and(|filler| filler.send(vec![0; 100]).is_ok()) {}
    let delivery = take(&queue).expect("what is there can be received");
    // Whether or not there was space for its letter, the message is in exactly one place.
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

/// Without dead letters no delivery is counted before it fails, so receiving writes nothing.
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
