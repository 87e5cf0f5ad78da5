//! A message sent, received and acked by one thread, a commit for each step that has one.

use super::PAYLOAD;
use crate::{
    bench::{Bench, Contender, Opened, chunked, failed},
    outcome::Row,
    payload::Payloads,
    side::{Durability, Job, Result},
    sides::posthouse,
};

/// A contender that sends a message and takes one, over and over.
pub fn contender(opened: &Opened) -> Result<Contender<'_>> {
    let (mut writer, mut taker) = (opened.store.writer()?, opened.store.taker()?);
    let mut payloads = Payloads::new(PAYLOAD);
    let lap = chunked(1, move |count| {
        for _ in 0..count {
            writer.append(&mut payloads, 1)?;
            if taker.take(1)? != 1 {
                return Err("a message that was sent did not come".into());
            }
        }
        Ok(())
    });
    Ok(Contender::new(opened.able, lap))
}

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let opened = bench.open_all(Job::Queue(Durability::Buffered), &mut row);
    let mut contenders = Vec::new();
    for one in &opened {
        match contender(one) {
            Ok(contender) => contenders.push(contender),
            Err(error) => row.left_out.push(failed(one.able.side.name(), &*error)),
        }
    }
    bench.laps(contenders, u64::MAX / 2, &mut row);
    row.ratio("0.25 of the limit", posthouse::NAME, "limit", 0.25);
    row.ratio("3 times yaque", posthouse::NAME, "yaque", 3.0);
    row.ratio("60 times SQLite", posthouse::NAME, "SQLite", 60.0);
    Ok(row)
}
