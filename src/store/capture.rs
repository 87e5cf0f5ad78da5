//! A capture: the state at one instant, S, which a checkpoint writes into the metalog.
//!
//! It is taken in slices, so that no hold of the core is long. The metalog has the newest entry of each key. So a slice
//! may be older than S: what changes behind it is listed as changed again, and captured once more. The slice that finds
//! nothing more to capture is the instant S.
//!
//! Logs and cursors are captured in passes: one captures what is listed when it begins, and what changes meanwhile belongs
//! to the next one. So each has its turn, also if others change all the time. If commits change more than half as much as a
//! slice may capture, the next slice may capture twice as much. So a slice is as long as what is changed between two slices,
//! or a few times that, however much there is to capture.
//!
//! The entry of an entity stands before the entries of its logs and cursors: its deletion finds them by it.
//!
//! A deletion is said twice, in two captures. If the place with one of them is damaged, salvage still knows that the entity was
//! deleted, and does not bring it back.

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

/// A capture that goes on.
pub struct Walk {
    /// Where the walk over everything goes on, which comes before what changed meanwhile.
    place: Option<Place>,
    /// Entities from here on were created meanwhile, so they are listed.
    end: EntityId,
    /// Deletions that are said again.
    gone: BTreeSet<EntityId>,
    /// The most entries of a slice.
    most: usize,
    pass: Pass,
    /// How many passes there were, but for those that only went on with the segments of logs.
    passes: u32,
    /// What was listed when the last slice ended.
    listings: u64,
    entities: usize,
}

/// So many logs and cursors are captured before those that are listed meanwhile.
#[derive(Default)]
struct Pass {
    logs: usize,
    cursors: usize,
    /// How many of the logs are left in part to the next pass.
    rests: usize,
}

impl Pass {
    fn is_over(&self) -> bool {
        self.logs == 0 && self.cursors == 0
    }
}

/// The chunks of acks that are changed again are not counted. After so many passes the slices become twice as large in any
/// case.
const PASSES: u32 = 16;

impl Walk {
    /// Begins a slice. If commits have listed much meanwhile, it is larger than the last one.
    fn begin_slice(&mut self, changed: &Changed) {
        let entities = changed.entities.len().saturating_sub(self.entities);
        let listed = changed.listings - self.listings + entities as u64;
        if listed > self.most as u64 / 2 {
            self.most = self.most.saturating_mul(2);
        }
    }

    fn end_slice(&mut self, changed: &Changed) {
        (self.listings, self.entities) = (changed.listings, changed.entities.len());
    }

    /// Begins the next pass. `false` if there is nothing to capture.
    fn begin_pass(&mut self, changed: &Changed) -> bool {
        let (logs, cursors) = changed.listed();
        if logs + cursors > self.pass.rests {
            self.passes += 1;
            if self.passes.is_multiple_of(PASSES) {
                self.most = self.most.saturating_mul(2);
            }
        }
        self.pass = Pass { logs, cursors, rests: 0 };
        !self.pass.is_over()
    }
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
    /// Begins to capture what changed, or everything: then what is listed as changed need not be captured for itself.
    pub(super) fn begin_capture(&mut self, is_full: bool, most: usize) -> Walk {
        let place = is_full.then(|| {
            self.state.changed.forget_all();
            self.state.changed.clock = self.state.clock.is_some();
            Place { entity: EntityId(0), partition: 0, part: Part::Entity }
        });
        // A metalog that begins anew names no entity that is gone.
        let mut gone = std::mem::take(&mut self.state.changed.gone);
        gone.retain(|_| !is_full);
        let (changed, end) = (&self.state.changed, self.state.catalog.next_id);
        let (listings, entities) = (changed.listings, changed.entities.len());
        Walk { place, end, gone, most, pass: Pass::default(), passes: 0, listings, entities }
    }

