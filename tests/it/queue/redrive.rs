//! Redriving: a message that is moved stays as it is, and a dead letter begins anew.

use std::time::Duration;

use posthouse::{Backoff, ErrorKind, Message, sim::SimDisk};

use crate::model::small_options;
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

#[test]
fn redrive_to_a_subscription_that_is_deleted_meanwhile_loses_nothing() {
    let sim = Sim::new();
    let topic = sim.engine.topic("news").create().unwrap();
    let sub = |name| topic.subscription(name).max_attempts(1).dead_letter_queue("dead");
    let [a, b] = ["a", "b"].map(|name| sub(name).create().unwrap());
    topic.publish_batch(["one", "two"]).unwrap();
    for sub in [&a, &b] {
        while let Some(it) = sub.try_receive().unwrap() {
            it.nack().unwrap();
        }
    }
    drop(a);
    let dead = sim.engine.queue("dead").open().unwrap();
    assert_eq!(dead.depth().unwrap(), 4);
    let (mut seen, mut told) = (0, Vec::new());
    let delete_before_the_last = |_: &posthouse::Browsed| {
        seen += 1;
        if seen == 4 {
            topic.subscription("a").delete().unwrap();
        }
        true
    };
    let redrive = dead.redrive().only(delete_before_the_last);
    let redriven = redrive.progress(|redriven| told.push(redriven.moved)).run();
    assert_eq!(kind(redriven), ErrorKind::NotFound);
    assert_eq!(told.last(), Some(&2), "the letters of the other subscription are moved");
    assert_eq!((dead.depth().unwrap(), b.depth().unwrap()), (2, 2));
    let by_hand = sim.engine.queue("by hand").create().unwrap();
    assert_eq!(dead.redrive().to(&by_hand).run().unwrap().moved, 2);
    assert_eq!(texts(&by_hand), ["one", "two"]);
    // The topic is deleted meanwhile, with its subscriptions.
    while let Some(it) = b.try_receive().unwrap() {
        it.nack().unwrap();
    }
    drop(b);
    let delete = |_: &posthouse::Browsed| {
        let _ = sim.engine.topic("news").delete();
        true
    };
    assert_eq!(kind(dead.redrive().only(delete).run()), ErrorKind::NotFound);
    assert_eq!(dead.depth().unwrap(), 2);
}

#[test]
fn redrive_goes_on_with_the_others_where_a_queue_is_deleted_meanwhile() {
    let sim = Sim::new();
    let builder = |name| sim.engine.queue(name).max_attempts(1).dead_letter_queue("dead");
    let [stays, goes] = ["stays", "goes"].map(|name| builder(name).create().unwrap());
    // More than one batch.
    for n in 0..150 {
        for queue in [&stays, &goes] {
            queue.send(n.to_string()).unwrap();
            take(queue).unwrap().nack().unwrap();
        }
    }
    drop(goes);
    let dead = sim.engine.queue("dead").open().unwrap();
    let mut seen = 0;
    let delete = |_: &posthouse::Browsed| {
        seen += 1;
        if seen == 5 {
            sim.engine.queue("goes").delete().unwrap();
        }
        true
    };
    let mut told = posthouse::Redriven::default();
    let redriven = dead.redrive().only(delete).progress(|it| told = it).run();
    assert_eq!(kind(redriven), ErrorKind::NotFound);
    assert_eq!((told.seen, told.moved), (300, 150));
    assert_eq!((dead.depth().unwrap(), stays.depth().unwrap()), (150, 150));

    // A letter that stays does not count as moved.
    let goes = builder("goes").create().unwrap();
    assert_eq!(dead.redrive().most(7).run().unwrap().moved, 7);
    let mut held = None;
    let lease_the_first = |_: &posthouse::Browsed| {
        held.get_or_insert_with(|| take(&dead).unwrap());
        true
    };
    let redriven = dead.redrive().most(2).only(lease_the_first).run().unwrap();
    assert_eq!((redriven.moved, goes.depth().unwrap()), (2, 9));
}

