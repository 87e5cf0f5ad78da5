//! The metalog: its file header, and the entries that its frames hold. `docs/FORMAT.md` has the
//! tables under "Metalog files".

use serde::{Deserialize, Serialize};

use super::{
    clock::ClockState,
    entity::{Entity, put_value, take_first},
    header::{self, Magic},
    lives::Lives,
    part::PART_HEADER_BYTES,
    segment::SEGMENT_HEADER_BYTES,
    wire::{ALIGN, Decoded, Malformed, NUMBER_CEILING, Seed, check_numbers},
};
use crate::ids::{CursorId, Due, EntityId, LogId, Lsn, Offset, StoreId, Timestamp};

pub const META_HEADER_BYTES: u64 = 64;
const MAGIC: Magic = *b"PHmetalg";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaHeader {
    pub store: StoreId,
    /// The file's number, which is also in its name. The newest metalog has the largest number.
    pub number: u64,
}

impl MetaHeader {
    pub fn seed(&self) -> Seed {
        Seed::new(self.store, &[u64::MAX, self.number])
    }

    pub fn encode(&self) -> Vec<u8> {
        header::encode(MAGIC, self.store, &[self.number], META_HEADER_BYTES)
    }

    pub fn decode(bytes: &[u8]) -> Decoded<MetaHeader> {
        let (store, [number]) = header::decode(bytes, MAGIC, META_HEADER_BYTES)?;
        check_numbers([number])?;
        Ok(MetaHeader { store, number })
    }
}

impl Place {
    /// Where the first block of the segment stands in the file.
    pub fn blocks_at(self) -> u64 {
        match self {
            Place::Former | Place::Own => SEGMENT_HEADER_BYTES,
            Place::Part(at) => at.saturating_add(PART_HEADER_BYTES),
        }
    }
}

/// One entry: the newest value of its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetaEntry {
    /// Key: the entity's id.
    Entity(Entity),
    /// The entity was deleted, and its logs and cursors with it.
    EntityGone(EntityId),
    /// Key: the log.
    Log(LogState),
    /// Key: the cursor. That of a cursor with a filter has an index of its own.
    Cursor(CursorState),
    /// Key: the cursor and the chunk's number.
    Chunk(ChunkState),
    /// Key: the log and the segment's base. With the lives of its messages it has an index of its own.
    Segment(SegmentState),
    /// The segment was dropped, or another took its place.
    SegmentGone { log: LogId, base: Offset },
    /// All entries before this one, from this file's start, are one consistent state.
    Checkpoint(CheckpointState),
    /// The clocks. There is one.
    Clock(ClockState),
}

/// The indexes of the entries of segments with the lives of their messages. Behind the index stand the fields of both, and
/// of a part its position.
const FORMER_SEGMENT: u8 = 9;
const OWN_SEGMENT: u8 = 10;
const PART: u8 = 11;
/// The index of the entry of a cursor with a filter. Behind its fields stands where it has seen the log.
const FILTERED_CURSOR: u8 = 12;

