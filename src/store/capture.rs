//! A capture: the state at one instant, S, which a checkpoint writes into the metalog.
//!
//! It is taken in slices, so that no hold of the core is long. The metalog has the newest entry of each key. So a slice
//! may be older than S: what changes behind it is listed as changed again, and captured once more. The slice that finds
//! nothing more to capture is the instant S.
//!
//! The entry of an entity stands before the entries of its logs and cursors: its deletion finds them by it.

use std::collections::BTreeSet;

use super::{
    Store,
    changed::Changed,
    checkpoint::LogChange,
    log::{Cursor, Log},
    state::{DeletedLogs, State},
};
use crate::{
    audit,
    format::meta::{CursorState, LogState, MetaEntry},
    ids::{CursorId, EntityId, IdMap, LogId, Lsn, Offset},
};

/// The instant at which a capture ended.
pub struct Captured {
    /// The entries reflect all commits before this position.
    pub at: Lsn,
    pub next_id: EntityId,
}

/// What is captured.
pub enum Walk {
    /// What changed since the last capture.
    Changed,
    /// Everything there is: first what the walk comes to, then what changed meanwhile.
    Everything(Place),
}

/// Where a walk over everything goes on.
#[derive(Clone, Copy)]
pub struct Place {
    entity: EntityId,
    partition: u32,
    part: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Entity,
    Log,
    Segments(Offset),
    Cursor,
    Chunks(u64),
}

impl Store {
    /// Begins to capture everything. What is listed as changed need not be captured for itself.
    pub(super) fn begin_full_capture(&mut self) -> Walk {
        self.state.changed.forget_all();
        self.state.changed.clock = self.state.clock.is_some();
        Walk::Everything(Place { entity: EntityId(0), partition: 0, part: Part::Entity })
    }

    /// About how many entries a capture takes.
    pub(super) fn capture_len(&self, walk: &Walk) -> usize {
        match walk {
            Walk::Changed => self.state.changed.len(),
            Walk::Everything(_) => {
                let State { logs, cursors, catalog, .. } = &self.state;
                logs.len() + cursors.len() + catalog.all().len()
            }
        }
    }

    /// Captures up to `most` entries. If nothing more is to be captured, returns the instant, and the deleted logs that the
    /// metalog names until it holds this capture.
    pub(super) fn capture_some(
        &mut self,
        changes: &mut IdMap<LogId, LogChange>,
        walk: &mut Walk,
        most: usize,
    ) -> (Vec<MetaEntry>, Option<(Captured, DeletedLogs)>) {
        let state = &mut self.state;
        let mut slice = Slice { entries: Vec::new(), passed: 0, most, changes };
        slice.take_entities(state);
        if state.changed.entities.is_empty() {
            if let Walk::Everything(place) = walk {
                while slice.has_room() && place.step(state, &mut slice) {}
                if slice.has_room() {
                    *walk = Walk::Changed;
                }
            }
            if matches!(walk, Walk::Changed) {
                slice.take_changed(state);
            }
        }
        let entries = slice.entries;
        audit::steps(entries.len() as u64);
        let ends = matches!(walk, Walk::Changed) && state.changed.is_captured();
        let captured = ends.then(|| {
            let captured = Captured { at: self.journal.tail(), next_id: state.catalog.next_id };
            (captured, std::mem::take(&mut state.deleted_logs))
        });
        (entries, captured)
    }
}

/// A slice of a capture.
struct Slice<'a> {
    entries: Vec<MetaEntry>,
    /// How many ids in the lists were passed over.
    passed: usize,
    most: usize,
    changes: &'a mut IdMap<LogId, LogChange>,
}

