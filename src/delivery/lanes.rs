//! Messages with a priority. Each priority has a lane, and the highest lane that is not empty goes first.
//!
//! Within a lane, fresh messages go in the order of sending. Fresh and returned messages alternate, so that
//! a message that fails for ever does not hold up the others of its priority. A message costs about one bit.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use super::{
    offset_set::OffsetSet,
    returned::{Readiness, Returned, merge},
};
use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

#[derive(Debug, Default)]
pub struct Lanes(BTreeMap<u8, Lane>);

#[derive(Debug, Default)]
struct Lane {
    fresh: OffsetSet,
    returned: Returned,
    fresh_first: bool,
}

impl Lanes {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many lanes have messages.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a fresh message.
    pub fn insert(&mut self, offset: Offset, priority: u8) {
        self.0.entry(priority).or_default().fresh.insert(offset);
    }

    /// Adds fresh messages of a chunk.
    pub fn insert_chunk(&mut self, index: u64, lows: &RoaringBitmap, priority: u8) {
        self.0.entry(priority).or_default().fresh.insert_chunk(index, lows);
    }

    /// Removes fresh messages of a chunk that move to another place.
    pub fn remove_chunk(&mut self, index: u64, lows: &RoaringBitmap) {
        for lane in self.0.values_mut() {
            lane.fresh.remove_chunk(index, lows);
        }
        self.retain_full();
    }

    /// The returned messages of a priority.
    pub fn returned(&mut self, priority: u8) -> &mut Returned {
        &mut self.0.entry(priority).or_default().returned
    }

    /// Takes the next message that is ready.
    pub fn take(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        let mut taken = None;
        for lane in self.0.values_mut().rev() {
            audit::step();
            taken = lane.take(readiness);
            if taken.is_some() {
                break;
            }
        }
        self.retain_full();
        taken
    }

    /// Whether a message with a priority is in its lane.
    pub fn contains(&self, offset: Offset, priority: u8) -> bool {
        let lane = self.0.get(&priority);
        lane.is_some_and(|lane| lane.fresh.contains(offset) || lane.returned.contains(offset))
    }

    fn retain_full(&mut self) {
        self.0.retain(|_, lane| !lane.is_empty());
    }

    /// How many messages have waited, and are due.
    pub fn due(&self) -> u64 {
        self.0.values().map(|lane| lane.returned.due()).sum()
    }

    /// Removes a message that moves to another place or was deleted. Returns whether it was there.
    pub fn forget(&mut self, offset: Offset) -> bool {
        let mut was_there = false;
        for lane in self.0.values_mut() {
            was_there |= lane.fresh.remove(offset) | lane.returned.forget(offset);
        }
        self.retain_full();
        was_there
    }

    /// Removes deleted messages.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        for lane in self.0.values_mut() {
            for range in ranges {
                lane.fresh.remove_range(*range);
            }
            lane.returned.forget_all(ranges);
        }
        self.retain_full();
    }

    /// For each lane, the due messages in a range, by offset.
    pub fn due_in(&self, range: OffsetRange) -> impl Iterator<Item = impl Iterator<Item = Offset>> {
        self.0.values().map(move |lane| lane.returned.due_in(range))
    }

    /// Removes a message that was released or has come due. Returns whether it was there.
    pub fn remove_returned(&mut self, offset: Offset, priority: u8) -> bool {
        let lane = self.0.get_mut(&priority);
        let was_there = lane.is_some_and(|lane| lane.returned.forget(offset));
        self.retain_full();
        was_there
    }

    /// All messages: the lowest priority first, and the oldest first within a priority.
    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        self.0.values().flat_map(|lane| merge(lane.fresh.iter(), lane.returned.iter()))
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    fn take(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        self.fresh_first = !self.fresh_first;
        if self.fresh_first {
            self.take_fresh(readiness).or_else(|| self.returned.take(readiness))
        } else {
            self.returned.take(readiness).or_else(|| self.take_fresh(readiness))
        }
    }

    fn take_fresh(&mut self, readiness: &mut impl FnMut(Offset) -> Readiness) -> Option<Offset> {
        while let Some(first) = self.fresh.min() {
            audit::step();
            let readiness = readiness(first);
            if readiness == Readiness::Invisible {
                return None;
            }
            self.fresh.remove(first);
            if readiness == Readiness::Ready {
                return Some(first);
            }
        }
        None
    }
}
