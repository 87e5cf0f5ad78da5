//! Transactions: operations over several handles in one frame of the journal.

mod commit;
mod expectation;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use self::expectation::Expectation;
use super::{
    queue::Queue,
    stream::{Group, Position, Reader, Stream},
    topic::Topic,
};
use crate::{
    config::{Durability, check_delay},
    engine::{
        commit::{lifetime::Engine, ticket::Ticket},
        consume::delivery::Delivery,
        core::{
            consumption::CursorInfo,
            dead_letters::NACKED,
            settlement::{Settlement, Settling},
        },
    },
    error::{Error, Result},
    ids::{CursorId, LogId, Offset},
    message::Message,
    store::BatchedMessage,
};

impl Engine {
    /// Begins a transaction: operations over queues, topics and streams of this engine, committed as one.
    ///
    /// See [`Transaction`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let history = engine.stream("order-history").create()?;
    /// let mut tx = engine.transaction();
    /// tx.send(&payments, "charge order 1").append(&history, "order 1");
    /// assert_eq!(payments.depth()?, 0); // nothing happens before the commit
    /// tx.commit()?;
    /// assert_eq!(payments.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transaction(&self) -> Transaction {
        Transaction {
            engine: self.clone(),
            appends: Vec::new(),
            settlements: Vec::new(),
            settled: Vec::new(),
            seeks: Vec::new(),
            expectations: Vec::new(),
            queues: BTreeMap::new(),
            durability: self.committer().config.durability,
            failure: None,
        }
    }
}

/// Operations over queues, topics, streams and groups of one engine, committed as one: all of them happen, or
/// none, also after a crash. A transaction is one frame of the journal, and one flush.
///
/// A transaction that is dropped without a commit does nothing: its deliveries stay on lease. The commit of
/// an empty transaction succeeds, and writes nothing. An operation that is not possible makes the commit
/// fail.
///
/// ```
/// use posthouse::{Engine, Message};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let payments = engine.queue("payments").create()?;
/// let history = engine.stream("order-history").create()?;
/// payments.send("charge order 1")?;
///
/// let delivery = payments.try_receive()?.expect("it was sent");
/// let mut tx = engine.transaction();
/// tx.ack(&delivery).append(&history, Message::new("order 1 charged").key("customer-17"));
/// tx.commit()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before it is committed"]
pub struct Transaction {
    engine: Engine,
    appends: Vec<Append>,
    settlements: Vec<Settlement<'static>>,
    /// The messages of the settlements.
    settled: Vec<Offset>,
    seeks: Vec<Seek>,
    expectations: Vec<Expectation>,
    /// The queues that messages are sent to.
    queues: BTreeMap<CursorId, Arc<CursorInfo>>,
    durability: Durability,
    /// The first operation that is not possible.
    failure: Option<Error>,
}

/// A message that is sent, published or appended.
#[derive(Debug)]
struct Append {
    log: LogId,
    partition: u32,
    message: Message<'static>,
    /// The queue, if it is sent to one.
    queue: Option<CursorId>,
    /// Whether it is appended to a stream.
    is_record: bool,
}

impl Append {
    fn batched(&self) -> BatchedMessage<'_> {
        BatchedMessage { log: self.log, message: &self.message, keeps_acked: self.is_record }
    }
}

/// An offset that is committed for a group.
#[derive(Debug)]
struct Seek {
    group: Group,
    partition: u32,
    next: Offset,
}

impl Transaction {
    /// Sets the durability of this commit. The default is the [durability](crate::Options::durability) of the
    /// engine.
    ///
    /// ```
    /// use posthouse::Durability;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let clicks = engine.stream("clicks").create()?;
    /// let mut tx = engine.transaction();
    /// tx.durability(Durability::Buffered).append(&clicks, "a click");
    /// tx.commit()?; // does not wait for the disk
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn durability(&mut self, durability: Durability) -> &mut Transaction {
        self.durability = durability;
        self
    }

    /// Notes the first operation that is not possible: the commit fails with it.
    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// Whether a handle is of this engine. The commit fails if one is not.
    fn admits(&mut self, engine: &Engine) -> bool {
        let is_same = self.engine.is_same(engine);
        if !is_same {
            let what = "a transaction's handles must all come from the engine that began it";
            self.fail(Error::invalid("handle", what));
        }
        is_same
    }

