//! What has expired leaves although something is in the way: a place that cannot be read, a full disk, other senders, leases.

use std::{
    sync::{Arc, Barrier, Mutex, mpsc::channel},
    thread,
};

use posthouse::{
    Backoff, Engine, ErrorKind, IoMode, Message, Options, Threshold, Timestamp, sim::SimDisk,
};

use crate::support::{EIO, HOUR, MINUTE, SECOND, Sim, kind, ms, take};

fn files_of(disk: &SimDisk, part: &str) -> Vec<std::path::PathBuf> {
    disk.files().into_iter().filter(|path| path.starts_with(part)).collect()
}

/// An engine that reads by calls, which can fail.
fn calling(options: Options) -> (SimDisk, Engine) {
    let disk = SimDisk::new(7);
    disk.set_now(Timestamp(1_700_000_000_000));
    let engine = options.io(IoMode::Calls).sim(&disk).open("store").unwrap();
    (disk, engine)
}

/// The header of a file, as a build of a later version would write it.
fn of_a_later_version(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content[8..12].copy_from_slice(&999u32.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&content[..12]);
    hasher.update(&content[16..64]);
    content[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    content
}

#[test]
fn segments_that_cannot_be_read_at_all_do_not_keep_what_is_behind_them() {
    for is_damaged in [true, false] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").time_to_live(MINUTE).max_messages(100).create().unwrap();
        queue.send_batch((0..50).map(|n| vec![n as u8; 500])).unwrap();
        sim.engine.checkpoint().unwrap();
        let segments = files_of(&sim.disk, "store/segments");
        queue.send_batch((0..50).map(|n| vec![n as u8; 500])).unwrap();
        drop(queue);
        let sim = sim.kill();
        let queue = sim.engine.queue("q").open().unwrap();
        let contents: Vec<_> = segments.iter().map(|it| sim.disk.content(it).unwrap()).collect();
        for (file, content) in segments.iter().zip(&contents) {
            let bad = if is_damaged { vec![0; 100] } else { of_a_later_version(content) };
            sim.disk.plant(file, Some(bad));
        }
        sim.disk.advance(MINUTE);
        queue.send("new").unwrap();
        let stats = queue.stats().unwrap();
        assert!(stats.expired >= 50 && stats.depth < 52, "{is_damaged}: {stats:?}");
        let unread = stats.depth - 1;
        assert!(unread > 10, "{stats:?}");
        assert_eq!(stats.damaged, if is_damaged { unread } else { 0 });
        // What could not be read is not read over and over.
        let calls = sim.disk.calls();
        for _ in 0..20 {
            sim.disk.advance(SECOND);
            assert_eq!(queue.stats().unwrap().depth, stats.depth);
        }
        assert!(sim.disk.calls() - calls < 100, "{} calls", sim.disk.calls() - calls);
        // It is looked at again later.
        for (file, content) in segments.iter().zip(contents) {
            sim.disk.plant(file, Some(content));
        }
        sim.disk.advance(2 * MINUTE);
        sim.engine.checkpoint().unwrap();
        assert_eq!(queue.depth().unwrap(), if is_damaged { unread } else { 0 });
    }
}

#[test]
fn what_is_left_after_a_read_that_failed_once_leaves_soon() {
    let mut checked = 0;
    for call in 0..30 {
        let (disk, engine) = calling(Options::new().segment_bytes(64 << 10));
        let queue = engine.queue("q").time_to_live(MINUTE).max_messages(200).create().unwrap();
        queue.send_batch((0..200).map(|n| vec![n as u8; 1000])).unwrap();
        engine.checkpoint().unwrap();
        drop((queue, engine));
        let engine = Options::new().io(IoMode::Calls).sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").open().unwrap();
        disk.advance(MINUTE);
        disk.fail_call(disk.calls() + call, EIO, false);
        let _ = queue.send("new");
        disk.heal();
        disk.advance(2 * MINUTE);
        let failed = disk.failed_call().expect("a call has failed");
        if failed.contains("sync") {
            assert_eq!(kind(engine.checkpoint()), ErrorKind::Poisoned);
            continue;
        }
        engine.checkpoint().unwrap();
        assert_eq!(queue.depth().unwrap(), 0, "call {call}: {failed:?}");
        checked += 1;
    }
    assert!(checked >= 20, "only {checked} calls were no syncs");
}

