//! The error type: a kind to match on, a sentence to read, and the place in the store.

use std::{borrow::Cow, error::Error as StdError, fmt, io, path::Path, path::PathBuf};

use crate::ids::Offset;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a failed call.
///
/// Match on [`Error::kind`]. Print the error for people: the text names the failure, the place, and often
/// the remedy. [`Error::source`](StdError::source) is the error of the operating system, if there is one.
///
/// ```
/// use posthouse::{Engine, ErrorKind};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("store"))?;
/// match engine.queue("payments").open() {
///     Err(error) if error.kind() == ErrorKind::NotFound => println!("{error}"),
///     opened => panic!("it was never created: {opened:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: Cow<'static, str>,
    file: Option<PathBuf>,
    position: Option<u64>,
    offset: Option<Offset>,
    lacks_space: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another engine has the store open; `holder` is its process id where it could be read.
    Locked {
        /// The process that holds the store.
        holder: Option<u32>,
    },
    /// No queue, topic, subscription, stream, group or schedule has that name, or it was deleted.
    NotFound,
    /// The name is taken by an entity with other settings. `create_new` also returns it if the settings are
    /// equal.
    AlreadyExists,
    /// An argument is out of its range. `field` names it.
    InvalidInput {
        /// The argument's name.
        field: &'static str,
    },
    /// A message or a transaction is larger than the configured limit.
    TooLarge,
    /// No space is left on the disk. Acks and deletes still work. Sends work again when there is
    /// space.
    DiskFull,
    /// The queue is at its limit of messages or bytes. Nothing was sent. Sends work again when messages
    /// are acked.
    QueueFull,
    /// Durable data is damaged. The error names the file and the position.
    Corrupt,
    /// The store was written by a version of this crate that this one cannot read.
    UnsupportedVersion,
    /// A sync failed, so the engine does not know which commits are durable. Reopen the store: recovery
    /// finds the commits that are.
    Poisoned,
    /// The lease of a delivery ran out, or the delivery was settled before. Nothing was changed.
    LeaseLost,
    /// A partition of a stream does not end where the caller [expected](crate::Partition::append_if) it to end. Nothing was
    /// changed.
    Conflict {
        /// The partition's number. The text of the error names the stream, too.
        partition: u32,
        /// The end that the caller expected. In a [transaction](crate::Transaction::append_if), the end before the
        /// transaction's own records.
        expected: Offset,
        /// The end of the partition: the offset that its next record gets.
        actual: Offset,
    },
    /// Records were trimmed before a reader came to them that is to [say so](crate::Reader::fail_on_trimmed). Call
    /// [`skip_trimmed`](crate::Reader::skip_trimmed) to go on behind them.
    Trimmed {
        /// The partition's number. The text of the error names the stream, too.
        partition: u32,
        /// The offset of the next record for the reader.
        next: Offset,
        /// The first offset that is still there.
        start: Offset,
    },
    /// The engine was closed.
    Closed,
    /// The operating system refused a call, for another reason.
    Io,
}

