//! Writes the live messages of segments once more: of neighbours that are mostly dead, and of shared files of which little is
//! needed, or that are small. The old files are removed once nothing refers to them.

use super::{
    checkpoint::{LogChange, Shared, Work},
    log::Log,
    needed::needed,
};
use crate::{
    audit,
    error::{ErrorKind, Result},
    format::{
        lives::Lives,
        meta::{Place, SegmentState},
    },
    ids::{LogId, Offset, OffsetRange},
    segment::{FoundPart, Held, Packing, SegmentReader, is_of_device, parts_of, skip_unreadable},
};

/// How many parts of a file are looked up in one access to the store.
const LOOKED_UP_AT_ONCE: usize = 64;
/// About so many messages of a segment are looked at together.
const LOOKED_AT_TOGETHER: u64 = 1 << 16;

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
            let mut blocks = LiveBlocks::new(segment.log, reader);
            while let Some(held) = blocks.next(shared)? {
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
        let (mut blocks, mut all) = (LiveBlocks::new(segment.log, reader), Vec::new());
        while let Some(held) = blocks.next(shared)? {
            all.push(held);
        }
        Ok(all)
    }

    /// Rewrites shared files that waste space, or are small.
    pub(super) fn rewrite_files(&mut self, shared: &impl Shared) -> Result<()> {
        if !self.may_rewrite {
            return Ok(());
        }
        self.wasteful = shared.with(|store| store.files.take_wasteful(self.is_idle));
        let (mut rewritten, mut unread) = (0, Vec::new());
        for number in self.wasteful.clone() {
            // It is optional: it is skipped if the disk is full, or the file is damaged. If it cannot be read, a later
            // checkpoint tries it again.
            match self.rewrite_file(shared, number) {
                Err(error) if error.kind() == ErrorKind::DiskFull => break,
                // A broken sector stays broken.
                Err(error) if error.kind() == ErrorKind::Io && !is_of_device(&error) => {
                    unread.push(number);
                }
                done => drop(skip_unreadable(done)?),
            }
            rewritten += 1;
        }
        self.put_off = self.wasteful.split_off(rewritten);
        self.wasteful.retain(|number| !unread.contains(number));
        self.put_off.append(&mut unread);
        Ok(())
    }

    fn rewrite_file(&mut self, shared: &impl Shared, number: u64) -> Result<()> {
        let parts = parts_of(self.out.segments(), number)?;
        let mut outcome = Ok(());
        for some in parts.chunks(LOOKED_UP_AT_ONCE) {
            let current: Vec<SegmentState> = shared.with(|store| {
                let of = |part: &FoundPart| store.state.logs.get(&part.header.log);
                some.iter().filter_map(|part| of(part)?.in_part(number, part)).collect()
            });
            for segment in current {
                // A damaged part stays in its file, and one that cannot be read. The others leave it.
                match self.rewrite_part(shared, &segment) {
                    Err(error) if error.kind() == ErrorKind::Io => outcome = Err(error),
                    done => drop(skip_unreadable(done)?),
                }
            }
        }
        self.open.close(number);
        outcome
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

/// Reads the live messages of a segment, block by block. It looks at the acks of all cursors once for many messages.
struct LiveBlocks {
    log: LogId,
    reader: SegmentReader,
    /// The next block, and the first one that was not looked at.
    at: usize,
    end: usize,
    /// What cursors need of the blocks before `end`, and how many of these ranges are behind.
    needed: Vec<OffsetRange>,
    behind: usize,
}

impl LiveBlocks {
    fn new(log: LogId, reader: SegmentReader) -> LiveBlocks {
        LiveBlocks { log, reader, at: 0, end: 0, needed: Vec::new(), behind: 0 }
    }

    fn next(&mut self, shared: &impl Shared) -> Result<Option<Held>> {
        if self.at == self.reader.table().len() {
            return Ok(None);
        }
        if self.at == self.end {
            self.look(shared);
        }
        let block = self.reader.block(self.at)?;
        self.at += 1;
        let (mut records, mut place) = (Vec::new(), block.seek(Offset(0)));
        while let Some((offset, spans)) = block.step(&mut place)? {
            if self.needs(offset) {
                records.push((offset, spans));
            }
        }
        Ok(Some(Held { body: block.body().clone(), records }))
    }

    /// Looks at the acks for some blocks.
    fn look(&mut self, shared: &impl Shared) {
        let rest = &self.reader.table()[self.at..];
        let mut records = 0;
        let some = rest.iter().take_while(|block| {
            let has_room = records < LOOKED_AT_TOGETHER;
            records += u64::from(block.count);
            has_room
        });
        let count = some.count();
        let window = rest[0].first.to(rest[count - 1].last.next());
        self.needed = needed(shared, self.log, window, u64::MAX);
        (self.end, self.behind) = (self.at + count, 0);
    }

    /// Whether a cursor needs a message. They are asked for in their order.
    fn needs(&mut self, offset: Offset) -> bool {
        let rest = &self.needed[self.behind..];
        self.behind += rest.iter().take_while(|range| range.end <= offset).count();
        self.needed.get(self.behind).is_some_and(|range| range.start <= offset)
    }
}

impl Log {
    /// The segment that stands in a part of a shared file.
    fn in_part(&self, file: u64, part: &FoundPart) -> Option<SegmentState> {
        audit::step();
        let segment = self.segments.get(part.header.base)?;
        let is_there = segment.generation == file && segment.place == Place::Part(part.at);
        is_there.then(|| segment.clone())
    }
}
