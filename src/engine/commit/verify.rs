//! Looks for spilled messages that no block names, in a store that is in use. They would never be delivered.
//!
//! The blocks are read without the core. A message may be brought back and be spilled again meanwhile. Its new block then
//! stands behind those that were read. So messages are compared only at a moment at which no block stands there.

use roaring::RoaringTreemap;

use super::committer::Committer;
use crate::{
    engine::core::spill::NAME,
    error::{ErrorKind, Result},
    ids::{CursorId, EntityId, Offset, OffsetRange},
    inspect::{VerifyReport, unnamed_messages},
    store::{Space, join},
};

/// How often in a row there may be new blocks before the rest is left out: other threads spill all the time.
const ATTEMPTS: usize = 100;

/// So many entities are looked at in one hold of the core.
const ENTITIES_AT_ONCE: usize = 32;

impl Committer {
    /// Looks at all delay indexes. `go_on` is called before each step, and ends it by an error.
    pub(super) fn verify_delay_indexes(
        &self,
        report: &mut VerifyReport,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        for queue in self.spilled_queues()? {
            let mut named = Named {
                committer: self,
                queue,
                offsets: RoaringTreemap::new(),
                read_to: Offset(0),
            };
            let lost = named.compare_all(go_on)?;
            if !lost.is_empty() {
                let core = self.lock_open("verify")?;
                let log = core.store.state().catalog.log_name(queue.log(0));
                let dir = core.store.on_disk().segments.layout.segments_dir();
                report.problems.push(unnamed_messages(&dir, log, &lost));
            }
        }
        Ok(())
    }

    /// The queues that have spilled messages, found in slices.
    fn spilled_queues(&self) -> Result<Vec<EntityId>> {
        let (mut queues, mut next) = (Vec::new(), Some(EntityId::FIRST));
        while let Some(from) = next {
            let core = self.lock_open("verify")?;
            let (ids, behind) = core.store.entities_from(from, ENTITIES_AT_ONCE);
            let has_spilled = |it: &EntityId| {
                core.store.acks(it.cursor(0)).is_some_and(|acks| acks.spilled() > 0)
            };
            queues.extend(ids.into_iter().filter(has_spilled));
            self.end_slice(core);
            next = behind;
        }
        Ok(queues)
    }
}

/// The spilled messages that the blocks of a queue's delay index name.
struct Named<'a> {
    committer: &'a Committer,
    queue: EntityId,
    offsets: RoaringTreemap,
    /// Blocks below were read.
    read_to: Offset,
}

/// The result of comparing a part of the messages.
enum Compared {
    Lost(Vec<OffsetRange>),
    /// Blocks with these offsets are to be read first.
    Behind(Vec<Offset>, Offset),
}

impl Named<'_> {
    fn index(&self, store: &crate::store::Store) -> Option<EntityId> {
        Some(store.find(Space::DelayIndexes { queue: self.queue }, NAME)?.id)
    }

    fn compare_all(&mut self, go_on: &dyn Fn() -> Result<()>) -> Result<Vec<OffsetRange>> {
        let (mut lost, mut from, mut attempts) = (Vec::new(), Some(Offset(0)), 0);
        while let Some(part) = from {
            go_on()?;
            let (compared, next) = self.compare(part)?;
            match compared {
                Compared::Lost(mut some) => {
                    lost.append(&mut some);
                    attempts = 0;
                }
                Compared::Behind(..) if attempts == ATTEMPTS => break,
                Compared::Behind(blocks, end) => {
                    self.read(&blocks, end)?;
                    attempts += 1;
                }
            }
            from = next;
        }
        join(&mut lost);
        Ok(lost)
    }

    /// Compares the messages of one chunk of acks. Also returns where the next part begins.
    fn compare(&self, from: Offset) -> Result<(Compared, Option<Offset>)> {
        let core = self.committer.lock_open("verify")?;
        let nothing = (Compared::Lost(Vec::new()), None);
        let Some(acks) = core.store.acks(self.queue.cursor(0)) else { return Ok(nothing) };
        let Some((spilled, next)) = acks.spilled_from(from) else { return Ok(nothing) };
        if let Some(index) = self.index(&core.store)
            && let Some((_, end)) = core.store.bounds(index.log(0))
            && end > self.read_to
        {
            let cursor: CursorId = index.cursor(0);
            let blocks = core.store.acks(cursor).map(|it| it.unacked_in(self.read_to.to(end)));
            let blocks = blocks.into_iter().flatten().flat_map(|it| it.start.0..it.end.0);
            let blocks = blocks.map(Offset).collect();
            return Ok((Compared::Behind(blocks, end), Some(from)));
        }
        let lost = spilled.into_iter().filter(|it| !self.offsets.contains(it.0));
        Ok((Compared::Lost(lost.map(Offset::only).collect()), Some(next)))
    }

    fn read(&mut self, blocks: &[Offset], end: Offset) -> Result<()> {
        let (committer, operation) = (self.committer, "verify");
        for block in blocks {
            let mut core = committer.lock_open(operation)?;
            let Some(index) = self.index(&core.store) else { break };
            let source = core.store.locate_again(index.log(0), *block);
            drop(core);
            match committer.read_block(operation, index, *block, source) {
                Ok(entries) => {
                    self.offsets.extend(entries.into_iter().flatten().map(|(_, it)| it.0));
                }
                // It names none.
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        self.read_to = end;
        Ok(())
    }
}
