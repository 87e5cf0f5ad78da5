//! Commits until there is room, and waits for durability.

use super::{committer::Committer, threads};
use crate::{
    config::Durability,
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
        guard::CoreGuard,
    },
    error::{ErrorKind, Result},
    journal::Urgency,
    store::{Extent, Refused, Shortage},
};

impl Committer {
    /// Commits: calls `attempt` under the core until there is room for the commit.
    #[inline]
    pub fn transact<T>(
        &self,
        operation: &'static str,
        mut attempt: impl FnMut(&mut Core) -> CommitResult<(T, Receipt)>,
    ) -> Result<(T, Receipt)> {
        loop {
            let mut core = self.lock_open(operation)?;
            let attempted = attempt(&mut core);
            let wants_checkpointer = core.wants_checkpointer();
            let crowded = if attempted.is_ok() { core.take_crowded() } else { Vec::new() };
            drop(core);
            match attempted {
                Ok(committed) => {
                    crowded.into_iter().for_each(|queue| self.spill(queue));
                    if wants_checkpointer {
                        self.call_checkpointer();
                    }
                    return Ok(committed);
                }
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::NeedsSpace(shortage)) => self.make_space(shortage)?,
            }
        }
    }

    /// Has the checkpointer do what there is for it to do.
    fn call_checkpointer(&self) {
        if self.checkpointer.has_thread() {
            self.checkpointer.call();
        } else {
            // As with a thread: the commit does not depend on how it goes.
            let _ = threads::checkpoint_round(self);
        }
    }

    /// Makes room for a commit before it is tried again.
    pub fn make_space(&self, shortage: Shortage) -> Result<()> {
        let Shortage::File { bytes, urgency } = shortage else {
            return self.shorten_journal(Extent::Older);
        };
        match self.prepare_file(Some(bytes), Urgency::Ordinary) {
            Err(error) if error.kind() == ErrorKind::DiskFull => {
                match urgency {
                    Urgency::Ordinary => self.shorten_journal(Extent::All)?,
                    // The checkpointer may be resting. What frees space does not wait for it.
                    Urgency::Freeing => self.checkpoint(Extent::All, urgency)?,
                }
                self.prepare_file(Some(bytes), urgency)
            }
            prepared => prepared,
        }
    }

    /// Has a checkpoint made, by the checkpointer if it has a thread.
    fn shorten_journal(&self, extent: Extent) -> Result<()> {
        if self.checkpointer.has_thread() {
            self.checkpointer.await_checkpoint(extent == Extent::All, || self.syncs.check())
        } else {
            self.checkpoint(extent, Urgency::Ordinary)
        }
    }

    /// Counts the failures of deliveries that ended without being settled. Where that fails, as on a full
    /// disk, they go uncounted: the messages are delivered again all the same. An engine that is closed or
    /// poisoned commits nothing more.
    pub fn count_failures<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
    ) -> CoreGuard<'a> {
        while core.has_failures() {
            if self.check_open(&core).is_err() {
                core.forget_failures();
                break;
            }
            match core.commit_failures(self.now_plain()) {
                Ok(_) => self.sync_soon(),
                Err(Refused::NeedsSpace(shortage)) => {
                    drop(core);
                    let made = self.make_space(shortage);
                    core = self.lock(operation);
                    if made.is_err() {
                        core.forget_failures();
                    }
                }
                Err(Refused::Failed(_)) => core.forget_failures(),
            }
        }
        core
    }

    /// Waits for the durability that a commit was promised.
    #[inline]
    pub fn complete<T>(&self, (value, receipt): (T, Receipt), durability: Durability) -> Result<T> {
        match durability {
            Durability::Sync => self.await_durable(receipt)?,
            Durability::Buffered => self.sync_soon(),
        }
        Ok(value)
    }

    /// Returns when what a receipt names is durable.
    #[inline]
    pub fn await_durable(&self, receipt: Receipt) -> Result<()> {
        match receipt.end() {
            Some(end) => self.sync_to(end),
            None => Ok(()),
        }
    }
}
