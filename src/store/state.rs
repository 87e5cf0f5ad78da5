//! The state of a store in memory, and all its changes.
//!
//! A commit applies its changes once its frame is in the journal. Recovery applies the same changes
//! with the same function when it reads the frame again. Each change is idempotent or checked.

use std::{collections::BTreeMap, mem};

use super::{
    acks::{AckSet, acked_by_all},
    catalog::Catalog,
    changed::Changed,
    deletion::AllDying,
    ends::Expiring,
    filters::Filtering,
    living::Living,
    log::{Cursor, Freed, Log, Progress},
    passing::AllPassing,
    ranges::join,
    retaining::Retaining,
    series::Series,
    tail::RunPlace,
};
use crate::{
    audit, error,
    format::{
        Malformed,
        clock::ClockState,
        commit::{Change, OffsetRanges, Run},
        entity::{Creation, Entity, EntityKind},
        lives::Lives,
    },
    ids::{CursorId, Due, LogId, Lsn, Now, Offset, OffsetRange},
};

/// Logs that were deleted, with the segments that they had.
pub type DeletedLogs = BTreeMap<LogId, Series>;

#[derive(Debug, Default)]
pub struct State {
    pub catalog: Catalog,
    pub logs: Living<LogId, Log>,
    pub cursors: Living<CursorId, Cursor>,
    /// What changed since the last checkpoint.
    pub changed: Changed,
    /// The segments of deleted logs that the metalog still names.
    pub deleted_logs: DeletedLogs,
    /// Whether a checkpoint has work though no message is to be moved: a segment is dead, so that it frees space, or it writes
    /// down lives that were learned.
    pub reclaimable: bool,
    /// Whether a segment is dead: the next checkpoint frees space.
    pub has_dead_segment: bool,
    /// When lives end.
    pub expiring: Expiring,
    /// The clocks, once they were recorded.
    pub clock: Option<ClockState>,
    /// What was deleted, and is not out of memory yet.
    pub dying: AllDying,
    /// Messages that pass by cursors whose turn is still to come.
    pub passing: AllPassing,
    /// The filters of subscriptions. Those of a topic are in its log.
    pub filtering: Filtering,
    /// Streams whose records may leave.
    pub retaining: Retaining,
    /// What was deleted, to be dropped by a caller that holds no lock: it may be much.
    pub freed: Freed,
}

/// A change that contradicts the state. The journal and the metalog do not fit together.
pub(super) const UNKNOWN: Malformed = Malformed("a commit refers to something that does not exist");

impl State {
    fn create(&mut self, creation: &Creation) {
        let entity = &creation.entity;
        self.attach(entity);
        for log in entity.logs() {
            let log = self.logs.get_mut(&log).expect("attach has made it");
            self.changed.log(log);
        }
        for ((id, _), start) in entity.cursors().zip(&creation.starts) {
            let cursor = self.cursors.get_mut(&id).expect("attach has made it");
            self.changed.cursor(cursor);
            match &mut cursor.progress {
                Progress::Acks(acks) => {
                    let before = acks.held();
                    let is_filtered = acks.seen().is_some();
                    *acks = AckSet::new(*start);
                    if let Some(log) = self.logs.get_mut(&cursor.log) {
                        if *start < log.next() {
                            // Lives may be over that have ended for all others.
                            self.expiring.look_again(log);
                        }
                        // What is there already, and it does not get, is acked for it.
                        if is_filtered {
                            acks.begin_filter(log.next().max(*start));
                        }
                        log.note_floor(before, acks.held());
                    }
                }
                Progress::At(next) => *next = *start,
            }
            if cursor.spares {
                self.retaining.follow_group(cursor.log, Offset(0), *start);
            }
        }
        self.changed.entities.insert(entity.id);
        self.catalog.insert(entity.clone());
    }

    /// A log. Fails if it was deleted.
    #[inline]
    pub fn log(&self, log: LogId) -> error::Result<&Log> {
        match self.logs.get(&log) {
            Some(log) => Ok(log),
            None => Err(self.catalog.deleted(log.entity())),
        }
    }

