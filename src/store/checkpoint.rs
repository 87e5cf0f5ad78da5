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

use std::mem;

use super::{
    Store,
    capture::Captured,
    files::SMALL_FILES,
    leftovers::sweep,
    state::{DeletedLogs, State},
};
use crate::{
    audit,
    error::Result,
    format::meta::{MetaEntry, Place, SegmentState},
    ids::{IdMap, LogId, Lsn, Offset},
    metalog::MetaWriter,
    segment::{OpenFiles, Output},
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
    /// Does what a capture waits for: messages [pass](super::passing) by the cursors that do not get them.
    fn settle(&self) {}
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
    /// Nothing, while the store is idle: more space is given back than while others need the disk.
    Idle,
    /// Up to a position: one part of a checkpoint. The first one also gives back the space of dead segments.
    Part { upto: Lsn, is_first: bool },
}

/// A part of a checkpoint frees so much of the journal, as a share of the length at which all senders wait.
const PART_SHARE: u64 = 8;

/// What a checkpoint does to the segments of one log.
#[derive(Debug)]
pub struct LogChange {
    pub log: LogId,
    /// Everything below is in segments now, or dead.
    pub moved: Offset,
    /// Segments without a live message, in the order of their offsets.
    pub gone: Vec<SegmentState>,
    /// Segments whose live messages are in those of `put`.
    pub replaced: Vec<SegmentState>,
    pub put: Vec<SegmentState>,
    /// How many of these segments the capture has.
    pub captured: usize,
}

impl LogChange {
    /// The segments that leave the log.
    pub fn removed(&self) -> impl Iterator<Item = &SegmentState> {
        self.gone.iter().chain(&self.replaced)
    }

    /// Whether the segment with a base leaves the log. Many may be gone, and few are replaced.
    pub fn removes(&self, base: Offset) -> bool {
        self.gone.binary_search_by_key(&base, |it| it.base).is_ok()
            || self.replaced.iter().inspect(|_| audit::step()).any(|it| it.base == base)
    }

    pub fn len(&self) -> usize {
        self.gone.len() + self.replaced.len() + self.put.len()
    }

    /// The entries of some of its segments, from one on.
    pub fn entries(&self, from: usize, most: usize) -> impl Iterator<Item = MetaEntry> {
        let gone = |it: &SegmentState| MetaEntry::SegmentGone { log: it.log, base: it.base };
        let put = |it: &SegmentState| MetaEntry::Segment(it.clone());
        let (first, second) = (self.gone.len(), self.gone.len() + self.replaced.len());
        (from..self.len().min(from.saturating_add(most))).map(move |n| match n {
            n if n < first => gone(&self.gone[n]),
            n if n < second => gone(&self.replaced[n - first]),
            n => put(&self.put[n - second]),
        })
    }

    /// Whether a segment was replaced or written by this checkpoint.
    pub fn is_fresh(&self, segment: &SegmentState) -> bool {
        self.replaced.iter().chain(&self.put).any(|it| it.base == segment.base)
    }
}

/// A checkpoint that is being made.
pub struct Work {
    /// The segment files that are written.
    pub out: Output,
    /// The shared files that are read.
    pub open: OpenFiles,
    /// How many bytes of messages were moved out of the journal, and how many of parts were taken along.
    pub moved: u64,
    pub absorbed: u64,
    /// The most entries, logs or segments that are dealt with in one access to the store.
    pub slice: usize,
    pub upto: Lsn,
    /// Whether a segment was dead when it began.
    pub had_dead_segment: bool,
    /// Whether segments may be rewritten.
    pub may_rewrite: bool,
    /// Whether it is one of several parts.
    pub is_part: bool,
    /// Whether it looks for dead segments.
    pub judges: bool,
    /// Whether the store is idle.
    pub is_idle: bool,
    /// How many bytes the segments have that were rewritten.
    pub rewritten: u64,
    /// Whether there are more segments to be rewritten than one checkpoint does.
    pub has_more: bool,
    /// Shared files that it rewrites.
    pub wasteful: Vec<u64>,
    /// Shared files that it would have rewritten, if the disk had space.
    pub put_off: Vec<u64>,
    pub changes: IdMap<LogId, LogChange>,
    /// The metalog's current file. `None` if the checkpoint begins a new one.
    meta: Option<MetaWriter>,
    /// Whether the state was captured. From then on the capture is in this checkpoint alone.
    captured: bool,
    /// The deleted logs that the capture has.
    pub(super) deleted: DeletedLogs,
    /// Whether the metalog may refer to the new files, although the checkpoint has failed.
    may_count: bool,
}

