//! The loops of the engine's two threads.
//!
//! The *flusher* syncs the commits that no thread waits for, and ends leases on time. The *checkpointer*
//! prepares journal files and makes checkpoints. On the simulated disk there are no threads: the calls that
//! need this work do it themselves. `runtime/signals.rs` has the signal that calls the flusher, `runtime/checkpointer.rs`
//! the one that calls the checkpointer.

use std::{
    cell::Cell,
    sync::{Arc, mpsc},
    time::Duration,
};

use super::committer::{Committer, PANICKED};
use crate::{
    engine::{
        core::{arming::EVERY_CURSOR, expiry::EXPIRED_AT_ONCE, rounds},
        runtime::{
            checkpointer::Round,
            signals::{Duty, Timer},
            wait::wake_task,
            within::Within,
        },
    },
    error::{Error, ErrorKind, Result},
    format::frame::FrameKind,
    ids::Lsn,
    journal::Urgency,
    prims::{
        panicking,
        thread::{self, JoinHandle},
    },
    store::{Extent, Occasion},
};

/// The most messages that the flusher moves to the dead letters before its next duty.
const MOVED_AT_ONCE: usize = 64;

/// The threads of an engine.
#[derive(Debug)]
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// It is disconnected once all of them have ended.
    running: mpsc::Receiver<()>,
}

impl Threads {
    /// Waits until the threads have ended, for at most so long. Returns whether they have.
    pub fn end_within(&self, time: Duration) -> bool {
        self.running.recv_timeout(time) != Err(mpsc::RecvTimeoutError::Timeout)
    }

    pub fn join(self) {
        for thread in self.handles {
            // A thread that panicked has poisoned the engine, and the close reports that.
            let _ = thread.join();
        }
    }
}

/// Starts both threads.
pub fn start(committer: &Arc<Committer>) -> Result<Threads> {
    let (runs, running) = mpsc::channel::<()>();
    let spawn = |name: &str, work: fn(&Committer)| {
        let (committer, runs) = (Arc::clone(committer), runs.clone());
        let guarded = move || {
            let _runs = runs;
            let _within = Within::enter();
            let _guard = PoisonsOnPanic(&committer);
            work(&committer);
        };
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(guarded);
        spawned
            .map_err(|error| Error::new(ErrorKind::Io, "a thread cannot be started").because(error))
    };
    let handles =
        vec![spawn("posthouse-flush", flush)?, spawn("posthouse-checkpoint", checkpoint)?];
    Ok(Threads { handles, running })
}

/// Poisons the engine when one of its threads panics, so that no caller waits for that thread.
pub(super) struct PoisonsOnPanic<'a>(pub &'a Committer);

impl Drop for PoisonsOnPanic<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.0.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        }
    }
}

/// The loop of the flusher.
fn flush(committer: &Committer) {
    let (tick, stopwatch) = (committer.disk.tick(), || committer.disk.stopwatch());
    let mut round = None;
    loop {
        match committer.flusher.next_duty(|| committer.elapsed(), stopwatch, tick) {
            Duty::Stop => return,
            Duty::Sync => flush_all(committer),
            Duty::Look => committer.look_at_clock(),
            Duty::Mark(position) => mark(committer, position),
            Duty::Timer(timer) => end_leases(committer, timer),
            Duty::Sweep => committer.checkpointer.call(),
            Duty::Move => committer.move_exhausted(MOVED_AT_ONCE),
            Duty::Rest => let_rest(committer, &mut round),
            Duty::Wake(waker) => wake_task(waker),
            Duty::Rouse(relay) => relay.finish(),
        }
    }
}

/// Makes a slice of a round over the queues and subscriptions. Other duties come between two slices.
fn let_rest(committer: &Committer, round: &mut Option<rounds::Round>) {
    let mut core = committer.lock("let queues rest");
    let mut under_way = round.take().unwrap_or_else(|| core.begin_round(false));
    if core.go_round(&mut under_way) {
        *round = Some(under_way);
        committer.end_slice(core);
        committer.flusher.rest_on();
    } else {
        core.end_round(&under_way);
    }
}

