//! The state of one ack cursor that is consumed from, for as long as the engine is open.

use std::{sync::Arc, time::Duration};

use super::{Core, admission::Slots, effects::Effects, errors::deleted, watch::WatchedThreshold};
use crate::{
    audit::{self, Rank},
    delivery::{
        Deliveries, Groups, Retry, delay_index::DelayIndex, oldest::OldestWatch, stats::Counts,
        weights::Weights,
    },
    engine::runtime::{
        histogram::Histograms,
        lock::RankedMutex,
        wait::{Waiting, Watch},
    },
    error::Result,
    format::entity::{Delivering, Limit},
    ids::{CursorId, LogId, Offset},
    store::Store,
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
    fn new(info: Arc<CursorInfo>, first: Offset, deliveries: Deliveries) -> Consumption {
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

impl Core {
    /// Makes sure that a cursor can be consumed from. Returns what its first handle has brought.
    pub fn begin_consuming(&mut self, info: CursorInfo) -> Result<Arc<CursorInfo>> {
        let cursor = info.cursor;
        if let Some(there) = self.consumers.get(&cursor) {
            return Ok(Arc::clone(&there.info));
        }
        let (_, end) = self.bounds(info.log)?;
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        let mut deliveries = Deliveries::new(acks.floor());
        deliveries.number_above(self.leases_deleted);
        for (offset, priority) in acks.prioritized() {
            audit::step();
            deliveries.prioritize(offset, priority);
        }
        for (offset, due) in acks.deferred(acks.floor()) {
            audit::step();
            deliveries.defer(offset, due);
        }
        let info = Arc::new(info);
        let consumption = Consumption::new(Arc::clone(&info), end, deliveries);
        self.consumers.insert(cursor, consumption);
        if info.may_spill() {
            self.find_delay_index(cursor);
        }
        self.arm(cursor);
        Ok(info)
    }

    #[inline]
    pub fn consumption(&mut self, cursor: CursorId) -> Result<&mut Consumption> {
        self.consumers.get_mut(&cursor).ok_or_else(deleted)
    }

    /// The store and the state of a cursor at once.
    #[inline]
    pub fn store_and(&mut self, cursor: CursorId) -> Result<(&mut Store, &mut Consumption)> {
        let consumption = self.consumers.get_mut(&cursor).ok_or_else(deleted)?;
        Ok((&mut self.store, consumption))
    }

    /// There is capacity for so many more messages in a queue.
    pub fn note_capacity(&mut self, cursor: CursorId, messages: usize) {
        if let Some(consumption) = self.consumers.get(&cursor) {
            consumption.note_capacity(&mut self.effects, messages);
        }
    }

    /// Leases of a cursor ended.
    pub fn note_freed_slots(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.note_freed_slots(&mut self.effects);
        }
    }

    /// A message is not on lease any more. Where the oldest make room, it can be dropped now.
    pub fn note_returned(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get(&cursor)
            && consumption.info.drops_oldest()
        {
            consumption.note_capacity(&mut self.effects, 1);
        }
    }

    /// Begins to wait for capacity in a queue.
    pub fn wait_for_capacity(&mut self, cursor: CursorId) -> Option<Waiting> {
        let consumption = self.consumers.get_mut(&cursor)?;
        Some(consumption.capacity.get_or_insert_default().begin())
    }

    /// Messages are gone: senders that wait for capacity look again, and keys go on.
    pub fn note_deleted(&mut self, cursor: CursorId) {
        self.note_capacity(cursor, usize::MAX);
        self.advance_keys_of_deleted(cursor);
        // What was to be received before others come due may have been among them.
        self.arm(cursor);
    }
}
