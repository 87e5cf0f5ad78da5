//! Many messages, or large ones, in one commit: they are encoded before the engine is locked. Nobody can tell.

use std::{thread, time::Duration};

use posthouse::{
    Durability, Engine, ErrorKind, IoMode, Message, Offset, Options, Position, Queue, Start,
    Timestamp, sim::SimDisk,
};

use crate::support::{everywhere, kind, open};

fn text(n: usize) -> Message<'static> {
    // Some have keys, headers or times of their own, and some are large.
    let message = Message::new(format!("message {n} {}", "x".repeat(n % 7 * 100)));
    match n % 5 {
        0 => message.key(format!("key {n}")),
        1 => message.header("number", n.to_string()),
        2 => message.timestamp(Timestamp(1_000_000 + n as u64)),
        3 if n % 50 == 3 => Message::new(vec![n as u8; 70_000]),
        _ => message,
    }
}

fn assert_is(n: usize, payload: &[u8], key: Option<&[u8]>, number: Option<&[u8]>) {
    let sent = text(n);
    assert!(payload == sent.payload(), "message {n}");
    let named = n.to_string();
    assert_eq!(number, (n % 5 == 1).then_some(named.as_bytes()), "message {n}");
    let named = format!("key {n}");
    assert_eq!(key, n.is_multiple_of(5).then_some(named.as_bytes()), "message {n}");
}

/// Receives all messages of a queue, which are those with these numbers.
fn assert_holds(queue: &Queue, numbers: impl Iterator<Item = usize>) {
    for n in numbers {
        let delivery = queue.try_receive().unwrap().unwrap();
        assert_is(n, delivery.payload(), delivery.key(), delivery.headers().named("number"));
        delivery.ack().unwrap();
    }
    assert!(queue.try_receive().unwrap().is_none());
}

#[test]
fn a_batch_is_what_its_messages_are_one_by_one() {
    everywhere(|open| {
        let engine = open();
        let queue = engine.queue("q").create().unwrap();
        let stream = engine.stream("s").partitions(5).create().unwrap();
        queue.send("before").unwrap();
        let range = queue.send_batch((0..300).map(text)).unwrap();
        assert_eq!(range, Offset(1)..Offset(301));
        let places = stream.append_batch((0..300).map(text)).unwrap();
        let mut tx = engine.transaction();
        (300..500).for_each(|n| _ = tx.send(&queue, text(n)).append(&stream, text(n)));
        let mixed = tx.commit().unwrap();
        assert_eq!(mixed[0], Position { partition: 0, offset: Offset(301) });
        assert_eq!(mixed[398], Position { partition: 0, offset: Offset(500) });
        engine.sync().unwrap();

        let read_all = |engine: &Engine| {
            let stream = engine.stream("s").open().unwrap();
            let mut found = 0;
            for (n, place) in places.iter().chain(mixed.iter().skip(1).step_by(2)).enumerate() {
                let partition = stream.partition(place.partition).unwrap();
                let mut reader = partition.reader(Start::Offset(place.offset)).unwrap();
                let record = reader.try_read().unwrap().unwrap();
                assert_is(n, record.payload(), record.key(), record.headers().named("number"));
                if n % 5 == 2 {
                    assert_eq!(record.timestamp(), Timestamp(1_000_000 + n as u64));
                }
                found += 1;
            }
            assert_eq!((found, stream.len().unwrap()), (500, 500));
        };
        read_all(&engine);
        engine.close().unwrap();
        let engine = open();
        read_all(&engine);
        engine.checkpoint().unwrap();
        read_all(&engine);
        let report = engine.verify().unwrap();
        assert!(report.is_ok(), "{report}");
        let queue = engine.queue("q").open().unwrap();
        queue.try_receive().unwrap().unwrap().ack().unwrap();
        assert_holds(&queue, 0..500);
    });
}

