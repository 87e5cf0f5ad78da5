//! Damaged messages are told once and set aside. The others flow past them.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use posthouse::{
    Alarm, Engine, ErrorKind, IoMode, Message, Offset, Options, Overflow, Queue, QueueBuilder,
    Start, Threshold, Timestamp, sim::SimDisk,
};

use crate::model::{rot_first_record, small_options};
use crate::support::{EIO, EMFILE, HOUR, MINUTE, SECOND, kind, take};

const MESSAGES: u64 = 200;

/// A queue whose messages are in a segment, and whose first block is damaged.
fn damaged(
    messages: impl Fn(u64) -> Message<'static>,
    settings: impl Fn(QueueBuilder) -> QueueBuilder,
) -> (SimDisk, Engine, Queue) {
    let disk = SimDisk::new(1);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = settings(engine.queue("q")).create().unwrap();
    (0..MESSAGES).for_each(|n| _ = queue.send(messages(n)).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    rot_first_record(&disk);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    (disk, engine, queue)
}

fn padded(n: u64) -> Message<'static> {
    Message::new(format!("{n} {}", "x".repeat(20)))
}

/// Receives until there is nothing. Returns the offsets of what came, and those that errors told.
fn drain(queue: &Queue) -> (Vec<Offset>, Vec<Offset>) {
    let (mut came, mut told) = (Vec::new(), Vec::new());
    for _ in 0..2 * MESSAGES {
        match queue.try_receive() {
            Ok(None) => return (came, told),
            Ok(Some(delivery)) => {
                came.push(delivery.offset());
                delivery.ack().unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                let offset = error.offset().expect("it names the message");
                assert!(
                    error.to_string().contains(&format!("message {offset} of \"q\"")),
                    "{error}"
                );
                told.push(offset);
            }
        }
    }
    panic!("damage is told again and again: {} came, {} errors", came.len(), told.len());
}

/// Each message came or was told, once.
fn check_each_once(queue: &Queue, (came, told): (Vec<Offset>, Vec<Offset>)) -> u64 {
    let damaged = told.len() as u64;
    assert!(damaged > 0 && came.len() as u64 > MESSAGES / 2, "{damaged} of {MESSAGES}");
    let mut all: Vec<Offset> = came.into_iter().chain(told).collect();
    all.sort_unstable();
    assert_eq!(all, (0..MESSAGES).map(Offset).collect::<Vec<_>>());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.damaged), (damaged, damaged));
    assert_eq!((stats.ready, stats.delayed, stats.in_flight), (0, 0, 0));
    assert_eq!(stats.delivered, MESSAGES - damaged);
    damaged
}

#[test]
fn a_damaged_message_is_told_once_with_its_offset_and_the_others_come() {
    let (_disk, _engine, queue) = damaged(padded, |it| it);
    check_each_once(&queue, drain(&queue));
}

#[test]
fn a_damaged_message_is_told_once_where_attempts_are_counted() {
    let (_disk, engine, queue) = damaged(padded, |it| it.max_attempts(2));
    check_each_once(&queue, drain(&queue));
    assert_eq!(engine.queue("q.dead").open().unwrap().depth().unwrap(), 0);
}

#[test]
fn a_damaged_message_is_told_once_in_an_ordered_queue() {
    let keyed = |n| padded(n).key(format!("{}", n % 7));
    let (_disk, _engine, queue) = damaged(keyed, |it| it.ordered_by_key(true));
    check_each_once(&queue, drain(&queue));
}

#[test]
fn a_damaged_message_with_a_priority_is_told_once() {
    let (_disk, _engine, queue) = damaged(|n| padded(n).priority((n % 3) as u8), |it| it);
    check_each_once(&queue, drain(&queue));
}

#[test]
fn a_batch_flows_past_damaged_messages_and_the_next_calls_tell_of_them() {
    for attempts in [0, 3] {
        let settings = |it: QueueBuilder| it;
        let (_disk, _engine, queue) = match attempts {
            0 => damaged(padded, settings),
            _ => damaged(padded, |it| it.max_attempts(3)),
        };
        let (mut came, mut told) = (Vec::new(), Vec::new());
        let mut calls = 0;
        while came.len() + told.len() < MESSAGES as usize {
            calls += 1;
            match queue.receive_batch(1000, Duration::ZERO) {
                Ok(batch) => {
                    assert!(!batch.is_empty(), "{} are missing", MESSAGES as usize - told.len());
                    came.extend(batch.iter().map(posthouse::Delivery::offset));
                    queue.ack_batch(&batch).unwrap();
                }
                Err(error) => told.push(error.offset().unwrap()),
            }
        }
        assert!(calls <= told.len() + 1, "the sound ones came in one batch");
        check_each_once(&queue, (came, told));
        assert!(queue.receive_batch(1000, Duration::ZERO).unwrap().is_empty());
    }
}

