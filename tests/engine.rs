//! What users are told in the documentation of the public face, tried on both disks.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use posthouse::{
    Durability, Engine, ErrorKind, IoMode, Message, Offset, Options, Start, Timestamp, sim::SimDisk,
};

/// Runs a body on both disks, through maps and through calls, with both durabilities.
fn everywhere(body: impl Fn(&dyn Fn() -> Engine)) {
    for io in [IoMode::Map, IoMode::Calls] {
        for durability in [Durability::Sync, Durability::Buffered] {
            let options = Options::new().io(io).durability(durability);
            let disk = SimDisk::new(1);
            body(&|| options.clone().sim(&disk).open("store").unwrap());
            let dir = tempfile::tempdir().unwrap();
            body(&|| options.open(dir.path().join("store")).unwrap());
        }
    }
}

fn real() -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Engine::open(dir.path().join("store")).unwrap(), dir)
}

fn kind<T>(result: posthouse::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.kind(),
    }
}

#[test]
fn names_are_created_opened_listed_and_deleted() {
    everywhere(|open| {
        let longest = "é".repeat(127) + "x";
        let engine = open();
        for name in ["b", "a", "../../etc/passwd", "queue\0with\nodd/characters", "日本", &longest]
        {
            assert_eq!(kind(engine.queue(name).open()), ErrorKind::NotFound);
            assert_eq!(kind(engine.queue(name).delete()), ErrorKind::NotFound);
            engine.queue(name).create().unwrap();
            engine.queue(name).create().unwrap();
            assert_eq!(kind(engine.queue(name).create_new()), ErrorKind::AlreadyExists);
            // Queues, topics and streams have names of their own.
            engine.topic(name).create_new().unwrap().subscription(name).create_new().unwrap();
            engine.stream(name).create_new().unwrap().group(name).create_new().unwrap();
        }
        for name in ["", &"x".repeat(256)] {
            let invalid = ErrorKind::InvalidInput { field: "name" };
            assert_eq!(kind(engine.queue(name).create()), invalid);
            assert_eq!(kind(engine.topic(name).create()), invalid);
            assert_eq!(kind(engine.stream(name).create()), invalid);
            assert_eq!(kind(engine.queue(name).open()), invalid);
            assert_eq!(kind(engine.queue(name).delete()), invalid);
        }
        engine.queue("a").delete().unwrap();
        drop(engine);

        let engine = open();
        let queues = engine.queues().unwrap();
        assert_eq!(queues.len(), 5);
        assert!(queues.is_sorted() && !queues.contains(&"a".to_owned()));
        assert_eq!(engine.topics().unwrap().len(), 6);
        assert_eq!(engine.streams().unwrap().len(), 6);
        let topic = engine.topic("日本").open().unwrap();
        assert_eq!(topic.subscriptions().unwrap(), ["日本"]);
        assert_eq!(engine.stream("日本").open().unwrap().groups().unwrap(), ["日本"]);
        topic.subscription("日本").delete().unwrap();
        engine.topic("日本").delete().unwrap();
        assert_eq!(kind(topic.publish("for nobody")), ErrorKind::NotFound);
    });
}

#[test]
fn settings_are_checked_and_compared() {
    let (engine, _dir) = real();
    let queue = |seconds| engine.queue("q").lease(Duration::from_secs(seconds));
    queue(5).create().unwrap();
    queue(5).create().unwrap();
    assert_eq!(kind(queue(6).create()), ErrorKind::AlreadyExists);
    engine.queue("q").create().unwrap();
    for lease in [0, 24 * 60 * 60 + 1, u64::MAX / 4] {
        assert_eq!(kind(queue(lease).create()), ErrorKind::InvalidInput { field: "lease" });
    }
    for partitions in [0, 4097, u32::MAX] {
        let made = engine.stream("s").partitions(partitions).create();
        assert_eq!(kind(made), ErrorKind::InvalidInput { field: "partitions" });
    }
    engine.stream("s").partitions(3).create().unwrap();
    assert_eq!(kind(engine.stream("s").partitions(4).create()), ErrorKind::AlreadyExists);
    assert_eq!(engine.stream("s").create().unwrap().partitions(), 3);
    for options in [
        Options::new().message_bytes_max(0),
        Options::new().journal_file_bytes_min(1),
        Options::new().journal_bytes(1),
        Options::new().block_bytes(0),
        Options::new().maps_max(0),
        Options::new().sync_interval(Duration::ZERO),
        Options::new().commit_bytes_max(u64::MAX),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let opened = options.open(dir.path().join("store"));
        assert!(matches!(kind(opened), ErrorKind::InvalidInput { .. }), "{options:?}");
        assert!(!dir.path().join("store").exists(), "nothing is made for wrong settings");
    }
}

