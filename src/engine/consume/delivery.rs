//! A delivery: one leased message, and the ways to settle it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{consumer::Consumer, getters::stored_message_getters, lease::DeliveryInfo};
use crate::{
    config::{check_delay, check_hold, check_lease},
    engine::{
        commit::ticket::Ticket,
        core::{
            commit::Receipt,
            dead_letters::{DeadMessage, Letter, NACKED},
            errors::{lease_lost, settled_before},
            settlement::{Settlement, Settling},
        },
    },
    error::{Error, ErrorKind, Result},
    format::{entity::DeadLetters, note::DeadLetter, record::Headers},
    ids::{Offset, Timestamp},
    message::Message,
    store::Stored,
};

/// A message that was delivered to this consumer, and to no other for as long as the lease holds.
///
/// Settle it with [`ack`](Delivery::ack) or [`nack`](Delivery::nack), or in a
/// [`Transaction`](crate::Transaction) together with what came of it. A delivery that is dropped
/// without, as when the handler panics, goes back to the queue at once, and one whose lease runs
/// out goes back then; both count as a failed attempt.
///
/// The payload is not copied where the file is mapped: it lives as long as the delivery. As long
/// as it lives, the store stays open, unless it is [closed](crate::Engine::close).
///
/// A delivery converts into a [`Message`] with its payload, key and headers, to send it on:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
/// let payments = engine.queue("payments").create()?;
/// let failed = engine.queue("payments.failed").create()?;
/// payments.send(posthouse::Message::new("charge order 1").key("customer-17"))?;
///
/// let delivery = payments.try_receive()?.expect("it was sent");
/// let mut tx = engine.transaction();
/// tx.ack(&delivery).send(&failed, &delivery);
/// tx.commit()?;
/// assert_eq!(failed.try_receive()?.expect("it was sent").key(), Some(&b"customer-17"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Delivery {
    consumer: Arc<Consumer>,
    stored: Stored,
    info: DeliveryInfo,
    is_settled: AtomicBool,
}

impl Delivery {
    pub(crate) fn new(consumer: Arc<Consumer>, stored: Stored, info: DeliveryInfo) -> Delivery {
        if info.attempt == 1 {
            let since = stored.timestamp().max(info.due);
            let now = consumer.committer().now_plain().stamp;
            let ms = now.0.saturating_sub(since.0);
            consumer.info.latencies.waiting.record(Duration::from_millis(ms));
        }
        Delivery { consumer, stored, info, is_settled: AtomicBool::new(false) }
    }

