//! Matches the messages of a batch with filters before it is committed, in slices. The commit is one hold of the core, however many
//! messages there are, and to match a message takes longer than to note it.
//!
//! A slice looks at the filters as they are. The commit takes what was found if the filters of the log are the same still, which
//! their version tells. Otherwise it matches the messages itself.

use std::ops::Range;

use super::{
    Batch, Store,
    batch::BatchLog,
    filters::{Filters, Given},
    log::Log,
    state::State,
};
use crate::{
    audit,
    format::{commit::Run, record::Headers},
    ids::{CursorId, IdMap, Offset},
};

/// The most messages and matches of a slice, but for those of its last run of 32 messages. Each takes a few steps in the trie.
const AT_ONCE: usize = 128;

/// So often the messages are matched anew because filters have changed. After that, the commit matches them.
const TRIES_MAX: u32 = 8;

/// So many ranges are kept. The commit matches the messages of logs with more.
const RANGES_MAX: usize = 1 << 20;

/// What was found ahead of the commit.
#[derive(Debug, Default)]
pub struct EarlyMatches {
    /// The log of the batch that comes next, its first run, the run that comes next, and the messages before it.
    log: usize,
    first_run: usize,
    run: usize,
    messages: u64,
    matched: Vec<MatchedLog>,
    /// How many ranges were found.
    ranges: usize,
    /// How often the messages were matched.
    tries: u32,
    /// The last change of all filters that was looked at.
    version: u64,
}

/// The messages of a log of a batch that each cursor gets, counted from the first one.
#[derive(Debug, Default)]
struct MatchedLog {
    /// The version of the filters. 0 if there are none.
    version: u64,
    /// Whether the filters have changed meanwhile.
    is_stale: bool,
    cursors: IdMap<CursorId, Vec<Range<u64>>>,
}

impl MatchedLog {
    /// Adds the matches of a run. Returns how many there are, and in how many ranges more.
    fn add(
        &mut self,
        run: &Run<'_>,
        filters: &Filters,
        found: &mut Vec<CursorId>,
    ) -> (usize, usize) {
        let (mut matches, mut more) = (0, 0);
        for (Offset(n), spans) in run.records().map_while(Result::ok) {
            audit::step();
            filters.find(Headers::new(spans.headers(run.body)), found);
            matches += found.len();
            for cursor in found.drain(..) {
                audit::step();
                let ranges = self.cursors.entry(cursor).or_default();
                match ranges.last_mut() {
                    Some(last) if last.end == n => last.end = n + 1,
                    _ => {
                        ranges.push(n..n + 1);
                        more += 1;
                    }
                }
            }
        }
        (matches, more)
    }
}

fn filters_of(log: Option<&Log>) -> Option<&Filters> {
    log.and_then(|log| log.filters.as_deref())
}

impl Store {
    /// Whether a batch is to be matched with filters ahead of its commit: its logs have filters, and others than those with which
    /// it was matched, if it was.
    pub fn wants_match(&self, batch: &mut Batch) -> bool {
        let now = self.state.filtering.version;
        let known = batch.early.as_ref().map(|early| (early.tries, early.version));
        let (tries, version) = known.unwrap_or((0, 0));
        if !self.state.has_filters() || tries >= TRIES_MAX || version == now {
            return false;
        }
        let is_other = |(n, it): (usize, &BatchLog)| {
            audit::step();
            let early = batch.early.as_ref().and_then(|early| early.matched.get(n));
            let version = filters_of(self.state.logs.get(&it.log)).map_or(0, Filters::version);
            early.map_or(0, |it| it.version) != version
        };
        let is_wanted = batch.logs.iter().enumerate().any(is_other);
        if is_wanted {
            batch.early = Some(EarlyMatches { tries: tries + 1, ..EarlyMatches::default() });
        }
        batch.early.get_or_insert_default().version = now;
        is_wanted
    }

    /// Matches some messages of a batch. Returns whether there are more.
    pub fn match_early(&mut self, batch: &mut Batch) -> bool {
        let State { logs, filtering, .. } = &mut self.state;
        let early = batch.early.get_or_insert_default();
        let mut done = 0;
        while done < AT_ONCE {
            let Some(of) = batch.logs.get(early.log) else { return false };
            audit::step();
            done += 1;
            let filters = filters_of(logs.get(&of.log));
            let version = filters.map_or(0, Filters::version);
            if early.matched.len() == early.log {
                early.matched.push(MatchedLog { version, ..MatchedLog::default() });
            }
            let matched = &mut early.matched[early.log];
            if matched.version != version || early.ranges > RANGES_MAX {
                (matched.is_stale, matched.cursors) = (true, IdMap::default());
            }
            if let Some(filters) = filters.filter(|_| !matched.is_stale) {
                let run = batch.runs.run(early.run, Offset(early.messages));
                let (matches, ranges) = matched.add(&run, filters, &mut filtering.found);
                done += run.count as usize + matches;
                early.ranges += ranges;
                (early.run, early.messages) = (early.run + 1, run.end().0);
                if early.messages < of.messages {
                    continue;
                }
            }
            early.first_run += of.runs;
            (early.log, early.run, early.messages) = (early.log + 1, early.first_run, 0);
        }
        true
    }

    /// Matches the messages of a batch that was committed.
    pub(super) fn match_batch(&mut self, batch: &Batch) {
        let early = batch.early.as_ref();
        let mut next_run = 0;
        for (n, of) in batch.logs.iter().enumerate() {
            audit::step();
            let runs = next_run..next_run + of.runs;
            next_run = runs.end;
            let Some(filters) = filters_of(self.state.logs.get(&of.log)) else { continue };
            let matched = early.and_then(|early| early.matched.get(n));
            match matched.filter(|it| !it.is_stale && it.version == filters.version()) {
                Some(matched) => {
                    for (cursor, ranges) in &matched.cursors {
                        let at = |n: u64| Offset(of.first.0 + n);
                        let ranges = ranges.iter().map(|it| at(it.start).to(at(it.end)));
                        self.state.give(Given { log: of.log, cursor: *cursor }, ranges);
                    }
                }
                None => {
                    let mut first = of.first;
                    for n in runs {
                        let run = batch.runs.run(n, first);
                        first = run.end();
                        self.state.match_run(&run, &Vec::new());
                    }
                }
            }
        }
    }
}
