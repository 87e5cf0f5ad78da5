//! What has expired leaves by itself: nobody has to receive for it.

use std::{
    thread,
    time::{Duration, Instant},
};

use posthouse::{
    Backoff, Engine, ErrorKind, Message, Options, Overflow, Queue, Timestamp, sim::SimDisk,
};

use super::keyed;
use crate::support::{DAY, HOUR, MINUTE, SECOND, Sim, block_on, kind, ms, take, texts};

/// The bytes of the store's segments.
fn segment_bytes(disk: &SimDisk) -> usize {
    let segments = disk.files().into_iter().filter(|path| path.starts_with("store/segments"));
    segments.map(|path| disk.content(&path).unwrap().len()).sum()
}

#[test]
fn a_subscriber_that_is_away_for_a_week_holds_no_more_space_than_its_time_to_live() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    topic.subscription("away").time_to_live(HOUR).create().unwrap();
    let sim = sim.kill();
    let topic = sim.engine.topic("t").open().unwrap();
    let (mut most, mut hour) = (0, 0);
    for minute in 0..7 * 24 * 60 / 5 {
        topic.publish(vec![minute as u8; 2000]).unwrap();
        sim.disk.advance(5 * MINUTE);
        if minute % 6 == 0 {
            sim.engine.checkpoint().unwrap();
            most = most.max(segment_bytes(&sim.disk));
        }
        if minute == 12 {
            hour = most;
        }
    }
    assert!(hour > 20_000, "{hour}");
    assert!(most < 3 * hour, "{most} bytes, and {hour} after an hour");
    let away = topic.subscription("away").open().unwrap();
    let depth = away.depth().unwrap();
    assert!((10..=18).contains(&depth), "{depth}");
    sim.disk.advance(HOUR);
    sim.engine.checkpoint().unwrap();
    assert_eq!((away.depth().unwrap(), segment_bytes(&sim.disk)), (0, 0));
}

#[test]
fn what_expires_by_its_own_time_to_live_leaves_a_queue_that_nobody_receives_from() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for n in 0..100 {
        let brief = Message::new(format!("brief {n}")).expire_after(MINUTE + n * SECOND);
        queue.send(brief).unwrap();
        if n % 10 == 0 {
            queue.send(format!("stays {n}")).unwrap();
        }
    }
    sim.disk.advance(MINUTE + 49 * SECOND);
    sim.engine.checkpoint().unwrap();
    assert_eq!((queue.depth().unwrap(), queue.stats().unwrap().expired), (60, 50));
    sim.disk.advance(HOUR);
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.stats().unwrap().expired, 100);
    assert_eq!(texts(&queue).len(), 10);
    assert!(texts(&queue).iter().all(|it| it.starts_with("stays")));
}

#[test]
fn lives_are_known_after_reopening_in_the_journal_and_in_segments() {
    for in_segments in [false, true] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").create().unwrap();
        queue.send(Message::new("a").expire_after(MINUTE)).unwrap();
        queue.send(Message::new("b").expire_after(2 * MINUTE)).unwrap();
        queue.send("c").unwrap();
        drop(queue);
        if in_segments {
            sim.engine.checkpoint().unwrap();
        }
        let sim = sim.kill();
        sim.disk.advance(MINUTE);
        sim.engine.checkpoint().unwrap();
        let sim = sim.kill();
        let queue = sim.engine.queue("q").open().unwrap();
        assert_eq!(texts(&queue), ["b", "c"]);
        sim.disk.advance(MINUTE);
        sim.engine.checkpoint().unwrap();
        assert_eq!(texts(&queue), ["c"]);
        assert!(sim.engine.verify().unwrap().is_ok());
    }
}

