//! Settles a delivery: acks, nacks and rejections.

use std::{sync::atomic::Ordering, time::Duration};

use super::{delivery::Delivery, lease::DeliveryInfo};
use crate::{
    config::check_delay,
    engine::{
        commit::{asking::committed, ticket::Ticket},
        core::{
            commit::Receipt,
            dead_letters::{DeadMessage, Letter, NACKED},
            errors::settled_before,
            settlement::{Settlement, Settling},
        },
        runtime::wait::Attempt,
    },
    error::{Error, ErrorKind, Result},
    format::entity::DeadLetters,
};

impl Delivery {
    /// This delivery, settled as part of a commit.
    pub(crate) fn settlement<'a>(&self, how: Settling<'a>) -> Settlement<'a> {
        self.consumer.settlement(self.info, how)
    }

    /// The message in its form as a dead letter.
    pub(super) fn letter<'a>(&'a self, to: DeadLetters, reason: &'a str) -> Box<Letter<'a>> {
        let DeliveryInfo { attempt: attempts, priority, .. } = self.info;
        let dead = DeadMessage { stored: &self.stored, attempts, priority, reason };
        Box::new(dead.letter(&self.consumer.info.origin(), to))
    }

    /// The queue of the dead letters, if this is the last attempt.
    pub(super) fn exhausted(&self) -> Option<DeadLetters> {
        let current = &self.consumer.info.current;
        let retry = current.counts_first().then(|| current.all().retry)?;
        retry.dead_letters_after(self.info.attempt)
    }

    /// A failure of this delivery. After the last attempt the message moves to the dead letters.
    pub(crate) fn failure<'a>(&'a self, delay: Option<Duration>, reason: &'a str) -> Settling<'a> {
        let exhausted = self.exhausted();
        Settling::Nack { delay, letter: exhausted.map(|to| self.letter(to, reason)) }
    }

    /// Acks the message: it was handled, and is never delivered again.
    ///
    /// The call returns when the ack is as durable as the [durability](crate::Queue::durability) of the handle
    /// asks for. See also [`ack_ticket`](Delivery::ack_ticket), [`Queue::ack_batch`](crate::Queue::ack_batch)
    /// and [`Transaction::ack`](crate::Transaction::ack).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// delivery.ack()?;
    /// assert_eq!(payments.depth()?, 0);
    /// assert_eq!(delivery.ack().unwrap_err().kind(), posthouse::ErrorKind::LeaseLost);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lease has run out or the delivery was settled before;
    /// [`Closed`](crate::ErrorKind::Closed) if the engine is closed; [`Io`](crate::ErrorKind::Io) or
    /// [`Poisoned`](crate::ErrorKind::Poisoned) if the commit fails. After an error the message may be delivered
    /// again.
    pub fn ack(&self) -> Result<()> {
        let receipt = self.settle_ack()?;
        self.consumer.committer().complete(((), receipt), self.consumer.durability)
    }

    /// Acks the message without waiting for the disk. The [`Ticket`] tells when the ack is durable.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let ticket = payments.try_receive()?.expect("it was sent").ack_ticket()?;
    /// assert_eq!(payments.depth()?, 0);
    /// ticket.wait()?; // or `ticket.await`
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack). An error of the sync comes from the ticket.
    pub fn ack_ticket(&self) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle_ack()?))
    }

    /// Acks the message as a future. It never blocks its thread: it awaits space in the journal, too.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let handled = async {
    ///     let delivery = payments.receive_async().await?;
    ///     delivery.ack_async().await
    /// };
    /// # let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// # let mut handled = std::pin::pin!(handled);
    /// # while handled.as_mut().poll(&mut context).is_pending() { std::thread::yield_now(); }
    /// # assert_eq!(payments.depth()?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    pub async fn ack_async(&self) -> Result<()> {
        self.committed(|| self.settle_ack()).await
    }

    /// Reports a failure as a future: see [`nack`](Delivery::nack) and [`ack_async`](Delivery::ack_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    pub async fn nack_async(&self) -> Result<()> {
        self.committed(|| self.settle(self.failure(None, NACKED))).await
    }

    /// Reports a failure with a reason as a future: see [`nack_because`](Delivery::nack_because) and
    /// [`ack_async`](Delivery::ack_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    pub async fn nack_because_async(&self, reason: &str) -> Result<()> {
        self.committed(|| self.settle(self.failure(None, reason))).await
    }

    /// Reports a failure: the message is delivered again, to any consumer.
    ///
    /// The message first waits as long as the [backoff](crate::QueueBuilder::backoff) of its queue says, by
    /// default 100 ms after the first failure. After the [last attempt](crate::QueueBuilder::max_attempts) it
    /// moves to the dead letters instead.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # use std::time::Duration;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack()?;
    /// let again = payments.receive(Duration::from_secs(1))?.expect("it comes back");
    /// assert_eq!(again.attempt(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    pub fn nack(&self) -> Result<()> {
        self.settle_durably(self.failure(None, NACKED))
    }

    /// Reports a failure with a reason. If the message moves to the dead letters, the reason is kept there:
    /// at most its first KiB.
    ///
    /// Otherwise it works as [`nack`](Delivery::nack). See also [`DeadLetter::reason`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(1).create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack_because("the bank is closed")?;
    ///
    /// let letter = engine.queue("payments.dead").open()?.try_receive()?.expect("it was moved");
    /// assert_eq!(letter.dead_letter()?.expect("it is one").reason, "the bank is closed");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    ///
    /// [`DeadLetter::reason`]: crate::DeadLetter::reason
    pub fn nack_because(&self, reason: &str) -> Result<()> {
        self.settle_durably(self.failure(None, reason))
    }

    /// Reports a failure with a reason, without waiting for the disk. The [`Ticket`] tells when the commit is
    /// durable.
    ///
    /// See also [`nack_because`](Delivery::nack_because).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// let ticket = delivery.nack_because_ticket("the bank is closed")?;
    /// ticket.wait()?;
    /// assert_eq!(payments.stats()?.failed, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack). An error of the sync comes from the ticket.
    pub fn nack_because_ticket(&self, reason: &str) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle(self.failure(None, reason))?))
    }

    /// Reports a failure: the message is delivered again after `delay`, whatever the backoff of its queue says.
    ///
    /// The delay is at most a year. It goes on over a restart. Otherwise the call works as
    /// [`nack`](Delivery::nack).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// use std::time::Duration;
    ///
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").nack_after(Duration::from_secs(60))?;
    /// assert!(payments.try_receive()?.is_none());
    /// assert_eq!(payments.delayed()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the delay
    /// is longer than a year.
    pub fn nack_after(&self, delay: Duration) -> Result<()> {
        let delay = check_delay("delay", delay)?;
        self.settle_durably(self.failure(Some(delay), NACKED))
    }

    /// Reports a failure without waiting for the disk. The [`Ticket`] tells when the commit is durable.
    ///
    /// See also [`nack`](Delivery::nack).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// # use std::time::Duration;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send("charge order 1")?;
    /// let ticket = payments.try_receive()?.expect("it was sent").nack_ticket()?;
    /// ticket.wait()?;
    /// assert_eq!(payments.receive(Duration::from_secs(1))?.expect("it comes back").attempt(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack). An error of the sync comes from the ticket.
    pub fn nack_ticket(&self) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle(self.failure(None, NACKED))?))
    }

    /// Gives the message back: it is delivered again at once, and this delivery is no attempt.
    ///
    /// For work that was not done for a reason that is not the message's, such as a program that is told to stop.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(3).create()?;
    /// payments.send("charge order 1")?;
    /// payments.try_receive()?.expect("it was sent").release()?;
    /// assert_eq!(payments.try_receive()?.expect("it is back").attempt(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    pub fn release(&self) -> Result<()> {
        self.settle_durably(Settling::Release)
    }

    /// Moves the message to the dead letters at once: another attempt would fail as well.
    ///
    /// One commit takes the message out of its queue and puts it there. The reason is kept: at most its first
    /// KiB. See also [`dead_letter_queue`](crate::QueueBuilder::dead_letter_queue).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").max_attempts(5).create()?;
    /// payments.send("not an order")?;
    /// payments.try_receive()?.expect("it was sent").reject("it cannot be parsed")?;
    /// assert_eq!((payments.depth()?, engine.queue("payments.dead").open()?.depth()?), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the queue
    /// has no dead letters: see [`QueueBuilder::max_attempts`](crate::QueueBuilder::max_attempts).
    pub fn reject(&self, reason: &str) -> Result<()> {
        self.settle_durably(self.rejection(reason)?)
    }

    fn rejection<'a>(&'a self, reason: &'a str) -> Result<Settling<'a>> {
        let Some(dead_letters) = self.consumer.info.current.all().retry.dead_letters else {
            let what = "this queue has no dead letters; give it max_attempts or \
                        dead_letter_queue with create_or_update, or ack the message to drop it";
            return Err(Error::invalid("dead_letter_queue", what));
        };
        let letter = self.letter(dead_letters, reason);
        Ok(Settling::DeadLetter { letter, has_failed: true })
    }

    fn settle_durably(&self, how: Settling<'_>) -> Result<()> {
        let receipt = self.settle(how)?;
        self.consumer.committer().complete(((), receipt), self.consumer.durability)
    }

    /// Reports a failure as [`nack_after`](Delivery::nack_after), without waiting for the disk.
    ///
    /// # Errors
    ///
    /// The same errors as [`nack_after`](Delivery::nack_after). An error of the sync comes from the ticket.
    pub fn nack_after_ticket(&self, delay: Duration) -> Result<Ticket<()>> {
        let delay = check_delay("delay", delay)?;
        Ok(self.ticket(self.settle(self.failure(Some(delay), NACKED))?))
    }

    /// Moves the message to the dead letters as [`reject`](Delivery::reject), without waiting for the disk.
    ///
    /// # Errors
    ///
    /// The same errors as [`reject`](Delivery::reject). An error of the sync comes from the ticket.
    pub fn reject_ticket(&self, reason: &str) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle(self.rejection(reason)?)?))
    }

    /// Gives the message back as [`release`](Delivery::release), without waiting for the disk.
    ///
    /// # Errors
    ///
    /// The same errors as [`release`](Delivery::release). An error of the sync comes from the ticket.
    pub fn release_ticket(&self) -> Result<Ticket<()>> {
        Ok(self.ticket(self.settle(Settling::Release)?))
    }

    /// Reports a failure as a future: see [`nack_after`](Delivery::nack_after) and
    /// [`ack_async`](Delivery::ack_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`nack_after`](Delivery::nack_after).
    pub async fn nack_after_async(&self, delay: Duration) -> Result<()> {
        let delay = check_delay("delay", delay)?;
        self.committed(|| self.settle(self.failure(Some(delay), NACKED))).await
    }

    /// Moves the message to the dead letters as a future: see [`reject`](Delivery::reject) and
    /// [`ack_async`](Delivery::ack_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`reject`](Delivery::reject).
    pub async fn reject_async(&self, reason: &str) -> Result<()> {
        self.committed(|| self.settle(self.rejection(reason)?)).await
    }

    /// Gives the message back as a future: see [`release`](Delivery::release) and
    /// [`ack_async`](Delivery::ack_async).
    ///
    /// # Errors
    ///
    /// The same errors as [`ack`](Delivery::ack).
    pub async fn release_async(&self) -> Result<()> {
        self.committed(|| self.settle(Settling::Release)).await
    }

    async fn committed(&self, mut settle: impl FnMut() -> Result<Receipt> + Unpin) -> Result<()> {
        let (engine, durability) = (self.consumer.engine.clone(), self.consumer.durability);
        committed(engine, durability, || Ok(Attempt::Got(((), settle()?)))).await
    }

    fn ticket(&self, receipt: Receipt) -> Ticket<()> {
        Ticket::new(&self.consumer.engine, ((), receipt))
    }

    fn settle(&self, how: Settling<'_>) -> Result<Receipt> {
        let is_release = matches!(how, Settling::Release);
        let settlement = self.settlement(how);
        let settled = self.consumer.committer().settle("settle", &settlement);
        if is_release && let Err(error) = &settled {
            // A lease that ran out counts as an attempt.
            self.note_released(error.kind() != ErrorKind::LeaseLost);
        }
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
    pub(super) fn explain(&self, error: Error) -> Error {
        let is_settled = self.is_settled.load(Ordering::Relaxed);
        if is_settled && error.kind() == ErrorKind::LeaseLost { settled_before() } else { error }
    }
}
