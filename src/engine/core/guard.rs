//! The guard of the core.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
};

use super::{Core, effects::Effects};
use crate::{
    audit,
    engine::runtime::signals::FlusherSignal,
    prims::{MutexGuard, panicking},
};

/// The core, locked. Dropping the guard unlocks the core and then runs the effects of what was changed:
/// it wakes waiters, sets timers and runs callbacks.
pub struct CoreGuard<'a> {
    /// `None` once the core is unlocked.
    core: Option<MutexGuard<'a, Core>>,
    signal: &'a FlusherSignal,
    hold: audit::Hold,
    /// The thread was panicking when it locked the core: a `Drop` of an unwinding thread uses it, in order.
    was_panicking: bool,
}

impl<'a> CoreGuard<'a> {
    #[inline]
    pub fn new(
        core: MutexGuard<'a, Core>,
        signal: &'a FlusherSignal,
        mut hold: audit::Hold,
    ) -> CoreGuard<'a> {
        hold.is_taken();
        CoreGuard { core: Some(core), signal, hold, was_panicking: panicking() }
    }

    /// Unlocks the core and returns its effects, for a caller that must release more before it runs them.
    pub fn into_effects(mut self) -> Effects {
        self.settle().map(|core| self.unlock(core)).unwrap_or_default()
    }

    /// Finds the effects of what was changed. Returns the core, still locked, if there are any. Most holds have none, and
    /// move no empty lists about.
    #[inline(always)]
    fn settle(&mut self) -> Option<MutexGuard<'a, Core>> {
        let mut core = self.core.take()?;
        core.check_thresholds();
        if !core.effects.is_empty() {
            return Some(core);
        }
        drop(core);
        self.hold.end();
        None
    }

    #[inline(never)]
    fn unlock(&mut self, mut core: MutexGuard<'a, Core>) -> Effects {
        let effects = mem::take(&mut core.effects);
        drop(core);
        self.hold.end();
        effects
    }
}

impl Deref for CoreGuard<'_> {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        self.core.as_ref().expect("the guard holds the core until it is dropped")
    }
}

impl DerefMut for CoreGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("the guard holds the core until it is dropped")
    }
}

impl Drop for CoreGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if panicking() && !self.was_panicking {
            // The core may be half changed. This drop poisons the mutex. The next thread that locks it
            // poisons the engine and wakes all waiters.
            return;
        }
        if let Some(core) = self.settle() {
            self.unlock(core).run_or_hold(self.signal);
        }
    }
}

impl fmt::Debug for CoreGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreGuard").finish_non_exhaustive()
    }
}
