//! Delayed messages of which there are too many to be kept in memory.
//!
//! Memory holds those that are due the soonest. When there are too many of a queue, those that are
//! due the latest go into the queue's *timetable*, in blocks that are sorted by when they are due: an
//! entity of its own, of whose log each message is one block, and is itself delayed until the first
//! message in it is due. Then its messages come back into memory, and the block is done with. Both
//! moves are one commit each, so a message is always in one of the two; and what keeps messages
//! durable, finds damage and gives back space does so for blocks. What is left in memory is a bit
//! for each message and some 50 bytes for each block.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use super::{
    consumer::Consumer,
    consumption::Consumption,
    core::{Core, deleted},
    shared::{Committing, Shared},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        entity::{Creation, Delivering, EntityKind},
        timetable::{BLOCK_ENTRIES_MAX, decode, encode},
    },
    ids::{CursorId, EntityId, Now, Offset, Timestamp},
    journal::Urgency,
    message::Message,
    store::{AckSet, Op, Source, Space, Stored},
};

/// How many messages go at once, where so many are in memory, and how many of them are in a block: few
/// enough for others not to wait for long, and so many that few blocks are needed at a time.
fn sizes(most: u64) -> (u64, usize) {
    let batch = (most / 8).max(64.min(most / 2)).max(1);
    let block = (batch / 32).max(64.min(batch / 2)).max(1);
    (batch, block.min(BLOCK_ENTRIES_MAX as u64) as usize)
}

/// So long passes before a move that has failed is tried again, as on a full disk.
const REST: Duration = Duration::from_millis(500);

/// What is known of a queue's timetable.
#[derive(Debug)]
pub struct Timetable {
    /// Its number, once there is one.
    entity: Option<EntityId>,
    /// Its blocks: when the first message in each is due.
    blocks: BTreeSet<(Timestamp, Offset)>,
    /// From so many messages in memory on, some go.
    full: u64,
    /// Why a block of which messages are due cannot be read.
    damage: Option<Error>,
    /// Whether a block is being moved, and before when none is to be.
    is_busy: bool,
    rest: Duration,
}

impl Timetable {
    /// One that is never used.
    pub fn none() -> Timetable {
        Timetable {
            entity: None,
            blocks: BTreeSet::new(),
            full: u64::MAX,
            damage: None,
            is_busy: false,
            rest: Duration::ZERO,
        }
    }
}

/// Whether a queue may have a timetable: where the oldest are dropped there are only so many messages,
/// and where they are ordered by key none is delayed.
pub fn may_have_one(delivering: &Delivering, is_queue: bool) -> bool {
    is_queue && !delivering.is_ordered && delivering.limit.is_none_or(|it| !it.drops_oldest)
}

impl Consumption {
    /// Whether there are too many delayed messages in memory.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.deliveries.waiting() > self.timetable.full
    }

    /// Whether there are messages in the timetable.
    #[inline]
    pub fn has_blocks(&self) -> bool {
        !self.timetable.blocks.is_empty()
    }

    /// When the next block is to come back, if there is room for it: consumers may be behind. For one
    /// that is due before all that wait in memory there is room: however many those are, it is next.
    #[inline]
    pub fn next_block_due(&self, most: u64) -> Option<Timestamp> {
        let (due, _) = self.timetable.blocks.first()?;
        let deliveries = &self.deliveries;
        let is_next = || deliveries.next_due().is_none_or(|waiting| *due < waiting);
        let has_room = deliveries.due() + deliveries.waiting() < 2 * most
            || deliveries.due() < most && is_next();
        (has_room && !self.timetable.is_busy).then_some(*due)
    }

    /// No block comes back before.
    #[inline]
    pub fn blocks_rest(&self) -> Duration {
        self.timetable.rest
    }
}

