//! Transactions that happen only if partitions end where the caller expects them to end.

use std::sync::Arc;

use super::{Append, Transaction};
use crate::{
    audit,
    engine::{
        core::Core,
        stream::{Partition, Shape},
    },
    error::{Error, Result},
    ids::{IdMap, LogId, Offset},
    message::Message,
};

/// The end of a partition that a transaction expects.
#[derive(Debug)]
pub(super) struct Expectation {
    shape: Arc<Shape>,
    partition: u32,
    /// The end before the transaction's own records. Until the transaction is committed: the offset that its next record
    /// gets there.
    end: Offset,
    /// How many messages the transaction has that come before that record, in all partitions.
    before: usize,
}

impl Expectation {
    fn log(&self) -> LogId {
        self.shape.log(self.partition)
    }

    /// The error of a transaction whose expectations can never hold.
    fn contradiction(&self) -> Error {
        let (name, partition) = (&self.shape.name, self.partition);
        let what = format!(
            "the offsets that the transaction expects in partition {partition} of {name:?} contradict each other: its \
             records there follow each other"
        );
        Error::invalid("expected_end", what)
    }
}

impl Transaction {
    /// Appends a record to a partition: the record gets the offset `expected_end`. If it would get another, the commit fails
    /// with [`Conflict`](crate::ErrorKind::Conflict), and nothing of the transaction is committed.
    ///
    /// The records count that this transaction has appended to the partition before: the first one expects the end of the
    /// partition, and each further one the offset behind the one before it. Offsets that contradict this are
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput). See [`Partition::append_if`] for which records of others count, and
    /// for the key of the message.
    ///
    /// The error has ends before the transaction's own records. So after a conflict, give `actual`, and one more for each record
    /// that the transaction appends to this partition before. [`append`](Transaction::append) of a record without a key may
    /// come to any partition, so do not use both with one stream. [`expect_end`](Transaction::expect_end) counts no own records.
    ///
    /// ```
    /// use posthouse::{Engine, ErrorKind, Offset};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("store"))?;
    /// let account = engine.stream("account-7").create()?.partition(0)?;
    /// let payments = engine.queue("payments").create()?;
    /// let withdraw = |end: Offset| {
    ///     let mut tx = engine.transaction();
    ///     tx.append_if(&account, end, "withdraw 30").append_if(&account, end.next(), "fee 1");
    ///     tx.send(&payments, "pay 30");
    ///     tx.commit()
    /// };
    /// withdraw(Offset(0))?;
    /// let error = withdraw(Offset(0)).unwrap_err(); // it was not the first
    /// assert!(matches!(error.kind(), ErrorKind::Conflict { actual: Offset(2), .. }));
    /// assert_eq!(payments.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_if<'m>(
        &mut self,
        partition: &Partition,
        expected_end: Offset,
        message: impl Into<Message<'m>>,
    ) -> &mut Self {
        let (message, shape) = (message.into().into_owned(), partition.shape());
        if let Err(error) = shape.check_key(&message, partition.number()) {
            self.fail(error);
        }
        if self.admits(&shape.engine) {
            self.expect(partition, expected_end, self.appends.len());
            let (log, partition) = (partition.log(), partition.number());
            self.appends.push(Append { log, partition, message, queue: None, is_record: true });
        }
        self
    }

    /// Has the commit fail with [`Conflict`](crate::ErrorKind::Conflict) if a partition does not end at `end`: then nothing of
    /// the transaction is committed. The transaction's own records do not count, whether they were appended before this call or
    /// after it.
    ///
    /// So a transaction can rest on what its caller has read in partitions to which it appends nothing. A transaction that
    /// does nothing else compares the ends, too. See also [`append_if`](Transaction::append_if).
    ///
    /// ```
    /// use posthouse::{Engine, ErrorKind, Message, Offset};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("store"))?;
    /// let prices = engine.stream("prices").create()?;
    /// let orders = engine.stream("orders").create()?;
    /// prices.append("tea costs 3")?;
    ///
    /// let mut tx = engine.transaction();
    /// tx.expect_end(&prices.partition(0)?, Offset(1)).append(&orders, "tea for 3");
    /// tx.commit()?;
    ///
    /// let mut tx = engine.transaction();
    /// tx.expect_end(&prices.partition(0)?, Offset(1)).append(&orders, "tea for 3");
    /// prices.append("tea costs 4")?;
    /// let error = tx.commit().unwrap_err();
    /// assert!(matches!(error.kind(), ErrorKind::Conflict { actual: Offset(2), .. }));
    /// assert_eq!(orders.len()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn expect_end(&mut self, partition: &Partition, end: Offset) -> &mut Self {
        if self.admits(&partition.shape().engine) {
            self.expect(partition, end, 0);
        }
        self
    }

    fn expect(&mut self, partition: &Partition, end: Offset, before: usize) {
        let (shape, partition) = (Arc::clone(partition.shape()), partition.number());
        self.expectations.push(Expectation { shape, partition, end, before });
    }

    /// Prepares the expectations for the commit: each says then where its partition ends before the transaction, and there is
    /// one for each partition. Fails if they can never hold.
    pub(super) fn prepare_expectations(&mut self) -> Result<()> {
        let Transaction { expectations, appends, .. } = self;
        if expectations.is_empty() {
            return Ok(());
        }
        expectations.sort_by_key(|it| it.before);
        let (mut own, mut counted) = (IdMap::<LogId, u64>::default(), 0);
        for it in expectations.iter_mut() {
            for append in &appends[counted..it.before] {
                *own.entry(append.log).or_default() += 1;
            }
            counted = it.before;
            let count = own.get(&it.log()).copied().unwrap_or(0);
            it.end = Offset(it.end.0.checked_sub(count).ok_or_else(|| it.contradiction())?);
        }
        expectations.sort_by_key(Expectation::log);
        expectations.dedup_by_key(|it| (it.log(), it.end));
        let same = |pair: &&[Expectation]| pair[0].log() == pair[1].log();
        match expectations.windows(2).find(same) {
            Some(pair) => Err(pair[0].contradiction()),
            None => Ok(()),
        }
    }

    /// The error of the first partition that does not end where it was expected to.
    pub(super) fn conflict(&self, core: &Core) -> Result<Option<Error>> {
        for it in &self.expectations {
            audit::step();
            core.bounds(it.log())?;
            if let Some(conflict) = it.shape.conflict(core, it.partition, it.end) {
                let ends = "Both are ends before the transaction's own records";
                return Ok(Some(conflict.adding(ends)));
            }
        }
        Ok(None)
    }
}
