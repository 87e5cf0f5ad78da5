//! Closing: once, whoever asks for it, and wherever.
//!
//! Closing waits until nobody works in the store's directory. A waker is the application's code: it
//! may close the engine, or drop the last handle, in the midst of that work, and would wait for the
//! thread that it runs on. So whoever closes *within* the engine's work leaves it to a thread.

use std::{
    cell::Cell,
    fmt, mem,
    sync::{Arc, PoisonError},
};

use super::shared::{PANICKED, Shared};
use crate::{
    disk::HeldLock,
    error::{Error, ErrorKind, Result},
    format::frame::FrameKind,
    prims::{
        Condvar, Mutex, MutexGuard,
        thread::{self, JoinHandle},
    },
};

thread_local! {
    static WITHIN: Cell<u32> = const { Cell::new(0) };
}

/// Says that this thread does the engine's work, until it is dropped. It stays on its thread.
#[derive(Debug)]
pub struct Within(std::marker::PhantomData<*const ()>);

impl Within {
    pub fn enter() -> Within {
        WITHIN.set(WITHIN.get() + 1);
        Within(std::marker::PhantomData)
    }

    fn is_here() -> bool {
        WITHIN.get() > 0
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(WITHIN.get() - 1);
    }
}

/// What is to be ended when the engine is closed, and how that went.
pub struct Closing {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn HeldLock>>>,
    state: Mutex<State>,
    ended: Condvar,
}

enum State {
    Open,
    Ending,
    Ended(Result<()>),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Closing {
    pub fn new(shared: Arc<Shared>, lock: Box<dyn HeldLock>) -> Closing {
        Closing {
            shared,
            threads: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            state: Mutex::new(State::Open),
            ended: Condvar::new(),
        }
    }

    /// Takes the threads that are to be ended, too.
    pub fn join_later(&self, threads: Vec<JoinHandle<()>>) {
        *locked(&self.threads) = threads;
    }

    pub fn close(self: &Arc<Closing>) -> Result<()> {
        let mut core = self.shared.lock();
        core.closed = true;
        core.wake_all();
        let wakes = core.take_wakes();
        drop(core);
        // A waker may close the engine, too: nothing is held here.
        self.shared.wake(wakes);
        let mut state = locked(&self.state);
        loop {
            match &*state {
                State::Ended(outcome) => return outcome.as_ref().map_err(Error::again).copied(),
                State::Ending if Within::is_here() => return Ok(()),
                State::Ending => {
                    state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Open => break,
            }
        }
        *state = State::Ending;
        drop(state);
        if !Within::is_here() {
            return Ending { closing: self, outcome: None }.run();
        }
        let closing = Arc::clone(self);
        let builder = thread::Builder::new().name("posthouse-close".to_owned());
        let spawned = builder.spawn(move || {
            let _ = Ending { closing: &closing, outcome: None }.run();
        });
        spawned.map(drop).map_err(|error| {
            *locked(&self.state) = State::Open;
            self.ended.notify_all();
            Error::new(ErrorKind::Io, "a thread cannot be started").because(error)
        })
    }

    /// Ends the threads, makes everything durable, and lets go of the lock.
    fn end(&self) -> Result<()> {
        let shared = &self.shared;
        shared.flusher.stop();
        shared.keeper.stop();
        for thread in mem::take(&mut *locked(&self.threads)) {
            // A thread of ours that panicked has left a message; there is nothing to add.
            let _ = thread.join();
        }
        shared.await_quiet();
        let synced = shared.syncs.check().and_then(|()| close_journal(shared));
        // Only now may others come in.
        drop(locked(&self.lock).take());
        synced
    }
}

/// The engine is being ended. Nobody waits for ever for it, even if that panics.
struct Ending<'a> {
    closing: &'a Closing,
    outcome: Option<Result<()>>,
}

impl Ending<'_> {
    fn run(mut self) -> Result<()> {
        let within = Within::enter();
        let outcome = self.closing.end();
        drop(within);
        self.outcome = Some(outcome.as_ref().map_err(Error::again).copied());
        outcome
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let panicked = || Err(Error::new(ErrorKind::Poisoned, PANICKED));
        let outcome = self.outcome.take().unwrap_or_else(panicked);
        *locked(&self.closing.state) = State::Ended(outcome);
        self.closing.ended.notify_all();
    }
}

/// Makes everything durable and writes down that it is, so that damage to the last commits will be
/// told from a torn tail.
fn close_journal(shared: &Shared) -> Result<()> {
    let tail = {
        let core = shared.lock();
        if core.store.journal.is_unused() {
            // What earlier lives have left is durable, and the file's header says so.
            return Ok(());
        }
        core.store.journal.tail()
    };
    shared.sync_to(tail)?;
    let tail = {
        let mut core = shared.lock();
        core.store.journal.mark(FrameKind::Close)?;
        core.store.journal.tail()
    };
    shared.sync_to(tail)
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing").finish_non_exhaustive()
    }
}
