//! Limits of a queue, in messages and in bytes.

use std::{thread, time::Duration};

use posthouse::{Engine, ErrorKind, Message, Offset, Options, Overflow};

use crate::support::{SECOND, Sim, field, kind, take, texts};

#[test]
fn a_full_queue_refuses_what_does_not_fit() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(3).create().unwrap();
    queue.send(Message::new("later").deliver_after(60 * SECOND)).unwrap();
    assert_eq!(kind(queue.send_batch(["a", "b", "c"])), ErrorKind::QueueFull);
    queue.send_batch(["a", "b"]).unwrap();
    assert_eq!(kind(queue.send("c")), ErrorKind::QueueFull);
    assert_eq!(kind(queue.send_ticket("c")), ErrorKind::QueueFull);
    let delivery = take(&queue).unwrap();
    assert_eq!(kind(queue.send("c")), ErrorKind::QueueFull, "what is on lease counts");
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "c").send(&queue, "d").ack(&delivery);
    assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "c").ack(&delivery);
    tx.commit().unwrap();
    assert_eq!(texts(&queue), ["later", "b", "c"]);
    queue.send_batch(Vec::<&str>::new()).unwrap();
    queue.remove(Offset(0)).unwrap();
    queue.send("d").unwrap();

    let builder = || sim.engine.queue("r");
    assert_eq!(field(builder().max_messages(0).create()), "max_messages");
    let overflow = Overflow::DropOldest;
    assert_eq!(field(builder().overflow(overflow).create()), "overflow");
}

#[test]
fn a_full_queue_may_drop_its_oldest() {
    let mut sim = Sim::new();
    let drops = Overflow::DropOldest;
    let queue = sim
        .engine
        .queue("q")
        .backoff(posthouse::Backoff::None)
        .max_messages(4)
        .overflow(drops)
        .create()
        .unwrap();
    queue.send_batch(["0", "1", "2", "3"]).unwrap();
    let held = take(&queue).unwrap();
    take(&queue).unwrap().nack().unwrap();
    queue.send("4").unwrap();
    assert_eq!(texts(&queue), ["0", "2", "3", "4"], "the oldest is on lease, the next one goes");
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "5").send(&queue, "6");
    tx.commit().unwrap();
    assert_eq!(texts(&queue), ["0", "4", "5", "6"]);
    take(&queue).unwrap().nack_after(SECOND).unwrap();
    queue.send_batch(["7", "8", "9"]).unwrap();
    assert_eq!(texts(&queue), ["0", "7", "8", "9"], "those that wait go, too, when they must");
    assert_eq!(queue.delayed().unwrap(), 0);
    assert_eq!(kind(queue.send_batch(["a"; 5])), ErrorKind::TooLarge, "it will never fit");
    assert_eq!(kind(queue.send_batch(["a"; 4])), ErrorKind::QueueFull, "one is on lease");
    held.ack().unwrap();
    drop(queue);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    assert_eq!(texts(&queue), ["7", "8", "9"]);
    queue.send_batch(["a", "b"]).unwrap();
    assert_eq!(texts(&queue), ["8", "9", "a", "b"]);
}

#[test]
fn a_sender_waits_for_capacity_and_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    queue.send_within("a", Duration::ZERO).unwrap();
    assert_eq!(kind(queue.send_within("b", Duration::from_millis(20))), ErrorKind::QueueFull);
    let began = std::time::Instant::now();
    let senders: Vec<_> = (0..4)
        .map(|n| {
            let queue = queue.clone();
            thread::spawn(move || queue.send_within(n.to_string(), Duration::from_secs(60)))
        })
        .collect();
    for _ in 0..5 {
        queue.receive(Duration::from_secs(60)).unwrap().unwrap().ack().unwrap();
    }
    for sender in senders {
        sender.join().unwrap().unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(30), "no sender was woken");
    queue.send("full").unwrap();
    for end in ["purge", "delete"] {
        let other = queue.clone();
        let waiting = thread::spawn(move || other.send_within("x", Duration::from_secs(60)));
        thread::sleep(Duration::from_millis(20));
        match end {
            "purge" => drop(queue.purge().unwrap()),
            _ => engine.queue("q").delete().unwrap(),
        }
        let sent = waiting.join().unwrap();
        assert_eq!(sent.is_ok(), end == "purge");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "no sender was woken");
}

