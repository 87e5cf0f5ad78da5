//! One message in bytes. The same layout serves in the journal's runs and in segments' blocks.
//! `docs/FORMAT.md` has the table under "Records".

use super::wire::{Bytes, Decoded, Head, Malformed, put_varint, unzigzag, varint_len, zigzag};
use crate::{ids::Timestamp, message::Message};

const HAS_TIMESTAMP: u8 = 1;
const HAS_KEY: u8 = 2;
const HAS_HEADERS: u8 = 4;
const HAS_OFFSET: u8 = 8;
const KNOWN: u8 = HAS_TIMESTAMP | HAS_KEY | HAS_HEADERS | HAS_OFFSET;

/// A part of the bytes that a record was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..self.end]
    }
}

/// Where the parts of a record are, in the bytes that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpans {
    /// Distance to the first offset of the block around the record. Without it the record has the
    /// offset behind the one before.
    pub offset_delta: Option<u64>,
    pub timestamp: Timestamp,
    pub key: Option<Span>,
    pub headers: Span,
    pub payload: Span,
}

impl RecordSpans {
    /// Where the next record begins.
    #[inline]
    pub fn end(&self) -> usize {
        self.payload.end
    }
}

/// What is encoded: a message whose headers are a list, or still in bytes.
#[derive(Clone, Copy, Debug)]
pub struct RecordParts<'a> {
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub headers: HeaderParts<'a>,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub enum HeaderParts<'a> {
    Encoded(&'a [u8]),
    Of(&'a Message<'a>),
}

impl HeaderParts<'_> {
    #[inline]
    fn encoded_len(&self) -> usize {
        match self {
            HeaderParts::Encoded(bytes) => bytes.len(),
            HeaderParts::Of(message) => message
                .headers()
                .map(|(name, value)| {
                    let lens = (name.len(), value.len());
                    varint_len(lens.0 as u64) + lens.0 + varint_len(lens.1 as u64) + lens.1
                })
                .sum(),
        }
    }

    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            HeaderParts::Encoded(bytes) => out.extend_from_slice(bytes),
            HeaderParts::Of(message) => {
                for (name, value) in message.headers() {
                    put_bytes(out, name.as_bytes());
                    put_bytes(out, value);
                }
            }
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

impl<'a> RecordParts<'a> {
    #[inline]
    pub fn of(message: &'a Message<'a>, now: Timestamp) -> RecordParts<'a> {
        RecordParts {
            timestamp: message.timestamp_set().unwrap_or(now),
            key: message.key_bytes(),
            headers: HeaderParts::Of(message),
            payload: message.payload(),
        }
    }

    pub fn stored(bytes: &'a [u8], spans: &RecordSpans) -> RecordParts<'a> {
        RecordParts {
            timestamp: spans.timestamp,
            key: spans.key.map(|key| key.of(bytes)),
            headers: HeaderParts::Encoded(spans.headers.of(bytes)),
            payload: spans.payload.of(bytes),
        }
    }

    /// What counts against the limit of a message: all that the application put in.
    #[inline]
    pub fn weight(&self) -> u64 {
        let key = self.key.map_or(0, <[u8]>::len);
        (self.payload.len() + key + self.headers.encoded_len()) as u64
    }

    /// Appends the record. `base` is the timestamp of the run or block around it, and
    /// `offset_delta` is given behind a gap in a block.
    #[inline]
    pub fn put(&self, out: &mut Vec<u8>, base: Timestamp, offset_delta: Option<u64>) {
        let headers_len = self.headers.encoded_len();
        let mut flags = 0;
        flags |= if self.timestamp != base { HAS_TIMESTAMP } else { 0 };
        flags |= if self.key.is_some() { HAS_KEY } else { 0 };
        flags |= if headers_len > 0 { HAS_HEADERS } else { 0 };
        flags |= if offset_delta.is_some() { HAS_OFFSET } else { 0 };
        let mut head = Head::new(flags);
        if flags != 0 {
            self.put_more(&mut head, base, offset_delta, headers_len);
        }
        head.varint(self.payload.len() as u64);
        out.extend_from_slice(head.bytes());
        if let Some(key) = self.key {
            out.extend_from_slice(key);
        }
        if headers_len > 0 {
            self.headers.put(out);
        }
        out.extend_from_slice(self.payload);
    }

    fn put_more(&self, head: &mut Head, base: Timestamp, offset: Option<u64>, headers_len: usize) {
        if let Some(delta) = offset {
            head.varint(delta);
        }
        if self.timestamp != base {
            head.varint(zigzag(self.timestamp.0.wrapping_sub(base.0) as i64));
        }
        if let Some(key) = self.key {
            head.varint(key.len() as u64);
        }
        if headers_len > 0 {
            head.varint(headers_len as u64);
        }
    }
}

/// Reads the record that begins at `at`.
#[inline]
pub fn take_record(bytes: &[u8], at: usize, base: Timestamp) -> Decoded<RecordSpans> {
    let mut input = Bytes::starting_at(bytes, at);
    let flags = input.u8()?;
    if flags == 0 {
        let length = input.length()?;
        let start = input.position();
        return Ok(RecordSpans {
            offset_delta: None,
            timestamp: base,
            key: None,
            headers: Span::default(),
            payload: Span { start, end: start + length },
        });
    }
    take_full_record(input, flags, base)
}

fn take_full_record(mut input: Bytes<'_>, flags: u8, base: Timestamp) -> Decoded<RecordSpans> {
    if flags & !KNOWN != 0 {
        return Err(Malformed("unknown flags in a record"));
    }
    let has = |flag| flags & flag != 0;
    let offset_delta = if has(HAS_OFFSET) { Some(input.varint()?) } else { None };
    let delta = if has(HAS_TIMESTAMP) { unzigzag(input.varint()?) } else { 0 };
    let key_len = if has(HAS_KEY) { input.length()? } else { 0 };
    let headers_len = if has(HAS_HEADERS) { input.length()? } else { 0 };
    let payload_len = input.length()?;
    if (has(HAS_TIMESTAMP) && delta == 0) || (has(HAS_HEADERS) && headers_len == 0) {
        return Err(Malformed("a record says what goes without saying"));
    }
    let mut span = |length| {
        let start = input.position();
        input.take(length).map(|_| Span { start, end: start + length })
    };
    let key = span(key_len)?;
    Ok(RecordSpans {
        offset_delta,
        timestamp: Timestamp(base.0.wrapping_add(delta as u64)),
        key: has(HAS_KEY).then_some(key),
        headers: span(headers_len)?,
        payload: span(payload_len)?,
    })
}

/// The headers of a stored message, in the order in which they were added.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(Bytes<'a>);

impl<'a> Headers<'a> {
    pub(crate) fn new(encoded: &'a [u8]) -> Headers<'a> {
        Headers(Bytes::new(encoded))
    }

    /// The value of the first header with a name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn pair(&mut self) -> Decoded<(&'a str, &'a [u8])> {
        let length = self.0.length()?;
        let name = std::str::from_utf8(self.0.take(length)?);
        let name = name.map_err(|_| Malformed("a header's name is not UTF-8"))?;
        let length = self.0.length()?;
        Ok((name, self.0.take(length)?))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    /// The next header. Headers are covered by a checksum, so what cannot be decoded was never
    /// written; the rest is then taken for empty.
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let pair = self.pair().ok();
        if pair.is_none() {
            self.0 = Bytes::new(&[]);
        }
        pair
    }
}
