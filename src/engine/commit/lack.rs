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

use super::{
    committer::Committer,
    patience::{self, Past},
};
use crate::error::{Error, ErrorKind, Result};

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

impl Committer {
    /// Runs a call that commits what no caller has asked for. If space lacks already, the call does not wait for it.
    pub fn wait_for_space_once<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_known = self.lack.since.load(Ordering::Relaxed) != 0;
        let outcome = if is_known {
            let what = "there was no space on the disk a moment ago";
            let failure = Some(Error::new(ErrorKind::DiskFull, what));
            patience::ask(Past { failure, looked: 0 }, call).0
        } else {
            call()
        };
        let is_full = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::DiskFull);
        if is_full && self.checkpointer.has_thread() {
            if is_known {
                // It finds whether that is still so.
                self.checkpointer.call();
            } else {
                let now = self.elapsed().as_millis() as u64 + 1;
                self.lack.since.store(now, Ordering::Relaxed);
            }
        }
        outcome
    }

    /// A round of the checkpointer has made all that was wanted.
    pub(super) fn space_is_there(&self) {
        self.lack.since.store(0, Ordering::Relaxed);
    }

    /// How long a message waits that could not be moved.
    pub(super) fn wait_of_unmoved(&self) -> Duration {
        match self.lack.since.load(Ordering::Relaxed) {
            0 => AGAIN,
            since => {
                let since = Duration::from_millis(since - 1);
                self.elapsed().saturating_sub(since).clamp(AGAIN, AGAIN_MOST)
            }
        }
    }
}
