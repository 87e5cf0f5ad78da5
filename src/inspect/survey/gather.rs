//! Builds a state from the entries of a damaged metalog. It tolerates missing entries, and notes contradictions.

use std::collections::{BTreeMap, BTreeSet};

use super::orphans::Seen;
use crate::{
    format::{
        clock::ClockState,
        entity::{Creation, Entity},
        meta::{ChunkState, LogState, MetaEntry, SegmentState},
    },
    ids::{CursorId, EntityId, LogId, Offset},
    store::{Progress, State, remove_all},
};

/// Entries of a metalog, the newest of each key.
#[derive(Debug, Default)]
pub struct Gathered {
    pub entities: BTreeMap<EntityId, Entity>,
    /// The position of the last entry of each entity.
    pub described: BTreeMap<EntityId, u64>,
    pub gone: BTreeSet<EntityId>,
    pub logs: BTreeMap<LogId, LogState>,
    pub cursors: BTreeMap<CursorId, (u64, Offset)>,
    /// How far cursors with filters have seen their logs.
    seen: BTreeMap<CursorId, Offset>,
    /// The position of the first entry that creates each cursor. Entries before it are about no such cursor.
    pub since: BTreeMap<CursorId, u64>,
    pub chunks: BTreeMap<(CursorId, u64), ChunkState>,
    pub segments: BTreeMap<(LogId, Offset), SegmentState>,
    /// Former states of segments. Their files may still exist.
    pub former: Vec<SegmentState>,
    pub clock: Option<(u64, ClockState)>,
}

impl Gathered {
    pub fn of(entries: &[(u64, MetaEntry)]) -> Gathered {
        let mut gathered = Gathered::default();
        for (position, entry) in entries {
            gathered.take(*position, entry.clone());
        }
        gathered
    }

    fn take(&mut self, position: u64, entry: MetaEntry) {
        match entry {
            MetaEntry::Entity(entity) => {
                entity.lost_keeper().into_iter().for_each(|cursor| self.forget_cursor(cursor));
                for (cursor, _) in entity.cursors() {
                    self.since.entry(cursor).or_insert(position);
                }
                self.gone.remove(&entity.id);
                self.described.insert(entity.id, position);
                self.entities.insert(entity.id, entity);
            }
            MetaEntry::EntityGone(id) => self.forget(id),
            MetaEntry::Log(state) => drop(self.logs.insert(state.log, state)),
            MetaEntry::Cursor(state) => {
                self.cursors.insert(state.cursor, (position, state.floor));
                match state.seen {
                    Some(seen) => self.seen.insert(state.cursor, seen),
                    None => self.seen.remove(&state.cursor),
                };
            }
            MetaEntry::Chunk(state) => {
                self.chunks.insert((state.cursor, state.chunk), state);
            }
            MetaEntry::Segment(state) => {
                let key = (state.log, state.base);
                self.former.extend(self.segments.insert(key, state));
            }
            MetaEntry::SegmentGone { log, base } => {
                self.former.extend(self.segments.remove(&(log, base)));
            }
            MetaEntry::Checkpoint(_) => {}
            MetaEntry::Clock(state) => self.clock = Some((position, state)),
        }
    }

    fn forget(&mut self, id: EntityId) {
        self.gone.insert(id);
        let Some(entity) = self.entities.remove(&id) else {
            return;
        };
        self.gone.extend(entity.ids());
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

    /// Takes entities of which the journal holds other settings, and nothing else is left. Their acks are uncertain.
    ///
    /// Without damage to the metalog, a topic may be one that the replay makes. Its subscription waits for it.
    pub fn take_updated(&mut self, seen: &mut Seen, damaged: bool) {
        for id in std::mem::take(&mut seen.updated) {
            let Some(Creation { entity, .. }) = seen.created.get(&id) else { continue };
            let has_parent = entity.parent().is_none_or(|id| self.entities.contains_key(&id));
            if !has_parent && !damaged {
                continue;
            }
            if !self.gone.contains(&id) {
                self.entities.entry(id).or_insert(entity.clone());
            }
            seen.created.remove(&id);
        }
    }

    /// The state that the entries lead to, and their contradictions. With `doubts_filters`, no cursor follows its filter; what
    /// it had rejected is known as far as the entries go, if none of them is missing: if `is_whole`.
    pub fn state(&self, doubts_filters: bool, is_whole: bool) -> (State, Vec<&'static str>) {
        let clock = self.clock.map(|(_, clock)| clock);
        let mut state = State { clock, ..State::default() };
        (state.filtering.is_in_doubt, state.filtering.is_whole) = (doubts_filters, is_whole);
        let mut odd = Vec::new();
        for entity in self.entities.values() {
            state.attach(entity);
            state.catalog.insert(entity.clone());
        }
        self.restore_logs(&mut state, &mut odd);
        self.restore_cursors(&mut state, is_whole, &mut odd);
        (state, odd)
    }

    fn restore_logs(&self, state: &mut State, odd: &mut Vec<&'static str>) {
        for log in self.logs.values() {
            let Some(known) = state.logs.get_mut(&log.log) else {
                odd.push(STRAY);
                continue;
            };
            if log.start > log.next || log.moved > log.next {
                odd.push("a log's bounds contradict each other");
            }
            known.restore(log);
        }
        for segment in self.segments.values() {
            let Some(log) = state.logs.get_mut(&segment.log) else {
                odd.push(STRAY);
                continue;
            };
            let before = log.segments.values().next_back();
            let overlaps = before.is_some_and(|before| before.end > segment.base);
            if overlaps || segment.base > segment.end || segment.end > log.moved {
                odd.push("a log's segments contradict each other");
            }
            log.segments.insert(segment.clone());
        }
    }

    fn restore_cursors(&self, state: &mut State, is_whole: bool, odd: &mut Vec<&'static str>) {
        for chunk in self.chunks.values() {
            match state.cursors.get_mut(&chunk.cursor).map(|cursor| &mut cursor.progress) {
                Some(Progress::Acks(acks)) => {
                    odd.extend(acks.restore(chunk).err().map(|what| what.0));
                }
                _ => odd.push(STRAY),
            }
        }
        for (id, (_, floor)) in &self.cursors {
            let Some(cursor) = state.cursors.get_mut(id) else {
                odd.push(STRAY);
                continue;
            };
            let next = self.logs.get(&cursor.log).map(|log| log.next);
            match &mut cursor.progress {
                Progress::Acks(acks) => {
                    acks.restore_floor(*floor);
                    let seen = self.seen.get(id).copied();
                    if state.filtering.is_in_doubt {
                        let rejected = seen.zip(next).filter(|_| is_whole);
                        rejected.into_iter().for_each(|(seen, next)| acks.ack(seen.to(next)));
                    } else {
                        if seen.is_some() != acks.seen().is_some() {
                            odd.push("a cursor with a filter does not say what it has seen");
                        }
                        acks.restore_seen(seen);
                    }
                }
                Progress::At(next) => *next = *floor,
            }
        }
        let next = |log| self.logs.get(&log).map(|log| log.next);
        odd.extend(state.check_acks(next).err().map(|what| what.0));
    }
}

const STRAY: &str = "an entry refers to an entity that does not exist";