/// Makes a checkpoint. Only one may be made at a time. If it `may_rewrite`, it also rewrites segments that are mostly
/// dead, which needs space first.
///
/// # Errors
///
/// `Poisoned` if a sync failed; otherwise nothing was changed, and it can be tried again.
pub fn checkpoint(shared: &impl Shared, extent: Extent, may_rewrite: bool) -> Result<()> {
    let Some(mut work) = shared.with(|store| store.begin_checkpoint(extent, may_rewrite)) else {
        return Ok(());
    };
    let done = make(shared, &mut work);
    if done.is_err() {
        work.undo();
        let (meta, next, deleted) = (work.meta.take(), work.out.next(), work.deleted);
        shared.with(|store| {
            store.abandon_checkpoint(meta, next, deleted);
            store.state.has_dead_segment |= work.had_dead_segment;
            // They waste space as before.
            store.files.put_back(&work.wasteful);
            store.files.put_back(&work.put_off);
        });
    }
    done
}

fn make(shared: &impl Shared, work: &mut Work) -> Result<()> {
    work.move_logs(shared)?;
    if work.judges {
        work.suspect_wasteful(shared);
        work.retain(shared)?;
        work.rewrite_files(shared)?;
    }

    let captured = work.capture(shared)?;
    if !seeded!(JournalIsNotSyncedBeforeTheMetalog) {
        shared.sync_to(captured.at)?;
    }
    let written = work.out.sync()?;
    let meta = work.commit_metalog(shared, &captured)?;

    let mut garbage = work.install(shared, &written, meta);
    work.let_go_of_deleted(shared, &mut garbage);
    work.remove(shared, &garbage);
    if shared.with(|store| mem::take(&mut store.meta.unswept))
        && sweep(shared, work.out.segments()).is_err()
    {
        // The checkpoint is made all the same. The next one sweeps.
        shared.with(|store| store.meta.unswept = true);
    }
    Ok(())
}

impl Store {
    /// The checkpoint that an idle store wants: of the journal if that is long, or of the segments in which messages died.
    pub fn idle_extent(&self) -> Option<Extent> {
        let behind = self.journal.tail().0 - self.replay_from.0;
        if behind >= self.config.journal_bytes / 4 {
            return Some(Extent::All);
        }
        let changed = &self.state.changed;
        let has_dead = changed.dead > 0 || changed.unjudged || changed.has_wasteful();
        let wants = has_dead || self.is_reclaimable() || self.files.wants_rewrite(true);
        wants.then_some(Extent::Idle)
    }

    /// The parts in which a checkpoint is made, the oldest part of the journal first. Each is a whole checkpoint, so the
    /// journal becomes shorter as they go.
    pub fn parts(&self, extent: Extent) -> Vec<Extent> {
        let (end, mut from) = (self.end_of(extent), self.replay_from);
        let step = 2 * self.config.journal_bytes / PART_SHARE;
        let mut ends = Vec::new();
        for boundary in self.journal.boundaries().take_while(|boundary| *boundary < end) {
            audit::step();
            if boundary.0.saturating_sub(from.0) >= step {
                from = boundary;
                ends.push(boundary);
            }
        }
        if ends.is_empty() {
            return vec![extent];
        }
        ends.push(end);
        if seeded!(LaterPartGoesFirst) {
            // It leaves what stands before it to the part that comes now.
            ends.swap(0, 1);
        }
        let part = |(n, upto)| Extent::Part { upto, is_first: n == 0 };
        ends.into_iter().enumerate().map(part).collect()
    }

    fn end_of(&self, extent: Extent) -> Lsn {
        let end = match extent {
            Extent::All => self.journal.tail(),
            Extent::Older => self.journal.boundary_keeping(self.config.journal_bytes / 2),
            Extent::Oldest => self.journal.second_file(),
            Extent::Nothing | Extent::Idle => self.replay_from,
            Extent::Part { upto, .. } => upto,
        };
        end.max(self.replay_from)
    }

