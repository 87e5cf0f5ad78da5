//! Group commit and wake-ups: the cost of waiting, beside the cost of the bare primitives.
//!
//! The sides run alternately within one run, and the bench prints medians over the laps. Compare only figures
//! of one run. The store lies in the temporary directory: set `TMPDIR` to the disk that you want to measure.
//! Run it with `cargo bench --manifest-path benches/engine/Cargo.toml --bench group`, or with the names of
//! some rows: `-- 1 2 8 64 tickets wake`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Barrier, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use posthouse::{Durability, Engine, Options, Queue, Topic};

const PAYLOAD: [u8; 100] = [7; 100];
const LAPS: usize = 9;

struct Store {
    // Closed before the directory is removed.
    engine: Engine,
    _dir: tempfile::TempDir,
}

impl Store {
    fn new(durability: Durability) -> Store {
        let dir = tempfile::tempdir().unwrap();
        // Large enough not to be followed by another, which would be zeroed meanwhile.
        let options = Options::new().durability(durability).journal_file_bytes_min(8 << 20);
        let engine = options.open(dir.path().join("store")).unwrap();
        Store { engine, _dir: dir }
    }

    /// Without a subscription a published message is acked at once: the cost of the journal alone.
    fn topic(&self) -> Topic {
        self.engine.topic("t").create().unwrap()
    }
}

/// A file that was written and synced once, as the journal's files are, and is written in place.
struct Bare {
    file: File,
    at: u64,
}

impl Bare {
    const PAGES: u64 = 1024;

    fn new() -> Bare {
        let file = tempfile::tempfile().unwrap();
        (0..Bare::PAGES).for_each(|page| file.write_all_at(&[0; 4096], page * 4096).unwrap());
        file.sync_all().unwrap();
        Bare { file, at: 0 }
    }

    /// A record of the size of a commit, appended and synced.
    fn commit(&mut self) {
        self.at = (self.at + 160) % ((Bare::PAGES - 1) * 4096);
        self.file.write_all_at(&[7; 160], self.at).unwrap();
        self.file.sync_data().unwrap();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(count: usize, act: impl FnOnce()) -> f64 {
    let began = Instant::now();
    act();
    count as f64 / began.elapsed().as_secs_f64()
}

fn written_by_this_process() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// Lets the checkpointer prepare its next file, so that this does not count.
fn settle() {
    let mut before = None;
    while written_by_this_process() != before {
        before = written_by_this_process();
        thread::sleep(Duration::from_millis(300));
    }
}

fn one_thread() {
    const COMMITS: usize = 500;
    let store = Store::new(Durability::Sync);
    let (topic, mut bare) = (store.topic(), Bare::new());
    let publish = || (0..COMMITS).for_each(|_| _ = topic.publish(&PAYLOAD).unwrap());
    publish();
    settle();
    let (mut ours, mut limit, mut ratios, mut bytes) = (vec![], vec![], vec![], 0);
    let before = store.engine.flushes();
    for _ in 0..LAPS {
        limit.push(rate(COMMITS, || (0..COMMITS).for_each(|_| bare.commit())));
        let written = written_by_this_process();
        ours.push(rate(COMMITS, publish));
        bytes += written_by_this_process().zip(written).map_or(0, |(after, it)| after - it);
        ratios.push(ours[ours.len() - 1] / limit[limit.len() - 1]);
    }
    let commits = (COMMITS * LAPS) as f64;
    println!(
        "sync, 1 thread: {:.0}/s; pwrite and fdatasync {:.0}/s; ratio {:.2}; \
         {:.3} flushes and {:.0} B written a commit",
        median(&mut ours),
        median(&mut limit),
        median(&mut ratios),
        (store.engine.flushes() - before) as f64 / commits,
        bytes as f64 / commits,
    );
}

fn many_threads(threads: usize) {
    let mut bare = Bare::new();
    let commits = 200 + 12_800 / threads;
    let store = Store::new(Durability::Sync);
    let topic = store.topic();
    let (mut ours, mut limit, mut shares) = (vec![], vec![], vec![]);
    for _ in 0..LAPS {
        limit.push(rate(300, || (0..300).for_each(|_| bare.commit())));
        let before = store.engine.flushes();
        let barrier = Barrier::new(threads + 1);
        let work = || {
            barrier.wait();
            (0..commits).for_each(|_| _ = topic.publish(&PAYLOAD).unwrap());
        };
        thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            barrier.wait();
            ours.push(rate(commits * threads, || {
                all.into_iter().for_each(|it| it.join().unwrap());
            }));
        });
        shares.push((commits * threads) as f64 / (store.engine.flushes() - before) as f64);
    }
    println!(
        "sync, {threads} threads: {:.0}/s; {:.1} commits a flush; pwrite and fdatasync {:.0}/s",
        median(&mut ours),
        median(&mut shares),
        median(&mut limit),
    );
}

