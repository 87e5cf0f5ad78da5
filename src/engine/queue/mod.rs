//! Queues: handles, builders, capacity and redriving.

mod builder;
mod capacity;
mod moving;
mod redrive;
mod tasks;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

pub use self::{
    builder::QueueBuilder,
    redrive::{Redrive, Redriven},
};
use crate::{
    config::Durability,
    engine::{
        commit::{append::Target, committer::Committer, lifetime::Engine, ticket::Ticket},
        consume::{
            calls::{Consuming, consumer_calls},
            consumer::{ConsumedCursor, Consumer},
            key_order::check_ordered,
        },
        core::{
            Core,
            capacity::{Dropped, Load},
            commit::{CommitResult, Receipt},
            consumption::CursorInfo,
        },
    },
    error::Result,
    format::entity::{Entity, EntityKind, Limit},
    ids::{CursorId, LogId, Offset},
    message::Message,
    store::{BatchedMessage, Op, Refused},
};

/// A queue: each message goes to one consumer, and is delivered again until it is acked.
///
/// Any number of threads send and receive. Clones are cheap and are the same queue. First deliveries are in
/// the order of sending. Messages that come back take turns with new ones.
///
/// ```
/// use std::time::Duration;
/// use posthouse::Engine;
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// let payments = engine.queue("payments").create()?;
/// payments.send("charge order 1")?; // durable when it returns
/// if let Some(delivery) = payments.receive(Duration::from_secs(1))? {
///     assert_eq!(delivery.payload(), b"charge order 1");
///     delivery.ack()?; // or it is delivered again
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Queue {
    consumer: Arc<Consumer>,
}

impl Consuming for Queue {
    fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    fn with_consumer(consumer: Arc<Consumer>) -> Queue {
        Queue { consumer }
    }
}

impl Queue {
    pub(crate) fn attach(engine: &Engine, entity: &Entity) -> Result<Queue> {
        let EntityKind::Queue(delivering) = &entity.kind else {
            unreachable!("the space of queues holds queues");
        };
        let consumed = ConsumedCursor {
            cursor: entity.id.cursor(0),
            log: entity.id.log(0),
            name: Arc::clone(&entity.name),
            topic: None,
            delivering,
        };
        let consumer = Arc::new(Consumer::attach(engine, consumed)?);
        if consumer.info.current.all().weighs() {
            consumer.weigh()?;
        }
        Ok(Queue { consumer })
    }

    pub(crate) fn log(&self) -> LogId {
        self.consumer.log()
    }

    pub(crate) fn cursor(&self) -> CursorId {
        self.consumer.cursor()
    }

    pub(crate) fn info(&self) -> &Arc<CursorInfo> {
        &self.consumer.info
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.consumer.engine
    }

    #[cfg(feature = "cron")]
    pub(crate) fn is_ordered(&self) -> bool {
        self.consumer.info.current.is_ordered()
    }

    /// Fails if a message cannot be sent to this queue.
    pub(crate) fn check_message(&self, message: &Message<'_>) -> Result<()> {
        if self.consumer.info.current.is_ordered() { check_ordered(message) } else { Ok(()) }
    }

