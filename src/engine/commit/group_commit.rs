//! Group commit: who leads the next sync, and for whom.
//!
//! Threads that wait for a sync form a *group*, and one of them leads it: no thread is woken to sync for
//! others. At most one sync is under way. A thread that comes meanwhile and is not covered by it joins the
//! next group.
//!
//! The end of a sync releases its whole group at once, and most of its threads soon come back with their
//! next commits. If the first to come back synced at once, it would sync for two or three. So a group has a
//! *batch window*: its sync begins when most of those are there that were released, or were waiting
//! already; the last to come leads. A lone writer syncs at once. One thread of the group watches the time, in
//! case the others do not come back. When they did not, the next groups have no window: one group, then
//! three, and up to 63.
//!
//! Invariants: while any thread waits, a thread leads, watches the time, or was woken to do so. The state is
//! locked for moments, and no other lock is taken under it.

use std::{mem, sync::atomic::Ordering, time::Duration};

use crate::{
    audit::Rank,
    engine::runtime::lock::{RankedGuard, RankedMutex},
    ids::Lsn,
    prims::{AtomicU64, Condvar},
};

/// After a shorter sync a batch window is not worth the sleep.
const WORTH_A_WINDOW: Duration = Duration::from_micros(20);

/// The longest batch window, however long a sync takes.
const WINDOW_MAX: Duration = Duration::from_millis(5);

/// How often the number of groups without a window doubles at most.
const DOUBLINGS_MAX: u32 = 6;

#[derive(Debug)]
pub struct GroupCommit {
    state: RankedMutex<State>,
    /// Wakes the members of a group when its sync has ended. Only two groups have members at a time: the
    /// one whose sync is under way, and the one that gathers.
    ended: [Condvar; 2],
    /// The position that the sync under way covers: everything, until its leader has looked.
    covers: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The group that gathers. The one before it is the one whose sync is under way, if one is.
    group: u64,
    under_way: bool,
    gathering: usize,
    syncing: usize,
    /// How many members the group waits for, and how long its batch window is.
    expected: usize,
    window: Duration,
    /// A member watches the time.
    is_watched: bool,
    /// How often in a row the others did not come back; how many groups have no window for that.
    misses: u32,
    resting: u32,
}

impl State {
    /// Joins a group, and returns which.
    fn join(&mut self, is_covered: bool) -> u64 {
        if self.under_way && is_covered {
            self.syncing += 1;
            self.group - 1
        } else {
            self.gathering += 1;
            self.group
        }
    }

    fn has_ended(&self, group: u64) -> bool {
        group < self.group && !(self.under_way && group + 1 == self.group)
    }

    /// Begins the sync of the group that gathers.
    fn begin(&mut self) {
        if self.gathering < self.expected {
            self.resting = (1 << self.misses) - 1;
            self.misses = DOUBLINGS_MAX.min(self.misses + 1);
        } else if self.expected > 1 {
            self.misses = 0;
        }
        self.group += 1;
        self.under_way = true;
        self.syncing = mem::take(&mut self.gathering);
        self.is_watched = false;
    }

    /// Ends the sync.
    fn end(&mut self, took: Duration) -> Ended {
        self.under_way = false;
        let released = mem::take(&mut self.syncing);
        let all = released + self.gathering;
        let has_window = self.resting == 0 && took >= WORTH_A_WINDOW;
        self.resting = self.resting.saturating_sub(1);
        // One straggler in sixteen is not waited for.
        self.expected = if has_window { all - all / 16 } else { 1 };
        self.window = WINDOW_MAX.min(took / 2);
        Ended { group: self.group, has_followers: released > 1, has_next: self.gathering > 0 }
    }
}

/// What the end of a sync leaves to do.
struct Ended {
    /// The group that gathers now.
    group: u64,
    /// Others than the leader waited for the sync.
    has_followers: bool,
    /// The next group has members: one is woken to lead it, or to watch the time.
    has_next: bool,
}

impl GroupCommit {
    pub fn new() -> GroupCommit {
        GroupCommit {
            state: RankedMutex::new(Rank::Leaf, "group commit", State::default()),
            ended: [Condvar::new(), Condvar::new()],
            covers: AtomicU64::new(0),
        }
    }

    fn ended(&self, group: u64) -> &Condvar {
        &self.ended[(group % 2) as usize]
    }

    /// Waits until `is_over` says that the wait for a position is over, or until the caller is to lead the
    /// sync. What is to be synced must have been appended before.
    pub fn wait(&self, position: Lsn, is_over: impl Fn() -> bool) -> Option<Leader<'_>> {
        let mut state = self.state.lock();
        let mut joined = None;
        let mut is_late = false;
        loop {
            // Whoever ends a wait changes what is asked here before taking the state.
            if is_over() {
                if joined == Some(state.group) {
                    state.gathering -= 1;
                    self.pass_on(&state);
                }
                return None;
            }
            let group = match joined.filter(|group| !state.has_ended(*group)) {
                Some(group) => group,
                None => state.join(position.0 <= self.covers.load(Ordering::Acquire)),
            };
            joined = Some(group);
            if !state.under_way && (is_late || state.gathering >= state.expected) {
                state.begin();
                // A thread that comes before the leader has looked is in time.
                self.covers.store(u64::MAX, Ordering::Relaxed);
                return Some(Leader { group_commit: self, took: Duration::ZERO });
            }
            (state, is_late) = self.sleep(state, group);
        }
    }

    /// A member that was woken leaves: another is woken instead, to lead or to watch the time.
    fn pass_on(&self, state: &State) {
        if !state.under_way && !state.is_watched && state.gathering > 0 {
            self.ended(state.group).notify_one();
        }
    }

    /// Sleeps until woken. Watches the time, if no member does: `true` if the window is over.
    fn sleep<'a>(
        &'a self,
        mut state: RankedGuard<'a, State>,
        group: u64,
    ) -> (RankedGuard<'a, State>, bool) {
        let ended = self.ended(group);
        if state.under_way || state.is_watched {
            return (state.wait(ended), false);
        }
        state.is_watched = true;
        loop {
            let missing = state.expected - state.gathering;
            let window = state.window;
            let (woken, is_over) = state.wait_timeout(ended, window);
            state = woken;
            let is_gathering = group == state.group;
            // While members keep coming, it is worth waiting on.
            if is_gathering && is_over && state.expected - state.gathering <= missing / 2 {
                continue;
            }
            state.is_watched &= !is_gathering;
            return (state, is_gathering && is_over);
        }
    }

    /// Says what the sync under way covers. Nothing can be appended during the call.
    pub fn covers(&self, position: Lsn) {
        self.covers.store(position.0, Ordering::Release);
    }

    /// Wakes all members: their wait is over for another reason than a sync.
    pub fn wake_all(&self) {
        // A member that has found that its wait was not over sleeps once the state can be taken.
        drop(self.state.lock());
        self.ended.iter().for_each(Condvar::notify_all);
    }
}

/// The right to sync, until it is dropped.
#[derive(Debug)]
pub struct Leader<'a> {
    group_commit: &'a GroupCommit,
    took: Duration,
}

impl Leader<'_> {
    /// Notes how long the sync took: it measures the next batch window.
    pub fn took(&mut self, time: Duration) {
        self.took = time;
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = self.group_commit.state.lock();
        let Ended { group, has_followers, has_next } = state.end(self.took);
        drop(state);
        if has_followers {
            self.group_commit.ended(group + 1).notify_all();
        }
        if has_next {
            self.group_commit.ended(group).notify_one();
        }
    }
}
