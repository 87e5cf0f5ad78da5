//! The journal while the engine is open: appends frames, rolls to the next file, begins syncs, and releases files that
//! a checkpoint covers.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use super::{
    file::{JournalBytes, JournalFile},
    frame_space::{FrameSpace, Urgency},
    grain::Grain,
    supply::{NewFile, PrepareJob, Prepared, Supply, capacity_for, first_header},
    sync::{SyncJob, Unsynced},
};
use crate::{
    config::JOURNAL_RESERVE_SHARE,
    disk::DiskFile,
    error::{Error, ErrorKind, Result},
    format::{
        frame::{FRAME_HEADER_BYTES, FrameKind, begin_frame},
        journal::{JournalHeader, Link},
        wire::{Sum, aligned},
    },
    ids::Lsn,
    layout::Layout,
};

/// A file that took this many syncs to fill is large enough. To make a file costs little beside so many syncs, and a
/// larger file has to be zeroed first, all of it.
const SYNCS_A_FILE: u32 = 2048;

/// Behind every commit there is space for a mark, which proves that the commit was durable, and for a roll frame.
const BEHIND_A_COMMIT: u64 = 2 * FRAME_HEADER_BYTES as u64;

#[derive(Debug)]
pub struct Journal {
    pub(super) supply: Supply,
    /// The files from the oldest that is still needed to the current one.
    pub(super) files: VecDeque<JournalFile>,
    /// The next file: durable, and not used yet.
    pub(super) next: Option<JournalFile>,
    /// The former `next`, while a larger file that takes its name is prepared.
    replaced: Option<JournalFile>,
    /// Whether the next file was made on a full disk, for commits that free space.
    pub(super) next_frees: bool,
    /// Whether a thread is making or removing files.
    pub(super) preparing: bool,
    /// The bytes of the reserve for a full disk, and those it needs beside the ones for journal files.
    pub(super) reserve: u64,
    pub(super) overhead_bytes: u64,
    /// Whether the disk was full when a file was last prepared, and no space was freed since.
    pub(super) starved: bool,
    /// The old name of a file that is being filled again.
    refilling: Option<PathBuf>,
    /// Used files to be filled again.
    pub(super) pool: Vec<JournalFile>,
    /// The capacity of the next file.
    pub(super) target: u64,
    /// How many syncs there were since the current file was begun.
    syncs: u32,
    /// Whether the file before the current one was filled without a sync.
    is_hurried: bool,
    /// The grain of the next file.
    pub(super) grain: Grain,
    /// Whether the current file is left as soon as there is a next one.
    is_too_coarse: bool,
    pub(super) bytes_behind: u64,
    /// The checksum of every frame of this epoch begins with it.
    pub(super) begun: Sum,
    pub(super) tail: Lsn,
    /// The end of the last frame that is a commit.
    pub(super) content_tail: Lsn,
    pub(super) durable: Lsn,
}

impl Journal {
    /// Makes the journal of a new store.
    pub fn create(supply: Supply) -> Result<Journal> {
        let (header, grain) = (first_header(&supply), Grain::Fine);
        let first =
            NewFile { header, grain, used: None, other: None, is_urgent: false }.make(&supply)?;
        Ok(Journal::new(supply, VecDeque::from([first])))
    }

    /// A journal whose last file is empty. That file and everything before it are durable.
    pub(super) fn new(supply: Supply, files: VecDeque<JournalFile>) -> Journal {
        let current = files.back().expect("a journal has a file");
        let (tail, begun) = (current.header.first_frame(), current.header.frame_seed().begin());
        let bytes_behind = files.iter().rev().skip(1).map(|file| file.header.capacity).sum();
        Journal {
            bytes_behind,
            target: supply.file_bytes_min,
            syncs: 0,
            is_hurried: false,
            grain: Grain::Fine,
            is_too_coarse: false,
            supply,
            files,
            next: None,
            replaced: None,
            preparing: false,
            reserve: 0,
            overhead_bytes: 0,
            next_frees: false,
            starved: false,
            refilling: None,
            pool: Vec::new(),
            begun,
            tail,
            content_tail: tail,
            durable: tail,
        }
    }

