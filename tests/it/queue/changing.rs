//! Settings that change: `create_or_update`, and what open handles, waiting messages and deliveries on lease do then.

use std::{thread, time::Duration};

use posthouse::{Backoff, ErrorKind, Message, Overflow, Start};

use crate::support::{SECOND, Sim, field, kind, real, take, texts};

#[test]
fn create_or_update_creates_and_changes_and_settings_reads() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).create_or_update().unwrap();
    assert_eq!(queue.settings().unwrap().lease, SECOND);
    assert_eq!(queue.settings().unwrap().dead_letter_queue, None);
    let changed = sim
        .engine
        .queue("q")
        .lease(2 * SECOND)
        .delay(3 * SECOND)
        .backoff(Backoff::Fixed(SECOND))
        .time_to_live(60 * SECOND)
        .max_messages(10)
        .max_bytes(1000)
        .overflow(Overflow::DropOldest)
        .single_active_consumer(true)
        .max_attempts(7)
        .create_or_update()
        .unwrap();
    let settings = changed.settings().unwrap();
    assert_eq!(settings, queue.settings().unwrap(), "the old handle reads the same");
    assert_eq!((settings.lease, settings.delay), (2 * SECOND, 3 * SECOND));
    assert_eq!(settings.backoff, Backoff::Fixed(SECOND));
    assert_eq!(settings.time_to_live, Some(60 * SECOND));
    assert_eq!((settings.max_messages, settings.max_bytes), (Some(10), Some(1000)));
    assert_eq!(settings.overflow, Overflow::DropOldest);
    assert!(settings.single_active_consumer);
    assert_eq!(settings.max_attempts, Some(7));
    assert_eq!(settings.dead_letter_queue.as_deref(), Some("q.dead"));
    drop((queue, changed));

    // What is not given stays. The next checkpoint captures what has changed since this one.
    sim.engine.checkpoint().unwrap();
    sim.engine.queue("q").lease(5 * SECOND).create_or_update().unwrap();
    for checkpoints in [true, false, true] {
        if checkpoints {
            sim.engine.checkpoint().unwrap();
        }
        sim = sim.kill();
        let found = sim.engine.queue("q").open().unwrap().settings().unwrap();
        assert_eq!(found.lease, 5 * SECOND);
        assert_eq!((found.delay, found.max_attempts), (settings.delay, settings.max_attempts));
    }
    let bare = sim
        .engine
        .queue("q")
        .without_time_to_live()
        .without_max_bytes()
        .without_max_messages()
        .without_dead_letters()
        .create_or_update()
        .unwrap();
    let settings = bare.settings().unwrap();
    assert_eq!((settings.time_to_live, settings.max_attempts), (None, None));
    assert_eq!((settings.max_messages, settings.max_bytes), (None, None));
    assert_eq!(settings.overflow, Overflow::Reject);
    assert_eq!(settings.dead_letter_queue, None);
    assert!(sim.engine.verify().unwrap().is_ok());
}

#[test]
fn create_with_another_setting_shows_both_values_and_the_way_out() {
    let sim = Sim::new();
    sim.engine.queue("q").lease(SECOND).max_messages(5).create().unwrap();
    let refused = sim.engine.queue("q").lease(2 * SECOND).create().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    let text = refused.to_string();
    for part in ["another lease", "1s", "2s", "create_or_update"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let refused = sim.engine.queue("q").without_max_messages().create().unwrap_err().to_string();
    assert!(refused.contains("another max_messages") && refused.contains("none"), "{refused}");
    let refused = sim.engine.queue("q").max_attempts(3).create().unwrap_err().to_string();
    assert!(refused.contains("another max_attempts"), "{refused}");
    sim.engine.stream("s").partitions(2).create().unwrap();
    let refused = sim.engine.stream("s").partitions(3).create().unwrap_err().to_string();
    assert!(refused.contains("it is 2 there, and 3 here"), "{refused}");
}

#[test]
fn a_changed_lease_counts_for_new_deliveries_only() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(10 * SECOND).create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    let before = take(&queue).unwrap();
    sim.engine.queue("q").lease(2 * SECOND).create_or_update().unwrap();
    let after = take(&queue).unwrap();
    sim.disk.advance(3 * SECOND);
    assert_eq!(kind(after.ack()), ErrorKind::LeaseLost);
    before.ack().unwrap();
}

