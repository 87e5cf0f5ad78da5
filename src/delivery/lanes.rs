//! Messages with a priority: a lane for each, of which the highest that has something is served first.
//!
//! Within one lane fresh messages come in the order of sending, and take turns with those that were
//! delivered before, so that one that fails for ever does not keep those of its priority waiting. A
//! message costs about a bit.

use crate::audit;
use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use super::returned::{Returned, merge};
use crate::ids::{Offset, OffsetRange};

#[derive(Debug, Default)]
pub struct Lanes(BTreeMap<u8, Lane>);

#[derive(Debug, Default)]
struct Lane {
    fresh: RoaringTreemap,
    returned: Returned,
    fresh_first: bool,
}

impl Lanes {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A message has come, or is as if it had just come.
    pub fn insert(&mut self, offset: Offset, priority: u8) {
        self.0.entry(priority).or_default().fresh.insert(offset.0);
    }

    /// Those that are to be delivered once more.
    pub fn returned(&mut self, priority: u8) -> &mut Returned {
        &mut self.0.entry(priority).or_default().returned
    }

    /// Takes the next message for which `is_wanted` says `true`; one for which it says `None` is gone,
    /// and one for which it says `false` is not visible yet, like all fresh ones behind it.
    pub fn take(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        let mut taken = None;
        for lane in self.0.values_mut().rev() {
            audit::step();
            taken = lane.take(is_wanted);
            if taken.is_some() {
                break;
            }
        }
        self.retain_full();
        taken
    }

    fn retain_full(&mut self) {
        self.0.retain(|_, lane| !lane.is_empty());
    }

    /// A message is to be somewhere else, or is gone.
    pub fn forget(&mut self, offset: Offset) {
        for lane in self.0.values_mut() {
            lane.fresh.remove(offset.0);
            lane.returned.remove_released(offset);
        }
        self.retain_full();
    }

    /// Messages are gone that `iter` has told of, from the first on.
    pub fn forget_first(&mut self, ranges: &[OffsetRange]) {
        for lane in self.0.values_mut() {
            for range in ranges {
                lane.fresh.remove_range(range.start.0..range.end.0);
            }
            lane.returned.forget_first(ranges);
        }
        self.retain_full();
    }

    /// Messages are gone.
    pub fn forget_all(&mut self, ranges: &[OffsetRange]) {
        for lane in self.0.values_mut() {
            for range in ranges {
                lane.fresh.remove_range(range.start.0..range.end.0);
            }
            lane.returned.forget_all(ranges);
        }
        self.retain_full();
    }

    /// Takes one that was delivered before.
    pub fn remove_released(&mut self, offset: Offset, priority: u8) -> bool {
        let lane = self.0.get_mut(&priority);
        let was_there = lane.is_some_and(|lane| lane.returned.remove_released(offset));
        self.retain_full();
        was_there
    }

    /// All of them: those of the lowest priority first, and of one the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        self.0.values().flat_map(|lane| merge(lane.fresh.iter().map(Offset), lane.returned.iter()))
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    fn take(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        self.fresh_first = !self.fresh_first;
        if self.fresh_first {
            self.take_fresh(is_wanted).or_else(|| self.returned.take(is_wanted))
        } else {
            self.returned.take(is_wanted).or_else(|| self.take_fresh(is_wanted))
        }
    }

    fn take_fresh(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        while let Some(first) = self.fresh.min() {
            audit::step();
            let is_wanted = is_wanted(Offset(first));
            if is_wanted == Some(false) {
                return None;
            }
            self.fresh.remove(first);
            if is_wanted == Some(true) {
                return Some(Offset(first));
            }
        }
        None
    }
}
