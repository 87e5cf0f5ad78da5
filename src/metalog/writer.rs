//! Writes the metalog: entries, and the checkpoints that make them count.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::MetaPlace;
use crate::{
    disk::{DiskFile, Open},
    error::{Error, ErrorKind, Result},
    format::{
        frame::{FrameKind, begin_frame, finish_frame},
        meta::{CheckpointState, META_HEADER_BYTES, MetaEntry, MetaHeader},
        wire::Seed,
    },
    ids::{EntityId, Lsn, StoreId},
    layout::Layout,
};

const WRITE_BYTES: usize = 256 << 10;
/// A frame takes entries until it has so many bytes. The more it has, the more a damaged frame costs.
const FRAME_BYTES: usize = 4 << 10;

/// One metalog file that this epoch has begun.
#[derive(Debug)]
pub struct MetaWriter {
    place: MetaPlace,
    number: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    seed: Seed,
    /// The frame to which entries are added. Empty if none was begun.
    frame: Vec<u8>,
    /// Frames that are not written yet. They end at `end`.
    ready: Vec<u8>,
    end: u64,
    /// The end of the last durable checkpoint; 0 before the first one.
    durable: u64,
    /// The length of the first checkpoint, which holds the whole state.
    snapshot_bytes: u64,
    entries: u64,
    /// Whether a checkpoint may count that was not reported as made.
    may_count: bool,
}

impl MetaWriter {
    /// Begins a file. Its first checkpoint must hold all keys.
    pub fn create(place: &MetaPlace, store: StoreId, number: u64) -> Result<MetaWriter> {
        let header = MetaHeader { store, number };
        let path = Layout::unfinished(&place.layout.meta_file(number));
        let file = place.disk.open(&path, Open::Fresh);
        let file = file.map_err(|error| Error::io(error, "a metalog cannot be made", &path))?;
        Ok(MetaWriter {
            place: place.clone(),
            number,
            path,
            file,
            seed: header.seed(),
            frame: Vec::new(),
            ready: header.encode(),
            end: META_HEADER_BYTES,
            durable: 0,
            snapshot_bytes: 0,
            entries: 0,
            may_count: false,
        })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether so many entries are superseded that the next checkpoint should begin a new file. The file may have
    /// `slack` more bytes than twice those of its first checkpoint.
    pub fn wants_compaction(&self, slack: u64) -> bool {
        self.end > 2 * self.snapshot_bytes + slack
    }

    /// The bytes of the first checkpoint, which holds the whole state.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// Adds entries. They count only once a checkpoint follows.
    pub fn put_all(&mut self, entries: &[MetaEntry]) -> Result<()> {
        entries.iter().try_for_each(|entry| self.put(entry))
    }

    /// Removes a file that has no checkpoint yet. On a full disk its space is needed at once.
    pub fn abandon(self) {
        if self.durable == 0 {
            // If the removal fails, the next attempt empties the file, or the next open removes it.
            let _ = self.place.disk.remove(&self.path);
        }
    }

    /// Adds an entry.
    pub fn put(&mut self, entry: &MetaEntry) -> Result<()> {
        // A name that is lost cannot be found in messages. So damage to one frame costs no more than one name.
        let is_alone = matches!(entry, MetaEntry::Entity(_) | MetaEntry::Checkpoint(_));
        if is_alone {
            self.end_frame();
        }
        if self.frame.is_empty() {
            begin_frame(&mut self.frame);
        }
        entry.put(&mut self.frame);
        self.entries += 1;
        if is_alone || self.frame.len() >= FRAME_BYTES {
            self.end_frame();
        }
        if self.ready.len() >= WRITE_BYTES { self.write_ready() } else { Ok(()) }
    }

    /// Ends the frame to which entries are added.
    pub(super) fn end_frame(&mut self) {
        if self.frame.is_empty() {
            return;
        }
        let watermark = Lsn(self.durable);
        finish_frame(
            &mut self.frame,
            FrameKind::Commit,
            Lsn(self.end),
            watermark,
            self.seed.begin(),
        );
        self.end += self.frame.len() as u64;
        self.ready.extend_from_slice(&self.frame);
        self.frame.clear();
    }

    fn write_ready(&mut self) -> Result<()> {
        let at = self.end - self.ready.len() as u64;
        self.file.write_at(at, &self.ready).map_err(|error| {
            Error::io(error, "the metalog cannot be written", &self.path).at(at)
        })?;
        self.ready.clear();
        Ok(())
    }

    /// Whether a checkpoint may count although [`commit`](MetaWriter::commit) has failed.
    pub fn may_count(&self) -> bool {
        self.may_count
    }

    /// Writes a checkpoint and makes it durable, with all entries before it. At that moment they count.
    pub fn commit(&mut self, replay_from: Lsn, reflects: Lsn, next_id: EntityId) -> Result<()> {
        let entries = self.entries;
        let checkpoint = CheckpointState { replay_from, reflects, next_id, entries };
        self.may_count = false;
        if let Err(error) =
            self.put(&MetaEntry::Checkpoint(checkpoint)).and_then(|()| self.write_ready())
        {
            // Without space, its end was not written.
            self.may_count = self.durable > 0 && error.kind() != ErrorKind::DiskFull;
            return Err(error);
        }
        // Nothing counts in a file that has no name yet.
        self.may_count = self.durable > 0;
        let first = self.durable == 0;
        if first && seeded!(MetalogIsNamedEarly) {
            self.take_name()?;
        }
        if !seeded!(MetalogIsNotSynced) {
            self.file.sync().map_err(|error| sync_failed(error, &self.path))?;
        }
        if first {
            self.take_name()?;
            self.snapshot_bytes = self.end;
        }
        self.durable = self.end;
        self.entries = 0;
        Ok(())
    }

    /// Gives the file its real name, durably.
    fn take_name(&mut self) -> Result<()> {
        self.may_count = true;
        let path = self.place.layout.meta_file(self.number);
        let disk = &self.place.disk;
        let meta_dir = self.place.layout.meta_dir();
        let failed =
            |error| Error::io(error, "the metalog's directory cannot be opened", &meta_dir);
        let dir = disk.open_dir(&meta_dir).map_err(failed)?;
        disk.rename(&self.path, &path)
            .map_err(|error| Error::io(error, "a metalog cannot be renamed", &self.path))?;
        self.path = path;
        if !seeded!(MetalogNameIsNotSynced) {
            dir.sync().map_err(|error| sync_failed(error, &meta_dir))?;
        }
        Ok(())
    }
}

fn sync_failed(error: std::io::Error, path: &Path) -> Error {
    let what = "a sync of the metalog failed; reopen the store to find out what is there";
    Error::new(ErrorKind::Poisoned, what).in_file(path).because(error)
}
