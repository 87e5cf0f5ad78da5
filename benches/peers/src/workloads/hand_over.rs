//! The time that a message takes to a consumer that waits for it in another thread.
//!
//! The time goes from before the send to after the receive; the ack comes later. The next message
//! is sent when the consumer has had time to wait again.
//!
//! Each of the two threads is held on a core, because waking one takes most of the time. On two cores the
//! other core must be woken from its sleep. On one core it is a switch.

use std::{
    sync::mpsc::{Sender, channel},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::PAYLOAD;
use crate::{
    bench::{Bench, Opened, failed},
    os::Cores,
    outcome::{Figure, Row, Unit},
    payload::Payloads,
    report::number,
    side::{Able, Durability, Error, Job, Kind, Result, Taker, Writer},
    sides::{self, posthouse},
};

/// How long the consumer has to wait again.
const PAUSE: Duration = Duration::from_micros(100);
const ONE_CORE: &str = ", one core";

struct Pair {
    name: String,
    able: Able,
    // Before the store, so that the store is closed after them.
    writer: Box<dyn Writer>,
    taker: Box<dyn Taker>,
    _opened: Opened,
    /// On two cores, and on one.
    placed: [Placed; 2],
    failure: Option<String>,
}

struct Placed {
    nanos: Histogram<u64>,
    medians: Vec<f64>,
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
            for place in 0..2 {
                if let Err(error) = lap(pair, place, count, round > 0) {
                    pair.failure = Some(error.to_string());
                }
            }
        }
    }
    let mut tails = Vec::new();
    for pair in pairs {
        tails.extend(put_figure(pair, &mut row));
    }
    for (to, place) in [("", "two cores"), (ONE_CORE, "one core")] {
        let ours = row.value(&format!("{}{to}", posthouse::NAME));
        let bare = row.value(&format!("limit{to}"));
        if let (Some(ours), Some(bare)) = (ours, bare) {
            let shown = format!("{} times", number::ratio(ours / bare));
            let target = format!("p50 within 2 times a condvar, {place}");
            row.at_most(target, ours / bare, 2.0, shown);
        }
        let tail_of = |side: &str| {
            let (name, mut tails) = (format!("{side}{to}"), tails.iter());
            tails.find(|(it, _)| *it == name).map(|(_, nanos)| *nanos)
        };
        if let (Some(ours), Some(bare)) = (tail_of(posthouse::NAME), tail_of("limit")) {
            let shown = format!("{} times", number::ratio(ours / bare));
            let target = format!("p99.9 within 2 times a condvar, {place}");
            row.at_most(target, ours / bare, 2.0, shown);
        }
    }
    row.notes.push(
        "The median of all; p99, p99.9 and the longest beside it. Sender and consumer are held on a core each, \
         or together on one; threads of the sides, and servers, run where they like."
            .to_owned(),
    );
    Ok(row)
}

/// Hands over for long on two cores, Posthouse and the bare form by turns: a second of the one, and a tenth of it of the other.
pub fn long(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let job = Job::HandOver(Durability::Buffered);
    let (able, _) = sides::split(job);
    let asked = |it: &Able| it.side.kind() == Kind::Ours || it.side.name() == "limit";
    let pairs: Result<Vec<Pair>> =
        able.into_iter().filter(asked).map(|able| open(bench, able, job)).collect();
    let mut pairs = pairs?;
    let ends = Instant::now() + bench.scale.hand_over_long;
    bench.progress.begin(1);
    bench.progress.step("by turns");
    while Instant::now() < ends {
        for pair in &mut pairs {
            let is_ours = pair.able.side.kind() == Kind::Ours;
            lap(pair, 0, if is_ours { 5_000 } else { 500 }, true)?;
        }
    }
    let tails: Vec<_> = pairs.into_iter().flat_map(|pair| put_figure(pair, &mut row)).collect();
    let tail_of = |side: &str| tails.iter().find(|(it, _)| it == side).map(|(_, nanos)| *nanos);
    if let (Some(ours), Some(bare)) = (tail_of(posthouse::NAME), tail_of("limit")) {
        let shown = format!("{} times", number::ratio(ours / bare));
        row.at_most("p99.9 within 2 times a condvar".to_owned(), ours / bare, 2.0, shown);
    }
    row.notes.push(
        "Messages of 100 B, some 5,000 a second, on two cores. The journal is checkpointed as it fills."
            .to_owned(),
    );
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
    let placed = [(); 2].map(|()| Placed { nanos: nanos.clone(), medians: Vec::new() });
    Ok(Pair { name, able, writer, taker, _opened: opened, placed, failure: None })
}

fn lap(pair: &mut Pair, place: usize, count: u64, counts: bool) -> Result<()> {
    if pair.failure.is_some() {
        return Ok(());
    }
    let mut payloads = Payloads::new(PAYLOAD);
    let (got, gets) = channel();
    let (writer, taker) = (&mut pair.writer, &mut pair.taker);
    let placed = &mut pair.placed[place];
    let mut nanos = placed.nanos.clone();
    nanos.reset();
    let cores = Cores::all()?;
    // The first of the two places has two cores.
    let (ours, its) = (cores.one(0), cores.one(1 - place));
    ours.pin()?;
    let measured = thread::scope(|scope| -> Result<()> {
        let consumer = scope.spawn(move || {
            its.pin()?;
            consume(&mut **taker, count, &got)
        });
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
    });
    cores.pin()?;
    measured?;
    if counts {
        placed.medians.push(nanos.value_at_quantile(0.5) as f64 / 1e9);
        placed.nanos.add(&nanos)?;
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

/// Returns the 99.9th percentiles, in nanoseconds, by name.
fn put_figure(pair: Pair, row: &mut Row) -> Vec<(String, f64)> {
    if let Some(failure) = pair.failure {
        row.left_out.push((pair.name, format!("it failed: {failure}")));
        return Vec::new();
    }
    let mut tails = Vec::new();
    let measured = pair.placed.into_iter().zip(["", ONE_CORE]);
    for (placed, to) in measured.filter(|(placed, _)| !placed.medians.is_empty()) {
        let at = |quantile| number::seconds(placed.nanos.value_at_quantile(quantile) as f64 / 1e9);
        let (name, kind) = (format!("{}{to}", pair.name), pair.able.side.kind());
        let figure = Figure::new(name, kind, Unit::Seconds, placed.medians.clone())
            .durable(pair.able.durability)
            .detail(format!("p99 {}", at(0.99)))
            .detail(format!("p99.9 {}", at(0.999)))
            .detail(format!("longest {}", at(1.0)));
        tails.push((figure.side.clone(), placed.nanos.value_at_quantile(0.999) as f64));
        row.figures.push(figure);
    }
    tails
}
