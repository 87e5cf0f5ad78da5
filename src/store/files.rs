//! The segment files with numbers, and how much of each is referred to.
//!
//! Invariants: a file is in here as long as a segment refers to it. The segments are those of all logs, and those of deleted
//! logs until the metalog no longer names them. A file that is in here is never removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::REWRITE_SHARE,
    format::{
        meta::{Place, SegmentState},
        segment::SEGMENT_HEADER_BYTES,
    },
    layout::Fan,
    segment::Written,
};

/// A shared file is small if this many of it make up a full segment.
const SMALL_SHARE: u64 = 8;
/// So many small files are rewritten together.
pub const SMALL_FILES: usize = 8;

#[derive(Debug)]
pub struct Files {
    all: BTreeMap<u64, File>,
    /// The number of the next file.
    next: u64,
    segment_bytes: u64,
    /// Shared files of which little is referred to.
    sparse: BTreeSet<u64>,
    /// Shared files of which less is referred to than an idle store leaves. The sparse ones are among them.
    loose: BTreeSet<u64>,
    /// Shared files that are small, by their length.
    small: BTreeSet<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct File {
    /// Its length, but for a footer.
    bytes: u64,
    /// How many of its bytes segments refer to.
    referred: u64,
    segments: u64,
    is_shared: bool,
}

impl File {
    fn is_sparse(&self) -> bool {
        self.referred < self.bytes / REWRITE_SHARE
    }

