//! A delivery: one leased message. `settle.rs` has the calls that settle it.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use super::{consumer::Consumer, getters::stored_message_getters, lease::DeliveryInfo};
use crate::{
    config::{check_hold, check_lease},
    engine::{
        commit::patience::{self, Past},
        core::{dead_letters::UNSETTLED, errors::lease_lost, settlement::Settling},
    },
    error::Result,
    format::{note::DeadLetter, record::Headers},
    ids::{Offset, Timestamp},
    message::Message,
    store::Stored,
};

/// A message that this consumer holds on lease. No other consumer receives it while the lease holds.
///
/// Settle a delivery with [`ack`](Delivery::ack), [`nack`](Delivery::nack) or
/// [`reject`](Delivery::reject), or in a [`Transaction`](crate::Transaction) together with its results.
/// A delivery that is dropped unsettled, as when the handler panics, goes back to the queue at once.
/// A delivery whose lease runs out goes back at that moment. Both count as a failed attempt.
/// [`release`](Delivery::release) gives a delivery back uncounted. So does dropping one of a batch into whose message
/// nobody has looked.
///
/// Where the file is mapped, the payload is not copied: it stays valid as long as the delivery lives.
/// A delivery keeps the store open, unless the engine is [closed](crate::Engine::close).
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
    pub(super) consumer: Arc<Consumer>,
    pub(super) stored: Stored,
    pub(super) info: DeliveryInfo,
    pub(in crate::engine) is_settled: AtomicBool,
    /// Whether the handling of the message has begun: one of the constants.
    handling: AtomicU8,
    /// Whether a `release` could not be written: what follows is no failed attempt.
    is_released: AtomicBool,
    /// Set if a worker settles this delivery after its handler: there it looks whether a `release` could not be written.
    /// Then a drop does nothing.
    lender: Option<Arc<AtomicBool>>,
}

/// The handling has begun. It was counted as an attempt, where attempts are counted first.
const BEGUN: u8 = 0;
/// A batch was received, and nobody has looked into this message of it.
const UNTOUCHED: u8 = 1;
/// The same, in a task whose thread must not wait for space in the journal.
const UNTOUCHED_IN_TASK: u8 = 2;

impl Delivery {
    #[inline]
    pub(crate) fn new(consumer: Arc<Consumer>, stored: Stored, info: DeliveryInfo) -> Delivery {
        if info.attempt == 1 {
            let since = stored.begins().max(info.due);
            let now = consumer.committer().clock.even(info.leased);
            consumer.info.waited.record_ms(now.0.saturating_sub(since.0));
        }
        let (is_settled, handling) = (AtomicBool::new(false), AtomicU8::new(BEGUN));
        let is_released = AtomicBool::new(false);
        Delivery { consumer, stored, info, is_settled, handling, is_released, lender: None }
    }

    /// The delivery as a part of a batch: its handling has not begun.
    pub(super) fn untouched(self) -> Delivery {
        self.leave_untouched(patience::is_asking());
        self
    }

    /// As [`untouched`](Delivery::untouched), for the deliveries of a task or of a thread.
    #[inline]
    pub(super) fn leave_untouched(&self, in_task: bool) {
        let handling = if in_task { UNTOUCHED_IN_TASK } else { UNTOUCHED };
        self.handling.store(handling, Ordering::Relaxed);
    }

    /// A second delivery with the same lease, for the handler of a worker. The worker settles this one. It also gets whether
    /// a `release` of the handler could not be written.
    pub(super) fn lend(&self) -> (Delivery, Arc<AtomicBool>) {
        let is_released = Arc::new(AtomicBool::new(false));
        let lent = Delivery {
            consumer: Arc::clone(&self.consumer),
            stored: self.stored.clone(),
            info: self.info,
            is_settled: AtomicBool::new(false),
            handling: AtomicU8::new(BEGUN),
            is_released: AtomicBool::new(false),
            lender: Some(Arc::clone(&is_released)),
        };
        (lent, is_released)
    }

    /// Notes whether a `release` could not be written.
    pub(super) fn note_released(&self, is_released: bool) {
        self.is_released.store(is_released, Ordering::Relaxed);
        if let Some(lender) = &self.lender {
            lender.store(is_released, Ordering::Relaxed);
        }
    }

