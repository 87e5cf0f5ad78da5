//! Relays: the wake-up of many waiters, which those who are woken pass on.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, OnceLock, atomic::Ordering},
    thread::available_parallelism,
};

use super::{
    interest::{Waiters, Whom},
    lock::RankedMutex,
    wait::{Roused, Waiter, Watch},
};
use crate::{audit::Rank, prims::AtomicUsize};

/// Waiters that are to be woken, and that nobody has woken yet.
#[derive(Debug)]
pub struct Relay {
    watch: Arc<Watch>,
    /// `None` if they are those of the watch, whose wake-up is [passed on](Passing).
    left: Option<RankedMutex<VecDeque<Arc<Waiter>>>>,
    /// How many threads pass it on at the same time.
    carriers: AtomicUsize,
}

/// Those who wait, and those who are being woken.
#[derive(Debug, Default)]
pub struct Watchers {
    pub asleep: Waiters<Arc<Waiter>>,
    /// A wake-up of all waiters that threads pass on. One of them is still to ask for the next waiter.
    pub passing: Option<Passing>,
}

/// A wake-up of all waiters that threads pass on.
#[derive(Debug)]
pub struct Passing {
    pub left: VecDeque<Arc<Waiter>>,
    /// Whether there was a further wake-up of all.
    pub again: bool,
}

/// How many threads are woken by a thread that has other work to do. The woken ones wake the others.
pub const THREADS_AT_ONCE: usize = if cfg!(loom) { 1 } else { 2 };

/// How many threads pass a wake-up on at the same time: twice as many as there are cores, as one may run while another one
/// gets ready.
fn carriers_max() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| available_parallelism().map_or(THREADS_AT_ONCE, |cores| 2 * cores.get()))
}

impl Watchers {
    /// The next waiter of a wake-up of all that is passed on. At its end, it goes on with those for whom a further one was.
    fn next(&mut self) -> Option<Arc<Waiter>> {
        let passing = self.passing.as_mut()?;
        if passing.left.is_empty() && mem::take(&mut passing.again) {
            passing.left = self.asleep.take(Whom::Each, usize::MAX);
        }
        let next = passing.left.pop_front();
        if next.is_none() {
            self.passing = None;
        }
        next
    }

    /// Ends such a wake-up: those who are left.
    fn end_passing(&mut self) -> VecDeque<Arc<Waiter>> {
        let Some(Passing { mut left, again }) = self.passing.take() else { return VecDeque::new() };
        if again {
            left.extend(self.asleep.take(Whom::Each, usize::MAX));
        }
        left
    }
}

impl Relay {
    pub fn new(watch: &Arc<Watch>, left: Option<VecDeque<Arc<Waiter>>>) -> Arc<Relay> {
        let left = left.map(|left| RankedMutex::new(&(Rank::Leaf, "waiters to wake"), left));
        let carriers = AtomicUsize::new(THREADS_AT_ONCE);
        Arc::new(Relay { watch: Arc::clone(watch), left, carriers })
    }

    /// The same waiters, for the flusher. Further wake-ups of all do not wait for it.
    pub fn without_watch(self: Arc<Relay>) -> Arc<Relay> {
        match self.left {
            Some(_) => self,
            None => Relay::new(&self.watch, Some(self.watch.change(Watchers::end_passing))),
        }
    }

    /// Wakes all waiters that are left, or a thread that wakes them.
    pub fn finish(self: &Arc<Relay>) {
        let others = self.carriers.load(Ordering::Relaxed);
        let threads = if others < carriers_max() { 2 } else { 1 };
        self.carriers.fetch_add(threads - 1, Ordering::Relaxed);
        if let Some(rest) = self.go_on(threads, usize::MAX) {
            debug_assert!(false, "{rest:?} is left");
        }
    }

    /// Wakes waiters. If `tasks` tasks were woken and no thread, so that nobody wakes the others, returns those.
    #[must_use = "the others sleep until they are woken"]
    pub fn go_on(self: &Arc<Relay>, threads_max: usize, tasks: usize) -> Option<Arc<Relay>> {
        let (mut threads, mut others) = (0, 0);
        while threads < threads_max {
            if others == tasks {
                return (threads == 0).then(|| Arc::clone(self).without_watch());
            }
            let waiter = self.next()?;
            match waiter.wake(Some(self)) {
                Roused::Thread => threads += 1,
                Roused::Other => others += 1,
                Roused::Not => {
                    // Its waker is code of the application, and may take long. Further wake-ups do not wait for it.
                    let mut left = self.watch.change(Watchers::end_passing);
                    left.push_front(waiter);
                    return Relay::new(&self.watch, Some(left)).go_on(threads_max - threads, tasks);
                }
                Roused::Panicked => {
                    others += 1;
                    // The other threads of the relay may have come to its end.
                    self.watch.wake_each(self.watch.next_of(waiter.interest));
                }
            }
        }
        None
    }

    /// Whether further wake-ups of all wait for this one.
    pub fn is_passing(&self) -> bool {
        self.left.is_none()
    }

    fn next(&self) -> Option<Arc<Waiter>> {
        match &self.left {
            Some(left) => left.lock().pop_front(),
            None => self.watch.change(Watchers::next),
        }
    }
}
