//! Which records of streams with limits may leave: what is looked at, and when.
//!
//! `engine/commit/retention.rs` looks and trims. It looks at a partition
//!
//! - before and behind a checkpoint, if records came to it or were moved into its segments since it was looked at;
//! - when its oldest record comes of age;
//! - once after an open, when its limits change, and when the clock was set.
//!
//! A look copies what it needs to know and reads without the store. The trim compares in one hold whether the limits are still
//! those of the look. So limits that change meanwhile take no record that they keep.
//!
//! Nothing of this is stored: what is to leave follows from the limits and the records.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{Store, floor_counts::FloorCounts, state::State};
use crate::{
    audit,
    format::entity::{Entity, EntityKind, Retention},
    ids::{EntityId, IdMap, LogId, Offset, Timestamp},
};

/// So many partitions or segments are looked at in one hold.
const AT_ONCE: usize = 64;

/// The streams with limits.
#[derive(Debug, Default)]
pub struct Retaining {
    streams: BTreeMap<EntityId, (u32, Retention)>,
    /// Those of which all partitions are to be looked at, each with the next one.
    listed: BTreeMap<EntityId, u32>,
    /// All streams from here on are to be listed: the clock was set.
    relist: Option<EntityId>,
    /// When the oldest record of a partition comes of age.
    due: BTreeSet<(Timestamp, LogId)>,
    due_of: IdMap<LogId, Timestamp>,
    /// Where the groups are that spare what they have not passed.
    spared: IdMap<LogId, FloorCounts>,
}

impl Retaining {
    /// The limits of the stream that a log belongs to, if it has any.
    pub fn limits_of(&self, log: LogId) -> Option<Retention> {
        let (stream, (partitions, retention)) = self.streams.range(..=log.entity()).next_back()?;
        (log.0 < stream.0 + u64::from(*partitions)).then_some(*retention)
    }

    /// Whether it is known when a log comes of age.
    pub fn is_due_later(&self, log: LogId) -> bool {
        self.due_of.contains_key(&log)
    }

    /// Has a log looked at at a time, or no more by itself.
    fn set_due(&mut self, log: LogId, due: Option<Timestamp>) {
        let before = match due {
            Some(due) => self.due_of.insert(log, due),
            None => self.due_of.remove(&log),
        };
        if let Some(before) = before {
            self.due.remove(&(before, log));
        }
        self.due.extend(due.map(|due| (due, log)));
    }

    /// The next partitions of streams of which all are to be looked at. Their ages are looked at, too.
    fn take_listed(&mut self, found: &mut Vec<Turn>) {
        if let Some(from) = self.relist {
            let some: Vec<EntityId> =
                self.streams.range(from..).map(|it| *it.0).take(AT_ONCE).collect();
            self.relist = some.get(AT_ONCE - 1).map(|last| last.plus(1));
            audit::steps(some.len() as u64);
            self.listed.extend(some.into_iter().map(|stream| (stream, 0)));
        }
        while found.len() < AT_ONCE
            && let Some((stream, from)) = self.listed.pop_first()
        {
            let Some((partitions, _)) = self.streams.get(&stream) else { continue };
            let end = (*partitions).min(from + (AT_ONCE - found.len()) as u32);
            if end < *partitions {
                self.listed.insert(stream, end);
            }
            for partition in from..end {
                let log = stream.log(partition);
                self.set_due(log, None);
                found.push(Turn { log, is_whole: true });
            }
        }
    }

    fn take_due(&mut self, upto: Timestamp, found: &mut Vec<Turn>) {
        while found.len() < AT_ONCE
            && let Some((due, log)) = self.due.first().copied()
            && due <= upto
        {
            self.set_due(log, None);
            found.push(Turn { log, is_whole: true });
        }
    }

    fn spare(&mut self, log: LogId, floor: Offset) {
        self.spared.entry(log).or_default().add(floor);
    }

    /// A group that spares what it has not passed has gone on or back.
    pub fn follow_group(&mut self, log: LogId, before: Offset, floor: Offset) {
        if let Some(spared) = self.spared.get_mut(&log) {
            spared.replace(Some(before), Some(floor));
        }
    }

    /// A group spares nothing any more.
    pub fn spare_no_more(&mut self, log: LogId, floor: Offset) {
        if let Some(spared) = self.spared.get_mut(&log) {
            spared.remove(floor);
            if spared.least().is_none() {
                self.spared.remove(&log);
            }
        }
    }
}

/// Which partitions are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Those that are due by age, and those of streams whose limits have changed.
    Time,
    /// Also those to which records came. What is in segments was looked at behind the last checkpoint.
    BeforeCheckpoint,
    /// Also those in which records were moved.
    BehindCheckpoint,
}

/// A round over partitions.
#[derive(Debug)]
pub struct RetentionRound {
    occasion: Occasion,
    upto: Timestamp,
    last: LogId,
}

impl RetentionRound {
    /// A round at a time of day.
    pub fn new(occasion: Occasion, upto: Timestamp) -> RetentionRound {
        RetentionRound { occasion, upto, last: LogId(0) }
    }
}

/// A partition whose turn it is.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub log: LogId,
    /// Whether its segments are looked at.
    pub is_whole: bool,
}

