//! The segments of one log, by their bases.
//!
//! Most logs have few segments or none. Those take up no more than their own space: a node of a tree has places for
//! eleven.

use std::{
    collections::{BTreeMap, btree_map},
    mem,
    ops::{Bound, RangeBounds},
    slice,
};

use crate::{format::meta::SegmentState, ids::Offset};

/// More segments are in a tree.
const FEW: usize = 16;

/// The segments of one log, by their bases. They do not overlap.
#[derive(Debug)]
pub struct Series(Kept);

#[derive(Debug)]
enum Kept {
    /// Sorted.
    Few(Vec<SegmentState>),
    Many(BTreeMap<Offset, SegmentState>),
}

impl Default for Series {
    fn default() -> Series {
        Series(Kept::Few(Vec::new()))
    }
}

impl Series {
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Kept::Few(few) if few.is_empty())
    }

    pub fn get(&self, base: Offset) -> Option<&SegmentState> {
        match &self.0 {
            Kept::Few(few) => few.get(place(few, base).ok()?),
            Kept::Many(many) => many.get(&base),
        }
    }

    pub fn get_mut(&mut self, base: Offset) -> Option<&mut SegmentState> {
        match &mut self.0 {
            Kept::Few(few) => {
                let at = place(few, base).ok()?;
                few.get_mut(at)
            }
            Kept::Many(many) => many.get_mut(&base),
        }
    }

    /// Adds a segment. Returns the one that had the same base.
    pub fn insert(&mut self, segment: SegmentState) -> Option<SegmentState> {
        match &mut self.0 {
            Kept::Few(few) => match place(few, segment.base) {
                Ok(at) => return Some(mem::replace(&mut few[at], segment)),
                Err(_) if few.len() == FEW => {
                    let all = few.drain(..).chain([segment]).map(|it| (it.base, it));
                    self.0 = Kept::Many(all.collect());
                }
                Err(at) => {
                    few.reserve_exact(1);
                    few.insert(at, segment);
                }
            },
            Kept::Many(many) => return many.insert(segment.base, segment),
        }
        None
    }

    pub fn remove(&mut self, base: Offset) -> Option<SegmentState> {
        match &mut self.0 {
            Kept::Few(few) => {
                let removed = few.remove(place(few, base).ok()?);
                few.shrink_to_fit();
                Some(removed)
            }
            Kept::Many(many) => {
                let removed = many.remove(&base);
                // Half as many, so that it does not go back and forth.
                if many.len() <= FEW / 2 {
                    self.0 = Kept::Few(mem::take(many).into_values().collect());
                }
                removed
            }
        }
    }

    /// The segments whose bases are in a range.
    pub fn range(&self, bases: impl RangeBounds<Offset>) -> Segments<'_> {
        match &self.0 {
            Kept::Few(few) => {
                let from = match bases.start_bound() {
                    Bound::Included(base) => few.partition_point(|it| it.base < *base),
                    Bound::Excluded(base) => few.partition_point(|it| it.base <= *base),
                    Bound::Unbounded => 0,
                };
                let to = match bases.end_bound() {
                    Bound::Included(base) => few.partition_point(|it| it.base <= *base),
                    Bound::Excluded(base) => few.partition_point(|it| it.base < *base),
                    Bound::Unbounded => few.len(),
                };
                Segments::Few(few.get(from..to).unwrap_or_default().iter())
            }
            Kept::Many(many) => Segments::Many(many.range(bases)),
        }
    }

    pub fn values(&self) -> Segments<'_> {
        self.range(..)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.values().count()
    }

    #[cfg(test)]
    pub fn values_mut(&mut self) -> Vec<&mut SegmentState> {
        match &mut self.0 {
            Kept::Few(few) => few.iter_mut().collect(),
            Kept::Many(many) => many.values_mut().collect(),
        }
    }
}

fn place(few: &[SegmentState], base: Offset) -> Result<usize, usize> {
    few.binary_search_by_key(&base, |segment| segment.base)
}

/// Segments of a log, in their order.
#[derive(Clone, Debug)]
pub enum Segments<'a> {
    Few(slice::Iter<'a, SegmentState>),
    Many(btree_map::Range<'a, Offset, SegmentState>),
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a SegmentState;

    fn next(&mut self) -> Option<&'a SegmentState> {
        match self {
            Segments::Few(few) => few.next(),
            Segments::Many(many) => many.next().map(|(_, segment)| segment),
        }
    }
}

impl DoubleEndedIterator for Segments<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Segments::Few(few) => few.next_back(),
            Segments::Many(many) => many.next_back().map(|(_, segment)| segment),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        format::meta::Place,
        ids::{LogId, Timestamp},
    };

    fn segment(base: u64, generation: u64) -> SegmentState {
        SegmentState {
            log: LogId(1),
            base: Offset(base),
            generation,
            end: Offset(base + 1),
            bytes: 0,
            records: 1,
            max_time: Timestamp(0),
            sealed: true,
            lives: None,
            place: Place::Own,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// It does what a map does, whether it has few segments or many.
        #[test]
        fn a_series_is_a_map_by_bases(
            steps in prop::collection::vec((0..40u64, 0..5u8, 0..40u64), 1..400),
        ) {
            let (mut series, mut map) = (Series::default(), BTreeMap::new());
            for (n, (base, act, other)) in steps.into_iter().enumerate() {
                let (at, to) = (Offset(base), Offset(base.max(other)));
                if act < 3 {
                    let put = segment(base, n as u64);
                    prop_assert_eq!(series.insert(put.clone()), map.insert(at, put));
                } else {
                    prop_assert_eq!(series.remove(at), map.remove(&at));
                }
                prop_assert_eq!(series.is_empty(), map.is_empty());
                prop_assert_eq!(series.get(to), map.get(&to));
                prop_assert_eq!(series.get_mut(to), map.get_mut(&to));
                prop_assert!(series.values().eq(map.values()));
                prop_assert!(series.values().rev().eq(map.values().rev()));
                prop_assert!(series.range(at..to).eq(map.range(at..to).map(|it| it.1)));
                prop_assert!(series.range(at..=to).eq(map.range(at..=to).map(|it| it.1)));
                let behind = (Bound::Excluded(at), Bound::Unbounded);
                prop_assert!(series.range(behind).eq(map.range(behind).map(|it| it.1)));
                let before = series.range(..=at).next_back();
                prop_assert_eq!(before, map.range(..=at).next_back().map(|it| it.1));
            }
        }
    }
}
