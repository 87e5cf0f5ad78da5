//! Dead letters: a message that fails for ever leaves its queue, in the same commit in which it
//! arrives among the dead letters. So it is never in both, nor in none.

use std::time::Duration;

use super::{
    consumer::Consumer,
    core::Core,
    fate::Exhumed,
    shared::{Committing, Shared},
};
use crate::{
    delivery::LeaseKey,
    error::{ErrorKind, Result},
    format::{entity::DeadLetters, note::DeadLetter},
    ids::{CursorId, Lsn, Now},
    message::Message,
    store::{Op, Stored},
};

/// The longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// So long one waits that could not be moved.
const AGAIN: Duration = Duration::from_secs(1);

/// What is said of messages whose life is over.
pub const EXPIRED: &str = "its time to live is over";

/// What is said of messages whose last delivery was not settled.
pub const UNSETTLED: &str = "its last delivery was never settled: the handler gave it up, took \
                             longer than its lease, or took the process down";

/// A message on lease that is to be moved to the dead letters.
#[derive(Clone, Copy, Debug)]
pub struct Death<'a> {
    pub cursor: CursorId,
    pub key: LeaseKey,
    pub stored: &'a Stored,
    pub attempts: u32,
    pub reason: &'a str,
    /// Whether that is a failure that was not counted before.
    pub has_failed: bool,
}

impl Death<'_> {
    /// The message as it arrives among the dead letters: as it was, with a note.
    pub fn letter(&self, (origin, is_of_subscription): (&str, bool), now: Now) -> Message<'_> {
        let Death { stored, attempts, reason, .. } = *self;
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = &reason[..end];
        let note = DeadLetter {
            reason: reason.to_owned(),
            origin: origin.to_owned(),
            offset: stored.offset,
            attempts,
            died: now.stamp,
            is_of_subscription,
        };
        Message::borrowed(stored.payload(), stored.key(), stored.headers())
            .timestamp(stored.timestamp())
            .noting(note.encode(now.life_begin(now.stamp)))
    }
}

impl Core {
    /// Moves a message to the dead letters.
    pub fn bury(
        &mut self,
        death: &Death<'_>,
        grave: DeadLetters,
        now: Now,
    ) -> Result<Committing<()>> {
        let (cursor, offsets) = (death.cursor, [death.stored.offset]);
        let consumption = self.consumption(cursor)?;
        let (origin, is_of_subscription) =
            (consumption.origin.clone(), self.store.is_subscription(cursor));
        let priority = self.store.acks(cursor).map_or(0, |acks| acks.priority(offsets[0]));
        let letter = death.letter((&origin, is_of_subscription), now);
        let messages = [letter.priority(priority)];
        let log = grave.queue.log(0);
        let ops = [
            Op::Ack { cursor, offsets: &offsets },
            Op::Append { log, messages: &messages, delay_ms: 0 },
        ];
        let outcome = self.commit(&ops, now)?;
        let committing = Committing::of(outcome, || ());
        if matches!(committing, Committing::Done(..)) {
            self.settle_dead(cursor, death.key, death.has_failed);
        }
        Ok(committing)
    }
}

impl Shared {
    /// Moves a message to the dead letters, if it is still on lease.
    pub fn bury(&self, death: &Death<'_>, grave: DeadLetters) -> Result<Lsn> {
        let buried = self.transact(|core| {
            let offset = core.held(death.cursor, death.key, self.elapsed())?;
            if core.is_gone(death.cursor, offset) {
                // It was deleted meanwhile.
                core.settle_lease(death.cursor, death.key);
                return Ok(Committing::Done((), Lsn(0)));
            }
            core.bury(death, grave, self.now())
        });
        buried.map(|((), end)| end)
    }

