//! More delayed messages than are kept in memory.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_core::Stream;
use posthouse::{
    Alarm, Backoff, ErrorKind, IoMode, Message, Offset, Queue, Threshold, Timestamp, sim::SimDisk,
};

use crate::model::small_options;
use crate::support::{EIO, EMFILE, SECOND, Sim, Task, kind, take};

/// A random number, the same for the same seed.
fn draw(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// Sends messages, each with its own delay of up to a hundred seconds. The payload is the delay.
fn send_some(queue: &Queue, count: u64, seed: &mut u64) -> Vec<u64> {
    let delays: Vec<u64> = (0..count).map(|_| 1 + draw(seed, 100)).collect();
    for delay in &delays {
        let message = Message::new(delay.to_string()).deliver_after(Duration::from_secs(*delay));
        queue.send(message).unwrap();
    }
    delays
}

fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// Receives and acks all messages.
fn drain(queue: &Queue) -> Vec<u64> {
    std::iter::from_fn(|| take(queue))
        .map(|delivery| {
            delivery.ack().unwrap();
            number(delivery.payload())
        })
        .collect()
}

fn files_of_logs(disk: &SimDisk) -> usize {
    disk.files().into_iter().filter(|it| it.starts_with("store/segments")).count()
}

#[test]
fn each_message_comes_when_it_is_due_although_few_are_in_memory() {
    for seed in 0..8 {
        let mut sim = Sim::new();
        let mut queue = sim.engine.queue("q").create().unwrap();
        let mut chance = seed;
        let mut expected = send_some(&queue, 200, &mut chance);
        expected.sort_unstable();
        assert_eq!(queue.stats().unwrap().delayed, 200);
        for second in 1..=100 {
            // Not a moment early.
            sim.disk.advance(SECOND - Duration::from_millis(1));
            assert_eq!(drain(&queue), [], "before second {second}");
            sim.disk.advance(Duration::from_millis(1));
            let due = drain(&queue);
            let due_now: Vec<u64> = expected.iter().copied().filter(|it| *it == second).collect();
            assert_eq!(due, due_now, "second {second}");
            match draw(&mut chance, 20) {
                0 => sim.engine.checkpoint().unwrap(),
                1 => {
                    drop(queue);
                    sim = sim.kill();
                    queue = sim.engine.queue("q").open().unwrap();
                    let left = expected.iter().filter(|it| **it > second).count();
                    assert_eq!(queue.delayed().unwrap(), left as u64);
                }
                _ => {}
            }
        }
        assert_eq!(queue.depth().unwrap(), 0);
        // Nothing is left of the delay index either.
        sim.engine.checkpoint().unwrap();
        assert_eq!(files_of_logs(&sim.disk), 0);
        assert!(sim.engine.verify().unwrap().is_ok());
    }
}

#[test]
fn a_browse_tells_when_each_is_due_and_one_that_is_removed_does_not_come() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let began = queue.browse().unwrap().count();
    assert_eq!(began, 0);
    let delays = send_some(&queue, 60, &mut 7);
    let sent = Timestamp(first_timestamp(&queue));
    let browsed: Vec<_> = queue.browse().unwrap().map(Result::unwrap).collect();
    assert_eq!(browsed.len(), 60);
    for (it, delay) in browsed.iter().zip(&delays) {
        assert_eq!(it.due(), Some(Timestamp(sent.0 + delay * 1000)));
    }
    for it in browsed.iter().filter(|it| it.offset().0 % 3 == 0) {
        assert!(queue.remove(it.offset()).unwrap());
    }
    assert_eq!(queue.delayed().unwrap(), 40);
    sim.disk.advance(100 * SECOND);
    let mut left: Vec<u64> =
        delays.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, it)| *it).collect();
    left.sort_unstable();
    let mut came = drain(&queue);
    came.sort_unstable();
    assert_eq!(came, left);
}

fn first_timestamp(queue: &Queue) -> u64 {
    queue.browse().unwrap().next().unwrap().unwrap().timestamp().0
}

