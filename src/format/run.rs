//! Runs: messages that follow each other in one log. This is by far the most frequent change.
//! `docs/FORMAT.md` has the table under "Changes".

use super::{
    record::{PLAIN, RecordSpans, take_record},
    wire::{Bytes, Decoded, Head, Malformed, NUMBER_CEILING, varint_len},
};
use crate::{
    config::RUN_MESSAGES_MAX,
    ids::{LogId, Offset, Timestamp},
};

/// The first byte of a run.
pub(super) const KIND: u8 = 1;

/// Up to [`RUN_MESSAGES_MAX`] messages that follow each other in one log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run<'a> {
    pub log: LogId,
    pub first: Offset,
    pub count: u32,
    pub timestamp: Timestamp,
    /// The records.
    pub body: &'a [u8],
    /// The place of the body, counted from the run's first byte.
    pub body_at: usize,
}

impl<'a> Run<'a> {
    /// Decodes a run from bytes that begin with it.
    #[inline(always)]
    pub fn decode(bytes: &'a [u8]) -> Decoded<Run<'a>> {
        let mut input = Bytes::new(bytes);
        if input.u8()? != KIND {
            return Err(Malformed("no run at this position"));
        }
        Run::take(&mut input, 0)
    }

    #[inline(always)]
    pub(super) fn take(input: &mut Bytes<'a>, started: usize) -> Decoded<Run<'a>> {
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
        self.record_behind((self.first, 0), offset)
    }

    /// The record with this offset, which is not before the record of an offset that begins at `at`.
    #[inline]
    pub fn record_behind(
        &self,
        (before, mut at): (Offset, usize),
        offset: Offset,
    ) -> Decoded<RecordSpans> {
        for n in before.0..self.end().0 {
            let spans = take_record(self.body, at, self.timestamp)?;
            if n == offset.0 {
                return Ok(spans);
            }
            at = spans.end();
        }
        Err(Malformed("a run does not hold the offset"))
    }
}

/// The shape of the head of a run of one message. The run behind it mostly has the same head, but for the last digit of its
/// offset: then its parts are known without being decoded.
#[derive(Clone, Copy, Debug)]
pub struct HeadShape {
    /// The bits of that digit, in the first eight bytes.
    digit_at: u32,
    /// The bytes before the length of the records.
    len: usize,
}

/// Heads are compared in words of eight bytes.
type HeadWords = [u64; 3];

impl HeadShape {
    const LEN_MAX: usize = size_of::<HeadWords>();

    /// `None` if the run has more messages, or a head that is too long.
    #[inline]
    pub fn of(run: &Run<'_>) -> Option<HeadShape> {
        let (digit, len) = (1 + varint_len(run.log.0), run.body_at - 4);
        let is_short = digit < 8 && len <= HeadShape::LEN_MAX;
        (run.count == 1 && is_short).then_some(HeadShape { digit_at: 8 * digit as u32, len })
    }

    /// Where the records of a run begin and end, if it is the next one behind the run with this shape: of one message, at the
    /// same time. `None` if it is another one, or if it is damaged: [`Run::decode`] tells.
    #[inline]
    pub fn next(self, before: &[u8], run: &[u8]) -> Option<(usize, usize)> {
        let (old, new) = (words(before)?, words(run)?);
        let digit = (old[0] >> self.digit_at) & 0xFF;
        if digit & 0x7F == 0x7F {
            return None;
        }
        // What differs between the two heads, and what should.
        let differs = [
            old[0] ^ new[0] ^ ((digit ^ (digit + 1)) << self.digit_at),
            old[1] ^ new[1],
            old[2] ^ new[2],
        ];
        let bits = |n: usize| (8 * self.len).saturating_sub(64 * n).min(64);
        let within = |n: usize| differs[n].unbounded_shl(64 - bits(n) as u32);
        if within(0) | within(1) | within(2) != 0 {
            return None;
        }
        let length = run.get(self.len..)?.first_chunk().copied().map(u32::from_le_bytes)?;
        let body_at = self.len + 4;
        let end = body_at + length as usize;
        (end <= run.len()).then_some((body_at, end))
    }
}

#[inline]
fn words(bytes: &[u8]) -> Option<HeadWords> {
    let bytes: &[u8; HeadShape::LEN_MAX] = bytes.first_chunk()?;
    let word = |n: usize| bytes[8 * n..].first_chunk().copied().map(u64::from_le_bytes);
    Some([word(0)?, word(1)?, word(2)?])
}

/// Begins a run of up to [`RUN_MESSAGES_MAX`] records. The caller appends the records. Returns the `length_at` of
/// [`finish_run`].
#[inline]
pub fn begin_run(
    out: &mut Vec<u8>,
    log: LogId,
    first: Offset,
    count: usize,
    timestamp: Timestamp,
) -> usize {
    let mut head = head(log, first, count, timestamp);
    head.four([0; 4]);
    head.append_to(out);
    out.len() - 4
}

/// A run of one message that has only a payload. Its life begins at the timestamp of the run. It has the bytes that
/// [`begin_run`], the record and [`finish_run`] make of it.
#[derive(Debug)]
pub struct PlainRun<'a> {
    head: Head,
    /// Where its record begins, counted from its first byte.
    pub body_at: usize,
    payload: &'a [u8],
}

impl PlainRun<'_> {
    #[inline]
    pub fn new(log: LogId, first: Offset, timestamp: Timestamp, payload: &[u8]) -> PlainRun<'_> {
        let mut head = head(log, first, 1, timestamp);
        let record_len = 1 + varint_len(payload.len() as u64) + payload.len();
        head.four((record_len as u32).to_le_bytes());
        let body_at = head.len();
        head.varint(u64::from(PLAIN));
        head.varint(payload.len() as u64);
        PlainRun { head, body_at, payload }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// Writes the run. `out` has its length.
    #[inline]
    pub fn put(&self, out: &mut [u8]) {
        self.head.put(out);
        out[self.head.len()..].copy_from_slice(self.payload);
    }
}

#[inline(always)]
fn head(log: LogId, first: Offset, count: usize, timestamp: Timestamp) -> Head {
    debug_assert!((1..=RUN_MESSAGES_MAX).contains(&count));
    let mut head = Head::new(KIND);
    head.varint(log.0);
    head.varint(first.0);
    head.varint(count as u64);
    head.varint(timestamp.0);
    head
}

/// The most bytes of a run before its records, whatever its first offset is.
pub(super) fn head_len_max(log: LogId, count: usize, timestamp: Timestamp) -> usize {
    head(log, Offset(NUMBER_CEILING), count, timestamp).bytes().len() + 4
}

/// Writes what stands before the records of a run, so that it ends where `room` ends. Returns the place in `room` where it
/// begins.
pub(super) fn put_head_before(
    room: &mut [u8],
    (log, first, count): (LogId, Offset, usize),
    timestamp: Timestamp,
    body_len: usize,
) -> usize {
    let head = head(log, first, count, timestamp);
    let length_at = room.len() - 4;
    let at = length_at - head.bytes().len();
    room[at..length_at].copy_from_slice(head.bytes());
    room[length_at..].copy_from_slice(&(body_len as u32).to_le_bytes());
    at
}

/// Writes the length of the run once all records are appended. Returns the place where the first record begins.
#[inline]
pub fn finish_run(out: &mut [u8], length_at: usize) -> usize {
    let length = (out.len() - length_at - 4) as u32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    length_at + 4
}
