//! Writes the live messages of segments once more: of neighbours that are mostly dead, and of shared files of which little is
//! needed, or that are small. The old files are removed once nothing refers to them.

use super::{
    checkpoint::{LogChange, Shared, Work},
    log::Log,
};
use crate::{
    audit,
    error::{ErrorKind, Result},
    format::{
        lives::Lives,
        meta::{Place, SegmentState},
    },
    ids::Offset,
    segment::{FoundPart, Held, Packing, SegmentReader, keep_going, parts_of},
};

/// How many parts of a file are looked up in one access to the store.
const LOOKED_UP_AT_ONCE: usize = 64;

impl Work {
    /// Writes the live messages of neighbouring segments into new segments, and has them replaced.
    pub(super) fn rewrite(
        &mut self,
        shared: &impl Shared,
        old: &[SegmentState],
        change: &mut LogChange,
    ) -> Result<()> {
        let (first, last) = (&old[0], &old[old.len() - 1]);
        let mut packing = Packing::from(first.log, first.base);
        let copied = self
            .copy_live(shared, old, &mut packing)
            .and_then(|()| packing.finish(&mut self.out, Some(last.end), true));
        let mut put = match copied {
            Ok(put) => put,
            Err(error) => {
                packing.give_up(&mut self.out);
                return Err(error);
            }
        };
        if seeded!(LivesAreLostInRewrites) {
            put.iter_mut().for_each(|segment| segment.lives = Some(Lives::NONE));
        }
        change.put.append(&mut put);
        change.replaced.extend(old.iter().cloned());
        Ok(())
    }

    fn copy_live(
        &mut self,
        shared: &impl Shared,
        old: &[SegmentState],
        packing: &mut Packing,
    ) -> Result<()> {
        for segment in old {
            let reader = self.open.reader(self.out.segments(), segment)?;
            for index in 0..reader.table().len() {
                let held = live_in(shared, segment, &reader, index)?;
                packing.add(&mut self.out, held)?;
            }
        }
        Ok(())
    }

    /// The live messages of a segment.
    pub(super) fn read_live(
        &mut self,
        shared: &impl Shared,
        segment: &SegmentState,
    ) -> Result<Vec<Held>> {
        let reader = self.open.reader(self.out.segments(), segment)?;
        (0..reader.table().len()).map(|index| live_in(shared, segment, &reader, index)).collect()
    }

    /// Rewrites shared files that waste space, or are small.
    pub(super) fn rewrite_files(&mut self, shared: &impl Shared) -> Result<()> {
        if !self.may_rewrite {
            return Ok(());
        }
        self.wasteful = shared.with(|store| store.files.take_wasteful(self.is_idle));
        let mut rewritten = 0;
        for number in self.wasteful.clone() {
            // It is optional: it is skipped if the disk is full or the file is damaged.
            match self.rewrite_file(shared, number) {
                Err(error) if error.kind() == ErrorKind::DiskFull => break,
                done => drop(keep_going(done)?),
            }
            rewritten += 1;
        }
        self.put_off = self.wasteful.split_off(rewritten);
        Ok(())
    }

    fn rewrite_file(&mut self, shared: &impl Shared, number: u64) -> Result<()> {
        let parts = parts_of(self.out.segments(), number)?;
        for some in parts.chunks(LOOKED_UP_AT_ONCE) {
            let current: Vec<SegmentState> = shared.with(|store| {
                let of = |part: &FoundPart| store.state.logs.get(&part.header.log);
                some.iter().filter_map(|part| of(part)?.in_part(number, part)).collect()
            });
            for segment in current {
                // A damaged part stays in its file. The others leave it.
                keep_going(self.rewrite_part(shared, &segment))?;
            }
        }
        Ok(())
    }

    /// Rewrites a segment in a shared file, unless this checkpoint changes it anyway.
    fn rewrite_part(&mut self, shared: &impl Shared, segment: &SegmentState) -> Result<()> {
        let log = segment.log;
        let Some(begun) = shared.with(|store| store.begin_change(log)) else { return Ok(()) };
        let mut change = self.changes.remove(&log).unwrap_or(begun);
        let rewritten = match change.removes(segment.base) || change.is_fresh(segment) {
            true => Ok(()),
            false if seeded!(RewriteForgetsALog) && log.0.is_multiple_of(2) => {
                change.replaced.push(segment.clone());
                Ok(())
            }
            false => self.rewrite(shared, std::slice::from_ref(segment), &mut change),
        };
        self.changes.insert(log, change);
        rewritten
    }
}

/// The live messages in a block of a segment.
fn live_in(
    shared: &impl Shared,
    segment: &SegmentState,
    reader: &SegmentReader,
    index: usize,
) -> Result<Held> {
    let block = reader.block(index)?;
    let (mut records, mut place) = (Vec::new(), block.seek(Offset(0)));
    while let Some(record) = block.step(&mut place)? {
        records.push(record);
    }
    shared.with(|store| {
        let log = store.state.logs.get(&segment.log);
        let dead = |offset| log.is_none_or(|log| store.state.is_dead(log, offset));
        records.retain(|(offset, _)| !dead(*offset));
    });
    Ok(Held { body: block.body().clone(), records })
}

impl Log {
    /// The segment that stands in a part of a shared file.
    fn in_part(&self, file: u64, part: &FoundPart) -> Option<SegmentState> {
        audit::step();
        let segment = self.segments.get(&part.header.base)?;
        let is_there = segment.generation == file && segment.place == Place::Part(part.at);
        is_there.then(|| segment.clone())
    }
}
