//! On the simulated disk there are no threads. Each call does what is due for all queues, as the threads would.
//! `time_to_live.rs` and `expiry.rs` have more of what expires.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    task::{Context, Poll, Wake},
};

use posthouse::{
    Alarm, Backoff, Durability, ErrorKind, Group, Message, Offset, Options, Queue, Reader, Start,
    Stream, Threshold, Timestamp,
};

use crate::support::{HOUR, MINUTE, SECOND, Sim, kind, take, texts};

type Call = fn(&Sim, &Queue);

/// Calls that have nothing to do with another queue.
const CALLS: [(&str, Call); 6] = [
    ("send", |_, queue| _ = queue.send("other").unwrap()),
    ("receive", |_, queue| assert!(queue.try_receive().unwrap().is_none())),
    ("depth", |_, queue| assert_eq!(queue.depth().unwrap(), 0)),
    ("stats", |_, queue| assert_eq!(queue.stats().unwrap().depth, 0)),
    ("create", |sim, _| _ = sim.engine.topic("t").create().unwrap()),
    ("transaction", |sim, queue| {
        let mut tx = sim.engine.transaction();
        tx.send(queue, "other");
        tx.commit().unwrap();
    }),
];

#[test]
fn a_call_on_one_queue_tells_the_watch_of_another_one_what_has_come_due() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").create().unwrap();
        let (tell, told) = channel();
        let tell_age = tell.clone();
        let ready = move |_: Alarm| tell.send("ready").unwrap();
        let _ready = queue.watch(Threshold::Ready(1), ready).unwrap();
        let age = Threshold::OldestAge(HOUR);
        let _age = queue.watch(age, move |_| tell_age.send("old").unwrap()).unwrap();
        queue.send(Message::new("later").deliver_after(MINUTE)).unwrap();
        sim.disk.advance(MINUTE - SECOND);
        call(&sim, &other);
        assert_eq!(told.try_iter().next(), None, "{name}: too early");
        let _ = other.purge().unwrap();
        sim.disk.advance(SECOND);
        call(&sim, &other);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["ready"], "{name}");
        let _ = other.purge().unwrap();
        sim.disk.advance(2 * HOUR);
        call(&sim, &other);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["old"], "{name}");
    }
}

#[test]
fn a_message_whose_last_lease_ran_out_is_a_dead_letter_for_who_receives_only_these() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").max_attempts(1).lease(MINUTE).create().unwrap();
        let letters = sim.engine.queue("b.dead").open().unwrap();
        queue.send("work").unwrap();
        let held = take(&queue).unwrap();
        assert_eq!(held.payload(), b"work");
        sim.disk.advance(2 * MINUTE);
        call(&sim, &other);
        let browsed: Vec<_> = letters.browse().unwrap().map(Result::unwrap).collect();
        assert_eq!(browsed.len(), 1, "{name}");
        assert_eq!(texts(&letters), ["work"], "{name}");
        assert!(held.ack().is_err());
    }
    // Nothing but the letters is received.
    let sim = Sim::new();
    let queue = sim.engine.queue("b").max_attempts(1).lease(MINUTE).create().unwrap();
    let letters = sim.engine.queue("b.dead").open().unwrap();
    queue.send("work").unwrap();
    let _held = take(&queue).unwrap();
    sim.disk.advance(2 * MINUTE);
    assert_eq!(take(&letters).unwrap().payload(), b"work");
}

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_task_that_waits_for_a_queue_is_woken_by_a_call_on_another_one() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").lease(MINUTE).backoff(Backoff::None).create().unwrap();
        queue.send("leased").unwrap();
        let _held = take(&queue).unwrap();
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut next = pin!(queue.receive_async());
        assert!(next.as_mut().poll(&mut context).is_pending());
        sim.disk.advance(2 * MINUTE);
        call(&sim, &other);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "{name}");
        let Poll::Ready(delivery) = next.as_mut().poll(&mut context) else { panic!("it waits") };
        assert_eq!(delivery.unwrap().attempt(), 2, "{name}");
    }
}

