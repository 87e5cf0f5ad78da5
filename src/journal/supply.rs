//! The supply of journal files: made new, or filled again.

use std::sync::Arc;

use super::file::{JournalFile, sync_failed};
use crate::{
    disk::{Access, Disk, Open, Purpose, window},
    error::{Error, Result},
    format::{
        frame::FRAME_HEADER_BYTES,
        journal::{JOURNAL_HEADER_BYTES, JournalHeader, Link},
    },
    ids::{Lsn, StoreId},
    layout::Layout,
};

/// The system writes back what a file was zeroed by in one go, for as long as it is cached. So
/// files are zeroed in small pieces, to keep the later syncs of commits small.
const ZERO_PIECE: usize = 4096;
const RESERVE_PIECE: usize = 64 << 10;

/// What is needed to make journal files.
#[derive(Clone, Debug)]
pub struct Supply {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub store: StoreId,
    pub access: Access,
    pub file_bytes_min: u64,
    pub file_bytes_max: u64,
    /// How many bytes of files that are done with are kept to be filled again.
    pub pool_bytes: u64,
}

/// The capacity of a file that is at least `target` and holds a frame of `frame` bytes, leaving a
/// good part free.
pub fn capacity_for(target: u64, frame: u64) -> u64 {
    let needed = JOURNAL_HEADER_BYTES + frame + FRAME_HEADER_BYTES as u64;
    target.max(needed + needed / 2).next_multiple_of(4096)
}

/// Makes the next journal file, the reserve, or both: run it without holding the journal.
#[derive(Debug)]
pub struct PrepareJob {
    pub supply: Supply,
    pub file: Option<NewFile>,
    /// The bytes of the reserve, and what it is to have before the file is made.
    pub reserve: (u64, u64),
}

#[derive(Debug)]
pub struct NewFile {
    pub header: JournalHeader,
    /// A file whose content is done with.
    pub used: Option<JournalFile>,
    /// Whether it will be filled before it is synced.
    pub is_urgent: bool,
}

/// What came of a [`PrepareJob`].
#[derive(Debug)]
pub struct Prepared {
    pub file: Result<Option<JournalFile>>,
    /// The bytes of the reserve.
    pub reserve: u64,
}

impl PrepareJob {
    /// The reserve comes first, so that there is one whenever something new gets space.
    pub fn run(self) -> Prepared {
        let PrepareJob { supply, file, reserve: (now, wanted) } = self;
        if now < wanted
            && let Err(error) = reserve(&supply, now, wanted)
        {
            // What there was is had again, if that can be.
            let again = now > 0 && reserve(&supply, 0, now).is_ok();
            return Prepared { file: Err(error), reserve: if again { now } else { 0 } };
        }
        let file = file.map(|file| file.make(&supply)).transpose();
        Prepared { file, reserve: now.max(wanted) }
    }
}

impl NewFile {
    /// Makes the file durable, with its name.
    pub fn make(self, supply: &Supply) -> Result<JournalFile> {
        let NewFile { header, used, is_urgent } = self;
        let unfinished = Layout::unfinished(&supply.layout.journal_file(header.start));
        let begun = used.as_ref().map_or(unfinished, |used| used.path.clone());
        let made = match used {
            Some(used) => refill(used, header),
            None => make(supply, header),
        };
        let named = made.and_then(|mut file| {
            let path = supply.layout.journal_file(header.start);
            let failed =
                |error| Error::io(error, "a journal file cannot be renamed", file.path.clone());
            supply.disk.rename(&file.path, &path).map_err(failed)?;
            file.path = path;
            Ok(file)
        });
        let file = named.inspect_err(|_| {
            // What is left would be removed at the next open; removing it now gives back space.
            let _ = supply.disk.remove(&begun);
        })?;
        let dir = supply.layout.journal_dir();
        if !seeded!(NewNameIsNotSynced) {
            supply.disk.sync_dir(&dir).map_err(|error| sync_failed(error, dir))?;
        }
        if is_urgent {
            // Else each page is faulted in by whoever commits, which costs as much again as all the
            // commits that fit into it. But a page that is ready to be written counts as written.
            file.window.warm();
        }
        Ok(file)
    }
}

/// Takes up space, to be given back on a full disk: what frees space needs some first. Nothing in
/// the file counts, so it is never synced.
fn reserve(supply: &Supply, now: u64, wanted: u64) -> Result<()> {
    let path = supply.layout.reserve();
    let failed = |error| Error::io(error, "space cannot be reserved", &path);
    let fill = || {
        let how = if now == 0 { Open::Fresh } else { Open::Existing };
        let file = supply.disk.open(&path, how).map_err(failed)?;
        let zeros = [0; RESERVE_PIECE];
        let mut at = now;
        while at < wanted {
            let piece = zeros.len().min((wanted - at) as usize);
            file.write_at(at, &zeros[..piece]).map_err(failed)?;
            at += piece as u64;
        }
        Ok(())
    };
    fill().inspect_err(|_| {
        let _ = supply.disk.remove(&path);
    })
}

/// Begins a file again. Its blocks are there already, and warm.
fn refill(mut used: JournalFile, header: JournalHeader) -> Result<JournalFile> {
    used.window
        .write(0, &header.encode())
        .map_err(|error| Error::io(error, "a journal file cannot be written", &used.path))?;
    if seeded!(RefilledFileIsNotSynced) {
        used.seed = header.frame_seed();
        used.header = header;
        return Ok(used);
    }
    used.file.sync().map_err(|error| sync_failed(error, &used.path))?;
    used.seed = header.frame_seed();
    used.header = header;
    Ok(used)
}

/// Makes a file, every block of which is really written: a store through a map into a hole would
/// kill the process when the disk is full, and unwritten extents would cost a second flush a sync.
fn make(supply: &Supply, header: JournalHeader) -> Result<JournalFile> {
    let path = &Layout::unfinished(&supply.layout.journal_file(header.start));
    let failed = |error| Error::io(error, "a journal file cannot be made", path);
    let file = supply.disk.open(path, Open::Fresh).map_err(failed)?;
    file.write_at(0, &header.encode()).map_err(failed)?;
    let zeros = [0; ZERO_PIECE];
    let mut at = JOURNAL_HEADER_BYTES;
    while at < header.capacity {
        file.write_at(at, &zeros).map_err(failed)?;
        at += ZERO_PIECE as u64;
    }
    if !seeded!(NewFileIsNotSynced) {
        file.sync().map_err(|error| sync_failed(error, path))?;
    }
    let window = window(&file, header.capacity, supply.access, Purpose::Append).map_err(failed)?;
    let seed = header.frame_seed();
    Ok(JournalFile { header, path: path.clone(), file, window, seed, of_this_epoch: true })
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
