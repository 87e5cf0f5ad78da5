//! Records: the messages that readers of a stream return.

use std::fmt;

use crate::{
    disk::Share,
    format::record::{Headers, RecordSpans},
    ids::{Offset, Timestamp},
    message::Message,
};

/// Makes the getters of a record. `$life` is the lifetime of the borrowed parts, `$bytes` the bytes of the record.
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

        /// The value of the first header with a name.
        ///
        /// ```
        /// use posthouse::{Message, Start};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// let history = engine.stream("order-history").create()?;
        /// history.append(Message::new("order 1").header("region", "eu"))?;
        /// let mut reader = history.reader(Start::Earliest)?;
        /// let record = reader.try_read()?.expect("it was appended");
        /// assert_eq!(record.header("region"), Some(&b"eu"[..]));
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn header(&$self, name: &str) -> Option<&$life [u8]> {
            $self.headers().named(name)
        }

        /// The [subject](Message::subject) that was set when the record was appended.
        ///
        /// ```
        /// use posthouse::{Message, Start};
        ///
        /// # let dir = tempfile::tempdir()?;
        /// # let engine = posthouse::Engine::open(dir.path().join("store"))?;
        /// let history = engine.stream("order-history").create()?;
        /// history.append(Message::new("order 1").subject("orders.eu"))?;
        /// let mut reader = history.reader(Start::Earliest)?;
        /// assert_eq!(reader.try_read()?.expect("it was appended").subject(), Some("orders.eu"));
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        #[must_use]
        pub fn subject(&$self) -> Option<&$life str> {
            $self.headers().subject()
        }

        /// The time of the record's commit, or the [timestamp](Message::timestamp) that was set when it was
        /// appended.
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

        /// The offset of the record: its number in its partition.
        #[must_use]
        #[inline]
        pub fn offset(&$self) -> Offset {
            $self.offset
        }
    };
}

/// A record of a stream, borrowed from its reader. No bytes are copied.
///
/// [`Reader::try_read`](crate::Reader::try_read) and [`Reader::read`](crate::Reader::read) return it. See
/// also [`OwnedRecord`].
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

/// Borrows the payload, the key, the headers and the subject, to send the record on. The new message bears the time of
/// its own commit. [`Message::timestamp`] gives it the time of the record instead.
impl<'a> From<&Record<'a>> for Message<'a> {
    fn from(record: &Record<'a>) -> Message<'a> {
        Message::borrowed(record.payload(), record.key(), record.headers())
            .with_subject(record.subject())
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show("Record", self.partition, self.offset, self.payload().len(), f)
    }
}

/// A record of a stream that stays valid on its own. Where the file is mapped, its bytes are not copied.
///
/// A [`Reader`](crate::Reader) returns it as an iterator. See also [`Record`].
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

/// Borrows the payload, the key, the headers and the subject, as for a [`Record`].
impl<'a> From<&'a OwnedRecord> for Message<'a> {
    fn from(record: &'a OwnedRecord) -> Message<'a> {
        Message::borrowed(record.payload(), record.key(), record.headers())
            .with_subject(record.subject())
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
