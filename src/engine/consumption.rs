//! The volatile side of an ack cursor: its deliveries, and what is known of them in this life.

use std::{sync::Arc, time::Duration};

use super::{
    ages::Ages,
    core::{Core, deleted, lease_lost},
    latency::Histograms,
    seat::Seats,
    timetable::{Timetable, may_have_one},
    wait::{Waiting, Watch},
    watching::{Alarm, Counts},
    weights::Weights,
};
use crate::{
    delivery::{Deliveries, Groups, LeaseKey, Retry},
    error::Result,
    format::entity::Delivering,
    ids::{CursorId, LogId, Offset, Timestamp},
    prims::Mutex,
    store::Store,
};

/// The volatile side of an ack cursor.
#[derive(Debug)]
pub struct Consumption {
    pub log: LogId,
    pub deliveries: Deliveries,
    pub retry: Retry,
    /// If messages are delivered in order for each key: whose turn it is. And those who receive take
    /// turns at finding out.
    pub groups: Option<Groups>,
    pub turn: Arc<Mutex<()>>,
    /// What dead letters are to say of where they come from.
    pub origin: Arc<str>,
    pub counts: Counts,
    /// What was next when the first consumer came.
    pub first: Offset,
    pub latencies: Arc<Histograms>,
    /// Where those wait who want to send to a queue that is full, once there was one.
    pub room: Option<Arc<Watch>>,
    /// Whether messages are dropped that are not on lease, so that there is room.
    pub drops_oldest: bool,
    /// Whether the messages that are to make room are not only such as could be delivered.
    pub drops_any: bool,
    /// How much its messages weigh, if it may hold so many bytes only.
    pub weights: Option<Weights>,
    pub alarms: Vec<Alarm>,
    pub ages: Ages,
    pub timetable: Timetable,
    /// Which consumers there are, as far as that matters.
    pub seats: Seats,
    /// When a timer rings for the next lease that runs out, or the next message that is due.
    pub armed: Option<Duration>,
}

impl Consumption {
    /// There is room for so many more messages.
    #[inline]
    fn note_room(&self, wakes: &mut Vec<(Arc<Watch>, usize)>, messages: usize) {
        if let Some(room) = &self.room
            && room.has_waiters()
        {
            // One may have had more bytes than one that waits.
            let most = if self.weights.is_some() { usize::MAX } else { messages };
            wakes.push((Arc::clone(room), most));
        }
    }

    /// Leases have ended: those who held as much as they may are to look.
    #[inline]
    fn note_seats(&mut self, wakes: &mut Vec<(Arc<Watch>, usize)>) {
        if self.deliveries.take_freed()
            && let Some(sated) = &self.seats.sated
            && sated.has_waiters()
        {
            wakes.push((Arc::clone(sated), usize::MAX));
        }
    }
}

impl Core {
    /// Makes sure that a cursor can be consumed from.
    pub fn begin_consuming(
        &mut self,
        cursor: CursorId,
        log: LogId,
        delivering: &Delivering,
        origin: &Arc<str>,
    ) -> Result<(Arc<Mutex<()>>, Arc<Histograms>)> {
        let (_, first) = self.store.bounds(log).ok_or_else(deleted)?;
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        let is_first = !self.consumers.contains_key(&cursor);
        let consumption = self.consumers.entry(cursor).or_insert_with(|| {
            let mut deliveries = Deliveries::new(acks.floor());
            deliveries.number_above(self.leases_deleted);
            for (offset, priority) in acks.prioritized() {
                deliveries.prioritize(offset, priority);
            }
            for (offset, due) in acks.deferred(acks.floor()) {
                deliveries.defer(offset, due);
            }
            let (groups, turn) = (delivering.is_ordered.then(Groups::default), Arc::default());
            let origin = Arc::clone(origin);
            let (counts, alarms) = (Counts::default(), Vec::new());
            Consumption {
                log,
                deliveries,
                retry: Retry::of(delivering),
                groups,
                turn,
                origin,
                counts,
                first,
                latencies: Arc::default(),
                room: None,
                drops_any: false,
                drops_oldest: delivering.limit.is_some_and(|limit| limit.drops_oldest),
                weights: None,
                alarms,
                ages: Ages::default(),
                timetable: Timetable::none(),
                seats: Seats::default(),
                armed: None,
            }
        });
        let shared = (Arc::clone(&consumption.turn), Arc::clone(&consumption.latencies));
        if is_first && may_have_one(delivering, !self.store.is_subscription(cursor)) {
            self.find_timetable(cursor);
        }
        self.arm(cursor);
        Ok(shared)
    }

    #[inline]
    pub fn consumption(&mut self, cursor: CursorId) -> Result<&mut Consumption> {
        self.consumers.get_mut(&cursor).ok_or_else(deleted)
    }

