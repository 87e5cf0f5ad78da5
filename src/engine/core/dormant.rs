//! Cursors that have no consumer: their state in memory goes with the last handle, and comes back with the next one.
//!
//! A consumer is open while its handles and deliveries exist. When the last consumer of a cursor closes, the cursor is
//! listed as idle. The last ones to be listed keep their state: programs open the same queue again and again. Of the
//! others, those [at rest](Consumption::is_at_rest) go: all that their [`Consumption`]s know is in the store, but for what
//! was counted since the engine was opened. A [`Dormant`] keeps that. A cursor with leases, or with messages that came back,
//! that wait or that have a priority, stays listed until it is at rest. Each consumer that closes looks at two of the list,
//! so the work of a close is bounded.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use super::{
    Core,
    consumption::{Consumption, CursorInfo, Origin, may_spill},
    rules::Rules,
};
use crate::{
    audit,
    config::Config,
    delivery::{Deliveries, Groups, stats::Counts},
    error::Result,
    format::wire::{Bytes, put_varint},
    ids::{CursorId, IdMap, LogId, Offset},
    store::{AckSet, Store},
};

/// How many of the others a consumer that closes looks at. It lists one.
const LOOKS: usize = 2;

/// What is kept of a cursor without consumers, as a few varints: some 20 bytes.
#[derive(Debug)]
pub struct Dormant(Box<[u8]>);

/// The cursors without consumers.
#[derive(Debug)]
pub struct WithoutConsumers {
    dormant: IdMap<CursorId, Dormant>,
    /// Cursors whose last consumers have closed, each once. It may name others.
    idle: VecDeque<CursorId>,
    /// The highest lease number of all deleted cursors. A new queue with an old name goes on from it, so that
    /// fencing tokens never go back.
    leases_deleted: u64,
    /// So many idle cursors keep their state.
    idle_kept: usize,
    /// The most delayed messages of a queue in memory.
    delayed_in_memory: u64,
    /// The resolution of the clock.
    tick: Duration,
}

impl WithoutConsumers {
    pub fn new(config: &Config) -> WithoutConsumers {
        WithoutConsumers {
            dormant: IdMap::default(),
            idle: VecDeque::new(),
            leases_deleted: 0,
            idle_kept: config.idle_kept,
            delayed_in_memory: config.delayed_in_memory,
            tick: Duration::ZERO,
        }
    }

    /// Gives leases of new cursors numbers above that of a deleted one.
    pub(super) fn number_above(&mut self, last_lease: u64) {
        self.leases_deleted = self.leases_deleted.max(last_lease);
    }

    pub(super) fn forget_deleted(&mut self, cursor: CursorId) {
        if let Some(dormant) = self.dormant.remove(&cursor) {
            self.number_above(dormant.last_lease());
        }
    }

    /// Counts something that has happened to a cursor without consumers.
    pub(super) fn count(&mut self, cursor: CursorId, add: impl FnOnce(&mut Counts)) {
        if let Some(dormant) = self.dormant.get_mut(&cursor) {
            dormant.count(add);
        }
    }

    /// Prepares a cursor for its first consumer.
    pub(super) fn prepare(&mut self, store: &Store, info: CursorInfo) -> Result<Box<Consumption>> {
        let cursor = info.cursor;
        self.tick = info.tick;
        let deleted = || store.deleted(cursor.entity());
        let (_, end) = store.bounds(info.log).ok_or_else(deleted)?;
        let acks = store.acks_of(cursor)?;
        // The settings may have changed since the caller read them.
        info.current.set(info.rules_in(store).ok_or_else(deleted)?);
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
        let mut consumption = Box::new(Consumption::new(Arc::new(info), end, deliveries));
        if let Some(dormant) = self.dormant.remove(&cursor) {
            dormant.wake(&mut consumption);
            shrink(&mut self.dormant);
        }
        let (info, rules) = (&consumption.info, &consumption.rules);
        // A queue that did not drop its oldest messages before may have spilled some.
        let has_spilled = !rules.is_ordered && acks.spilled() > 0;
        if may_spill(info, rules) || has_spilled {
            consumption.find_delay_index(store, self.delayed_in_memory);
        }
        Ok(consumption)
    }

    /// Prepares a cursor of which an operation knows only the id.
    #[cold]
    pub(super) fn revive(&mut self, store: &Store, cursor: CursorId) -> Result<Box<Consumption>> {
        let id = cursor.entity();
        let deleted = || store.deleted(id);
        let entity = store.entity(id).ok_or_else(deleted)?;
        let (_, log) = entity.cursors().find(|it| it.0 == cursor).ok_or_else(deleted)?;
        let topic = entity.parent().and_then(|topic| store.entity(topic));
        let origin = match topic {
            Some(topic) => Origin::of_subscription(&topic.name, &entity.name),
            None => Origin::of_queue(&entity.name),
        };
        let rules = Rules::of(entity.delivering().ok_or_else(deleted)?, self.tick);
        let info = CursorInfo::new(cursor, log, &entity.name, origin, rules, self.tick);
        let mut consumption = self.prepare(store, info)?;
        consumption.is_listed = true;
        self.idle.push_back(cursor);
        Ok(consumption)
    }
}

impl Dormant {
    fn of(consumption: &Consumption) -> Dormant {
        let Consumption { first, counts, deliveries, info, armed, .. } = consumption;
        // A timer that is too far away to be written will not be due.
        let nanos = |at: Duration| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let armed = armed.map_or(0, |at| nanos(at).saturating_add(1));
        let numbers = [armed, deliveries.last_number(), first.0].into_iter();
        Dormant::pack(numbers.chain(counts.to_numbers()).chain(info.latencies.pack()))
    }

