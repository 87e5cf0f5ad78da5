//! The state of one ack cursor that has a consumer. It lives in memory while the engine is open.

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

/// The fixed facts of one cursor, shared by the core and the handles.
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
    /// The delay of messages that have none of their own, in milliseconds.
    pub delay_ms: u64,
    pub latencies: Histograms,
    /// Held by the one consumer that leases from a queue that is ordered by key.
    pub leasing: RankedMutex<()>,
}

/// The origin that the dead letters of a cursor name.
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
            // The clock lags by up to one tick. With one tick more, no lease ends early.
            lease: Duration::from_millis(delivering.lease_ms) + tick,
            time_to_live_ms: delivering.time_to_live_ms,
            is_ordered: delivering.is_ordered,
            is_exclusive: delivering.is_exclusive,
            limit: delivering.limit,
            delay_ms: delivering.delay_ms,
            latencies: Histograms::default(),
            leasing: RankedMutex::new(Rank::KeyOrder, "leasing in key order", ()),
        }
    }

    /// Whether a full queue drops its oldest messages.
    pub fn drops_oldest(&self) -> bool {
        self.limit.is_some_and(|limit| limit.drops_oldest)
    }

    /// Whether delayed messages may be spilled to disk. A queue that drops its oldest messages has a limit
    /// already. A queue that is ordered by key has no delayed messages.
    pub fn may_spill(&self) -> bool {
        !self.origin.is_subscription && !self.is_ordered && !self.drops_oldest()
    }
}

/// The state of one ack cursor.
#[derive(Debug)]
pub struct Consumption {
    pub info: Arc<CursorInfo>,
    pub deliveries: Deliveries,
    /// The groups of a queue that is ordered by key.
    pub groups: Option<Groups>,
    pub counts: Counts,
    /// The end of the log when the first consumer was opened.
    pub first: Offset,
    /// Where senders wait for capacity. `None` until the first sender waits.
    pub capacity: Option<Arc<Watch>>,
    /// Whether the last drop to make capacity included messages that were not deliverable yet.
    pub drops_any: bool,
    /// The weights of the messages, if the queue has a limit in bytes.
    pub weights: Option<Weights>,
    pub thresholds: Vec<WatchedThreshold>,
    pub oldest: OldestWatch,
    pub delay_index: DelayIndex,
    pub slots: Slots,
    /// The time of the timer that is set for this cursor.
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

    /// Wakes senders: there is capacity for `messages` more.
    #[inline]
    pub fn note_capacity(&self, effects: &mut Effects, messages: usize) {
        if let Some(capacity) = &self.capacity {
            // One message may free as many bytes as several waiting senders need.
            let most = if self.weights.is_some() { usize::MAX } else { messages };
            effects.wake(capacity, most);
        }
    }

    /// If leases ended, wakes the consumers that had reached their prefetch limits.
    #[inline]
    pub fn note_freed_slots(&mut self, effects: &mut Effects) {
        if self.deliveries.take_freed()
            && let Some(full) = &self.slots.full
        {
            effects.wake_all(full);
        }
    }

    /// Wakes all waiters of the cursor that wait for something other than a message.
    pub fn wake_others(&self, effects: &mut Effects) {
        for watch in self.capacity.iter().chain(self.slots.watches()) {
            effects.wake_all(watch);
        }
    }
}
