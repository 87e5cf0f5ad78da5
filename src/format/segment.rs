//! The header of a segment file, and the table in its footer.

use super::{
    block::{BlockHeader, BlockKind},
    header::{self, Magic},
    wire::{Bytes, Decoded, Malformed, Seed},
};
use crate::ids::{LogId, Offset, StoreId, Timestamp};

pub const SEGMENT_HEADER_BYTES: u64 = 64;
const MAGIC: Magic = *b"PHsegmnt";
const TABLE_ENTRY_BYTES: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub store: StoreId,
    pub log: LogId,
    /// No record in the segment has a lower offset.
    pub base: Offset,
    /// Counts the rewrites of a segment with this base.
    pub generation: u64,
}

impl SegmentHeader {
    pub fn seed(&self) -> Seed {
        Seed::new(self.store, &[self.log.0, self.base.0, self.generation])
    }

    pub fn encode(&self) -> Vec<u8> {
        let fields = [self.log.0, self.base.0, self.generation];
        header::encode(MAGIC, self.store, &fields, SEGMENT_HEADER_BYTES)
    }

    pub fn decode(bytes: &[u8]) -> Decoded<SegmentHeader> {
        let (store, fields) = header::decode(bytes, MAGIC, SEGMENT_HEADER_BYTES)?;
        let [log, base, generation] = fields;
        Ok(SegmentHeader { store, log: LogId(log), base: Offset(base), generation })
    }
}

/// What the table knows of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    pub position: u64,
    pub first: Offset,
    pub last: Offset,
    /// The latest timestamp in this block and in all before it, so that the table can be
    /// searched by time even where a clock went backwards.
    pub max_time: Timestamp,
    pub length: u32,
    pub count: u32,
}

impl TableEntry {
    pub fn of(header: &BlockHeader, before: Option<&TableEntry>) -> TableEntry {
        let earlier = before.map_or(Timestamp(0), |entry| entry.max_time);
        TableEntry {
            position: header.position,
            first: header.first,
            last: header.last,
            max_time: header.max_time.max(earlier),
            length: header.block_len() as u32,
            count: header.count,
        }
    }
}

/// Appends the footer of a segment whose blocks end at `position`.
pub fn put_footer(out: &mut Vec<u8>, table: &[TableEntry], position: u64, seed: Seed) {
    let mut body = Vec::with_capacity(table.len() * TABLE_ENTRY_BYTES);
    for entry in table {
        for field in [entry.position, entry.first.0, entry.last.0, entry.max_time.0] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        body.extend_from_slice(&entry.length.to_le_bytes());
        body.extend_from_slice(&entry.count.to_le_bytes());
    }
    let header = BlockHeader {
        body_checksum: 0,
        body_len: 0,
        raw_len: 0,
        first: table.first().map_or(Offset(0), |entry| entry.first),
        last: table.last().map_or(Offset(0), |entry| entry.last),
        count: table.len() as u32,
        kind: BlockKind::Footer,
        base_time: Timestamp(0),
        max_time: table.last().map_or(Timestamp(0), |entry| entry.max_time),
        position,
    };
    header.put(out, &body, seed);
}

/// Reads the table of a footer whose body was verified. It must describe blocks that follow each
/// other without gaps, from the header of the segment to the footer.
pub fn take_table(header: &BlockHeader, body: &[u8]) -> Decoded<Vec<TableEntry>> {
    if header.kind != BlockKind::Footer
        || body.len() != (header.count as usize).saturating_mul(TABLE_ENTRY_BYTES)
    {
        return Err(Malformed("no footer at this position"));
    }
    let mut table: Vec<TableEntry> = Vec::with_capacity(header.count as usize);
    let mut input = Bytes::new(body);
    let mut position = SEGMENT_HEADER_BYTES;
    while !input.is_empty() {
        let entry = TableEntry {
            position: input.u64()?,
            first: Offset(input.u64()?),
            last: Offset(input.u64()?),
            max_time: Timestamp(input.u64()?),
            length: input.u32()?,
            count: input.u32()?,
        };
        let in_order = table.last().is_none_or(|before| before.last < entry.first);
        if entry.position != position || entry.first > entry.last || !in_order {
            return Err(Malformed("a footer's table contradicts itself"));
        }
        position += u64::from(entry.length);
        table.push(entry);
    }
    if position != header.position {
        return Err(Malformed("a footer's table does not reach the footer"));
    }
    Ok(table)
}
