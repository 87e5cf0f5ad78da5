//! Spilled messages: delayed messages of a queue that exceed the limit in memory.
//!
//! The blocks of spilled messages are themselves messages, of an entity that belongs to the queue. Each block is
//! delayed until its first message is due. To spill is one commit, and to bring a block back is one commit, so a
//! message is always in exactly one place. To the store a block is a message like any other. So crashes, damage,
//! salvage and free space need no special code. [`DelayIndex`](crate::delivery::delay_index::DelayIndex) says
//! which blocks there are.

use std::time::Duration;

use super::{
    Core,
    commit::{CommitResult, Receipt},
    consumption::Consumption,
    failures::MessageId,
};
use crate::{
    audit,
    delivery::delay_index::{DelayIndex, SpillSizes, SpilledBlock},
    engine::runtime::wait::Waiting,
    error::{Error, ErrorKind, Result},
    format::delay_index::{decode, encode},
    ids::{CursorId, Due, EntityId, Now, Offset, Skew, Timestamp},
    journal::Urgency,
    message::Message,
    store::{AckSet, Op, Source, Space, Store, Stored},
};

/// The stored name of the entity that holds a queue's blocks. It is on disk, so it keeps its old word.
pub const NAME: &str = "timetable";

/// A block on its way back into memory, and where to read it.
#[derive(Debug)]
pub struct ReturningBlock {
    pub entity: EntityId,
    pub block: SpilledBlock,
    pub source: Result<Source>,
}

/// The messages that a block names.
pub fn entries_of(stored: &Stored) -> Result<Vec<(Due, Offset)>> {
    decode(stored.payload()).map_err(|what| Error::new(ErrorKind::Corrupt, what.0))
}

impl Consumption {
    /// Whether too many delayed messages are in memory.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.delay_index.is_crowded_by(self.deliveries.waiting())
    }

    /// The even time at which the next block is to come back.
    #[inline]
    pub fn next_block_due(&self, in_memory: u64, skew: Skew) -> Option<Timestamp> {
        self.delay_index.next_due(&self.deliveries, in_memory, skew)
    }

    /// Stops spilling until there are `more` more delayed messages.
    pub fn postpone_spilling(&mut self, more: u64) {
        let waiting = self.deliveries.waiting();
        self.delay_index.spill_above(waiting + more);
    }
}

impl Consumption {
    /// Finds the blocks of a queue when its first consumer is opened.
    pub(super) fn find_delay_index(&mut self, store: &Store, delayed_in_memory: u64) {
        let cursor = self.info.cursor;
        let entity = find_delay_entity(store, cursor);
        self.delay_index.entity = entity;
        self.delay_index.spill_above(delayed_in_memory);
        let Some(id) = entity else { return };
        let (Some((_, end)), Some(blocks)) = (store.bounds(id.log(0)), store.acks(id.cursor(0)))
        else {
            return;
        };
        let there = blocks.unacked_in(blocks.floor().to(end)).into_iter().flatten();
        self.delay_index.add(there.map(|offset| {
            audit::step();
            SpilledBlock { due: blocks.due(offset), offset }
        }));
        if let Some(acks) = store.acks(cursor) {
            self.deliveries.add_spilled(acks);
        }
    }
}

fn find_delay_entity(store: &Store, cursor: CursorId) -> Option<EntityId> {
    let space = Space::DelayIndexes { queue: cursor.entity() };
    store.find(space, NAME).map(|entity| entity.id)
}

impl Core {
    /// Finds the blocks of a queue that may spill from now on.
    pub(super) fn find_delay_index(&mut self, cursor: CursorId) {
        let Core { consumers, store, delayed_in_memory, .. } = self;
        if let Some(consumption) = consumers.get_mut(&cursor) {
            consumption.find_delay_index(store, *delayed_in_memory);
        }
    }

    /// The entity that holds the blocks of a queue.
    pub fn delay_entity(&mut self, cursor: CursorId) -> Result<Option<EntityId>> {
        Ok(self.consumption(cursor)?.delay_index.entity)
    }

    pub fn set_delay_entity(&mut self, cursor: CursorId, entity: EntityId) -> Result<()> {
        self.consumption(cursor)?.delay_index.entity = Some(entity);
        Ok(())
    }

    /// How many messages of a queue wait on disk until they are due, and how many of its spilled messages are known to be in
    /// damaged blocks.
    pub fn spilled_and_lost(&self, cursor: CursorId) -> (u64, u64) {
        let spilled = self.spilled(cursor);
        let lost = self.consumers.get(&cursor).map_or(0, |it| it.delay_index.lost(spilled));
        (spilled - lost, lost)
    }