#[test]
fn a_changed_delay_and_backoff_count_from_then_on_and_waits_stay() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").delay(10 * SECOND).backoff(Backoff::None).create().unwrap();
    queue.send("waits").unwrap();
    let builder = sim.engine.queue("q").delay(Duration::ZERO).backoff(Backoff::Fixed(SECOND));
    builder.create_or_update().unwrap();
    queue.send("comes").unwrap();
    let delivery = take(&queue).unwrap();
    assert_eq!(delivery.payload(), b"comes");
    delivery.nack().unwrap();
    assert!(take(&queue).is_none(), "the new backoff counts");
    sim.disk.advance(SECOND);
    take(&queue).unwrap().ack().unwrap();
    assert!(take(&queue).is_none(), "the old delay stays");
    sim.disk.advance(9 * SECOND);
    assert_eq!(take(&queue).unwrap().payload(), b"waits");
}

#[test]
fn a_changed_delay_counts_in_transactions() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "a");
    sim.engine.queue("q").delay(SECOND).max_messages(1).create_or_update().unwrap();
    tx.commit().unwrap();
    assert!(take(&queue).is_none());
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "b");
    assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
    sim.disk.advance(SECOND);
    assert!(take(&queue).is_some());
}

#[test]
fn dead_letters_can_be_added_changed_and_taken_away() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::None).create().unwrap();
    queue.send("a").unwrap();
    for _ in 0..4 {
        take(&queue).unwrap().nack().unwrap();
    }
    let held = take(&queue).unwrap();
    // The message was tried more often than the new limit says: it is moved instead of delivered.
    sim.engine.queue("q").max_attempts(3).create_or_update().unwrap();
    held.nack_because("once more").unwrap();
    assert!(take(&queue).is_none());
    let dead = sim.engine.queue("q.dead").open().unwrap();
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));

    // Another queue for them, with the same number of attempts.
    sim.engine.queue("q").dead_letter_queue("other").create_or_update().unwrap();
    assert_eq!(queue.settings().unwrap().max_attempts, Some(3));
    queue.send("b").unwrap();
    take(&queue).unwrap().reject("no").unwrap();
    assert_eq!(
        (dead.depth().unwrap(), texts(&sim.engine.queue("other").open().unwrap())),
        (1, vec!["b".to_owned()])
    );
    sim.engine.queue("q.dead").delete().unwrap();
    assert_eq!(field(sim.engine.queue("other").delete()), "name");

    sim.engine.queue("q").without_dead_letters().create_or_update().unwrap();
    queue.send("c").unwrap();
    for attempt in 1..10 {
        let delivery = take(&queue).unwrap();
        assert_eq!(delivery.attempt(), attempt);
        delivery.nack().unwrap();
    }
    assert_eq!(field(take(&queue).unwrap().reject("no")), "dead_letter_queue");
    sim.engine.queue("other").delete().unwrap();
}

#[test]
fn dead_letters_cannot_come_back_to_their_queue() {
    let sim = Sim::new();
    sim.engine.queue("a").dead_letter_queue("b").create().unwrap();
    let circle = sim.engine.queue("b").dead_letter_queue("c").create_or_update();
    circle.unwrap();
    let circle = sim.engine.queue("c").dead_letter_queue("a").create_or_update();
    assert_eq!(field(circle), "dead_letter_queue");
    assert_eq!(
        field(sim.engine.queue("c").dead_letter_queue("c").create_or_update()),
        "dead_letter_queue"
    );
    assert_eq!(sim.engine.queue("c").open().unwrap().settings().unwrap().max_attempts, None);
}

