//! The state of one ack cursor that is in use. Some time after its last use it is forgotten: see `dormant.rs`.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::{
    damaged::Damaged,
    effects::Effects,
    rules::{CurrentRules, Rules},
    slots::Slots,
    thresholds::WatchedThreshold,
    waiters::Receivers,
};
use crate::{
    audit::Rank,
    delivery::{
        Deliveries, Groups, delay_index::DelayIndex, oldest::OldestWatch, stats::Counts,
        weights::Weights,
    },
    engine::runtime::{
        histogram::{Histogram, Recorder},
        lock::{RankedGuard, RankedMutex},
        wait::Watch,
    },
    format::note::stored_origin,
    ids::{CursorId, LogId, Offset},
};

/// The facts of one cursor that the core and the handles share. All are fixed but the rules. It is there for each handle that
/// is idle, so it is small.
#[derive(Debug)]
pub struct CursorInfo {
    pub cursor: CursorId,
    pub log: LogId,
    /// The name of the queue, or of the subscription.
    pub name: Arc<str>,
    /// The topic's name, for a subscription.
    topic: Option<Arc<str>>,
    pub current: CurrentRules,
    /// How long messages waited.
    pub waited: Recorder,
    leasing: OnceLock<Box<RankedMutex<()>>>,
    /// How many consumers are open. Under the core it rises from zero, and falls.
    consumers: AtomicU32,
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
        Origin { name: stored_origin(topic, name).into(), is_subscription: true }
    }
}

impl CursorInfo {
    /// `topic` is the topic's name, for a subscription.
    pub fn new(
        (cursor, log): (CursorId, LogId),
        name: Arc<str>,
        topic: Option<Arc<str>>,
        rules: Arc<Rules>,
    ) -> CursorInfo {
        CursorInfo {
            cursor,
            log,
            name,
            topic,
            current: CurrentRules::new(rules),
            waited: Recorder::default(),
            leasing: OnceLock::new(),
            consumers: AtomicU32::new(0),
        }
    }

    pub fn is_subscription(&self) -> bool {
        self.topic.is_some()
    }

    pub fn origin(&self) -> Origin {
        match &self.topic {
            Some(topic) => Origin::of_subscription(topic, &self.name),
            None => Origin::of_queue(&self.name),
        }
    }

    /// Who receives a message of the log.
    pub fn receivers(&self) -> Receivers {
        if self.is_subscription() { Receivers::EachSubscription } else { Receivers::One }
    }

    /// Takes the right to lease from a queue that is ordered by key. One consumer has it at a time.
    pub fn lease_in_order(&self) -> RankedGuard<'_, ()> {
        let leasing = || Box::new(RankedMutex::new(&(Rank::KeyOrder, "leasing in key order"), ()));
        self.leasing.get_or_init(leasing).lock()
    }

    pub(super) fn has_consumers(&self) -> bool {
        self.consumers.load(Ordering::Relaxed) > 0
    }

    /// Counts a consumer that is opened. Returns whether it is the only one.
    pub(super) fn note_opened(&self) -> bool {
        self.consumers.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Counts one more consumer, beside one that is open. The caller need not hold the core.
    pub fn note_cloned(&self) {
        self.consumers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a consumer that is closed. Returns whether it was the last one.
    pub(super) fn note_closed(&self) -> bool {
        self.consumers.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// Whether delayed messages may be spilled to disk. A queue that drops its oldest messages has a limit already. A
/// queue that is ordered by key has no delayed messages.
pub fn may_spill(info: &CursorInfo, rules: &Rules) -> bool {
    !info.is_subscription() && !rules.is_ordered && !rules.drops_oldest()
}

/// The state of one ack cursor.
#[derive(Debug)]
pub struct Consumption {
    pub info: Arc<CursorInfo>,
    pub rules: Rules,
    /// Whether an earlier setting had attempts counted when they begin. Those that are on lease since then are counted.
    pub(super) counted_first: bool,
    pub deliveries: Deliveries,
    /// The groups of a queue that is ordered by key.
    pub groups: Option<Groups>,
    pub counts: Counts,
    /// How long messages were handled.
    pub handling: Histogram,
    /// The end of the log when the first consumer was opened since the engine was.
    pub first: Offset,
    /// Where senders wait for capacity. `None` until the first sender waits.
    pub capacity: Option<Arc<Watch>>,
    /// The weights of the messages, if the queue has a limit in bytes.
    pub weights: Option<Weights>,
    pub thresholds: Vec<WatchedThreshold>,
    /// Whether it is listed to have its thresholds looked at.
    pub(super) is_touched: bool,
    pub oldest: OldestWatch,
    pub delay_index: DelayIndex,
    pub damaged: Damaged,
    /// Where consumers wait for a block that another thread is bringing back. `None` until the first one waits.
    pub returning: Option<Arc<Watch>>,
    pub slots: Slots,
    /// The time of the timer that is set for this cursor.
    pub armed: Option<Duration>,
    /// How often the clock had been set back when its due messages were looked at.
    pub(super) setbacks: u32,
    /// Whether it is listed as idle.
    pub(super) is_listed: bool,
    /// Tells it from an earlier state of the same cursor.
    pub(super) number: u64,
    /// The number of the last lease when a round looked at it. `None` if none has.
    pub(super) looked_at: Option<u64>,
    /// Whether rounds leave it out until it is borrowed to be changed: something keeps it from going to rest.
    pub(super) is_kept: bool,
}

impl Consumption {
    /// `number` tells it from earlier states of the cursor, and `first` is the end of the log.
    pub(super) fn new(
        info: Arc<CursorInfo>,
        number: u64,
        first: Offset,
        deliveries: Deliveries,
    ) -> Consumption {
        let rules = info.current.all();
        Consumption {
            groups: rules.is_ordered.then(Groups::default),
            info,
            rules,
            counted_first: false,
            deliveries,
            counts: Counts::default(),
            handling: Histogram::default(),
            first,
            capacity: None,
            weights: None,
            thresholds: Vec::new(),
            is_touched: false,
            oldest: OldestWatch::default(),
            delay_index: DelayIndex::unused(),
            damaged: Damaged::default(),
            returning: None,
            slots: Slots::default(),
            armed: None,
            setbacks: 0,
            is_listed: false,
            number,
            looked_at: None,
            is_kept: false,
        }
    }

    /// Whether messages may be on lease whose attempts were counted when they began.
    pub(super) fn has_counted_first(&self) -> bool {
        self.counted_first || self.rules.retry.counts_first()
    }

    /// Whether messages wait until they are due, in memory or on disk.
    #[inline]
    pub fn has_delayed(&self) -> bool {
        self.deliveries.waiting() > 0 || self.delay_index.has_blocks()
    }

    /// Whether the next message of a key is being looked for.
    #[inline]
    pub fn advances_keys(&self) -> bool {
        self.groups.as_ref().is_some_and(Groups::is_advancing)
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
