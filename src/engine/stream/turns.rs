//! The turns of a reader over several partitions. It looks at those that may have something.

use std::{collections::VecDeque, mem};

use crate::{engine::core::Core, error::Result, ids::EntityId};

/// The places of a reader that may have something, in turn. A reader of one partition has one place, which is always
/// looked at.
#[derive(Debug)]
pub struct Turns {
    waiting: VecDeque<usize>,
    is_waiting: Vec<bool>,
    /// How many arrivals of the stream were noted.
    seen: u64,
}

impl Turns {
    /// Each of so many places may have something, and the first one comes last. The caller has found where each of them
    /// begins, and holds the core since.
    pub fn new(core: &Core, stream: EntityId, places: usize) -> Result<Turns> {
        let seen = if places > 1 { core.arrivals_since(stream, 0)?.0 } else { 0 };
        let waiting = (1..places).chain([0]).collect();
        Ok(Turns { waiting, is_waiting: vec![true; places], seen })
    }

    /// How many places may have something.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().copied()
    }

    /// The next place. It comes again behind the others, unless it is [left out](Turns::leave_out).
    pub fn next(&mut self) -> Option<usize> {
        let next = self.waiting.pop_front()?;
        self.waiting.push_back(next);
        Some(next)
    }

    /// Leaves the place out that came last, until something comes.
    pub fn leave_out(&mut self) {
        if self.is_waiting.len() > 1
            && let Some(last) = self.waiting.pop_back()
        {
            self.is_waiting[last] = false;
        }
    }

    /// A place may have something.
    pub fn add(&mut self, place: usize) {
        if !mem::replace(&mut self.is_waiting[place], true) {
            self.waiting.push_back(place);
        }
    }

    /// Adds the places of the partitions that got records since the last call.
    pub fn note_arrivals(&mut self, core: &Core, stream: EntityId) -> Result<()> {
        if self.is_waiting.len() == 1 {
            return Ok(());
        }
        let (count, newest_first) = core.arrivals_since(stream, self.seen)?;
        self.seen = count;
        let known = self.len();
        // A reader over several partitions reads all of them.
        newest_first.for_each(|partition| self.add(partition as usize));
        self.waiting.make_contiguous()[known..].reverse();
        Ok(())
    }
}
