//! A real process that ends at a named point: before or after the n-th change of one kind to one kind of
//! file, such as `work:before:rename:new-journal` in a roll, or `work:after:sync:segment` in a checkpoint.
//! The disk itself tells the process of each change, and the process ends without another change. Everything
//! that it had reported must be there afterwards.
//!
//! `cargo test` ends it once at each twelfth point, other points each time, and a [whole](one_in) search at each. More:
//! `POSTHOUSE_POINTS=all cargo test --release --test it -- --nocapture crash::points`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use posthouse::{Durability, ErrorKind, IoMode, Options, Result};

use crate::support::{
    one_in,
    process::{
        Random,
        account::Accounts,
        child::{Child, command, error_line, orders, tell},
        durability_of, io_of, step,
        worker::{Tell, Worker},
    },
};

/// The steps of a roll, a checkpoint, a recovery and a salvage that must be among the points.
const NEEDED: &[&str] = &[
    // A store is made.
    "making:after:create:store-dir",
    "making:before:create:new-metalog",
    "making:before:rename:new-metalog",
    // A commit, and its sync.
    "work:before:write:journal",
    "work:after:write:journal",
    "work:before:sync:journal",
    "work:after:sync:journal",
    // A roll: the next file is made, or an old one is filled again.
    "work:before:create:new-journal",
    "work:before:sync:new-journal",
    "work:before:rename:new-journal",
    "work:before:rename:journal",
    "work:after:rename:journal",
    "work:after:sync:journal-dir",
    // A checkpoint: messages are moved, the state is captured, both are synced, the record of it is synced,
    // and files that are no longer needed are removed.
    "work:before:create:segment",
    "work:after:write:segment",
    "work:before:sync:segment",
    "work:after:sync:segment",
    "work:after:sync:log-dir",
    "work:before:write:metalog",
    "work:before:sync:metalog",
    "work:after:sync:metalog",
    "work:before:create:new-metalog",
    "work:before:rename:new-metalog",
    "work:after:rename:metalog",
    "work:after:sync:metalog-dir",
    "work:before:remove:segment",
    "work:after:remove:segment",
    // A recovery: the tail is written again and synced, a new file is made, and others are removed.
    "recovery:before:write:journal",
    "recovery:before:sync:journal",
    "recovery:after:sync:journal",
    "recovery:before:create:new-journal",
    "recovery:before:sync:new-journal",
    "recovery:before:rename:new-journal",
    "recovery:after:rename:journal",
    "recovery:after:sync:journal-dir",
    "recovery:before:remove:journal",
    // A salvage.
    "salvage:after:lock:lock",
    "salvage:before:write:segment",
    "salvage:before:sync:segment",
    "salvage:before:create:new-journal",
    "salvage:before:create:new-metalog",
    "salvage:before:rename:new-metalog",
    "salvage:after:rename:metalog",
];

/// Files so small that a short run rolls, fills files again and rewrites segments.
fn options(durability: Durability, io: IoMode) -> Options {
    crate::support::process::options(durability, io)
        .journal_file_bytes_max(16 << 10)
        .journal_bytes(64 << 10)
        .segment_bytes(16 << 10)
        .block_bytes(4 << 10)
}

/// The kind of file or directory that a path leads to.
fn kind_of(path: &Path) -> &'static str {
    let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
    let parent = path.parent().and_then(Path::file_name).and_then(|it| it.to_str());
    match name {
        "LOCK" => "lock",
        "reserve.new" => "reserve",
        "journal" => "journal-dir",
        "segments" => "segments-dir",
        "meta" => "metalog-dir",
        _ if name.ends_with(".journal") => "journal",
        _ if name.ends_with(".journal.new") => "new-journal",
        _ if name.ends_with(".seg") => "segment",
        _ if name.ends_with(".meta") => "metalog",
        _ if name.ends_with(".meta.new") => "new-metalog",
        _ if parent == Some("segments") => "log-dir",
        _ => "store-dir",
    }
}

/// Where a salvage of the store goes.
fn target(path: &Path) -> PathBuf {
    path.with_file_name("salvaged")
}

