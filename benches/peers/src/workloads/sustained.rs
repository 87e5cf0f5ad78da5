//! Appending without a pause: the rate that a side keeps up while the disk takes the data. The time to make
//! everything durable at the end counts, too.

use std::time::Instant;

use super::PAYLOAD;
use crate::{
    bench::{Bench, Opened, failed},
    os,
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Able, Durability, Job, Kind, Result},
    sides::posthouse,
};

const CHUNK: u64 = 100;

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let job = Job::Append(Durability::Buffered);
    let (able, others) = crate::sides::split(job);
    row.left_out.extend(others.into_iter().map(|(side, why)| (side.into(), why.into())));
    bench.progress.begin(able.len());
    for able in able {
        bench.progress.step(able.side.name());
        // One after the other: each writes some GiB, which are removed before the next begins.
        // The limit does here what the disk asks for: packed records at the end of a file.
        let (able, job) = match able.side.kind() {
            Kind::Limit => {
                (Able { durability: "packed records at a file's end", ..able }, Job::Replay)
            }
            _ => (able, job),
        };
        match bench.open(able, job).and_then(|opened| append(bench, &opened)) {
            Ok(figure) => row.figures.push(figure.durable(able.durability)),
            Err(error) => row.left_out.push(failed(able.side.name(), &*error)),
        }
        bench.clear()?;
    }
    row.ratio("0.35 of the limit", posthouse::NAME, "limit", 0.35);
    if let (Some(ours), Some(best)) = (row.value(posthouse::NAME), row.best_peer().cloned()) {
        let shown = format!("{} times {}", number::ratio(ours / best.value), best.side);
        row.at_least("ahead of every peer", ours / best.value, 1.0, shown);
    }
    row.notes.push(format!(
        "{} of appends, and then everything is made durable, which counts.",
        number::seconds(bench.scale.sustained.as_secs_f64())
    ));
    Ok(row)
}

fn append(bench: &Bench, opened: &Opened) -> Result<Figure> {
    let mut writer = opened.store.writer()?;
    let mut payloads = Payloads::new(PAYLOAD);
    let (mut count, began) = (0, Instant::now());
    while began.elapsed() < bench.scale.sustained {
        writer.append(&mut payloads, CHUNK)?;
        count += CHUNK;
    }
    let appended = began.elapsed().as_secs_f64();
    opened.store.sync()?;
    os::sync_dir(&opened.dir)?;
    let seconds = began.elapsed().as_secs_f64();
    let (side, rate) = (opened.able.side, count as f64 / seconds);
    Ok(Figure::new(side.name(), side.kind(), Unit::PerSecond, vec![rate])
        .detail(format!("{} while appending", number::rate(count as f64 / appended)))
        .detail(format!("{} to make durable", number::seconds(seconds - appended))))
}
