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
        hold: audit::Hold,
    ) -> CoreGuard<'a> {
        CoreGuard { core: Some(core), signal, hold, was_panicking: panicking() }
    }

    /// Unlocks the core and returns its effects, for a caller that must release more before it runs them.
    pub fn into_effects(mut self) -> Effects {
        self.unlock().unwrap_or_default()
    }

    /// Unlocks the core, unless it is unlocked. Returns the effects, if there are any: most holds have none, and
    /// pay for no empty lists.
    #[inline(always)]
    fn unlock(&mut self) -> Option<Effects> {
        let mut core = self.core.take()?;
        core.check_thresholds();
        let effects = (!core.effects.is_empty()).then(|| mem::take(&mut core.effects));
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
        if let Some(effects) = self.unlock() {
            effects.run_or_hold(self.signal);
        }
    }
}

impl fmt::Debug for CoreGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreGuard").finish_non_exhaustive()
    }
}
