//! The delay index of a queue: which blocks of spilled messages there are, and when they come due.
//!
//! Memory holds the delayed messages that are due soonest. When a queue has too many delayed messages in
//! memory, the engine *spills* the ones that are due last: it writes them to disk in blocks, sorted by their
//! due times. A block comes back when its first message is due. Memory keeps one bit for each spilled message
//! and some 50 bytes for each block. `engine/core/spill.rs` writes the blocks and brings them back.

use std::{collections::BTreeSet, time::Duration};

use super::Deliveries;
use crate::{
    error::Error,
    format::delay_index::BLOCK_ENTRIES_MAX,
    ids::{Due, EntityId, Offset, Skew, Timestamp},
};

/// How many messages are spilled at once, and how many go into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpillSizes {
    pub batch: u64,
    pub block: usize,
}

impl SpillSizes {
    /// The sizes for a queue with `in_memory` delayed messages in memory. A batch is small, so that other
    /// threads do not wait for long. A block is large, so that few blocks are read at a time.
    pub fn of(in_memory: u64) -> SpillSizes {
        let batch = (in_memory / 8).max(64.min(in_memory / 2)).max(1);
        let block = (batch / 32).max(64.min(batch / 2)).max(1);
        SpillSizes { batch, block: block.min(BLOCK_ENTRIES_MAX as u64) as usize }
    }
}

/// A block of spilled messages: when its first message is due, and its offset in the log of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpilledBlock {
    pub due: Due,
    pub offset: Offset,
}

/// The damage of a block.
#[derive(Debug)]
struct BlockDamage {
    /// It rises in each engine from one damage to the next. So a consumer knows which ones it was told of.
    number: u64,
    error: Error,
}

/// The blocks of one queue.
#[derive(Debug)]
pub struct DelayIndex {
    /// The entity whose log holds the blocks, once there is one.
    pub entity: Option<EntityId>,
    blocks: BTreeSet<SpilledBlock>,
    /// With more delayed messages than this in memory, some are spilled.
    spill_above: u64,
    /// The damage of the blocks whose messages are due and cannot be read.
    damages: Vec<BlockDamage>,
    /// Why the last block whose messages are due could not come back, if that may pass and consumers are to be told.
    failure: Option<Error>,
    /// The block that a thread is bringing back.
    taken: Option<SpilledBlock>,
    /// No block comes back before this time.
    rest: Duration,
}

impl DelayIndex {
    /// The index of a queue that spills nothing.
    pub fn unused() -> DelayIndex {
        DelayIndex {
            entity: None,
            blocks: BTreeSet::new(),
            spill_above: u64::MAX,
            damages: Vec::new(),
            failure: None,
            taken: None,
            rest: Duration::ZERO,
        }
    }

    /// Whether the queue spills, or has spilled.
    pub fn is_used(&self) -> bool {
        self.entity.is_some() || self.spill_above != u64::MAX
    }

    /// Whether there is no block, and none is being brought back.
    pub fn is_at_rest(&self) -> bool {
        self.blocks.is_empty() && self.taken.is_none() && self.damages.is_empty()
    }

    /// Sets how many delayed messages may be in memory.
    pub fn spill_above(&mut self, messages: u64) {
        self.spill_above = messages;
    }

    /// Whether `messages` delayed messages are too many for memory.
    #[inline]
    pub fn is_crowded_by(&self, messages: u64) -> bool {
        messages > self.spill_above
    }

    #[inline]
    pub fn has_blocks(&self) -> bool {
        !self.blocks.is_empty()
    }

    pub fn blocks(&self) -> impl Iterator<Item = SpilledBlock> {
        self.blocks.iter().copied()
    }

    pub fn add(&mut self, blocks: impl IntoIterator<Item = SpilledBlock>) {
        self.blocks.extend(blocks);
    }

    pub fn remove(&mut self, block: SpilledBlock) {
        self.blocks.remove(&block);
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.forget_damage();
    }

