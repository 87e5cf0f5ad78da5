//! Searches for crashes that break a promise, on the simulated disk.
//!
//! ```sh
//! cargo run --profile explore -p posthouse-crash -- --states 100000 --seed 1
//! ```
//!
//! It runs random sequences of operations on all models beside a plain model, and cuts the power at many of
//! their steps. It recovers what survives. The result must be a state that the operations have led to;
//! `tests/model/oracle.rs` lists all checks. It simplifies a case that fails, and prints it with the line
//! that runs it again.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use posthouse_model::explore::{self, Counts, Failure};

const THREADS_MAX: u16 = 256;

fn threads_by_default() -> u16 {
    thread::available_parallelism().map_or(1, |n| n.get().min(usize::from(THREADS_MAX)) as u16)
}

#[derive(Debug, Parser)]
#[command(about = "Searches for crashes that break a promise of the engine")]
struct Arguments {
    /// How many crashed states to recover and compare before the search ends
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    states: u64,
    /// The seed of all random choices: the same seed tries the same cases
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Run only this case of the seed, by the number that a failure was printed with
    #[arg(long, value_name = "N", conflicts_with = "exhaust")]
    case: Option<u64>,
    /// Run every sequence of up to LENGTH operations, instead of random ones
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u32).range(1..=4))]
    exhaust: Option<u32>,
    /// Look for each of the deliberate bugs, in up to --states states each
    #[cfg(seeded_bugs)]
    #[arg(long)]
    seeded_bugs: bool,
    /// Only the deliberate bugs whose name contains this
    #[cfg(seeded_bugs)]
    #[arg(long, default_value = "")]
    bug: String,
    /// How many threads search at a time
    #[arg(long, value_name = "N", default_value_t = threads_by_default())]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    threads: u16,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if cfg!(panic = "abort") {
        eprintln!("it catches panics: build it with --profile explore");
        return ExitCode::from(2);
    }
    // A failing case is printed once, when it is simple, and not by every thread.
    std::panic::set_hook(Box::new(|_| {}));
    #[cfg(seeded_bugs)]
    if arguments.seeded_bugs {
        return find_seeded_bugs(&arguments);
    }
    let began = Instant::now();
    let (found, counts) = match (arguments.case, arguments.exhaust) {
        (Some(case), _) => {
            let case = explore::random(arguments.seed, case);
            match case.case.run() {
                Ok(counts) => (None, counts),
                Err(failure) => (Some((case.shrink(failure, 500), None)), Counts::default()),
            }
        }
        (None, Some(length)) => exhaust(length, arguments.threads),
        (None, None) => search(&arguments),
    };
    let Counts { states, faults } = counts;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{states} crashed states recovered and compared, {faults} faults injected, \
         in {seconds:.1} s ({:.0} states a second)",
        states as f64 / seconds
    );
    match found {
        None => ExitCode::SUCCESS,
        Some((failure, replay)) => {
            println!("\n{failure}");
            if let Some(replay) = replay {
                println!(
                    "run it again: cargo run --profile explore -p posthouse-crash -- {replay}"
                );
            }
            ExitCode::FAILURE
        }
    }
}

type Found = Option<(Failure, Option<String>)>;

/// A progress bar on a terminal; elsewhere a line now and then.
struct Progress {
    bar: ProgressBar,
    told: Mutex<Instant>,
}

