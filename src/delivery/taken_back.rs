//! Attempts that are to be taken back, and could not be, as the journal could not be written. Each message waits a little, and
//! its attempt is taken back once it comes due. If the message leaves before, there is nothing to take back.

use super::{Acked, Deliveries};
use crate::{
    audit,
    ids::{Due, Offset},
};

impl Deliveries {
    /// Has a message that is to be delivered, and is not on lease, wait until it is due. Then its attempts are to be set to
    /// `attempts`. `false` if it waits already, or is gone.
    pub fn wait_to_take_back(
        &mut self,
        (offset, attempts): (Offset, u32),
        due: Due,
        acked: &impl Acked,
    ) -> bool {
        let waits = self.wait_until(offset, due, acked);
        if waits {
            self.taken_back.insert(offset, attempts);
        }
        waits
    }

    /// The attempts that a message is to have which waits to have one taken back.
    pub fn attempts_left(&self, offset: Offset) -> Option<u32> {
        self.taken_back.get(&offset).copied()
    }

    /// Takes the first messages that wait to have an attempt taken back: `most` of them, each with the attempts that it is to
    /// have.
    pub fn drain_taken_back(&mut self, most: usize) -> Vec<(Offset, u32)> {
        let taken = std::iter::from_fn(|| self.taken_back.pop_first());
        taken.take(most).inspect(|_| audit::step()).collect()
    }

    pub fn has_taken_back(&self) -> bool {
        !self.taken_back.is_empty()
    }

    /// Forgets what is kept of a message that waited. Returns the attempts that it is to have, if one is to be taken back.
    #[inline]
    pub(super) fn forget_wait(&mut self, offset: Offset) -> Option<u32> {
        self.unstored.remove(&offset);
        if self.taken_back.is_empty() { None } else { self.taken_back.remove(&offset) }
    }
}
