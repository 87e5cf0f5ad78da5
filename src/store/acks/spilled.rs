//! The spilled messages of a cursor: the delay index holds the times at which they are due.

use roaring::RoaringBitmap;

use super::{
    AckSet, changing,
    chunk::{CHUNK_OFFSETS, chunk_ranges, split},
    upper::Upper,
};
use crate::{
    audit,
    ids::{Offset, OffsetRange},
};

impl AckSet {
    /// How many messages are spilled.
    #[inline]
    pub fn spilled(&self) -> u64 {
        self.upper.get().map_or(0, |upper| upper.spilled)
    }

    /// Whether a message is spilled.
    pub fn is_spilled(&self, offset: Offset) -> bool {
        let (index, low) = split(offset.0);
        self.upper.spilled > 0
            && self.upper.chunks.get(&index).is_some_and(|it| it.spilled.contains(low))
    }

    /// All spilled messages.
    pub fn all_spilled(&self) -> impl Iterator<Item = Offset> {
        self.upper.chunks.iter().flat_map(|(index, chunk)| {
            chunk.spilled.iter().map(move |low| Offset(index * CHUNK_OFFSETS + u64::from(low)))
        })
    }

    /// All spilled messages, chunk by chunk.
    pub fn spilled_chunks(&self) -> impl Iterator<Item = (u64, &RoaringBitmap)> {
        self.upper.chunks.iter().map(|(index, chunk)| (*index, &chunk.spilled))
    }

    /// The spilled messages of the first chunk with one at or behind an offset, and where the next chunk begins.
    pub fn spilled_from(&self, from: Offset) -> Option<(Vec<Offset>, Offset)> {
        let (first, _) = split(from.0);
        let mut chunks = self.upper.chunks.range(first..);
        let (index, chunk) = chunks.find(|(_, chunk)| !chunk.spilled.is_empty())?;
        let offset = |low: u32| Offset(index * CHUNK_OFFSETS + u64::from(low));
        let spilled = chunk.spilled.iter().map(offset).collect();
        Some((spilled, Offset((index + 1) * CHUNK_OFFSETS)))
    }

    /// Marks a range as spilled: the delay index holds the times at which its messages are due.
    /// Acked messages are left as they are.
    pub fn spill(&mut self, range: OffsetRange) {
        for range in self.unacked_in(range) {
            for (index, lows) in chunk_ranges(range) {
                audit::step();
                let Upper { chunks, changed, spilled, .. } = &mut *self.upper;
                let chunk = changing(chunks, changed, index);
                chunk.forget_due(&lows);
                *spilled += chunk.spilled.insert_range(lows);
            }
        }
    }
}