/// Syncs everything, if there is anything to sync.
pub(super) fn flush_all(committer: &Committer) {
    let (tail, is_dirty) = {
        let core = committer.lock("flush");
        (core.store.journal.tail(), core.store.journal.is_dirty())
    };
    if is_dirty {
        // A failure poisons the engine. The next call on it returns the error.
        let _ = committer.sync_to(tail);
    }
}

/// Writes a watermark frame, if there were no commits since a sync up to a position.
pub(super) fn mark(committer: &Committer, position: Lsn) {
    let mut core = committer.lock("watermark");
    let journal = &mut core.store.journal;
    if !journal.wants_mark() {
        // A sync that is still to come asks again.
        return;
    }
    let tail = journal.tail();
    if tail == position {
        // A mark that cannot be written loses nothing.
        let _ = journal.mark(FrameKind::Watermark);
        let tail = journal.tail();
        drop(core);
        committer.checkpointer.is_quiet(tail);
    } else {
        drop(core);
        committer.flusher.mark_later(|| committer.elapsed(), tail);
    }
}

/// Runs a timer: ends the leases of a cursor that run out, and releases its messages that come due. It does one slice.
/// If there is more, the timer is due again at once, and other duties may come between.
fn end_leases(committer: &Committer, Timer { at, cursor }: Timer) {
    let operation = "timer";
    let mut core = committer.lock(operation);
    if cursor == EVERY_CURSOR {
        core.arm_some();
        return committer.end_slice(core);
    }
    if !core.disarm(cursor, at) {
        return;
    }
    let now = committer.elapsed();
    if core.wants_block(cursor, now) {
        drop(core);
        let _ = committer.bring_back(cursor);
        core = committer.lock(operation);
    }
    core.expire(cursor, now, EXPIRED_AT_ONCE);
    let mut core = committer.count_failures(operation, core);
    let wants_check = core.take_check(cursor, now);
    core.arm_from(cursor, now);
    committer.end_slice(core);
    if wants_check {
        committer.check_oldest(cursor);
    }
}

thread_local! {
    static IS_CHECKPOINTER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the thread that makes the checkpoints of an engine.
pub fn is_checkpointer() -> bool {
    IS_CHECKPOINTER.get()
}

/// The loop of the checkpointer.
fn checkpoint(committer: &Committer) {
    IS_CHECKPOINTER.set(true);
    while let Some(round) = committer.checkpointer.next_round() {
        let wants_space = match round {
            Round::Called { wants_space } => wants_space,
            Round::Idle { tail } => {
                // If it fails, as on a full disk, the space comes back later.
                let _ = idle_round(committer, tail);
                continue;
            }
        };
        let outcome =
            if wants_space { full_disk_round(committer) } else { checkpoint_round(committer) };
        if outcome.is_ok() {
            committer.lack.end();
        }
        count_begun(committer, &outcome);
        committer.checkpointer.finish_round(wants_space, outcome);
    }
}

/// Counts the attempts for which the journal had no space before a round.
fn count_begun(committer: &Committer, outcome: &Result<()>) {
    let operation = "count a delivery";
    let mut core = committer.lock(operation);
    if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
        // On a full disk, messages are handled without being counted.
        core.forget_begun();
    } else {
        drop(committer.count_begun(operation, core));
    }
}

/// A round on a full disk: a checkpoint of the whole journal frees space for the next file.
fn full_disk_round(committer: &Committer) -> Result<()> {
    sweep(committer, true);
    // The rounds before it may have ended early.
    committer.retain(Occasion::BehindCheckpoint, None)?;
    let made = committer.checkpoint(Extent::All, Urgency::Ordinary);
    made.and(committer.retain(Occasion::BehindCheckpoint, None))?;
    committer.prepare_file(None, Urgency::Ordinary)
}

