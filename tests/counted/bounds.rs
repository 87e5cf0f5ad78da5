//! Bounds that do not grow with the backlog, by counting: memory, the work of opening, bytes written.
//!
//! One test at a time: the memory of the whole process is counted.

use std::time::Duration;

use posthouse::{Durability, Engine, IoMode, Message, Options, Start, sim::SimDisk};

use super::heap::{live, peak_of};

fn options() -> Options {
    Options::new()
        .durability(Durability::Buffered)
        .journal_bytes(256 << 10)
        .journal_file_bytes_min(32 << 10)
        .journal_file_bytes_max(64 << 10)
        .segment_bytes(256 << 10)
        .block_bytes(16 << 10)
        .maps_max(4)
}

const PAYLOAD: [u8; 100] = [7; 100];

fn fill(engine: &Engine, messages: u32) {
    let queue = engine.queue("q").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    for _ in 0..messages / 100 {
        queue.send_batch(std::iter::repeat_n(&PAYLOAD, 100)).unwrap();
        stream.append_batch(std::iter::repeat_n(&PAYLOAD, 100)).unwrap();
    }
    engine.close().unwrap();
}

#[test]
fn memory_does_not_grow_with_the_backlog() {
    alone!();
    let measure = |messages: u32| {
        let dir = tempfile::tempdir().unwrap();
        let open = || options().open(dir.path().join("store")).unwrap();
        let (filling, ()) = peak_of(|| fill(&open(), messages));
        let (opening, engine) = peak_of(open);
        let (using, ()) = peak_of(|| {
            let mut reader = engine.stream("s").open().unwrap().reader(Start::Earliest).unwrap();
            let queue = engine.queue("q").open().unwrap();
            for _ in 0..messages {
                assert!(reader.try_read().unwrap().is_some());
                queue.try_receive().unwrap().unwrap().ack().unwrap();
            }
        });
        [filling, opening, using]
    };
    let (small, large) = (measure(3_000), measure(30_000));
    for (what, (small, large)) in
        ["filling", "opening", "using"].iter().zip(small.iter().zip(large))
    {
        // Ten times the messages: 5 MB more on disk, and next to nothing more in memory. A journal file is zeroed by 64 KiB
        // and a segment written by 64 KiB, at the same time or not.
        assert!(large < small + (200 << 10), "{what}: {small} bytes became {large}");
    }
}

#[test]
fn memory_does_not_grow_with_the_delayed_messages() {
    alone!();
    let hour = Duration::from_secs(3600);
    let measure = |messages: u64| {
        let dir = tempfile::tempdir().unwrap();
        let open = || options().delayed_in_memory(1000).open(dir.path().join("store")).unwrap();
        let (filling, ()) = peak_of(|| {
            let engine = open();
            let queue = engine.queue("q").create().unwrap();
            for n in 0..messages / 100 {
                // In no order, over an hour.
                let delay = |m| hour + Duration::from_secs((n * 100 + m) * 7919 % 3600);
                queue
                    .send_batch((0..100).map(|m| Message::new(&PAYLOAD).deliver_after(delay(m))))
                    .unwrap();
            }
            engine.close().unwrap();
        });
        let (opening, (engine, queue)) = peak_of(|| {
            let engine = open();
            let queue = engine.queue("q").open().unwrap();
            (engine, queue)
        });
        assert_eq!(queue.delayed().unwrap(), messages);
        let (_, count) = peak_of(|| {
            queue
                .browse()
                .unwrap()
                .take(500)
                .filter(|it| it.as_ref().unwrap().due().is_some())
                .count()
        });
        assert_eq!(count, 500);
        engine.close().unwrap();
        [filling, opening]
    };
    let (small, large) = (measure(5_000), measure(50_000));
    for (what, (small, large)) in ["filling", "opening"].iter().zip(small.iter().zip(large)) {
        // 45,000 more, which would take 2.2 MB.
        assert!(large < small + (400 << 10), "{what}: {small} bytes became {large}");
    }
}

