//! What a close does with messages on lease. Their consumers cannot settle them any more, so they are as if they had been
//! given back: an attempt that was counted when it began is taken back.

use super::{checkpoint::CLOCKS_BYTES, committer::Committer};
use crate::{
    engine::core::expiry::EXPIRED_AT_ONCE,
    error::{ErrorKind, Result},
    journal::Urgency,
    store::{Refused, Shortage},
};

const OPERATION: &str = "close";

impl Committer {
    /// Ends the leases of a closed engine. [`count_last`](Committer::count_last) then takes their attempts back.
    pub fn end_leases_at_close(&self) {
        if seeded!(CloseBurnsAttempts) {
            return;
        }
        let elapsed = self.elapsed();
        let cursors = self.lock(OPERATION).cursors_with_begun();
        for cursor in cursors {
            while self.lock(OPERATION).end_leases_at_close(cursor, elapsed, EXPIRED_AT_ONCE) {
                self.let_others_go_on();
            }
        }
    }

    /// Records the clocks, if that was impossible before. Who opens the store next would take a setting of the clock for time
    /// that has passed.
    pub fn record_last_clock(&self) {
        for _ in 0..2 {
            let mut core = self.lock(OPERATION);
            core.store.let_outgrow();
            if self.syncs.check().is_err() || core.has_recorded_clock(self.now()) {
                return;
            }
            drop(core);
            if self.make_last_file(CLOCKS_BYTES).is_err() {
                return;
            }
        }
    }

    /// Counts the last failures, and takes back the attempts that were given back, when no thread of the engine works any
    /// more. What cannot be written, as on a full disk, is as after a crash.
    pub fn count_last(&self) {
        let mut has_space = true;
        let cursors = self.lock(OPERATION).cursors_with_taken_back();
        for cursor in cursors {
            while self.lock(OPERATION).take_back_some(cursor) {
                self.let_others_go_on();
            }
        }
        loop {
            let mut core = self.lock(OPERATION);
            if !core.has_failures() || self.syncs.check().is_err() {
                return;
            }
            // A checkpoint would take longer than a close should.
            core.store.let_outgrow();
            let bytes = match core.commit_failures(self.now_plain()) {
                Ok(_) => {
                    has_space = true;
                    continue;
                }
                Err(Refused::NeedsSpace(Shortage::File { bytes, .. })) if has_space => bytes,
                Err(_) => return,
            };
            drop(core);
            has_space = false;
            if self.make_last_file(bytes).is_err() {
                return;
            }
        }
    }

    /// Makes a journal file in an engine that is closed. On a full disk the reserve makes way for it.
    fn make_last_file(&self, bytes: u64) -> Result<()> {
        match self.prepare_last_file(bytes) {
            Err(error) if error.kind() == ErrorKind::DiskFull => {
                self.give_up_reserve()?;
                self.prepare_last_file(bytes)
            }
            prepared => prepared,
        }
    }

    fn prepare_last_file(&self, bytes: u64) -> Result<()> {
        let job = self.lock(OPERATION).store.begin_prepare(Some(bytes), Urgency::Freeing);
        job.map_or(Ok(()), |job| self.run_prepare(job))
    }
}
