//! Checks of the use of locks, in builds with debug assertions. A release build has none of them.
//!
//! Three rules of the engine are checked on every thread of every test:
//!
//! - Locks are taken in the order of their [`Rank`]s.
//! - Nothing touches the disk while the core is held.
//! - A hold of the core is bounded: loops under it count their [`step`]s. `tests/counted/holds.rs` asserts a bound
//!   for each operation that keeps one, and lists the others by name. Here nothing fails for a long hold: an
//!   application may have many queues.
//!
//! The table of the locks is at the head of `engine/core/mod.rs`.

/// The locks of the engine, in the order in which they may be taken. A thread takes a lock only if its
/// rank is higher than those of all locks that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The state that a scheduler shares with its thread.
    Scheduler,
    /// Which messages are schedules.
    #[cfg_attr(not(feature = "cron"), allow(dead_code))]
    Registry,
    /// The right to lease from a queue that is ordered by key.
    KeyOrder,
    /// The right to work in the store's directory.
    Directory,
    /// The right to make a checkpoint.
    Checkpoint,
    /// The core.
    Core,
    /// Locks that are held for moments. No other lock is taken under them.
    Leaf,
}

/// A place that is about to be written, with other bytes than those that it had, in builds with debug assertions. So a test finds
/// what a writer leaves out.
#[inline(always)]
pub fn spoiled(bytes: &mut [u8]) -> &mut [u8] {
    if cfg!(debug_assertions) {
        bytes.fill(0x78);
    }
    bytes
}

#[cfg(all(debug_assertions, not(loom)))]
pub use checked::{Hold, Unchecked, step, steps, touches_disk};
#[cfg(all(debug_assertions, not(loom)))]
#[cfg(feature = "sim")]
pub use checked::{OfProcess, take_longest_holds, take_of_process, take_steps, watch_process};
#[cfg(not(all(debug_assertions, not(loom))))]
pub use unchecked::{Hold, Unchecked, step, steps, touches_disk};

