//! The place of a reader in one partition.

use super::{
    readahead::ReadAhead,
    scan::open_segment,
    source::{OpenRun, Source},
};
use crate::{
    disk::Shares,
    engine::commit::committer::Committer,
    error::Result,
    ids::{LogId, Offset},
    segment::SegmentReader,
    store::Chunk,
};

/// How far one partition was read.
#[derive(Debug)]
pub struct Place {
    pub partition: u32,
    pub log: LogId,
    /// The next offset. It is stale while the source reads this place.
    pub next: Offset,
    pub ahead: ReadAhead,
}

impl Place {
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
                self.open_next_segment(committer, &reader, index);
                self.ahead.go_on(&reader, index);
                let block = reader.block(index)?;
                let place = block.seek(self.next);
                let body = Shares::new(block.body().clone());
                Ok(Some(Source::Block { block, place, body }))
            }
            Chunk::Runs(runs) => {
                let mut runs = runs.into_iter();
                let run = runs.next().expect("a chunk has a run");
                Ok(Some(Source::Run { run: OpenRun::open(run, self.next)?, behind: runs }))
            }
        }
    }

    /// Opens the next segment when the end of this one is near, to have its begin read ahead. An error is met
    /// again by the read itself.
    fn open_next_segment(&mut self, committer: &Committer, reader: &SegmentReader, index: usize) {
        if !self.ahead.wants_next(reader, index) {
            return;
        }
        let end = reader.table().last().map_or(self.next, |last| last.last.next());
        let upcoming = committer.lock("read").store.upcoming(self.log, end);
        let next = upcoming.map(|segment| open_segment(committer, self.log, segment));
        if let Some(Ok(Some(next))) = next {
            self.ahead.go_on_with(&next);
        }
    }
}