impl Core {
    /// Finds a queue's timetable, when its first consumer comes.
    pub fn find_timetable(&mut self, cursor: CursorId) {
        let space = Space::Timetables { queue: cursor.entity() };
        let entity = self.store.find(space, NAME).map(|entity| entity.id);
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let timetable = &mut consumption.timetable;
        (timetable.entity, timetable.full) = (entity, self.delayed_most);
        let Some(id) = entity else { return };
        let (Some((_, end)), Some(blocks)) =
            (self.store.bounds(id.log(0)), self.store.acks(id.cursor(0)))
        else {
            return;
        };
        let there = blocks.unacked_in(blocks.floor().to(end)).into_iter().flatten();
        timetable.blocks = there.map(|block| (blocks.due(block), block)).collect();
        if let Some(acks) = self.store.acks(cursor) {
            consumption.deliveries.know(acks.all_spilled());
        }
    }

    /// How many of a queue's messages are in its timetable.
    #[inline]
    pub fn shelved(&self, cursor: CursorId) -> u64 {
        self.store.acks(cursor).map_or(0, AckSet::spilled)
    }

    /// Puts those into the timetable that are due the latest. `false` if there are not too many.
    fn shelve(&mut self, cursor: CursorId, now: Now) -> Result<Committing<bool>> {
        let nothing = Committing::Done(false, self.store.journal.tail());
        let most = self.delayed_most;
        let consumption = self.consumers.get_mut(&cursor).ok_or_else(deleted)?;
        let Some(id) = consumption.timetable.entity.filter(|_| consumption.is_crowded()) else {
            return Ok(nothing);
        };
        let (batch, block) = sizes(most);
        let mut entries = consumption.deliveries.latest(batch);
        entries.retain(|(due, _)| *due > now.steady);
        if entries.len() < block {
            // They are due in a moment.
            consumption.timetable.full = consumption.deliveries.waiting() + batch;
            return Ok(nothing);
        }
        let blocks: Vec<Message<'static>> = entries
            .chunks(block)
            .map(|some| Message::new(encode(some)).deliver_at(some[0].0).moved())
            .collect();
        let mut offsets: Vec<Offset> = entries.iter().map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        let was_empty = self.shelved(cursor) == 0;
        let append = Op::Append { log: id.log(0), messages: &blocks, delay_ms: 0 };
        let outcome = self.commit(&[append, Op::Spill { cursor, offsets: &offsets }], now)?;
        let committing = Committing::of(outcome, || true);
        if matches!(committing, Committing::Done(..)) {
            let first = self.store.placed().next().map_or(0, |(_, range)| range.start.0);
            let consumption = self.consumption(cursor)?;
            consumption.deliveries.shelve(&entries);
            consumption.timetable.full = most;
            if was_empty {
                // Those that a damaged block has named were deleted.
                consumption.timetable.damage = None;
            }
            let dues = entries.chunks(block).map(|some| some[0].0);
            let blocks = dues.zip((first..).map(Offset));
            consumption.timetable.blocks.extend(blocks);
        }
        Ok(committing)
    }

    /// Whether messages are due that are in the timetable.
    #[inline]
    pub fn wants_block(&self, cursor: CursorId, elapsed: Duration) -> bool {
        let most = self.delayed_most;
        let consumption = self.consumers.get(&cursor);
        let due = consumption.filter(|it| elapsed >= it.blocks_rest());
        let due = due.and_then(|it| it.next_block_due(most));
        due.is_some_and(|due| due <= self.steady(elapsed))
    }

    /// The next block whose messages are due. It is the caller's, who says when that is over.
    fn take_block(
        &mut self,
        cursor: CursorId,
        elapsed: Duration,
    ) -> Result<Option<(Block, Result<Source>)>> {
        if !self.wants_block(cursor, elapsed) {
            return Ok(None);
        }
        let timetable = &mut self.consumption(cursor)?.timetable;
        let Some((due, offset)) = timetable.blocks.first().copied() else { return Ok(None) };
        let entity = timetable.entity.ok_or_else(deleted)?;
        timetable.is_busy = true;
        let source = self.store.locate(entity.log(0), offset);
        Ok(Some((Block { entity, due, offset }, source)))
    }