#[test]
fn redrive_looks_once_more_when_the_queue_it_moves_to_has_changed_meanwhile() {
    let sim = Sim::new();
    let [from, to] = ["from", "to"].map(|name| sim.engine.queue(name).create().unwrap());
    from.send(Message::new("waits").key("k").deliver_after(HOUR)).unwrap();
    from.send(Message::new("goes").key("k")).unwrap();
    let change = |it: &posthouse::Browsed| {
        if it.payload() == b"goes" {
            sim.engine.queue("to").ordered_by_key(true).create_or_update().unwrap();
        }
        true
    };
    assert_eq!(field(from.redrive().to(&to).only(change).run()), "to");
    assert_eq!((texts(&from), texts(&to)), (vec!["waits".to_owned()], vec!["goes".to_owned()]));

    drop(to);
    let to = sim.engine.queue("to").open().unwrap();
    from.send("x").unwrap();
    let delete = |_: &posthouse::Browsed| {
        let _ = sim.engine.queue("to").delete();
        true
    };
    assert_eq!(kind(from.redrive().to(&to).only(delete).run()), ErrorKind::NotFound);
    assert_eq!(from.depth().unwrap(), 2);
}

#[test]
fn the_life_of_a_moved_message_goes_on_after_the_clock_was_set() {
    for hours in [2, -2] {
        let mut sim = Sim::new();
        let topic = sim.engine.topic("t").create().unwrap();
        let subscription = topic.subscription("s").time_to_live(HOUR).create().unwrap();
        let [from, to, stays] = ["from", "to", "stays"]
            .map(|name| sim.engine.queue(name).time_to_live(HOUR).backoff(Backoff::None))
            .map(|builder| builder.create().unwrap());
        from.send("m").unwrap();
        stays.send("m").unwrap();
        topic.publish("m").unwrap();
        let set = sim.now().0 as i64 + hours * 3_600_000;
        sim.disk.set_now(posthouse::Timestamp(set as u64));
        for message in ["later", "with a note"] {
            let message = Message::new(message).expire_after(45 * MINUTE);
            from.send(message).unwrap();
        }
        sim.disk.advance(30 * MINUTE);
        assert_eq!(from.redrive().to(&to).run().unwrap().moved, 3);
        assert_eq!(subscription.redrive().to(&to).run().unwrap().moved, 1);
        drop((from, to, stays, subscription, topic));
        for _ in 0..2 {
            let open = |name| sim.engine.queue(name).open().unwrap();
            assert_eq!(take(&open("stays")).map(|it| it.payload().to_vec()), Some(b"m".to_vec()));
            let to = open("to");
            let all: Vec<_> = std::iter::from_fn(|| take(&to)).collect();
            assert_eq!(all.len(), 4, "{hours}: moved messages expired early");
            drop((all, to));
            sim = sim.kill();
        }
        sim.disk.advance(15 * MINUTE + SECOND);
        let to = sim.engine.queue("to").open().unwrap();
        let rest: Vec<_> = std::iter::from_fn(|| take(&to)).collect();
        assert!(rest.len() == 2 && rest.iter().all(|it| it.payload() == b"m"), "{hours}");
        drop(rest);
        sim.disk.advance(15 * MINUTE);
        assert!(take(&to).is_none(), "{hours}: a move gives no other life");
        assert!(take(&sim.engine.queue("stays").open().unwrap()).is_none());
    }
}

/// A message that was tried is parked behind its key: that is no redelivery.
#[test]
fn a_tried_message_that_waits_for_its_key_counts_as_no_redelivery() {
    let sim = Sim::new();
    let from = sim.engine.queue("from").backoff(Backoff::None).create().unwrap();
    let to = sim.engine.queue("to").ordered_by_key(true).create().unwrap();
    let keyed = |text: &'static str| Message::new(text).key("k");
    to.send(keyed("head")).unwrap();
    let head = take(&to).unwrap();
    from.send(keyed("tried")).unwrap();
    take(&from).unwrap().nack().unwrap();
    assert_eq!(from.redrive().to(&to).run().unwrap().moved, 1);
    assert!(take(&to).is_none(), "it waits for the head of its key");
    let stats = to.stats().unwrap();
    assert_eq!((stats.delivered, stats.redelivered), (1, 0));
    head.ack().unwrap();
    let tried = take(&to).unwrap();
    let stats = to.stats().unwrap();
    assert_eq!((tried.attempt(), stats.delivered, stats.redelivered), (2, 2, 1));
}

