//! What the engine's threads do in time, done by calls: an engine on the simulated disk has no threads.
//!
//! Each call that commits or looks at messages does it first, for all queues and subscriptions, in the order of the
//! flusher's duties. Timers and the ends of lives are in their order, so that takes time for what is due, and not for what
//! is there. The call does not depend on the outcome: as with threads, what fails is tried again later, and only a sync that
//! fails poisons.

use std::{cell::RefCell, marker::PhantomData, ptr, time::Duration};

use super::{committer::Committer, threads};
use crate::{
    config::Durability,
    engine::{
        core::{
            arming::EVERY_CURSOR, effects::HeldBack, expiry::EXPIRED_AT_ONCE, guard::CoreGuard,
        },
        runtime::{signals::Timer, wait::wake_task},
    },
    error::Result,
    store::Occasion,
};

const OPERATION: &str = "timer";

/// After a timer that found nothing more to do, another one of the same cursor is later.
const LATER: Duration = Duration::from_millis(1);

thread_local! {
    /// The engines that this thread works for, and null for all engines. They are compared, and never looked into.
    static WORKING: RefCell<Vec<*const Committer>> = const { RefCell::new(Vec::new()) };
}

/// Marks a thread that does this work for an engine. What it calls does not begin the same work. A callback may call
/// another engine, and that does its own.
#[derive(Debug)]
pub struct Working {
    /// It stays on its thread.
    _thread: PhantomData<*const ()>,
}

impl Working {
    /// `None` if this thread works for that engine already. It makes no `Working` then: the drop of that would end the work.
    pub fn begin(engine: &Committer) -> Option<Working> {
        WORKING.with_borrow_mut(|all| {
            if all.iter().any(|it| it.is_null() || ptr::eq(*it, engine)) {
                return None;
            }
            all.push(engine);
            Some(Working { _thread: PhantomData })
        })
    }
}

#[cfg(any(test, feature = "sim"))]
impl Working {
    /// As if this thread worked for all engines: their calls leave undone what is due.
    pub fn for_all() -> Working {
        WORKING.with_borrow_mut(|all| all.push(ptr::null()));
        Working { _thread: PhantomData }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // What began last ends first.
        WORKING.with_borrow_mut(|all| _ = all.pop());
    }
}

impl Committer {
    /// Without the engine's threads, does what is due.
    #[inline]
    pub fn work_alone(&self) {
        if !self.flusher.has_thread() {
            self.do_what_is_due();
        }
    }

    /// Locks the core for a call that looks at what is there. Without the engine's threads, it does first what is due.
    #[inline]
    pub fn lock_to_look(&self, operation: &'static str) -> Result<CoreGuard<'_>> {
        self.work_alone();
        self.lock_open(operation)
    }

    /// As [`work_alone`](Committer::work_alone), for a call that then takes a lock under which it cannot be done: until the
    /// result is dropped, this thread does not begin it.
    #[inline]
    pub fn work_alone_first(&self) -> Option<Working> {
        if self.flusher.has_thread() {
            return None;
        }
        self.do_what_is_due();
        Working::begin(self)
    }

    #[cold]
    fn do_what_is_due(&self) {
        // The call that works goes on with it.
        let Some(_working) = Working::begin(self) else { return };
        let now = self.elapsed();
        if self.flusher.take_sync(now) {
            threads::flush_all(self);
        }
        self.look_at_clock();
        if let Some(position) = self.flusher.take_mark(now) {
            threads::mark(self, position);
        }
        self.run_timers(now);
        let has_moved = self.flusher.take_move(now);
        if has_moved {
            self.move_exhausted(usize::MAX);
        }
        let has_swept = self.sweep_alone(now) | self.retain_alone();
        if (has_moved || has_swept) && self.config.durability == Durability::Sync {
            // Consumers see a letter once it is durable. Tasks that wait for one are woken here, and not under the locks of a
            // checkpoint.
            threads::flush_all(self);
        }
        if has_swept && self.lock(OPERATION).wants_checkpointer() {
            let _ = threads::checkpoint_round(self);
        }
        if self.flusher.take_rest(now) {
            self.make_awaited_round();
        }
        // Wakers are code of the application.
        while !HeldBack::is_here()
            && let Some(sleeper) = self.flusher.take_sleeper(self.disk.stopwatch())
        {
            wake_task(sleeper);
        }
    }

    /// Runs the timers that are due.
    fn run_timers(&self, now: Duration) {
        let Some(mut timer) = self.flusher.take_timer(now) else { return };
        loop {
            self.run_timer(timer, now);
            let Some(next) = self.flusher.take_timer(now) else { break };
            timer = next;
        }
        let core = self.lock(OPERATION);
        if core.has_failures() {
            drop(self.count_failures(OPERATION, core));
        }
    }

    /// Ends leases of a cursor that run out, and releases its messages that come due: one slice. If there is more, the timer
    /// is due again. The failures are counted later: those of all cursors together.
    fn run_timer(&self, Timer { at, cursor }: Timer, now: Duration) {
        let mut core = self.lock(OPERATION);
        if cursor == EVERY_CURSOR {
            return core.arm_some();
        }
        if !core.disarm(cursor, at) {
            return;
        }
        if core.wants_block(cursor, now) {
            drop(core);
            let _ = self.bring_back(cursor);
            core = self.lock(OPERATION);
        }
        let is_more = core.expire(cursor, now, EXPIRED_AT_ONCE);
        let wants_check = core.take_check(cursor, now);
        core.arm_from(cursor, if is_more { now } else { now + LATER });
        drop(core);
        if wants_check {
            self.check_oldest(cursor);
        }
    }

    /// Has records leave that have come of age. Returns whether any may have left.
    fn retain_alone(&self) -> bool {
        let is_due = self.wants_retention();
        if is_due {
            let _ = self.retain(Occasion::Time, None);
        }
        is_due
    }

    /// Has all messages leave that have expired. Returns whether it has committed.
    fn sweep_alone(&self, now: Duration) -> bool {
        let tail = {
            let core = self.lock(OPERATION);
            if !core.has_expired(now) {
                return false;
            }
            core.store.journal.tail()
        };
        // Like the checkpointer's thread, this waits for no other thread that looks at a log.
        self.sweep(Some(&|| false));
        self.lock(OPERATION).store.journal.tail() != tail
    }
}
