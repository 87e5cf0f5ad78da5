//! Group commit: one thread syncs for all threads that wait.
//!
//! Threads that wait for a sync form a *group*. One member, the *leader*, runs the sync. At most one sync is
//! under way. A thread whose commit the running sync does not cover joins the next group, the *open* group.
//!
//! The end of a sync releases its whole group at once, and most of these threads soon return with their next
//! commits. If the first thread to return synced at once, it would sync for two or three threads only. So an open
//! group has a *batch window*: its sync begins when most of the expected threads have joined. The expected threads
//! are the released ones and the ones that wait already. The last thread to join leads. A lone writer syncs at
//! once. One member watches the time, in case the others do not return. After such a miss the next groups have
//! no window: one group, then three, and up to 63.
//!
//! Invariants: while any thread waits, a thread leads, watches the time, or was woken to do so. The state is
//! locked for moments, and no other lock is taken under it. `sync.rs` runs the syncs.

use std::{mem, sync::atomic::Ordering, time::Duration};

use crate::{
    audit::Rank,
    engine::runtime::lock::{RankedGuard, RankedMutex},
    ids::Lsn,
    prims::{AtomicU64, Condvar},
};

/// After a sync shorter than this, the next group has no batch window: the sleep would cost more.
const WORTH_A_WINDOW: Duration = Duration::from_micros(20);

/// The longest batch window, however long a sync takes.
const WINDOW_MAX: Duration = Duration::from_millis(5);

/// How often the number of groups without a window doubles at most.
const DOUBLINGS_MAX: u32 = 6;

#[derive(Debug)]
pub struct GroupCommit {
    state: RankedMutex<State>,
    /// Wakes the members of a group when its sync has ended. Only two groups have members at a time: the
    /// syncing group and the open group.
    ended: [Condvar; 2],
    /// The position that the sync under way covers. It is `u64::MAX` until the leader has read the tail.
    covers: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the open group. The syncing group is the one before it.
    group: u64,
    under_way: bool,
    /// How many members the open group and the syncing group have.
    waiting: usize,
    syncing: usize,
    /// How many members the open group waits for, and how long its batch window is.
    expected: usize,
    window: Duration,
    /// Whether a member of the open group watches the time.
    is_watched: bool,
    /// How many windows in a row ended before the expected threads had joined.
    misses: u32,
    /// How many groups more have no window.
    without_window: u32,
}

impl State {
    /// Joins the syncing group if its sync covers the commit, or else the open group. Returns its number.
    fn join(&mut self, is_covered: bool) -> u64 {
        if self.under_way && is_covered {
            self.syncing += 1;
            self.group - 1
        } else {
            self.waiting += 1;
            self.group
        }
    }

    fn has_ended(&self, group: u64) -> bool {
        group < self.group && !(self.under_way && group + 1 == self.group)
    }

    /// Begins the sync of the open group.
    fn begin(&mut self) {
        if self.waiting < self.expected {
            self.without_window = (1 << self.misses) - 1;
            self.misses = DOUBLINGS_MAX.min(self.misses + 1);
        } else if self.expected > 1 {
            self.misses = 0;
        }
        self.group += 1;
        self.under_way = true;
        self.syncing = mem::take(&mut self.waiting);
        self.is_watched = false;
    }

    /// Ends the sync.
    fn end(&mut self, took: Duration) -> Ended {
        self.under_way = false;
        let released = mem::take(&mut self.syncing);
        let all = released + self.waiting;
        let has_window = self.without_window == 0 && took >= WORTH_A_WINDOW;
        self.without_window = self.without_window.saturating_sub(1);
        // The group does not wait for the last sixteenth.
        self.expected = if has_window { all - all / 16 } else { 1 };
        self.window = WINDOW_MAX.min(took / 2);
        Ended { group: self.group, has_followers: released > 1, has_next: self.waiting > 0 }
    }
}

/// The wake-ups after a sync.
struct Ended {
    /// The open group.
    group: u64,
    /// Whether threads other than the leader waited for the sync.
    has_followers: bool,
    /// Whether the open group has members. One is woken to lead it, or to watch the time.
    has_next: bool,
}

impl GroupCommit {
    pub fn new() -> GroupCommit {
        GroupCommit {
            state: RankedMutex::new(&(Rank::Leaf, "group commit"), State::default()),
            ended: [Condvar::new(), Condvar::new()],
            covers: AtomicU64::new(0),
        }
    }

    fn ended(&self, group: u64) -> &Condvar {
        &self.ended[(group % 2) as usize]
    }

    /// Waits until `is_over` returns `true`, or until the caller becomes the leader. The caller has appended
    /// its commit, which ends at `position`.
    pub fn wait(&self, position: Lsn, is_over: impl Fn() -> bool) -> Option<Leader<'_>> {
        let mut state = self.state.lock();
        let mut joined = None;
        let mut is_late = false;
        loop {
            // A thread that ends waits changes the answer of `is_over` first, and then locks the state.
            if is_over() {
                if joined == Some(state.group) {
                    state.waiting -= 1;
                    self.pass_on(&state);
                }
                return None;
            }
            let group = match joined.filter(|group| !state.has_ended(*group)) {
                Some(group) => group,
                None => state.join(position.0 <= self.covers.load(Ordering::Acquire)),
            };
            joined = Some(group);
            if !state.under_way && (is_late || state.waiting >= state.expected) {
                state.begin();
                // The leader has not read the tail yet, so its sync covers every commit appended so far.
                self.covers.store(u64::MAX, Ordering::Relaxed);
                return Some(Leader { group_commit: self, took: Duration::ZERO });
            }
            (state, is_late) = self.sleep(state, group);
        }
    }

    /// Wakes another member, to lead or to watch the time, because this one was woken and leaves.
    fn pass_on(&self, state: &State) {
        if !state.under_way && !state.is_watched && state.waiting > 0 {
            self.ended(state.group).notify_one();
        }
    }

    /// Sleeps until woken. If no other member does, watches the time: `true` means that the window is over.
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
            let missing = state.expected - state.waiting;
            let window = state.window;
            let (woken, is_over) = state.wait_timeout(ended, window);
            state = woken;
            let is_open = group == state.group;
            // Half of the missing members came within one window: wait for one window more.
            if is_open && is_over && state.expected - state.waiting <= missing / 2 {
                continue;
            }
            state.is_watched &= !is_open;
            return (state, is_open && is_over);
        }
    }

    /// Sets the position that the sync under way covers. Nothing can be appended during the call.
    pub fn covers(&self, position: Lsn) {
        self.covers.store(position.0, Ordering::Release);
    }

    /// Wakes all members: their wait is over for a reason other than a sync.
    pub fn wake_all(&self) {
        // A member checks `is_over` and then sleeps under one hold of the state. Locking the state here waits
        // until it sleeps, so that it is woken.
        drop(self.state.lock());
        self.ended.iter().for_each(Condvar::notify_all);
    }
}

/// The right to run one sync. Dropping it ends the sync and releases the group.
#[derive(Debug)]
pub struct Leader<'a> {
    group_commit: &'a GroupCommit,
    took: Duration,
}

impl Leader<'_> {
    /// Notes how long the sync took. The next batch window is half of it.
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