#[test]
fn a_message_comes_as_it_was_sent() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").create().unwrap();
        let message = Message::new(&[0, 255, 10])
            .key("key")
            .header("a", "1")
            .header("b", vec![])
            .header("a", "2")
            .timestamp(Timestamp(5));
        for round in 0..3 {
            queue.send(&message).unwrap();
            queue.send("").unwrap();
            let got = queue.try_receive().unwrap().unwrap();
            assert_eq!(got.payload(), [0, 255, 10]);
            assert_eq!(got.key(), Some(&b"key"[..]));
            let headers: Vec<_> = got.headers().collect();
            assert_eq!(headers, [("a", &b"1"[..]), ("b", b""), ("a", b"2")]);
            assert_eq!(got.header("a"), Some(&b"1"[..]));
            assert_eq!(got.header("c"), None);
            assert_eq!(got.timestamp(), Timestamp(5));
            assert_eq!(got.offset(), Offset(2 * round));
            got.ack().unwrap();
            let empty = queue.try_receive().unwrap().unwrap();
            assert_eq!((empty.payload(), empty.key()), (&b""[..], None));
            assert!(empty.headers().next().is_none());
            empty.ack().unwrap();
            assert_eq!(queue.oldest_age().unwrap(), None);
            engine.checkpoint().unwrap();
        }
    });
}

#[test]
fn messages_of_any_size_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().message_bytes_max(3 << 20).commit_bytes_max(8 << 20);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let payload = |bytes: usize| -> Vec<u8> { (0..bytes).map(|n| (n % 251) as u8).collect() };
    let sizes = [0, 1, 127, 128, 4096, 65_536, 262_144, 1 << 20, 3 << 20];
    for bytes in sizes {
        queue.send(payload(bytes)).unwrap();
    }
    let too_large = payload((3 << 20) + 1);
    assert_eq!(kind(queue.send(&too_large)), ErrorKind::TooLarge);
    let with_key = Message::new(&too_large[1..]).key("k");
    assert_eq!(kind(queue.send(with_key)), ErrorKind::TooLarge);
    let three = std::iter::repeat_n(&too_large[1..], 3);
    assert_eq!(kind(queue.send_batch(three)), ErrorKind::TooLarge);
    assert_eq!(queue.depth().unwrap(), sizes.len() as u64, "nothing of it was sent");
    engine.checkpoint().unwrap();
    for bytes in sizes {
        let got = queue.try_receive().unwrap().unwrap();
        assert_eq!(got.payload(), payload(bytes));
        got.ack().unwrap();
    }
}

#[test]
fn a_delivery_is_leased_settled_once_and_counted() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").create().unwrap();
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
    assert_eq!(kind(first.ack()), ErrorKind::LeaseLost, "lost even if nobody else has it yet");
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
    // By a message, by one that is given back, and by a lease that runs out.
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

    // By the end.
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

#[test]
fn every_subscription_hears_of_all_that_came_after_it() {
    everywhere(|open| {
        let engine = open();
        let topic = engine.topic("t").create().unwrap();
        topic.publish("for nobody").unwrap();
        let early = topic.subscription("early").create().unwrap();
        topic.publish_batch(["1", "2"]).unwrap();
        let late = topic.subscription("late").create().unwrap();
        topic.publish_ticket("3").unwrap().wait().unwrap();
        let all = |subscription: &posthouse::Subscription| -> Vec<String> {
            let text = |d: &posthouse::Delivery| String::from_utf8(d.payload().to_vec()).unwrap();
            let got = subscription.receive_batch(10, Duration::ZERO).unwrap();
            got.iter().for_each(|delivery| delivery.ack().unwrap());
            got.iter().map(text).collect()
        };
        assert_eq!(all(&early), ["1", "2", "3"]);
        assert_eq!(early.depth().unwrap(), 0);
        assert_eq!(late.depth().unwrap(), 1);
        engine.checkpoint().unwrap();
        drop((topic, early, late, engine));
        let topic = open().topic("t").open().unwrap();
        assert!(all(&topic.subscription("early").open().unwrap()).is_empty());
        assert_eq!(all(&topic.subscription("late").open().unwrap()), ["3"]);
    });
}

