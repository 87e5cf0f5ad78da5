//! Deliveries that end without a settlement: a lease runs out, or a delivery is dropped. Delayed messages come
//! due here, too. Failures are collected, and many are counted in one commit.

use std::time::Duration;

use super::{
    Core,
    commit::{CommitResult, Receipt},
    consumption::Consumption,
    failures::{Counted, Exhausted, Failures, MessageId},
};
use crate::{
    audit,
    delivery::{
        Deliveries, Ended, Expired, LeaseKey,
        disposition::{Disposition, FailedDelivery},
    },
    error::Result,
    ids::{CursorId, Due, Now, Offset, Timestamp},
    journal::Urgency,
    store::Op,
};

/// The most leases that end, or messages that come due, in one hold of the core. Each takes up to eight steps.
pub const EXPIRED_AT_ONCE: usize = 128;

/// How many messages are passed over in place of a lease that ends: that takes as many steps.
const PASSED_OF_EACH: usize = 8;

/// The most failures that are counted in one commit.
const FAILURES_AT_ONCE: usize = EXPIRED_AT_ONCE;

/// How long a message is on lease while it moves to the dead letters.
const MOVING: Duration = Duration::from_secs(60);

/// An attempt that could not be taken back, as the journal could not be written, is taken back so much later.
const TAKE_BACK_AGAIN_MS: u64 = 1000;

impl Core {
    /// The disposition of a failed delivery.
    pub fn disposition(&mut self, cursor: CursorId, failed: FailedDelivery) -> Result<Disposition> {
        let chance = self.failures.chance.draw();
        let now = self.clock.now().start;
        let acks = self.store.acks_of(cursor)?;
        if acks.is_acked(failed.offset) {
            return Ok(Disposition::Gone);
        }
        let mut tried = acks.attempts(failed.offset);
        let counts_first = self.consumption(cursor)?.rules.retry.counts_first();
        if !counts_first && self.was_counted_first(cursor) && tried == failed.attempt {
            // It was counted when it began, under settings that have changed since.
            tried = tried.saturating_sub(1);
        }
        Ok(failed.disposition(&self.consumption(cursor)?.rules.retry, tried, now, chance))
    }

    /// Whether messages of a cursor may be on lease whose attempts were counted when they began: by its settings, or by those
    /// that it had before.
    pub(super) fn was_counted_first(&self, cursor: CursorId) -> bool {
        self.consumers.get(&cursor).is_some_and(Consumption::has_counted_first)
    }

    /// Ends the lease of a dropped delivery. A later commit counts the failure. `false` if the lease has ended already.
    pub fn give_back(&mut self, cursor: CursorId, key: LeaseKey, attempt: u32) -> bool {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
        let Some(offset) = consumption.deliveries.settle(key) else { return false };
        self.fail(cursor, FailedDelivery { offset, attempt, delay: None, ran_out: false });
        self.note_freed_slots(cursor);
        true
    }

    /// Ends the leases of a cursor that run out, releases messages that come due, and goes on with keys whose next messages
    /// are looked for: one slice. Returns whether there may be more.
    #[inline]
    pub fn expire(&mut self, cursor: CursorId, elapsed: Duration, most: usize) -> bool {
        let is_more = self.expire_some(cursor, elapsed, most);
        match self.consumers.get(&cursor).is_some_and(Consumption::advances_keys) {
            true if !is_more => self.advance_keys(cursor, PASSED_OF_EACH * most),
            _ => is_more,
        }
    }

    /// Ends the leases of a cursor that run out, and releases messages that come due: `most` of them in all. Returns
    /// whether there may be more.
    #[inline]
    pub(super) fn expire_some(&mut self, cursor: CursorId, elapsed: Duration, most: usize) -> bool {
        if self.send_back_early(cursor, elapsed, most) {
            return true;
        }
        for rest in (1..=most).rev() {
            let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
            let Some(ended) = consumption.deliveries.expire_one(elapsed) else {
                let waits = consumption.deliveries.waiting() > 0;
                return waits && self.release_due(cursor, elapsed, rest);
            };
            self.end_expired_lease(cursor, ended);
        }
        true
    }

