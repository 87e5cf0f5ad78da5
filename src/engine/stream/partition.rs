//! One partition of a stream.

use std::{fmt, sync::Arc};

use super::{reader::Reader, shape::Shape, start::Start};
use crate::{
    error::{Error, Result},
    ids::{LogId, Offset},
    store::Op,
};

/// One partition of a stream.
#[derive(Clone)]
pub struct Partition {
    shape: Arc<Shape>,
    number: u32,
}

impl Partition {
    pub(super) fn new(shape: &Arc<Shape>, number: u32) -> Result<Partition> {
        shape.check_partition(number)?;
        Ok(Partition { shape: Arc::clone(shape), number })
    }

    /// The partition's number, from 0 on.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    fn log(&self) -> LogId {
        self.shape.log(self.number)
    }

    /// The first offset that is still there.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn start(&self) -> Result<Offset> {
        let core = self.shape.engine.committer().lock_open("look at a partition")?;
        Ok(core.bounds(self.log())?.0)
    }

    /// The offset one past the last record that can be read.
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn end(&self) -> Result<Offset> {
        let core = self.shape.engine.committer().lock_open("look at a partition")?;
        core.store.end_before(self.log(), core.visible())
    }

    /// A reader over this partition, in the order of the offsets.
    ///
    /// # Errors
    ///
    /// As [`Stream::reader`].
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::open(&self.shape, std::iter::once((self.number, start)))
    }

    /// Trims the stream: the records before an offset are gone. Their space is given back with the
    /// segments that hold nothing else, at the next checkpoint. Groups and readers that have not
    /// come so far skip them.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the offset is past the end;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted.
    pub fn trim_before(&self, offset: Offset) -> Result<()> {
        let (log, committer) = (self.log(), self.shape.engine.committer());
        let committed = committer.transact("trim", |core| {
            let (_, end) = core.bounds(log)?;
            if offset > end {
                let what = format!("a trim before {offset}, but the partition ends at {end}");
                return Err(Error::invalid("offset", what).into());
            }
            Ok(((), core.commit(&[Op::Trim { log, start: offset }], committer.now_plain())?))
        })?;
        committer.complete(committed, committer.config.durability)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("stream", &self.shape.name)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
