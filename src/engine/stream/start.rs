//! The point at which a reader begins.

use super::scan::{FromTime, first_from_time};
use crate::{
    engine::{commit::committer::Committer, core::Core},
    error::{Error, Result},
    ids::{LogId, Offset, Timestamp},
};

/// The point at which a reader or a new group begins.
///
/// See [`Stream::reader`](crate::Stream::reader).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    Earliest,
    /// After the last record: only later records are read.
    Latest,
    /// At an offset, in each partition that is read. It may be past the end: then reading waits for the record
    /// with this offset, and skips the records before it. An offset that was trimmed is an error.
    Offset(Offset),
    /// At the first record with this timestamp or a later one. Where timestamps are not in order, later records
    /// may have earlier timestamps.
    Time(Timestamp),
}

impl Start {
    /// Finds the offset of a time, which takes reading: the core must not be held. Other starts stay as they
    /// are.
    pub(super) fn find_time(self, committer: &Committer, log: LogId) -> Result<Start> {
        let Start::Time(time) = self else { return Ok(self) };
        let mut from = Offset(0);
        loop {
            let mut core = committer.lock_open("find a time")?;
            let visible = core.visible();
            let Some(chunk) = core.store.scan_from_time(log, from, time, visible)? else {
                return Ok(Start::Latest);
            };
            drop(core);
            match first_from_time(committer, log, chunk, time)? {
                FromTime::At(found) => return Ok(Start::Offset(found)),
                FromTime::Behind(next) => from = next,
            }
        }
    }

    /// The offset. A time was found before.
    pub(super) fn resolve(self, core: &Core, log: LogId) -> Result<Offset> {
        let (first, _) = core.bounds(log)?;
        match self {
            Start::Earliest => Ok(first),
            Start::Latest | Start::Time(_) => core.store.end_before(log, core.visible()),
            Start::Offset(offset) if offset < first => {
                let what = format!("offset {offset} was trimmed; the earliest is {first}");
                Err(Error::invalid("start", what))
            }
            Start::Offset(offset) => Ok(offset),
        }
    }
}
