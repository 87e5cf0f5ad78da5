//! Opens a store: makes a new one, or recovers an existing one.

use std::{
    collections::BTreeMap,
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Metalog, Store,
    cache::SegmentCache,
    draft::Draft,
    files::Files,
    log::{Freed, Progress},
    state::State,
};
use crate::{
    config::{Config, IoMode},
    disk::{Access, Disk},
    error::{Error, Result},
    format::{
        Malformed,
        clock::ClockState,
        commit::{Change, changes},
        entity::Entity,
        frame::FRAME_HEADER_BYTES,
        meta::{ChunkState, CursorState, LogState, MetaEntry, Place, SegmentState},
    },
    ids::{CursorId, EntityId, LogId, Lsn, Offset, StoreId},
    journal::{Journal, Supply, holds_commits, recover},
    layout::{Fan, Layout, fan_name, log_dir_name},
    metalog::{Loaded, MetaPlace, MetaWriter, load},
    segment::Segments,
};

/// Opens the store in a directory. The caller holds its lock. If there is no store, one is made
/// with the id `new_id`.
///
/// # Errors
///
/// `Corrupt` with file and position if durable data is damaged or missing; `UnsupportedVersion`;
/// `DiskFull` or `Io`. The durable data is unchanged after an error.
pub fn open(disk: Arc<dyn Disk>, root: &Path, config: Config, new_id: StoreId) -> Result<Store> {
    let opening = Opening::new(disk, root, config)?;
    let mut found = Found::default();
    match load(&opening.place(), &mut |entry| found.take(entry))? {
        Some(loaded) => opening.recover(&loaded, found),
        None => opening.create(new_id),
    }
}

pub struct Opening {
    disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub config: Config,
    access: Access,
}

impl Opening {
    pub fn new(disk: Arc<dyn Disk>, root: &Path, config: Config) -> Result<Opening> {
        let layout = Layout::new(root);
        for dir in [layout.journal_dir(), layout.segments_dir(), layout.meta_dir()] {
            disk.create_dir(&dir)
                .map_err(|error| Error::io(error, "the store's directory cannot be made", dir))?;
        }
        let access = match config.io {
            IoMode::Map => Access::Map,
            IoMode::Calls => Access::Calls,
            IoMode::Auto if disk.maps_are_safe(root) => Access::Map,
            IoMode::Auto => Access::Calls,
        };
        Ok(Opening { disk, layout, config, access })
    }

    pub fn place(&self) -> MetaPlace {
        MetaPlace { disk: Arc::clone(&self.disk), layout: self.layout.clone() }
    }

    pub fn supply(&self, store: StoreId) -> Supply {
        let file_bytes_max = self.config.journal_file_bytes();
        Supply {
            disk: Arc::clone(&self.disk),
            layout: self.layout.clone(),
            store,
            access: self.access,
            file_bytes_min: self.config.journal_file_bytes_min,
            file_bytes_max,
            // A checkpoint frees whole files beyond one half.
            pool_bytes: self.config.journal_bytes / 2 + file_bytes_max,
        }
    }

    pub fn segments(&self, store: StoreId) -> Segments {
        Segments {
            disk: Arc::clone(&self.disk),
            layout: self.layout.clone(),
            store,
            access: self.access,
            block_bytes: self.config.block_bytes,
        }
    }

    /// Makes a store. It exists once its metalog exists.
    fn create(self, id: StoreId) -> Result<Store> {
        let supply = self.supply(id);
        let has_segments = !log_dirs(&*self.disk, &self.layout)?.is_empty()
            || !fan_dirs(&*self.disk, &self.layout)?.is_empty();
        if has_segments || holds_commits(&supply)? {
            let what = "the metalog is missing, but there are messages";
            return Err(Error::corrupt(what, self.layout.meta_dir(), 0));
        }
        self.make_place_durable()?;
        let journal = Journal::create(supply)?;
        let mut writer = MetaWriter::create(&self.place(), id, 1)?;
        let state = State::default();
        writer.commit(journal.tail(), journal.tail(), state.catalog.next_id)?;
        let replay_from = journal.tail();
        let meta = (1, writer.snapshot_bytes());
        let files = Files::new(self.config.segment_bytes);
        Ok(self.store(id, journal, (state, files), replay_from, Some(writer), meta))
    }

    /// Makes the directories above the store durable. An earlier attempt may have made some of them.
    pub fn make_place_durable(&self) -> Result<()> {
        let root = self.layout.root();
        let failed = |error, dir: &Path| {
            Error::io(error, "the store's directory cannot be made durable", dir)
        };
        for (height, dir) in root.ancestors().enumerate() {
            match self.disk.sync_dir(dir) {
                Err(error) if height >= 2 && is_foreign(&error) => break,
                synced => synced.map_err(|error| failed(error, dir))?,
            }
        }
        Ok(())
    }