#[test]
fn what_expires_in_one_queue_is_a_dead_letter_for_who_receives_only_these() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let disk = posthouse::sim::SimDisk::new(1);
        let engine = Options::new().durability(durability).sim(&disk).open("store").unwrap();
        let letters = engine.queue("dead").create().unwrap();
        let queue = engine.queue("q").time_to_live(MINUTE).dead_letter_queue("dead").create();
        let queue = queue.unwrap();
        let topic = engine.topic("t").create().unwrap();
        let away = topic.subscription("away").time_to_live(2 * MINUTE).create().unwrap();
        queue.send_batch(["a", "b"]).unwrap();
        topic.publish("news").unwrap();
        disk.advance(MINUTE);
        let both = letters.receive_batch(9, std::time::Duration::ZERO).unwrap();
        assert_eq!(both.iter().map(posthouse::Delivery::payload).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(both[0].dead_letter().unwrap().unwrap().reason, "its time to live is over");
        both.iter().for_each(|it| it.ack().unwrap());
        let depth = |seen: u64| assert_eq!(posthouse::sim::still(|| away.depth()).unwrap(), seen);
        depth(1);
        disk.advance(MINUTE);
        assert!(take(&letters).is_none());
        depth(0);
    }
}

#[test]
fn a_call_on_one_queue_takes_what_has_expired_from_the_counts_and_the_watch_of_another_one() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").time_to_live(MINUTE).create().unwrap();
        let (tell, told) = channel();
        let watch = queue.watch(Threshold::Depth(2), move |alarm| tell.send(alarm).unwrap());
        let _watch = watch.unwrap();
        queue.send_batch(["a", "b"]).unwrap();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [Alarm::Raised(2)]);
        sim.disk.advance(MINUTE);
        call(&sim, &other);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [Alarm::Cleared(0)], "{name}");
        let stats = posthouse::sim::still(|| queue.stats()).unwrap();
        assert_eq!((stats.depth, stats.expired, stats.dropped), (0, 2, 0), "{name}");
    }
    // Counting is such a call.
    let sim = Sim::new();
    let queue = sim.engine.queue("b").time_to_live(MINUTE).create().unwrap();
    queue.send("a").unwrap();
    sim.disk.advance(MINUTE);
    assert_eq!((queue.depth().unwrap(), texts(&queue).len()), (0, 0));
}

#[test]
fn a_call_on_one_queue_lets_the_next_message_of_a_key_go_on_in_another_one() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").ordered_by_key(true).create().unwrap();
        let (first, next) = (Message::new("first").key("k"), Message::new("next").key("k"));
        queue.send(first.expire_after(2 * MINUTE)).unwrap();
        queue.send(next).unwrap();
        take(&queue).unwrap().nack_after(HOUR).unwrap();
        assert!(take(&queue).is_none(), "the first message of the key waits");
        sim.disk.advance(2 * MINUTE);
        call(&sim, &other);
        let next = posthouse::sim::still(|| take(&queue)).expect(name);
        assert_eq!(next.payload(), b"next", "{name}");
    }
}

#[test]
fn a_call_on_one_queue_gives_the_space_back_of_what_has_expired_in_another_one() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").time_to_live(MINUTE).create().unwrap();
        (0..10).for_each(|_| _ = queue.send(vec![7; 60_000]).unwrap());
        sim.engine.checkpoint().unwrap();
        let bytes = || -> usize {
            let files = sim.disk.files().into_iter();
            let segments = files.filter(|it| it.starts_with("store/segments"));
            segments.map(|it| sim.disk.content(&it).unwrap().len()).sum()
        };
        assert!(bytes() >= 600_000);
        sim.disk.advance(MINUTE);
        call(&sim, &other);
        assert!(bytes() < 100_000, "{name}: {} bytes are left", bytes());
    }
}