    /// Brings a block's messages back into memory.
    fn unshelve(
        &mut self,
        cursor: CursorId,
        block: Block,
        entries: &[(Timestamp, Offset)],
        now: Now,
    ) -> Result<Committing<()>> {
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        let is_lost = seeded!(BlockComesBackEmpty);
        let valid = entries.iter().filter(|(_, offset)| acks.is_spilled(*offset) && !is_lost);
        let valid: Vec<(Timestamp, Offset)> = valid.copied().collect();
        let urgency = Urgency::Freeing;
        let defer = |&(due, offset): &(Timestamp, Offset)| {
            let attempts = acks.attempts(offset);
            Op::Defer { cursor, offset, attempts, due, urgency }
        };
        let offsets = [block.offset];
        let done = Op::Ack { cursor: block.entity.cursor(0), offsets: &offsets };
        let ops: Vec<Op<'_>> = valid.iter().map(defer).chain([done]).collect();
        let committing = Committing::of(self.commit(&ops, now)?, || ());
        if matches!(committing, Committing::Done(..)) {
            let consumption = self.consumption(cursor)?;
            consumption.timetable.blocks.remove(&(block.due, block.offset));
            for (due, offset) in valid {
                consumption.deliveries.defer(offset, due);
            }
        }
        Ok(committing)
    }

    /// Why messages cannot be delivered that are due, if that is so.
    pub fn timetable_damage(&self, cursor: CursorId) -> Option<Error> {
        let damage = self.consumers.get(&cursor)?.timetable.damage.as_ref();
        // They may have been deleted meanwhile.
        damage.filter(|_| self.shelved(cursor) > 0).map(Error::again)
    }
}

const NAME: &str = "timetable";

/// A block that is being moved.
#[derive(Clone, Copy)]
struct Block {
    entity: EntityId,
    due: Timestamp,
    offset: Offset,
}

fn entries_of(stored: &Stored) -> Result<Vec<(Timestamp, Offset)>> {
    decode(stored.payload()).map_err(|what| Error::new(ErrorKind::Corrupt, what.0))
}

impl Shared {
    /// Puts messages into a queue's timetable until there are not too many in memory.
    pub fn shelve(&self, cursor: CursorId) {
        let shelved = self.timetable_of(cursor).and_then(|()| {
            while self.transact(|core| core.shelve(cursor, self.now()))?.0 {
                self.flusher.soon(self);
            }
            Ok(())
        });
        if shelved.is_err() {
            // They stay in memory. It is tried again when there are more of them.
            let mut core = self.lock();
            let (batch, _) = sizes(core.delayed_most);
            if let Ok(consumption) = core.consumption(cursor) {
                consumption.timetable.full = consumption.deliveries.waiting() + batch;
            }
        }
    }

    /// Makes sure that a queue has a timetable.
    fn timetable_of(&self, queue: CursorId) -> Result<()> {
        self.transact(|core| {
            let done = Committing::Done((), core.store.journal.tail());
            if core.consumption(queue)?.timetable.entity.is_some() {
                return Ok(done);
            }
            let entity =
                core.store.new_entity(NAME, EntityKind::Timetable { queue: queue.entity() });
            let id = entity.id;
            let creation = Creation { entity, starts: vec![Offset(0)] };
            let outcome = core.commit(&[Op::Create { creation: &creation }], self.now())?;
            let committing = Committing::of(outcome, || ());
            if matches!(committing, Committing::Done(..)) {
                core.consumption(queue)?.timetable.entity = Some(id);
            }
            Ok(committing)
        })
        .map(drop)
    }

    /// Brings back into memory what is due of a queue's timetable. What has waited there is to come due
    /// afterwards: in the order in which it is.
    /// If that fails it is tried again a little later; a block that is damaged is passed over, and whoever
    /// finds nothing to receive is told of it, those who wait already included.
    pub fn unshelve(&self, cursor: CursorId) {
        while let Err(error) = self.unshelve_due(cursor) {
            let now = self.elapsed();
            let mut core = self.lock();
            let Ok(consumption) = core.consumption(cursor) else { return };
            let timetable = &mut consumption.timetable;
            let first = timetable.blocks.first().copied();
            match first.filter(|_| timetable.is_busy && error.kind() == ErrorKind::Corrupt) {
                Some(damaged) => {
                    timetable.blocks.remove(&damaged);
                    timetable.damage = Some(error);
                    timetable.is_busy = false;
                    let log = consumption.log;
                    core.wake_some(log, usize::MAX);
                }
                None => {
                    (timetable.rest, timetable.is_busy) = (now + REST, false);
                    break;
                }
            }
        }
        let mut core = self.lock();
        core.arm(cursor);
        let wakes = core.take_wakes();
        drop(core);
        self.wake(wakes);
    }

