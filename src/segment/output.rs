//! The segment files that one checkpoint writes, and how they become durable: each file, and once each directory that got a
//! new name.

use std::{collections::BTreeSet, mem, path::Path};

use super::{
    Segments,
    packing::Held,
    shared::SharedWriter,
    writer::{SegmentWriter, sync_failed},
};
use crate::{
    disk::Open,
    error::{Error, Result},
    format::meta::{Place, SegmentState},
    ids::{LogId, Offset, OffsetRange},
    layout::Fan,
};

/// The messages of a log in one checkpoint are a part of a shared file if they have no more bytes than this. A disk writes so
/// many bytes in about the time that it takes to make one more file durable.
const PART_BYTES: u64 = 64 << 10;
/// A shared file has room for at least so many parts.
const PARTS_MIN: u64 = 16;
/// A segment is written in at least so many pieces, so that a small one does not take as much memory as a large one.
const WRITES_MIN: u64 = 4;
/// The most files that are kept open before they are synced and closed.
const UNSYNCED_MAX: usize = 64;

/// New segment files, and segments that are gone on with.
#[derive(Debug)]
pub struct Output {
    segments: Segments,
    segment_bytes: u64,
    /// The number of the next file.
    next: u64,
    shared: Option<SharedWriter>,
    /// Shared files that are complete, but not synced.
    unsynced_shared: Vec<SharedWriter>,
    /// Segments that are complete, but not synced.
    unsynced: Vec<SegmentWriter>,
    /// New files. They are removed if the checkpoint fails.
    begun: Vec<u64>,
    /// The buffer of the last segment that was written, for the next one. Segments are written one after the other.
    buffer: Vec<u8>,
    /// Segments that were gone on with. What was added is cut off if the checkpoint fails.
    reopened: Vec<SegmentState>,
    /// A directory that holds files that the metalog names.
    known: Option<Fan>,
    /// Directories with new names in them.
    fans: BTreeSet<Fan>,
    /// Whether there are new directories.
    has_new_fan: bool,
    written: Vec<Written>,
}

/// A shared file that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub number: u64,
    pub bytes: u64,
}

impl Output {
    /// `next` is the number of the first new file. All files that the metalog names have lower ones. `is_known` says
    /// whether some of them are in the directory of that file.
    pub fn new(segments: Segments, segment_bytes: u64, next: u64, is_known: bool) -> Output {
        Output {
            segments,
            segment_bytes,
            next,
            shared: None,
            unsynced_shared: Vec::new(),
            unsynced: Vec::new(),
            begun: Vec::new(),
            buffer: Vec::new(),
            reopened: Vec::new(),
            known: is_known.then_some(Fan::of(next)),
            fans: BTreeSet::new(),
            has_new_fan: false,
            written: Vec::new(),
        }
    }

    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// A segment is full when it has so many bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The most bytes of messages in a part of a shared file.
    pub fn part_bytes(&self) -> u64 {
        PART_BYTES.min(self.segment_bytes / PARTS_MIN)
    }

    /// The number of the next file. Earlier numbers may be in use.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes the number of a new file, and makes the file's directory, unless it holds durable messages: then it must be
    /// there.
    fn take_number(&mut self) -> Result<u64> {
        let number = self.next;
        let fan = Fan::of(number);
        if self.known != Some(fan) && !self.fans.contains(&fan) {
            let dir = self.segments.layout.fan_dir(fan);
            let made = self.segments.disk.create_subdir(&dir);
            made.map_err(|error| Error::io(error, "a directory of segments cannot be made", dir))?;
            self.has_new_fan = true;
        }
        self.fans.insert(fan);
        self.begun.push(number);
        self.next += u64::from(!seeded!(FileNumberIsUsedAgain));
        Ok(number)
    }

    /// Begins a segment in a file of its own.
    pub fn begin(&mut self, log: LogId, base: Offset) -> Result<SegmentWriter> {
        let number = self.take_number()?;
        let writer = SegmentWriter::create(&self.segments, log, base, number)?;
        Ok(writer.writing(self.segment_bytes / WRITES_MIN, mem::take(&mut self.buffer)))
    }