    /// The epoch of the journal. Each open increases it, and makes it durable before the first commit.
    pub fn epoch(&self) -> u64 {
        self.files.back().expect("a journal has a file").header.epoch
    }

    /// Where the next frame goes.
    #[inline]
    pub fn tail(&self) -> Lsn {
        self.tail
    }

    /// Everything before this position survives a power cut.
    #[inline]
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Whether a commit waits for a sync.
    pub fn is_dirty(&self) -> bool {
        self.durable < self.content_tail
    }

    /// Whether everything is durable, and no frame says so yet.
    pub fn wants_mark(&self) -> bool {
        self.durable == self.tail && self.tail == self.content_tail && !self.is_unused()
    }

    /// Whether this epoch has written nothing.
    pub fn is_unused(&self) -> bool {
        let current = self.files.back().expect("a journal has a file");
        let first = self.files.iter().find(|file| file.of_this_epoch).unwrap_or(current);
        self.tail == first.header.first_frame()
    }

    /// The bytes of the files before the current one.
    #[inline]
    pub fn bytes_behind(&self) -> u64 {
        self.bytes_behind
    }

    /// Where the oldest file begins that is still needed.
    #[inline]
    pub fn start(&self) -> Lsn {
        self.files.front().expect("a journal has a file").header.start
    }

    /// How many files of the smallest size earlier epochs have left. Short epochs leave such files.
    pub fn small_old_files(&self) -> usize {
        let smallest = capacity_for(self.supply.file_bytes_min, 0);
        let small = |file: &&JournalFile| !file.of_this_epoch && file.header.capacity <= smallest;
        self.files.iter().filter(small).count()
    }

    /// The first frame of the oldest file that can stay if the files before the current one may have at most
    /// `bytes` bytes.
    pub fn boundary_keeping(&self, bytes: u64) -> Lsn {
        let mut kept = 0;
        let mut boundary = self.files.back().expect("a journal has a file");
        for file in self.files.iter().rev().skip(1).take_while(|file| file.of_this_epoch) {
            kept += file.header.capacity;
            if kept > bytes {
                break;
            }
            boundary = file;
        }
        boundary.header.first_frame()
    }

    /// The first frame of the second oldest file, or of the only file.
    pub fn second_file(&self) -> Lsn {
        self.files.get(1).unwrap_or(&self.files[0]).header.first_frame()
    }

    /// The first frames of all files but the oldest.
    pub fn boundaries(&self) -> impl Iterator<Item = Lsn> {
        self.files.iter().skip(1).map(|file| file.header.first_frame())
    }

    /// How many files there are before the current one.
    pub fn older_files(&self) -> usize {
        self.files.len() - 1
    }

    #[inline]
    pub(super) fn current(&mut self) -> &mut JournalFile {
        self.files.back_mut().expect("a journal has a file")
    }

    /// Finds space for a frame with a payload of `payload_len` bytes. Rolls to the next file if the current one
    /// is too full.
    #[inline]
    pub fn make_space(&mut self, payload_len: usize, urgency: Urgency) -> Result<FrameSpace> {
        let frame = aligned((FRAME_HEADER_BYTES + payload_len) as u64);
        if urgency == Urgency::Ordinary && self.reserve == 0 {
            return Ok(FrameSpace::NeedsFile(frame));
        }
        if self.has_place(frame, urgency) {
            return Ok(FrameSpace::Ready);
        }
        let Some(next) = &self.next else {
            return Ok(FrameSpace::NeedsFile(frame));
        };
        if next.header.capacity < capacity_for(0, frame) {
            return Ok(FrameSpace::NeedsFile(frame));
        }
        self.roll()?;
        // `capacity_for` made the new file large enough for the frame and the reserve.
        Ok(FrameSpace::Ready)
    }

    /// Whether the next frame stands in the current file. If not, it needs the next file.
    #[inline]
    pub(super) fn has_place(&mut self, frame: u64, urgency: Urgency) -> bool {
        self.fits(frame, urgency) && !(self.is_too_coarse && self.may_leave_for(frame))
    }

