//! Verifies a store that is in use. The disk is read without holding the store, so commits go on.
//!
//! No checkpoint may run while the metalog and the journal are read. Segments may be read while a
//! checkpoint runs. If a segment is replaced meanwhile, its result is thrown away, and the new
//! segment is read.

use std::path::{Path, PathBuf};

use super::{
    letters::contradictions_in_use,
    report::{Affected, VerifyReport},
    survey::problem,
    verify::{
        Known, drop_repeated, offsets, records_in, take_within, unreferenced_files,
        unreferenced_segments,
    },
};
use crate::{
    audit,
    error::Result,
    format::{commit::changes, frame::FrameKind, meta::SegmentState},
    ids::{EntityId, LogId, Offset, OffsetRange},
    journal::{self, Range as JournalRange},
    metalog::survey as metalog,
    segment::{Piece, SegmentSurvey, Segments},
    store::{LogName, OnDisk, Shared, needed},
};

/// So many entities are looked at in one hold of the store.
const ENTITIES_AT_ONCE: usize = 256;

/// Verifies the metalog and the journal, and lists files that nothing refers to.
///
/// # Errors
///
/// Input or output errors.
pub fn verify_base(shared: &impl Shared) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let on_disk = shared.with(|store| store.on_disk());
    let (place, number, id) = (on_disk.metalog, on_disk.metalog_number, on_disk.id);
    let path = place.layout.meta_file(number);
    report.read.entities = shared.with(|store| store.state().catalog.all().len() as u64);
    let contradictions = contradictions_in_use(shared).into_iter();
    report.problems.extend(contradictions.map(|what| problem(&path, 0, what)));
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
        report.read.journal_records += records_in(kind, payload);
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
    // A journal file may be made or recycled meanwhile.
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
    let is_known = |number| shared.with(|store| store.knows_file(number));
    found.extend(unreferenced_files(&*segments.disk, &segments.layout, &is_known)?);
    found.retain(|path| segments.disk.len_of(path).is_ok() || segments.disk.list(path).is_ok());
    found.sort_unstable();
    Ok(found)
}

/// Verifies the segments of all logs. `go_on` is called before each segment, and ends the
/// verification by an error.
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
    let (mut from, end) = (EntityId::FIRST, shared.with(|store| store.state().catalog.next_id));
    loop {
        let entities: Vec<_> = shared.with(|store| {
            let older = store.state().catalog.from(from).take_while(|entity| entity.id < end);
            older.take(ENTITIES_AT_ONCE).map(|entity| (entity.id, entity.logs())).collect()
        });
        let Some((last, _)) = entities.last() else { break };
        from = last.plus(1);
        for log in entities.into_iter().flat_map(|(_, logs)| logs) {
            go_on()?;
            let at = Offset(0);
            LiveWalk { shared, segments: &segments, log, at, go_on, report }.run()?;
        }
    }
    drop_repeated(&mut report.problems);
    Ok(())
}

struct LiveWalk<'a, S> {
    shared: &'a S,
    segments: &'a Segments,
    log: LogId,
    /// Offsets below were verified.
    at: Offset,
    go_on: &'a dyn Fn() -> Result<()>,
    report: &'a mut VerifyReport,
}

/// A problem in a segment.
struct Spot {
    position: u64,
    what: &'static str,
    /// Messages with these offsets may have been there.
    bounds: OffsetRange,
}

/// The holder of the next offsets.
enum Next {
    Segment(SegmentState),
    /// There is no further segment. The range of segments ends here.
    End(Offset),
}

/// The result of reading one segment.
#[derive(Default)]
struct Findings {
    blocks: u64,
    records: u64,
    spots: Vec<Spot>,
    /// Offsets that a cursor needs and that are not in the segment.
    lost: Vec<OffsetRange>,
    /// The offset behind the last one that was verified.
    at: Offset,
}

impl Findings {
    fn note(&mut self, position: u64, what: &'static str, bounds: OffsetRange) {
        self.spots.push(Spot { position, what, bounds });
    }
}

