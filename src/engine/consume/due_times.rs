//! The due times of a queue's spilled messages, for browsing.

use std::collections::BTreeMap;

use super::consumer::Consumer;
use crate::{
    engine::core::spill::entries_of,
    error::{Error, ErrorKind, Result},
    ids::{Due, Offset, OffsetRange},
};

/// The due times of the spilled messages in a range.
#[derive(Debug, Default)]
pub struct DueTimes {
    /// The offsets whose due times were read.
    pub range: OffsetRange,
    pub due: BTreeMap<Offset, Due>,
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
            let log = entity.log(0);
            let read =
                source.and_then(|source| committer.read("browse", log, block.offset, source));
            match read.and_then(|stored| entries_of(&stored)) {
                Ok(entries) => {
                    let entries = entries.into_iter().filter(|it| range.contains(it.1));
                    found.due.extend(entries.map(|(due, offset)| (offset, due)));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => found.damage = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
