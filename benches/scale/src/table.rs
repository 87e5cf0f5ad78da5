//! The table.

use crate::{
    cost::{Cost, Measure},
    rows::Row,
    target,
};

/// The columns of measures, in their order.
const COLUMNS: [Measure; 14] = [
    Measure::Wall,
    Measure::Cpu,
    Measure::Stall,
    Measure::Rare,
    Measure::HoldTime,
    Measure::HoldSteps,
    Measure::Syncs,
    Measure::Files,
    Measure::Disk,
    Measure::Segments,
    Measure::Written,
    Measure::Memory,
    Measure::Heap,
    Measure::Allocations,
];

/// The head of the table.
pub fn head() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|it| it.name()).collect();
    let lines = "---|".repeat(COLUMNS.len() + 5);
    format!("| Row | Size | {} | growth | to reach | |\n|{lines}", names.join(" | "))
}

/// The line of the size that was measured last. The verdict stands in the line of the largest size.
pub fn line(row: &Row, costs: &[(u64, Cost)], is_last: bool) -> String {
    let Some((size, cost)) = costs.last() else { return String::new() };
    let before = costs.len().checked_sub(2).map(|n| &costs[n].1);
    let growth = before.and_then(|before| {
        let (before, cpu) = (before.get(Measure::Cpu)?, cost.get(Measure::Cpu)?);
        // Times of less than a millisecond say little.
        Some(if before < 1e-3 { "-".to_owned() } else { format!("{:.1}", cpu / before) })
    });
    let cells: Vec<String> = COLUMNS
        .iter()
        .map(|it| cost.get(*it).map_or_else(|| "-".to_owned(), |value| self::value(*it, value)))
        .collect();
    let (told, verdict) = match is_last {
        true => (target::told(row.targets), target::verdict(row.targets, costs)),
        false => Default::default(),
    };
    let growth = growth.unwrap_or_default();
    format!("| {} | {size} | {} | {growth} | {told} | {verdict} |", row.title, cells.join(" | "))
}

/// A value of a measure, with its unit.
pub fn value(measure: Measure, value: f64) -> String {
    match measure {
        it if it.is_time() => time(value),
        Measure::HoldSteps | Measure::Syncs | Measure::Files | Measure::Allocations => {
            format!("{value:.0}")
        }
        _ => bytes(value),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        // The probe has made no commit in the meantime.
        0.0 => "-".to_owned(),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes {
        b if b >= f64::from(10 << 20) => format!("{:.0} MiB", b / f64::from(1 << 20)),
        b if b < 1.0 && b > 0.0 => format!("{b:.2} B"),
        b if b >= 10_000.0 => format!("{:.0} KiB", b / 1024.0),
        b => format!("{b:.0} B"),
    }
}
