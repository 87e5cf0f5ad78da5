//! How long a message takes to a consumer that waits for it in another thread.
//!
//! The time goes from before the send to after the receive; the ack comes later. The next message
//! is sent when the consumer has had time to wait again.

use std::{
    sync::mpsc::{Sender, channel},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::PAYLOAD;
use crate::{
    bench::{Bench, Opened, failed},
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Able, Durability, Error, Job, Kind, Result, Taker, Writer},
    sides::{self, posthouse},
};

/// How long the consumer has to wait again.
const PAUSE: Duration = Duration::from_micros(100);

struct Pair {
    name: String,
    able: Able,
    // Before the store, so that the store is closed after them.
    writer: Box<dyn Writer>,
    taker: Box<dyn Taker>,
    _opened: Opened,
    nanos: Histogram<u64>,
    medians: Vec<f64>,
    failure: Option<String>,
}

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let mut pairs = Vec::new();
    for durability in [Durability::Buffered, Durability::Sync] {
        let job = Job::HandOver(durability);
        let (able, others) = sides::split(job);
        if durability == Durability::Buffered {
            row.left_out.extend(others.into_iter().map(|(side, why)| (side.into(), why.into())));
        }
        for able in able {
            // Of the synced forms, ours alone: the others' are their sync append and little more.
            if durability == Durability::Buffered || able.side.kind() == Kind::Ours {
                match open(bench, able, job) {
                    Ok(pair) => pairs.push(pair),
                    Err(error) => row.left_out.push(failed(able.side.name(), &*error)),
                }
            }
        }
    }
    let rounds = bench.scale.rounds;
    let each = bench.scale.hand_overs / rounds as u64;
    bench.progress.begin((rounds + 1) * pairs.len());
    for round in 0..=rounds {
        for pair in &mut pairs {
            bench.progress.step(&pair.name);
            // The first round warms up.
            let count = if round == 0 { each / 10 + 1 } else { each };
            if let Err(error) = lap(pair, count, round > 0) {
                pair.failure = Some(error.to_string());
            }
        }
    }
    for pair in pairs {
        put_figure(pair, &mut row);
    }
    let (ours, bare) = (row.value(posthouse::NAME), row.value("limit"));
    if let (Some(ours), Some(bare)) = (ours, bare) {
        let shown = format!("{} times", number::ratio(ours / bare));
        row.at_most("p50 within 2 times a condvar", ours / bare, 2.0, shown);
    }
    row.notes.push("The median of all; p99 and p99.9 beside it.".to_owned());
    Ok(row)
}

fn open(bench: &Bench, able: Able, job: Job) -> Result<Pair> {
    let opened = bench.open(able, job)?;
    let (writer, taker) = (opened.store.writer()?, opened.store.taker()?);
    let name = match job.durability() {
        Durability::Buffered => able.side.name().to_owned(),
        Durability::Sync => format!("{}, Sync", able.side.name()),
    };
    let nanos = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    let (medians, failure) = (Vec::new(), None);
    Ok(Pair { name, able, writer, taker, _opened: opened, nanos, medians, failure })
}

fn lap(pair: &mut Pair, count: u64, counts: bool) -> Result<()> {
    if pair.failure.is_some() {
        return Ok(());
    }
    let mut payloads = Payloads::new(PAYLOAD);
    let (got, gets) = channel();
    let (writer, taker) = (&mut pair.writer, &mut pair.taker);
    let mut nanos = pair.nanos.clone();
    nanos.reset();
    thread::scope(|scope| -> Result<()> {
        let consumer = scope.spawn(move || consume(&mut **taker, count, &got));
        for _ in 0..count {
            thread::sleep(PAUSE);
            let sent = Instant::now();
            writer.append(&mut payloads, 1)?;
            // If it ended early, it says why below.
            let Ok(received) = gets.recv() else { break };
            let taken: Duration = received - sent;
            nanos.record(taken.as_nanos() as u64)?;
        }
        consumer.join().map_err(|_| Error::from("the consumer panicked"))?
    })?;
    if counts {
        pair.medians.push(nanos.value_at_quantile(0.5) as f64 / 1e9);
        pair.nanos.add(&nanos)?;
    }
    Ok(())
}

fn consume(taker: &mut dyn Taker, count: u64, got: &Sender<Instant>) -> Result<()> {
    for _ in 0..count {
        let mut received = None;
        while !taker.wait(&mut || received = Some(Instant::now()))? {}
        got.send(received.unwrap_or_else(Instant::now))?;
    }
    Ok(())
}

fn put_figure(pair: Pair, row: &mut Row) {
    if let Some(failure) = pair.failure {
        row.left_out.push((pair.name, format!("it failed: {failure}")));
        return;
    }
    let at = |quantile| number::seconds(pair.nanos.value_at_quantile(quantile) as f64 / 1e9);
    let figure =
        Figure::new(&pair.name, pair.able.side.kind(), Unit::Seconds, pair.medians.clone())
            .durable(pair.able.durability)
            .detail(format!("p99 {}", at(0.99)))
            .detail(format!("p99.9 {}", at(0.999)));
    row.figures.push(figure);
}