fn tickets() {
    const COMMITS: usize = 300_000;
    for under_way in [1_000, 10_000] {
        let store = Store::new(Durability::Sync);
        let buffered = Store::new(Durability::Buffered);
        let (topic, unsynced) = (store.topic(), buffered.topic());
        let (mut ours, mut alone, mut shares) = (vec![], vec![], vec![]);
        for _ in 0..LAPS {
            alone.push(rate(COMMITS, || {
                (0..COMMITS).for_each(|_| _ = unsynced.publish(&PAYLOAD).unwrap());
            }));
            let before = store.engine.flushes();
            ours.push(rate(COMMITS, || {
                let mut tickets = VecDeque::with_capacity(under_way);
                for _ in 0..COMMITS {
                    if tickets.len() == under_way {
                        tickets.pop_front().map(posthouse::Ticket::wait).unwrap().unwrap();
                    }
                    tickets.push_back(topic.publish_ticket(&PAYLOAD).unwrap());
                }
                tickets.into_iter().for_each(|it| _ = it.wait().unwrap());
            }));
            shares.push(COMMITS as f64 / (store.engine.flushes() - before) as f64);
        }
        println!(
            "sync, 1 thread, {under_way} tickets under way: {:.0}/s; {:.0} commits a flush; \
             buffered, without tickets {:.0}/s",
            median(&mut ours),
            median(&mut shares),
            median(&mut alone),
        );
    }
}

/// Something that one thread hands over to another that sleeps until then.
trait HandOver: Sync {
    fn give(&self);
    /// When it was taken.
    fn take(&self) -> Instant;
}

#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    changed: Condvar,
    /// What is synced before it is rung.
    bare: Option<Mutex<Bare>>,
}

impl HandOver for Bell {
    fn give(&self) {
        if let Some(bare) = &self.bare {
            bare.lock().unwrap().commit();
        }
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn take(&self) -> Instant {
        let rung = self.rung.lock().unwrap();
        *self.changed.wait_while(rung, |rung| *rung == 0).unwrap() -= 1;
        Instant::now()
    }
}

impl HandOver for Queue {
    fn give(&self) {
        self.send(&PAYLOAD).unwrap();
    }

    fn take(&self) -> Instant {
        // Its ack is not to be synced while the next message is.
        let consumer = self.durability(Durability::Buffered);
        let delivery = consumer.receive(Duration::from_secs(60)).unwrap().unwrap();
        let taken = Instant::now();
        delivery.ack().unwrap();
        taken
    }
}

fn hand_over_times(side: &dyn HandOver, times: &mut Vec<f64>) {
    const PER_TURN: usize = 400;
    let given = Mutex::new(Instant::now());
    thread::scope(|scope| {
        let taker = scope.spawn(|| {
            let mut times = Vec::with_capacity(PER_TURN);
            for _ in 0..PER_TURN {
                let taken = side.take();
                times.push((taken - *given.lock().unwrap()).as_secs_f64() * 1e6);
            }
            times
        });
        for _ in 0..PER_TURN {
            // Long enough for the other to have gone to sleep, busily: this one is at work.
            let now = Instant::now();
            while now.elapsed() < Duration::from_micros(50) {
                std::hint::spin_loop();
            }
            *given.lock().unwrap() = Instant::now();
            side.give();
        }
        times.extend(taker.join().unwrap());
    });
}

fn wake() {
    for durability in [Durability::Buffered, Durability::Sync] {
        let store = Store::new(durability);
        let queue = store.engine.queue("q").create().unwrap();
        let bare = (durability == Durability::Sync).then(|| Mutex::new(Bare::new()));
        let bell = Bell { bare, ..Bell::default() };
        let (mut ours, mut limit) = (vec![], vec![]);
        for _ in 0..LAPS {
            hand_over_times(&bell, &mut limit);
            hand_over_times(&queue, &mut ours);
        }
        let percentiles = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            [0.5, 0.99, 0.999].map(|part| times[(times.len() as f64 * part) as usize])
        };
        let (ours, limit) = (percentiles(&mut ours), percentiles(&mut limit));
        println!(
            "{durability:?}, send to receive: p50 {:.1}, p99 {:.1}, p99.9 {:.1} us; \
             condvar{}: p50 {:.1}, p99 {:.1}, p99.9 {:.1} us; ratio of p50 {:.2}",
            ours[0],
            ours[1],
            ours[2],
            if durability == Durability::Sync { " behind a bare sync" } else { "" },
            limit[0],
            limit[1],
            limit[2],
            ours[0] / limit[0],
        );
    }
}

fn main() {
    let rows: [(&str, fn()); 6] = [
        ("1", one_thread),
        ("2", || many_threads(2)),
        ("8", || many_threads(8)),
        ("64", || many_threads(64)),
        ("tickets", tickets),
        ("wake", wake),
    ];
    let chosen: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    for (name, row) in rows {
        if chosen.is_empty() || chosen.iter().any(|it| it == name) {
            row();
        }
    }
}
