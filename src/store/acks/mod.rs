//! The ack state of one cursor: a floor, and bitmaps above it.
//!
//! All messages below the floor are acked. Above the floor there are compressed bitmaps, in chunks
//! of 65,536 offsets. A chunk exists only if one of its messages was touched, so a backlog costs
//! nothing until it is touched. Numbers of attempts and priorities are bit-sliced bitmaps
//! ([`digits`]), which cost a few bits for each message that has one. The time at which a message
//! is due is kept for delayed messages only. The state of a cursor with a filter ends where the cursor has
//! [seen](seen) the log.

mod chunk;
mod digits;
mod joint;
mod seen;
mod spilled;
mod upper;

pub use chunk::{CHUNK_OFFSETS, chunk_ranges};
pub use joint::{acked_by_all, chunks_of};

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use roaring::RoaringBitmap;

use self::{
    chunk::{Chunk, split},
    digits::{by_number, number, put_number},
    upper::Upper,
};
use super::lazy::Lazy;
use crate::{
    audit,
    format::{Malformed, meta::ChunkState},
    ids::{CursorId, Due, Offset, OffsetRange},
};

/// The ack state of one cursor.
#[derive(Clone, Debug, Default)]
pub struct AckSet {
    floor: u64,
    /// How many offsets above the floor are acked.
    above: u64,
    /// The state above the floor. Most cursors at rest have none.
    upper: Lazy<Upper>,
}

impl AckSet {
    pub fn new(floor: Offset) -> AckSet {
        AckSet { floor: floor.0, ..AckSet::default() }
    }

    /// Everything below is acked.
    #[inline]
    pub fn floor(&self) -> Offset {
        Offset(self.floor)
    }

    /// Whether there is nothing but the floor.
    pub fn is_plain(&self) -> bool {
        self.upper.chunks.is_empty()
    }

    /// How many offsets below `end` are not acked.
    pub fn unacked(&self, end: Offset) -> u64 {
        self.own_end(end).0.saturating_sub(self.floor).saturating_sub(self.above)
    }

    /// As [`unacked`](AckSet::unacked), for an end behind which some are acked: a cursor with a filter sees its log end before
    /// messages that pass it by, and may have rejected others behind these.
    #[cold]
    pub fn unacked_before(&self, end: Offset) -> u64 {
        let (first, low) = split(end.0);
        let behind = self.upper.chunks.range(first..).inspect(|_| audit::step());
        let from = |index: u64| if index == first { low } else { 0 };
        let all = CHUNK_OFFSETS as u32;
        let acked = behind.map(|(index, it)| it.acked.range_cardinality(from(*index)..all));
        self.unacked(end) + acked.sum::<u64>().min(self.above)
    }

    #[inline]
    pub fn is_acked(&self, offset: Offset) -> bool {
        if offset.0 < self.floor {
            return true;
        }
        let Some(upper) = self.upper.get() else { return false };
        if offset.0 >= upper.seen || self.above == 0 {
            return offset.0 >= upper.seen;
        }
        let (index, low) = split(offset.0);
        upper.chunks.get(&index).is_some_and(|chunk| chunk.acked.contains(low))
    }

    /// Acks a range. Messages that are acked already stay acked.
    #[inline]
    pub fn ack(&mut self, range: OffsetRange) {
        self.ack_own(range.start.to(self.own_end(range.end)));
    }

    /// Acks a range of the cursor's own messages.
    #[inline]
    fn ack_own(&mut self, range: OffsetRange) {
        if range.end.0 <= self.floor {
            return;
        }
        if range.start.0 > self.floor {
            self.ack_above(range);
            return;
        }
        let before = mem::replace(&mut self.floor, range.end.0);
        if !self.upper.is_absent() {
            self.drop_below_floor(before);
            self.absorb();
        }
    }

