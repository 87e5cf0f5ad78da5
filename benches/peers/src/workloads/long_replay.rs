//! One consumer that reads a stream longer than memory, from its first record to its last, and
//! commits how far it has come.

use std::{path::Path, time::Instant};

use serde_json::{Value, json};

use super::memory::fitting;
use crate::{
    bench::Bench,
    child::{self, Peak, field},
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Durability, Job, Kind, Result, Seen},
    sides::posthouse as ours,
};

const PAYLOAD: usize = 48;
const BATCH: u64 = 1000;
const DISK_EACH: u64 = 65;
/// After how many records the consumer commits its place.
const COMMIT_EACH: u64 = 1_000_000;
const MIB: f64 = 1024.0 * 1024.0;
const JOB: Job = Job::Append(Durability::Buffered);

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let count = fitting(bench, bench.scale.events, DISK_EACH, &mut row) / BATCH * BATCH;
    let dir = bench.fresh_dir("long");
    let filled = child::run(bench, "fill-stream", &dir, count)?;
    let read = child::run(bench, "read-stream", &dir, count)?;
    let mut worst = 0.0;
    for (what, value) in [("appends, 1000 a commit", &filled), ("reads", &read)] {
        let peak = field(value, "peak")?;
        worst = f64::max(worst, peak);
        let rates = vec![field(value, "rate")?];
        let figure = Figure::new(format!("posthouse, {what}"), Kind::Ours, Unit::PerSecond, rates)
            .durable(ours::words(Durability::Buffered))
            .detail(format!("{} in all", number::seconds(field(value, "seconds")?)))
            .detail(format!("anonymous memory up to {}", number::bytes(peak)));
        row.figures.push(figure);
    }
    let reached = field(&read, "records")?;
    row.at_least("reads all events", reached, count as f64, number::count(reached as u64));
    row.at_most("anonymous memory under 64 MiB", worst, 64.0 * MIB, number::bytes(worst));
    row.notes.push(format!(
        "{} events of {PAYLOAD} B. The consumer commits its place after each {}.",
        number::count(count),
        number::count(COMMIT_EACH)
    ));
    Ok(row)
}

/// In a child: appends.
pub fn fill(dir: &Path, count: u64) -> Result<Value> {
    let mut peak = Peak::default();
    let engine = ours::options(JOB).open(dir)?;
    let stream = engine.stream("s").create()?;
    let batch = Payloads::new(PAYLOAD).batch(BATCH);
    let began = Instant::now();
    for n in 0..count / BATCH {
        stream.append_batch(&batch)?;
        if n % 1000 == 0 {
            peak.look(n * BATCH, count);
        }
    }
    engine.checkpoint()?;
    engine.close()?;
    peak.look(count, count);
    let seconds = began.elapsed().as_secs_f64();
    Ok(json!({ "peak": peak.bytes(), "rate": count as f64 / seconds, "seconds": seconds }))
}

/// In a child: reads it all.
pub fn read(dir: &Path, count: u64) -> Result<Value> {
    let mut peak = Peak::default();
    let engine = ours::options(JOB).open(dir)?;
    let group = engine.stream("s").open()?.group("consumer").create()?;
    let mut reader = group.reader()?;
    let mut seen = Seen::default();
    let began = Instant::now();
    loop {
        match reader.try_read()? {
            Some(record) => seen.see(record.payload()),
            None => break,
        }
        if seen.records.is_multiple_of(COMMIT_EACH) {
            group.commit_reader(&reader)?;
            peak.look(seen.records, count);
        }
    }
    group.commit_reader(&reader)?;
    let seconds = began.elapsed().as_secs_f64();
    peak.look(seen.records, count);
    if group.lag()? != 0 || seen.bytes != seen.records * PAYLOAD as u64 {
        return Err("the consumer is not at the end".into());
    }
    Ok(json!({
        "peak": peak.bytes(), "rate": seen.records as f64 / seconds, "seconds": seconds,
        "records": seen.records,
    }))
}
