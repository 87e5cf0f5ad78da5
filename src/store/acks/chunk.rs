//! The ack state of 65,536 offsets in a row.

use std::{collections::BTreeMap, ops::Range};

use roaring::RoaringBitmap;

use super::digits::put_number;
use crate::{
    config::PRIORITY_MAX,
    format::{Malformed, meta::ChunkState},
    ids::{CursorId, Due, OffsetRange},
};

const CHUNK_BITS: u32 = 16;
pub const CHUNK_OFFSETS: u64 = 1 << CHUNK_BITS;

#[inline]
pub fn split(offset: u64) -> (u64, u32) {
    (offset >> CHUNK_BITS, (offset % CHUNK_OFFSETS) as u32)
}

#[derive(Clone, Debug, Default)]
pub struct Chunk {
    pub acked: RoaringBitmap,
    /// The digits of the numbers of attempts, the lowest digit first.
    pub attempts: Vec<RoaringBitmap>,
    /// The digits of the priorities.
    pub priorities: Vec<RoaringBitmap>,
    /// When delayed messages are due.
    pub due: BTreeMap<u16, Due>,
    /// Spilled messages: the delay index holds the times at which they are due.
    pub spilled: RoaringBitmap,
    /// Whether the chunk changed since its last capture.
    pub dirty: bool,
}

impl Chunk {
    pub fn is_empty(&self) -> bool {
        self.acked.is_empty()
            && self.attempts.iter().all(RoaringBitmap::is_empty)
            && self.priorities.iter().all(RoaringBitmap::is_empty)
            && self.due.is_empty()
            && self.spilled.is_empty()
    }

    /// Only delayed messages in the range are visited: there may be thousands of others.
    pub fn forget_due(&mut self, range: &Range<u32>) {
        if !self.due.is_empty() && !range.is_empty() {
            let range = range.start as u16..=(range.end - 1) as u16;
            let gone: Vec<u16> = self.due.range(range).map(|(low, _)| *low).collect();
            for low in gone {
                self.due.remove(&low);
            }
        }
    }

    /// Returns how many messages of the range were spilled.
    pub fn forget(&mut self, range: Range<u32>) -> u64 {
        self.forget_due(&range);
        put_number(&mut self.attempts, range.clone(), 0);
        put_number(&mut self.priorities, range.clone(), 0);
        if self.spilled.is_empty() { 0 } else { self.spilled.remove_range(range) }
    }

    /// The chunk as an entry of the metalog.
    pub fn capture(&mut self, cursor: CursorId, index: u64) -> ChunkState {
        self.dirty = false;
        ChunkState {
            cursor,
            chunk: index,
            acked: bitmap_bytes(&mut self.acked),
            attempts: self.captured_attempts(),
            priorities: self.captured_priorities(),
            due: self.captured_due(),
            spilled: self.captured_spilled(),
        }
    }

    fn captured_attempts(&mut self) -> Vec<Vec<u8>> {
        let is_left_out = seeded!(AttemptsAreNotCaptured);
        if is_left_out { Vec::new() } else { self.attempts.iter_mut().map(bitmap_bytes).collect() }
    }

    fn captured_priorities(&mut self) -> Vec<Vec<u8>> {
        let is_left_out = seeded!(PrioritiesAreNotCaptured);
        if is_left_out {
            Vec::new()
        } else {
            self.priorities.iter_mut().map(bitmap_bytes).collect()
        }
    }

    fn captured_due(&self) -> Vec<(u16, Due)> {
        let is_left_out = seeded!(DueIsNotCaptured);
        let due = self.due.iter().map(|(low, due)| (*low, *due));
        if is_left_out { Vec::new() } else { due.collect() }
    }

    fn captured_spilled(&mut self) -> Vec<u8> {
        let mut none = RoaringBitmap::new();
        let is_left_out = seeded!(ShelvedIsNotCaptured);
        bitmap_bytes(if is_left_out { &mut none } else { &mut self.spilled })
    }

    /// The chunk of an entry of the metalog.
    pub fn restore(state: &ChunkState) -> Result<Chunk, Malformed> {
        if state.chunk > u64::MAX >> CHUNK_BITS || state.attempts.len() > u32::BITS as usize {
            return Err(Malformed("an ack state's chunk is impossible"));
        }
        let digits = |all: &[Vec<u8>]| -> Result<Vec<RoaringBitmap>, Malformed> {
            all.iter().map(|bytes| bitmap(bytes)).collect()
        };
        let (attempts, priorities) = (digits(&state.attempts)?, digits(&state.priorities)?);
        if has_impossible(&priorities) {
            return Err(Malformed("an impossible priority"));
        }
        let due: BTreeMap<u16, Due> = state.due.iter().copied().collect();
        let (acked, spilled) = (bitmap(&state.acked)?, bitmap(&state.spilled)?);
        let is_due = |low: u32| due.contains_key(&(low as u16));
        if !spilled.is_disjoint(&acked) || spilled.iter().any(is_due) {
            return Err(Malformed("an ack state has a message in two places"));
        }
        Ok(Chunk { acked, attempts, priorities, due, spilled, dirty: false })
    }
}

/// Whether any number is not a priority. From 8 on there are only 8 and 9.
fn has_impossible(priorities: &[RoaringBitmap]) -> bool {
    const { assert!(PRIORITY_MAX == 9) };
    let [_, two, four, eight, ..] = priorities else { return false };
    !eight.is_disjoint(two) || !eight.is_disjoint(four)
}

fn bitmap_bytes(bitmap: &mut RoaringBitmap) -> Vec<u8> {
    bitmap.optimize();
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("memory takes any bytes");
    bytes
}

fn bitmap(bytes: &[u8]) -> Result<RoaringBitmap, Malformed> {
    let bitmap = RoaringBitmap::deserialize_from(bytes);
    let bitmap = bitmap.map_err(|_| Malformed("an ack state's bitmap cannot be decoded"))?;
    match bitmap.max() {
        Some(max) if u64::from(max) >= CHUNK_OFFSETS => {
            Err(Malformed("an ack state's bitmap is larger than its chunk"))
        }
        _ => Ok(bitmap),
    }
}

/// The parts of a range in each chunk: the chunk's index, and offsets relative to the chunk's
/// begin.
pub fn chunk_ranges(range: OffsetRange) -> impl Iterator<Item = (u64, Range<u32>)> {
    let range = range.start.0..range.end.0;
    let chunks = range.start >> CHUNK_BITS..range.end.div_ceil(CHUNK_OFFSETS);
    chunks.map(move |index| {
        let base = index * CHUNK_OFFSETS;
        let start = range.start.saturating_sub(base) as u32;
        let end = range.end.saturating_sub(base).min(CHUNK_OFFSETS) as u32;
        (index, start..end.max(start))
    })
}