    /// The block that is due first. In their order those that wait for a time of day come first.
    fn first(&self, skew: Skew) -> Option<SpilledBlock> {
        let first_even = SpilledBlock { due: Due::FIRST_EVEN, offset: Offset(0) };
        let day = self.blocks.first().filter(|block| !block.due.is_even());
        let even = self.blocks.range(first_even..).next();
        day.into_iter().chain(even).min_by_key(|block| block.due.even_time(skew)).copied()
    }

    /// The even time at which the next block is to come back. `None` if memory is full because consumers are behind. A block
    /// that is due before all waiting messages comes back although many messages wait.
    #[inline]
    pub fn next_due(
        &self,
        deliveries: &Deliveries,
        in_memory: u64,
        skew: Skew,
    ) -> Option<Timestamp> {
        let due = self.first(skew)?.due.even_time(skew);
        let is_next = || deliveries.next_due(skew).is_none_or(|waiting| due < waiting);
        let has_room = deliveries.due() + deliveries.waiting() < 2 * in_memory
            || deliveries.due() < in_memory && is_next();
        (has_room && self.taken.is_none()).then_some(due)
    }

    /// No block comes back before this time.
    #[inline]
    pub fn rest(&self) -> Duration {
        self.rest
    }

    /// Takes the next block. The caller ends this with `release`, `rest_until` or `set_damaged`.
    pub fn take(&mut self, skew: Skew) -> Option<SpilledBlock> {
        self.taken = self.first(skew);
        self.taken
    }

    /// The block that a thread is bringing back.
    pub fn taken(&self) -> Option<SpilledBlock> {
        self.taken
    }

    /// Ends `take`: the block has come back.
    pub fn release(&mut self) {
        (self.taken, self.failure) = (None, None);
    }

    /// Ends `take`: the block could not come back. The next attempt is not before `time`. Consumers that find no message
    /// until then get `failure`, if there is one.
    pub fn rest_until(&mut self, time: Duration, failure: Option<Error>) {
        (self.rest, self.taken, self.failure) = (time, None, failure);
    }

    /// Ends `take`: the block is damaged, and is not tried again. Returns `false` if no block was taken.
    pub fn set_damaged(&mut self, number: u64, error: &Error) -> bool {
        let Some(taken) = self.taken.take() else { return false };
        self.blocks.remove(&taken);
        self.damages.push(BlockDamage { number, error: error.again() });
        self.failure = None;
        true
    }

    /// The last damage.
    pub fn damage(&self) -> Option<&Error> {
        self.damages.last().map(|damage| &damage.error)
    }

    /// The first damage behind that of a number, and its number.
    pub fn damage_after(&self, number: u64) -> Option<(u64, &Error)> {
        let damage = self.damages.iter().find(|damage| damage.number > number)?;
        Some((damage.number, &damage.error))
    }

    /// Whether there is one block, and it is damaged.
    pub fn has_one_damaged_block(&self) -> bool {
        self.damages.len() == 1 && !self.has_blocks()
    }

    /// Why the last block could not come back.
    pub fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// How many of the `spilled` messages are known to be in damaged blocks: one of each while there are other blocks, for
    /// it is not known which messages a damaged block names, and then all.
    #[inline]
    pub fn lost(&self, spilled: u64) -> u64 {
        match (self.damages.len() as u64, self.has_blocks()) {
            (0, _) => 0,
            (damaged, true) => damaged.min(spilled),
            (_, false) => spilled,
        }
    }

    /// Forgets the damage: the messages of the damaged blocks were deleted.
    pub fn forget_damage(&mut self) {
        self.damages.clear();
        self.failure = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_can_be_read_however_many_messages_are_kept_in_memory() {
        for bits in 0..=40 {
            let SpillSizes { batch, block } = SpillSizes::of(1 << bits);
            assert!((1..=BLOCK_ENTRIES_MAX).contains(&block) && block as u64 <= batch, "{bits}");
        }
    }
}
