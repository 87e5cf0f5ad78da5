//! Verifying a store that is in use: the disk is read without the store in hand, so commits go on.
//!
//! No checkpoint may run while the metalog and the journal are read. Segments are read beside
//! checkpoints: one that was replaced meanwhile is forgotten, and what took its place is read.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    report::{Affected, VerifyReport},
    survey::problem,
    verify::{Known, offsets, take_within, unreferenced_segments},
};
use crate::{
    error::Result,
    format::{commit::changes, frame::FrameKind, meta::SegmentState},
    ids::LogId,
    journal::{self, Range as JournalRange},
    metalog::survey as metalog,
    segment::{Piece, SegmentSurvey, Segments},
    store::{OnDisk, Shared},
};

/// Verifies metalog and journal, and looks for files that nothing refers to.
///
/// # Errors
///
/// Input or output errors.
pub fn verify_base(shared: &impl Shared) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let on_disk = shared.with(|store| store.on_disk());
    let (place, number, id) = (on_disk.metalog, on_disk.metalog_number, on_disk.id);
    report.read.entities = shared.with(|store| store.state().catalog.all().count() as u64);
    let path = place.layout.meta_file(number);
    let file = metalog::read(&place, number, path.clone())?;
    match file.header {
        Err(what) => report.problems.push(problem(&path, 0, what.0)),
        Ok(header) if (header.store, header.number) != (id, number) => {
            report.problems.push(problem(&path, 0, "a metalog that belongs elsewhere"));
        }
        Ok(_) => {}
    }
    let survey = file.survey(id);
    report.read.meta_entries = survey.committed as u64;
    let damage = survey.damage.iter();
    report.problems.extend(damage.map(|it| problem(&path, it.position, it.what.0)));

    verify_journal(shared, &mut report)?;
    report.unreferenced = unreferenced(shared, &path)?;
    Ok(report)
}

fn verify_journal(shared: &impl Shared, report: &mut VerifyReport) -> Result<()> {
    let (files, range) = shared.with(|store| {
        let tail = store.journal.tail();
        let from = Some(store.on_disk().replay_from);
        let range = JournalRange { from, proven: tail, until: tail };
        (store.journal.consists_of(), range)
    });
    let layout = shared.with(|store| store.on_disk().segments.layout);
    let survey = journal::survey_files(&layout, files, range)?;
    let damage = survey.damage.iter();
    report.problems.extend(damage.map(|it| problem(&it.path, it.position, it.what)));
    report.read.journal_files = survey.files() as u64;
    survey.frames(&mut |place, kind, payload| {
        report.read.journal_frames += 1;
        report.read.journal_bytes += if kind == FrameKind::Roll { 0 } else { place.len };
        if kind == FrameKind::Commit
            && let Some(Err(what)) = changes(payload).find(std::result::Result::is_err)
        {
            let file = survey.file(place.file);
            let position = place.lsn.0 - file.header.start.0;
            report.problems.push(problem(&file.path, position, what.0));
        }
        Ok(())
    })
}

fn unreferenced(shared: &impl Shared, metalog: &PathBuf) -> Result<Vec<PathBuf>> {
    let OnDisk { metalog: place, segments, .. } = shared.with(|store| store.on_disk());
    let kept = || shared.with(|store| store.journal.kept_paths());
    // A file may be made or filled again meanwhile.
    let before = kept();
    let mut found = journal::all_names(&*segments.disk, &segments.layout)?;
    let after = kept();
    found.retain(|path| !before.contains(path) && !after.contains(path));
    let (finished, unfinished) = metalog::list(&place)?;
    found.extend(finished.into_iter().map(|(_, path)| path).filter(|path| path != metalog));
    found.extend(unfinished);
    let known = |log| {
        shared.with(|store| match store.known_segments(log) {
            None => Known::Any,
            Some(known) if known.is_empty() && !store.state().logs.contains_key(&log) => {
                Known::Nothing
            }
            Some(known) => Known::These(known.into_iter().collect()),
        })
    };
    found.extend(unreferenced_segments(&*segments.disk, &segments.layout, &known)?);
    found.retain(|path| segments.disk.len_of(path).is_ok() || segments.disk.list(path).is_ok());
    found.sort_unstable();
    Ok(found)
}

/// Verifies the segments of all logs. `go_on` is asked before each whether the engine is in order.
///
/// # Errors
///
/// Input or output errors, or what `go_on` says.
pub fn verify_segments(
    shared: &impl Shared,
    report: &mut VerifyReport,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let segments = shared.with(|store| store.on_disk().segments);
    let mut logs: Vec<LogId> = shared.with(|store| store.state().logs.keys().copied().collect());
    logs.sort_unstable();
    for log in logs {
        go_on()?;
        let mut walk = LiveWalk { shared, segments: &segments, log, at: 0, go_on, report };
        walk.run()?;
    }
    Ok(())
}

struct LiveWalk<'a, S> {
    shared: &'a S,
    segments: &'a Segments,
    log: LogId,
    /// Everything below was looked at.
    at: u64,
    go_on: &'a dyn Fn() -> Result<()>,
    report: &'a mut VerifyReport,
}

