//! Redriving: a message that is moved stays as it is, and a dead letter begins anew.

use std::time::Duration;

use posthouse::{Backoff, ErrorKind, Message};

use crate::support::{HOUR, MINUTE, SECOND, Sim, field, kind, take, texts};

#[test]
fn redrive_moves_a_message_as_it_is_with_its_due_time_and_its_attempts() {
    let mut sim = Sim::new();
    let [from, to] = ["from", "to"].map(|name| sim.engine.queue(name).create().unwrap());
    from.send(Message::new("delayed").deliver_after(HOUR)).unwrap();
    from.send(Message::new("failed").key("k").header("h", "v").priority(3)).unwrap();
    let delivery = take(&from).unwrap();
    assert_eq!(delivery.payload(), b"failed");
    delivery.nack_after(MINUTE).unwrap();
    from.send("tried").unwrap();
    take(&from).unwrap().nack_after(Duration::ZERO).unwrap();
    from.send("plain").unwrap();
    let due: Vec<_> = from.browse().unwrap().map(|it| it.unwrap().due()).collect();
    assert_eq!(from.redrive().to(&to).run().unwrap().moved, 4);
    assert_eq!((from.depth().unwrap(), from.delayed().unwrap()), (0, 0));
    assert_eq!((to.depth().unwrap(), to.delayed().unwrap()), (4, 2));
    let moved: Vec<_> = to.browse().unwrap().map(|it| it.unwrap().due()).collect();
    assert_eq!(moved, due);
    drop((from, to));
    for restarts in [false, true] {
        if restarts {
            sim.engine.checkpoint().unwrap();
            sim = sim.kill();
        }
        let to = sim.engine.queue("to").open().unwrap();
        let attempts: Vec<_> = to.browse().unwrap().map(|it| it.unwrap().attempts()).collect();
        assert_eq!(attempts, [0, 1, 1, 0]);
    }
    let to = sim.engine.queue("to").open().unwrap();
    let [tried, plain] = [(); 2].map(|()| take(&to).unwrap());
    assert_eq!((tried.payload(), tried.attempt()), (&b"tried"[..], 2));
    assert_eq!((plain.payload(), plain.attempt()), (&b"plain"[..], 1));
    tried.ack().unwrap();
    plain.ack().unwrap();
    assert!(take(&to).is_none(), "the others wait");
    sim.disk.advance(MINUTE);
    let failed = take(&to).expect("its wait is over");
    assert_eq!((failed.payload(), failed.attempt(), failed.priority()), (&b"failed"[..], 2, 3));
    assert_eq!(failed.key(), Some(&b"k"[..]));
    assert_eq!(failed.headers().named("h"), Some(&b"v"[..]));
    failed.ack().unwrap();
    sim.disk.advance(HOUR);
    assert_eq!(take(&to).unwrap().payload(), b"delayed");
}

#[test]
fn redrive_moves_spilled_messages_with_their_due_times() {
    let sim = Sim::new();
    let [from, to] = ["from", "to"].map(|name| sim.engine.queue(name).create().unwrap());
    for n in 1..=60 {
        from.send(Message::new(n.to_string()).deliver_after(n * MINUTE)).unwrap();
    }
    assert_eq!(from.redrive().to(&to).run().unwrap().moved, 60);
    assert!(take(&to).is_none(), "none is due");
    for n in 1..=60 {
        sim.disk.advance(MINUTE);
        let delivery = take(&to).expect("one is due in each minute");
        assert_eq!(delivery.payload(), n.to_string().as_bytes());
        delivery.ack().unwrap();
        assert!(take(&to).is_none());
    }
}

#[test]
fn redrive_to_a_queue_in_order_of_keys_leaves_messages_that_wait() {
    let sim = Sim::new();
    let from = sim.engine.queue("from").create().unwrap();
    let to = sim.engine.queue("to").ordered_by_key(true).create().unwrap();
    let keyed = |text: &'static str| Message::new(text).key("k");
    from.send(keyed("waits").deliver_after(MINUTE)).unwrap();
    from.send(keyed("a")).unwrap();
    from.send(keyed("b")).unwrap();
    take(&from).unwrap().nack_after(Duration::ZERO).unwrap();
    assert_eq!(field(from.redrive().to(&to).run()), "to");
    assert_eq!((texts(&from), texts(&to).len()), (vec!["waits".to_owned()], 2));
    let head = take(&to).unwrap();
    assert_eq!((head.payload(), head.attempt()), (&b"a"[..], 2), "the order stays");
    assert!(take(&to).is_none());
    sim.disk.advance(MINUTE);
    assert_eq!(from.redrive().to(&to).run().unwrap().moved, 1);
}

