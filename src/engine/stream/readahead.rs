//! Reading ahead: whoever reads a log in order has the system fetch what comes next, so that it is
//! there by the time it is asked for. Nothing but speed rests on it.

use crate::{ids::Offset, segment::SegmentReader};

/// How far ahead is read at first: who reads one record only should not pay for many.
const FIRST_BYTES: u64 = 256 << 10;

/// How far ahead is read at most. A disk of several gigabytes a second has some milliseconds for it.
const MOST_BYTES: u64 = 8 << 20;

/// How far one log is read ahead.
#[derive(Debug)]
pub struct ReadAhead {
    /// How far it is read ahead at most.
    most: u64,
    /// The first offset of the segment that is read, to tell it from others.
    segment: Option<Offset>,
    /// What of the segment was asked for, as a position.
    asked: u64,
    /// How much was asked for last.
    window: u64,
    /// Whether the segment behind it was looked for, and its first offset.
    has_looked: bool,
    next: Option<Offset>,
}

impl ReadAhead {
    /// For a reader that reads so many logs in turn: what it reads ahead should not push out what it
    /// has read ahead.
    pub fn new(logs: usize) -> ReadAhead {
        let most = (4 * MOST_BYTES / logs.max(1) as u64).clamp(FIRST_BYTES, MOST_BYTES);
        ReadAhead { most, segment: None, asked: 0, window: 0, has_looked: false, next: None }
    }

    /// Whether the end of a segment is so near that the next one should be opened. Says so once.
    pub fn wants_next(&mut self, reader: &SegmentReader, index: usize) -> bool {
        let table = reader.table();
        let left = table.last().map_or(0, |last| last.position - table[index].position);
        let near = left < self.most && self.window >= self.most && !self.has_looked;
        self.has_looked |= near;
        near
    }

    /// Takes note that a block is about to be read.
    pub fn go_on(&mut self, reader: &SegmentReader, index: usize) {
        let table = reader.table();
        let (first, block) = (table[0].first, &table[index]);
        if self.segment != Some(first) {
            // Where it is the next one, its begin was asked for before.
            let expected = self.next.take() == Some(first);
            self.asked = if expected { self.most } else { block.position };
            self.segment = Some(first);
            self.has_looked = false;
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
