//! The supply of journal files: made new, or filled again.

use std::{path::PathBuf, sync::Arc};

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

/// Makes the next journal file: run it without holding the journal.
#[derive(Debug)]
pub struct PrepareJob {
    supply: Supply,
    header: JournalHeader,
    /// A file whose content is done with.
    used: Option<JournalFile>,
}

impl PrepareJob {
    pub fn new(supply: &Supply, header: JournalHeader, used: Option<JournalFile>) -> PrepareJob {
        PrepareJob { supply: supply.clone(), header, used }
    }

    /// Makes the file durable, with its name.
    pub fn run(self) -> Result<JournalFile> {
        let PrepareJob { supply, header, used } = self;
        let made = match used {
            Some(used) => refill(used, header),
            None => make(&supply, header),
        };
        let mut file = made?;
        let path = supply.layout.journal_file(header.start);
        supply
            .disk
            .rename(&file.path, &path)
            .map_err(|error| Error::io(error, "a journal file cannot be renamed", &file.path))?;
        file.path = path;
        let dir = supply.layout.journal_dir();
        supply.disk.sync_dir(&dir).map_err(|error| sync_failed(error, dir))?;
        Ok(file)
    }
}

/// Begins a file again. Its blocks are there already, and warm.
fn refill(mut used: JournalFile, header: JournalHeader) -> Result<JournalFile> {
    used.window
        .write(0, &header.encode())
        .map_err(|error| Error::io(error, "a journal file cannot be written", &used.path))?;
    used.file.sync().map_err(|error| sync_failed(error, &used.path))?;
    used.seed = header.frame_seed();
    used.header = header;
    Ok(used)
}

/// Makes a file, every block of which is really written: a store through a map into a hole would
/// kill the process when the disk is full, and unwritten extents would cost a second flush a sync.
fn make(supply: &Supply, header: JournalHeader) -> Result<JournalFile> {
    let path = Layout::unfinished(&supply.layout.journal_file(header.start));
    let made = fill(supply, header, &path);
    if made.is_err() {
        // What is left would be removed at the next open; removing it now gives back space.
        let _ = supply.disk.remove(&path);
    }
    made
}

fn fill(supply: &Supply, header: JournalHeader, path: &PathBuf) -> Result<JournalFile> {
    let failed = |error| Error::io(error, "a journal file cannot be made", path);
    let file = supply.disk.open(path, Open::Fresh).map_err(failed)?;
    file.write_at(0, &header.encode()).map_err(failed)?;
    let zeros = [0; ZERO_PIECE];
    let mut at = JOURNAL_HEADER_BYTES;
    while at < header.capacity {
        file.write_at(at, &zeros).map_err(failed)?;
        at += ZERO_PIECE as u64;
    }
    file.sync().map_err(|error| sync_failed(error, path))?;
    let window = window(&file, header.capacity, supply.access, Purpose::Append).map_err(failed)?;
    let seed = header.frame_seed();
    Ok(JournalFile { header, path: path.clone(), file, window, seed, of_this_life: true })
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
