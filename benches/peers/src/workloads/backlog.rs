//! The queue workload on top of a backlog, and the time to open the store then.
//!
//! Posthouse is timed alternately on an empty queue and on a backlog. The other sides are filled, timed and
//! removed one after the other, because all of them would not fit on the disk. Filling ends after some time,
//! so slow sides have less of a backlog. Their rows say so.

use std::time::Instant;

use super::{PAYLOAD, queue};
use crate::{
    bench::{Bench, Opened, failed},
    os,
    outcome::Row,
    payload::Payloads,
    report::number,
    side::{Able, Durability, Job, Kind, Result},
    sides::{self, posthouse},
};

const JOB: Job = Job::Queue(Durability::Buffered);
const BATCH: u64 = 1000;

/// Fills a store, for as long as filling may take; returns how many messages it holds.
pub fn fill(bench: &Bench, opened: &Opened, messages: u64) -> Result<u64> {
    let is_ours = opened.able.side.kind() == Kind::Ours;
    let mut writer = opened.store.writer()?;
    let mut payloads = Payloads::new(PAYLOAD);
    let (mut count, began) = (0, Instant::now());
    bench.progress.says(&format!("{}: fills", opened.able.side.name()));
    while count < messages && (is_ours || began.elapsed() < bench.scale.fill) {
        let size = BATCH.min(messages - count);
        writer.append_batches(&mut payloads, size, 1)?;
        count += size;
        if count % (100 * BATCH) == 0 {
            bench.progress.at(count, messages);
        }
    }
    opened.store.settle()?;
    os::sync_dir(&opened.dir)?;
    Ok(count)
}

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let (able, others) = sides::split(JOB);
    row.left_out.extend(others.into_iter().map(|(side, why)| (side.into(), why.into())));
    let (ours, peers): (Vec<Able>, Vec<Able>) =
        able.into_iter().partition(|able| able.side.kind() == Kind::Ours);
    for able in ours {
        let (empty, full) = (bench.open(able, JOB)?, bench.open(able, JOB)?);
        let depth = fill(bench, &full, bench.scale.backlog)?;
        let contenders = vec![
            queue::contender(&empty)?.named(format!("{}, empty", posthouse::NAME)),
            queue::contender(&full)?,
        ];
        bench.laps(contenders, u64::MAX / 2, &mut row);
        describe(bench, &mut row, full, depth);
        drop(empty);
        bench.clear()?;
    }
    for able in peers.into_iter().filter(|able| able.side.kind() == Kind::Embedded) {
        if let Err(error) = peer(bench, able, &mut row) {
            row.left_out.push(failed(able.side.name(), &*error));
        }
        bench.clear()?;
    }
    let empty = format!("{}, empty", posthouse::NAME);
    row.ratio("0.95 of the empty queue", posthouse::NAME, &empty, 0.95);
    Ok(row)
}

fn peer(bench: &Bench, able: Able, row: &mut Row) -> Result<()> {
    let opened = bench.open(able, JOB)?;
    let depth = fill(bench, &opened, bench.scale.backlog)?;
    let contender = queue::contender(&opened)?;
    bench.laps(vec![contender], u64::MAX / 2, row);
    describe(bench, row, opened, depth);
    Ok(())
}

/// Adds to a side's figure how large the backlog is, and what opening it anew takes.
fn describe(bench: &Bench, row: &mut Row, opened: Opened, depth: u64) {
    let Opened { able, store, dir } = opened;
    drop(store);
    bench.progress.says(&format!("{}: opens again", able.side.name()));
    let began = Instant::now();
    let reopened = able.side.open(&dir, JOB);
    let opening = number::seconds(began.elapsed().as_secs_f64());
    let name = able.side.name();
    if let Some(figure) = row.figures.iter_mut().find(|figure| figure.side == name) {
        figure.details.push(format!("backlog {}", number::count(depth)));
        figure.details.push(match reopened {
            Ok(_) => format!("opened in {opening}"),
            Err(error) => format!("cannot be opened again: {error}"),
        });
    }
}
