//! A mutex with a rank. Builds with debug assertions check every lock against the order of the ranks, which
//! `core/mod.rs` lists. A thread that panics does not poison the mutex: the engine has its own poison.

use std::{
    ops::{Deref, DerefMut},
    sync::PoisonError,
    time::Duration,
};

use crate::{
    audit::{Hold, Rank},
    prims::{Condvar, Mutex, MutexGuard},
};

#[derive(Debug)]
pub struct RankedMutex<T> {
    /// Its rank and its name.
    which: &'static (Rank, &'static str),
    mutex: Mutex<T>,
}

impl<T> RankedMutex<T> {
    pub fn new(which: &'static (Rank, &'static str), value: T) -> RankedMutex<T> {
        RankedMutex { which, mutex: Mutex::new(value) }
    }

    pub fn lock(&self) -> RankedGuard<'_, T> {
        let hold = Hold::begin(self.which.0, self.which.1);
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        RankedGuard { guard, hold }
    }
}

/// A lock on a [`RankedMutex`].
#[derive(Debug)]
pub struct RankedGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    hold: Hold,
}

impl<'a, T> RankedGuard<'a, T> {
    /// Waits until woken.
    pub fn wait(self, condition: &Condvar) -> RankedGuard<'a, T> {
        let RankedGuard { guard, hold } = self;
        let guard = condition.wait(guard).unwrap_or_else(PoisonError::into_inner);
        RankedGuard { guard, hold }
    }

    /// Waits until woken, or until the time is over. Returns `true` if the time is over.
    pub fn wait_timeout(
        self,
        condition: &Condvar,
        timeout: Duration,
    ) -> (RankedGuard<'a, T>, bool) {
        let RankedGuard { guard, hold } = self;
        let waited = condition.wait_timeout(guard, timeout);
        let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (RankedGuard { guard, hold }, timeout.timed_out())
    }

    /// Waits while a condition holds.
    pub fn wait_while(
        self,
        condition: &Condvar,
        goes_on: impl FnMut(&mut T) -> bool,
    ) -> RankedGuard<'a, T> {
        let RankedGuard { guard, hold } = self;
        let guard = condition.wait_while(guard, goes_on).unwrap_or_else(PoisonError::into_inner);
        RankedGuard { guard, hold }
    }

    /// Waits while a condition holds, at most until the timeout.
    pub fn wait_timeout_while(
        self,
        condition: &Condvar,
        timeout: Duration,
        goes_on: impl FnMut(&mut T) -> bool,
    ) -> RankedGuard<'a, T> {
        let RankedGuard { guard, hold } = self;
        let waited = condition.wait_timeout_while(guard, timeout, goes_on);
        let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        RankedGuard { guard, hold }
    }
}

impl<T> Deref for RankedGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for RankedGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