    /// How many messages of a queue are spilled.
    #[inline]
    pub fn spilled(&self, cursor: CursorId) -> u64 {
        self.store.acks(cursor).map_or(0, AckSet::spilled)
    }

    /// Spills the messages that are due last. `None` if there are not too many in memory.
    pub fn spill(&mut self, cursor: CursorId, now: Now) -> CommitResult<Option<Receipt>> {
        let sizes = SpillSizes::of(self.delayed_in_memory);
        let skew = self.skew();
        let consumption = self.consumption(cursor)?;
        let Some(entity) = consumption.delay_index.entity.filter(|_| consumption.is_crowded())
        else {
            return Ok(None);
        };
        let mut entries = consumption.deliveries.latest(sizes.batch, skew);
        audit::steps(entries.len() as u64);
        entries.retain(|(due, _)| due.even_time(skew) > now.start);
        // Counting a failure stores that the message waits in memory.
        let is_counted = |offset| self.failures.is_counted(MessageId { cursor, offset });
        entries.retain(|(_, offset)| is_counted(*offset));
        let consumption = self.consumption(cursor)?;
        // An attempt is taken back once its message comes due in memory.
        entries.retain(|(_, offset)| consumption.deliveries.attempts_left(*offset).is_none());
        if entries.len() < sizes.block {
            // Most of these messages are due already. They leave memory soon without a spill.
            consumption.postpone_spilling(sizes.batch);
            return Ok(None);
        }
        // A block holds due times of one kind: when the clock is set, the two kinds move against each other.
        entries.sort_unstable();
        let blocks: Vec<&[(Due, Offset)]> = entries
            .chunk_by(|a, b| a.0.is_even() == b.0.is_even())
            .flat_map(|same| same.chunks(sizes.block))
            .collect();
        let messages: Vec<Message<'static>> = blocks
            .iter()
            .map(|some| Message::new(encode(some)).deliver_when(some[0].0).moved())
            .collect();
        let mut offsets: Vec<Offset> = entries.iter().map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        let was_empty = self.spilled(cursor) == 0;
        let append = Op::Append { log: entity.log(0), messages: &messages, delay_ms: 0 };
        let receipt = self.commit(&[append, Op::Spill { cursor, offsets: &offsets }], now)?;
        let first = self.store.placed().next().map_or(0, |(_, range)| range.start.0);
        let in_memory = self.delayed_in_memory;
        let consumption = self.consumption(cursor)?;
        consumption.deliveries.remove_spilled(&entries);
        consumption.delay_index.spill_above(in_memory);
        if was_empty {
            consumption.delay_index.forget_damage();
        }
        let dues = blocks.iter().map(|some| some[0].0);
        let blocks = dues.zip((first..).map(Offset));
        consumption.delay_index.add(blocks.map(|(due, offset)| SpilledBlock { due, offset }));
        Ok(Some(receipt))
    }

    /// Whether spilled messages are due and can come back now.
    #[inline]
    pub fn wants_block(&self, cursor: CursorId, elapsed: Duration) -> bool {
        let Some(consumption) = self.consumers.get(&cursor) else { return false };
        elapsed >= consumption.delay_index.rest()
            && consumption
                .next_block_due(self.delayed_in_memory, self.skew())
                .is_some_and(|due| due <= self.even(elapsed))
    }

    /// Takes the next block whose messages are due.
    pub fn take_block(
        &mut self,
        cursor: CursorId,
        elapsed: Duration,
    ) -> Result<Option<ReturningBlock>> {
        if !self.wants_block(cursor, elapsed) {
            return Ok(None);
        }
        let skew = self.skew();
        let (store, consumption) = self.store_and(cursor)?;
        let index = &mut consumption.delay_index;
        let entity = index.entity.ok_or_else(|| store.deleted(cursor.entity()))?;
        let Some(block) = index.take(skew) else { return Ok(None) };
        let source = store.locate(entity.log(0), block.offset);
        Ok(Some(ReturningBlock { entity, block, source }))
    }

    /// Begins to wait for a block whose messages are due and that another thread is bringing back. `None` if there
    /// is none.
    pub fn wait_for_block(&mut self, cursor: CursorId, elapsed: Duration) -> Option<Waiting> {
        let (now, skew) = (self.even(elapsed), self.skew());
        let consumption = self.consumers.get_mut(&cursor)?;
        consumption.delay_index.taken().filter(|block| block.due.even_time(skew) <= now)?;
        Some(consumption.returning.get_or_insert_default().begin())
    }

