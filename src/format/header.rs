//! The header of every file: a magic number, the version, a checksum, the store's id and a few numbers. `docs/FORMAT.md`
//! has the table under "File headers". It also says there which steps a change of [`FORMAT_VERSION`] needs.

use super::wire::{Bytes, Decoded, Malformed};
use crate::ids::StoreId;

/// The version of the whole format: journal, segments and metalog change together.
pub const FORMAT_VERSION: u32 = 6;

/// The oldest version that this build reads. It begins new files in [`FORMAT_VERSION`] as soon as it opens a store, so an
/// older build then refuses the store by name.
pub const OLDEST_VERSION: u32 = 1;

/// A header that verifies, but has another version of the format.
pub const UNSUPPORTED: Malformed = Malformed("a format version that this build cannot read");

pub type Magic = [u8; 8];

/// Encodes a header of `length` bytes. The bytes behind the fields are zero, and the checksum covers them, too.
pub fn encode(magic: Magic, store: StoreId, fields: &[u64], length: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(length as usize);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&store.0);
    for field in fields {
        out.extend_from_slice(&field.to_le_bytes());
    }
    debug_assert!(out.len() as u64 <= length);
    out.resize(length as usize, 0);
    let checksum = checksum(&out);
    out[12..16].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Reads and verifies a header of `length` bytes.
pub fn decode<const FIELDS: usize>(
    bytes: &[u8],
    magic: Magic,
    length: u64,
) -> Decoded<(StoreId, [u64; FIELDS])> {
    let bytes = bytes.get(..length as usize);
    let bytes = bytes.ok_or(Malformed("a file is shorter than its header"))?;
    let mut input = Bytes::new(bytes);
    if input.array()? != magic {
        return Err(Malformed("a file does not begin with the magic number of its kind"));
    }
    let version = input.u32()?;
    if input.u32()? != checksum(bytes) {
        return Err(Malformed("a file's header has a wrong checksum"));
    }
    if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&version) {
        return Err(UNSUPPORTED);
    }
    let store = StoreId(input.array()?);
    let mut fields = [0; FIELDS];
    for field in &mut fields {
        *field = input.u64()?;
    }
    if bytes[input.position()..].iter().any(|byte| *byte != 0) {
        return Err(Malformed("a file header's reserved bytes are not zero"));
    }
    Ok((store, fields))
}

pub(super) fn checksum(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..12]);
    hasher.update(&header[16..]);
    hasher.finalize()
}