    /// Whether a `release` could not be written.
    pub(super) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Relaxed)
    }

    /// The message. The handling begins when the application first looks into it.
    #[inline]
    fn look(&self) -> &Stored {
        if self.handling.load(Ordering::Relaxed) != BEGUN {
            self.begin();
        }
        &self.stored
    }

    /// Begins the handling of a message of a batch, and counts the attempt where attempts are counted first.
    #[cold]
    fn begin(&self) {
        let before = self.handling.swap(BEGUN, Ordering::Relaxed);
        if before != BEGUN && self.consumer.info.current.counts_first() {
            // An attempt that cannot be counted, as on a full disk, is handled all the same. A task does not wait for
            // space: the attempt is counted a little later.
            let count = || self.consumer.count_begun(self.stored.offset, self.info);
            match before {
                UNTOUCHED => drop(count()),
                _ => drop(patience::ask(Past::default(), count)),
            }
        }
    }

    pub(crate) fn consumer(&self) -> &Arc<Consumer> {
        &self.consumer
    }

    stored_message_getters!();

    /// The number of this attempt: 1 at the first delivery of the message, 2 at the second.
    ///
    /// See also [`max_attempts`](crate::QueueBuilder::max_attempts).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// # use std::time::Duration;
    /// payments.send("charge order 1")?;
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// assert_eq!(delivery.attempt(), 1);
    /// delivery.nack()?;
    /// assert_eq!(payments.receive(Duration::from_secs(1))?.expect("it comes back").attempt(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.info.attempt
    }

    /// The priority of the message, from 0 to 9: see [`Message::priority`].
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.info.priority
    }

    /// A number that grows with each delivery of a queue or a subscription. A later delivery has a higher
    /// number, also after a crash or a restart.
    ///
    /// Pass the token to the systems that a handler calls. Such a system keeps the highest token that it has
    /// seen, and refuses lower ones. Then a slow handler whose lease has run out does no harm (a fencing
    /// token; Kleppmann, 2016). Where several handlers work side by side, the system keeps the highest token
    /// of each key or message, because tokens of healthy handlers overtake each other.
    ///
    /// A token is below 2^63. Tokens grow over 2^23 epochs of a store, with 2^40 deliveries in each epoch.
    /// Tokens of two stores are not comparable; a salvaged store is another store.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// # use std::time::Duration;
    /// payments.send("charge order 1")?;
    /// let slow = payments.try_receive()?.expect("it was sent");
    /// slow.nack()?;
    /// let later = payments.receive(Duration::from_secs(1))?.expect("it comes back");
    /// assert!(later.fencing_token() > slow.fencing_token());
    /// # later.ack()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        (self.consumer.committer().epoch << 40) + self.info.key.number()
    }

    /// Extends the lease again and again while this delivery lives, for at most `most` from now: for slow
    /// handlers. The limit is 1 day. If the process dies, the lease ends.
    ///
    /// See also [`extend`](Delivery::extend) and
    /// [`WorkerBuilder::max_handling_time`](crate::WorkerBuilder::max_handling_time).
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
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease has run out or the delivery was settled before;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for less than 1 ms or more than a day.
    pub fn hold(&self, most: Duration) -> Result<()> {
        let committer = self.consumer.committer();
        let most = check_hold(most)? + committer.disk.tick();
        let now = committer.elapsed();
        let lease = self.consumer.info.current.all().lease;
        let mut core = committer.lock_open("hold a lease")?;
        let deliveries = &mut core.consumption(self.consumer.cursor())?.deliveries;
        if !deliveries.hold(self.info.key, now, (lease, now + most)) {
            return Err(self.explain(lease_lost()));
        }
        Ok(())
    }

    /// Makes the lease end after `lease` from now. The range is 1 ms to 1 day. A shorter lease than the
    /// present one is allowed.
    ///
    /// See also [`hold`](Delivery::hold).
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
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease has run out or the delivery was settled before;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for less than 1 ms or more than a day.
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