#[test]
fn damage_that_a_look_meets_is_set_aside_and_told_as_if_it_had_been_received() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).create().unwrap();
    queue.send_batch((0..100).map(|n| vec![n as u8; 500])).unwrap();
    sim.engine.checkpoint().unwrap();
    let file = files_of(&sim.disk, "store/segments").pop().unwrap();
    let mut bytes = sim.disk.content(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    sim.disk.plant(&file, Some(bytes));
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.damaged, stats.ready), (stats.depth, 0), "{stats:?}");
    assert!((1..30).contains(&stats.damaged), "{stats:?}");
    queue.send("new").unwrap();
    for _ in 0..stats.damaged {
        let error = queue.try_receive().unwrap_err();
        assert_eq!((error.kind(), error.offset().is_some()), (ErrorKind::Corrupt, true));
    }
    assert_eq!(take(&queue).unwrap().payload(), b"new");
    assert!(take(&queue).is_none());
    // It is not read again.
    let read = sim.disk.bytes_read();
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    assert!(sim.disk.bytes_read() - read < 10_000);
    queue.purge().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn senders_at_a_full_queue_share_one_look_at_it() {
    const MESSAGES: u64 = 20_000;
    let measure = |senders: usize| {
        let (disk, engine) = calling(Options::new().block_bytes(16 << 10));
        let queue = engine.queue("q").max_messages(MESSAGES).create().unwrap();
        let brief = Message::new("brief").expire_after(SECOND);
        queue.send(brief).unwrap();
        for _ in 1..MESSAGES / 100 {
            queue.send_batch((0..100).map(|_| vec![7; 100])).unwrap();
        }
        queue.send_batch((0..98).map(|_| vec![7; 100])).unwrap();
        let long = Message::new(vec![7; 100]).expire_after(HOUR);
        queue.send(long).unwrap();
        engine.checkpoint().unwrap();
        // The first message is gone. The time has come at which a life in the segment was to end, but none is over.
        take(&queue).unwrap().ack().unwrap();
        queue.send("full").unwrap();
        disk.advance(SECOND);
        let read = disk.bytes_read();
        let all_there = Barrier::new(senders);
        thread::scope(|scope| {
            for _ in 0..senders {
                scope.spawn(|| {
                    all_there.wait();
                    // The disk's clock stands still, so it looks at all messages.
                    assert_eq!(kind(queue.send_within("new", ms(20))), ErrorKind::QueueFull);
                });
            }
        });
        disk.bytes_read() - read
    };
    let (one, eight) = (measure(1), measure(8));
    assert!(one > 1 << 20, "{one} bytes were read");
    assert_eq!(eight, one, "eight senders read what one reads");
}

