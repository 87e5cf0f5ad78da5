//! The due times of a queue's spilled messages, for browsing.

use std::collections::BTreeMap;

use super::consumer::Consumer;
use crate::{
    error::{Error, ErrorKind, Result},
    ids::{Due, EntityId, Offset, OffsetRange},
    store::Store,
};

/// When a spilled message is due, and the block that says so.
#[derive(Clone, Copy, Debug)]
pub struct SpilledDue {
    pub due: Due,
    entity: EntityId,
    block: Offset,
}

impl SpilledDue {
    /// Whether the block still says so. A message that came back into memory may have been spilled again.
    pub fn is_current(&self, store: &Store) -> bool {
        store.acks(self.entity.cursor(0)).is_some_and(|acks| !acks.is_acked(self.block))
    }
}

/// The due times of the spilled messages in a range.
#[derive(Debug, Default)]
pub struct DueTimes {
    /// The offsets whose due times were read.
    pub range: OffsetRange,
    pub due: BTreeMap<Offset, SpilledDue>,
    /// The damage of a block, if one could not be read.
    pub damage: Option<Error>,
}

impl Consumer {
    /// Reads the due times of the spilled messages in a range. A damaged block does not stop the others from
    /// being read.
    pub(super) fn read_due_times(&self, range: OffsetRange) -> Result<DueTimes> {
        let (cursor, committer) = (self.cursor(), self.committer());
        let mut found = DueTimes { range, ..DueTimes::default() };
        let (entity, blocks) = {
            let mut core = committer.lock_open("browse")?;
            let index = &core.consumption(cursor)?.delay_index;
            (index.entity, index.blocks().collect::<Vec<_>>())
        };
        let Some(entity) = entity else { return Ok(found) };
        for block in blocks {
            let source = {
                let mut core = committer.lock_open("browse")?;
                match core.store.acks(entity.cursor(0)) {
                    Some(acks) if !acks.is_acked(block.offset) => {
                        core.store.locate(entity.log(0), block.offset)
                    }
                    // Its messages have come back meanwhile.
                    _ => continue,
                }
            };
            match committer.read_block("browse", entity, block.offset, source) {
                Ok(entries) => {
                    let entries = entries.into_iter().flatten();
                    let entries = entries.filter(|it| range.contains(it.1));
                    let block = block.offset;
                    found.due.extend(
                        entries.map(|(due, offset)| (offset, SpilledDue { due, entity, block })),
                    );
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => found.damage = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
