//! Spills delayed messages to disk, and brings back those that come due.

use std::time::Duration;

use super::committer::Committer;
use crate::{
    delivery::delay_index::{DelayIndex, SpillSizes},
    engine::core::{
        commit::Receipt,
        effects::HeldBack,
        spill::{NAME, ReturningBlock, entries_of},
    },
    error::{ErrorKind, Result},
    format::entity::{Creation, EntityKind},
    ids::{CursorId, Due, EntityId, Offset},
    store::Source,
};

/// How long a block waits after it could not come back, for example on a full disk.
const REST: Duration = Duration::from_millis(500);

const BRING_BACK: &str = "bring back spilled messages";

impl Committer {
    /// Spills delayed messages of a queue until the rest fits into memory.
    pub fn spill(&self, cursor: CursorId) {
        let spilled = self.create_delay_entity(cursor).and_then(|()| {
            while self.spill_once(cursor)? {
                self.sync_soon();
            }
            Ok(())
        });
        if spilled.is_err() {
            // The messages stay in memory. The next attempt is made when a batch more has arrived.
            let more = SpillSizes::of(self.config.delayed_in_memory).batch;
            if let Ok(consumption) = self.lock("spill").consumption(cursor) {
                consumption.postpone_spilling(more);
            }
        }
    }

    fn spill_once(&self, cursor: CursorId) -> Result<bool> {
        let spilled = self.transact("spill", |core| {
            let receipt = core.spill(cursor, self.now())?;
            Ok((receipt.is_some(), receipt.unwrap_or(Receipt::NOTHING)))
        })?;
        Ok(spilled.0)
    }

    /// Creates the entity that holds a queue's blocks, unless it exists.
    fn create_delay_entity(&self, queue: CursorId) -> Result<()> {
        let created = self.transact("spill", |core| {
            if core.delay_entity(queue)?.is_some() {
                return Ok(((), Receipt::NOTHING));
            }
            let entity =
                core.store.new_entity(NAME, EntityKind::DelayIndex { queue: queue.entity() });
            let id = entity.id;
            let creation = Creation { entity, starts: vec![Offset(0)] };
            let create = crate::store::Op::Create { creation: &creation };
            let receipt = core.commit(&[create], self.now())?;
            core.set_delay_entity(queue, id)?;
            Ok(((), receipt))
        });
        created.map(drop)
    }

    /// Brings the blocks of a queue whose messages are due back into memory. The messages come due afterwards,
    /// in the order of their due times.
    ///
    /// A block that cannot come back is tried again a little later. A damaged block is skipped. Consumers that
    /// find no message, including the ones that wait, get the damage or the failure as an error. On a full disk messages come
    /// late, and nobody is told.
    ///
    /// # Errors
    ///
    /// Lack of space in a call that asks for it (`patience.rs`). Another call may bring the block back meanwhile.
    pub fn bring_back(&self, cursor: CursorId) -> Result<()> {
        // Consumers wait for the block that this thread takes. So no code of the application runs meanwhile.
        let _held_back = HeldBack::begin(&self.flusher);
        while let Err(error) = self.bring_back_due(cursor) {
            let mut core = self.lock(BRING_BACK);
            if error.is_lack_of_space() {
                // The caller awaits space. If it is cancelled meanwhile, or goes on without, another one goes on.
                let now = self.elapsed();
                core.end_return(cursor, |index| index.rest_until(now, None));
                if let Ok(consumption) = core.consumption(cursor) {
                    let log = consumption.info.log;
                    core.wake_one(cursor, log);
                }
                return Err(error);
            }
            let is_damaged =
                error.kind() == ErrorKind::Corrupt && core.set_block_damaged(cursor, &error);
            let is_hidden = matches!(error.kind(), ErrorKind::DiskFull | ErrorKind::Corrupt)
                || error.is_final();
            let is_told = is_damaged || !is_hidden;
            if !is_damaged {
                let until = self.elapsed() + REST;
                core.end_return(cursor, |index| index.rest_until(until, is_told.then_some(error)));
            }
            let Ok(consumption) = core.consumption(cursor) else { return Ok(()) };
            let log = consumption.info.log;
            if is_told {
                core.wake_consumers(cursor, log, usize::MAX);
            }
            if !is_damaged {
                break;
            }
        }
        self.lock(BRING_BACK).arm(cursor);
        Ok(())
    }

    fn bring_back_due(&self, cursor: CursorId) -> Result<()> {
        loop {
            let taken = self.lock_open(BRING_BACK)?.take_block(cursor, self.elapsed())?;
            let Some(block) = taken else { return Ok(()) };
            self.bring_back_block(cursor, block)?;
        }
    }

    pub(super) fn bring_back_block(
        &self,
        cursor: CursorId,
        returning: ReturningBlock,
    ) -> Result<()> {
        let ReturningBlock { entity, block, source } = returning;
        let Some(entries) = self.read_block(BRING_BACK, entity, block.offset, source)? else {
            // Its messages were deleted meanwhile, by a purge for example.
            let end = |index: &mut DelayIndex| {
                index.remove(block);
                index.release();
            };
            self.lock(BRING_BACK).end_return(cursor, end);
            return Ok(());
        };
        let _ = self.transact(BRING_BACK, |core| {
            let receipt = core.bring_back(cursor, entity, block, &entries, self.now())?;
            Ok(((), receipt))
        })?;
        self.sync_soon();
        Ok(())
    }

    /// Reads the messages that a block names. `None` if the block is gone: its messages came back or were deleted meanwhile.
    pub fn read_block(
        &self,
        operation: &'static str,
        entity: EntityId,
        block: Offset,
        source: Result<Source>,
    ) -> Result<Option<Vec<(Due, Offset)>>> {
        let read = source.and_then(|source| self.read(operation, entity.log(0), block, source));
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => entries_of(&read?).map(Some),
        }
    }

    /// Removes the blocks of a queue that has no spilled message left.
    pub fn clear_spilled(&self, cursor: CursorId) -> Result<()> {
        let cleared = self.transact("clear spilled messages", |core| {
            let receipt = core.clear_spilled(cursor, self.now_plain())?;
            Ok(((), receipt))
        });
        // The sync of a purge or a redrive came before.
        self.sync_soon();
        cleared.map(drop)
    }
}
