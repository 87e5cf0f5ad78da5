//! The bytes that are written for a message that is sent, received and acked at once. A message that is acked
//! early never leaves the journal.

use std::time::{Duration, Instant};

use super::PAYLOAD;
use crate::{
    bench::{Bench, failed},
    os,
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Able, Durability, Job, Kind, Result},
    sides::{self, posthouse},
};

/// The header of a frame in the journal: see `docs/FORMAT.md`.
const HEADER: f64 = 24.0;
/// Between two looks at the clock, since slow sides stop early.
const CHUNK: u64 = 1000;

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let job = Job::Queue(Durability::Buffered);
    let (able, others) = sides::split(job);
    row.left_out.extend(others.into_iter().map(|(side, why)| (side.into(), why.into())));
    for able in able {
        bench.progress.says(able.side.name());
        match able.side.kind() {
            Kind::Limit => {}
            Kind::Server => {
                let why = "what a server writes is not counted with this process";
                row.left_out.push((able.side.name().into(), why.into()));
            }
            _ => match count(bench, able, job) {
                Ok(figure) => row.figures.push(figure),
                Err(error) => row.left_out.push(failed(able.side.name(), &*error)),
            },
        }
        bench.clear()?;
    }
    if let Some(bytes) = row.value(posthouse::NAME) {
        let ratio = bytes / (PAYLOAD as f64 + HEADER);
        let shown = format!("{} times", number::ratio(ratio));
        row.at_most("1.1 times payload plus header", ratio, 1.1, shown);
    }
    let segments = row.find(posthouse::NAME).and_then(|it| it.details.last().cloned());
    if let Some(segments) = segments {
        let none = segments.starts_with("0 B ");
        row.at_least("segments: 0", f64::from(u8::from(none)), 1.0, segments);
    }
    row.notes.push(format!(
        "Bytes that the process made the page cache write, for each message of {PAYLOAD} B that was \
         sent, received and acked. A frame's header has {HEADER} B; the ack is a frame, too."
    ));
    Ok(row)
}

fn count(bench: &Bench, able: Able, job: Job) -> Result<Figure> {
    let opened = bench.open(able, job)?;
    let (mut writer, mut taker) = (opened.store.writer()?, opened.store.taker()?);
    let mut payloads = Payloads::new(PAYLOAD);
    let mut pump = |most: u64, time: Duration| -> Result<u64> {
        let (began, mut count) = (Instant::now(), 0);
        while count < most && began.elapsed() < time {
            for _ in 0..CHUNK {
                writer.append(&mut payloads, 1)?;
                taker.take(1)?;
            }
            count += CHUNK;
            bench.progress.at(count, most);
        }
        Ok(count)
    };
    // Files that are made once are not counted: it goes on until they are filled again.
    pump(bench.scale.written, bench.scale.fill / 2)?;
    opened.store.sync()?;
    let before = bench.disk.look();
    let count = pump(bench.scale.written, bench.scale.fill)?;
    opened.store.sync()?;
    let written = bench.disk.look().since(before);
    let each = |bytes: u64| bytes as f64 / count as f64;
    let figure = Figure::new(
        able.side.name(),
        able.side.kind(),
        Unit::Bytes,
        vec![each(written.by_process)],
    )
    .durable(able.durability)
    .detail(format!("{} messages", number::count(count)));
    if able.side.kind() != Kind::Ours {
        return Ok(figure);
    }
    let segments: u64 = os::files(&opened.dir.join("segments"))
        .map_or(0, |files| files.iter().map(|(_, size)| size).sum());
    Ok(figure.detail(format!("{} in segments", number::bytes(segments as f64))))
}
