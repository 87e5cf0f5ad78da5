//! What the engine's one mutex holds.

use std::{mem, sync::Arc, time::Duration};

use super::{
    consumption::Consumption,
    fate::Failing,
    time::SteadyClock,
    wait::Watch,
    watching::{Alarm, Ring},
};
use crate::{
    config::{Config, Durability},
    delivery::Acked,
    error::{Error, ErrorKind, Result},
    ids::{CursorId, IdMap, LogId, Lsn, Now, Offset, Timestamp},
    store::{AckSet, Op, Outcome, Store},
};

#[derive(Debug)]
pub struct Core {
    pub store: Store,
    pub closed: bool,
    pub(super) consumers: IdMap<CursorId, Consumption>,
    watches: IdMap<LogId, Watched>,
    /// Logs whose new messages become visible with the next sync.
    touched: Vec<LogId>,
    /// Those to be woken once the core is let go of, and timers to be set.
    pub(super) wakes: Vec<(Arc<Watch>, usize)>,
    timers: Vec<(Duration, CursorId)>,
    /// Calls that are due, too.
    pub(super) rings: Vec<Ring>,
    /// Watches that have ended. What their functions hold may want the core when it is dropped.
    ended: Vec<Alarm>,
    /// Consumers of which a level is watched, and how often one was.
    pub(super) alarmed: Vec<CursorId>,
    pub(super) alarms: u64,
    /// The highest number of a lease of what was deleted: something else may have its name.
    pub(super) leases_deleted: u64,
    /// Whether any queue is weighed.
    pub(super) weighs: bool,
    /// Deliveries that have ended without being settled.
    pub(super) failing: Failing,
    clock: SteadyClock,
    /// Whether messages wait for a sync before they can be seen.
    hides_unsynced: bool,
    keeping_from: u64,
    /// So many of a queue's delayed messages are in memory at most.
    pub(super) delayed_most: u64,
    /// Queues that have more.
    pub(super) crowded: Vec<CursorId>,
}

#[derive(Debug)]
struct Watched {
    watch: Arc<Watch>,
    /// Whether one message is for one waiter only, as in a queue.
    one_each: bool,
    /// Messages since the last sync.
    fresh: usize,
}

impl Acked for AckSet {
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset> {
        AckSet::next_unacked(self, from.to(end))
    }

    #[inline]
    fn priority(&self, offset: Offset) -> u8 {
        AckSet::priority(self, offset)
    }
}

/// Short lives may have left so many small journal files before they are checkpointed away.
const OLD_FILES_MOST: usize = 4;

impl Core {
    pub fn new(store: Store, config: &Config, clock: SteadyClock, chance: u64) -> Core {
        Core {
            store,
            closed: false,
            consumers: IdMap::default(),
            watches: IdMap::default(),
            touched: Vec::new(),
            wakes: Vec::new(),
            timers: Vec::new(),
            rings: Vec::new(),
            ended: Vec::new(),
            alarmed: Vec::new(),
            alarms: 0,
            leases_deleted: 0,
            weighs: false,
            failing: Failing::new(chance),
            clock,
            hides_unsynced: config.durability == Durability::Sync,
            keeping_from: config.journal_bytes,
            delayed_most: config.delayed_in_memory,
            crowded: Vec::new(),
        }
    }

    /// Commits before this position can be seen by consumers.
    #[inline]
    pub fn visible(&self) -> Lsn {
        let hides = self.hides_unsynced && !seeded!(VisibleBeforeDurable);
        if hides { self.store.journal.durable() } else { self.store.journal.tail() }
    }

    /// Where those wait who want messages of a log. All logs of a stream share one watch.
    pub fn watch(&mut self, logs: impl Iterator<Item = LogId>, one_each: bool) -> Arc<Watch> {
        let mut shared: Option<Arc<Watch>> = None;
        for log in logs {
            let watched = self.watches.entry(log).or_insert_with(|| Watched {
                watch: shared.clone().unwrap_or_default(),
                one_each,
                fresh: 0,
            });
            shared.get_or_insert_with(|| Arc::clone(&watched.watch));
        }
        shared.unwrap_or_default()
    }

    /// Notes that messages were committed: those who wait for them are woken when they can be
    /// seen.
    #[inline]
    fn note_arrivals(&mut self) {
        let Core { store, watches, touched, wakes, hides_unsynced, .. } = self;
        for (log, offsets) in store.placed() {
            let Some(watched) = watches.get_mut(&log) else { continue };
            let messages = offsets.len() as usize;
            if *hides_unsynced {
                if watched.fresh == 0 {
                    touched.push(log);
                }
                watched.fresh += messages;
            } else {
                wake(wakes, watched, messages);
            }
        }
    }

