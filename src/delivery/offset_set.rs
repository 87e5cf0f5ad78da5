//! A set of offsets, in chunks as those of the ack state: what the store has of a chunk is taken over at once.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use crate::{
    audit,
    ids::{Offset, OffsetRange},
    store::CHUNK_OFFSETS,
};

/// The chunks that are not empty, by number.
#[derive(Debug, Default)]
pub struct OffsetSet(BTreeMap<u64, RoaringBitmap>);

#[inline]
fn split(offset: Offset) -> (u64, u32) {
    (offset.0 / CHUNK_OFFSETS, (offset.0 % CHUNK_OFFSETS) as u32)
}

fn join(index: u64, low: u32) -> Offset {
    Offset(index * CHUNK_OFFSETS + u64::from(low))
}

impl OffsetSet {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    pub fn contains(&self, offset: Offset) -> bool {
        let (index, low) = split(offset);
        self.0.get(&index).is_some_and(|chunk| chunk.contains(low))
    }

    pub fn insert(&mut self, offset: Offset) {
        let (index, low) = split(offset);
        self.0.entry(index).or_default().insert(low);
    }

    /// Adds offsets of one chunk.
    pub fn insert_chunk(&mut self, index: u64, lows: &RoaringBitmap) {
        if !lows.is_empty() {
            audit::step();
            *self.0.entry(index).or_default() |= lows;
        }
    }

    /// Removes offsets of one chunk.
    pub fn remove_chunk(&mut self, index: u64, lows: &RoaringBitmap) {
        if let Some(chunk) = self.0.get_mut(&index) {
            audit::step();
            *chunk -= lows;
            if chunk.is_empty() {
                self.0.remove(&index);
            }
        }
    }

    /// Returns whether the offset was there.
    pub fn remove(&mut self, offset: Offset) -> bool {
        let (index, low) = split(offset);
        let Some(chunk) = self.0.get_mut(&index) else { return false };
        let was_there = chunk.remove(low);
        if chunk.is_empty() {
            self.0.remove(&index);
        }
        was_there
    }

    pub fn remove_range(&mut self, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        let ((mut from, _), (last, _)) = (split(range.start), split(Offset(range.end.0 - 1)));
        while from <= last
            && let Some((index, chunk)) = self.0.range_mut(from..=last).next()
        {
            audit::step();
            let (index, base) = (*index, index * CHUNK_OFFSETS);
            let start = range.start.0.saturating_sub(base) as u32;
            chunk.remove_range(start..(range.end.0 - base).min(CHUNK_OFFSETS) as u32);
            if chunk.is_empty() {
                self.0.remove(&index);
            }
            from = index + 1;
        }
    }

    pub fn remove_below(&mut self, end: Offset) {
        if !self.is_empty() {
            self.remove_range(Offset(0).to(end));
        }
    }

    /// The lowest offset.
    pub fn min(&self) -> Option<Offset> {
        let (index, chunk) = self.0.first_key_value()?;
        Some(join(*index, chunk.min()?))
    }

    /// Where the run of offsets ends that begins with one that is there. Millions of delayed messages are passed over in a
    /// step for each chunk.
    pub fn end_of_run(&self, first: Offset) -> Offset {
        let mut end = first;
        loop {
            audit::step();
            let (index, low) = split(end);
            let run = self.0.get(&index).and_then(|chunk| chunk.range(low..).next_range());
            let Some(run) = run.filter(|run| *run.start() == low) else { return end };
            end = join(index, *run.end()).next();
            if !end.0.is_multiple_of(CHUNK_OFFSETS) {
                return end;
            }
        }
    }

    /// The offsets from one on.
    pub fn iter_from(&self, from: Offset) -> impl Iterator<Item = Offset> {
        let (first, low) = split(from);
        self.0.range(first..).flat_map(move |(index, chunk)| {
            let lows = chunk.range(if *index == first { low } else { 0 }..);
            lows.map(|low| join(*index, low))
        })
    }

    pub fn chunks(&self) -> impl Iterator<Item = (u64, &RoaringBitmap)> {
        self.0.iter().map(|(index, lows)| (*index, lows))
    }

    pub fn iter(&self) -> impl Iterator<Item = Offset> {
        self.0.iter().flat_map(|(index, chunk)| chunk.iter().map(|low| join(*index, low)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn it_is_a_plain_set(
            steps in proptest::collection::vec((0..5u8, 65_400..65_700u64, 1..200u64), 1..60),
        ) {
            let (mut set, mut plain) = (OffsetSet::default(), BTreeSet::new());
            for (kind, at, len) in steps {
                // Some of the ranges are two chunks long.
                let len = if len > 190 { len * 700 } else { len };
                let (offset, range) = (Offset(at), at..at + len);
                match kind {
                    0 => {
                        set.insert(offset);
                        plain.insert(at);
                    }
                    1 => prop_assert_eq!(set.remove(offset), plain.remove(&at)),
                    2 => {
                        set.remove_range(offset.to(Offset(range.end)));
                        plain.retain(|it| !range.contains(it));
                    }
                    _ => for index in 0..3 {
                        let base = index * CHUNK_OFFSETS;
                        let lows = (range.start.max(base)..range.end.min(base + CHUNK_OFFSETS))
                            .map(|it| (it - base) as u32);
                        let lows: RoaringBitmap = lows.collect();
                        if kind == 3 {
                            set.insert_chunk(index, &lows);
                            plain.extend(lows.iter().map(|low| base + u64::from(low)));
                        } else {
                            set.remove_chunk(index, &lows);
                            lows.iter().for_each(|low| _ = plain.remove(&(base + u64::from(low))));
                        }
                    }
                }
                prop_assert_eq!(set.contains(offset), plain.contains(&at));
                prop_assert!(set.iter_from(offset).map(|it| it.0).eq(plain.range(at..).copied()));
                prop_assert_eq!(set.min().map(|it| it.0), plain.first().copied());
                prop_assert_eq!(set.is_empty(), plain.is_empty());
            }
            prop_assert!(set.iter().map(|it| it.0).eq(plain.iter().copied()));
        }
    }

    #[test]
    fn a_run_of_offsets_ends_where_the_first_one_is_missing() {
        let insert = |set: &mut OffsetSet, range: std::ops::Range<u64>| {
            range.for_each(|offset| set.insert(Offset(offset)));
        };
        for len in [1, 2, 3, 64, 1000, 65_526, 65_527, 65_528, 200_000] {
            for gap in [1, 2, 70_000] {
                let mut set = OffsetSet::default();
                insert(&mut set, 9..9 + len);
                insert(&mut set, 9 + len + gap..9 + 2 * len + gap);
                assert_eq!(set.end_of_run(Offset(9)), Offset(9 + len), "{len}, {gap}");
            }
        }
    }
}