#[test]
fn a_stream_is_read_from_any_point() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        for n in 0..50u64 {
            let message = Message::new(n.to_string()).timestamp(Timestamp(1000 + n / 2));
            assert_eq!(stream.append(message).unwrap().offset, Offset(n));
            if n == 20 || n == 33 {
                engine.checkpoint().unwrap();
            }
        }
        engine.sync().unwrap();
        let read = |start| -> Vec<u64> {
            let records = stream.reader(start).unwrap();
            records.map(|record| record.unwrap().offset().0).collect()
        };
        assert_eq!(read(Start::Earliest), (0..50).collect::<Vec<_>>());
        assert_eq!(read(Start::Latest), []);
        for offset in [0, 1, 20, 21, 34, 49, 50] {
            assert_eq!(read(Start::Offset(Offset(offset))), (offset..50).collect::<Vec<_>>());
        }
        for (time, first) in [(0, 0), (1000, 0), (1001, 2), (1010, 20), (1024, 48), (1025, 50)] {
            assert_eq!(read(Start::Time(Timestamp(time))), (first..50).collect::<Vec<_>>());
        }
        let partition = stream.partition(0).unwrap();
        partition.trim_before(Offset(10)).unwrap();
        assert_eq!(partition.start().unwrap(), Offset(10));
        assert_eq!(read(Start::Earliest), (10..50).collect::<Vec<_>>());
        let early = stream.reader(Start::Offset(Offset(9)));
        assert_eq!(kind(early), ErrorKind::InvalidInput { field: "start" });
        let beyond = partition.trim_before(Offset(51));
        assert_eq!(kind(beyond), ErrorKind::InvalidInput { field: "offset" });
        assert_eq!(kind(stream.partition(1)), ErrorKind::InvalidInput { field: "partition" });
        assert_eq!(stream.len().unwrap(), 40);
    });
}

#[test]
fn a_reader_goes_on_as_records_come() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(3).create().unwrap();
    let mut reader = stream.reader(Start::Latest).unwrap();
    assert!(reader.try_read().unwrap().is_none());
    let writer = {
        let stream = stream.clone();
        thread::spawn(move || {
            for n in 0..300 {
                let key = format!("key {}", n % 7);
                stream.append(Message::new(n.to_string()).key(key)).unwrap();
            }
        })
    };
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let record = reader.read(Duration::from_secs(60)).unwrap().unwrap();
        let n: u64 = std::str::from_utf8(record.payload()).unwrap().parse().unwrap();
        let before = last.insert(record.key().unwrap().to_vec(), n);
        assert!(before < Some(n), "records of one key come in order");
    }
    assert!(reader.read(Duration::from_millis(1)).unwrap().is_none());
    writer.join().unwrap();
    assert_eq!(stream.len().unwrap(), 300);
}