#[test]
fn a_limit_that_is_lowered_keeps_what_is_there_and_refuses_more() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    sim.engine.queue("q").max_messages(2).create_or_update().unwrap();
    assert_eq!(queue.depth().unwrap(), 3);
    assert_eq!(kind(queue.send("d")), ErrorKind::QueueFull);
    take(&queue).unwrap().ack().unwrap();
    assert_eq!(kind(queue.send("d")), ErrorKind::QueueFull);
    take(&queue).unwrap().ack().unwrap();
    queue.send("d").unwrap();

    // The messages that were there before count in bytes, too.
    sim.engine.queue("q").without_max_messages().max_bytes(3).create_or_update().unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(2));
    queue.send("e").unwrap();
    assert_eq!(kind(queue.send("f")), ErrorKind::QueueFull);
    sim.engine.queue("q").overflow(Overflow::DropOldest).create_or_update().unwrap();
    queue.send("f").unwrap();
    assert_eq!(texts(&queue), ["d", "e", "f"]);
    sim.engine.queue("q").without_max_bytes().create_or_update().unwrap();
    queue.send_batch(["g"; 10]).unwrap();
    assert_eq!(queue.bytes().unwrap(), None);
}

#[test]
fn a_sender_that_waits_goes_on_when_the_limit_is_raised() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    queue.send("a").unwrap();
    let other = queue.clone();
    let sender = thread::spawn(move || other.send_within("b", Duration::from_secs(60)));
    while !sender.is_finished() {
        engine.queue("q").max_messages(2).create_or_update().unwrap();
        thread::yield_now();
    }
    sender.join().unwrap().unwrap();
}

#[test]
fn a_single_active_consumer_can_be_added_and_taken_away() {
    let sim = Sim::new();
    let [first, second] = [(); 2].map(|()| sim.engine.queue("q").create().unwrap());
    first.send_batch(["a", "b", "c", "d"]).unwrap();
    let held = take(&first).unwrap();
    sim.engine.queue("q").single_active_consumer(true).create_or_update().unwrap();
    let active = take(&second).expect("the first that receives from then on is active");
    assert!(second.is_active().unwrap() && !first.is_active().unwrap());
    assert!(take(&first).is_none());
    held.ack().unwrap();
    active.ack().unwrap();
    sim.engine.queue("q").single_active_consumer(false).create_or_update().unwrap();
    assert!(first.is_active().unwrap());
    take(&first).unwrap().ack().unwrap();
    // The next first one is active, whoever was active before.
    sim.engine.queue("q").single_active_consumer(true).create_or_update().unwrap();
    take(&first).unwrap().ack().unwrap();
    assert!(first.is_active().unwrap() && !second.is_active().unwrap());
    second.send("e").unwrap();
    assert!(take(&second).is_none());
    drop((first, held));
    assert!(take(&second).is_some());
}

#[test]
fn a_consumer_that_stands_by_goes_on_when_all_may_receive() {
    let (engine, _dir) = real();
    let active = engine.queue("q").single_active_consumer(true).create().unwrap();
    assert!(active.try_receive().unwrap().is_none());
    let standby = engine.queue("q").open().unwrap();
    let waiting = thread::spawn(move || standby.receive(Duration::from_secs(60)).unwrap());
    active.send("a").unwrap();
    engine.queue("q").single_active_consumer(false).create_or_update().unwrap();
    assert!(waiting.join().unwrap().is_some());
}