#[test]
fn a_purge_empties_the_delay_index() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    send_some(&queue, 100, &mut 3);
    sim.engine.checkpoint().unwrap();
    assert!(files_of_logs(&sim.disk) > 1);
    assert_eq!(queue.purge().unwrap(), 100);
    assert_eq!((queue.depth().unwrap(), queue.delayed().unwrap()), (0, 0));
    sim.engine.checkpoint().unwrap();
    assert_eq!(files_of_logs(&sim.disk), 0);
    let expected = send_some(&queue, 30, &mut 4);
    drop(queue);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    sim.disk.advance(100 * SECOND);
    assert_eq!(drain(&queue).len(), expected.len());
    // Deleting a queue deletes its delay index, too. A new queue of its name has none.
    send_some(&queue, 40, &mut 5);
    sim.engine.queue("q").delete().unwrap();
    sim.engine.checkpoint().unwrap();
    assert_eq!(files_of_logs(&sim.disk), 0);
    let queue = sim.engine.queue("q").create().unwrap();
    assert_eq!(queue.delayed().unwrap(), 0);
    assert!(sim.engine.verify().unwrap().is_ok());
}

#[test]
fn failed_messages_keep_their_attempts_and_priorities_in_the_delay_index() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(5).create().unwrap();
    for n in 0..40u64 {
        queue.send(Message::new(n.to_string()).priority((n % 4) as u8)).unwrap();
    }
    while let Some(delivery) = take(&queue) {
        delivery.nack_after(60 * SECOND).unwrap();
    }
    assert_eq!(queue.delayed().unwrap(), 40);
    drop(queue);
    sim = sim.kill();
    let queue = sim.engine.queue("q").open().unwrap();
    sim.disk.advance(60 * SECOND);
    let mut came = BTreeMap::new();
    while let Some(delivery) = take(&queue) {
        assert_eq!(delivery.attempt(), 2);
        let n = number(delivery.payload());
        assert_eq!(u64::from(delivery.priority()), n % 4);
        delivery.ack().unwrap();
        assert!(came.insert(n, ()).is_none());
    }
    assert_eq!(came.len(), 40);
}

/// Where the blocks of a log's segments are in a segment file: behind the header of its own file, or of its parts.
fn blocks_of(log: u64, disk: &SimDisk, path: &Path) -> Vec<(PathBuf, Range<usize>)> {
    let content = disk.content(path).unwrap();
    let number = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().unwrap());
    let (mut found, mut at) = (Vec::new(), 64);
    if number(32) == log {
        found.push((path.to_owned(), 64..content.len()));
    }
    while number(32) == 0 && at < content.len() {
        let end = at + 24 + (number(at) >> 32) as usize;
        if number(at + 8) == log {
            found.push((path.to_owned(), at + 24..end));
        }
        at = end;
    }
    found
}

/// Ends the engine, and damages some segments of the delay index, which is the second log.
fn damage_blocks(sim: Sim, queue: Queue, most: usize) -> SimDisk {
    let Sim { disk, engine } = sim;
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let files = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    let found: Vec<_> = files.flat_map(|path| blocks_of(2, &disk, &path)).collect();
    for (path, blocks) in found.into_iter().take(most) {
        let mut content = disk.content(&path).unwrap();
        content[blocks.start + blocks.len() / 2] ^= 1;
        disk.plant(&path, Some(content));
    }
    disk
}

/// Receives and acks all messages. Returns how many there were, and how often damage was told.
fn drain_told(queue: &Queue) -> (u64, u64) {
    let (mut came, mut told) = (0, 0);
    loop {
        assert!(told < 1000, "the damage is told for ever");
        match queue.try_receive() {
            Ok(Some(delivery)) => {
                delivery.ack().unwrap();
                came += 1;
            }
            Ok(None) => return (came, told),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(
                    error.to_string().contains("\"q\", in a block of its delay index"),
                    "{error}"
                );
                told += 1;
            }
        }
    }
}