    /// Ends `take_block`. Wakes the consumers that wait for the block.
    pub fn end_return(&mut self, cursor: CursorId, end: impl FnOnce(&mut DelayIndex)) {
        let Core { consumers, effects, .. } = self;
        let Some(consumption) = consumers.get_mut(&cursor) else { return };
        end(&mut consumption.delay_index);
        if let Some(returning) = &consumption.returning {
            effects.wake_all(returning);
        }
    }

    /// Brings the messages of a block back into memory.
    pub fn bring_back(
        &mut self,
        cursor: CursorId,
        entity: EntityId,
        block: SpilledBlock,
        entries: &[(Due, Offset)],
        now: Now,
    ) -> CommitResult<Receipt> {
        let acks = self.store.acks_of(cursor)?;
        let is_lost = seeded!(BlockComesBackEmpty);
        let valid = entries.iter().filter(|(_, offset)| acks.is_spilled(*offset) && !is_lost);
        let valid: Vec<(Due, Offset)> = valid.copied().collect();
        audit::steps(entries.len() as u64);
        let urgency = Urgency::Freeing;
        let defer = |&(due, offset): &(Due, Offset)| {
            let attempts = acks.attempts(offset);
            Op::Defer { cursor, offset, attempts, due, urgency }
        };
        let offsets = [block.offset];
        let done = Op::Ack { cursor: entity.cursor(0), offsets: &offsets };
        let ops: Vec<Op<'_>> = valid.iter().map(defer).chain([done]).collect();
        let receipt = self.commit(&ops, now)?;
        let consumption = self.consumption(cursor)?;
        consumption.delay_index.remove(block);
        for (due, offset) in valid {
            consumption.deliveries.defer(offset, due);
        }
        self.end_return(cursor, DelayIndex::release);
        Ok(receipt)
    }

    /// Ends `take_block`: the block is damaged. `false` if it was taken by no one, as after a purge.
    pub fn set_block_damaged(&mut self, cursor: CursorId, error: &Error) -> bool {
        let (number, mut is_damaged) = (self.damaged_blocks + 1, false);
        self.end_return(cursor, |index| is_damaged = index.set_damaged(number, error));
        self.damaged_blocks += u64::from(is_damaged);
        is_damaged
    }

    /// The first damage of a block behind that of the number `told`, and its number. The messages of the block were due, and
    /// cannot be delivered.
    pub fn spill_damage(&self, cursor: CursorId, told: u64) -> Option<(u64, Error)> {
        let consumption = self.consumers.get(&cursor)?;
        let (number, error) = consumption.delay_index.damage_after(told)?;
        let acks = self.store.acks(cursor)?;
        // The messages of the damaged blocks may have been deleted meanwhile.
        let first = acks.all_spilled().next()?;
        let is_only_one = acks.spilled() == 1 && consumption.delay_index.has_one_damaged_block();
        Some((number, error.of_block(&consumption.info.name, is_only_one.then_some(first))))
    }

    /// Why overdue messages cannot come back from disk at the moment.
    pub fn spill_failure(&self, cursor: CursorId, elapsed: Duration) -> Option<Error> {
        let consumption = self.consumers.get(&cursor)?;
        let failure = consumption.delay_index.failure()?;
        let due = consumption.next_block_due(self.delayed_in_memory, self.skew())?;
        (due <= self.even(elapsed) && self.spilled(cursor) > 0).then(|| failure.again())
    }

    /// Removes the blocks of a queue, damaged ones included, once none of its messages is spilled.
    pub fn clear_spilled(&mut self, cursor: CursorId, now: Now) -> CommitResult<Receipt> {
        let is_needed = self.spilled(cursor) > 0;
        let entity = match self.consumers.get(&cursor) {
            Some(consumption) => consumption.delay_index.entity,
            None => find_delay_entity(&self.store, cursor),
        };
        let Some(entity) = entity.filter(|_| !is_needed) else {
            return Ok(Receipt::of_what_is_there(&self.store));
        };
        let (_, end) = self.bounds(entity.log(0))?;
        let blocks = self.store.acks_of(entity.cursor(0))?;
        let ranges = blocks.unacked_in(blocks.floor().to(end));
        if ranges.is_empty() {
            return Ok(Receipt::of_what_is_there(&self.store));
        }
        let clear = Op::AckRanges { cursor: entity.cursor(0), ranges: &ranges };
        let receipt = self.commit(&[clear], now)?;
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.delay_index.clear();
        }
        Ok(receipt)
    }
}
