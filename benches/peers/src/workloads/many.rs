//! Four producers and four consumers on one queue, beside one and one, and one thread that does both: do they slow each
//! other down?
//! Producers wait while more than a bounded number of messages is in the queue.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{PAYLOAD, queue};
use crate::{
    bench::{Bench, Contender, Opened, failed},
    outcome::Row,
    payload::Payloads,
    report::number,
    side::{Durability, Job, Kind, Result, Taker, Writer},
    sides::posthouse,
};

/// Producers go on while fewer messages than this are there.
const THERE_MAX: u64 = 10_000;

/// The name of one thread that sends, receives and acks.
const ALONE: &str = "posthouse, one thread";

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let job = Job::QueueMany(Durability::Buffered);
    let opened = bench.open_all(job, &mut row);
    let (mut contenders, mut ones) = (Vec::new(), Vec::new());
    for one in &opened {
        let made = [(1, "1 and 1"), (4, "4 and 4")]
            .map(|(threads, words)| Ok((contender(one, threads)?, words)));
        let made: Result<Vec<_>> = made.into_iter().collect();
        match made {
            Ok(made) => contenders.extend(made.into_iter().map(|(contender, words)| {
                let name = format!("{}, {words}", one.able.side.name());
                contender.named(name)
            })),
            Err(error) => row.left_out.push(failed(one.able.side.name(), &*error)),
        }
        if one.able.side.kind() == Kind::Ours {
            contenders.push(queue::contender(one)?.named(ALONE.to_owned()));
        }
        if one.able.side.kind() != Kind::Limit {
            ones.push(one.able.side.name());
        }
    }
    bench.laps(contenders, u64::MAX / 2, &mut row);
    for side in ones {
        let (one, four) = (format!("{side}, 1 and 1"), format!("{side}, 4 and 4"));
        let (Some(one), Some(four)) = (row.value(&one), row.value(&four)) else { continue };
        if one == 0.0 {
            continue;
        }
        let shown = format!("{} of 1 and 1", number::ratio(four / one));
        if side == posthouse::NAME {
            row.at_least("0.6 of 1 and 1", four / one, 0.6, shown);
        } else if let Some(figure) = row.figures.iter_mut().rfind(|it| it.side.starts_with(side)) {
            figure.details.push(shown);
        }
    }
    row.ratio("0.9 of one thread", &format!("{}, 1 and 1", posthouse::NAME), ALONE, 0.9);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    row.notes.push(format!("On {cores} cores; messages that went through, a second."));
    Ok(row)
}

fn contender(opened: &Opened, threads: usize) -> Result<Contender<'_>> {
    let mut writers = (0..threads).map(|_| opened.store.writer()).collect::<Result<Vec<_>>>()?;
    let mut takers = (0..threads).map(|_| opened.store.taker()).collect::<Result<Vec<_>>>()?;
    Ok(Contender::new(opened.able, Box::new(move |slot, _| lap(slot, &mut writers, &mut takers))))
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    taken: AtomicU64,
    ended: AtomicBool,
}

fn lap(
    slot: Duration,
    writers: &mut [Box<dyn Writer>],
    takers: &mut [Box<dyn Taker>],
) -> Result<(u64, f64)> {
    let counts = Counts::default();
    let began = Instant::now();
    thread::scope(|scope| {
        let producers: Vec<_> = writers
            .iter_mut()
            .map(|writer| scope.spawn(|| produce(&mut **writer, &counts)))
            .collect();
        let consumers: Vec<_> =
            takers.iter_mut().map(|taker| scope.spawn(|| consume(&mut **taker, &counts))).collect();
        thread::sleep(slot);
        let taken = counts.taken.load(Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        counts.ended.store(true, Ordering::Relaxed);
        for thread in producers.into_iter().chain(consumers) {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok((taken, seconds))
    })
}

fn produce(writer: &mut dyn Writer, counts: &Counts) -> Result<()> {
    let mut payloads = Payloads::new(PAYLOAD);
    while !counts.ended.load(Ordering::Relaxed) {
        let taken = counts.taken.load(Ordering::Relaxed);
        if counts.sent.load(Ordering::Relaxed).saturating_sub(taken) > THERE_MAX {
            thread::yield_now();
            continue;
        }
        writer.append(&mut payloads, 1)?;
        counts.sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn consume(taker: &mut dyn Taker, counts: &Counts) -> Result<()> {
    // What is there at the end is taken too, so that the next lap begins with an empty queue.
    loop {
        match taker.take(1)? {
            0 if counts.ended.load(Ordering::Relaxed) => return Ok(()),
            0 => thread::yield_now(),
            some => drop(counts.taken.fetch_add(some, Ordering::Relaxed)),
        }
    }
}
