//! The bytes of one message in the journal's runs. `docs/FORMAT.md` has the table under "Records". Blocks have another
//! layout, in `pack.rs`.

use std::borrow::Cow;

use super::note::TimeToLive;
use super::wire::{Bytes, Decoded, Head, Malformed, put_varint, unzigzag, varint_len, zigzag};
use crate::{
    ids::{Now, Timestamp},
    message::Message,
};

const HAS_TIMESTAMP: u8 = 1;
const HAS_KEY: u8 = 2;
const HAS_HEADERS: u8 = 4;
/// The flags of a record that has only a payload.
pub(super) const PLAIN: u8 = 0;
const KNOWN: u8 = HAS_TIMESTAMP | HAS_KEY | HAS_HEADERS;

/// The places of a record's parts in the bytes that it was read from. The parts follow each other: key, headers, payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSpans {
    pub timestamp: Timestamp,
    /// The place where the key begins, or `NO_KEY`.
    key: u32,
    headers: u32,
    payload: u32,
    end: u32,
}

const NO_KEY: u32 = u32::MAX;

impl RecordSpans {
    /// A record with only a payload.
    #[inline]
    pub fn plain(timestamp: Timestamp, start: u32, end: u32) -> RecordSpans {
        RecordSpans { timestamp, key: NO_KEY, headers: start, payload: start, end }
    }

    /// A record whose parts stand from `at` on. Fails if they reach behind `end`.
    pub fn of(
        timestamp: Timestamp,
        at: usize,
        (key_len, headers_len, payload_len): (Option<usize>, usize, usize),
        end: usize,
    ) -> Decoded<RecordSpans> {
        let headers = at.checked_add(key_len.unwrap_or(0));
        let payload = headers.and_then(|at| at.checked_add(headers_len));
        let behind = payload.and_then(|at| at.checked_add(payload_len)).filter(|it| *it <= end);
        let (Some(headers), Some(payload), Some(behind)) = (headers, payload, behind) else {
            return Err(Malformed("a length reaches past the end"));
        };
        // All places are below the end, so they fit, too. And none of them equals `NO_KEY`.
        let end = u32::try_from(behind).map_err(|_| Malformed("a record lies too far behind"))?;
        let key = if key_len.is_some() { at as u32 } else { NO_KEY };
        Ok(RecordSpans { timestamp, key, headers: headers as u32, payload: payload as u32, end })
    }

    #[inline]
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        (self.key != NO_KEY).then(|| &bytes[self.key as usize..self.headers as usize])
    }

    #[inline]
    pub fn headers<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.headers as usize..self.payload as usize]
    }

    #[inline]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.payload as usize..self.end as usize]
    }

    /// The place where the record ends.
    #[inline]
    pub fn end(&self) -> usize {
        self.end as usize
    }
}

/// The parts of a message to encode. Its headers are a list, or bytes.
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
    /// A message, and the time at which its time to live begins, if that is not its timestamp.
    Of(&'a Message<'a>, Option<Timestamp>),
}

impl HeaderParts<'_> {
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            HeaderParts::Encoded(bytes) => bytes.len(),
            HeaderParts::Of(message, begin) => {
                let headers = message.headers().map(|(name, value)| pair_len(name, value));
                let subject = message.subject_set().map_or(0, subject_len);
                headers.sum::<usize>() + subject + note_len(message, *begin)
            }
        }
    }

    #[inline]
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            HeaderParts::Encoded(bytes) => out.extend_from_slice(bytes),
            HeaderParts::Of(message, begin) => {
                // The note is the first header, with an empty name.
                if let Some(note) = note_of(message, *begin) {
                    put_bytes(out, b"");
                    put_bytes(out, &note);
                }
                if let Some(subject) = message.subject_set() {
                    put_subject(out, subject);
                }
                for (name, value) in message.headers() {
                    put_bytes(out, name.as_bytes());
                    put_bytes(out, value);
                }
            }
        }
    }
}

fn pair_len(name: &str, value: &[u8]) -> usize {
    let lens = (name.len(), value.len());
    varint_len(lens.0 as u64) + lens.0 + varint_len(lens.1 as u64) + lens.1
}

/// The first byte of the value of a header without a name that is the subject. No note begins with it.
const SUBJECT: u8 = 0xFF;