#[test]
fn order_by_key_changes_only_while_the_queue_is_empty() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").backoff(Backoff::None).create().unwrap();
    let keyed = |text: &'static str| Message::new(text).key("k");
    queue.send(keyed("a")).unwrap();
    let builder = sim.engine.queue("q").ordered_by_key(true);
    let refused = builder.create_or_update().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput { field: "ordered_by_key" });
    assert!(refused.to_string().contains("redrive().to"), "{refused}");
    take(&queue).unwrap().ack().unwrap();
    builder.create_or_update().unwrap();
    queue.send_batch([keyed("b"), keyed("c")]).unwrap();
    let head = take(&queue).unwrap();
    assert!(take(&queue).is_none(), "the handle from before keeps the order, too");
    assert_eq!(field(queue.send(keyed("d").deliver_after(SECOND))), "deliver_after");
    assert_eq!(field(sim.engine.queue("q").delay(SECOND).create_or_update()), "delay");
    head.ack().unwrap();
    take(&queue).unwrap().ack().unwrap();
    sim.engine.queue("q").ordered_by_key(false).delay(SECOND).create_or_update().unwrap();
    queue.send_batch([keyed("e"), keyed("f")]).unwrap();
    sim.disk.advance(SECOND);
    assert_eq!([take(&queue), take(&queue)].iter().flatten().count(), 2);
}

#[test]
fn a_changed_time_to_live_counts_for_all_messages() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    sim.disk.advance(10 * SECOND);
    sim.engine.queue("q").time_to_live(20 * SECOND).create_or_update().unwrap();
    take(&queue).unwrap().ack().unwrap();
    sim.disk.advance(10 * SECOND);
    assert!(take(&queue).is_none());
    queue.send("c").unwrap();
    sim.engine.queue("q").without_time_to_live().create_or_update().unwrap();
    sim.disk.advance(100 * SECOND);
    assert_eq!(take(&queue).unwrap().payload(), b"c");
}

/// A queue that drops its oldest messages does not spill, but messages may be spilled already.
#[test]
fn spilled_messages_come_when_the_settings_changed_meanwhile() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for n in 0..200 {
        queue.send(Message::new(n.to_string()).deliver_after((n + 1) * SECOND / 10)).unwrap();
    }
    let builder = sim.engine.queue("q").max_messages(300).overflow(Overflow::DropOldest);
    builder.create_or_update().unwrap();
    drop((queue, builder));
    sim = sim.kill();
    sim.disk.advance(60 * SECOND);
    let queue = sim.engine.queue("q").open().unwrap();
    for _ in 0..200 {
        take(&queue).expect("all are due").ack().unwrap();
    }
    sim.engine.queue("q").overflow(Overflow::Reject).create_or_update().unwrap();
    for _ in 0..200 {
        queue.send(Message::new("later").deliver_after(SECOND)).unwrap();
    }
    sim.disk.advance(SECOND);
    assert_eq!(std::iter::from_fn(|| take(&queue).map(|it| it.ack().unwrap())).count(), 200);
}

#[test]
fn subscriptions_topics_and_streams_are_updated_as_queues_are() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create_or_update().unwrap();
    topic.settings().unwrap();
    let subscription = topic.subscription("s").create_or_update().unwrap();
    topic.publish("a").unwrap();
    let changed = topic.subscription("s").lease(SECOND).max_attempts(1).create_or_update().unwrap();
    assert_eq!(changed.settings().unwrap().dead_letter_queue.as_deref(), Some("t.s.dead"));
    subscription.try_receive().unwrap().expect("it stays").nack().unwrap();
    assert_eq!(sim.engine.queue("t.s.dead").open().unwrap().depth().unwrap(), 1);

    let stream = sim.engine.stream("h").partitions(2).create_or_update().unwrap();
    stream.append("a").unwrap();
    sim.engine.stream("h").create_or_update().unwrap();
    sim.engine.stream("h").partitions(2).create_or_update().unwrap();
    for partitions in [1, 3] {
        let refused = sim.engine.stream("h").partitions(partitions).create_or_update();
        assert_eq!(field(refused), "partitions");
    }
    assert_eq!(stream.settings().unwrap().partitions, 2);
    assert_eq!(stream.reader(Start::Earliest).unwrap().count(), 1);
}

#[test]
fn settings_of_what_was_deleted_are_not_found() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    sim.engine.queue("q").delete().unwrap();
    assert_eq!(kind(queue.settings()), ErrorKind::NotFound);
    sim.engine.queue("q").lease(SECOND).create_or_update().unwrap();
    assert_eq!(kind(queue.send("a")), ErrorKind::NotFound, "it is another queue");
}

