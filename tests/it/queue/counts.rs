//! The counts that say how much is there, after messages were removed or moved; and what a consumer that drains a
//! queue relies on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    thread,
    time::Duration,
};

use posthouse::{
    Alarm, Backoff, Message, Offset, Options, Overflow, Queue, Threshold, Timestamp, sim::SimDisk,
};

use crate::model::small_options;
use crate::support::{HOUR, MINUTE, SECOND, Sim, one_in, take, texts};

fn engine_with(disk: &SimDisk, in_memory: u64) -> posthouse::Engine {
    small_options().delayed_in_memory(in_memory).sim(disk).open("store").unwrap()
}

fn drain(queue: &Queue) -> u64 {
    let mut drained = 0;
    while let Some(delivery) = take(queue) {
        delivery.ack().unwrap();
        drained += 1;
    }
    drained
}

#[test]
fn overdue_messages_come_although_the_first_of_them_is_removed() {
    for in_memory in [1, 10, 100] {
        for priority in [0, 5] {
            for removed in [1, 2, in_memory] {
                let disk = SimDisk::new(7);
                let engine = engine_with(&disk, in_memory);
                let queue = engine.queue("q").create().unwrap();
                let count = 5 * in_memory;
                let message = || Message::new("m").deliver_after(SECOND).priority(priority);
                queue.send_batch((0..count).map(|_| message())).unwrap();
                disk.advance(2 * SECOND);
                // It brings the first ones into memory, and they are due there.
                let _ = queue.stats().unwrap();
                for offset in 0..removed {
                    assert!(queue.remove(Offset(offset)).unwrap());
                }
                assert_eq!(queue.depth().unwrap(), count - removed);
                assert_eq!(drain(&queue), count - removed, "{in_memory}, {priority}, {removed}");
            }
        }
    }
}

/// Overdue messages with a priority come off the disk as slowly as others.
#[test]
fn overdue_messages_with_a_priority_stay_on_disk_until_there_is_room() {
    for priority in [0, 9] {
        let disk = SimDisk::new(7);
        let engine = engine_with(&disk, 64);
        let queue = engine.queue("q").create().unwrap();
        let message = || Message::new("m").deliver_after(SECOND).priority(priority);
        for _ in 0..20 {
            queue.send_batch((0..100).map(|_| message())).unwrap();
        }
        disk.advance(MINUTE);
        let held = take(&queue).unwrap();
        let stats = queue.stats().unwrap();
        assert_eq!(stats.depth, 2000);
        assert!(stats.delayed >= 2000 - 2 * 64 - 2, "{priority}: {stats:?}");
        held.ack().unwrap();
        assert_eq!(drain(&queue), 1999, "{priority}");
    }
}

#[test]
fn ready_counts_each_message_although_messages_on_lease_are_removed() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let (tell, told) = channel();
    queue.send_batch((0..100).map(|n| n.to_string())).unwrap();
    let _watch = queue.watch(Threshold::Ready(1), move |it| tell.send(it).unwrap()).unwrap();
    let held = queue.receive_batch(50, Duration::ZERO).unwrap();
    for delivery in &held {
        assert!(queue.remove(delivery.offset()).unwrap());
    }
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.ready, stats.delayed, stats.in_flight), (50, 50, 0, 0));
    assert_eq!(queue.in_flight().unwrap(), 0);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Alarm::Raised(100)]);
    // However a lease of a removed message ends, it leaves no count behind.
    held[0].ack().unwrap();
    held[1].nack().unwrap();
    held[2].nack_after(HOUR).unwrap();
    drop(held);
    sim.disk.advance(HOUR);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.ready, stats.delayed, stats.in_flight), (50, 50, 0, 0));
    let rest = queue.receive_batch(100, Duration::ZERO).unwrap();
    assert_eq!(rest.len(), 50);
    assert_eq!(queue.stats().unwrap().in_flight, 50);
}

/// Messages are removed from each place where they can be.
#[test]
fn depth_is_the_sum_of_its_parts_wherever_a_message_is_removed() {
    for ordered in [false, true] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").ordered_by_key(ordered).create().unwrap();
        let check = |queue: &Queue, what: &str| {
            let it = queue.stats().unwrap();
            assert_eq!(it.depth, it.ready + it.delayed + it.in_flight, "{what}: {it:?}");
        };
        let message = |n: u64| Message::new("m").key(["a", "b"][n as usize % 2]);
        for n in 0..40 {
            queue.send(message(n).priority(if ordered { 0 } else { (n % 3) as u8 })).unwrap();
        }
        let mut held = queue.receive_batch(9, Duration::ZERO).unwrap();
        for delivery in held.drain(..held.len() / 2) {
            delivery.nack_after(SECOND).unwrap();
        }
        check(&queue, "at first");
        for offset in 0..40 {
            queue.remove(Offset(offset)).unwrap();
            check(&queue, &format!("without {offset}"));
            if offset == 20 {
                sim.disk.advance(2 * SECOND);
                held.extend(queue.receive_batch(5, Duration::ZERO).unwrap());
            }
        }
        assert_eq!(queue.stats().unwrap().in_flight, 0);
        drop(held);
        check(&queue, "at last");
    }
}