#[test]
fn a_group_keeps_its_offsets() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").partitions(2).create().unwrap();
        let messages = (0..20).map(|n| Message::new(n.to_string()).key(n.to_string()));
        stream.append_batch(messages).unwrap();
        engine.sync().unwrap();
        let group = stream.group("g").create().unwrap();
        let latest = stream.group("latest").start(Start::Latest).create().unwrap();
        assert_eq!((group.lag().unwrap(), latest.lag().unwrap()), (20, 0));
        let mut reader = group.reader().unwrap();
        for _ in 0..12 {
            reader.try_read().unwrap().unwrap();
        }
        group.commit_reader(&reader).unwrap();
        assert_eq!(group.lag().unwrap(), 8);
        assert_eq!(group.lags().unwrap().into_iter().sum::<u64>(), 8);
        let other = engine.stream("other").create().unwrap().reader(Start::Earliest).unwrap();
        let invalid = ErrorKind::InvalidInput { field: "reader" };
        assert_eq!(kind(group.commit_reader(&other)), invalid);
        let mut tx = engine.transaction();
        tx.commit_reader(&group, &other);
        assert_eq!(kind(tx.commit()), invalid);
        drop((stream, group, latest, reader, other, engine));

        let engine = open();
        let stream = engine.stream("s").open().unwrap();
        let group = stream.group("g").open().unwrap();
        assert_eq!(group.lag().unwrap(), 8);
        let mut reader = group.reader().unwrap();
        let mut tx = engine.transaction();
        while let Some(record) = reader.try_read().unwrap() {
            tx.append(&stream, Message::new(record.payload()).key("again"));
        }
        tx.commit_reader(&group, &reader);
        assert_eq!(tx.commit().unwrap().len(), 8);
        engine.sync().unwrap();
        assert_eq!(group.lag().unwrap(), 8, "the records of the transaction itself");
    });
}

#[test]
fn a_transaction_is_all_or_nothing() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").create().unwrap();
        let topic = engine.topic("t").create().unwrap();
        let subscription = topic.subscription("s").create().unwrap();
        let stream = engine.stream("s").partitions(2).create().unwrap();
        let group = stream.group("g").create().unwrap();
        queue.send_batch(["1", "2", "3"]).unwrap();
        let held: Vec<_> = (0..3).map(|_| queue.try_receive().unwrap().unwrap()).collect();

        let mut tx = engine.transaction();
        tx.ack(&held[0]).nack(&held[1]).send(&queue, "4").publish(&topic, "5");
        tx.append(&stream, Message::new("6").key("a")).append(&stream, "7");
        let positions = tx.commit().unwrap();
        assert_eq!(positions.len(), 4);
        assert_eq!(positions[0].offset, Offset(3));
        engine.sync().unwrap();
        assert_eq!(queue.depth().unwrap(), 3);
        assert_eq!(subscription.depth().unwrap(), 1);
        assert_eq!(stream.len().unwrap(), 2);

        // One thing that cannot be is enough.
        let fails = |spoil: &dyn Fn(&mut posthouse::Transaction)| {
            let mut tx = engine.transaction();
            tx.send(&queue, "x").publish(&topic, "x").append(&stream, "x").ack(&held[2]);
            spoil(&mut tx);
            let failure = kind(tx.commit());
            assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (3, 1));
            assert_eq!((subscription.depth().unwrap(), stream.len().unwrap()), (1, 2));
            failure
        };
        let invalid = |field| ErrorKind::InvalidInput { field };
        assert_eq!(
            fails(&|tx| {
                tx.ack(&held[0]);
            }),
            ErrorKind::LeaseLost
        );
        assert_eq!(
            fails(&|tx| {
                tx.nack(&held[2]);
            }),
            invalid("delivery")
        );
        assert_eq!(
            fails(&|tx| {
                tx.commit_offset(&group, 9, Offset(0));
            }),
            invalid("partition")
        );
        assert_eq!(
            fails(&|tx| {
                tx.commit_offset(&group, 0, Offset(9));
            }),
            invalid("offset")
        );
        assert_eq!(
            fails(&|tx| {
                tx.send(&queue, vec![0; 17 << 20]);
            }),
            ErrorKind::TooLarge
        );
        let (other, _dir) = real();
        let stranger = other.queue("q").create().unwrap();
        assert_eq!(
            fails(&|tx| {
                tx.send(&stranger, "x");
            }),
            invalid("handle")
        );
        assert_eq!(stranger.depth().unwrap(), 0);
        let gone = engine.queue("gone").create().unwrap();
        engine.queue("gone").delete().unwrap();
        assert_eq!(
            fails(&|tx| {
                tx.send(&gone, "x");
            }),
            ErrorKind::NotFound
        );

        let mut tx = engine.transaction();
        tx.ack(&held[2]);
        tx.commit_ticket().unwrap().wait().unwrap();
        assert!(engine.transaction().commit().unwrap().is_empty(), "nothing is done at once");
        drop((queue, topic, subscription, stream, group, held, gone, engine));
        let engine = open();
        let queue = engine.queue("q").open().unwrap();
        let mut left = Vec::new();
        while let Some(got) = queue.try_receive().unwrap() {
            left.push((got.offset().0, got.attempt()));
            got.ack().unwrap();
        }
        assert_eq!(left, [(1, 2), (3, 1)]);
    });
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Engine::open(&path).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let error = Engine::open(&path).expect_err("it is open");
    assert_eq!(error.kind(), ErrorKind::Locked { holder: Some(std::process::id()) });
    drop(engine);
    assert!(Engine::open(&path).is_err(), "a handle keeps it open");
    queue.send("a").unwrap();
    drop(queue);
    let engine = Engine::open(&path).unwrap();
    let queue = engine.queue("q").open().unwrap();
    engine.close().unwrap();
    engine.close().unwrap();
    assert_eq!(kind(queue.send("b")), ErrorKind::Closed);
    assert_eq!(kind(queue.try_receive()), ErrorKind::Closed);
    assert_eq!(kind(engine.checkpoint()), ErrorKind::Closed);
    let engine = Engine::open(&path).unwrap();
    assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 1);
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_a_store() {
    use std::os::unix::fs::PermissionsExt;
    fn check(dir: &Path, entries: &mut usize) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let is_dir = entry.file_type().unwrap().is_dir();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if is_dir { 0o700 } else { 0o600 }, "{:?}", entry.path());
            *entries += 1;
            if is_dir {
                check(&entry.path(), entries);
            }
        }
    }
    let (engine, dir) = real();
    engine.queue("q").create().unwrap().send("a").unwrap();
    engine.checkpoint().unwrap();
    let mut entries = 0;
    check(dir.path(), &mut entries);
    assert!(entries >= 8, "{entries}");
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicU64, std::sync::Mutex<Option<thread::Thread>>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        if let Some(thread) = &*self.1.lock().unwrap() {
            thread.unpark();
        }
    }
}

