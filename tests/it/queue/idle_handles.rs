//! Queues and subscriptions at rest whose handles are open: all is as if they were not at rest.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use posthouse::{
    Durability, Engine, ErrorKind, Message, Options, Queue, Threshold,
    sim::{SimDisk, awake, rest},
};

/// An engine that keeps no state of a queue at rest.
fn open(disk: &SimDisk) -> Engine {
    Options::new().durability(Durability::Buffered).idle_kept(0).sim(disk).open("store").unwrap()
}

#[test]
fn what_was_counted_is_there_after_a_rest() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    engine.queue("q").create().unwrap().send("before").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let use_it = || {
        queue.send("a").unwrap();
        disk.advance(Duration::from_millis(300));
        queue.try_receive().unwrap().unwrap().ack().unwrap();
        let failed = queue.try_receive().unwrap().unwrap();
        failed.nack_after(Duration::ZERO).unwrap();
        let again = queue.try_receive().unwrap().unwrap();
        let token = again.fencing_token();
        again.ack().unwrap();
        rest(&engine).unwrap();
        queue.send("b").unwrap();
        rest(&engine).unwrap();
        (token, failed)
    };
    let used = [use_it(), use_it(), use_it()];
    assert!(used[0].0 < used[1].0 && used[1].0 < used[2].0, "{used:?}");
    let stats = queue.stats().unwrap();
    assert_eq!((stats.sent, stats.delivered, stats.acked), (7, 9, 6), "{stats:?}");
    assert_eq!((stats.redelivered, stats.depth, stats.ready), (3, 1, 1), "{stats:?}");
    rest(&engine).unwrap();
    let latencies = queue.latencies().unwrap();
    assert_eq!((latencies.waiting.count(), latencies.handling.count()), (6, 6), "{latencies:?}");
    assert!(latencies.waiting.sum() >= Duration::from_millis(900), "{latencies:?}");
    // Handles go while the queue is at rest.
    rest(&engine).unwrap();
    drop(queue);
    let queue = engine.queue("q").open().unwrap();
    assert_eq!(queue.stats().unwrap(), stats);
    assert_eq!(queue.latencies().unwrap(), latencies);
    let lost = used[0].1.ack().unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::LeaseLost);
}

/// A lease, a message that waits and one that came back keep the state. So do a threshold and the bytes of a queue.
#[test]
fn a_queue_in_use_does_not_rest() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    let bounded = engine.queue("bounded").max_bytes(1000).create().unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    bounded.send(vec![0; 600]).unwrap();
    let raised = std::sync::Arc::new(AtomicBool::new(false));
    let note = std::sync::Arc::clone(&raised);
    let watch = bounded.watch(Threshold::Depth(2), move |_| note.store(true, Ordering::SeqCst));
    let first = queue.try_receive().unwrap().unwrap();
    let failed = queue.try_receive().unwrap().unwrap();
    failed.nack_after(Duration::from_secs(60)).unwrap();
    for _ in 0..3 {
        rest(&engine).unwrap();
        engine.checkpoint().unwrap();
    }
    assert_eq!((queue.in_flight().unwrap(), queue.delayed().unwrap()), (1, 1));
    first.ack().unwrap();
    assert_eq!(bounded.bytes().unwrap(), Some(600));
    assert_eq!(bounded.send(vec![0; 600]).unwrap_err().kind(), ErrorKind::QueueFull);
    bounded.send("small").unwrap();
    assert!(raised.load(Ordering::SeqCst));
    drop(watch);
    let third = queue.try_receive().unwrap().unwrap();
    assert_eq!(third.payload(), b"c");
    third.ack().unwrap();
    disk.advance(Duration::from_secs(61));
    let again = queue.try_receive().unwrap().unwrap();
    assert_eq!((again.payload(), again.attempt()), (&b"b"[..], 2));
}

#[test]
fn delayed_and_urgent_messages_find_a_queue_at_rest() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    let sends = |message: Message<'_>, is_alone: bool| {
        rest(&engine).unwrap();
        if is_alone {
            queue.send(message).unwrap();
        } else {
            let mut tx = engine.transaction();
            tx.send(&queue, message);
            tx.commit().unwrap();
        }
    };
    let late = |seconds: u64| Message::new("late").deliver_after(Duration::from_secs(seconds));
    sends(Message::new("plain"), true);
    sends(Message::new("urgent").priority(5), true);
    sends(Message::new("more").priority(4), false);
    sends(late(50), false);
    sends(late(60), true);
    let mut got = Vec::new();
    let mut take = || {
        let delivery = queue.try_receive().unwrap()?;
        got.push(String::from_utf8(delivery.payload().to_vec()).unwrap());
        delivery.ack().unwrap();
        Some(())
    };
    while take().is_some() {}
    disk.advance(Duration::from_secs(61));
    while take().is_some() {}
    assert_eq!(got, ["urgent", "more", "plain", "late", "late"]);
}