#[test]
fn a_damaged_message_that_a_full_queue_drops_leaves_the_counts() {
    let full = |it: QueueBuilder| it.max_messages(MESSAGES).overflow(Overflow::DropOldest);
    let (_disk, _engine, queue) = damaged(padded, full);
    let mut held = Vec::new();
    let mut damaged = 0;
    while held.len() as u64 + damaged < MESSAGES {
        match queue.try_receive() {
            Ok(delivery) => held.extend(delivery),
            Err(_) => damaged += 1,
        }
    }
    assert!(damaged > 1 && !held.is_empty());
    for left in (0..damaged).rev() {
        let dropped = queue.stats().unwrap().dropped;
        queue.send(padded(0)).unwrap();
        let stats = queue.stats().unwrap();
        assert_eq!((stats.depth, stats.dropped, stats.damaged), (MESSAGES, dropped + 1, left));
        assert_eq!((stats.ready, stats.in_flight), (1, held.len() as u64));
        held.extend(queue.try_receive().unwrap());
        assert_eq!(queue.stats().unwrap().ready, 0);
    }
    assert_eq!(queue.send("all are on lease").unwrap_err().kind(), ErrorKind::QueueFull);
}

#[test]
fn damaged_messages_can_be_browsed_past_removed_and_purged() {
    let (_disk, _engine, queue) = damaged(padded, |it| it);
    let browsed: Vec<_> = queue.browse().unwrap().collect();
    assert_eq!(browsed.len() as u64, MESSAGES);
    let told = browsed.iter().filter_map(|it| it.as_ref().err()).map(|it| it.offset().unwrap());
    let told: Vec<Offset> = told.collect();
    let damaged = check_each_once(&queue, drain(&queue));
    assert_eq!(told.len() as u64, damaged);
    assert!(queue.remove(told[0]).unwrap());
    assert_eq!(queue.stats().unwrap().damaged, damaged - 1);
    assert_eq!(queue.purge().unwrap(), damaged - 1);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.damaged), (0, 0));
}

#[test]
fn damaged_messages_are_tried_again_after_the_next_open() {
    let (disk, engine, queue) = damaged(padded, |it| it);
    let (_, told) = drain(&queue);
    engine.close().unwrap();
    drop((queue, engine));
    let engine = small_options().sim(&disk).open("store").unwrap();
    let (came, again) = drain(&engine.queue("q").open().unwrap());
    assert_eq!((came, again), (vec![], told));
}

#[test]
fn a_redrive_moves_the_letters_behind_damaged_ones_and_names_the_first() {
    let (_disk, engine, queue) = damaged(padded, |it| it);
    let other = engine.queue("other").create().unwrap();
    let error = queue.redrive().to(&other).run().unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(Offset(0))));
    assert_eq!(other.depth().unwrap() + queue.depth().unwrap(), MESSAGES);
    assert!(other.depth().unwrap() > MESSAGES / 2);
}

#[test]
fn a_damaged_message_whose_last_lease_ran_out_is_told_and_does_not_hold_up_the_others() {
    let disk = SimDisk::new(1);
    let open = || small_options().sim(&disk).open("store").unwrap();
    let engine = open();
    let queue = engine.queue("q").lease(MINUTE).max_attempts(1).create().unwrap();
    (0..MESSAGES).for_each(|n| _ = queue.send(padded(n)).unwrap());
    // All are tried once, and none is settled.
    queue.receive_batch(1000, Duration::ZERO).unwrap().into_iter().for_each(|it| {
        let _ = it.payload();
        std::mem::forget(it);
    });
    engine.checkpoint().unwrap();
    disk.kill();
    drop((queue, engine));
    drop(open());
    rot_first_record(&disk);
    let engine = open();
    let queue = engine.queue("q").open().unwrap();
    disk.advance(HOUR);
    let (came, told) = drain(&queue);
    assert!(came.is_empty() && !told.is_empty());
    let dead = engine.queue("q.dead").open().unwrap().depth().unwrap();
    assert_eq!(dead + told.len() as u64, MESSAGES);
}

