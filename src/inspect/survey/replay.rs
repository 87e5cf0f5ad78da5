//! Replaying a damaged journal. Runs behind a gap are taken, and the messages that are missing
//! before them are noted.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::{orphans::Seen, problem};
use crate::{
    error::Result,
    format::{
        commit::{Change, Run, changes},
        entity::Creation,
        frame::{FRAME_HEADER_BYTES, FrameKind},
    },
    ids::{CursorId, EntityId, IdMap, LogId, Lsn, Offset, OffsetRange},
    inspect::report::Problem,
    journal::{FramePlace, JournalSurvey},
    store::{Progress, State},
};

/// The smallest message has a byte of flags and a byte for its length of 0.
const RECORD_BYTES_MIN: u64 = 2;

/// What the journal holds of one log.
#[derive(Debug, Default)]
pub struct LogSurvey {
    /// Its runs in the journal, in their order.
    pub runs: Vec<RunAt>,
    /// The offset behind all messages that were found.
    pub next: Offset,
    /// Offsets whose messages are missing from the journal, and the index of the damage that they
    /// were lost in.
    pub missing: Vec<(OffsetRange, Option<usize>)>,
    /// Offsets that messages in a gap of the journal may have had. This is the most that fit into
    /// the gap.
    pub beyond: Option<OffsetRange>,
    /// The offset of the next run, if that is known.
    expected: Option<Offset>,
    last_run: Lsn,
}

/// A run, and the frame that holds it.
#[derive(Clone, Copy, Debug)]
pub struct RunAt {
    pub first: Offset,
    pub count: u32,
    pub frame: FramePlace,
    /// Where in the frame's payload it begins.
    pub at: u32,
    pub len: u32,
}

impl RunAt {
    pub fn end(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count))
    }
}

/// Finds the entities, logs and cursors that the journal mentions.
pub fn mentioned(journal: &JournalSurvey, from: Lsn) -> Result<Seen> {
    let mut seen = Seen::default();
    journal.frames(&mut |place, kind, payload| {
        if kind != FrameKind::Commit || place.lsn < from {
            return Ok(());
        }
        for (_, change) in changes(payload).filter_map(std::result::Result::ok) {
            match change {
                Change::Run(run) => drop(seen.logs.insert(run.log)),
                Change::Create(creation) => {
                    seen.created.insert(creation.entity.id, creation.into_owned());
                }
                Change::Update(entity) if !seen.created.contains_key(&entity.id) => {
                    seen.updated.insert(entity.id);
                    seen.created.insert(entity.id, Creation::at_first(entity.into_owned()));
                }
                Change::Delete { entity } => {
                    seen.deleted.insert(entity);
                    if let Some(created) = seen.created.remove(&entity) {
                        let of = &created.entity;
                        seen.deleted.extend(of.ids());
                    }
                }
                other => seen.cursors.extend(other.cursor()),
            }
        }
        Ok(())
    })?;
    Ok(seen)
}

/// Where the newest settings of entities are.
#[derive(Debug, Default)]
pub struct Settings {
    /// Entities whose newest settings are in the metalog, as far as it reaches.
    pub in_metalog: BTreeSet<EntityId>,
    /// The position of the last creation or update of each entity in the journal.
    pub in_journal: BTreeMap<EntityId, Lsn>,
}

/// A replay.
pub struct Replay<'a> {
    pub state: &'a mut State,
    pub journal: &'a JournalSurvey,
    pub logs: BTreeMap<LogId, LogSurvey>,
    pub problems: Vec<Problem>,
    /// The metalog reflects all changes before this position, but for messages.
    pub reflects: Lsn,
    /// Whether entries of the metalog are missing, so that earlier changes of the journal are
    /// needed, too.
    pub damaged: bool,
    pub settings: Settings,
    /// Cursors whose values are in the metalog.
    pub known: BTreeSet<CursorId>,
}