#[test]
fn what_cannot_leave_one_queue_fails_no_call_on_another_one() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").time_to_live(MINUTE).create().unwrap();
        queue.send("work").unwrap();
        sim.engine.checkpoint().unwrap();
        let sim = sim.kill();
        let [other, queue] = [other, queue].map(|it| sim.engine.queue(it.name()).open().unwrap());
        sim.disk.advance(MINUTE);
        // The segment cannot be opened.
        let looks_only = ["receive", "depth", "stats"].contains(&name);
        sim.disk.fail_call(sim.disk.calls(), 5, looks_only);
        call(&sim, &other);
        assert!(sim.disk.failed_call().is_some(), "{name}: nothing has failed");
        if !looks_only {
            // It was tried again.
            continue;
        }
        assert_eq!(queue.depth().unwrap(), 1, "{name}: it is looked at again later");
        sim.disk.heal();
        // A message that cannot be read rests for a minute.
        sim.disk.advance(MINUTE);
        call(&sim, &other);
        assert_eq!(posthouse::sim::still(|| queue.depth()).unwrap(), 0, "{name}");
    }
    // A letter that finds no space stays a message, and everything else goes on.
    let sim = Sim::new();
    let other = sim.engine.queue("a").create().unwrap();
    let queue = sim.engine.queue("b").time_to_live(MINUTE).max_attempts(2).create().unwrap();
    (0..40).for_each(|_| _ = queue.send(vec![7; 50_000]).unwrap());
    sim.disk.set_capacity(Some(sim.disk.bytes_used()));
    sim.disk.advance(MINUTE);
    assert_eq!(other.depth().unwrap(), 0);
    assert!(take(&other).is_none());
    let left = queue.depth().unwrap();
    assert!(left > 0, "there was no space for all letters");
    sim.disk.set_capacity(None);
    sim.disk.advance(MINUTE);
    assert_eq!(other.depth().unwrap(), 0);
    assert_eq!(posthouse::sim::still(|| queue.depth()).unwrap(), 0);
    assert_eq!(sim.engine.queue("b.dead").open().unwrap().depth().unwrap(), 40);
}

#[test]
fn a_sync_that_fails_in_what_a_call_does_for_others_poisons_the_engine() {
    let sim = Sim::new();
    let other = sim.engine.queue("a").create().unwrap();
    let queue = sim.engine.queue("b").time_to_live(MINUTE).max_attempts(2).create().unwrap();
    queue.send("work").unwrap();
    sim.disk.advance(MINUTE);
    sim.disk.fail_sync(0, 5);
    assert_eq!(kind(other.depth()), ErrorKind::Poisoned);
}

#[test]
fn what_was_buffered_is_seen_once_the_time_of_a_sync_has_come() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").create().unwrap();
        let see = || posthouse::sim::still(|| take(&queue).is_some());
        queue.clone().durability(Durability::Buffered).send("work").unwrap();
        assert!(!see(), "{name}: it is not durable");
        // This is the interval by default.
        sim.disk.advance(SECOND / 10);
        call(&sim, &other);
        assert!(see(), "{name}");
        // The sync of a ticket comes as soon as it can.
        drop(queue.send_ticket("work").unwrap());
        let _ = other.purge();
        sim.disk.advance(SECOND / 1000);
        call(&sim, &other);
        assert!(see(), "{name}, a ticket");
    }
}

/// Those who only read a stream, or hold a ticket, saw nothing until some other call did the sync.
#[test]
fn what_was_buffered_is_read_from_a_stream_once_the_time_of_a_sync_has_come() {
    type See = fn(&Stream, &mut Reader, &Group) -> bool;
    let sees: [(&str, See); 7] = [
        ("try_read", |_, reader, _| reader.try_read().unwrap().is_some()),
        ("len", |stream, _, _| stream.len().unwrap() == 1),
        ("end", |stream, _, _| stream.partition(0).unwrap().end().unwrap() == Offset(1)),
        ("lags", |_, _, group| group.lags().unwrap() == [1]),
        ("time", |stream, _, _| {
            stream.reader(Start::Time(Timestamp(0))).unwrap().try_read().unwrap().is_some()
        }),
        ("group", |stream, _, _| {
            // The record is from before this time.
            let later = Start::Time(Timestamp(u64::MAX / 4));
            let group = stream.group("later").start(later).create().unwrap();
            group.committed(0).unwrap() == Offset(1)
        }),
        ("latest", |stream, _, _| {
            let mut latest = stream.reader(Start::Latest).unwrap();
            stream.append("next").unwrap();
            latest.try_read().unwrap().unwrap().offset() == Offset(1)
        }),
    ];
    for (name, see) in sees {
        for is_ticket in [false, true] {
            let sim = Sim::new();
            let stream = sim.engine.stream("s").create().unwrap();
            let group = stream.group("g").create().unwrap();
            let mut reader = stream.reader(Start::Earliest).unwrap();
            let wait = if is_ticket {
                drop(stream.append_ticket("record").unwrap());
                SECOND / 1000
            } else {
                stream.durability(Durability::Buffered).append("record").unwrap();
                SECOND / 10
            };
            sim.disk.advance(wait);
            assert!(see(&stream, &mut reader, &group), "{name}, ticket: {is_ticket}");
        }
    }
    let sim = Sim::new();
    let ticket = sim.engine.queue("q").create().unwrap().send_ticket("work").unwrap();
    assert!(!ticket.is_durable());
    sim.disk.advance(SECOND / 1000);
    assert!(ticket.is_durable());
}

