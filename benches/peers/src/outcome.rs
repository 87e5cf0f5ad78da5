//! The results of a run: rows of figures and verdicts, as they are printed, drawn and kept.

use serde::{Deserialize, Serialize};

use crate::{report::number, side::Kind};

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Operations a second: more is better.
    PerSecond,
    /// Bytes a second: more is better.
    BytesPerSecond,
    /// Seconds: less is better.
    Seconds,
    /// Bytes: less is better.
    Bytes,
}

/// One figure of one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Whose it is, and in which form.
    pub side: String,
    /// Whether it is ours, the limit's, another engine's or a server's.
    pub kind: String,
    /// How durable a commit is.
    pub durability: String,
    /// The median over the rounds.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
    /// All rounds.
    pub rounds: Vec<f64>,
    /// Where it stands on the axis, if the row is a curve.
    pub x: Option<f64>,
    /// What else there is to say of it.
    pub details: Vec<String>,
}

impl Figure {
    /// A figure from its rounds.
    pub fn new(side: impl Into<String>, kind: Kind, unit: Unit, rounds: Vec<f64>) -> Figure {
        let kind = match kind {
            Kind::Ours => "ours",
            Kind::Limit => "limit",
            Kind::Embedded => "embedded",
            Kind::Shown => "shown",
            Kind::Server => "server",
        };
        Figure {
            side: side.into(),
            kind: kind.to_owned(),
            durability: String::new(),
            value: median(&rounds),
            unit,
            rounds,
            x: None,
            details: Vec::new(),
        }
    }

    /// The same, with its durability in words.
    pub fn durable(mut self, words: impl Into<String>) -> Figure {
        self.durability = words.into();
        self
    }

    /// The same, with a detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Figure {
        self.details.push(detail.into());
        self
    }

    /// The value with its unit.
    pub fn shown(&self) -> String {
        number::with_unit(self.value, self.unit)
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A target, and what was reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What was to be reached.
    pub target: String,
    /// What was.
    pub reached: String,
    /// Whether it was enough.
    pub met: bool,
}

/// All that one workload has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The workload's name, as `--only` takes it.
    pub workload: String,
    /// What it does.
    pub title: String,
    /// In which mode it ran: figures of a quick run are rough.
    pub mode: String,
    /// The name of the axis, if it is a curve.
    pub axis: Option<String>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// The verdicts.
    pub verdicts: Vec<Verdict>,
    /// Sides that are not in it, and why.
    pub left_out: Vec<(String, String)>,
    /// What must be known to read it.
    pub notes: Vec<String>,
}

impl Row {
    /// A row without anything in it; the program fills in its name.
    pub fn new() -> Row {
        Row {
            workload: String::new(),
            title: String::new(),
            mode: String::new(),
            axis: None,
            figures: Vec::new(),
            verdicts: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The figure of a side.
    pub fn find(&self, side: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.side == side)
    }

    /// The value of a side.
    pub fn value(&self, side: &str) -> Option<f64> {
        self.find(side).map(|figure| figure.value)
    }

    /// The best of the other engines, servers aside.
    pub fn best_peer(&self) -> Option<&Figure> {
        let peers = self.figures.iter().filter(|figure| figure.kind == "embedded");
        peers.max_by(|a, b| a.value.total_cmp(&b.value))
    }

    /// Judges by a number that must reach another one.
    pub fn at_least(
        &mut self,
        target: impl Into<String>,
        reached: f64,
        wanted: f64,
        shown: String,
    ) {
        self.verdicts.push(Verdict {
            target: target.into(),
            reached: shown,
            met: reached >= wanted,
        });
    }

    /// Judges by a number that must not pass another one.
    pub fn at_most(&mut self, target: impl Into<String>, reached: f64, wanted: f64, shown: String) {
        self.verdicts.push(Verdict {
            target: target.into(),
            reached: shown,
            met: reached <= wanted,
        });
    }

    /// Judges by the ratio of a side to another one; nothing is said if either is not there.
    pub fn ratio(&mut self, target: &str, side: &str, to: &str, wanted: f64) {
        if let (Some(value), Some(other)) = (self.value(side), self.value(to)) {
            let ratio = value / other;
            self.at_least(target, ratio, wanted, format!("{} times {to}", number::ratio(ratio)));
        }
    }
}

/// Where and how a run was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The day.
    pub date: String,
    /// The system's name and version.
    pub system: String,
    /// The processor, and how many of its cores.
    pub processor: String,
    /// The memory.
    pub memory: String,
    /// The file system on which the stores lay.
    pub file_system: String,
}

/// A run, or several that were put together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// The machines: one, unless runs of several were put together.
    pub machines: Vec<Machine>,
    /// The versions of the sides.
    pub versions: Vec<(String, String)>,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Run {
    /// Puts a newer run over this one: rows of the same workload are replaced.
    pub fn take_over(&mut self, newer: Run, order: &[&str]) {
        for row in newer.rows {
            self.rows.retain(|old| old.workload != row.workload);
            self.rows.push(row);
        }
        let place = |row: &Row| order.iter().position(|name| *name == row.workload);
        self.rows.sort_by_key(place);
        for machine in newer.machines {
            if !self.machines.contains(&machine) {
                self.machines.push(machine);
            }
        }
        self.versions = newer.versions;
    }
}
