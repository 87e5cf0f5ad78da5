//! Times laps: the sides of a row run alternately, round after round, and their medians count.

use std::{
    cell::Cell,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    os::{Disk, Written},
    outcome::{Figure, Row, Unit},
    progress::Progress,
    scale::Scale,
    side::{Able, Job, Kind, Result, Store},
    sides,
};

/// The bench that workloads run with.
pub struct Bench {
    /// How much of everything.
    pub scale: Scale,
    /// The disk's counters.
    pub disk: Disk,
    /// What is shown meanwhile.
    pub progress: Progress,
    dir: PathBuf,
    made: Cell<u32>,
}

impl Bench {
    /// A bench whose stores lie in a directory.
    pub fn new(scale: Scale, dir: &Path, progress: Progress) -> Bench {
        let disk = Disk::under(dir);
        Bench { scale, disk, progress, dir: dir.to_owned(), made: Cell::new(0) }
    }

    /// The directory with all stores.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory for a store that no other store has; it is not there yet.
    pub fn fresh_dir(&self, name: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        let plain: String = name
            .chars()
            .map(|sign| if sign.is_ascii_alphanumeric() { sign } else { '-' })
            .collect();
        self.dir.join(format!("{}-{}", self.made.get(), plain.to_lowercase()))
    }

    /// Removes all stores.
    pub fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Opens a store for each side that can do a job; the others are left out of the row.
    pub fn open_all(&self, job: Job, row: &mut Row) -> Vec<Opened> {
        let (able, others) = sides::split(job);
        row.left_out.extend(others.into_iter().map(|(side, why)| (side.into(), why.into())));
        let mut opened = Vec::new();
        for able in able {
            self.progress.says(&format!("{}: opens", able.side.name()));
            match self.open(able, job) {
                Ok(one) => opened.push(one),
                Err(error) => row.left_out.push(failed(able.side.name(), &*error)),
            }
        }
        opened
    }

    /// Opens a store for a side.
    pub fn open(&self, able: Able, job: Job) -> Result<Opened> {
        let dir = self.fresh_dir(able.side.name());
        Ok(Opened { able, store: able.side.open(&dir, job)?, dir })
    }

    /// Times contenders alternately. The first round is not counted: it touches memory for the first time,
    /// and lets files grow that are used again later.
    pub fn laps(&self, mut contenders: Vec<Contender<'_>>, most: u64, row: &mut Row) {
        let rounds = self.scale.rounds;
        self.progress.begin((rounds + 1) * contenders.len());
        let mut laps: Vec<Vec<Lap>> = contenders.iter().map(|_| Vec::new()).collect();
        let mut failures: Vec<Option<String>> = vec![None; contenders.len()];
        for round in 0..=rounds {
            for (n, contender) in contenders.iter_mut().enumerate() {
                self.progress.step(&contender.name);
                if failures[n].is_some() {
                    continue;
                }
                match self.lap(contender, most) {
                    Ok(_) if round == 0 => {}
                    Ok(lap) => laps[n].push(lap),
                    Err(error) => failures[n] = Some(error.to_string()),
                }
            }
        }
        for (n, contender) in contenders.into_iter().enumerate() {
            match failures[n].take() {
                Some(error) => row.left_out.push((contender.name, format!("it failed: {error}"))),
                None => row.figures.push(self.figure(&contender, &laps[n])),
            }
        }
    }

    fn lap(&self, contender: &mut Contender<'_>, most: u64) -> Result<Lap> {
        let before = self.disk.look();
        let (count, seconds) = (contender.lap)(self.scale.slot, most)?;
        let written = self.disk.look().since(before);
        (contender.between)()?;
        Ok(Lap { count, seconds, written })
    }

    fn figure(&self, contender: &Contender<'_>, laps: &[Lap]) -> Figure {
        let rates = laps.iter().map(|lap| lap.count as f64 / lap.seconds).collect();
        let figure = Figure::new(&contender.name, contender.kind, Unit::PerSecond, rates)
            .durable(&contender.durability);
        if !contender.counted || !self.disk.counts() {
            return figure;
        }
        let count: u64 = laps.iter().map(|lap| lap.count).sum();
        let written = laps.iter().fold(Written::default(), |sum, lap| sum.plus(lap.written));
        let each = |n: u64| n as f64 / count.max(1) as f64;
        let flushes = each(written.flushes);
        let shared = match flushes {
            n if n > 0.0 && n < 0.5 => format!("{:.1} commits a flush", 1.0 / n),
            n => format!("{n:.2} flushes a commit"),
        };
        let figure = figure.detail(shared);
        match contender.kind {
            // What a server writes is not counted with this process.
            Kind::Server => figure,
            _ => figure
                .detail(format!("{:.2} KiB written a commit", each(written.by_process) / 1024.0)),
        }
    }
}

/// Why a side is not in a row.
pub fn failed(side: &str, error: &dyn std::error::Error) -> (String, String) {
    (side.to_owned(), format!("it failed: {error}"))
}

/// An open store of a side.
pub struct Opened {
    /// Whose, with the durability in words.
    pub able: Able,
    /// The store.
    pub store: Box<dyn Store>,
    /// Where it lies.
    pub dir: PathBuf,
}

/// One timed stretch.
struct Lap {
    count: u64,
    seconds: f64,
    written: Written,
}

type LapFn<'a> = Box<dyn FnMut(Duration, u64) -> Result<(u64, f64)> + 'a>;

/// A contender: one of the functions that are timed alternately.
pub struct Contender<'a> {
    /// Its name in the row.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its durability in words.
    pub durability: String,
    /// Whether flushes and bytes are shown.
    pub counted: bool,
    /// Works for a time, or for a number of operations. Returns the operations done, and the seconds.
    pub lap: LapFn<'a>,
    /// What is done between laps, untimed.
    pub between: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender for a side.
    pub fn new(able: Able, lap: LapFn<'a>) -> Contender<'a> {
        Contender {
            name: able.side.name().to_owned(),
            kind: able.side.kind(),
            durability: able.durability.to_owned(),
            counted: false,
            lap,
            between: Box::new(|| Ok(())),
        }
    }

    /// The same, by another name.
    pub fn named(mut self, name: impl Into<String>) -> Contender<'a> {
        self.name = name.into();
        self
    }

    /// The same, with flushes and bytes told.
    pub fn counted(mut self) -> Contender<'a> {
        self.counted = true;
        self
    }

    /// The same, with something to do between laps.
    pub fn between(mut self, act: impl FnMut() -> Result<()> + 'a) -> Contender<'a> {
        self.between = Box::new(act);
        self
    }
}

/// A lap of a function that does a given number of operations when it is called. It is called in chunks that
/// are short beside the lap, and long beside a reading of the clock. Chunks are multiples of `grain`.
pub fn chunked<'a>(grain: u64, mut run: impl FnMut(u64) -> Result<()> + 'a) -> LapFn<'a> {
    let mut chunk = grain;
    Box::new(move |slot, most| {
        let (mut count, began) = (0, Instant::now());
        loop {
            let before = began.elapsed();
            let now = chunk.min((most - count).next_multiple_of(grain));
            run(now)?;
            count += now;
            let elapsed = began.elapsed();
            if elapsed >= slot || count >= most {
                return Ok((count, elapsed.as_secs_f64()));
            }
            if now == chunk && elapsed - before < slot / 32 {
                chunk *= 2;
            } else if elapsed - before > slot / 8 && chunk > grain {
                chunk = (chunk / 2).next_multiple_of(grain);
            }
        }
    })
}