    /// Three quarters of the messages in a part are alive in an idle store, and two thirds of a file are referred to. So
    /// half of the messages are alive.
    fn is_loose(&self) -> bool {
        3 * self.referred < 2 * self.bytes.saturating_sub(SEGMENT_HEADER_BYTES)
    }
}

impl Files {
    pub fn new(segment_bytes: u64) -> Files {
        let (all, small) = (BTreeMap::new(), BTreeSet::new());
        Files {
            all,
            next: 1,
            segment_bytes,
            sparse: BTreeSet::new(),
            loose: BTreeSet::new(),
            small,
        }
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// Notes that lower numbers were given out.
    pub fn set_next(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Whether a file is referred to whose directory is that of the next one.
    pub fn knows_fan_of_next(&self) -> bool {
        let fan = Fan::of(self.next);
        self.all.range(fan.first()..fan.end()).next().is_some()
    }

    pub fn knows_fan(&self, fan: Fan) -> bool {
        self.all.range(fan.first()..fan.end()).next().is_some() || fan == Fan::of(self.next)
    }

    pub fn knows(&self, number: u64) -> bool {
        self.all.contains_key(&number)
    }

    /// Takes note of a shared file before its segments enter.
    pub fn add(&mut self, written: Written) {
        let Written { number, bytes } = written;
        self.all.insert(number, File { bytes, referred: 0, segments: 0, is_shared: true });
        self.list_small(number);
        self.set_next(number + 1);
    }

    /// A segment refers to its file from now on.
    pub fn enter(&mut self, segment: &SegmentState) {
        self.set_next(segment.generation + 1);
        let is_shared = match segment.place {
            Place::Former => return,
            Place::Own => false,
            Place::Part(_) => true,
        };
        let none = File { bytes: 0, referred: 0, segments: 0, is_shared };
        let file = self.all.entry(segment.generation).or_insert(none);
        if file.bytes < segment.bytes {
            self.small.remove(&(file.bytes, segment.generation));
            file.bytes = segment.bytes;
        }
        file.referred += segment.len();
        file.segments += 1;
        if !file.is_sparse() {
            self.sparse.remove(&segment.generation);
        }
        if !file.is_loose() {
            self.loose.remove(&segment.generation);
        }
    }

    /// A segment no longer refers to its file. Returns whether nothing else does.
    pub fn leave(&mut self, segment: &SegmentState) -> bool {
        let number = segment.generation;
        if segment.place == Place::Former {
            return true;
        }
        let Some(file) = self.all.get_mut(&number) else { return false };
        file.segments -= 1;
        file.referred = file.referred.saturating_sub(segment.len());
        if file.segments == 0 || seeded!(FileIsRemovedWithItsFirstSegment) {
            self.forget(number);
            return true;
        }
        if file.is_shared {
            let file = *file;
            self.list_sparse(number, file);
        }
        false
    }

    fn list_sparse(&mut self, number: u64, file: File) {
        if file.is_sparse() {
            self.sparse.insert(number);
        }
        if file.is_loose() {
            self.loose.insert(number);
        }
    }

    fn forget(&mut self, number: u64) {
        if let Some(file) = self.all.remove(&number) {
            self.sparse.remove(&number);
            self.loose.remove(&number);
            self.small.remove(&(file.bytes, number));
        }
    }

    /// Forgets a shared file to which no segment refers. Returns whether it is one.
    pub fn forget_unused(&mut self, number: u64) -> bool {
        let is_unused = self.all.get(&number).is_some_and(|file| file.segments == 0);
        if is_unused {
            self.forget(number);
        }
        is_unused
    }

    /// Whether shared files should be rewritten, in an idle store or a busy one.
    pub fn wants_rewrite(&self, is_idle: bool) -> bool {
        let sparse = if is_idle { &self.loose } else { &self.sparse };
        !sparse.is_empty() || self.small.len() > SMALL_FILES
    }

    /// Takes the shared files that are to be rewritten now: those of which little is referred to, and the smallest ones, if
    /// small ones are many. They have about as many bytes as a segment. A file is returned once, until more of it is dead.
    ///
    /// As the smallest ones become one that is larger than each of them by far, a message is rewritten seldom.
    pub fn take_wasteful(&mut self, is_idle: bool) -> Vec<u64> {
        let mut taken = BTreeSet::new();
        let small = if self.small.len() > SMALL_FILES { SMALL_FILES } else { 0 };
        taken.extend(std::iter::from_fn(|| Some(self.small.pop_first()?.1)).take(small));
        let mut bytes: u64 = taken.iter().map(|number| self.referred(*number)).sum();
        for _ in 0..SMALL_FILES {
            if bytes >= self.segment_bytes {
                break;
            }
            let loose = || self.loose.pop_first().filter(|_| is_idle);
            let Some(number) = self.sparse.pop_first().or_else(loose) else { break };
            self.loose.remove(&number);
            bytes += self.referred(number);
            taken.insert(number);
        }
        crate::audit::steps(taken.len() as u64);
        taken.into_iter().collect()
    }

    fn referred(&self, number: u64) -> u64 {
        self.all.get(&number).map_or(0, |file| file.referred)
    }

    /// Lists files that were taken to be rewritten, and were not.
    pub fn put_back(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.found(*number, 0));
    }

    fn list_small(&mut self, number: u64) {
        let Some(file) = self.all.get(&number) else { return };
        if file.is_shared && file.bytes < self.segment_bytes / SMALL_SHARE {
            self.small.insert((file.bytes, number));
        }
    }

    /// The files, each with its length as far as segments refer to it.
    pub fn lengths(&self) -> impl Iterator<Item = (u64, u64)> {
        self.all.iter().map(|(number, file)| (*number, file.bytes))
    }

    /// Takes note of the length that a file has on the disk.
    pub fn found(&mut self, number: u64, bytes: u64) {
        let Some(file) = self.all.get_mut(&number).filter(|file| file.is_shared) else { return };
        if file.bytes < bytes {
            self.small.remove(&(file.bytes, number));
            file.bytes = bytes;
        }
        let file = *file;
        self.list_sparse(number, file);
        self.list_small(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_small(lengths: &[u64]) -> Files {
        let mut files = Files::new(1 << 20);
        for (n, bytes) in lengths.iter().enumerate() {
            files.add(Written { number: n as u64 + 1, bytes: *bytes });
        }
        files
    }

    /// The oldest ones were taken. The file that they became was soon among them again, and all of it was written each time.
    #[test]
    fn the_smallest_files_become_one_and_the_large_ones_wait() {
        let mut files = with_small(&[9000, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!(files.take_wasteful(false), []);
        files.add(Written { number: 9, bytes: 10 });
        assert_eq!(files.take_wasteful(false), (2..=9).collect::<Vec<_>>());
        assert!(!files.wants_rewrite(false));
    }

    /// Files that were taken while the disk was full were not thought of again.
    #[test]
    fn files_that_were_not_rewritten_are_taken_again() {
        let mut files = with_small(&[10; 9]);
        let taken = files.take_wasteful(false);
        assert!(!files.wants_rewrite(false));
        files.put_back(&taken);
        assert!(files.wants_rewrite(false));
        let again: BTreeSet<u64> = files.take_wasteful(false).into_iter().collect();
        assert_eq!(again.len(), SMALL_FILES);
    }
}