#[test]
fn the_work_of_opening_does_not_grow_with_the_backlog() {
    alone!();
    let measure = |messages: u32| {
        let disk = SimDisk::new(1);
        fill(&options().sim(&disk).open("store").unwrap(), messages);
        let (calls, bytes) = (disk.calls(), disk.bytes_read());
        let engine = options().sim(&disk).open("store").unwrap();
        engine.queue("q").open().unwrap();
        let segments = disk.files().iter().filter(|it| it.starts_with("store/segments")).count();
        (disk.calls() - calls, disk.bytes_read() - bytes, segments as u64)
    };
    let (small, large) = (measure(5_000), measure(40_000));
    assert!(large.2 > 3 * small.2 && large.2 > 20, "{small:?} {large:?}");
    // One read of each segment, and its entry in the metalog; the journal is as long as it may be.
    assert!(large.0 <= small.0 + (large.2 - small.2) + 60, "{small:?} {large:?}");
    assert!(large.1 <= small.1 + 200 * (large.2 - small.2) + (400 << 10), "{small:?} {large:?}");
    assert!(large.1 < 1 << 20, "{large:?}");
}

#[test]
fn a_queue_whose_consumers_keep_up_never_leaves_the_journal() {
    alone!();
    for subscriptions in [0, 3] {
        let disk = SimDisk::new(1);
        let engine = options().sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        let topic = engine.topic("t").create().unwrap();
        let names = (0..subscriptions).map(|n| format!("s{n}"));
        let all: Vec<_> = names.map(|it| topic.subscription(&it).create().unwrap()).collect();
        // A hundred messages are under way all the time.
        for n in 0..8_000 {
            queue.send(&PAYLOAD).unwrap();
            topic.publish(&PAYLOAD).unwrap();
            if n >= 100 {
                queue.try_receive().unwrap().unwrap().ack().unwrap();
                for subscription in &all {
                    subscription.try_receive().unwrap().unwrap().ack().unwrap();
                }
            }
        }
        assert!(disk.bytes_written("journal") > 8 * (256 << 10), "it was checkpointed many times");
        assert_eq!(disk.bytes_written("segments"), 0);
        assert!(disk.bytes_used() < 1 << 20, "{} bytes are used", disk.bytes_used());
    }
}

#[test]
fn space_returns_when_all_subscriptions_have_acked() {
    alone!();
    let disk = SimDisk::new(1);
    let engine = options().sim(&disk).open("store").unwrap();
    let topic = engine.topic("t").create().unwrap();
    let subscriptions = ["a", "b"].map(|name| topic.subscription(name).create().unwrap());
    for _ in 0..10_000 {
        topic.publish(&PAYLOAD).unwrap();
    }
    // Stored once, however many subscribe.
    let written = disk.bytes_written("segments");
    assert!((600_000..1_300_000).contains(&written), "{written}");
    for subscription in &subscriptions {
        assert!(disk.bytes_used() > 750_000);
        while let Some(delivery) = subscription.try_receive().unwrap() {
            delivery.ack().unwrap();
        }
    }
    assert!(disk.bytes_used() < 1_200_000, "{} bytes are used", disk.bytes_used());
}

#[test]
fn an_empty_store_is_small() {
    alone!();
    let disk = SimDisk::new(1);
    let engine = Options::new().sim(&disk).open("store").unwrap();
    engine.queue("q").create().unwrap();
    engine.close().unwrap();
    assert!(disk.bytes_used() < 2 << 20, "{} bytes", disk.bytes_used());
    for opening in 0..25 {
        let engine = Options::new().sim(&disk).open("store").unwrap();
        if opening % 3 == 0 {
            let queue = engine.queue("q").open().unwrap();
            queue.send("a").unwrap();
            queue.try_receive().unwrap().unwrap().ack().unwrap();
        }
        engine.close().unwrap();
        assert!(disk.bytes_used() < 3 << 20, "{} bytes after opening {opening}", disk.bytes_used());
    }
}

#[test]
fn at_most_so_many_segments_are_open() {
    alone!();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = options().maps_max(3).open(&path).unwrap();
    let stream = engine.stream("s").partitions(32).create().unwrap();
    for n in 0..8_000 {
        let message = Message::new(&PAYLOAD).key(format!("key {n}"));
        stream.append(message).unwrap();
    }
    engine.checkpoint().unwrap();
    assert_eq!(stream.reader(Start::Earliest).unwrap().count(), 8_000);
    if cfg!(target_os = "linux") {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let open = maps.lines().filter(|line| line.contains(".seg")).count();
        assert!((1..=3).contains(&open), "{open} segments are mapped");
    }
}