fn subject_len(subject: &str) -> usize {
    let len = 1 + subject.len();
    1 + varint_len(len as u64) + len
}

/// Adds the subject: a header without a name.
#[cold]
fn put_subject(out: &mut Vec<u8>, subject: &str) {
    put_bytes(out, b"");
    put_varint(out, 1 + subject.len() as u64);
    out.push(SUBJECT);
    out.extend_from_slice(subject.as_bytes());
}

/// The note that is stored with a message.
#[inline]
fn note_of<'a>(message: &'a Message<'_>, begin: Option<Timestamp>) -> Option<Cow<'a, [u8]>> {
    match message.note() {
        Some(note) => Some(Cow::Borrowed(note)),
        None if begin.is_none() && message.time_to_live_ms().is_none() => None,
        None => life_note(begin, message.time_to_live_ms()),
    }
}

#[cold]
fn life_note<'a>(begin: Option<Timestamp>, ms: Option<u64>) -> Option<Cow<'a, [u8]>> {
    TimeToLive { from: begin, ms }.note().map(Cow::Owned)
}

#[inline]
fn note_len(message: &Message<'_>, begin: Option<Timestamp>) -> usize {
    note_of(message, begin).map_or(0, |note| pair_len("", &note))
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
            headers: HeaderParts::Of(message, None),
            payload: message.payload(),
        }
    }

    /// The parts of a message that may have a time to live.
    #[inline]
    pub fn with_time_to_live(message: &'a Message<'a>, now: Now) -> RecordParts<'a> {
        let parts = RecordParts::of(message, now.stamp);
        // A message that is moved as it is lives on. Its note, or the lack of one, says when its life began.
        let begin = match message.kept() {
            None => now.time_to_live_start(parts.timestamp),
            Some(_) => None,
        };
        RecordParts { headers: HeaderParts::Of(message, begin), ..parts }
    }

    pub fn stored(bytes: &'a [u8], spans: &RecordSpans) -> RecordParts<'a> {
        RecordParts {
            timestamp: spans.timestamp,
            key: spans.key(bytes),
            headers: HeaderParts::Encoded(spans.headers(bytes)),
            payload: spans.payload(bytes),
        }
    }

    /// The headers of a record that is stored. A message that is not stored yet has none of these bytes.
    pub fn encoded_headers(&self) -> &'a [u8] {
        match self.headers {
            HeaderParts::Encoded(bytes) => bytes,
            HeaderParts::Of(..) => &[],
        }
    }

    /// The size that counts against the limit of a message: all parts that the application has set.
    #[inline]
    pub fn weight(&self) -> u64 {
        self.weight_with(self.headers.encoded_len())
    }

    /// As [`weight`](RecordParts::weight), with the length of the encoded headers.
    #[inline]
    pub fn weight_with(&self, headers_len: usize) -> u64 {
        let key = self.key.map_or(0, <[u8]>::len);
        let note = match self.headers {
            HeaderParts::Of(message, begin) if headers_len > 0 => note_len(message, begin),
            _ => 0,
        };
        (self.payload.len() + key + headers_len - note) as u64
    }

    /// Appends the record. `base` is the timestamp of the run around it. Returns whether its life begins then, as it has no
    /// other timestamp and no note.
    #[cfg(any(test, fuzzing))]
    pub fn put(&self, out: &mut Vec<u8>, base: Timestamp) -> bool {
        self.put_with(out, base, self.headers.encoded_len())
    }

    /// As [`put`](RecordParts::put), with the length of the encoded headers.
    #[inline]
    pub fn put_with(&self, out: &mut Vec<u8>, base: Timestamp, headers_len: usize) -> bool {
        let mut flags = 0;
        flags |= if self.timestamp != base { HAS_TIMESTAMP } else { 0 };
        flags |= if self.key.is_some() { HAS_KEY } else { 0 };
        flags |= if headers_len > 0 { HAS_HEADERS } else { 0 };
        let mut head = Head::new(flags);
        if flags != 0 {
            self.put_more(&mut head, base, headers_len);
        }
        head.varint(self.payload.len() as u64);
        head.append_to(out);
        if let Some(key) = self.key {
            out.extend_from_slice(key);
        }
        if headers_len > 0 {
            self.headers.put(out);
        }
        out.extend_from_slice(self.payload);
        flags & (HAS_TIMESTAMP | HAS_HEADERS) == 0
    }

    fn put_more(&self, head: &mut Head, base: Timestamp, headers_len: usize) {
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

/// Reads the record that begins at `at`, if it is a short one with only a payload. `None` if it is another one, or if it is
/// damaged: [`take_record`] tells.
#[inline(always)]
pub fn take_plain_record(bytes: &[u8], at: usize, base: Timestamp) -> Option<RecordSpans> {
    let &[flags, length] = bytes.get(at..)?.first_chunk()?;
    let end = at + 2 + usize::from(length);
    let is_plain = flags == PLAIN && length < 0x80 && end <= bytes.len();
    is_plain.then(|| RecordSpans::plain(base, at as u32 + 2, end as u32))
}

/// Reads the record that begins at `at`.
#[inline]
pub fn take_record(bytes: &[u8], at: usize, base: Timestamp) -> Decoded<RecordSpans> {
    let mut input = Bytes::starting_at(bytes, at);
    let flags = input.u8()?;
    if flags == PLAIN {
        let length = input.length()?;
        return RecordSpans::of(base, input.position(), (None, 0, length), bytes.len());
    }
    take_full_record(input, flags, base, bytes.len())
}

fn take_full_record(
    mut input: Bytes<'_>,
    flags: u8,
    base: Timestamp,
    end: usize,
) -> Decoded<RecordSpans> {
    if flags & !KNOWN != 0 {
        return Err(Malformed("unknown flags in a record"));
    }
    let has = |flag| flags & flag != 0;
    let delta = if has(HAS_TIMESTAMP) { unzigzag(input.varint()?) } else { 0 };
    let key_len = if has(HAS_KEY) { Some(input.length()?) } else { None };
    let headers_len = if has(HAS_HEADERS) { input.length()? } else { 0 };
    let payload_len = input.length()?;
    if (has(HAS_TIMESTAMP) && delta == 0) || (has(HAS_HEADERS) && headers_len == 0) {
        return Err(Malformed("a record stores a default that it must leave out"));
    }
    let timestamp = Timestamp(base.0.wrapping_add(delta as u64));
    RecordSpans::of(timestamp, input.position(), (key_len, headers_len, payload_len), end)
}

fn is_subject(value: &[u8]) -> bool {
    value.first() == Some(&SUBJECT)
}

/// The headers of a stored message, in the order in which they were added.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a>(Bytes<'a>);

impl<'a> Headers<'a> {
    pub(crate) fn new(encoded: &'a [u8]) -> Headers<'a> {
        Headers(Bytes::new(encoded))
    }

    /// The value of the first header with a name. `None` if no header has it.
    ///
    /// ```
    /// use posthouse::Message;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
    /// let payments = engine.queue("payments").create()?;
    /// payments.send(Message::new("order 1").header("region", "eu"))?;
    /// let delivery = payments.try_receive()?.expect("it was sent");
    /// assert_eq!(delivery.headers().named("region"), Some(&b"eu"[..]));
    /// # delivery.ack()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn named(mut self, name: &str) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The engine's note about the message. It is the first header, with an empty name.
    pub(crate) fn note(mut self) -> Option<&'a [u8]> {
        self.own().filter(|value| !is_subject(value))
    }

    /// The subject of the message. It is the first header behind the note, with an empty name.
    pub(crate) fn subject(mut self) -> Option<&'a str> {
        let first = self.own()?;
        let value =
            if is_subject(first) { first } else { self.own().filter(|it| is_subject(it))? };
        std::str::from_utf8(&value[1..]).ok()
    }

    /// The value of the next header, if it has no name.
    fn own(&mut self) -> Option<&'a [u8]> {
        self.pair().ok().filter(|(name, _)| name.is_empty()).map(|(_, value)| value)
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

    /// The next header. A checksum covers the headers, so bytes that cannot be decoded were never written. In
    /// that case the iterator ends.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.pair() {
                // The note and the subject are not headers of the application.
                Ok(("", _)) => {}
                Ok(pair) => return Some(pair),
                Err(_) => self.0 = Bytes::new(&[]),
            }
        }
        None
    }
}
