//! A mutex under which no thread starves.
//!
//! The system's mutex goes to the thread that asks first. A thread that unlocks it and locks it again at once wins
//! against all threads that have to wake up first. That is quick, but a thread that takes the mutex again and again can
//! keep it from the others for seconds. Here the number of threads that overtake the waiting ones is bounded: after
//! [`OVERTAKING_MAX`] of them, threads that come later stand behind the waiting ones until one of those had its turn.
//! A thread that knows that it took long [gives way](FairMutex::give_way): it stands behind at once.

use std::sync::{LockResult, TryLockError, atomic::Ordering};

use super::lock::RankedMutex;
use crate::{
    audit::Rank,
    prims::{AtomicUsize, Condvar, Mutex, MutexGuard},
};

/// How many threads may overtake those that wait. To hand the mutex over to a thread that has to wake up takes as long
/// as many short holds, so this is a large number.
const OVERTAKING_MAX: usize = 4096;

#[derive(Debug)]
pub struct FairMutex<T> {
    mutex: Mutex<T>,
    /// How many threads wait for the mutex. Threads that stand behind them do not count.
    waiting: AtomicUsize,
    /// How many threads have overtaken them since one of them had its turn.
    overtaking: AtomicUsize,
    overtaking_max: usize,
    /// Where threads stand behind those that wait.
    gate: RankedMutex<()>,
    opened: Condvar,
}

impl<T> FairMutex<T> {
    pub fn new(value: T) -> FairMutex<T> {
        FairMutex::with_overtaking(OVERTAKING_MAX, value)
    }

    pub fn with_overtaking(overtaking_max: usize, value: T) -> FairMutex<T> {
        FairMutex {
            mutex: Mutex::new(value),
            waiting: AtomicUsize::new(0),
            overtaking: AtomicUsize::new(0),
            overtaking_max,
            gate: RankedMutex::new(&(Rank::Leaf, "gate of a fair mutex"), ()),
            opened: Condvar::new(),
        }
    }

    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        if self.waiting.load(Ordering::Relaxed) > 0 && !self.may_overtake() {
            self.stand_behind();
        }
        match self.mutex.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => self.wait(),
        }
    }

    pub fn clear_poison(&self) {
        self.mutex.clear_poison();
    }

    /// Lets one of the threads that wait have its turn before the mutex goes to any that does not wait yet. The caller has
    /// just unlocked the mutex.
    pub fn give_way(&self) {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.overtaking.fetch_max(self.overtaking_max, Ordering::AcqRel);
        }
    }

    /// How many threads wait for the mutex.
    #[cfg(all(test, not(loom)))]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    #[cold]
    fn may_overtake(&self) -> bool {
        self.overtaking.fetch_add(1, Ordering::AcqRel) < self.overtaking_max
    }

    /// Waits for the mutex. Then threads that stand behind may go on.
    #[cold]
    fn wait(&self) -> LockResult<MutexGuard<'_, T>> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let locked = self.mutex.lock();
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        // The counts change in this order, and are read in the other one: a thread that stands behind sees both changes,
        // or neither. If it sees neither, it holds the gate, and hears the call.
        if self.overtaking.swap(0, Ordering::AcqRel) >= self.overtaking_max {
            drop(self.gate.lock());
            self.opened.notify_all();
        }
        locked
    }

    #[cold]
    fn stand_behind(&self) {
        let is_behind = |(): &mut ()| {
            let overtaking = self.overtaking.fetch_add(0, Ordering::AcqRel);
            overtaking >= self.overtaking_max && self.waiting.load(Ordering::Acquire) > 0
        };
        drop(self.gate.lock().wait_while(&self.opened, is_behind));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64},
        },
        thread,
    };

    use super::*;

    /// Takes the mutex again and again, beside a thread that takes it `turns` times. Returns how often, at most, the
    /// first thread took it while the other one waited.
    fn overtakings(mutex: FairMutex<u64>, turns: u64, gives_way: bool) -> u64 {
        let mutex = Arc::new(mutex);
        let is_over = Arc::new(AtomicBool::new(false));
        let held = Arc::new(AtomicU64::new(0));
        let greedy = {
            let (mutex, is_over, held) =
                (Arc::clone(&mutex), Arc::clone(&is_over), Arc::clone(&held));
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let mut overtakings = mutex.lock().expect("no thread panics");
                    held.fetch_add(1, Ordering::Relaxed);
                    *overtakings += u64::from(mutex.waiting() > 0);
                    drop(overtakings);
                    if gives_way {
                        mutex.give_way();
                    }
                }
            })
        };
        let mut most = 0;
        for turn in 0..turns {
            // A thread that has just begun to wait was not there when the mutex was taken.
            while held.load(Ordering::Relaxed) <= turn {
                thread::yield_now();
            }
            *mutex.lock().expect("no thread panics") = 0;
            let mut overtakings = mutex.lock().expect("no thread panics");
            most = most.max(*overtakings);
            *overtakings = 0;
        }
        is_over.store(true, Ordering::Relaxed);
        greedy.join().expect("it ends");
        most
    }

    #[test]
    fn a_thread_that_takes_a_mutex_again_and_again_overtakes_a_bounded_number_of_times() {
        let most = overtakings(FairMutex::with_overtaking(10, 0), 200, false);
        // The first hold may have begun before, and the count is made in the next one.
        assert!(most <= 12, "{most} overtakings");
    }

    #[test]
    fn a_thread_that_gives_way_overtakes_nobody() {
        let most = overtakings(FairMutex::new(0), 200, true);
        assert!(most <= 1, "{most} overtakings");
    }

    #[test]
    fn a_fair_mutex_is_poisoned_by_a_panic() {
        let mutex = FairMutex::new(());
        thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _guard = mutex.lock();
                panic!("a test");
            });
            assert!(panics.join().is_err());
        });
        assert!(mutex.lock().is_err());
        mutex.clear_poison();
        assert!(mutex.lock().is_ok());
    }
}
