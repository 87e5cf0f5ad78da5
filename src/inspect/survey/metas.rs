//! Finds the metalog that counts, and the store's id.

use std::path::{Path, PathBuf};

use super::problem;
use crate::{
    disk::{Disk, Open, is_no_dir},
    error::{Error, ErrorKind, Result},
    format::{header::UNSUPPORTED, meta::MetaEntry},
    ids::{EntityId, StoreId},
    inspect::report::Problem,
    journal,
    layout::{Fan, Layout, Named, former_segment_name, segment_name},
    metalog::{
        MetaPlace,
        survey::{self, MetaFile, MetaSurvey},
    },
    segment::header_of,
    store::{fan_dirs, log_dirs},
};

/// The most directories of logs that are searched for the store's id.
const LOGS_ASKED: usize = 8;

/// The metalog, as far as it can be read.
#[derive(Debug, Default)]
pub struct Metas {
    /// The file that counts.
    pub path: PathBuf,
    pub survey: MetaSurvey,
    /// The other metalogs that can be read. They are read only if the first is damaged.
    pub older: Vec<MetaSurvey>,
    pub problems: Vec<Problem>,
    /// Files that nothing refers to.
    pub spare: Vec<PathBuf>,
    /// Whether entries of the metalog may be missing.
    pub damaged: bool,
    /// Entries that verify from here on count, although no checkpoint behind them verifies.
    pub loose_from: Option<u64>,
    /// Whether the newest checkpoint may be lost.
    pub may_end_early: bool,
}

/// The id that most files of a store have. `None` if no file has one.
pub fn store_id(place: &MetaPlace) -> Result<Option<StoreId>> {
    let (disk, layout) = (&*place.disk, &place.layout);
    let mut votes: Vec<(StoreId, u32)> = Vec::new();
    let mut vote = |id: StoreId| match votes.iter_mut().find(|(voted, _)| *voted == id) {
        Some((_, count)) => *count += 1,
        None => votes.push((id, 1)),
    };
    // Of ids with equal votes the first wins, which is that of the newest metalog.
    for (number, path) in survey::list(place)?.0 {
        if let Ok(header) = survey::read(place, number, path)?.header {
            vote(header.store);
        }
    }
    for path in journal::all_names(disk, layout)? {
        if let Some(header) = journal::header_of(disk, &path)? {
            vote(header.store);
        }
    }
    noted_in_lock(disk, layout).into_iter().for_each(&mut vote);
    if votes.len() != 1 {
        let mut vote = |id: StoreId| match votes.iter_mut().find(|(voted, _)| *voted == id) {
            Some((_, count)) => *count += 1,
            None => votes.push((id, 1)),
        };
        let former = dirs(disk, layout)?.into_iter().map(|(_, dir)| dir);
        let now = fans(disk, layout)?.into_iter().map(|(_, dir)| dir);
        for dir in former.take(LOGS_ASKED).chain(now.take(LOGS_ASKED)) {
            noted_in_segment(disk, &dir)?.into_iter().for_each(&mut vote);
        }
    }
    let most = votes.iter().map(|(_, count)| *count).max();
    Ok(votes.iter().find(|(_, count)| Some(*count) == most).map(|(id, _)| *id))
}

