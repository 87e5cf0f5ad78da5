//! The cost of an append by the size of the payload, and by the size of the batch.

use super::{PAYLOAD, append};
use crate::{
    bench::{Bench, Contender, Opened, chunked, failed},
    outcome::{Row, Unit},
    payload::Payloads,
    report::number,
    side::{Durability, Job, Kind, Result},
    sides::{self, posthouse},
};

const PAYLOADS: [usize; 9] =
    [16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
const BATCHES: [u64; 4] = [1, 10, 100, 1000];
/// The curves are of the limit, ours and the two fastest of the others.
const DRAWN: [&str; 2] = ["walrus", "LMDB"];
/// How many bytes of payload a lap has at most.
const LAP_BYTES: u64 = 64 << 20;

fn open(bench: &Bench, job: Job, drawn: &[&str], row: &mut Row) -> Vec<Opened> {
    let mut opened = Vec::new();
    for able in sides::split(job).0 {
        let is_drawn = drawn.contains(&able.side.name());
        if !is_drawn && !matches!(able.side.kind(), Kind::Ours | Kind::Limit) {
            continue;
        }
        match bench.open(able, job) {
            Ok(one) => opened.push(one),
            Err(error) => row.left_out.push(failed(able.side.name(), &*error)),
        }
    }
    opened
}

/// Times contenders at one place of the axis.
fn point(bench: &Bench, row: &mut Row, contenders: Vec<Contender<'_>>, most: u64, x: f64) {
    let from = row.figures.len();
    bench.laps(contenders, most, row);
    for figure in &mut row.figures[from..] {
        figure.x = Some(x);
    }
}

/// By the size of the payload: bytes of payload a second.
pub fn payload(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    row.axis = Some("payload, bytes".to_owned());
    for size in PAYLOADS.into_iter().step_by(bench.scale.curve_step) {
        let opened = open(bench, Job::Append(Durability::Buffered), &DRAWN, &mut row);
        let contenders =
            opened.iter().map(|one| append::contender(one, size)).collect::<Result<Vec<_>>>()?;
        let most = (LAP_BYTES / size as u64).min(bench.scale.burst).max(1);
        point(bench, &mut row, contenders, most, size as f64);
        drop(opened);
        bench.clear()?;
    }
    for figure in &mut row.figures {
        let size = figure.x.unwrap_or(1.0);
        figure.details.push(number::rate(figure.value));
        figure.value *= size;
        figure.rounds.iter_mut().for_each(|rate| *rate *= size);
        figure.unit = Unit::BytesPerSecond;
    }
    Ok(row)
}

/// By the size of the batch: messages a second, buffered and synced.
pub fn batch(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    row.axis = Some("messages a commit".to_owned());
    for size in BATCHES.into_iter().step_by(bench.scale.curve_step.min(3)) {
        let mut opened = open(bench, Job::Append(Durability::Buffered), &DRAWN, &mut row);
        let buffered = opened.len();
        opened.extend(open(bench, Job::Append(Durability::Sync), &[], &mut row));
        let mut contenders = Vec::new();
        for (n, one) in opened.iter().enumerate() {
            let name = one.able.side.name();
            let contender = batches(one, size)?;
            contenders.push(match n < buffered {
                true => contender,
                false => contender.named(format!("{name}, Sync")),
            });
        }
        point(bench, &mut row, contenders, bench.scale.burst, size as f64);
        bench.clear()?;
    }
    let ours = |row: &Row, x: f64| {
        let mut ours = row.figures.iter().filter(|it| it.side == posthouse::NAME);
        ours.find(|it| it.x == Some(x)).map(|it| it.value)
    };
    if let (Some(one), Some(thousand)) = (ours(&row, 1.0), ours(&row, 1000.0)) {
        let ratio = number::ratio(thousand / one);
        row.notes.push(format!("Buffered, 1000 a commit give {ratio} times the messages of 1."));
    }
    Ok(row)
}

fn batches(opened: &Opened, size: u64) -> Result<Contender<'_>> {
    let mut writer = opened.store.writer()?;
    let mut payloads = Payloads::new(PAYLOAD);
    let lap = chunked(size, move |count| writer.append_batches(&mut payloads, size, count / size));
    Ok(Contender::new(opened.able, lap).between(move || append::settle(&*opened.store, opened)))
}
