//! The plot of the table: a small panel for each row, with CPU and stall by size.

use std::{fmt::Write, fs, path::Path};

use crate::Result;

const COLUMNS: usize = 3;
const PANEL: (f64, f64) = (300.0, 210.0);
/// The part of a panel in which the lines are.
const AREA: (f64, f64, f64, f64) = (52.0, 42.0, 288.0, 176.0);
const HEAD: f64 = 40.0;
/// Times from a microsecond to 100 seconds, as powers of ten.
const TIMES: (f64, f64) = (-6.0, 2.0);
/// The most letters in a line of a title.
const LETTERS: usize = 46;

/// How the head of the table begins. Older tables have fewer columns behind that.
const HEAD_BEGIN: &str = "| Row | Size | wall | CPU | stall |";

const STYLE: &str = "\
<style>
.back { fill: #ffffff } .text { fill: #24292f } .grid { stroke: #d0d7de } .linear { stroke: #8c959f }
.cpu { stroke: #0969da; fill: #0969da } .stall { stroke: #bc4c00; fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117 } .text { fill: #e6edf3 } .grid { stroke: #30363d } .linear { stroke: #8b949e }
.cpu { stroke: #58a6ff; fill: #58a6ff } .stall { stroke: #f0883e; fill: #f0883e }
}
polyline.cpu, polyline.stall, .linear { fill: none } polyline { stroke-width: 2 } .grid { stroke-width: 1 } .linear { stroke-dasharray: 3 4 }
</style>
";

/// One row at its sizes. Times are in seconds; there may be none.
#[derive(Debug, PartialEq)]
struct Panel {
    title: String,
    points: Vec<Point>,
}

#[derive(Debug, PartialEq)]
struct Point {
    size: f64,
    cpu: Option<f64>,
    stall: Option<f64>,
}

/// Draws the table that is in a Markdown file.
pub fn draw(table: &Path, into: &Path) -> Result<()> {
    let text =
        fs::read_to_string(table).map_err(|error| format!("{}: {error}", table.display()))?;
    let panels = panels(&text);
    if panels.is_empty() {
        return Err(format!("{} has no table of this program", table.display()).into());
    }
    fs::write(into, picture(&panels)).map_err(|error| format!("{}: {error}", into.display()))?;
    Ok(())
}

/// The rows of the table, in its order.
fn panels(text: &str) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    let lines = text.lines().skip_while(|line| !line.starts_with(HEAD_BEGIN));
    for line in lines.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [title, size, _, cpu, stall, ..] = cells[..] else { continue };
        let Ok(size) = size.parse() else { continue };
        let point = Point { size, cpu: seconds(cpu), stall: seconds(stall) };
        match panels.last_mut() {
            Some(panel) if panel.title == title => panel.points.push(point),
            _ => panels.push(Panel { title: title.to_owned(), points: vec![point] }),
        }
    }
    panels
}

/// A time of the table, such as `14.4 ms`.
fn seconds(cell: &str) -> Option<f64> {
    let (number, unit) = cell.split_once(' ')?;
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "µs" => 1e-6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

fn picture(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS as f64 * PANEL.0, HEAD + rows as f64 * PANEL.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<title>CPU and stall of each row by its size\
         </title>\n{STYLE}<rect class=\"back\" width=\"100%\" height=\"100%\"/>\n"
    );
    legend(&mut svg);
    for (n, panel) in panels.iter().enumerate() {
        let at = ((n % COLUMNS) as f64 * PANEL.0, HEAD + (n / COLUMNS) as f64 * PANEL.1);
        put(&mut svg, format_args!("<g transform=\"translate({:.0} {:.0})\">", at.0, at.1));
        put_panel(&mut svg, panel);
        put(&mut svg, format_args!("</g>"));
    }
    svg.push_str("</svg>\n");
    svg
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(svg, "{what}").expect("it is a string");
}

fn put_text(svg: &mut String, (x, y): (f64, f64), anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    put(
        svg,
        format_args!(
            "<text class=\"text\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>"
        ),
    );
}

fn legend(svg: &mut String) {
    let entries = [("cpu", "CPU"), ("stall", "longest stall of a small commit beside it")];
    let mut x = 12.0;
    for (class, what) in entries {
        put(svg, format_args!("<polyline class=\"{class}\" points=\"{x},16 {},16\"/>", x + 24.0));
        put_text(svg, (x + 30.0, 20.0), "start", what);
        x += 60.0 + 6.0 * what.len() as f64;
    }
    put(svg, format_args!("<path class=\"linear\" d=\"M{x} 16 h24\"/>"));
    put_text(svg, (x + 30.0, 20.0), "start", "in proportion to the size");
    put_text(svg, (x + 210.0, 20.0), "start", "Both axes are logarithmic.");
}

