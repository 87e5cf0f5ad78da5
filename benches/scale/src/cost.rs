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

use crate::{Result, counted, heap, probe::Probe};

/// What is measured of a call. Times are in seconds, the others are counts or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Wall,
    /// Over all threads of the process.
    Cpu,
    /// The longest commit of the probe.
    Stall,
    /// The commit of the probe that is longer than 999 of 1,000.
    Rare,
    /// Files of the store afterwards.
    Files,
    /// The bytes that the files take up on the disk.
    Disk,
    /// Those of them that are segments.
    Segments,
    /// The bytes that the process made the system write.
    Written,
    /// The bytes of memory that the process has gained.
    Memory,
    /// The longest hold of the core, in time. This one and the following are measured in builds with debug assertions.
    HoldTime,
    /// The longest hold of the core, in steps of loops.
    HoldSteps,
    /// Syncs of files and directories.
    Syncs,
    /// The bytes on the heap that the process has gained.
    Heap,
    /// Allocations of the thread that makes the call.
    Allocations,
}

const MEASURES: usize = Measure::Allocations as usize + 1;

impl Measure {
    pub fn name(self) -> &'static str {
        match self {
            Measure::Wall => "wall",
            Measure::Cpu => "CPU",
            Measure::Stall => "stall",
            Measure::Rare => "p99.9",
            Measure::Files => "files",
            Measure::Disk => "disk",
            Measure::Segments => "segments",
            Measure::Written => "written",
            Measure::Memory => "memory",
            Measure::HoldTime => "hold",
            Measure::HoldSteps => "steps",
            Measure::Syncs => "fsyncs",
            Measure::Heap => "heap",
            Measure::Allocations => "allocations",
        }
    }

    pub fn is_time(self) -> bool {
        use Measure::{Cpu, HoldTime, Rare, Stall, Wall};
        matches!(self, Wall | Cpu | Stall | Rare | HoldTime)
    }

    /// Whether builds with debug assertions measure it, and others do not.
    fn is_counted(self) -> bool {
        self as usize >= Measure::HoldTime as usize
    }
}

/// The cost of one call. What was not measured is no number.
#[derive(Clone, Debug)]
pub struct Cost([f64; MEASURES]);

impl Default for Cost {
    fn default() -> Cost {
        Cost([f64::NAN; MEASURES])
    }
}

impl Cost {
    /// `None` if it was not measured.
    pub fn get(&self, measure: Measure) -> Option<f64> {
        Some(self.0[measure as usize]).filter(|it| !it.is_nan())
    }

    pub fn set(&mut self, measure: Measure, value: f64) {
        self.0[measure as usize] = value;
    }

    /// Takes what builds with debug assertions measure from another cost.
    pub fn take_counted(&mut self, other: &Cost) {
        const COUNTED: usize = Measure::HoldTime as usize;
        debug_assert!(Measure::HoldTime.is_counted() && !Measure::Memory.is_counted());
        self.0[COUNTED..].copy_from_slice(&other.0[COUNTED..]);
    }

    /// All of it in one line, for [`parse`](Cost::parse).
    pub fn line(&self) -> String {
        self.0.map(|it| it.to_string()).join(" ")
    }

    /// The cost that [`line`](Cost::line) has written.
    pub fn parse(line: &str) -> Option<Cost> {
        let values: std::result::Result<Vec<f64>, _> = line.split(' ').map(str::parse).collect();
        Some(Cost(values.ok()?.try_into().ok()?))
    }
}

/// A store in which a row has its things, and a probe beside them.
pub struct Bench {
    pub engine: Engine,
    path: PathBuf,
    memory: u64,
    heap: u64,
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
        let (memory, heap) = (memory()?, heap::live());
        Ok(Bench { engine, path: path.to_owned(), memory, heap, disk })
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
        let mut cost = Cost::default();
        let probe = Probe::start(&self.engine)?;
        let (written, taken) = (written(), heap::taken());
        counted::watch();
        let (begun, cpu) = (Instant::now(), cpu());
        act(&self.engine)?;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), self::cpu() - cpu);
        counted::put_watched(&mut cost);
        if cfg!(debug_assertions) {
            cost.set(Measure::Allocations, (heap::taken() - taken) as f64);
        }
        let (stall, rare) = probe.stop()?;
        cost.set(Measure::Wall, wall);
        cost.set(Measure::Cpu, cpu.as_secs_f64());
        cost.set(Measure::Stall, stall.as_secs_f64());
        cost.set(Measure::Rare, rare.as_secs_f64());
        cost.set(Measure::Memory, memory()?.saturating_sub(self.memory) as f64);
        if let (Some(before), Some(after)) = (written, self::written()) {
            cost.set(Measure::Written, (after - before) as f64);
        }
        if cfg!(debug_assertions) {
            cost.set(Measure::Heap, heap::live().saturating_sub(self.heap) as f64);
        }
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
        cost.set(Measure::Memory, peak.saturating_sub(self.memory) as f64);
        Ok(cost)
    }

    /// Looks again at what the store takes up on the disk.
    pub fn add_space(&self, cost: &mut Cost) -> Result<()> {
        if self.disk.is_some() {
            return Ok(());
        }
        let (files, disk) = space(&self.path)?;
        let (_, segments) = space(&self.path.join("segments"))?;
        cost.set(Measure::Files, files as f64);
        cost.set(Measure::Disk, disk as f64);
        cost.set(Measure::Segments, segments as f64);
        Ok(())
    }
}

/// The CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The number behind a name in a file of the system, such as `RssAnon:     120 kB`.
fn number(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The bytes of memory of this process that are resident and not of a file.
fn memory() -> Result<u64> {
    Ok(number("/proc/self/status", "RssAnon:").ok_or("the memory is not known")? << 10)
}

/// The bytes that this process has made the system write so far. `None` if the system does not tell.
fn written() -> Option<u64> {
    number("/proc/self/io", "write_bytes:")
}

/// The files of a directory, and the bytes that they take up. Nothing where there is none.
fn space(dir: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let (mut files, mut bytes) = (0, 0);
    for entry in entries {
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