/// A message came back, failed and was spilled once more, after a browse had read the old block.
#[test]
fn a_due_time_is_that_of_the_block_in_which_the_message_is_now() {
    for redrives in [false, true] {
        let sim = Sim::new();
        let [from, to] = ["from", "to"].map(|name| sim.engine.queue(name).create().unwrap());
        let later = |delay| (0..40).map(move |_| Message::new("later").deliver_after(delay));
        from.send_batch(later(10 * MINUTE)).unwrap();
        from.send(Message::new("a").deliver_after(20 * MINUTE)).unwrap();
        let spill_again = || {
            sim.disk.advance(20 * MINUTE);
            while let Some(delivery) = take(&from) {
                match delivery.payload() {
                    b"a" => return delivery.nack_after(HOUR).unwrap(),
                    _ => delivery.ack().unwrap(),
                }
            }
            panic!("it is due");
        };
        let fill = || from.send_batch(later(10 * MINUTE)).unwrap();
        if redrives {
            let mut is_done = false;
            let only = |it: &posthouse::Browsed| {
                if it.payload() == b"a" && !is_done {
                    spill_again();
                    fill();
                    is_done = true;
                }
                it.payload() == b"a"
            };
            from.redrive().to(&to).only(only).run().unwrap();
            assert!(take(&to).is_none(), "it waits for an hour");
            sim.disk.advance(HOUR);
            let all = || [&from, &to].into_iter().find_map(take);
            let comes = std::iter::from_fn(all).any(|it| it.payload() == b"a");
            assert!(comes, "it is in one of them");
        } else {
            let mut browse = from.browse().unwrap();
            let first = browse.next().unwrap().unwrap();
            assert_eq!(first.payload(), b"later");
            spill_again();
            fill();
            let found = browse.map(Result::unwrap).find(|it| it.payload() == b"a");
            let due = |it: &posthouse::Browsed| it.due().expect("it waits").0;
            assert_eq!(
                due(&found.unwrap()) - due(&first),
                70 * 60_000,
                "from the second failure on"
            );
        }
    }
}

#[test]
fn a_letter_goes_to_its_subscription_and_no_other_although_names_have_slashes() {
    for deleted in ["nothing", "subscription", "topic"] {
        let sim = Sim::new();
        let topics = ["a", "a/b"].map(|name| sim.engine.topic(name).create().unwrap());
        let other = topics[0].subscription("b/c").create().unwrap();
        let own = topics[1].subscription("c").max_attempts(1).dead_letter_queue("dead");
        let own = own.create().unwrap();
        topics[1].publish("m").unwrap();
        own.try_receive().unwrap().unwrap().nack().unwrap();
        let dead = sim.engine.queue("dead").open().unwrap();
        let letter = dead.browse().unwrap().next().unwrap().unwrap();
        assert_eq!(letter.dead_letter().unwrap().unwrap().origin, "a/b/c");
        match deleted {
            "subscription" => topics[1].subscription("c").delete().unwrap(),
            "topic" => sim.engine.topic("a/b").delete().unwrap(),
            _ => {
                assert_eq!(dead.redrive().run().unwrap().moved, 1);
                assert_eq!((own.depth().unwrap(), other.depth().unwrap()), (1, 0));
                continue;
            }
        }
        assert_eq!(kind(dead.redrive().run()), ErrorKind::NotFound);
        assert_eq!((dead.depth().unwrap(), other.depth().unwrap()), (1, 0));
    }
}

/// What the guide to topics says of letters whose subscription is made anew, and of messages that were redriven.
#[test]
fn a_letter_goes_to_a_new_subscription_of_its_name_and_is_a_letter_no_more() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let other = topic.subscription("other").create().unwrap();
    let own = topic.subscription("own").max_attempts(1).create().unwrap();
    topic.publish("m").unwrap();
    other.try_receive().unwrap().unwrap().ack().unwrap();
    own.try_receive().unwrap().unwrap().nack().unwrap();
    drop(own);
    topic.subscription("own").delete().unwrap();
    let own = topic.subscription("own").create().unwrap();
    let dead = sim.engine.queue("t.own.dead").open().unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    let delivery = own.try_receive().unwrap().unwrap();
    assert_eq!((delivery.payload(), delivery.attempt()), (&b"m"[..], 1));
    assert_eq!(delivery.dead_letter().unwrap(), None);
    assert_eq!(other.depth().unwrap(), 0);
}

