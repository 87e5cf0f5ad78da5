//! Segments that are open for reading. Their number is limited. The least recently used one is
//! closed first.

use std::sync::Arc;

use crate::{
    error::Result,
    format::meta::SegmentState,
    ids::{IdMap, LogId, Offset},
    segment::{Block, SegmentReader, Segments},
};

#[derive(Debug)]
pub struct SegmentCache {
    open: IdMap<u64, Entry>,
    most: usize,
    clock: u64,
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
    /// The block that was read last. The next message that a consumer wants is mostly in it.
    recent: Option<Block>,
}

impl Entry {
    fn is_of(&self, state: &SegmentState) -> bool {
        (self.log, self.base, self.generation, self.bytes)
            == (state.log, state.base, state.generation, state.bytes)
    }
}

impl SegmentCache {
    pub fn new(most: usize) -> SegmentCache {
        SegmentCache { open: IdMap::default(), most, clock: 0 }
    }

    fn key(log: LogId, base: Offset) -> u64 {
        // A collision costs a reopening, no more: an entry is compared before it is used.
        log.0.rotate_left(40) ^ base.0
    }

    pub fn reader(
        &mut self,
        segments: &Segments,
        state: &SegmentState,
    ) -> Result<Arc<SegmentReader>> {
        self.clock += 1;
        let key = SegmentCache::key(state.log, state.base);
        if let Some(entry) = self.open.get_mut(&key)
            && entry.is_of(state)
        {
            entry.used = self.clock;
            return Ok(Arc::clone(&entry.reader));
        }
        let reader = Arc::new(SegmentReader::open(segments, state)?);
        if self.open.len() >= self.most && !self.open.contains_key(&key) {
            let oldest = self.open.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.open.remove(&key));
        }
        let entry = Entry {
            reader: Arc::clone(&reader),
            log: state.log,
            base: state.base,
            generation: state.generation,
            bytes: state.bytes,
            used: self.clock,
            recent: None,
        };
        self.open.insert(key, entry);
        Ok(reader)
    }

    /// The block of a segment that was read last, if it holds the offset.
    pub fn recent(&self, state: &SegmentState, offset: Offset) -> Option<Block> {
        let entry = self.open.get(&SegmentCache::key(state.log, state.base))?;
        let block = entry.recent.as_ref().filter(|_| entry.is_of(state))?;
        (block.first()..=block.last()).contains(&offset).then(|| block.clone())
    }

    /// Keeps a block for the next read of this segment.
    pub fn remember(&mut self, state: &SegmentState, block: Block) {
        if let Some(entry) = self.open.get_mut(&SegmentCache::key(state.log, state.base))
            && entry.is_of(state)
        {
            entry.recent = Some(block);
        }
    }

    /// Closes a segment that is about to be removed.
    pub fn forget(&mut self, state: &SegmentState) {
        self.open.remove(&SegmentCache::key(state.log, state.base));
    }
}