#[test]
fn a_damaged_delay_index_is_reported_and_holds_up_no_other_message() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    send_some(&queue, 60, &mut 11);
    let disk = damage_blocks(sim, queue, usize::MAX);
    let report = small_options().sim(&disk).verify("store").unwrap();
    assert!(report.to_string().contains("the delay index of queue \"q\""), "{report}");
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    queue.send("1000").unwrap();
    disk.advance(100 * SECOND);
    // Another handle is told of each block, too, and a clone is the same consumer.
    let (other, clone) = (engine.queue("q").open().unwrap(), queue.clone());
    let (came, told) = drain_told(&queue);
    assert!(came > 1, "those that are known have come");
    assert!(told > 1, "{told} blocks");
    assert_eq!(drain_told(&clone), (0, 0), "it is told again");
    assert_eq!(drain_told(&other), (0, told));
    let left = queue.depth().unwrap();
    assert_eq!(left + came, 61);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.damaged), (0, 0, left));
    assert_eq!(queue.delayed().unwrap(), 0);
    // Then a receive waits as usual.
    assert!(queue.receive(Duration::ZERO).unwrap().is_none());
    let mut waiting = Task::waiting(queue.receive_async());
    queue.send("1001").unwrap();
    let delivery = waiting.poll().expect("it is woken").unwrap();
    delivery.ack().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    // A message whose due time is lost comes at once.
    small_options().sim(&disk).salvage("store", "rescued").unwrap();
    let engine = small_options().sim(&disk).open("rescued").unwrap();
    let queue = engine.queue("q").open().unwrap();
    assert_eq!(drain(&queue).len() as u64, left);
    assert!(small_options().sim(&disk).open("rescued").is_err(), "it is in use");
    engine.close().unwrap();
}

#[test]
fn on_a_full_disk_messages_come_late_rather_than_never() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let expected = send_some(&queue, 100, &mut 13);
    sim.disk.set_capacity(Some(sim.disk.bytes_used()));
    sim.disk.advance(100 * SECOND);
    let mut came = drain(&queue);
    sim.disk.set_capacity(None);
    sim.disk.advance(SECOND);
    came.extend(drain(&queue));
    came.sort_unstable();
    let mut expected = expected;
    expected.sort_unstable();
    assert_eq!(came, expected);
}

#[test]
fn retries_that_wait_long_do_not_hold_up_spilled_messages() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").lease(SECOND).backoff(Backoff::Fixed(60 * SECOND));
    let queue = queue.create().unwrap();
    for n in 0..40 {
        queue.send(n.to_string()).unwrap();
    }
    // The first retry after a lease that ran out would be immediate.
    let held: Vec<_> = std::iter::from_fn(|| take(&queue)).collect();
    held.iter().for_each(|it| it.nack_after(Duration::ZERO).unwrap());
    let held: Vec<_> = std::iter::from_fn(|| take(&queue)).collect();
    for n in 100..120 {
        let delay = Duration::from_secs(n - 95);
        queue.send(Message::new(n.to_string()).deliver_after(delay)).unwrap();
    }
    // All leases end at once, without a commit after which some of the messages would be spilled.
    std::mem::forget(held);
    sim.disk.advance(2 * SECOND);
    assert!(take(&queue).is_none());
    assert_eq!(queue.delayed().unwrap(), 60);
    sim.disk.advance(2 * SECOND);
    for n in 100..120 {
        sim.disk.advance(SECOND);
        let delivery = take(&queue).expect("one is due in every second");
        assert_eq!(number(delivery.payload()), n);
        delivery.ack().unwrap();
        assert!(take(&queue).is_none());
    }
}