#[test]
fn whatever_call_fails_the_space_of_what_has_left_is_given_back() {
    let segments = |disk: &SimDisk| files_of(disk, "store/segments").len();
    let mut partial = 0;
    for call in 0..60 {
        let options = Options::new().segment_bytes(4 << 10).journal_bytes(4 << 20);
        let options = options.journal_file_bytes_min(1 << 20).journal_file_bytes_max(1 << 20);
        let (disk, engine) = calling(options);
        let queue = engine.queue("q").create().unwrap();
        queue.send("stays").unwrap();
        engine.checkpoint().unwrap();
        for n in 0..4u8 {
            let large = Message::new(vec![n; 400 << 10]).expire_after(MINUTE);
            queue.send(large).unwrap();
            engine.checkpoint().unwrap();
        }
        disk.advance(MINUTE);
        disk.fail_call(disk.calls() + call, EIO, false);
        let _ = engine.checkpoint();
        let failed = disk.failed_call();
        disk.heal();
        if failed.is_none() || queue.send("probe").is_err() {
            continue;
        }
        // Each message has a segment. Those of messages that have left are given back, before any others leave.
        engine.checkpoint().unwrap();
        let depth = queue.depth().unwrap() as usize;
        partial += usize::from((3..6).contains(&depth));
        assert!(segments(&disk) <= depth, "call {call}: {failed:?}: {:?}", disk.files());
        disk.advance(2 * MINUTE);
        engine.checkpoint().unwrap();
        assert_eq!(queue.depth().unwrap(), 2, "call {call}: {failed:?}");
        assert!(segments(&disk) <= 2, "call {call}: {failed:?}: {:?}", disk.files());
    }
    assert!(partial > 1, "{partial} errors came after messages had left");
}

#[test]
fn a_message_on_lease_leaves_when_its_lease_ends() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").time_to_live(MINUTE).lease(HOUR).backoff(Backoff::None);
    let queue = queue.create().unwrap();
    queue.send_batch((0..6).map(|n| n.to_string())).unwrap();
    let mut held: Vec<_> = (0..5).map(|_| take(&queue).unwrap()).collect();
    sim.disk.advance(MINUTE);
    sim.engine.checkpoint().unwrap();
    assert_eq!(queue.depth().unwrap(), 5, "what is on lease stays");
    let depth = |expected: u64| {
        sim.engine.checkpoint().unwrap();
        assert_eq!(queue.depth().unwrap(), expected);
    };
    held.pop().unwrap().nack().unwrap();
    depth(4);
    held.pop().unwrap().nack_after(HOUR).unwrap();
    depth(3);
    drop(held.pop());
    depth(2);
    held.pop().unwrap().ack().unwrap();
    depth(1);
    sim.disk.advance(HOUR);
    assert_eq!(queue.stats().unwrap().in_flight, 0);
    depth(0);
    drop(held);
    assert_eq!(queue.stats().unwrap().expired, 5);
}

#[test]
fn a_callback_that_waits_for_another_sender_does_not_hold_that_sender_up() {
    let (disk, engine) = calling(Options::new());
    let queue = engine.queue("q").time_to_live(MINUTE).max_messages(600).create().unwrap();
    for _ in 0..6 {
        queue.send_batch((0..100).map(|n| n.to_string())).unwrap();
    }
    let state = Arc::new(Mutex::new(()));
    let (tell, told) = channel();
    let (shared, tell_alarm) = (Arc::clone(&state), tell.clone());
    let callback = move |alarm| {
        tell_alarm.send(format!("{alarm:?}")).unwrap();
        drop(shared.lock().unwrap());
    };
    let _watch = queue.watch(Threshold::Depth(600), callback).unwrap();
    assert_eq!(told.recv().unwrap(), "Raised(600)");
    disk.advance(MINUTE);
    let locked = state.lock().unwrap();
    thread::scope(|scope| {
        // What this sender lets go of clears the alarm, and the callback waits for the mutex.
        let first = scope.spawn(|| queue.send("first").unwrap());
        assert!(told.recv().unwrap().starts_with("Cleared("));
        // Whoever has the mutex makes room for as many as the queue holds.
        let all = queue.clone();
        let second = thread::spawn(move || {
            all.send_batch((0..590).map(|n| n.to_string())).unwrap();
            tell.send("sent".to_owned()).unwrap();
        });
        assert_eq!(told.recv_timeout(60 * SECOND).unwrap(), "sent");
        drop(locked);
        first.join().unwrap();
        second.join().unwrap();
    });
    assert_eq!((queue.depth().unwrap(), queue.stats().unwrap().expired), (591, 600));
}