impl State {
    /// Follows the limits of an entity that was created, found or changed.
    pub fn follow_retention(&mut self, entity: &Entity) {
        match &entity.kind {
            EntityKind::Stream { partitions, retention } => {
                self.follow_limits(entity, *partitions, retention.as_deref());
            }
            EntityKind::Topic { retention } => self.follow_limits(entity, 1, retention.as_deref()),
            EntityKind::Group { keeps_unread, .. } => self.follow_sparing(entity, *keeps_unread),
            _ => {}
        }
    }

    fn follow_limits(&mut self, stream: &Entity, partitions: u32, retention: Option<&Retention>) {
        let known = self.retaining.streams.remove(&stream.id).is_some();
        if retention.is_none() && !known {
            return;
        }
        for log in stream.logs() {
            audit::step();
            self.retaining.set_due(log, None);
            if let Some(log) = self.logs.get_mut(&log) {
                log.retains = retention.is_some();
            }
        }
        self.retaining.listed.remove(&stream.id);
        if let Some(retention) = retention {
            self.retaining.streams.insert(stream.id, (partitions, *retention));
            self.retaining.listed.insert(stream.id, 0);
        }
    }

    fn follow_sparing(&mut self, group: &Entity, spares: bool) {
        let State { cursors, retaining, .. } = self;
        let first = cursors.get(&group.id.cursor(0));
        if first.is_none_or(|first| first.spares == spares) {
            return;
        }
        for (cursor, log) in group.cursors() {
            audit::step();
            let Some(cursor) = cursors.get_mut(&cursor) else { continue };
            if mem::replace(&mut cursor.spares, spares) == spares {
                continue;
            }
            if spares {
                retaining.spare(log, cursor.floor());
            } else {
                retaining.spare_no_more(log, cursor.floor());
            }
        }
    }

    /// Counts anew what groups spare, once their offsets are restored.
    pub fn count_spared(&mut self) {
        let State { cursors, retaining, .. } = self;
        retaining.spared.clear();
        for cursor in cursors.values().filter(|cursor| cursor.spares) {
            retaining.spare(cursor.log, cursor.floor());
        }
    }

    /// Forgets the limits of a stream that was deleted.
    pub fn forget_limits(&mut self, entity: EntityId) {
        self.retaining.streams.remove(&entity);
        self.retaining.listed.remove(&entity);
    }

    /// Forgets a log that was deleted.
    pub fn forget_retained(&mut self, log: LogId) {
        self.retaining.set_due(log, None);
        self.retaining.spared.remove(&log);
        self.changed.looked_at(log);
    }

    /// The first offset that a partition has, or that a topic keeps for those who come late.
    pub fn retained_from(&self, log: LogId) -> Option<Offset> {
        let there = self.logs.get(&log)?;
        match self.keeper_of(log) {
            Some(keeper) => Some(self.cursors.get(&keeper)?.floor()),
            None => Some(there.start),
        }
    }

    /// The first offset that a group has a partition keep.
    pub fn spared(&self, log: LogId) -> Offset {
        let spared = self.retaining.spared.get(&log).and_then(FloorCounts::least);
        spared.filter(|_| !seeded!(UnreadIsNotSpared)).unwrap_or(Offset(u64::MAX))
    }
}

impl Store {
    /// When the next partition is to be looked at by itself.
    pub fn retention_due(&self) -> Option<Timestamp> {
        let Retaining { listed, relist, due, .. } = &self.state.retaining;
        let is_listed = relist.is_some() || !listed.is_empty();
        if is_listed { Some(Timestamp(0)) } else { due.first().map(|(due, _)| *due) }
    }

    /// Has the ages of all partitions with limits looked at anew: the clock was set.
    pub fn relist_retention(&mut self) {
        let Retaining { streams, relist, .. } = &mut self.state.retaining;
        *relist = streams.first_key_value().map(|(first, _)| *first);
    }

    /// The next partitions of a round: an empty list if there are no more.
    pub fn next_to_retain(&mut self, round: &mut RetentionRound) -> Vec<Turn> {
        let State { retaining, changed, logs, .. } = &mut self.state;
        let mut found = Vec::new();
        retaining.take_listed(&mut found);
        retaining.take_due(round.upto, &mut found);
        let is_whole = round.occasion == Occasion::BehindCheckpoint;
        while round.occasion != Occasion::Time
            && found.len() < AT_ONCE
            && let Some(log) = changed.next_to_look_at(round.last)
        {
            round.last = log;
            // Others may come to those that are in the journal.
            if is_whole && logs.get(&log).is_none_or(|it| it.unmoved_from.is_none()) {
                changed.looked_at(log);
            }
            found.push(Turn { log, is_whole });
        }
        audit::steps(found.len() as u64);
        found
    }

    /// The limits of a partition now, its first offset, and the first one that a group has it keep.
    pub fn retained(&self, log: LogId) -> Option<(Retention, Offset, Offset)> {
        let limits = self.state.retaining.limits_of(log)?;
        Some((limits, self.state.retained_from(log)?, self.state.spared(log)))
    }

    /// Has a partition looked at at a time, or earlier, if it has limits.
    pub fn retain_at(&mut self, log: LogId, at: Timestamp) {
        let State { retaining, logs, .. } = &mut self.state;
        if retaining.limits_of(log).is_some() && logs.contains_key(&log) {
            let at = retaining.due_of.get(&log).map_or(at, |due| at.min(*due));
            retaining.set_due(log, Some(at));
        }
    }
}
