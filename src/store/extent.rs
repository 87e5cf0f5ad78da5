//! How many bytes of the disk the messages of a log take up. The caller counts in slices.

use super::Store;
use crate::{
    audit,
    error::Result,
    ids::{LogId, Offset},
};

/// The bytes of a part of a log, and where the next part begins. `None` behind the last one.
pub type CountedBytes = (u64, Option<Offset>);

impl Store {
    /// The bytes of `most` segments and runs of a log, from the one on that has an offset. Segments count whole, as they are on
    /// disk, but for a footer. Runs of the journal count while their messages are not trimmed.
    pub fn bytes_from(&self, log: LogId, from: Offset, most: usize) -> Result<CountedBytes> {
        let found = self.state.log(log)?;
        let (mut bytes, mut next, mut left) = (0, from, most);
        if let Some(first) = found.segment_at_or_behind(from) {
            for segment in found.segments.range(first.base..).take(most) {
                audit::step();
                bytes += segment.len();
                next = segment.end;
                left -= 1;
            }
        }
        if left == 0 {
            return Ok((bytes, Some(next)));
        }
        let from = next.max(found.moved).max(found.start);
        let mut runs = found.tail.runs_from(from);
        for run in runs.by_ref().take(left) {
            audit::step();
            bytes += run.len as u64;
            left -= 1;
        }
        if left > 0 {
            return Ok((bytes, None));
        }
        Ok((bytes, runs.next().map(|run| run.first)))
    }
}
