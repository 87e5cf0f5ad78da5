//! Commits under the core. `engine/commit/transact.rs` calls them, and retries a commit that needs space.

use std::slice;

use super::Core;
use crate::{
    audit,
    ids::{CursorId, LogId, Lsn, Now, Offset},
    message::Message,
    store::{self, Batch, Op, Refused, Store},
};

/// The position that must become durable before a result is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a caller that is told of durability waits for the receipt"]
pub struct Receipt {
    end: Option<Lsn>,
}

impl Receipt {
    /// Nothing was committed, and the result depends on no commit.
    pub const NOTHING: Receipt = Receipt { end: None };

    /// Nothing was committed, but the result depends on commits that are in the store already.
    pub fn of_what_is_there(store: &Store) -> Receipt {
        Receipt { end: Some(store.journal.tail()) }
    }

    fn of(receipt: store::Receipt) -> Receipt {
        Receipt { end: Some(receipt.end) }
    }

    /// The position up to which the journal must be durable.
    #[inline]
    pub fn end(self) -> Option<Lsn> {
        self.end
    }
}

/// The result of one attempt to commit.
pub type CommitResult<T> = Result<T, Refused>;

impl Core {
    /// Commits operations as one frame, and notes the messages that arrive with it.
    #[inline]
    pub fn commit(&mut self, ops: &[Op<'_>], now: Now) -> CommitResult<Receipt> {
        if seeded!(TransactionIsTwoFrames) && ops.len() > 1 {
            let _ = self.commit(&ops[..1], now)?;
            return self.commit(&ops[1..], now);
        }
        if self.ends_doubt(ops) {
            return self.commit_in_doubt(ops, now);
        }
        self.keep_clock(now);
        let receipt = Receipt::of(self.store.commit(ops, now)?);
        self.note_arrivals();
        self.note_matches();
        self.arm_lives();
        self.touch_changed(ops);
        if self.weighs {
            self.note_weights(ops);
        }
        if !self.store.prioritized().is_empty() {
            self.note_prioritized();
        }
        if !self.store.deferred().is_empty() {
            self.note_deferred();
        }
        Ok(receipt)
    }

    /// Appends one message, without a delay of its log. As [`commit`](Core::commit), for the most frequent commit: rare
    /// cases take that way.
    #[inline]
    pub fn append_one(
        &mut self,
        log: LogId,
        message: &Message<'_>,
        now: Now,
    ) -> CommitResult<Receipt> {
        if !message.is_plain() || self.weighs || self.doubts_clock() {
            return self.append_special(log, message, now);
        }
        self.keep_clock(now);
        let receipt = Receipt::of(self.store.append_one(log, message, now)?);
        self.note_arrival(log);
        self.note_matches();
        if self.watches_thresholds() {
            self.consumers.touch_log(log);
        }
        self.arm_lives();
        Ok(receipt)
    }

    #[inline(never)]
    fn append_special(
        &mut self,
        log: LogId,
        message: &Message<'_>,
        now: Now,
    ) -> CommitResult<Receipt> {
        self.commit(&[Op::Append { log, messages: slice::from_ref(message), delay_ms: 0 }], now)
    }

    /// Acks one message. As [`commit`](Core::commit), for the most frequent commit but one.
    #[inline]
    pub(super) fn ack_one(
        &mut self,
        cursor: CursorId,
        offset: Offset,
        now: Now,
    ) -> CommitResult<Receipt> {
        self.keep_clock(now);
        let receipt = Receipt::of(self.store.ack_one(cursor, offset)?);
        if self.watches_thresholds() {
            _ = self.consumers.get_mut(&cursor);
        }
        if self.weighs {
            self.note_weights(&[Op::Ack { cursor, offsets: &[offset] }]);
        }
        Ok(receipt)
    }

    /// Commits a batch, and operations that append nothing, as one frame. The caller then has the batch's messages
    /// [noted](Core::note_batch), in slices.
    pub fn commit_batch(&mut self, ops: &[Op<'_>], batch: &mut Batch) -> CommitResult<Receipt> {
        self.keep_clock(batch.now());
        let receipt = Receipt::of(self.store.commit_batch(ops, batch)?);
        self.hide_batch(batch);
        self.note_partitions(batch);
        self.note_matches();
        if self.watches_thresholds() {
            self.consumers.touch_changed(ops);
            batch.arrivals().iter().for_each(|(log, _)| self.consumers.touch_log(*log));
        }
        self.arm_lives();
        if self.weighs {
            self.note_weights(ops);
        }
        Ok(receipt)
    }

    /// Whether a batch can be committed as it was encoded: the clock was not set meanwhile, and is not in doubt. And no queue
    /// of it is weighed: the weights of a batch are not noted.
    pub fn suits(&self, batch: &Batch) -> bool {
        let now = batch.now();
        let is_even = !batch.may_expire() || now.even == self.skew().even_of(now.stamp);
        is_even && now.set.is_none() && !self.doubts_clock() && !self.weighs_any(batch)
    }

    /// Whether a queue of a batch is weighed, perhaps for a limit that it is about to get.
    fn weighs_any(&self, batch: &Batch) -> bool {
        if !self.weighs {
            return false;
        }
        let logs = batch.arrivals();
        audit::steps(logs.len() as u64);
        let is_weighed = |log: LogId| {
            self.consumers.get(&log.queue_cursor()).is_some_and(|it| it.weights.is_some())
        };
        logs.iter().any(|(log, _)| is_weighed(*log))
    }

    /// The offset of the first message of the last commit.
    #[inline]
    pub fn first_placed(&self) -> Offset {
        let (_, offsets) = self.store.placed().next().expect("messages were committed");
        offsets.start
    }

    /// Commits operations that add no message.
    pub(super) fn commit_silently(&mut self, ops: &[Op<'_>], now: Now) -> CommitResult<Receipt> {
        self.keep_clock(now);
        let receipt = Receipt::of(self.store.commit(ops, now)?);
        self.touch_changed(ops);
        Ok(receipt)
    }

    /// Has the thresholds looked at that the operations of a commit may have crossed. Notes what cursors that are prepared are
    /// to look at again.
    #[inline]
    fn touch_changed(&mut self, ops: &[Op<'_>]) {
        if self.watches_thresholds() {
            self.consumers.touch_changed(ops);
        }
        if !self.dormancy.notes.is_empty() {
            self.note_changed(ops);
        }
    }
}
