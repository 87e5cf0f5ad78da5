//! The header of a journal file: its first page. The page is never written again.
//! `docs/FORMAT.md` has the table under "Journal files".

use super::{
    header::{self, Magic},
    wire::{Decoded, Malformed, NUMBER_CEILING, Seed},
};
use crate::ids::{Lsn, StoreId};

/// Bytes before a journal file's first frame.
pub const JOURNAL_HEADER_BYTES: u64 = 4096;
/// Files begin and end at multiples of this.
const PAGE_BYTES: u64 = 4096;
const MAGIC: Magic = *b"PHjournl";

/// How a journal file continues the file before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The store's first file.
    First,
    /// The previous file ends where this one starts, with a roll frame.
    Roll,
    /// A recovery has begun this file. The file that starts at `start` is valid up to `end`. The recovery cut
    /// everything behind that, also in files in between.
    Recovery { start: Lsn, end: Lsn },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    pub store: StoreId,
    /// The position of this file's first byte, which is its name, too.
    pub start: Lsn,
    /// The file's length.
    pub capacity: u64,
    /// The epoch: the number of recoveries, from 1 on. It is part of every frame's checksum. So a frame that a
    /// recovery has cut never verifies as a frame of the next epoch at the same position.
    pub epoch: u64,
    /// Everything before this position was durable when the file was prepared.
    pub watermark: Lsn,
    pub link: Link,
}

impl JournalHeader {
    pub fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.capacity)
    }

    pub fn first_frame(&self) -> Lsn {
        Lsn(self.start.0 + JOURNAL_HEADER_BYTES)
    }

    pub fn frame_seed(&self) -> Seed {
        Seed::new(self.store, &[self.epoch])
    }

    pub fn encode(&self) -> Vec<u8> {
        let (kind, from, to) = match self.link {
            Link::First => (0, Lsn(0), Lsn(0)),
            Link::Roll => (1, Lsn(0), Lsn(0)),
            Link::Recovery { start, end } => (2, start, end),
        };
        let fields =
            [self.start.0, self.capacity, self.epoch, self.watermark.0, kind, from.0, to.0];
        header::encode(MAGIC, self.store, &fields, JOURNAL_HEADER_BYTES)
    }

    pub fn decode(page: &[u8]) -> Decoded<JournalHeader> {
        let (store, fields) = header::decode(page, MAGIC, JOURNAL_HEADER_BYTES)?;
        let [start, capacity, epoch, watermark, kind, from, to] = fields;
        let is_page = |n: u64| n.is_multiple_of(PAGE_BYTES);
        let end = start.checked_add(capacity).filter(|end| *end < NUMBER_CEILING);
        if end.is_none() || capacity < JOURNAL_HEADER_BYTES || !is_page(start) || !is_page(capacity)
        {
            return Err(Malformed("a journal file's place or capacity is impossible"));
        }
        if watermark > start || epoch == 0 || epoch >= NUMBER_CEILING {
            return Err(Malformed("a journal file's header contradicts itself"));
        }
        let link = decode_link(start, kind, from, to)?;
        let (start, watermark) = (Lsn(start), Lsn(watermark));
        Ok(JournalHeader { store, start, capacity, epoch, watermark, link })
    }
}

/// Decodes a link. A link must lead back, so that a walk along links ends.
fn decode_link(start: u64, kind: u64, from: u64, to: u64) -> Decoded<Link> {
    match (kind, from, to) {
        (0, 0, 0) if start == 0 => Ok(Link::First),
        (1, 0, 0) if start > 0 => Ok(Link::Roll),
        (2, ..) => {
            let cut_within = from < to && to - from >= JOURNAL_HEADER_BYTES && to <= start;
            let link = Link::Recovery { start: Lsn(from), end: Lsn(to) };
            if cut_within { Ok(link) } else { Err(Malformed("a link that does not lead back")) }
        }
        (0 | 1, ..) => Err(Malformed("a link that contradicts itself")),
        _ => Err(Malformed("unknown link to the previous journal file")),
    }
}
