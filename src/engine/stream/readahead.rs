//! Readahead: a reader of a log asks the system to load the next bytes before it needs them. It affects speed only.

use crate::{ids::Offset, segment::SegmentReader};

/// The first readahead. It is small, because a reader may need only one record.
const FIRST_BYTES: u64 = 256 << 10;

/// The longest readahead. A disk with several gigabytes a second needs some milliseconds for it.
const MOST_BYTES: u64 = 8 << 20;

/// The readahead of one log.
#[derive(Debug)]
pub struct ReadAhead {
    /// The longest readahead of this log.
    most: u64,
    /// The first offset of the segment that is read, to tell it from others.
    segment: Option<Offset>,
    /// The position in the segment up to which the system was asked to load.
    asked: u64,
    /// How many bytes were requested last.
    window: u64,
    /// Whether the next segment was requested, and its first offset.
    has_requested_next: bool,
    next: Option<Offset>,
}

impl ReadAhead {
    /// The readahead of one of `logs` logs that a reader reads in turn. Each log gets a share, so that one log
    /// does not evict the bytes of another.
    pub fn new(logs: usize) -> ReadAhead {
        let most = (4 * MOST_BYTES / logs.max(1) as u64).clamp(FIRST_BYTES, MOST_BYTES);
        ReadAhead {
            most,
            segment: None,
            asked: 0,
            window: 0,
            has_requested_next: false,
            next: None,
        }
    }

    /// Whether the end of a segment is so near that the next one should be opened. Returns `true` once.
    pub fn wants_next(&mut self, reader: &SegmentReader, index: usize) -> bool {
        let table = reader.table();
        let left = table.last().map_or(0, |last| last.position - table[index].position);
        let near = left < self.most && self.window >= self.most && !self.has_requested_next;
        self.has_requested_next |= near;
        near
    }

    /// Notes that a block is about to be read.
    pub fn go_on(&mut self, reader: &SegmentReader, index: usize) {
        let table = reader.table();
        let (first, block) = (table[0].first, &table[index]);
        if self.segment != Some(first) {
            // If it is the expected next segment, its begin was requested before.
            let expected = self.next.take() == Some(first);
            self.asked = if expected { self.most } else { block.position };
            self.segment = Some(first);
            self.has_requested_next = false;
        }
        let behind = block.position + u64::from(block.length);
        if behind < self.asked.saturating_sub(self.window / 2) {
            return;
        }
        self.window = (self.window * 2).clamp(FIRST_BYTES, self.most);
        let from = self.asked.max(behind);
        reader.expect(from, self.window);
        self.asked = from + self.window;
    }

    /// Goes on with the segment behind this one.
    pub fn go_on_with(&mut self, next: &SegmentReader) {
        next.expect(0, self.most);
        self.next = next.table().first().map(|block| block.first);
    }
}
