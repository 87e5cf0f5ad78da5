//! Segments: the messages of one log that checkpoints moved out of the journal, packed into immutable blocks. Few messages
//! are a part of a file that logs share. Many have a file of their own.
//!
//! Invariants: blocks are only ever added behind the committed length, which the metalog holds. Bytes behind the
//! committed length do not count. The footer of a sealed segment is derived from its blocks, and is rebuilt from them
//! if it is damaged. A shared file never changes once it is written. Every byte that is returned was verified before.

mod filling;
mod opened;
mod output;
mod packing;
mod parts;
mod reader;
mod shared;
mod survey;
#[cfg(test)]
mod tests;
mod writer;

use std::{path::PathBuf, sync::Arc};

pub use opened::{OpenFiles, SharedFile};
pub use output::{Output, Written};
pub use packing::{Held, Packing};
pub use parts::{FoundPart, PartsSurvey, parts_of};
pub use reader::{Block, SegmentReader, is_of_device};
pub use survey::{Piece, SegmentSurvey, header_of};
pub use writer::SegmentWriter;

use crate::{
    disk::{Access, Disk},
    error::{ErrorKind, Result},
    format::{
        meta::{Place, SegmentState},
        segment::SegmentHeader,
    },
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
    /// What identifies the segment, and seeds its checksums. The file of a segment that shares it has another header.
    pub fn header(&self, state: &SegmentState) -> SegmentHeader {
        SegmentHeader {
            store: self.store,
            log: state.log,
            base: state.base,
            generation: state.generation,
        }
    }

    pub fn path(&self, state: &SegmentState) -> PathBuf {
        path_of(&self.layout, state)
    }
}

/// The header of the file in which a segment stands.
pub fn file_header(header: &SegmentHeader, place: Place) -> SegmentHeader {
    match place {
        Place::Former | Place::Own => *header,
        Place::Part(_) => SegmentHeader::shared(header.store, header.generation),
    }
}

/// The file in which a segment stands.
pub fn path_of(layout: &Layout, state: &SegmentState) -> PathBuf {
    match state.place {
        Place::Former => layout.former_segment_file(state.log, state.base, state.generation),
        Place::Own | Place::Part(_) => layout.segment_file(state.generation),
    }
}

/// Turns damage, and what cannot be read or written, into `None`: for what a checkpoint may leave out and tries again in a
/// later one. Damage is reported to the consumer that reads it. A checkpoint works around it, and around a sector that can
/// never be read, or else one bad block would in the end stop every queue.
pub fn skip_unreadable<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io) => Ok(None),
        Err(error) => Err(error),
    }
}
