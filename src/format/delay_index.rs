//! Blocks of spilled messages and their due times. A block is the payload of a message in a queue's delay index.
//! `docs/FORMAT.md` has the table under "Delay indexes".

use super::wire::{Bytes, Decoded, Malformed, NUMBER_CEILING, put_varint, unzigzag, zigzag};
use crate::ids::{Due, Offset};

/// The most messages in one block.
pub const BLOCK_ENTRIES_MAX: usize = 1 << 16;

/// Encodes delayed messages with their due times, in the order of the due times. All of them are of one kind.
pub fn encode(entries: &[(Due, Offset)]) -> Vec<u8> {
    debug_assert!(entries.is_sorted_by(|a, b| a.0 <= b.0) && entries.len() <= BLOCK_ENTRIES_MAX);
    let mut out = Vec::with_capacity(entries.len() * 6 + 8);
    put_varint(&mut out, entries.len() as u64);
    let (mut due_before, mut offset_before) = (0, 0);
    for (due, offset) in entries {
        let due = due.to_stored();
        put_varint(&mut out, due - due_before);
        put_varint(&mut out, zigzag(offset.0.wrapping_sub(offset_before) as i64));
        (due_before, offset_before) = (due, offset.0);
    }
    out
}

pub fn decode(bytes: &[u8]) -> Decoded<Vec<(Due, Offset)>> {
    let mut input = Bytes::new(bytes);
    let count = input.varint()?;
    // Each entry takes at least two bytes.
    if count == 0 || count > BLOCK_ENTRIES_MAX.min(bytes.len() / 2) as u64 {
        return Err(Malformed("a block of a delay index with an impossible number of messages"));
    }
    let mut entries = Vec::with_capacity(count as usize);
    let (mut due, mut offset) = (0u64, 0u64);
    for _ in 0..count {
        let later = due.checked_add(input.varint()?);
        due = later.ok_or(Malformed("a block of a delay index with an impossible time"))?;
        offset = offset.wrapping_add(unzigzag(input.varint()?) as u64);
        if offset >= NUMBER_CEILING {
            return Err(Malformed("a block of a delay index with an impossible offset"));
        }
        entries.push((Due::from_stored(due), Offset(offset)));
    }
    let mut offsets: Vec<Offset> = entries.iter().map(|(_, offset)| *offset).collect();
    offsets.sort_unstable();
    if offsets.windows(2).any(|two| two[0] == two[1]) {
        // The message would be delivered twice.
        return Err(Malformed("a block of a delay index that names a message twice"));
    }
    if input.is_empty() {
        Ok(entries)
    } else {
        Err(Malformed("bytes are left over in a block of a delay index"))
    }
}
