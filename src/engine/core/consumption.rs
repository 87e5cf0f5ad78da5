//! The state of one ack cursor that is consumed from, for as long as the engine is open.

use std::{sync::Arc, time::Duration};

use super::{effects::Effects, slots::Slots, thresholds::WatchedThreshold};
use crate::{
    audit::Rank,
    delivery::{
        Deliveries, Groups, Retry, delay_index::DelayIndex, oldest::OldestWatch, stats::Counts,
        weights::Weights,
    },
    engine::runtime::{histogram::Histograms, lock::RankedMutex, wait::Watch},
    format::entity::{Delivering, Limit},
    ids::{CursorId, LogId, Offset},
};

/// What the core and the handles of one queue or subscription share. It does not change.
#[derive(Debug)]
pub struct CursorInfo {
    pub cursor: CursorId,
    pub log: LogId,
    /// The name of the queue, or of the subscription.
    pub name: Box<str>,
    pub origin: Origin,
    pub retry: Retry,
    pub lease: Duration,
    /// Milliseconds; 0 for no limit.
    pub time_to_live_ms: u64,
    pub is_ordered: bool,
    pub is_exclusive: bool,
    pub limit: Option<Limit>,
    /// How long messages wait that say nothing of a delay, in milliseconds.
    pub delay_ms: u64,
    pub latencies: Histograms,
    /// The turn to lease from a queue that is ordered by key.
    pub turn: RankedMutex<()>,
}

/// Where dead letters of a cursor say that they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub name: Box<str>,
    pub is_subscription: bool,
}

impl CursorInfo {
    pub fn new(
        cursor: CursorId,
        log: LogId,
        name: &str,
        origin: Origin,
        delivering: &Delivering,
        tick: Duration,
    ) -> CursorInfo {
        CursorInfo {
            cursor,
            log,
            name: name.into(),
            origin,
            retry: Retry::of(delivering),
            // The clock is as late as its last tick: no lease ends early for that.
            lease: Duration::from_millis(delivering.lease_ms) + tick,
            time_to_live_ms: delivering.life_ms,
            is_ordered: delivering.is_ordered,
            is_exclusive: delivering.is_exclusive,
            limit: delivering.limit,
            delay_ms: delivering.delay_ms,
            latencies: Histograms::default(),
            turn: RankedMutex::new(Rank::KeyOrder, "turn of a queue ordered by key", ()),
        }
    }

    /// Whether the oldest messages are dropped to make room.
    pub fn drops_oldest(&self) -> bool {
        self.limit.is_some_and(|limit| limit.drops_oldest)
    }

    /// Whether delayed messages may be spilled to disk. A queue that drops its oldest holds only so many
    /// messages, and in a queue that is ordered by key none is delayed.
    pub fn may_spill(&self) -> bool {
        !self.origin.is_subscription && !self.is_ordered && !self.drops_oldest()
    }
}

/// The state of one ack cursor.
#[derive(Debug)]
pub struct Consumption {
    pub info: Arc<CursorInfo>,
    pub deliveries: Deliveries,
    /// Order by key, where messages are delivered in order of their keys.
    pub groups: Option<Groups>,
    pub counts: Counts,
    /// The end of the log when the first consumer came.
    pub first: Offset,
    /// Where senders wait for capacity, once one did.
    pub capacity: Option<Arc<Watch>>,
    /// The last messages that were dropped to make room included such as could not be delivered yet.
    pub drops_any: bool,
    /// The weights of the messages, if the queue has a limit in bytes.
    pub weights: Option<Weights>,
    pub thresholds: Vec<WatchedThreshold>,
    pub oldest: OldestWatch,
    pub delay_index: DelayIndex,
    pub slots: Slots,
    /// When the timer of this cursor rings.
    pub armed: Option<Duration>,
}

impl Consumption {
    pub(super) fn new(info: Arc<CursorInfo>, first: Offset, deliveries: Deliveries) -> Consumption {
        Consumption {
            groups: info.is_ordered.then(Groups::default),
            info,
            deliveries,
            counts: Counts::default(),
            first,
            capacity: None,
            drops_any: false,
            weights: None,
            thresholds: Vec::new(),
            oldest: OldestWatch::default(),
            delay_index: DelayIndex::unused(),
            slots: Slots::default(),
            armed: None,
        }
    }

    /// There is capacity for so many more messages.
    #[inline]
    pub fn note_capacity(&self, effects: &mut Effects, messages: usize) {
        if let Some(capacity) = &self.capacity {
            // One message may free as many bytes as several waiting senders need.
            let most = if self.weights.is_some() { usize::MAX } else { messages };
            effects.wake(capacity, most);
        }
    }

    /// Leases ended: consumers look again that held as many as they may.
    #[inline]
    pub fn note_freed_slots(&mut self, effects: &mut Effects) {
        if self.deliveries.take_freed()
            && let Some(full) = &self.slots.full
        {
            effects.wake_all(full);
        }
    }

    /// Wakes all that wait for anything but messages.
    pub fn wake_others(&self, effects: &mut Effects) {
        for watch in self.capacity.iter().chain(self.slots.watches()) {
            effects.wake_all(watch);
        }
    }
}
