//! Cursors at rest: the state of a cursor in memory goes some time after its last use, and comes back with the next one.
//!
//! A consumer is open while its handles and deliveries exist. A cursor is *at rest* if all that its [`Consumption`] knows is
//! in the store, but for what was counted since the engine was opened: see [`is_at_rest`](Consumption::is_at_rest). Then the
//! `Consumption` may go, and a [`Dormant`] keeps those counts. A cursor with leases, or with messages that came back, that
//! wait or that have a priority, keeps its state.
//!
//! - **Without consumers.** When the last consumer of a cursor closes, the cursor is listed as idle. The last ones to be
//!   listed keep their state: programs open the same queue again and again. Each consumer that closes looks at two of the
//!   others, and those at rest go. So the work of a close is bounded.
//! - **With consumers.** Rounds look at all cursors that have their state (`rounds.rs`). One at rest goes if nothing was
//!   received from it since the last round. Its handles keep the [`CursorInfo`], and so does the `Dormant`.
//!
//! The state comes back when an operation asks for it ([`Core::consumption`]). A commit that makes a message of a dormant
//! cursor wait, or gives it a priority, brings the state back if there are consumers: one may wait for that message. So the
//! state comes back in a few steps.

use std::{collections::VecDeque, iter, mem, sync::Arc, time::Duration};

use super::{
    Core,
    consumption::{Consumption, CursorInfo, may_spill},
    preparing::Notes,
    rules::{Rules, SharedRules},
};
use crate::{
    audit,
    config::Config,
    delivery::{Delayed, Deliveries, admission::Admission, stats::Counts},
    engine::runtime::histogram::{self, Histogram},
    error::Result,
    format::wire::{Bytes, put_varint},
    ids::{CursorId, IdMap, LogId, Offset},
    store::{AckSet, Store},
};

/// How many of the others a consumer that closes looks at. It lists one.
const LOOKS: usize = 2;

/// What is kept of a cursor at rest.
#[derive(Debug)]
pub struct Dormant {
    /// What was counted, as a few varints: some 20 bytes.
    packed: Box<[u8]>,
    /// The facts that its handles have, too. `None` without consumers.
    info: Option<Arc<CursorInfo>>,
}

/// The cursors at rest, and those that may come to rest.
#[derive(Debug)]
pub struct Dormancy {
    dormant: IdMap<CursorId, Dormant>,
    /// Cursors whose last consumers have closed, each once. It may name others.
    idle: VecDeque<CursorId>,
    /// The cursors that have their state, each with the number of the state. It may name others.
    pub(super) awake: VecDeque<(CursorId, u64)>,
    /// How many states there were.
    states: u64,
    /// Whether a round is to come.
    pub(super) awaits_round: bool,
    rules: SharedRules,
    /// The highest lease number of all deleted cursors. A new queue with an old name goes on from it, so that
    /// fencing tokens never go back.
    leases_deleted: u64,
    /// So many cursors keep their state.
    pub(super) kept: usize,
    /// The most delayed messages of a queue in memory.
    delayed_in_memory: u64,
    /// The resolution of the clock.
    tick: Duration,
    /// What changes of the cursors that are prepared.
    pub(super) notes: Notes,
}

impl Dormancy {
    pub fn new(config: &Config, tick: Duration) -> Dormancy {
        Dormancy {
            dormant: IdMap::default(),
            idle: VecDeque::new(),
            awake: VecDeque::new(),
            states: 0,
            awaits_round: false,
            rules: SharedRules::default(),
            leases_deleted: 0,
            kept: config.idle_kept,
            delayed_in_memory: config.delayed_in_memory,
            tick,
            notes: Notes::default(),
        }
    }

    /// Gives leases of new cursors numbers above that of a deleted one.
    pub(super) fn number_above(&mut self, last_lease: u64) {
        self.leases_deleted = self.leases_deleted.max(last_lease);
    }

    /// Forgets a deleted cursor. Returns whether it was dormant and had consumers.
    pub(super) fn forget_deleted(&mut self, cursor: CursorId) -> bool {
        let Some(dormant) = self.dormant.remove(&cursor) else { return false };
        self.number_above(dormant.last_lease());
        dormant.info.is_some()
    }