/// The active consumer stays the active one, and slots keep their numbers.
#[test]
fn the_active_consumer_is_the_same_after_a_rest() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let builder = engine.queue("q").single_active_consumer(true);
    let (first, second) = (builder.create().unwrap(), builder.open().unwrap());
    let limited = first.with_max_in_flight(1).unwrap();
    assert!(first.try_receive().unwrap().is_none());
    for n in 0..3 {
        rest(&engine).unwrap();
        assert!(first.is_active().unwrap() && !second.is_active().unwrap());
        first.send_batch(["a", "b"]).unwrap();
        assert!(second.try_receive().unwrap().is_none(), "round {n}");
        assert!(limited.try_receive().unwrap().is_none(), "it is another consumer");
        for _ in 0..2 {
            first.try_receive().unwrap().unwrap().ack().unwrap();
        }
    }
    rest(&engine).unwrap();
    drop(first);
    second.send("c").unwrap();
    second.try_receive().unwrap().expect("it takes over").ack().unwrap();
    rest(&engine).unwrap();
    assert!(second.is_active().unwrap());
}

#[test]
fn settings_and_deletion_reach_a_queue_at_rest() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    rest(&engine).unwrap();
    engine.queue("q").max_messages(1).create_or_update().unwrap();
    queue.send("a").unwrap();
    rest(&engine).unwrap();
    assert_eq!(queue.send("b").unwrap_err().kind(), ErrorKind::QueueFull);
    rest(&engine).unwrap();
    // A transaction keeps the rules, also when the handles go while the queue is at rest.
    let mut tx = engine.transaction();
    tx.send(&queue, "c");
    drop(queue);
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::QueueFull);
    let queue = engine.queue("q").open().unwrap();
    rest(&engine).unwrap();
    engine.queue("q").delete().unwrap();
    for _ in 0..2 {
        assert_eq!(queue.depth().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(queue.try_receive().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(queue.stats().unwrap_err().kind(), ErrorKind::NotFound);
        rest(&engine).unwrap();
    }
    // The numbers of leases go on under an old name.
    let queue = engine.queue("q").create().unwrap();
    assert_eq!(queue.stats().unwrap().acked, 0);
}

#[test]
fn what_expires_while_a_queue_rests_is_counted() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").time_to_live(Duration::from_secs(1)).create().unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    queue.try_receive().unwrap().unwrap().ack().unwrap();
    rest(&engine).unwrap();
    disk.advance(Duration::from_secs(2));
    engine.checkpoint().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.acked, stats.expired), (0, 1, 2));
}

/// Nothing was counted of it, and its log was empty when it was opened.
#[test]
fn what_expires_in_a_queue_that_was_never_used_is_counted() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").time_to_live(Duration::from_secs(1)).create().unwrap();
    queue.send("a").unwrap();
    rest(&engine).unwrap();
    disk.advance(Duration::from_secs(2));
    engine.checkpoint().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.sent, stats.expired, stats.delivered), (1, 1, 0));
}

#[test]
fn a_queue_that_is_ordered_by_key_rests_and_goes_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").ordered_by_key(true).create().unwrap();
    for round in 0..3 {
        queue.send(Message::new(format!("{round}a")).key("k")).unwrap();
        queue.send(Message::new(format!("{round}b")).key("k")).unwrap();
        rest(&engine).unwrap();
        let first = queue.try_receive().unwrap().unwrap();
        assert_eq!(first.payload(), format!("{round}a").as_bytes());
        assert!(queue.try_receive().unwrap().is_none(), "its key is taken");
        rest(&engine).unwrap();
        first.ack().unwrap();
        queue.try_receive().unwrap().unwrap().ack().unwrap();
        rest(&engine).unwrap();
    }
}

