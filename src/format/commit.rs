//! The payload of a commit frame: a sequence of changes, all of which happen, or none.
//! `docs/FORMAT.md` has the table under "Changes".

use std::ops::Range;

use super::{
    entity::{Creation, put_value},
    record::{RecordSpans, take_record},
    wire::{Bytes, Decoded, Head, Malformed, NUMBER_CEILING, put_varint},
};
use crate::{
    config::{PRIORITY_MAX, RUN_MESSAGES_MAX},
    ids::{CursorId, LogId, Offset, Timestamp},
};

const RUN: u8 = 1;
const ACK: u8 = 2;
const DEFER: u8 = 3;
const SEEK: u8 = 4;
const CREATE: u8 = 5;
const DELETE: u8 = 6;
const TRIM: u8 = 7;
const PRIORITY: u8 = 8;
const SHELVE: u8 = 9;

/// One change of the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<'a> {
    /// Messages enter a log.
    Run(Run<'a>),
    /// A consumer is done with messages.
    Ack { cursor: CursorId, offsets: OffsetRanges<'a> },
    /// A message is to be delivered later, or once more: not before it is due. `attempts` says how
    /// often it was tried by now, so applying the change twice changes nothing.
    Defer { cursor: CursorId, offset: Offset, attempts: u32, due: Timestamp },
    /// A group's offset in one partition is set.
    Seek { cursor: CursorId, next: Offset },
    /// Something is created.
    Create(Creation),
    /// Something is deleted, with all that belongs to it.
    Delete { entity: u64 },
    /// What lies before an offset of a stream's partition is given up.
    Trim { log: LogId, start: Offset },
    /// Messages that follow each other are to be delivered before those of lower priorities.
    Prioritize { cursor: CursorId, first: Offset, count: u64, priority: u8 },
    /// When delayed messages are due is said by the queue's timetable from now on.
    Shelve { cursor: CursorId, offsets: OffsetRanges<'a> },
}

/// Up to [`RUN_MESSAGES_MAX`] messages that follow each other in one log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run<'a> {
    pub log: LogId,
    pub first: Offset,
    pub count: u32,
    pub timestamp: Timestamp,
    /// The records.
    pub body: &'a [u8],
    /// Where the body begins, counted from the run's first byte.
    pub body_at: usize,
}

impl<'a> Run<'a> {
    /// Decodes a run from bytes that begin with it.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Decoded<Run<'a>> {
        let mut input = Bytes::new(bytes);
        if input.u8()? != RUN {
            return Err(Malformed("no run at this position"));
        }
        Run::take(&mut input, 0)
    }

    #[inline]
    fn take(input: &mut Bytes<'a>, started: usize) -> Decoded<Run<'a>> {
        let log = LogId(input.number()?);
        let first = Offset(input.number()?);
        let count = input.varint()?;
        if count == 0 || count > RUN_MESSAGES_MAX as u64 {
            return Err(Malformed("a run with an impossible number of messages"));
        }
        let timestamp = Timestamp(input.varint()?);
        let length = input.u32()? as usize;
        let body_at = input.position() - started;
        let body = input.take(length)?;
        Ok(Run { log, first, count: count as u32, timestamp, body, body_at })
    }

    /// The offset behind the last message.
    #[inline]
    pub fn end(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count))
    }

    /// The run's length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.body_at + self.body.len()
    }

    /// The records, in the order of their offsets.
    pub fn records(&self) -> impl Iterator<Item = Decoded<(Offset, RecordSpans)>> + use<'a> {
        let Run { first, count, timestamp, body, .. } = *self;
        let mut at = 0;
        (0..u64::from(count)).map(move |n| {
            let spans = take_record(body, at, timestamp)?;
            at = spans.end();
            if n + 1 == u64::from(count) && at != body.len() {
                return Err(Malformed("a run's records do not fill it"));
            }
            Ok((Offset(first.0 + n), spans))
        })
    }

    /// The record with this offset.
    #[inline]
    pub fn record(&self, offset: Offset) -> Decoded<RecordSpans> {
        let mut at = 0;
        for n in self.first.0..self.end().0 {
            let spans = take_record(self.body, at, self.timestamp)?;
            if n == offset.0 {
                return Ok(spans);
            }
            at = spans.end();
        }
        Err(Malformed("a run does not hold the offset"))
    }
}

/// Begins a run of up to [`RUN_MESSAGES_MAX`] records, which are then put behind it. Returns what
/// [`finish_run`] wants.
#[inline]
pub fn begin_run(
    out: &mut Vec<u8>,
    log: LogId,
    first: Offset,
    count: usize,
    timestamp: Timestamp,
) -> usize {
    debug_assert!((1..=RUN_MESSAGES_MAX).contains(&count));
    let mut head = Head::new(RUN);
    head.varint(log.0);
    head.varint(first.0);
    head.varint(count as u64);
    head.varint(timestamp.0);
    out.extend_from_slice(head.bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    length_at
}

/// Says how long the run is, once all its records are there.
#[inline]
pub fn finish_run(out: &mut [u8], length_at: usize) {
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

/// Offsets, sorted, as ranges: the distance to the range before, and the length less one.
#[derive(Clone, Copy, Debug)]
pub struct OffsetRanges<'a> {
    count: u64,
    input: Bytes<'a>,
    at: u64,
}

impl PartialEq for OffsetRanges<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.eq_ranges(other)
    }
}

