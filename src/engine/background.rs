//! The engine's two threads, and how they are called.
//!
//! The *flusher* syncs what nobody waits for on a thread of their own, and wakes consumers when
//! leases run out. The *keeper* prepares journal files and makes checkpoints. Without threads, as
//! on the simulated disk, their work is done by whoever needs it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    closing::Within,
    shared::{PANICKED, Shared},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::frame::FrameKind,
    ids::{CursorId, Lsn},
    journal::Urgency,
    prims::{
        AtomicBool, Condvar, Mutex, MutexGuard, panicking,
        thread::{self, JoinHandle},
    },
    store::Extent,
};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts both threads.
pub fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>> {
    let spawn = |name: &str, work: fn(&Shared)| {
        let shared = Arc::clone(shared);
        let builder = thread::Builder::new().name(name.to_owned());
        let guarded = move || {
            let _within = Within::enter();
            let _guard = PoisonsOnPanic(&shared);
            work(&shared);
        };
        builder
            .spawn(guarded)
            .map_err(|error| Error::new(ErrorKind::Io, "a thread cannot be started").because(error))
    };
    Ok(vec![spawn("posthouse-flush", flush)?, spawn("posthouse-keep", keep)?])
}

/// A thread of ours that panics leaves nobody waiting for it.
struct PoisonsOnPanic<'a>(&'a Shared);

impl Drop for PoisonsOnPanic<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.0.poison(&Error::new(ErrorKind::Poisoned, PANICKED));
        }
    }
}

