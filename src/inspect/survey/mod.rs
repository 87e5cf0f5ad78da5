//! A survey: a store, damaged or not, as far as it can be read.
//! [`verify_store`](super::verify::verify_store) reports on it, and
//! [`salvage_store`](super::salvage::salvage_store) copies from it. Nothing is changed on the disk.
//!
//! The state of an undamaged store is the state that opening it leads to. The state of a damaged
//! store is made of all data that verifies. Acks may be missing from it, but no message that
//! verifies is missing.

mod files;
mod gather;
mod metas;
mod orphans;
mod replay;
mod settings;
mod walk;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use self::{
    files::SegmentFiles,
    gather::Gathered,
    metas::{Metas, dirs, fans, store_id},
    orphans::{Seen, adopt},
    replay::{Replay, Settings, mentioned},
};
pub use self::{
    metas::{dirs as log_dirs_found, fans as fan_dirs_found},
    orphans::{Nameless, invented_name},
    replay::LogSurvey,
    settings::{contradictions, tell_circle, tell_stray},
};
use super::report::Problem;
use crate::{
    disk::{Disk, is_no_dir, is_not_a_file},
    error::{Error, ErrorKind, Result},
    format::{entity::Entity, meta::SegmentState},
    ids::{CursorId, EntityId, LogId, Lsn, Offset, OffsetRange, StoreId},
    journal::{self, JournalSurvey, Range},
    layout::{Layout, Named, journal_name},
    metalog::{MetaPlace, survey},
    segment::path_of,
    store::{Cursor, LogName, State},
};

/// The result of a survey.
#[derive(Debug)]
pub struct Survey {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub id: StoreId,
    pub metas: Metas,
    pub journal: JournalSurvey,
    pub state: State,
    pub logs: BTreeMap<LogId, LogSurvey>,
    /// Contradictions.
    pub odd: Vec<Problem>,
    /// Former states of segments, which later entries of the metalog replaced.
    pub former: Vec<SegmentState>,
    pub nameless: Vec<Nameless>,
    /// Cursors of which acks, offsets or attempts may be missing.
    pub uncertain: BTreeSet<CursorId>,
    pub all_uncertain: bool,
    /// Entities whose settings may be older than they were.
    pub old_settings: BTreeSet<EntityId>,
    /// Whether entities may be gone of which nothing is left.
    pub may_lack_entities: bool,
    /// Whether the newest note of the clock may be lost.
    pub clock_is_uncertain: bool,
    files: OnceCell<SegmentFiles>,
}

/// Whether there is a store in a directory.
///
/// # Errors
///
/// `NotFound` if not; input or output errors.
pub fn check_is_store(disk: &Arc<dyn Disk>, root: &Path) -> Result<()> {
    let place = MetaPlace { disk: Arc::clone(disk), layout: Layout::new(root) };
    if is_store(&place)? {
        return Ok(());
    }
    let what = "there is no store in this directory";
    Err(Error::new(ErrorKind::NotFound, what).in_file(root))
}

/// Surveys the store in a directory. The caller holds its lock.
///
/// # Errors
///
/// `NotFound` if there is no store; `UnsupportedVersion`; input or output errors.
pub fn survey_store(disk: Arc<dyn Disk>, root: &Path) -> Result<Survey> {
    let layout = Layout::new(root);
    let place = MetaPlace { disk: Arc::clone(&disk), layout: layout.clone() };
    check_is_store(&disk, root)?;
    let Some(id) = store_id(&place)? else {
        let what = "no file of the store has a header that verifies, so nothing in it can be read";
        return Err(Error::corrupt(what, root, 0));
    };
    let mut metas = Metas::read(&place, id)?;
    let checkpoint = metas.survey.checkpoint().cloned();
    let survey = |from: Option<Lsn>, proven: Lsn| {
        let range = Range { from, proven, until: Lsn(u64::MAX) };
        journal::survey(&*disk, &layout, id, range)
    };
    let mut journal = match &checkpoint {
        Some(checkpoint) => survey(Some(checkpoint.replay_from), checkpoint.reflects)?,
        None => survey(None, Lsn(0))?,
    };
    let mut reflects = checkpoint.as_ref().map_or(Lsn(0), |checkpoint| checkpoint.reflects);
    if let Some(checkpoint) = &checkpoint
        && metas.has_loose()
        && journal.damage.iter().any(|gap| gap.from == checkpoint.replay_from)
    {
        // Journal files that this checkpoint needs are gone, so a later checkpoint was complete.
        metas.take_loose();
        reflects = metas.survey.checkpoint().map_or(reflects, |last| last.reflects);
        journal = survey(metas.survey.checkpoint().map(|last| last.replay_from), reflects)?;
    }
    let from = metas.survey.checkpoint().map(|checkpoint| checkpoint.replay_from);
    // Either the journal lost files, or the metalog lost its newest checkpoint.
    metas.may_end_early |=
        journal.is_empty() || journal.damage.iter().any(|gap| Some(gap.from) == from);
    metas.damaged |= metas.may_end_early;
    let files = OnceCell::new();
    Looking { disk, layout, id, metas, journal, reflects, files }.finish()
}

