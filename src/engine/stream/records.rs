//! Records as a `Stream` of the crate `futures`.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use super::{reader::Reader, record::OwnedRecord};
use crate::{
    engine::runtime::wait::{Attempt, Waiting},
    error::{ErrorKind, Result},
};

impl Reader {
    /// The records as a `Stream` of the crate `futures`, which waits for those that have not come yet. See [`Records`].
    ///
    /// It needs the feature `stream`. The method `next` comes from `StreamExt` of a crate such as `futures` or `tokio-stream`.
    ///
    /// ```
    /// use futures_core::Stream;
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append("created")?;
    /// let mut records = history.reader(Start::Earliest)?.records();
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// let next = std::pin::Pin::new(&mut records).poll_next(&mut context);
    /// assert!(next.is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn records(self) -> Records {
        Records { reader: self, waiting: None, is_over: false }
    }
}

/// The records of a reader, as a `Stream` of the crate `futures`. [`Reader::records`] returns it.
///
/// It ends when the engine is closed. It gives an error once and ends, as it would meet damage again and again: take the
/// [reader](Records::into_reader) back, [skip](Reader::skip_damaged) the damaged records, and go on. A stream that is dropped skips
/// no record.
pub struct Records {
    reader: Reader,
    waiting: Option<Waiting>,
    is_over: bool,
}

impl Records {
    /// The reader, for its [positions](Reader::positions), and for [`Group::commit_reader`](crate::Group::commit_reader): the record
    /// that the stream gave last counts as read.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Gives the reader back, behind the record that the stream gave last.
    #[must_use]
    pub fn into_reader(self) -> Reader {
        self.reader
    }
}

impl futures_core::Stream for Records {
    type Item = Result<OwnedRecord>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.is_over {
            if let Some(waiting) = &mut this.waiting
                && waiting.poll(context).is_pending()
            {
                return Poll::Pending;
            }
            this.waiting = None;
            let found = match this.reader.quick() {
                Some(found) => Ok(Attempt::Got(found)),
                None => this.reader.advance_or_wait(),
            };
            match found {
                Ok(Attempt::Got(found)) => return Poll::Ready(Some(Ok(this.reader.own(found)))),
                Ok(Attempt::Wait(waiting)) => this.waiting = Some(waiting),
                Err(error) => {
                    this.is_over = true;
                    let is_closed = error.kind() == ErrorKind::Closed;
                    return Poll::Ready((!is_closed).then_some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("reader", &self.reader).finish_non_exhaustive()
    }
}
