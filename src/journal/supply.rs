//! The supply of journal files: new files, used files that are filled again, and the reserve for a full disk.

use std::{path::PathBuf, sync::Arc};

use super::{
    file::{JournalFile, sync_failed},
    grain::Grain,
};
use crate::{
    disk::{Access, Disk, Open, Purpose, window},
    error::{Error, ErrorKind, Result},
    format::{
        frame::FRAME_HEADER_BYTES,
        journal::{JOURNAL_HEADER_BYTES, JournalHeader, Link},
    },
    ids::{Lsn, StoreId},
    layout::Layout,
};

const RESERVE_PIECE: usize = 64 << 10;

/// The settings and the disk that are needed to make journal files.
#[derive(Clone, Debug)]
pub struct Supply {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub store: StoreId,
    pub access: Access,
    pub file_bytes_min: u64,
    pub file_bytes_max: u64,
    /// How many bytes of used files are kept to be filled again.
    pub pool_bytes: u64,
}

/// The capacity of a file of at least `target` bytes that holds a frame of `frame` bytes and leaves a good part
/// free.
pub fn capacity_for(target: u64, frame: u64) -> u64 {
    let needed = JOURNAL_HEADER_BYTES + frame + FRAME_HEADER_BYTES as u64;
    target.max(needed + needed / 2).next_multiple_of(4096)
}

/// A job that makes the next journal file, the reserve, or both. The caller runs it without holding the journal.
#[derive(Debug)]
pub struct PrepareJob {
    pub supply: Supply,
    pub file: Option<NewFile>,
    /// The present bytes of the reserve, and the bytes that it must have before the file is made.
    pub reserve: (u64, u64),
}

#[derive(Debug)]
pub struct NewFile {
    pub header: JournalHeader,
    /// How the file is zeroed. A used file was zeroed in the same way.
    pub grain: Grain,
    /// A used file to be filled again, whose content is no longer needed.
    pub used: Option<JournalFile>,
    /// A used file that was zeroed in the other way. It is filled again if there is no space for a new one.
    pub other: Option<JournalFile>,
    /// Whether commits will soon fill it, without a sync in between.
    pub is_urgent: bool,
}

/// The result of a [`PrepareJob`].
#[derive(Debug)]
pub struct Prepared {
    pub file: Result<Option<JournalFile>>,
    /// The bytes of the reserve.
    pub reserve: u64,
    /// The used file that was to be filled again, if it was not touched.
    pub unused: Option<JournalFile>,
}

impl PrepareJob {
    /// Runs the job. The reserve comes first, so that it exists before new data takes up space.
    pub fn run(self) -> Prepared {
        let PrepareJob { supply, file, reserve: (now, target) } = self;
        if now < target
            && let Err((error, left)) = reserve(&supply, now, target)
        {
            let unused = file.and_then(|file| file.used.or(file.other));
            return Prepared { file: Err(error), reserve: left, unused };
        }
        let (file, unused) = match file {
            Some(file) => file.make_or_refill(&supply),
            None => (Ok(None), None),
        };
        Prepared { file, reserve: now.max(target), unused }
    }
}

impl NewFile {
    /// As [`make`](NewFile::make). Without space for a new file, a used one of the other kind is filled again. Returns that one
    /// if it is not needed.
    fn make_or_refill(
        mut self,
        supply: &Supply,
    ) -> (Result<Option<JournalFile>>, Option<JournalFile>) {
        let (header, is_urgent, other) = (self.header, self.is_urgent, self.other.take());
        match (self.make(supply), other) {
            (Err(error), Some(other)) if error.kind() == ErrorKind::DiskFull => {
                let (grain, used) = (other.grain, Some(other));
                let refilled = NewFile { header, grain, used, other: None, is_urgent };
                (refilled.make(supply).map(Some), None)
            }
            (made, other) => (made.map(Some), other),
        }
    }

    /// Makes the file durable, with its name.
    pub fn make(self, supply: &Supply) -> Result<JournalFile> {
        let NewFile { header, grain, used, is_urgent, .. } = self;
        let unfinished = Layout::unfinished(&supply.layout.journal_file(header.start));
        let begun = used.as_ref().map_or(unfinished, |used| used.path.clone());
        let made = match used {
            Some(used) => refill(used, header),
            None => make(supply, header, grain),
        };
        let journal = supply.layout.journal_dir();
        let named = made.and_then(|mut file| {
            let failed = |error| Error::io(error, "the journal cannot be opened", &journal);
            let dir = supply.disk.open_dir(&journal).map_err(failed)?;
            let path = supply.layout.journal_file(header.start);
            let failed =
                |error| Error::io(error, "a journal file cannot be renamed", file.path.clone());
            supply.disk.rename(&file.path, &path).map_err(failed)?;
            file.path = path;
            Ok((file, dir))
        });
        let (file, dir) = named.inspect_err(|_| {
            // The next open would remove the unfinished file. To remove it now frees its space.
            let _ = supply.disk.remove(&begun);
        })?;
        if !seeded!(NewNameIsNotSynced) {
            dir.sync().map_err(|error| sync_failed(error, journal))?;
        }
        if is_urgent {
            // Otherwise commits fault in each page, which costs as much as all commits in the page.
            // A warm page is written back with the next sync, so only urgent files are warmed.
            file.window.warm();
        }
        Ok(file)
    }
}

