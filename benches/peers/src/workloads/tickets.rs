//! One thread with thousands of durable commits under way.
//!
//! No other embedded engine here returns durability as a value, so the row stands beside the limit: records
//! packed into pages, 1 MiB written and flushed at a time. NATS pipelines too, but does not sync.

use std::{collections::VecDeque, time::Instant};

use posthouse::{Stream, Ticket};

use super::PAYLOAD;
use crate::{
    bench::{Bench, Contender, chunked},
    outcome::Row,
    payload::Payloads,
    report::number,
    side::{Able, Durability, Job, Result, Side},
    sides::{limit, posthouse as ours},
};

/// How many commits are under way at a time.
const UNDER_WAY: usize = 8192;
/// How many are begun between two looks at the clock.
const CHUNK: u64 = 256;
/// How many records the limit writes with each flush: about 1 MiB.
const LIMIT_BATCH: u64 = 9_700;

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let job = Job::Append(Durability::Sync);
    let dir = bench.fresh_dir("tickets");
    let engine = ours::options(job).open(&dir)?;
    let stream = engine.stream("s").create()?;
    let able = Able { side: &ours::Posthouse, durability: "durable when its ticket says so" };
    let mut payloads = Payloads::new(PAYLOAD);
    let mut pipe = Pipe { stream, under_way: VecDeque::new() };
    let lap = move |slot, most| {
        let (began, mut count) = (Instant::now(), 0);
        while began.elapsed() < slot && count < most {
            pipe.append(&mut payloads, CHUNK)?;
            count += CHUNK;
        }
        pipe.await_older(pipe.under_way.len())?;
        Ok((count, began.elapsed().as_secs_f64()))
    };
    let tickets =
        Contender::new(able, Box::new(lap)).counted().between(|| Ok(engine.checkpoint()?));

    let able = Able { side: &limit::Limit, durability: "pwrite of 1 MiB, fdatasync" };
    let store = limit::Limit.open(&bench.fresh_dir("limit"), job)?;
    let mut writer = store.writer()?;
    let mut payloads = Payloads::new(PAYLOAD);
    let lap = chunked(LIMIT_BATCH, move |count| {
        writer.append_batches(&mut payloads, LIMIT_BATCH, count / LIMIT_BATCH)
    });
    let bare = Contender::new(able, lap).counted();

    bench.laps(vec![bare, tickets], u64::MAX / 2, &mut row);
    if let Some(rate) = row.value(ours::NAME) {
        row.at_least("1 M/s durable", rate, 1e6, number::rate(rate));
    }
    row.notes.push(format!(
        "Up to {UNDER_WAY} commits under way; a lap ends when all of its are durable. \
         No other embedded engine here has a form for it."
    ));
    Ok(row)
}

struct Pipe {
    stream: Stream,
    under_way: VecDeque<Ticket<posthouse::Position>>,
}

impl Pipe {
    fn append(&mut self, payloads: &mut Payloads, count: u64) -> Result<()> {
        for _ in 0..count {
            if self.under_way.len() == UNDER_WAY {
                self.await_older(UNDER_WAY / 2)?;
            }
            self.under_way.push_back(self.stream.append_ticket(payloads.next())?);
        }
        Ok(())
    }

    /// Waits for so many of the oldest: one wait for the last of them, and the others are there.
    fn await_older(&mut self, count: usize) -> Result<()> {
        let mut older: Vec<_> = self.under_way.drain(..count).collect();
        if let Some(last) = older.pop() {
            last.wait()?;
        }
        older.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?;
        Ok(())
    }
}