    /// Whether there is a next file for a frame, so that the current file need not be filled. On a full disk it is, and in
    /// a long journal: what is skipped counts like what is written, so it would bring back-pressure nearer.
    #[cold]
    fn may_leave_for(&self, frame: u64) -> bool {
        let has_space = !self.starved && !self.next_frees;
        let is_short = 2 * self.bytes_behind <= self.supply.pool_bytes;
        has_space
            && is_short
            && self.next.as_ref().is_some_and(|next| next.header.capacity >= capacity_for(0, frame))
    }

    #[inline]
    fn fits(&mut self, frame: u64, urgency: Urgency) -> bool {
        let has_next = self.next.is_some();
        let tail = self.tail.0;
        let current = self.current();
        let reserve = if urgency == Urgency::Ordinary && !has_next {
            current.header.capacity / JOURNAL_RESERVE_SHARE
        } else {
            0
        };
        frame + BEHIND_A_COMMIT + reserve <= current.end().0 - tail
    }

    /// Writes a roll frame, and goes on in the next file.
    fn roll(&mut self) -> Result<()> {
        let mut frame = Vec::new();
        begin_frame(&mut frame);
        self.put(&mut frame, FrameKind::Roll)?;
        let next = self.next.take().expect("the caller checked that there is a next file");
        self.next_frees = false;
        self.grain = self.grain.behind(self.filled(), self.syncs);
        self.tail = next.header.first_frame();
        self.bytes_behind += self.current().header.capacity;
        if self.syncs < SYNCS_A_FILE && !self.is_too_coarse {
            self.target = (self.target * 2).min(self.supply.file_bytes_max);
        }
        self.is_hurried = self.syncs == 0;
        self.syncs = 0;
        self.is_too_coarse = false;
        self.files.push_back(next);
        Ok(())
    }

    /// The bytes of the frames in the current file.
    fn filled(&mut self) -> u64 {
        self.tail.0 - self.current().header.first_frame().0
    }

    /// The sync that makes everything up to the tail durable. `None` if everything is durable.
    pub fn begin_sync(&self) -> Option<SyncJob> {
        if self.durable >= self.tail {
            return None;
        }
        let mut files: Vec<_> = self
            .files
            .iter()
            .rev()
            .take_while(|file| file.end() > self.durable)
            .map(|file| Unsynced {
                file: Arc::clone(&file.file),
                written: file.written(self.durable),
                path: file.path.clone(),
            })
            .collect();
        files.reverse();
        Some(SyncJob { files, upto: self.tail })
    }

    /// Notes a sync that succeeded.
    pub fn finish_sync(&mut self, job: &SyncJob) {
        self.durable = self.durable.max(job.upto);
        self.syncs = self.syncs.saturating_add(1);
        let (filled, syncs) = (self.filled(), self.syncs);
        self.is_too_coarse = self.current().grain.is_too_coarse(filled, syncs);
    }

    /// The job that makes the next file before it is needed. The file must hold a frame of `frame` bytes. The
    /// job makes the reserve, too, unless the file is for a commit that frees space.
    pub fn begin_prepare(
        &mut self,
        frame: Option<u64>,
        urgency: Urgency,
        overhead_bytes: u64,
    ) -> Option<PrepareJob> {
        self.overhead_bytes = overhead_bytes;
        let enough = |next: &JournalFile| {
            frame.is_none_or(|frame| next.header.capacity >= capacity_for(0, frame))
        };
        let has_next = self.next.as_ref().is_some_and(enough);
        let reserve = match urgency {
            Urgency::Ordinary => self.reserve_wanted(frame.unwrap_or(0)),
            Urgency::Freeing => self.reserve,
        };
        if self.preparing || (has_next && reserve <= self.reserve) {
            return None;
        }
        self.preparing = true;
        let file = if has_next { None } else { Some(self.next_file(frame.unwrap_or(0))) };
        self.next_frees = file.is_some() && urgency == Urgency::Freeing;
        Some(PrepareJob { supply: self.supply.clone(), file, reserve: (self.reserve, reserve) })
    }