    #[inline]
    fn append(&self, messages: &[Message<'_>]) -> Result<(Offset, Receipt)> {
        self.append_or(messages, None, |_| {})
    }

    /// Appends messages. `full` is called under the core if there is no capacity for them. `left` is the time of a call that
    /// looks for some.
    fn append_or(
        &self,
        messages: &[Message<'_>],
        left: Option<&dyn Fn() -> Duration>,
        full: impl FnMut(&mut Core),
    ) -> Result<(Offset, Receipt)> {
        let current = &self.consumer.info.current;
        if current.takes_plain() && !messages.iter().any(Message::has_more) {
            let (committer, now) = (self.consumer.committer(), Committer::tick_now);
            let target = Target { log: self.log(), keeps_acked: false };
            let forbids = |_: &Core| (!current.takes_plain()).then_some(());
            let appended = committer.append_unless("send", target, messages, now, forbids)?;
            if let (Ok(first), receipt) = appended {
                return Ok((first, receipt));
            }
        }
        self.append_special(messages, left, full)
    }

    /// Appends messages that are delayed or live for a limited time, or to a queue with a limit or an order.
    fn append_special(
        &self,
        messages: &[Message<'_>],
        left: Option<&dyn Fn() -> Duration>,
        mut full: impl FnMut(&mut Core),
    ) -> Result<(Offset, Receipt)> {
        let (cursor, committer) = (self.cursor(), self.consumer.committer());
        if committer.is_batch(messages.iter())
            && let Some(appended) = self.append_batch(messages, left, &mut full)?
        {
            return Ok(appended);
        }
        committer.transact_within("send", left, |core| {
            if messages.is_empty() {
                let (_, next) = core.bounds(self.log())?;
                return Ok((next, Receipt::NOTHING));
            }
            let rules = core.consumption(cursor)?.rules;
            if rules.is_ordered {
                messages.iter().try_for_each(check_ordered)?;
            }
            let dropped = self.make_capacity(core, rules.limit, messages, &mut full)?;
            let append = Op::Append { log: self.log(), messages, delay_ms: rules.delay_ms };
            let drop = Op::AckRanges { cursor, ranges: &dropped.ranges };
            let ops = [append, drop];
            let count = if dropped.ranges.is_empty() { 1 } else { 2 };
            let receipt = core.commit(&ops[..count], committer.now())?;
            core.note_made_capacity(cursor, &dropped);
            Ok((core.first_placed(), receipt))
        })
    }

    /// As [`append_special`](Queue::append_special), with messages that are encoded before the core is locked. `None` if they
    /// have to be appended in that way: each has a change of its own, or is weighed.
    #[cold]
    fn append_batch(
        &self,
        messages: &[Message<'_>],
        left: Option<&dyn Fn() -> Duration>,
        full: &mut impl FnMut(&mut Core),
    ) -> Result<Option<(Offset, Receipt)>> {
        let (cursor, committer) = (self.cursor(), self.consumer.committer());
        let changes = committer.lock_open("send")?.settings_changes;
        let rules = self.consumer.info.current.all();
        if rules.delay_ms > 0 || rules.weighs() {
            return Ok(None);
        }
        if rules.is_ordered {
            messages.iter().try_for_each(check_ordered)?;
        }
        let of = |message| BatchedMessage { log: self.log(), message, keeps_acked: false };
        let batched: Vec<BatchedMessage<'_>> = messages.iter().map(of).collect();
        let mut batch = committer.encode(&batched, committer.now())?;
        committer.commit_batch_within("send", left, &mut batch, |core, batch| {
            if core.settings_changes != changes {
                return Ok(None);
            }
            // A queue that was deleted says so here.
            core.consumption(cursor)?;
            let dropped = self.make_capacity(core, rules.limit, messages, full)?;
            let drop = [Op::AckRanges { cursor, ranges: &dropped.ranges }];
            let drops = if dropped.ranges.is_empty() { &[] } else { &drop[..] };
            let receipt = core.commit_batch(drops, batch)?;
            core.note_made_capacity(cursor, &dropped);
            Ok(Some((batch.first(), receipt)))
        })
    }

    /// Makes capacity for messages, if the queue has a limit. `full` is called if there is none.
    fn make_capacity(
        &self,
        core: &mut Core,
        limit: Option<Limit>,
        messages: &[Message<'_>],
        full: &mut impl FnMut(&mut Core),
    ) -> CommitResult<Dropped> {
        let Some(limit) = limit else { return Ok(Dropped::default()) };
        let (load, now) = (Load::of(limit, messages), self.consumer.committer().elapsed());
        let made = core.make_capacity(self.cursor(), limit, load, &[], now);
        if matches!(made, Err(Refused::Failed(_))) {
            full(core);
        }
        made
    }

    /// Sends a message, and returns its offset in the queue.
    ///
    /// The message is durable when the call returns, unless the handle has another
    /// [durability](Queue::durability).
    ///
    /// ```
    /// use posthouse::{Engine, Message};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.send(Message::new("charge order 2").key("customer-17").priority(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::ErrorKind::TooLarge), [`DiskFull`](crate::ErrorKind::DiskFull),
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a setting of the message does not fit the queue,
    /// [`NotFound`](crate::ErrorKind::NotFound) if the queue was deleted,
    /// [`QueueFull`](crate::ErrorKind::QueueFull) if it may hold no more: the message was not sent. Of messages that have
    /// expired the call drops about as many as it needs room; if it finds none among some thousand, try again.
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if a sync failed: the commit may be lost, or not.
    pub fn send<'m>(&self, message: impl Into<Message<'m>>) -> Result<Offset> {
        let committed = self.append(&[message.into()])?;
        self.consumer.committer().complete(committed, self.consumer.durability)
    }

    /// Sends messages in one commit: all of them, or none. It returns their offsets.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let offsets = payments.send_batch((0..100).map(|n| format!("charge order {n}")))?;
    /// assert_eq!(offsets.end.0 - offsets.start.0, 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`send`](Queue::send).
    pub fn send_batch<'m, M: Into<Message<'m>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<Range<Offset>> {
        let messages: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        let committed = self.append(&messages)?;
        let first = self.consumer.committer().complete(committed, self.consumer.durability)?;
        Ok(first..Offset(first.0 + messages.len() as u64))
    }

    /// Sends a message without waiting for the disk. The [`Ticket`] tells when the message is durable.
    ///
    /// The call waits only if the journal is full, until it has room.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// let first = payments.send_ticket("charge order 1")?;
    /// let second = payments.send_ticket("charge order 2")?;
    /// second.wait()?; // one flush for both
    /// assert!(first.is_durable());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`send`](Queue::send). An error of the sync comes from the ticket.
    pub fn send_ticket<'m>(&self, message: impl Into<Message<'m>>) -> Result<Ticket<Offset>> {
        Ok(Ticket::new(self.engine(), self.append(&[message.into()])?))
    }

    /// The size of the messages in the queue in bytes, with keys and headers. `None` if the queue has no
    /// [limit in bytes](QueueBuilder::max_bytes).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let images = engine.queue("images").max_bytes(1 << 30).create()?;
    /// images.send(vec![0; 1000])?;
    /// assert_eq!(images.bytes()?, Some(1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`depth`](Queue::depth).
    pub fn bytes(&self) -> Result<Option<u64>> {
        self.consumer.bytes()
    }

    /// Moves the dead letters in this queue back to where they come from, or to another queue.
    ///
    /// With [`to`](Redrive::to) it moves ordinary messages, too. [`only`](Redrive::only) chooses among them.
    /// See [`Redrive`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack()?;
    /// engine.queue("payments.dead").open()?.redrive().run()?;
    /// assert_eq!(payments.depth()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn redrive<'f>(&self) -> Redrive<'f> {
        Redrive::new(&self.consumer)
    }

    consumer_calls!(
        Queue,
        "queue",
        "QueueBuilder",
        "let handle = engine.queue(\"payments\").create()?;\nhandle.send(\"charge order 1\")?;"
    );

    fn durability_of_commits(&self) -> Durability {
        self.consumer.durability
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("name", &self.name()).finish_non_exhaustive()
    }
}
