//! Counts the work of a row in place of its time: the steps of loops, the longest hold of the core, and the calls and bytes
//! of a simulated disk. It needs a build with debug assertions. On the real disk it counts what all threads of the process do.

use std::{cell::RefCell, collections::BTreeMap};

use posthouse::sim::SimDisk;

use crate::{Result, cost::Cost, rows::Row};
#[cfg(debug_assertions)]
use crate::{cost::Measure, heap};

/// The head of the table of counts.
pub const HEAD: &str = "\
| Row | Size | longest hold | steps | growth | syncs | calls of the disk | written | segments | files | allocations | to reach | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// What a call took.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// The most steps under the core at once, and of which operation.
    pub hold: u64,
    pub operation: String,
    pub steps: u64,
    pub syncs: u64,
    pub calls: u64,
    pub written: u64,
    /// The bytes of segments afterwards.
    pub segments: u64,
    /// The files of segments afterwards.
    pub files: u64,
    pub allocations: u64,
}

/// What a row is to keep, at each size.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most steps of one hold.
    pub hold: u64,
    /// The most steps by those of a tenth of the size: 1.5 is flat, 12 is linear.
    pub growth: f64,
    /// The most syncs of files.
    pub syncs: u64,
    /// The most bytes that are written, for each of the things.
    pub written_each: u64,
    /// The most files of segments afterwards.
    pub files: u64,
    /// The most bytes of segments afterwards.
    pub segments: u64,
    /// The most allocations, for each of the things.
    pub allocations_each: u64,
}

impl Bounds {
    pub const LINEAR: Bounds = Bounds {
        hold: HOLD,
        growth: 12.0,
        syncs: u64::MAX,
        written_each: u64::MAX,
        files: u64::MAX,
        segments: u64::MAX,
        allocations_each: u64::MAX,
    };
    pub const FLAT: Bounds = Bounds { growth: 1.5, ..Bounds::LINEAR };
    /// A hold looks up each thing, and all else is done outside.
    pub const ONE_LOOK_EACH: Bounds = Bounds { hold: 60_000, ..Bounds::LINEAR };
}

/// The most steps of a hold where work is done in slices.
const HOLD: u64 = 2_000;

/// Fewer steps than this say nothing of growth.
const FEW: u64 = 1_000;

/// Where the segments are on the simulated disk.
#[cfg(debug_assertions)]
const SEGMENTS: &str = "store/segments";

thread_local! {
    static COUNTED: RefCell<Option<Counts>> = const { RefCell::new(None) };
}

/// Has rows counted, and not timed, from now on.
pub fn turn_on() -> Result<()> {
    if !cfg!(debug_assertions) {
        return Err(
            "--count needs a build with debug assertions: cargo run --profile counted".into()
        );
    }
    COUNTED.set(Some(Counts::default()));
    Ok(())
}

pub fn is_on() -> bool {
    COUNTED.with_borrow(Option::is_some)
}

/// Counts the work of a call.
#[cfg(debug_assertions)]
pub fn count(disk: &SimDisk, act: impl FnOnce() -> Result<()>) -> Result<()> {
    use posthouse::sim::{take_longest_holds, take_steps};

    let _ = (take_longest_holds(), take_steps());
    let (calls, syncs, written) = (disk.calls(), disk.syncs(), disk.bytes_written(""));
    let taken = heap::taken();
    act()?;
    let allocations = heap::taken() - taken;
    let (operation, hold) =
        take_longest_holds().into_iter().max_by_key(|(_, steps)| *steps).unwrap_or_default();
    let files: Vec<_> = disk.files().into_iter().filter(|it| it.starts_with(SEGMENTS)).collect();
    let bytes_of = |path: &std::path::PathBuf| disk.content(path).map_or(0, |it| it.len() as u64);
    let counts = Counts {
        hold,
        operation: operation.to_owned(),
        steps: take_steps(),
        syncs: disk.syncs() - syncs,
        calls: disk.calls() - calls,
        written: disk.bytes_written("") - written,
        segments: files.iter().map(bytes_of).sum(),
        files: files.len() as u64,
        allocations,
    };
    COUNTED.set(Some(counts));
    Ok(())
}

