//! Every bit of a store is flipped, one at a time. A process that opens and reads the store then gets the
//! exact answer, or `Corrupt` with file and position. It never gets another answer, a panic, or a wait
//! without end.
//!
//! One exception is documented, and is checked to the byte: a damaged frame looks like a torn tail if nothing
//! proves that it was durable. It is cut, with everything behind it, and nothing before it. A store that was
//! closed has no such frame.
//!
//! `cargo test` tries a sample. All of it: `POSTHOUSE_WHOLE=1 cargo test --release --test it -- --nocapture
//! salvage::bits`. A larger store has messages of up to `POSTHOUSE_BITS_MESSAGE` bytes.

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{Durability, Engine, ErrorKind, Offset, sim::SimDisk};

use super::check::{Tally, check_damaged, files};
use super::sample::{Builder, History, Sample, dumped, options};
use crate::model::state::{State, dump};
use crate::support::one_in;

/// The end of the last process of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closed,
    /// It was killed. Each commit but the last is proven to be durable by the commit behind it.
    Killed,
    /// It was killed, and had not synced its last commits.
    KilledUnsynced,
}

/// The number of commits at the end, each of which is examined.
const LAST_COMMITS: usize = 5;

/// One flip in this many is also verified and salvaged, unless `POSTHOUSE_BITS_SALVAGED` has another number.
const SALVAGED_ONE_IN: usize = 499;

/// Messages have fewer bytes than this by default.
const SMALL: usize = 60;

/// No step takes so long.
const LONGEST: Duration = Duration::from_secs(60);

/// A store, and everything that may be found in it once it is damaged.
struct Victim {
    sample: Sample,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// The frames that nothing proves to be durable: their places, and the state before each.
    unproven: Vec<(Range<usize>, State)>,
    /// The file in which they lie.
    journal: PathBuf,
}

/// Runs an epoch that leaves something of every kind behind.
fn epoch(builder: &mut Builder, n: u64) {
    let engine = builder.engine.clone();
    let topic = engine.topic("events").create().unwrap();
    let a = topic.subscription("a").create().unwrap();
    let stream = engine.stream("history").partitions(2).create().unwrap();
    builder.send("orders", 7);
    builder.publish("events", 5);
    builder.append("history", 6);
    let orders = engine.queue("orders").open().unwrap();
    builder.consume(|| orders.try_receive().unwrap(), 5);
    builder.send(&format!("short-lived {n}"), 2);
    engine.checkpoint().unwrap();
    builder.consume(|| a.try_receive().unwrap(), 3);
    stream.group("readers").create().unwrap().commit(0, Offset(n)).unwrap();
    engine.queue(&format!("short-lived {n}")).delete().unwrap();
    if n == 1 {
        stream.partition(0).unwrap().trim_before(Offset(2)).unwrap();
        engine.checkpoint().unwrap();
    }
    builder.send("orders", 1);
}

fn last_commit(builder: &mut Builder, n: usize) {
    match n {
        0 => builder.send("orders", 1),
        1 => builder.publish("events", 1),
        2 => builder.append("history", 1),
        3 => {
            let orders = builder.engine.queue("orders").open().unwrap();
            orders.try_receive().unwrap().unwrap().ack().unwrap();
        }
        _ => {
            let history = builder.engine.stream("history").open().unwrap();
            history.group("readers").open().unwrap().commit(1, Offset(4)).unwrap();
        }
    }
}

