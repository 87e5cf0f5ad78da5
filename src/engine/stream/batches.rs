//! Readers that return many records at a time.

use std::{fmt, sync::Arc, time::Duration};

use super::{reader::Reader, record::OwnedRecord};
use crate::{
    engine::{
        consume::receive::check_most,
        runtime::wait::{Attempt, Awaited, blocking},
    },
    error::Result,
};

/// A batch begins with room for so many records at most.
const ROOM_MAX: usize = 1024;

impl Reader {
    /// Reads up to `most` records, and waits up to `timeout` for the first one. It takes those that are there, and does not wait
    /// for the batch to be full. The batch is empty if the time is over.
    ///
    /// So a handler does its work once for many records, such as one commit of a database, or one
    /// [`commit_reader`](crate::Group::commit_reader). In a mapped store the records are not copied.
    ///
    /// ```
    /// use std::time::Duration;
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append_batch(["created", "paid", "shipped"])?;
    /// let mut reader = billing.reader()?;
    /// let batch = reader.read_batch(100, Duration::from_secs(1))?;
    /// assert_eq!(batch.len(), 3);
    /// billing.commit_reader(&reader)?; // one flush for all
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`try_read`](Reader::try_read). If records before the one that cannot be read are there, the batch
    /// has those, and the next call returns the error.
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `most` is 0.
    pub fn read_batch(&mut self, most: usize, timeout: Duration) -> Result<Vec<OwnedRecord>> {
        check_most(most)?;
        let committer = Arc::clone(self.shape.engine.committer());
        let stopwatch = || committer.disk.stopwatch();
        let batch = blocking(Some(timeout), stopwatch, || self.batch_or_wait(most))?;
        Ok(batch.unwrap_or_default())
    }

    /// Reads up to `most` records as a future, which waits for the first one. A future that is dropped skips no record.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch(["created", "paid"])?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// let reading = async {
    ///     assert_eq!(reader.read_batch_async(100).await?.len(), 2);
    ///     Ok::<(), posthouse::Error>(())
    /// };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(std::pin::pin!(reading).poll(&mut context).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`read_batch`](Reader::read_batch).
    pub async fn read_batch_async(&mut self, most: usize) -> Result<Vec<OwnedRecord>> {
        check_most(most)?;
        Awaited::new(|| self.batch_or_wait(most)).await
    }

    /// An iterator over batches of up to `most` records. It ends when the reader has read all records, and after an error, as
    /// the [reader](Reader) does as an iterator of records. It has the reader until it is dropped: then the reader's
    /// [positions](Reader::positions) are behind the last batch.
    ///
    /// ```
    /// use posthouse::Start;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// history.append_batch((0..250).map(|n| n.to_string()))?;
    /// let mut reader = history.reader(Start::Earliest)?;
    /// let sizes = reader.batches(100)?.map(|batch| Ok(batch?.len()));
    /// assert_eq!(sizes.collect::<posthouse::Result<Vec<_>>>()?, [100, 100, 50]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `most` is 0.
    pub fn batches(&mut self, most: usize) -> Result<Batches<'_>> {
        check_most(most)?;
        Ok(Batches { reader: self, most })
    }

    fn batch_or_wait(&mut self, most: usize) -> Result<Attempt<Vec<OwnedRecord>>> {
        let first = match self.advance_or_wait()? {
            Attempt::Got(found) => self.own(found),
            Attempt::Wait(waiting) => return Ok(Attempt::Wait(waiting)),
        };
        let mut batch = Vec::with_capacity(most.min(ROOM_MAX));
        batch.push(first);
        while batch.len() < most {
            let found = match self.quick() {
                Some(found) => found,
                None => match self.advance() {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(error) => {
                        self.put_off(error);
                        break;
                    }
                },
            };
            batch.push(self.own(found));
        }
        Ok(Attempt::Got(batch))
    }
}

/// An iterator over batches of records. [`Reader::batches`] returns it.
pub struct Batches<'r> {
    reader: &'r mut Reader,
    most: usize,
}

impl Iterator for Batches<'_> {
    type Item = Result<Vec<OwnedRecord>>;

    fn next(&mut self) -> Option<Result<Vec<OwnedRecord>>> {
        let mut batch = Vec::new();
        for record in self.reader.by_ref().take(self.most) {
            match record {
                Ok(record) => batch.push(record),
                Err(error) if batch.is_empty() => return Some(Err(error)),
                // The records before it come first. It comes also if this iterator is dropped meanwhile.
                Err(error) => {
                    self.reader.put_off(error);
                    break;
                }
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

impl fmt::Debug for Batches<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("reader", &self.reader)
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}