#[test]
fn a_reader_skips_damaged_records_on_request() {
    let disk = SimDisk::new(1);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    (0..MESSAGES).for_each(|n| _ = stream.append(padded(n)).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((stream, engine));
    rot_first_record(&disk);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").open().unwrap();
    let mut reader = stream.reader(Start::Earliest).unwrap();
    assert_eq!(kind(reader.try_read().map(drop)), ErrorKind::Corrupt);
    assert_eq!(kind(reader.try_read().map(drop)), ErrorKind::Corrupt, "nothing is skipped unasked");
    let skipped = reader.skip_damaged().unwrap().expect("it stands before damage");
    assert_eq!((skipped.partition, skipped.offsets.start), (0, Offset(0)));
    let next = reader.try_read().unwrap().expect("the others are there").offset();
    assert_eq!(next, skipped.offsets.end);
    assert!(reader.skip_damaged().unwrap().is_none(), "the next record is sound");
    assert_eq!(reader.count() as u64 + next.0 + 1, MESSAGES);
}

/// The search for a time stands before damage, as a reader does, and each record behind it is read.
#[test]
fn a_start_at_a_time_in_damaged_records_begins_there() {
    let disk = SimDisk::new(1);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let at = |n| padded(n).timestamp(Timestamp(1000 + n));
    (0..MESSAGES).for_each(|n| _ = stream.append(at(n).key((n % 2).to_string())).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((stream, engine));
    rot_first_record(&disk);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").open().unwrap();
    let (mut damaged, mut whole) = (0, 0);
    for n in (0..MESSAGES).step_by(7) {
        let start = Start::Time(Timestamp(1000 + n));
        let group = stream.group(&format!("from {n}")).start(start).create().unwrap();
        for mut reader in [stream.reader(start).unwrap(), group.reader().unwrap()] {
            let (mut lost, mut read) = (Vec::new(), Vec::new());
            loop {
                match reader.try_read() {
                    Ok(Some(record)) => read.push(record.timestamp().0 - 1000),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt);
                        lost.push(reader.skip_damaged().unwrap().expect("it stands there"));
                    }
                }
            }
            assert!(lost.len() < 2);
            let skipped = lost.iter().map(|it| it.offsets.end.0 - it.offsets.start.0).sum::<u64>();
            assert!(read.len() as u64 + skipped >= MESSAGES - n, "{n}: {read:?}, {lost:?}");
            if lost.is_empty() {
                whole += 1;
                read.sort_unstable();
                assert!(read.into_iter().eq(n..MESSAGES), "{n}");
            } else {
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0 && whole > 0, "{damaged}, {whole}");
}

/// Flips a bit in the first block of the only segment.
fn rot(store: &Path) {
    let log = fs::read_dir(store.join("segments")).unwrap().next().unwrap().unwrap().path();
    let segment = fs::read_dir(log).unwrap().next().unwrap().unwrap().path();
    let mut content = fs::read(&segment).unwrap();
    content[64 + 64 + 20] ^= 1;
    fs::write(&segment, content).unwrap();
}

#[test]
fn a_worker_handles_what_lies_behind_damaged_messages_at_once() {
    const ALL: u64 = 5000;
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let engine = Options::new().open(&store).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch((0..ALL).map(|n| format!("{n} {}", "x".repeat(100)))).unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    rot(&store);
    let engine = Options::new().open(&store).unwrap();
    let queue = engine.queue("q").open().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let rests = Arc::new(AtomicU64::new(0));
    let (tell, rested) = (Arc::clone(&told), Arc::clone(&rests));
    let worker = queue.worker().concurrency(2).on_error(move |error| {
        if error.kind() != ErrorKind::Corrupt {
            rested.fetch_add(1, Ordering::SeqCst);
        }
        tell.lock().unwrap().push(error.offset());
    });
    let worker = worker.start(|_| Ok::<(), String>(())).unwrap();
    // With a rest of a second after each this would take minutes.
    super::worker::until("they are not handled", || {
        worker.handled() + told.lock().unwrap().len() as u64 == ALL
    });
    let told = told.lock().unwrap().clone();
    assert!(told.len() > 64 && told.iter().all(Option::is_some), "{} told", told.len());
    assert_eq!((worker.damaged(), rests.load(Ordering::SeqCst)), (told.len() as u64, 0));
    assert_eq!(queue.stats().unwrap().damaged, told.len() as u64);
    worker.stop().unwrap();
}

/// The errors of damaged messages that a batch has set aside are told by the next calls, unless the messages are gone.
#[test]
fn damage_of_messages_that_were_deleted_is_told_no_more() {
    let with_untold = || {
        let (disk, engine, queue) = damaged(padded, |it| it);
        let batch = queue.receive_batch(1000, Duration::ZERO).unwrap();
        queue.ack_batch(&batch).unwrap();
        let depth = queue.depth().unwrap();
        assert!(depth > 1 && queue.stats().unwrap().damaged == depth);
        (disk, engine, queue, depth)
    };
    let (_disk, _engine, queue, depth) = with_untold();
    assert_eq!(queue.purge().unwrap(), depth);
    assert!(queue.try_receive().unwrap().is_none(), "the queue is empty");
    queue.send("sound").unwrap();
    assert_eq!(queue.try_receive().unwrap().unwrap().payload(), b"sound");

    // The others are told all the same.
    let (_disk, _engine, queue, depth) = with_untold();
    let there: Vec<Offset> =
        queue.browse().unwrap().map(|it| it.unwrap_err().offset().unwrap()).collect();
    assert!(queue.remove(there[0]).unwrap());
    let (came, told) = drain(&queue);
    assert_eq!((came, told.len() as u64), (vec![], depth - 1));
    assert!(!told.contains(&there[0]));
}

/// A damaged message has no age. Those behind it raise the alarm, and clear it.
#[test]
fn an_alarm_of_age_looks_past_damaged_messages() {
    for received in [false, true] {
        let (disk, _engine, queue) = damaged(padded, |queue| queue);
        disk.advance(MINUTE);
        if received {
            assert_eq!(kind(queue.try_receive()), ErrorKind::Corrupt);
        }
        let (tell, told) = std::sync::mpsc::channel();
        let call = move |alarm| tell.send(alarm).unwrap();
        let _watch = queue.watch(Threshold::OldestAge(2 * MINUTE), call).unwrap();
        assert!(queue.stats().unwrap().oldest_age.is_some(), "received: {received}");
        assert!(queue.oldest_age().unwrap() >= Some(MINUTE), "received: {received}");
        disk.advance(HOUR);
        _ = queue.stats().unwrap();
        assert!(matches!(told.try_recv(), Ok(Alarm::Raised(_))), "received: {received}");
        let (came, told_of) = drain(&queue);
        assert!(came.len() as u64 > MESSAGES / 2 && !told_of.is_empty());
        disk.advance(HOUR);
        let read = disk.bytes_read();
        _ = queue.stats().unwrap();
        assert_eq!(told.try_recv(), Ok(Alarm::Cleared(0)), "received: {received}");
        for _ in 0..20 {
            disk.advance(SECOND);
            _ = queue.stats().unwrap();
        }
        assert!(told.try_recv().is_err());
        assert_eq!(disk.bytes_read(), read, "what is damaged is not read again and again");
    }
}

/// Sectors that cannot be read are damage: their messages are set aside, and come after the next open, if they can be read then.
/// They stop no checkpoint, no other message and no other queue.
#[test]
fn unreadable_sectors_stop_nobody_else() {
    for size in [20, 900] {
        let disk = SimDisk::new(1);
        let open = || small_options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
        let engine = open();
        // A limit in bytes has all messages read when the queue is opened.
        let queue = engine.queue("q").max_bytes(1 << 30).create().unwrap();
        let payload = |n: u64| format!("{n} {}", "x".repeat(size));
        (0..MESSAGES).for_each(|n| _ = queue.send(payload(n)).unwrap());
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        let is_segment = |it: &std::path::PathBuf| it.starts_with("store/segments");
        let segments: Vec<_> = disk.files().into_iter().filter(is_segment).collect();
        for segment in &segments {
            let bytes = disk.content(segment).unwrap().len() as u64;
            disk.set_unreadable(segment, bytes / 2..bytes / 2 + 1);
        }
        let engine = open();
        let queue = engine.queue("q").open().unwrap();
        let (came, told) = drain(&queue);
        assert!(came.len() as u64 > MESSAGES / 4 && !told.is_empty(), "{size}: {told:?}");
        assert_eq!((came.len() + told.len()) as u64, MESSAGES, "{size}");
        let other = engine.queue("other").create().unwrap();
        for n in 0..400 {
            other.send(payload(n)).unwrap();
            if n % 50 == 0 {
                engine.checkpoint().unwrap();
                disk.advance(MINUTE);
            }
            if n % 2 == 0 {
                other.try_receive().unwrap().unwrap().ack().unwrap();
            }
        }
        queue.send(payload(MESSAGES)).unwrap();
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        disk.heal();
        let engine = open();
        let queue = engine.queue("q").open().unwrap();
        let (rest, damaged) = drain(&queue);
        assert_eq!((rest.len(), damaged.len()), (told.len() + 1, 0), "{size}");
        engine.checkpoint().unwrap();
        assert!(engine.verify().unwrap().problems.is_empty());
    }
}

/// Batches tell of each message that cannot be read once, and bring the others.
#[test]
fn batches_flow_past_unreadable_sectors() {
    let disk = SimDisk::new(1);
    let engine = small_options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    (0..MESSAGES).for_each(|n| _ = queue.send(padded(n)).unwrap());
    engine.checkpoint().unwrap();
    for path in disk.files() {
        if path.starts_with("store/segments") {
            disk.set_unreadable(&path, 1000..2000);
        }
    }
    let (mut damaged, mut came) = (0, 0);
    loop {
        match queue.receive_batch(16, Duration::ZERO) {
            Ok(batch) if batch.is_empty() => break,
            Ok(batch) => {
                came += batch.len() as u64;
                queue.ack_batch(&batch).unwrap();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                damaged += 1;
            }
        }
        assert!(damaged + came <= MESSAGES, "told again and again");
    }
    assert!(damaged > 0 && came > 0);
    assert_eq!((came + damaged, queue.stats().unwrap().damaged), (MESSAGES, damaged));
}

/// Some messages of a batch cannot be read for the moment. The others come at once, and the next call returns the error.
#[test]
fn a_batch_ends_before_messages_that_cannot_be_read_for_the_moment() {
    for most in [16, 1000] {
        let disk = SimDisk::new(1);
        let engine = small_options().sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        for part in 0..2_u8 {
            (0..8).for_each(|_| _ = queue.send(vec![part; 1200]).unwrap());
            engine.checkpoint().unwrap();
        }
        engine.close().unwrap();
        let engine = small_options().sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").open().unwrap();
        // Its segment is open from here on.
        queue.try_receive().unwrap().unwrap().release().unwrap();
        disk.fail_call(disk.calls(), EMFILE, true);
        let batch = queue.receive_batch(most, Duration::ZERO).unwrap();
        assert!((1..16).contains(&batch.len()), "{} came", batch.len());
        assert_eq!(kind(queue.receive_batch(most, Duration::ZERO)), ErrorKind::Io);
        disk.heal();
        let rest = queue.receive_batch(most, Duration::ZERO).unwrap();
        assert_eq!(batch.len() + rest.len(), 16);
    }
}

/// A device that fails once is asked once more. So one failed read sets nothing aside.
#[test]
fn one_read_that_fails_is_no_damage() {
    let mut reads = 0;
    for call in 0..6 {
        let disk = SimDisk::new(1);
        let open = || small_options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
        let engine = open();
        (0..3).for_each(|n| _ = engine.queue("q").create().unwrap().send(padded(n)).unwrap());
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        let engine = open();
        let queue = engine.queue("q").open().unwrap();
        disk.fail_call(disk.calls() + call, EIO, false);
        let mut came = 0;
        for _ in 0..10 {
            match queue.try_receive() {
                Ok(Some(delivery)) => came += u64::from(delivery.ack().is_ok()),
                Ok(None) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "call {call}: {error}"),
            }
        }
        reads += u64::from(disk.failed_call() == Some("read"));
        disk.heal();
        assert_eq!(queue.stats().unwrap().damaged, 0, "call {call}");
        assert!(came > 0, "call {call}");
    }
    assert!(reads > 0, "no read has failed");
}

/// The last lease of a message has run out, and the message cannot be read for the moment. The engine moves it to the dead
/// letters once it can be read, though nobody receives.
#[test]
fn a_letter_that_cannot_be_read_for_the_moment_moves_later() {
    for error in [EIO, EMFILE] {
        let disk = SimDisk::new(5);
        let open = || small_options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
        let engine = open();
        let queue = engine.queue("q").max_attempts(1).lease(SECOND).create().unwrap();
        queue.send("a").unwrap();
        let held = take(&queue).unwrap();
        engine.checkpoint().unwrap();
        engine.sync().unwrap();
        disk.fail_call(disk.calls(), error, true);
        disk.advance(SECOND);
        let dead = engine.queue("q.dead").open().unwrap();
        for _ in 0..3 {
            disk.advance(SECOND);
            assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (1, 0));
        }
        assert!(disk.failed_call().is_some(), "it was not read");
        disk.heal();
        disk.advance(2 * SECOND);
        assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1));
        drop(held);
    }
}