    #[inline]
    fn end_expired_lease(&mut self, cursor: CursorId, ended: Ended) {
        audit::step();
        let Ended::RanOut(Expired { offset, is_untouched, attempt }) = ended else { return };
        if is_untouched {
            // A batch was received, and this message of it was never looked at. That is no attempt.
            self.return_untouched(cursor, offset);
        } else {
            self.fail(cursor, FailedDelivery { offset, attempt, delay: None, ran_out: true });
        }
        self.note_freed_slots(cursor);
    }

    /// The cursors that count attempts first, and have messages on lease.
    pub fn cursors_with_begun(&self) -> Vec<CursorId> {
        audit::steps(self.consumers.len() as u64);
        let has_begun =
            |it: &Consumption| it.has_counted_first() && it.deliveries.first_lease().is_some();
        let begun = self.consumers.iter().filter(|(_, it)| has_begun(it));
        begun.map(|(cursor, _)| *cursor).collect()
    }

    /// Ends the leases of a cursor in a closed engine: `most` of them. Those that hold end as if they had not been granted.
    /// Returns whether there may be more.
    pub fn end_leases_at_close(
        &mut self,
        cursor: CursorId,
        elapsed: Duration,
        most: usize,
    ) -> bool {
        for _ in 0..most {
            let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
            if let Some(ended) = consumption.deliveries.expire_one(elapsed) {
                self.end_expired_lease(cursor, ended);
                continue;
            }
            let Some((key, attempt)) = consumption.deliveries.first_lease() else { return false };
            audit::step();
            if consumption.deliveries.is_settled(key) {
                consumption.deliveries.settle(key);
                continue;
            }
            if !self.give_back_uncounted(cursor, key, attempt) {
                // The queue was deleted.
                return false;
            }
        }
        true
    }

    /// Whether nothing is to be done for a cursor before its messages are looked at: no lease has run out, no message waits
    /// until it is due, no failure is to be counted, and the clock is in no doubt.
    #[inline]
    pub fn is_quiet(&self, cursor: CursorId, elapsed: Duration) -> bool {
        let Some(consumption) = self.consumers.get(&cursor) else { return false };
        let no_lease_ran_out =
            consumption.deliveries.next_deadline().is_none_or(|deadline| elapsed < deadline);
        let is_quiet = no_lease_ran_out
            && !consumption.has_delayed()
            && !consumption.advances_keys()
            && !self.has_failures()
            && !self.has_begun()
            && !self.doubts_clock()
            && !self.store.is_passing()
            && !consumption.deliveries.may_wait_again()
            && consumption.setbacks == self.setbacks.count;
        audit::steps(u64::from(is_quiet));
        is_quiet
    }

    /// Delivers a message again whose lease has ended before its handling began.
    fn return_untouched(&mut self, cursor: CursorId, offset: Offset) {
        self.put_unhandled(cursor, offset, Deliveries::put_unseen);
        self.move_if_exhausted(cursor, Some(offset));
        self.note_returned(cursor, offset);
    }

    /// Gives a delivery back as if it had not been received: its handling did not begin, or was cancelled. If its
    /// attempt was counted, a later commit takes that back. `false` if the lease has ended already, or is about to.
    pub fn give_back_uncounted(&mut self, cursor: CursorId, key: LeaseKey, attempt: u32) -> bool {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
        let Some(acks) = self.store.acks(cursor) else { return false };
        if consumption.deliveries.is_settled(key) {
            return false;
        }
        let Some(offset) = consumption.deliveries.settle(key) else { return false };
        let was_counted =
            consumption.has_counted_first() && attempt > 0 && acks.attempts(offset) == attempt;
        if was_counted && !acks.is_acked(offset) {
            let counted = Counted { attempts: attempt - 1, due: Due::NOW };
            self.failures.count_later(MessageId { cursor, offset }, counted);
        }
        self.put_unhandled(cursor, offset, Deliveries::take_back);
        self.note_freed_slots(cursor);
        self.note_returned(cursor, offset);
        true
    }