/// The smallest runtime there is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let woken = Arc::new(Woken::default());
    *woken.1.lock().unwrap() = Some(thread::current());
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park_timeout(Duration::from_secs(30));
    }
}

#[test]
fn everything_that_blocks_can_be_awaited() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").lease(Duration::from_millis(50)).create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    let offset = block_on(queue.send_ticket("a").unwrap()).unwrap();
    assert_eq!(offset, Offset(0));
    let got = block_on(queue.receive_async()).unwrap();
    assert_eq!(got.payload(), b"a");
    // Nobody settles it: it comes again.
    let got = block_on(queue.receive_async()).unwrap();
    assert_eq!((got.payload(), got.attempt()), (&b"a"[..], 2));
    block_on(got.ack_ticket().unwrap()).unwrap();

    let mut reader = stream.reader(Start::Earliest).unwrap();
    let later = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        stream.append("x").unwrap();
        queue.send("b").unwrap();
        queue
    });
    assert_eq!(block_on(reader.read_async()).unwrap().payload(), b"x");
    let queue = later.join().unwrap();

    // A future that is dropped loses nothing.
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let held = block_on(queue.receive_async()).unwrap();
    held.extend(Duration::from_secs(60)).unwrap();
    let mut waiting = Box::pin(queue.receive_async());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    queue.send("c").unwrap();
    drop(waiting);
    assert_eq!(queue.try_receive().unwrap().unwrap().payload(), b"c");
}

/// A child that another thread is just starting holds the lock's file, too, until it becomes
/// another program.
#[cfg(unix)]
#[test]
fn a_store_can_be_opened_again_at_once_while_children_are_started() {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        });
        let opened: Vec<_> = (0..40)
            .map(|_| Engine::open(dir.path().join("store")).and_then(|engine| engine.close()))
            .collect();
        stop.store(true, Ordering::Relaxed);
        let failed = opened.iter().filter(|it| it.is_err()).count();
        assert_eq!(failed, 0, "{:?}", opened.iter().find(|it| it.is_err()));
    });
}

