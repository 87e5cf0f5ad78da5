//! Verifying a store: all data that it relies on is read, and damage is reported. Nothing is
//! changed.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    report::{Affected, Amounts, Problem, VerifyReport},
    survey::{self, Survey, log_dirs_found, problem},
};
use crate::{
    disk::{Disk, is_no_dir},
    error::{Error, Result},
    format::{
        commit::{Change, changes},
        delay_index,
        entity::{Entity, EntityKind},
        frame::FrameKind,
        meta::Place,
    },
    ids::{EntityId, LogId, Offset, OffsetRange},
    journal::JournalDamage,
    layout::{Layout, Named, former_segment_name, segment_name},
    store::{AckSet, LogName, join},
};

/// Verifies the store in a directory. The caller holds its lock.
///
/// # Errors
///
/// `NotFound` if there is no store; `UnsupportedVersion`; input or output errors. Damage is no
/// error: it is in the report.
pub fn verify_store(disk: Arc<dyn Disk>, root: &Path) -> Result<VerifyReport> {
    let survey = match survey::survey_store(disk, root) {
        Err(error) if error.kind() == crate::error::ErrorKind::Corrupt => {
            // No header is left that names the store.
            let problems = vec![problem(root, 0, error.to_string())];
            return Ok(VerifyReport { problems, ..VerifyReport::default() });
        }
        survey => survey?,
    };
    let mut report = VerifyReport { problems: survey.metas.problems.clone(), ..Default::default() };
    count(&survey, &mut report.read)?;
    let mut damage: Vec<Problem> = survey.journal.damage.iter().map(of_journal).collect();
    let mut segments = Vec::new();
    for log in logs(&survey) {
        verify_log(&survey, log, &mut report, &mut damage, &mut segments)?;
    }
    report.problems.append(&mut damage);
    report.problems.extend(survey.odd.iter().cloned());
    report.problems.append(&mut segments);
    drop_repeated(&mut report.problems);
    verify_delay_indexes(&survey, &mut report)?;
    report.unreferenced = unreferenced(&survey)?;
    Ok(report)
}

/// Leaves out problems that were noted before, and affect no message: each segment in a file notes the damage to its header.
pub fn drop_repeated(problems: &mut Vec<Problem>) {
    let mut seen = BTreeSet::new();
    problems.retain(|it| {
        let is_new = seen.insert((it.file.clone(), it.position, it.what.clone()));
        is_new || !it.affected.is_empty()
    });
}

fn of_journal(damage: &JournalDamage) -> Problem {
    problem(&damage.path, damage.position, damage.what)
}

/// The logs of a store, in order.
pub fn logs(survey: &Survey) -> Vec<LogId> {
    let mut logs: Vec<LogId> = survey.state.logs.keys().copied().collect();
    logs.sort_unstable();
    logs
}

/// The damage to the metalog and the journal, and their contradictions.
pub fn problems(survey: &Survey) -> Vec<Problem> {
    let mut problems = survey.metas.problems.clone();
    problems.extend(survey.journal.damage.iter().map(of_journal));
    problems.extend(survey.odd.iter().cloned());
    problems
}

/// Counts everything but segments.
pub fn count(survey: &Survey, read: &mut Amounts) -> Result<()> {
    read.meta_entries = survey.metas.entries().len() as u64;
    let named = |it: &&Entity| !matches!(it.kind, EntityKind::DelayIndex { .. });
    read.entities = survey.state.catalog.all().filter(named).count() as u64;
    read.journal_files = survey.journal.files() as u64;
    survey.journal.frames(&mut |place, kind, payload| {
        read.journal_frames += 1;
        read.journal_records += records_in(kind, payload);
        read.journal_bytes += if kind == FrameKind::Roll { 0 } else { place.len };
        Ok(())
    })
}

/// How many records the frame of a commit has.
pub fn records_in(kind: FrameKind, payload: &[u8]) -> u64 {
    let payload = if kind == FrameKind::Commit { payload } else { &[] };
    let count = |change| match change {
        Ok((_, Change::Run(run))) => u64::from(run.count),
        _ => 0,
    };
    changes(payload).map(count).sum()
}