    /// Releases messages that come due, `at_once` of them at most. Returns whether there may be more.
    fn release_due(&mut self, cursor: CursorId, elapsed: Duration, at_once: usize) -> bool {
        let (now, most) = (self.even(elapsed), self.delayed_in_memory);
        let skew = self.skew();
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(acks) = self.store.acks(cursor)
        {
            // Messages that are still spilled may be due before those in memory.
            let most = if consumption.delay_index.has_blocks() { most } else { u64::MAX };
            let (retry, mut exhausted) = (&consumption.rules.retry, Vec::new());
            let Failures { uncounted, .. } = &mut self.failures;
            let came_due = |offset, attempts_left| {
                if let Some(attempts) = attempts_left {
                    // It is counted before a consumer leases the message.
                    let message = MessageId { cursor, offset };
                    uncounted.insert(message, Counted { attempts, due: Due::NOW });
                } else if retry.dead_letters_after(acks.attempts(offset)).is_some() {
                    exhausted.push(offset);
                }
            };
            let limits = (most, at_once);
            let count = consumption.deliveries.release_due(now, skew, limits, acks, came_due);
            audit::steps(count as u64);
            let log = consumption.info.log;
            self.wake_consumers(cursor, log, count);
            // They waited as they could not be moved, or the settings have changed.
            for offset in exhausted {
                self.move_soon(MessageId { cursor, offset });
            }
            return count == at_once;
        }
        false
    }

    /// Handles a delivery that ended without a settlement.
    fn fail(&mut self, cursor: CursorId, failed: FailedDelivery) {
        let FailedDelivery { offset, attempt, .. } = failed;
        let disposition = self.disposition(cursor, failed);
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let Some(acks) = self.store.acks(cursor) else { return };
        let log = consumption.info.log;
        consumption.counts.failed += 1;
        match disposition {
            Ok(Disposition::Retry { attempts, due }) => {
                consumption.deliveries.put(offset, due, acks);
                let counted = Counted { attempts, due };
                self.failures.count_later(MessageId { cursor, offset }, counted);
                self.wake_or_arm(cursor, log, due);
            }
            Ok(Disposition::DeadLetter(_)) => {
                consumption.deliveries.put(offset, Due::NOW, acks);
                if acks.attempts(offset) < attempt {
                    // The attempt could not be counted before its handling. The mover asks for the count.
                    let counted = Counted { attempts: attempt, due: Due::NOW };
                    self.failures.count_later(MessageId { cursor, offset }, counted);
                }
                self.wake_one(cursor, log);
                self.move_soon(MessageId { cursor, offset });
            }
            Ok(Disposition::Gone) | Err(_) => self.advance_key(cursor, offset),
        }
        self.note_returned(cursor, offset);
    }

    /// Has a message that was put back moved to the dead letters if its last attempt has failed.
    pub(super) fn move_if_exhausted(&mut self, cursor: CursorId, offset: Option<Offset>) {
        if let Some(offset) = offset
            && let Some(consumption) = self.consumers.get(&cursor)
            && let Some(acks) = self.store.acks(cursor)
            && consumption.rules.retry.dead_letters_after(acks.attempts(offset)).is_some()
        {
            self.move_soon(MessageId { cursor, offset });
        }
    }

    /// Has a message moved to the dead letters by the engine. A consumer that leases it before moves it itself.
    fn move_soon(&mut self, message: MessageId) {
        self.failures.exhausted.push(message);
        self.effects.move_at(Duration::ZERO);
    }

    /// Has the messages moved that belong to the dead letters, from a time on.
    pub fn call_mover(&mut self, at: Duration) {
        if self.has_exhausted() {
            self.effects.move_at(at);
        }
    }

    pub fn has_exhausted(&self) -> bool {
        !self.failures.exhausted.is_empty()
    }

    /// The next message that belongs to the dead letters because its last lease ran out.
    pub fn next_exhausted(&mut self) -> Option<MessageId> {
        self.failures.exhausted.pop()
    }

