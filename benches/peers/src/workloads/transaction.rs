//! One transaction that writes to three places, synced, beside a plain append.

use super::{PAYLOAD, append, append::WHOSE};
use crate::{
    bench::{Bench, Contender, Opened, chunked, failed},
    outcome::Row,
    payload::Payloads,
    side::{Durability, Job, Kind, Result},
    sides::posthouse,
};

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let opened = bench.open_all(Job::Transact(Durability::Sync), &mut row);
    let mut contenders = Vec::new();
    for one in &opened {
        let name = one.able.side.name();
        match contender(one) {
            Ok(contender) => contenders.push(contender),
            Err(error) => row.left_out.push(failed(name, &*error)),
        }
        if one.able.side.kind() == Kind::Ours {
            let plain = append::contender(one, PAYLOAD)?;
            contenders.push(plain.named(format!("{name}, plain append")).counted());
        }
    }
    bench.laps(contenders, u64::MAX / 2, &mut row);
    let plain = format!("{}, plain append", posthouse::NAME);
    row.ratio("0.9 of a plain Sync append", posthouse::NAME, &plain, 0.9);
    let flushes = row.find(posthouse::NAME).and_then(|it| it.details.first().cloned());
    if let Some(flushes) = flushes.filter(|_| bench.disk.counts()) {
        let count = flushes.split(' ').next().and_then(|it| it.parse().ok());
        row.at_most("one flush", count.unwrap_or(f64::NAN), 1.02, flushes);
    }
    row.notes.push(WHOSE.to_owned());
    Ok(row)
}

fn contender(opened: &Opened) -> Result<Contender<'_>> {
    let mut writer = opened.store.writer()?;
    let mut payloads = Payloads::new(PAYLOAD);
    let lap = chunked(1, move |count| writer.transact(&mut payloads, count));
    Ok(Contender::new(opened.able, lap).counted().between(|| opened.store.settle()))
}