/// A letter that came due, failed and waits again since it was browsed leaves no count behind when it is redriven.
#[test]
fn a_redrive_leaves_no_count_behind() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
    let dead = sim.engine.queue("q.dead").open().unwrap();
    queue.send("m").unwrap();
    take(&queue).unwrap().reject("no").unwrap();
    let only = |_: &posthouse::Browsed| {
        take(&dead).unwrap().nack_after(HOUR).unwrap();
        true
    };
    assert_eq!(dead.redrive().only(only).run().unwrap().moved, 1);
    assert_eq!(dead.stats().unwrap().delayed, 0);
}

/// While one thread brings overdue messages back from disk, another drains the queue until it gets none: it must
/// not get none before.
#[test]
fn draining_until_none_is_sound_while_another_thread_brings_messages_back() {
    for round in 0..20 / one_in(2) {
        let dir = tempfile::tempdir().unwrap();
        let options =
            Options::new().delayed_in_memory(64).durability(posthouse::Durability::Buffered);
        let engine = options.open(dir.path().join("store")).unwrap();
        let queue = engine.queue("q").create().unwrap();
        let messages = || Message::new("m").deliver_after(Duration::from_millis(30));
        queue.send_batch((0..2000).map(|_| messages())).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let looking = {
            let (queue, is_over) = (queue.clone(), Arc::clone(&is_over));
            thread::spawn(move || {
                // `stats` brings blocks back, too, and takes nothing.
                while !is_over.load(Ordering::Relaxed) {
                    queue.stats().unwrap();
                }
            })
        };
        let last = queue.browse().unwrap().last().unwrap().unwrap().due().unwrap();
        while Timestamp::now() <= Timestamp(last.0 + 20) {
            thread::yield_now();
        }
        let drained = drain(&queue);
        is_over.store(true, Ordering::Relaxed);
        looking.join().unwrap();
        assert_eq!(drained, 2000, "round {round}: {:?}", queue.stats().unwrap());
    }
}

/// The due times of spilled messages, also of those that were spilled after the browse has begun.
#[test]
fn a_browse_tells_when_messages_are_due_although_they_are_spilled_meanwhile() {
    let disk = SimDisk::new(7);
    let engine = engine_with(&disk, 16);
    let queue = engine.queue("q").create().unwrap();
    for n in 0..20 {
        queue.send(Message::new("m").deliver_after(HOUR + n * SECOND)).unwrap();
    }
    let mut browse = queue.browse().unwrap();
    for _ in 0..6 {
        assert!(browse.next().unwrap().unwrap().due().is_some());
    }
    for n in 0..20 {
        queue.send(Message::new("m").deliver_after(MINUTE + n * SECOND)).unwrap();
    }
    for it in browse {
        let it = it.unwrap();
        assert!(it.due().is_some(), "{it:?}");
    }
    // Just after an open, too.
    drop(queue);
    drop(engine);
    let engine = engine_with(&disk, 8);
    let queue = engine.queue("q").open().unwrap();
    let mut browse = queue.browse().unwrap();
    assert!(browse.next().unwrap().unwrap().due().is_some());
    queue.send("now").unwrap();
    take(&queue).unwrap().nack_after(SECOND).unwrap();
    assert_eq!(browse.filter(|it| it.as_ref().unwrap().due().is_none()).count(), 0);
}