#[test]
fn redrive_gives_letters_of_a_subscription_back_to_it_alone() {
    let mut sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let builder = |name| topic.subscription(name).max_attempts(1).dead_letter_queue("dead");
    let [a, b] = ["a", "b"].map(|name| builder(name).create().unwrap());
    let other = topic.subscription("other").create().unwrap();
    topic.publish_batch(["1", "2", "3"]).unwrap();
    for _ in 0..3 {
        a.try_receive().unwrap().unwrap().nack().unwrap();
        b.try_receive().unwrap().unwrap().nack().unwrap();
    }
    let dead = sim.engine.queue("dead").open().unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 6);
    assert_eq!((a.depth().unwrap(), b.depth().unwrap(), other.depth().unwrap()), (3, 3, 3));
    let back = a.try_receive().unwrap().expect("it is back");
    assert_eq!((back.payload(), back.attempt()), (&b"1"[..], 1));
    back.ack().unwrap();
    drop((dead, a, b, other, topic, back));
    sim = sim.kill();
    let topic = sim.engine.topic("t").open().unwrap();
    let texts = |name| {
        let subscription = topic.subscription(name).open().unwrap();
        let browse = subscription.browse().unwrap();
        let text = |it: posthouse::Browsed| String::from_utf8(it.payload().to_vec()).unwrap();
        browse.map(|it| text(it.unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(
        (texts("a"), texts("b")),
        (vec!["2".into(), "3".into()], vec!["1".into(), "2".into(), "3".into()])
    );
    assert_eq!(texts("other"), ["1", "2", "3"]);
    assert!(sim.engine.verify().unwrap().is_ok());

    let b = topic.subscription("b").open().unwrap();
    b.try_receive().unwrap().unwrap().nack().unwrap();
    topic.subscription("b").delete().unwrap();
    let dead = sim.engine.queue("dead").open().unwrap();
    assert_eq!(kind(dead.redrive().run()), ErrorKind::NotFound);
    assert_eq!(dead.depth().unwrap(), 1);
}

#[test]
fn subscriptions_have_redrive() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let [a, b] = ["a", "b"].map(|name| topic.subscription(name).create().unwrap());
    topic.publish_batch(["1", "2"]).unwrap();
    a.try_receive().unwrap().unwrap().nack_after(HOUR).unwrap();
    assert_eq!(field(a.redrive().run()), "to");
    let queue = sim.engine.queue("q").create().unwrap();
    assert_eq!(a.redrive().to(&queue).run().unwrap().moved, 2);
    assert_eq!((a.depth().unwrap(), b.depth().unwrap(), queue.delayed().unwrap()), (0, 2, 1));
    assert_eq!(take(&queue).unwrap().payload(), b"2");
}

#[test]
fn a_letter_that_dies_twice_keeps_its_first_origin_and_reason() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    let letters = sim.engine.queue("q.dead").max_attempts(1).create_or_update().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack_because("first").unwrap();
    let note = take(&letters).unwrap().dead_letter().unwrap().unwrap();
    assert_eq!((note.reason.as_str(), note.first), ("first", None));
    drop((queue, letters));
    sim = sim.kill();
    // The lease of the letter ended with the process, so it died among the dead letters.
    let letters = sim.engine.queue("q.dead").open().unwrap();
    assert!(take(&letters).is_none());
    let last = sim.engine.queue("q.dead.dead").open().unwrap();
    let note = take(&last).unwrap().dead_letter().unwrap().unwrap();
    let first = note.first.expect("it died before");
    assert_eq!((first.origin.as_str(), first.reason.as_str()), ("q", "first"));
    assert_eq!(note.origin, "q.dead");
    drop(last);

    let queue = sim.engine.queue("r").max_attempts(1).create().unwrap();
    let letters = sim.engine.queue("r.dead").open().unwrap();
    queue.send("b").unwrap();
    for reason in ["first", "second", "third"] {
        take(&queue).unwrap().nack_because(reason).unwrap();
        let note =
            letters.browse().unwrap().next().unwrap().unwrap().dead_letter().unwrap().unwrap();
        assert_eq!(note.reason, reason);
        let first = note.first.map(|first| first.reason);
        assert_eq!(first.as_deref(), (reason != "first").then_some("first"));
        assert_eq!(letters.redrive().run().unwrap().moved, 1);
        let back = queue.browse().unwrap().next().unwrap().unwrap();
        assert!(back.dead_letter().unwrap().is_none(), "it is no dead letter now");
    }
}

#[test]
fn expire_after_rests_while_a_letter_is_dead_and_begins_anew_when_it_is_redriven() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    queue.send(Message::new("a").expire_after(10 * SECOND)).unwrap();
    sim.disk.advance(9 * SECOND);
    take(&queue).unwrap().nack().unwrap();
    sim.disk.advance(HOUR);
    drop(queue);
    for _ in 0..2 {
        sim = sim.kill();
        let queue = sim.engine.queue("q").open().unwrap();
        let letters = sim.engine.queue("q.dead").open().unwrap();
        assert_eq!(letters.redrive().run().unwrap().moved, 1, "the letter is still there");
        sim.disk.advance(9 * SECOND);
        take(&queue).expect("it lives ten seconds again").nack().unwrap();
    }
    let queue = sim.engine.queue("q").open().unwrap();
    let letters = sim.engine.queue("q.dead").open().unwrap();
    letters.redrive().run().unwrap();
    sim.disk.advance(10 * SECOND);
    assert!(take(&queue).is_none());
    sim.engine.sync().unwrap();
    let note = take(&letters).unwrap().dead_letter().unwrap().unwrap();
    assert_eq!(note.reason, "its time to live is over");
}

#[test]
fn a_letter_that_waited_is_redriven_without_its_wait_and_its_attempts() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::None).max_attempts(2).create().unwrap();
    queue.send("a").unwrap();
    take(&queue).unwrap().nack().unwrap();
    take(&queue).unwrap().nack().unwrap();
    let letters = sim.engine.queue("q.dead").open().unwrap();
    take(&letters).unwrap().nack_after(HOUR).unwrap();
    letters.redrive().run().unwrap();
    let back = take(&queue).expect("it waits no more");
    assert_eq!(back.attempt(), 1);
    back.ack().unwrap();

    let elsewhere = sim.engine.queue("elsewhere").create().unwrap();
    queue.send("b").unwrap();
    take(&queue).unwrap().reject("no").unwrap();
    letters.redrive().to(&elsewhere).run().unwrap();
    assert_eq!(take(&elsewhere).unwrap().attempt(), 1);
}
