//! The last record of a partition.

use super::{
    partition::Partition,
    record::OwnedRecord,
    scan::open_segment,
    source::{Found, OpenRuns, Source},
};
use crate::{
    disk::Shares,
    error::{Error, ErrorKind, Result},
    ids::Offset,
    store::Chunk,
};

impl Partition {
    /// The last record that can be read, without a look at those before it. `None` if there is none.
    ///
    /// It reads one block of a segment, or the records of one commit in the journal.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let prices = engine.stream("prices").create()?;
    /// assert!(prices.partition(0)?.last()?.is_none());
    /// prices.append_batch(["tea costs 3", "tea costs 4"])?;
    /// let last = prices.partition(0)?.last()?.expect("there are two");
    /// assert_eq!(last.payload(), b"tea costs 4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the record, or what it is stored with, is damaged: an earlier record is not
    /// returned in its place;
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read;
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed.
    pub fn last(&self) -> Result<Option<OwnedRecord>> {
        let (log, committer) = (self.log(), self.shape.engine.committer());
        loop {
            let mut core = committer.lock_to_look("read")?;
            let visible = core.visible();
            let (first, _) = core.bounds(log)?;
            let end = core.store.end_before(log, visible)?;
            let Some(chunk) = core.store.scan_last(log, visible)? else { return Ok(None) };
            drop(core);
            let last = Offset(end.0.saturating_sub(1));
            let source = match chunk {
                Chunk::Segment { segment, .. } => match open_segment(committer, log, segment) {
                    // A checkpoint has replaced it.
                    Ok(None) => continue,
                    Ok(Some(reader)) => match reader.table().len().checked_sub(1) {
                        Some(index) => reader.block(index).map(|block| {
                            let place = block.seek(block.last());
                            let body = Shares::new(block.body().clone());
                            Source::Block { block, place, body }
                        }),
                        None => return Ok(None),
                    },
                    Err(error) => Err(error),
                },
                Chunk::Runs(runs) => {
                    runs.read().and_then(|it| OpenRuns::open(it, last.to(end))).map(Source::Runs)
                }
            };
            let found = source.and_then(|source| self.last_of(source));
            let found = found.map_err(|error| self.while_reading_last(&error, last))?;
            // The records before `first` were trimmed.
            return Ok(found.filter(|record| record.offset >= first));
        }
    }

    /// The record at which a source stands.
    fn last_of(&self, mut source: Source) -> Result<Option<OwnedRecord>> {
        let Some((offset, spans)): Option<Found> = source.step()? else { return Ok(None) };
        Ok(Some(OwnedRecord { bytes: source.share(), spans, partition: self.number, offset }))
    }

    fn while_reading_last(&self, error: &Error, last: Offset) -> Error {
        match error.kind() {
            ErrorKind::Corrupt => error.of_message(&self.shape.name, last),
            _ => error.while_reading(&self.shape.name, last),
        }
    }
}