    fn recover(self, loaded: &Loaded, found: Found) -> Result<Store> {
        let checkpoint = &loaded.checkpoint;
        let meta_file = self.layout.meta_file(loaded.number);
        let contradiction = |what: Malformed| Error::corrupt(what.0, &meta_file, 0);
        let recorded_next: Vec<(LogId, Offset)> =
            found.logs.values().map(|log| (log.log, log.next)).collect();
        let mut state = found.into_state().map_err(contradiction)?;
        state.catalog.next_id = state.catalog.next_id.max(checkpoint.next_id);

        let files = self.check_segments(loaded.store, &state)?;
        let supply = self.supply(loaded.store);
        let reflects = checkpoint.reflects;
        let recovered = recover(supply, checkpoint.replay_from, reflects, &mut |lsn, payload| {
            for change in changes(payload) {
                let (at, change) = change?;
                let at = Lsn(lsn.0 + (FRAME_HEADER_BYTES + at) as u64);
                if at >= reflects {
                    state.check_is_there(&change, |log| Some(state.logs.get(&log)?.next()))?;
                }
                let is_lost =
                    seeded!(SettingsAreNotReplayed) && matches!(change, Change::Update(_));
                if !state.reflects(&change, at, reflects) && !is_lost {
                    state.apply(&change, at)?;
                }
            }
            // What was matched before is in the metalog.
            if lsn >= reflects {
                state.match_again(payload)?;
            }
            Ok(())
        })?;
        state.end_passing();
        state.filtering.matched.clear();
        for (id, next) in recorded_next {
            if state.logs.get(&id).is_some_and(|log| log.next() < next) {
                let what = Malformed("a log's last messages are missing from the journal");
                return Err(contradiction(what));
            }
        }
        if !state.catalog.has_unique_names() {
            let what = "two queues, topics, streams, subscriptions or groups have one name: salvage the store";
            return Err(contradiction(Malformed(what)));
        }
        for path in recovered.leftovers.iter().chain(&loaded.leftovers) {
            // Nothing refers to these files. If a removal fails, the next open tries it again.
            let _ = self.disk.remove(path);
        }
        let meta = (loaded.number, loaded.bytes);
        let replay_from = checkpoint.replay_from;
        Ok(self.store(loaded.store, recovered.journal, (state, files), replay_from, None, meta))
    }

    /// Checks that the files of all segments are there. A file that many segments share is looked at once.
    fn check_segments(&self, store: StoreId, state: &State) -> Result<Files> {
        let (segments, layout) = (self.segments(store), &self.layout);
        let mut files = Files::new(self.config.segment_bytes);
        for segment in state.logs.values().flat_map(|log| log.segments.values()) {
            if segment.place == Place::Former {
                check_segment(&segments, segments.path(segment), segment.bytes)?;
            }
            files.enter(segment);
        }
        let lengths: Vec<(u64, u64)> = files.lengths().collect();
        for (number, bytes) in lengths {
            let found = check_segment(&segments, layout.segment_file(number), bytes)?;
            files.found(number, found);
        }
        Ok(files)
    }

    fn store(
        self,
        id: StoreId,
        journal: Journal,
        (mut state, files): (State, Files),
        replay_from: Lsn,
        writer: Option<MetaWriter>,
        meta: (u64, u64),
    ) -> Store {
        state.freed = Freed::default();
        Store {
            segments: self.segments(id),
            cache: SegmentCache::new(self.config.maps_max),
            meta: Metalog {
                place: self.place(),
                unswept: writer.is_none(),
                writer,
                number: meta.0,
                snapshot_bytes: meta.1,
            },
            config: self.config,
            id,
            journal,
            state,
            files,
            replay_from,
            may_outgrow: false,
            draft: Draft::default(),
        }
    }
}

/// Whether a directory above the store was made by another program: this process may not open it, or its file system
/// is read-only.
fn is_foreign(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    [PermissionDenied, ReadOnlyFilesystem, InvalidInput, Unsupported].contains(&error.kind())
}

/// Checks that a file has as many bytes as its segments need. Returns its length.
fn check_segment(segments: &Segments, path: PathBuf, bytes: u64) -> Result<u64> {
    match segments.disk.len_of(&path) {
        Ok(len) if len >= bytes => Ok(len),
        Ok(len) => {
            let what = "a segment is shorter than its committed length";
            Err(Error::corrupt(what, path, len))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::corrupt("a segment is missing", path, 0))
        }
        Err(error) => Err(Error::io(error, "a segment cannot be found", path)),
    }
}

/// Entries of the metalog, which come in any order, before they become a state.
#[derive(Default)]
struct Found {
    entities: BTreeMap<EntityId, Entity>,
    logs: BTreeMap<LogId, LogState>,
    cursors: BTreeMap<CursorId, CursorState>,
    chunks: BTreeMap<(CursorId, u64), ChunkState>,
    segments: BTreeMap<(LogId, Offset), SegmentState>,
    clock: Option<ClockState>,
}