fn put_panel(svg: &mut String, panel: &Panel) {
    for (n, line) in wrapped(&panel.title).iter().enumerate() {
        put_text(svg, (12.0, 14.0 + 13.0 * n as f64), "start", line);
    }
    let (left, top, right, bottom) = AREA;
    let sizes = || panel.points.iter().map(|point| point.size.log10());
    let (low, high) = (sizes().fold(f64::MAX, f64::min), sizes().fold(f64::MIN, f64::max));
    let x = |size: f64| left + (size.log10() - low) / (high - low).max(1e-9) * (right - left);
    let y = |time: f64| {
        let part = (time.log10() - TIMES.0) / (TIMES.1 - TIMES.0);
        bottom - part.clamp(0.0, 1.0) * (bottom - top)
    };
    for power in TIMES.0 as i32..=TIMES.1 as i32 {
        let at = y(10f64.powi(power));
        put(svg, format_args!("<path class=\"grid\" d=\"M{left} {at:.1} H{right}\"/>"));
        let label = ["1 µs", "", "", "1 ms", "", "", "1 s", "", "100 s"][(power + 6) as usize];
        put_text(svg, (left - 6.0, at + 4.0), "end", label);
    }
    for (n, point) in panel.points.iter().enumerate() {
        let at = x(point.size);
        put(svg, format_args!("<path class=\"grid\" d=\"M{at:.1} {top} V{bottom}\"/>"));
        // The last one does not reach into the next panel.
        let is_last = n + 1 == panel.points.len();
        let (at, anchor) = if is_last { (right + 6.0, "end") } else { (at, "middle") };
        put_text(svg, (at, bottom + 16.0), anchor, &grouped(point.size));
    }
    if let Some((size, cpu)) = panel.points.iter().find_map(|it| Some((it.size, it.cpu?))) {
        let end = 10f64.powf(high);
        let (from, to) = ((x(size), y(cpu)), (x(end), y(cpu * end / size)));
        put(
            svg,
            format_args!(
                "<path class=\"linear\" d=\"M{:.1} {:.1} L{:.1} {:.1}\"/>",
                from.0, from.1, to.0, to.1
            ),
        );
    }
    put_line(svg, "stall", panel.points.iter().filter_map(|it| Some((x(it.size), y(it.stall?)))));
    put_line(svg, "cpu", panel.points.iter().filter_map(|it| Some((x(it.size), y(it.cpu?)))));
}

fn put_line(svg: &mut String, class: &str, points: impl Iterator<Item = (f64, f64)> + Clone) {
    let line: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    put(svg, format_args!("<polyline class=\"{class}\" points=\"{}\"/>", line.join(" ")));
    for (x, y) in points {
        put(svg, format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"));
    }
}

/// A title in at most a few short lines.
fn wrapped(title: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in title.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < LETTERS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A size with a comma between each three digits.
fn grouped(size: f64) -> String {
    let digits = format!("{size:.0}");
    let comma = |n: usize| n > 0 && (digits.len() - n).is_multiple_of(3);
    let with_commas = digits.chars().enumerate();
    with_commas.flat_map(|(n, digit)| comma(n).then_some(',').into_iter().chain([digit])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::{Cost, Measure},
        rows::ROWS,
        table,
    };

    #[test]
    fn a_table_that_this_program_printed_is_drawn() {
        let row = &ROWS[0];
        let mut cost = Cost::default();
        let figures = [(Measure::Wall, 0.02), (Measure::Cpu, 0.015), (Measure::Stall, 0.0)];
        figures.into_iter().for_each(|(measure, figure)| cost.set(measure, figure));
        let costs: Vec<_> = row.sizes.iter().map(|size| (*size, cost.clone())).collect();
        let lines = (1..=3).map(|n| table::line(row, &costs[..n], n == 3));
        let lines: Vec<_> = lines.collect();
        let text = format!("Prose.\n\n{}\n{}\n\nMore.\n", table::head(), lines.join("\n"));
        let panels = panels(&text);
        assert_eq!(panels.len(), 1);
        assert_eq!(panels[0].title, row.title);
        let first = Point { size: row.sizes[0] as f64, cpu: Some(0.015), stall: None };
        assert_eq!(panels[0].points[0], first);
        assert_eq!(panels[0].points.len(), 3);
        assert!(picture(&panels).contains("polyline"));
    }

    #[test]
    fn sizes_are_grouped_and_titles_are_wrapped() {
        assert_eq!(grouped(1_000_000.0), "1,000,000");
        assert_eq!(grouped(40.0), "40");
        assert!(ROWS.iter().all(|row| wrapped(row.title).len() <= 2));
    }
}
