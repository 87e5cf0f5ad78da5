//! Transactions: one frame over everything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    core::{Core, lease_lost},
    delivery::{Delivery, NACKED},
    fate::Fate,
    group::Group,
    handle::Engine,
    queue::Queue,
    reader::Reader,
    room::Load,
    shared::Committing,
    stream::{Position, Stream},
    ticket::Ticket,
    topic::Topic,
};
use crate::{
    config::{Durability, check_delay},
    delivery::LeaseKey,
    error::{Error, Result},
    format::entity::Limit,
    ids::{CursorId, LogId, Lsn, Offset, OffsetRange, Timestamp},
    journal::Urgency,
    message::Message,
    store::Op,
};

/// Operations over any queues, topics, streams and groups of one engine that are committed as one:
/// all of them happen, or none, whatever crashes. It is one frame of the journal, and one flush.
///
/// A transaction that is dropped without a commit does nothing: deliveries that it was to settle
/// are still on lease. The commit of an empty one succeeds, and writes nothing.
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
    settles: Vec<Settle>,
    seeks: Vec<(Group, u32, Offset)>,
    /// Queues that may hold so many messages only, and how many are sent to them.
    limits: BTreeMap<CursorId, (LogId, Limit, Load)>,
    durability: Durability,
    /// The first operation that cannot be.
    failure: Option<Error>,
}

#[derive(Debug)]
struct Append {
    log: LogId,
    partition: u32,
    message: Message<'static>,
    delay_ms: u64,
}

#[derive(Debug)]
struct Settle {
    cursor: CursorId,
    key: LeaseKey,
    attempt: u32,
    leased: Duration,
    how: Settling,
}

#[derive(Debug)]
enum Settling {
    Ack,
    /// Fails if the message was deleted meanwhile.
    #[cfg(feature = "cron")]
    AckIfThere,
    Nack {
        delay: Option<Duration>,
        /// The message as it is moved to the dead letters, if it was tried often enough.
        letter: Option<Box<(LogId, Message<'static>)>>,
    },
}

/// What a lease's end leaves to do once the commit is made.
enum Ending {
    /// So long after it was received.
    Ack(Duration),
    Dead,
    Settle,
    Release(Timestamp),
}

impl Transaction {
    pub(super) fn new(engine: &Engine) -> Transaction {
        Transaction {
            engine: engine.clone(),
            appends: Vec::new(),
            settles: Vec::new(),
            seeks: Vec::new(),
            limits: BTreeMap::new(),
            durability: engine.shared().config.durability,
            failure: None,
        }
    }

    /// Sets the durability of this commit.
    pub fn durability(&mut self, durability: Durability) -> &mut Transaction {
        self.durability = durability;
        self
    }

    /// Whether a handle is of this engine; the commit fails if one is not.
    fn admits(&mut self, engine: &Engine) -> bool {
        let same = self.engine.is_same(engine);
        if !same {
            let what = "a transaction's handles must all come from the engine that began it";
            self.failure.get_or_insert_with(|| Error::invalid("handle", what));
        }
        same
    }

    fn add(&mut self, engine: &Engine, log: LogId, partition: u32, message: Message<'_>) {
        self.add_delayed(engine, (log, partition), message, 0);
    }

    fn add_delayed(
        &mut self,
        engine: &Engine,
        (log, partition): (LogId, u32),
        message: Message<'_>,
        delay_ms: u64,
    ) {
        if self.admits(engine) {
            let message = message.into_owned();
            self.appends.push(Append { log, partition, message, delay_ms });
        }
    }

    /// Sends a message to a queue.
    pub fn send<'m>(&mut self, queue: &Queue, message: impl Into<Message<'m>>) -> &mut Self {
        let message = message.into();
        if let Err(error) = queue.admit(&message) {
            self.failure.get_or_insert(error);
        }
        if let Some(limit) = queue.limit() {
            let limits = self.limits.entry(queue.cursor());
            limits.or_insert((queue.log(), limit, Load::default())).2.add(limit, &message);
        }
        self.add_delayed(queue.engine(), (queue.log(), 0), message, queue.delay_ms());
        self
    }