    fn next_file(&mut self, frame: u64) -> NewFile {
        // No roll frame leads into a prepared file that is too small. So the new file can take its name.
        self.replaced = self.next.take();
        let capacity = capacity_for(self.target, frame);
        let current = self.files.back().expect("a journal has a file");
        let header = JournalHeader {
            store: self.supply.store,
            start: current.end(),
            capacity,
            epoch: current.header.epoch,
            watermark: self.durable,
            link: Link::Roll,
        };
        let wanted = self.grain;
        let used = self.take_used(capacity, |grain| grain == wanted);
        let other = if used.is_none() { self.take_used(capacity, |_| true) } else { None };
        self.refilling = used.as_ref().or(other.as_ref()).map(|file| file.path.clone());
        NewFile { header, grain: self.grain, used, other, is_urgent: self.is_hurried }
    }

    pub fn finish_prepare(&mut self, prepared: Prepared) -> Result<()> {
        self.preparing = false;
        let reserve_is_new = self.reserve == 0 && prepared.reserve > 0;
        self.reserve = prepared.reserve;
        self.refilling = None;
        self.pool.extend(prepared.unused);
        let replaced = self.replaced.take();
        match prepared.file {
            Ok(file) => {
                self.next = file.or(self.next.take());
                self.starved = false;
                Ok(())
            }
            Err(error) => {
                self.next = self.next.take().or(replaced);
                if error.kind() == ErrorKind::DiskFull {
                    self.starved = true;
                    // A smaller file may still fit.
                    self.target = self.supply.file_bytes_min;
                    if reserve_is_new {
                        // With the reserve, the current file may have space.
                        return Ok(());
                    }
                }
                Err(error)
            }
        }
    }

    /// Whether a thread is preparing the next file.
    pub fn is_preparing(&self) -> bool {
        self.preparing
    }

    /// Whether the next file or the reserve should be prepared before a commit needs it.
    #[inline]
    pub fn wants_file(&self) -> bool {
        (self.next.is_none() || self.reserve == 0) && !self.preparing && !self.starved
    }

    /// The files of the journal, the oldest first.
    pub fn consists_of(&self) -> Vec<(JournalHeader, PathBuf, Arc<dyn DiskFile>)> {
        let parts = |it: &JournalFile| (it.header, it.path.clone(), Arc::clone(&it.file));
        self.files.iter().map(parts).collect()
    }

    /// The names of all files that the journal keeps for any purpose, or is about to make.
    pub fn kept_paths(&self) -> Vec<PathBuf> {
        let kept = self.files.iter().chain(&self.next).chain(&self.replaced).chain(&self.pool);
        let mut paths: Vec<PathBuf> = kept.map(|file| file.path.clone()).collect();
        paths.extend(self.refilling.clone());
        if self.reserve > 0 || self.preparing {
            paths.push(self.supply.layout.reserve());
        }
        if let (true, Some(current)) = (self.preparing, self.files.back()) {
            let path = self.supply.layout.journal_file(current.end());
            paths.extend([Layout::unfinished(&path), path]);
        }
        paths
    }

    /// Where the file ends that holds a position.
    pub fn file_end(&self, lsn: Lsn) -> Lsn {
        let index = self.files.partition_point(|file| file.start() <= lsn);
        index.checked_sub(1).map_or(lsn, |index| self.files[index].end())
    }

    /// The bytes from a position on. They were appended, and lie in one file.
    #[inline]
    pub fn bytes(&self, lsn: Lsn, len: usize) -> Result<JournalBytes> {
        if let Some(file) = self.files.back().filter(|file| file.start() <= lsn) {
            return file.bytes(lsn, len);
        }
        let index = self.files.partition_point(|file| file.start() <= lsn);
        match index.checked_sub(1).map(|index| &self.files[index]) {
            Some(file) => file.bytes(lsn, len),
            None => {
                let what = format!("journal position {lsn} was released before it was read");
                Err(Error::new(ErrorKind::Corrupt, what))
            }
        }
    }
}