    /// Captures a slice. If nothing more is to be captured, returns the instant, and the deleted logs that the
    /// metalog names until it holds this capture.
    pub(super) fn capture_some(
        &mut self,
        changes: &mut IdMap<LogId, LogChange>,
        walk: &mut Walk,
    ) -> (Vec<MetaEntry>, Option<(Captured, DeletedLogs)>) {
        let state = &mut self.state;
        walk.begin_slice(&state.changed);
        let mut slice = Slice { entries: Vec::new(), passed: 0, most: walk.most, changes };
        slice.take_entities(state);
        while slice.has_room()
            && let Some(id) = walk.gone.pop_first()
        {
            slice.entries.push(MetaEntry::EntityGone(id));
        }
        if state.changed.entities.is_empty() {
            if let Some(place) = &mut walk.place {
                while slice.has_room() && place.step(state, walk.end, &mut slice) {}
                if slice.has_room() {
                    walk.place = None;
                }
            }
            if walk.place.is_none() {
                slice.take_changed(state, walk);
            }
        }
        walk.end_slice(&state.changed);
        let entries = slice.entries;
        audit::steps(entries.len() as u64);
        let waits = !state.passing.is_empty() && !seeded!(CheckpointForgetsTheOthers);
        let is_captured = state.changed.is_captured() && !waits;
        let ends = walk.place.is_none() && walk.gone.is_empty() && is_captured;
        if ends {
            state.passing.is_captured();
        }
        let captured = ends.then(|| {
            let captured = Captured { at: self.journal.tail(), next_id: state.catalog.next_id };
            (captured, std::mem::take(&mut state.deleted_logs))
        });
        (entries, captured)
    }
}

#[cfg(test)]
impl Store {
    /// Has the next checkpoint capture everything.
    pub fn begin_metalog_anew(&mut self) {
        (self.meta.writer, self.meta.unswept) = (None, true);
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
                None => {
                    self.entries.push(MetaEntry::EntityGone(id));
                    state.changed.gone.insert(id);
                }
            }
        }
        if std::mem::take(&mut state.changed.clock) && !seeded!(ClockIsNotCaptured) {
            self.entries.extend(state.clock.map(MetaEntry::Clock));
        }
    }

    /// Goes on with a pass over the lists, and begins others while there is room.
    fn take_changed(&mut self, state: &mut State, walk: &mut Walk) {
        while self.has_room() {
            if walk.pass.is_over() && !walk.begin_pass(&state.changed) {
                return;
            }
            self.take_listed(state, &mut walk.pass);
        }
    }

    fn take_listed(&mut self, state: &mut State, pass: &mut Pass) {
        let State { logs, cursors, changed, .. } = state;
        while self.has_room()
            && pass.logs > 0
            && let Some(id) = changed.next_log()
        {
            audit::step();
            pass.logs -= 1;
            let Some(log) = logs.get_mut(&id).filter(|log| log.dirty) else {
                self.passed += 1;
                continue;
            };
            self.take_log(log);
            self.take_learned(log);
            if !self.take_segments(id) {
                changed.rest_of_log(log);
                pass.rests += 1;
            }
        }
        while self.has_room()
            && pass.cursors > 0
            && let Some(id) = changed.next_cursor()
        {
            audit::step();
            pass.cursors -= 1;
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
        let is_changed = |base: Offset| {
            change.is_some_and(|it| it.removes(base) || it.put.iter().any(|put| put.base == base))
        };
        if log.judging.learned.is_empty() {
            return;
        }
        let learned = std::mem::take(&mut log.judging.learned).into_iter();
        let learned = learned.filter(|base| !is_changed(*base));
        let learned = learned.filter_map(|base| log.segments.get(base));
        self.entries.extend(learned.cloned().map(MetaEntry::Segment));
        log.shrink_judging();
    }

    /// What the checkpoint does to the segments of a log, as far as there is room. Returns whether that was all.
    fn take_segments(&mut self, log: LogId) -> bool {
        let Some(change) = self.changes.get_mut(&log) else { return true };
        let room = self.most.saturating_sub(self.entries.len()).max(1);
        let before = self.entries.len();
        self.entries.extend(change.entries(change.captured, room));
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
        let (id, floor, seen) = (cursor.id, cursor.floor(), cursor.seen());
        self.entries.push(MetaEntry::Cursor(CursorState { cursor: id, floor, seen }));
    }

    /// The segments of a log from an offset on, but for those that the checkpoint removes. Returns where to go on.
    fn take_kept_segments(&mut self, log: &Log, from: Offset) -> Option<Offset> {
        let change = self.changes.get(&log.id);
        let gone = |base: Offset| change.is_some_and(|it| it.removes(base));
        for segment in log.segments.range(from..) {
            if !self.has_room() {
                return Some(segment.base);
            }
            audit::step();
            if gone(segment.base) {
                self.passed += 1;
            } else {
                self.entries.push(MetaEntry::Segment(segment.clone()));
            }
        }
        None
    }
}

impl Place {
    /// Captures the next part of everything. `false` if there is none.
    fn step(&mut self, state: &mut State, end: EntityId, slice: &mut Slice<'_>) -> bool {
        let State { catalog, logs, cursors, .. } = state;
        let found = catalog.at_or_behind(self.entity).filter(|found| found.id < end);
        let Some(entity) = found else { return false };
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
                    if !log.judging.learned.is_empty() {
                        log.judging.learned.clear();
                    }
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