#[test]
fn what_expires_with_nobody_there_becomes_a_dead_letter_in_its_order() {
    let sim = Sim::new();
    sim.engine.topic("t").create().unwrap();
    let topic = sim.engine.topic("t").open().unwrap();
    let away = topic.subscription("away").time_to_live(MINUTE).max_attempts(3);
    away.dead_letter_queue("bin").create().unwrap();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).max_attempts(3).create().unwrap();
    let sim = {
        topic.publish(Message::new("event").key("k").header("h", "v")).unwrap();
        queue
            .send_batch((0..600).map(|n| Message::new(n.to_string()).priority((n % 2) as u8)))
            .unwrap();
        drop((topic, queue));
        sim.kill()
    };
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    let letters = sim.engine.queue("q.dead").open().unwrap();
    let all: Vec<_> = letters.browse().unwrap().map(Result::unwrap).collect();
    assert_eq!(all.len(), 600);
    for (n, letter) in all.iter().enumerate() {
        let note = letter.dead_letter().unwrap().unwrap();
        assert_eq!((&*note.origin, &*note.reason), ("q", "its time to live is over"));
        assert_eq!((note.offset.0, note.attempts), (n as u64, 0));
        assert_eq!(letter.priority(), (n % 2) as u8);
    }
    let bin = sim.engine.queue("bin").open().unwrap();
    let letter = take(&bin).unwrap();
    let note = letter.dead_letter().unwrap().unwrap();
    assert_eq!((&*note.origin, note.is_of_subscription), ("t/away", true));
    assert_eq!((letter.key(), letter.header("h")), (Some(&b"k"[..]), Some(&b"v"[..])));
    assert_eq!(sim.engine.queue("q").open().unwrap().depth().unwrap(), 0);
}

#[test]
fn a_full_queue_lets_go_of_what_has_expired_before_it_refuses() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(3).time_to_live(MINUTE).create().unwrap();
    queue.send_batch(["a", "b", "c"]).unwrap();
    assert_eq!(kind(queue.send("d")), ErrorKind::QueueFull);
    sim.disk.advance(MINUTE);
    queue.send("d").unwrap();
    assert_eq!((texts(&queue), queue.stats().unwrap().expired), (vec!["d".to_owned()], 3));
    queue.send_within("e", SECOND).unwrap();
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "f");
    tx.commit().unwrap();
    sim.disk.advance(MINUTE);
    let mut tx = sim.engine.transaction();
    tx.send(&queue, "g");
    tx.send(&queue, "h");
    tx.commit().unwrap();
    block_on(queue.send_async("i")).unwrap();
    sim.disk.advance(MINUTE);
    block_on(queue.send_within_async("j", SECOND)).unwrap();
    assert_eq!(texts(&queue), ["j"]);
}

#[test]
fn a_sender_at_a_full_queue_finds_the_room_of_all_that_has_expired() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(2000).time_to_live(MINUTE).create().unwrap();
    for _ in 0..20 {
        queue.send_batch((0..100).map(|n| n.to_string())).unwrap();
    }
    sim.disk.advance(MINUTE);
    queue.send("new").unwrap();
    assert_eq!(queue.depth().unwrap(), 1);
    queue.send_batch((0..1000).map(|n| n.to_string())).unwrap();
    assert_eq!(queue.stats().unwrap().depth, 1001);
    assert_eq!(queue.stats().unwrap().expired, 2000);
}

#[test]
fn a_full_queue_drops_what_has_expired_and_no_message_that_lives() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(3).overflow(Overflow::DropOldest);
    let queue = queue.create().unwrap();
    queue.send("oldest").unwrap();
    queue.send(Message::new("brief").expire_after(MINUTE)).unwrap();
    queue.send("youngest").unwrap();
    sim.disk.advance(MINUTE);
    queue.send("new").unwrap();
    assert_eq!(texts(&queue), ["oldest", "youngest", "new"]);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.expired, stats.dropped), (1, 0));
    queue.send("newer").unwrap();
    assert_eq!(texts(&queue), ["youngest", "new", "newer"]);
    assert_eq!(queue.stats().unwrap().dropped, 1);
}

#[test]
fn messages_on_lease_stay_until_their_leases_end() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).lease(HOUR).backoff(Backoff::None);
    let queue = queue.max_messages(2).create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    let (a, b) = (take(&queue).unwrap(), take(&queue).unwrap());
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.in_flight().unwrap(), 2);
    assert_eq!(kind(queue.send("c")), ErrorKind::QueueFull);
    a.ack().unwrap();
    b.nack().unwrap();
    sim.engine.checkpoint().unwrap();
    assert_eq!((queue.depth().unwrap(), queue.stats().unwrap().expired), (0, 1));
}

