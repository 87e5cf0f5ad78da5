//! What the engine's one mutex holds.

use std::{mem, sync::Arc, time::Duration};

use super::wait::Watch;
use crate::{
    config::{Config, Durability},
    delivery::{Acked, Deliveries, LeaseKey},
    error::{Error, ErrorKind, Result},
    ids::{CursorId, IdMap, LogId, Lsn, Offset, Timestamp},
    store::{AckSet, Op, Outcome, Store},
};

#[derive(Debug)]
pub struct Core {
    pub store: Store,
    pub closed: bool,
    consumers: IdMap<CursorId, Consumption>,
    watches: IdMap<LogId, Watched>,
    /// Logs whose new messages become visible with the next sync.
    touched: Vec<LogId>,
    /// Those to be woken once the core is let go of.
    wakes: Vec<(Arc<Watch>, usize)>,
    /// Deliveries that have ended without being settled, to be counted before the next one.
    failures: Vec<(CursorId, Offset)>,
    /// Whether messages wait for a sync before they can be seen.
    hides_unsynced: bool,
    keeping_from: u64,
}

/// The volatile side of an ack cursor.
#[derive(Debug)]
pub struct Consumption {
    pub log: LogId,
    pub deliveries: Deliveries,
    /// Whether a timer is set for the next lease that runs out.
    pub armed: bool,
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
        AckSet::next_unacked(self, from.0..end.0)
    }
}

/// Short lives may have left so many small journal files before they are checkpointed away.
const OLD_FILES_MOST: usize = 4;

impl Core {
    pub fn new(store: Store, config: &Config) -> Core {
        Core {
            store,
            closed: false,
            consumers: IdMap::default(),
            watches: IdMap::default(),
            touched: Vec::new(),
            wakes: Vec::new(),
            failures: Vec::new(),
            hides_unsynced: config.durability == Durability::Sync,
            keeping_from: config.journal_bytes,
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
            let messages = (offsets.end.0 - offsets.start.0) as usize;
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
        if let Some(watched) = self.watches.get(&log) {
            wake(&mut self.wakes, watched, 1);
        }
    }

    pub fn wake_all(&mut self) {
        for watched in self.watches.values() {
            wake(&mut self.wakes, watched, usize::MAX);
        }
    }

    /// Those to be woken, by the caller, once it has let go of the core.
    #[inline]
    #[must_use]
    pub fn take_wakes(&mut self) -> Wakes {
        Wakes(if self.wakes.is_empty() { Vec::new() } else { mem::take(&mut self.wakes) })
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

    /// Makes sure that a cursor can be consumed from.
    pub fn begin_consuming(&mut self, cursor: CursorId, log: LogId) -> Result<()> {
        let floor = self.store.floor(cursor).ok_or_else(deleted)?;
        self.consumers.entry(cursor).or_insert_with(|| Consumption {
            log,
            deliveries: Deliveries::new(floor),
            armed: false,
        });
        Ok(())
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

    /// Something was deleted: whoever waits for it is told.
    pub fn forget_deleted(&mut self) {
        let Core { consumers, watches, wakes, store, .. } = self;
        consumers.retain(|cursor, consumption| {
            let stays = store.floor(*cursor).is_some();
            if !stays && let Some(watched) = watches.get(&consumption.log) {
                // A subscription may be gone and its topic not: all are to look.
                wakes.push((Arc::clone(&watched.watch), usize::MAX));
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

    /// The offset of a delivery whose lease holds.
    #[inline]
    pub fn held(&mut self, cursor: CursorId, key: LeaseKey, now: Duration) -> Result<Offset> {
        self.consumption(cursor)?.deliveries.held(key, now).ok_or_else(lease_lost)
    }

    /// Ends a lease after its commit: the message is done with, or is to be delivered again.
    #[inline]
    pub fn end_lease(&mut self, cursor: CursorId, key: LeaseKey, done: bool) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else {
            return;
        };
        if done {
            consumption.deliveries.settle(key);
        } else if consumption.deliveries.release(key).is_some() {
            let log = consumption.log;
            self.wake_one(log);
        }
    }

    /// Ends a lease of a message that nobody has seen: that is no failure.
    pub fn put_back(&mut self, cursor: CursorId, key: LeaseKey) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && consumption.deliveries.release(key).is_some()
        {
            let log = consumption.log;
            self.wake_one(log);
        }
    }

    /// Ends a lease without a commit of its own. The failure is to be counted.
    pub fn give_back(&mut self, cursor: CursorId, key: LeaseKey) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(offset) = consumption.deliveries.release(key)
        {
            let log = consumption.log;
            self.failures.push((cursor, offset));
            self.wake_one(log);
        }
    }

    /// Ends leases whose time has come. The failures are to be counted.
    #[inline]
    pub fn expire(&mut self, cursor: CursorId, elapsed: Duration) {
        while let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(offset) = consumption.deliveries.expire_one(elapsed)
        {
            let log = consumption.log;
            self.failures.push((cursor, offset));
            self.wake_one(log);
        }
    }

    #[inline]
    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Counts the failures of deliveries that nobody has settled, in one commit.
    pub fn commit_failures(&mut self, now: Timestamp) -> Result<Outcome> {
        let Core { failures, store, .. } = self;
        failures.retain(|(cursor, _)| store.floor(*cursor).is_some());
        // One that has failed twice by now counts once: a commit holds one count per message.
        failures.sort_unstable();
        failures.dedup();
        if seeded!(LeaseEndIsNotCounted) {
            failures.clear();
        }
        let nack = |&(cursor, offset): &(CursorId, Offset)| Op::Nack { cursor, offset };
        let ops: Vec<Op<'_>> = failures.iter().map(nack).collect();
        let outcome = store.commit(&ops, now)?;
        if matches!(outcome, Outcome::Done(_)) {
            failures.clear();
        }
        Ok(outcome)
    }

    /// Gives up counting: the messages are delivered again all the same.
    pub fn forget_failures(&mut self) {
        self.failures.clear();
    }

    /// Commits, and notes what has arrived by it.
    pub fn commit(&mut self, ops: &[Op<'_>], now: Timestamp) -> Result<Outcome> {
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
        }
        Ok(outcome)
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

/// Those to be woken.
#[derive(Debug)]
pub struct Wakes(Vec<(Arc<Watch>, usize)>);

impl Wakes {
    #[inline]
    pub fn wake(self) {
        if !self.0.is_empty() {
            self.wake_all();
        }
    }

    fn wake_all(self) {
        for (watch, most) in self.0 {
            watch.wake(most);
        }
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
