//! The signal that calls the checkpointer's thread. The loop of the thread is in `commit/threads.rs`.

use std::{mem, sync::atomic::Ordering, time::Duration};

use super::lock::RankedMutex;
use crate::{
    audit::Rank,
    error::{Error, Result},
    ids::Lsn,
    prims::{AtomicBool, Condvar},
};

/// Calls the checkpointer, and lets other threads wait for it.
#[derive(Debug)]
pub struct CheckpointerSignal {
    has_thread: bool,
    /// After so long without a commit the store is idle.
    idle: Duration,
    /// Whether it was called and has not begun yet. A caller that finds it set skips the mutex.
    is_called: AtomicBool,
    state: RankedMutex<CheckpointerState>,
    changed: Condvar,
    /// Wakes the threads that wait for the checkpointer.
    done: Condvar,
}

#[derive(Debug, Default)]
struct CheckpointerState {
    stop: bool,
    called: bool,
    /// The disk is full: the next round frees all of the journal that it can.
    wants_space: bool,
    /// Where the journal ended when it became quiet.
    quiet: Option<Lsn>,
    /// How many rounds have begun, and how many have ended.
    begun: u64,
    ended: u64,
    /// How many parts of checkpoints were made.
    parts: u64,
    /// The failure of the last round, and how many rounds in a row have failed.
    failure: Option<Error>,
    failures: u32,
    /// How many times the preparation of a journal file has ended, with success or not.
    files: u64,
}

/// What the checkpointer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// It was called. Perhaps the disk is full, and space is needed.
    Called { wants_space: bool },
    /// The journal ended here when it became quiet, long ago.
    Idle { tail: Lsn },
}

/// A waiter for a journal file checks again after this time: the file may have become ready just before the
/// wait began.
const FILE_WAIT: Duration = Duration::from_millis(10);

/// How long the checkpointer rests after a failure, as on a full disk, before it tries again. The rest doubles with
/// each further failure, up to `REST_MAX`. Commits that wait for a checkpoint get the outcome of the next round, so
/// this bounds their wait, and it bounds the work that refused commits cause.
const REST_MIN: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_millis(200);

impl CheckpointerSignal {
    pub fn new(has_thread: bool, idle: Duration) -> CheckpointerSignal {
        let state = CheckpointerState::default();
        CheckpointerSignal {
            has_thread,
            idle,
            is_called: AtomicBool::new(false),
            state: RankedMutex::new(&(Rank::Leaf, "checkpointer's state"), state),
            changed: Condvar::new(),
            done: Condvar::new(),
        }
    }

    #[inline]
    pub fn has_thread(&self) -> bool {
        self.has_thread
    }

    /// Calls the checkpointer, because it has work.
    pub fn call(&self) {
        if !self.is_called.load(Ordering::Relaxed) {
            self.is_called.store(true, Ordering::Relaxed);
            self.state.lock().called = true;
            self.changed.notify_one();
        }
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
        self.done.notify_all();
    }

    /// Wakes all waiters: the engine is poisoned.
    pub fn wake_waiters(&self) {
        drop(self.state.lock());
        self.done.notify_all();
    }

    /// Wakes the waiters for a journal file: a preparation has ended, with success or not.
    pub fn file_is_ready(&self) {
        self.state.lock().files += 1;
        self.done.notify_all();
    }

    /// Waits until another thread has ended its preparation of a journal file, with success or not. `check`
    /// fails once the engine is poisoned.
    pub fn await_file(&self, check: impl Fn() -> Result<()>) -> Result<()> {
        let mut state = self.state.lock();
        let before = state.files;
        loop {
            // This is checked under the lock, which the thread that ends the preparation takes afterwards.
            if state.files != before || state.stop {
                return Ok(());
            }
            check()?;
            let (woken, is_over) = state.wait_timeout(&self.done, FILE_WAIT);
            if is_over {
                return Ok(());
            }
            state = woken;
        }
    }

    /// The waiters for a shorter journal go on: a part of a checkpoint was made.
    pub fn part_is_made(&self) {
        self.state.lock().parts += 1;
        self.done.notify_all();
    }

    /// Waits until the checkpointer has made a checkpoint, or a part of one if the disk has space. `check` fails once the
    /// engine is poisoned.
    ///
    /// # Errors
    ///
    /// The failure of a round that began after the call. An earlier failure says nothing about the disk of now.
    pub fn await_checkpoint(
        &self,
        wants_space: bool,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        state.wants_space |= wants_space;
        let (round, parts) = (state.begun + 1, state.parts);
        loop {
            check()?;
            if state.stop {
                return Ok(());
            }
            if state.parts != parts && !wants_space {
                return Ok(());
            }
            if state.ended >= round {
                // The caller tries its commit again, and finds whether the checkpoint made enough space.
                return state.failure.as_ref().map_or(Ok(()), |failure| Err(failure.again()));
            }
            state.called = true;
            self.changed.notify_one();
            state = state.wait(&self.done);
        }
    }

    /// Notes that the journal is quiet, and where it ends. If no commit follows for long, the store is idle.
    pub fn is_quiet(&self, tail: Lsn) {
        if self.has_thread {
            self.state.lock().quiet = Some(tail);
            self.changed.notify_one();
        }
    }

    /// Whether the next round is called for, or the thread is to stop.
    pub fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        state.called || state.stop
    }

    /// Waits for the next round. `None` to stop.
    pub fn next_round(&self) -> Option<Round> {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return None;
            }
            if state.called {
                state.called = false;
                state.begun += 1;
                self.is_called.store(false, Ordering::Relaxed);
                return Some(Round::Called { wants_space: mem::take(&mut state.wants_space) });
            }
            let before = state.quiet;
            state = match before {
                None => state.wait(&self.changed),
                Some(tail) => {
                    let (mut woken, is_over) = state.wait_timeout(&self.changed, self.idle);
                    if is_over && !woken.called && !woken.stop && woken.quiet == before {
                        woken.quiet = None;
                        return Some(Round::Idle { tail });
                    }
                    woken
                }
            };
        }
    }

    /// Ends a round. After a failure the checkpointer pauses, and the next round begins by itself.
    pub fn finish_round(&self, wanted_space: bool, outcome: Result<()>) {
        let mut state = self.state.lock();
        state.wants_space |= wanted_space && outcome.is_err();
        state.ended += 1;
        state.failure = outcome.err();
        self.done.notify_all();
        if state.failure.is_none() {
            state.failures = 0;
            return;
        }
        let rest = REST_MAX.min(REST_MIN * 2u32.saturating_pow(state.failures));
        state.failures += 1;
        state.called = true;
        drop(state.wait_timeout_while(&self.changed, rest, |state| !state.stop));
    }
}