#[test]
fn handles_know_their_names() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let topic = engine.topic("t").create().unwrap();
    let subscription = topic.subscription("u").create().unwrap();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let group = stream.group("g").create().unwrap();
    let names = [queue.name(), topic.name(), subscription.name(), stream.name(), group.name()];
    assert_eq!(names, ["q", "t", "u", "s", "g"]);
    assert_eq!(format!("{queue:?}"), "Queue { name: \"q\", .. }");
    assert_eq!(format!("{topic:?}"), "Topic { name: \"t\", .. }");
    assert_eq!(format!("{subscription:?}"), "Subscription { name: \"u\", .. }");
    assert_eq!(format!("{stream:?}"), "Stream { name: \"s\", partitions: 2, .. }");
    assert_eq!(format!("{group:?}"), "Group { name: \"g\", stream: \"s\", .. }");
    assert!(format!("{:?}", group.reader().unwrap()).starts_with("Reader { stream: \"s\""));
}

#[test]
fn what_was_delivered_can_be_sent_on() {
    let (engine, _dir) = real();
    let (from, to) = (engine.queue("a").create().unwrap(), engine.queue("b").create().unwrap());
    let stream = engine.stream("s").create().unwrap();
    from.send(Message::new("x").key("k").header("h", "1").timestamp(Timestamp(7))).unwrap();
    let delivery = from.try_receive().unwrap().unwrap();
    stream.append(&delivery).unwrap();
    delivery.ack().unwrap();
    for again in [delivery.ack(), delivery.nack(), delivery.extend(Duration::from_secs(1))] {
        let error = again.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
        assert_eq!(error.to_string(), "this delivery was already acked or nacked");
    }
    let mut reader = stream.reader(Start::Earliest).unwrap();
    to.send(&reader.try_read().unwrap().unwrap()).unwrap();
    to.send(&stream.reader(Start::Earliest).unwrap().next().unwrap().unwrap()).unwrap();
    for _ in 0..2 {
        let arrived = to.try_receive().unwrap().unwrap();
        assert_eq!((arrived.payload(), arrived.key()), (&b"x"[..], Some(&b"k"[..])));
        assert_eq!(arrived.header("h"), Some(&b"1"[..]));
        assert_ne!(arrived.timestamp(), Timestamp(7), "it bears the time of its own commit");
        arrived.ack().unwrap();
    }
}

#[test]
fn a_directory_of_others_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        assert_eq!(kind(Engine::open(path)), ErrorKind::InvalidInput { field: "path" });
    };
    let (file, theirs) = (dir.path().join("file"), dir.path().join("theirs"));
    fs::write(&file, "text").unwrap();
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("notes.txt"), "text").unwrap();
    fs::create_dir(theirs.join("segments")).unwrap();
    refused(&file);
    refused(&file.join("below"));
    refused(&theirs);
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 2, "nothing was added");

    // What making a store has left, or the root of a file system, is no obstacle.
    for (n, names) in [&["lost+found"][..], &["segments"], &["journal", "segments", "meta"]]
        .into_iter()
        .enumerate()
    {
        let begun = dir.path().join(n.to_string());
        for name in names {
            fs::create_dir_all(begun.join(name)).unwrap();
        }
        drop(Engine::open(&begun).unwrap());
        // A stray file in a store is nobody's business.
        fs::write(begun.join("notes.txt"), "text").unwrap();
        drop(Engine::open(&begun).unwrap());
    }
}

#[test]
fn making_a_store_can_be_cut_off_anywhere() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        disk.set_pessimal(true);
        disk.record(1);
        drop(Options::new().sim(&disk).open("store").unwrap());
        for moment in disk.take_moments() {
            moment.power_cut();
            drop(Options::new().sim(&moment).open("store").unwrap());
        }
    }
}

#[test]
fn a_reader_past_the_end_waits_for_its_offset() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        stream.append_batch(["0", "1", "2"]).unwrap();
        let mut reader = stream.reader(Start::Offset(Offset(5))).unwrap();
        assert!(reader.try_read().unwrap().is_none());
        engine.checkpoint().unwrap();
        assert!(reader.read(Duration::from_millis(1)).unwrap().is_none());
        stream.append_batch(["3", "4"]).unwrap();
        assert!(reader.try_read().unwrap().is_none());
        stream.append_batch(["5", "6"]).unwrap();
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"5");
        engine.checkpoint().unwrap();
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"6");
    });
}