/// Makes the file in which the journal goes on after a recovery. On a full disk it takes the space of files that are
/// no longer needed, and at last that of the reserve. Returns the file, and the bytes of the reserve that is left.
pub fn make_after_recovery(
    supply: &Supply,
    header: JournalHeader,
    unfinished: &[PathBuf],
    useless: &[PathBuf],
) -> Result<(JournalFile, u64)> {
    // If a removal fails, the next open tries it again.
    let remove = |path: &PathBuf| _ = supply.disk.remove(path);
    let new = || NewFile { header, grain: Grain::Fine, used: None, other: None, is_urgent: false };
    let make = || new().make(supply);
    let is_full = |made: &Result<_>| {
        made.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::DiskFull)
    };
    let reserve = supply.layout.reserve();
    unfinished.iter().filter(|path| **path != reserve).for_each(remove);
    let mut made = make();
    if is_full(&made) && !useless.is_empty() {
        useless.iter().for_each(remove);
        made = make();
    }
    if is_full(&made) && unfinished.contains(&reserve) {
        remove(&reserve);
        return Ok((make()?, 0));
    }
    let left = if unfinished.contains(&reserve) { supply.disk.len_of(&reserve).ok() } else { None };
    let left = left.unwrap_or(0);
    if left == 0 && unfinished.contains(&reserve) {
        // A crash has left its name and nothing of its space.
        remove(&reserve);
    }
    Ok((made?, left))
}

/// Takes up space that is freed on a full disk, because a commit that frees space needs some first. The content of
/// the file does not matter, so it is never synced.
///
/// An error comes with the bytes that are left: those that there were before, if the file can be cut.
fn reserve(supply: &Supply, now: u64, target: u64) -> std::result::Result<(), (Error, u64)> {
    let path = supply.layout.reserve();
    let failed = |error| Error::io(error, "space cannot be reserved", &path);
    let how = if now == 0 { Open::Fresh } else { Open::Existing };
    let file = supply.disk.open(&path, how).map_err(|error| (failed(error), now))?;
    let zeros = [0; RESERVE_PIECE];
    let mut at = now;
    while at < target {
        let piece = zeros.len().min((target - at) as usize);
        if let Err(error) = file.write_at(at, &zeros[..piece]) {
            // What was taken in addition is free again, and nobody can take the rest meanwhile.
            let is_cut = now > 0 && file.cut(now).is_ok();
            if !is_cut {
                let _ = supply.disk.remove(&path);
            }
            return Err((failed(error), if is_cut { now } else { 0 }));
        }
        at += piece as u64;
    }
    Ok(())
}

/// Begins a used file again. Its blocks are allocated and cached already.
fn refill(mut used: JournalFile, header: JournalHeader) -> Result<JournalFile> {
    used.window
        .write(0, &header.encode())
        .map_err(|error| Error::io(error, "a journal file cannot be written", &used.path))?;
    if seeded!(RefilledFileIsNotSynced) {
        used.header = header;
        return Ok(used);
    }
    used.file.sync().map_err(|error| sync_failed(error, &used.path))?;
    used.header = header;
    Ok(used)
}

/// Makes a file and writes every block of it. On a full disk, a store through a map into a hole would kill the
/// process. Unwritten extents would cost each sync a second flush.
fn make(supply: &Supply, header: JournalHeader, grain: Grain) -> Result<JournalFile> {
    let path = &Layout::unfinished(&supply.layout.journal_file(header.start));
    let failed = |error| Error::io(error, "a journal file cannot be made", path);
    let file = supply.disk.open(path, Open::Fresh).map_err(failed)?;
    file.write_at(0, &header.encode()).map_err(failed)?;
    let zeros = vec![0; grain.bytes() as usize];
    let mut at = JOURNAL_HEADER_BYTES;
    while at < header.capacity {
        let end = (at + 1).next_multiple_of(grain.bytes()).min(header.capacity);
        file.write_at(at, &zeros[..(end - at) as usize]).map_err(failed)?;
        at = end;
    }
    if !seeded!(NewFileIsNotSynced) {
        file.sync().map_err(|error| sync_failed(error, path))?;
    }
    let window = window(&file, header.capacity, supply.access, Purpose::Append).map_err(failed)?;
    let path = path.clone();
    Ok(JournalFile { header, path, file, window, grain, of_this_epoch: true })
}

/// The header of a store's first file.
pub fn first_header(supply: &Supply) -> JournalHeader {
    JournalHeader {
        store: supply.store,
        start: Lsn(0),
        capacity: capacity_for(supply.file_bytes_min, 0),
        epoch: 1,
        watermark: Lsn(0),
        link: Link::First,
    }
}