#[test]
fn a_queue_holds_so_many_bytes_and_counts_them_over_crashes() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_bytes(100).create().unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(0));
    queue.send(Message::new(&[1; 30]).key("0123456789").header("name", "value6")).unwrap();
    queue.send(&[2; 40]).unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(30 + 10 + 10 + 40));
    let full = queue.send(&[3; 11]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::QueueFull);
    assert!(full.to_string().contains("100 bytes"), "{full}");
    queue.send_batch([&[4; 5], &[5; 5]]).unwrap();
    assert_eq!(kind(queue.send("a")), ErrorKind::QueueFull);
    assert_eq!(kind(queue.send(&[0; 101])), ErrorKind::TooLarge, "that is never going to fit");
    // An empty message has no bytes.
    queue.send("").unwrap();
    let mut sim = sim.kill();
    for _ in 0..2 {
        let queue = sim.engine.queue("q").open().unwrap();
        assert_eq!(queue.bytes().unwrap(), Some(100));
        sim.engine.checkpoint().unwrap();
        sim = sim.kill();
    }
    let queue = sim.engine.queue("q").open().unwrap();
    let (first, second) = (take(&queue).unwrap(), take(&queue).unwrap());
    second.ack().unwrap();
    assert_eq!((queue.bytes().unwrap(), queue.depth().unwrap()), (Some(60), 4));
    queue.send(&[6; 40]).unwrap();
    assert_eq!(kind(queue.send("a")), ErrorKind::QueueFull);
    // The acks of a transaction free capacity for its sends.
    let mut tx = sim.engine.transaction();
    tx.ack(&first).send(&queue, &[7; 50]);
    tx.commit().unwrap();
    assert_eq!(queue.bytes().unwrap(), Some(100));
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "a");
    assert_eq!(kind(tx.commit()), ErrorKind::QueueFull);
    let offset = queue.browse().unwrap().next().unwrap().unwrap().offset();
    assert!(queue.remove(offset).unwrap());
    assert_eq!(queue.bytes().unwrap(), Some(95));
    assert_eq!(queue.purge().unwrap(), 4);
    assert_eq!(queue.bytes().unwrap(), Some(0));
    // A queue without such a limit does not count bytes.
    assert_eq!(sim.engine.queue("r").create().unwrap().bytes().unwrap(), None);
}

#[test]
fn the_oldest_are_dropped_for_bytes_but_not_those_on_lease() {
    let sim = Sim::new();
    let builder = sim.engine.queue("q").max_bytes(100).overflow(Overflow::DropOldest);
    let queue = builder.create().unwrap();
    for n in 1..=5 {
        queue.send(&[n; 20]).unwrap();
    }
    let held = take(&queue).unwrap();
    queue.send(&[6; 30]).unwrap();
    assert_eq!((queue.depth().unwrap(), queue.bytes().unwrap()), (4, Some(90)));
    let left: Vec<u8> = queue.browse().unwrap().map(|it| it.unwrap().payload()[0]).collect();
    assert_eq!(left, [1, 4, 5, 6], "what is on lease stays, although it is the oldest");
    assert_eq!(kind(queue.send(&[7; 81])), ErrorKind::QueueFull, "one on lease has 20");
    assert_eq!(queue.depth().unwrap(), 4, "nothing was dropped for nothing");
    queue.send(&[8; 80]).unwrap();
    held.ack().unwrap();
    assert_eq!((queue.depth().unwrap(), queue.bytes().unwrap()), (1, Some(80)));
}