    /// The due time of a message that is moved into a queue with its due time. A time of day stays also if it has passed: the
    /// clock may be ahead. A queue that is ordered by key delays nothing.
    pub fn kept_due(&self, log: LogId, due: Due, now: Now) -> Due {
        let queue = self.catalog.get(log.entity()).and_then(Entity::delivering);
        let may_wait = queue.is_some_and(|it| !it.is_ordered);
        let stays = due.even_time(now.skew()) > now.even || due.is_day() && may_wait;
        if stays { due } else { Due::NOW }
    }

    /// Gives an entity other settings. Its logs and cursors stay.
    fn update(&mut self, entity: &Entity) -> Result<(), Malformed> {
        let there = self.catalog.get(entity.id).ok_or(UNKNOWN)?;
        if !entity.has_shape_of(there) {
            return Err(Malformed("settings that do not fit the entity"));
        }
        let there = there.clone();
        self.change_time_to_live(&there, entity);
        self.change_filter(&there, entity);
        self.change_keeper(&there, entity);
        if !seeded!(LimitsStayAsTheyWere) {
            self.follow_retention(entity);
        }
        self.catalog.insert(entity.clone());
        if !seeded!(SettingsAreNotCaptured) {
            self.changed.entities.insert(entity.id);
        }
        Ok(())
    }

    /// Makes the logs and cursors that belong to an entity.
    pub fn attach(&mut self, entity: &Entity) {
        let keeps_acked = matches!(entity.kind, EntityKind::Stream { .. });
        for log in entity.logs() {
            audit::step();
            self.logs.insert_new(log, || Log::new(log, keeps_acked));
        }
        let is_group = matches!(entity.kind, EntityKind::Group { .. });
        for (id, log) in entity.cursors() {
            audit::step();
            let progress =
                if is_group { Progress::At(Offset(0)) } else { Progress::Acks(AckSet::default()) };
            self.cursors
                .insert(id, Box::new(Cursor { id, log, progress, dirty: false, spares: false }));
            self.attach_filter(entity, id, log);
            let State { logs, cursors, .. } = self;
            if !is_group && let Some(log) = logs.get_mut(&log) {
                let held_by = |cursor| held_by(cursors, cursor);
                log.add_cursor(id, held_by(id), held_by);
                log.limit_lives(entity.delivering().map_or(0, |it| it.time_to_live_ms));
            }
        }
        self.follow_retention(entity);
    }

    /// Counts the floors of the cursors over each log, once they are restored.
    pub fn count_floors(&mut self) {
        let State { logs, cursors, .. } = self;
        logs.values_mut().for_each(|log| log.count_floors(|cursor| held_by(cursors, cursor)));
    }

    #[inline]
    fn ack_cursor(&mut self, cursor: CursorId) -> Result<(&mut AckSet, LogId), Malformed> {
        let cursor = self.cursors.get_mut(&cursor).ok_or(UNKNOWN)?;
        self.changed.cursor(cursor);
        match &mut cursor.progress {
            Progress::Acks(acks) => Ok((acks, cursor.log)),
            Progress::At(_) => Err(UNKNOWN),
        }
    }

    #[inline]
    fn ack(&mut self, cursor: CursorId, offsets: &OffsetRanges<'_>) -> Result<(), Malformed> {
        let cursor = self.cursors.get_mut(&cursor).ok_or(UNKNOWN)?;
        let floors = ack_in(cursor, &mut self.changed, |acks| match offsets {
            // Most acks are of one message.
            OffsetRanges::Listed([offset]) => acks.ack(offset.only()),
            _ => offsets.for_each(|range| acks.ack(range)),
        })?;
        self.note_acked(floors, offsets);
        Ok(())
    }

    /// Notes what acks mean for the log.
    #[inline(always)]
    pub fn note_acked(&mut self, floors: Floors, offsets: &OffsetRanges<'_>) {
        let Some(log) = self.logs.get_mut(&floors.log) else { return };
        if { *offsets }.next().is_some_and(|first| first.start < log.moved) {
            self.changed.died(log, offsets);
        }
        if floors.held != floors.before {
            let is_dead = floor_moved(log, floors);
            self.reclaimable |= is_dead;
            self.has_dead_segment |= is_dead;
        }
    }

