//! Tables for the terminal.

use super::number;
use crate::outcome::{Figure, Row, Run, Verdict};

/// Lays out cells in columns; those of the second one are numbers.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|row| row.get(n));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::from(" ");
        for (n, cell) in row.iter().enumerate() {
            let width = widths[n];
            let cell = if n == 1 { format!(" {cell:>width$}") } else { format!(" {cell:<width$}") };
            line.push_str(&cell);
            line.push(' ');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The median deviation of the rounds from their median, as a part of it.
fn spread(figure: &Figure) -> String {
    if figure.rounds.len() < 2 {
        return String::new();
    }
    let off: Vec<f64> =
        figure.rounds.iter().map(|it| (it - figure.value).abs() / figure.value).collect();
    format!("±{:.0}%", crate::outcome::median(&off) * 100.0)
}

/// A verdict in a line.
pub fn verdict(verdict: &Verdict) -> String {
    let word = if verdict.met { "met    " } else { "NOT MET" };
    format!("  {word}  {}: {}", verdict.target, verdict.reached)
}

/// One row of a run: its figures and verdicts.
pub fn row(row: &Row) -> String {
    let mut text = format!("\n{} [{}, {}]\n", row.title, row.workload, row.mode);
    let limit = row.figures.iter().find(|figure| figure.kind == "limit");
    let cells = row.figures.iter().map(|figure| {
        let name = match figure.x {
            Some(x) => format!("{} @ {}", figure.side, number::count(x as u64)),
            None => figure.side.clone(),
        };
        let of_limit = limit
            .filter(|it| it.unit == figure.unit && row.axis.is_none())
            .map(|it| format!("{} x limit", number::ratio(figure.value / it.value)));
        let mut details = figure.details.clone();
        details.extend(Some(figure.durability.clone()).filter(|it| !it.is_empty()));
        vec![name, figure.shown(), spread(figure), of_limit.unwrap_or_default(), details.join("; ")]
    });
    text.push_str(&columns(&cells.collect::<Vec<_>>()));
    for one in &row.verdicts {
        text.push_str(&verdict(one));
        text.push('\n');
    }
    for (side, why) in &row.left_out {
        text.push_str(&format!("  without {side}: {why}\n"));
    }
    text.trim_end().to_owned()
}

/// All verdicts of a run.
pub fn verdicts(run: &Run) -> String {
    let cells = run.rows.iter().flat_map(|row| {
        row.verdicts.iter().map(|it| {
            let word = if it.met { "met" } else { "NOT MET" };
            vec![row.workload.clone(), word.to_owned(), it.target.clone(), it.reached.clone()]
        })
    });
    let met = run.rows.iter().flat_map(|row| &row.verdicts).filter(|it| it.met).count();
    let all = run.rows.iter().map(|row| row.verdicts.len()).sum::<usize>();
    let cells: Vec<Vec<String>> = cells.collect();
    format!("\nVerdicts: {met} of {all} met\n{}", columns(&cells)).trim_end().to_owned()
}
