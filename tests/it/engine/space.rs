//! Space comes back by itself: nobody calls `checkpoint`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use posthouse::{Durability, Engine, ErrorKind, Options, Queue, sim::SimDisk};

const SEGMENT: u64 = 256 << 10;
const MESSAGES: usize = 8_000;
/// One message in so many is never acked, the first one of the queue among them.
const STAYS: usize = 1_000;
const PAYLOAD: usize = 1_000;

fn options() -> Options {
    Options::new()
        .durability(Durability::Buffered)
        .journal_bytes(1 << 20)
        .journal_file_bytes_max(256 << 10)
        .segment_bytes(SEGMENT)
        .block_bytes(8 << 10)
}

/// Moves messages into segments, and acks nearly all of them.
fn leave_stragglers(engine: &Engine) -> Queue {
    let queue = engine.queue("q").create().unwrap();
    for _ in 0..MESSAGES / 100 {
        queue.send_batch((0..100).map(|_| vec![b'x'; PAYLOAD])).unwrap();
    }
    engine.checkpoint().unwrap();
    let mut n = 0;
    let mut stay = Vec::new();
    while n < MESSAGES {
        let mut batch = queue.receive_batch(100, Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 100);
        if n % STAYS == 0 {
            stay.push(batch.swap_remove(0));
        }
        n += 100;
        queue.ack_batch(&batch).unwrap();
    }
    std::mem::forget(stay);
    queue
}

fn bytes_of_segments(disk: &SimDisk) -> u64 {
    let all = disk.files().into_iter().filter(|path| path.starts_with("store/segments"));
    all.map(|path| disk.content(&path).unwrap().len() as u64).sum()
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(Result::unwrap);
    entries
        .map(|it| match it.metadata() {
            Ok(found) if found.is_dir() => bytes_in(&it.path()),
            Ok(found) => found.len(),
            // It was removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// The first message of a queue was not acked. So no segment was dead as a whole at the front, and the space of all
/// others stayed until the next checkpoint, of which there was none.
#[test]
fn messages_that_died_behind_one_that_stays_give_their_space_back() {
    let disk = SimDisk::new(1);
    let engine = options().sim(&disk).open("store").unwrap();
    let queue = leave_stragglers(&engine);
    let found = bytes_of_segments(&disk);
    assert!(found <= 3 * SEGMENT, "{found} bytes in segments");
    assert_eq!(queue.depth().unwrap(), (MESSAGES / STAYS) as u64);
    drop(engine);
    disk.kill();
    let engine = options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    assert_eq!(queue.depth().unwrap(), (MESSAGES / STAYS) as u64);
}

/// A store that nobody uses is small after some time.
#[test]
fn an_idle_store_gives_its_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let idle = Duration::from_millis(200);
    let engine = options().sync_interval(Duration::from_millis(10)).idle_after(idle).open(&store);
    let engine = engine.unwrap();
    let queue = leave_stragglers(&engine);
    let few = (MESSAGES / STAYS * PAYLOAD) as u64;
    let began = Instant::now();
    let mut found = u64::MAX;
    while found > 2 * few + 4096 {
        found = bytes_in(&store.join("segments"));
        assert!(began.elapsed() < Duration::from_secs(60), "{found} bytes in segments");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(queue.depth().unwrap(), (MESSAGES / STAYS) as u64);
}

#[test]
fn a_time_that_no_store_can_be_idle_after_is_refused() {
    for idle in [Duration::ZERO, Duration::MAX] {
        let opened = Options::new().idle_after(idle).sim(&SimDisk::new(1)).open("store");
        let kind = opened.err().map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::InvalidInput { field: "idle_after" }));
    }
}
