//! Plots, written as SVG by hand: bars on a logarithmic scale, and curves.

use std::{fmt::Write, fs, path::Path};

use super::number;
use crate::{
    outcome::{Figure, Row, Run, Unit},
    side::Result,
};

const BARS: &str = "peers.svg";
const CURVES: &str = "peers-curves.svg";
const WIDTH: f64 = 900.0;
const NAMES: f64 = 240.0;
const LINE: f64 = 17.0;
const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";
const INK: &str = "#333";
/// Rows that are drawn as bars: those with several sides.
const DRAWN: [&str; 8] = [
    "append-buffered",
    "append-sync",
    "append-sync-64",
    "queue",
    "queue-backlog",
    "transaction",
    "replay-warm",
    "hand-over",
];

/// The files that the plots of a run are written to.
pub fn names(run: &Run) -> Vec<&'static str> {
    let has = |is: fn(&Row) -> bool| run.rows.iter().any(is);
    let bars = has(|row| DRAWN.contains(&row.workload.as_str())).then_some(BARS);
    let curves = has(|row| row.axis.is_some()).then_some(CURVES);
    bars.into_iter().chain(curves).collect()
}

/// Writes the plots of a run into a folder.
pub fn write_all(folder: &Path, run: &Run) -> Result<()> {
    for name in names(run) {
        let drawing = if name == BARS { bars(run) } else { curves(run) };
        let path = folder.join(name);
        fs::write(&path, drawing).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Text that can stand in SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{INK}\">{}</text>",
        escaped(what)
    );
}

fn document(height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" {FONT}>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn colour(kind: &str) -> &'static str {
    match kind {
        "ours" => "#1f6feb",
        "limit" => "#8c959f",
        "server" => "#d4a72c",
        _ => "#57ab5a",
    }
}

fn bars(run: &Run) -> String {
    let (mut svg, mut y) = (String::new(), 22.0);
    text(
        &mut svg,
        10.0,
        y,
        "start",
        "Logarithmic. Blue: Posthouse. Grey: the bare limit. Green: other engines. Yellow: servers over loopback.",
    );
    y += LINE;
    for row in run.rows.iter().filter(|row| DRAWN.contains(&row.workload.as_str())) {
        y += LINE;
        let less = row.figures.first().is_some_and(|it| it.unit == Unit::Seconds);
        let direction = if less { "shorter is better" } else { "longer is better" };
        text(&mut svg, 10.0, y, "start", &format!("{} ({direction})", row.title));
        y += 6.0;
        let least = row.figures.iter().map(|it| it.value).fold(f64::INFINITY, f64::min) / 2.0;
        let most = row.figures.iter().map(|it| it.value).fold(0.0, f64::max);
        let room = WIDTH - NAMES - 90.0;
        for figure in &row.figures {
            let length = (figure.value / least).ln() / (most / least).ln() * room;
            let fill = colour(&figure.kind);
            let _ = writeln!(
                svg,
                "<rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
                LINE - 4.0
            );
            text(&mut svg, NAMES - 8.0, y + LINE - 6.0, "end", &figure.side);
            text(&mut svg, NAMES + length + 5.0, y + LINE - 6.0, "start", &figure.shown());
            y += LINE;
        }
    }
    document(y + 10.0, &svg)
}

/// Where values lie on a drawing of a curve.
struct Axes {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn place(&self, figure: &Figure) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| (value / low).ln() / (high / low).ln();
        let x = self.left + self.width * part(figure.x.unwrap_or(1.0), self.x);
        let y = self.top + self.height * (1.0 - part(figure.value, self.y));
        (x, y)
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(low, high), it| (low.min(it), high.max(it)))
}

fn curves(run: &Run) -> String {
    let (mut svg, mut top) = (String::new(), 10.0);
    for row in run.rows.iter().filter(|row| row.axis.is_some()) {
        let axis = row.axis.as_deref().unwrap_or_default();
        text(
            &mut svg,
            10.0,
            top + 14.0,
            "start",
            &format!("{}, by {axis}; both logarithmic", row.title),
        );
        let x = bounds(row.figures.iter().filter_map(|it| it.x));
        let (low, high) = bounds(row.figures.iter().map(|it| it.value));
        let axes = Axes {
            left: 90.0,
            top: top + 30.0,
            width: WIDTH - 290.0,
            height: 240.0,
            x,
            y: (low / 1.5, high * 1.5),
        };
        draw_axes(&mut svg, &axes, row);
        draw_lines(&mut svg, &axes, row);
        top += 320.0;
    }
    document(top, &svg)
}

fn draw_axes(svg: &mut String, axes: &Axes, row: &Row) {
    let Axes { left, top, width, height, .. } = axes;
    let _ = writeln!(
        svg,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"{INK}\"/>"
    );
    let unit = row.figures.first().map_or(Unit::PerSecond, |it| it.unit);
    let mut mark = |figure: &Figure, on_x: bool| {
        let (x, y) = axes.place(figure);
        if on_x {
            let shown = number::count(figure.x.unwrap_or_default() as u64);
            text(svg, x, top + height + 15.0, "middle", &shown);
        } else {
            text(svg, left - 6.0, y + 4.0, "end", &number::with_unit(figure.value, unit));
        }
    };
    let mut seen = Vec::new();
    for figure in &row.figures {
        if !seen.contains(&figure.x) {
            seen.push(figure.x);
            mark(figure, true);
        }
    }
    // A mark for each power of ten.
    let mut at = 10_f64.powf(axes.y.0.log10().ceil());
    while let Some(figure) = row.figures.first().filter(|_| at <= axes.y.1) {
        mark(&Figure { value: at, ..figure.clone() }, false);
        at *= 10.0;
    }
}

fn draw_lines(svg: &mut String, axes: &Axes, row: &Row) {
    const COLOURS: [&str; 4] = ["#57ab5a", "#b083f0", "#e0823d", "#d4a72c"];
    let mut sides: Vec<&str> = Vec::new();
    for figure in &row.figures {
        if !sides.contains(&figure.side.as_str()) {
            sides.push(&figure.side);
        }
    }
    let (mut others, mut label_y) = (COLOURS.iter().cycle(), axes.top + 10.0);
    for side in sides {
        let figures: Vec<&Figure> = row.figures.iter().filter(|it| it.side == side).collect();
        let stroke = match figures.first().map(|it| it.kind.as_str()) {
            Some(kind @ ("ours" | "limit")) => colour(kind),
            _ => others.next().copied().unwrap_or(INK),
        };
        let dashes = if side.ends_with("Sync") { " stroke-dasharray=\"6 4\"" } else { "" };
        let points: Vec<String> = figures
            .iter()
            .map(|figure| axes.place(figure))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let points = points.join(" ");
        let line = format!("fill=\"none\" stroke=\"{stroke}\" stroke-width=\"2\"{dashes}");
        let _ = writeln!(svg, "<polyline points=\"{points}\" {line}/>");
        let x = axes.left + axes.width + 10.0;
        let _ = writeln!(svg, "<path d=\"M{x:.1} {label_y:.1} h24\" {line}/>");
        text(svg, x + 30.0, label_y + 4.0, "start", side);
        label_y += LINE;
    }
}
