//! The anonymous memory of a process that fills a queue far behind its consumers, and of a process that opens
//! the store and works on it.

use std::path::Path;

use serde_json::{Value, json};

use super::PAYLOAD;
use crate::{
    bench::Bench,
    child::{self, Peak, field},
    os,
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Durability, Job, Kind, Result},
    sides::posthouse as ours,
};

const BATCH: u64 = 1000;
/// How much disk a message takes, with some to spare.
const DISK_EACH: u64 = 125;
const MIB: f64 = 1024.0 * 1024.0;
/// How many messages are sent and taken on top of the backlog.
const WORK: u64 = 200_000;
const JOB: Job = Job::Queue(Durability::Buffered);

/// As many as the disk has space for. If these are fewer than planned, the row says so.
pub fn fitting(bench: &Bench, wanted: u64, each: u64, row: &mut Row) -> u64 {
    // The journal and a checkpoint need room beside what they write.
    let free = os::free_bytes(bench.dir()).unwrap_or(u64::MAX).saturating_sub(2 << 30);
    let fitting = wanted.min(free / each);
    if fitting < wanted {
        row.notes.push(format!(
            "The disk has room for {} of {} only.",
            number::count(fitting),
            number::count(wanted)
        ));
    }
    fitting
}

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let count = fitting(bench, bench.scale.memory_backlog, DISK_EACH, &mut row);
    let dir = bench.fresh_dir("memory");
    let filled = child::run(bench, "fill-queue", &dir, count)?;
    let worked = child::run(bench, "use-queue", &dir, count)?;
    let mut worst = 0.0;
    for (what, value) in [("fills", &filled), ("opens and works", &worked)] {
        let peak = field(value, "peak")?;
        worst = f64::max(worst, peak);
        let name = format!("posthouse, a process that {what}");
        let figure = Figure::new(name, Kind::Ours, Unit::Bytes, vec![peak])
            .durable(ours::words(Durability::Buffered))
            .detail(number::rate(field(value, "rate")?));
        row.figures.push(figure);
    }
    let figure = Figure::new(
        "posthouse, opening it",
        Kind::Ours,
        Unit::Seconds,
        vec![field(&worked, "opening")?],
    );
    row.figures.push(figure);
    row.at_most("under 64 MiB", worst, 64.0 * MIB, number::bytes(worst));
    row.notes.push(format!("A backlog of {} messages of 100 B.", number::count(count)));
    Ok(row)
}

/// In a child: fills a queue.
pub fn fill(dir: &Path, count: u64) -> Result<Value> {
    let mut peak = Peak::default();
    let engine = ours::options(JOB).open(dir)?;
    let queue = engine.queue("q").create()?;
    let batch = Payloads::new(PAYLOAD).batch(BATCH);
    let began = std::time::Instant::now();
    for n in 0..count / BATCH {
        queue.send_batch(&batch)?;
        if n % 1000 == 0 {
            peak.look(n * BATCH, count);
        }
    }
    engine.checkpoint()?;
    peak.look(count, count);
    Ok(json!({ "peak": peak.bytes(), "rate": count as f64 / began.elapsed().as_secs_f64() }))
}

/// In a child: opens it, and sends and takes messages.
pub fn work(dir: &Path, count: u64) -> Result<Value> {
    let mut peak = Peak::default();
    let began = std::time::Instant::now();
    let engine = ours::options(JOB).open(dir)?;
    let queue = engine.queue("q").open()?;
    let opening = began.elapsed().as_secs_f64();
    let mut payloads = Payloads::new(PAYLOAD);
    let work = WORK.min(count / 2);
    let began = std::time::Instant::now();
    for n in 0..work {
        queue.send(payloads.next())?;
        queue.try_receive()?.ok_or("the backlog is gone")?.ack()?;
        if n % 10_000 == 0 {
            peak.look(n, work);
        }
    }
    let rate = work as f64 / began.elapsed().as_secs_f64();
    if queue.depth()? != count / BATCH * BATCH {
        return Err("the backlog has changed".into());
    }
    peak.look(work, work);
    Ok(json!({ "peak": peak.bytes(), "rate": rate, "opening": opening }))
}
