//! Shutdown: once, whoever asks for it, and wherever.
//!
//! Shutdown waits until no thread works in the store's directory. A waker is code of the application: it may
//! close the engine, or drop the last handle, in the midst of that work, and would wait for the thread that
//! it runs on. So a close that comes from within the engine's work is left to a thread of its own.

use std::{fmt, mem, sync::Arc};

use super::committer::{Committer, PANICKED};
use crate::{
    audit::Rank,
    disk::HeldLock,
    engine::runtime::{lock::RankedMutex, within::Within},
    error::{Error, ErrorKind, Result},
    format::frame::FrameKind,
    prims::{
        Condvar,
        thread::{self, JoinHandle},
    },
};

/// What ends when the engine is closed, and how that went.
pub struct Shutdown {
    committer: Arc<Committer>,
    threads: RankedMutex<Vec<JoinHandle<()>>>,
    lock: RankedMutex<Option<Box<dyn HeldLock>>>,
    state: RankedMutex<State>,
    ended: Condvar,
}

enum State {
    Open,
    Ending,
    Ended(Result<()>),
}

impl Shutdown {
    pub fn new(committer: Arc<Committer>, lock: Box<dyn HeldLock>) -> Shutdown {
        Shutdown {
            committer,
            threads: RankedMutex::new(Rank::Leaf, "threads to join", Vec::new()),
            lock: RankedMutex::new(Rank::Leaf, "the store's lock", Some(lock)),
            state: RankedMutex::new(Rank::Leaf, "shutdown", State::Open),
            ended: Condvar::new(),
        }
    }

    /// Takes over the threads that end with the engine.
    pub fn join_later(&self, threads: Vec<JoinHandle<()>>) {
        *self.threads.lock() = threads;
    }

    /// Closes the engine, and waits until it is closed, unless this thread does the engine's work.
    pub fn close(self: &Arc<Shutdown>) -> Result<()> {
        let mut core = self.committer.lock("close");
        core.is_closed = true;
        core.wake_everyone();
        // A waker may close the engine, too: nothing is held here.
        drop(core);
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::Ended(outcome) => return outcome.as_ref().map_err(Error::again).copied(),
                State::Ending if Within::is_here() => return Ok(()),
                State::Ending => state = state.wait(&self.ended),
                State::Open => break,
            }
        }
        *state = State::Ending;
        drop(state);
        if !Within::is_here() {
            return Ending { shutdown: self, outcome: None }.run();
        }
        self.end_elsewhere()
    }

    /// Ends the engine on a thread of its own.
    fn end_elsewhere(self: &Arc<Shutdown>) -> Result<()> {
        let shutdown = Arc::clone(self);
        let builder = thread::Builder::new().name("posthouse-close".to_owned());
        let spawned = builder.spawn(move || {
            let _ = Ending { shutdown: &shutdown, outcome: None }.run();
        });
        spawned.map(drop).map_err(|error| {
            *self.state.lock() = State::Open;
            self.ended.notify_all();
            Error::new(ErrorKind::Io, "a thread cannot be started").because(error)
        })
    }

    /// Ends the threads, makes everything durable, and lets go of the store's lock.
    fn end(&self) -> Result<()> {
        let committer = &self.committer;
        committer.flusher.stop();
        committer.checkpointer.stop();
        let threads = mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread of ours that panicked has left a message; there is nothing to add.
            let _ = thread.join();
        }
        committer.await_quiet();
        let synced = committer.syncs.check().and_then(|()| close_journal(committer));
        // Only now may another engine open the store.
        let lock = self.lock.lock().take();
        drop(lock);
        synced
    }
}

/// The engine is being ended. Nobody waits for ever for it, even if that panics.
struct Ending<'a> {
    shutdown: &'a Shutdown,
    outcome: Option<Result<()>>,
}

impl Ending<'_> {
    fn run(mut self) -> Result<()> {
        let within = Within::enter();
        let outcome = self.shutdown.end();
        drop(within);
        self.outcome = Some(outcome.as_ref().map_err(Error::again).copied());
        outcome
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let panicked = || Err(Error::new(ErrorKind::Poisoned, PANICKED));
        let outcome = self.outcome.take().unwrap_or_else(panicked);
        *self.shutdown.state.lock() = State::Ended(outcome);
        self.shutdown.ended.notify_all();
    }
}

/// Makes everything durable and writes down that it is, so that damage to the last commits will be told from
/// a torn tail.
fn close_journal(committer: &Committer) -> Result<()> {
    let tail = {
        let core = committer.lock("close");
        if core.store.journal.is_unused() {
            // What earlier epochs have left is durable, and the file's header says so.
            return Ok(());
        }
        core.store.journal.tail()
    };
    committer.sync_to(tail)?;
    let tail = {
        let mut core = committer.lock("close");
        core.store.journal.mark(FrameKind::Close)?;
        core.store.journal.tail()
    };
    committer.sync_to(tail)
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}
