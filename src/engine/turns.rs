//! Whose turn it is to sync.
//!
//! Those who wait for a sync form a *group*, and one of them leads it: no thread is woken to sync
//! for others. One sync is under way at most. Whoever comes meanwhile and is not covered by it
//! belongs to the next group.
//!
//! A sync that is over lets go of its group all at once, and most of them soon come back with their
//! next commits. If the first to come back synced at once, it would sync for two or three. So a
//! group *gathers*: it begins when most of those are there who were let go of, or were waiting
//! already; the last to come leads it. Who is alone has nobody to wait for. In case the others
//! do not come back, one of the group watches the time; and when they did not, some groups begin
//! without gathering, twice as many each time that it happens again.
//!
//! Invariants: while anybody waits, somebody leads, watches the time, or was woken to do so. The
//! state is held for moments, and nothing is taken meanwhile.

use std::{
    mem,
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use crate::{
    ids::Lsn,
    prims::{AtomicU64, Condvar, Mutex, MutexGuard},
};

/// A shorter sync is not worth sleeping for.
const WORTH_GATHERING: Duration = Duration::from_micros(20);

/// How long others are waited for at most, however long a sync takes.
const PATIENCE_MOST: Duration = Duration::from_millis(5);

/// So many times at most the number of groups that do not gather doubles.
const DOUBLINGS_MOST: u32 = 6;

#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    /// Woken when a group's sync has ended. Only two groups have members at a time: the one whose
    /// sync is under way, and the one that gathers.
    ended: [Condvar; 2],
    /// What the sync under way covers: everything, until it has looked.
    covers: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The group that gathers. The one before it is the one whose sync is under way, if one is.
    group: u64,
    under_way: bool,
    gathering: usize,
    syncing: usize,
    /// How many are to be there before the group begins, and how long one watches the time.
    wanted: usize,
    patience: Duration,
    is_watched: bool,
    /// How often in a row others did not come back; how many groups are not to wait for them.
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

    /// The sync of the group that gathers begins.
    fn begin(&mut self) {
        if self.gathering < self.wanted {
            self.resting = (1 << self.misses) - 1;
            self.misses = DOUBLINGS_MOST.min(self.misses + 1);
        } else if self.wanted > 1 {
            self.misses = 0;
        }
        self.group += 1;
        self.under_way = true;
        self.syncing = mem::take(&mut self.gathering);
        self.is_watched = false;
    }

    /// The sync has ended. Returns how many it lets go of, and whether one of the next group is to
    /// be woken to lead it, or to watch the time.
    fn end(&mut self, took: Duration) -> (usize, bool) {
        self.under_way = false;
        let released = mem::take(&mut self.syncing);
        let all = released + self.gathering;
        let gathers = self.resting == 0 && took >= WORTH_GATHERING;
        self.resting = self.resting.saturating_sub(1);
        // A straggler or two are not waited for.
        self.wanted = if gathers { all - all / 16 } else { 1 };
        self.patience = PATIENCE_MOST.min(took / 2);
        (released, self.gathering > 0)
    }
}

impl Turns {
    pub fn new() -> Turns {
        Turns {
            state: Mutex::default(),
            ended: [Condvar::new(), Condvar::new()],
            covers: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_over` says that the wait for a position is over, or until it is the caller's
    /// turn to sync. What is to be synced must have been appended before.
    pub fn wait(&self, position: Lsn, is_over: impl Fn() -> bool) -> Option<Leader<'_>> {
        let mut state = self.state();
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
            if !state.under_way && (is_late || state.gathering >= state.wanted) {
                state.begin();
                // Whoever comes before the leader has looked is in time.
                self.covers.store(u64::MAX, Ordering::Relaxed);
                return Some(Leader { turns: self, took: Duration::ZERO });
            }
            (state, is_late) = self.sleep(state, group);
        }
    }

    /// One that was woken may leave: another is woken instead, to lead or to watch the time.
    fn pass_on(&self, state: &State) {
        if !state.under_way && !state.is_watched && state.gathering > 0 {
            self.ended[state.group as usize % 2].notify_one();
        }
    }

    /// Sleeps until woken; watches the time, if nobody does: `true` if it is time to begin.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        group: u64,
    ) -> (MutexGuard<'a, State>, bool) {
        let ended = &self.ended[group as usize % 2];
        if state.under_way || state.is_watched {
            return (ended.wait(state).unwrap_or_else(PoisonError::into_inner), false);
        }
        state.is_watched = true;
        loop {
            let missing = state.wanted - state.gathering;
            let patience = state.patience;
            let waited = ended.wait_timeout(state, patience);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            let is_gathering = group == state.group;
            // While they keep coming, it is worth waiting on.
            if is_gathering && timeout.timed_out() && state.wanted - state.gathering <= missing / 2
            {
                continue;
            }
            state.is_watched &= !is_gathering;
            return (state, is_gathering && timeout.timed_out());
        }
    }

    /// Says what the sync under way covers. To be called where nothing can be appended meanwhile.
    pub fn covers(&self, position: Lsn) {
        self.covers.store(position.0, Ordering::Release);
    }

    /// Wakes all, as the wait is over for another reason than a sync.
    pub fn wake_all(&self) {
        // Whoever has found that it was not over sleeps once the state can be taken.
        drop(self.state());
        self.ended.iter().for_each(Condvar::notify_all);
    }
}

/// The right to sync, until it is dropped.
#[derive(Debug)]
pub struct Leader<'a> {
    turns: &'a Turns,
    took: Duration,
}

impl Leader<'_> {
    /// Notes how long the sync took: so long others are worth waiting for.
    pub fn took(&mut self, time: Duration) {
        self.took = time;
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        let (released, has_next) = state.end(self.took);
        let next = state.group as usize;
        drop(state);
        // One was the leader.
        if released > 1 {
            self.turns.ended[(next + 1) % 2].notify_all();
        }
        if has_next {
            self.turns.ended[next % 2].notify_one();
        }
    }
}
