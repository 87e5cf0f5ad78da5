//! Commits under the core.

use super::Core;
use crate::{
    error::{Error, Result},
    ids::{Lsn, Now, Offset},
    journal::Urgency,
    store::{self, Op, Outcome, Store},
};

/// What must become durable for a result to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a caller that is told of durability waits for the receipt"]
pub struct Receipt {
    end: Option<Lsn>,
}

impl Receipt {
    /// Nothing was committed, and the result rests on nothing that was.
    pub const NOTHING: Receipt = Receipt { end: None };

    /// Nothing was committed, and the result rests on what is in the store already.
    pub fn of_what_is_there(store: &Store) -> Receipt {
        Receipt { end: Some(store.journal.tail()) }
    }

    /// The position up to which the journal must be durable.
    #[inline]
    pub fn end(self) -> Option<Lsn> {
        self.end
    }
}

/// Why there is no commit.
#[derive(Debug)]
pub enum NotCommitted {
    /// It failed, and fails again if it is tried again. Nothing was changed.
    Failed(Error),
    /// The journal has no room for it now. Nothing was changed. Make room, and try again.
    NeedsRoom(NeededRoom),
}

/// The room that a commit needs in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededRoom {
    /// A journal file that holds a frame of so many bytes.
    File { bytes: u64, urgency: Urgency },
    /// The journal is as long as it may be: a checkpoint.
    Checkpoint,
}

impl From<Error> for NotCommitted {
    fn from(error: Error) -> NotCommitted {
        NotCommitted::Failed(error)
    }
}

/// The result of one attempt to commit.
pub type CommitResult<T> = std::result::Result<T, NotCommitted>;

fn receipt(outcome: Result<Outcome>) -> CommitResult<Receipt> {
    match outcome? {
        Outcome::Done(store::Commit { end }) => Ok(Receipt { end: Some(end) }),
        Outcome::NeedsFile(bytes, urgency) => {
            Err(NotCommitted::NeedsRoom(NeededRoom::File { bytes, urgency }))
        }
        Outcome::NeedsCheckpoint => Err(NotCommitted::NeedsRoom(NeededRoom::Checkpoint)),
    }
}

impl Core {
    /// Commits operations as one, and notes what arrived by them.
    #[inline]
    pub fn commit(&mut self, ops: &[Op<'_>], now: Now) -> CommitResult<Receipt> {
        if seeded!(TransactionIsTwoFrames) && ops.len() > 1 {
            let _ = self.commit(&ops[..1], now)?;
            return self.commit(&ops[1..], now);
        }
        let receipt = receipt(self.store.commit(ops, now))?;
        self.note_arrivals();
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

    /// The offset of the first message of the last commit.
    #[inline]
    pub fn first_placed(&self) -> Offset {
        let (_, offsets) = self.store.placed().next().expect("messages were committed");
        offsets.start
    }

    /// Commits operations by which nothing arrives.
    pub(super) fn commit_silently(&mut self, ops: &[Op<'_>], now: Now) -> CommitResult<Receipt> {
        receipt(self.store.commit(ops, now))
    }
}