/// What is wrong at one place of a segment, and the offsets that may have been there.
type Spot = (u64, &'static str, Range<u64>);

impl<S: Shared> LiveWalk<'_, S> {
    /// The segment that stands for what comes next; and where the segments end, if there is none.
    fn next_segment(&self) -> Option<Result<SegmentState, u64>> {
        self.shared.with(|store| {
            let log = store.state().logs.get(&self.log)?;
            let next = log.segments.values().find(|segment| segment.end.0 > self.at);
            Some(next.cloned().ok_or(log.moved.0))
        })
    }

    fn keeps_acked(&self) -> bool {
        self.shared
            .with(|store| store.state().logs.get(&self.log).is_some_and(|log| log.keeps_acked))
    }

    fn is_current(&self, segment: &SegmentState) -> bool {
        self.shared.with(|store| {
            let log = store.state().logs.get(&self.log);
            let now = log.and_then(|log| log.segments.get(&segment.base));
            now.is_some_and(|now| now.generation == segment.generation)
        })
    }

    /// Takes note of offsets that are not where they should be, as far as somebody wants them.
    fn missing(&self, lost: &mut Vec<Range<u64>>, range: Range<u64>) {
        if range.start < range.end {
            lost.extend(self.shared.with(|store| {
                let log = store.state().logs.get(&self.log);
                log.map_or_else(Vec::new, |log| store.state().wanted(log, range))
            }));
        }
    }

    fn run(&mut self) -> Result<()> {
        while let Some(next) = self.next_segment() {
            (self.go_on)()?;
            match next {
                Ok(segment) => {
                    let (mut spots, mut lost) = (Vec::new(), Vec::new());
                    let (at, amounts) = self.read(&segment, &mut spots, &mut lost)?;
                    if (!spots.is_empty() || !lost.is_empty()) && !self.is_current(&segment) {
                        continue;
                    }
                    self.at = at.max(segment.end.0);
                    self.report.read.segments += 1;
                    self.report.read.blocks += amounts.0;
                    self.report.read.records += amounts.1;
                    self.report_on(&segment, spots, lost);
                }
                Err(moved) => {
                    let mut lost = Vec::new();
                    self.missing(&mut lost, self.at..moved);
                    let dir = self.segments.layout.log_dir(self.log);
                    let what = "messages are wanted, but nothing holds them";
                    self.blame_none(&dir, what, &lost);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads one segment. Returns how far it went, and how many blocks and records it has.
    fn read(
        &self,
        segment: &SegmentState,
        spots: &mut Vec<Spot>,
        lost: &mut Vec<Range<u64>>,
    ) -> Result<(u64, (u64, u64))> {
        let header = self.segments.header(segment);
        let path = self.segments.path(segment);
        let whole = segment.base.0..segment.end.0;
        let (disk, limit) = (&*self.segments.disk, Some(segment.bytes));
        let mut at = self.at;
        let Some(mut survey) = SegmentSurvey::open(disk, path, &header, limit)? else {
            spots.push((0, "a segment is missing", whole.clone()));
            self.missing(lost, at..whole.end);
            return Ok((whole.end, (0, 0)));
        };
        if let Some(what) = survey.check_header(&header)? {
            spots.push((0, what.0, 0..0));
        }
        let (mut blocks, mut records, mut open) = (0, 0, 0);
        let mut last = whole.start;
        while let Some(piece) = survey.next()? {
            match piece {
                Piece::Block(block) => {
                    let first = block.header.first.0;
                    spots[open..].iter_mut().for_each(|spot| spot.2.end = spot.2.end.min(first));
                    open = spots.len();
                    blocks += 1;
                    records += block.records.len() as u64;
                    for (offset, _) in &block.records {
                        self.missing(lost, at..offset.0);
                        at = at.max(offset.0 + 1);
                    }
                    last = block.header.last.0 + 1;
                }
                Piece::Damage(damage) => {
                    spots.push((damage.position, damage.what.0, last..whole.end));
                }
            }
        }
        self.missing(lost, at..whole.end);
        if spots.is_empty() && (records != segment.records || last > whole.end) {
            spots.push((0, "a segment does not hold what the metalog says", 0..0));
        }
        if spots.is_empty() && self.keeps_acked() {
            // What a whole segment of a stream does not hold was lost before, and salvaged around.
            take_within(lost, &whole);
        }
        if spots.is_empty()
            && segment.sealed
            && let Some(what) = survey.check_footer()?
        {
            spots.push((segment.bytes, what.0, 0..0));
        }
        Ok((at, (blocks, records)))
    }

    fn report_on(&mut self, segment: &SegmentState, spots: Vec<Spot>, mut lost: Vec<Range<u64>>) {
        let path = self.segments.path(segment);
        for (position, what, bounds) in spots {
            let mut found = problem(&path, position, what);
            let offsets = take_within(&mut lost, &bounds);
            if !offsets.is_empty() {
                let log = self.shared.with(|store| store.state().catalog.log_name(self.log));
                found.affected.push(Affected { log, offsets });
            }
            self.report.problems.push(found);
        }
        self.blame_none(&path, "messages are wanted, but this segment does not hold them", &lost);
    }

    fn blame_none(&mut self, path: &Path, what: &'static str, lost: &[Range<u64>]) {
        if lost.is_empty() {
            return;
        }
        let mut found = problem(path, 0, what);
        let log = self.shared.with(|store| store.state().catalog.log_name(self.log));
        found.affected.push(Affected { log, offsets: offsets(lost) });
        self.report.problems.push(found);
    }
}
