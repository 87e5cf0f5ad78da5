//! The report of a verification.

use std::{fmt, ops::Range, path::PathBuf};

use crate::{ids::Offset, store::LogName};

/// The report of [`verify`](crate::verify) and [`Engine::verify`](crate::Engine::verify).
///
/// `Display` prints it as a text for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How much was read.
    pub read: Amounts,
    /// The damage. It is empty in a sound store.
    pub problems: Vec<Problem>,
    /// Files and directories of the store that nothing refers to. They do no harm, but take up space. A close
    /// or a crash may leave some: spare journal files, and files of an unfinished checkpoint. The next open
    /// removes them.
    pub unreferenced: Vec<PathBuf>,
}

/// How much of a store was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Amounts {
    /// Journal files that hold what the store relies on.
    pub journal_files: u64,
    /// Frames in them.
    pub journal_frames: u64,
    /// The bytes of these frames.
    pub journal_bytes: u64,
    /// Records in these frames, whether a checkpoint has moved them into a segment or not.
    pub journal_records: u64,
    /// Segments.
    pub segments: u64,
    /// Blocks in them.
    pub blocks: u64,
    /// Records in these blocks.
    pub records: u64,
    /// Entries of the metalog.
    pub meta_entries: u64,
    /// Queues, topics, subscriptions, streams and groups.
    pub entities: u64,
}

/// One piece of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The position in it, in bytes.
    pub position: u64,
    /// The damage, as a text for people.
    pub what: String,
    /// The messages that the damage makes unreadable, as far as they are known.
    pub affected: Vec<Affected>,
}

/// Messages of one queue, topic or partition of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Affected {
    /// The queue, the topic or the partition of a stream.
    pub log: LogName,
    /// The offsets of the messages.
    pub offsets: Vec<Range<Offset>>,
}

impl VerifyReport {
    /// Whether the store is sound: no problem was found. Unreferenced files do not count.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("store");
    /// # posthouse::Engine::open(&path)?.queue("payments").create()?.send("charge order 1")?;
    /// let report = posthouse::verify(&path)?;
    /// if !report.is_ok() {
    ///     eprintln!("{report}");
    /// }
    /// # assert!(report.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "read {}", self.read)?;
        match self.problems.len() {
            0 => writeln!(f, "no damage")?,
            1 => writeln!(f, "1 problem:")?,
            n => writeln!(f, "{n} problems:")?,
        }
        for problem in &self.problems {
            writeln!(f, "- {problem}")?;
        }
        if !self.unreferenced.is_empty() {
            writeln!(
                f,
                "these files are spare or left over; they do no harm, and the next open sees to them:"
            )?;
            for path in &self.unreferenced {
                writeln!(f, "- {}", path.display())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Amounts { journal_files, journal_frames, journal_bytes, journal_records, .. } = self;
        let Amounts { segments, blocks, records, meta_entries, entities, .. } = self;
        write!(
            f,
            "{journal_records} records in {journal_frames} frames ({journal_bytes} bytes) of {journal_files} \
             journal files, {records} records in {blocks} blocks of {segments} segments, {meta_entries} entries \
             of the metalog, {entities} entities"
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, byte {}: {}", self.file.display(), self.position, self.what)?;
        for affected in &self.affected {
            write!(f, "; {affected}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.log, Ranges(&self.offsets))
    }
}

/// Ranges of offsets, for people: the last one of each is part of it.
pub(super) struct Ranges<'a>(pub &'a [Range<Offset>]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "offsets " } else { ", " })?;
            match range.end.0.saturating_sub(range.start.0) {
                1 => write!(f, "{}", range.start)?,
                _ => write!(f, "{} to {}", range.start, range.end.0.saturating_sub(1))?,
            }
        }
        Ok(())
    }
}