#[test]
fn stats_count_what_left_a_queue_in_another_way_than_by_an_ack() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send_batch((0..3).map(|n| Message::new(n.to_string()).expire_after(SECOND))).unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    sim.disk.advance(2 * SECOND);
    let held = take(&queue).unwrap();
    assert_eq!(held.payload(), b"a");
    assert!(queue.remove(held.offset()).unwrap());
    held.nack().unwrap();
    assert_eq!(queue.purge().unwrap(), 2);
    let it = queue.stats().unwrap();
    assert_eq!((it.expired, it.removed, it.purged, it.dropped), (3, 1, 2, 0));
    // A handler has failed, although its message was removed meanwhile.
    assert_eq!((it.sent, it.depth, it.acked, it.dead, it.failed), (6, 0, 0, 0, 1));

    let latest = sim.engine.queue("latest").max_messages(2).overflow(Overflow::DropOldest);
    let latest = latest.create().unwrap();
    for n in 0..5 {
        latest.send(n.to_string()).unwrap();
    }
    assert_eq!(latest.stats().unwrap().dropped, 3);

    let mortal = sim.engine.queue("mortal").time_to_live(SECOND).max_attempts(2).create().unwrap();
    mortal.send("m").unwrap();
    sim.disk.advance(2 * SECOND);
    assert!(take(&mortal).is_none());
    let it = mortal.stats().unwrap();
    assert_eq!((it.expired, it.dead, it.failed, it.delivered), (1, 1, 0, 0));
}

/// What has come due can be delivered, so it is older than what was sent later.
#[test]
fn a_full_queue_drops_what_has_come_due_before_what_was_sent_later() {
    let sim = Sim::new();
    let queue =
        sim.engine.queue("q").max_messages(2).overflow(Overflow::DropOldest).create().unwrap();
    queue.send(Message::new("oldest").deliver_after(SECOND)).unwrap();
    queue.send("later").unwrap();
    sim.disk.advance(SECOND);
    queue.send("last").unwrap();
    assert_eq!(texts(&queue), ["later", "last"]);
    // The same in a transaction, and with a lease that has run out.
    let held = take(&queue).unwrap();
    assert_eq!(held.payload(), b"later");
    sim.disk.advance(HOUR);
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "in a transaction");
    tx.commit().unwrap();
    assert_eq!(texts(&queue), ["last", "in a transaction"]);
    drop(held);
    let held = take(&queue).unwrap();
    sim.disk.advance(HOUR);
    assert_eq!(queue.purge().unwrap(), 2, "its lease has run out");
    drop(held);
}

#[test]
fn a_look_at_a_queue_on_the_simulated_disk_does_what_the_threads_do_in_time() {
    type Look = fn(&Queue);
    let looks: [(&str, Look); 6] = [
        ("depth", |queue| assert_eq!(queue.depth().unwrap(), 1)),
        ("browse", |queue| assert_eq!(queue.browse().unwrap().count(), 1)),
        ("oldest_age", |queue| assert!(queue.oldest_age().unwrap().is_some())),
        ("in_flight", |queue| assert_eq!(queue.in_flight().unwrap(), 0)),
        ("delayed", |queue| assert_eq!(queue.delayed().unwrap(), 0)),
        ("stats", |queue| assert_eq!(queue.stats().unwrap().depth, 1)),
    ];
    for (what, look) in looks {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").max_attempts(1).lease(SECOND).create().unwrap();
        queue.send_batch(["first", "second"]).unwrap();
        let held = take(&queue).unwrap();
        assert_eq!(held.payload(), b"first");
        sim.disk.advance(2 * SECOND);
        look(&queue);
        let dead = sim.engine.queue("q.dead").open().unwrap();
        assert_eq!(
            dead.depth().unwrap(),
            1,
            "{what}: the lease has run out, and its message is dead"
        );
        drop(held);
    }
}

/// A message whose lease ran out was spilled before its failure was counted. Counting it then said that it waits in memory.
#[test]
fn a_message_that_fails_while_others_are_spilled_comes_again() {
    let disk = SimDisk::new(7);
    let engine = engine_with(&disk, 16);
    let lease = |name| engine.queue(name).lease(10 * SECOND).backoff(Backoff::Fixed(HOUR));
    let queue = lease("x").create().unwrap();
    queue.send("m").unwrap();
    take(&queue).unwrap().nack_after(Duration::ZERO).unwrap();
    let held = take(&queue).expect("at once");
    let later = |delay| (0..16).map(move |_| Message::new("later").deliver_after(delay));
    queue.send_batch(later(10 * MINUTE)).unwrap();
    // Its blocks come back when the lease ends, and that spills messages of the other queue.
    let other = engine.queue("y").create().unwrap();
    other.send_batch(later(20 * SECOND)).unwrap();
    other.send(Message::new("later").deliver_after(20 * SECOND)).unwrap();
    disk.advance(20 * SECOND);
    assert_eq!(queue.depth().unwrap(), 17);
    drop(held);
    disk.advance(2 * HOUR);
    assert_eq!(drain(&queue), 17);
    assert_eq!((queue.depth().unwrap(), queue.stats().unwrap().ready), (0, 0));
    assert_eq!(drain(&other), 17);
}