    /// Counts something that has happened to a cursor at rest.
    pub(super) fn count(&mut self, cursor: CursorId, add: impl FnOnce(&mut Counts)) {
        if let Some(dormant) = self.dormant.get_mut(&cursor) {
            dormant.count(add);
        }
    }

    pub fn share(&mut self, rules: Rules) -> Arc<Rules> {
        self.rules.share(rules)
    }

    /// The resolution of the clock.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// The rules of a cursor, as the store has them now.
    pub(super) fn rules_in(&mut self, store: &Store, cursor: CursorId) -> Option<Arc<Rules>> {
        let delivering = store.entity(cursor.entity())?.delivering()?;
        Some(self.rules.share(Rules::of(delivering, self.tick)))
    }

    /// Adds a consumer's cursor without its state: if it has no messages that wait or have a priority, the first use makes
    /// it. Otherwise returns the state.
    pub(super) fn attach(
        &mut self,
        store: &Store,
        info: CursorInfo,
        delayed: Option<Delayed>,
    ) -> Result<Attached> {
        let cursor = info.cursor;
        let deleted = || store.deleted(cursor.entity());
        let end = store.end_for(cursor, info.log).ok_or_else(deleted)?;
        // The settings may have changed since the caller read them.
        info.current.set(self.rules_in(store, cursor).ok_or_else(deleted)?);
        let info = match self.dormant.get(&cursor).and_then(|dormant| dormant.info.clone()) {
            Some(there) => there,
            None => Arc::new(info),
        };
        if !store.acks_of(cursor)?.is_plain() {
            return Ok(Attached::Awake(self.prepare(store, info, delayed)?));
        }
        let dormant = self.dormant.entry(cursor);
        dormant.or_insert_with(|| Dormant::new(end)).info = Some(Arc::clone(&info));
        Ok(Attached::Dormant(info))
    }

    /// Makes the state of a dormant cursor that has consumers.
    #[cold]
    pub(super) fn wake(&mut self, store: &Store, cursor: CursorId) -> Result<Box<Consumption>> {
        let info = self.dormant.get(&cursor).and_then(|dormant| dormant.info.clone());
        self.prepare(store, info.ok_or_else(|| store.deleted(cursor.entity()))?, None)
    }

    /// Makes the state of a cursor.
    fn prepare(
        &mut self,
        store: &Store,
        info: Arc<CursorInfo>,
        delayed: Option<Delayed>,
    ) -> Result<Box<Consumption>> {
        audit::step();
        let cursor = info.cursor;
        // From now on some of what changes is not noted.
        self.notes.drop_those_of(cursor);
        let deleted = || store.deleted(cursor.entity());
        let end = store.end_for(cursor, info.log).ok_or_else(deleted)?;
        let acks = store.acks_of(cursor)?;
        let mut deliveries = Deliveries::of(acks, delayed);
        deliveries.number_above(self.leases_deleted);
        self.states += 1;
        let mut consumption = Box::new(Consumption::new(info, self.states, end, deliveries));
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
        self.awake.push_back((cursor, self.states));
        Ok(consumption)
    }

    /// Makes the state of a cursor of which an operation knows only the id.
    #[cold]
    pub(super) fn revive(&mut self, store: &Store, cursor: CursorId) -> Result<Box<Consumption>> {
        if self.dormant.get(&cursor).is_some_and(|dormant| dormant.info.is_some()) {
            return self.wake(store, cursor);
        }
        let id = cursor.entity();
        let deleted = || store.deleted(id);
        let entity = store.entity(id).ok_or_else(deleted)?;
        let (_, log) = entity.cursors().find(|it| it.0 == cursor).ok_or_else(deleted)?;
        let topic = entity.parent().and_then(|topic| store.entity(topic));
        let topic = topic.map(|topic| Arc::clone(&topic.name));
        let rules = self.rules_in(store, cursor).ok_or_else(deleted)?;
        let info = CursorInfo::new((cursor, log), Arc::clone(&entity.name), topic, rules);
        let mut consumption = self.prepare(store, Arc::new(info), None)?;
        consumption.is_listed = true;
        self.idle.push_back(cursor);
        Ok(consumption)
    }