    /// Leases a message that is to move to the dead letters. `None` if another thread moves it already.
    pub fn lease_exhausted(&mut self, message: MessageId, elapsed: Duration) -> Option<Exhausted> {
        let MessageId { cursor, offset } = message;
        let attempts = self.store.acks(cursor)?.attempts(offset);
        let consumption = self.consumers.get_mut(&cursor)?;
        let dead_letters = consumption.rules.retry.dead_letters_after(attempts)?;
        let deadline = elapsed.saturating_add(MOVING);
        let acks = self.store.acks(cursor)?;
        let key = consumption.deliveries.lease_returned(offset, deadline, acks)?;
        let source = self.store.locate(consumption.info.log, offset);
        // One fewer is due. Others may have waited for that.
        self.arm(cursor);
        Some(Exhausted { key, source, attempts, dead_letters })
    }

    #[inline]
    pub fn has_failures(&self) -> bool {
        !self.failures.uncounted.is_empty()
    }

    /// Counts failures in one commit: those of the first messages, so many as fit into one hold.
    pub fn commit_failures(&mut self, now: Now) -> CommitResult<Receipt> {
        while seeded!(LeaseEndIsNotCounted) && self.has_failures() {
            self.forget_failures();
        }
        let mut count = 0;
        let mut ops = Vec::new();
        for (message, counted) in self.failures.uncounted.iter().take(FAILURES_AT_ONCE) {
            audit::step();
            count += 1;
            let (MessageId { cursor, offset }, Counted { attempts, due }) = (*message, *counted);
            if self.store.acks(cursor).is_some_and(|acks| !acks.is_acked(offset)) {
                let urgency = Urgency::Freeing;
                ops.push(Op::Defer { cursor, offset, attempts, due, urgency });
            }
        }
        let receipt =
            if ops.is_empty() { Receipt::NOTHING } else { self.commit_silently(&ops, now)? };
        (0..count).for_each(|_| _ = self.failures.uncounted.pop_first());
        Ok(receipt)
    }

    /// In how many slices all failures are forgotten that are not counted now.
    pub fn slices_of_failures(&self) -> usize {
        self.failures.uncounted.len().div_ceil(FAILURES_AT_ONCE)
    }

    /// Forgets failures that cannot be counted: a slice. Their messages are delivered again all the same. An attempt that is to
    /// be taken back is not forgotten: its message waits a little, and then that is tried again.
    pub fn forget_failures(&mut self) {
        let due = Due::even(Timestamp(self.clock.now().start.0 + TAKE_BACK_AGAIN_MS));
        for _ in 0..FAILURES_AT_ONCE {
            let Some((message, counted)) = self.failures.uncounted.pop_first() else { return };
            audit::step();
            let MessageId { cursor, offset } = message;
            if !self.is_on_lease(cursor, offset)
                && let Some(consumption) = self.consumers.get_mut(&cursor)
                && !consumption.damaged.contains(offset)
                && let Some(acks) = self.store.acks(cursor)
                && counted.attempts < acks.attempts(offset)
                && consumption.deliveries.wait_to_take_back((offset, counted.attempts), due, acks)
            {
                self.arm(cursor);
            }
        }
    }

    /// The cursors with attempts that could not be taken back.
    pub fn cursors_with_taken_back(&self) -> Vec<CursorId> {
        audit::steps(self.consumers.len() as u64);
        let has_some = self.consumers.iter().filter(|(_, it)| it.deliveries.has_taken_back());
        has_some.map(|(cursor, _)| *cursor).collect()
    }

    /// Has attempts of a cursor taken back that could not be taken back: a slice. Returns whether there may be more.
    pub fn take_back_some(&mut self, cursor: CursorId) -> bool {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return false };
        let taken = consumption.deliveries.drain_taken_back(FAILURES_AT_ONCE);
        for (offset, attempts) in &taken {
            let counted = Counted { attempts: *attempts, due: Due::NOW };
            self.failures.uncounted.insert(MessageId { cursor, offset: *offset }, counted);
        }
        taken.len() == FAILURES_AT_ONCE
    }
}
