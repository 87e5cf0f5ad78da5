//! The header of a segment file, and the table in its footer. `docs/FORMAT.md` has the tables
//! under "Segment files" and "Footers".

use super::{
    block::{BLOCK_HEADER_BYTES, BlockHeader, BlockKind},
    header::{self, Magic},
    wire::{ALIGN, Bytes, Decoded, Malformed, Seed, check_numbers},
};
use crate::ids::{LogId, Offset, StoreId, Timestamp};

pub const SEGMENT_HEADER_BYTES: u64 = 64;
const MAGIC: Magic = *b"PHsegmnt";
pub const TABLE_ENTRY_BYTES: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub store: StoreId,
    pub log: LogId,
    /// No record in the segment has a lower offset.
    pub base: Offset,
    /// The number of the file. In versions 1 and 2 it is the number of rewrites of the segment with this base.
    pub generation: u64,
}

/// No log has this number: the header of a shared file has it.
const NO_LOG: LogId = LogId(0);

impl SegmentHeader {
    /// The header of a file that logs share.
    pub fn shared(store: StoreId, file: u64) -> SegmentHeader {
        SegmentHeader { store, log: NO_LOG, base: Offset(0), generation: file }
    }

    /// Whether this is the header of a file that logs share.
    pub fn is_shared(&self) -> bool {
        self.log == NO_LOG
    }

    /// The key that identifies a segment in its store.
    pub fn key(&self) -> (LogId, Offset, u64) {
        (self.log, self.base, self.generation)
    }

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
        check_numbers(fields)?;
        Ok(SegmentHeader { store, log: LogId(log), base: Offset(base), generation })
    }
}

/// The table's entry of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    pub position: u64,
    pub first: Offset,
    pub last: Offset,
    /// The latest timestamp in this block and in all blocks before it. So the table can be searched by time even
    /// if a clock went backwards.
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

    /// Whether this entry can follow the entry before it.
    fn follows(&self, before: Option<&TableEntry>) -> bool {
        let in_order = before.is_none_or(|it| it.last < self.first && it.max_time <= self.max_time);
        let span = self.last.0.checked_sub(self.first.0);
        let holds = |span| self.count > 0 && u64::from(self.count) - 1 <= span;
        let is_block = self.length as usize >= BLOCK_HEADER_BYTES
            && u64::from(self.length).is_multiple_of(ALIGN);
        in_order && span.is_some_and(holds) && is_block
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
    header.put(out, &[&body], seed);
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
        if entry.position != position || !entry.follows(table.last()) {
            return Err(Malformed("a footer's table contradicts itself"));
        }
        position += u64::from(entry.length);
        table.push(entry);
    }
    if position != header.position {
        return Err(Malformed("a footer's table does not reach the footer"));
    }
    let bounds = table.first().zip(table.last());
    let bounds = bounds
        .map_or_else(Default::default, |(first, last)| (first.first, last.last, last.max_time));
    let said = (header.first, header.last, header.max_time);
    if said != bounds || header.base_time != Timestamp(0) {
        return Err(Malformed("a footer's header contradicts its table"));
    }
    Ok(table)
}
