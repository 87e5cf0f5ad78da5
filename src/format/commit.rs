//! The payload of a commit frame: a sequence of changes. Either all changes of a commit happen, or none.
//! `docs/FORMAT.md` has the table under "Changes".

use std::borrow::Cow;

use serde::Serialize;

use super::{
    clock::ClockState,
    entity::{Creation, Entity, put_value},
    run,
    wire::{Bytes, Decoded, Head, Malformed, NUMBER_CEILING, put_varint},
};
pub use super::{
    offsets::OffsetRanges,
    run::{HeadShape, PlainRun, Run, begin_run, finish_run},
};
use crate::{
    config::PRIORITY_MAX,
    ids::{CursorId, Due, EntityId, LogId, Offset, Timestamp},
};

const ACK: u8 = 2;
const DEFER: u8 = 3;
const SEEK: u8 = 4;
const CREATE: u8 = 5;
const DELETE: u8 = 6;
const TRIM: u8 = 7;
const PRIORITY: u8 = 8;
const SPILL: u8 = 9;
const UPDATE: u8 = 10;
/// As `DEFER`, with an even time.
const DEFER_EVENLY: u8 = 11;
const CLOCK: u8 = 12;
const ACK_OTHERS: u8 = 13;

/// One change of the store. A commit encodes and applies it. Recovery decodes and applies it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<'a> {
    /// Messages enter a log.
    Run(Run<'a>),
    /// Messages are acked.
    Ack { cursor: CursorId, offsets: OffsetRanges<'a> },
    /// Messages are acked for all ack cursors over a log but one.
    AckOthers { log: LogId, keeper: CursorId, offsets: OffsetRanges<'a> },
    /// A message is delivered later, or again, but not before it is due. `attempts` is the total number of
    /// attempts, so applying the change twice changes nothing.
    Defer { cursor: CursorId, offset: Offset, attempts: u32, due: Due },
    /// The offset of a group in one partition is set.
    Seek { cursor: CursorId, next: Offset },
    /// An entity is created.
    Create(Cow<'a, Creation>),
    /// An entity is deleted, with all entities that belong to it.
    Delete { entity: EntityId },
    /// The records of a stream's partition before an offset are dropped.
    Trim { log: LogId, start: Offset },
    /// Messages that follow each other get a priority.
    Prioritize { cursor: CursorId, first: Offset, count: u64, priority: u8 },
    /// Marks messages as spilled: the queue's delay index holds the times at which they are due.
    Spill { cursor: CursorId, offsets: OffsetRanges<'a> },
    /// An entity has other settings from here on. It holds all settings, not only those that change.
    Update(Cow<'a, Entity>),
    /// Records the clocks.
    Clock(ClockState),
}

impl Change<'_> {
    /// The cursor that the change moves, or whose messages it changes.
    pub fn cursor(&self) -> Option<CursorId> {
        match self {
            Change::Ack { cursor, .. }
            | Change::Defer { cursor, .. }
            | Change::Seek { cursor, .. }
            | Change::Prioritize { cursor, .. }
            | Change::Spill { cursor, .. } => Some(*cursor),
            Change::AckOthers { keeper, .. } => Some(*keeper),
            Change::Run(_)
            | Change::Create(_)
            | Change::Update(_)
            | Change::Delete { .. }
            | Change::Trim { .. }
            | Change::Clock(_) => None,
        }
    }

    /// Appends the change to the payload of a commit.
    #[inline(always)]
    pub fn put(&self, out: &mut Vec<u8>) {
        // Most changes are acks of one message.
        if let Change::Ack { cursor, offsets: OffsetRanges::Listed([offset]) } = self {
            put_numbers(out, ACK, [cursor.0, 1, offset.0, 0]);
        } else {
            self.put_any(out);
        }
    }

    fn put_any(&self, out: &mut Vec<u8>) {
        match self {
            Change::Run(run) => put_run(out, run),
            Change::Ack { cursor, offsets } => {
                put_numbers(out, ACK, [cursor.0]);
                offsets.put(out);
            }
            Change::Defer { cursor, offset, attempts, due } => {
                let kind = if due.is_even() { DEFER_EVENLY } else { DEFER };
                let due = due.time().0;
                put_numbers(out, kind, [cursor.0, offset.0, u64::from(*attempts), due]);
            }
            Change::Seek { cursor, next } => put_numbers(out, SEEK, [cursor.0, next.0]),
            Change::Create(creation) => put_with_length(out, CREATE, &**creation),
            Change::Update(entity) => put_with_length(out, UPDATE, &**entity),
            Change::Delete { entity } => put_numbers(out, DELETE, [entity.0]),
            Change::Trim { log, start } => put_numbers(out, TRIM, [log.0, start.0]),
            Change::Prioritize { cursor, first, count, priority } => {
                put_numbers(out, PRIORITY, [cursor.0, first.0, *count]);
                out.push(*priority);
            }
            Change::Spill { cursor, offsets } => {
                put_numbers(out, SPILL, [cursor.0]);
                offsets.put(out);
            }
            Change::AckOthers { log, keeper, offsets } => {
                put_numbers(out, ACK_OTHERS, [log.0, keeper.0]);
                offsets.put(out);
            }
            Change::Clock(state) => {
                out.push(CLOCK);
                state.put(out);
            }
        }
    }
}

#[inline]
fn put_numbers<const N: usize>(out: &mut Vec<u8>, kind: u8, numbers: [u64; N]) {
    let mut head = Head::new(kind);
    for number in numbers {
        head.varint(number);
    }
    head.append_to(out);
}

fn put_run(out: &mut Vec<u8>, run: &Run<'_>) {
    let begun = begin_run(out, run.log, run.first, run.count as usize, run.timestamp);
    out.extend_from_slice(run.body);
    finish_run(out, begun);
}

fn put_with_length(out: &mut Vec<u8>, kind: u8, it: &impl Serialize) {
    out.push(kind);
    let mut value = Vec::new();
    put_value(&mut value, it);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(&value);
}

/// The changes of one commit. Each item also has the place in the payload at which the change begins.
pub fn changes(payload: &[u8]) -> impl Iterator<Item = Decoded<(usize, Change<'_>)>> {
    let mut input = Bytes::new(payload);
    std::iter::from_fn(move || {
        if input.is_empty() {
            return None;
        }
        let at = input.position();
        let change = take_change(&mut input, at);
        if change.is_err() {
            input = Bytes::new(&[]);
        }
        Some(change.map(|change| (at, change)))
    })
}

fn take_change<'a>(input: &mut Bytes<'a>, at: usize) -> Decoded<Change<'a>> {
    let kind = input.u8()?;
    Ok(match kind {
        run::KIND => Change::Run(Run::take(input, at)?),
        ACK => {
            let cursor = CursorId(input.number()?);
            Change::Ack { cursor, offsets: OffsetRanges::take(input)? }
        }
        DEFER | DEFER_EVENLY => {
            let (cursor, offset) = (CursorId(input.number()?), Offset(input.number()?));
            let attempts = u32::try_from(input.varint()?);
            let attempts = attempts.map_err(|_| Malformed("an impossible number of attempts"))?;
            let due = match (kind, input.varint()?) {
                // An old store may hold a time of day that never comes.
                (DEFER, due) => Due::day(Timestamp(due)),
                (_, due) if due >= Due::FIRST_EVEN.to_stored() => {
                    return Err(Malformed("an impossible due time"));
                }
                (_, due) => Due::even(Timestamp(due)),
            };
            Change::Defer { cursor, offset, attempts, due }
        }
        SPILL => {
            let cursor = CursorId(input.number()?);
            Change::Spill { cursor, offsets: OffsetRanges::take(input)? }
        }
        ACK_OTHERS => {
            let (log, keeper) = (LogId(input.number()?), CursorId(input.number()?));
            Change::AckOthers { log, keeper, offsets: OffsetRanges::take(input)? }
        }
        CLOCK => Change::Clock(ClockState::take(input)?),
        // The application chooses a group's offset, so it may be any number.
        SEEK => Change::Seek { cursor: CursorId(input.number()?), next: Offset(input.varint()?) },
        CREATE => {
            let length = input.length()?;
            Change::Create(Cow::Owned(Creation::decode(input.take(length)?)?))
        }
        UPDATE => {
            let length = input.length()?;
            Change::Update(Cow::Owned(Entity::decode(input.take(length)?)?))
        }
        DELETE => Change::Delete { entity: EntityId(input.number()?) },
        TRIM => Change::Trim { log: LogId(input.number()?), start: Offset(input.number()?) },
        PRIORITY => {
            let (cursor, first) = (CursorId(input.number()?), Offset(input.number()?));
            let (count, priority) = (input.number()?, input.u8()?);
            if count == 0 || first.0.saturating_add(count) > NUMBER_CEILING {
                return Err(Malformed("an impossible range of offsets"));
            }
            if !(1..=PRIORITY_MAX).contains(&priority) {
                return Err(Malformed("an impossible priority"));
            }
            Change::Prioritize { cursor, first, count, priority }
        }
        _ => return Err(Malformed("unknown kind of change")),
    })
}