#[test]
fn dead_letters_and_redrives_count_and_limits_in_bytes_are_checked_by_name() {
    let sim = Sim::new();
    sim.engine.queue("dead").max_bytes(10).create().unwrap();
    let queue = sim.engine.queue("q").max_bytes(50).dead_letter_queue("dead").create().unwrap();
    let dead = sim.engine.queue("dead").open().unwrap();
    for _ in 0..2 {
        queue.send(&[1; 25]).unwrap();
    }
    take(&queue).unwrap().reject("no").unwrap();
    assert_eq!((queue.bytes().unwrap(), dead.bytes().unwrap()), (Some(25), Some(25)));
    assert_eq!(kind(dead.send("a")), ErrorKind::QueueFull, "a letter fits in, and counts");
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!((queue.bytes().unwrap(), dead.bytes().unwrap()), (Some(50), Some(0)));
    let builder = || sim.engine.queue("x");
    assert_eq!(field(builder().max_bytes(0).create()), "max_bytes");
    assert_eq!(field(builder().overflow(Overflow::DropOldest).create()), "overflow");
    builder().max_bytes(5).create().unwrap();
    assert_eq!(kind(builder().max_bytes(6).create()), ErrorKind::AlreadyExists);
    assert_eq!(kind(builder().max_messages(6).create()), ErrorKind::AlreadyExists);
    builder().max_bytes(5).create().unwrap();
}

#[test]
fn a_sender_that_waits_for_bytes_is_woken_when_they_fit() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").max_bytes(10).create().unwrap();
    queue.send_batch([&[1; 4], &[2; 4]]).unwrap();
    thread::scope(|scope| {
        let big = scope.spawn(|| queue.send_within(&[3; 9], 60 * SECOND));
        let small = scope.spawn(|| queue.send_within(&[4; 1], 60 * SECOND));
        small.join().unwrap().unwrap();
        for _ in 0..2 {
            take(&queue).unwrap().ack().unwrap();
        }
        big.join().unwrap().unwrap();
    });
    assert_eq!(queue.bytes().unwrap(), Some(10));
}

#[test]
fn the_bytes_of_messages_that_have_expired_do_not_count() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_bytes(1000).create().unwrap();
    queue.send(Message::new("brief").expire_after(SECOND)).unwrap();
    queue.send("long").unwrap();
    sim.disk.advance(2 * SECOND);
    assert_eq!(queue.bytes().unwrap(), Some(4));
}

/// The messages wait since before the store was opened.
#[test]
fn messages_that_wait_are_dropped_and_purged_after_a_restart() {
    let disk = posthouse::sim::SimDisk::new(1);
    let open = || Options::new().sim(&disk).open("store").unwrap();
    let engine = open();
    let full = engine.queue("q").max_messages(4).overflow(Overflow::DropOldest);
    let queue = full.create().unwrap();
    let hour = Duration::from_secs(3600);
    for n in 0..4u64 {
        queue.send(Message::new(n.to_string()).deliver_after(hour)).unwrap();
    }
    engine.close().unwrap();
    let engine = open();
    let queue = engine.queue("q").open().unwrap();
    queue.send(Message::new("4").deliver_after(hour)).unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.delayed, stats.dropped, stats.depth), (4, 1, 4), "{stats:?}");
    assert!(!queue.remove(Offset(0)).unwrap(), "the oldest one was dropped");
    assert_eq!(queue.purge().unwrap(), 4);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.delayed, stats.ready, stats.depth), (0, 0, 0), "{stats:?}");
}