/// The message was in memory when it was read, and on disk when it was moved.
#[test]
fn redrive_moves_what_is_spilled_meanwhile() {
    let sim = Sim::new();
    let [from, to] = ["from", "to"].map(|name| sim.engine.queue(name).create().unwrap());
    let later = |count, delay| (0..count).map(move |_| Message::new("later").deliver_after(delay));
    from.send_batch(later(5, HOUR)).unwrap();
    let mut is_first = true;
    let only = |_: &posthouse::Browsed| {
        if std::mem::take(&mut is_first) {
            from.send_batch(later(40, MINUTE)).unwrap();
        }
        true
    };
    assert_eq!(from.redrive().to(&to).only(only).run().unwrap().moved, 5);
    assert_eq!((from.depth().unwrap(), to.delayed().unwrap()), (40, 5));
    sim.disk.advance(HOUR - SECOND);
    assert!(take(&to).is_none());
    sim.disk.advance(SECOND);
    assert!(take(&to).is_some());
}

/// What left while it was looked at is no error.
#[test]
fn a_message_that_is_acked_meanwhile_is_not_reported() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send("m").unwrap();
    let held = take(&queue).unwrap();
    let only = |_: &posthouse::Browsed| {
        held.ack().unwrap();
        true
    };
    assert_eq!(queue.redrive().only(only).run().unwrap().moved, 0);
}

/// A block came back while a redrive read its messages, and those behind its first one were spilled anew. They stayed, and
/// nothing told so.
#[test]
fn a_message_that_is_spilled_anew_meanwhile_is_moved_with_its_new_due_time() {
    for nacked in [false, true] {
        let disk = SimDisk::new(11);
        let engine = small_options().delayed_in_memory(16).sim(&disk).open("store").unwrap();
        let backoff = Backoff::Fixed(2 * HOUR);
        let from = engine.queue("from").backoff(backoff).create().unwrap();
        let to = engine.queue("to").create().unwrap();
        let later = |name: &str, delay| Message::new(name.to_owned()).deliver_after(delay);
        (0..9).for_each(|_| _ = from.send(later("near", 10 * SECOND)).unwrap());
        from.send(later("1", 20 * SECOND)).unwrap();
        (2..9).for_each(|n| _ = from.send(later(&n.to_string(), HOUR)).unwrap());
        let mut due = 0;
        let redriven = from.redrive().to(&to).only(|it| {
            if it.payload() == b"2" {
                disk.advance(21 * SECOND);
                from.depth().unwrap();
                if nacked {
                    // Number 2 comes due, is delivered once, and waits for another time.
                    disk.advance(HOUR);
                    let all = std::iter::from_fn(|| from.try_receive().unwrap());
                    let (again, others): (Vec<_>, Vec<_>) =
                        all.partition(|it| it.payload() == b"2");
                    others.into_iter().for_each(|it| it.release().unwrap());
                    again.into_iter().for_each(|it| it.nack().unwrap());
                }
                (0..20).for_each(|_| _ = from.send(later("new", 10 * MINUTE)).unwrap());
                due = from
                    .browse()
                    .unwrap()
                    .map(Result::unwrap)
                    .find(|it| it.payload() == b"2")
                    .and_then(|it| it.due())
                    .unwrap()
                    .0;
            }
            true
        });
        let redriven = redriven.run().unwrap();
        assert_eq!((redriven.seen, redriven.moved), (17, 17));
        assert_eq!((from.depth().unwrap(), to.depth().unwrap()), (20, 17));
        let mut moved = to.browse().unwrap().map(Result::unwrap);
        let moved = moved.find(|it| it.payload() == b"2").unwrap();
        assert_eq!((moved.due().unwrap().0, moved.attempts()), (due, u32::from(nacked)));
    }
}
