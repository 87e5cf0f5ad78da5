//! What a hostile review has found, so that it stays found: each test failed once. The last two
//! never did, and are what the review tried in vain.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use model::{drain, rot_first_record, small_options};
use posthouse::{
    Durability, Engine, Error, ErrorKind, IoMode, Offset, Options, Start, sim::SimDisk,
};

const EIO: i32 = 5;
const EMFILE: i32 = 24;

fn open(disk: &SimDisk) -> Result<Engine, Error> {
    small_options().sim(disk).open("store")
}

#[derive(Default)]
struct Count(AtomicU64);
impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
impl Count {
    fn woken(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, count: &Arc<Count>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(count));
    Pin::new(future).poll(&mut Context::from_waker(&waker))
}

/// `close` lets others in while a checkpoint of another thread goes on in the directory.
#[test]
fn close_waits_for_a_checkpoint_that_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let buffered = || Options::new().durability(Durability::Buffered);
    let engine = buffered().open(&path).unwrap();
    let queue = engine.queue("q").create().unwrap();
    engine.queue("q2").create().unwrap();
    for _ in 0..20 {
        queue.send_batch(std::iter::repeat_n(&[7u8; 100], 1000)).unwrap();
    }
    engine.close().unwrap();
    drop((queue, engine));

    // Small segments make the checkpoint slow; settings may differ from life to life.
    let engine = buffered().segment_bytes(4096).block_bytes(512).open(&path).unwrap();
    let other = engine.clone();
    let checkpoint = thread::spawn(move || other.checkpoint());
    thread::sleep(Duration::from_millis(30));
    engine.close().unwrap();
    // Its thread may not have been scheduled since; a checkpoint that goes on takes seconds.
    let closed = Instant::now();
    while !checkpoint.is_finished() && closed.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(1));
    }
    let running = !checkpoint.is_finished();
    // The lock is free: whoever comes now relies on having the directory alone.
    let next = buffered().open(&path).unwrap();
    let q2 = next.queue("q2").open().unwrap();
    q2.durability(Durability::Sync).send_batch(std::iter::repeat_n(&[8u8; 100], 1000)).unwrap();
    next.checkpoint().unwrap();
    let made = checkpoint.join().unwrap();
    next.close().unwrap();
    drop((q2, next, engine));
    eprintln!("running when close had returned: {running}, and then {made:?}");
    let engine = buffered().open(&path).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 20_000);
    assert_eq!(drain(&engine.queue("q2").open().unwrap()).len(), 1000);
    assert_eq!(drain(&engine.queue("q").open().unwrap()).len(), 20_000);
    assert!(!running, "it was still running");
}

/// A subscription that is opened between a publish and its sync is not woken by that sync.
#[test]
fn a_subscriber_that_comes_before_the_sync_is_woken_by_it() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    engine.topic("t").create().unwrap().subscription("s").create().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk).unwrap();
    let topic = engine.topic("t").open().unwrap();
    let ticket = topic.publish_ticket("a").unwrap();
    let subscription = topic.subscription("s").open().unwrap();
    let (mut received, count) = (subscription.receive_async(), Arc::new(Count::default()));
    assert!(poll(&mut received, &count).is_pending(), "it is not durable yet");
    ticket.wait().unwrap();
    assert_eq!(count.woken(), 1, "it can be received, and nobody has told the one that waits");
    assert!(poll(&mut received, &count).is_ready());
}

/// The same with threads, and nothing exotic: the consumer waits for its whole timeout.
#[test]
fn a_subscriber_that_comes_before_the_sync_is_woken_by_it_with_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Engine::open(&path).unwrap();
    engine.topic("t").create().unwrap().subscription("s").create().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = Engine::open(&path).unwrap();
    let topic = engine.topic("t").open().unwrap();
    topic.durability(Durability::Buffered).publish("a").unwrap();
    let subscription = topic.subscription("s").open().unwrap();
    let began = Instant::now();
    assert!(subscription.receive(Duration::from_secs(3)).unwrap().is_some());
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
}

/// A failed sync is told to all who wait for it, and to all who come later; nobody hangs.
#[test]
fn a_failed_sync_fails_all_who_wait() {
    for (which, sync_time) in (0..20).flat_map(|which| [(which, 0), (which, 100)]) {
        let disk = SimDisk::new(which);
        disk.set_sync_time(Duration::from_millis(sync_time));
        let engine = open(&disk).unwrap();
        let queue = engine.queue("q").create().unwrap();
        disk.fail_sync(which, 5);
        let durable: usize = thread::scope(|scope| {
            let send_until_it_fails = || {
                let mut durable = 0;
                loop {
                    match queue.send("a") {
                        Ok(_) => durable += 1,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Poisoned);
                            return durable;
                        }
                    }
                }
            };
            let all: Vec<_> = (0..16).map(|_| scope.spawn(send_until_it_fails)).collect();
            all.into_iter().map(|it| it.join().unwrap()).sum()
        });
        disk.power_cut();
        drop((engine, queue));
        let engine = open(&disk).unwrap();
        let there = engine.queue("q").open().unwrap().depth().unwrap();
        assert!(there >= durable as u64, "{durable} were durable, {there} are there");
    }
}

struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

/// An application's waker that panics is its own affair: others are woken, the engine goes on.
#[test]
fn a_waker_that_panics_keeps_nobody_asleep() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let topic = engine.topic("t").create().unwrap();
    let subscriptions = ["a", "b"].map(|name| topic.subscription(name).create().unwrap());
    let mut all = subscriptions.each_ref().map(|it| (it.receive_async(), it.receive_async()));
    let count = Arc::new(Count::default());
    let panicking = Waker::from(Arc::new(Panicking));
    for (first, second) in &mut all {
        assert!(Pin::new(first).poll(&mut Context::from_waker(&panicking)).is_pending());
        assert!(poll(second, &count).is_pending());
    }
    topic.publish("a").unwrap();
    assert_eq!(count.woken(), 2);
    for (_, second) in &mut all {
        assert!(poll(second, &count).is_ready());
    }
}

/// A task that was woken and does not want it any more has the next one woken.
#[test]
fn a_task_that_is_dropped_passes_its_wake_up_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let [first, second] = [(); 2].map(|()| Arc::new(Count::default()));
    let (mut one, mut other) = (queue.receive_async(), queue.receive_async());
    assert!(poll(&mut one, &first).is_pending());
    assert!(poll(&mut other, &second).is_pending());
    queue.send("a").unwrap();
    assert_eq!((first.woken(), second.woken()), (1, 0));
    drop(one);
    assert_eq!(second.woken(), 1, "the message is there, and the one that waits was not told");
    assert!(poll(&mut other, &second).is_ready());
}

/// A waiter that was woken and then fails to read takes the wake-up with it.
#[test]
fn a_failed_read_passes_its_wake_up_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch(["a".repeat(400), "b".repeat(400)]).unwrap();
    engine.checkpoint().unwrap();
    let first = queue.try_receive().unwrap().unwrap();
    // This one's block takes the place of the first one's.
    let _second = queue.try_receive().unwrap().unwrap();
    let (mut one, one_count) = (queue.receive_async(), Arc::new(Count::default()));
    let (mut two, two_count) = (queue.receive_async(), Arc::new(Count::default()));
    assert!(poll(&mut one, &one_count).is_pending());
    assert!(poll(&mut two, &two_count).is_pending());
    first.nack().unwrap();
    assert_eq!((one_count.woken(), two_count.woken()), (1, 0));
    disk.fail_call(disk.calls(), EMFILE, false);
    let Poll::Ready(Err(error)) = poll(&mut one, &one_count) else {
        panic!("the read was to fail")
    };
    assert_eq!(error.kind(), ErrorKind::Io);
    drop(one);
    assert_eq!(two_count.woken(), 1, "the message is there, and nobody is told");
    assert!(poll(&mut two, &two_count).is_ready());
}

/// A sync that fails while a full disk is dealt with is the end, as any other.
#[test]
fn a_failed_sync_on_a_full_disk_poisons() {
    let mut poisoned = 0;
    for missing in (0..48 << 10).step_by(12 << 10) {
        // Live messages for which there may be no room in segments; the metalog still has some.
        let prepare = || {
            let disk = SimDisk::new(1);
            let engine = open(&disk).unwrap();
            let queue = engine.queue("q").create().unwrap();
            let other = engine.queue("other").create().unwrap();
            for n in 0..40 {
                other.send(format!("{n} {}", "x".repeat(300))).unwrap();
            }
            engine.checkpoint().unwrap();
            for n in 0..50 {
                queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
            }
            disk.set_capacity(Some(disk.bytes_used() - missing));
            (disk, engine)
        };
        let (disk, engine) = prepare();
        let from = disk.calls();
        if engine.checkpoint().is_ok() {
            continue;
        }
        for call in from..disk.calls() {
            let (disk, engine) = prepare();
            disk.fail_call(call, EIO, false);
            let error = engine.checkpoint().err().map(|error| error.kind());
            disk.heal();
            let after = engine.sync().err().map(|error| error.kind());
            let is_poison = after == Some(ErrorKind::Poisoned);
            assert!(!is_poison || error == after, "it was poisoned, and nobody was told");
            poisoned += usize::from(is_poison);
        }
    }
    assert!(poisoned >= 2, "the file's sync and the directory's should poison");
}