impl Delivery {
    /// Gives the delivery back without waiting for the disk, and without waiting for space in the journal if a thread
    /// of the engine can make it. Returns whether its lease had not ended.
    pub(super) fn give_back(&self, has_failed: bool) -> bool {
        self.is_settled.store(true, Ordering::Relaxed);
        let operation = "give back";
        let (committer, cursor) = (self.consumer.committer(), self.consumer.cursor());
        let DeliveryInfo { key, attempt, .. } = self.info;
        // Its lease may have ended.
        committer.work_alone();
        let give_back = || {
            if has_failed && self.becomes_letter() {
                return true;
            }
            let mut core = committer.lock(operation);
            let is_given = if has_failed && !core.is_closed {
                core.give_back(cursor, key, attempt)
            } else {
                // A closed engine has not let the consumer settle it.
                core.give_back_uncounted(cursor, key, attempt)
            };
            core = committer.count_failures(operation, core);
            // The engine's thread waits for space, and this one does not.
            if core.has_exhausted() && !committer.flusher.has_thread() {
                drop(core);
                committer.move_exhausted(usize::MAX);
            }
            is_given
        };
        patience::ask(Past::default(), give_back).0
    }

    /// Moves the message to the dead letters if this was its last attempt. Returns whether it was moved.
    fn becomes_letter(&self) -> bool {
        let Some(dead_letters) = self.exhausted() else { return false };
        let letter = self.letter(dead_letters, UNSETTLED);
        let settlement = self.settlement(Settling::DeadLetter { letter, has_failed: true });
        let committer = self.consumer.committer();
        let operation = "move to the dead letters";
        let moved = committer.without_debt(|| committer.settle(operation, &settlement)).is_ok();
        if moved {
            committer.sync_soon();
        }
        moved
    }

    /// Awaits a future that handles this delivery. If it is cancelled, that is dropped before it is ready, the
    /// delivery is given back, and that is no failed attempt. So it is if another future of the task panics.
    ///
    /// In a task that may be cancelled, as by a timeout or a `select`, a delivery that is simply dropped counts as a
    /// failed attempt: the engine cannot know why it was dropped. A panic of the future is a failed attempt here, too.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(3).create()?;
    /// payments.send("charge order 1")?;
    /// let handled = async {
    ///     let delivery = payments.receive_async().await?;
    ///     delivery.handling(std::future::pending::<()>()).await; // it calls the bank
    ///     delivery.ack_async().await
    /// };
    /// # let mut handled = Box::pin(handled);
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # assert!(handled.as_mut().poll(&mut context).is_pending());
    /// drop(handled); // the task is cancelled
    /// assert_eq!(payments.try_receive()?.expect("it is back").attempt(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handling<T>(&self, future: impl Future<Output = T>) -> impl Future<Output = T> {
        // It is here from now on, also if the future is dropped before it is polled.
        let handling = Handling { delivery: self, progress: Progress::Waits };
        async move {
            let mut handling = handling;
            let mut future = pin!(future);
            poll_fn(|context| {
                handling.progress = Progress::Runs;
                let polled = future.as_mut().poll(context);
                handling.progress =
                    if polled.is_ready() { Progress::IsOver } else { Progress::Waits };
                polled
            })
            .await
        }
    }
}

/// Gives a delivery back uncounted if the future that handles it is dropped before it is ready.
struct Handling<'a> {
    delivery: &'a Delivery,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// If it is dropped now, it is cancelled: also by the panic of another future.
    Waits,
    /// If it is dropped now, it has panicked itself.
    Runs,
    IsOver,
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        let is_settled = self.delivery.is_settled.load(Ordering::Relaxed);
        if self.progress == Progress::Waits && !is_settled {
            self.delivery.give_back(false);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.lender.is_some() || self.is_settled.load(Ordering::Relaxed) {
            return;
        }
        let has_failed = self.handling.load(Ordering::Relaxed) == BEGUN && !self.is_released();
        self.give_back(has_failed);
    }
}

/// Borrows the payload, the key, the headers and the subject, to send the message on. The new message bears the time of
/// its own commit. [`Message::timestamp`] gives it the time of the delivery instead.
impl<'a> From<&'a Delivery> for Message<'a> {
    fn from(delivery: &'a Delivery) -> Message<'a> {
        let stored = delivery.look();
        Message::borrowed(stored.payload(), stored.key(), stored.headers())
            .with_subject(stored.subject())
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("offset", &self.offset())
            .field("attempt", &self.attempt())
            .field("payload_len", &self.stored.payload().len())
            .finish_non_exhaustive()
    }
}
