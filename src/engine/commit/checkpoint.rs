//! Checkpoints and journal files: the work on the disk that makes space for commits. `store/checkpoint.rs`
//! explains what a checkpoint does.

use super::committer::Committer;
use crate::{
    error::{ErrorKind, Result},
    ids::Lsn,
    inspect::{self, VerifyReport},
    journal::Urgency,
    store::{self, Extent, Store},
};

impl Committer {
    /// Prepares the next journal file. With `bytes`, the file is large enough for a frame of that many bytes. If
    /// another thread is preparing the file, waits for it.
    pub fn prepare_file(&self, bytes: Option<u64>, urgency: Urgency) -> Result<()> {
        let operation = "prepare a journal file";
        let working = self.work();
        let mut core = self.lock_open(operation)?;
        let Some(job) = core.store.journal.begin_prepare(bytes, urgency) else {
            let is_preparing = core.store.journal.is_preparing();
            drop((core, working));
            return if is_preparing {
                self.checkpointer.await_file(|| self.syncs.check())
            } else {
                Ok(())
            };
        };
        drop(core);
        let prepared = job.run();
        let finished = self.lock(operation).store.journal.finish_prepare(prepared);
        self.checkpointer.file_is_ready();
        finished.map_err(|error| self.poison_if_fatal(error))
    }

    /// Verifies the store while it is in use.
    pub fn verify(&self) -> Result<VerifyReport> {
        let check_open = || self.lock_open("verify").map(drop);
        let mut report = {
            let _working = self.work();
            let _checkpointing = self.checkpointing.lock();
            check_open()?;
            inspect::verify_base(self)?
        };
        inspect::verify_segments(self, &mut report, &check_open)?;
        Ok(report)
    }

    /// Makes a checkpoint.
    ///
    /// On a full disk it removes the spare files. For a commit that frees space it removes the reserve, too.
    /// Then it moves the journal file by file. Each file frees more space than its move takes.
    pub fn checkpoint(&self, extent: Extent, urgency: Urgency) -> Result<()> {
        let _working = self.work();
        let _checkpointing = self.checkpointing.lock();
        drop(self.lock_open("checkpoint")?);
        let mut made = store::checkpoint(self, extent);
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
            self.give_up_spares(urgency);
            made = store::checkpoint(self, Extent::Nothing);
            let older = self.lock_open("checkpoint")?.store.journal.older_files();
            for _ in 0..older {
                made = made.and_then(|()| store::checkpoint(self, Extent::Oldest));
            }
            made = made.and_then(|()| store::checkpoint(self, extent));
        }
        made.map_err(|error| self.poison_if_fatal(error))
    }

    fn give_up_spares(&self, urgency: Urgency) {
        let given_up = self.lock("give up spares").store.journal.give_up_spares(urgency);
        let Some(given_up) = given_up else { return };
        for path in given_up {
            let _ = self.disk.remove(&path);
        }
        self.lock("give up spares").store.journal.spares_are_gone();
        self.checkpointer.file_is_ready();
    }
}

impl store::Shared for Committer {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        act(&mut self.lock("checkpoint").store)
    }

    fn sync_to(&self, position: Lsn) -> Result<()> {
        Committer::sync_to(self, position)
    }
}