fn victim(end: End, message_bytes: usize) -> Victim {
    let durability =
        if end == End::KilledUnsynced { Durability::Buffered } else { Durability::Sync };
    let disk = SimDisk::new(5);
    let open = || options().durability(durability).sim(&disk).open("store").unwrap();
    let (mut history, mut number) = (History::new(), 0);
    let begin = |engine: Engine, history, number| Builder {
        engine,
        history,
        number,
        message_bytes,
        has_filters: false,
    };
    for n in 0..3 {
        let mut builder = begin(open(), history, number);
        epoch(&mut builder, n);
        Builder { history, number, .. } = builder;
        disk.kill();
    }
    let mut builder = begin(open(), history, number);
    builder.message_bytes = SMALL;
    builder.send("orders", 1);
    builder.engine.sync().unwrap();
    let (mut states, mut frames, mut journals) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..LAST_COMMITS {
        states.push(dumped(&disk, "store").unwrap());
        let before = files(&disk);
        last_commit(&mut builder, n);
        let after = files(&disk);
        let (journal, after) = after.into_iter().find(|(path, it)| before[path] != *it).unwrap();
        let differs = |at: &usize| before[&journal][*at] != after[*at];
        // Frames begin and end at multiples of 8.
        let first = (0..after.len()).find(differs).unwrap() & !7;
        let last = (0..after.len()).rfind(differs).unwrap();
        frames.push(first..(last + 1).next_multiple_of(8));
        journals.push(journal);
    }
    assert!(journals.windows(2).all(|two| two[0] == two[1]), "it has rolled");
    assert!(frames.windows(2).all(|two| two[0].end == two[1].start), "{frames:?}");
    states.push(dumped(&disk, "store").unwrap());
    let last = states.last().unwrap();
    let mut unproven: Vec<_> = frames.into_iter().zip(states.iter().cloned()).collect();
    if end == End::Closed {
        builder.engine.close().unwrap();
    }
    unproven.drain(
        ..match end {
            End::Closed => LAST_COMMITS,
            End::Killed => LAST_COMMITS - 1,
            End::KilledUnsynced => 0,
        },
    );
    disk.kill();
    assert_eq!(*last, dumped(&disk, "store").unwrap());
    let files = files(&disk).into_iter().collect();
    let sample = Sample { disk, states, history: builder.history };
    Victim { sample, files, unproven, journal: journals.remove(0) }
}

/// The outcomes of the flips.
#[derive(Debug, Default)]
struct Flips {
    exact: usize,
    refused: usize,
    /// Taken for a torn tail.
    cut: usize,
    salvaged: usize,
    /// Errors that name another file than that with the flip, by the two files.
    elsewhere: BTreeMap<(PathBuf, PathBuf), usize>,
}

impl Flips {
    fn all(&self) -> usize {
        self.exact + self.refused + self.cut
    }

    fn add(&mut self, more: Flips) {
        self.exact += more.exact;
        self.refused += more.refused;
        self.cut += more.cut;
        self.salvaged += more.salvaged;
        for (files, count) in more.elsewhere {
            *self.elsewhere.entry(files).or_default() += count;
        }
    }
}

impl Victim {
    fn bits(&self) -> usize {
        self.files.iter().map(|(_, content)| content.len() * 8).sum()
    }

    fn exact(&self) -> &State {
        self.sample.states.last().unwrap()
    }

    /// The file in which a bit lies, counted over all files, and its place there.
    fn place(&self, mut bit: usize) -> (&Path, &[u8], usize) {
        for (path, content) in &self.files {
            if bit < content.len() * 8 {
                return (path, content, bit);
            }
            bit -= content.len() * 8;
        }
        panic!("there are fewer bits")
    }

    /// Flips a bit; it is the n-th that is flipped.
    fn flip(&self, number: usize, n: usize, salvaged: usize, flips: &mut Flips) {
        let (path, content, bit) = self.place(number);
        // The files on which everything depends are small. Opening may meet an entity that the damage has
        // brought back, and then verify must, too: a segment that is gone, of a log that was deleted.
        let is_metalog = path.extension().is_some_and(|it| it == "meta");
        let salvages = n.is_multiple_of(if is_metalog { 7 } else { salvaged });
        let at = bit / 8;
        let mut flipped = content.to_vec();
        flipped[at] ^= 1 << (bit % 8);
        let disk = self.sample.disk.fork(1);
        disk.plant(path, Some(flipped));
        let place = format!("{} byte {at} bit {}", path.display(), bit % 8);
        let read = || {
            let disk = disk.fork(1);
            dump(&options().sim(&disk).open("store")?)
        };
        match catch_unwind(AssertUnwindSafe(read)) {
            Err(_) => panic!("{place}: it panicked"),
            Ok(Ok(state)) if state == *self.exact() => flips.exact += 1,
            Ok(Ok(state)) => {
                let frame = self.unproven.iter().find(|(frame, _)| frame.contains(&at));
                let frame = frame.filter(|_| path == self.journal);
                let (_, before) = frame.unwrap_or_else(|| panic!("{place}: lost: {state:#?}"));
                assert!(state == *before, "{place}: not cut at the damage: {state:#?}");
                flips.cut += 1;
            }
            Ok(Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{place}: {error:?}");
                let named = error.file().zip(error.position());
                let (file, _) = named.unwrap_or_else(|| panic!("{place}: where? {error:?}"));
                if file != path {
                    let files = (path.to_owned(), file.to_owned());
                    *flips.elsewhere.entry(files).or_default() += 1;
                }
                flips.refused += 1;
            }
        }
        if salvages {
            check_damaged(&self.sample, &disk, path, &place, &mut Tally::default());
            flips.salvaged += 1;
        }
    }

