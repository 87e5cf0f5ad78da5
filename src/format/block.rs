//! Blocks: what a segment consists of. About 64 KiB of records under one checksum, with a table
//! behind them that finds any one of them. `docs/FORMAT.md` has the table under "Blocks".

use super::{
    record::{RecordParts, RecordSpans, take_record},
    wire::{Bytes, Decoded, Malformed, NUMBER_CEILING, Seed, aligned},
};
use crate::ids::{Offset, Timestamp};

pub const BLOCK_HEADER_BYTES: usize = 64;
/// One entry of the table behind the records stands for so many of them.
const RESTART_EVERY: u32 = 16;
const RESTART_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// Records.
    Records = 1,
    /// The table of a sealed segment's blocks.
    Footer = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    pub body_checksum: u32,
    /// The body's length as it is stored.
    pub body_len: u32,
    /// The body's length before the codec; the same, as there is none so far.
    pub raw_len: u32,
    pub first: Offset,
    pub last: Offset,
    /// Records in the block; in a footer, blocks in the segment.
    pub count: u32,
    pub kind: BlockKind,
    /// The timestamp from which the records' ones are counted.
    pub base_time: Timestamp,
    pub max_time: Timestamp,
    /// Where in its file the block stands.
    pub position: u64,
}

impl BlockHeader {
    /// Reads and verifies the header of a block that must stand at `position`.
    pub fn decode(bytes: &[u8], position: u64, seed: Seed) -> Decoded<BlockHeader> {
        let bytes = bytes.get(..BLOCK_HEADER_BYTES);
        let bytes = bytes.ok_or(Malformed("a block's header reaches past the end"))?;
        let mut input = Bytes::new(bytes);
        if input.u32()? != seed.checksum(&bytes[4..]) {
            return Err(Malformed("a block's header has a wrong checksum"));
        }
        let (body_checksum, body_len, raw_len) = (input.u32()?, input.u32()?, input.u32()?);
        let (first, last) = (Offset(input.u64()?), Offset(input.u64()?));
        let count = input.u32()?;
        let kind = match input.u8()? {
            1 => BlockKind::Records,
            2 => BlockKind::Footer,
            _ => return Err(Malformed("unknown kind of block")),
        };
        if input.array::<3>()? != [0; 3] {
            return Err(Malformed("a block was packed by a codec that this build does not know"));
        }
        let (base_time, max_time) = (Timestamp(input.u64()?), Timestamp(input.u64()?));
        if input.u64()? != position {
            return Err(Malformed("a block that belongs at another position"));
        }
        let header = BlockHeader {
            body_checksum,
            body_len,
            raw_len,
            first,
            last,
            count,
            kind,
            base_time,
            max_time,
            position,
        };
        header.check().map(|()| header)
    }

    fn check(&self) -> Decoded<()> {
        if self.raw_len != self.body_len || self.block_len() > u64::from(u32::MAX) {
            return Err(Malformed("a block's length is impossible"));
        }
        let span = self.last.0.checked_sub(self.first.0);
        let span = span.filter(|_| self.last.0 < NUMBER_CEILING);
        let span = span.ok_or(Malformed("a block's offsets contradict each other"))?;
        let holds = |count: u32| count > 0 && u64::from(count) - 1 <= span;
        if self.kind == BlockKind::Records && (!holds(self.count) || span > u64::from(u32::MAX)) {
            return Err(Malformed("a block with an impossible number of records"));
        }
        Ok(())
    }

    fn encode(&self, seed: Seed) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = [0; BLOCK_HEADER_BYTES];
        let mut at = 4;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.body_checksum.to_le_bytes());
        put(&self.body_len.to_le_bytes());
        put(&self.raw_len.to_le_bytes());
        put(&self.first.0.to_le_bytes());
        put(&self.last.0.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&[self.kind as u8, 0, 0, 0]);
        put(&self.base_time.0.to_le_bytes());
        put(&self.max_time.0.to_le_bytes());
        put(&self.position.to_le_bytes());
        let checksum = seed.checksum(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The block's length on disk.
    pub fn block_len(&self) -> u64 {
        aligned(BLOCK_HEADER_BYTES as u64 + u64::from(self.body_len))
    }

    /// Verifies the body that belongs to this header.
    pub fn verify(&self, body: &[u8], seed: Seed) -> Decoded<()> {
        if body.len() != self.body_len as usize {
            return Err(Malformed("a block's body is not as long as its header says"));
        }
        if seed.checksum(body) != self.body_checksum {
            return Err(Malformed("a block's checksum is wrong"));
        }
        Ok(())
    }

    /// Appends a whole block: this header, with the body's length and checksum, then the body.
    pub fn put(mut self, out: &mut Vec<u8>, body: &[u8], seed: Seed) {
        self.body_len = u32::try_from(body.len()).expect("blocks are below 4 GiB");
        self.raw_len = self.body_len;
        self.body_checksum = seed.checksum(body);
        out.extend_from_slice(&self.encode(seed));
        out.extend_from_slice(body);
        out.resize(aligned(out.len() as u64) as usize, 0);
    }
}