/// The place of a segment on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// A file in the directory of its log, from version 1 or 2. Nothing is added to it.
    #[default]
    Former,
    /// A file of its own. It can be gone on with until it is sealed.
    Own,
    /// A part of a shared file. The part's header stands at this position.
    Part(u64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogState {
    pub log: LogId,
    /// The first offset that was not trimmed.
    pub start: Offset,
    /// Messages below are in segments, or dead.
    pub moved: Offset,
    /// The offset that the next message gets.
    pub next: Offset,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CursorState {
    pub cursor: CursorId,
    /// All messages below are acked. For a group, the offset at which it goes on.
    pub floor: Offset,
    /// Of a subscription with a filter: the offset behind the last message that matched. Messages from there on are acked.
    #[serde(skip)]
    pub seen: Option<Offset>,
}

/// The number of offsets in one chunk of a cursor's ack state.
const CHUNK_OFFSETS: u64 = 1 << 16;
/// Attempts have up to 32 bits, and priorities up to 4.
const ATTEMPTS_DIGITS_MAX: usize = 32;
const PRIORITY_DIGITS_MAX: usize = 4;

/// A chunk of a cursor's ack state above its floor: the state of 65,536 offsets in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkState {
    pub cursor: CursorId,
    /// The chunk begins at this number times 65,536.
    pub chunk: u64,
    /// Acked offsets, relative to the chunk's begin: a bitmap in the portable Roaring format.
    pub acked: Vec<u8>,
    /// Attempts per offset, as the binary digits of the count: one bitmap a digit.
    pub attempts: Vec<Vec<u8>>,
    /// Priorities per offset, in the same way.
    pub priorities: Vec<Vec<u8>>,
    /// Delayed messages and their due times. The offsets are relative to the chunk's begin, and grow.
    pub due: Vec<(u16, Due)>,
    /// The spilled messages: a bitmap.
    pub spilled: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentState {
    pub log: LogId,
    pub base: Offset,
    /// The number of the file. In a [`Place::Former`] it counts the rewrites of the segment with this base. Of two segments
    /// with the same messages the one with the higher number is newer.
    pub generation: u64,
    /// The end of the segment's range, which begins at its base. Messages of the range that the segment does not
    /// hold are dead.
    pub end: Offset,
    /// The position in the file at which its blocks end. Behind them is the footer, uncommitted data, or another part.
    pub bytes: u64,
    pub records: u64,
    pub max_time: Timestamp,
    /// Nothing is added to it. A file of its own then has a footer.
    pub sealed: bool,
    /// The lives of its messages. `None` if a build of version 1 has written it.
    #[serde(skip)]
    pub lives: Option<Lives>,
    #[serde(skip)]
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Recovery reads the journal from here.
    pub replay_from: Lsn,
    /// Before this position, only messages of the journal are replayed. The entries reflect all other changes
    /// before it.
    pub reflects: Lsn,
    /// The next free id.
    pub next_id: EntityId,
    /// How many entries belong to this checkpoint: the entries since the checkpoint before.
    pub entries: u64,
}

impl MetaEntry {
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            MetaEntry::Segment(state) => state.put(out, self),
            MetaEntry::Cursor(state @ CursorState { seen: Some(seen), .. }) => {
                out.push(FILTERED_CURSOR);
                put_value(out, &(state, seen));
            }
            _ => put_value(out, self),
        }
    }

    /// The only entry in these bytes.
    pub fn decode(bytes: &[u8]) -> Decoded<MetaEntry> {
        match MetaEntry::decode_first(bytes)? {
            (entry, []) => Ok(entry),
            _ => Err(Malformed("bytes are left over behind a value")),
        }
    }

    /// The first entry in these bytes, and the bytes behind it.
    pub fn decode_first(bytes: &[u8]) -> Decoded<(MetaEntry, &[u8])> {
        let segment = |state: SegmentState, lives, place| {
            MetaEntry::Segment(SegmentState { lives: Some(lives), place, ..state })
        };
        let (entry, rest) = match bytes.split_first() {
            Some((&FORMER_SEGMENT, fields)) => {
                let ((state, lives), rest) = take_first(fields)?;
                (segment(state, lives, Place::Former), rest)
            }
            Some((&OWN_SEGMENT, fields)) => {
                let ((state, lives), rest) = take_first(fields)?;
                (segment(state, lives, Place::Own), rest)
            }
            Some((&PART, fields)) => {
                let ((state, lives, at), rest) = take_first(fields)?;
                (segment(state, lives, Place::Part(at)), rest)
            }
            Some((&FILTERED_CURSOR, fields)) => {
                let ((state, seen), rest): ((CursorState, Offset), _) = take_first(fields)?;
                (MetaEntry::Cursor(CursorState { seen: Some(seen), ..state }), rest)
            }
            _ => take_first(bytes)?,
        };
        entry.check()?;
        Ok((entry, rest))
    }

    fn check(&self) -> Decoded<()> {
        match self {
            MetaEntry::Entity(entity) => entity.check(),
            MetaEntry::EntityGone(id) => check_numbers([id.0]),
            MetaEntry::Log(it) => check_numbers([it.log.0, it.start.0, it.moved.0, it.next.0]),
            // The application chooses a group's offset, so it may be any number.
            MetaEntry::Cursor(CursorState { cursor, seen: None, .. }) => check_numbers([cursor.0]),
            MetaEntry::Cursor(CursorState { cursor, floor, seen: Some(seen) }) => {
                match floor > seen {
                    true => Err(Malformed("a cursor has not seen what it has acked")),
                    false => check_numbers([cursor.0, seen.0]),
                }
            }
            MetaEntry::Chunk(it) => it.check(),
            MetaEntry::Segment(it) => it.check(),
            MetaEntry::SegmentGone { log, base } => check_numbers([log.0, base.0]),
            MetaEntry::Checkpoint(it) => it.check(),
            MetaEntry::Clock(it) => it.check(),
        }
    }
}

