//! Appending from one thread, a commit each, buffered and synced.
//!
//! Buffered laps are bursts that a journal holds. Between laps each side makes its data durable (and
//! Posthouse checkpoints), untimed, so that each lap begins with a clean page cache. The sustained row shows
//! the cost of appending without a pause.

use super::PAYLOAD;
use crate::{
    bench::{Bench, Contender, Opened, chunked},
    os,
    outcome::Row,
    payload::Payloads,
    report::number,
    side::{Durability, Job, Result, Store},
    sides::posthouse,
};

/// A contender that appends through a writer of a store.
pub fn contender<'a>(opened: &'a Opened, payload: usize) -> Result<Contender<'a>> {
    let mut writer = opened.store.writer()?;
    let mut payloads = Payloads::new(payload);
    let lap = chunked(1, move |count| writer.append(&mut payloads, count));
    Ok(Contender::new(opened.able, lap).between(move || settle(&*opened.store, opened)))
}

/// What a side does by itself, and then what lies in the page cache, too.
pub fn settle(store: &dyn Store, opened: &Opened) -> Result<()> {
    store.settle()?;
    Ok(os::sync_dir(&opened.dir)?)
}

fn all<'a>(
    opened: &'a [Opened],
    row: &mut Row,
    make: impl Fn(&'a Opened) -> Result<Contender<'a>>,
) -> Vec<Contender<'a>> {
    let mut contenders = Vec::new();
    for one in opened {
        match make(one) {
            Ok(contender) => contenders.push(contender),
            Err(error) => {
                row.left_out.push((one.able.side.name().into(), format!("it failed: {error}")));
            }
        }
    }
    contenders
}

/// Buffered.
pub fn buffered(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let opened = bench.open_all(Job::Append(Durability::Buffered), &mut row);
    let contenders = all(&opened, &mut row, |one| contender(one, PAYLOAD));
    bench.laps(contenders, bench.scale.burst, &mut row);
    let ours = row.value(posthouse::NAME);
    if let (Some(ours), Some(best)) = (ours, row.best_peer().cloned()) {
        let ratio = ours / best.value;
        let shown = format!("{} times {}", number::ratio(ratio), best.side);
        row.at_least("3 times the fastest peer", ratio, 3.0, shown);
    }
    row.ratio("0.5 of the limit", posthouse::NAME, "limit", 0.5);
    row.notes.push(format!(
        "Bursts of up to {} messages; what was appended stays. Between bursts everything is made \
         durable, untimed. redb's commits are lost with the process.",
        number::count(bench.scale.burst)
    ));
    Ok(row)
}

/// Synced.
pub fn sync(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let opened = bench.open_all(Job::Append(Durability::Sync), &mut row);
    let contenders = all(&opened, &mut row, |one| contender(one, PAYLOAD).map(Contender::counted));
    bench.laps(contenders, u64::MAX / 2, &mut row);
    row.ratio("0.95 of bare pwrite + fdatasync", posthouse::NAME, "limit", 0.95);
    judge_writing(bench, &mut row);
    row.notes.push(WHOSE.to_owned());
    Ok(row)
}

/// Whose flushes are counted.
pub const WHOSE: &str = "Flushes are the disk's own count, those of other programs included: count \
    them on a quiet machine. Bytes written are those that the process made the page cache write.";

fn judge_writing(bench: &Bench, row: &mut Row) {
    let Some(figure) = row.find(posthouse::NAME).cloned() else { return };
    if !bench.disk.counts() {
        return;
    }
    let first = |detail: &str| detail.split(' ').next().and_then(|it| it.parse().ok());
    if let [flushes, kib, ..] = figure.details.as_slice() {
        row.at_most("one flush", first(flushes).unwrap_or(f64::NAN), 1.02, flushes.clone());
        row.at_most("4.2 KiB", first(kib).unwrap_or(f64::NAN), 4.2, kib.clone());
    }
}
