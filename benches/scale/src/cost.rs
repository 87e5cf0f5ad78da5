//! What a call costs.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use posthouse::{Durability, Engine, Options, sim::SimDisk};
use rustix::time::{ClockId, clock_gettime};

use crate::{Result, counted, probe::Probe};

/// The cost of one call. Times are in seconds.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub wall: f64,
    pub cpu: f64,
    /// The longest commit of the probe.
    pub stall: f64,
    /// The commit of the probe that is longer than 999 of 1,000.
    pub rare: f64,
    pub files: u64,
    /// The bytes that the files take up on the disk.
    pub disk: u64,
    /// The bytes of memory that the process has gained.
    pub memory: u64,
}

impl Cost {
    /// All of it in one line, for [`parse`](Cost::parse).
    pub fn line(&self) -> String {
        let Cost { wall, cpu, stall, rare, files, disk, memory } = self;
        format!("{wall} {cpu} {stall} {rare} {files} {disk} {memory}")
    }

    /// The cost that [`line`](Cost::line) has written.
    pub fn parse(line: &str) -> Option<Cost> {
        let mut parts = line.split(' ');
        let mut next = || parts.next();
        let (wall, cpu) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (stall, rare) = (next()?.parse().ok()?, next()?.parse().ok()?);
        let (files, disk, memory) =
            (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
        Some(Cost { wall, cpu, stall, rare, files, disk, memory })
    }
}

/// A store in which a row has its things, and a probe beside them.
pub struct Bench {
    pub engine: Engine,
    path: PathBuf,
    memory: u64,
    /// The disk, if work is counted and not timed.
    disk: Option<SimDisk>,
}

impl Bench {
    /// Opens a store whose commits are buffered.
    pub fn open(path: &Path) -> Result<Bench> {
        let options = Options::new().durability(Durability::Buffered);
        let disk = counted::is_on().then(|| SimDisk::new(1));
        let engine = match &disk {
            Some(disk) => options.sim(disk).open("store")?,
            None => options.open(path)?,
        };
        engine.queue("probe").create()?;
        Ok(Bench { engine, path: path.to_owned(), memory: memory()?, disk })
    }

    /// Lets time pass: it is the real disk's, or the simulated one's.
    pub fn pass(&self, time: Duration) {
        match &self.disk {
            Some(disk) => disk.advance(time),
            None => thread::sleep(time),
        }
    }

    /// Measures a call beside the probe, or counts its work.
    pub fn measure(&self, act: impl FnOnce(&Engine) -> Result<()>) -> Result<Cost> {
        if let Some(disk) = &self.disk {
            counted::count(disk, || act(&self.engine))?;
            return Ok(Cost::default());
        }
        let probe = Probe::start(&self.engine)?;
        let (begun, cpu) = (Instant::now(), cpu());
        act(&self.engine)?;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), self::cpu() - cpu);
        let (stall, rare) = probe.stop()?;
        let memory = memory()?.saturating_sub(self.memory);
        let mut cost = Cost {
            wall,
            cpu: cpu.as_secs_f64(),
            stall: stall.as_secs_f64(),
            rare: rare.as_secs_f64(),
            memory,
            ..Cost::default()
        };
        self.add_space(&mut cost)?;
        Ok(cost)
    }

    /// As [`measure`](Bench::measure). The memory is the most that the process had during the call.
    pub fn measure_peak(&self, act: impl FnOnce(&Engine) -> Result<()>) -> Result<Cost> {
        let stop = AtomicBool::new(false);
        let (mut cost, peak) = thread::scope(|scope| {
            let peak = scope.spawn(|| {
                let mut peak = 0;
                while !stop.load(Ordering::Relaxed) {
                    peak = memory().unwrap_or(0).max(peak);
                }
                peak
            });
            let cost = self.measure(act);
            stop.store(true, Ordering::Relaxed);
            Ok::<_, Box<dyn Error>>((cost?, peak.join().map_err(|_| "the thread panicked")?))
        })?;
        cost.memory = peak.saturating_sub(self.memory);
        Ok(cost)
    }

    /// Looks again at what the store takes up on the disk.
    pub fn add_space(&self, cost: &mut Cost) -> Result<()> {
        if self.disk.is_some() {
            return Ok(());
        }
        (cost.files, cost.disk) = space(&self.path)?;
        Ok(())
    }
}

/// The CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The bytes of memory of this process that are resident and not of a file.
fn memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("the memory is not known")?.parse::<u64>()? << 10)
}

fn space(dir: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(data) if data.is_dir() => {
                let (more, of_them) = space(&entry.path())?;
                (files, bytes) = (files + more, bytes + of_them + data.blocks() * 512);
            }
            Ok(data) => (files, bytes) = (files + 1, bytes + data.blocks() * 512),
            // A checkpoint has removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((files, bytes))
}
