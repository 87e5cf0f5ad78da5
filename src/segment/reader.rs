//! Reads segments: finds the block, verifies it, finds the record.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Segments, opened::SharedFile};
use crate::{
    disk::{DiskFile, Open, Purpose, Slice, Window, read_exact_at, window},
    error::{Error, ErrorKind, Result},
    format::{
        Malformed,
        block::{BLOCK_HEADER_BYTES, BlockHeader, BlockKind},
        header::UNSUPPORTED,
        meta::{Place, SegmentState},
        pack::{BlockPlace, Records},
        record::RecordSpans,
        segment::{SEGMENT_HEADER_BYTES, SegmentHeader, TableEntry, take_table},
        wire::Seed,
    },
    ids::{Offset, Timestamp},
};

/// The committed blocks of one segment.
#[derive(Debug)]
pub struct SegmentReader {
    path: Arc<PathBuf>,
    bytes: Bytes,
    seed: Seed,
    table: Vec<TableEntry>,
}

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Own(Box<dyn Window>),
    Shared(Arc<SharedFile>),
}

impl Bytes {
    fn window(&self) -> &dyn Window {
        match self {
            Bytes::Own(window) => &**window,
            Bytes::Shared(file) => &*file.window,
        }
    }
}

impl SegmentReader {
    /// Opens the segment that an entry of the metalog describes.
    pub fn open(segments: &Segments, state: &SegmentState) -> Result<SegmentReader> {
        if matches!(state.place, Place::Part(_)) {
            let file = Arc::new(SharedFile::open(segments, state)?);
            return SegmentReader::in_file(segments, state, file);
        }
        SegmentReader::in_own_file(segments, state, state.has_footer() || state.is_open())
    }

    /// Opens a segment that is being written. A footer behind its blocks is of an earlier attempt, and does not count.
    pub fn open_unfinished(segments: &Segments, state: &SegmentState) -> Result<SegmentReader> {
        SegmentReader::in_own_file(segments, state, false)
    }

    fn in_own_file(
        segments: &Segments,
        state: &SegmentState,
        may_have_footer: bool,
    ) -> Result<SegmentReader> {
        let path = Arc::new(segments.path(state));
        let failed = |error| unreadable(error, &path, 0);
        let file = segments.disk.open(&path, Open::Existing).map_err(failed)?;
        let header = segments.header(state);
        let read = |at, len: usize| {
            let mut bytes = vec![0; len];
            read_exact_at(&*file, at, &mut bytes).map(|()| bytes)
        };
        let forget_cached = &|| file.forget_cached();
        let asked = Asked { read, forget_cached, end: state.bytes, path: &path };
        let found = asked.surely(0, SEGMENT_HEADER_BYTES as usize)?;
        let found = SegmentHeader::decode(&found).map_err(|what| damaged(what, &path, 0))?;
        if found != header {
            let what = "a segment that belongs elsewhere";
            return Err(Error::corrupt(what, path.as_ref(), 0));
        }
        let window = window(&file, state.bytes, segments.access, Purpose::Read).map_err(failed)?;
        let seed = header.seed();
        let footer = may_have_footer.then(|| read_footer(&*file, state, seed)).flatten();
        let table = match footer {
            Some(table) => table,
            None => walk_blocks(&*window, state, seed, &path)?,
        };
        Ok(SegmentReader { path, bytes: Bytes::Own(window), seed, table })
    }

    /// Opens a segment that is a part of a shared file. Damage to the header of the file costs no part: the checksums of its
    /// blocks say to whom they belong.
    pub fn in_file(
        segments: &Segments,
        state: &SegmentState,
        file: Arc<SharedFile>,
    ) -> Result<SegmentReader> {
        let (path, seed) = (Arc::clone(&file.path), segments.header(state).seed());
        let table = walk_blocks(&*file.window, state, seed, &path)?;
        Ok(SegmentReader { path, bytes: Bytes::Shared(file), seed, table })
    }

    /// The shared file in which the segment is a part.
    pub fn shared(&self) -> Option<&Arc<SharedFile>> {
        match &self.bytes {
            Bytes::Own(_) => None,
            Bytes::Shared(file) => Some(file),
        }
    }

    /// The blocks, in the order of their offsets.
    pub fn table(&self) -> &[TableEntry] {
        &self.table
    }

    /// The first block that reaches to `offset` or beyond.
    pub fn block_at(&self, offset: Offset) -> Option<usize> {
        let index = self.table.partition_point(|entry| entry.last < offset);
        (index < self.table.len()).then_some(index)
    }

    /// The last block that begins before `offset`.
    pub fn block_before(&self, offset: Offset) -> Option<usize> {
        self.table.partition_point(|entry| entry.first < offset).checked_sub(1)
    }

    /// The first block with a record of this time or later.
    pub fn block_at_time(&self, time: Timestamp) -> Option<usize> {
        let index = self.table.partition_point(|entry| entry.max_time < time);
        (index < self.table.len()).then_some(index)
    }

