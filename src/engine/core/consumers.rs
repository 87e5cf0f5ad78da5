//! The states of the cursors that are in use, and which of the watched ones may have changed.
//!
//! A threshold is looked at once its cursor was touched: its state was borrowed to be changed, or a commit has changed
//! its messages. So an unlock of the core costs nothing for all others, however many are watched.

use std::{
    collections::{BTreeSet, hash_map::Iter},
    mem,
    ops::Range,
};

use super::consumption::Consumption;
use crate::{
    audit,
    ids::{CursorId, EntityId, LogId},
    store::{Belongs, Living, Op},
};

/// The states of the cursors that are in use.
#[derive(Debug, Default)]
pub struct Consumers {
    all: Living<CursorId, Consumption>,
    /// The cursors with watched thresholds, by the log whose messages they count, and by whether they have filters.
    watched: BTreeSet<(LogId, bool, CursorId)>,
    /// Watched cursors that may have changed since they were looked at.
    touched: Vec<CursorId>,
    /// Cursors that rounds left out, and that were borrowed to be changed since, each with the number of its state.
    loosened: Vec<(CursorId, u64)>,
}

impl Consumers {
    #[inline]
    pub fn get(&self, cursor: &CursorId) -> Option<&Consumption> {
        self.all.get(cursor)
    }

    /// The state of a cursor, to be changed.
    #[inline]
    pub fn get_mut(&mut self, cursor: &CursorId) -> Option<&mut Consumption> {
        let consumption = self.all.get_mut(cursor)?;
        if !consumption.thresholds.is_empty() {
            touch(&mut self.touched, *cursor, consumption);
        }
        if consumption.is_kept {
            loosen(&mut self.loosened, *cursor, consumption);
        }
        Some(consumption)
    }

    /// How many cursors that rounds left out may go to rest now.
    pub fn loosened(&self) -> usize {
        self.loosened.len()
    }

    /// Takes one of the cursors that rounds left out and that may go to rest now, and the number of its state.
    pub fn take_loosened(&mut self) -> Option<(CursorId, u64)> {
        self.loosened.pop()
    }

    #[inline]
    pub fn contains_key(&self, cursor: &CursorId) -> bool {
        self.all.contains_key(cursor)
    }

    pub fn insert(&mut self, cursor: CursorId, consumption: Box<Consumption>) {
        self.all.insert(cursor, consumption);
    }

    pub fn remove(&mut self, cursor: &CursorId) -> Option<Box<Consumption>> {
        let removed = self.all.remove(cursor)?;
        self.forget_watched(removed.info.log, *cursor);
        Some(removed)
    }

    /// From now on nothing is found that belongs to these entities: they were deleted. With `also`, what belongs to those
    /// before them is not found either.
    pub fn lose(&mut self, gone: &[Range<EntityId>], also: bool) {
        self.all.lose(gone, also);
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn values(&self) -> impl ExactSizeIterator<Item = &Consumption> {
        self.all.values()
    }

    pub fn iter(&self) -> Iter<'_, CursorId, Box<Consumption>> {
        self.all.iter()
    }

    /// Notes that a cursor has watched thresholds from now on, and whether it has a filter, or that it has none any more.
    pub fn set_watched(&mut self, cursor: CursorId, is_filtered: Option<bool>) {
        let Some(consumption) = self.all.get_mut(&cursor) else { return };
        let log = consumption.info.log;
        if is_filtered.is_some() {
            touch(&mut self.touched, cursor, consumption);
        }
        self.forget_watched(log, cursor);
        self.watched.extend(is_filtered.map(|is_filtered| (log, is_filtered, cursor)));
    }

    fn forget_watched(&mut self, log: LogId, cursor: CursorId) {
        for is_filtered in [false, true] {
            self.watched.remove(&(log, is_filtered, cursor));
        }
    }

    /// Has the age of a cursor, if it is watched, looked at once more: even time has moved forward.
    pub fn look_at_age(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.all.get_mut(&cursor)
            && !consumption.thresholds.is_empty()
        {
            consumption.oldest.hurry();
        }
    }

    /// Whether any threshold is watched.
    #[inline]
    pub fn watches(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Touches the watched cursors of a log: it has more messages now. Those with filters are touched by what they match.
    #[inline(never)]
    pub fn touch_log(&mut self, log: LogId) {
        audit::step();
        let of_log = (log, false, CursorId(0))..(log, true, CursorId(0));
        for (.., cursor) in self.watched.range(of_log) {
            audit::step();
            if let Some(consumption) = self.all.get_mut(cursor) {
                touch(&mut self.touched, *cursor, consumption);
            }
        }
    }

    /// Touches the watched cursors whose messages these operations change.
    #[inline(never)]
    pub fn touch_changed(&mut self, ops: &[Op<'_>]) {
        for op in ops {
            audit::step();
            match *op {
                Op::Ack { cursor, .. }
                | Op::AckRanges { cursor, .. }
                | Op::Defer { cursor, .. }
                | Op::Spill { cursor, .. } => _ = self.get_mut(&cursor),
                Op::Append { log, .. } => self.touch_log(log),
                // Its slices touch the others.
                Op::AckOthers { .. } => {}
                // Groups and streams have no thresholds. What is deleted has none any more.
                Op::Seek { .. }
                | Op::Trim { .. }
                | Op::Create { .. }
                | Op::Update { .. }
                | Op::Delete { .. }
                | Op::Clock(_) => {}
            }
        }
    }

    #[inline]
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    pub fn take_touched(&mut self) -> Vec<CursorId> {
        mem::take(&mut self.touched)
    }

    /// The state of a cursor, for a change of something that no threshold counts.
    #[inline]
    pub fn get_untouched(&mut self, cursor: CursorId) -> Option<&mut Consumption> {
        self.all.get_mut(&cursor)
    }

    /// The state of a touched cursor that was looked at.
    pub fn look_at(&mut self, cursor: CursorId) -> Option<&mut Consumption> {
        let consumption = self.all.get_mut(&cursor)?;
        consumption.is_touched = false;
        Some(consumption)
    }

    /// The watched cursors.
    #[cfg(all(debug_assertions, feature = "sim"))]
    pub fn watched(&self) -> impl ExactSizeIterator<Item = CursorId> + '_ {
        self.watched.iter().map(|(.., cursor)| *cursor)
    }
}

impl Belongs for Consumption {
    fn belongs_to(&self, owner: &Range<EntityId>) -> bool {
        owner.contains(&self.info.cursor.entity()) || owner.contains(&self.info.log.entity())
    }
}

#[cold]
fn loosen(loosened: &mut Vec<(CursorId, u64)>, cursor: CursorId, consumption: &mut Consumption) {
    consumption.is_kept = false;
    loosened.push((cursor, consumption.number));
}

#[cold]
fn touch(touched: &mut Vec<CursorId>, cursor: CursorId, consumption: &mut Consumption) {
    if !mem::replace(&mut consumption.is_touched, true) {
        touched.push(cursor);
    }
}