    pub(crate) fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    /// This delivery, settled as part of a commit.
    pub(crate) fn settlement<'a>(&self, how: Settling<'a>) -> Settlement<'a> {
        self.consumer.settlement(self.info, how)
    }

    /// The message in its form as a dead letter.
    fn letter<'a>(&'a self, to: DeadLetters, reason: &'a str) -> Box<Letter<'a>> {
        let DeliveryInfo { attempt: attempts, priority, .. } = self.info;
        let dead = DeadMessage { stored: &self.stored, attempts, priority, reason };
        Box::new(dead.letter(&self.consumer.info, to, self.consumer.committer().now()))
    }

    /// A failure of this delivery. After the last attempt the message moves to the dead letters.
    pub(crate) fn failure<'a>(&'a self, delay: Option<Duration>, reason: &'a str) -> Settling<'a> {
        let exhausted = self.consumer.info.retry.dead_letters_after(self.info.attempt);
        Settling::Nack { delay, letter: exhausted.map(|to| self.letter(to, reason)) }
    }

    stored_message_getters!();

    /// How often the message was tried, including this time: 1 at the first delivery.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info.attempt
    }

    /// Its priority, from 0 to 9: see [`Message::priority`].
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.info.priority
    }

    /// A number that grows with each delivery of this queue, or for this subscription: a delivery that
    /// came later has a higher one, also behind crashes and restarts. What is called by handlers
    /// can keep the highest that it has seen, and refuse lower ones: so a handler that was too slow,
    /// and whose lease has run out, does no harm (a fencing token; Kleppmann, 2016). Where several handlers
    /// work side by side, keep the highest of each key or message: tokens of healthy ones overtake
    /// each other.
    ///
    /// It is below 2^63, and higher than all before for 2^23 lives of a store with 2^40 deliveries
    /// each. Numbers of another store, a salvaged one included, say nothing about this one's.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        (self.consumer.committer().epoch << 40) + self.info.key.number()
    }

    /// Says that the message is done with: it is never delivered again.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease has run out or the delivery was
    /// settled before; or because the commit failed. The message may then be delivered again.
    pub fn ack(&self) -> Result<()> {
        let receipt = self.settle_ack()?;
        self.consumer.committer().complete(((), receipt), self.consumer.durability)
    }

    /// As [`ack`](Delivery::ack), but without waiting for the disk: the ticket says when it is
    /// durable.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack), up to the commit.
    pub fn ack_ticket(&self) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle_ack()?))
    }

    /// Says that handling failed: the message is delivered again, to any consumer, once it has
    /// waited as long as its queue's [backoff](crate::QueueBuilder::backoff) says; at once, if it
    /// says nothing. Where it was tried as often as its queue
    /// [allows](crate::QueueBuilder::max_attempts), it is moved to the dead letters.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack).
    pub fn nack(&self) -> Result<()> {
        self.settle_durably(self.failure(None, NACKED))
    }

    /// As [`nack`](Delivery::nack), with a reason for the dead letters, if it comes to that: the
    /// first KiB of it is kept.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack).
    pub fn nack_because(&self, reason: &str) -> Result<()> {
        self.settle_durably(self.failure(None, reason))
    }

    /// As [`nack_because`](Delivery::nack_because), but without waiting for the disk.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack), up to the commit.
    pub fn nack_because_ticket(&self, reason: &str) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle(self.failure(None, reason))?))
    }

    /// As [`nack`](Delivery::nack), but the message waits for so long, whatever its queue's backoff
    /// says: up to a year. It waits behind a restart, too.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the delay is
    /// longer than a year.
    pub fn nack_after(&self, delay: Duration) -> Result<()> {
        let delay = check_delay("delay", delay)?;
        self.settle_durably(self.failure(Some(delay), NACKED))
    }

    /// As [`nack`](Delivery::nack), but without waiting for the disk: the ticket says when it is
    /// durable.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack), up to the commit.
    pub fn nack_ticket(&self) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle(self.failure(None, NACKED))?))
    }

    /// Moves the message to the dead letters at once, as there is no use in trying again: one commit
    /// takes it out of its queue and puts it there. The first KiB of the reason is kept.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the queue has
    /// no dead letters: see [`QueueBuilder::max_attempts`](crate::QueueBuilder::max_attempts).
    pub fn reject(&self, reason: &str) -> Result<()> {
        let Some(dead_letters) = self.consumer.info.retry.dead_letters else {
            let what = "this queue has no dead letters; create it with max_attempts or \
                        dead_letter_queue, or ack the message to drop it";
            return Err(Error::invalid("dead_letter_queue", what));
        };
        let letter = self.letter(dead_letters, reason);
        self.settle_durably(Settling::DeadLetter { letter, has_failed: true })
    }

    fn settle_durably(&self, how: Settling<'_>) -> Result<()> {
        let receipt = self.settle(how)?;
        self.consumer.committer().complete(((), receipt), self.consumer.durability)
    }

    fn ticket(&self, receipt: Receipt) -> Ticket<()> {
        Ticket::new(&self.consumer.engine, ((), receipt))
    }

    fn settle(&self, how: Settling<'_>) -> Result<Receipt> {
        let settlement = self.settlement(how);
        let settled = self.consumer.committer().settle("settle", &settlement);
        self.note_settled(settled)
    }

    /// Acks. A fast path of `settle`.
    #[inline]
    fn settle_ack(&self) -> Result<Receipt> {
        let (committer, cursor) = (self.consumer.committer(), self.consumer.cursor());
        let DeliveryInfo { key, leased, .. } = self.info;
        let settled = committer.transact("ack", |core| {
            let receipt =
                core.ack(cursor, key, leased, committer.elapsed(), committer.now_plain())?;
            Ok(((), receipt))
        });
        self.note_settled(settled.map(|((), receipt)| receipt))
    }

    #[inline]
    fn note_settled(&self, settled: Result<Receipt>) -> Result<Receipt> {
        match settled {
            Ok(receipt) => {
                self.is_settled.store(true, Ordering::Relaxed);
                Ok(receipt)
            }
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Replaces the error of a lost lease, if the lease ended because this delivery was settled.
    fn explain(&self, error: Error) -> Error {
        let is_settled = self.is_settled.load(Ordering::Relaxed);
        if is_settled && error.kind() == ErrorKind::LeaseLost { settled_before() } else { error }
    }

    /// Extends the lease again and again for as long as this delivery lives, up to so long from now on, a day
    /// at most: for handlers that may be slow. If the process dies, so does the lease.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// # payments.send("charge order 1")?;
    /// use std::time::Duration;
    ///
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// delivery.hold(Duration::from_secs(3600))?; // the bank may take an hour
    /// delivery.ack()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if it has run out or the delivery was settled
    /// before; [`InvalidInput`](crate::ErrorKind::InvalidInput) for less than 1 ms or more than a
    /// day.
    pub fn hold(&self, most: Duration) -> Result<()> {
        let committer = self.consumer.committer();
        let most = check_hold(most)? + committer.disk.tick();
        let now = committer.elapsed();
        let lease = self.consumer.info.lease;
        let mut core = committer.lock_open("hold a lease")?;
        let deliveries = &mut core.consumption(self.consumer.cursor())?.deliveries;
        if !deliveries.hold(self.info.key, now, (lease, now + most)) {
            return Err(self.explain(lease_lost()));
        }
        Ok(())
    }

    /// Makes the lease last for so long from now on: from 1 ms to a day.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// # payments.send("charge order 1")?;
    /// use std::time::Duration;
    ///
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// delivery.extend(Duration::from_secs(120))?; // two more minutes, whatever was left
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if it has run out or the delivery was settled
    /// before; [`InvalidInput`](crate::ErrorKind::InvalidInput) for less than 1 ms or more than a
    /// day.
    pub fn extend(&self, lease: Duration) -> Result<()> {
        let committer = self.consumer.committer();
        let lease = check_lease(lease)? + committer.disk.tick();
        let now = committer.elapsed();
        let cursor = self.consumer.cursor();
        let mut core = committer.lock_open("extend a lease")?;
        let deliveries = &mut core.consumption(cursor)?.deliveries;
        if !deliveries.extend(self.info.key, now, now + lease) {
            return Err(self.explain(lease_lost()));
        }
        // If the lease became shorter, the timer that is set is too late.
        core.arm(cursor);
        Ok(())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.is_settled.load(Ordering::Relaxed) {
            return;
        }
        let operation = "give back";
        let committer = self.consumer.committer();
        let mut core = committer.lock(operation);
        core.give_back(self.consumer.cursor(), self.info.key, committer.elapsed());
        drop(committer.count_failures(operation, core));
        if self.consumer.info.retry.dead_letters_after(self.info.attempt).is_some() {
            committer.move_exhausted();
        }
    }
}

/// Borrows its payload, key and headers, to send it on. The message bears the time of its new commit, unless
/// [`Message::timestamp`] gives it that of the delivery.
impl<'a> From<&'a Delivery> for Message<'a> {
    fn from(delivery: &'a Delivery) -> Message<'a> {
        Message::borrowed(delivery.payload(), delivery.key(), delivery.headers())
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("offset", &self.offset())
            .field("attempt", &self.attempt())
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}