impl Slice<'_> {
    fn has_room(&self) -> bool {
        self.entries.len() + self.passed < self.most
    }

    fn take_entities(&mut self, state: &mut State) {
        while self.has_room()
            && let Some(id) = state.changed.entities.pop_first()
        {
            match state.catalog.get(id) {
                Some(entity) => self.entries.push(MetaEntry::Entity(entity.clone())),
                None if seeded!(DeletionIsNotCaptured) => {}
                None => self.entries.push(MetaEntry::EntityGone(id)),
            }
        }
        if std::mem::take(&mut state.changed.clock) && !seeded!(ClockIsNotCaptured) {
            self.entries.extend(state.clock.map(MetaEntry::Clock));
        }
    }

    fn take_changed(&mut self, state: &mut State) {
        let State { logs, cursors, changed, .. } = state;
        while self.has_room()
            && let Some(id) = changed.next_log()
        {
            audit::step();
            let Some(log) = logs.get_mut(&id).filter(|log| log.dirty) else {
                self.passed += 1;
                continue;
            };
            self.take_log(log);
            self.take_learned(log);
            if !self.take_segments(id) {
                changed.rest_of_log(log);
            }
        }
        while self.has_room()
            && let Some(id) = changed.next_cursor()
        {
            audit::step();
            match cursors.get_mut(&id).filter(|cursor| cursor.dirty) {
                Some(cursor) => self.take_cursor(cursor, changed),
                None => self.passed += 1,
            }
        }
    }

    fn take_log(&mut self, log: &mut Log) {
        log.dirty = false;
        let moved = self.changes.get(&log.id).map_or(log.moved, |change| change.moved);
        let mut state = LogState { moved, ..log.state() };
        if seeded!(TrimIsNotCaptured) {
            state.start = Offset(0);
        }
        self.entries.push(MetaEntry::Log(state));
    }

    /// The segments of which more is known by now, but for those that the checkpoint removes or changes.
    fn take_learned(&mut self, log: &mut Log) {
        let change = self.changes.get(&log.id);
        let changes = change.into_iter().flat_map(|it| it.removed().chain(&it.put));
        let changes: BTreeSet<Offset> = changes.map(|it| it.base).collect();
        let learned = std::mem::take(&mut log.learned).into_iter();
        let learned = learned.filter(|base| !changes.contains(base));
        let learned = learned.filter_map(|base| log.segments.get(&base));
        self.entries.extend(learned.cloned().map(MetaEntry::Segment));
    }

    /// What the checkpoint does to the segments of a log, as far as there is room. Returns whether that was all.
    fn take_segments(&mut self, log: LogId) -> bool {
        let Some(change) = self.changes.get_mut(&log) else { return true };
        let gone = change.removed();
        let gone = gone.map(|it| MetaEntry::SegmentGone { log: it.log, base: it.base });
        let all = gone.chain(change.put.iter().cloned().map(MetaEntry::Segment));
        let room = self.most.saturating_sub(self.entries.len()).max(1);
        let before = self.entries.len();
        self.entries.extend(all.skip(change.captured).take(room));
        let captured = change.captured + self.entries.len() - before;
        change.captured = captured;
        captured == change.len()
    }

    /// Captures a cursor, and as many of its changed chunks as there is room for.
    fn take_cursor(&mut self, cursor: &mut Cursor, changed: &mut Changed) {
        self.take_floor(cursor);
        while let Some(chunk) = cursor.next_changed_chunk() {
            self.entries.push(MetaEntry::Chunk(chunk));
            if !self.has_room() && cursor.has_changed_chunks() {
                changed.rest_of(cursor.id);
                return;
            }
        }
        cursor.dirty = false;
    }

    fn take_floor(&mut self, cursor: &Cursor) {
        if seeded!(GroupsAreNotCaptured) && cursor.acks().is_none() {
            return;
        }
        let (id, floor) = (cursor.id, cursor.floor());
        self.entries.push(MetaEntry::Cursor(CursorState { cursor: id, floor }));
    }

    /// The segments of a log from an offset on, but for those that the checkpoint removes. Returns where to go on.
    fn take_kept_segments(&mut self, log: &Log, from: Offset) -> Option<Offset> {
        let change = self.changes.get(&log.id);
        let gone = |base: Offset| change.is_some_and(|it| it.removed().any(|s| s.base == base));
        for (base, segment) in log.segments.range(from..) {
            if self.entries.len() >= self.most {
                return Some(*base);
            }
            audit::step();
            if !gone(*base) {
                self.entries.push(MetaEntry::Segment(segment.clone()));
            }
        }
        None
    }
}

impl Place {
    /// Captures the next part of everything. `false` if there is none.
    fn step(&mut self, state: &mut State, slice: &mut Slice<'_>) -> bool {
        let State { catalog, logs, cursors, .. } = state;
        let Some(entity) = catalog.at_or_behind(self.entity) else { return false };
        if entity.id != self.entity {
            *self = Place { entity: entity.id, partition: 0, part: Part::Entity };
        }
        let log = entity.id.log(self.partition);
        let cursor: CursorId = entity.id.cursor(self.partition);
        self.part = match self.part {
            Part::Entity => {
                slice.entries.push(MetaEntry::Entity(entity.clone()));
                Part::Log
            }
            Part::Log => match logs.get_mut(&log) {
                Some(log) => {
                    slice.take_log(log);
                    log.learned.clear();
                    Part::Segments(Offset(0))
                }
                None => Part::Cursor,
            },
            Part::Segments(from) => {
                let rest = logs.get(&log).and_then(|log| slice.take_kept_segments(log, from));
                if rest.is_none()
                    && let Some(change) = slice.changes.get_mut(&log)
                {
                    change.captured = change.len();
                    slice.entries.extend(change.put.iter().cloned().map(MetaEntry::Segment));
                }
                rest.map_or(Part::Cursor, Part::Segments)
            }
            Part::Cursor => match cursors.get_mut(&cursor) {
                Some(cursor) => {
                    cursor.dirty = false;
                    slice.take_floor(cursor);
                    Part::Chunks(0)
                }
                None => self.behind_partition(entity.partitions()),
            },
            Part::Chunks(from) => {
                let chunk = cursors.get_mut(&cursor).and_then(|it| it.capture_chunk_from(from));
                match chunk {
                    Some(chunk) => {
                        let next = chunk.chunk + 1;
                        slice.entries.push(MetaEntry::Chunk(chunk));
                        Part::Chunks(next)
                    }
                    None => self.behind_partition(entity.partitions()),
                }
            }
        };
        true
    }

    /// Goes on with the next partition, or the next entity.
    fn behind_partition(&mut self, partitions: u32) -> Part {
        self.partition += 1;
        if self.partition < partitions {
            return Part::Log;
        }
        (self.entity, self.partition) = (self.entity.plus(1), 0);
        Part::Entity
    }
}