    fn ack_above(&mut self, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        for (index, lows) in chunk_ranges(range) {
            audit::step();
            let upper = &mut *self.upper;
            let chunk = changing(&mut upper.chunks, &mut upper.changed, index);
            self.above += chunk.acked.insert_range(lows.clone());
            upper.spilled -= chunk.forget(lows);
        }
    }

    /// Removes offsets below the floor from the chunks. This does not make a chunk dirty, because a restore
    /// ignores offsets below the floor. There is none below `before`: a look at all of a chunk for each ack would cost more
    /// than the ack.
    fn drop_below_floor(&mut self, before: u64) {
        if self.upper.chunks.is_empty() {
            return;
        }
        let ((last, low), upper) = (split(self.floor), &mut *self.upper);
        let first = if split(before).0 == last { split(before).1 } else { 0 };
        while let Some(mut entry) = upper.chunks.first_entry() {
            audit::step();
            if *entry.key() > last {
                break;
            }
            if *entry.key() < last {
                let (index, chunk) = entry.remove_entry();
                if chunk.dirty {
                    upper.changed.remove(&index);
                }
                self.above -= chunk.acked.len();
                upper.spilled -= chunk.spilled.len();
                continue;
            }
            let chunk = entry.get_mut();
            self.above -= chunk.acked.remove_range(first..low);
            upper.spilled -= chunk.forget(first..low);
            if chunk.is_empty() {
                entry.remove();
            }
            break;
        }
    }

    /// Moves the floor over acked messages directly above it.
    fn absorb(&mut self) {
        while self.above > 0 {
            audit::step();
            let (index, low) = split(self.floor);
            let Some(chunk) = self.upper.chunks.get_mut(&index) else {
                return;
            };
            if !chunk.acked.contains(low) {
                return;
            }
            let run = chunk.acked.range(low..).next_range().expect("it holds this bit");
            let before = self.floor;
            self.floor += u64::from(run.end() - run.start()) + 1;
            self.drop_below_floor(before);
        }
    }

    /// The first offset in a range that is not acked.
    #[inline]
    pub fn next_unacked(&self, range: OffsetRange) -> Option<Offset> {
        let mut at = range.start.0.max(self.floor);
        let end = self.own_end(range.end).0;
        if self.above == 0 {
            audit::step();
            return (at < end).then_some(Offset(at));
        }
        while at < end {
            audit::step();
            let (index, low) = split(at);
            let chunk = self.upper.chunks.get(&index);
            let Some(chunk) = chunk.filter(|chunk| chunk.acked.contains(low)) else {
                return Some(Offset(at));
            };
            let run = chunk.acked.range(low..).next_range().expect("it holds this bit");
            at += u64::from(run.end() - low) + 1;
        }
        None
    }

    /// The offset behind the last message that has any state here.
    pub fn end(&self) -> Offset {
        let last = |(index, chunk): (&u64, &Chunk)| {
            let digits = chunk.attempts.iter().chain(&chunk.priorities);
            let bits = digits.chain([&chunk.acked, &chunk.spilled]).filter_map(RoaringBitmap::max);
            let due = chunk.due.last_key_value().map(|(low, _)| u32::from(*low));
            bits.chain(due).max().map(|low| index * CHUNK_OFFSETS + u64::from(low) + 1)
        };
        let last = self.upper.chunks.iter().rev().find_map(last).unwrap_or(0).max(self.floor);
        self.seen().map_or(Offset(last), |seen| Offset(last).max(seen))
    }

    /// Whether nothing is known of messages from an offset on: none of them is acked.
    #[inline]
    pub fn has_nothing_from(&self, offset: Offset) -> bool {
        self.floor <= offset.0 && self.upper.is_absent()
    }

    /// The parts of a range that are not acked.
    pub fn unacked_in(&self, range: OffsetRange) -> Vec<OffsetRange> {
        self.unacked_up_to(range, usize::MAX)
    }