/// Gives back space while nobody needs the disk: that of messages that died in segments, and that of a journal that has
/// become long. So a store that is left alone is small, and opens soon.
///
/// What is not used goes to rest. It goes on for as long as each checkpoint leaves something to the next one, and nobody calls.
pub fn idle_round(committer: &Committer, tail: Lsn) -> Result<()> {
    committer.make_round(true);
    committer.retain(Occasion::BeforeCheckpoint, Some(&|| committer.checkpointer.is_wanted()))?;
    let mut made = None;
    loop {
        let extent = {
            let core = committer.lock_open("idle checkpoint")?;
            let is_done = made == Some(Extent::Idle) && !core.store.is_reclaimable();
            if is_done || core.store.journal.tail() != tail || committer.checkpointer.is_wanted() {
                return Ok(());
            }
            core.store.idle_extent()
        };
        match extent {
            // All of it was moved, but for what the disk has no space for.
            Some(Extent::All) if made.is_some() => return Ok(()),
            Some(extent) => committer.checkpoint(extent, Urgency::Ordinary)?,
            None => return Ok(()),
        }
        committer
            .retain(Occasion::BehindCheckpoint, Some(&|| committer.checkpointer.is_wanted()))?;
        made = extent;
    }
}

/// Looks at messages whose lives may be over. So what has expired leaves the store though nobody receives, and is not
/// moved into segments. Without a thread, calls have done it before: see `alone.rs`.
fn sweep(committer: &Committer, must: bool) {
    let lock = || committer.lock("drop expired messages");
    if committer.checkpointer.has_thread()
        && lock().begin_sweep(committer.elapsed(), must)
        && !committer.sweep(Some(&|| lock().needs_space_soon()))
    {
        lock().break_off_sweep();
        committer.checkpointer.call();
    }
}

/// One round of the checkpointer: prepares a journal file and makes a checkpoint, if they are needed.
pub fn checkpoint_round(committer: &Committer) -> Result<()> {
    let (wants_file, wants_checkpoint) = {
        let core = committer.lock_open("checkpoint round")?;
        (core.store.journal.wants_file(), core.wants_checkpoint() || core.wants_clearing())
    };
    // The file comes first, because commits wait for it.
    let prepared =
        if wants_file { committer.prepare_file(None, Urgency::Ordinary) } else { Ok(()) };
    if prepared.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
        return full_disk_round(committer);
    }
    sweep(committer, wants_checkpoint);
    // Commits may wait for the checkpoint.
    let is_short = || committer.lock("retention").needs_space_soon();
    if wants_checkpoint {
        committer.retain(Occasion::BeforeCheckpoint, Some(&is_short))?;
    } else if committer.wants_retention() {
        committer.retain(Occasion::Time, Some(&is_short))?;
    }
    let wants_checkpoint =
        wants_checkpoint || committer.lock_open("checkpoint round")?.wants_checkpoint();
    if wants_checkpoint {
        let made = committer.checkpoint(Extent::Older, Urgency::Ordinary);
        made.and(committer.retain(Occasion::BehindCheckpoint, Some(&is_short)))?;
        if committer.lock_open("checkpoint round")?.store.journal.wants_file() {
            return committer.prepare_file(None, Urgency::Ordinary);
        }
    }
    prepared
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The close of an engine tells of a thread that a callback holds, and waits for it.
    #[test]
    fn who_waits_for_threads_learns_that_one_does_not_end() {
        let (runs, running) = mpsc::channel();
        let (held, may_end) = mpsc::channel::<()>();
        let another = runs.clone();
        let handles = vec![
            thread::spawn(move || drop(another)),
            thread::spawn(move || {
                let _runs = runs;
                let _ = may_end.recv();
            }),
        ];
        let threads = Threads { handles, running };
        assert!(!threads.end_within(Duration::from_millis(1)));
        drop(held);
        assert!(threads.end_within(Duration::from_secs(60)));
        threads.join();
    }
}
