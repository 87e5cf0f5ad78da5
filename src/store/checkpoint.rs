//! Checkpoints: what still lives leaves the journal, and the journal's files are free again.
//!
//! The order is what makes it safe. Let T be the position up to which the journal is to be free.
//!
//! 1. Live messages before T go into segments.
//! 2. The state is captured at one instant, S: everything that changed since the last capture. `capture.rs` says how
//!    that is done in slices.
//! 3. The journal is made durable up to S, and the segments with their names. A message was left
//!    out in step 1 only because of acks before S, which are durable from here on.
//! 4. The capture goes into the metalog, which becomes durable: the checkpoint counts.
//! 5. Journal files before T, and segments that are no longer referred to, are let go of.
//!
//! A crash before 4 leaves the old metalog, which knows nothing of the new segments; a crash after
//! it leaves files that nothing refers to, which the first checkpoint after the next open removes.
//! The disk is read and written without the store in hand, so commits go on meanwhile.
//!
//! The work follows what changed, and not what there is: `changed.rs` has the lists. Each access to the store takes a
//! bounded number of steps.

use std::{mem, path::PathBuf};

use super::{
    Store,
    capture::{Captured, Walk},
    leftovers::sweep,
    retain::REWRITTEN_MAX,
    state::State,
};
use crate::{
    audit,
    disk::Open,
    error::{ErrorKind, Result},
    format::meta::SegmentState,
    ids::{IdMap, LogId, Lsn, Offset},
    layout::{Named, segment_name},
    metalog::MetaWriter,
    segment::{SegmentWriter, Segments},
};

/// A store that several threads use, and the way to make its journal durable.
pub trait Shared {
    /// Gives exclusive access to the store for one call.
    ///
    /// The call holds the lock of all commits. So it touches no disk and does not wait. It takes a plan,
    /// captures the state, or installs a result. The checkpoint does everything else between two calls.
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R;
    /// Returns when the journal is durable up to a position.
    fn sync_to(&self, position: Lsn) -> Result<()>;
}

/// How much of the journal a checkpoint frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The older part. Messages that are acked early then never leave the journal.
    Older,
    /// All of it.
    All,
    /// The oldest file. On a full disk there is space for little at a time.
    Oldest,
    /// Nothing. Only the space of dead segments is given back, which needs next to no space.
    Nothing,
}

/// What a checkpoint does to the segments of one log.
#[derive(Debug)]
pub struct LogChange {
    pub log: LogId,
    /// Everything below is in segments now, or dead.
    pub moved: Offset,
    pub gone: Vec<SegmentState>,
    pub put: Vec<SegmentState>,
    /// How many of these segments the capture has.
    pub captured: usize,
}

/// A checkpoint that is being made.
pub struct Work {
    pub segments: Segments,
    pub segment_bytes: u64,
    /// The most entries, logs or segments that are dealt with in one access to the store.
    pub slice: usize,
    pub upto: Lsn,
    pub changes: IdMap<LogId, LogChange>,
    /// Written, but not synced.
    unsynced: Vec<SegmentWriter>,
    /// New files. They are removed if the checkpoint fails.
    begun: Vec<PathBuf>,
    /// Segments that were gone on with. What was added is cut off if the checkpoint fails.
    reopened: Vec<SegmentState>,
    /// The metalog's current file. `None` if the checkpoint begins a new one.
    meta: Option<MetaWriter>,
    /// Whether the state was captured. From then on the capture is in this checkpoint alone.
    captured: bool,
    /// Whether the metalog may refer to the new files, although the checkpoint has failed.
    may_count: bool,
}

/// The most segment files that are kept open before they are synced and closed.
const UNSYNCED_MAX: usize = 64;

