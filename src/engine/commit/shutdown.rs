//! Shutdown. It runs once, whichever thread asks for it.
//!
//! Shutdown waits until no thread works in the store's directory. A waker is code of the application. It may
//! close the engine, or drop the last handle, while the engine's work runs on the same thread. Then shutdown would
//! wait for its own thread. So a close from within the engine's work runs on a new thread.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    committer::{Committer, PANICKED},
    threads::Threads,
};
use crate::{
    audit::Rank,
    disk::HeldLock,
    engine::runtime::{lock::RankedMutex, within::Within},
    error::{Error, ErrorKind, Result},
    format::frame::FrameKind,
    prims::{Condvar, thread},
};

/// A close that waits for longer says so: it must not hang in silence.
const TOLD_AFTER: Duration = Duration::from_secs(30);

/// The parts of the engine that shutdown ends, and its outcome.
pub struct Shutdown {
    committer: Arc<Committer>,
    threads: RankedMutex<Option<Threads>>,
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
            threads: RankedMutex::new(&(Rank::Leaf, "threads to join"), None),
            lock: RankedMutex::new(&(Rank::Leaf, "the store's lock"), Some(lock)),
            state: RankedMutex::new(&(Rank::Leaf, "shutdown"), State::Open),
            ended: Condvar::new(),
        }
    }

    /// Takes over the threads that shutdown joins.
    pub fn join_later(&self, threads: Threads) {
        *self.threads.lock() = Some(threads);
    }

    /// Closes the engine, and waits until it is closed, unless this thread does the engine's work.
    pub fn close(self: &Arc<Shutdown>) -> Result<()> {
        let mut core = self.committer.lock("close");
        core.is_closed = true;
        core.wake_everyone();
        // A waker may close the engine, too, so this thread holds no lock when wakers run.
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

    /// Ends the threads, makes everything durable, and releases the store's lock.
    fn end(&self) -> Result<()> {
        let committer = &self.committer;
        committer.end_leases_at_close();
        committer.flusher.stop();
        committer.checkpointer.stop();
        let threads = self.threads.lock().take();
        if let Some(threads) = threads {
            if !threads.end_within(TOLD_AFTER) {
                eprintln!(
                    "posthouse: the engine is being closed, and one of its threads still works after {TOLD_AFTER:?}. \
                     It makes a checkpoint or a sync that takes long, or runs a callback or a waker of the application that \
                     does not return. The close waits for it."
                );
            }
            threads.join();
        }
        committer.await_quiet();
        let synced = committer.syncs.check().and_then(|()| close_journal(committer));
        // Only now may another engine open the store.
        let lock = self.lock.lock().take();
        drop(lock);
        synced
    }
}

/// A shutdown that runs. Its drop sets the outcome, so that no thread waits for ever, even after a panic.
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

/// An engine that was open for a shorter time, and has committed nothing, does not record how long that was.
const UNRECORDED: Duration = Duration::from_secs(60);

/// Makes everything durable, and writes a close mark. With the mark, recovery tells damage to the last commits
/// from a torn tail.
fn close_journal(committer: &Committer) -> Result<()> {
    committer.record_last_clock();
    committer.count_last();
    let tail = {
        let mut core = committer.lock("close");
        let was_short = core.uptime(committer.elapsed()) < UNRECORDED;
        if core.store.journal.is_unused() && (was_short || core.store.is_new()) {
            // The commits of earlier epochs are durable, and the file's header says so.
            return Ok(());
        }
        // The next opening knows that this much time has passed.
        core.record_clock(committer.now());
        core.store.journal.tail()
    };
    committer.sync_to(tail)?;
    let tail = {
        let mut core = committer.lock("close");
        // Everything is durable already, and a mark that cannot be written loses nothing.
        let _ = core.store.journal.mark(FrameKind::Close);
        core.store.journal.tail()
    };
    committer.sync_to(tail)
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}