/// Whether there is a store, or a part of one. An attempt to make a store leaves less.
fn is_store(place: &MetaPlace) -> Result<bool> {
    let (disk, layout) = (&*place.disk, &place.layout);
    let is_finished = |path: &std::path::PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        matches!(journal_name(name), Named::Real(_))
    };
    let has_segments = !dirs(disk, layout)?.is_empty() || !fans(disk, layout)?.is_empty();
    if has_segments || !survey::list(place)?.0.is_empty() {
        return Ok(true);
    }
    let files: Vec<_> = journal::all_names(disk, layout)?.into_iter().filter(is_finished).collect();
    match &files[..] {
        [] => Ok(false),
        [first] if *first == layout.journal_file(Lsn(0)) => {
            let Some(header) = journal::header_of(disk, first)? else { return Ok(true) };
            let range = Range { from: None, proven: Lsn(0), until: Lsn(u64::MAX) };
            Ok(journal::survey(disk, layout, header.store, range)?.files() > 0)
        }
        _ => Ok(true),
    }
}

struct Looking {
    disk: Arc<dyn Disk>,
    layout: Layout,
    id: StoreId,
    metas: Metas,
    journal: JournalSurvey,
    reflects: Lsn,
    files: OnceCell<SegmentFiles>,
}

impl Looking {
    fn finish(self) -> Result<Survey> {
        let mut gathered = Gathered::of(self.metas.entries());
        let has_gaps = self.journal.damage.iter().any(|gap| gap.from < gap.to);
        let damaged = self.metas.damaged;
        let in_metalog = self.newest_in_metalog(&gathered.described);
        let mut nameless = Vec::new();
        if damaged || has_gaps {
            let from = if damaged { Lsn(0) } else { self.reflects };
            nameless = self.adopt(&mut gathered, mentioned(&self.journal, from)?)?;
        }
        let (mut state, odd) = gathered.state(self.doubts_filters(), !damaged);
        let meta_path = &self.metas.path;
        let mut odd: Vec<Problem> =
            odd.into_iter().map(|what| problem(meta_path, 0, what)).collect();
        state.catalog.next_id = state.catalog.next_id.max(self.metas.next_id());

        let of_logs = state.logs.iter().map(|(id, log)| (*id, log.segments.values().cloned()));
        let referred: Vec<(LogId, Vec<SegmentState>)> =
            of_logs.map(|(id, segments)| (id, segments.collect())).collect();
        let known = gathered.cursors.keys().copied().collect();
        let mut replay = Replay {
            state: &mut state,
            journal: &self.journal,
            logs: BTreeMap::new(),
            problems: Vec::new(),
            reflects: self.reflects,
            damaged,
            settings: Settings { in_metalog, ..Settings::default() },
            known,
        };
        replay.begin(gathered.logs.values().map(|log| (log.log, log.moved, log.next)));
        replay.run()?;
        let (logs, settings) = (replay.logs, replay.settings);
        odd.append(&mut replay.problems);
        for (log, segments) in referred {
            // The segments of other logs are walked.
            if !damaged && !state.logs.contains_key(&log) {
                for segment in &segments {
                    odd.extend(self.missing(segment)?);
                }
            }
        }

        let uncertain = self.uncertain(&gathered, &state);
        let all_uncertain = self.has_gap_behind_metalog();
        let contradictions = contradictions(&state).into_iter();
        odd.extend(contradictions.map(|what| problem(&self.metas.path, 0, what)));
        let old_settings = self.old_settings(&state, &settings);
        let may_lack_entities = self.may_lack_entities(&state, &gathered.gone, &nameless);
        let clock_is_uncertain = all_uncertain || self.clock_is_uncertain(&gathered);
        let Looking { disk, layout, id, metas, journal, files, .. } = self;
        Ok(Survey {
            disk,
            layout,
            id,
            metas,
            journal,
            state,
            logs,
            odd,
            former: gathered.former,
            nameless,
            uncertain,
            all_uncertain,
            old_settings,
            may_lack_entities,
            clock_is_uncertain,
            files,
        })
    }

    /// Whether the journal has a gap behind all that the metalog reflects.
    fn has_gap_behind_metalog(&self) -> bool {
        self.journal.damage.iter().any(|gap| gap.from < gap.to && gap.to > self.reflects)
    }

    /// Whether a change of a filter may be lost, or a message that was matched: then what filters have rejected is not known.
    fn doubts_filters(&self) -> bool {
        self.metas.damaged || self.has_gap_behind_metalog()
    }