    fn unshelve_due(&self, cursor: CursorId) -> Result<()> {
        loop {
            let taken = self.lock_open()?.take_block(cursor, self.elapsed())?;
            let Some((block, source)) = taken else { return Ok(()) };
            self.unshelve_block(cursor, block, source?)?;
            self.lock().consumption(cursor)?.timetable.is_busy = false;
        }
    }

    fn unshelve_block(&self, cursor: CursorId, block: Block, source: Source) -> Result<()> {
        let (stored, _) = source.load(block.offset)?;
        let entries = entries_of(&stored)?;
        self.transact(|core| core.unshelve(cursor, block, &entries, self.now()))?;
        self.flusher.soon(self);
        Ok(())
    }
}

/// When messages are due that are in the timetable.
#[derive(Debug, Default)]
pub struct Dues {
    /// Of these it was found out.
    pub of: Range<u64>,
    pub dues: BTreeMap<Offset, Timestamp>,
    /// Why that is not known of all of them.
    pub damage: Option<Error>,
}

impl Consumer {
    /// When those messages of a range are due of which the timetable says so. A block that is damaged
    /// does not keep the others from being read.
    pub fn shelved_dues(&self, range: Range<u64>) -> Result<Dues> {
        let (entity, blocks) = {
            let mut core = self.shared().lock_open()?;
            let timetable = &core.consumption(self.cursor)?.timetable;
            (timetable.entity, timetable.blocks.clone())
        };
        let mut found = Dues { of: range.clone(), ..Dues::default() };
        let Some(entity) = entity else { return Ok(found) };
        for (_, block) in blocks {
            let source = {
                let mut core = self.shared().lock_open()?;
                match core.store.acks(entity.cursor(0)) {
                    Some(acks) if !acks.is_acked(block) => core.store.locate(entity.log(0), block),
                    // Its messages have come back meanwhile.
                    _ => continue,
                }
            };
            let read = source.and_then(|source| entries_of(&source.load(block)?.0));
            match read {
                Ok(entries) => {
                    let entries = entries.into_iter().filter(|it| range.contains(&it.1.0));
                    found.dues.extend(entries.map(|(due, offset)| (offset, due)));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => found.damage = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Is done with a timetable of which nothing is wanted any more.
    pub fn clear_timetable(&self) -> Result<()> {
        let cursor = self.cursor;
        self.shared().transact(|core| {
            let done = Committing::Done((), core.store.journal.tail());
            let is_wanted = core.shelved(cursor) > 0;
            let timetable = &core.consumption(cursor)?.timetable;
            let Some(id) = timetable.entity.filter(|_| !is_wanted) else {
                return Ok(done);
            };
            let (_, end) = core.store.bounds(id.log(0)).ok_or_else(deleted)?;
            let blocks = core.store.acks(id.cursor(0)).ok_or_else(deleted)?;
            // Those that are damaged are among them.
            let ranges = blocks.unacked_in(blocks.floor().to(end));
            if ranges.is_empty() {
                return Ok(done);
            }
            let clear = Op::AckRanges { cursor: id.cursor(0), ranges: &ranges };
            let committing = Committing::of(core.commit(&[clear], self.shared().now())?, || ());
            if matches!(committing, Committing::Done(..)) {
                let timetable = &mut core.consumption(cursor)?.timetable;
                timetable.blocks.clear();
                timetable.damage = None;
            }
            Ok(committing)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_can_be_read_however_many_messages_are_kept_in_memory() {
        for bits in 0..=40 {
            let (batch, block) = sizes(1 << bits);
            assert!((1..=BLOCK_ENTRIES_MAX).contains(&block) && block as u64 <= batch, "{bits}");
        }
    }
}