    /// The first parts of a range that are not acked, at most `most` parts.
    pub fn unacked_up_to(&self, range: OffsetRange, most: usize) -> Vec<OffsetRange> {
        let mut unacked: Vec<OffsetRange> = Vec::new();
        let range = range.start.to(self.own_end(range.end));
        let mut at = range.start.max(self.floor());
        while let Some(from) = self.next_unacked(at.to(range.end)) {
            let (index, low) = split(from.0);
            let chunk = if self.above == 0 { None } else { self.upper.chunks.get(&index) };
            let next = chunk.and_then(|chunk| chunk.acked.range(low..).next());
            let end = match next {
                Some(acked) => index * CHUNK_OFFSETS + u64::from(acked),
                // No message is acked up to the next chunk.
                None => self
                    .upper
                    .chunks
                    .range(index + 1..)
                    .next()
                    .map_or(u64::MAX, |(next, _)| next * CHUNK_OFFSETS),
            };
            at = Offset(end).min(range.end);
            let is_full = unacked.len() >= most;
            match unacked.last_mut() {
                Some(last) if last.end == from => last.end = at,
                _ if is_full => break,
                _ => unacked.push(from.to(at)),
            }
        }
        unacked
    }

    /// How often the delivery of an offset has failed.
    #[inline]
    pub fn attempts(&self, offset: Offset) -> u32 {
        let Some(upper) = self.upper.get() else { return 0 };
        let (index, low) = split(offset.0);
        upper.chunks.get(&index).map_or(0, |chunk| number(&chunk.attempts, low))
    }

    /// The priority of an offset.
    #[inline]
    pub fn priority(&self, offset: Offset) -> u8 {
        let Some(upper) = self.upper.get().filter(|upper| upper.has_priorities) else { return 0 };
        let (index, low) = split(offset.0);
        upper.chunks.get(&index).map_or(0, |chunk| number(&chunk.priorities, low) as u8)
    }

    /// The messages with a priority above the lowest, chunk by chunk and by priority.
    pub fn prioritized_chunks(&self) -> impl Iterator<Item = (u64, u8, RoaringBitmap)> {
        self.upper.chunks.iter().flat_map(|(index, chunk)| {
            let by_priority = by_number(&chunk.priorities).into_iter();
            by_priority.map(move |(priority, lows)| (*index, priority as u8, lows))
        })
    }

    /// Sets the priority of a range. Acked messages are left as they are.
    pub fn prioritize(&mut self, range: OffsetRange, priority: u8) {
        self.upper.has_priorities = true;
        for range in self.unacked_in(range) {
            for (index, lows) in chunk_ranges(range) {
                audit::step();
                let Upper { chunks, changed, .. } = &mut *self.upper;
                let chunk = changing(chunks, changed, index);
                put_number(&mut chunk.priorities, lows, u32::from(priority));
            }
        }
    }

    /// The delayed messages from an offset on, and when they are due.
    pub fn deferred(&self, from: Offset) -> impl Iterator<Item = (Offset, Due)> {
        let (first, low) = split(from.0.max(self.floor));
        self.upper.chunks.range(first..).flat_map(move |(index, chunk)| {
            let low = if *index == first { low as u16 } else { 0 };
            let due = chunk.due.range(low..);
            due.map(move |(low, due)| (Offset(index * CHUNK_OFFSETS + u64::from(*low)), *due))
        })
    }

    /// Whether there are more than so many delayed messages.
    pub fn has_deferred(&self, more_than: usize) -> bool {
        let mut count = 0;
        self.upper.chunks.values().any(|chunk| {
            audit::step();
            count += chunk.due.len();
            count > more_than
        })
    }

    /// When a message is due. `Due::NOW` if it is not delayed.
    #[inline]
    pub fn due(&self, offset: Offset) -> Due {
        let Some(upper) = self.upper.get() else { return Due::NOW };
        let (index, low) = split(offset.0);
        let due = upper.chunks.get(&index).and_then(|chunk| chunk.due.get(&(low as u16)));
        due.copied().unwrap_or_default()
    }

