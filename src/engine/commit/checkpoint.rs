//! Checkpoints and journal files: the work on the disk that makes space for commits. `store/checkpoint.rs`
//! explains what a checkpoint does.

use std::time::Duration;

use super::committer::Committer;
use crate::{
    error::{ErrorKind, Result},
    ids::Lsn,
    inspect::{self, VerifyReport},
    journal::{PrepareJob, Urgency},
    store::{self, Extent, Store},
};

/// The most bytes of the frame that records the clocks.
pub(super) const CLOCKS_BYTES: u64 = 256;

impl Committer {
    /// Begins with the clocks of this boot, and records them. Without space, as on a full disk, the first commit records
    /// them.
    pub fn begin_clock(&self) -> Result<()> {
        let mut core = self.lock("open");
        let before = core.store.journal.tail();
        if core.has_recorded_clock(self.now()) {
            let has_recorded = core.store.journal.tail() != before;
            drop(core);
            if has_recorded {
                // No other commit may follow.
                self.sync_soon();
            }
            return Ok(());
        }
        drop(core);
        match self.prepare_file(Some(CLOCKS_BYTES), Urgency::Ordinary) {
            Err(error) if error.kind() == ErrorKind::Poisoned => Err(error),
            prepared => {
                let is_prepared = prepared.is_ok();
                if is_prepared && self.lock("open").has_recorded_clock(self.now()) {
                    self.sync_soon();
                }
                Ok(())
            }
        }
    }

    /// Prepares the next journal file. With `bytes`, the file is large enough for a frame of that many bytes. If
    /// another thread is preparing the file, waits for it.
    pub fn prepare_file(&self, bytes: Option<u64>, urgency: Urgency) -> Result<()> {
        let working = self.work();
        if let Some(job) = self.begin_prepare(bytes, urgency)? {
            return self.run_prepare(job);
        }
        let is_preparing = self.lock("prepare a journal file").store.journal.is_preparing();
        drop(working);
        if is_preparing { self.checkpointer.await_file(|| self.syncs.check()) } else { Ok(()) }
    }

    fn begin_prepare(&self, bytes: Option<u64>, urgency: Urgency) -> Result<Option<PrepareJob>> {
        let mut core = self.lock_open("prepare a journal file")?;
        Ok(core.store.begin_prepare(bytes, urgency))
    }

    pub(super) fn run_prepare(&self, job: PrepareJob) -> Result<()> {
        let prepared = job.run();
        let mut core = self.lock("prepare a journal file");
        let finished = core.store.journal.finish_prepare(prepared);
        drop(core);
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
        self.verify_delay_indexes(&mut report, &check_open)?;
        Ok(report)
    }

    /// Makes a checkpoint.
    ///
    /// Of much journal it is made in parts. Each part makes the journal shorter, and whoever waits for that goes on. Queues
    /// that are not used go to rest.
    pub fn checkpoint(&self, extent: Extent, urgency: Urgency) -> Result<()> {
        let _working = self.work();
        let _checkpointing = self.checkpointing.lock();
        let (parts, frees) = {
            let core = self.lock_open("checkpoint")?;
            (core.store.parts(extent), core.store.has_dead_segment())
        };
        let mut made = Ok(());
        for part in parts {
            let begun = self.begun()?;
            made = store::checkpoint(self, part, true);
            self.relieve(begun);
            if made.is_err() {
                break;
            }
            self.checkpointer.part_is_made();
        }
        if made.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
            let begun = self.begun()?;
            // Whoever asks for it, it frees space, and the reserve is made anew with that.
            let urgency = if frees { Urgency::Freeing } else { urgency };
            made = self.checkpoint_on_full_disk(extent, urgency);
            self.relieve(begun);
        }
        if made.is_ok() {
            // A full journal may have had no space for the clocks.
            let mut core = self.lock("checkpoint");
            let before = core.store.journal.tail();
            core.keep_clock(self.now());
            if core.store.journal.tail() != before {
                self.sync_soon();
            }
        }
        self.make_round(false);
        made.map_err(|error| self.poison_if_fatal(error))
    }

    /// Removes the spare files. For a commit that frees space it removes the reserve, too, and first of all makes a journal
    /// file, so that such commits go on whatever the checkpoint comes to. Then it moves the journal file by file. Each
    /// file frees the space that the next one takes.
    fn checkpoint_on_full_disk(&self, extent: Extent, urgency: Urgency) -> Result<()> {
        self.give_up_spares(urgency)?;
        if urgency == Urgency::Freeing
            && let Some(job) = self.begin_prepare(None, urgency)?
        {
            // If there is too little space, the checkpoint may free some.
            let _ = self.run_prepare(job);
            self.syncs.check()?;
        }
        store::checkpoint(self, Extent::Nothing, false)?;
        let older = self.lock_open("checkpoint")?.store.journal.older_files();
        for _ in 0..older {
            store::checkpoint(self, Extent::Oldest, false)?;
        }
        store::checkpoint(self, extent, false)
    }

    /// Where the journal begins, and the time.
    fn begun(&self) -> Result<(Lsn, Duration)> {
        let start = self.lock_open("checkpoint")?.store.journal.start();
        Ok((start, self.disk.stopwatch()))
    }

    /// Lets the threads go on that wait because the journal is long.
    fn relieve(&self, (start, at): (Lsn, Duration)) {
        let bytes = self.lock("checkpoint").store.journal.start().0 - start.0;
        self.pressure.relieve(bytes, self.disk.stopwatch().saturating_sub(at));
    }

    /// Frees the space of the reserve, on a full disk.
    pub fn give_up_reserve(&self) -> Result<()> {
        let _working = self.work();
        self.give_up_spares(Urgency::Freeing)
    }

    fn give_up_spares(&self, urgency: Urgency) -> Result<()> {
        let given_up = loop {
            let given_up = self.lock("give up spares").store.journal.give_up_spares(urgency);
            match given_up {
                Some(given_up) => break given_up,
                // Another thread is making a file, or finds that it cannot.
                None => self.checkpointer.await_file(|| self.syncs.check())?,
            }
        };
        for path in given_up {
            let _ = self.disk.remove(&path);
        }
        self.lock("give up spares").store.journal.spares_are_gone();
        self.checkpointer.file_is_ready();
        Ok(())
    }
}

impl store::Shared for Committer {
    fn with<R>(&self, act: impl FnOnce(&mut Store) -> R) -> R {
        let mut core = self.lock("checkpoint");
        while core.store.has_dying() {
            core.store.take_out();
            core = self.give_way("checkpoint", core);
        }
        let done = act(&mut core.store);
        self.end_slice(core);
        done
    }

    fn sync_to(&self, position: Lsn) -> Result<()> {
        Committer::sync_to(self, position)
    }

    fn settle(&self) {
        if !seeded!(CheckpointForgetsTheOthers) {
            self.pass_all("checkpoint");
        }
    }
}