#[derive(Debug)]
pub struct Flusher {
    has_thread: bool,
    interval: Duration,
    /// Whether a sync is due within the interval; spares the mutex.
    scheduled: AtomicBool,
    /// Whether a sync is due at once.
    urgent: AtomicBool,
    agenda: Mutex<Agenda>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Agenda {
    stop: bool,
    urgent: bool,
    /// When to sync.
    flush_at: Option<Duration>,
    /// When to write down that everything is durable, unless more comes meanwhile.
    mark_at: Option<(Duration, Lsn)>,
    /// When the next lease of a cursor runs out.
    leases: BinaryHeap<Reverse<(Duration, CursorId)>>,
}

impl Agenda {
    fn next(&self) -> Option<Duration> {
        let lease = self.leases.peek().map(|Reverse((at, _))| *at);
        let mark = self.mark_at.map(|(at, _)| at);
        [self.flush_at, mark, lease].into_iter().flatten().min()
    }
}

impl Flusher {
    pub fn new(has_thread: bool, interval: Duration) -> Flusher {
        Flusher {
            has_thread,
            interval,
            scheduled: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            agenda: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    #[inline]
    pub fn has_thread(&self) -> bool {
        self.has_thread
    }

    /// Has everything synced within the interval.
    #[inline]
    pub fn soon(&self, shared: &Shared) {
        // The flag is cleared before a sync begins, so whoever finds it set was in time.
        if self.has_thread && !self.scheduled.load(Ordering::Relaxed) {
            self.scheduled.store(true, Ordering::Relaxed);
            let at = shared.elapsed() + self.interval;
            locked(&self.agenda).flush_at.get_or_insert(at);
            self.changed.notify_one();
        }
    }

    /// Has everything synced at once.
    pub fn at_once(&self) {
        if self.has_thread && !self.urgent.load(Ordering::Relaxed) {
            self.urgent.store(true, Ordering::Relaxed);
            locked(&self.agenda).urgent = true;
            self.changed.notify_one();
        }
    }

    /// Has consumers of a cursor woken when a lease runs out.
    pub fn at_lease_end(&self, at: Duration, cursor: CursorId) {
        if self.has_thread {
            let mut agenda = locked(&self.agenda);
            let is_next = agenda.next().is_none_or(|next| at < next);
            agenda.leases.push(Reverse((at, cursor)));
            if is_next {
                self.changed.notify_one();
            }
        }
    }

    pub fn stop(&self) {
        locked(&self.agenda).stop = true;
        self.changed.notify_one();
    }
}

/// What the flusher is to do next.
enum Duty {
    Stop,
    Sync,
    Mark(Lsn),
    /// A lease has run out, or a message is due.
    Ring(Duration, CursorId),
}

fn flush(shared: &Shared) {
    loop {
        match next_duty(shared) {
            Duty::Stop => return,
            Duty::Sync => flush_all(shared),
            Duty::Mark(tail) => {
                let mut core = shared.lock();
                let journal = &mut core.store.journal;
                if journal.tail() == tail && journal.durable() == tail {
                    // It is of use even if it fails to be written: then nothing was lost by it.
                    let _ = journal.mark(FrameKind::Watermark);
                }
            }
            Duty::Ring(at, cursor) => end_leases(shared, at, cursor),
        }
    }
}

fn next_duty(shared: &Shared) -> Duty {
    let flusher = &shared.flusher;
    let mut agenda = locked(&flusher.agenda);
    loop {
        let now = shared.elapsed();
        if agenda.stop {
            return Duty::Stop;
        }
        if agenda.urgent || agenda.flush_at.is_some_and(|at| at <= now) {
            agenda.urgent = false;
            agenda.flush_at = None;
            flusher.urgent.store(false, Ordering::Relaxed);
            flusher.scheduled.store(false, Ordering::Relaxed);
            return Duty::Sync;
        }
        if let Some((_, tail)) = agenda.mark_at.take_if(|(at, _)| *at <= now) {
            return Duty::Mark(tail);
        }
        if let Some(Reverse((at, cursor))) = agenda.leases.peek().copied()
            && at <= now
        {
            agenda.leases.pop();
            return Duty::Ring(at, cursor);
        }
        agenda = match agenda.next() {
            Some(at) => {
                // The clock is as late as its last tick: a shorter nap would end at the same time.
                let nap = at.saturating_sub(now).max(shared.disk.tick() / 2);
                let waited = flusher.changed.wait_timeout(agenda, nap);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => flusher.changed.wait(agenda).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

fn flush_all(shared: &Shared) {
    let (tail, dirty) = {
        let core = shared.lock();
        (core.store.journal.tail(), core.store.journal.is_dirty())
    };
    // A failure poisons the engine; whoever uses it next is told.
    if dirty && shared.sync_to(tail).is_ok() {
        let at = shared.elapsed() + shared.flusher.interval;
        locked(&shared.flusher.agenda).mark_at = Some((at, tail));
    }
}

fn end_leases(shared: &Shared, at: Duration, cursor: CursorId) {
    let mut core = shared.lock();
    match core.consumption(cursor) {
        Ok(consumption) if consumption.armed == Some(at) => consumption.armed = None,
        // Another timer was set since that rings earlier, or has rung. If this one had another set,
        // they would never become fewer.
        _ => return,
    }
    let now = shared.elapsed();
    if core.wants_block(cursor, now) {
        drop(core);
        shared.unshelve(cursor);
        core = shared.lock();
    }
    core.expire(cursor, now);
    let mut core = shared.count_failures(core);
    let wants_look = core.take_look(cursor, now);
    core.arm(cursor);
    let wakes = core.take_wakes();
    drop(core);
    shared.wake(wakes);
    shared.bury_lapsed();
    if wants_look {
        shared.look_at_age(cursor);
    }
}

/// How long the keeper rests after a failure, as on a full disk, before it tries again.
const REST: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Keeper {
    has_thread: bool,
    /// Whether it was called and has not begun yet; spares the mutex.
    called: AtomicBool,
    state: Mutex<KeeperState>,
    changed: Condvar,
    /// For those who wait for the keeper.
    done: Condvar,
}

#[derive(Debug, Default)]
struct KeeperState {
    stop: bool,
    called: bool,
    /// Whether the disk is full, so that all of the journal that can be freed is wanted.
    wants_space: bool,
    /// How often the keeper has finished a round, and how its last checkpoint went.
    rounds: u64,
    failure: Option<Error>,
    /// How often a file was prepared, or failed to be.
    files: u64,
}

impl Keeper {
    pub fn new(has_thread: bool) -> Keeper {
        Keeper {
            has_thread,
            called: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            done: Condvar::new(),
        }
    }

    #[inline]
    pub fn has_thread(&self) -> bool {
        self.has_thread
    }

    /// Says that there is something to do.
    pub fn call(&self) {
        if !self.called.load(Ordering::Relaxed) {
            self.called.store(true, Ordering::Relaxed);
            locked(&self.state).called = true;
            self.changed.notify_one();
        }
    }

    pub fn stop(&self) {
        locked(&self.state).stop = true;
        self.changed.notify_all();
        self.done.notify_all();
    }

    pub fn wake_waiters(&self) {
        drop(locked(&self.state));
        self.done.notify_all();
    }

    pub fn file_is_ready(&self) {
        locked(&self.state).files += 1;
        self.done.notify_all();
    }

    /// Waits until the file that someone prepares is ready, or is not going to be.
    pub fn await_file(&self, shared: &Shared) -> Result<()> {
        let mut state = locked(&self.state);
        let before = state.files;
        loop {
            // Asked with the state in hand: whoever finishes takes it afterwards.
            if state.files != before || state.stop {
                return Ok(());
            }
            shared.syncs.check()?;
            // The file may have become ready just before the state was taken.
            let waited = self.done.wait_timeout(state, Duration::from_millis(10));
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return Ok(());
            }
            state = woken;
        }
    }

    /// Waits until the keeper has made a checkpoint, or has failed to.
    pub fn await_checkpoint(&self, shared: &Shared, extent: Extent) -> Result<()> {
        let mut state = locked(&self.state);
        state.wants_space |= extent == Extent::All;
        let before = state.rounds;
        loop {
            shared.syncs.check()?;
            if let Some(failure) = &state.failure {
                // It rests and then tries again, without being asked.
                return Err(failure.again());
            }
            if state.rounds != before || state.stop {
                // Whether that was enough, the caller sees when it tries again.
                return Ok(());
            }
            state.called = true;
            self.changed.notify_one();
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn keep(shared: &Shared) {
    let keeper = &shared.keeper;
    loop {
        let idle = |state: &mut KeeperState| !state.stop && !state.called;
        let waited = keeper.changed.wait_while(locked(&keeper.state), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stop {
            return;
        }
        state.called = false;
        let wants_space = state.wants_space;
        keeper.called.store(false, Ordering::Relaxed);
        drop(state);

        let worked = if wants_space { make_space(shared) } else { keep_once(shared) };
        let mut state = locked(&keeper.state);
        state.wants_space &= worked.is_err();
        state.rounds += 1;
        state.failure = worked.err();
        keeper.done.notify_all();
        if state.failure.is_some() {
            state.called = true;
            let resting = |state: &mut KeeperState| !state.stop;
            drop(keeper.changed.wait_timeout_while(state, REST, resting));
        }
    }
}

/// A round of the keeper on a full disk. What the journal holds may be worth more as free space.
fn make_space(shared: &Shared) -> Result<()> {
    shared.checkpoint(Extent::All, Urgency::Ordinary)?;
    shared.prepare_file(None, Urgency::Ordinary)
}

/// One round of the keeper.
pub fn keep_once(shared: &Shared) -> Result<()> {
    let (wants_file, wants_checkpoint) = {
        let core = shared.lock_open()?;
        (core.store.journal.wants_file(), core.wants_checkpoint() || core.wants_clearing())
    };
    // The file first: commits wait for it.
    let prepared = if wants_file { shared.prepare_file(None, Urgency::Ordinary) } else { Ok(()) };
    if prepared.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull) {
        return make_space(shared);
    }
    if wants_checkpoint {
        shared.checkpoint(Extent::Older, Urgency::Ordinary)?;
        if shared.lock_open()?.store.journal.wants_file() {
            return shared.prepare_file(None, Urgency::Ordinary);
        }
    }
    prepared
}