/// A queue with a limit in bytes is weighed when it is opened. What cannot be read there is an error before the commit.
#[test]
fn an_error_of_create_or_update_leaves_the_settings_as_they_were() {
    let prepare = || {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").lease(SECOND).max_bytes(1000).create().unwrap();
        queue.send_batch(["a", "b", "c"]).unwrap();
        sim.engine.checkpoint().unwrap();
        drop(queue);
        sim.kill()
    };
    let update = |sim: &Sim| sim.engine.queue("q").lease(2 * SECOND).create_or_update().map(drop);
    let sim = prepare();
    let before = sim.disk.calls();
    update(&sim).unwrap();
    let calls = sim.disk.calls() - before;
    let mut failures = 0;
    for call in 0..calls {
        let sim = prepare();
        sim.disk.fail_call(sim.disk.calls() + call, 5, false);
        let failed = update(&sim);
        sim.disk.heal();
        if failed.is_ok() || sim.engine.sync().is_err() {
            continue;
        }
        failures += 1;
        let settings = sim.engine.queue("q").open().unwrap().settings().unwrap();
        assert_eq!(settings.lease, SECOND, "call {call}: {failed:?}");
    }
    assert!(failures > 0, "none of {calls} calls made it fail");
}

/// A queue is weighed before it gets a limit in bytes. What comes then is weighed, too, also if the change is refused.
#[test]
fn batches_after_a_change_that_was_refused_are_weighed() {
    for batch in ["plain", "with a life", "transaction", "large"] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").create().unwrap();
        let refused = sim.engine.queue("q").max_bytes(1000).ordered_by_key(true).delay(SECOND);
        assert!(matches!(kind(refused.create_or_update()), ErrorKind::InvalidInput { .. }));
        let messages = || (0..100).map(|_| Message::new([7; 100].as_slice()));
        match batch {
            "plain" => _ = queue.send_batch(messages()).unwrap(),
            "with a life" => {
                let living = messages().map(|it| it.expire_after(60 * SECOND));
                _ = queue.send_batch(living).unwrap();
            }
            "transaction" => {
                let mut tx = sim.engine.transaction();
                messages().for_each(|it| _ = tx.send(&queue, it));
                tx.commit().unwrap();
            }
            _ => _ = queue.send(vec![7; 65_536]).unwrap(),
        }
        let limited = sim.engine.queue("q").max_bytes(1000).create_or_update().unwrap();
        assert!(limited.bytes().unwrap() >= Some(10_000), "{batch}: {:?}", limited.bytes());
        assert_eq!(kind(limited.send(vec![7; 900])), ErrorKind::QueueFull, "{batch}");
        while let Some(delivery) = take(&limited) {
            delivery.ack().unwrap();
        }
        assert_eq!(limited.bytes().unwrap(), Some(0), "{batch}");
    }
}

/// While a queue is weighed, another thread may delete it. Then it is created.
#[test]
fn an_update_that_races_with_a_delete_creates() {
    let (engine, _dir) = real();
    let queue = || engine.queue("q").max_bytes(1 << 30);
    thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            for _ in 0..300 {
                let queue = engine.queue("q").create_or_update().unwrap();
                // It may have been deleted.
                _ = queue.send_batch((0..200).map(|_| "a message"));
                drop(queue);
                _ = engine.queue("q").delete();
            }
        });
        while !deleting.is_finished() {
            queue().create_or_update().expect("it is created anew");
        }
    });
}

#[test]
fn a_lease_is_rounded_up_to_whole_milliseconds() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(Duration::from_micros(1500)).create().unwrap();
    assert_eq!(queue.settings().unwrap().lease, Duration::from_millis(2));
    queue.send("a").unwrap();
    let delivery = take(&queue).unwrap();
    sim.disk.advance(Duration::from_millis(1));
    assert!(take(&queue).is_none());
    delivery.ack().unwrap();
}
