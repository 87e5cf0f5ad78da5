//! The end of a checkpoint, once its metalog is durable: the state takes over what was done to the segments, some logs at a
//! time, and the files that nothing refers to any more are removed.

use std::{collections::BTreeSet, mem, path::PathBuf};

use super::{
    Store,
    checkpoint::{LogChange, Shared, Work},
    state::State,
};
use crate::{
    audit,
    format::meta::{Place, SegmentState},
    ids::{LogId, Lsn},
    metalog::MetaWriter,
    segment::Written,
};

impl Work {
    /// Takes over a checkpoint that counts. Returns the files that nothing refers to any more.
    pub(super) fn install(
        &mut self,
        shared: &impl Shared,
        written: &[Written],
        meta: MetaWriter,
    ) -> Vec<PathBuf> {
        let mut garbage = Vec::new();
        shared.with(|store| {
            store.files.set_next(self.out.next());
            written.iter().for_each(|file| store.files.add(*file));
        });
        for change in self.changes.values_mut().filter(|it| it.gone.len() > self.slice) {
            // Readers need the others until those take their place.
            let gone = mem::take(&mut change.gone);
            for some in gone.chunks(self.slice) {
                shared.with(|store| store.forget_segments(change.log, some, &mut garbage));
            }
        }
        let mut changes = mem::take(&mut self.changes).into_values().peekable();
        while changes.peek().is_some() {
            shared.with(|store| {
                let mut room = self.slice;
                while room > 0
                    && let Some(change) = changes.next()
                {
                    room = room.saturating_sub(1 + change.len());
                    store.install_log(change, self.upto, &mut garbage);
                }
            });
        }
        garbage.extend(shared.with(|store| {
            // A checkpoint that may not rewrite, as the disk is full, asks for no other one: that would rewrite nothing, too.
            let wants_more = self.may_rewrite && store.files.wants_rewrite(self.is_idle);
            store.state.reclaimable |= self.has_more || wants_more;
            let unused = store.install(self.upto, written, meta);
            // They wait for the next checkpoint. None is asked for, as the disk is full.
            store.files.put_back(&self.put_off);
            unused
        }));
        garbage
    }

    /// Lets go of the segments of logs that were deleted, some at a time.
    pub(super) fn let_go_of_deleted(&mut self, shared: &impl Shared, garbage: &mut Vec<PathBuf>) {
        for segments in mem::take(&mut self.deleted).into_values() {
            let mut rest = segments.values().peekable();
            while rest.peek().is_some() {
                let some = rest.by_ref().take(self.slice);
                shared.with(|store| store.let_go(some, garbage));
            }
            if seeded!(DeletionTakesTheFilesOfOthers) {
                garbage.extend(segments.values().map(|it| self.out.segments().path(it)));
            }
        }
    }

    /// Removes files to which nothing refers, and directories of logs that are empty by then. If that fails, the next
    /// checkpoint looks for them.
    pub(super) fn remove(&self, shared: &impl Shared, garbage: &[PathBuf]) {
        let segments = self.out.segments();
        let mut dirs = BTreeSet::new();
        for path in garbage {
            if segments.disk.remove(path).is_err() {
                shared.with(|store| store.meta.unswept = true);
            }
            let parent = path.parent().filter(|dir| segments.layout.is_log_dir(dir));
            dirs.extend(parent);
        }
        for dir in dirs {
            // Removing a directory that is not empty fails, as intended.
            let _ = segments.disk.remove_dir(dir);
        }
    }
}

impl Store {
    /// Segments no longer refer to their files. Adds the files to which nothing refers any more.
    fn let_go<'a>(
        &mut self,
        segments: impl Iterator<Item = &'a SegmentState>,
        garbage: &mut Vec<PathBuf>,
    ) {
        for segment in segments {
            audit::step();
            self.cache.forget(segment);
            self.state.changed.stays(segment.log, segment.base, false);
            if self.files.leave(segment) {
                garbage.push(self.segments.path(segment));
            }
        }
    }

    /// Forgets segments of a log.
    fn forget_segments(&mut self, log: LogId, gone: &[SegmentState], garbage: &mut Vec<PathBuf>) {
        let State { logs, changed, deleted_logs, .. } = &mut self.state;
        let removed: Vec<SegmentState> = if let Some(log) = logs.get_mut(&log) {
            gone.iter()
                .filter_map(|segment| {
                    changed.judged(log, segment.base.to(segment.end));
                    log.segments.remove(segment.base)
                })
                .collect()
        } else if let Some(segments) = deleted_logs.get_mut(&log) {
            // The metalog does not know yet that the log was deleted.
            gone.iter().filter_map(|segment| segments.remove(segment.base)).collect()
        } else {
            // The checkpoint lets go of all segments of the log.
            return;
        };
        self.let_go(removed.iter(), garbage);
    }

    /// Deliberate bug: forgets a segment before another takes its place.
    pub(super) fn forget_now(&mut self, segment: &SegmentState) {
        let mut garbage = Vec::new();
        self.forget_segments(segment.log, std::slice::from_ref(segment), &mut garbage);
    }

    /// Takes over the changes of one log.
    fn install_log(&mut self, change: LogChange, upto: Lsn, garbage: &mut Vec<PathBuf>) {
        audit::steps(change.put.len() as u64);
        self.forget_segments(change.log, &change.gone, garbage);
        self.forget_segments(change.log, &change.replaced, garbage);
        if let Some(log) = self.state.logs.get_mut(&change.log) {
            log.moved = change.moved;
        }
        for segment in change.put {
            self.cache.forget(&segment);
            let range = segment.base.to(segment.end);
            let State { logs, changed, deleted_logs, .. } = &mut self.state;
            let before = if let Some(log) = logs.get_mut(&change.log) {
                let before = log.segments.insert(segment.clone());
                // Messages may have become dead since they were moved.
                changed.suspect(log, range);
                before
            } else if let Some(segments) = deleted_logs.get_mut(&change.log) {
                segments.insert(segment.clone())
            } else {
                if segment.place == Place::Own && !self.files.knows(segment.generation) {
                    garbage.push(self.segments.path(&segment));
                }
                continue;
            };
            self.files.enter(&segment);
            self.let_go(before.iter(), garbage);
        }
        let State { logs, changed, .. } = &mut self.state;
        let Some(log) = logs.get_mut(&change.log) else { return };
        log.tail.drop_below(change.moved);
        log.tail.shrink();
        changed.moved(log, upto);
    }

    /// Takes over the metalog of a checkpoint, once the changes of all logs were taken over. Returns the files that
    /// nothing refers to any more.
    fn install(&mut self, upto: Lsn, written: &[Written], meta: MetaWriter) -> Vec<PathBuf> {
        let mut garbage = Vec::new();
        // All logs with a part in the file may have been deleted meanwhile.
        for Written { number, bytes } in written.iter().copied() {
            if self.files.forget_unused(number) {
                garbage.push(self.segments.layout.segment_file(number));
            }
            self.files.found(number, bytes);
        }
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
