//! What the flusher's thread does in time, done by calls: an engine on the simulated disk has no threads.
//!
//! Each call that commits or looks at messages does it first, for all queues and subscriptions. The timers are in their
//! order, so that takes time for what is due, and not for what is there.

use std::{cell::Cell, time::Duration};

use super::{committer::Committer, threads};
use crate::{
    config::Durability,
    engine::{core::expiry::EXPIRED_AT_ONCE, runtime::signals::Timer},
};

const OPERATION: &str = "timer";

/// After a timer that found nothing more to do, another one of the same cursor is later.
const LATER: Duration = Duration::from_millis(1);

thread_local! {
    static IS_WORKING: Cell<bool> = const { Cell::new(false) };
}

/// Marks a thread that does this work. What it calls does not begin the same work.
struct Working;

impl Working {
    fn begin() -> Option<Working> {
        if IS_WORKING.replace(true) { None } else { Some(Working) }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        IS_WORKING.set(false);
    }
}

impl Committer {
    /// Without the flusher's thread, does what is due.
    #[inline]
    pub fn work_alone(&self) {
        if !self.flusher.has_thread() {
            self.do_what_is_due();
        }
    }

    #[cold]
    fn do_what_is_due(&self) {
        let now = self.elapsed();
        let Some(first) = self.flusher.take_due(now) else { return };
        let Some(_working) = Working::begin() else {
            // The call that works goes on with it.
            self.flusher.set_timer(first);
            return;
        };
        let mut next = Some(first);
        while let Some(timer) = next {
            self.run_timer(timer, now);
            next = self.flusher.take_due(now);
        }
        let core = self.lock(OPERATION);
        let core = if core.has_failures() { self.count_failures(OPERATION, core) } else { core };
        let has_exhausted = core.has_exhausted();
        drop(core);
        if has_exhausted {
            self.move_exhausted(usize::MAX);
            if self.config.durability == Durability::Sync {
                // Consumers see a letter once it is durable.
                threads::flush_all(self);
            }
        }
    }

    /// Ends leases of a cursor that run out, and releases its messages that come due: one slice. If there is more, the timer
    /// is due again. The failures are counted later: those of all cursors together.
    fn run_timer(&self, Timer { at, cursor }: Timer, now: Duration) {
        let mut core = self.lock(OPERATION);
        if !core.disarm(cursor, at) {
            return;
        }
        if core.wants_block(cursor, now) {
            drop(core);
            self.bring_back(cursor);
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
}