/// What the engine commits for many messages at once was larger than a small limit: attempts were burnt, and nothing expired.
#[test]
fn the_limit_of_a_commit_is_for_messages() {
    let disk = posthouse::sim::SimDisk::new(3);
    let options = || crate::model::small_options().message_bytes_max(200).commit_bytes_max(200);
    let engine = options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let brief = engine.queue("brief").create().unwrap();
    for n in 0..120 {
        queue.send(n.to_string()).unwrap();
        let mut message = Message::new("work");
        if n % 2 == 0 {
            message = message.expire_after(SECOND);
        }
        brief.send(message).unwrap();
    }
    // Attempts that are taken back together, and many ranges that expire or are purged together.
    let held: Vec<_> = (0..120).map(|_| take(&queue).unwrap()).collect();
    disk.advance(2 * SECOND);
    for _ in 0..4 {
        engine.checkpoint().unwrap();
    }
    assert_eq!(brief.depth().unwrap(), 60);
    engine.close().unwrap();
    drop((held, queue, brief, engine));
    let engine = options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let all = queue.receive_batch(200, Duration::ZERO).unwrap();
    assert!(all.iter().all(|it| it.attempt() == 1));
    assert_eq!(all.len(), 120);
    assert_eq!(engine.queue("brief").open().unwrap().purge().unwrap(), 60);
    engine.close().unwrap();
    drop((all, queue, engine));
    let engine =
        options().message_bytes_max(1).commit_bytes_max(1).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    take(&queue).unwrap().ack().unwrap();
    let all = queue.receive_batch(200, Duration::ZERO).unwrap();
    queue.ack_batch(&all).unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

/// The acks of the messages that a queue drops counted against the limit of a commit, so a message that fits was refused for
/// good.
#[test]
fn what_is_dropped_does_not_count_against_the_limit_of_a_commit() {
    let open = |batch_messages: usize| {
        let disk = posthouse::sim::SimDisk::new(3);
        let options = Options::new().batch_messages(batch_messages);
        let options = options.message_bytes_max(1000).commit_bytes_max(1200);
        let engine = options.sim(&disk).open("store").unwrap();
        let limited = engine.queue("q").max_messages(1000).max_bytes(1000);
        (limited.overflow(Overflow::DropOldest).create().unwrap(), engine)
    };
    let full = |batch_messages: usize| {
        let (queue, engine) = open(batch_messages);
        for _ in 0..500 {
            queue.send("a").unwrap();
            queue.send(Message::new("b").priority(1)).unwrap();
        }
        assert_eq!(queue.depth().unwrap(), 1000);
        (queue, engine)
    };
    for batch_messages in [1, usize::MAX] {
        let (queue, _engine) = full(batch_messages);
        queue.send(vec![0; 500]).unwrap();
        assert_eq!((queue.depth().unwrap(), queue.stats().unwrap().dropped), (501, 500));

        let (queue, _engine) = full(batch_messages);
        queue.send_batch([vec![0; 250], vec![0; 250]]).unwrap();
        assert_eq!(queue.depth().unwrap(), 502);
        assert_eq!(kind(queue.send(vec![0; 1001])), ErrorKind::TooLarge);

        let (queue, engine) = full(batch_messages);
        let held = queue.receive_batch(100, Duration::ZERO).unwrap();
        let mut tx = engine.transaction();
        tx.send(&queue, vec![0; 500]);
        held.iter().step_by(2).for_each(|it| _ = tx.ack(it));
        tx.commit().unwrap();
        assert_eq!(queue.bytes().unwrap(), Some(1000));
        assert_eq!(queue.stats().unwrap().dropped, 450);

        // Messages that are encoded as a batch: their queue has no limit in bytes.
        let (queue, engine) = full(batch_messages);
        let limited = engine.queue("q").max_messages(1000).overflow(Overflow::DropOldest);
        limited.create_or_update().unwrap();
        queue.send_batch(vec!["c"; 250]).unwrap();
        assert_eq!(queue.depth().unwrap(), 1000);

        let other = engine.queue("other").create().unwrap();
        let mut tx = engine.transaction();
        tx.send(&other, vec![0; 700]).send(&other, vec![0; 600]);
        assert_eq!(kind(tx.commit()), ErrorKind::TooLarge, "that are messages");
        assert_eq!(kind(other.send_batch([vec![0; 700], vec![0; 600]])), ErrorKind::TooLarge);
        // Beside a message that is moved.
        let letters = engine.queue("letters").max_attempts(1).create().unwrap();
        letters.send("work").unwrap();
        let delivery = letters.try_receive().unwrap().unwrap();
        let mut tx = engine.transaction();
        tx.nack(&delivery).send(&other, vec![0; 700]).send(&other, vec![0; 600]);
        assert_eq!(kind(tx.commit()), ErrorKind::TooLarge, "two of them are not moved");
    }
}