#[test]
fn a_purge_ends_the_damage_of_a_delay_index() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    send_some(&queue, 60, &mut 17);
    let disk = damage_blocks(sim, queue, usize::MAX);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    disk.advance(100 * SECOND);
    assert!(drain_told(&queue).1 > 0);
    assert!(queue.purge().unwrap() > 0);
    assert!(take(&queue).is_none(), "no lost message is expected any more");
    engine.checkpoint().unwrap();
    assert_eq!(files_of_logs(&disk), 0);
    // The same if each message is removed alone, also for later messages.
    let sim = Sim { disk, engine };
    send_some(&queue, 60, &mut 19);
    let disk = damage_blocks(sim, queue, usize::MAX);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    disk.advance(100 * SECOND);
    let depth = queue.depth().unwrap();
    assert!(drain_told(&queue).1 > 0);
    assert_eq!(depth, 60);
    (0..1000).for_each(|offset| _ = queue.remove(Offset(offset)).unwrap());
    assert!(take(&queue).is_none());
    let expected = send_some(&queue, 60, &mut 23);
    assert!(take(&queue).is_none(), "those that were damaged are gone");
    disk.advance(100 * SECOND);
    assert_eq!(drain(&queue).len(), expected.len());
}

#[test]
fn a_delay_index_whose_messages_were_removed_is_cleared_before_they_are_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    for n in 0..60 {
        let message = Message::new(n.to_string()).deliver_after(365 * 86_400 * SECOND);
        let offset = queue.send(message).unwrap();
        assert_eq!(offset, Offset(n));
    }
    sim.engine.checkpoint().unwrap();
    (0..60).for_each(|n| assert!(queue.remove(Offset(n)).unwrap()));
    sim.engine.checkpoint().unwrap();
    assert_eq!(files_of_logs(&sim.disk), 0);
}

#[test]
fn a_damaged_block_holds_up_no_other_block_and_waiting_consumers_get_the_error() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    send_some(&queue, 200, &mut 29);
    let disk = damage_blocks(sim, queue, 1);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let (known, lost): (Vec<_>, Vec<_>) = queue.browse().unwrap().partition(Result::is_ok);
    assert!(lost.iter().all(|it| it.as_ref().unwrap_err().kind() == ErrorKind::Corrupt));
    assert!(!lost.is_empty() && lost.len() < 100, "{} cannot be looked at", lost.len());
    for it in known {
        assert!(queue.remove(it.unwrap().offset()).unwrap());
    }
    // Nothing is left that could wake it.
    let mut waiting = Task::waiting(queue.receive_async());
    disk.advance(101 * SECOND);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.ready, stats.delayed, stats.damaged), (0, 0, lost.len() as u64));
    assert!(waiting.is_woken());
    let told = waiting.poll().expect("it gets the error").map(drop);
    assert_eq!(kind(told), ErrorKind::Corrupt);
    let (_, told) = drain_told(&queue);
    // The stream and the worker go on.
    let mut stream = engine.queue("q").open().unwrap().deliveries();
    let mut context = Context::from_waker(Waker::noop());
    let mut next = || Pin::new(&mut stream).poll_next(&mut context);
    for _ in 0..=told {
        assert!(matches!(next(), Poll::Ready(Some(Err(_)))));
    }
    assert!(next().is_pending(), "the damage is told for ever");
    queue.send("1000").unwrap();
    assert!(matches!(next(), Poll::Ready(Some(Ok(_)))));
}

/// If the message of a damaged block is known, it is named.
#[test]
fn a_damaged_block_with_one_message_is_told_with_its_offset() {
    let disk = SimDisk::new(7);
    let open =
        |disk: &SimDisk| small_options().delayed_in_memory(2).sim(disk).open("store").unwrap();
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    for n in 1..=3 {
        queue.send(Message::new(n.to_string()).deliver_after(n * SECOND)).unwrap();
    }
    let disk = damage_blocks(Sim { disk, engine }, queue, usize::MAX);
    let engine = open(&disk);
    let queue = engine.queue("q").open().unwrap();
    disk.advance(20 * SECOND);
    let mut told = Vec::new();
    while told.len() < 10 {
        match queue.try_receive() {
            Ok(Some(delivery)) => delivery.ack().unwrap(),
            Ok(None) => break,
            Err(error) => told.push(error.offset()),
        }
    }
    assert_eq!(told, [Some(Offset(2))]);
    assert_eq!((queue.depth().unwrap(), queue.stats().unwrap().damaged), (1, 1));
    assert!(queue.remove(Offset(2)).unwrap());
    assert_eq!(queue.stats().unwrap().damaged, 0);
    assert!(take(&queue).is_none());
}

