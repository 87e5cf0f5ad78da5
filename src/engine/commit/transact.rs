//! Commits, and makes space in the journal where a commit needs it. Every change of the store runs through
//! [`transact`](Committer::transact).

use std::time::Duration;

use super::{
    committer::Committer,
    patience::{self, Past},
    threads,
};
use crate::{
    config::Durability,
    engine::core::{
        Core,
        commit::{CommitResult, Receipt},
        guard::CoreGuard,
        room::RoomLook,
    },
    error::{Error, ErrorKind, Result},
    ids::LogId,
    journal::Urgency,
    store::{Extent, Refused, Shortage},
};

/// How often a commit that frees space tries to make a file, while other threads take the space that it has freed.
const TRIES_MAX: u32 = 16;

impl Committer {
    /// Commits: calls `attempt` under the core, and again each time after it made space for the commit.
    #[inline]
    pub fn transact<T>(
        &self,
        operation: &'static str,
        attempt: impl FnMut(&mut Core) -> CommitResult<(T, Receipt)>,
    ) -> Result<(T, Receipt)> {
        self.transact_within(operation, None, attempt)
    }

    /// As [`transact`](Committer::transact), for a call that has time: where a queue is full, it looks for expired messages
    /// until no time is `left`.
    #[inline]
    pub fn transact_within<T>(
        &self,
        operation: &'static str,
        left: Option<&dyn Fn() -> Duration>,
        mut attempt: impl FnMut(&mut Core) -> CommitResult<(T, Receipt)>,
    ) -> Result<(T, Receipt)> {
        // With the flusher's thread a lease may have run out a moment ago, and not be ended yet.
        if !seeded!(AckWithoutALease) {
            self.work_alone();
        }
        let mut looked = 0;
        loop {
            let mut core = self.lock_open(operation)?;
            core.room = RoomLook::of(looked);
            if core.doubts_clock() {
                self.look_at_clock_in(&mut core);
            }
            let before = core.store.journal.tail();
            let attempted = attempt(&mut core);
            let wants_checkpointer = core.wants_checkpointer();
            let pressed = if wants_checkpointer { core.pressed(before) } else { None };
            let spills = attempted.is_ok() && core.is_crowded();
            let crowded = spills.then(|| core.take_crowded());
            // A refused commit may have recorded the clocks.
            let wrote_in_vain = attempted.is_err() && core.store.journal.tail() != before;
            drop(core);
            if wrote_in_vain {
                self.sync_soon();
            }
            match attempted {
                Ok(committed) => {
                    if let Some(crowded) = crowded {
                        self.without_debt(|| crowded.into_iter().for_each(|it| self.spill(it)));
                    }
                    if wants_checkpointer {
                        self.call_checkpointer();
                    }
                    if let Some(pressed) = pressed {
                        self.owe(pressed);
                    }
                    return Ok(committed);
                }
                Err(Refused::Failed(error)) => return Err(error),
                Err(Refused::NeedsSpace(Shortage::Lives { log, steps })) => {
                    looked = self.make_room(log, steps, looked, left)?;
                }
                Err(Refused::NeedsSpace(shortage)) => self.make_space(shortage)?,
            }
        }
    }

    /// Looks for expired messages of a full queue before the next attempt of a commit that has `looked` so far. In a call
    /// that must not wait, this fails and asks for the look. Returns how far the call has looked by then.
    #[cold]
    fn make_room(
        &self,
        log: LogId,
        steps: u64,
        looked: u64,
        left: Option<&dyn Fn() -> Duration>,
    ) -> Result<u64> {
        let before = patience::looked();
        if looked < before {
            return Ok(before);
        }
        if self.checkpointer.has_thread() {
            patience::answer(Shortage::Lives { log, steps })?;
        }
        let more = self.look_for_room(log, steps, left)?;
        Ok(match left {
            None => looked + more,
            Some(left) if left().is_zero() => u64::MAX,
            Some(_) => looked,
        })
    }

