//! The floors of the cursors over one log, in order. The least of them tells which segments of a topic are dead.

use std::collections::BTreeMap;

use crate::{audit, ids::Offset};

/// How many cursors have each floor.
#[derive(Debug, Default)]
pub struct FloorCounts(BTreeMap<Offset, u32>);

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
        *self.0.entry(floor).or_default() += 1;
    }

    pub fn remove(&mut self, floor: Offset) {
        let Some(count) = self.0.get_mut(&floor) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(&floor);
        }
    }

    pub fn replace(&mut self, before: Offset, floor: Offset) {
        self.remove(before);
        self.add(floor);
    }

    /// The least floor.
    pub fn least(&self) -> Option<Offset> {
        self.0.first_key_value().map(|(floor, _)| *floor)
    }
}