#[test]
fn a_task_whose_time_is_over_is_woken_by_a_call_on_another_queue() {
    for (name, call) in CALLS {
        let sim = Sim::new();
        let other = sim.engine.queue("a").create().unwrap();
        let queue = sim.engine.queue("b").max_messages(1).create().unwrap();
        queue.send("full").unwrap();
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut sent = pin!(queue.send_within_async("more", MINUTE));
        assert!(sent.as_mut().poll(&mut context).is_pending());
        sim.disk.advance(MINUTE - SECOND);
        call(&sim, &other);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0, "{name}");
        let _ = other.purge().unwrap();
        sim.disk.advance(SECOND);
        call(&sim, &other);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "{name}");
        let Poll::Ready(sent) = sent.as_mut().poll(&mut context) else { panic!("it waits") };
        assert_eq!(kind(sent), ErrorKind::QueueFull);
    }
}

#[test]
fn a_receive_in_the_order_of_keys_does_all_that_is_due() {
    let sim = Sim::new();
    let ordered = sim.engine.queue("a").ordered_by_key(true).create().unwrap();
    let full = sim.engine.queue("b").max_messages(1).create().unwrap();
    full.send("full").unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    let mut context = Context::from_waker(&waker);
    let mut sent = pin!(full.send_within_async("more", MINUTE));
    assert!(sent.as_mut().poll(&mut context).is_pending());
    let leased = sim.engine.queue("c").lease(MINUTE).create().unwrap();
    leased.send_batch(vec!["work"; 1000]).unwrap();
    let held = leased.receive_batch(1000, std::time::Duration::ZERO).unwrap();
    assert_eq!(held.len(), 1000);
    sim.disk.advance(2 * MINUTE);
    assert!(take(&ordered).is_none());
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "the time of the task is over");
    assert_eq!(posthouse::sim::still(|| leased.in_flight()).unwrap(), 0);
}

#[test]
fn a_delivery_that_is_dropped_after_its_lease_has_ended_comes_again_at_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(MINUTE).backoff(Backoff::Fixed(HOUR)).create().unwrap();
    queue.send("work").unwrap();
    let held = take(&queue).unwrap();
    sim.disk.advance(2 * MINUTE);
    drop(held);
    assert_eq!(take(&queue).expect("a lease that ran out does not wait").attempt(), 2);
}

#[test]
fn a_callback_may_call_another_engine_and_that_does_its_own_work() {
    let (sim, other) = (Sim::new(), Sim::new());
    let brief = other.engine.queue("brief").time_to_live(MINUTE).create().unwrap();
    brief.send("work").unwrap();
    let queue = sim.engine.queue("q").create().unwrap();
    let (tell, told) = channel();
    let ready = move |_: Alarm| tell.send(brief.depth().unwrap()).unwrap();
    let _ready = queue.watch(Threshold::Ready(1), ready).unwrap();
    queue.send(Message::new("later").deliver_after(MINUTE)).unwrap();
    other.disk.advance(MINUTE);
    sim.disk.advance(MINUTE);
    assert_eq!(queue.depth().unwrap(), 1);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0]);
}
