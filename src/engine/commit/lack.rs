//! Whether space lacks on the disk, for commits that no caller has asked for: dead letters, and attempts that are counted.
//!
//! A commit that lacks space waits until the checkpointer has tried to make some. On a full disk that is a round of some
//! 200 ms, in vain. A caller who sends wants to know. But a receive that passes over messages must not pay a round for each
//! of them. So the first failure is remembered until a round of the checkpointer succeeds, and until then nobody waits for
//! space for such a commit. The checkpointer tries again by itself.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long a message waits after it could not be moved: this long at first.
const AGAIN: Duration = Duration::from_secs(1);

/// Where space lacks for long, it waits for as long as that, up to this. So a pass over many such messages ends.
const AGAIN_MOST: Duration = Duration::from_secs(60);

/// The lack of space. Engines without a checkpointer's thread never note it: nobody waits there.
#[derive(Debug, Default)]
pub struct Lack {
    /// The time of the engine in ms at which it was noted, and one more. 0 if it is not.
    since: AtomicU64,
}

impl Lack {
    pub fn is_known(&self) -> bool {
        self.since.load(Ordering::Relaxed) != 0
    }

    pub fn note(&self, now: Duration) {
        self.since.store(now.as_millis() as u64 + 1, Ordering::Relaxed);
    }

    /// A round of the checkpointer has made all that was wanted.
    pub fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long a message waits that could not be moved.
    pub fn wait_of_unmoved(&self, now: Duration) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => AGAIN,
            since => {
                let since = Duration::from_millis(since - 1);
                now.saturating_sub(since).clamp(AGAIN, AGAIN_MOST)
            }
        }
    }
}