    /// Closes a consumer of a dormant cursor.
    fn close_consumer(&mut self, cursor: CursorId) {
        let Some(dormant) = self.dormant.get_mut(&cursor) else { return };
        let Some(info) = dormant.info.take_if(|info| info.note_closed()) else { return };
        let waited = info.waited.take();
        if !waited.is_empty() {
            dormant.add_waited(&waited);
        }
        // A transaction that sends to the queue has the rules, which go on changing.
        dormant.info = Some(info).filter(|info| Arc::strong_count(info) > 1);
    }
}

/// What became of a cursor that was attached.
pub(super) enum Attached {
    Dormant(Arc<CursorInfo>),
    Awake(Box<Consumption>),
}

impl Dormant {
    /// A cursor that was not used yet. `first` is the end of its log.
    fn new(first: Offset) -> Dormant {
        Dormant { packed: pack([0, 0, first.0].into_iter()), info: None }
    }

    fn of(consumption: &Consumption) -> Dormant {
        let Consumption { first, counts, handling, deliveries, info, armed, slots, .. } =
            consumption;
        // A timer that is too far away to be written will not be due.
        let nanos = |at: Duration| u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let armed = armed.map_or(0, |at| nanos(at).saturating_add(1));
        let last_lease = if seeded!(DormantForgetsLeases) { 0 } else { deliveries.last_number() };
        let first = first.0 + counts.passed_by;
        let counted = [armed, last_lease, first].into_iter().chain(counts.to_numbers());
        let counted = counted.chain(slots.admission.to_numbers());
        let waited = info.waited.take();
        let packed = pack(counted.chain(histogram::pack(&waited, handling)));
        Dormant { packed, info: info.has_consumers().then(|| Arc::clone(info)) }
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        let mut bytes = Bytes::new(&self.packed);
        iter::from_fn(move || bytes.varint().ok())
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
        self.packed = pack([0].into_iter().chain(self.numbers().skip(1)));
    }

    fn count(&mut self, add: impl FnOnce(&mut Counts)) {
        let mut numbers = self.numbers();
        let mut next = || numbers.next().unwrap_or(0);
        let mut head = [next(), next(), next()];
        let mut counts = Counts::from_numbers(next);
        add(&mut counts);
        head[2] += counts.passed_by;
        self.packed = pack(head.into_iter().chain(counts.to_numbers()).chain(numbers));
    }

    /// Gives a new consumption what was counted before.
    pub(super) fn wake(&self, consumption: &mut Consumption) {
        consumption.armed = self.armed();
        let mut numbers = self.numbers().skip(1);
        let mut next = || numbers.next().unwrap_or(0);
        consumption.deliveries.number_above(next());
        consumption.first = Offset(next());
        consumption.counts = Counts::from_numbers(&mut next);
        consumption.slots.admission = Admission::from_numbers(next);
        let (waited, handling) = histogram::unpack(numbers);
        consumption.info.waited.add(&waited);
        consumption.handling = handling;
    }

    /// Adds waiting times that were counted while the cursor was dormant.
    fn add_waited(&mut self, more: &Histogram) {
        let (mut waited, handling) = histogram::unpack(self.numbers().skip(COUNTED));
        waited.add_all(more);
        let counted: Vec<u64> = self.numbers().chain(iter::repeat(0)).take(COUNTED).collect();
        self.packed = pack(counted.into_iter().chain(histogram::pack(&waited, &handling)));
    }
}

/// How many numbers stand before those of the latencies.
const COUNTED: usize = 15;

/// Numbers as varints, without the zeros behind the last other number.
fn pack(numbers: impl Iterator<Item = u64>) -> Box<[u8]> {
    let mut packed = Vec::new();
    numbers.for_each(|number| put_varint(&mut packed, number));
    let len = packed.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    packed.truncate(len);
    packed.into()
}

impl Consumption {
    /// Whether the store knows all messages of this cursor as they are: they are fresh or gone, and no thread waits here. A
    /// thread that waits for a message waits elsewhere, in the watch of the log.
    fn is_at_rest(&self, acks: &AckSet) -> bool {
        let waits = self.capacity.iter().chain(&self.returning).chain(self.slots.watches());
        // A transaction that sends to the queue has the rules.
        (self.info.has_consumers() || Arc::strong_count(&self.info) == 1)
            && !self.must_stay()
            && acks.spilled() == 0
            && !waits.into_iter().any(|watch| watch.has_waiters())
    }

