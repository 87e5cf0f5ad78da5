//! Where reading begins.

use crate::{
    engine::core::Core,
    error::{Error, Result},
    ids::{LogId, Offset, Timestamp},
};

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    Earliest,
    /// One past the last record: only what comes is read.
    Latest,
    /// At an offset. In a stream of several partitions: at this offset in each of them. It may be
    /// past the end: then reading waits for the record with this offset, and skips those that come
    /// before it.
    Offset(Offset),
    /// At the first record that bears this time or a later one. Where timestamps are not in order,
    /// records that follow may bear earlier times.
    Time(Timestamp),
}

impl Start {
    pub(crate) fn resolve(self, core: &mut Core, log: LogId) -> Result<Offset> {
        let visible = core.visible();
        let (first, _) = core.bounds(log)?;
        match self {
            Start::Earliest => Ok(first),
            Start::Latest => core.store.end_before(log, visible),
            Start::Time(time) => core.store.seek_time(log, time, visible),
            Start::Offset(offset) if offset < first => {
                let what = format!("offset {offset} was trimmed; the earliest is {first}");
                Err(Error::invalid("start", what))
            }
            Start::Offset(offset) => Ok(offset),
        }
    }
}
