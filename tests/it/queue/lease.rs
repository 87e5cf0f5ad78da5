//! Leases of deliveries, and consumers that wait for a message.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use posthouse::{Durability, Engine, ErrorKind, Offset, Options, Timestamp, sim::SimDisk};

use crate::support::{everywhere, kind, real};

#[test]
fn a_delivery_is_leased_settled_once_and_counted() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
        queue.send_batch(["a", "b"]).unwrap();
        let a = queue.try_receive().unwrap().unwrap();
        let b = queue.try_receive().unwrap().unwrap();
        assert!(queue.try_receive().unwrap().is_none());
        assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (2, 2));
        assert_eq!((a.attempt(), b.attempt()), (1, 1));
        a.nack().unwrap();
        assert_eq!(kind(a.nack()), ErrorKind::LeaseLost);
        assert_eq!(kind(a.ack()), ErrorKind::LeaseLost);
        assert_eq!(kind(a.extend(Duration::from_secs(1))), ErrorKind::LeaseLost);
        let invalid = ErrorKind::InvalidInput { field: "lease" };
        assert_eq!(kind(b.extend(Duration::ZERO)), invalid);
        b.extend(Duration::from_secs(1)).unwrap();
        let again = queue.try_receive().unwrap().unwrap();
        assert_eq!((again.payload(), again.attempt()), (&b"a"[..], 2));
        // A handler that panics drops its delivery.
        let panicked = thread::spawn(move || {
            let _mine = again;
            panic!("a handler's own fault");
        });
        assert!(panicked.join().is_err());
        let again = queue.try_receive().unwrap().unwrap();
        assert_eq!((again.payload(), again.attempt()), (&b"a"[..], 3));
        again.ack_ticket().unwrap().wait().unwrap();
        b.ack().unwrap();
        assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (0, 0));
        drop((queue, a, b, again, engine));
        let queue = open().queue("q").open().unwrap();
        assert_eq!(queue.depth().unwrap(), 0);
    });
}

#[test]
fn leases_run_out_with_time_and_not_with_the_clock() {
    let disk = SimDisk::new(1);
    let engine = Options::new().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").lease(Duration::from_secs(10)).create().unwrap();
    queue.send("a").unwrap();
    let first = queue.try_receive().unwrap().unwrap();
    // The time of day jumps by years, both ways.
    for now in [Timestamp(0), Timestamp(u64::MAX / 2), Timestamp(1)] {
        disk.set_now(now);
        assert!(queue.try_receive().unwrap().is_none());
    }
    disk.advance(Duration::from_secs(9));
    assert!(queue.try_receive().unwrap().is_none());
    first.extend(Duration::from_secs(5)).unwrap();
    disk.advance(Duration::from_secs(4));
    assert!(queue.try_receive().unwrap().is_none());
    disk.advance(Duration::from_secs(1));
    assert_eq!(
        kind(first.ack()),
        ErrorKind::LeaseLost,
        "lost even if no other consumer has it yet"
    );
    let second = queue.try_receive().unwrap().unwrap();
    assert_eq!(second.attempt(), 2);
    assert_eq!(kind(first.ack()), ErrorKind::LeaseLost);
    second.ack().unwrap();
}

#[test]
fn a_waiting_consumer_is_woken_by_what_concerns_it() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").lease(Duration::from_millis(50)).create().unwrap();
    let long = Duration::from_secs(60);
    let wait = || {
        let queue = queue.clone();
        thread::spawn(move || {
            let got = queue.receive(long).unwrap().unwrap();
            got.ack().unwrap();
            got.attempt()
        })
    };
    // Woken by a message, by a message that is given back, and by a lease that runs out.
    let waiter = wait();
    queue.send("a").unwrap();
    assert_eq!(waiter.join().unwrap(), 1);

    queue.send("b").unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    held.extend(long).unwrap();
    let waiter = wait();
    held.nack().unwrap();
    assert_eq!(waiter.join().unwrap(), 2);

    queue.send("c").unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    assert_eq!(wait().join().unwrap(), 2);
    assert_eq!(kind(held.ack()), ErrorKind::LeaseLost);

    assert!(queue.receive(Duration::from_millis(1)).unwrap().is_none());
    assert!(queue.receive_batch(5, Duration::from_millis(1)).unwrap().is_empty());
    assert_eq!(kind(queue.receive_batch(0, long)), ErrorKind::InvalidInput { field: "most" });

    // Woken by the end of the engine.
    for end in [true, false] {
        let queue = queue.clone();
        let waiter = thread::spawn(move || kind(queue.receive(long)));
        thread::sleep(Duration::from_millis(20));
        if end {
            engine.queue("q").delete().unwrap();
            assert_eq!(waiter.join().unwrap(), ErrorKind::NotFound);
        } else {
            engine.close().unwrap();
            assert!(matches!(waiter.join().unwrap(), ErrorKind::NotFound | ErrorKind::Closed));
        }
    }
}

