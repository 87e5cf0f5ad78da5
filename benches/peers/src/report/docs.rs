//! The results as they stand in `docs/BENCHMARKS.md`, between two marker lines.

use std::{fs, path::Path};

use super::{number, plot};
use crate::{
    outcome::{Row, Run},
    side::Result,
};

const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";
/// The heading under which the markers are put where there are none.
const HEADING: &str = "## Beside other engines";

/// Writes the results into a page, and the plots beside it.
pub fn write(page: &Path, run: &Run) -> Result<()> {
    let at = |error| format!("{}: {error}", page.display());
    let text = fs::read_to_string(page).map_err(at)?;
    fs::write(page, put_between(&text, &results(run))?).map_err(at)?;
    plot::write_all(page.parent().ok_or("the page has no folder")?, run)?;
    Ok(())
}

fn put_between(page: &str, results: &str) -> Result<String> {
    match (page.find(BEGIN), page.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            Ok(format!("{}{BEGIN}\n\n{results}\n{}", &page[..begin], &page[end..]))
        }
        (None, None) => {
            Ok(format!("{}\n\n{HEADING}\n\n{BEGIN}\n\n{results}\n{END}\n", page.trim_end()))
        }
        _ => Err("the page has one marker line of the two, or they are in the wrong order".into()),
    }
}

fn results(run: &Run) -> String {
    let mut text = String::new();
    for machine in &run.machines {
        text.push_str(&format!(
            "{}: {}, {}, {}, {}.\n",
            machine.date, machine.system, machine.processor, machine.memory, machine.file_system
        ));
    }
    let versions: Vec<String> =
        run.versions.iter().map(|(side, version)| format!("{side} {version}")).collect();
    text.push_str(&format!("Versions: {}.\n\n", versions.join(", ")));
    text.push_str(&verdicts(run));
    for name in plot::names(run) {
        text.push_str(&format!("![Figures of all sides]({name})\n\n"));
    }
    for row in &run.rows {
        text.push_str(&section(row));
    }
    text
}

fn verdicts(run: &Run) -> String {
    let mut text = String::from("| Workload | Target | Reached | |\n|---|---|---|---|\n");
    for row in &run.rows {
        for (n, verdict) in row.verdicts.iter().enumerate() {
            let title = if n == 0 { row.title.as_str() } else { "" };
            let word = if verdict.met { "met" } else { "**not met**" };
            text.push_str(&format!(
                "| {title} | {} | {} | {word} |\n",
                verdict.target, verdict.reached
            ));
        }
    }
    text + "\n"
}

fn section(row: &Row) -> String {
    let mut text = format!("### {}\n\n", row.title);
    if row.mode != "full" {
        text.push_str(&format!("From a {} run: rough.\n\n", row.mode));
    }
    text.push_str(&match row.axis.as_deref() {
        Some(axis) => curve(row, axis),
        None => figures(row),
    });
    for note in &row.notes {
        text.push_str(&format!("{note}\n"));
    }
    if !row.left_out.is_empty() {
        let reasons: Vec<String> =
            row.left_out.iter().map(|(side, why)| format!("{side} ({why})")).collect();
        text.push_str(&format!("Without: {}.\n", reasons.join(", ")));
    }
    text.trim_end().to_owned() + "\n\n"
}

fn figures(row: &Row) -> String {
    let limit = row.figures.iter().find(|figure| figure.kind == "limit");
    let mut text = String::from("| | | of the limit | durability | |\n|---|---|---|---|---|\n");
    for figure in &row.figures {
        let of_limit = limit.filter(|it| it.unit == figure.unit);
        let of_limit = of_limit.map(|it| number::ratio(figure.value / it.value));
        let name = match figure.kind.as_str() {
            "ours" => format!("**{}**", figure.side),
            "server" => format!("*{}*", figure.side),
            _ => figure.side.clone(),
        };
        text.push_str(&format!(
            "| {name} | {} | {} | {} | {} |\n",
            figure.shown(),
            of_limit.unwrap_or_default(),
            figure.durability,
            figure.details.join("; ")
        ));
    }
    text + "\n"
}

/// A curve as a table: a line for each place on the axis, a column for each side.
fn curve(row: &Row, axis: &str) -> String {
    let mut sides: Vec<&str> = Vec::new();
    let mut places: Vec<f64> = Vec::new();
    for figure in &row.figures {
        let x = figure.x.unwrap_or_default();
        if !sides.contains(&figure.side.as_str()) {
            sides.push(&figure.side);
        }
        if !places.contains(&x) {
            places.push(x);
        }
    }
    let mut text =
        format!("| {axis} | {} |\n|---|{}\n", sides.join(" | "), "---|".repeat(sides.len()));
    for place in places {
        let cell = |side: &&str| {
            let mut all = row.figures.iter();
            let found = all.find(|it| it.side == **side && it.x == Some(place));
            found.map_or_else(String::new, crate::outcome::Figure::shown)
        };
        let cells: Vec<String> = sides.iter().map(cell).collect();
        text.push_str(&format!("| {} | {} |\n", number::count(place as u64), cells.join(" | ")));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_replace_those_between_the_markers() {
        let page = "# A\n\nwords\n";
        let once = put_between(page, "one\n").expect("there are no markers yet");
        assert!(once.starts_with("# A\n\nwords\n\n## Beside"), "{once}");
        let twice = put_between(&once, "two\n").expect("there are both");
        assert!(twice.contains("two") && !twice.contains("one"), "{twice}");
        assert_eq!(put_between(&twice, "two\n").expect("there are both"), twice);
        assert!(put_between(BEGIN, "x").is_err());
    }
}
