//! Bars on a terminal: how far the run has come, and the workload in it.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The bars.
pub struct Progress {
    all: MultiProgress,
    run: ProgressBar,
    row: ProgressBar,
}

impl Progress {
    /// Bars for so many workloads. They are hidden where there is no terminal.
    pub fn new(workloads: usize) -> Progress {
        let style = |template: &str| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let all = MultiProgress::new();
        let run = all.add(ProgressBar::new(workloads as u64));
        run.set_style(style("{msg:40} {bar:30} {pos}/{len} workloads, {elapsed}"));
        let row = all.add(ProgressBar::new(1));
        row.set_style(style("  {msg:38} {bar:30} {pos}/{len}"));
        run.enable_steady_tick(Duration::from_millis(500));
        Progress { all, run, row }
    }

    /// A workload begins.
    pub fn workload(&self, title: &str) {
        self.run.set_message(title.to_owned());
        self.begin(1);
    }

    /// A workload has ended.
    pub fn done(&self) {
        self.run.inc(1);
    }

    /// So many steps begin.
    pub fn begin(&self, steps: usize) {
        self.row.set_length(steps as u64);
        self.row.set_position(0);
    }

    /// One of them begins.
    pub fn step(&self, what: &str) {
        self.says(what);
        self.row.inc(1);
    }

    /// So far.
    pub fn at(&self, position: u64, of: u64) {
        self.row.set_length(of);
        self.row.set_position(position);
    }

    /// What is being done.
    pub fn says(&self, what: &str) {
        self.row.set_message(what.to_owned());
    }

    /// Prints above the bars.
    pub fn print(&self, text: &str) {
        self.all.suspend(|| println!("{text}"));
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        self.row.finish_and_clear();
        self.run.finish_and_clear();
    }
}