#[test]
fn many_threads_share_a_queue_and_each_message_goes_to_one() {
    const MESSAGES: u64 = 4000;
    for durability in [Durability::Buffered, Durability::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().durability(durability).journal_bytes(1 << 20);
        let engine = options.open(dir.path().join("store")).unwrap();
        let queue = engine.queue("q").create().unwrap();
        let (sum, count) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for producer in 0..4 {
                let queue = &queue;
                scope.spawn(move || {
                    for n in 0..MESSAGES / 4 {
                        queue.send((4 * n + producer).to_string()).unwrap();
                    }
                });
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    while count.load(Ordering::Relaxed) < MESSAGES {
                        let Some(got) = queue.receive(Duration::from_millis(20)).unwrap() else {
                            continue;
                        };
                        let n: u64 = std::str::from_utf8(got.payload()).unwrap().parse().unwrap();
                        // Some fail at first.
                        if n % 10 == 3 && got.attempt() == 1 {
                            got.nack().unwrap();
                            continue;
                        }
                        got.ack().unwrap();
                        sum.fetch_add(n, Ordering::Relaxed);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), MESSAGES);
        assert_eq!(sum.into_inner(), MESSAGES * (MESSAGES - 1) / 2);
        assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (0, 0));
    }
}

/// A lease that was made shorter wakes waiting consumers when it ends.
#[test]
fn a_shortened_lease_ends_for_waiting_consumers() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    held.extend(Duration::from_millis(50)).unwrap();
    let began = Instant::now();
    let again = queue.receive(Duration::from_secs(3)).unwrap();
    assert!(again.is_some());
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
}

/// Runs work on many messages of a queue, in more than a hundred slices, while another thread sends to another queue. Many
/// sends must have their turn meanwhile. The machine may have no core for the other thread, so it is tried again.
fn assert_that_sends_have_turns(work: impl Fn(&Engine, &SimDisk) -> Box<dyn FnOnce()>) {
    let counts: Vec<u64> = (0..50).map(|_| sends_during(&work)).take_while(|n| *n < 50).collect();
    assert!(counts.len() < 50, "so many sends had their turn: {counts:?}");
}

fn sends_during(work: impl Fn(&Engine, &SimDisk) -> Box<dyn FnOnce()>) -> u64 {
    let disk = SimDisk::new(1);
    let options = Options::new().durability(Durability::Buffered).sim(&disk);
    let engine = options.open("store").unwrap();
    let other = engine.queue("other").create().unwrap();
    let work = work(&engine, &disk);
    let (begun, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let mut between = 0;
            while !ended.load(Ordering::SeqCst) {
                let has_begun = begun.load(Ordering::SeqCst);
                other.send("more").unwrap();
                between += u64::from(has_begun && !ended.load(Ordering::SeqCst));
            }
            between
        });
        while other.depth().unwrap() < 10 {
            thread::yield_now();
        }
        begun.store(true, Ordering::SeqCst);
        work();
        ended.store(true, Ordering::SeqCst);
        sends.join().unwrap()
    })
}

const MANY: usize = 20_000;

/// While the leases of many messages end, other callers have the core in between.
#[test]
fn leases_that_run_out_together_let_other_callers_go_on() {
    assert_that_sends_have_turns(|engine, disk| {
        let queue = engine.queue("q").lease(Duration::from_secs(1)).create().unwrap();
        queue.send_batch((0..MANY).map(|_| "work")).unwrap();
        let leased = queue.receive_batch(MANY, Duration::ZERO).unwrap();
        assert_eq!(leased.len(), MANY);
        disk.advance(Duration::from_secs(2));
        Box::new(move || {
            assert_eq!(queue.stats().unwrap().ready, MANY as u64);
            drop(leased);
        })
    });
}

/// While many messages with holes between them are purged, other callers have the core in between.
#[test]
fn a_purge_lets_other_callers_go_on() {
    assert_that_sends_have_turns(|engine, _| {
        let queue = engine.queue("q").create().unwrap();
        queue.send_batch((0..2 * MANY).map(|_| "work")).unwrap();
        (0..MANY as u64).for_each(|n| assert!(queue.remove(Offset(2 * n)).unwrap()));
        Box::new(move || assert_eq!(queue.purge().unwrap(), MANY as u64))
    });
}
