//! Costs of a replay, warm and cold, beside the bare minimum: a checksum over as many bytes, and a sequential
//! read of the same files.
//!
//! The sides run alternately within one run, and the bench prints medians, so that other load on the machine
//! meets all sides alike. The store lies in the temporary directory: set `TMPDIR` to the disk that you want
//! to measure.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    fs::File,
    hint::black_box,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Parser;
use posthouse::{Durability, Engine, Options, Start, Stream};

#[derive(Parser)]
struct Args {
    /// How many records.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// The bytes of each payload.
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// How many records are appended by one commit.
    #[arg(long, default_value_t = 1000)]
    batch: u64,
    /// How many rounds there are.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Only the sides whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// Set by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One side: its name, and what it does each round. Returns the time that counts.
struct Side<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Duration + 'a>,
    times: Vec<Duration>,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, run: impl FnMut() -> Duration + 'a) -> Side<'a> {
        Side { name, run: Box::new(run), times: Vec::new() }
    }
}

fn timed(act: impl FnOnce()) -> Duration {
    let started = Instant::now();
    act();
    started.elapsed()
}

/// Runs the sides alternately; the first round warms up. The first side is the limit.
fn compare(title: &str, args: &Args, mut sides: Vec<Side<'_>>) {
    sides.retain(|side| side.name.contains(&args.only));
    for round in 0..=args.rounds {
        for side in &mut sides {
            let time = (side.run)();
            if round > 0 {
                side.times.push(time);
            }
        }
    }
    println!("\n{title}");
    let mut limit = None;
    for side in &mut sides {
        side.times.sort_unstable();
        let median = side.times[side.times.len() / 2];
        let limit = *limit.get_or_insert(median);
        let each = median.as_secs_f64() * 1e9 / args.records as f64;
        println!(
            "{:<34} {:>9.1} ms {:>7.1} ns each {:>7.1} M/s {:>6.2} GB/s {:>6.2} of the limit's speed",
            side.name,
            median.as_secs_f64() * 1e3,
            each,
            1e3 / each,
            args.payload as f64 / each,
            limit.as_secs_f64() / median.as_secs_f64(),
        );
    }
}

fn open(dir: &Path) -> (Engine, Stream) {
    let engine = Options::new().durability(Durability::Buffered).open(dir).unwrap();
    let stream = engine.stream("s").create().unwrap();
    (engine, stream)
}

fn borrowed(stream: &Stream) -> u64 {
    let mut reader = stream.reader(Start::Earliest).unwrap();
    let mut bytes = 0;
    while let Some(record) = reader.try_read().unwrap() {
        bytes += black_box(record.payload()).len() as u64;
    }
    bytes
}

fn owned(stream: &Stream) -> u64 {
    let mut bytes = 0;
    for record in stream.reader(Start::Earliest).unwrap() {
        bytes += black_box(record.unwrap().payload()).len() as u64;
    }
    bytes
}

/// Takes the checksums of blocks in memory, of so many bytes in all.
fn checksum(bytes: u64) -> Duration {
    const MOST: u64 = 200 << 20;
    let memory = vec![7u8; bytes.min(MOST) as usize];
    timed(|| {
        let mut left = bytes;
        while left > 0 {
            let part = left.min(MOST);
            let blocks = memory[..part as usize].chunks(64 << 10);
            blocks.for_each(|block| _ = black_box(crc32fast::hash(block)));
            left -= part;
        }
    })
}

/// The memory of this process that is not a file's, in KiB, where the system says so.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for log in std::fs::read_dir(dir.join("segments")).unwrap() {
        let files = std::fs::read_dir(log.unwrap().path()).unwrap();
        found.extend(files.map(|file| file.unwrap().path()));
    }
    found.sort();
    found
}

/// Takes the files out of the page cache. They must not be mapped.
fn cool(files: &[PathBuf]) {
    for path in files {
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

fn read_all(files: &[PathBuf]) {
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).unwrap();
        while file.read(&mut buffer).unwrap() > 0 {}
        black_box(&buffer);
    }
}

fn main() {
    let args = Args::parse();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let payload = vec![7; args.payload];
    let bytes = args.records * args.payload as u64;
    let (engine, stream) = open(&dir);
    let filling = timed(|| {
        let mut left = args.records;
        while left > 0 {
            let batch = left.min(args.batch);
            stream.append_batch(std::iter::repeat_n(&payload, batch as usize)).unwrap();
            left -= batch;
        }
        engine.checkpoint().unwrap();
    });
    let each = filling.as_secs_f64() * 1e9 / args.records as f64;
    println!(
        "{} records of {} B appended and moved: {each:.0} ns each",
        args.records, args.payload
    );

    let sides = vec![
        Side::new("limit: checksum of as many bytes", || checksum(bytes)),
        Side::new("borrowed records", || timed(|| assert_eq!(borrowed(&stream), bytes))),
        Side::new("owned records, as an iterator", || timed(|| assert_eq!(owned(&stream), bytes))),
    ];
    compare("replay, warm", &args, sides);
    drop(stream);
    engine.close().unwrap();
    // It has the files mapped, and what is mapped stays in the page cache.
    drop(engine);

    let files = segments(&dir);
    let most = std::cell::Cell::new(0);
    let cold = |read: fn(&Stream) -> u64| {
        cool(&files);
        let (engine, stream) = open(&dir);
        let time = timed(|| assert_eq!(read(&stream), bytes));
        most.set(most.get().max(anonymous()));
        drop(stream);
        engine.close().unwrap();
        time
    };
    let limit = || {
        cool(&files);
        timed(|| read_all(&files))
    };
    let sides = vec![
        Side::new("limit: the files read in order", limit),
        Side::new("borrowed records", || cold(borrowed)),
    ];
    compare("replay, cold", &args, sides);
    println!("anonymous memory behind a replay: {} KiB at most", most.get());
}
