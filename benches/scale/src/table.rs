//! The table.

use crate::{cost::Cost, rows::Row};

/// The head of the table.
pub const HEAD: &str = "\
| Row | Size | wall | CPU | stall | p99.9 | files | disk | memory | growth |
|---|---|---|---|---|---|---|---|---|---|";

/// A line of the table. `before` is the cost at a tenth of the size.
pub fn line(row: &Row, size: u64, cost: &Cost, before: Option<&Cost>) -> String {
    let growth = before.map_or_else(String::new, |before| {
        // Times of less than a millisecond say little.
        if before.cpu < 1e-3 { "-".to_owned() } else { format!("{:.1}", cost.cpu / before.cpu) }
    });
    format!(
        "| {} | {size} | {} | {} | {} | {} | {} | {} | {} | {growth} |",
        row.title,
        time(cost.wall),
        time(cost.cpu),
        time(cost.stall),
        time(cost.rare),
        cost.files,
        bytes(cost.disk),
        bytes(cost.memory),
    )
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

fn bytes(bytes: u64) -> String {
    match bytes {
        b if b >= 10 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}