    /// The store and a cursor's deliveries at once.
    #[inline]
    pub fn store_and(&mut self, cursor: CursorId) -> Result<(&mut Store, &mut Consumption)> {
        let consumption = self.consumers.get_mut(&cursor).ok_or_else(deleted)?;
        Ok((&mut self.store, consumption))
    }

    /// The offset of a delivery whose lease holds.
    #[inline]
    pub fn held(&mut self, cursor: CursorId, key: LeaseKey, now: Duration) -> Result<Offset> {
        self.consumption(cursor)?.deliveries.held(key, now).ok_or_else(lease_lost)
    }

    /// Ends a lease after its commit: the message is done with, and is counted.
    #[inline]
    fn settle_counted(
        &mut self,
        cursor: CursorId,
        key: LeaseKey,
        count: impl FnOnce(&mut Consumption),
    ) {
        let Core { consumers, wakes, .. } = self;
        if let Some(consumption) = consumers.get_mut(&cursor)
            && let Some(offset) = consumption.deliveries.settle(key)
        {
            count(consumption);
            consumption.note_room(wakes, 1);
            consumption.note_seats(wakes);
            if consumption.groups.is_some() {
                self.end_turn(cursor, offset);
            }
        }
    }

    /// Ends the lease of a message that was deleted.
    pub fn settle_lease(&mut self, cursor: CursorId, key: LeaseKey) {
        self.settle_counted(cursor, key, |_| {});
    }

    /// Ends the lease of a message that was acked, so long after it was received.
    #[inline]
    pub fn settle_acked(&mut self, cursor: CursorId, key: LeaseKey, took: Duration) {
        self.settle_counted(cursor, key, |consumption| {
            consumption.counts.acked += 1;
            consumption.latencies.handling.record(took);
        });
    }

    /// Ends the lease of a message that was moved to the dead letters, as its delivery has failed or
    /// for another reason.
    pub fn settle_dead(&mut self, cursor: CursorId, key: LeaseKey, has_failed: bool) {
        self.settle_counted(cursor, key, |consumption| {
            consumption.counts.dead += 1;
            consumption.counts.failed += u64::from(has_failed);
        });
    }

    /// There is room for so many more messages in a queue.
    pub fn note_room(&mut self, cursor: CursorId, messages: usize) {
        if let Some(consumption) = self.consumers.get(&cursor) {
            consumption.note_room(&mut self.wakes, messages);
        }
    }

    /// Leases of a cursor have ended.
    pub fn note_seats(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.note_seats(&mut self.wakes);
        }
    }

    /// A message is not on lease any more. Where the oldest make room, it can be dropped now.
    pub fn note_returned(&mut self, cursor: CursorId) {
        if let Some(consumption) = self.consumers.get(&cursor)
            && consumption.drops_oldest
        {
            consumption.note_room(&mut self.wakes, 1);
        }
    }

    /// Begins to wait for room in a queue.
    pub fn wait_for_room(&mut self, cursor: CursorId) -> Option<Waiting> {
        let consumption = self.consumers.get_mut(&cursor)?;
        Some(consumption.room.get_or_insert_default().begin())
    }

    /// Ends a lease: the message is to be delivered again, not before it is due.
    pub fn release(&mut self, cursor: CursorId, key: LeaseKey, due: Timestamp) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(acks) = self.store.acks(cursor)
            && consumption.deliveries.release(key, due, acks).is_some()
        {
            let log = consumption.log;
            self.wake_or_arm(cursor, log, due);
            self.note_seats(cursor);
            self.note_returned(cursor);
        }
    }

    /// The same, as the delivery has failed.
    pub fn release_failed(&mut self, cursor: CursorId, key: LeaseKey, due: Timestamp) {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            consumption.counts.failed += 1;
        }
        self.release(cursor, key, due);
    }

    /// Ends a lease of a message that nobody has seen: that is no failure.
    pub fn put_back(&mut self, cursor: CursorId, key: LeaseKey) {
        self.release(cursor, key, Timestamp(0));
    }

    /// Ends a lease as if it had never been granted.
    pub fn take_back(&mut self, cursor: CursorId, key: LeaseKey) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(acks) = self.store.acks(cursor)
        {
            consumption.deliveries.take_back(key, acks);
            let log = consumption.log;
            self.wake_one(log);
            self.note_seats(cursor);
            self.note_returned(cursor);
        }
    }

    pub(super) fn wake_or_arm(&mut self, cursor: CursorId, log: LogId, due: Timestamp) {
        if due == Timestamp(0) {
            self.wake_one(log);
        } else {
            self.arm(cursor);
        }
    }
}
