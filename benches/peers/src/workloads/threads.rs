//! Synced appends from 64 threads, which may share flushes.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::Instant,
};

use super::{PAYLOAD, append::WHOSE};
use crate::{
    bench::{Bench, Contender, Opened, chunked},
    outcome::Row,
    payload::Payloads,
    side::{Durability, Error, Job, Kind, Result, Writer},
    sides::{limit, posthouse},
};

const THREADS: usize = 64;

/// Runs it.
pub fn run(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let opened = bench.open_all(Job::AppendMany(Durability::Sync), &mut row);
    let mut contenders = Vec::new();
    for one in &opened {
        match contender(one) {
            Ok(contender) => contenders.push(contender.counted()),
            Err(error) => row.left_out.push(crate::bench::failed(one.able.side.name(), &*error)),
        }
    }
    bench.laps(contenders, u64::MAX / 2, &mut row);
    row.ratio("0.9 of 64 threads that share a flush", posthouse::NAME, limit::CROWD, 0.9);
    row.ratio("4 times okaywal", posthouse::NAME, "okaywal", 4.0);
    let shared = row.find(posthouse::NAME).and_then(|it| it.details.first().cloned());
    if let Some(shared) = shared.filter(|_| bench.disk.counts()) {
        let commits = shared.split_once(" commits").and_then(|(n, _)| n.parse().ok());
        row.at_least("50 commits a flush", commits.unwrap_or(1.0), 50.0, shared);
    }
    row.notes.push(WHOSE.to_owned());
    Ok(row)
}

fn contender(opened: &Opened) -> Result<Contender<'_>> {
    if opened.able.side.kind() == Kind::Limit && opened.able.side.name() != limit::CROWD {
        let mut writer = opened.store.writer()?;
        let mut payloads = Payloads::new(PAYLOAD);
        let grain = limit::SHARED as u64;
        return Ok(Contender::new(
            opened.able,
            chunked(grain, move |count| writer.append(&mut payloads, count)),
        ));
    }
    let mut crew = Crew::new(opened)?;
    Ok(Contender::new(
        opened.able,
        Box::new(move |slot, _| {
            let began = Instant::now();
            let count = crew.work_until(began + slot)?;
            Ok((count, began.elapsed().as_secs_f64()))
        }),
    ))
}

/// Threads that append until a given time, each time they are told.
struct Crew {
    starts: Vec<Sender<Instant>>,
    ends: Receiver<Result<u64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    fn new(opened: &Opened) -> Result<Crew> {
        let (done, ends) = channel();
        let mut crew = Crew { starts: Vec::new(), ends, threads: Vec::new() };
        for _ in 0..THREADS {
            let (start, starts) = channel();
            let (writer, done) = (opened.store.writer()?, done.clone());
            crew.threads.push(std::thread::spawn(move || worker(writer, &starts, &done)));
            crew.starts.push(start);
        }
        Ok(crew)
    }

    fn work_until(&mut self, end: Instant) -> Result<u64> {
        let gone = |_| Error::from("a thread has ended");
        for start in &self.starts {
            start.send(end).map_err(gone)?;
        }
        self.starts.iter().map(|_| self.ends.recv()?).sum()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.starts.clear();
        for thread in self.threads.drain(..) {
            // One that panicked has left a message.
            let _ = thread.join();
        }
    }
}

fn worker(mut writer: Box<dyn Writer>, starts: &Receiver<Instant>, done: &Sender<Result<u64>>) {
    let mut payloads = Payloads::new(PAYLOAD);
    while let Ok(end) = starts.recv() {
        let mut count = 0;
        let mut work = || -> Result<u64> {
            while Instant::now() < end {
                writer.append(&mut payloads, 1)?;
                count += 1;
            }
            Ok(count)
        };
        // If this fails, no thread waits for it any more.
        let _ = done.send(work());
    }
}