    /// Goes on with a segment.
    pub fn reopen(&mut self, state: SegmentState) -> Result<SegmentWriter> {
        let writer = SegmentWriter::reopen(&self.segments, &state)?;
        self.reopened.push(state);
        Ok(writer.writing(self.segment_bytes / WRITES_MIN, mem::take(&mut self.buffer)))
    }

    /// Takes over a segment that is complete. It is synced together with others.
    pub fn finish(&mut self, mut writer: SegmentWriter) -> Result<SegmentState> {
        if let Err(error) = writer.flush() {
            writer.abandon();
            return Err(error);
        }
        let state = writer.state().clone();
        self.buffer = writer.take_buffer();
        self.unsynced.push(writer);
        if self.unsynced.len() >= UNSYNCED_MAX {
            self.unsynced.drain(..).try_for_each(|writer| writer.sync())?;
        }
        Ok(state)
    }

    /// Adds messages of a log to the shared file, as a segment that stands for a range of offsets.
    pub fn add_part(
        &mut self,
        log: LogId,
        range: OffsetRange,
        held: &[Held],
    ) -> Result<SegmentState> {
        if self.shared.as_ref().is_some_and(|it| it.bytes() >= self.segment_bytes) {
            self.end_shared()?;
        }
        let shared = match &mut self.shared {
            Some(shared) => shared,
            None => {
                let number = self.take_number()?;
                self.shared.insert(SharedWriter::create(&self.segments, number)?)
            }
        };
        shared.add(log, range, held)
    }

    /// Writes the rest of the shared file. If that fails, it can be tried again.
    fn end_shared(&mut self) -> Result<()> {
        if let Some(shared) = &mut self.shared {
            shared.write_ready()?;
            self.written.push(Written { number: shared.number(), bytes: shared.bytes() });
            self.unsynced_shared.extend(self.shared.take());
        }
        Ok(())
    }

    /// Makes everything durable that was written: contents, then names. Returns the shared files.
    pub fn sync(&mut self) -> Result<Vec<Written>> {
        self.end_shared()?;
        self.unsynced_shared.drain(..).try_for_each(|file| file.sync())?;
        self.unsynced.drain(..).try_for_each(|writer| writer.sync())?;
        let (disk, layout) = (&self.segments.disk, &self.segments.layout);
        let sync_dir = |dir: &Path| {
            let opened = disk.open_dir(dir);
            let unopened = |error| Error::io(error, "a directory cannot be opened", dir);
            opened.map_err(unopened)?.sync().map_err(|error| sync_failed(error, dir))
        };
        if !seeded!(SegmentNameIsNotSynced) {
            self.fans.iter().try_for_each(|fan| sync_dir(&layout.fan_dir(*fan)))?;
        }
        if self.has_new_fan && !seeded!(SegmentDirectoryIsNotSynced) {
            sync_dir(&layout.segments_dir())?;
        }
        self.buffer = Vec::new();
        Ok(mem::take(&mut self.written))
    }

    /// Gives up segments that were begun, because writing what comes behind them failed. Parts stay in their file, where
    /// nothing refers to them.
    pub fn give_up(&mut self, states: &[SegmentState]) {
        self.unsynced.retain(|writer| !states.contains(writer.state()));
        for state in states.iter().filter(|state| state.place == Place::Own) {
            // If the removal fails, a sweep removes the file.
            let _ = self.segments.disk.remove(&self.segments.path(state));
        }
    }

    /// Gives back the space of everything that was written. On a full disk it is needed at once.
    pub fn undo(&mut self) {
        self.let_go();
        let (disk, layout) = (&self.segments.disk, &self.segments.layout);
        // If a removal fails, a later sweep finds the file. What is behind a segment's committed length is
        // written over by the next checkpoint.
        for number in self.begun.drain(..) {
            let _ = disk.remove(&layout.segment_file(number));
        }
        for segment in self.reopened.drain(..) {
            let opened = disk.open(&self.segments.path(&segment), Open::Existing);
            let _ = opened.and_then(|file| file.cut(segment.bytes));
        }
    }

    /// Closes all files.
    pub fn let_go(&mut self) {
        self.buffer = Vec::new();
        self.shared = None;
        self.unsynced_shared.clear();
        self.unsynced.clear();
    }
}