#[test]
fn queues_that_come_and_go_leave_nothing_in_memory() {
    alone!();
    let dir = tempfile::tempdir().unwrap();
    let engine = options().open(dir.path().join("store")).unwrap();
    let come_and_go = |count: u32| {
        for n in 0..count {
            let queue = engine.queue(&n.to_string()).create().unwrap();
            queue.send("a").unwrap();
            engine.queue(&n.to_string()).delete().unwrap();
        }
        engine.checkpoint().unwrap();
        engine.checkpoint().unwrap();
        live()
    };
    // The memory that is kept for later varies; it does not grow.
    let most_of_three = || (0..3).map(|_| come_and_go(2_000)).max().unwrap();
    let (before, after) = (most_of_three(), most_of_three());
    assert!(after < before + (50 << 10), "{before} bytes became {after}");
}

/// Each of many threads waits for its own commits, and they share the syncs; one thread has a sync
/// for each commit.
#[test]
fn threads_that_wait_share_a_sync() {
    alone!();
    let disk = SimDisk::new(1);
    // The disk is slow by its own clock, so a leader waits for others, long enough on any machine.
    disk.set_sync_time(Duration::from_millis(100));
    let engine = Options::new().sim(&disk).open("store").unwrap();
    let topic = engine.topic("t").create().unwrap();
    let commits_a_flush = |threads: u64, commits: u64| {
        let before = engine.flushes();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..commits).for_each(|_| _ = topic.publish(&PAYLOAD).unwrap()));
            }
        });
        (threads * commits) as f64 / (engine.flushes() - before) as f64
    };
    assert_eq!(commits_a_flush(1, 50), 1.0);
    let shared = commits_a_flush(64, 50);
    assert!((16.0..=64.0).contains(&shared), "{shared} commits a flush");
    assert_eq!(commits_a_flush(1, 50), 1.0);
}

/// A lone writer does not wait for threads that have ended. Threads that come again share syncs again.
#[test]
fn a_lone_writer_does_not_wait_for_threads_that_ended() {
    alone!();
    let disk = SimDisk::new(1);
    disk.set_sync_time(Duration::from_millis(100));
    let engine = Options::new().sim(&disk).open("store").unwrap();
    let topic = engine.topic("t").create().unwrap();
    let rounds = |threads: usize| {
        let all = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    all.wait();
                    (0..50).for_each(|_| _ = topic.publish(&PAYLOAD).unwrap());
                });
            }
        });
    };
    let began = std::time::Instant::now();
    for threads in [8, 1, 16, 2, 1] {
        rounds(threads);
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

fn bytes_below(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.metadata().map_or(0, |it| it.len())).sum()
}

/// Producers that are faster than the disk wait. Neither the journal nor the heap grows instead.
#[test]
fn a_journal_that_is_not_freed_fast_enough_makes_senders_wait() {
    alone!();
    let dir = tempfile::tempdir().unwrap();
    let options = options().journal_bytes(1 << 20).journal_file_bytes_max(128 << 10);
    let engine = options.open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let journal = dir.path().join("store/journal");
    let mut longest = 0;
    let (heap, ()) = peak_of(|| {
        for n in 0..3_000 {
            queue.send_batch(std::iter::repeat_n(&[1; 1000], 10)).unwrap();
            if n % 20 == 0 {
                longest = longest.max(bytes_below(&journal));
            }
        }
    });
    // Twice the length that begins a checkpoint, the current file, the next one, and the files that will be
    // filled again.
    assert!(longest < (2 << 20) + (1 << 20), "the journal took up {longest} bytes");
    assert!(heap < 2 << 20, "the heap took up {heap} bytes");
    assert_eq!(queue.depth().unwrap(), 30_000);
}

