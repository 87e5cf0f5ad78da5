//! The part of an ack state above its floor. Most cursors at rest have none, but for those with a filter. So it has memory of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::lazy::Absent, chunk::Chunk};

/// No message is beyond it: the cursor gets every message.
pub const ALL: u64 = u64::MAX;

/// The state of messages above the floor.
#[derive(Clone, Debug)]
pub struct Upper {
    pub chunks: BTreeMap<u64, Chunk>,
    /// The chunks that changed since their last capture. It may name chunks that are gone.
    pub changed: BTreeSet<u64>,
    /// How many messages are spilled.
    pub spilled: u64,
    /// Whether a message has had a priority since this state was made.
    pub has_priorities: bool,
    /// Messages from here on are none of the cursor's: see [`seen`](super::seen). `ALL` if the cursor gets every message.
    pub seen: u64,
}

impl Absent for Upper {
    const ABSENT: Upper = Upper {
        chunks: BTreeMap::new(),
        changed: BTreeSet::new(),
        spilled: 0,
        has_priorities: false,
        seen: ALL,
    };

    fn absent() -> &'static Upper {
        static ABSENT: Upper = Upper::ABSENT;
        &ABSENT
    }
}
