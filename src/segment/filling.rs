//! The blocks of one segment while records are added to it.

use super::Segments;
use crate::{
    format::{
        block::{BLOCK_HEADER_BYTES, BlockHeader},
        lives::Lives,
        meta::{Place, SegmentState},
        pack::{BlockBuilder, LoneBlock},
        record::RecordParts,
        wire::Seed,
    },
    ids::{LogId, Offset, Timestamp},
};

/// Packs records into blocks, and keeps the segment's state.
#[derive(Debug)]
pub struct Filling {
    block: BlockBuilder,
    seed: Seed,
    block_bytes: usize,
    pub state: SegmentState,
}

impl Filling {
    pub fn new(segments: &Segments, state: SegmentState) -> Filling {
        let seed = segments.header(&state).seed();
        let block_bytes = segments.block_bytes as usize;
        Filling { block: BlockBuilder::default(), seed, block_bytes, state }
    }

    /// The state of a segment without a message.
    pub fn nothing(log: LogId, base: Offset, file: u64, place: Place) -> SegmentState {
        let mut state = SegmentState {
            log,
            base,
            generation: file,
            end: base,
            bytes: 0,
            records: 0,
            max_time: Timestamp(0),
            sealed: matches!(place, Place::Part(_)),
            lives: Some(Lives::NONE),
            place,
        };
        state.bytes = state.blocks_at();
        state
    }

    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The bytes of the block that is not finished yet. 0 if there is none.
    pub fn unfinished(&self) -> usize {
        if self.block.is_empty() { 0 } else { self.block.len() }
    }

    /// Whether the block has to be finished before a record is added.
    pub fn is_full_for(&self, offset: Offset, record: &RecordParts<'_>) -> bool {
        let is_full = self.block.len() + record.weight() as usize > self.block_bytes;
        !self.block.is_empty() && (is_full || !self.block.fits(offset))
    }

    /// Adds a record to the block. Offsets must grow.
    pub fn add(&mut self, offset: Offset, record: &RecordParts<'_>) {
        self.block.push(offset, record);
        self.note(offset, record);
    }

    /// A block that holds nothing but a large record. There must be no unfinished block.
    pub fn lone<'a>(&mut self, offset: Offset, record: &RecordParts<'a>) -> LoneBlock<'a> {
        debug_assert!(self.block.is_empty());
        let lone = BlockBuilder::lone(offset, record, self.state.bytes, self.seed);
        self.note(offset, record);
        self.state.bytes += lone.header.block_len();
        lone
    }

    fn note(&mut self, offset: Offset, record: &RecordParts<'_>) {
        debug_assert!(offset >= self.state.end);
        self.state.end = offset.next();
        self.state.records += 1;
        self.state.max_time = self.state.max_time.max(record.timestamp);
        if let Some(lives) = &mut self.state.lives
            && !seeded!(LivesOfSegmentsAreNotKept)
        {
            lives.add(Lives::of_record(record));
        }
    }

    /// Appends the block to bytes that end at `state.bytes`. There must be one.
    pub fn finish_block(&mut self, ready: &mut Vec<u8>) -> BlockHeader {
        let header = self.block.finish(ready, self.state.bytes, self.seed);
        self.state.bytes += header.block_len();
        header
    }

    /// The bytes that the block takes up once it is finished.
    pub fn block_len(&self) -> usize {
        BLOCK_HEADER_BYTES + self.block.len()
    }

    /// Frees the buffers.
    pub fn rest(&mut self) {
        self.block = BlockBuilder::default();
    }
}
