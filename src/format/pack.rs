//! Packs records into the body of a block. Any record is found at once, and reading all of them in order costs little
//! more than their checksum. `docs/FORMAT.md` has the table under "Blocks".
//!
//! The body consists of *data*, *gaps* and *marks*. Each record has a mark of four bytes, which tells where its data
//! ends. To find a record, the one before need not be read, so a processor reads many at once. Most records have only
//! a payload. Other parts stand before the payload, and a bit of the mark tells that there are some.

use super::{
    block::{BlockHeader, BlockKind},
    record::{RecordParts, RecordSpans},
    wire::{Bytes, Decoded, Malformed, Seed, put_varint, unzigzag, zigzag},
};
use crate::ids::{Offset, Timestamp};

/// The record has its own timestamp.
const HAS_TIME: u32 = 1;
/// The record has a key or headers.
const HAS_PARTS: u32 = 2;
const END_SHIFT: u32 = 2;
const MARK_BYTES: usize = 4;
/// The bytes of a gap in the offsets: the number of the record behind it, and that record's distance to the first
/// offset.
const GAP_BYTES: usize = 8;

/// Packs records into the body of a block.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    data: Vec<u8>,
    gaps: Vec<u8>,
    marks: Vec<u8>,
    first: Offset,
    last: Offset,
    count: u32,
    base_time: Timestamp,
    max_time: Timestamp,
}

impl BlockBuilder {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes that the block has so far.
    pub fn len(&self) -> usize {
        super::block::BLOCK_HEADER_BYTES + self.data.len() + self.gaps.len() + self.marks.len()
    }

    /// Whether a record with this offset can still join the block.
    pub fn fits(&self, offset: Offset) -> bool {
        self.count == 0 || offset.0 - self.first.0 <= u64::from(u32::MAX)
    }

    /// Adds a record. Offsets must grow.
    pub fn push(&mut self, offset: Offset, record: &RecordParts<'_>) {
        if self.count == 0 {
            self.first = offset;
            self.base_time = record.timestamp;
            self.max_time = record.timestamp;
        } else if offset.0 != self.last.0 + 1 {
            let delta = (offset.0 - self.first.0) as u32;
            self.gaps.extend_from_slice(&self.count.to_le_bytes());
            self.gaps.extend_from_slice(&delta.to_le_bytes());
        }
        let mut mark = 0;
        if record.timestamp != self.base_time {
            mark |= HAS_TIME;
            let delta = record.timestamp.0.wrapping_sub(self.base_time.0);
            put_varint(&mut self.data, zigzag(delta as i64));
        }
        let headers_len = record.headers.encoded_len();
        if record.key.is_some() || headers_len > 0 {
            mark |= HAS_PARTS;
            put_varint(&mut self.data, record.key.map_or(0, |key| key.len() as u64 + 1));
            put_varint(&mut self.data, headers_len as u64);
            self.data.extend_from_slice(record.key.unwrap_or_default());
            record.headers.put(&mut self.data);
        }
        self.data.extend_from_slice(record.payload);
        // One record fits, because it was in a frame, which is shorter. More records join only a short
        // block.
        debug_assert!(self.data.len() < 1 << (32 - END_SHIFT));
        mark |= (self.data.len() as u32) << END_SHIFT;
        self.marks.extend_from_slice(&mark.to_le_bytes());
        self.last = offset;
        self.max_time = self.max_time.max(record.timestamp);
        self.count += 1;
    }

    /// A block of one record for the place `position` in the file. The payload is not copied.
    pub fn lone<'a>(
        offset: Offset,
        record: &RecordParts<'a>,
        position: u64,
        seed: Seed,
    ) -> LoneBlock<'a> {
        let mut block = BlockBuilder::default();
        block.push(offset, &RecordParts { payload: &[], ..*record });
        let payload = record.payload;
        let mut mark = [0; MARK_BYTES];
        mark.copy_from_slice(&block.marks);
        let end = (payload.len() as u32) << END_SHIFT;
        let mark = (u32::from_le_bytes(mark) + end).to_le_bytes();
        let header = block.header(position);
        let (header, mut before, padding) = header.around(&[&block.data, payload, &mark], seed);
        before.extend_from_slice(&block.data);
        let mut behind = mark.to_vec();
        behind.resize(MARK_BYTES + padding, 0);
        LoneBlock { header, before, payload, behind }
    }

    fn header(&self, position: u64) -> BlockHeader {
        BlockHeader {
            body_checksum: 0,
            body_len: 0,
            raw_len: 0,
            first: self.first,
            last: self.last,
            count: self.count,
            kind: BlockKind::Records,
            base_time: self.base_time,
            max_time: self.max_time,
            position,
        }
    }

    /// Appends the block to `out` for the place `position` in the file, and begins the next block.
    pub fn finish(&mut self, out: &mut Vec<u8>, position: u64, seed: Seed) -> BlockHeader {
        let header = self.header(position);
        let at = out.len();
        header.put(out, &[&self.data, &self.gaps, &self.marks], seed);
        self.data.clear();
        self.gaps.clear();
        self.marks.clear();
        self.count = 0;
        BlockHeader::decode(&out[at..], position, seed).expect("a block just encoded decodes")
    }
}