    /// Calls the checkpointer. Without a thread, runs its round here.
    fn call_checkpointer(&self) {
        if self.checkpointer.has_thread() {
            self.checkpointer.call();
        } else {
            // The outcome does not matter to the commit, as with a thread.
            let _ = threads::checkpoint_round(self);
        }
    }

    /// Makes space for a commit before its next attempt. In a call that must not wait, this fails and asks for the
    /// space: see `patience.rs`.
    ///
    /// A commit that frees space does not wait for the checkpointer, which may pause after a failure. It makes
    /// the checkpoint itself, with the space of the reserve.
    pub fn make_space(&self, shortage: Shortage) -> Result<()> {
        if self.checkpointer.has_thread() {
            patience::answer(shortage)?;
        }
        self.make(shortage).map(drop)
    }

    /// Runs a call that commits what no caller has asked for. If the disk is known to lack space, the call does not wait for
    /// it: see `lack.rs`.
    pub fn wait_for_space_once<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_known = self.lack.is_known();
        let outcome = if is_known {
            let what = "there was no space on the disk a moment ago";
            let failure = Some(Error::new(ErrorKind::DiskFull, what));
            patience::ask(Past { failure, looked: 0 }, call).0
        } else {
            call()
        };
        let is_full = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull);
        if is_full && is_known {
            // It finds whether that is still so.
            self.checkpointer.call();
        } else if is_full && self.checkpointer.has_thread() {
            self.lack.note(self.elapsed());
        }
        outcome
    }

    /// Makes what a commit lacks. Returns how far it has looked for expired messages.
    pub fn make(&self, shortage: Shortage) -> Result<u64> {
        let made = match shortage {
            Shortage::Checkpoint { urgency: Urgency::Ordinary } => {
                self.shorten_journal(Extent::Older)
            }
            Shortage::Checkpoint { urgency: Urgency::Freeing } => {
                if !self.checkpoint_if_it_fits(Extent::Older)? {
                    self.lock_open("outgrow")?.store.let_outgrow();
                }
                Ok(())
            }
            Shortage::File { bytes, urgency } => self.make_file(bytes, urgency),
            Shortage::Lives { log, steps } => return self.look_for_room(log, steps, None),
        };
        made.map(|()| 0)
    }

    /// Runs a call that asks for space, and makes the space after the call has returned: while the call holds a lock that
    /// others wait for, it must not wait itself. A call that asks already is run as it is.
    pub fn make_space_between<T>(&self, mut call: impl FnMut() -> Result<T>) -> Result<T> {
        if patience::is_asking() {
            return call();
        }
        let mut failure = None;
        loop {
            let past = Past { failure: failure.take(), looked: 0 };
            match patience::ask(past, &mut call) {
                (Err(error), lacks) if error.is_lack_of_space() => {
                    let lacks = lacks.unwrap_or(Shortage::Checkpoint { urgency: Urgency::Freeing });
                    failure = self.make_space(lacks).err();
                }
                (result, _) => return result,
            }
        }
    }

    /// Makes a journal file for a frame of `bytes` bytes. On a full disk, a checkpoint comes first.
    fn make_file(&self, bytes: u64, urgency: Urgency) -> Result<()> {
        match self.prepare_file(Some(bytes), Urgency::Ordinary) {
            Err(error) if error.kind() == ErrorKind::DiskFull => {}
            prepared => return prepared,
        }
        if urgency == Urgency::Ordinary {
            self.shorten_journal(Extent::All)?;
            return self.prepare_file(Some(bytes), urgency);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            self.checkpoint_if_it_fits(Extent::All)?;
            match self.prepare_file(Some(bytes), urgency) {
                Err(error) if error.kind() == ErrorKind::DiskFull => {}
                prepared => return prepared,
            }
            self.give_up_reserve()?;
            match self.prepare_file(Some(bytes), urgency) {
                Err(error) if error.kind() == ErrorKind::DiskFull => {
                    // Another thread may have taken the space, for a new reserve or a file that serves this commit, too.
                    let core = self.lock_open("make a journal file")?;
                    if tries == TRIES_MAX || !core.store.journal.has_spares() {
                        return Err(error);
                    }
                }
                prepared => return prepared,
            }
        }
    }

    /// Makes a checkpoint for a commit that frees space. `false` if the disk has too little space for it.
    fn checkpoint_if_it_fits(&self, extent: Extent) -> Result<bool> {
        match self.checkpoint(extent, Urgency::Freeing) {
            Err(error) if error.kind() == ErrorKind::DiskFull => Ok(false),
            made => made.map(|()| true),
        }
    }

    /// Makes a checkpoint, or waits for the checkpointer's thread to make one.
    fn shorten_journal(&self, extent: Extent) -> Result<()> {
        // A callback on the checkpointer's thread may need the space: that thread cannot wait for itself.
        if self.checkpointer.has_thread() && !threads::is_checkpointer() {
            let begun = self.disk.stopwatch();
            let wants_space = extent == Extent::All;
            let ended = self.checkpointer.await_checkpoint(wants_space, || self.syncs.check());
            self.pressure.note_wait(self.disk.stopwatch().saturating_sub(begun));
            ended
        } else {
            self.checkpoint(extent, Urgency::Ordinary)
        }
    }

    /// Counts the failures of deliveries that ended without a settlement. If the commit fails, for example on
    /// a full disk, they stay uncounted, and the messages are delivered again all the same. A poisoned engine
    /// commits nothing, and a closed one leaves them to the [close](Committer::count_last). A call that must not wait for
    /// space leaves the failures for the next one.
    pub fn count_failures<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
    ) -> CoreGuard<'a> {
        while core.has_failures() {
            if let Err(error) = self.check_open(&core) {
                if error.kind() != ErrorKind::Closed {
                    core = self.forget_failures(operation, core);
                }
                break;
            }
            match core.commit_failures(self.now_plain()) {
                Ok(_) => {
                    self.sync_soon();
                    if core.has_failures() {
                        core = self.give_way(operation, core);
                    }
                }
                Err(Refused::NeedsSpace(shortage)) => {
                    drop(core);
                    let made = self.make_space(shortage);
                    core = self.lock(operation);
                    match made {
                        Err(error) if error.is_lack_of_space() => break,
                        // The close counts them.
                        Err(error) if error.kind() == ErrorKind::Closed => break,
                        Err(_) => core = self.forget_failures(operation, core),
                        Ok(()) => {}
                    }
                }
                Err(Refused::Failed(_)) => core = self.forget_failures(operation, core),
            }
        }
        core
    }

    /// Forgets the failures that are not counted now, in slices.
    #[cold]
    fn forget_failures<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
    ) -> CoreGuard<'a> {
        for _ in 0..core.slices_of_failures() {
            // The close counts what is left.
            if core.is_closed {
                break;
            }
            core.forget_failures();
            core = self.give_way(operation, core);
        }
        core
    }

    /// Counts attempts that could not be counted when their handling began. It waits for no space: without space they are
    /// counted later.
    pub fn count_begun<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
    ) -> CoreGuard<'a> {
        while core.has_begun() {
            if self.check_open(&core).is_err() {
                core.forget_begun();
                break;
            }
            match core.commit_begun(self.now_plain()) {
                Ok(_) => {
                    self.sync_soon();
                    if core.has_begun() {
                        core = self.give_way(operation, core);
                    }
                }
                Err(Refused::NeedsSpace(_)) => break,
                Err(Refused::Failed(_)) => core.forget_begun(),
            }
        }
        core
    }

    /// Waits for a commit as its durability demands.
    #[inline]
    pub fn complete<T>(&self, (value, receipt): (T, Receipt), durability: Durability) -> Result<T> {
        match durability {
            Durability::Sync => self.await_durable(receipt)?,
            Durability::Buffered => self.sync_soon(),
        }
        self.pay();
        Ok(value)
    }

    /// Waits until the position of a receipt is durable.
    #[inline]
    pub fn await_durable(&self, receipt: Receipt) -> Result<()> {
        match receipt.end() {
            Some(end) => self.sync_to(end),
            None => Ok(()),
        }
    }
}
