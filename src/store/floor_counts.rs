//! The floors of the cursors over one log, in order. The least of them tells which segments of a topic are dead.

use std::collections::BTreeMap;

use crate::{audit, ids::Offset};

/// How many cursors have each floor.
#[derive(Debug, Default)]
pub struct FloorCounts {
    by_floor: BTreeMap<Offset, u32>,
    /// How many cursors there are.
    cursors: u64,
}

impl FloorCounts {
    pub fn of(floors: impl Iterator<Item = Offset>) -> FloorCounts {
        let mut counts = FloorCounts::default();
        for floor in floors {
            audit::step();
            counts.add(floor);
        }
        counts
    }

    pub fn add(&mut self, floor: Offset) {
        *self.by_floor.entry(floor).or_default() += 1;
        self.cursors += 1;
    }

    pub fn remove(&mut self, floor: Offset) {
        let Some(count) = self.by_floor.get_mut(&floor) else { return };
        *count -= 1;
        self.cursors -= 1;
        if *count == 0 {
            self.by_floor.remove(&floor);
        }
    }

    /// `None` stands for a cursor that needs nothing.
    pub fn replace(&mut self, before: Option<Offset>, floor: Option<Offset>) {
        before.into_iter().for_each(|before| self.remove(before));
        floor.into_iter().for_each(|floor| self.add(floor));
    }

    /// The least floor.
    pub fn least(&self) -> Option<Offset> {
        self.by_floor.first_key_value().map(|(floor, _)| *floor)
    }

    /// How many cursors need messages.
    pub fn cursors(&self) -> u64 {
        self.cursors
    }
}
