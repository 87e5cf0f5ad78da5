//! Queues and subscriptions without handles: what the engine keeps of them, and that all else is as if they had
//! handles.

use std::time::Duration;

use posthouse::{Durability, Engine, ErrorKind, Message, Options, sim::SimDisk};

/// An engine that keeps no state of a queue whose last handle is gone.
fn open(disk: &SimDisk) -> Engine {
    Options::new().durability(Durability::Buffered).idle_kept(0).sim(disk).open("store").unwrap()
}

#[test]
fn what_was_counted_is_there_when_a_queue_is_opened_again() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    engine.queue("q").create().unwrap().send("before").unwrap();
    let use_it = || {
        let queue = engine.queue("q").open().unwrap();
        queue.send("a").unwrap();
        disk.advance(Duration::from_millis(300));
        queue.try_receive().unwrap().unwrap().ack().unwrap();
        let failed = queue.try_receive().unwrap().unwrap();
        failed.nack_after(Duration::ZERO).unwrap();
        drop(failed);
        let again = queue.try_receive().unwrap().unwrap();
        let token = again.fencing_token();
        again.ack().unwrap();
        queue.send("b").unwrap();
        token
    };
    let tokens = [use_it(), use_it(), use_it()];
    assert!(tokens[0] < tokens[1] && tokens[1] < tokens[2], "{tokens:?}");
    let queue = engine.queue("q").open().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.sent, stats.delivered, stats.acked), (7, 9, 6), "{stats:?}");
    assert_eq!((stats.redelivered, stats.depth, stats.ready), (3, 1, 1), "{stats:?}");
    let latencies = queue.latencies().unwrap();
    assert_eq!((latencies.waiting.count(), latencies.handling.count()), (6, 6), "{latencies:?}");
    assert!(latencies.waiting.sum() >= Duration::from_millis(900), "{latencies:?}");
}

/// A transaction keeps the ids of queues, and no handles.
#[test]
fn a_transaction_sends_to_queues_whose_handles_are_gone() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    engine.queue("full").max_messages(1).create().unwrap();
    let mut tx = engine.transaction();
    tx.send(&engine.queue("q").create().unwrap(), "a");
    tx.send(&engine.queue("full").open().unwrap(), "b");
    tx.commit().unwrap();
    assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 1);
    let mut tx = engine.transaction();
    tx.send(&engine.queue("full").open().unwrap(), "c");
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::QueueFull);
    let mut tx = engine.transaction();
    tx.send(&engine.queue("q").open().unwrap(), "d");
    engine.queue("q").delete().unwrap();
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::NotFound);
}

/// The delivery goes back when it is dropped. Its handle was the last one.
#[test]
fn a_transaction_tells_that_the_lease_of_a_dropped_delivery_is_lost() {
    // Many messages are encoded before the commit.
    [1, 100].into_iter().for_each(a_transaction_finds_a_lost_lease);
}

fn a_transaction_finds_a_lost_lease(messages: usize) {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let other = engine.queue("other").create().unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    let delivery = queue.try_receive().unwrap().unwrap();
    let mut tx = engine.transaction();
    (0..messages).for_each(|_| _ = tx.send(&other, "b"));
    tx.ack(&delivery);
    delivery.release().unwrap();
    drop((queue, delivery));
    let taken = engine.queue("q").open().unwrap().try_receive().unwrap().unwrap();
    taken.ack().unwrap();
    drop(taken);
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(other.depth().unwrap(), 0);
}

#[test]
fn what_expires_while_a_queue_has_no_handles_is_counted() {
    for letters in [false, true] {
        let disk = SimDisk::new(1);
        let engine = open(&disk);
        let builder = engine.queue("q").time_to_live(Duration::from_secs(1));
        let builder = if letters { builder.max_attempts(3) } else { builder };
        let queue = builder.create().unwrap();
        queue.send_batch(["a", "b", "c"]).unwrap();
        queue.try_receive().unwrap().unwrap().ack().unwrap();
        drop(queue);
        disk.advance(Duration::from_secs(2));
        engine.checkpoint().unwrap();
        let stats = engine.queue("q").open().unwrap().stats().unwrap();
        let dead = if letters { 2 } else { 0 };
        assert_eq!((stats.depth, stats.acked, stats.expired, stats.dead), (0, 1, 2, dead));
    }
}

/// A delivery keeps its queue, and a message that waits or came back is where it was.
#[test]
fn leases_waits_and_priorities_outlive_the_handles() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    queue.send(Message::new("d").priority(3)).unwrap();
    let urgent = queue.try_receive().unwrap().unwrap();
    assert_eq!(urgent.payload(), b"d");
    let first = queue.try_receive().unwrap().unwrap();
    first.nack_after(Duration::from_secs(60)).unwrap();
    drop((queue, first));
    // Others come and go.
    for n in 0..10 {
        drop(engine.queue(&n.to_string()).create().unwrap());
    }
    urgent.ack().unwrap();
    drop(urgent);
    let queue = engine.queue("q").open().unwrap();
    assert_eq!((queue.delayed().unwrap(), queue.depth().unwrap()), (1, 3));
    let next = queue.try_receive().unwrap().unwrap();
    assert_eq!((next.payload(), next.attempt()), (&b"b"[..], 1));
    next.ack().unwrap();
    drop((queue, next));
    let queue = engine.queue("q").open().unwrap();
    disk.advance(Duration::from_secs(61));
    let mut left: Vec<_> = (0..2).map(|_| queue.try_receive().unwrap().unwrap()).collect();
    left.sort_by_key(posthouse::Delivery::attempt);
    let left: Vec<_> = left.iter().map(|it| (it.payload().to_vec(), it.attempt())).collect();
    assert_eq!(left, [(b"c".to_vec(), 1), (b"a".to_vec(), 2)]);
}

/// In a `Sync` engine a message is seen once it is durable. A consumer that is opened before that is woken then.
#[test]
fn a_consumer_that_was_opened_before_a_sync_is_woken_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().idle_kept(0).sync_interval(Duration::from_millis(300));
    let engine = options.open(dir.path().join("store")).unwrap();
    drop(engine.queue("q").create().unwrap());
    for _ in 0..3 {
        let sender = engine.queue("q").open().unwrap();
        let mut tx = engine.transaction();
        tx.durability(Durability::Buffered).send(&sender, "a");
        drop(sender);
        tx.commit().unwrap();
        let queue = engine.queue("q").open().unwrap();
        let begun = std::time::Instant::now();
        queue.receive(Duration::from_secs(30)).unwrap().unwrap().ack().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(15), "it was not woken");
    }
}