/// Walks one log, and assigns its missing messages to the damage that they were lost in.
fn verify_log(
    survey: &Survey,
    log: LogId,
    report: &mut VerifyReport,
    journal: &mut [Problem],
    segments: &mut Vec<Problem>,
) -> Result<()> {
    let walked = survey.walk(log, false, &mut |_, _| Ok(()))?;
    report.read.segments += walked.segments;
    report.read.blocks += walked.blocks;
    report.read.records += walked.records;
    let name = survey.name(log);
    let mut lost = walked.lost;
    let mut blame = |problem: &mut Problem, bounds: OffsetRange| {
        let offsets = offsets(&take_within(&mut lost, bounds));
        if !offsets.is_empty() {
            problem.affected.push(Affected { log: name.clone(), offsets });
        }
    };
    for spot in &walked.spots {
        let mut found = problem(&spot.path, spot.position, spot.what);
        blame(&mut found, spot.bounds);
        segments.push(found);
    }
    let known = survey.logs.get(&log);
    for (missing, damage) in known.iter().flat_map(|known| &known.missing) {
        if let Some(problem) = damage.and_then(|n| journal.get_mut(n)) {
            blame(problem, *missing);
        }
    }
    if let Some(beyond) = known.and_then(|known| known.beyond)
        && let Some(last) = survey.journal.damage.iter().rposition(|gap| gap.from < gap.to)
    {
        blame(&mut journal[last], beyond);
    }
    if !lost.is_empty() {
        let dir = survey.layout.segments_dir();
        let mut found = problem(&dir, 0, "messages are missing: no file holds them");
        let offsets = offsets(&lost);
        found.affected.push(Affected { log: name, offsets });
        segments.push(found);
    }
    Ok(())
}

/// Looks for spilled messages that no block of their queue's delay index names. An engine would never deliver them.
fn verify_delay_indexes(survey: &Survey, report: &mut VerifyReport) -> Result<()> {
    let cursors = survey.state.cursors.values();
    let mut queues: Vec<EntityId> = cursors
        .filter(|cursor| cursor.acks().is_some_and(|acks| acks.spilled() > 0))
        .map(|cursor| cursor.id.entity())
        .collect();
    queues.sort_unstable();
    for queue in queues {
        let mut named = BTreeSet::new();
        let dir = survey.layout.segments_dir();
        let is_index =
            |it: &&Entity| matches!(it.kind, EntityKind::DelayIndex { queue: of } if of == queue);
        if let Some(index) = survey.state.catalog.all().find(is_index) {
            survey.walk(index.id.log(0), false, &mut |_, record| {
                // A block that does not decode names no message.
                let entries = delay_index::decode(record.payload).unwrap_or_default();
                named.extend(entries.into_iter().map(|(_, offset)| offset));
                Ok(())
            })?;
        }
        let acks = survey.state.cursors.get(&queue.cursor(0)).and_then(|it| it.acks());
        let spilled = acks.into_iter().flat_map(AckSet::all_spilled);
        let mut lost: Vec<OffsetRange> =
            spilled.filter(|it| !named.contains(it)).map(|it| it.to(it.next())).collect();
        join(&mut lost);
        if !lost.is_empty() {
            let log = survey.name(queue.log(0));
            report.problems.push(unnamed_messages(&dir, log, &lost));
        }
    }
    Ok(())
}

/// The problem of spilled messages that no block names.
pub fn unnamed_messages(index: &Path, log: LogName, lost: &[OffsetRange]) -> Problem {
    let what = "delayed messages that no block of the delay index names: they are never delivered";
    let mut found = problem(index, 0, what);
    found.affected.push(Affected { log, offsets: offsets(lost) });
    found
}

/// The ranges as a report holds them.
pub fn offsets(ranges: &[OffsetRange]) -> Vec<Range<Offset>> {
    ranges.iter().map(|range| Range::from(*range)).collect()
}