impl Progress {
    fn new(length: u64) -> Progress {
        let style =
            ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} {msg} eta {eta}");
        let bar = ProgressBar::new(length).with_style(style.unwrap());
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress { bar, told: Mutex::new(Instant::now()) }
    }

    fn inc(&self, more: u64) {
        self.bar.inc(more);
        let mut told = self.told.lock().unwrap();
        if self.bar.is_hidden() && told.elapsed() > Duration::from_secs(60) {
            *told = Instant::now();
            eprintln!("{} of {}", self.bar.position(), self.bar.length().unwrap_or_default());
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Runs cases on all threads until `enough`, or until a case fails. Of several failing cases the one with the
/// lowest number counts.
fn on_threads<C: Send>(
    threads: u16,
    next: impl Fn() -> Option<C> + Sync,
    run: impl Fn(&C) -> Result<Counts, Failure> + Sync,
    done: impl Fn(Counts) + Sync,
) -> (Option<(C, Failure)>, Counts) {
    let worker = || {
        let mut all = Counts::default();
        while let Some(case) = next() {
            match run(&case) {
                Ok(counts) => {
                    all += counts;
                    done(counts);
                }
                Err(failure) => return (Some((case, failure)), all),
            }
        }
        (None, all)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut result = (None, Counts::default());
        for worker in workers {
            let (found, counts) =
                worker.join().expect("a worker catches what its cases panic with");
            result.0 = result.0.or(found);
            result.1 += counts;
        }
        result
    })
}

fn search(arguments: &Arguments) -> (Found, Counts) {
    let (found, counts) = search_for(arguments);
    let found = found.map(|(n, failure)| {
        eprintln!("case {n} does not hold; looking for a simpler one");
        let simple = explore::random(arguments.seed, n).shrink(failure, 300);
        (simple, Some(format!("--seed {} --case {n}", arguments.seed)))
    });
    (found, counts)
}

fn search_for(arguments: &Arguments) -> (Option<(u64, Failure)>, Counts) {
    let progress = Progress::new(arguments.states);
    let (number, states) = (AtomicU64::new(0), AtomicU64::new(0));
    let next = || {
        let enough = states.load(Ordering::Relaxed) >= arguments.states;
        (!enough).then(|| number.fetch_add(1, Ordering::Relaxed))
    };
    let run = |n: &u64| {
        explore::random(arguments.seed, *n).case.run().inspect_err(|_| {
            // The other threads stop, too.
            states.store(arguments.states, Ordering::Relaxed);
        })
    };
    let done = |counts: Counts| {
        states.fetch_add(counts.states, Ordering::Relaxed);
        progress.inc(counts.states);
    };
    let searched = on_threads(arguments.threads, next, run, done);
    progress.finish();
    searched
}

fn exhaust(most: u32, threads: u16) -> (Found, Counts) {
    let all: Vec<(u32, u64)> = (1..=most)
        .flat_map(|length| (0..explore::sequences(length)).map(move |n| (length, n)))
        .collect();
    let progress = Progress::new(all.len() as u64);
    let at = AtomicU64::new(0);
    let next = || all.get(at.fetch_add(1, Ordering::Relaxed) as usize).copied();
    let run = |&(length, n): &(u32, u64)| {
        explore::sequence(length, n)
            .run()
            .inspect_err(|_| at.store(u64::MAX / 2, Ordering::Relaxed))
    };
    let (found, counts) = on_threads(threads, next, run, |_| progress.inc(1));
    progress.finish();
    (found.map(|(_, failure)| (failure, None)), counts)
}

/// The explorer must find each deliberate bug. Otherwise it proves nothing when it finds none.
#[cfg(seeded_bugs)]
fn find_seeded_bugs(arguments: &Arguments) -> ExitCode {
    let mut missed = 0;
    let is_chosen = |bug: &&posthouse::SeededBug| format!("{bug:?}").contains(&arguments.bug);
    let bugs: Vec<_> = posthouse::SEEDED_BUGS.iter().filter(is_chosen).collect();
    for bug in &bugs {
        posthouse::switch_on_bug(**bug);
        let (found, counts) = search_for(arguments);
        let states = counts.states;
        match found {
            Some((n, failure)) => {
                let what = failure.message.lines().next().unwrap_or_default();
                println!("{bug:?}: found in case {n}, after {states} states: {what}");
            }
            None => {
                missed += 1;
                println!("{bug:?}: MISSED in {states} states");
            }
        }
    }
    println!("{} of {} found", bugs.len() - missed, bugs.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
