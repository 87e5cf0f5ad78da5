//! The point at which a reader begins.

use super::scan::{FromTime, first_from_time};
use crate::{
    engine::{commit::committer::Committer, core::Core},
    error::{Error, Result},
    ids::{LogId, Lsn, Offset, Timestamp},
};

/// The point at which a reader, a new group or a new subscription begins.
///
/// See [`Stream::reader`](crate::Stream::reader) and [`SubscriptionBuilder::start`](crate::SubscriptionBuilder::start).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    Earliest,
    /// After the last record: only later records are read.
    Latest,
    /// At an offset, in each partition that is read. It may be past the end: then reading waits for the record
    /// with this offset, and skips the records before it. An offset that was trimmed is an error. A
    /// [subscription](crate::SubscriptionBuilder::start) begins at one that its topic retains, or at the end.
    Offset(Offset),
    /// At the first record with this timestamp or a later one. Where timestamps are not in order, later records
    /// may have earlier timestamps. Damaged records that may be the first come first: reading fails with
    /// [`Corrupt`](crate::ErrorKind::Corrupt), and [`Reader::skip_damaged`](crate::Reader::skip_damaged) skips them.
    Time(Timestamp),
}

impl Start {
    /// The offset of a time among the messages from an offset on, durable or not, which takes reading: the core must not be held.
    /// Other starts have none.
    pub(in crate::engine) fn find_offset(
        self,
        committer: &Committer,
        log: LogId,
        from: Offset,
    ) -> Result<Option<Offset>> {
        let Start::Time(time) = self else { return Ok(None) };
        find_place(committer, (log, from), time, Some(Lsn(u64::MAX))).map(Some)
    }

    /// Finds the offset of a time, which takes reading: the core must not be held. If no record is that late,
    /// it is the end of the log at the moment of the last look, so that no later record is left out.
    pub(super) fn find_time(self, committer: &Committer, log: LogId) -> Result<Found> {
        let Start::Time(time) = self else { return Ok(Found::Plain(self)) };
        find_place(committer, (log, Offset(0)), time, None).map(Found::Offset)
    }
}

/// The offset of the first record from a time on, among those that were committed before a position: what is visible, if `None`.
fn find_place(
    committer: &Committer,
    (log, mut from): (LogId, Offset),
    time: Timestamp,
    limit: Option<Lsn>,
) -> Result<Offset> {
    loop {
        let mut core = committer.lock_to_look("find a time")?;
        let visible = limit.unwrap_or(core.visible());
        from = from.max(core.bounds(log)?.0);
        let Some(chunk) = core.store.scan_from_time(log, from, time, visible)? else {
            return core.store.end_before(log, visible);
        };
        drop(core);
        match first_from_time(committer, log, chunk, from, time)? {
            FromTime::At(found) => return Ok(found),
            FromTime::Behind(next) => from = next,
        }
    }
}

/// A start whose time, if it is one, was found.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// No time.
    Plain(Start),
    /// The first offset from a time on.
    Offset(Offset),
    /// The one at which a group goes on. Records from there on may be trimmed: a reader may be to say so.
    Committed(Offset),
}

impl Found {
    /// Where a group goes on, if it is that.
    pub fn committed(self) -> Option<Offset> {
        match self {
            Found::Committed(offset) => Some(offset),
            _ => None,
        }
    }

    /// The offset at which reading begins.
    pub fn resolve(self, core: &Core, log: LogId) -> Result<Offset> {
        let (first, _) = core.bounds(log)?;
        match self {
            // The log may have been trimmed since it was found.
            Found::Offset(offset) | Found::Committed(offset) => Ok(offset.max(first)),
            Found::Plain(Start::Earliest) => Ok(first),
            Found::Plain(Start::Latest | Start::Time(_)) => {
                core.store.end_before(log, core.visible())
            }
            Found::Plain(Start::Offset(offset)) if offset < first => {
                // Such as: stream "prices", partition 1.
                let of = core.store.state().catalog.log_name(log);
                let what = format!("{of}: offset {offset} was trimmed; the earliest is {first}");
                Err(Error::invalid("start", what))
            }
            Found::Plain(Start::Offset(offset)) => Ok(offset),
        }
    }
}