    fn begin_checkpoint(&mut self, extent: Extent, may_rewrite: bool) -> Option<Work> {
        let upto = self.end_of(extent);
        let judges = !matches!(extent, Extent::Part { is_first: false, .. });
        let is_idle = extent == Extent::Idle;
        let wants_capture = self.state.passing.wants_capture();
        let has_dead = self.state.reclaimable || wants_capture || self.state.changed.dead > 0;
        let reclaims = is_idle || judges && has_dead;
        if upto == self.replay_from && !reclaims && !self.meta.unswept {
            return None;
        }
        let had_dead_segment = self.state.has_dead_segment;
        if judges {
            self.state.reclaimable = false;
            self.state.has_dead_segment = false;
            self.state.changed.dead = 0;
            self.state.changed.unjudged = false;
        }
        let slack = self.metalog_slack();
        let meta = self.meta.writer.take().filter(|meta| !meta.wants_compaction(slack));
        let (next, is_known) = (self.files.next(), self.files.knows_fan_of_next());
        let segments = self.segments.clone();
        Some(Work {
            out: Output::new(segments, self.config.segment_bytes, next, is_known),
            open: OpenFiles::new(self.config.maps_max),
            moved: 0,
            absorbed: 0,
            slice: self.config.slice,
            upto,
            had_dead_segment,
            may_rewrite,
            is_part: matches!(extent, Extent::Part { .. }),
            judges,
            is_idle,
            rewritten: 0,
            has_more: false,
            wasteful: Vec::new(),
            put_off: Vec::new(),
            changes: IdMap::default(),
            meta,
            captured: false,
            deleted: DeletedLogs::new(),
            may_count: false,
        })
    }

    /// Takes the metalog's writer back after a failure. Once the state was captured there is none:
    /// the file may end in the middle of an entry, and the capture is lost. So the next checkpoint
    /// begins a new file and captures everything.
    fn abandon_checkpoint(&mut self, meta: Option<MetaWriter>, next: u64, deleted: DeletedLogs) {
        self.files.set_next(next);
        self.state.deleted_logs.extend(deleted);
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
        let (gone, replaced, put) = (Vec::new(), Vec::new(), Vec::new());
        Some(LogChange { log: id, moved: log.moved, gone, replaced, put, captured: 0 })
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
        let mut walk = shared.with(|store| store.begin_capture(is_full, self.slice));
        loop {
            let changes = &mut self.changes;
            shared.settle();
            let (entries, captured) = shared.with(|store| store.capture_some(changes, &mut walk));
            let captured = captured.map(|(captured, deleted)| {
                self.deleted = deleted;
                captured
            });
            meta.put_all(&entries)?;
            if let Some(captured) = captured {
                return Ok(captured);
            }
        }
    }

    /// Makes the capture durable.
    fn commit_metalog(&mut self, shared: &impl Shared, captured: &Captured) -> Result<MetaWriter> {
        let mut meta = self.meta.take().expect("the capture is in it");
        self.remove_early(shared);
        let replay_from = match self.is_part {
            _ if seeded!(ReplayBeginsTooLate) => captured.at,
            true if seeded!(PartFreesWhatIsNotMoved) => captured.at,
            _ => self.upto,
        };
        let committed = meta.commit(replay_from, captured.at, captured.next_id);
        self.may_count = meta.may_count();
        if let Err(error) = committed {
            // On a full disk most likely. If nothing of it counts, its space is given back.
            self.meta = (!self.may_count).then_some(meta);
            return Err(error);
        }
        Ok(meta)
    }

    /// Deliberate bugs: files are removed before the metalog is durable that no longer refers to them.
    fn remove_early(&self, shared: &impl Shared) {
        let segments = self.out.segments();
        if seeded!(FilesAreRecycledEarly) {
            for path in shared.with(|store| store.journal.release_below(self.upto)) {
                let _ = segments.disk.remove(&path);
            }
        }
        if seeded!(SegmentsAreRemovedEarly) {
            let removed = self.changes.values().flat_map(LogChange::removed);
            for segment in removed.filter(|it| it.place == Place::Own) {
                let _ = segments.disk.remove(&segments.path(segment));
            }
        }
        if seeded!(MergedFilesGoEarly) && self.wasteful.len() >= SMALL_FILES {
            for number in &self.wasteful {
                let _ = segments.disk.remove(&segments.layout.segment_file(*number));
            }
        }
        if seeded!(DeletedLogsAreRemovedEarly) {
            let deleted = self.deleted.values().flat_map(|it| it.values());
            for segment in deleted.filter(|it| it.place == Place::Own) {
                let _ = segments.disk.remove(&segments.path(segment));
            }
        }
    }

    /// Gives back the space of everything that was written. On a full disk it is needed at once.
    fn undo(&mut self) {
        self.out.let_go();
        if self.may_count {
            return;
        }
        if let Some(meta) = self.meta.take_if(|_| self.captured) {
            meta.abandon();
        }
        self.out.undo();
    }
}