/// Makes a checkpoint. Only one may be made at a time. If it `may_rewrite`, it also rewrites segments that are mostly
/// dead, which needs space first.
///
/// # Errors
///
/// `Poisoned` if a sync failed; otherwise nothing was changed, and it can be tried again.
pub fn checkpoint(shared: &impl Shared, extent: Extent, may_rewrite: bool) -> Result<()> {
    let Some(mut work) = shared.with(|store| store.begin_checkpoint(extent)) else {
        return Ok(());
    };
    let done = make(shared, may_rewrite, &mut work);
    if done.is_err() {
        work.undo();
        let meta = work.meta.take();
        shared.with(|store| store.abandon_checkpoint(meta));
    }
    done
}

fn make(shared: &impl Shared, may_rewrite: bool, work: &mut Work) -> Result<()> {
    work.move_logs(shared)?;
    work.retain(shared, may_rewrite)?;

    let captured = work.capture(shared)?;
    if !seeded!(JournalIsNotSyncedBeforeTheMetalog) {
        shared.sync_to(captured.at)?;
    }
    work.sync_segments()?;
    let meta = work.commit_metalog(shared, &captured)?;

    for path in work.install(shared, meta) {
        // Nothing refers to the file. If the removal fails, a later sweep finds it.
        let _ = work.segments.disk.remove(&path);
    }
    if shared.with(|store| mem::take(&mut store.meta.unswept))
        && sweep(shared, &work.segments).is_err()
    {
        // The checkpoint is made all the same. The next one sweeps.
        shared.with(|store| store.meta.unswept = true);
    }
    work.remove_logs(&captured.deleted_logs);
    Ok(())
}

impl Store {
    fn begin_checkpoint(&mut self, extent: Extent) -> Option<Work> {
        let upto = match extent {
            Extent::All => self.journal.tail(),
            Extent::Older => self.journal.boundary_keeping(self.config.journal_bytes / 2),
            Extent::Oldest => self.journal.second_file(),
            Extent::Nothing => self.replay_from,
        };
        let upto = upto.max(self.replay_from);
        if upto == self.replay_from && !self.state.reclaimable && !self.meta.unswept {
            return None;
        }
        self.state.reclaimable = false;
        let slack = self.metalog_slack();
        let meta = self.meta.writer.take().filter(|meta| !meta.wants_compaction(slack));
        Some(Work {
            segments: self.segments.clone(),
            segment_bytes: self.config.segment_bytes,
            slice: self.config.slice,
            upto,
            changes: IdMap::default(),
            unsynced: Vec::new(),
            begun: Vec::new(),
            reopened: Vec::new(),
            meta,
            captured: false,
            may_count: false,
        })
    }

    /// Takes the metalog's writer back after a failure. Once the state was captured there is none:
    /// the file may end in the middle of an entry, and the capture is lost. So the next checkpoint
    /// begins a new file and captures everything.
    fn abandon_checkpoint(&mut self, meta: Option<MetaWriter>) {
        self.meta.writer = meta;
        self.meta.unswept = true;
        self.state.reclaimable = true;
    }

    /// Some logs with messages before a position of the journal, behind the last one that was returned.
    fn unmoved_behind(&self, last: (Lsn, LogId), position: Lsn) -> Vec<(Lsn, LogId)> {
        let logs = self.state.changed.unmoved_behind(last, position);
        logs.inspect(|_| audit::step()).take(self.config.slice).collect()
    }

    /// Begins to change the segments of a log: the change is to be captured. `None` if the log was deleted.
    pub(super) fn begin_change(&mut self, id: LogId) -> Option<LogChange> {
        let State { logs, changed, .. } = &mut self.state;
        let log = logs.get_mut(&id)?;
        changed.log(log);
        let (gone, put) = (Vec::new(), Vec::new());
        Some(LogChange { log: id, moved: log.moved, gone, put, captured: 0 })
    }

    /// Forgets segments of a log. Adds their files: nothing refers to them any more.
    fn forget_segments(&mut self, log: LogId, gone: &[SegmentState], garbage: &mut Vec<PathBuf>) {
        let State { logs, changed, .. } = &mut self.state;
        let Some(log) = logs.get_mut(&log) else { return };
        for segment in gone {
            audit::step();
            changed.judged(log, segment.base.to(segment.end));
            log.segments.remove(&segment.base);
            self.cache.forget(segment);
            garbage.push(self.segments.path(segment));
        }
    }

