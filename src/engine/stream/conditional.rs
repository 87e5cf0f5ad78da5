//! Appends to one partition that happen only if the partition ends where the caller expects it to end.

use std::{ops::Range, slice};

use super::Partition;
use crate::{
    engine::{
        commit::{asking::committed, ticket::Ticket},
        core::commit::Receipt,
        runtime::wait::Attempt,
    },
    error::Result,
    ids::Offset,
    message::Message,
};

impl Partition {
    /// Appends a record if the partition ends at `expected_end`: the record gets this offset. Otherwise nothing is appended,
    /// and the call fails with [`Conflict`](crate::ErrorKind::Conflict).
    ///
    /// So a writer that has read all records, and has decided by them, appends only if no other writer has appended
    /// meanwhile. Of writers that expect the same end, one wins.
    ///
    /// All committed records count, also those that are not durable yet and that no reader sees yet, and those that were
    /// trimmed. With [`Durability::Sync`](crate::Durability::Sync), the call waits until the records with which it conflicts
    /// are durable: a read finds them then. Read from `expected_end` on, decide again, and append at the end that the error names.
    ///
    /// If an answer was lost, by a crash or by [`Poisoned`](crate::ErrorKind::Poisoned), read the record at `expected_end`
    /// after the store was opened again. If there is none, append it again. If there is one, compare it with the own one,
    /// for example by an id in a header.
    ///
    /// The record is durable when the call returns, unless the handle of the stream had another
    /// [durability](crate::Stream::durability) when it returned this partition.
    ///
    /// The message may have a key that belongs to this partition, or none.
    ///
    /// ```
    /// use posthouse::{Engine, ErrorKind, Message, Offset, Position, Start, partition_of};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("store"))?;
    /// let accounts = engine.stream("accounts").partitions(8).create()?;
    /// let partition = accounts.partition(partition_of(b"account-7", 8))?;
    /// accounts.append(Message::new("deposit 50").key("account-7"))?;
    ///
    /// // Decides by all records that are there.
    /// let end = partition.end()?;
    /// let here = Position { partition: partition.number(), offset: end };
    /// for record in partition.reader(Start::Earliest)?.until([here])? {
    ///     record?;
    /// }
    /// let withdrawal = || Message::new("withdraw 30").key("account-7");
    /// assert_eq!(partition.append_if(end, withdrawal())?, Offset(1));
    ///
    /// // Another writer, which had read as much, has lost.
    /// let error = partition.append_if(end, withdrawal()).unwrap_err();
    /// let ErrorKind::Conflict { actual, .. } = error.kind() else { panic!("{error}") };
    /// assert_eq!(actual, Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Conflict`](crate::ErrorKind::Conflict) if the partition ends elsewhere,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the key belongs to another partition, or if the message is none for
    /// a stream: see [`Stream::append`](crate::Stream::append);
    /// [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`NotFound`](crate::ErrorKind::NotFound) if the stream was deleted: nothing was appended.
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed: the commit may be lost, or not.
    pub fn append_if<'m>(
        &self,
        expected_end: Offset,
        message: impl Into<Message<'m>>,
    ) -> Result<Offset> {
        let committed = self.commit_if(expected_end, slice::from_ref(&message.into()))?;
        self.shape.engine.committer().complete(committed, self.durability)?
    }

    /// Appends records in one commit if the partition ends at `expected_end`: all of them, or none. It returns their offsets.
    /// See [`append_if`](Partition::append_if). Without records it only compares the end.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let account = engine.stream("account-7").create()?.partition(0)?;
    /// let offsets = account.append_batch_if(Offset(0), ["opened", "deposit 50"])?;
    /// assert_eq!(offsets, Offset(0)..Offset(2));
    /// assert!(account.append_batch_if(Offset(1), ["withdraw 30", "withdraw 20"]).is_err());
    /// assert_eq!(account.end()?, Offset(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`append_if`](Partition::append_if).
    pub fn append_batch_if<'m, M: Into<Message<'m>>>(
        &self,
        expected_end: Offset,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Range<Offset>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let committed = self.commit_range_if(expected_end, &messages)?;
        self.shape.engine.committer().complete(committed, self.durability)?
    }

    /// Appends a record if the partition ends at `expected_end`, without waiting for the disk. The [`Ticket`] tells when the
    /// record is durable.
    ///
    /// A writer that knows all records of the partition has many of them under way in this way: each expects the one before
    /// it. A [`Conflict`](crate::ErrorKind::Conflict) is returned at once, and the records with which it conflicts may not
    /// be visible yet. See [`append_if`](Partition::append_if).
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let account = engine.stream("account-7").create()?.partition(0)?;
    /// let first = account.append_if_ticket(Offset(0), "opened")?;
    /// let second = account.append_if_ticket(Offset(1), "deposit 50")?;
    /// second.wait()?; // one flush for both
    /// assert!(first.is_durable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`append_if`](Partition::append_if). An error of the sync comes from the ticket.
    pub fn append_if_ticket<'m>(
        &self,
        expected_end: Offset,
        message: impl Into<Message<'m>>,
    ) -> Result<Ticket<Offset>> {
        let committed = self.commit_if(expected_end, slice::from_ref(&message.into()))?;
        self.ticket(committed)
    }

    /// Appends records in one commit if the partition ends at `expected_end`, without waiting for the disk: see
    /// [`append_batch_if`](Partition::append_batch_if) and [`append_if_ticket`](Partition::append_if_ticket).
    ///
    /// # Errors
    ///
    /// The same errors as [`append_if`](Partition::append_if). An error of the sync comes from the ticket.
    pub fn append_batch_if_ticket<'m, M: Into<Message<'m>>>(
        &self,
        expected_end: Offset,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Ticket<Range<Offset>>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        self.ticket(self.commit_range_if(expected_end, &messages)?)
    }

    /// Appends a record if the partition ends at `expected_end`, as a future: see [`append_if`](Partition::append_if).
    ///
    /// It never blocks its thread: it awaits space in a full journal, too, and compares the end again after that. Nothing is
    /// appended before it is polled. If it is dropped before it is ready, the record may have been appended, or not.
    ///
    /// ```
    /// use posthouse::Offset;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let account = engine.stream("account-7").create()?.partition(0)?;
    /// let appended = async { account.append_if_async(Offset(0), "opened").await };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut appended = std::pin::pin!(appended);
    /// # while appended.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # assert_eq!(account.end()?, Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`append_if`](Partition::append_if).
    pub fn append_if_async<'m, M: Into<Message<'m>>>(
        &self,
        expected_end: Offset,
        message: M,
    ) -> impl Future<Output = Result<Offset>> + Send + use<'m, M> {
        let (partition, message) = (self.clone(), message.into());
        let appended = committed(self.shape.engine.clone(), self.durability, move || {
            Ok(Attempt::Got(partition.commit_if(expected_end, slice::from_ref(&message))?))
        });
        async { appended.await? }
    }

    /// Appends records in one commit if the partition ends at `expected_end`, as a future: see
    /// [`append_batch_if`](Partition::append_batch_if) and [`append_if_async`](Partition::append_if_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`append_if`](Partition::append_if).
    pub fn append_batch_if_async<'m, M: Into<Message<'m>>, I: IntoIterator<Item = M>>(
        &self,
        expected_end: Offset,
        messages: I,
    ) -> impl Future<Output = Result<Range<Offset>>> + Send + use<'m, M, I> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let partition = self.clone();
        let appended = committed(self.shape.engine.clone(), self.durability, move || {
            Ok(Attempt::Got(partition.commit_range_if(expected_end, &messages)?))
        });
        async { appended.await? }
    }

    fn commit_range_if(
        &self,
        expected_end: Offset,
        messages: &[Message<'_>],
    ) -> Result<(Result<Range<Offset>>, Receipt)> {
        let (appended, receipt) = self.commit_if(expected_end, messages)?;
        let range = |first: Offset| first..Offset(first.0 + messages.len() as u64);
        Ok((appended.map(range), receipt))
    }

    /// The ticket of a commit that does not conflict.
    fn ticket<T>(&self, (appended, receipt): (Result<T>, Receipt)) -> Result<Ticket<T>> {
        Ok(Ticket::new(&self.shape.engine, (appended?, receipt)))
    }
}
