//! The damaged messages of one cursor. `damage.rs` sets them aside.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    audit,
    error::Error,
    ids::{Offset, OffsetRange},
};

/// The damaged messages of one cursor.
#[derive(Debug, Default)]
pub struct Damaged {
    /// The messages that were set aside, and are still there.
    pub(super) offsets: BTreeSet<Offset>,
    /// Damage that no consumer was told of yet. Damage of a message that has left since is not told.
    pub(super) untold: VecDeque<Error>,
    /// The messages before it that are not acked are all damaged, as far as the oldest message was looked for.
    passed: Offset,
}

impl Damaged {
    /// How many messages were set aside, and are still there.
    pub fn len(&self) -> u64 {
        self.offsets.len() as u64
    }

    /// Whether no message was set aside, and no consumer is to be told of one.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty() && self.untold.is_empty()
    }

    /// Whether a message was set aside, and is still there.
    pub fn contains(&self, offset: Offset) -> bool {
        self.offsets.contains(&offset)
    }

    /// The messages that were set aside, from an offset on.
    pub fn from(&self, from: Offset) -> impl Iterator<Item = Offset> {
        self.offsets.range(from..).copied()
    }

    /// The offset from which on the oldest message is looked for: behind damaged ones that were passed over.
    pub(super) fn search_from(&self, floor: Offset) -> Offset {
        self.passed.max(floor)
    }

    /// Passes over damaged messages in front of all others: they do not count as the oldest.
    pub(super) fn pass_up_to(&mut self, end: Offset) {
        self.passed = self.passed.max(end);
    }

    /// Forgets a message that was deleted. Returns whether it was set aside.
    pub fn forget(&mut self, offset: Offset) -> bool {
        let was_there = self.offsets.remove(&offset);
        self.forget_untold();
        was_there
    }

    /// Forgets messages that were deleted.
    pub fn forget_all(&mut self, deleted: &[OffsetRange]) {
        if self.offsets.is_empty() {
            return;
        }
        for range in deleted {
            audit::step();
            while let Some(&offset) = self.offsets.range(range.start..range.end).next() {
                audit::step();
                self.offsets.remove(&offset);
            }
        }
        self.forget_untold();
    }

    /// The next damage to tell.
    pub(super) fn take_untold(&mut self) -> Option<Error> {
        loop {
            audit::step();
            let error = self.untold.pop_front()?;
            if error.offset().is_none_or(|offset| self.offsets.contains(&offset)) {
                return Some(error);
            }
        }
    }

    /// Forgets all damage of messages, once the last damaged message has left.
    fn forget_untold(&mut self) {
        if self.offsets.is_empty() && !self.untold.is_empty() {
            audit::steps(self.untold.len() as u64);
            self.untold.retain(|error| error.offset().is_none());
        }
    }
}