/// Removes the parts within bounds from ranges, and returns them.
pub fn take_within(ranges: &mut Vec<OffsetRange>, bounds: OffsetRange) -> Vec<OffsetRange> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for range in ranges.drain(..) {
        let part = range.within(bounds);
        if part.is_empty() {
            outside.push(range);
            continue;
        }
        inside.push(part);
        let rest = [range.start.to(part.start), part.end.to(range.end)];
        outside.extend(rest.into_iter().filter(|it| !it.is_empty()));
    }
    *ranges = outside;
    inside
}

/// The store's files that nothing refers to.
fn unreferenced(survey: &Survey) -> Result<Vec<PathBuf>> {
    let mut found = survey.metas.spare.clone();
    found.extend(survey.journal.spare.iter().cloned());
    // The reserve for a full disk is no left-over file.
    let reserve = survey.layout.reserve();
    if survey.disk.len_of(&reserve).is_ok_and(|bytes| bytes > 0) {
        found.retain(|path| *path != reserve);
    }
    if survey.metas.damaged {
        // Without the whole metalog it is unknown which files it referred to.
        found.sort_unstable();
        return Ok(found);
    }
    let known = |log: LogId| match survey.state.logs.get(&log) {
        Some(log) => {
            let former = log.segments.values().filter(|it| it.place == Place::Former);
            Known::These(former.map(|it| (it.base, it.generation)).collect())
        }
        None => Known::Nothing,
    };
    found.extend(unreferenced_segments(&*survey.disk, &survey.layout, &known)?);
    let segments = survey.state.logs.values().flat_map(|log| log.segments.values());
    let numbered = segments.filter(|it| it.place != Place::Former);
    let files: BTreeSet<u64> = numbered.map(|it| it.generation).collect();
    let is_known = |number| files.contains(&number);
    found.extend(unreferenced_files(&*survey.disk, &survey.layout, &is_known)?);
    found.sort_unstable();
    Ok(found)
}

/// Segment files whose numbers are not known.
pub fn unreferenced_files(
    disk: &dyn Disk,
    layout: &Layout,
    is_known: &dyn Fn(u64) -> bool,
) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (_, dir) in survey::fan_dirs_found(disk, layout)? {
        let failed = |error| Error::io(error, "segments cannot be listed", &dir);
        let names = match disk.list(&dir) {
            Err(error) if is_no_dir(&error) => continue,
            names => names.map_err(failed)?,
        };
        found.extend(names.into_iter().filter_map(|name| {
            let stays = match segment_name(&name) {
                Named::Real(number) => is_known(number),
                Named::Unfinished => false,
                Named::Unknown => true,
            };
            (!stays).then(|| dir.join(name))
        }));
    }
    Ok(found)
}

/// Which segments of a log should exist in the directory that it had in versions 1 and 2. of a log should exist.
pub enum Known {
    These(BTreeSet<(Offset, u64)>),
    /// There is no such log.
    Nothing,
    /// The log was deleted, and the metalog still refers to its segments.
    Any,
}

/// Segment files that are not known, and empty directories that belong to no log.
pub fn unreferenced_segments(
    disk: &dyn Disk,
    layout: &Layout,
    known: &dyn Fn(LogId) -> Known,
) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (log, dir) in log_dirs_found(disk, layout)? {
        let failed = |error| Error::io(error, "segments cannot be listed", &dir);
        let names = match disk.list(&dir) {
            // The directory was removed a moment ago, or it never was one.
            Err(error) if is_no_dir(&error) => continue,
            names => names.map_err(failed)?,
        };
        let known = known(log);
        let stays = |segment| match &known {
            Known::These(these) => these.contains(&segment),
            Known::Nothing => false,
            Known::Any => true,
        };
        if names.is_empty() && matches!(known, Known::Nothing) {
            found.push(dir);
            continue;
        }
        for name in names {
            match former_segment_name(&name) {
                Named::Real(segment) if !stays(segment) => found.push(dir.join(name)),
                Named::Unfinished => found.push(dir.join(name)),
                Named::Real(_) | Named::Unknown => {}
            }
        }
    }
    Ok(found)
}