/// A block of one record, in three parts.
#[derive(Debug)]
pub struct LoneBlock<'a> {
    pub header: BlockHeader,
    pub before: Vec<u8>,
    pub payload: &'a [u8],
    pub behind: Vec<u8>,
}

/// A place between two records of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// The number of the next record in its block.
    index: u32,
    /// The number of the next record behind a gap, or the number of records if there is no further gap.
    stop: u32,
    /// Where the next record's data begins.
    at: u32,
    /// The lowest offset that the next record can have.
    next: Offset,
}

impl BlockPlace {
    /// The lowest offset that the next record can have.
    #[inline]
    pub fn next(&self) -> Offset {
        self.next
    }
}

/// Finds the records of a verified block. Every call takes the body of that block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records {
    first: Offset,
    base_time: Timestamp,
    count: u32,
    /// The place in the body where the data ends and the gaps begin.
    gaps_at: u32,
    marks_at: u32,
}

impl Records {
    /// Reads the tables of a block's body. The body was verified before.
    pub fn new(header: &BlockHeader, body: &[u8]) -> Decoded<Records> {
        let split = (header.count as usize).checked_mul(MARK_BYTES);
        let split = split.and_then(|marks| body.len().checked_sub(marks));
        let split = split.ok_or(Malformed("a block's marks are longer than the block"))?;
        let (front, marks) = body.split_at(split);
        let last = marks.last_chunk().ok_or(Malformed("a block without records"))?;
        let gaps_at = u32::from_le_bytes(*last) >> END_SHIFT;
        let gaps = front.get(gaps_at as usize..);
        let gaps = gaps.ok_or(Malformed("a block's records are longer than the block"))?;
        check_gaps(header, gaps)?;
        let (first, base_time, count) = (header.first, header.base_time, header.count);
        let marks_at = u32::try_from(split).map_err(|_| Malformed("a block that is too long"))?;
        Ok(Records { first, base_time, count, gaps_at, marks_at })
    }

    fn mark(&self, body: &[u8], index: u32) -> Option<u32> {
        let marks = body.get(self.marks_at as usize..)?;
        let mark = marks.get(index as usize * MARK_BYTES..)?.first_chunk()?;
        Some(u32::from_le_bytes(*mark))
    }