#[test]
fn delayed_spilled_returned_and_parked_messages_expire_where_they_are() {
    let disk = SimDisk::new(3);
    disk.set_now(Timestamp(1_700_000_000_000));
    let open = || Options::new().delayed_in_memory(8).sim(&disk).open("store").unwrap();
    let engine = open();
    let queue = engine.queue("q").backoff(Backoff::None).create().unwrap();
    let later = |n: u64| Message::new(n.to_string()).deliver_after(HOUR).expire_after(2 * HOUR);
    queue.send_batch((0..40).map(later)).unwrap();
    queue.send(Message::new("failed").expire_after(MINUTE)).unwrap();
    take(&queue).unwrap().nack().unwrap();
    let ordered = engine.queue("ordered").ordered_by_key(true).time_to_live(MINUTE);
    let ordered = ordered.backoff(Backoff::None).create().unwrap();
    ordered.send_batch((0..4).map(|n| keyed("k", n))).unwrap();
    take(&ordered).unwrap().nack().unwrap();
    assert!(ordered.try_receive().unwrap().is_some_and(|it| it.payload() == b"0"));
    disk.advance(MINUTE);
    engine.checkpoint().unwrap();
    assert_eq!((queue.depth().unwrap(), ordered.depth().unwrap()), (40, 0));
    ordered.send(keyed("k", 4)).unwrap();
    assert_eq!(take(&ordered).unwrap().payload(), b"4");
    for reopens in [false, true] {
        if reopens {
            drop((take(&queue), queue, ordered, engine));
            disk.advance(2 * HOUR);
            let engine = open();
            engine.checkpoint().unwrap();
            let queue = engine.queue("q").open().unwrap();
            assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (0, 0));
            engine.checkpoint().unwrap();
            assert!(engine.verify().unwrap().is_ok());
            return;
        }
    }
}

#[test]
fn a_time_to_live_that_was_shortened_counts_at_once_and_a_longer_one_too() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(DAY).create().unwrap();
    queue.send("a").unwrap();
    sim.disk.advance(HOUR);
    queue.send("b").unwrap();
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.depth().unwrap(), 2);
    let set = |time| drop(sim.engine.queue("q").time_to_live(time).create_or_update().unwrap());
    set(HOUR);
    sim.engine.checkpoint().unwrap();
    assert_eq!(texts(&queue), ["b"]);
    sim.disk.advance(HOUR - SECOND);
    set(DAY);
    sim.disk.advance(SECOND);
    sim.engine.checkpoint().unwrap();
    assert_eq!(texts(&queue), ["b"]);
    sim.disk.advance(DAY - HOUR);
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_look_at_a_queue_on_the_simulated_disk_does_the_work_of_the_threads() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    sim.disk.advance(MINUTE);
    assert_eq!(queue.depth().unwrap(), 0);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.expired, stats.delivered), (0, 2, 0));
}

#[test]
fn a_damaged_message_does_not_keep_the_others_from_expiring() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).create().unwrap();
    for n in 0..100 {
        queue.send(vec![n; 500]).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    let file = sim.disk.files().into_iter().find(|it| it.starts_with("store/segments")).unwrap();
    let mut bytes = sim.disk.content(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    sim.disk.plant(&file, Some(bytes));
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    let left = queue.depth().unwrap();
    assert!((1..30).contains(&left), "{left} are left: those of one block");
    let error = queue.try_receive().unwrap_err();
    assert_eq!((error.kind(), error.offset().is_some()), (ErrorKind::Corrupt, true));
}

/// Waits until the engine's threads have done their work.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < 60 * SECOND, "{what}");
        thread::sleep(ms(10));
    }
}

fn brief_queue(engine: &Engine) -> Queue {
    engine.queue("q").time_to_live(ms(300)).max_messages(2).create().unwrap()
}

#[test]
fn an_idle_engine_drops_what_expires_and_gives_back_its_space() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").time_to_live(SECOND).create().unwrap();
    queue.send_batch((0..100).map(|_| vec![7; 1000])).unwrap();
    engine.checkpoint().unwrap();
    let segments = dir.path().join("store/segments/00000000000000000");
    let count = || std::fs::read_dir(&segments).map_or(0, Iterator::count);
    assert_eq!(count(), 1);
    until("it expires", || queue.depth().unwrap() == 0);
    until("its space is given back", || count() == 0);
    assert_eq!(queue.stats().unwrap().expired, 100);
}

