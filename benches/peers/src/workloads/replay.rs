//! Reading a whole stream in order: from memory, and from the disk.
//!
//! The first byte of every payload is read and summed. The sums of all sides must agree with the data that
//! were written.

use std::{fs::File, io::Read, time::Instant};

use super::{PAYLOAD, backlog};
use crate::{
    bench::{Bench, Opened, failed},
    os,
    outcome::{Figure, Row, Unit},
    report::number,
    side::{Job, Kind, Replay, Result, Seen},
    sides::posthouse,
};

struct Filled {
    opened: Opened,
    records: u64,
    rates: Vec<f64>,
    failure: Option<String>,
    details: Vec<String>,
}

fn fill_all(bench: &Bench, row: &mut Row) -> Vec<Filled> {
    let mut all = Vec::new();
    for opened in bench.open_all(Job::Replay, row) {
        match backlog::fill(bench, &opened, bench.scale.replay) {
            Ok(records) => {
                let (rates, details) =
                    (Vec::new(), vec![format!("{} records", number::count(records))]);
                all.push(Filled { opened, records, rates, failure: None, details });
            }
            Err(error) => row.left_out.push(failed(opened.able.side.name(), &*error)),
        }
    }
    all
}

fn put_figures(all: Vec<Filled>, row: &mut Row) {
    for filled in all {
        let side = filled.opened.able.side;
        if let Some(failure) = filled.failure {
            row.left_out.push((side.name().to_owned(), format!("it failed: {failure}")));
            continue;
        }
        let mut figure = Figure::new(side.name(), side.kind(), Unit::PerSecond, filled.rates)
            .durable(filled.opened.able.durability);
        figure.details = filled.details;
        row.figures.push(figure);
    }
}

/// Replays once: records a second.
fn timed(replay: &mut dyn Replay, records: u64) -> Result<(f64, Seen)> {
    replay.rewind()?;
    let began = Instant::now();
    let seen = replay.replay()?;
    let seconds = began.elapsed().as_secs_f64();
    if seen.records != records || seen.bytes != records * PAYLOAD as u64 {
        return Err(format!("it has read {} of {records} records", seen.records).into());
    }
    std::hint::black_box(seen.sum);
    Ok((records as f64 / seconds, seen))
}

/// From memory.
pub fn warm(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let mut all = fill_all(bench, &mut row);
    let mut replays: Vec<_> = all.iter().map(|one| one.opened.store.replay()).collect();
    bench.progress.begin((bench.scale.rounds + 1) * all.len());
    for round in 0..=bench.scale.rounds {
        for (filled, replay) in all.iter_mut().zip(&mut replays) {
            bench.progress.step(filled.opened.able.side.name());
            if filled.failure.is_some() {
                continue;
            }
            let lap = match replay {
                Ok(replay) => timed(&mut **replay, filled.records),
                Err(error) => Err(error.to_string().into()),
            };
            match lap {
                Ok(_) if round == 0 => {}
                Ok((rate, _)) => filled.rates.push(rate),
                Err(error) => filled.failure = Some(error.to_string()),
            }
        }
    }
    drop(replays);
    put_figures(all, &mut row);
    if let Some(rate) = row.value(posthouse::NAME) {
        row.at_least("100 M/s", rate, 100e6, number::rate(rate));
    }
    row.ratio("2 times LMDB", posthouse::NAME, "LMDB", 2.0);
    Ok(row)
}

