//! A real process whose system calls go wrong, one after the other: at the n-th call of a kind it
//! is killed, or the call fails with an error, by the tampering of `strace`. The process works
//! through a fixed script that touches everything; then its store is opened and checked.
//!
//! `cargo test` takes samples, others each time. All of it:
//! `POSTHOUSE_SYSCALLS=all cargo test --release --test syscalls -- --nocapture`.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod process;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use posthouse::{Durability, Engine, Error, ErrorKind, IoMode, Options};
use process::{
    Random,
    account::Accounts,
    child::{Child, command, error_line, orders, tell},
    io_of,
    worker::{Pace, Tell, Worker},
};

/// Files so small that the script fills several of each kind.
fn options(io: IoMode) -> Options {
    process::options(Durability::Sync, io)
        .journal_file_bytes_max(32 << 10)
        .journal_bytes(64 << 10)
        .segment_bytes(16 << 10)
        .block_bytes(4 << 10)
}

/// The child, which goes on whatever fails, and tells what did.
struct Life {
    path: PathBuf,
    io: IoMode,
    /// Whether a poisoned engine is given up for a new one at once.
    reopens: bool,
    tell: Tell,
    now: Option<(Engine, Worker)>,
}

impl Life {
    fn attach(&mut self) -> Result<(), Error> {
        (self.tell)("opening".to_owned());
        let engine = options(self.io).open(&self.path)?;
        let worker = Worker::attach(engine.clone(), "w", Durability::Sync, self.tell.clone())?;
        self.now = Some((engine, worker));
        Ok(())
    }

    /// Does a step, with an engine if one can be had.
    fn step(&mut self, act: impl FnOnce(&mut Worker) -> Result<(), Error>) {
        let mut done = if self.now.is_none() { self.attach() } else { Ok(()) };
        if let (Ok(()), Some((_, worker))) = (&done, &mut self.now) {
            done = act(worker);
        }
        if let Err(error) = done {
            (self.tell)(error_line(&error));
            if self.reopens && error.kind() == ErrorKind::Poisoned {
                self.now = None;
            }
        }
    }

    fn rounds(&mut self, count: u64, pace: Pace) {
        for _ in 0..count {
            self.step(|worker| worker.send(pace));
            self.step(|worker| worker.consume(pace));
            self.step(Worker::read);
        }
    }

    fn close(&mut self) {
        if let Some((_, worker)) = self.now.take()
            && let Err(error) = worker.close()
        {
            (self.tell)(error_line(&error));
        }
    }

    fn script(&mut self) {
        self.rounds(10, Pace::Sync);
        self.step(|worker| worker.toggle_extra());
        self.rounds(10, Pace::Buffered);
        self.step(Worker::checkpoint);
        self.rounds(10, Pace::Ticket);
        self.step(|worker| worker.toggle_extra());
        self.step(|worker| worker.trim(5));
        self.rounds(10, Pace::Sync);
        self.step(Worker::checkpoint);
        self.close();
        self.rounds(5, Pace::Buffered);
        self.close();
        self.step(Worker::checkpoint);
        self.rounds(5, Pace::Ticket);
        self.step(Worker::sync);
        self.close();
    }
}

#[test]
fn child() {
    let Some((path, words)) = orders() else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let (io, reopens) = (io_of(words[1]), words[2] == "reopens");
    let tell = tell();
    let mut life = Life { path, io, reopens, tell: tell.clone(), now: None };
    life.script();
    tell("end".to_owned());
    if reopens {
        // Until it is killed.
        life.rounds(u64::MAX, Pace::Buffered);
    }
}

fn script(io: IoMode, reopens: bool) -> String {
    format!("script {io:?} {}", if reopens { "reopens" } else { "stays" })
}

/// Why nothing can be tested here, if so. `strace` may be missing, or forbidden.
fn is_impossible() -> Option<String> {
    let traced = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .output();
    match traced {
        Err(error) => Some(format!("strace cannot be run: {error}")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(format!("strace does not work here: {said}"))
        }
        Ok(_) => None,
    }
}