/// The changes that the child has seen itself make.
struct Points {
    phase: &'static str,
    counts: BTreeMap<String, u64>,
    /// The point at which to end, and at which passage of it.
    last: (String, u64),
}

impl Points {
    fn pass(&mut self, when: &str, call: &str, path: &Path) {
        let point = format!("{}:{when}:{call}:{}", self.phase, kind_of(path));
        let count = self.counts.entry(point.clone()).or_default();
        *count += 1;
        if (&point, *count) == (&self.last.0, self.last.1) {
            // Nothing is unwound or flushed, and no thread makes another call.
            std::process::abort();
        }
    }
}

#[test]
fn child() {
    let Some((path, words)) = orders() else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let [io, durability, seed, point, n] = words[..] else { panic!("{words:?}") };
    let last = (point.to_owned(), n.parse().unwrap());
    let points = Points { phase: "making", counts: BTreeMap::new(), last };
    let points = Arc::new(Mutex::new(points));
    let witness = Arc::clone(&points);
    let options = options(durability_of(durability), io_of(io)).witness(move |when, call, path| {
        witness.lock().unwrap().pass(when, call, path);
        Ok(())
    });
    let tell = tell();
    let random = Random(seed.parse().unwrap());
    let work = Work { options, durability: durability_of(durability), points, random };
    match work.run(&path, &tell) {
        Ok(()) => tell("end".to_owned()),
        Err(error) => tell(error_line(&error)),
    }
}

struct Work {
    options: Options,
    durability: Durability,
    points: Arc<Mutex<Points>>,
    random: Random,
}

impl Work {
    fn phase(&self, phase: &'static str) {
        self.points.lock().unwrap().phase = phase;
    }

    fn run(mut self, path: &Path, tell: &Tell) -> Result<()> {
        for round in 0..2 {
            self.phase(if round == 0 && !path.exists() { "making" } else { "recovery" });
            let engine = self.options.open(path)?;
            self.phase("work");
            let mut worker = Worker::attach(engine, "w", self.durability, tell.clone())?;
            for n in 0..16 {
                step(&mut worker, &mut self.random)?;
                if n % 5 == 4 {
                    worker.checkpoint()?;
                }
            }
            worker.toggle_extra()?;
            worker.trim(40)?;
            worker.checkpoint()?;
            self.phase("close");
            worker.close()?;
        }
        self.phase("salvage");
        let report = self.options.salvage(path, target(path))?;
        assert!(report.is_complete(), "{report}");
        for (point, count) in &self.points.lock().unwrap().counts {
            tell(format!("point {point} {count}"));
        }
        Ok(())
    }
}

/// Stores, one after the other in the same place, and the messages that must be in them.
struct Place {
    dir: tempfile::TempDir,
    accounts: Accounts,
    io: IoMode,
    durability: Durability,
    random: Random,
}

impl Place {
    fn new(io: IoMode, durability: Durability) -> Place {
        // Nothing here depends on the disk: everything that a dead process has written is there.
        let memory = tempfile::tempdir_in("/dev/shm");
        let dir = memory.or_else(|_| tempfile::tempdir()).unwrap();
        Place { dir, accounts: Accounts::default(), io, durability, random: Random::from_clock() }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn start_anew(&mut self) {
        let _ = std::fs::remove_dir_all(self.store());
        self.accounts = Accounts::default();
    }

    /// Runs a child up to a point. Returns the points that it counted, if it came to its end.
    fn run(&mut self, point: &str, n: u64) -> Option<BTreeMap<String, u64>> {
        let _ = std::fs::remove_dir_all(target(&self.store()));
        let (io, durability, seed) = (self.io, self.durability, self.random.next());
        let words = format!("{io:?} {durability:?} {seed} {point} {n}");
        let ended = Child::start(command(module_path!(), &[], &self.store(), &words)).end();
        assert!(!ended.errors.contains("panicked"), "{point} {n}: {}", ended.errors);
        let mut points = BTreeMap::new();
        for line in &ended.told {
            assert!(!line.starts_with("error"), "{point} {n}: {line}");
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["point", point, count] => {
                    points.insert(point.to_owned(), count.parse().unwrap());
                }
                _ => self.accounts.take(line),
            }
        }
        let lived = ended.told.last().is_some_and(|line| line == "end");
        assert!(lived == ended.status.success(), "{point} {n}: {}", ended.status);
        lived.then_some(points)
    }

