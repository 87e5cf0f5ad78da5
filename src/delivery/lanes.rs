//! Messages with a priority: a lane for each, of which the highest that has something is served first.
//!
//! Within one lane fresh messages come in the order of sending, and take turns with those that were
//! delivered before, so that one that fails for ever does not keep those of its priority waiting. A
//! message costs about a bit.

use std::collections::BTreeMap;

use roaring::RoaringTreemap;

use crate::ids::Offset;

#[derive(Debug, Default)]
pub struct Lanes(BTreeMap<u8, Lane>);

#[derive(Debug, Default)]
struct Lane {
    fresh: RoaringTreemap,
    returned: RoaringTreemap,
    /// The next one that has returned is at or above this offset.
    turn: u64,
    fresh_first: bool,
}

impl Lanes {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A message has come.
    pub fn insert(&mut self, offset: Offset, priority: u8) {
        self.0.entry(priority).or_default().fresh.insert(offset.0);
    }

    /// A message is to be delivered once more.
    pub fn put_back(&mut self, offset: Offset, priority: u8) {
        self.0.entry(priority).or_default().returned.insert(offset.0);
    }

    /// Takes the next message for which `is_wanted` says `true`; one for which it says `None` is gone,
    /// and one for which it says `false` is not visible yet, like all fresh ones behind it.
    pub fn take(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        let mut taken = None;
        for lane in self.0.values_mut().rev() {
            taken = lane.take(is_wanted);
            if taken.is_some() {
                break;
            }
        }
        self.0.retain(|_, lane| !lane.is_empty());
        taken
    }

    /// A message is to be somewhere else.
    pub fn forget(&mut self, offset: Offset) {
        for lane in self.0.values_mut() {
            lane.fresh.remove(offset.0);
            lane.returned.remove(offset.0);
        }
        self.0.retain(|_, lane| !lane.is_empty());
    }

    /// Takes one that was delivered before.
    pub fn remove_returned(&mut self, offset: Offset, priority: u8) -> bool {
        self.0.get_mut(&priority).is_some_and(|lane| lane.returned.remove(offset.0))
    }

    /// All of them: those of the lowest priority first, and of one the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        self.0.values().flat_map(|lane| {
            let all = &lane.fresh | &lane.returned;
            all.into_iter().map(Offset)
        })
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    fn take(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        self.fresh_first = !self.fresh_first;
        if self.fresh_first {
            self.take_fresh(is_wanted).or_else(|| self.take_returned(is_wanted))
        } else {
            self.take_returned(is_wanted).or_else(|| self.take_fresh(is_wanted))
        }
    }

    fn take_fresh(&mut self, is_wanted: &mut impl FnMut(Offset) -> Option<bool>) -> Option<Offset> {
        while let Some(first) = self.fresh.min() {
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

    fn take_returned(
        &mut self,
        is_wanted: &mut impl FnMut(Offset) -> Option<bool>,
    ) -> Option<Offset> {
        while !self.returned.is_empty() {
            let rank = match self.turn {
                0 => 0,
                turn => self.returned.rank(turn - 1),
            };
            let found = self.returned.select(rank).or_else(|| self.returned.min())?;
            match is_wanted(Offset(found)) {
                // A delayed one that has come due may not be durable yet.
                Some(false) => return None,
                is_wanted => {
                    self.turn = found + 1;
                    self.returned.remove(found);
                    if is_wanted == Some(true) {
                        return Some(Offset(found));
                    }
                }
            }
        }
        None
    }
}
