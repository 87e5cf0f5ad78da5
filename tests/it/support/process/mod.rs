//! Real processes on a real disk: a child works on a store and reports over a pipe what it did. The parent
//! checks the store when the child is gone.
//!
//! A *worker* has a queue, a topic with a subscription, and a stream with a group. Its messages are numbered.
//! Message n goes to all of them in one transaction, and its number is its offset in the stream. So each
//! worker's account can be checked to the last message.

pub mod account;
pub mod child;
pub mod worker;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use posthouse::{Durability, Engine, Error, IoMode, Options};

use worker::{Pace, Tell, Worker};

/// Small files, so that a short run rolls, checkpoints, seals and drops.
pub fn options(durability: Durability, io: IoMode) -> Options {
    Options::new()
        .durability(durability)
        .io(io)
        .journal_file_bytes_min(16 << 10)
        .journal_file_bytes_max(64 << 10)
        .journal_bytes(128 << 10)
        .segment_bytes(32 << 10)
        .block_bytes(8 << 10)
}

/// Opens a store that this process has closed.
pub fn open(path: &Path, options: &Options) -> Engine {
    options.open(path).unwrap()
}

pub fn payload(n: u64) -> String {
    format!("{n} {}", "x".repeat((n * 97 % 700) as usize))
}

/// The number of a message. Its payload must be the one that was sent.
pub fn number(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap();
    let number = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(text, payload(number));
    number
}

/// Numbers without a pattern (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn from_clock() -> Random {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Random(now.as_nanos() as u64)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The orders of a child: to work with some workers, each on a thread of its own, until it is killed or the
/// disk fails.
#[derive(Clone, Copy)]
pub struct Endless {
    pub durability: Durability,
    pub io: IoMode,
    pub workers: u64,
    pub seed: u64,
}

impl Endless {
    pub fn to_words(self) -> String {
        let Endless { durability, io, workers, seed } = self;
        format!("endless {durability:?} {io:?} {workers} {seed}")
    }

    /// Carries the orders out, in the child.
    pub fn run(words: &str, path: &Path) {
        let words: Vec<&str> = words.split(' ').collect();
        let durability = durability_of(words[1]);
        let (workers, seed) = (words[3].parse().unwrap(), words[4].parse().unwrap());
        let endless = Endless { durability, io: io_of(words[2]), workers, seed };
        let tell = child::tell();
        if let Err(error) = endless.work(path, &tell) {
            tell(child::error_line(&error));
        }
    }

    fn work(self, path: &Path, tell: &Tell) -> Result<(), Error> {
        let engine = options(self.durability, self.io).open(path)?;
        let failed = AtomicBool::new(false);
        let work = |n: u64| {
            let name = format!("w{n}");
            let mut random = Random(self.seed ^ n);
            let mut worker = Worker::attach(engine.clone(), &name, self.durability, tell.clone())?;
            while !failed.load(Ordering::Relaxed) {
                step(&mut worker, &mut random)?;
            }
            Ok(())
        };
        std::thread::scope(|threads| {
            for n in 0..self.workers {
                let (work, failed) = (&work, &failed);
                threads.spawn(move || {
                    if let Err(error) = work(n) {
                        failed.store(true, Ordering::Relaxed);
                        tell(child::error_line(&error));
                    }
                });
            }
        });
        Ok(())
    }
}

pub fn durability_of(word: &str) -> Durability {
    if word == "Sync" { Durability::Sync } else { Durability::Buffered }
}

pub fn io_of(word: &str) -> IoMode {
    if word == "Calls" { IoMode::Calls } else { IoMode::Auto }
}

/// Some messages, and now and then something else.
pub fn step(worker: &mut Worker, random: &mut Random) -> Result<(), Error> {
    let pace = [Pace::Sync, Pace::Buffered, Pace::Ticket][random.below(3) as usize];
    for _ in 0..random.below(20) {
        worker.send(pace)?;
        worker.consume(pace)?;
        worker.read()?;
    }
    match random.below(12) {
        0 => worker.checkpoint(),
        1 => worker.sync(),
        2 => worker.trim(200),
        3 => worker.toggle_extra(),
        _ => Ok(()),
    }
}
