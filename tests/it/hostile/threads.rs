//! Attempts of a hostile review that found nothing: many threads that do everything at once, and extremes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{Backoff, ErrorKind, IoMode, Offset, Start, sim::SimDisk};

use crate::model::{drain, small_options};
use crate::support::{Count, one_in, open, poll};

/// Eight threads for a while: nothing hangs, no message is lost, and none comes again after its ack. The test
/// never failed. `POSTHOUSE_SECONDS` makes it longer.
#[test]
fn many_threads() {
    use std::{
        collections::HashSet,
        sync::{Mutex, atomic::AtomicBool},
    };
    let seconds = std::env::var("POSTHOUSE_SECONDS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(6 / one_in(6) as u64);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let io =
        if std::env::var_os("POSTHOUSE_CALLS").is_some() { IoMode::Calls } else { IoMode::Auto };
    let engine = small_options().io(io).open(&path).unwrap();
    // A delivery that is dropped at the end must not wait when the queue is drained.
    let queue = |name| engine.queue(name).backoff(Backoff::None).create().unwrap();
    let (a, b) = (queue("a"), queue("b"));
    let topic = engine.topic("t").create().unwrap();
    let subscription = topic.subscription("s").create().unwrap();
    let stream = engine.stream("h").partitions(3).create().unwrap();
    let stop = AtomicBool::new(false);
    let beats: Vec<AtomicU64> = (0..10).map(|_| AtomicU64::new(0)).collect();
    let (sent, done) = (Mutex::new(HashSet::new()), Mutex::new(HashSet::new()));
    let heard = AtomicU64::new(0);
    let told = AtomicU64::new(0);
    let next = AtomicU64::new(0);
    let beat = |n: usize| {
        beats[n].fetch_add(1, Ordering::Relaxed);
        !stop.load(Ordering::Relaxed)
    };
    thread::scope(|scope| {
        for n in 0..2 {
            let (a, sent, next, beat) = (&a, &sent, &next, &beat);
            scope.spawn(move || {
                while beat(n) {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    let text = format!("{id} {}", "x".repeat((id % 700) as usize));
                    if id % 3 == 0 {
                        let ticket = a.send_ticket(text).unwrap();
                        let count = Arc::new(Count::default());
                        let mut ticket = ticket;
                        while poll(&mut ticket, &count).is_pending() {
                            thread::sleep(Duration::from_micros(50));
                        }
                    } else {
                        a.send(text).unwrap();
                    }
                    sent.lock().unwrap().insert(id);
                }
            });
        }
        for n in 2..4 {
            // From a to b in one transaction, which is sometimes dropped.
            let (a, b, stream, engine, beat) = (&a, &b, &stream, &engine, &beat);
            scope.spawn(move || {
                let mut turn = 0;
                while beat(n) {
                    turn += 1;
                    let Some(delivery) = a.receive(Duration::from_millis(50)).unwrap() else {
                        continue;
                    };
                    if turn % 7 == 0 {
                        continue;
                    }
                    let mut tx = engine.transaction();
                    tx.ack(&delivery).send(b, delivery.payload()).append(stream, "x");
                    tx.commit().unwrap();
                }
            });
        }
        for n in 4..6 {
            let (b, done, beat) = (&b, &done, &beat);
            scope.spawn(move || {
                while beat(n) {
                    for delivery in b.receive_batch(5, Duration::from_millis(50)).unwrap() {
                        let text = std::str::from_utf8(delivery.payload()).unwrap();
                        let (id, rest) = text.split_once(' ').unwrap();
                        let id: u64 = id.parse().unwrap();
                        assert_eq!(rest.len() as u64, id % 700);
                        delivery.ack().unwrap();
                        assert!(done.lock().unwrap().insert(id), "{id} came twice");
                    }
                }
            });
        }
        scope.spawn(|| {
            while beat(6) {
                engine.checkpoint().unwrap();
                thread::sleep(Duration::from_millis(3));
            }
        });
        scope.spawn(|| {
            let mut n = 0u64;
            while beat(7) {
                n += 1;
                let name = format!("short {}", n % 3);
                let queue = engine.queue(&name).create().unwrap();
                queue.send_batch((0..20).map(|_| vec![1u8; 300])).unwrap();
                let held = queue.try_receive().unwrap();
                engine.queue(&name).delete().unwrap();
                assert_eq!(queue.send("x").unwrap_err().kind(), ErrorKind::NotFound);
                drop(held);
            }
        });
        scope.spawn(|| {
            while beat(8) {
                topic.publish_batch((0..10).map(|_| vec![2u8; 200])).unwrap();
                told.fetch_add(10, Ordering::Relaxed);
                while let Some(delivery) = subscription.try_receive().unwrap() {
                    assert_eq!(delivery.payload(), [2u8; 200]);
                    delivery.ack_ticket().unwrap().wait().unwrap();
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            let group = stream.group("g").create().unwrap();
            while beat(9) {
                let mut reader = group.reader().unwrap();
                for _ in 0..50 {
                    let Some(_) = reader.read(Duration::from_millis(20)).unwrap() else { break };
                }
                group.commit_reader(&reader).unwrap();
                let partition = stream.partition(0).unwrap();
                let at = group.committed(0).unwrap();
                partition.trim_before(at).unwrap();
            }
        });
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut before = vec![0; 10];
        while Instant::now() < end {
            thread::sleep(Duration::from_secs(5).min(Duration::from_secs(seconds)));
            for (n, beat) in beats.iter().enumerate() {
                let now = beat.load(Ordering::Relaxed);
                if now == before[n] {
                    eprintln!("thread {n} hangs");
                    std::process::abort();
                }
                before[n] = now;
            }
        }
        println!("{before:?}");
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(told.into_inner(), heard.into_inner());
    engine.close().unwrap();
    drop((a, b, topic, subscription, stream, engine));
    let engine = small_options().open(&path).unwrap();
    let mut left = HashSet::new();
    for name in ["a", "b"] {
        let queue = engine.queue(name).open().unwrap();
        for text in drain(&queue) {
            let text = String::from_utf8(text).unwrap();
            assert!(left.insert(text.split_once(' ').unwrap().0.parse::<u64>().unwrap()));
        }
    }
    let (sent, done) = (sent.into_inner().unwrap(), done.into_inner().unwrap());
    assert!(left.is_disjoint(&done), "acked and back");
    let there: HashSet<u64> = left.union(&done).copied().collect();
    assert_eq!(sent.difference(&there).count(), 0, "lost");
    assert_eq!(there.difference(&sent).count(), 0, "never sent");
}

/// Extremes.
#[test]
fn extremes() {
    use posthouse::{Message, Timestamp};
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    for time in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
        stream.append(Message::new("m").timestamp(Timestamp(time))).unwrap();
    }
    let group = stream.group("g").start(Start::Offset(Offset(u64::MAX))).create().unwrap();
    for checkpoint in [false, true] {
        if checkpoint {
            engine.checkpoint().unwrap();
        }
        let all: Vec<_> =
            stream.reader(Start::Earliest).unwrap().map(|it| it.unwrap().timestamp().0).collect();
        assert_eq!(all, [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX]);
        for time in [0, 2, u64::MAX] {
            let mut reader = stream.reader(Start::Time(Timestamp(time))).unwrap();
            assert!(reader.try_read().unwrap().unwrap().timestamp().0 >= time);
        }
        assert!(
            stream.reader(Start::Offset(Offset(u64::MAX))).unwrap().try_read().unwrap().is_none()
        );
        assert!(group.reader().unwrap().try_read().unwrap().is_none());
        assert_eq!(group.lag().unwrap(), 0);
    }
    engine.close().unwrap();
    drop((group, stream, engine));
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").open().unwrap();
    assert_eq!(stream.len().unwrap(), 5);
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    assert!(queue.receive(Duration::MAX).unwrap().is_some());
}
