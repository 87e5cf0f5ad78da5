//! The state of one ack cursor that has a consumer. Some time after the last consumer has closed it is forgotten: see
//! `dormant.rs`.

use std::{sync::Arc, time::Duration};

use super::{
    damaged::Damaged,
    effects::Effects,
    rules::{CurrentRules, Rules},
    slots::Slots,
    thresholds::WatchedThreshold,
};
use crate::{
    audit::Rank,
    delivery::{
        Deliveries, Groups, delay_index::DelayIndex, oldest::OldestWatch, stats::Counts,
        weights::Weights,
    },
    engine::runtime::{histogram::Histograms, lock::RankedMutex, wait::Watch},
    ids::{CursorId, LogId, Offset},
};

/// The facts of one cursor that the core and the handles share. All are fixed but the rules.
#[derive(Debug)]
pub struct CursorInfo {
    pub cursor: CursorId,
    pub log: LogId,
    /// The name of the queue, or of the subscription.
    pub name: Box<str>,
    pub origin: Origin,
    /// The resolution of the clock.
    pub tick: Duration,
    pub current: CurrentRules,
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

impl Origin {
    pub fn of_queue(name: &str) -> Origin {
        Origin { name: name.into(), is_subscription: false }
    }

    pub fn of_subscription(topic: &str, name: &str) -> Origin {
        Origin { name: format!("{topic}/{name}").into(), is_subscription: true }
    }
}

impl CursorInfo {
    pub fn new(
        cursor: CursorId,
        log: LogId,
        name: &str,
        origin: Origin,
        rules: Rules,
        tick: Duration,
    ) -> CursorInfo {
        CursorInfo {
            cursor,
            log,
            name: name.into(),
            origin,
            tick,
            current: CurrentRules::new(rules),
            latencies: Histograms::default(),
            leasing: RankedMutex::new(Rank::KeyOrder, "leasing in key order", ()),
        }
    }
}

/// Whether delayed messages may be spilled to disk. A queue that drops its oldest messages has a limit already. A
/// queue that is ordered by key has no delayed messages.
pub fn may_spill(info: &CursorInfo, rules: &Rules) -> bool {
    !info.origin.is_subscription && !rules.is_ordered && !rules.drops_oldest()
}

/// The state of one ack cursor.
#[derive(Debug)]
pub struct Consumption {
    pub info: Arc<CursorInfo>,
    pub rules: Rules,
    pub deliveries: Deliveries,
    /// The groups of a queue that is ordered by key.
    pub groups: Option<Groups>,
    pub counts: Counts,
    /// The end of the log when the first consumer was opened since the engine was.
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
    pub damaged: Damaged,
    /// Where consumers wait for a block that another thread is bringing back. `None` until the first one waits.
    pub returning: Option<Arc<Watch>>,
    pub slots: Slots,
    /// The time of the timer that is set for this cursor.
    pub armed: Option<Duration>,
    /// How many consumers are open.
    pub(super) consumers: usize,
    /// Whether it is listed as idle.
    pub(super) is_listed: bool,
}

impl Consumption {
    pub(super) fn new(info: Arc<CursorInfo>, first: Offset, deliveries: Deliveries) -> Consumption {
        let rules = info.current.all();
        Consumption {
            groups: rules.is_ordered.then(Groups::default),
            info,
            rules,
            deliveries,
            counts: Counts::default(),
            first,
            capacity: None,
            drops_any: false,
            weights: None,
            thresholds: Vec::new(),
            oldest: OldestWatch::default(),
            delay_index: DelayIndex::unused(),
            damaged: Damaged::default(),
            returning: None,
            slots: Slots::default(),
            armed: None,
            consumers: 0,
            is_listed: false,
        }
    }

    /// Whether messages wait until they are due, in memory or on disk.
    #[inline]
    pub fn has_delayed(&self) -> bool {
        self.deliveries.waiting() > 0 || self.delay_index.has_blocks()
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
        let watches = self.capacity.iter().chain(&self.returning).chain(self.slots.watches());
        for watch in watches {
            effects.wake_all(watch);
        }
    }
}