    /// Flips every n-th bit, on several threads.
    fn flip_all(&self, step: usize, threads: usize) -> Flips {
        const SHARE: usize = 512;
        let count = self.bits().div_ceil(step);
        let salvaged = number("POSTHOUSE_BITS_SALVAGED").unwrap_or(SALVAGED_ONE_IN);
        let next = AtomicUsize::new(0);
        let all = Mutex::new(Flips::default());
        let worker = |at: &Mutex<(usize, Instant)>| {
            let mut flips = Flips::default();
            loop {
                let first = next.fetch_add(SHARE, Ordering::Relaxed);
                for n in first..(first + SHARE).min(count) {
                    *at.lock().unwrap() = (n * step, Instant::now());
                    self.flip(n * step, n, salvaged, &mut flips);
                }
                if first >= count {
                    all.lock().unwrap().add(flips);
                    return;
                }
            }
        };
        let places: Vec<_> = (0..threads).map(|_| Mutex::new((0, Instant::now()))).collect();
        thread::scope(|scope| {
            let workers: Vec<_> =
                places.iter().map(|place| scope.spawn(|| worker(place))).collect();
            while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(Duration::from_millis(20));
                if workers.iter().any(thread::ScopedJoinHandle::is_finished) {
                    // No bit is left, or a thread has panicked: the others end, too.
                    next.store(count, Ordering::Relaxed);
                }
                for (worker, place) in workers.iter().zip(&places) {
                    let (bit, since) =
                        *place.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if since.elapsed() > LONGEST && !worker.is_finished() {
                        eprintln!("bit {bit} hangs: {:?}", self.place(bit).0);
                        std::process::abort();
                    }
                }
            }
        });
        all.into_inner().unwrap()
    }
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

fn flip_bits(end: End) {
    let usual = one_in(4507);
    let victim = victim(end, number("POSTHOUSE_BITS_MESSAGE").unwrap_or(SMALL));
    // An odd step reaches all places in a byte.
    let step = number("POSTHOUSE_BITS_STEP").unwrap_or(usual);
    let threads =
        if usual == 1 { thread::available_parallelism().map_or(1, usize::from) } else { 1 };
    let began = Instant::now();
    let flips = victim.flip_all(step, threads);
    let (bytes, files) = (victim.bits() / 8, victim.files.len());
    let Flips { exact, refused, cut, salvaged, elsewhere } = &flips;
    println!(
        "{end:?}: {} bits flipped of {bytes} bytes in {files} files, in {:.1?}: {exact} exact, \
         {refused} refused, {cut} cut as a torn tail; {salvaged} of them verified and salvaged",
        flips.all(),
        began.elapsed()
    );
    for ((flipped, named), count) in elsewhere {
        println!("{} flipped, {} named: {count}", flipped.display(), named.display());
    }
    assert_eq!(flips.all(), victim.bits().div_ceil(step));
    let frames: usize = victim.unproven.iter().map(|(frame, _)| frame.len() * 8).sum();
    assert!(flips.cut <= frames.div_ceil(step), "{flips:?}");
    // A sample may miss the frames.
    assert!(
        end == End::Closed && *cut == 0 || end != End::Closed && (*cut > 0 || step > 151),
        "{flips:?}"
    );
    assert!(flips.exact > 0 && flips.refused > 0, "{flips:?}");
}

#[test]
fn closed() {
    flip_bits(End::Closed);
}

#[test]
fn killed() {
    flip_bits(End::Killed);
}

#[test]
fn killed_with_unsynced_commits() {
    flip_bits(End::KilledUnsynced);
}
