//! A set of offsets, kept as ranges.

use std::collections::BTreeMap;

use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

/// A set of offsets, as ranges that do not touch each other. The most sets have one range at most: it takes no memory
/// beyond the set's own.
#[derive(Debug, Default)]
pub enum Ranges {
    #[default]
    Empty,
    One(OffsetRange),
    /// By their starts.
    Many(BTreeMap<Offset, Offset>),
}

impl Ranges {
    pub fn is_empty(&self) -> bool {
        matches!(self, Ranges::Empty)
    }

    pub fn covers(&self, range: OffsetRange) -> bool {
        self.next(range.start).is_some_and(|it| it.start <= range.start && it.end >= range.end)
    }

    /// The first range that ends behind an offset.
    pub fn next(&self, from: Offset) -> Option<OffsetRange> {
        match self {
            Ranges::Empty => None,
            Ranges::One(range) => Some(*range).filter(|range| range.end > from),
            Ranges::Many(many) => {
                let before = many.range(..=from).next_back().filter(|(_, end)| **end > from);
                let found = before.or_else(|| many.range(from..).next());
                found.map(|(start, end)| start.to(*end))
            }
        }
    }

    pub fn add(&mut self, range: OffsetRange) {
        if let Ranges::Empty = self {
            *self = Ranges::One(range);
            return;
        }
        let many = self.make_many();
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, its_end)) = many.range(..start).next_back()
            && *its_end >= start
        {
            (start, end) = (*before, end.max(*its_end));
        }
        while let Some((next, its_end)) = many.range(start..=end).next() {
            audit::step();
            let (next, its_end) = (*next, *its_end);
            end = end.max(its_end);
            many.remove(&next);
        }
        many.insert(start, end);
        self.make_few();
    }

    pub fn remove(&mut self, range: OffsetRange) {
        match self {
            Ranges::Empty => return,
            Ranges::One(one) if range.start <= one.start && range.end >= one.end => {
                *self = Ranges::Empty;
                return;
            }
            _ => {}
        }
        let many = self.make_many();
        if let Some((start, end)) = many.range(..range.start).next_back()
            && *end > range.start
        {
            let (start, end) = (*start, *end);
            many.insert(start, range.start);
            if end > range.end {
                many.insert(range.end, end);
            }
        }
        while let Some((start, end)) = many.range(range.start..range.end).next() {
            audit::step();
            let (start, end) = (*start, *end);
            many.remove(&start);
            if end > range.end {
                many.insert(range.end, end);
            }
        }
        self.make_few();
    }

    fn make_many(&mut self) -> &mut BTreeMap<Offset, Offset> {
        let only = match self {
            Ranges::Empty => None,
            Ranges::One(range) => Some((range.start, range.end)),
            Ranges::Many(many) => return many,
        };
        *self = Ranges::Many(only.into_iter().collect());
        self.make_many()
    }

    fn make_few(&mut self) {
        let Ranges::Many(many) = self else { return };
        if many.len() < 2 {
            let only = many.first_key_value().map(|(start, end)| start.to(*end));
            *self = only.map_or(Ranges::Empty, Ranges::One);
        }
    }
}

/// Sorts ranges, and joins ranges that touch or overlap.
pub fn join(ranges: &mut Vec<OffsetRange>) {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set_of_offsets(
            steps in prop::collection::vec((any::<bool>(), 0..60u64, 1..20u64), 1..60),
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (adds, start, len) in steps {
                let range = Offset(start).to(Offset(start + len));
                for offset in range {
                    if adds { set.insert(offset); } else { set.remove(&offset); }
                }
                if adds { ranges.add(range); } else { ranges.remove(range); }
                let mut all = BTreeSet::new();
                let (mut at, mut before) = (Offset(0), None);
                while let Some(next) = ranges.next(at) {
                    prop_assert!(!next.is_empty() && before.is_none_or(|end| end < next.start));
                    all.extend(next);
                    (at, before) = (next.end, Some(next.end));
                }
                prop_assert_eq!(&all, &set);
                prop_assert_eq!(ranges.is_empty(), set.is_empty());
                let whole = range.into_iter().all(|offset| set.contains(&offset));
                prop_assert_eq!(ranges.covers(range), whole);
            }
        }
    }
}