#[test]
fn a_batch_that_is_refused_changes_nothing() {
    everywhere(|open| {
        let engine = open();
        let make = |n| engine.queue(&format!("q{n}")).create().unwrap();
        let queues: Vec<Queue> = (0..100).map(make).collect();
        queues[10].send("first").unwrap();
        engine.queue("q70").delete().unwrap();
        let send_all = |queues: &[Queue], message: &[u8]| {
            let mut tx = engine.transaction();
            queues.iter().for_each(|queue| _ = tx.send(queue, message));
            tx.commit()
        };
        assert_eq!(kind(send_all(&queues, b"all")), ErrorKind::NotFound);
        // Together they are larger than a commit may be.
        assert_eq!(kind(send_all(&queues[..70], &vec![7; 1 << 20])), ErrorKind::TooLarge);
        let mut messages: Vec<Message<'_>> = (0..100).map(|_| Message::new("small")).collect();
        messages.push(Message::new(vec![7; 17 << 20]));
        assert_eq!(kind(queues[10].send_batch(messages)), ErrorKind::TooLarge);
        let nameless = (0..100).map(|_| Message::new("x").header("", "x"));
        let invalid = ErrorKind::InvalidInput { field: "header" };
        assert_eq!(kind(queues[10].send_batch(nameless)), invalid);
        for (n, queue) in queues.iter().enumerate().filter(|(n, _)| *n != 70) {
            assert_eq!(queue.depth().unwrap(), u64::from(n == 10), "queue {n}");
        }
        engine.checkpoint().unwrap();
        // The offsets go on without a gap.
        let positions = send_all(&queues[..70], b"work").unwrap();
        for (n, position) in positions.iter().enumerate() {
            assert_eq!(position.offset, Offset(u64::from(n == 10)), "queue {n}");
        }
        engine.close().unwrap();
        let engine = open();
        for n in 0..70 {
            let queue = engine.queue(&format!("q{n}")).open().unwrap();
            if n == 10 {
                queue.try_receive().unwrap().unwrap().ack().unwrap();
            }
            let delivery = queue.try_receive().unwrap().unwrap();
            assert_eq!(delivery.payload(), b"work", "queue {n}");
        }
        let report = engine.verify().unwrap();
        assert!(report.is_ok(), "{report}");
    });
}

/// Each queue's rules hold, also in a transaction to very many queues.
#[test]
fn rules_of_queues_hold_for_batches() {
    everywhere(|open| {
        let engine = open();
        let plain = engine.queue("plain").create().unwrap();
        let full = engine.queue("full").max_messages(150).create().unwrap();
        let late = engine.queue("late").delay(Duration::from_secs(3600)).create().unwrap();
        let ordered = engine.queue("ordered").ordered_by_key(true).create().unwrap();
        full.send_batch((0..100).map(text)).unwrap();
        assert_eq!(kind(full.send_batch((0..100).map(text))), ErrorKind::QueueFull);
        late.send_batch((0..100).map(|n| n.to_string())).unwrap();
        assert_eq!((late.delayed().unwrap(), late.depth().unwrap()), (100, 100));
        let prior = (0..100).map(|n| Message::new("x").key(n.to_string()).priority(1));
        assert!(ordered.send_batch(prior).is_err(), "it delivers in order");
        ordered.send_batch((0..100).map(|n| Message::new("x").key((n % 2).to_string()))).unwrap();
        let held = [ordered.try_receive().unwrap(), ordered.try_receive().unwrap()];
        assert!(held.iter().all(Option::is_some) && ordered.try_receive().unwrap().is_none());
        let mut tx = engine.transaction();
        (0..100).for_each(|n| _ = tx.send(&plain, text(n)).send(&full, text(n)));
        assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
        assert_eq!(plain.depth().unwrap(), 0);
        let soon = (0..100).map(|_| Message::new("x").deliver_after(Duration::from_secs(60)));
        plain.send_batch(soon).unwrap();
        assert_eq!(plain.delayed().unwrap(), 100);
    });
}