/// A receive gave no message and no error, for as long as the disk failed, although messages were overdue.
#[test]
fn messages_that_cannot_come_back_from_disk_are_told_and_tried_again() {
    for error in [EIO, EMFILE] {
        let disk = SimDisk::new(7);
        let engine = small_options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        for n in 1..=40 {
            queue.send(Message::new(n.to_string()).deliver_after(n * SECOND)).unwrap();
        }
        engine.checkpoint().unwrap();
        // Those in memory come, up to the first one on disk.
        let mut came = 0;
        loop {
            engine.sync().unwrap();
            disk.fail_call(disk.calls(), error, true);
            disk.advance(SECOND);
            if queue.stats().unwrap().ready == 0 {
                break;
            }
            disk.heal();
            take(&queue).unwrap().ack().unwrap();
            came += 1;
        }
        assert!(came > 1, "some are in memory");
        disk.heal();
        disk.advance(10 * SECOND);
        disk.fail_call(disk.calls(), error, true);
        let mut stream = queue.deliveries();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert_eq!(kind(queue.try_receive()), ErrorKind::Io);
            assert_eq!(kind(queue.receive(SECOND)), ErrorKind::Io);
            assert_eq!(kind(queue.receive_batch(9, SECOND)), ErrorKind::Io);
            let next = Pin::new(&mut stream).poll_next(&mut context);
            assert!(matches!(next, Poll::Ready(Some(Err(error))) if error.kind() == ErrorKind::Io));
            disk.advance(SECOND);
        }
        disk.heal();
        disk.advance(SECOND);
        let delivery = take(&queue).expect("it is tried again");
        assert_eq!(number(delivery.payload()), came + 1);
        delivery.ack().unwrap();
        disk.advance(100 * SECOND);
        assert_eq!(drain(&queue).len() as u64, 40 - 1 - came);
    }
}

/// A worker tells it, rests, and handles them later.
#[test]
fn a_worker_tells_what_cannot_come_back_from_disk_and_goes_on() {
    let disk = SimDisk::new(7);
    let engine = small_options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    for n in 1..=40 {
        queue.send(Message::new(n.to_string()).deliver_after(n * SECOND)).unwrap();
    }
    engine.checkpoint().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let worker = queue.worker().on_error(move |error| tell.lock().unwrap().push(error.kind()));
    let mut run = Task::waiting(worker.run_async(async |_| Ok::<(), String>(())));
    disk.fail_call(disk.calls(), EMFILE, true);
    for _ in 0..5 {
        disk.advance(20 * SECOND);
        let _ = queue.stats();
        assert!(run.poll().is_none(), "it has ended");
    }
    let count = told.lock().unwrap().len();
    assert!((1..=5).contains(&count), "{count}: it rests");
    assert!(told.lock().unwrap().iter().all(|it| *it == ErrorKind::Io));
    disk.heal();
    for _ in 0..100 {
        disk.advance(SECOND);
        let _ = queue.stats();
        assert!(run.poll().is_none());
    }
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn spilled_messages_come_back_although_the_commit_limit_is_smaller_now() {
    let disk = SimDisk::new(7);
    let engine = small_options().delayed_in_memory(1024).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let expected = send_some(&queue, 3000, &mut 31);
    engine.close().unwrap();
    drop((queue, engine));
    let options = small_options().message_bytes_max(200).commit_bytes_max(200);
    let engine = options.sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    disk.advance(100 * SECOND);
    assert_eq!(drain(&queue).len(), expected.len());
}

#[test]
fn fewer_may_be_in_memory_after_a_restart() {
    let disk = SimDisk::new(7);
    let engine = small_options().delayed_in_memory(1024).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let mut expected = send_some(&queue, 3000, &mut 37);
    engine.close().unwrap();
    drop((queue, engine));
    let engine = small_options().delayed_in_memory(2).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let mut came = Vec::new();
    for _ in 1..=100 {
        disk.advance(SECOND);
        came.extend(drain(&queue));
    }
    expected.sort_unstable();
    assert_eq!(came, expected);
}

#[test]
fn messages_of_a_lost_delay_index_come_at_once_from_a_salvaged_store() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    send_some(&queue, 60, &mut 17);
    // The journal must hold nothing of it any more.
    let other = engine.queue("other").create().unwrap();
    for _ in 0..100 {
        other.send(vec![b'x'; 2000]).unwrap();
        take(&other).unwrap().ack().unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, other, engine));
    for path in disk.files().into_iter().filter(|it| it.starts_with("store/meta")) {
        let mut content = disk.content(&path).unwrap();
        let names: Vec<usize> =
            (0..content.len() - 9).filter(|at| content[*at..].starts_with(b"timetable")).collect();
        names.iter().for_each(|at| content[*at] ^= 1);
        disk.plant(&path, Some(content));
    }
    small_options().sim(&disk).salvage("store", "rescued").unwrap();
    let engine = small_options().sim(&disk).open("rescued").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let waiting = queue.delayed().unwrap();
    assert!(waiting < 20, "those alone of which the queue itself knows: {waiting}");
    assert_eq!(drain(&queue).len() as u64, 60 - waiting);
    disk.advance(100 * SECOND);
    assert_eq!(drain(&queue).len() as u64, waiting);
}