    /// Reads and verifies a block.
    pub fn block(&self, index: usize) -> Result<Block> {
        let entry = &self.table[index];
        let (window, len) = (self.bytes.window(), entry.length as usize);
        let end = self.table.last().map_or(0, |last| last.position + u64::from(last.length));
        let bytes = surely(window, entry.position, len, end, &self.path)?;
        let verified = BlockHeader::decode(&bytes, entry.position, self.seed).and_then(|header| {
            if header.kind != BlockKind::Records
                || header.block_len() != u64::from(entry.length)
                || (header.first, header.last, header.count)
                    != (entry.first, entry.last, entry.count)
            {
                return Err(Malformed("a block does not match the segment's table"));
            }
            let end = BLOCK_HEADER_BYTES + header.body_len as usize;
            let body = bytes.narrow(BLOCK_HEADER_BYTES, end);
            if !seeded!(BlockIsNotVerified) {
                header.verify(&body, self.seed)?;
            }
            let records = Records::new(&header, &body)?;
            Ok(Block { header, records, body, path: Arc::clone(&self.path) })
        });
        verified.map_err(|what| damaged(what, &self.path, entry.position))
    }
}

/// The error of a device that cannot read: `EIO`, or `ERROR_CRC` on Windows.
const BROKEN: i32 = if cfg!(windows) { 23 } else { 5 };

/// A file, or a window of one, of which a part is to be read.
struct Asked<'a, R> {
    read: R,
    /// Has the next reads ask the device, and not the system's cache.
    forget_cached: &'a dyn Fn(),
    /// The end of the segment.
    end: u64,
    path: &'a Path,
}

impl<R: Fn(u64, usize) -> io::Result<T>, T> Asked<'_, R> {
    /// Reads a part. What a device cannot read may come back: the read is tried once more. If the device then reads the
    /// first or the last byte, some sectors are broken. That is damage, and nobody waits for it. If it does not, the device
    /// fails as a whole, which may pass.
    fn surely(&self, position: u64, len: usize) -> Result<T> {
        let read_again = match (self.read)(position, len) {
            Err(error) if is_broken(&error) => (self.read)(position, len),
            read => read,
        };
        let error = match read_again {
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        if !is_broken(&error) || !self.is_readable() {
            return Err(unreadable(error, self.path, position));
        }
        // It may have come back meanwhile.
        (self.read)(position, len).map_err(|again| {
            if !is_broken(&again) {
                return unreadable(again, self.path, position);
            }
            let what = "the device cannot read a part of a segment";
            Error::corrupt(what, self.path, position).because(error)
        })
    }

    /// Whether the device reads the first or the last byte.
    fn is_readable(&self) -> bool {
        (self.forget_cached)();
        [0, self.end.saturating_sub(1)].into_iter().any(|at| (self.read)(at, 1).is_ok())
    }
}

/// Reads a part of a window. See [`Asked::surely`].
fn surely(window: &dyn Window, position: u64, len: usize, end: u64, path: &Path) -> Result<Slice> {
    let forget_cached = &|| window.forget_cached();
    let read = |at, len| window.slice(at, len);
    Asked { read, forget_cached, end, path }.surely(position, len)
}

pub(super) fn is_broken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(BROKEN)
}

/// Whether an error says that the device could not read something. Other errors of the system say that it was not asked.
pub fn is_of_device(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<io::Error>()).is_some_and(is_broken)
}

/// Turns an error of the system into one of ours, for a file that the metalog refers to.
pub fn unreadable(error: io::Error, path: &Path, position: u64) -> Error {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "a segment is missing",
        io::ErrorKind::UnexpectedEof => "a segment ends too early",
        _ => return Error::io(error, "a segment cannot be read", path).at(position),
    };
    Error::corrupt(what, path, position).because(error)
}

fn damaged(what: Malformed, path: &Arc<PathBuf>, position: u64) -> Error {
    if what == UNSUPPORTED {
        return Error::new(ErrorKind::UnsupportedVersion, what.0).in_file(path.as_ref());
    }
    Error::corrupt(what.0, path.as_ref(), position)
}

/// The table in the footer. `None` if the footer is damaged, or if there is none behind a segment that is not sealed: the
/// caller reads the table from the blocks.
pub fn read_footer(
    file: &dyn DiskFile,
    state: &SegmentState,
    seed: Seed,
) -> Option<Vec<TableEntry>> {
    let mut bytes = vec![0; BLOCK_HEADER_BYTES];
    read_exact_at(file, state.bytes, &mut bytes).ok()?;
    let header = BlockHeader::decode(&bytes, state.bytes, seed).ok()?;
    let end = state.bytes.checked_add(header.block_len())?;
    if end > file.len().ok()? {
        return None;
    }
    let mut body = vec![0; header.body_len as usize];
    read_exact_at(file, state.bytes + BLOCK_HEADER_BYTES as u64, &mut body).ok()?;
    header.verify(&body, seed).ok()?;
    take_table(&header, &body).ok()
}