    /// Makes the store one whose child comes to a point.
    fn prepare_for(&mut self, point: &str) {
        if point.starts_with("making") {
            self.start_anew();
        } else if point.starts_with("recovery") {
            // There is something to recover.
            let n = 20 + self.random.below(40);
            self.run("work:after:write:journal", n);
        }
    }

    /// Returns whether the child has come to its end without that passage.
    fn run_to(&mut self, point: &str, n: u64) -> bool {
        self.prepare_for(point);
        self.run(point, n).is_some()
    }

    fn check(&mut self) {
        let (store, target) = (self.store(), target(&self.store()));
        let options = options(self.durability, self.io);
        if holds_files(&target) {
            match options.open(&target) {
                // It must be equal to the store that it comes from, which no process has opened since.
                Ok(engine) => {
                    engine.close().unwrap();
                    drop(engine);
                    self.accounts.check(&target, &options);
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
            }
            std::fs::remove_dir_all(&target).unwrap();
            assert!(options.salvage(&store, &target).unwrap().is_complete());
            self.accounts.check(&target, &options);
        }
        self.accounts.check(&store, &options);
    }
}

/// Whether a salvage has come so far that there is a file besides the lock.
fn holds_files(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|it| it.unwrap().path()).any(|path| match path.is_dir() {
        true => holds_files(&path),
        false => !path.ends_with("LOCK"),
    })
}

/// Ends children at all points: at the n-th passage of each, for some n.
fn end_at_all(place: &mut Place, all: bool) {
    let began = Instant::now();
    let points = place.run("none", 0).expect("it runs to its end");
    place.check();
    let missing: Vec<_> = NEEDED.iter().filter(|it| !points.contains_key(**it)).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {points:#?}");
    let (mut ended, mut lived) = (0, 0);
    let step = if all { 1 } else { one_in(16) };
    let start = place.random.below(step as u64) as usize;
    for (point, count) in points.iter().skip(start).step_by(step) {
        let n = 1 + place.random.below(*count);
        let whens = if all { vec![1, 2, n, *count] } else { vec![n] };
        for n in whens.into_iter().filter(|n| n <= count) {
            // A run may make fewer passages than the first one did, and some changes are made only in a new
            // store, as the first was. So each has another chance, there and at the first passage.
            let survived = place.run_to(point, n) && {
                place.start_anew();
                place.run_to(point, n) && place.run_to(point, 1) && {
                    place.start_anew();
                    place.run_to(point, 1)
                }
            };
            if survived {
                eprintln!("no child came to {point}, passage {n} of {count}");
                lived += 1;
            } else {
                ended += 1;
            }
            // Some ends follow each other without a check in between.
            if point.starts_with("salvage") || (ended + lived) % 3 != 1 {
                place.check();
            }
        }
    }
    place.check();
    let (io, durability, points) = (place.io, place.durability, points.len());
    eprintln!(
        "{durability:?}, {io:?}: {points} points, {ended} ended there, {lived} did not come so \
         far, {} messages, {:?}",
        place.accounts.messages(),
        began.elapsed()
    );
    assert!(lived * 4 <= ended, "too few have ended at their points");
}

#[test]
fn ended_at_each_point() {
    if orders().is_some() {
        return;
    }
    let all = std::env::var("POSTHOUSE_POINTS").is_ok_and(|it| it == "all");
    let ways = [
        (IoMode::Auto, Durability::Sync),
        (IoMode::Calls, Durability::Buffered),
        (IoMode::Calls, Durability::Sync),
        (IoMode::Auto, Durability::Buffered),
    ];
    for (io, durability) in ways.into_iter().take(if all { 4 } else { 2 }) {
        end_at_all(&mut Place::new(io, durability), all);
    }
}