/// A waiting consumer is woken by a batch, whether messages are visible at once or with the next sync.
#[test]
fn a_batch_wakes_all_who_wait_for_its_messages() {
    for durability in [Durability::Buffered, Durability::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let engine = Options::new().durability(durability).open(dir.path().join("store")).unwrap();
        let stream = engine.stream("s").partitions(300).create().unwrap();
        let make = |n| engine.queue(&format!("q{n}")).create().unwrap();
        let queues: Vec<Queue> = (0..300).map(make).collect();
        let minute = Duration::from_secs(60);
        for _ in 0..10 {
            thread::scope(|scope| {
                let readers: Vec<_> = (0..3)
                    .map(|_| {
                        let mut reader = stream.reader(Start::Latest).unwrap();
                        scope.spawn(move || {
                            (0..900).for_each(|_| _ = reader.read(minute).unwrap().unwrap());
                        })
                    })
                    .collect();
                let receivers: Vec<_> = queues
                    .iter()
                    .step_by(30)
                    .map(|queue| {
                        scope.spawn(move || queue.receive(minute).unwrap().unwrap().ack().unwrap())
                    })
                    .collect();
                let ticket = stream.append_batch_ticket((0..900).map(|n| n.to_string())).unwrap();
                let mut tx = engine.transaction();
                queues.iter().for_each(|queue| _ = tx.send(queue, "work"));
                tx.commit().unwrap();
                ticket.wait().unwrap();
                readers.into_iter().for_each(|it| it.join().unwrap());
                receivers.into_iter().for_each(|it| it.join().unwrap());
            });
        }
    }
}

/// The clock is set after a batch was sent: times to live and timestamps follow.
#[test]
fn a_batch_after_the_clock_was_set_is_committed_all_the_same() {
    let disk = SimDisk::new(7);
    disk.set_now(Timestamp(1_700_000_000_000));
    let engine = open(&disk).unwrap();
    let topic = engine.topic("t").create().unwrap();
    let hour = Duration::from_secs(3600);
    let subscription = topic.subscription("s").time_to_live(hour).create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    topic.publish_batch((0..100).map(|n| n.to_string())).unwrap();
    disk.set_now(Timestamp(1_800_000_000_000));
    topic.publish_batch((100..200).map(|n| n.to_string())).unwrap();
    stream.append_batch((0..100).map(|n| n.to_string())).unwrap();
    topic.publish_batch((200..300).map(|n| n.to_string())).unwrap();
    let first = stream.reader(Start::Earliest).unwrap().next().unwrap().unwrap();
    assert_eq!(first.timestamp(), Timestamp(1_800_000_000_000));
    assert_eq!(subscription.depth().unwrap(), 300);
    disk.advance(Duration::from_secs(3599));
    assert!(subscription.try_receive().unwrap().is_some());
    disk.advance(Duration::from_secs(2));
    assert!(subscription.try_receive().unwrap().is_none());
}

/// After a crash at any moment, a batch is there as a whole or not at all.
#[test]
fn a_crash_leaves_all_of_a_batch_or_nothing() {
    let mut seen = [0; 2];
    for io in [IoMode::Map, IoMode::Calls] {
        let options = Options::new().durability(Durability::Buffered).io(io);
        let disk = SimDisk::new(5);
        let engine = options.clone().sim(&disk).open("store").unwrap();
        let make = |n| engine.queue(&format!("q{n}")).create().unwrap();
        let queues: Vec<Queue> = (0..70).map(make).collect();
        engine.sync().unwrap();
        disk.record(1);
        let mut tx = engine.transaction();
        queues.iter().for_each(|queue| _ = tx.send(queue, vec![7; 1000]));
        tx.commit().unwrap();
        engine.checkpoint().unwrap();
        for moment in disk.take_moments() {
            for seed in 0..4 {
                let disk = moment.fork(seed);
                disk.power_cut();
                let engine = options.clone().sim(&disk).open("store").unwrap();
                let depth = |n| engine.queue(&format!("q{n}")).open().unwrap().depth().unwrap();
                let depth: u64 = (0..70).map(depth).sum();
                assert!(depth == 0 || depth == 70, "{depth} messages of 70");
                seen[usize::from(depth > 0)] += 1;
                let report = engine.verify().unwrap();
                assert!(report.is_ok(), "{report}");
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}