/// From the disk: the store is closed, dropped from the page cache, opened and read.
pub fn cold(bench: &Bench) -> Result<Row> {
    let mut row = Row::new();
    let mut all = Vec::new();
    // What a server has in memory is not dropped by us; the limit is read in its own way.
    for filled in fill_all(bench, &mut row) {
        match filled.opened.able.side.kind() {
            Kind::Ours | Kind::Embedded | Kind::Shown => all.push(filled),
            Kind::Server => row.left_out.push((
                filled.opened.able.side.name().into(),
                "what a server has in memory cannot be dropped".into(),
            )),
            Kind::Limit => {}
        }
    }
    let mut closed: Vec<ColdSide> = all.into_iter().map(ColdSide::close).collect();
    let mut bare = Vec::new();
    let rounds = bench.scale.rounds.min(3);
    bench.progress.begin(rounds * closed.len());
    for _ in 0..rounds {
        for cold in &mut closed {
            bench.progress.step(cold.name());
            if cold.failure.is_some() {
                continue;
            }
            if cold.able.side.kind() == Kind::Ours {
                bare.push(read_files(cold)?);
            }
            if let Err(error) = cold.lap() {
                cold.failure = Some(format!("it failed: {error}"));
            }
        }
    }
    let limit = Figure::new("limit", Kind::Limit, Unit::BytesPerSecond, bare);
    row.figures.push(limit.durable("sequential read of Posthouse's segments, 1 MiB at a time"));
    for cold in closed {
        cold.put_figure(&mut row);
    }
    row.ratio("0.9 of the disk's sequential read", posthouse::NAME, "limit", 0.9);
    row.notes.push(
        "Bytes on disk of Posthouse and the limit; bytes of payload of the others, which do not \
         read whole files. Opening is not timed. Cold is what posix_fadvise has dropped; what \
         mincore found all the same is told."
            .to_owned(),
    );
    Ok(row)
}

/// A side that has more of its files in memory once it is open is not read from the disk then.
const READ_AT_OPENING_MAX: f64 = 0.05;

struct ColdSide {
    able: crate::side::Able,
    dir: std::path::PathBuf,
    records: u64,
    rates: Vec<f64>,
    failure: Option<String>,
    resident: f64,
}

impl ColdSide {
    fn close(filled: Filled) -> ColdSide {
        let Opened { able, store, dir } = filled.opened;
        drop(store);
        let failure = filled.failure.map(|failure| format!("it failed: {failure}"));
        let records = filled.records;
        ColdSide { able, dir, records, rates: Vec::new(), failure, resident: 0.0 }
    }

    fn name(&self) -> &'static str {
        self.able.side.name()
    }

    fn bytes(&self) -> Result<u64> {
        match self.able.side.kind() {
            Kind::Ours => Ok(segment_files(&self.dir)?.iter().map(|(_, size)| size).sum()),
            _ => Ok(self.records * PAYLOAD as u64),
        }
    }

    fn lap(&mut self) -> Result<()> {
        let bytes = self.bytes()? as f64;
        self.resident = f64::max(self.resident, os::drop_cache(&self.dir)?);
        let store = self.able.side.open(&self.dir, Job::Replay)?;
        let mut replay = store.replay()?;
        replay.rewind()?;
        let read = os::in_memory(&self.dir)? - self.resident;
        if read > READ_AT_OPENING_MAX {
            let what = format!("opening it, which is not timed, reads {:.0}% of it", read * 100.0);
            self.failure = Some(what);
            return Ok(());
        }
        let (rate, _) = timed(&mut *replay, self.records)?;
        self.rates.push(rate / self.records as f64 * bytes);
        Ok(())
    }

    fn put_figure(self, row: &mut Row) {
        let name = self.name();
        if let Some(failure) = self.failure {
            row.left_out.push((name.to_owned(), failure));
            return;
        }
        let bytes = self.bytes().unwrap_or_default() as f64;
        let figure = Figure::new(name, self.able.side.kind(), Unit::BytesPerSecond, self.rates);
        let records = figure.value / bytes * self.records as f64;
        let figure = figure
            .durable(self.able.durability)
            .detail(number::rate(records))
            .detail(format!("{:.1}% was in memory", self.resident * 100.0));
        row.figures.push(figure);
    }
}

fn segment_files(dir: &std::path::Path) -> Result<Vec<(std::path::PathBuf, u64)>> {
    Ok(os::files(&dir.join("segments"))?)
}

/// The disk's own pace over the same bytes.
fn read_files(cold: &ColdSide) -> Result<f64> {
    os::drop_cache(&cold.dir)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, began) = (0, Instant::now());
    for (path, _) in segment_files(&cold.dir)? {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => bytes += count,
            }
        }
    }
    Ok(bytes as f64 / began.elapsed().as_secs_f64())
}