    fn pack(numbers: impl Iterator<Item = u64>) -> Dormant {
        let mut packed = Vec::new();
        numbers.for_each(|number| put_varint(&mut packed, number));
        Dormant(packed.into())
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        let mut bytes = Bytes::new(&self.0);
        std::iter::from_fn(move || bytes.varint().ok())
    }

    /// The number of the last lease: fencing tokens never go back.
    pub fn last_lease(&self) -> u64 {
        self.numbers().nth(1).unwrap_or(0)
    }

    /// The time of the timer that is set.
    fn armed(&self) -> Option<Duration> {
        let armed = self.numbers().next().unwrap_or(0);
        (armed > 0).then(|| Duration::from_nanos(armed - 1))
    }

    fn disarm(&mut self) {
        *self = Dormant::pack([0].into_iter().chain(self.numbers().skip(1)));
    }

    fn count(&mut self, add: impl FnOnce(&mut Counts)) {
        let mut numbers = self.numbers();
        let head: Vec<u64> = numbers.by_ref().take(3).collect();
        let mut counts = Counts::from_numbers(|| numbers.next().unwrap_or(0));
        add(&mut counts);
        *self = Dormant::pack(head.into_iter().chain(counts.to_numbers()).chain(numbers));
    }

    /// Gives a new consumption what was counted before.
    pub(super) fn wake(&self, consumption: &mut Consumption) {
        consumption.armed = self.armed();
        let mut numbers = self.numbers().skip(1);
        let mut next = || numbers.next().unwrap_or(0);
        consumption.deliveries.number_above(next());
        consumption.first = Offset(next());
        consumption.counts = Counts::from_numbers(next);
        consumption.info.latencies.unpack(numbers);
    }
}

impl Consumption {
    /// Whether the store knows all messages of this cursor as they are: they are fresh or gone, and no thread waits here.
    fn is_at_rest(&self, acks: &AckSet) -> bool {
        let waits = self.capacity.iter().chain(&self.returning).chain(self.slots.watches());
        // A transaction that sends to the queue has the rules.
        Arc::strong_count(&self.info) == 1
            && self.deliveries.is_at_rest()
            && self.groups.as_ref().is_none_or(Groups::is_at_rest)
            && acks.spilled() == 0
            && self.weights.is_none()
            && self.thresholds.is_empty()
            && !self.oldest.is_checking()
            && self.delay_index.is_at_rest()
            && self.damaged.is_empty()
            && !waits.into_iter().any(|watch| watch.has_waiters())
    }
}

impl Core {
    /// Closes a consumer whose last handle and last delivery were dropped.
    pub fn close_consumer(&mut self, cursor: CursorId) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        consumption.consumers -= 1;
        if consumption.consumers > 0 {
            return;
        }
        if !mem::replace(&mut consumption.is_listed, true) {
            self.without_consumers.idle.push_back(cursor);
        }
        for _ in 0..LOOKS {
            let WithoutConsumers { idle, idle_kept, .. } = &mut self.without_consumers;
            if idle.len() <= *idle_kept {
                break;
            }
            audit::step();
            let Some(cursor) = idle.pop_front() else { break };
            if !self.let_rest(cursor) {
                self.without_consumers.idle.push_back(cursor);
            }
        }
    }

    /// Forgets the state of a listed cursor, if it has no consumers. Returns `false` if it is not at rest.
    fn let_rest(&mut self, cursor: CursorId) -> bool {
        let Core { consumers, without_consumers, store, effects, arrivals, .. } = self;
        let Some(consumption) = consumers.get_mut(&cursor) else { return true };
        if consumption.consumers > 0 {
            consumption.is_listed = false;
            return true;
        }
        if !store.acks(cursor).is_some_and(|acks| consumption.is_at_rest(acks)) {
            return false;
        }
        let log = consumption.info.log;
        without_consumers.dormant.insert(cursor, Dormant::of(consumption));
        effects.drop_after(consumers.remove(&cursor));
        arrivals.let_go(log);
        store.shrink(cursor);
        shrink(consumers);
        true
    }

    /// Begins to run a timer of a cursor. `false` if it has none that is set for this time: an earlier one was set since,
    /// and runs or has run. If this one set another one, the number of timers would never fall.
    pub fn disarm(&mut self, cursor: CursorId, at: Duration) -> bool {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            return consumption.armed.take_if(|armed| *armed == at).is_some();
        }
        // A cursor at rest has nothing to do.
        let dormant = self.without_consumers.dormant.get_mut(&cursor);
        dormant.filter(|it| it.armed() == Some(at)).map(Dormant::disarm);
        false
    }
}

/// Gives back a map's space once little of it is used. So each removal pays for a few entries that are moved.
fn shrink<K: Eq + std::hash::Hash, V, S: std::hash::BuildHasher>(
    map: &mut std::collections::HashMap<K, V, S>,
) {
    if map.capacity() > SMALL && map.len() < map.capacity() / SPARSE {
        audit::steps(map.len() as u64);
        map.shrink_to(2 * map.len());
    }
}

/// A map with no more space than this is left as it is.
const SMALL: usize = 1024;

/// A map is sparse if one over this number of its space is used.
const SPARSE: usize = 8;

impl super::waiters::Arrivals {
    /// Forgets the watch of a log on which no consumer can wait any more.
    fn let_go(&mut self, log: LogId) {
        let watched = self.watches.get(&log);
        let is_unused = |it: &&super::waiters::WatchedLog| {
            // With `fresh` messages, a sync is to come that wakes the consumers of a later handle.
            it.fresh == 0 && it.partition.is_none() && Arc::strong_count(&it.watch) == 1
        };
        if watched.filter(is_unused).is_some() {
            self.watches.remove(&log);
            shrink(&mut self.watches);
        }
    }
}