    /// Whether a damaged metalog may lack the newest note of the clock.
    fn clock_is_uncertain(&self, gathered: &Gathered) -> bool {
        let last_damage = self.metas.survey.damage.last().map(|damage| damage.position);
        let noted = gathered.clock.map(|(position, _)| position);
        self.metas.lacks_entries() && (noted.is_none() || noted < last_damage)
    }

    /// The cursors of which a damaged metalog may lack something.
    fn uncertain(&self, gathered: &Gathered, state: &State) -> BTreeSet<CursorId> {
        if !self.metas.damaged {
            return BTreeSet::new();
        }
        if self.metas.survey.committed == 0 {
            // No checkpoint counts. Any entry may have come after those that are left.
            return state.cursors.keys().copied().collect();
        }
        let last_damage = self.metas.survey.damage.last().map(|damage| damage.position);
        let is_old = |cursor: &&Cursor| {
            // The offset of a group stands in its newest entry. Acks and attempts stand in chunks, and
            // each entry of one may be the damaged one.
            let position = match cursor.acks() {
                Some(_) => gathered.since.get(&cursor.id).copied(),
                None => gathered.cursors.get(&cursor.id).map(|(position, _)| *position),
            };
            position.is_none() || position < last_damage
        };
        let is_filtered = |cursor: &&Cursor| {
            state.catalog.get(cursor.id.entity()).and_then(Entity::filter).is_some()
        };
        let uncertain = state.cursors.values().filter(|it| is_old(it) || is_filtered(it));
        uncertain.map(|cursor| cursor.id).collect()
    }

    /// The problem of a missing segment, if its log was deleted after the last checkpoint that counts. Opening
    /// the store reads that segment. A later checkpoint, whose damage looks like a torn tail, may have removed
    /// it.
    fn missing(&self, segment: &SegmentState) -> Result<Option<Problem>> {
        let path = path_of(&self.layout, segment);
        Ok(match self.disk.len_of(&path) {
            Ok(len) if len >= segment.bytes => None,
            Ok(len) => Some(problem(&path, len, "a segment is shorter than its committed length")),
            Err(error) if is_not_a_file(&error) || is_no_dir(&error) => {
                Some(problem(&path, 0, "a segment is missing"))
            }
            Err(error) => return Err(Error::io(error, "a segment cannot be looked up", path)),
        })
    }

    /// Finds or makes entities for logs and cursors whose entity is lost.
    fn adopt(&self, gathered: &mut Gathered, mut seen: Seen) -> Result<Vec<Nameless>> {
        gathered.take_updated(&mut seen, self.metas.damaged);
        let mut older: BTreeMap<EntityId, Entity> = BTreeMap::new();
        let mut logs = seen.logs.clone();
        if self.metas.damaged {
            for other in &self.metas.older {
                let entities = Gathered::of(&other.entries).entities;
                for (id, entity) in entities {
                    older.entry(id).or_insert(entity);
                }
            }
            for (id, creation) in std::mem::take(&mut seen.created) {
                let owned = creation.entity.cursors().map(|(cursor, _)| cursor);
                for (cursor, start) in owned.zip(&creation.starts) {
                    gathered.cursors.entry(cursor).or_insert((0, *start));
                    gathered.since.entry(cursor).or_insert(0);
                }
                gathered.entities.entry(id).or_insert(creation.entity);
            }
            let files = SegmentFiles::read(&*self.disk, &self.layout, self.id)?;
            logs.append(&mut self.files.get_or_init(|| files).logs());
        }
        let nameless = adopt(gathered, &seen, logs, &older);
        gathered.gone.append(&mut seen.deleted);
        Ok(nameless)
    }
}

impl Survey {
    /// The name of a log, for people.
    pub fn name(&self, log: LogId) -> LogName {
        self.state.catalog.log_name(log)
    }

    /// Whether the acks or the offset of a cursor may be older than they were in the damaged store.
    pub fn is_uncertain(&self, cursor: CursorId) -> bool {
        self.all_uncertain || self.uncertain.contains(&cursor)
    }

    /// The parts of a range that a cursor still needs.
    pub fn needed(&self, log: LogId, range: OffsetRange) -> Vec<OffsetRange> {
        self.state.logs.get(&log).map_or_else(Vec::new, |log| self.state.needed(log, range))
    }

    /// The offset behind all messages that were found or may have existed.
    pub fn next(&self, log: LogId) -> Offset {
        let log = self.logs.get(&log);
        log.map_or(Offset(0), |log| log.beyond.map_or(log.next, |it| it.end))
    }
}

pub fn problem(file: &Path, position: u64, what: impl Into<String>) -> Problem {
    Problem { file: file.to_owned(), position, what: what.into(), affected: Vec::new() }
}
