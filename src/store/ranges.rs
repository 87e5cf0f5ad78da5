//! A set of offsets, kept as ranges.

use std::collections::BTreeMap;

use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

/// A set of offsets, as ranges that do not touch each other.
#[derive(Debug, Default)]
pub struct Ranges(BTreeMap<Offset, Offset>);

impl Ranges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn covers(&self, range: OffsetRange) -> bool {
        let before = self.0.range(..=range.start).next_back();
        before.is_some_and(|(_, end)| *end >= range.end)
    }

    /// The first range that ends behind an offset.
    pub fn next(&self, from: Offset) -> Option<OffsetRange> {
        let before = self.0.range(..=from).next_back().filter(|(_, end)| **end > from);
        let found = before.or_else(|| self.0.range(from..).next());
        found.map(|(start, end)| start.to(*end))
    }

    pub fn add(&mut self, range: OffsetRange) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, its_end)) = self.0.range(..start).next_back()
            && *its_end >= start
        {
            (start, end) = (*before, end.max(*its_end));
        }
        while let Some((next, its_end)) = self.0.range(start..=end).next() {
            audit::step();
            let (next, its_end) = (*next, *its_end);
            end = end.max(its_end);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }

    pub fn remove(&mut self, range: OffsetRange) {
        if let Some((start, end)) = self.0.range(..range.start).next_back()
            && *end > range.start
        {
            let (start, end) = (*start, *end);
            self.0.insert(start, range.start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
        while let Some((start, end)) = self.0.range(range.start..range.end).next() {
            audit::step();
            let (start, end) = (*start, *end);
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, end);
            }
        }
    }
}