impl Found {
    fn take(&mut self, entry: MetaEntry) -> Result<(), Malformed> {
        match entry {
            MetaEntry::Entity(entity) => {
                let lost = entity.lost_keeper().filter(|_| !seeded!(KeeperOutlivesItsLimits));
                lost.into_iter().for_each(|cursor| self.forget_cursor(cursor));
                self.entities.insert(entity.id, entity);
            }
            MetaEntry::EntityGone(id) => self.forget(id),
            MetaEntry::Log(state) => drop(self.logs.insert(state.log, state)),
            MetaEntry::Cursor(state) => drop(self.cursors.insert(state.cursor, state)),
            MetaEntry::Chunk(state) => {
                self.chunks.insert((state.cursor, state.chunk), state);
            }
            MetaEntry::Segment(state) => {
                self.segments.insert((state.log, state.base), state);
            }
            MetaEntry::SegmentGone { log, base } => drop(self.segments.remove(&(log, base))),
            MetaEntry::Checkpoint(_) => {}
            MetaEntry::Clock(state) => self.clock = Some(state),
        }
        Ok(())
    }

    fn forget(&mut self, id: EntityId) {
        let Some(entity) = self.entities.remove(&id) else {
            return;
        };
        for log in entity.logs() {
            self.logs.remove(&log);
            remove_all(&mut self.segments, log, Offset(0)..=Offset(u64::MAX));
        }
        entity.cursors().for_each(|(cursor, _)| self.forget_cursor(cursor));
    }

    fn forget_cursor(&mut self, cursor: CursorId) {
        self.cursors.remove(&cursor);
        remove_all(&mut self.chunks, cursor, 0..=u64::MAX);
    }

    fn into_state(self) -> Result<State, Malformed> {
        let mut state = State { clock: self.clock, ..State::default() };
        for entity in self.entities.into_values() {
            state.attach(&entity);
            state.catalog.insert(entity);
        }
        for log in self.logs.values() {
            if log.start > log.next || log.moved > log.next {
                return Err(Malformed("a log's bounds contradict each other"));
            }
            let known = state.logs.get_mut(&log.log).ok_or(STRAY)?;
            known.restore(log);
        }
        for segment in self.segments.into_values() {
            let log = state.logs.get_mut(&segment.log).ok_or(STRAY)?;
            let before = log.segments.values().next_back();
            let overlaps = before.is_some_and(|before| before.end > segment.base);
            if overlaps || segment.base > segment.end || segment.end > log.moved {
                return Err(Malformed("a log's segments contradict each other"));
            }
            log.segments.insert(segment);
        }
        for chunk in self.chunks.into_values() {
            match &mut state.cursors.get_mut(&chunk.cursor).ok_or(STRAY)?.progress {
                Progress::Acks(acks) => acks.restore(&chunk)?,
                Progress::At(_) => return Err(STRAY),
            }
        }
        for (id, it) in &self.cursors {
            let cursor = state.cursors.get_mut(id).ok_or(STRAY)?;
            let is_filtered = cursor.seen().is_some();
            match &mut cursor.progress {
                Progress::Acks(acks) => {
                    acks.restore_floor(it.floor);
                    let end = self.logs.get(&cursor.log).map(|log| log.next);
                    acks.restore_seen(it.seen.map(|seen| seen_in(seen, end)));
                }
                Progress::At(next) => *next = it.floor,
            }
            if is_filtered != it.seen.is_some() {
                return Err(Malformed("a cursor with a filter does not say what it has seen"));
            }
        }
        state.count_floors();
        state.count_spared();
        state.check_acks(|log| self.logs.get(&log).map(|log| log.next))?;
        state.note_segments();
        state.suspect_all();
        Ok(state)
    }
}

/// Where a cursor has seen a log that ends at `end`.
fn seen_in(seen: Offset, end: Option<Offset>) -> Offset {
    if seeded!(SeenIsTheLogsEnd) { end.unwrap_or(seen) } else { seen }
}

/// Removes all that a map holds of one log or one cursor. `all` are all the numbers that stand behind it.
pub fn remove_all<A: Ord + Copy, B: Ord + Copy, V>(
    map: &mut BTreeMap<(A, B), V>,
    of: A,
    all: RangeInclusive<B>,
) {
    let range = (of, *all.start())..=(of, *all.end());
    let keys: Vec<(A, B)> = map.range(range).map(|(key, _)| *key).collect();
    for key in keys {
        map.remove(&key);
    }
}

const STRAY: Malformed = Malformed("an entry refers to an entity that does not exist");

/// The directories that logs have on the disk, from versions 1 and 2.
pub fn log_dirs(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(LogId, PathBuf)>> {
    dirs(disk, layout, log_dir_name)
}

/// The directories of segments on the disk.
pub fn fan_dirs(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(Fan, PathBuf)>> {
    dirs(disk, layout, fan_name)
}

fn dirs<T>(
    disk: &dyn Disk,
    layout: &Layout,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<(T, PathBuf)>> {
    let dir = layout.segments_dir();
    let names = disk.list(&dir);
    let names = names.map_err(|error| Error::io(error, "the segments cannot be listed", &dir))?;
    let named = |name: &String| parse(name).map(|found| (found, dir.join(name)));
    Ok(names.iter().filter_map(named).collect())
}
