//! A capture: the state at one instant, which a checkpoint writes into the metalog.

use std::mem;

use super::{
    Store,
    checkpoint::LogChange,
    log::{Cursor, Log},
    state::State,
};
use crate::{
    audit,
    format::meta::{CursorState, LogState, MetaEntry, SegmentState},
    ids::{EntityId, IdMap, LogId, Lsn, Offset},
};

pub struct Capture {
    pub entries: Vec<MetaEntry>,
    /// The entries reflect all commits before this position.
    pub at: Lsn,
    pub next_id: EntityId,
    /// Logs that the metalog refers to until it holds this capture.
    pub deleted_logs: Vec<LogId>,
}

impl Store {
    /// Captures everything that changed since the last capture, or everything there is.
    pub(super) fn capture(&mut self, changes: &IdMap<LogId, LogChange>, full: bool) -> Capture {
        let state = &mut self.state;
        let mut entries = Vec::new();
        capture_entities(state, full, &mut entries);
        let is_due = mem::take(&mut state.clock_changed) || full;
        let clock = state.clock.filter(|_| is_due && !seeded!(ClockIsNotCaptured));
        entries.extend(clock.map(MetaEntry::Clock));
        audit::steps((state.logs.len() + state.cursors.len()) as u64);
        let mut logs: Vec<_> = state.logs.values_mut().collect();
        logs.sort_unstable_by_key(|log| log.id);
        for log in logs {
            capture_log(log, changes.get(&log.id), full, &mut entries);
        }
        let mut cursors: Vec<_> = state.cursors.values_mut().collect();
        cursors.sort_unstable_by_key(|cursor| cursor.id);
        for cursor in cursors {
            capture_cursor(cursor, full, &mut entries);
        }
        audit::steps(entries.len() as u64);
        Capture {
            entries,
            at: self.journal.tail(),
            next_id: state.catalog.next_id,
            deleted_logs: mem::take(&mut state.deleted_logs),
        }
    }
}

fn capture_entities(state: &mut State, full: bool, entries: &mut Vec<MetaEntry>) {
    let mut changed = mem::take(&mut state.changed_entities);
    if full {
        entries.extend(state.catalog.all().cloned().map(MetaEntry::Entity));
        return;
    }
    changed.sort_unstable();
    changed.dedup();
    for id in changed {
        match state.catalog.get(id) {
            Some(entity) => entries.push(MetaEntry::Entity(entity.clone())),
            None if seeded!(DeletionIsNotCaptured) => {}
            None => entries.push(MetaEntry::EntityGone(id)),
        }
    }
}

fn capture_log(
    log: &mut Log,
    change: Option<&LogChange>,
    full: bool,
    entries: &mut Vec<MetaEntry>,
) {
    if mem::take(&mut log.dirty) || full || change.is_some() {
        let moved = change.map_or(log.moved, |change| change.moved);
        let mut state = LogState { moved, ..log.state() };
        if seeded!(TrimIsNotCaptured) {
            state.start = Offset(0);
        }
        entries.push(MetaEntry::Log(state));
    }
    let learned = mem::take(&mut log.learned);
    let gone = |base: &Offset| change.is_some_and(|it| it.gone.iter().any(|s| s.base == *base));
    let mut keep = |segment: &SegmentState| {
        if !gone(&segment.base) {
            entries.push(MetaEntry::Segment(segment.clone()));
        }
    };
    if full {
        log.segments.values().for_each(keep);
    } else {
        learned.iter().filter_map(|base| log.segments.get(base)).for_each(&mut keep);
    }
    if let Some(change) = change {
        if !full {
            let gone = change.gone.iter();
            entries.extend(gone.map(|it| MetaEntry::SegmentGone { log: it.log, base: it.base }));
        }
        entries.extend(change.put.iter().cloned().map(MetaEntry::Segment));
    }
}

fn capture_cursor(cursor: &mut Cursor, full: bool, entries: &mut Vec<MetaEntry>) {
    if !mem::take(&mut cursor.dirty) && !full {
        return;
    }
    if seeded!(GroupsAreNotCaptured) && cursor.acks().is_none() {
        return;
    }
    let (id, floor) = (cursor.id, cursor.floor());
    entries.push(MetaEntry::Cursor(CursorState { cursor: id, floor }));
    entries.extend(cursor.capture_chunks(full).into_iter().map(MetaEntry::Chunk));
}
