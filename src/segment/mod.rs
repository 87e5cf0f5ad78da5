//! Segments: the messages of one log that checkpoints moved out of the journal, packed into immutable blocks.
//!
//! Invariants: blocks are only ever added behind the committed length, which the metalog holds. Bytes behind the
//! committed length do not count. The footer of a sealed segment is derived from its blocks, and is rebuilt from them
//! if it is damaged. Every byte that is returned was verified before.

mod reader;
mod survey;
#[cfg(test)]
mod tests;
mod writer;

use std::{path::PathBuf, sync::Arc};

pub use reader::{Block, SegmentReader};
pub use survey::{Piece, SegmentSurvey, header_of};
pub use writer::SegmentWriter;

use crate::{
    disk::{Access, Disk},
    format::{meta::SegmentState, segment::SegmentHeader},
    ids::StoreId,
    layout::Layout,
};

/// What is needed to reach the segments of a store.
#[derive(Clone, Debug)]
pub struct Segments {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub store: StoreId,
    pub access: Access,
    pub block_bytes: u64,
}

impl Segments {
    pub fn header(&self, state: &SegmentState) -> SegmentHeader {
        SegmentHeader {
            store: self.store,
            log: state.log,
            base: state.base,
            generation: state.generation,
        }
    }

    pub fn path(&self, state: &SegmentState) -> PathBuf {
        self.layout.segment_file(state.log, state.base, state.generation)
    }
}