    /// Notes that a message is to be delivered again, or that something ended for which others
    /// wait.
    pub fn wake_one(&mut self, log: LogId) {
        self.wake_some(log, 1);
    }

    pub fn wake_some(&mut self, log: LogId, messages: usize) {
        if messages > 0
            && let Some(watched) = self.watches.get(&log)
        {
            wake(&mut self.wakes, watched, messages);
        }
    }

    pub fn wake_all(&mut self) {
        for watched in self.watches.values() {
            wake(&mut self.wakes, watched, usize::MAX);
        }
        let rooms = self.consumers.values().filter_map(|consumption| consumption.room.as_ref());
        self.wakes.extend(rooms.map(|room| (Arc::clone(room), usize::MAX)));
        let seats = self.consumers.values().flat_map(|consumption| consumption.seats.watches());
        self.wakes.extend(seats.map(|seats| (Arc::clone(seats), usize::MAX)));
    }

    /// Those to be woken, by the caller, once it has let go of the core.
    #[inline]
    #[must_use]
    pub fn take_wakes(&mut self) -> Wakes {
        if !self.alarmed.is_empty() {
            self.check_alarms();
        }
        let has_calls = !self.rings.is_empty() || !self.ended.is_empty();
        if self.wakes.is_empty() && self.timers.is_empty() && !has_calls {
            return Wakes(None);
        }
        Wakes(Some(Box::new(Waking {
            watches: mem::take(&mut self.wakes),
            timers: mem::take(&mut self.timers),
            rings: mem::take(&mut self.rings),
            ended: mem::take(&mut self.ended),
        })))
    }

    /// Sets a timer for what a cursor waits for next, unless one is set that rings in time.
    pub fn arm(&mut self, cursor: CursorId) {
        let Core { consumers, timers, clock, crowded, delayed_most, .. } = self;
        let Some(consumption) = consumers.get_mut(&cursor) else { return };
        if consumption.is_crowded() && !crowded.contains(&cursor) {
            crowded.push(cursor);
        }
        let due = consumption.deliveries.next_due().map(|due| clock.when(due));
        let block = consumption.next_block_due(*delayed_most);
        let block = block.map(|due| clock.when(due).max(consumption.blocks_rest()));
        // Where some are left to be received, whoever does that releases more.
        let is_stocked = consumption.has_blocks() && consumption.deliveries.due() > 0;
        let due = due.into_iter().chain(block).filter(|_| !is_stocked);
        let next = consumption.deliveries.next_deadline().into_iter().chain(due);
        let next = next.chain(consumption.ages.next_look()).min();
        if let Some(next) = next
            && consumption.armed.is_none_or(|armed| next < armed)
        {
            consumption.armed = Some(next);
            timers.push((next, cursor));
        }
    }

    /// How long the engine has been open.
    pub fn uptime(&self, elapsed: Duration) -> Duration {
        self.clock.since(elapsed)
    }

    /// The time of day that goes on evenly.
    pub fn steady(&self, elapsed: Duration) -> Timestamp {
        self.clock.at(elapsed)
    }

    /// What the next sync makes visible, counted from the last one.
    pub fn begin_visibility(&mut self) -> Vec<(LogId, usize)> {
        let touched = mem::take(&mut self.touched);
        let fresh = |log: LogId| {
            let watched = self.watches.get_mut(&log)?;
            Some((log, mem::take(&mut watched.fresh)))
        };
        touched.into_iter().filter_map(fresh).collect()
    }

    /// The sync is done: wakes those who wait for what it made visible.
    pub fn finish_visibility(&mut self, fresh: Vec<(LogId, usize)>) {
        for (log, messages) in fresh {
            if let Some(watched) = self.watches.get(&log) {
                wake(&mut self.wakes, watched, messages);
            }
        }
    }

    /// Something was deleted: whoever waits for it is told.
    pub fn forget_deleted(&mut self) {
        let Core { consumers, watches, wakes, store, ended, leases_deleted, .. } = self;
        consumers.retain(|cursor, consumption| {
            let stays = store.floor(*cursor).is_some();
            if !stays && let Some(watched) = watches.get(&consumption.log) {
                // A subscription may be gone and its topic not: all are to look.
                wakes.push((Arc::clone(&watched.watch), usize::MAX));
            }
            if !stays {
                let others = consumption.room.iter().chain(consumption.seats.watches());
                wakes.extend(others.map(|watch| (Arc::clone(watch), usize::MAX)));
                ended.append(&mut consumption.alarms);
                *leases_deleted = consumption.deliveries.last_number().max(*leases_deleted);
            }
            stays
        });
        watches.retain(|log, watched| {
            let stays = store.bounds(*log).is_some();
            if !stays {
                wakes.push((Arc::clone(&watched.watch), usize::MAX));
            }
            stays
        });
    }