/// The directories of logs. There are none if the directory for them is missing.
pub fn dirs(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(crate::ids::LogId, PathBuf)>> {
    match disk.list(&layout.segments_dir()) {
        Err(error) if is_no_dir(&error) => Ok(Vec::new()),
        _ => log_dirs(disk, layout),
    }
}

/// The directories of segment files. There are none if the directory for them is missing.
pub fn fans(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(Fan, PathBuf)>> {
    match disk.list(&layout.segments_dir()) {
        Err(error) if is_no_dir(&error) => Ok(Vec::new()),
        _ => fan_dirs(disk, layout),
    }
}

/// The store's id from the note in the lock file.
fn noted_in_lock(disk: &dyn Disk, layout: &Layout) -> Option<StoreId> {
    let file = disk.open(&layout.lock(), Open::Reading).ok()?;
    let mut text = [0; 256];
    let read = file.read_at(0, &mut text).ok()?;
    let text = std::str::from_utf8(&text[..read]).ok()?;
    let hex = text.lines().find_map(|line| line.strip_prefix("store "))?;
    let mut id = [0; 16];
    for (n, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(StoreId(id))
}

fn noted_in_segment(disk: &dyn Disk, dir: &Path) -> Result<Option<StoreId>> {
    let failed = |error| Error::io(error, "segments cannot be listed", dir);
    let names = match disk.list(dir) {
        Err(error) if is_no_dir(&error) => Vec::new(),
        names => names.map_err(failed)?,
    };
    for name in names {
        let is_segment = matches!(segment_name(&name), Named::Real(_))
            || matches!(former_segment_name(&name), Named::Real(_));
        if is_segment {
            let path = dir.join(name);
            if let Some(header) = header_of(disk, &path)? {
                return Ok(Some(header.store));
            }
        }
    }
    Ok(None)
}

impl Metas {
    /// Reads the newest metalog; if that is damaged, all others too.
    pub fn read(place: &MetaPlace, id: StoreId) -> Result<Metas> {
        let (finished, unfinished) = survey::list(place)?;
        let mut metas = Metas::default();
        let mut finished = finished.into_iter();
        let Some((number, path)) = finished.next() else {
            let dir = place.layout.meta_dir();
            metas.problems.push(problem(&dir, 0, "the metalog is missing"));
            metas.damaged = true;
            for path in unfinished {
                metas.add_other(&survey::read(place, 0, path)?, id);
            }
            metas.choose();
            return Ok(metas);
        };
        let newest = survey::read(place, number, path)?;
        metas.check(&newest, id)?;
        metas.path = newest.path.clone();
        metas.survey = newest.survey(id);
        for damage in &metas.survey.damage {
            metas.problems.push(problem(&newest.path, damage.position, damage.what.0));
        }
        metas.damaged = !metas.problems.is_empty();
        metas.spare.extend(unfinished.iter().cloned());
        for (number, path) in finished {
            metas.spare.push(path.clone());
            if metas.damaged {
                metas.add_other(&survey::read(place, number, path)?, id);
            }
        }
        if metas.survey.committed == 0 {
            for path in unfinished {
                metas.add_other(&survey::read(place, 0, path)?, id);
            }
            metas.choose();
        }
        Ok(metas)
    }

    fn check(&mut self, file: &MetaFile, id: StoreId) -> Result<()> {
        let what = match file.header {
            Err(what) if what == UNSUPPORTED => {
                let error = Error::new(ErrorKind::UnsupportedVersion, what.0);
                return Err(error.in_file(&file.path));
            }
            Err(what) => what.0,
            Ok(header) if header.store != id => "a metalog that belongs to another store",
            Ok(header) if header.number != file.number => {
                "a metalog that belongs under another name"
            }
            Ok(_) => return Ok(()),
        };
        self.problems.push(problem(&file.path, 0, what));
        Ok(())
    }

    fn add_other(&mut self, file: &MetaFile, id: StoreId) {
        let survey = file.survey(id);
        if !survey.entries.is_empty() {
            self.older.push(survey);
        }
    }

    /// No entry of the newest file counts: takes a file with more entries.
    fn choose(&mut self) {
        self.may_end_early = true;
        if let Some(n) = self.older.iter().position(|other| other.committed > 0) {
            let better = self.older.remove(n);
            let newest = std::mem::replace(&mut self.survey, better);
            self.older.push(newest);
        } else if self.survey.entries.is_empty() && !self.older.is_empty() {
            self.survey = self.older.remove(0);
        }
    }

    /// The entries that count. Without a checkpoint, all entries that verify count.
    pub fn entries(&self) -> &[(u64, MetaEntry)] {
        match self.survey.committed {
            0 => &self.survey.entries,
            committed => &self.survey.entries[..committed],
        }
    }

    /// Whether an entry verifies behind the last checkpoint.
    pub fn has_loose(&self) -> bool {
        self.survey.committed < self.survey.entries.len()
    }

    /// Whether entries are missing. A damaged header costs none.
    pub fn lacks_entries(&self) -> bool {
        let has_damage = self.survey.committed == 0 || !self.survey.damage.is_empty();
        has_damage || self.may_end_early
    }

    /// The highest next free number that a checkpoint has.
    pub fn next_id(&self) -> EntityId {
        let next_ids = self.entries().iter().filter_map(|(_, entry)| match entry {
            MetaEntry::Checkpoint(checkpoint) => Some(checkpoint.next_id),
            _ => None,
        });
        next_ids.max().unwrap_or(EntityId::FIRST)
    }

    /// The next free number as the newest checkpoint has it. `None` if that checkpoint may be lost.
    pub fn last_next_id(&self) -> Option<EntityId> {
        let (at, last) = self.survey.entries[..self.survey.committed].last()?;
        let MetaEntry::Checkpoint(last) = last else { return None };
        let may_be_lost = self.survey.damage.last().is_some_and(|damage| damage.position > *at)
            || self.may_end_early;
        (!may_be_lost).then_some(last.next_id)
    }

    /// Counts entries behind the last checkpoint, too. The journal shows that a later checkpoint
    /// was complete, so its end is damaged, not torn.
    pub fn take_loose(&mut self) {
        self.survey.committed = self.survey.entries.len();
        let position = self.survey.torn.unwrap_or(0);
        (self.loose_from, self.may_end_early) = (Some(position), true);
        let what = "the last checkpoint of the metalog does not verify";
        self.problems.push(problem(&self.path, position, what));
        self.damaged = true;
    }
}