    /// Publishes a message to a topic.
    pub fn publish<'m>(&mut self, topic: &Topic, message: impl Into<Message<'m>>) -> &mut Self {
        self.add(topic.engine(), topic.log(), 0, message.into());
        self
    }

    /// Appends a record to a stream.
    pub fn append<'m>(&mut self, stream: &Stream, message: impl Into<Message<'m>>) -> &mut Self {
        let message = message.into();
        let shape = stream.shape();
        let partition = shape.partition_for(&message);
        self.add(&shape.engine, shape.log(partition), partition, message);
        self
    }

    /// Acks a delivery. If its lease is lost by the time of the commit, the commit fails.
    pub fn ack(&mut self, delivery: &Delivery) -> &mut Self {
        self.settle(delivery, Settling::Ack)
    }

    /// Acks a delivery. If its lease is lost by the time of the commit, or its message was deleted, the
    /// commit fails, as of a lease that is lost.
    #[cfg(feature = "cron")]
    pub(super) fn ack_if_there(&mut self, delivery: &Delivery) -> &mut Self {
        self.settle(delivery, Settling::AckIfThere)
    }

    /// Gives a delivery back, to be delivered again as by [`Delivery::nack`]. If its lease is lost by
    /// the time of the commit, the commit fails.
    pub fn nack(&mut self, delivery: &Delivery) -> &mut Self {
        self.fail(delivery, None)
    }

    /// As [`nack`](Transaction::nack), but the message waits for so long, up to a year.
    pub fn nack_after(&mut self, delivery: &Delivery, delay: Duration) -> &mut Self {
        match check_delay("delay", delay) {
            Ok(delay) => self.fail(delivery, Some(delay)),
            Err(error) => {
                self.failure.get_or_insert(error);
                self
            }
        }
    }

    fn fail(&mut self, delivery: &Delivery, delay: Option<Duration>) -> &mut Self {
        let consumer = delivery.consumer();
        let grave = consumer.retry.grave(delivery.attempt());
        let letter = grave.map(|grave| {
            let death = delivery.death(NACKED);
            let is_of_subscription = consumer.log.queue_cursor() != consumer.cursor;
            let origin = (&*consumer.origin, is_of_subscription);
            let letter =
                death.letter(origin, consumer.shared().now()).priority(delivery.priority());
            Box::new((grave.queue.log(0), letter.into_owned()))
        });
        self.settle(delivery, Settling::Nack { delay, letter })
    }

    fn settle(&mut self, delivery: &Delivery, how: Settling) -> &mut Self {
        let consumer = delivery.consumer();
        if self.admits(&consumer.engine) {
            let (cursor, key) = (consumer.cursor, delivery.key_of_lease());
            let (attempt, leased) = (delivery.attempt(), delivery.leased());
            self.settles.push(Settle { cursor, key, attempt, leased, how });
        }
        self
    }

    /// Commits the offset at which a group is to go on in a partition.
    pub fn commit_offset(&mut self, group: &Group, partition: u32, next: Offset) -> &mut Self {
        if self.admits(group.engine()) {
            self.seeks.push((group.clone(), partition, next));
        }
        self
    }

    /// Commits how far a reader has come for a group at the time of this call, in all its
    /// partitions: what is read between it and the commit does not count. To handle each record
    /// exactly once, do it in the transaction that holds what came of the records.
    pub fn commit_reader(&mut self, group: &Group, reader: &Reader) -> &mut Self {
        if !group.suits(reader) {
            self.failure.get_or_insert_with(Group::unsuited);
            return self;
        }
        for place in reader.positions() {
            self.commit_offset(group, place.partition, place.offset);
        }
        self
    }

    /// Commits. Returns where the messages are that were sent, published and appended, in the order
    /// of these calls; the partition is 0 for queues and topics.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease of a delivery was lost,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), [`TooLarge`](crate::ErrorKind::TooLarge),
    /// [`NotFound`](crate::ErrorKind::NotFound), [`QueueFull`](crate::ErrorKind::QueueFull),
    /// [`DiskFull`](crate::ErrorKind::DiskFull): nothing
    /// was changed. [`Poisoned`](crate::ErrorKind::Poisoned): all of it happened, or nothing.
    pub fn commit(self) -> Result<Vec<Position>> {
        let (engine, durability) = (self.engine.clone(), self.durability);
        let committed = self.make()?;
        engine.shared().complete(committed, durability)
    }

    /// Commits without waiting for the disk: the ticket says when it is durable.
    ///
    /// # Errors
    ///
    /// As [`commit`](Transaction::commit), up to the commit.
    pub fn commit_ticket(self) -> Result<Ticket<Vec<Position>>> {
        let engine = self.engine.clone();
        let (positions, end) = self.make()?;
        Ok(Ticket::new(&engine, positions, end))
    }

    fn make(mut self) -> Result<(Vec<Position>, Lsn)> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let shared = Arc::clone(self.engine.shared());
        self.check_settled_once()?;
        shared.transact(|core| {
            let elapsed = shared.elapsed();
            let mut acks: BTreeMap<CursorId, Vec<Offset>> = BTreeMap::new();
            let (mut ops, mut letters, mut endings) = (Vec::new(), Vec::new(), Vec::new());
            for Settle { cursor, key, attempt, leased, how } in &self.settles {
                let (cursor, offset) = (*cursor, core.held(*cursor, *key, elapsed)?);
                match how {
                    Settling::Nack { .. } if core.is_gone(cursor, offset) => {
                        endings.push(Ending::Settle);
                        continue;
                    }
                    Settling::Nack { delay, letter: None } => {
                        let fate = core.fate(cursor, offset, *attempt, *delay, elapsed)?;
                        let Fate::Again { attempts, due } = fate else {
                            // It was tried by others, too, so its lease is not what it was.
                            return Err(lease_lost());
                        };
                        let urgency = Urgency::Freeing;
                        ops.push(Op::Defer { cursor, offset, attempts, due, urgency });
                        endings.push(Ending::Release(due));
                        continue;
                    }
                    Settling::Nack { letter: Some(letter), .. } => {
                        let (log, message) = &**letter;
                        let messages = std::slice::from_ref(message);
                        letters.push(Op::Append { log: *log, messages, delay_ms: 0 });
                    }
                    #[cfg(feature = "cron")]
                    Settling::AckIfThere if core.is_gone(cursor, offset) => {
                        return Err(lease_lost());
                    }
                    #[cfg(feature = "cron")]
                    Settling::AckIfThere => {}
                    Settling::Ack => {}
                }
                acks.entry(cursor).or_default().push(offset);
                let is_dead = matches!(how, Settling::Nack { .. });
                let took = elapsed.saturating_sub(*leased);
                endings.push(if is_dead { Ending::Dead } else { Ending::Ack(took) });
            }
            acks.values_mut().for_each(|offsets| offsets.sort_unstable());
            let dropped = self.make_room(core, &acks)?;
            for (cursor, ranges) in dropped.iter().filter(|(_, ranges)| !ranges.is_empty()) {
                ops.push(Op::AckRanges { cursor: *cursor, ranges });
            }
            for (cursor, offsets) in &acks {
                ops.push(Op::Ack { cursor: *cursor, offsets });
            }
            for (group, partition, next) in &self.seeks {
                let added = self.added_to(group, *partition);
                ops.push(group.seek(core, *partition, *next, added)?);
            }
            for Append { log, message, delay_ms, .. } in &self.appends {
                let messages = std::slice::from_ref(message);
                ops.push(Op::Append { log: *log, messages, delay_ms: *delay_ms });
            }
            ops.append(&mut letters);
            if ops.is_empty() {
                return Ok(Committing::Done(Vec::new(), Lsn(0)));
            }
            let now = shared.now();
            let outcome = core.commit(&ops, now)?;
            let committing = Committing::of(outcome, || self.positions(core));
            if matches!(committing, Committing::Done(..)) {
                self.take_effect(core, &endings);
                dropped.iter().for_each(|(cursor, ranges)| core.note_made_room(*cursor, ranges));
            }
            Ok(committing)
        })
    }

    /// What is to be deleted in queues that may hold so much only.
    fn make_room(
        &self,
        core: &mut Core,
        acks: &BTreeMap<CursorId, Vec<Offset>>,
    ) -> Result<Vec<(CursorId, Vec<OffsetRange>)>> {
        let room = |(cursor, (log, limit, load)): (&CursorId, &(LogId, Limit, Load))| {
            let acked = acks.get(cursor).map_or(&[][..], |offsets| offsets);
            let dropped = core.room_for((*cursor, *log, *limit), *load, acked)?;
            Ok((*cursor, dropped))
        };
        self.limits.iter().map(room).collect()
    }

    /// How many records this transaction adds to a partition.
    fn added_to(&self, group: &Group, partition: u32) -> u64 {
        let log = group.shape().log(partition);
        self.appends.iter().filter(|append| append.log == log).count() as u64
    }

    fn check_settled_once(&self) -> Result<()> {
        let mut keys: Vec<_> = self.settles.iter().map(|it| (it.cursor, it.key)).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            let what = "a transaction settles the same delivery twice";
            return Err(Error::invalid("delivery", what));
        }
        Ok(())
    }

    /// Where the messages of the last commit are. Each was a run of its own.
    fn positions(&self, core: &Core) -> Vec<Position> {
        let placed = self.appends.iter().zip(core.store.placed());
        let position = |(append, (_, offsets)): (&Append, (LogId, OffsetRange))| Position {
            partition: append.partition,
            offset: offsets.start,
        };
        placed.map(position).collect()
    }

    fn take_effect(&self, core: &mut Core, endings: &[Ending]) {
        for (settle, ending) in self.settles.iter().zip(endings) {
            match ending {
                Ending::Ack(took) => core.settle_acked(settle.cursor, settle.key, *took),
                Ending::Dead => core.settle_dead(settle.cursor, settle.key, true),
                Ending::Settle => core.settle_lease(settle.cursor, settle.key),
                Ending::Release(due) => core.release_failed(settle.cursor, settle.key, *due),
            }
        }
    }
}