/// Counts from now on what all threads of the process do on the real disk.
#[cfg(debug_assertions)]
pub fn watch() {
    use std::time::Duration;

    use posthouse::sim::{take_of_process, watch_process};
    use rustix::time::{ClockId, clock_gettime};

    watch_process(|| {
        let time = clock_gettime(ClockId::Monotonic);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    });
    let _ = take_of_process();
}

/// Notes what was counted since [`watch`].
#[cfg(debug_assertions)]
pub fn put_watched(cost: &mut Cost) {
    let of_process = posthouse::sim::take_of_process();
    cost.set(Measure::HoldTime, of_process.hold_time.as_secs_f64());
    cost.set(Measure::HoldSteps, of_process.hold_steps as f64);
    cost.set(Measure::Syncs, of_process.syncs as f64);
}

#[cfg(not(debug_assertions))]
pub fn watch() {}

#[cfg(not(debug_assertions))]
pub fn put_watched(_: &mut Cost) {}

#[cfg(not(debug_assertions))]
pub fn count(_: &SimDisk, _: impl FnOnce() -> Result<()>) -> Result<()> {
    unreachable!("rows are counted in builds with debug assertions")
}

/// Runs a row at some sizes, and prints its lines. Returns what it does not keep.
pub fn run(
    row: &Row,
    bounds: Bounds,
    sizes: &[u64],
    measure: impl Fn(u64) -> Result<()>,
) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let mut before: Option<u64> = None;
    for size in sizes {
        measure(*size)?;
        let counts = COUNTED.take().unwrap_or_default();
        COUNTED.set(Some(Counts::default()));
        let growth = before.map(|before| counts.steps as f64 / before.max(1) as f64);
        let found = bounds.broken(&counts, *size, growth);
        let verdict = if found.is_empty() { "met".to_owned() } else { found.join("; ") };
        println!("{}", line(row, *size, &counts, growth, bounds, &verdict));
        broken.extend(found.into_iter().map(|what| format!("{} at {size}: {what}", row.name)));
        before = Some(counts.steps);
    }
    Ok(broken)
}

impl Bounds {
    fn broken(&self, counts: &Counts, size: u64, growth: Option<f64>) -> Vec<String> {
        let holds = BTreeMap::from([
            ("hold", counts.hold > self.hold),
            ("growth", counts.steps > FEW && growth.is_some_and(|growth| growth > self.growth)),
            ("syncs", counts.syncs > self.syncs),
            ("bytes", counts.written > self.written_each.saturating_mul(size)),
            ("files", counts.files > self.files),
            ("segments", counts.segments > self.segments),
            ("allocations", counts.allocations > self.allocations_each.saturating_mul(size)),
        ]);
        holds.into_iter().filter(|(_, is_broken)| *is_broken).map(|(it, _)| it.to_owned()).collect()
    }

    fn told(&self) -> String {
        let mut told = vec![format!("a hold of {}", self.hold), format!("growth {}", self.growth)];
        let most = [
            (self.syncs, "syncs"),
            (self.written_each, "bytes each"),
            (self.files, "files"),
            (self.segments, "bytes of segments"),
            (self.allocations_each, "allocations each"),
        ];
        let set = most.iter().filter(|(most, _)| *most != u64::MAX);
        told.extend(set.map(|(most, what)| format!("{most} {what}")));
        told.join(", ")
    }
}

fn line(
    row: &Row,
    size: u64,
    counts: &Counts,
    growth: Option<f64>,
    bounds: Bounds,
    verdict: &str,
) -> String {
    let Counts { hold, operation, steps, syncs, calls, written, segments, files, allocations } =
        counts;
    let growth = growth.map_or_else(String::new, |growth| format!("{growth:.1}"));
    let (title, told) = (row.title, bounds.told());
    format!(
        "| {title} | {size} | {hold} ({operation}) | {steps} | {growth} | {syncs} | {calls} | {} KiB | {} KiB | {files} | {allocations} | {told} | {verdict} |",
        written >> 10,
        segments >> 10
    )
}