/// Packs records into the body of a block.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    records: Vec<u8>,
    restarts: Vec<u8>,
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

    /// The bytes that the block would have by now.
    pub fn len(&self) -> usize {
        BLOCK_HEADER_BYTES + self.records.len() + self.restarts.len()
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
        }
        let delta = offset.0 - self.first.0;
        let gap = self.count > 0 && offset.0 != self.last.0 + 1;
        if self.count.is_multiple_of(RESTART_EVERY) {
            self.restarts.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
            self.restarts.extend_from_slice(&(delta as u32).to_le_bytes());
        }
        record.put(&mut self.records, self.base_time, gap.then_some(delta));
        self.last = offset;
        self.max_time = self.max_time.max(record.timestamp);
        self.count += 1;
    }

    /// Appends the block to `out`, to stand at `position`, and begins the next one.
    pub fn finish(&mut self, out: &mut Vec<u8>, position: u64, seed: Seed) -> BlockHeader {
        let header = BlockHeader {
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
        };
        self.records.extend_from_slice(&self.restarts);
        let at = out.len();
        header.put(out, &self.records, seed);
        self.records.clear();
        self.restarts.clear();
        self.count = 0;
        BlockHeader::decode(&out[at..], position, seed).expect("a block just encoded decodes")
    }
}

/// A place between two records of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    at: usize,
    /// The least offset that the next record can have.
    next: Offset,
}

/// The records of a verified block.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    header: &'a BlockHeader,
    body: &'a [u8],
    restarts: &'a [u8],
}

impl<'a> Records<'a> {
    /// Looks into the body of a block. The body must have been verified.
    pub fn new(header: &'a BlockHeader, body: &'a [u8]) -> Decoded<Records<'a>> {
        let restarts = header.count.div_ceil(RESTART_EVERY) as usize * RESTART_BYTES;
        let split = body.len().checked_sub(restarts);
        let split = split.ok_or(Malformed("a block's table is longer than the block"))?;
        let (body, restarts) = body.split_at(split);
        Ok(Records { header, body, restarts })
    }

    pub fn start(&self) -> BlockPlace {
        BlockPlace { at: 0, next: self.header.first }
    }

    fn restart(&self, n: usize) -> Decoded<BlockPlace> {
        let mut entry = Bytes::starting_at(self.restarts, n * RESTART_BYTES);
        let (at, delta) = (entry.u32()? as usize, entry.u32()?);
        let next = Offset(self.header.first.0 + u64::from(delta));
        if at >= self.body.len() || next > self.header.last {
            return Err(Malformed("a block's table points outside of the block"));
        }
        Ok(BlockPlace { at, next })
    }

    /// The record at a place, and the place behind it. `None` behind the last record.
    #[inline]
    pub fn step(&self, place: &mut BlockPlace) -> Decoded<Option<(Offset, RecordSpans)>> {
        if place.at >= self.body.len() {
            return self.check_end(*place).map(|()| None);
        }
        let spans = take_record(self.body, place.at, self.header.base_time)?;
        let offset = match spans.offset_delta {
            None => place.next,
            Some(delta) => Offset(self.header.first.0.wrapping_add(delta)),
        };
        if offset < place.next || offset > self.header.last {
            return Err(Malformed("a record's offset is not within its block"));
        }
        *place = BlockPlace { at: spans.end(), next: offset.next() };
        Ok(Some((offset, spans)))
    }

    /// Behind the last record, and only there, the block may end.
    fn check_end(&self, place: BlockPlace) -> Decoded<()> {
        let is_behind_last = place.next.0.checked_sub(1) == Some(self.header.last.0);
        if place.at == self.body.len() && is_behind_last {
            return Ok(());
        }
        Err(Malformed("a block ends before its last record"))
    }

    /// The place before the first record whose offset is `offset` or larger.
    pub fn seek(&self, offset: Offset) -> Decoded<BlockPlace> {
        let count = self.restarts.len() / RESTART_BYTES;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if self.restart(middle)?.next <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let mut place = if low == 0 { self.start() } else { self.restart(low - 1)? };
        loop {
            let mut behind = place;
            match self.step(&mut behind)? {
                Some((found, _)) if found < offset => place = behind,
                _ => return Ok(place),
            }
        }
    }
}
