//! Opening: with a backlog, with many queues, and with a journal that has to be replayed.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::PAYLOAD;
use crate::{
    bench::Bench,
    child,
    outcome::{Figure, Row, Unit, median},
    payload::Payloads,
    report::number,
    side::{Durability, Job, Kind, Result},
    sides::posthouse as ours,
};

/// What one message of 100 B takes in the journal, in a commit of its own: see `docs/FORMAT.md`.
const FRAME_BYTES: u64 = 144;
const JOB: Job = Job::Queue(Durability::Buffered);
const BATCH: u64 = 1000;

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    backlog(bench, &mut row)?;
    queues(bench, &mut row)?;
    journal(bench, &mut row)?;
    row.notes.push(
        "Files are in the page cache. A store with a backlog was closed in good order; the process \
         with the journal was killed, after it had synced. How long the other engines take to open \
         a backlog is in the row on a backlog."
            .to_owned(),
    );
    Ok(row)
}

fn put(row: &mut Row, name: &str, times: Vec<f64>, target: (&str, f64)) {
    let figure = Figure::new(name, Kind::Ours, Unit::Seconds, times);
    let value = figure.value;
    row.figures.push(figure);
    row.at_most(target.0, value, target.1, number::seconds(value));
}

fn time_open(bench: &Bench, dir: &Path, queue: &str) -> Result<Vec<f64>> {
    (0..bench.scale.rounds)
        .map(|_| {
            let began = Instant::now();
            let engine = ours::options(JOB).open(dir)?;
            engine.queue(queue).open()?;
            Ok(began.elapsed().as_secs_f64())
        })
        .collect()
}

fn backlog(bench: &Bench, row: &mut Row) -> Result<()> {
    let dir = bench.fresh_dir("backlog");
    let count = bench.scale.backlog;
    bench.progress.says("fills a queue");
    {
        let engine = ours::options(JOB).open(&dir)?;
        let queue = engine.queue("q").create()?;
        let batch = Payloads::new(PAYLOAD).batch(BATCH);
        for _ in 0..count / BATCH {
            queue.send_batch(&batch)?;
        }
        engine.close()?;
    }
    let times = time_open(bench, &dir, "q")?;
    let name = format!("posthouse, a backlog of {}", number::count(count));
    put(row, &name, times, ("a backlog: 100 ms", 0.1));
    Ok(())
}

fn queues(bench: &Bench, row: &mut Row) -> Result<()> {
    let dir = bench.fresh_dir("queues");
    let count = bench.scale.queues;
    bench.progress.says("creates queues");
    {
        let engine = ours::options(JOB).open(&dir)?;
        for n in 0..count {
            engine.queue(&format!("queue {n}")).create()?.send("a message")?;
        }
        engine.close()?;
    }
    let times = time_open(bench, &dir, "queue 1")?;
    let name = format!("posthouse, {} queues", number::count(count));
    put(row, &name, times, ("10,000 queues: 500 ms", 0.5));
    Ok(())
}

fn journal(bench: &Bench, row: &mut Row) -> Result<()> {
    let (mut times, mut rates) = (Vec::new(), Vec::new());
    // An open ends with a journal that is replayed: each time one is left anew.
    for _ in 0..bench.scale.rounds.min(3) {
        let dir = bench.fresh_dir("journal");
        child::run(bench, "leave-journal", &dir, bench.scale.journal)?;
        bench.progress.says("opens");
        let began = Instant::now();
        let engine = ours::options(JOB).journal_bytes(2 * bench.scale.journal).open(&dir)?;
        let queue = engine.queue("q").open()?;
        let seconds = began.elapsed().as_secs_f64();
        let bytes = queue.depth()? * FRAME_BYTES;
        times.push(seconds);
        rates.push(bytes as f64 / seconds);
    }
    let rate = median(&rates);
    let name = format!("posthouse, {} of journal", number::bytes(bench.scale.journal as f64));
    let figure = Figure::new(name, Kind::Ours, Unit::Seconds, times);
    row.figures.push(figure.detail(number::byte_rate(rate)));
    row.at_least("a journal: 1 GB/s", rate, 1e9, number::byte_rate(rate));
    Ok(())
}

/// In a child: fills a journal with so many bytes, syncs, and dies without closing.
pub fn leave_journal(dir: &Path, bytes: u64) -> Result<Value> {
    let engine = ours::options(JOB).journal_bytes(2 * bytes).open(dir)?;
    let queue = engine.queue("q").create()?;
    let mut payloads = Payloads::new(PAYLOAD);
    for _ in 0..bytes / FRAME_BYTES {
        queue.send(payloads.next())?;
    }
    engine.sync()?;
    // A quiet moment, in which the engine writes down that all of it is durable. What is not known
    // to be is written again by whoever opens the store, at the speed of the disk.
    std::thread::sleep(Duration::from_millis(500));
    std::process::abort();
}