    /// The same; one that cannot be moved, as on a full disk, stays in its queue, and is tried again
    /// later. Others are delivered meanwhile. Says whether it was moved.
    pub fn bury_or_wait(&self, death: &Death<'_>, grave: DeadLetters) -> Result<bool> {
        let Err(error) = self.bury(death, grave) else {
            self.flusher.soon(self);
            return Ok(true);
        };
        let mut core = self.lock();
        let due = core.steady(self.elapsed().saturating_add(AGAIN));
        core.release(death.cursor, death.key, due);
        let wakes = core.take_wakes();
        drop(core);
        self.wake(wakes);
        match error.kind() {
            ErrorKind::DiskFull
            | ErrorKind::TooLarge
            | ErrorKind::LeaseLost
            | ErrorKind::NotFound => Ok(false),
            _ => Err(error),
        }
    }

    /// Moves messages to the dead letters whose last lease has run out, in the order in which that
    /// happened. If one cannot be moved, those behind it are for whoever comes to them.
    pub fn bury_lapsed(&self) {
        loop {
            let mut core = self.lock();
            if core.closed || self.syncs.check().is_err() {
                return;
            }
            let Some((cursor, offset)) = core.next_lapsed() else { return };
            let Some(Exhumed { key, source, attempts, grave }) =
                core.exhume(cursor, offset, self.elapsed())
            else {
                continue;
            };
            drop(core);
            let Ok((stored, _)) = source.load(offset) else {
                // It is reported to whoever comes to it.
                let mut core = self.lock();
                core.put_back(cursor, key);
                let wakes = core.take_wakes();
                drop(core);
                self.wake(wakes);
                return;
            };
            let death = Death {
                cursor,
                key,
                stored: &stored,
                attempts,
                reason: UNSETTLED,
                has_failed: false,
            };
            if !self.bury_or_wait(&death, grave).is_ok_and(|moved| moved) {
                return;
            }
        }
    }
}

impl Consumer {
    /// Whether a message on lease is none to be delivered, as it was tried too often, or its life is
    /// over: then it is moved to the dead letters, or dropped.
    #[inline]
    pub fn discards(
        &self,
        stored: &Stored,
        key: LeaseKey,
        attempts: u32,
        grave: Option<DeadLetters>,
    ) -> Result<bool> {
        let expires = stored.expires(self.life_ms);
        if grave.is_none() && expires.is_none() {
            return Ok(false);
        }
        let (cursor, shared) = (self.cursor, self.shared());
        if let Some(grave) = grave {
            let death =
                Death { cursor, key, stored, attempts, reason: UNSETTLED, has_failed: false };
            shared.bury_or_wait(&death, grave)?;
            self.note_undelivered(attempts > 0);
            return Ok(true);
        }
        let now = shared.now().steady;
        let is_over = expires.is_some_and(|expires| expires <= now || seeded!(ExpiresTooEarly));
        if !is_over || seeded!(ExpiredIsDelivered) {
            return Ok(false);
        }
        if let Some(grave) = self.retry.dead_letters {
            let attempts = attempts.saturating_sub(1);
            let death = Death { cursor, key, stored, attempts, reason: EXPIRED, has_failed: false };
            shared.bury_or_wait(&death, grave)?;
            self.note_undelivered(attempts > 0);
            return Ok(true);
        }
        let dropped = shared.transact(|core| {
            let offset = core.held(cursor, key, shared.elapsed())?;
            if seeded!(ExpiredIsDroppedWithoutACommit) {
                core.settle_lease(cursor, key);
                return Ok(Committing::Done((), Lsn(0)));
            }
            let outcome =
                core.commit(&[Op::Ack { cursor, offsets: &[offset] }], shared.now_plain())?;
            let committing = Committing::of(outcome, || ());
            if matches!(committing, Committing::Done(..)) {
                core.settle_lease(cursor, key);
            }
            Ok(committing)
        });
        dropped?;
        shared.flusher.soon(shared);
        self.note_undelivered(attempts > 1);
        Ok(true)
    }

    /// A message that was leased was not delivered after all.
    fn note_undelivered(&self, was_tried: bool) {
        if let Ok(consumption) = self.shared().lock().consumption(self.cursor) {
            consumption.counts.delivered -= 1;
            consumption.counts.redelivered -= u64::from(was_tried);
        }
    }
}
