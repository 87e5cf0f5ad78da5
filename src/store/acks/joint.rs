//! What all of several cursors have acked: their bitmaps are put together chunk by chunk, and not copied.

use std::{borrow::Cow, ops::Range};

use roaring::RoaringBitmap;

use super::{
    AckSet,
    chunk::{CHUNK_OFFSETS, chunk_ranges},
};
use crate::{audit, ids::OffsetRange};

impl AckSet {
    /// How many offsets of a chunk are below the floor.
    fn below_in(&self, index: u64) -> u32 {
        self.floor.saturating_sub(index * CHUNK_OFFSETS).min(CHUNK_OFFSETS) as u32
    }

    /// Where the offsets of a chunk begin that are behind the end of a cursor with a filter.
    fn behind_in(&self, index: u64) -> u32 {
        self.upper.seen.saturating_sub(index * CHUNK_OFFSETS).min(CHUNK_OFFSETS) as u32
    }

    /// How many offsets of a part of a chunk are acked.
    fn count_in_chunk(&self, index: u64, lows: Range<u32>) -> u64 {
        let below = self.below_in(index).clamp(lows.start, lows.end);
        let behind = self.behind_in(index).clamp(below, lows.end);
        let above = self.upper.chunks.get(&index);
        let above = above.map_or(0, |chunk| chunk.acked.range_cardinality(below..behind));
        u64::from(below - lows.start) + above + u64::from(lows.end - behind)
    }

    /// Whether all offsets of a part of a chunk are below the floor, or behind the end.
    fn is_outside(&self, index: u64, lows: &Range<u32>) -> bool {
        let below = self.below_in(index).max(lows.start);
        below >= lows.end || self.behind_in(index) <= below
    }

    /// Leaves of some offsets of a chunk those that are acked, too. `None` stands for all of them.
    pub fn also_acked(&self, index: u64, lows: &Range<u32>, acked: &mut Option<RoaringBitmap>) {
        if self.is_outside(index, lows) {
            return;
        }
        let also = self.acked_in_chunk(index);
        match acked {
            Some(acked) => *acked &= &*also,
            none => *none = Some(also.into_owned()),
        }
    }

    /// The acked offsets of one chunk, including offsets below the floor and behind the end.
    fn acked_in_chunk(&self, index: u64) -> Cow<'_, RoaringBitmap> {
        let (below, behind) = (self.below_in(index), self.behind_in(index));
        let found = self.upper.chunks.get(&index).map(|chunk| &chunk.acked);
        let all = CHUNK_OFFSETS as u32;
        if below == 0
            && behind == all
            && let Some(acked) = found
        {
            return Cow::Borrowed(acked);
        }
        let mut acked = found.cloned().unwrap_or_default();
        acked.insert_range(0..below);
        acked.insert_range(behind..all);
        Cow::Owned(acked)
    }
}

/// How many chunks a range of offsets touches.
pub fn chunks_of(range: OffsetRange) -> u64 {
    range.end.0.div_ceil(CHUNK_OFFSETS).saturating_sub(range.start.0 / CHUNK_OFFSETS)
}

/// How many offsets of a range all cursors have acked. Without a cursor that needs any, no consumer waits for a message,
/// so all offsets count as acked.
pub fn acked_by_all(cursors: &[&AckSet], range: OffsetRange) -> u64 {
    let Some(lowest) = cursors.iter().filter_map(|acks| acks.held()).min() else {
        return range.len();
    };
    let below = lowest.clamp(range.start, range.end);
    let mut count = range.start.to(below).len();
    for (index, lows) in chunk_ranges(below.to(range.end)) {
        audit::step();
        if let [acks] = cursors {
            count += acks.count_in_chunk(index, lows);
            continue;
        }
        // If one cursor has nothing acked in the chunk, no message of it is acked by all. One whose floor is behind the chunk
        // says nothing, and one whose end is before it.
        let touched = |acks: &&AckSet| {
            acks.floor > index * CHUNK_OFFSETS
                || acks.upper.chunks.contains_key(&index)
                || acks.behind_in(index) < CHUNK_OFFSETS as u32
        };
        if !cursors.iter().inspect(|_| audit::step()).all(touched) {
            continue;
        }
        let mut partly = cursors.iter().filter(|acks| !acks.is_outside(index, &lows));
        let Some(first) = partly.next() else {
            count += u64::from(lows.end - lows.start);
            continue;
        };
        let mut acked = first.acked_in_chunk(index);
        for acks in partly {
            *acked.to_mut() &= &*acks.acked_in_chunk(index);
        }
        count += acked.range_cardinality(lows);
    }
    count
}
