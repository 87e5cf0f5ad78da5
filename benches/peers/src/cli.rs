//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::{
    scale::Mode,
    workloads::{self, Workload},
};

/// The arguments.
#[derive(Debug, Parser)]
#[command(
    name = "peers",
    about = "Measures Posthouse beside the bare limit of the machine and beside other engines"
)]
pub struct Arguments {
    /// Run only the workloads whose name contains one of these; see --list
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Say which workloads there are, what they are to reach, and which sides there are
    #[arg(long)]
    pub list: bool,
    /// Take under a minute; leave out what takes long
    #[arg(long, conflicts_with = "smoke")]
    pub quick: bool,
    /// Touch each side in a few seconds: figures mean nothing, only failures do
    #[arg(long)]
    pub smoke: bool,
    /// Where the stores lie while they are measured; the temporary directory by default
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Keep the results in this file; what it holds of other workloads stays there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the results into docs/BENCHMARKS.md and plots beside it: all of --json, if it is given
    #[arg(long)]
    pub write_docs: bool,
    /// Run nothing: show (and write) what the file of --json holds
    #[arg(long, requires = "json", conflicts_with_all = ["quick", "smoke"])]
    pub report: bool,
    /// A task, a directory and a number: work of this program in a process of its own
    #[arg(long, hide = true, num_args = 3)]
    pub child: Option<Vec<String>>,
}

impl Arguments {
    /// How much is to be done.
    pub fn mode(&self) -> Mode {
        match (self.smoke, self.quick) {
            (true, _) => Mode::Smoke,
            (_, true) => Mode::Quick,
            _ => Mode::Full,
        }
    }

    /// The workloads that are to be run.
    pub fn workloads(&self) -> Result<Vec<&'static Workload>, String> {
        for pattern in &self.only {
            if !workloads::ALL.iter().any(|it| it.name.contains(pattern.as_str())) {
                return Err(format!("no workload's name contains {pattern:?}; see --list"));
            }
        }
        let wanted = |it: &&Workload| {
            self.only.is_empty() || self.only.iter().any(|part| it.name.contains(part.as_str()))
        };
        let found: Vec<_> =
            workloads::ALL.iter().filter(wanted).filter(|it| it.is_in(self.mode())).collect();
        if found.is_empty() {
            return Err("these workloads take too long for --quick; leave it out".to_owned());
        }
        Ok(found)
    }
}
