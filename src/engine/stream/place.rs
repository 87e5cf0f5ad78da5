//! The place of a reader in one partition.

use super::{
    scan::open_segment,
    source::{OpenRuns, Source},
};
use crate::{
    disk::Shares,
    engine::commit::committer::Committer,
    error::Result,
    ids::{LogId, Offset},
    store::Chunk,
};

/// How far one partition was read.
#[derive(Debug)]
pub struct Place {
    pub partition: u32,
    pub log: LogId,
    /// The next offset. It is stale while the source reads this place.
    pub next: Offset,
    /// Where reading ends. [`Offset::MAX`] if it does not.
    pub end: Offset,
    /// Where a group would go on, if what stood there was trimmed before the reader was made.
    pub missed: Option<Offset>,
}

impl Place {
    /// Whether all of it was read that is to be read.
    pub fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// Opens a chunk. `None` if nothing is in it, or if it was moved since it was found.
    pub fn open(&mut self, committer: &Committer, chunk: Chunk) -> Result<Option<Source>> {
        match chunk {
            Chunk::Segment { segment, from, end } => {
                let Some(reader) = open_segment(committer, self.log, segment)? else {
                    return Ok(None);
                };
                let Some(index) = reader.block_at(from) else {
                    self.next = end;
                    return Ok(None);
                };
                if reader.table()[index].first >= self.end {
                    self.next = self.end;
                    return Ok(None);
                }
                let block = reader.block(index)?.before(self.end);
                let place = block.seek(self.next);
                let body = Shares::new(block.body().clone());
                Ok(Some(Source::Block { block, place, body }))
            }
            Chunk::Runs(runs) => {
                let offsets = self.next.to(self.end);
                Ok(Some(Source::Runs(OpenRuns::open(runs.read()?, offsets)?)))
            }
        }
    }
}