    fn seek(&mut self, cursor: CursorId, to: Offset) -> Result<(), Malformed> {
        let cursor = self.cursors.get_mut(&cursor).ok_or(UNKNOWN)?;
        self.changed.cursor(cursor);
        match &mut cursor.progress {
            Progress::At(next) => {
                let before = mem::replace(next, to);
                if cursor.spares {
                    self.retaining.follow_group(cursor.log, before, to);
                }
            }
            Progress::Acks(_) => return Err(UNKNOWN),
        }
        Ok(())
    }

    fn trim(&mut self, log: LogId, start: Offset) -> Result<(), Malformed> {
        let log = self.logs.get_mut(&log).ok_or(UNKNOWN)?;
        self.changed.trimmed(log, log.start.to(start));
        log.start = log.start.max(start);
        self.changed.log(log);
        log.tail.drop_below(start);
        let is_dead = log.first_segment_end().is_some_and(|end| end <= log.start);
        self.reclaimable |= is_dead;
        self.has_dead_segment |= is_dead;
        Ok(())
    }

    /// Applies a change. `at` is the position of its first byte in the journal. A commit calls this
    /// after it has written its frame, and recovery after it has read the frame.
    #[inline(always)]
    pub fn apply(&mut self, change: &Change<'_>, at: Lsn) -> Result<(), Malformed> {
        // Most changes are runs of messages, and acks.
        match change {
            Change::Run(run) => self.append_run(run, at, || Lives::of_run(run)),
            Change::Ack { cursor, offsets } => self.ack(*cursor, offsets),
            _ => self.apply_any(change, at),
        }
    }

    /// Adds a run to a log. `lives` returns the lives of its messages.
    #[inline(always)]
    pub fn append_run(
        &mut self,
        run: &Run<'_>,
        at: Lsn,
        lives: impl FnOnce() -> Lives,
    ) -> Result<(), Malformed> {
        let State { logs, expiring, changed, .. } = self;
        let log = logs.get_mut(&run.log).ok_or(UNKNOWN)?;
        if run.first != log.next() {
            return Err(Malformed("a commit's messages do not follow the ones before"));
        }
        let place = RunPlace { first: run.first, lsn: at, len: run.len() };
        note_run(log, expiring, changed, place, run.end(), lives);
        Ok(())
    }

    fn apply_any(&mut self, change: &Change<'_>, at: Lsn) -> Result<(), Malformed> {
        match change {
            Change::Run(run) => self.append_run(run, at, || Lives::of_run(run)),
            Change::Ack { cursor, offsets } => self.ack(*cursor, offsets),
            Change::Defer { cursor, offset, attempts, due } => {
                self.ack_cursor(*cursor)?.0.defer(*offset, *attempts, *due);
                Ok(())
            }
            Change::Seek { cursor, next } => self.seek(*cursor, *next),
            Change::Create(creation) => {
                self.create(creation);
                Ok(())
            }
            Change::Update(entity) => self.update(entity),
            Change::Delete { entity } => self.delete(*entity),
            Change::Trim { log, start } => self.trim(*log, *start),
            Change::Prioritize { cursor, first, count, priority } => {
                self.ack_cursor(*cursor)?
                    .0
                    .prioritize(first.to(Offset(first.0 + count)), *priority);
                Ok(())
            }
            Change::Spill { cursor, offsets } => {
                let (acks, _) = self.ack_cursor(*cursor)?;
                offsets.for_each(|range| acks.spill(range));
                Ok(())
            }
            Change::AckOthers { .. } if seeded!(OthersGetWhatOneGets) => Ok(()),
            // Recovery gives all turns at its end.
            Change::AckOthers { log, keeper, offsets } => {
                self.begin_passing(*log, *keeper, *offsets, None)
            }
            Change::Clock(state) => {
                (self.clock, self.changed.clock) = (Some(*state), true);
                Ok(())
            }
        }
    }

    /// Whether recovery leaves out a change of the journal. The metalog reflects all changes before
    /// the position `reflects`, but for messages. Messages below a log's `moved` are in segments,
    /// or dead.
    pub fn reflects(&self, change: &Change<'_>, at: Lsn, reflects: Lsn) -> bool {
        let Change::Run(run) = change else { return at < reflects };
        match self.logs.get(&run.log) {
            Some(log) => run.end() <= log.moved,
            // The log was deleted before the metalog was written.
            None => at < reflects,
        }
    }

