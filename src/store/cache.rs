//! Segments that are open for reading. Their number is limited. The least recently used one is
//! closed first.

use std::sync::{Arc, Weak};

use crate::{
    error::Result,
    format::meta::{Place, SegmentState},
    ids::{IdMap, LogId, Offset},
    segment::{Block, SegmentReader, Segments, SharedFile},
};

#[derive(Debug)]
pub struct SegmentCache {
    open: IdMap<u64, Entry>,
    /// The shared files of these segments, by their numbers. Some may be closed by now.
    files: IdMap<u64, Weak<SharedFile>>,
    most: usize,
    clock: u64,
}

/// A segment to be read without holding the store.
#[derive(Clone, Debug)]
pub enum SegmentSource {
    Open(Arc<SegmentReader>),
    /// Its reader opens it.
    Closed(Box<ClosedSegment>),
}

/// A segment that is not open, and the shared file in which it is a part, if that is open.
#[derive(Clone, Debug)]
pub struct ClosedSegment {
    segments: Segments,
    state: SegmentState,
    file: Option<Arc<SharedFile>>,
}

/// A segment that was opened for a read, to be kept open.
#[derive(Debug)]
pub struct OpenedSegment {
    pub state: SegmentState,
    pub reader: Arc<SegmentReader>,
}

impl SegmentSource {
    /// Opens the segment, unless it is open. A segment that was opened is returned, too, for
    /// [`Store::keep`](super::Store::keep).
    pub fn open(self) -> Result<(Arc<SegmentReader>, Option<OpenedSegment>)> {
        match self {
            SegmentSource::Open(reader) => Ok((reader, None)),
            SegmentSource::Closed(closed) => {
                let ClosedSegment { segments, state, file } = *closed;
                let reader = match file {
                    Some(file) => SegmentReader::in_file(&segments, &state, file),
                    None => SegmentReader::open(&segments, &state),
                };
                let reader = Arc::new(reader?);
                let opened = OpenedSegment { state, reader: Arc::clone(&reader) };
                Ok((reader, Some(opened)))
            }
        }
    }

    /// The first offset of the segment, unless it is open.
    pub fn closed_base(&self) -> Option<Offset> {
        match self {
            SegmentSource::Open(_) => None,
            SegmentSource::Closed(closed) => Some(closed.state.base),
        }
    }

    /// Whether both are the same segment, with the same blocks.
    pub fn is_same(&self, other: &SegmentSource) -> bool {
        match (self, other) {
            (SegmentSource::Open(a), SegmentSource::Open(b)) => Arc::ptr_eq(a, b),
            (SegmentSource::Closed(a), SegmentSource::Closed(b)) => a.state == b.state,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Entry {
    reader: Arc<SegmentReader>,
    log: LogId,
    base: Offset,
    generation: u64,
    /// The committed length of the segment when it was opened.
    bytes: u64,
    used: u64,
    /// The block that was read last. The next message of a consumer is usually in it.
    recent: [Option<Arc<Block>>; 2],
}

impl Entry {
    fn is_of(&self, state: &SegmentState) -> bool {
        (self.log, self.base, self.generation, self.bytes)
            == (state.log, state.base, state.generation, state.bytes)
    }
}

impl SegmentCache {
    pub fn new(most: usize) -> SegmentCache {
        SegmentCache { open: IdMap::default(), files: IdMap::default(), most, clock: 0 }
    }

    fn key(log: LogId, base: Offset) -> u64 {
        // A collision only costs opening the segment again: an entry is compared before it is used.
        log.0.rotate_left(40) ^ base.0
    }

    /// A segment to be read: open, or to be opened without holding the store.
    pub fn source(&mut self, segments: &Segments, state: &SegmentState) -> SegmentSource {
        self.clock += 1;
        let key = SegmentCache::key(state.log, state.base);
        match self.open.get_mut(&key).filter(|entry| entry.is_of(state)) {
            Some(entry) => {
                entry.used = self.clock;
                SegmentSource::Open(Arc::clone(&entry.reader))
            }
            None => {
                let (segments, state) = (segments.clone(), state.clone());
                let is_part = matches!(state.place, Place::Part(_));
                let file = self.files.get(&state.generation).filter(|_| is_part);
                let file = file.and_then(Weak::upgrade);
                SegmentSource::Closed(Box::new(ClosedSegment { segments, state, file }))
            }
        }
    }

    /// Keeps a segment open that was opened for a read.
    pub fn keep(&mut self, state: &SegmentState, reader: Arc<SegmentReader>) {
        let key = SegmentCache::key(state.log, state.base);
        if self.open.get(&key).is_some_and(|entry| entry.is_of(state)) {
            return;
        }
        if self.open.len() >= self.most && !self.open.contains_key(&key) {
            let oldest = self.open.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.open.remove(&key));
        }
        if let Some(file) = reader.shared() {
            if self.files.len() > 2 * self.most {
                self.files.retain(|_, file| file.strong_count() > 0);
            }
            self.files.insert(state.generation, Arc::downgrade(file));
        }
        let entry = Entry {
            reader,
            log: state.log,
            base: state.base,
            generation: state.generation,
            bytes: state.bytes,
            used: self.clock,
            recent: [None, None],
        };
        self.open.insert(key, entry);
    }

    /// One of the two blocks of a segment that were read last, if it holds the offset. Several subscriptions read the same
    /// messages, a little apart: where one reads the next block already, the others still need the one before.
    pub fn recent(&self, state: &SegmentState, offset: Offset) -> Option<Arc<Block>> {
        let entry = self.open.get(&SegmentCache::key(state.log, state.base))?;
        let holds = |block: &&Arc<Block>| (block.first()..=block.last()).contains(&offset);
        let block = entry.recent.iter().flatten().find(holds).filter(|_| entry.is_of(state))?;
        Some(Arc::clone(block))
    }

    /// Keeps a block for the next read of this segment.
    pub fn remember(&mut self, state: &SegmentState, block: Arc<Block>) {
        if let Some(entry) = self.open.get_mut(&SegmentCache::key(state.log, state.base))
            && entry.is_of(state)
        {
            let is_there =
                |it: &Option<Arc<Block>>| it.as_ref().is_some_and(|it| it.first() == block.first());
            match entry.recent.iter().position(is_there) {
                // After a rewrite it may reach further than the one that was read before.
                Some(n) => entry.recent[n] = Some(block),
                None => {
                    entry.recent.swap(0, 1);
                    entry.recent[0] = Some(block);
                }
            }
        }
    }

    /// Closes a segment that is about to be removed.
    pub fn forget(&mut self, state: &SegmentState) {
        self.open.remove(&SegmentCache::key(state.log, state.base));
    }
}
