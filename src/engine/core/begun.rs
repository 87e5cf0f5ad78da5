//! Attempts whose handling has begun in a task, and that could not be counted then: the journal was short of space, and a
//! task does not wait. They are counted when there is space.

use super::{
    Core,
    commit::{CommitResult, Receipt},
    failures::Begun,
};
use crate::{
    audit,
    ids::{Due, Now},
    journal::Urgency,
    store::Op,
};

/// The most attempts that are counted in one commit. While space is lacking, each receive tries one such commit.
const BEGUN_AT_ONCE: usize = 64;

impl Core {
    /// Keeps an attempt, to be counted later.
    pub fn count_later(&mut self, begun: Begun) {
        self.failures.begun.push(begun);
    }

    /// Whether there are attempts to be counted.
    #[inline]
    pub fn has_begun(&self) -> bool {
        !self.failures.begun.is_empty()
    }

    /// Counts attempts in one commit: those whose leases have not ended.
    pub fn commit_begun(&mut self, now: Now) -> CommitResult<Receipt> {
        let Core { failures, store, consumers, .. } = self;
        let rest = failures.begun.len().saturating_sub(BEGUN_AT_ONCE);
        let defer = |&Begun { cursor, offset, key, attempt }: &Begun| {
            audit::step();
            let is_leased = consumers.get(&cursor).is_some_and(|it| it.deliveries.is_leased(key));
            let acks = store.acks(cursor).filter(|_| is_leased)?;
            let is_uncounted = !acks.is_acked(offset) && acks.attempts(offset) < attempt;
            is_uncounted.then_some(Op::Defer {
                cursor,
                offset,
                attempts: attempt,
                due: Due::NOW,
                // On a full disk the reserve is for commits that free space. This one does not.
                urgency: Urgency::Ordinary,
            })
        };
        let ops: Vec<Op<'_>> = failures.begun[rest..].iter().filter_map(defer).collect();
        let receipt =
            if ops.is_empty() { Receipt::NOTHING } else { self.commit_silently(&ops, now)? };
        self.failures.begun.truncate(rest);
        Ok(receipt)
    }

    /// Forgets attempts that cannot be counted, as on a full disk.
    pub fn forget_begun(&mut self) {
        self.failures.begun.clear();
    }
}
