//! What a stream's reader hands out.

use std::fmt;

use crate::{
    disk::Share,
    format::record::{Headers, RecordSpans},
    ids::{Offset, Timestamp},
    message::Message,
};

/// Makes the getters of a record: `$life` is how long what they lend lives, `$bytes` the record's bytes.
macro_rules! record_getters {
    ($life:lifetime, $self:ident => $bytes:expr) => {
        /// The payload.
        #[must_use]
        #[inline]
        pub fn payload(&$self) -> &$life [u8] {
            $self.spans.payload($bytes)
        }

        /// The key, if the record has one.
        #[must_use]
        #[inline]
        pub fn key(&$self) -> Option<&$life [u8]> {
            $self.spans.key($bytes)
        }

        /// The headers, in the order in which they were added.
        #[must_use]
        #[inline]
        pub fn headers(&$self) -> Headers<$life> {
            Headers::new($self.spans.headers($bytes))
        }

        /// The first header with a name.
        #[must_use]
        pub fn header(&$self, name: &str) -> Option<&$life [u8]> {
            $self.headers().named(name)
        }

        /// When the record was committed, or what was set when it was appended.
        #[must_use]
        #[inline]
        pub fn timestamp(&$self) -> Timestamp {
            $self.spans.timestamp
        }

        /// The record's partition.
        #[must_use]
        #[inline]
        pub fn partition(&$self) -> u32 {
            $self.partition
        }

        /// The record's number in its partition.
        #[must_use]
        #[inline]
        pub fn offset(&$self) -> Offset {
            $self.offset
        }
    };
}

/// A record of a stream, borrowed from its reader: nothing is copied.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) spans: RecordSpans,
    pub(crate) partition: u32,
    pub(crate) offset: Offset,
}

impl<'a> Record<'a> {
    record_getters!('a, self => self.bytes);
}

/// Its payload, key and headers, borrowed, to send it on. The message bears the time of its new
/// commit, unless [`Message::timestamp`] gives it that of the record.
impl<'a> From<&Record<'a>> for Message<'a> {
    fn from(record: &Record<'a>) -> Message<'a> {
        Message::borrowed(record.payload(), record.key(), record.headers())
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Record", self.partition, self.offset, self.payload().len(), f)
    }
}

/// A record of a stream that lives on its own. Its bytes are not copied either where the file is
/// mapped: they are kept for as long as it lives.
#[derive(Clone)]
pub struct OwnedRecord {
    pub(crate) bytes: Share,
    pub(crate) spans: RecordSpans,
    pub(crate) partition: u32,
    pub(crate) offset: Offset,
}

impl OwnedRecord {
    record_getters!('_, self => &self.bytes);
}

/// As of a [`Record`].
impl<'a> From<&'a OwnedRecord> for Message<'a> {
    fn from(record: &'a OwnedRecord) -> Message<'a> {
        Message::borrowed(record.payload(), record.key(), record.headers())
    }
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("OwnedRecord", self.partition, self.offset(), self.payload().len(), f)
    }
}

fn show(
    name: &str,
    partition: u32,
    offset: Offset,
    payload_len: usize,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    f.debug_struct(name)
        .field("partition", &partition)
        .field("offset", &offset)
        .field("payload_len", &payload_len)
        .finish_non_exhaustive()
}