/// A received message is not copied: it lies in a mapped file.
#[cfg(target_os = "linux")]
#[test]
fn a_delivery_lies_in_the_mapped_file() {
    alone!();
    let dir = tempfile::tempdir().unwrap();
    let engine = options().io(IoMode::Map).open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch([&PAYLOAD, &PAYLOAD]).unwrap();
    for kind in [".journal", ".seg"] {
        let delivery = queue.try_receive().unwrap().unwrap();
        assert_eq!(mapped_file(delivery.payload().as_ptr() as usize).as_deref(), Some(kind));
        // And it stays there when the engine drops the file.
        engine.checkpoint().unwrap();
        delivery.ack().unwrap();
        engine.checkpoint().unwrap();
        assert_eq!(delivery.payload(), PAYLOAD);
    }
}

/// The ending of the file that is mapped at an address.
#[cfg(target_os = "linux")]
fn mapped_file(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let number = |hex| usize::from_str_radix(hex, 16).unwrap();
        (number(start)..number(end)).contains(&address)
    };
    let path = maps.lines().find(holds)?.split_whitespace().nth(5)?;
    let name = path.trim_end_matches(" (deleted)");
    name.rfind('.').map(|dot| name[dot..].to_owned())
}

/// A commit of 256 B writes the page that it is in, and not the folio around it.
#[cfg(target_os = "linux")]
#[test]
fn a_sync_commit_writes_at_most_two_pages() {
    alone!();
    let dir = tempfile::tempdir().unwrap();
    let Some(before) = written_by_this_process() else {
        eprintln!("skipped: the kernel does not count what a process writes");
        return;
    };
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let topic = engine.topic("t").create().unwrap();
    topic.publish(&[1; 256]).unwrap();
    if written_by_this_process() == Some(before) {
        eprintln!("skipped: the temporary directory is not on a disk");
        return;
    }
    // Let the engine's thread first prepare the next file, which it zeroes.
    let mut counted = written_by_this_process();
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = written_by_this_process();
        if now == counted {
            break;
        }
        counted = now;
    }
    const COMMITS: u64 = 400;
    for _ in 0..COMMITS {
        topic.publish(&[1; 256]).unwrap();
    }
    let written = written_by_this_process().unwrap() - counted.unwrap();
    assert!(written > 0 && written <= COMMITS * 8192, "{} bytes a commit", written / COMMITS);
}

#[cfg(target_os = "linux")]
fn written_by_this_process() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

#[test]
fn the_work_of_an_expired_message_does_not_grow_with_the_messages_that_live() {
    alone!();
    let second = Duration::from_secs(1);
    let measure = |messages: u32| {
        let disk = SimDisk::new(9);
        let open = || options().io(IoMode::Calls).sim(&disk).open("store").unwrap();
        let engine = open();
        let queue = engine.queue("q").time_to_live(Duration::from_secs(86_400)).create().unwrap();
        for _ in 0..messages / 100 {
            queue.send_batch(std::iter::repeat_n(&PAYLOAD, 100)).unwrap();
            engine.checkpoint().unwrap();
        }
        queue.send(Message::new("brief").expire_after(second)).unwrap();
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        drop((queue, engine));
        let (engine, steps) = (open(), disk.calls());
        let queue = engine.queue("q").open().unwrap();
        disk.advance(second);
        let read = disk.bytes_read();
        let (memory, stats) = peak_of(|| queue.stats().unwrap());
        assert_eq!((stats.expired, stats.depth), (1, u64::from(messages)));
        let first = (disk.bytes_read() - read, disk.calls() - steps);
        // Another look finds that nothing else ends before its time.
        disk.advance(60 * second);
        let read = disk.bytes_read();
        engine.checkpoint().unwrap();
        assert_eq!(queue.stats().unwrap().expired, 1);
        assert!(disk.bytes_read() - read < 10_000);
        (first, memory)
    };
    let (small, large) = (measure(10_000), measure(100_000));
    let ((bytes, calls), memory) = small;
    let ((more_bytes, more_calls), more_memory) = large;
    // It reads the part of the log in which the message is.
    assert!(bytes < 1 << 20, "{bytes} bytes");
    assert!(more_bytes < bytes + (300 << 10), "{bytes} bytes became {more_bytes}");
    assert!(more_calls < calls + 500, "{calls} calls became {more_calls}");
    assert!(more_memory < memory + (100 << 10), "{memory} bytes became {more_memory}");
}