/// A consumer that waits is woken, whatever comes while its queue rests, and by whom.
#[test]
fn a_waiting_consumer_is_woken_though_its_queue_rests() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().idle_kept(0).durability(durability);
        let engine = options.open(dir.path().join("store")).unwrap();
        let topic = engine.topic("t").create().unwrap();
        let subscription = topic.subscription("s").create().unwrap();
        let queue = engine.queue("q").create().unwrap();
        let waits = || thread::sleep(Duration::from_millis(30));
        thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                for _ in 0..6 {
                    let got = subscription.receive(Duration::from_secs(60)).unwrap();
                    got.expect("it was woken").ack().unwrap();
                }
                subscription.receive(Duration::from_secs(60)).unwrap_err().kind()
            });
            let taker = scope.spawn(|| {
                for _ in 0..6 {
                    let got = queue.receive(Duration::from_secs(60)).unwrap();
                    got.expect("it was woken").ack().unwrap();
                }
                queue.receive(Duration::from_secs(60)).unwrap_err().kind()
            });
            for n in 0..6u64 {
                waits();
                rest(&engine).unwrap();
                topic.publish("a").unwrap();
                let message = Message::new("a").priority((n / 3) as u8);
                let message = if n % 2 == 0 {
                    message
                } else {
                    message.deliver_after(Duration::from_millis(20))
                };
                if n % 3 == 0 {
                    queue.send(message).unwrap();
                } else {
                    let mut tx = engine.transaction();
                    tx.send(&queue, message);
                    tx.commit().unwrap();
                }
            }
            // A delayed one may come later on a busy machine.
            while queue.depth().unwrap() + subscription.depth().unwrap() > 0 {
                waits();
            }
            rest(&engine).unwrap();
            topic.subscription("s").delete().unwrap();
            engine.queue("q").delete().unwrap();
            assert_eq!(receiver.join().unwrap(), ErrorKind::NotFound);
            assert_eq!(taker.join().unwrap(), ErrorKind::NotFound);
        });
    }
}

/// Threads use some queues, while another one has them rest all the time.
#[test]
fn threads_that_use_queues_beside_one_that_lets_them_rest() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().idle_kept(0).durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queues: Vec<Queue> =
        (0..3).map(|n| engine.queue(&n.to_string()).create().unwrap()).collect();
    let (messages, ended) =
        (if cfg!(debug_assertions) { 600 } else { 6000 }, AtomicBool::new(false));
    thread::scope(|scope| {
        let rests = scope.spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                rest(&engine).unwrap();
            }
        });
        let users: Vec<_> = (0..4)
            .map(|user| {
                let (queues, engine) = (&queues, &engine);
                scope.spawn(move || {
                    for n in 0..messages {
                        let queue = &queues[(n + user) % 3];
                        match n % 5 {
                            0 => _ = queue.send(Message::new("a").priority(1)).unwrap(),
                            1 => _ = engine.queue(queue.name()).open().unwrap().send("a").unwrap(),
                            _ => _ = queue.send("a").unwrap(),
                        }
                        let got = queue.receive(Duration::from_secs(60)).unwrap().unwrap();
                        if n % 7 == 0 {
                            got.nack_after(Duration::ZERO).unwrap();
                        } else {
                            got.ack().unwrap();
                        }
                    }
                })
            })
            .collect();
        users.into_iter().for_each(|user| user.join().unwrap());
        ended.store(true, Ordering::SeqCst);
        rests.join().unwrap();
    });
    let all: Vec<_> = queues.iter().map(|queue| queue.stats().unwrap()).collect();
    let sum = |of: fn(&posthouse::ConsumerStats) -> u64| all.iter().map(of).sum::<u64>();
    assert_eq!(sum(|it| it.delivered), 4 * messages as u64);
    assert_eq!(sum(|it| it.acked) + sum(|it| it.failed), 4 * messages as u64);
    assert_eq!(sum(|it| it.sent), sum(|it| it.acked) + sum(|it| it.depth));
    let latencies = queues.iter().map(|queue| queue.latencies().unwrap());
    assert_eq!(latencies.map(|it| it.handling.count()).sum::<u64>(), sum(|it| it.acked));
}

/// Queues that are not used go to rest by themselves, and those in use stay.
#[test]
fn a_round_comes_some_seconds_after_the_last_use() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    queue.try_receive().unwrap().unwrap().ack().unwrap();
    assert_eq!(awake(&engine), 1);
    for (seconds, expected) in [(11, 1), (11, 0), (11, 0)] {
        disk.advance(Duration::from_secs(seconds));
        engine.topic("t").create().unwrap();
        let _ = engine.queue("other").create().unwrap().depth().unwrap();
        assert_eq!(awake(&engine), expected);
    }
}

/// The state of the queue was made after the message was gone, and took it for one on lease.
#[test]
fn a_message_that_is_removed_from_a_queue_at_rest_is_not_on_lease() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let (queue, other) =
        (engine.queue("q").create().unwrap(), engine.queue("other").create().unwrap());
    queue.send_batch(["a", "b", "c"]).unwrap();
    rest(&engine).unwrap();
    assert!(queue.remove(posthouse::Offset(0)).unwrap());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.in_flight, stats.ready, stats.removed), (0, 2, 1), "{stats:?}");
    rest(&engine).unwrap();
    assert_eq!(queue.redrive().to(&other).most(1).run().unwrap().moved, 1);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.in_flight, stats.ready, stats.removed), (0, 1, 2), "{stats:?}");
    assert_eq!(queue.purge().unwrap(), 1);
}