impl<S: Shared> LiveWalk<'_, S> {
    /// The holder of the next offsets. `None` if the log was deleted.
    fn next(&self) -> Option<Next> {
        self.shared.with(|store| {
            let log = store.state().logs.get(&self.log)?;
            audit::step();
            let next = log.segment_at_or_behind(self.at);
            Some(next.cloned().map_or(Next::End(log.moved), Next::Segment))
        })
    }

    fn keeps_acked(&self) -> bool {
        self.shared
            .with(|store| store.state().logs.get(&self.log).is_some_and(|log| log.keeps_acked))
    }

    fn is_current(&self, segment: &SegmentState) -> bool {
        self.shared.with(|store| {
            let log = store.state().logs.get(&self.log);
            let now = log.and_then(|log| log.segments.get(segment.base));
            now.is_some_and(|now| {
                (now.generation, now.place) == (segment.generation, segment.place)
            })
        })
    }

    /// Adds the offsets of a range that a cursor needs to the lost ones.
    fn missing(&self, lost: &mut Vec<OffsetRange>, range: OffsetRange) {
        if !range.is_empty() {
            lost.extend(needed(self.shared, self.log, range, u64::MAX));
        }
    }

    fn run(&mut self) -> Result<()> {
        while let Some(next) = self.next() {
            (self.go_on)()?;
            let segment = match next {
                Next::Segment(segment) => segment,
                Next::End(end) => {
                    let mut lost = Vec::new();
                    self.missing(&mut lost, self.at.to(end));
                    let dir = self.segments.layout.segments_dir();
                    let what = "messages are missing: no file holds them";
                    self.blame_none(&dir, what, &lost);
                    break;
                }
            };
            let found = self.read(&segment)?;
            let is_sound = found.spots.is_empty() && found.lost.is_empty();
            if is_sound || self.is_current(&segment) {
                self.at = found.at.max(segment.end);
                self.report.read.segments += 1;
                self.report.read.blocks += found.blocks;
                self.report.read.records += found.records;
                self.report_on(&segment, found);
            }
        }
        Ok(())
    }

    /// Reads one segment.
    fn read(&self, segment: &SegmentState) -> Result<Findings> {
        let header = self.segments.header(segment);
        let path = self.segments.path(segment);
        let whole = segment.base.to(segment.end);
        let (disk, limit) = (&*self.segments.disk, Some(segment.bytes));
        let mut found = Findings { at: self.at, ..Findings::default() };
        let Some(mut survey) = SegmentSurvey::open(disk, path, &header, segment.place, limit)?
        else {
            found.note(0, "a segment is missing", whole);
            self.missing(&mut found.lost, found.at.to(whole.end));
            return Ok(Findings { at: whole.end, ..found });
        };
        if let Some((position, what)) = survey.check_header()? {
            found.note(position, what.0, OffsetRange::default());
        }
        let last = self.read_blocks(&mut survey, whole, &mut found)?;
        self.missing(&mut found.lost, found.at.to(whole.end));
        if !found.spots.is_empty() {
            return Ok(found);
        }
        if found.records != segment.records || last > whole.end {
            found.note(
                0,
                "a segment does not match its entry in the metalog",
                OffsetRange::default(),
            );
        }
        if let Some(what) = survey.check_lives(segment) {
            found.note(0, what.0, OffsetRange::default());
        }
        if found.spots.is_empty() && self.keeps_acked() {
            // A segment of a stream is whole. What it does not hold was lost before the store was salvaged.
            take_within(&mut found.lost, whole);
        }
        if found.spots.is_empty()
            && segment.has_footer()
            && let Some(what) = survey.check_footer()?
        {
            found.note(segment.bytes, what.0, OffsetRange::default());
        }
        Ok(found)
    }

    /// Reads the blocks of a segment. Returns the offset behind the last message.
    fn read_blocks(
        &self,
        survey: &mut SegmentSurvey,
        whole: OffsetRange,
        found: &mut Findings,
    ) -> Result<Offset> {
        let (mut last, mut open) = (whole.start, found.spots.len());
        while let Some(piece) = survey.next()? {
            match piece {
                Piece::Block(block) => {
                    let first = block.header.first;
                    for spot in &mut found.spots[open..] {
                        spot.bounds.end = spot.bounds.end.min(first);
                    }
                    open = found.spots.len();
                    found.blocks += 1;
                    found.records += block.records.len() as u64;
                    for (offset, _) in &block.records {
                        self.missing(&mut found.lost, found.at.to(*offset));
                        found.at = found.at.max(offset.next());
                    }
                    last = block.header.last.next();
                }
                Piece::Damage(damage) => {
                    found.note(damage.position, damage.what.0, last.to(whole.end));
                }
            }
        }
        Ok(last)
    }

    fn report_on(&mut self, segment: &SegmentState, found: Findings) {
        let path = self.segments.path(segment);
        let mut lost = found.lost;
        for spot in found.spots {
            let mut problem = problem(&path, spot.position, spot.what);
            let offsets = offsets(&take_within(&mut lost, spot.bounds));
            if !offsets.is_empty() {
                let log = self.log_name();
                problem.affected.push(Affected { log, offsets });
            }
            self.report.problems.push(problem);
        }
        self.blame_none(&path, "messages are missing from this segment", &lost);
    }

    fn blame_none(&mut self, path: &Path, what: &'static str, lost: &[OffsetRange]) {
        if lost.is_empty() {
            return;
        }
        let mut found = problem(path, 0, what);
        let log = self.log_name();
        found.affected.push(Affected { log, offsets: offsets(lost) });
        self.report.problems.push(found);
    }

    fn log_name(&self) -> LogName {
        self.shared.with(|store| store.state().catalog.log_name(self.log))
    }
}
