//! Blocks, of which a segment consists: about 64 KiB of records under one checksum. This module has the header, and
//! `pack.rs` packs the body. `docs/FORMAT.md` has the table under "Blocks".

use super::wire::{Bytes, Decoded, Malformed, NUMBER_CEILING, Seed, aligned};
use crate::ids::{Offset, Timestamp};

pub const BLOCK_HEADER_BYTES: usize = 64;

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
    /// The body's stored length.
    pub body_len: u32,
    /// The body's length before the codec. There is no codec yet, so it is the same.
    pub raw_len: u32,
    pub first: Offset,
    pub last: Offset,
    /// The number of records in the block. In a footer, the number of blocks in the segment.
    pub count: u32,
    pub kind: BlockKind,
    /// The timestamp that the records' timestamps are relative to.
    pub base_time: Timestamp,
    pub max_time: Timestamp,
    /// The block's position in its file.
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

    /// A block whose body is given in parts that are not copied. Returns its header, also as it is stored, and how many zeros
    /// stand behind the body.
    pub fn around(mut self, body: &[&[u8]], seed: Seed) -> (BlockHeader, Vec<u8>, usize) {
        let len: usize = body.iter().map(|part| part.len()).sum();
        self.body_len = u32::try_from(len).expect("blocks are below 4 GiB");
        self.raw_len = self.body_len;
        let mut sum = seed.begin();
        body.iter().for_each(|part| sum.add(part));
        self.body_checksum = sum.checksum();
        let padding = self.block_len() as usize - BLOCK_HEADER_BYTES - len;
        (self, self.encode(seed).to_vec(), padding)
    }

    /// Appends a whole block: this header with the body's length and checksum, and then the parts of the body.
    pub fn put(mut self, out: &mut Vec<u8>, body: &[&[u8]], seed: Seed) {
        let header_at = out.len();
        let body_at = header_at + BLOCK_HEADER_BYTES;
        out.resize(body_at, 0);
        body.iter().for_each(|part| out.extend_from_slice(part));
        self.body_len = u32::try_from(out.len() - body_at).expect("blocks are below 4 GiB");
        self.raw_len = self.body_len;
        self.body_checksum = seed.checksum(&out[body_at..]);
        out[header_at..body_at].copy_from_slice(&self.encode(seed));
        out.resize(aligned(out.len() as u64) as usize, 0);
    }
}