#[test]
fn a_sender_that_waits_for_room_is_woken_when_a_life_ends() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = brief_queue(&engine);
    queue.send_batch(["a", "b"]).unwrap();
    assert_eq!(kind(queue.send("c")), ErrorKind::QueueFull);
    queue.send_within("c", 60 * SECOND).unwrap();
    queue.send_within("d", 60 * SECOND).unwrap();
    block_on(queue.send_within_async("e", 60 * SECOND)).unwrap();
    thread::sleep(ms(310));
    block_on(queue.send_async("f")).unwrap();
    block_on(queue.send_batch_async(["g"])).unwrap();
    assert!(queue.stats().unwrap().expired >= 3);
}

#[test]
fn on_a_full_disk_what_expires_is_dropped_and_letters_wait_for_space() {
    let disk = SimDisk::new(5);
    disk.set_now(Timestamp(1_700_000_000_000));
    let engine = crate::support::open(&disk).unwrap();
    let plain = engine.queue("plain").time_to_live(MINUTE).create().unwrap();
    let letters = engine.queue("letters").time_to_live(MINUTE).max_attempts(3).create().unwrap();
    letters.send("a").unwrap();
    for n in 0..50u8 {
        plain.send(vec![n; 1000]).unwrap();
    }
    let filler = engine.queue("filler").create().unwrap();
    disk.set_capacity(Some(disk.bytes_used()));
    for size in [20_000, 2000, 200, 20, 1] {
        while filler.send(vec![7; size]).is_ok() {}
    }
    disk.advance(MINUTE);
    let _ = engine.checkpoint();
    assert_eq!(plain.depth().unwrap(), 0);
    assert_eq!(
        letters.depth().unwrap() + engine.queue("letters.dead").open().unwrap().depth().unwrap(),
        1
    );
    disk.set_capacity(None);
    disk.advance(SECOND);
    engine.checkpoint().unwrap();
    disk.advance(SECOND);
    engine.checkpoint().unwrap();
    assert_eq!(letters.depth().unwrap(), 0);
    let dead = engine.queue("letters.dead").open().unwrap();
    assert_eq!(texts(&dead), ["a"]);
}

#[test]
fn messages_that_expire_one_after_the_other_are_read_a_few_times_each() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for n in 0..3000u64 {
        let life = MINUTE + Duration::from_millis(100 * n);
        queue.send(Message::new(vec![1; 100]).expire_after(life)).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(MINUTE);
    let before = sim.disk.bytes_read();
    for second in 0..300u64 {
        sim.disk.advance(SECOND);
        sim.engine.checkpoint().unwrap();
        let left = 3000u64.saturating_sub(1 + 10 * (second + 1));
        assert_eq!(queue.depth().unwrap(), left, "second {second}");
    }
    let read = sim.disk.bytes_read() - before;
    assert!(read < 10_000_000, "{read} bytes were read of {}", 3000 * 100);
}

#[test]
fn messages_that_live_longer_than_later_ones_leave_when_their_time_comes() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_messages(20).create().unwrap();
    for n in 0..10 {
        queue.send(Message::new(format!("long {n}")).expire_after(HOUR)).unwrap();
    }
    // The two kinds are in different parts of the log: a segment, and the journal.
    sim.engine.checkpoint().unwrap();
    for n in 0..10 {
        queue.send(Message::new(format!("brief {n}")).expire_after(MINUTE)).unwrap();
    }
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.depth().unwrap(), 10);
    sim.disk.advance(HOUR);
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
    for n in 0..20 {
        queue.send(format!("new {n}")).unwrap();
    }
}

#[test]
fn letters_with_long_keys_move_in_commits_of_a_bounded_size() {
    let sim = Sim::new();
    let queue =
        sim.engine.queue("q").time_to_live(MINUTE).dead_letter_queue("dead").create().unwrap();
    let key = vec![7u8; 20_000];
    for _ in 0..250 {
        queue.send(Message::new("x").key(&key)).unwrap();
    }
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(2 * MINUTE);
    sim.engine.checkpoint().unwrap();
    assert_eq!(sim.engine.queue("dead").open().unwrap().depth().unwrap(), 250);
    let journal = sim.disk.files().into_iter().filter(|path| path.starts_with("store/journal"));
    let largest = journal.map(|path| sim.disk.content(&path).unwrap().len()).max();
    assert!(largest < Some(4 << 20), "{largest:?}");
}