impl Replay<'_> {
    /// Takes the values of the metalog: for each log its `moved` and its next offset.
    pub fn begin(&mut self, logs: impl Iterator<Item = (LogId, Offset, Offset)>) {
        for (id, moved, next) in logs {
            let log = self.logs.entry(id).or_default();
            (log.next, log.expected) = (next, Some(moved));
        }
    }

    pub fn run(&mut self) -> Result<()> {
        let (journal, mut frames) = (self.journal, IdMap::<u64, u64>::default());
        journal.frames(&mut |place, kind, payload| {
            if kind == FrameKind::Commit
                && let Err(what) = self.commit(place, payload)
            {
                let file = journal.file(place.file);
                let position = place.lsn.0 - file.header.start.0;
                // A few problems in each file are enough to know.
                let said = frames.entry(place.file as u64).or_default();
                *said += 1;
                if *said <= 16 {
                    self.problems.push(problem(&file.path, position, what));
                }
            }
            Ok(())
        })?;
        self.finish();
        Ok(())
    }

    fn commit(&mut self, place: FramePlace, payload: &[u8]) -> Result<(), &'static str> {
        let mut odd = None;
        for change in changes(payload) {
            let (at, change) = change.map_err(|what| what.0)?;
            let lsn = Lsn(place.lsn.0 + (FRAME_HEADER_BYTES + at) as u64);
            let applied = match &change {
                Change::Run(run) => self.take_run(run, place, at),
                other => self.take_change(other, lsn),
            };
            odd = odd.or(applied.err());
        }
        // Before, the metalog has what was matched.
        if place.lsn >= self.reflects && !self.damaged {
            self.state.match_again(payload).map_err(|what| what.0)?;
        }
        odd.map_or(Ok(()), Err)
    }

    fn is_there(&self, entity: EntityId) -> bool {
        self.state.catalog.get(entity).is_some()
    }

    /// The last gap before a position, if there is one.
    fn gap_before(&self, lsn: Lsn) -> Option<usize> {
        self.journal.damage.iter().rposition(|gap| gap.from < gap.to && gap.to <= lsn)
    }

    fn take_run(
        &mut self,
        run: &Run<'_>,
        place: FramePlace,
        at: usize,
    ) -> Result<(), &'static str> {
        let gap = self.gap_before(place.lsn);
        if !self.state.logs.contains_key(&run.log) {
            let excused = place.lsn < self.reflects || gap.is_some() || self.damaged;
            return if excused { Ok(()) } else { Err(UNKNOWN) };
        }
        if let Some(log) = self.state.logs.get_mut(&run.log) {
            log.note_end(run.end());
        }
        let log = self.logs.entry(run.log).or_default();
        let (first, end) = (run.first, run.end());
        let mut odd = None;
        if log.runs.last().is_some_and(|last| first < last.end()) {
            // A later epoch has assigned these offsets again. Recovery had cut the earlier runs.
            log.runs.retain(|it| it.end() <= first);
            odd = Some(NOT_BEHIND);
        }
        let (at, len) = (at as u32, run.len() as u32);
        log.runs.push(RunAt { first, count: run.count, frame: place, at, len });
        log.last_run = place.lsn;
        match log.expected {
            Some(expected) if end <= expected => return odd.map_or(Ok(()), Err),
            Some(expected) if first > expected => {
                log.missing.push((expected.to(first), gap));
                if gap.is_none() && !self.damaged {
                    odd = Some(NOT_BEHIND);
                }
            }
            _ => {}
        }
        log.expected = Some(end);
        log.next = log.next.max(end);
        if gap.is_some() || self.damaged { Ok(()) } else { odd.map_or(Ok(()), Err) }
    }

    fn take_change(&mut self, change: &Change<'_>, lsn: Lsn) -> Result<(), &'static str> {
        if lsn < self.reflects && !self.damaged {
            return Ok(());
        }
        let before = lsn < self.reflects;
        let tolerant = self.damaged || self.gap_before(lsn).is_some();
        let described = match change {
            Change::Create(creation) => Some(creation.entity.id),
            Change::Update(entity) => Some(entity.id),
            _ => None,
        };
        self.settings.in_journal.extend(described.map(|id| (id, lsn)));
        match change {
            Change::Create(creation) if self.is_there(creation.entity.id) => {
                return Ok(());
            }
            // The metalog has newer ones.
            Change::Update(entity) if tolerant && !self.damaged && !self.is_there(entity.id) => {
                // Its creation is lost in a gap.
                let creation = Creation::at_first(entity.as_ref().clone());
                let created = Change::Create(Cow::Owned(creation));
                return self.state.apply(&created, lsn).map_err(|what| what.0);
            }
            Change::Update(entity) if before && self.settings.in_metalog.contains(&entity.id) => {
                return Ok(());
            }
            // The metalog has a newer one.
            Change::Seek { cursor, .. } if before && self.known.contains(cursor) => return Ok(()),
            Change::Defer { cursor, offset, attempts, due } if tolerant => {
                let known = self.state.cursors.get(cursor);
                if let Some(Progress::Acks(acks)) = known.map(|cursor| &cursor.progress)
                    && (acks.attempts(*offset), acks.due(*offset)) >= (*attempts, *due)
                {
                    return Ok(());
                }
            }
            _ => {}
        }
        let next = |log| self.logs.get(&log).map(|log| log.next);
        let known = if tolerant { Ok(()) } else { self.state.check_is_there(change, next) };
        let applied = known.and_then(|()| self.state.apply(change, lsn));
        if tolerant { Ok(()) } else { applied.map_err(|what| what.0) }
    }

    /// Compares each log's end with the metalog and with gaps of the journal.
    fn finish(&mut self) {
        self.state.end_passing();
        // Positions of the journal.
        let damage = self.journal.damage.iter();
        let gaps: Vec<Range<Lsn>> = damage
            .map(|gap| gap.from.max(self.reflects)..gap.to)
            .filter(|gap| !gap.is_empty())
            .collect();
        let last_gap = self.journal.damage.iter().rposition(|gap| gap.from < gap.to);
        for id in self.state.logs.keys() {
            self.logs.entry(*id).or_default();
        }
        let mut missing = false;
        self.logs.retain(|id, _| self.state.logs.contains_key(id));
        for log in self.logs.values_mut() {
            let expected = log.expected.unwrap_or(log.next);
            if expected < log.next {
                log.missing.push((expected.to(log.next), last_gap));
                missing |= last_gap.is_none();
            }
            // A gap before the log's last run is in `missing`.
            let bytes: u64 = gaps
                .iter()
                .filter(|gap| log.last_run < gap.end)
                .map(|gap| gap.end.0 - gap.start.0)
                .sum();
            if bytes > 0 {
                let end = Offset(log.next.0 + bytes / RECORD_BYTES_MIN);
                log.beyond = Some(log.next.to(end));
            }
        }
        if missing && !self.damaged {
            let what = "a log's last messages are missing from the journal";
            let dir = self.journal.last_path();
            self.problems.push(problem(&dir, 0, what));
        }
    }
}

const UNKNOWN: &str = "a commit refers to something that does not exist";
const NOT_BEHIND: &str = "a commit's messages do not follow the ones before";