impl Error {
    /// The kind of the error, to match on.
    ///
    /// ```
    /// use posthouse::{Engine, ErrorKind};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let engine = Engine::open(dir.path().join("store"))?;
    /// let error = engine.queue("").create().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput { field: "name" });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that the error is about. `None` if it is about no file.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("nowhere");
    /// let error = posthouse::verify(&path).unwrap_err();
    /// assert!(error.file().expect("it has one").starts_with(&path));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The position in the [file](Error::file), in bytes from its start. `None` if the error has no position.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.0.position
    }

    /// The offset of the message that the error is about. `None` if the error is about no message.
    ///
    /// The error of a damaged message has it: `queue.remove(offset)` deletes that message.
    #[must_use]
    pub fn offset(&self) -> Option<Offset> {
        self.0.offset
    }

    pub(crate) fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Error {
        let what = what.into();
        Error(Box::new(Inner {
            kind,
            what,
            file: None,
            position: None,
            offset: None,
            lacks_space: false,
            source: None,
        }))
    }

    pub(crate) fn invalid(field: &'static str, what: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::InvalidInput { field }, what)
    }

    pub(crate) fn corrupt(
        what: impl Into<Cow<'static, str>>,
        file: impl Into<PathBuf>,
        position: u64,
    ) -> Error {
        Error::new(ErrorKind::Corrupt, what).in_file(file).at(position)
    }

    /// The error of a partition that does not end where the caller expected it to end.
    pub(crate) fn conflict(
        stream: &str,
        partition: u32,
        expected: Offset,
        actual: Offset,
    ) -> Error {
        let advice = if expected < actual {
            "Read what has come, and decide again"
        } else {
            "It has fewer records than that: read it anew"
        };
        let what = format!(
            "partition {partition} of {stream:?} ends at {actual}, and {expected} was expected: nothing was \
             committed. {advice}"
        );
        Error::new(ErrorKind::Conflict { partition, expected, actual }, what)
    }

    /// The error of a reader that has come to a gap.
    pub(crate) fn trimmed(stream: &str, (partition, next, start): (u32, Offset, Offset)) -> Error {
        let what = format!(
            "records of partition {partition} of {stream:?} were trimmed before they were read: the next one is \
             {next}, and the first one that is left is {start}. Call skip_trimmed() to go on there"
        );
        Error::new(ErrorKind::Trimmed { partition, next, start }, what)
    }

    /// The same error with one more sentence.
    pub(crate) fn adding(mut self, sentence: &str) -> Error {
        self.0.what = format!("{}. {sentence}", self.0.what).into();
        self
    }

    /// The error of a store that another engine has open.
    pub(crate) fn locked(holder: Option<u32>, root: &Path) -> Error {
        let what = match holder {
            Some(pid) if pid == std::process::id() => {
                "the store is open already, in this process. Each handle, delivery and reader keeps it open: \
                 drop all of them, or call Engine::close"
                    .to_owned()
            }
            Some(pid) => format!("the store is open already, in process {pid}; close it there first"),
            None => "the store is open already, in another process; close it there first".to_owned(),
        };
        Error::new(ErrorKind::Locked { holder }, what).in_file(root)
    }

    /// An input or output error. A full disk has a kind of its own. A FIFO or the like in the place of a file is
    /// damage.
    pub(crate) fn io(source: io::Error, doing: &'static str, file: impl Into<PathBuf>) -> Error {
        let full =
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if source.kind() == io::ErrorKind::InvalidData {
            return Error::corrupt(doing, file, 0).because(source);
        }
        let kind = if full { ErrorKind::DiskFull } else { ErrorKind::Io };
        Error::new(kind, doing).in_file(file).because(source)
    }

    pub(crate) fn in_file(mut self, file: impl Into<PathBuf>) -> Error {
        self.0.file = Some(file.into());
        self
    }

    pub(crate) fn at(mut self, position: u64) -> Error {
        self.0.position = Some(position);
        self
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// The error of a call in a task that would have to wait for space in the journal. The task awaits the space and
    /// calls again, so no application sees it.
    pub(crate) fn lacks_space() -> Error {
        let mut error = Error::new(ErrorKind::Io, "the journal has no space at the moment");
        error.0.lacks_space = true;
        error
    }

    pub(crate) fn is_lack_of_space(&self) -> bool {
        self.0.lacks_space
    }

    /// The error of a store that does not open. If it is damaged, it says what to do.
    pub(crate) fn of_a_store_that_does_not_open(mut self) -> Error {
        if self.kind() == ErrorKind::Corrupt {
            let what = &self.0.what;
            let tools = "posthouse::verify() lists what is damaged, and posthouse::salvage() saves what can be read";
            self.0.what = format!("{what}: {tools}").into();
        }
        self
    }

    /// A copy of the error that names the message it is about. `of` is the queue, the topic or the stream.
    pub(crate) fn of_message(&self, of: &str, offset: Offset) -> Error {
        let mut error = self.again();
        error.0.what = format!("message {offset} of {of:?}: {}", self.0.what).into();
        error.0.offset = Some(offset);
        error
    }

    /// A copy of the error of a sound message that cannot be read for the moment: its words name the message, and
    /// [`offset`](Error::offset) does not, as that is for damage.
    pub(crate) fn while_reading(&self, of: &str, offset: Offset) -> Error {
        let mut error = self.again();
        if error.kind() == ErrorKind::Io {
            error.0.what = format!("message {offset} of {of:?}: {}", self.0.what).into();
        }
        error
    }

    /// A copy of the error of a damaged block of a delay index: delayed messages of a queue cannot be delivered. With the
    /// offset of the message, if it is only one.
    pub(crate) fn of_block(&self, of: &str, only: Option<Offset>) -> Error {
        let what =
            format!("delayed messages of {of:?}, in a block of its delay index: {}", self.0.what);
        let mut error = self.again();
        (error.0.what, error.0.offset) = (what.into(), only);
        error
    }

    /// Whether every later call on the same handle fails, too: the engine was closed or is poisoned, or the
    /// entity was deleted. Iterators, futures and loops end after such an error.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.kind(), ErrorKind::Closed | ErrorKind::Poisoned | ErrorKind::NotFound)
    }

    /// A copy of the error for another waiter. Only the type of the source is lost.
    pub(crate) fn again(&self) -> Error {
        let inner = &self.0;
        Error(Box::new(Inner {
            kind: inner.kind,
            what: inner.what.clone(),
            file: inner.file.clone(),
            position: inner.position,
            offset: inner.offset,
            lacks_space: inner.lacks_space,
            source: inner.source.as_ref().map(|source| source.to_string().into()),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(file) = &self.0.file {
            write!(f, " ({}", file.display())?;
            if let Some(position) = self.0.position {
                write!(f, ", byte {position}")?;
            }
            f.write_str(")")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Makes `?` work in functions that return [`io::Result`].
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::InvalidInput { .. } | ErrorKind::TooLarge => io::ErrorKind::InvalidInput,
            ErrorKind::DiskFull => io::ErrorKind::StorageFull,
            ErrorKind::Corrupt | ErrorKind::UnsupportedVersion => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
