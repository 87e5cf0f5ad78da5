//! The directory of a store: the one place that spells its paths.
//!
//! A path holds only numbers, never a name that a user gave. A file is written under a name that
//! ends in `.new` and renamed when it is complete, so a file with its real name always has a valid
//! header.

use std::path::{Path, PathBuf};

use crate::ids::{LogId, Lsn, Offset};

const LOCK: &str = "LOCK";
const JOURNALS: &str = "journal";
const SEGMENTS: &str = "segments";
const METAS: &str = "meta";
/// A directory in the root of some file systems. A store may be in such a root.
const LOST_AND_FOUND: &str = "lost+found";
const JOURNAL: &str = ".journal";
const SEGMENT: &str = ".seg";
const META: &str = ".meta";
const NEW: &str = ".new";
/// A file whose space is freed when the disk is full. Its name is unfinished, so it can be removed at any time.
const RESERVE: &str = "reserve.new";

/// Where a store is.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// So many segment files are in one directory at most.
const FAN_FILES: u64 = 1000;
/// A name with so many digits, the first of them a zero, is no log's.
const FAN_DIGITS: usize = 17;

/// The number of a directory of segment files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fan(pub u64);

impl Fan {
    /// The directory of the file with a number.
    pub fn of(number: u64) -> Fan {
        Fan(number / FAN_FILES)
    }

    /// The lowest number of its files.
    pub fn first(self) -> u64 {
        self.0.saturating_mul(FAN_FILES)
    }

    /// The lowest number behind its files.
    pub fn end(self) -> u64 {
        self.first().saturating_add(FAN_FILES)
    }
}

/// What a file name in a directory of the store stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<T> {
    /// A file with a real name.
    Real(T),
    /// A file that was not finished.
    Unfinished,
    /// Not a file of the store.
    Unknown,
}

impl Layout {
    pub fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a directory with these names in it is a store, or may become one. It may become one if it holds
    /// only files that an interrupted creation has left.
    pub fn admits(names: &[String]) -> bool {
        let is = |name: &str, ours: &[&str]| ours.contains(&name);
        let is_begun = |name: &String| is(name, &[LOCK, JOURNALS, SEGMENTS, METAS, LOST_AND_FOUND]);
        names.iter().all(is_begun) || names.iter().any(|name| is(name, &[LOCK, JOURNALS, METAS]))
    }

    pub fn lock(&self) -> PathBuf {
        self.root.join(LOCK)
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.root.join(JOURNALS)
    }

    pub fn reserve(&self) -> PathBuf {
        self.journal_dir().join(RESERVE)
    }

    pub fn segments_dir(&self) -> PathBuf {
        self.root.join(SEGMENTS)
    }

    pub fn meta_dir(&self) -> PathBuf {
        self.root.join(METAS)
    }

    pub fn journal_file(&self, start: Lsn) -> PathBuf {
        self.journal_dir().join(format!("{:020}{JOURNAL}", start.0))
    }

    pub fn meta_file(&self, number: u64) -> PathBuf {
        self.meta_dir().join(format!("{number:020}{META}"))
    }

    /// The directory of the segment files with some numbers: a thousand of them.
    pub fn fan_dir(&self, fan: Fan) -> PathBuf {
        self.segments_dir().join(format!("{:0FAN_DIGITS$}", fan.0))
    }

    pub fn segment_file(&self, number: u64) -> PathBuf {
        self.fan_dir(Fan::of(number)).join(format!("{number:020}{SEGMENT}"))
    }

    /// The directory of a log in versions 1 and 2.
    pub fn log_dir(&self, log: LogId) -> PathBuf {
        self.segments_dir().join(log.0.to_string())
    }

    /// Whether this is the directory of a log.
    pub fn is_log_dir(&self, dir: &Path) -> bool {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| log_dir_name(name).is_some())
            && dir.parent() == Some(&self.segments_dir())
    }

    /// The file of a segment in versions 1 and 2. Its name holds its generation behind its base: a rewritten segment is
    /// another file, which takes the place of the old one when the metalog says so.
    pub fn former_segment_file(&self, log: LogId, base: Offset, generation: u64) -> PathBuf {
        self.log_dir(log).join(format!("{:020}.{generation}{SEGMENT}", base.0))
    }

    /// The name under which a file is written before it is renamed.
    pub fn unfinished(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(NEW);
        PathBuf::from(name)
    }
}

pub fn journal_name(name: &str) -> Named<Lsn> {
    if name == RESERVE {
        return Named::Unfinished;
    }
    numbered(name, JOURNAL).map(Lsn)
}

pub fn meta_name(name: &str) -> Named<u64> {
    numbered(name, META)
}

pub fn log_dir_name(name: &str) -> Option<LogId> {
    number(name).map(LogId)
}

pub fn fan_name(name: &str) -> Option<Fan> {
    let is_padded = name.len() == FAN_DIGITS && name.starts_with('0');
    let all_digits = name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|_| is_padded && all_digits).map(Fan)
}

pub fn segment_name(name: &str) -> Named<u64> {
    numbered(name, SEGMENT)
}

/// The name of a segment in the directory of its log, in versions 1 and 2.
pub fn former_segment_name(name: &str) -> Named<(Offset, u64)> {
    let Some((stem, unfinished)) = stem(name, SEGMENT) else {
        return Named::Unknown;
    };
    let parts = stem.split_once('.');
    match parts.and_then(|(base, generation)| Some((padded(base)?, number(generation)?))) {
        Some(_) if unfinished => Named::Unfinished,
        Some((base, generation)) => Named::Real((Offset(base), generation)),
        None => Named::Unknown,
    }
}

/// Parses a number of exactly 20 digits. So files sort by number, and each number has one spelling.
fn padded(digits: &str) -> Option<u64> {
    number(digits).filter(|_| digits.len() == 20)
}

fn numbered(name: &str, suffix: &str) -> Named<u64> {
    match stem(name, suffix).map(|(stem, unfinished)| (padded(stem), unfinished)) {
        Some((Some(_), true)) => Named::Unfinished,
        Some((Some(number), false)) => Named::Real(number),
        _ => Named::Unknown,
    }
}

fn stem<'a>(name: &'a str, suffix: &str) -> Option<(&'a str, bool)> {
    let whole = name.strip_suffix(NEW);
    Some((whole.unwrap_or(name).strip_suffix(suffix)?, whole.is_some()))
}

fn number(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits.len() == 20 || digits == "0" || !digits.starts_with('0');
    digits.parse().ok().filter(|_| all_digits && canonical)
}

impl<T> Named<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Named<U> {
        match self {
            Named::Real(value) => Named::Real(f(value)),
            Named::Unfinished => Named::Unfinished,
            Named::Unknown => Named::Unknown,
        }
    }
}