    fn gaps<'a>(&self, body: &'a [u8]) -> &'a [[u8; GAP_BYTES]] {
        let gaps = body.get(self.gaps_at as usize..self.marks_at as usize);
        gaps.unwrap_or_default().as_chunks().0
    }

    pub fn start(&self, body: &[u8]) -> BlockPlace {
        self.place(body, 0)
    }

    /// The record at a place, if it is cheap to read: no gap before it, no key, no headers, and a timestamp near
    /// that of the block. The place moves on. Otherwise it stays, for [`step`](Records::step).
    #[inline]
    pub fn quick(&self, body: &[u8], place: &mut BlockPlace) -> Option<(Offset, RecordSpans)> {
        if place.index >= place.stop {
            return None;
        }
        let marks = body.get(self.marks_at as usize + place.index as usize * MARK_BYTES..)?;
        let mark = u32::from_le_bytes(*marks.first_chunk()?);
        let (start, end) = (place.at, mark >> END_SHIFT);
        if end < start || end > self.gaps_at {
            return None;
        }
        let spans = match mark & (HAS_TIME | HAS_PARTS) {
            0 => RecordSpans::plain(self.base_time, start, end),
            HAS_TIME => {
                let (delta, bytes) = match *body.get(start as usize..end as usize)? {
                    [low, ..] if low < 0x80 && low > 0 => (u64::from(low), 1),
                    [low, high, ..] if low >= 0x80 && high < 0x80 && high > 0 => {
                        (u64::from(low & 0x7F) | u64::from(high) << 7, 2)
                    }
                    _ => return None,
                };
                let time = Timestamp(self.base_time.0.wrapping_add(unzigzag(delta) as u64));
                RecordSpans::plain(time, start + bytes, end)
            }
            _ => return None,
        };
        let offset = place.next;
        place.index += 1;
        place.at = end;
        place.next = offset.next();
        Some((offset, spans))
    }

    /// The record at a place. The place moves on. `None` behind the last record.
    pub fn step(
        &self,
        body: &[u8],
        place: &mut BlockPlace,
    ) -> Decoded<Option<(Offset, RecordSpans)>> {
        if place.index >= place.stop {
            if place.index >= self.count {
                return Ok(None);
            }
            *place = self.place(body, place.index);
        }
        let mark = self.mark(body, place.index).ok_or(Malformed("a block lacks a mark"))?;
        let (start, end) = (place.at, mark >> END_SHIFT);
        if end < start || end > self.gaps_at {
            return Err(Malformed("a record ends before it begins, or outside of its block"));
        }
        let spans = self.take(body, mark, start, end)?;
        let offset = place.next;
        place.index += 1;
        place.at = end;
        place.next = offset.next();
        Ok(Some((offset, spans)))
    }

    fn take(&self, body: &[u8], mark: u32, start: u32, end: u32) -> Decoded<RecordSpans> {
        let mut input = Bytes::starting_at(&body[..end as usize], start as usize);
        let has = |bit| mark & bit != 0;
        let delta = if has(HAS_TIME) { unzigzag(input.varint()?) } else { 0 };
        let (key, headers) =
            if has(HAS_PARTS) { (input.varint()?, input.length()?) } else { (0, 0) };
        if (has(HAS_TIME) && delta == 0) || (has(HAS_PARTS) && (key, headers) == (0, 0)) {
            return Err(Malformed("a record stores a default that it must leave out"));
        }
        let timestamp = Timestamp(self.base_time.0.wrapping_add(delta as u64));
        let at = input.position();
        // A length above the limit does not fit in any case.
        let key = key.checked_sub(1).map(|key| usize::try_from(key).unwrap_or(usize::MAX));
        let before = at.checked_add(key.unwrap_or(0)).and_then(|at| at.checked_add(headers));
        let payload = before.and_then(|before| (end as usize).checked_sub(before));
        let payload = payload.ok_or(Malformed("a length reaches past the end"))?;
        RecordSpans::of(timestamp, at, (key, headers, payload), end as usize)
    }

    /// The place before a record, by its number. There is also a place behind the last record.
    fn place(&self, body: &[u8], index: u32) -> BlockPlace {
        let gaps = self.gaps(body);
        let (from, behind) = around(gaps, gaps.partition_point(|gap| gap_of(gap).0 <= index));
        let stop = behind.map_or(self.count, |(stop, _)| stop.min(self.count));
        let at = index.checked_sub(1).and_then(|before| self.mark(body, before));
        let at = at.map_or(0, |mark| mark >> END_SHIFT);
        let delta = u64::from(from.1) + u64::from(index - from.0);
        BlockPlace { index, stop, at, next: Offset(self.first.0 + delta) }
    }

    /// How many records there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The record with a number. `None` if there are not so many.
    pub fn nth(&self, body: &[u8], index: u32) -> Decoded<Option<(Offset, RecordSpans)>> {
        let mut place = self.place(body, index.min(self.count));
        self.step(body, &mut place)
    }

    /// The place before the first record whose offset is `offset` or larger.
    pub fn seek(&self, body: &[u8], offset: Offset) -> BlockPlace {
        let distance = offset.0.saturating_sub(self.first.0);
        let gaps = self.gaps(body);
        let passed = gaps.partition_point(|gap| u64::from(gap_of(gap).1) <= distance);
        let (from, behind) = around(gaps, passed);
        let stop = behind.map_or(self.count, |(stop, _)| stop);
        let steps = (distance - u64::from(from.1)).min(u64::from(stop.saturating_sub(from.0)));
        self.place(body, from.0 + steps as u32)
    }

    /// The records before an offset.
    pub fn before(&self, body: &[u8], end: Offset) -> Records {
        Records { count: self.seek(body, end).index, ..*self }
    }
}

/// Decodes a gap: the number of the record behind it, and that record's distance to the first offset.
fn gap_of(bytes: &[u8; GAP_BYTES]) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = *bytes;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// The gap before the n-th gap, from which the offsets count on, and the n-th gap, if there is one.
fn around(gaps: &[[u8; GAP_BYTES]], n: usize) -> ((u32, u32), Option<(u32, u32)>) {
    let before = n.checked_sub(1).map_or((0, 0), |before| gap_of(&gaps[before]));
    (before, gaps.get(n).map(gap_of))
}

/// Checks that the offsets grow over the gaps, from the block's first offset to its last.
fn check_gaps(header: &BlockHeader, gaps: &[u8]) -> Decoded<()> {
    let (gaps, []) = gaps.as_chunks() else {
        return Err(Malformed("a block's gaps end in the middle of an entry"));
    };
    let mut before = (0u32, 0u32);
    for gap in gaps.iter().map(gap_of) {
        let steps = gap.0.checked_sub(before.0).filter(|steps| *steps > 0);
        let least = steps.map(|steps| u64::from(before.1) + u64::from(steps) + 1);
        if gap.0 >= header.count || least.is_none_or(|least| u64::from(gap.1) < least) {
            return Err(Malformed("a block's gap skips no offset"));
        }
        before = gap;
    }
    let behind = u64::from(header.count - 1 - before.0);
    if u64::from(before.1) + behind != header.last.0 - header.first.0 {
        return Err(Malformed("a block's gaps do not lead to its last record"));
    }
    Ok(())
}