    /// Takes over the changes of one log.
    fn install_log(&mut self, change: LogChange, upto: Lsn, garbage: &mut Vec<PathBuf>) {
        audit::steps(change.put.len() as u64);
        self.forget_segments(change.log, &change.gone, garbage);
        let State { logs, changed, .. } = &mut self.state;
        let Some(log) = logs.get_mut(&change.log) else { return };
        log.moved = change.moved;
        for segment in change.put {
            self.cache.forget(&segment);
            let range = segment.base.to(segment.end);
            log.segments.insert(segment.base, segment);
            // Messages may have become dead since they were moved.
            changed.suspect(log, range);
        }
        log.tail.drop_below(change.moved);
        log.behind = None;
        changed.moved(log, upto);
    }

    /// Takes over the metalog of a checkpoint, once the changes of all logs were taken over. Returns the files that
    /// nothing refers to any more.
    fn install(&mut self, upto: Lsn, meta: MetaWriter) -> Vec<PathBuf> {
        let mut garbage = Vec::new();
        if meta.number() != self.meta.number {
            garbage.push(self.meta.place.layout.meta_file(self.meta.number));
            self.meta.number = meta.number();
        }
        self.meta.snapshot_bytes = meta.snapshot_bytes();
        self.meta.writer = Some(meta);
        self.replay_from = upto;
        self.may_outgrow = false;
        garbage.extend(self.journal.release_below(upto));
        garbage
    }
}

impl Work {
    fn move_logs(&mut self, shared: &impl Shared) -> Result<()> {
        let mut last = (Lsn(0), LogId(0));
        loop {
            let logs = shared.with(|store| store.unmoved_behind(last, self.upto));
            let Some(end) = logs.last() else { return Ok(()) };
            last = *end;
            for (_, log) in logs {
                self.move_log(shared, log)?;
            }
        }
    }

    /// Writes a capture of the state into the metalog. It counts once it is committed.
    fn capture(&mut self, shared: &impl Shared) -> Result<Captured> {
        let is_full = self.meta.is_none();
        let meta = match &mut self.meta {
            Some(meta) => meta,
            none => {
                let (place, store, last) =
                    shared.with(|store| (store.meta.place.clone(), store.id, store.meta.number));
                none.insert(MetaWriter::create(&place, store, last + 1)?)
            }
        };
        self.captured = true;
        let (mut walk, len) = shared.with(|store| {
            let walk = if is_full { store.begin_full_capture() } else { Walk::Changed };
            let len = store.capture_len(&walk);
            (walk, len)
        });
        // Commits may change as much as a slice captures, again and again. So the last slice takes all that is left.
        let slices = 8 + 2 * len / self.slice;
        for slice in 0.. {
            let most = if slice < slices { self.slice } else { usize::MAX };
            let changes = &mut self.changes;
            let (entries, captured) =
                shared.with(|store| store.capture_some(changes, &mut walk, most));
            meta.put_all(&entries)?;
            if let Some(captured) = captured {
                return Ok(captured);
            }
        }
        unreachable!("the last slice takes all")
    }

    fn install(&mut self, shared: &impl Shared, meta: MetaWriter) -> Vec<PathBuf> {
        let mut garbage = Vec::new();
        for change in self.changes.values_mut() {
            // The last ones may be of segments that were rewritten: their messages are in the new ones.
            let dead = change.gone.len().saturating_sub(REWRITTEN_MAX);
            if dead > self.slice {
                let dead: Vec<SegmentState> = change.gone.drain(..dead).collect();
                for some in dead.chunks(self.slice) {
                    shared.with(|store| store.forget_segments(change.log, some, &mut garbage));
                }
            }
        }
        let mut changes = mem::take(&mut self.changes).into_values().peekable();
        while changes.peek().is_some() {
            shared.with(|store| {
                let mut room = self.slice;
                while room > 0
                    && let Some(change) = changes.next()
                {
                    room = room.saturating_sub(1 + change.gone.len() + change.put.len());
                    store.install_log(change, self.upto, &mut garbage);
                }
            });
        }
        garbage.extend(shared.with(|store| store.install(self.upto, meta)));
        garbage
    }

