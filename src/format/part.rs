//! The header of a part of a shared segment file. `docs/FORMAT.md` has the table under "Shared segment files".

use super::wire::{ALIGN, Bytes, Decoded, Malformed, Seed, check_numbers};
use crate::ids::{LogId, Offset, StoreId};

pub const PART_HEADER_BYTES: u64 = 24;

/// A part is the segment of one log in a shared file: this header, and its blocks. So the parts of a file are found
/// without the metalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    pub log: LogId,
    /// No record in the part has a lower offset.
    pub base: Offset,
    /// The length of its blocks.
    pub blocks_len: u32,
}

impl PartHeader {
    /// The seed of the header that stands at a position of a file.
    fn seed(store: StoreId, file: u64, at: u64) -> Seed {
        Seed::new(store, &[u64::MAX - 1, file, at])
    }

    pub fn encode(&self, store: StoreId, file: u64, at: u64) -> [u8; PART_HEADER_BYTES as usize] {
        let mut out = [0; PART_HEADER_BYTES as usize];
        out[4..8].copy_from_slice(&self.blocks_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.log.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.base.0.to_le_bytes());
        let checksum = PartHeader::seed(store, file, at).checksum(&out[4..]);
        out[..4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads and verifies the header that must stand at a position of a file.
    pub fn decode(bytes: &[u8], store: StoreId, file: u64, at: u64) -> Decoded<PartHeader> {
        let bytes = bytes.get(..PART_HEADER_BYTES as usize);
        let bytes = bytes.ok_or(Malformed("a part's header reaches past the end"))?;
        let mut input = Bytes::new(bytes);
        let (checksum, blocks_len) = (input.u32()?, input.u32()?);
        let (log, base) = (input.u64()?, input.u64()?);
        // These are cheap to check, and most places in a file fail here.
        let is_possible =
            log != 0 && blocks_len != 0 && u64::from(blocks_len).is_multiple_of(ALIGN);
        if !is_possible || check_numbers([log, base]).is_err() {
            return Err(Malformed("no part begins here"));
        }
        if checksum != PartHeader::seed(store, file, at).checksum(&bytes[4..]) {
            return Err(Malformed("a part's header has a wrong checksum"));
        }
        Ok(PartHeader { log: LogId(log), base: Offset(base), blocks_len })
    }

    /// The length of the part, with this header.
    pub fn len(&self) -> u64 {
        PART_HEADER_BYTES + u64::from(self.blocks_len)
    }
}