    pub(super) fn ack_sets(&self, log: &Log) -> Vec<&AckSet> {
        audit::steps(log.cursors.len() as u64);
        let cursors = log.cursors.iter().filter_map(|id| self.cursors.get(id));
        cursors.filter_map(|cursor| cursor.acks()).collect()
    }

    /// How many offsets of a range are dead: no cursor needs them.
    pub fn dead(&self, log: &Log, range: OffsetRange) -> u64 {
        dead_in(log, &self.ack_sets(log), range)
    }

    /// The parts of a range that a cursor still needs.
    pub fn needed(&self, log: &Log, range: OffsetRange) -> Vec<OffsetRange> {
        let mut all: Vec<OffsetRange> = Vec::new();
        if log.keeps_acked {
            all.push(log.start.max(range.start).to(range.end));
        } else {
            let sets = self.ack_sets(log);
            all.extend(sets.iter().flat_map(|acks| acks.unacked_in(range)));
        }
        join(&mut all);
        all
    }

    /// Whether an offset is dead: no cursor needs it.
    pub fn is_dead(&self, log: &Log, offset: Offset) -> bool {
        if log.keeps_acked {
            return offset < log.start;
        }
        let cursors = log.cursors.iter().inspect(|_| audit::step());
        let mut cursors = cursors.filter_map(|id| self.cursors.get(id)?.acks());
        if seeded!(DeadForOneIsDeadForAll) {
            return cursors.any(|acks| acks.is_acked(offset));
        }
        cursors.all(|acks| acks.is_acked(offset))
    }
}

/// What acks have done to the floor of a cursor over a log.
#[derive(Clone, Copy, Debug)]
pub struct Floors {
    pub log: LogId,
    pub before: Option<Offset>,
    pub held: Option<Offset>,
    floor: Offset,
}

/// Acks messages of a cursor that was looked up.
#[inline(always)]
pub fn ack_in(
    cursor: &mut Cursor,
    changed: &mut Changed,
    ack: impl FnOnce(&mut AckSet),
) -> Result<Floors, Malformed> {
    changed.cursor(cursor);
    let log = cursor.log;
    let Progress::Acks(acks) = &mut cursor.progress else { return Err(UNKNOWN) };
    let before = acks.held();
    ack(acks);
    Ok(Floors { log, before, held: acks.held(), floor: acks.floor() })
}

/// Adds a run to a log that was looked up. `lives` returns the lives of its messages.
#[inline(always)]
pub fn note_run(
    log: &mut Log,
    expiring: &mut Expiring,
    changed: &mut Changed,
    place: RunPlace,
    end: Offset,
    lives: impl FnOnce() -> Lives,
) {
    if log.keeps_acked {
        log.tail.push(place, end, Lives::NONE);
    } else {
        let lives = lives();
        log.tail.push(place, end, lives);
        expiring.note(log, lives);
    }
    changed.log(log);
    changed.arrival(log, place.lsn);
}

/// How many offsets of a range are dead. `sets` are the acks of the log's cursors.
pub fn dead_in(log: &Log, sets: &[&AckSet], range: OffsetRange) -> u64 {
    if log.keeps_acked {
        return range.start.to(log.start.clamp(range.start, range.end)).len();
    }
    acked_by_all(sets, range)
}

/// Drops the part of the tail index that no cursor needs any more. Returns whether a segment is dead, where that is cheap
/// to tell.
#[inline]
fn floor_moved(log: &mut Log, floors: Floors) -> bool {
    let Floors { before, held, floor, .. } = floors;
    if log.cursors.len() == 1 {
        // Messages behind the end of a cursor with a filter may still come to match: their commit is being applied.
        log.tail.drop_below(floor);
    } else {
        log.note_floor(before, held);
    }
    let Some(end) = log.first_segment_end() else { return false };
    let reaches = |floor: Option<Offset>| floor.is_none_or(|floor| end <= floor);
    !reaches(before) && reaches(held) && log.all_reach(end)
}

/// The floor from which on a cursor may need messages, if it is there.
pub(super) fn held_by(cursors: &Living<CursorId, Cursor>, cursor: CursorId) -> Option<Offset> {
    cursors.get(&cursor).map_or(Some(Offset(0)), Cursor::held)
}