impl OffsetRanges<'_> {
    fn eq_ranges(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl Iterator for OffsetRanges<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        // The bytes were walked once when the change was decoded.
        let start = self.at.checked_add(self.input.varint().ok()?)?;
        let end = start.checked_add(self.input.varint().ok()?)?.checked_add(1)?;
        self.at = end;
        Some(start..end)
    }
}

/// Appends an ack of sorted, distinct offsets.
pub fn put_ack(out: &mut Vec<u8>, cursor: CursorId, offsets: &[Offset]) {
    let mut head = Head::new(ACK);
    head.varint(cursor.0);
    if let [offset] = offsets {
        for number in [1, offset.0, 0] {
            head.varint(number);
        }
        out.extend_from_slice(head.bytes());
        return;
    }
    out.extend_from_slice(head.bytes());
    put_offsets(out, offsets);
}

/// Appends that the timetable has sorted, distinct offsets.
pub fn put_shelve(out: &mut Vec<u8>, cursor: CursorId, offsets: &[Offset]) {
    out.push(SHELVE);
    put_varint(out, cursor.0);
    put_offsets(out, offsets);
}

fn put_offsets(out: &mut Vec<u8>, offsets: &[Offset]) {
    debug_assert!(offsets.is_sorted_by(|a, b| a < b));
    let ranges = || offsets.chunk_by(|a, b| a.0 + 1 == b.0);
    put_varint(out, ranges().count() as u64);
    let mut at = 0;
    for range in ranges() {
        put_varint(out, range[0].0 - at);
        put_varint(out, range.len() as u64 - 1);
        at = range[range.len() - 1].0 + 1;
    }
}

/// Appends an ack of ranges that are sorted and do not touch.
pub fn put_ack_ranges(out: &mut Vec<u8>, cursor: CursorId, ranges: &[Range<u64>]) {
    debug_assert!(ranges.is_sorted_by(|a, b| a.end < b.start));
    out.push(ACK);
    put_varint(out, cursor.0);
    put_varint(out, ranges.len() as u64);
    let mut at = 0;
    for range in ranges {
        put_varint(out, range.start - at);
        put_varint(out, range.end - range.start - 1);
        at = range.end;
    }
}

pub fn put_defer(
    out: &mut Vec<u8>,
    cursor: CursorId,
    offset: Offset,
    attempts: u32,
    due: Timestamp,
) {
    let mut head = Head::new(DEFER);
    for number in [cursor.0, offset.0, u64::from(attempts), due.0] {
        head.varint(number);
    }
    out.extend_from_slice(head.bytes());
}

pub fn put_seek(out: &mut Vec<u8>, cursor: CursorId, next: Offset) {
    out.push(SEEK);
    put_varint(out, cursor.0);
    put_varint(out, next.0);
}

pub fn put_creation(out: &mut Vec<u8>, creation: &Creation) {
    out.push(CREATE);
    let mut value = Vec::new();
    put_value(&mut value, creation);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(&value);
}

pub fn put_delete(out: &mut Vec<u8>, entity: u64) {
    out.push(DELETE);
    put_varint(out, entity);
}

pub fn put_trim(out: &mut Vec<u8>, log: LogId, start: Offset) {
    out.push(TRIM);
    put_varint(out, log.0);
    put_varint(out, start.0);
}

pub fn put_priority(out: &mut Vec<u8>, cursor: CursorId, first: Offset, count: u64, priority: u8) {
    out.push(PRIORITY);
    put_varint(out, cursor.0);
    put_varint(out, first.0);
    put_varint(out, count);
    out.push(priority);
}

/// The changes of one commit. Each item also says where in the payload the change begins.
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
    Ok(match input.u8()? {
        RUN => Change::Run(Run::take(input, at)?),
        ACK => {
            let cursor = CursorId(input.number()?);
            Change::Ack { cursor, offsets: take_ranges(input)? }
        }
        DEFER => {
            let (cursor, offset) = (CursorId(input.number()?), Offset(input.number()?));
            let attempts = u32::try_from(input.varint()?);
            let attempts = attempts.map_err(|_| Malformed("an impossible number of attempts"))?;
            Change::Defer { cursor, offset, attempts, due: Timestamp(input.varint()?) }
        }
        SHELVE => {
            let cursor = CursorId(input.number()?);
            Change::Shelve { cursor, offsets: take_ranges(input)? }
        }
        // Where a group goes on is for the application to say: it may be any number.
        SEEK => Change::Seek { cursor: CursorId(input.number()?), next: Offset(input.varint()?) },
        CREATE => {
            let length = input.length()?;
            Change::Create(Creation::decode(input.take(length)?)?)
        }
        DELETE => Change::Delete { entity: input.number()? },
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

fn take_ranges<'a>(input: &mut Bytes<'a>) -> Decoded<OffsetRanges<'a>> {
    let count = input.varint()?;
    let ranges = OffsetRanges { count, input: *input, at: 0 };
    let mut at = 0u64;
    for n in 0..count {
        let (gap, more) = (input.number()?, input.number()?);
        if n > 0 && gap == 0 {
            return Err(Malformed("ranges of offsets that are one"));
        }
        // Each of the three is below the ceiling, so the sum does not overflow.
        at += gap + more + 1;
        if at > NUMBER_CEILING {
            return Err(Malformed("an impossible range of offsets"));
        }
    }
    Ok(ranges)
}
