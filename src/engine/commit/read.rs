//! Reads messages outside the core.

use std::sync::Arc;

use super::committer::Committer;
use crate::{
    error::Result,
    ids::{LogId, Offset},
    segment::SegmentReader,
    store::{ReadParts, SegmentSource, Source, Stored, Walk},
};

impl Committer {
    /// Opens a segment. `None` if a checkpoint has replaced it since it was found: the caller finds it again.
    pub fn open_segment(
        &self,
        log: LogId,
        segment: SegmentSource,
    ) -> Result<Option<Arc<SegmentReader>>> {
        let found = segment.clone();
        let error = match segment.open() {
            Ok((reader, None)) => return Ok(Some(reader)),
            Ok((reader, opened)) => {
                self.lock("read").store.keep(log, ReadParts { opened, block: None });
                return Ok(Some(reader));
            }
            Err(error) => error,
        };
        let base = found.closed_base().unwrap_or_default();
        let there = self.lock_open("read")?.store.upcoming(log, base);
        if there.is_some_and(|there| there.is_same(&found)) { Err(error) } else { Ok(None) }
    }

    /// Reads one message from where it was found.
    ///
    /// This may open the segment that holds the message. A checkpoint may have replaced that segment since the
    /// message was found. Then the message is located again.
    ///
    /// # Errors
    ///
    /// `NotFound` if the message was acked by all meanwhile, or trimmed.
    pub fn read(
        &self,
        operation: &'static str,
        log: LogId,
        offset: Offset,
        source: Source,
    ) -> Result<Stored> {
        self.read_behind(operation, (log, offset), source, &mut Walk::default())
    }

    /// As [`read`](Committer::read), for one of many messages. `walk` is that of the messages before.
    #[inline(always)]
    pub fn read_behind(
        &self,
        operation: &'static str,
        (log, offset): (LogId, Offset),
        source: Source,
        walk: &mut Walk,
    ) -> Result<Stored> {
        match source {
            Source::Run(run) => run.load_behind(walk, offset),
            source => self.read_segment(operation, (log, offset), source, walk),
        }
    }

    #[inline(never)]
    fn read_segment(
        &self,
        operation: &'static str,
        (log, offset): (LogId, Offset),
        source: Source,
        walk: &mut Walk,
    ) -> Result<Stored> {
        if let Some(stored) = walk.load(&source, offset) {
            return stored;
        }
        let (segment, closed) = (source.segment().cloned(), source.closed_segment());
        let (stored, parts) = match (source.load(offset), closed) {
            (Ok(read), _) => read,
            (Err(error), None) => return Err(error),
            (Err(error), Some(closed)) => {
                let found = self.lock_open(operation)?.store.locate_again(log, offset)?;
                if found.closed_segment().is_some_and(|found| found.is_same(&closed)) {
                    return Err(error);
                }
                return self.read(operation, log, offset, found);
            }
        };
        walk.keep(segment, &parts);
        if !parts.is_empty() {
            self.lock(operation).store.keep(log, parts);
        }
        Ok(stored)
    }
}