    /// Sets the number of attempts of a message, and when it is due. An acked message is left as it
    /// is.
    pub fn defer(&mut self, offset: Offset, attempts: u32, due: Due) {
        if self.is_acked(offset) {
            return;
        }
        let (index, low) = split(offset.0);
        let Upper { chunks, changed, spilled, .. } = &mut *self.upper;
        let chunk = changing(chunks, changed, index);
        put_number(&mut chunk.attempts, low..low + 1, attempts);
        *spilled -= u64::from(chunk.spilled.remove(low));
        if due == Due::NOW {
            chunk.due.remove(&(low as u16));
        } else {
            chunk.due.insert(low as u16, due);
        }
    }

    /// Captures the next chunk that changed since its last capture. A chunk that is empty by now, and was removed, is
    /// captured as an empty one: the metalog may have it with messages above the floor, whose attempts or waits were
    /// cleared since.
    pub fn capture_changed(&mut self, cursor: CursorId) -> Option<ChunkState> {
        while !self.upper.changed.is_empty()
            && let Some(index) = self.upper.changed.pop_first()
        {
            audit::step();
            if seeded!(AcksAreNotCaptured) {
                continue;
            }
            match self.upper.chunks.get_mut(&index) {
                Some(chunk) if chunk.dirty => return Some(chunk.capture(cursor, index)),
                None if index >= split(self.floor).0 => {
                    return Some(Chunk::default().capture(cursor, index));
                }
                _ => {}
            }
        }
        self.shrink();
        None
    }

    /// Gives back the memory of what became empty.
    pub fn shrink(&mut self) {
        let is_filtered = self.seen().is_some();
        if self.upper.chunks.is_empty() && self.upper.changed.is_empty() && !is_filtered {
            self.upper = Lazy::default();
        }
    }

    /// Whether there may be such a chunk.
    pub fn may_have_changed(&self) -> bool {
        !self.upper.changed.is_empty()
    }

    /// Captures the first chunk from an index on.
    pub fn capture_from(&mut self, cursor: CursorId, from: u64) -> Option<ChunkState> {
        let (index, chunk) = self.upper.chunks.range_mut(from..).next()?;
        (!seeded!(AcksAreNotCaptured)).then(|| chunk.capture(cursor, *index))
    }

    /// Captures all chunks.
    pub fn capture_all(&mut self, cursor: CursorId) -> Vec<ChunkState> {
        let mut all: Vec<ChunkState> = Vec::new();
        while let Some(chunk) = self.capture_from(cursor, all.last().map_or(0, |it| it.chunk + 1)) {
            all.push(chunk);
        }
        all
    }

    /// Takes a chunk from a metalog. It may hold offsets below the floor, which no longer count.
    pub fn restore(&mut self, state: &ChunkState) -> Result<(), Malformed> {
        let chunk = Chunk::restore(state)?;
        let upper = &mut *self.upper;
        self.above += chunk.acked.len();
        upper.spilled += chunk.spilled.len();
        upper.has_priorities |= !chunk.priorities.is_empty();
        if let Some(old) = upper.chunks.insert(state.chunk, chunk) {
            self.above -= old.acked.len();
            upper.spilled -= old.spilled.len();
        }
        Ok(())
    }

    /// Sets the floor from a metalog, once all chunks are restored.
    pub fn restore_floor(&mut self, floor: Offset) {
        self.floor = floor.0;
        self.drop_below_floor(0);
    }
}

/// A chunk that is about to change.
fn changing<'a>(
    chunks: &'a mut BTreeMap<u64, Chunk>,
    changed: &mut BTreeSet<u64>,
    index: u64,
) -> &'a mut Chunk {
    let chunk = chunks.entry(index).or_default();
    if !chunk.dirty {
        chunk.dirty = true;
        changed.insert(index);
    }
    chunk
}