/// Messages in memory came due one after the other, and with others on disk only the first one was told of: a dead consumer
/// is what a watch is for.
#[test]
fn a_watch_tells_of_all_that_come_due_beside_messages_on_disk() {
    for delayed in [0, 20] {
        let disk = SimDisk::new(11);
        let engine = small_options().delayed_in_memory(16).sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        let later = |seconds: u32| Message::new("work").deliver_after(seconds * SECOND);
        (0..delayed).for_each(|n| _ = queue.send(later(3600 + n)).unwrap());
        let (tell, told) = std::sync::mpsc::channel();
        let _watch = queue.watch(Threshold::Ready(2), move |alarm| tell.send(alarm).unwrap());
        (1..=3).for_each(|n| _ = queue.send(later(n)).unwrap());
        // Another queue's call does what is due.
        let other = engine.queue("other").create().unwrap();
        for second in 1..=3 {
            disk.advance(SECOND);
            assert_eq!(other.depth().unwrap(), 0);
            let alarms: Vec<Alarm> = told.try_iter().collect();
            let raised: &[Alarm] = if second == 2 { &[Alarm::Raised(2)] } else { &[] };
            assert_eq!(alarms, raised, "{delayed} on disk, after {second} s");
        }
        assert_eq!(queue.stats().unwrap().ready, 3);
    }
}

/// As many messages were due as are kept in memory, so no timer was set: who receives brings back more. The engine moved these
/// to the dead letters, and nobody received.
#[test]
fn letters_from_a_queue_with_messages_on_disk_all_move_without_a_receiver() {
    let disk = SimDisk::new(11);
    let engine = small_options().delayed_in_memory(16).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").backoff(Backoff::Fixed(10 * SECOND)).create().unwrap();
    (0..40).for_each(|n| _ = queue.send(n.to_string()).unwrap());
    (0..40).for_each(|_| take(&queue).unwrap().nack().unwrap());
    assert_eq!(queue.delayed().unwrap(), 40);
    engine.queue("q").max_attempts(1).dead_letter_queue("dead").create_or_update().unwrap();
    let dead = engine.queue("dead").open().unwrap();
    disk.advance(10 * SECOND);
    for _ in 0..20 {
        dead.depth().unwrap();
        disk.advance(SECOND);
    }
    assert_eq!((dead.depth().unwrap(), queue.depth().unwrap()), (40, 0));
}