/// What is done to the n-th call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Kill,
    /// It fails with an error.
    Fail(&'static str),
    /// It and all behind it fail with an error.
    FailForGood(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    io: IoMode,
    call: &'static str,
    when: u64,
    harm: Harm,
    reopens: bool,
}

/// What is known of the script's calls, from a run in which nothing fails. Each thread counts its
/// own calls.
struct Calls {
    counts: BTreeMap<String, u64>,
    /// The files and directories of the store.
    paths: BTreeSet<String>,
}

/// Calls that are only counted, and fail, where they are about the store.
const ABOUT_PATHS: &[&str] = &[
    "mkdir",
    "openat",
    "flock",
    "pread64",
    "pwrite64",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "rmdir",
    "mmap",
    "ftruncate",
    "statx",
    "getdents64",
    "statfs",
];
/// Calls without a path: of the whole process. `write` is what the child tells its parent, so the
/// child is killed between each deed and the word about it.
const OF_ALL: &[&str] = &["write", "madvise", "clone3"];

/// Calls that are made only where there may be maps.
const OF_MAPS: &[&str] = &["mmap", "statfs"];

fn is_about_paths(call: &str) -> bool {
    ABOUT_PATHS.contains(&call)
}

/// A store's place. It is the same for all cases, as calls are told by their paths.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        // Nothing here depends on the disk; in memory its thousands of syncs cost little.
        let memory = tempfile::tempdir_in("/dev/shm");
        Place { dir: memory.or_else(|_| tempfile::tempdir()).unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn strace(&self, arguments: &[&str], work: &str) -> Child {
        let _ = std::fs::remove_dir_all(self.store());
        let mut before: Vec<OsString> = ["strace", "-f", "-qq", "-o"].map(Into::into).to_vec();
        before.push(self.log().into());
        before.extend(arguments.iter().map(Into::into));
        before.push("--".into());
        Child::start(command(&before, &self.store(), work))
    }

    fn calls(&self, io: IoMode) -> Calls {
        let traced = format!("trace={},{}", ABOUT_PATHS.join(","), OF_ALL.join(","));
        let ended = self.strace(&["-y", "-e", &traced], &script(io, false)).end();
        assert!(ended.status.success(), "{}", ended.errors);
        assert_eq!(ended.told.iter().find(|line| line.starts_with("error")), None);
        let store = self.store().to_str().unwrap().to_owned();
        let mut paths = BTreeSet::new();
        let mut of_threads: BTreeMap<(String, String), u64> = BTreeMap::new();
        for line in std::fs::read_to_string(self.log()).unwrap().lines() {
            let mut words = line.split_whitespace();
            let (thread, call) = (words.next().unwrap(), words.next().unwrap_or_default());
            let Some((call, _)) = call.split_once('(') else { continue };
            let mut is_of_store = false;
            for (at, _) in line.match_indices(&store) {
                let path = line[at..].split(['"', '>', '(', ',']).next().unwrap();
                paths.insert(path.to_owned());
                is_of_store = true;
            }
            if is_of_store || !is_about_paths(call) {
                *of_threads.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
            }
        }
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for ((call, _), count) in of_threads {
            let most = counts.entry(call).or_default();
            *most = (*most).max(count);
        }
        Calls { counts, paths }
    }

    fn start(&self, case: Case, calls: &Calls) -> Child {
        let Case { call, when, .. } = case;
        let tampering = match case.harm {
            Harm::Kill => format!("signal=SIGKILL:when={when}"),
            Harm::Fail(error) => format!("error={error}:when={when}"),
            Harm::FailForGood(error) => format!("error={error}:when={when}+"),
        };
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{tampering}"));
        let mut arguments = vec!["-e", &trace, "-e", &inject];
        if case.harm != Harm::Kill {
            // Much faster; but no signal is delivered that way.
            arguments.push("--seccomp-bpf");
        }
        if is_about_paths(call) {
            arguments.extend(calls.paths.iter().flat_map(|path| ["-P", path]));
        }
        self.strace(&arguments, &script(case.io, case.reopens))
    }

    /// Whether the harm was done.
    fn was_harmed(&self) -> bool {
        let log = std::fs::read_to_string(self.log()).unwrap();
        log.contains("(INJECTED)") || log.contains("killed by SIGKILL")
    }
}

/// All cases, in each the first call, the last, and all between; and some beyond the last, as
/// threads do not always do the same.
fn cases(io: IoMode, calls: &Calls, harms: Harms, reopens: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (call, harms) in harms {
        let Some(count) = calls.counts.get(*call).copied() else {
            assert!(io == IoMode::Calls && OF_MAPS.contains(call), "{call} is never called");
            continue;
        };
        // The harness starts the test by its first one.
        let first = if *call == "clone3" { 2 } else { 1 };
        for harm in *harms {
            let whens = first..=count + u64::from(count > 9);
            cases.extend(whens.map(|when| Case { io, call, when, harm: *harm, reopens }));
        }
    }
    cases
}

/// Runs all cases, or some.
fn sweep(name: &str, samples: usize, cases: &[Case], run: impl Fn(Case) -> bool) {
    let all = std::env::var("POSTHOUSE_SYSCALLS").is_ok_and(|it| it == "all");
    let step = if all { 1 } else { cases.len().div_ceil(samples) };
    let start = Random::from_clock().below(step as u64) as usize;
    let (began, mut ran, mut harmed) = (Instant::now(), 0, 0);
    for case in cases.iter().skip(start).step_by(step) {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(*case)));
        match caught {
            Ok(was_harmed) => {
                ran += 1;
                harmed += usize::from(was_harmed);
            }
            Err(panic) => {
                eprintln!("{name}: {case:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    eprintln!("{name}: {ran} of {} cases, {harmed} hit, {:?}", cases.len(), began.elapsed());
    assert!(harmed * 10 >= ran * 7, "only {harmed} of {ran} hit");
}

/// Checks the store, works on, and checks again.
fn check(path: &Path, io: IoMode, told: &[String]) {
    let accounts = Arc::new(Mutex::new(Accounts::default()));
    told.iter().for_each(|line| accounts.lock().unwrap().take(line));
    accounts.lock().unwrap().check(path, &options(io));
    {
        let accounts = Arc::clone(&accounts);
        let tell: Tell = Arc::new(move |line| accounts.lock().unwrap().take(&line));
        let engine = process::open(path, &options(io));
        let mut worker = Worker::attach(engine, "w", Durability::Sync, tell).unwrap();
        for pace in [Pace::Buffered, Pace::Sync, Pace::Ticket] {
            worker.send(pace).unwrap();
            worker.consume(pace).unwrap();
        }
        worker.toggle_extra().unwrap();
        worker.checkpoint().unwrap();
        worker.close().unwrap();
    }
    accounts.lock().unwrap().check(path, &options(io));
}

/// What a child may tell when calls fail: typed errors; and none but `Poisoned` from a poisoned
/// engine, of which nothing succeeds any more. Tickets of what was durable before say so.
fn check_errors(told: &[String]) {
    let (mut poisoned, mut lost) = (false, false);
    for line in told {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["opening"] => (poisoned, lost) = (false, false),
            ["error", kind, ..] => {
                assert!(["Io", "DiskFull", "Poisoned"].contains(&kind), "{line}");
                assert!(!poisoned || kind == "Poisoned", "after the poison: {line}");
                poisoned |= kind == "Poisoned";
            }
            [_, "lost", _] => lost = true,
            [_, "settled", _] => assert!(!lost, "behind one that was lost: {line}"),
            // It tries, in vain.
            [_, "trying", _] => {}
            _ => assert!(!poisoned, "after the poison: {line}"),
        }
    }
}

/// Which calls come to harm, and how.
type Harms = &'static [(&'static str, &'static [Harm])];

const KILL: &[Harm] = &[Harm::Kill];

const KILLS: Harms = &[
    ("mkdir", KILL),
    ("openat", KILL),
    ("flock", KILL),
    ("pread64", KILL),
    ("pwrite64", KILL),
    ("fdatasync", KILL),
    ("fsync", KILL),
    ("rename", KILL),
    ("unlink", KILL),
    ("rmdir", KILL),
    ("mmap", KILL),
    ("ftruncate", KILL),
    ("write", KILL),
];

const EIO: Harm = Harm::Fail("EIO");
const ENOSPC: Harm = Harm::Fail("ENOSPC");
const EMFILE: Harm = Harm::Fail("EMFILE");
const ENOMEM: Harm = Harm::Fail("ENOMEM");
const EINTR: Harm = Harm::Fail("EINTR");

const FAILURES: Harms = &[
    ("mkdir", &[EIO, ENOSPC, ENOMEM]),
    ("openat", &[EIO, ENOSPC, EMFILE, ENOMEM, EINTR]),
    ("flock", &[EIO, ENOMEM]),
    ("pread64", &[EIO, ENOMEM, EINTR]),
    ("pwrite64", &[EIO, ENOSPC, ENOMEM, EINTR]),
    ("fdatasync", &[EIO, ENOSPC, ENOMEM, EINTR]),
    ("fsync", &[EIO, ENOSPC, ENOMEM, EINTR]),
    ("rename", &[EIO, ENOSPC, ENOMEM]),
    ("unlink", &[EIO, ENOMEM]),
    ("rmdir", &[EIO, ENOMEM]),
    ("mmap", &[ENOMEM]),
    ("madvise", &[ENOMEM]),
    ("ftruncate", &[EIO, ENOSPC]),
    ("statx", &[EIO, ENOMEM]),
    ("getdents64", &[EIO, ENOMEM]),
    ("statfs", &[EIO]),
    ("clone3", &[Harm::Fail("EAGAIN")]),
];

const FAILURES_FOR_GOOD: Harms = &[
    ("openat", &[Harm::FailForGood("EMFILE"), Harm::FailForGood("EIO")]),
    ("pread64", &[Harm::FailForGood("EIO")]),
    ("pwrite64", &[Harm::FailForGood("ENOSPC"), Harm::FailForGood("EIO")]),
    ("fdatasync", &[Harm::FailForGood("ENOSPC"), Harm::FailForGood("EIO")]),
    ("fsync", &[Harm::FailForGood("EIO")]),
    ("rename", &[Harm::FailForGood("EIO")]),
    ("unlink", &[Harm::FailForGood("EIO")]),
    ("mmap", &[Harm::FailForGood("ENOMEM")]),
];

const FAILURES_TO_GO_ON_FROM: Harms = &[
    ("fdatasync", &[EIO, ENOSPC]),
    ("fsync", &[EIO, ENOSPC]),
    ("pwrite64", &[EIO, ENOSPC]),
    ("openat", &[EMFILE]),
    ("rename", &[EIO]),
];

/// Runs a sweep in both ways of input and output.
fn sweep_both(name: &str, samples: usize, harms: Harms, reopens: bool, run: Run<'_>) {
    if orders().is_some() {
        return;
    }
    if let Some(reason) = is_impossible() {
        return eprintln!("{name} is skipped: {reason}");
    }
    for io in [IoMode::Auto, IoMode::Calls] {
        let place = Place::new();
        let calls = place.calls(io);
        let cases = cases(io, &calls, harms, reopens);
        sweep(&format!("{name}, {io:?}"), samples, &cases, |case| {
            run(&place, case, place.start(case, &calls));
            place.was_harmed()
        });
    }
}

/// Lets a child come to its end, and checks what is left.
type Run<'a> = &'a dyn Fn(&Place, Case, Child);

#[test]
fn killed_at_each_call() {
    sweep_both("kills", 25, KILLS, false, &|place, case, child| {
        let ended = child.end();
        assert!(!ended.told.iter().any(|line| line.starts_with("error")), "{:#?}", ended.told);
        assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
        check(&place.store(), case.io, &ended.told);
    });
}

/// The child lives on, and so ends with what it was told.
fn lives_on(place: &Place, case: Case, child: Child) {
    let ended = child.end();
    let errors = &ended.errors;
    assert!(ended.status.success() && !errors.contains("panicked"), "{} {errors}", ended.status);
    assert_eq!(ended.told.last().map(String::as_str), Some("end"));
    check_errors(&ended.told[..ended.told.len() - 1]);
    let was_told = |what: &str| ended.told.iter().any(|line| line.starts_with(what));
    let harmless = matches!(case.harm, Harm::Fail("EINTR")) || !place.was_harmed();
    match case.call {
        // Whoever did it, and whenever: it comes out.
        "fdatasync" => assert!(harmless || was_told("error Poisoned"), "{:#?}", ended.told),
        "fsync" => assert!(harmless || was_told("error"), "{:#?}", ended.told),
        _ => {}
    }
    check(&place.store(), case.io, &ended.told);
}

#[test]
fn each_call_fails_once() {
    sweep_both("failures", 30, FAILURES, false, &lives_on);
}

#[test]
fn each_call_fails_for_good() {
    sweep_both("failures for good", 12, FAILURES_FOR_GOOD, false, &lives_on);
}

/// The same process opens the store again, works on, and is killed.
#[test]
fn each_call_fails_and_the_process_goes_on_and_is_killed() {
    sweep_both(
        "failures and a kill",
        35,
        FAILURES_TO_GO_ON_FROM,
        true,
        &|place, case, mut child| {
            let mut told = child.hear_until("end");
            assert!(child.is_running(), "{}", child.end().errors);
            std::thread::sleep(Duration::from_micros(Random::from_clock().below(5000)));
            child.kill();
            let ended = child.end();
            told.extend(ended.told);
            assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
            check_errors(&told);
            check(&place.store(), case.io, &told);
        },
    );
}