/// The entries in the payload of a frame, one behind the other. There is at least one. Ends behind the first one that does
/// not decode.
pub fn entries(payload: &[u8]) -> impl Iterator<Item = Decoded<MetaEntry>> {
    let mut rest = Some(payload);
    std::iter::from_fn(move || {
        Some(MetaEntry::decode_first(rest.take()?).map(|(entry, behind)| {
            rest = Some(behind).filter(|behind| !behind.is_empty());
            entry
        }))
    })
}

impl ChunkState {
    fn check(&self) -> Decoded<()> {
        check_numbers([self.cursor.0])?;
        let has_too_many = self.attempts.len() > ATTEMPTS_DIGITS_MAX
            || self.priorities.len() > PRIORITY_DIGITS_MAX;
        if self.chunk >= NUMBER_CEILING / CHUNK_OFFSETS || has_too_many {
            return Err(Malformed("an ack state's chunk is impossible"));
        }
        if !self.due.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Malformed("messages that are due are out of order"));
        }
        Ok(())
    }
}

impl SegmentState {
    /// Where its first block stands in the file.
    pub fn blocks_at(&self) -> u64 {
        self.place.blocks_at()
    }

    /// How many bytes of the file are its own, but for a footer.
    pub fn len(&self) -> u64 {
        match self.place {
            Place::Former | Place::Own => self.bytes,
            Place::Part(at) => self.bytes - at,
        }
    }

    /// Whether a footer stands behind its blocks.
    pub fn has_footer(&self) -> bool {
        self.sealed && !matches!(self.place, Place::Part(_))
    }

    /// Whether messages can still be added to it.
    pub fn is_open(&self) -> bool {
        !self.sealed && self.place == Place::Own
    }

    fn put(&self, out: &mut Vec<u8>, entry: &MetaEntry) {
        let lives = self.lives.unwrap_or(Lives::UNKNOWN);
        match self.place {
            Place::Former if self.lives.is_none() => put_value(out, entry),
            Place::Former => {
                out.push(FORMER_SEGMENT);
                put_value(out, &(self, lives));
            }
            Place::Own => {
                out.push(OWN_SEGMENT);
                put_value(out, &(self, lives));
            }
            Place::Part(at) => {
                out.push(PART);
                let at = if seeded!(PartIsNamedElsewhere) { at + 8 } else { at };
                put_value(out, &(self, lives, at));
            }
        }
    }

    fn check(&self) -> Decoded<()> {
        check_numbers([self.log.0, self.generation, self.end.0, self.bytes])?;
        let offsets = self.end.0.checked_sub(self.base.0);
        if offsets.is_none_or(|offsets| self.records > offsets) {
            return Err(Malformed("a segment's bounds contradict each other"));
        }
        if self.bytes < self.blocks_at() || !self.bytes.is_multiple_of(ALIGN) {
            return Err(Malformed("a segment's length is impossible"));
        }
        if let Place::Part(at) = self.place
            && (at < SEGMENT_HEADER_BYTES || !at.is_multiple_of(ALIGN) || !self.sealed)
        {
            return Err(Malformed("a part of a shared segment file is impossible"));
        }
        Ok(())
    }
}

impl CheckpointState {
    fn check(&self) -> Decoded<()> {
        check_numbers([self.reflects.0, self.next_id.0])?;
        if self.replay_from > self.reflects || self.next_id == EntityId(0) {
            return Err(Malformed("a checkpoint contradicts itself"));
        }
        Ok(())
    }
}
