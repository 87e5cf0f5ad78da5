//! A sync of the journal: a job that runs without holding the journal.

use std::{path::PathBuf, sync::Arc};

use super::file::sync_failed;
use crate::{
    disk::{DiskFile, Written},
    error::Result,
    ids::Lsn,
};

/// A job that makes a part of the journal durable. The caller runs it without holding the journal.
#[derive(Debug)]
pub struct SyncJob {
    /// The oldest first.
    pub(super) files: Vec<Unsynced>,
    /// The journal is durable up to this position once the job has run.
    pub(super) upto: Lsn,
}

#[derive(Debug)]
pub(super) struct Unsynced {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) written: Option<Written>,
    pub(super) path: PathBuf,
}

impl SyncJob {
    /// Syncs the files in their order, so that the durable part is always a prefix.
    pub fn run(&self) -> Result<()> {
        let all = if seeded!(OnlyTheNewestFileIsSynced) { self.files.len() - 1 } else { 0 };
        for Unsynced { file, written, path } in
            self.files.iter().skip(all).filter(|_| !seeded!(SyncIsSkipped))
        {
            if let Some(written) = written {
                written.unmap();
            }
            let synced = file.sync();
            let synced =
                if seeded!(FailedSyncIsTriedAgain) { synced.or(file.sync()) } else { synced };
            synced.map_err(|error| sync_failed(error, path))?;
        }
        Ok(())
    }
}
