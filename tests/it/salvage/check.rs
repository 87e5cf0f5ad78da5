//! Verifies and salvages a damaged store, and compares the reports with the real content.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use posthouse::{ErrorKind, sim::SimDisk};

use super::{
    compare::Comparison,
    sample::{Sample, dumped, options},
};
use crate::model::state::State;

/// All files, with their content.
pub fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    disk.files().into_iter().map(|path| (path.clone(), disk.content(&path).unwrap())).collect()
}

#[derive(Debug, Default)]
pub struct Tally {
    pub sound: usize,
    pub named: usize,
    pub elsewhere: Vec<String>,
    pub torn: usize,
    pub refused: usize,
    pub complete: usize,
    pub lossy: usize,
}

/// Verifies and salvages a store with one damage, and checks the reports.
pub fn check_damaged(sample: &Sample, disk: &SimDisk, path: &Path, what: &str, tally: &mut Tally) {
    let original = sample.states.last().unwrap();
    let place = format!("{} {what}", path.display());
    let (before, steps) = (files(disk), disk.steps());
    let verified = options().sim(disk).verify("store");
    assert_eq!((&files(disk), disk.steps()), (&before, steps), "{place}: verify changes nothing");
    let opened = dumped(disk, "store");
    let mut reference = original;
    match &verified {
        Ok(report) if report.is_ok() => {
            let opened = opened.as_ref().unwrap_or_else(|error| {
                panic!("{place}: verify finds nothing, and {error}");
            });
            if opened == original {
                tally.sound += 1;
            } else {
                // Nothing is behind it to prove that it was durable.
                let torn = sample.states.iter().find(|state| *state == opened);
                reference = torn.unwrap_or_else(|| panic!("{place}: nothing is found"));
                tally.torn += 1;
            }
        }
        Ok(report) if report.problems.iter().any(|it| it.file == path) => tally.named += 1,
        Ok(report) => tally.elsewhere.push(format!("{place}: {report}")),
        Err(error) => panic!("{place}: {error}"),
    }
    let salvaged = options().sim(disk).salvage("store", "to");
    let mut after = files(disk);
    after.retain(|path, _| path.starts_with("store"));
    assert_eq!(after, before, "{place}: salvage does not touch the old store");
    let report = match salvaged {
        Ok(report) => report,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{place}: {error}");
            tally.refused += 1;
            return;
        }
    };
    let verified = options().sim(disk).verify("to").unwrap();
    assert!(verified.is_ok() && verified.unreferenced.is_empty(), "{place}: {verified}");
    let is = dumped(disk, "to").unwrap_or_else(|error| panic!("{place}: {error}\n{report}"));
    let compared = std::panic::catch_unwind(|| {
        let names_are_in_metalog = !path.starts_with("store/meta");
        Comparison { history: &sample.history, report: &report, names_are_in_metalog }
            .all(reference, &is);
        if report.is_complete() && report.problems.is_empty() {
            assert_eq!(*reference, is);
        }
    });
    if compared.is_err() {
        panic!("{place}:\n{report}");
    }
    if report.is_complete() {
        let is = trimmed_as(is, reference);
        assert_eq!(*reference, is, "{place}: said to be complete");
        tally.complete += 1;
    } else {
        tally.lossy += 1;
    }
}

/// A trim whose record is lost is not done: the stream has more records than before. The comparison has
/// checked that it once had them.
fn trimmed_as(mut is: State, reference: &State) -> State {
    for (name, stream) in &mut is.streams {
        let Some(was) = reference.streams.get(name) else { continue };
        for (is, was) in stream.partitions.iter_mut().zip(&was.partitions) {
            is.records = is.records.split_off(&was.start);
            is.start = is.start.max(was.start);
        }
    }
    is
}