    fn add(&mut self, engine: &Engine, append: Append) {
        if self.admits(engine) {
            self.appends.push(append);
        }
    }

    /// Sends a message to a queue.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let email = engine.queue("email").create()?;
    /// let mut tx = engine.transaction();
    /// tx.send(&payments, "charge order 1").send(&email, "thank customer 17");
    /// tx.commit()?; // both, or none
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send<'m>(&mut self, queue: &Queue, message: impl Into<Message<'m>>) -> &mut Self {
        let message = message.into();
        if let Err(error) = queue.check_message(&message) {
            self.fail(error);
        }
        let (log, cursor, message) = (queue.log(), queue.cursor(), message.into_owned());
        if self.admits(queue.engine()) {
            self.queues.entry(cursor).or_insert_with(|| Arc::clone(queue.info()));
            let queue = Some(cursor);
            self.appends.push(Append { log, partition: 0, message, queue, is_record: false });
        }
        self
    }

    /// Publishes a message to a topic.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let created = engine.topic("order.created").create()?;
    /// let mut tx = engine.transaction();
    /// tx.publish(&created, "order 1");
    /// tx.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish<'m>(&mut self, topic: &Topic, message: impl Into<Message<'m>>) -> &mut Self {
        let message = message.into().into_owned();
        let append =
            Append { log: topic.log(), partition: 0, message, queue: None, is_record: false };
        self.add(topic.engine(), append);
        self
    }

    /// Appends a record to a stream.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let mut tx = engine.transaction();
    /// tx.append(&history, "created").append(&history, "paid");
    /// assert_eq!(tx.commit()?[1].offset, posthouse::Offset(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append<'m>(&mut self, stream: &Stream, message: impl Into<Message<'m>>) -> &mut Self {
        let message = message.into();
        let shape = stream.shape();
        let partition = shape.partition_for(&message);
        let log = shape.log(partition);
        let message = message.into_owned();
        let append = Append { log, partition, message, queue: None, is_record: true };
        self.add(&shape.engine, append);
        self
    }

    /// Acks a delivery. If its lease is lost at the time of the commit, the commit fails.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let receipts = engine.queue("receipts").create()?;
    /// payments.send("charge order 1")?;
    ///
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// let mut tx = engine.transaction();
    /// tx.ack(&delivery).send(&receipts, "order 1 is charged");
    /// tx.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ack(&mut self, delivery: &Delivery) -> &mut Self {
        self.settle(delivery, Settling::Ack)
    }

    /// Acks a delivery. If its lease is lost by the time of the commit, or its message was deleted, the commit
    /// fails as for a lease that is lost.
    #[cfg(feature = "cron")]
    pub(crate) fn ack_if_there(&mut self, delivery: &Delivery) -> &mut Self {
        self.settle(delivery, Settling::AckIfThere)
    }

    /// Reports a failure of a delivery, as [`Delivery::nack`] does. If its lease is lost at the time of the
    /// commit, the commit fails.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let history = engine.stream("order-history").create()?;
    /// payments.send("charge order 1")?;
    ///
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// let mut tx = engine.transaction();
    /// tx.nack(&delivery).append(&history, "the bank did not answer for order 1");
    /// tx.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nack(&mut self, delivery: &Delivery) -> &mut Self {
        self.nack_with(delivery, None)
    }

    /// Reports a failure of a delivery: the message is delivered again after `delay`, at most a year. See also
    /// [`nack`](Transaction::nack).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// # payments.send("charge order 1")?;
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// let mut tx = engine.transaction();
    /// tx.nack_after(&delivery, std::time::Duration::from_secs(60));
    /// tx.commit()?;
    /// assert!(payments.try_receive()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nack_after(&mut self, delivery: &Delivery, delay: Duration) -> &mut Self {
        match check_delay("delay", delay) {
            Ok(delay) => self.nack_with(delivery, Some(delay)),
            Err(error) => {
                self.fail(error);
                self
            }
        }
    }

    fn nack_with(&mut self, delivery: &Delivery, delay: Option<Duration>) -> &mut Self {
        let how = delivery.failure(delay, NACKED).into_owned();
        self.settle(delivery, how)
    }

    fn settle(&mut self, delivery: &Delivery, how: Settling<'static>) -> &mut Self {
        if self.admits(&delivery.consumer().engine) {
            self.settlements.push(delivery.settlement(how));
            self.settled.push(delivery.offset());
        }
        self
    }

    /// Commits the offset of the next record of a partition for a group. See also [`Group::commit`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let analytics = history.group("analytics").create()?;
    /// let position = history.append("created")?;
    /// let mut tx = engine.transaction();
    /// tx.commit_offset(&analytics, position.partition, position.offset.next());
    /// tx.commit()?;
    /// assert_eq!(analytics.lag()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_offset(&mut self, group: &Group, partition: u32, next: Offset) -> &mut Self {
        if self.admits(group.engine()) {
            self.seeks.push(Seek { group: group.clone(), partition, next });
        }
        self
    }

    /// Commits the [positions](Reader::positions) that a reader has at the time of this call, in all its
    /// partitions. Records that it reads after this call do not count.
    ///
    /// To handle each record exactly once, use the transaction that holds the results of the records.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let history = engine.stream("order-history").create()?;
    /// let invoices = engine.queue("invoices").create()?;
    /// let billing = history.group("billing").create()?;
    /// history.append("order 1 is paid")?;
    ///
    /// let mut reader = billing.reader()?;
    /// while let Some(record) = reader.try_read()? {
    ///     let invoice = format!("invoice for {:?}", record.payload());
    ///     let mut tx = engine.transaction();
    ///     tx.send(&invoices, invoice).commit_reader(&billing, &reader);
    ///     tx.commit()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_reader(&mut self, group: &Group, reader: &Reader) -> &mut Self {
        if !group.suits(reader) {
            self.fail(Group::unsuited());
            return self;
        }
        for place in reader.positions() {
            self.commit_offset(group, place.partition, place.offset);
        }
        self
    }

    /// Commits the transaction: all of it happens, or nothing.
    ///
    /// The call returns the positions of the messages that were sent, published and appended, in the order of
    /// these calls. The partition is 0 for queues and topics. See also
    /// [`commit_ticket`](Transaction::commit_ticket), which does not wait for the disk.
    ///
    /// ```
    /// use posthouse::{Offset, Position};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let mut tx = engine.transaction();
    /// tx.send(&payments, "charge order 1").send(&payments, "charge order 2");
    /// let positions = tx.commit()?;
    /// assert_eq!(positions[1], Position { partition: 0, offset: Offset(1) });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The deliveries of a transaction that failed are still on lease. Decide again, or [release](Delivery::release) them: one
    /// that is dropped is a failed attempt.
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease of a delivery was lost,
    /// [`Conflict`](crate::ErrorKind::Conflict) if a partition does not end where it was expected to,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), [`TooLarge`](crate::ErrorKind::TooLarge),
    /// [`NotFound`](crate::ErrorKind::NotFound), [`QueueFull`](crate::ErrorKind::QueueFull),
    /// [`DiskFull`](crate::ErrorKind::DiskFull), [`Closed`](crate::ErrorKind::Closed): nothing was changed.
    /// [`Poisoned`](crate::ErrorKind::Poisoned): all of it happened, or nothing.
    pub fn commit(self) -> Result<Vec<Position>> {
        let (engine, durability) = (self.engine.clone(), self.durability);
        let committed = self.make()?;
        engine.committer().complete(committed, durability)?
    }

    /// Commits without waiting for the disk. The [`Ticket`] tells when the commit is durable.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let mut tx = engine.transaction();
    /// tx.send(&payments, "charge order 1");
    /// let ticket = tx.commit_ticket()?;
    /// ticket.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`commit`](Transaction::commit). An error of the sync comes from the ticket.
    pub fn commit_ticket(self) -> Result<Ticket<Vec<Position>>> {
        let engine = self.engine.clone();
        let (positions, receipt) = self.make()?;
        Ok(Ticket::new(&engine, (positions?, receipt)))
    }
}
