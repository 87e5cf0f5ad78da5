//! One message on lease.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    consumer::{Consumer, Dealt},
    core::{lease_lost, settled_before},
    dead::Death,
    fate::Fate,
    shared::Committing,
    ticket::Ticket,
};
use crate::{
    config::{check_delay, check_hold, check_lease},
    delivery::LeaseKey,
    error::{Error, ErrorKind, Result},
    format::{note::DeadLetter, record::Headers},
    ids::{Lsn, Offset, Timestamp},
    journal::Urgency,
    message::Message,
    store::{Op, Stored},
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
    key: LeaseKey,
    stored: Stored,
    dealt: Dealt,
    settled: AtomicBool,
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug)]
enum Settling<'a> {
    Ack,
    Nack { delay: Option<Duration>, reason: &'a str },
    Reject { reason: &'a str },
}

/// What is said of messages whose last delivery was given back without a reason.
pub(super) const NACKED: &str = "its last delivery was nacked";

impl Delivery {
    pub(super) fn new(
        consumer: Arc<Consumer>,
        key: LeaseKey,
        stored: Stored,
        dealt: Dealt,
    ) -> Delivery {
        if dealt.attempt == 1 {
            let since = stored.timestamp().max(dealt.due);
            let ms = consumer.shared().now().stamp.0.saturating_sub(since.0);
            consumer.latencies.waiting.record(Duration::from_millis(ms));
        }
        Delivery { consumer, key, stored, dealt, settled: AtomicBool::new(false) }
    }

    /// When it was received.
    pub(super) fn leased(&self) -> Duration {
        self.dealt.leased
    }

    pub(super) fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    pub(super) fn key_of_lease(&self) -> LeaseKey {
        self.key
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.stored.payload()
    }

    /// The key, if the message has one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.stored.key()
    }

    /// The headers, in the order in which they were added.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        self.stored.headers()
    }

    /// The first header with a name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().named(name)
    }

    /// When the message was committed, or what its sender has set.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.stored.timestamp()
    }

    /// The message's number in its queue or topic. The same at every delivery.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.stored.offset
    }

    /// How often the message was tried, including this time: 1 at the first delivery.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.dealt.attempt
    }

    /// Its priority, from 0 to 9: see [`Message::priority`].
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.dealt.priority
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
        (self.consumer.shared().life << 40) + self.key.number()
    }

    /// Says that the message is done with: it is never delivered again.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease has run out or the delivery was
    /// settled before; or because the commit failed. The message may then be delivered again.
    pub fn ack(&self) -> Result<()> {
        let end = self.settle(Settling::Ack)?;
        self.consumer.shared().complete(((), end), self.consumer.durability)
    }

    /// As [`ack`](Delivery::ack), but without waiting for the disk: the ticket says when it is
    /// durable.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack), up to the commit.
    pub fn ack_ticket(&self) -> Result<Ticket<()>> {
        let end = self.settle(Settling::Ack)?;
        Ok(Ticket::new(&self.consumer.engine, (), end))
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
        self.settle_durably(Settling::Nack { delay: None, reason: NACKED })
    }

    /// As [`nack`](Delivery::nack), with a reason for the dead letters, if it comes to that: the
    /// first KiB of it is kept.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack).
    pub fn nack_because(&self, reason: &str) -> Result<()> {
        self.settle_durably(Settling::Nack { delay: None, reason })
    }

    /// As [`nack_because`](Delivery::nack_because), but without waiting for the disk.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack), up to the commit.
    pub fn nack_because_ticket(&self, reason: &str) -> Result<Ticket<()>> {
        let end = self.settle(Settling::Nack { delay: None, reason })?;
        Ok(Ticket::new(&self.consumer.engine, (), end))
    }

    /// As [`nack`](Delivery::nack), but the message waits for so long, whatever its queue's backoff
    /// says: up to a year. It waits behind a restart, too.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the delay is
    /// longer than a year.
    pub fn nack_after(&self, delay: Duration) -> Result<()> {
        let delay = Some(check_delay("delay", delay)?);
        self.settle_durably(Settling::Nack { delay, reason: NACKED })
    }

    /// As [`nack`](Delivery::nack), but without waiting for the disk: the ticket says when it is
    /// durable.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack), up to the commit.
    pub fn nack_ticket(&self) -> Result<Ticket<()>> {
        let end = self.settle(Settling::Nack { delay: None, reason: NACKED })?;
        Ok(Ticket::new(&self.consumer.engine, (), end))
    }

    /// Moves the message to the dead letters at once, as there is no use in trying again: one commit
    /// takes it out of its queue and puts it there. The first KiB of the reason is kept.
    ///
    /// # Errors
    ///
    /// As [`ack`](Delivery::ack); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the queue has
    /// no dead letters: see [`QueueBuilder::max_attempts`](crate::QueueBuilder::max_attempts).
    pub fn reject(&self, reason: &str) -> Result<()> {
        if self.consumer.retry.dead_letters.is_none() {
            let what = "this queue has no dead letters; create it with max_attempts or \
                        dead_letter_queue, or ack the message to drop it";
            return Err(Error::invalid("dead_letter_queue", what));
        }
        self.settle_durably(Settling::Reject { reason })
    }

    /// What is known of the message if it is a dead letter: where it comes from, and why it is here.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if what is noted about it cannot be read.
    pub fn dead_letter(&self) -> Result<Option<DeadLetter>> {
        self.stored.dead_letter()
    }

    fn settle_durably(&self, how: Settling<'_>) -> Result<()> {
        let end = self.settle(how)?;
        self.consumer.shared().complete(((), end), self.consumer.durability)
    }

    fn settle(&self, how: Settling<'_>) -> Result<Lsn> {
        let shared = self.consumer.shared();
        let cursor = self.consumer.cursor;
        let settled = shared.transact(|core| {
            let elapsed = shared.elapsed();
            let offset = core.held(cursor, self.key, elapsed)?;
            match how {
                Settling::Ack => {
                    let ack = Op::Ack { cursor, offsets: &[offset] };
                    let outcome = core.commit(&[ack], shared.now_plain())?;
                    let committing = Committing::of(outcome, || ());
                    if matches!(committing, Committing::Done(..)) {
                        let took = elapsed.saturating_sub(self.leased());
                        core.settle_acked(cursor, self.key, took);
                    }
                    Ok(committing)
                }
                Settling::Nack { delay, reason } => {
                    match core.fate(cursor, offset, self.dealt.attempt, delay, elapsed)? {
                        Fate::Dead(grave) => core.bury(&self.death(reason), grave, shared.now()),
                        Fate::Gone => {
                            core.settle_lease(cursor, self.key);
                            Ok(Committing::Done((), Lsn(0)))
                        }
                        Fate::Again { attempts, due } => {
                            let urgency = Urgency::Freeing;
                            let defer = Op::Defer { cursor, offset, attempts, due, urgency };
                            let outcome = core.commit(&[defer], shared.now_plain())?;
                            let committing = Committing::of(outcome, || ());
                            if matches!(committing, Committing::Done(..)) {
                                core.release_failed(cursor, self.key, due);
                            }
                            Ok(committing)
                        }
                    }
                }
                Settling::Reject { .. } if core.is_gone(cursor, offset) => {
                    core.settle_lease(cursor, self.key);
                    Ok(Committing::Done((), Lsn(0)))
                }
                Settling::Reject { reason } => {
                    let grave = self.consumer.retry.dead_letters.expect("it was looked before");
                    core.bury(&self.death(reason), grave, shared.now())
                }
            }
        });
        let ((), end) = settled.map_err(|error| self.explain(error))?;
        self.settled.store(true, Ordering::Relaxed);
        Ok(end)
    }

    /// What is to be said of the message, should it be moved to the dead letters.
    pub(super) fn death<'d>(&'d self, reason: &'d str) -> Death<'d> {
        let (cursor, key, attempts) = (self.consumer.cursor, self.key, self.dealt.attempt);
        Death { cursor, key, stored: &self.stored, attempts, reason, has_failed: true }
    }

    /// A lease that is lost because this very delivery was settled: says so.
    fn explain(&self, error: Error) -> Error {
        let is_settled = self.settled.load(Ordering::Relaxed);
        if is_settled && error.kind() == ErrorKind::LeaseLost { settled_before() } else { error }
    }

    /// Extends the lease again and again for as long as this delivery lives, up to so long from now
    /// on, a day at most: for handlers that may be slow. If the process dies, so does the lease.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if it has run out or the delivery was settled
    /// before; [`InvalidInput`](crate::ErrorKind::InvalidInput) for less than 1 ms or more than a
    /// day.
    pub fn hold(&self, most: Duration) -> Result<()> {
        let shared = self.consumer.shared();
        let most = check_hold(most)? + shared.disk.tick();
        let now = shared.elapsed();
        let mut core = shared.lock_open()?;
        let deliveries = &mut core.consumption(self.consumer.cursor)?.deliveries;
        if !deliveries.hold(self.key, now, (self.consumer.lease(), now + most)) {
            return Err(self.explain(lease_lost()));
        }
        Ok(())
    }

    /// Makes the lease last for so long from now on: from 1 ms to a day.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if it has run out or the delivery was settled
    /// before; [`InvalidInput`](crate::ErrorKind::InvalidInput) for less than 1 ms or more than a
    /// day.
    pub fn extend(&self, lease: Duration) -> Result<()> {
        let shared = self.consumer.shared();
        let lease = check_lease(lease)? + shared.disk.tick();
        let now = shared.elapsed();
        let mut core = shared.lock_open()?;
        let deliveries = &mut core.consumption(self.consumer.cursor)?.deliveries;
        if !deliveries.extend(self.key, now, now + lease) {
            return Err(self.explain(lease_lost()));
        }
        // If it was made shorter, the timer that is set would come too late.
        core.arm(self.consumer.cursor);
        let wakes = core.take_wakes();
        drop(core);
        shared.wake(wakes);
        Ok(())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        let shared = self.consumer.shared();
        let mut core = shared.lock();
        core.give_back(self.consumer.cursor, self.key, shared.elapsed());
        let mut core = shared.count_failures(core);
        let wakes = core.take_wakes();
        drop(core);
        shared.wake(wakes);
        if self.consumer.retry.grave(self.dealt.attempt).is_some() {
            shared.bury_lapsed();
        }
    }
}

/// Its payload, key and headers, borrowed, to send it on. The message bears the time of its new
/// commit, unless [`Message::timestamp`] gives it that of the delivery.
impl<'a> From<&'a Delivery> for Message<'a> {
    fn from(delivery: &'a Delivery) -> Message<'a> {
        Message::borrowed(delivery.payload(), delivery.key(), delivery.headers())
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("offset", &self.offset())
            .field("attempt", &self.dealt.attempt)
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}