/// The table, from the headers of the blocks. Bodies are verified when they are read.
fn walk_blocks(
    window: &dyn Window,
    state: &SegmentState,
    seed: Seed,
    path: &Arc<PathBuf>,
) -> Result<Vec<TableEntry>> {
    let mut table: Vec<TableEntry> = Vec::new();
    let mut position = state.blocks_at();
    while position < state.bytes {
        let bytes = surely(window, position, BLOCK_HEADER_BYTES, state.bytes, path)?;
        let header = BlockHeader::decode(&bytes, position, seed);
        let header = header.map_err(|what| damaged(what, path, position))?;
        let before = table.last();
        let in_order = before.is_none_or(|before| before.last < header.first);
        if header.kind != BlockKind::Records
            || !in_order
            || position + header.block_len() > state.bytes
        {
            let what = Malformed("a block does not fit between its neighbours");
            return Err(damaged(what, path, position));
        }
        let entry = TableEntry::of(&header, before);
        position += header.block_len();
        table.push(entry);
    }
    Ok(table)
}

/// A verified block.
#[derive(Clone, Debug)]
pub struct Block {
    header: BlockHeader,
    records: Records,
    body: Slice,
    path: Arc<PathBuf>,
}

impl Block {
    /// The bytes that the spans of its records refer to.
    #[inline]
    pub fn body(&self) -> &Slice {
        &self.body
    }

    pub fn first(&self) -> Offset {
        self.header.first
    }

    pub fn last(&self) -> Offset {
        self.header.last
    }

    /// The place before the first record with this offset or a larger one.
    pub fn seek(&self, offset: Offset) -> BlockPlace {
        self.records.seek(&self.body, offset)
    }

    /// The block with its records before an offset only.
    pub fn before(self, end: Offset) -> Block {
        if end > self.header.last {
            return self;
        }
        Block { records: self.records.before(&self.body, end), ..self }
    }

    /// How many records it has.
    pub fn count(&self) -> u32 {
        self.records.count()
    }

    /// The record with a number in the block.
    pub fn nth(&self, index: u32) -> Result<Option<(Offset, RecordSpans)>> {
        let found = self.records.nth(&self.body, index);
        found.map_err(|what| damaged(what, &self.path, self.header.position))
    }

    /// The record at a place, if it is cheap to read. The place moves on.
    #[inline]
    pub fn quick(&self, place: &mut BlockPlace) -> Option<(Offset, RecordSpans)> {
        self.records.quick(&self.body, place)
    }

    /// The record at a place. The place moves on. `None` behind the last record.
    pub fn step(&self, place: &mut BlockPlace) -> Result<Option<(Offset, RecordSpans)>> {
        let stepped = self.records.step(&self.body, place);
        stepped.map_err(|what| damaged(what, &self.path, self.header.position))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const SECTOR: u64 = 512;

    /// The kind of error of a read of one sector. `read` reads, and gets the number of the read, and whether the system may
    /// answer from its cache.
    fn kind_of(read: impl Fn(u64, usize, bool) -> io::Result<()>) -> Option<ErrorKind> {
        let (count, is_cached) = (Cell::new(0), Cell::new(true));
        let read = |at: u64, _: usize| {
            count.set(count.get() + 1);
            read(at, count.get(), is_cached.get())
        };
        let forget_cached = &|| is_cached.set(false);
        let (end, path) = (1 << 20, Path::new("segment"));
        let asked = Asked { read, forget_cached, end, path };
        asked.surely(SECTOR, SECTOR as usize).err().map(|error| error.kind())
    }

    fn broken() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(BROKEN))
    }

    #[test]
    fn a_broken_sector_is_damage() {
        let read = |at, _, _| if at == SECTOR { broken() } else { Ok(()) };
        assert_eq!(kind_of(read), Some(ErrorKind::Corrupt));
    }

    /// The file was opened a moment ago, so its first byte was in the system's cache.
    #[test]
    fn a_device_that_fails_as_a_whole_is_no_damage() {
        let read = |at, _, is_cached| if at == 0 && is_cached { Ok(()) } else { broken() };
        assert_eq!(kind_of(read), Some(ErrorKind::Io));
    }

    #[test]
    fn a_read_that_succeeds_at_last_is_no_error() {
        for first_good in 1..=4 {
            let read = |at, nth, _| if at == 0 || nth >= first_good { Ok(()) } else { broken() };
            assert_eq!(kind_of(read), None, "{first_good}");
        }
    }

    /// The last read was not made, for lack of file descriptors or of memory.
    #[test]
    fn what_the_device_was_not_asked_is_no_damage() {
        let no_memory = || Err(io::ErrorKind::OutOfMemory.into());
        let read = |at, nth, _| match at {
            0 => Ok(()),
            _ if nth > 2 => no_memory(),
            _ => broken(),
        };
        assert_eq!(kind_of(read), Some(ErrorKind::Io));
        assert_eq!(kind_of(|_, _, _| no_memory()), Some(ErrorKind::Io));
    }
}