    pub(super) fn reopen_segment(&mut self, state: SegmentState) -> Result<SegmentWriter> {
        let writer = SegmentWriter::reopen(&self.segments, &state)?;
        self.reopened.push(state);
        Ok(writer)
    }

    pub(super) fn begin_segment(
        &mut self,
        log: LogId,
        base: Offset,
        generation: u64,
        is_first: bool,
    ) -> Result<SegmentWriter> {
        self.begun.push(self.segments.layout.segment_file(log, base, generation));
        SegmentWriter::create(&self.segments, log, base, generation, is_first)
    }

    /// Takes over a complete segment. It is synced together with others.
    pub fn finish_writer(
        &mut self,
        mut writer: SegmentWriter,
        change: &mut LogChange,
    ) -> Result<()> {
        writer.flush()?;
        change.put.push(writer.state().clone());
        self.unsynced.push(writer);
        if self.unsynced.len() >= UNSYNCED_MAX { self.sync_segments() } else { Ok(()) }
    }

    /// Makes the capture durable.
    fn commit_metalog(&mut self, shared: &impl Shared, captured: &Captured) -> Result<MetaWriter> {
        let mut meta = self.meta.take().expect("the capture is in it");
        self.remove_early(shared, &captured.deleted_logs);
        let replay_from = if seeded!(ReplayBeginsTooLate) { captured.at } else { self.upto };
        self.may_count = true;
        meta.commit(replay_from, captured.at, captured.next_id)?;
        Ok(meta)
    }

    /// Deliberate bugs: files are removed before the metalog is durable that no longer refers to them.
    fn remove_early(&self, shared: &impl Shared, deleted_logs: &[LogId]) {
        if seeded!(FilesAreRecycledEarly) {
            for path in shared.with(|store| store.journal.release_below(self.upto)) {
                let _ = self.segments.disk.remove(&path);
            }
        }
        if seeded!(SegmentsAreRemovedEarly) {
            for segment in self.changes.values().flat_map(|change| &change.gone) {
                let _ = self.segments.disk.remove(&self.segments.path(segment));
            }
        }
        if seeded!(DeletedLogsAreRemovedEarly) {
            self.remove_logs(deleted_logs);
        }
    }

    /// Gives back the space of everything that was written. On a full disk it is needed at once.
    fn undo(&mut self) {
        self.unsynced.clear();
        if self.may_count {
            return;
        }
        if let Some(meta) = self.meta.take_if(|_| self.captured) {
            meta.abandon();
        }
        let disk = &self.segments.disk;
        // If a removal fails, a later sweep finds the file. What is behind a segment's committed length is
        // written over by the next checkpoint.
        for path in &self.begun {
            let _ = disk.remove(path);
        }
        for segment in &self.reopened {
            let opened = disk.open(&self.segments.path(segment), Open::Existing);
            let _ = opened.and_then(|file| file.cut(segment.bytes));
        }
    }

    fn sync_segments(&mut self) -> Result<()> {
        self.unsynced.drain(..).try_for_each(|writer| writer.sync())
    }

    /// Removes the segments of logs that were deleted.
    fn remove_logs(&self, logs: &[LogId]) {
        let disk = &*self.segments.disk;
        for log in logs {
            let dir = self.segments.layout.log_dir(*log);
            for name in disk.list(&dir).unwrap_or_default() {
                if segment_name(&name) != Named::Unknown {
                    let _ = disk.remove(&dir.join(name));
                }
            }
            let _ = disk.remove_dir(&dir);
        }
    }
}

/// Turns damage into `None`. Damage is reported to the consumer that reads it. A checkpoint works
/// around it, or else one bad block would in the end stop every queue.
pub(super) fn keep_going<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}