    /// Whether it knows something that the store does not, and will do so until it is changed.
    pub(super) fn must_stay(&self) -> bool {
        !(self.deliveries.is_at_rest() || seeded!(LeasedCursorRests))
            || self.groups.as_ref().is_some_and(|groups| !groups.is_at_rest())
            || self.weights.is_some()
            || !self.thresholds.is_empty()
            || self.oldest.is_checking()
            || !self.delay_index.is_at_rest()
            || !self.damaged.is_empty()
    }
}

impl Core {
    /// Closes a consumer whose last handle and last delivery were dropped.
    pub fn close_consumer(&mut self, cursor: CursorId) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else {
            return self.dormancy.close_consumer(cursor);
        };
        if !consumption.info.note_closed() {
            return;
        }
        if !mem::replace(&mut consumption.is_listed, true) {
            self.dormancy.idle.push_back(cursor);
        }
        for _ in 0..LOOKS {
            let Dormancy { idle, kept, .. } = &mut self.dormancy;
            if idle.len() <= *kept {
                break;
            }
            audit::step();
            let Some(cursor) = idle.pop_front() else { break };
            if !self.let_idle_rest(cursor) {
                self.dormancy.idle.push_back(cursor);
            }
        }
    }

    /// Forgets the state of a listed cursor, if it has no consumers. Returns `false` if it is not at rest.
    fn let_idle_rest(&mut self, cursor: CursorId) -> bool {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return true };
        if consumption.info.has_consumers() {
            consumption.is_listed = false;
            return true;
        }
        self.let_rest(cursor)
    }

    /// Forgets the state of a cursor. Returns `false` if it is not at rest.
    pub(super) fn let_rest(&mut self, cursor: CursorId) -> bool {
        let Core { consumers, dormancy, store, effects, arrivals, failures, .. } = self;
        let Some(consumption) = consumers.get(&cursor) else { return true };
        if failures.concern(cursor) {
            // If that cannot be written, the message waits here.
            return false;
        }
        if !store.acks(cursor).is_some_and(|acks| consumption.is_at_rest(acks)) {
            return false;
        }
        let log = consumption.info.log;
        dormancy.dormant.insert(cursor, Dormant::of(consumption));
        effects.drop_after(consumers.remove(&cursor));
        arrivals.let_go(log);
        store.shrink(cursor);
        dormancy.tidy(consumers);
        true
    }

    /// Begins to run a timer of a cursor. `false` if it has none that is set for this time: an earlier one was set since,
    /// and runs or has run. If this one set another one, the number of timers would never fall.
    pub fn disarm(&mut self, cursor: CursorId, at: Duration) -> bool {
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            return consumption.armed.take_if(|armed| *armed == at).is_some();
        }
        // A cursor at rest has nothing to do.
        let dormant = self.dormancy.dormant.get_mut(&cursor);
        dormant.filter(|it| it.armed() == Some(at)).map(Dormant::disarm);
        false
    }
}

/// Gives back a map's space once little of it is used. So each removal pays for a few entries that are moved.
fn shrink<K: Eq + std::hash::Hash, V, S: std::hash::BuildHasher>(
    map: &mut std::collections::HashMap<K, V, S>,
) {
    if map.capacity() > SMALL && map.len() < LEFT_MAX.min(map.capacity() / SPARSE) {
        audit::steps(map.len() as u64);
        map.shrink_to(2 * map.len());
    }
}

/// A map with no more space than this is left as it is.
const SMALL: usize = 1024;

/// A map is sparse if one over this number of its space is used.
const SPARSE: usize = 8;

/// A table of more entries is not made smaller: all of them move in one hold of the core.
const LEFT_MAX: usize = 1024;

impl super::waiters::Arrivals {
    /// Forgets the watch of a log on which no consumer can wait any more.
    fn let_go(&mut self, log: LogId) {
        let watched = self.watches.get(&log);
        let is_unused = |it: &&super::waiters::WatchedLog| {
            // With fresh messages, a sync is to come that wakes the consumers of a later handle.
            !self.is_touched(log, it) && it.partition.is_none() && Arc::strong_count(&it.watch) == 1
        };
        if watched.filter(is_unused).is_some() {
            self.watches.remove(&log);
            shrink(&mut self.watches);
        }
    }
}