    /// Commits, and notes what has arrived by it.
    pub fn commit(&mut self, ops: &[Op<'_>], now: Now) -> Result<Outcome> {
        if seeded!(TransactionIsTwoFrames) && ops.len() > 1 {
            let outcome = self.commit(&ops[..1], now)?;
            return match outcome {
                Outcome::Done(_) => self.commit(&ops[1..], now),
                other => Ok(other),
            };
        }
        let outcome = self.store.commit(ops, now)?;
        if matches!(outcome, Outcome::Done(_)) {
            self.note_arrivals();
            if self.weighs {
                self.note_weights(ops);
            }
            if !self.store.prioritized().is_empty() {
                self.note_prioritized();
            }
            if !self.store.deferred().is_empty() {
                self.note_deferred();
            }
        }
        Ok(outcome)
    }

    /// Notes that messages have come that have a priority.
    fn note_prioritized(&mut self) {
        for it in self.store.prioritized() {
            if let Some(consumption) = self.consumers.get_mut(&it.cursor) {
                let offsets = it.offsets.into_iter();
                offsets.for_each(|offset| consumption.deliveries.prioritize(offset, it.priority));
            }
        }
    }

    /// Notes that messages have come that are to be delivered later. Those that have come before, and
    /// failed, were noted by whoever has ended their leases.
    fn note_deferred(&mut self) {
        let deferred = self.store.deferred().iter().filter(|it| it.is_new);
        let mut cursors: Vec<CursorId> = Vec::new();
        for it in deferred {
            if let Some(consumption) = self.consumers.get_mut(&it.cursor) {
                consumption.deliveries.defer(it.offset, it.due);
                if cursors.last() != Some(&it.cursor) {
                    cursors.push(it.cursor);
                }
            }
        }
        for cursor in cursors {
            self.arm(cursor);
        }
    }

    /// Whether there is work for the keeper: a file to be prepared, or a checkpoint to be made.
    #[inline]
    pub fn wants_keeping(&self) -> bool {
        self.store.journal.wants_file() || self.wants_checkpoint()
    }

    #[inline]
    pub fn wants_checkpoint(&self) -> bool {
        let journal = &self.store.journal;
        journal.bytes_behind() > self.keeping_from || self.store.is_reclaimable()
    }

    /// Whether many short lives have left a file each, so that they should be cleared away.
    pub fn wants_clearing(&self) -> bool {
        self.store.journal.small_old_files() > OLD_FILES_MOST
    }
}

#[inline]
fn wake(wakes: &mut Vec<(Arc<Watch>, usize)>, watched: &Watched, messages: usize) {
    if watched.watch.has_waiters() {
        let most = if watched.one_each { messages } else { usize::MAX };
        wakes.push((Arc::clone(&watched.watch), most));
    }
}

/// Those to be woken, timers to be set, and calls to be made. Mostly there are none.
#[derive(Debug)]
pub struct Wakes(Option<Box<Waking>>);

#[derive(Debug)]
struct Waking {
    watches: Vec<(Arc<Watch>, usize)>,
    timers: Vec<(Duration, CursorId)>,
    rings: Vec<Ring>,
    ended: Vec<Alarm>,
}

impl Wakes {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub fn wake(self, set_timer: impl Fn(Duration, CursorId)) {
        let Some(waking) = self.0 else { return };
        for (at, cursor) in waking.timers {
            set_timer(at, cursor);
        }
        for (watch, most) in waking.watches {
            watch.wake(most);
        }
        waking.rings.into_iter().for_each(Ring::ring);
        drop(waking.ended);
    }
}

pub fn deleted() -> Error {
    let what = "the queue, topic, stream, subscription or group was deleted; this handle is of no \
                use any more: create or open it again";
    Error::new(ErrorKind::NotFound, what)
}

pub fn lease_lost() -> Error {
    let what = "the lease of this delivery has run out, or the delivery was settled before; \
                the message may have been delivered again";
    Error::new(ErrorKind::LeaseLost, what)
}

pub fn settled_before() -> Error {
    Error::new(ErrorKind::LeaseLost, "this delivery was already acked or nacked")
}