#[cfg(all(debug_assertions, not(loom)))]
mod checked {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeMap,
        marker::PhantomData,
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
        thread::panicking,
        time::Duration,
    };

    use super::Rank;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
        static STEPS: Cell<u64> = const { Cell::new(0) };
        static ALL_STEPS: Cell<u64> = const { Cell::new(0) };
        static UNCHECKED: Cell<u32> = const { Cell::new(0) };
        static LONGEST: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// The clock by which holds of the core are timed, if anybody watches this process. This room has none of its own.
    static CLOCK: OnceLock<fn() -> Duration> = OnceLock::new();
    static MOST_STEPS: AtomicU64 = AtomicU64::new(0);
    static LONGEST_NS: AtomicU64 = AtomicU64::new(0);
    static SYNCS: AtomicU64 = AtomicU64::new(0);

    /// A lock that this thread holds.
    #[derive(Debug)]
    pub struct Hold {
        /// `None` once it was ended.
        rank: Option<Rank>,
        operation: &'static str,
        /// When the core was locked, if holds are timed.
        since: Option<Duration>,
        /// A hold stays on its thread.
        _thread: PhantomData<*const ()>,
    }

    impl Hold {
        /// Notes that this thread is about to take a lock.
        pub fn begin(rank: Rank, operation: &'static str) -> Hold {
            // A thread that ends drops its thread-local values, and handles of the application may be among them.
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let last = held.iter().max().copied();
                assert!(
                    last.is_none_or(|last| last < rank) || panicking(),
                    "{operation}: a lock of rank {rank:?} is taken while {held:?} are held"
                );
                held.push(rank);
            });
            if rank == Rank::Core {
                STEPS.set(0);
            }
            Hold { rank: Some(rank), operation, since: None, _thread: PhantomData }
        }

        /// Notes that the lock was taken, after what may have been a long wait.
        #[inline]
        pub fn is_taken(&mut self) {
            self.since = CLOCK.get().map(|clock| clock());
        }

        /// Notes that the lock was released.
        pub fn end(&mut self) {
            let Some(rank) = self.rank.take() else { return };
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                let at = held.iter().rposition(|it| *it == rank).expect("a hold ends once");
                held.remove(at);
            });
            if rank == Rank::Core {
                note_hold(self.operation, STEPS.get());
                if let (Some(since), Some(clock)) = (self.since, CLOCK.get()) {
                    let held = clock().saturating_sub(since).as_nanos();
                    LONGEST_NS.fetch_max(held as u64, Ordering::Relaxed);
                    MOST_STEPS.fetch_max(STEPS.get(), Ordering::Relaxed);
                }
            }
        }
    }

    impl Drop for Hold {
        fn drop(&mut self) {
            self.end();
        }
    }

    /// Counts one step of a loop that may run under the core.
    #[inline]
    pub fn step() {
        steps(1);
    }

    /// Counts steps.
    #[inline]
    pub fn steps(count: u64) {
        STEPS.set(STEPS.get().saturating_add(count));
        ALL_STEPS.set(ALL_STEPS.get().saturating_add(count));
    }

    fn note_hold(operation: &'static str, steps: u64) {
        let _ = LONGEST.try_with(|longest| {
            let mut longest = longest.borrow_mut();
            let of_operation = longest.entry(operation).or_default();
            *of_operation = steps.max(*of_operation);
        });
    }

    /// The longest holds of the core by this thread, in steps, by operation, since this was called last.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn take_longest_holds() -> BTreeMap<&'static str, u64> {
        LONGEST.take()
    }

    /// How many steps this thread has counted since this was called last.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn take_steps() -> u64 {
        ALL_STEPS.take()
    }

    /// The work of all threads of the process since it was asked for last.
    #[cfg(any(test, feature = "sim"))]
    #[derive(Clone, Copy, Debug)]
    #[non_exhaustive]
    pub struct OfProcess {
        /// The most steps in one hold of the core.
        pub hold_steps: u64,
        /// The longest hold of the core.
        pub hold_time: Duration,
        /// Syncs of files and directories.
        pub syncs: u64,
    }

    /// Counts the work of all threads from now on, and times their holds by a clock.
    #[cfg(any(test, feature = "sim"))]
    pub fn watch_process(clock: fn() -> Duration) {
        let _ = CLOCK.set(clock);
    }

    /// What was counted since this was called last, by the clock that [`watch_process`] has got.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn take_of_process() -> OfProcess {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let hold_time = Duration::from_nanos(take(&LONGEST_NS));
        OfProcess { hold_steps: take(&MOST_STEPS), hold_time, syncs: take(&SYNCS) }
    }

    /// Asserts that the core is not held: the disk is about to be touched.
    pub fn touches_disk(call: &str) {
        if CLOCK.get().is_some() && call.starts_with("sync") {
            SYNCS.fetch_add(1, Ordering::Relaxed);
        }
        let holds_core = HELD.try_with(|held| held.borrow().contains(&Rank::Core)).unwrap_or(false);
        let is_fine = !holds_core || UNCHECKED.get() > 0 || panicking();
        assert!(is_fine, "{call} touches the disk while the core is held");
    }

    /// A scope in which the disk may be touched under the core. Each use says why.
    #[derive(Debug)]
    pub struct Unchecked(PhantomData<*const ()>);

    impl Unchecked {
        pub fn begin(_why: &'static str) -> Unchecked {
            UNCHECKED.set(UNCHECKED.get() + 1);
            Unchecked(PhantomData)
        }
    }

    impl Drop for Unchecked {
        fn drop(&mut self) {
            UNCHECKED.set(UNCHECKED.get() - 1);
        }
    }

    #[cfg(test)]
    mod tests {
        use std::panic::catch_unwind;

        use super::*;

        #[test]
        fn locks_are_taken_in_the_order_of_their_ranks() {
            let core = Hold::begin(Rank::Core, "test");
            drop(Hold::begin(Rank::Leaf, "test"));
            assert!(catch_unwind(|| drop(Hold::begin(Rank::Checkpoint, "test"))).is_err());
            assert!(catch_unwind(|| drop(Hold::begin(Rank::Core, "test"))).is_err());
            drop(core);
            drop(Hold::begin(Rank::Checkpoint, "test"));
        }

        #[test]
        fn the_disk_is_not_touched_under_the_core() {
            touches_disk("a read");
            let core = Hold::begin(Rank::Core, "test");
            assert!(catch_unwind(|| touches_disk("a read")).is_err());
            let allowed = Unchecked::begin("a test");
            touches_disk("a read");
            drop((allowed, core));
            touches_disk("a read");
        }

        #[test]
        fn the_longest_hold_of_an_operation_is_kept() {
            for count in [3, 7, 2] {
                let _core = Hold::begin(Rank::Core, "a test of steps");
                steps(count);
            }
            assert_eq!(take_longest_holds().get("a test of steps"), Some(&7));
        }
    }
}

#[cfg(not(all(debug_assertions, not(loom))))]
mod unchecked {
    use super::Rank;

    /// A lock that this thread holds: not checked in this build.
    #[derive(Debug)]
    pub struct Hold;

    impl Hold {
        #[inline(always)]
        pub fn begin(_rank: Rank, _operation: &'static str) -> Hold {
            Hold
        }

        #[inline(always)]
        pub fn is_taken(&mut self) {}

        #[inline(always)]
        pub fn end(&mut self) {}
    }

    /// Counts one step: not in this build.
    #[inline(always)]
    pub fn step() {}

    /// Counts steps: not in this build.
    #[inline(always)]
    pub fn steps(_count: u64) {}

    /// Asserts that the core is not held: not in this build.
    #[inline(always)]
    pub fn touches_disk(_call: &str) {}

    /// A scope in which the disk may be touched under the core.
    #[derive(Debug)]
    pub struct Unchecked;

    impl Unchecked {
        #[inline(always)]
        pub fn begin(_why: &'static str) -> Unchecked {
            Unchecked
        }
    }
}