/// One flipped bit in the header of the newest journal file loses all of its commits silently.
#[test]
fn rot_in_the_header_of_the_newest_journal_file_is_found() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("first life").unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    // A disk on which there is no room for the next file.
    let engine = open(&disk).unwrap();
    // Enough for the reserve.
    disk.set_capacity(Some(disk.bytes_used() + (16 << 10)));
    let queue = engine.queue("q").open().unwrap();
    for n in 0..10 {
        queue.send(format!("second life {n}")).unwrap();
    }
    engine.close().unwrap();
    drop((queue, engine));
    disk.set_capacity(None);
    let journals = disk.files().into_iter().filter(|it| it.starts_with("store/journal"));
    let newest = journals.max().unwrap();
    let mut content = disk.content(&newest).unwrap();
    content[100] ^= 1;
    disk.plant(&newest, Some(content));
    match open(&disk) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
        Ok(engine) => assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 11),
    }
}

/// A stray file with a large number in its name.
#[test]
fn a_stray_journal_file_is_no_panic_and_no_loss() {
    let mut failures = Vec::new();
    for number in [u64::MAX, 1 << 63, 1 << 62, (1 << 62) - 4096] {
        let disk = SimDisk::new(1);
        let engine = open(&disk).unwrap();
        engine.queue("q").create().unwrap().send("a").unwrap();
        engine.close().unwrap();
        drop(engine);
        let stray = std::path::PathBuf::from(format!("store/journal/{number:020}.journal"));
        disk.plant(&stray, Some(b"junk".to_vec()));
        let opened = std::panic::catch_unwind(|| open(&disk));
        let Ok(opened) = opened else {
            failures.push(format!("{number}: it panicked"));
            continue;
        };
        let Ok(engine) = opened else { continue };
        let queue = engine.queue("q").open().unwrap();
        queue.send("b").unwrap();
        engine.close().unwrap();
        drop((queue, engine));
        match open(&disk) {
            Err(error) => failures.push(format!("{number}: {error:?}")),
            Ok(engine) => match engine.queue("q").open().unwrap().depth().unwrap() {
                2 => {}
                depth => failures.push(format!("{number}: {depth} of 2 durable messages")),
            },
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One rotten block in a queue that nobody reads stops the whole store.
#[test]
fn a_damaged_block_does_not_stop_other_queues() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("rotten").create().unwrap();
    engine.queue("fine").create().unwrap();
    for n in 0..60 {
        queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    rot_first_record(&disk);

    let engine = open(&disk).unwrap();
    let queue = engine.queue("rotten").open().unwrap();
    let mut held = Vec::new();
    for _ in 0..200 {
        if let Ok(Some(delivery)) = queue.try_receive() {
            held.push(delivery);
        }
    }
    // All are acked but those of the damaged block: most of its segment is dead.
    for delivery in &held {
        delivery.ack().unwrap();
    }
    drop(held);
    let fine = engine.queue("fine").open().unwrap();
    for n in 0..1000 {
        fine.send(vec![1; 300]).unwrap_or_else(|error| panic!("send {n}: {error:?}"));
        let delivery = fine.try_receive().unwrap().unwrap();
        delivery.ack().unwrap_or_else(|error| panic!("ack {n}: {error:?}"));
    }
    engine.checkpoint().unwrap();
}

/// On a full disk a backlog of small messages can be acked, whatever the disk's size.
#[test]
fn on_a_full_disk_acks_always_work() {
    let mut failures = Vec::new();
    for pages in (30..90).step_by(6) {
        for (size, segment) in [(40usize, 1 << 20), (900, 1 << 20), (40, 4096), (900, 4096)] {
            let disk = SimDisk::new(1);
            let options = small_options().segment_bytes(segment).durability(Durability::Buffered);
            let engine = options.sim(&disk).open("store").unwrap();
            let queue = engine.queue("q").create().unwrap();
            disk.set_capacity(Some(pages * 4096));
            let mut sent = 0;
            while queue.send(vec![1; size]).is_ok() {
                sent += 1;
            }
            for n in 0..sent {
                let delivery = match queue.try_receive() {
                    Ok(Some(delivery)) => delivery,
                    other => {
                        failures.push(format!("{pages} pages, {size} B, receive {n}: {other:?}"));
                        break;
                    }
                };
                if let Err(error) = delivery.ack() {
                    let deleted = engine.queue("q").delete();
                    let what = format!("{size} B in segments of {segment}, ack {n} of {sent}");
                    failures.push(format!("{pages} pages, {what}: {error}; delete: {deleted:?}"));
                    std::mem::forget(delivery);
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// "Groups and readers that have not come so far skip them."
#[test]
fn a_reader_skips_what_was_trimmed_meanwhile() {
    for checkpoint in [false, true] {
        let disk = SimDisk::new(1);
        let engine = open(&disk).unwrap();
        let stream = engine.stream("s").create().unwrap();
        stream.append_batch((0..20).map(|n| n.to_string())).unwrap();
        if checkpoint {
            engine.checkpoint().unwrap();
        }
        let mut reader = stream.reader(Start::Earliest).unwrap();
        stream.partition(0).unwrap().trim_before(Offset(10)).unwrap();
        let first = reader.try_read().unwrap().unwrap().offset();
        assert_eq!(first, Offset(10), "checkpointed {checkpoint}");
    }
}

/// A run of the journal that is damaged under a reader's hands is reported until it is whole again:
/// a reader that is asked once more does not go on behind it.
#[test]
fn a_reader_does_not_skip_a_damaged_run() {
    use std::{fs::File, os::unix::fs::FileExt};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Options::new().io(IoMode::Map).open(&path).unwrap();
    let stream = engine.stream("s").create().unwrap();
    for payload in ["the first", "the second", "the third"] {
        stream.append(payload).unwrap();
    }
    let journal = std::fs::read_dir(path.join("journal")).unwrap();
    let journal = journal.map(|it| it.unwrap().path());
    let find = |file: &std::path::PathBuf| {
        let content = std::fs::read(file).unwrap();
        content.windows(10).position(|it| it == b"the second")
    };
    let (file, at) = journal.filter_map(|it| find(&it).map(|at| (it, at))).next().unwrap();
    let file = File::options().read(true).write(true).open(file).unwrap();
    // The end of the run's header: how long it is, and how long its record.
    let (mut before, at) = ([0; 6], at as u64 - 6);
    file.read_exact_at(&mut before, at).unwrap();

    let mut reader = stream.reader(Start::Earliest).unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the first");
    file.write_all_at(&[0xFF; 6], at).unwrap();
    for _ in 0..3 {
        assert_eq!(reader.try_read().unwrap_err().kind(), ErrorKind::Corrupt);
    }
    file.write_all_at(&before, at).unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the second");
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the third");
}

/// A lease that was made shorter wakes those who wait when it ends.
#[test]
fn a_lease_that_was_made_shorter_ends_for_those_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    held.extend(Duration::from_millis(50)).unwrap();
    let began = Instant::now();
    let again = queue.receive(Duration::from_secs(3)).unwrap();
    assert!(again.is_some());
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
}

/// A queue that was drained gives its segments back.
#[cfg(target_os = "linux")]
#[test]
fn a_dropped_segment_does_not_stay_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r15-store");
    let engine = Options::new().io(IoMode::Map).open(&path).unwrap();
    for n in 0..20 {
        let queue = engine.queue(&format!("q{n}")).create().unwrap();
        queue.send_batch(std::iter::repeat_n(&[7u8; 1000], 1000)).unwrap();
    }
    engine.checkpoint().unwrap();
    for n in 0..20 {
        let queue = engine.queue(&format!("q{n}")).create().unwrap();
        let mut tx = engine.transaction();
        let all = queue.receive_batch(1000, Duration::ZERO).unwrap();
        assert_eq!(all.len(), 1000);
        all.iter().for_each(|it| _ = tx.ack(it));
        tx.commit().unwrap();
    }
    engine.checkpoint().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let pinned =
        maps.lines().filter(|it| it.contains("r15-store") && it.contains(".seg (deleted)"));
    assert_eq!(pinned.count(), 0, "deleted segments are still mapped, so their space is not free");
}

/// A second `close` says how it went, too.
#[test]
fn a_second_close_does_not_say_that_all_is_well() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let _ticket = queue.send_ticket("a").unwrap();
    disk.fail_call(disk.calls(), EIO, false);
    assert_eq!(engine.close().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(engine.close().is_err(), "the second close says Ok, and the message is lost");
}

/// Eight threads for a while: nothing hangs, nothing is lost, nothing comes twice after its
/// ack. Not a failing test: what it exercises held. `POSTHOUSE_SECONDS` makes it longer.
#[test]
fn many_threads() {
    use std::{
        collections::HashSet,
        sync::{Mutex, atomic::AtomicBool},
    };
    let seconds =
        std::env::var("POSTHOUSE_SECONDS").ok().and_then(|it| it.parse().ok()).unwrap_or(5);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let io =
        if std::env::var_os("POSTHOUSE_CALLS").is_some() { IoMode::Calls } else { IoMode::Auto };
    let engine = small_options().io(io).open(&path).unwrap();
    let (a, b) = (engine.queue("a").create().unwrap(), engine.queue("b").create().unwrap());
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
            // From a to b in one transaction, sometimes given up.
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
