//! Waiting with a time limit, which loom lacks: it treats such a wait as one without a limit. Here the time may
//! run out at any moment, and a wake-up may come before.

use std::{
    ops::{Deref, DerefMut},
    sync::{LockResult, TryLockError, TryLockResult},
    time::Duration,
};

use loom::{sync, thread};

#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only during the moments in which the mutex is released.
    guard: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let guard = self.0.lock().expect("a panic ends the check");
        Ok(MutexGuard { mutex: self, guard: Some(guard) })
    }

    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Ok(MutexGuard { mutex: self, guard: Some(guard) }),
            Err(_) => Err(TryLockError::WouldBlock),
        }
    }

    pub fn clear_poison(&self) {}
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("it is held")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("it is held")
    }
}

#[derive(Debug, Default)]
pub struct Condvar {
    endless: sync::Condvar,
    /// The threads that wait with a time limit. Only one thread runs at a time, so loom need not check this.
    limited: std::sync::Mutex<Limited>,
}

#[derive(Debug, Default)]
struct Limited {
    waiting: usize,
    woken: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub fn timed_out(self) -> bool {
        self.0
    }
}

type Waited<'a, T> = LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>;

impl Condvar {
    pub fn new() -> Condvar {
        Condvar::default()
    }

    fn limited(&self) -> std::sync::MutexGuard<'_, Limited> {
        self.limited.lock().expect("a panic ends the check")
    }

    pub fn notify_one(&self) {
        let mut limited = self.limited();
        if limited.woken < limited.waiting && choose(2) == 0 {
            limited.woken += 1;
        } else {
            drop(limited);
            self.endless.notify_one();
        }
    }

    pub fn notify_all(&self) {
        let mut limited = self.limited();
        limited.woken = limited.waiting;
        drop(limited);
        self.endless.notify_all();
    }

    pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let held = guard.guard.take().expect("it is held");
        guard.guard = Some(self.endless.wait(held).expect("a panic ends the check"));
        Ok(guard)
    }

    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    pub fn wait_timeout<'a, T>(&self, mut guard: MutexGuard<'a, T>, _: Duration) -> Waited<'a, T> {
        self.limited().waiting += 1;
        guard.guard = None;
        let mut moments = choose(4);
        loop {
            thread::yield_now();
            if moments == 0 || self.limited().woken > 0 {
                break;
            }
            moments -= 1;
        }
        let mutex = guard.mutex;
        let guard = mutex.lock().expect("it is never poisoned");
        let mut limited = self.limited();
        limited.waiting -= 1;
        let is_woken = limited.woken > 0;
        limited.woken -= usize::from(is_woken);
        Ok((guard, WaitTimeoutResult(!is_woken)))
    }

    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Waited<'a, T> {
        let mut is_over = WaitTimeoutResult(false);
        while condition(&mut guard) && !is_over.timed_out() {
            (guard, is_over) = self.wait_timeout(guard, timeout)?;
        }
        is_over.0 = condition(&mut guard);
        Ok((guard, is_over))
    }
}

/// Chooses one of `among` alternatives. Without a choice by loom, the time runs out when all others wait.
fn choose(among: usize) -> usize {
    let _ = among;
    0
}
