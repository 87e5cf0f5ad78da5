//! Reads a metalog as far as it can be read, damaged or not. Nothing is changed or synced.

use std::path::PathBuf;

use super::MetaPlace;
use crate::{
    disk::{Open, is_no_dir, is_not_a_file, read_exact_at},
    error::{Error, Result},
    format::{
        Malformed,
        frame::{FrameHeader, decode_frame},
        meta::{CheckpointState, META_HEADER_BYTES, MetaEntry, MetaHeader, entries},
        wire::ALIGN,
    },
    ids::{Lsn, StoreId},
    layout::{Named, meta_name},
};

/// A metalog file.
#[derive(Debug)]
pub struct MetaFile {
    /// The number in its name.
    pub number: u64,
    pub path: PathBuf,
    pub header: Result<MetaHeader, Malformed>,
    bytes: Vec<u8>,
}

/// A damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaDamage {
    pub position: u64,
    pub what: Malformed,
}

/// The content of a file, as far as it verifies.
#[derive(Debug, Default)]
pub struct MetaSurvey {
    /// Every entry that verifies, with its position.
    pub entries: Vec<(u64, MetaEntry)>,
    /// How many of the entries belong to checkpoints that count.
    pub committed: usize,
    pub damage: Vec<MetaDamage>,
    /// Where the torn tail begins: the file does not verify from here on, and nothing proves that the rest was
    /// durable.
    pub torn: Option<u64>,
}

/// The finished files with their numbers, the newest first, and the others.
pub type Names = (Vec<(u64, PathBuf)>, Vec<PathBuf>);

/// The names of all metalog files.
pub fn list(place: &MetaPlace) -> Result<Names> {
    let dir = place.layout.meta_dir();
    let names = match place.disk.list(&dir) {
        Err(error) if is_no_dir(&error) => Vec::new(),
        names => names.map_err(|error| Error::io(error, "the metalog cannot be listed", &dir))?,
    };
    let (mut finished, mut others) = (Vec::new(), Vec::new());
    for name in names {
        match meta_name(&name) {
            Named::Unknown => {}
            Named::Unfinished => others.push(dir.join(name)),
            Named::Real(number) => finished.push((number, dir.join(name))),
        }
    }
    finished.sort_unstable_by(|a, b| b.cmp(a));
    Ok((finished, others))
}

/// Reads one file into memory.
pub fn read(place: &MetaPlace, number: u64, path: PathBuf) -> Result<MetaFile> {
    let failed = |error| Error::io(error, "the metalog cannot be read", &path);
    let bytes = match place.disk.open(&path, Open::Reading) {
        // Something else than a file holds nothing.
        Err(error) if is_not_a_file(&error) => Vec::new(),
        file => {
            let file = file.map_err(failed)?;
            let mut bytes = vec![0; file.len().map_err(failed)? as usize];
            read_exact_at(&*file, 0, &mut bytes).map_err(failed)?;
            bytes
        }
    };
    let header = MetaHeader::decode(&bytes);
    Ok(MetaFile { number, path, header, bytes })
}

impl MetaFile {
    /// The content of the file, if it belongs to a store. The header is not needed: the number is in the file's
    /// name, and the checksums of the entries tell whether it is right.
    pub fn survey(&self, store: StoreId) -> MetaSurvey {
        let header = match self.header {
            Ok(header) => MetaHeader { store, ..header },
            Err(_) => MetaHeader { store, number: self.number },
        };
        Walk { bytes: &self.bytes, header, gaps: Vec::new(), found: MetaSurvey::default() }.run()
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    header: MetaHeader,
    /// Ranges in which nothing verifies.
    gaps: Vec<(u64, u64)>,
    found: MetaSurvey,
}

impl Walk<'_> {
    fn frame(&self, at: u64) -> Result<(FrameHeader, &[u8]), Malformed> {
        let bytes = self.bytes.get(at as usize..).unwrap_or_default();
        decode_frame(bytes, Lsn(at), self.header.seed())
    }

    fn run(mut self) -> MetaSurvey {
        let len = self.bytes.len() as u64;
        let (mut at, mut good, mut proof) = (META_HEADER_BYTES, META_HEADER_BYTES, 0);
        while at < len {
            let Ok((frame, payload)) = self.frame(at) else {
                at += ALIGN;
                continue;
            };
            let found: Vec<_> = entries(payload).collect();
            proof = proof.max(frame.watermark.0);
            if good < at {
                self.gaps.push((good, at));
            }
            for entry in found {
                match entry {
                    Ok(entry) => self.found.entries.push((at, entry)),
                    Err(what) => self.found.damage.push(MetaDamage { position: at, what }),
                }
            }
            at += frame.frame_len();
            good = at;
        }
        if good < len {
            self.gaps.push((good, len));
        }
        self.judge(proof);
        self.check_counts();
        self.found
    }

    /// Tells damage from a torn tail, and finds the last checkpoint that counts.
    fn judge(&mut self, proof: u64) {
        let is_checkpoint =
            |(_, entry): &&(u64, MetaEntry)| matches!(entry, MetaEntry::Checkpoint(_));
        let first = self.found.entries.iter().find(is_checkpoint).map_or(u64::MAX, |(at, _)| *at);
        for (from, _) in &self.gaps {
            // A file gets its name only once it begins with a whole checkpoint.
            if *from >= proof && *from > first {
                self.found.torn = Some(*from);
                break;
            }
            let what = Malformed("an entry of the metalog that was durable does not verify");
            self.found.damage.push(MetaDamage { position: *from, what });
        }
        self.found.damage.sort_unstable_by_key(|damage| damage.position);
        let torn = self.found.torn.unwrap_or(u64::MAX);
        let counts = |(at, entry): &(u64, MetaEntry)| {
            *at < torn && matches!(entry, MetaEntry::Checkpoint(_))
        };
        self.found.committed = self.found.entries.iter().rposition(counts).map_or(0, |n| n + 1);
        let end = self.found.entries[..self.found.committed].last().map_or(u64::MAX, |(at, _)| *at);
        // An entry that does not decode matters only if a checkpoint counts it.
        self.found.damage.retain(|damage| damage.position <= end || damage.position < proof);
        if self.found.committed == 0 && self.found.damage.is_empty() {
            let what = Malformed("a metalog without a checkpoint");
            self.found.damage.push(MetaDamage { position: META_HEADER_BYTES, what });
        }
    }

    /// A checkpoint says how many entries belong to it.
    fn check_counts(&mut self) {
        if !self.found.damage.is_empty() {
            return;
        }
        let mut count = 0;
        for (at, entry) in &self.found.entries[..self.found.committed] {
            match entry {
                MetaEntry::Checkpoint(checkpoint) if checkpoint.entries != count => {
                    let what = Malformed("a checkpoint that counts more entries than it has");
                    self.found.damage.push(MetaDamage { position: *at, what });
                }
                MetaEntry::Checkpoint(_) => count = 0,
                _ => count += 1,
            }
        }
    }
}

impl MetaSurvey {
    /// The last checkpoint that counts.
    pub fn checkpoint(&self) -> Option<&CheckpointState> {
        self.entries[..self.committed].iter().rev().find_map(|(_, entry)| match entry {
            MetaEntry::Checkpoint(checkpoint) => Some(checkpoint),
            _ => None,
        })
    }
}
