//! Messages that arrive, and the waiters who are woken for them.

use std::{mem, sync::Arc};

use super::{Core, effects::Effects, errors::deleted};
use crate::{
    audit,
    config::Durability,
    engine::runtime::wait::Watch,
    error::Result,
    ids::{CursorId, IdMap, LogId, Lsn, Offset},
};

/// Where consumers wait for messages of each log.
#[derive(Debug)]
pub struct Arrivals {
    watches: IdMap<LogId, WatchedLog>,
    /// Logs whose new messages become visible with the next sync.
    touched: Vec<LogId>,
    /// Consumers see only what is durable.
    hides_unsynced: bool,
}

#[derive(Debug)]
struct WatchedLog {
    watch: Arc<Watch>,
    receivers: Receivers,
    /// Messages since the last sync.
    fresh: usize,
}

/// Who receives a message of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receivers {
    /// One waiter, as in a queue.
    One,
    /// All waiters: subscriptions of a topic, readers of a stream.
    All,
}

impl WatchedLog {
    #[inline]
    fn wake(&self, effects: &mut Effects, messages: usize) {
        let most = match self.receivers {
            Receivers::One => messages,
            Receivers::All => usize::MAX,
        };
        if messages > 0 {
            effects.wake(&self.watch, most);
        }
    }
}

/// Messages that a sync makes visible.
#[derive(Debug)]
pub struct Fresh {
    log: LogId,
    messages: usize,
}

impl Arrivals {
    pub fn new(durability: Durability) -> Arrivals {
        Arrivals {
            watches: IdMap::default(),
            touched: Vec::new(),
            hides_unsynced: durability == Durability::Sync,
        }
    }
}

impl Core {
    /// Consumers see commits before this position.
    #[inline]
    pub fn visible(&self) -> Lsn {
        let hides = self.arrivals.hides_unsynced && !seeded!(VisibleBeforeDurable);
        if hides { self.store.journal.durable() } else { self.store.journal.tail() }
    }

    /// Where those wait that want messages of these logs. All logs of a stream share one watch.
    pub fn watch(&mut self, logs: impl Iterator<Item = LogId>, receivers: Receivers) -> Arc<Watch> {
        let mut shared: Option<Arc<Watch>> = None;
        for log in logs {
            audit::step();
            let watched = self.arrivals.watches.entry(log).or_insert_with(|| WatchedLog {
                watch: shared.clone().unwrap_or_default(),
                receivers,
                fresh: 0,
            });
            shared.get_or_insert_with(|| Arc::clone(&watched.watch));
        }
        shared.unwrap_or_default()
    }

    /// Notes that messages were committed. Their waiters are woken when the messages are visible.
    #[inline]
    pub(super) fn note_arrivals(&mut self) {
        let Core { store, arrivals, effects, .. } = self;
        for (log, offsets) in store.placed() {
            audit::step();
            let Some(watched) = arrivals.watches.get_mut(&log) else { continue };
            let messages = (offsets.end.0 - offsets.start.0) as usize;
            if arrivals.hides_unsynced {
                if watched.fresh == 0 {
                    arrivals.touched.push(log);
                }
                watched.fresh += messages;
            } else {
                watched.wake(effects, messages);
            }
        }
    }

    /// A message is to be delivered again, or something ended for which a consumer may wait.
    pub fn wake_one(&mut self, log: LogId) {
        self.wake_some(log, 1);
    }

    /// So many messages can be received.
    pub fn wake_some(&mut self, log: LogId, messages: usize) {
        if let Some(watched) = self.arrivals.watches.get(&log) {
            watched.wake(&mut self.effects, messages);
        }
    }

    /// Wakes everyone who waits for anything: the engine is closed or poisoned.
    pub fn wake_everyone(&mut self) {
        let Core { arrivals, consumers, effects, .. } = self;
        for watched in arrivals.watches.values() {
            audit::step();
            effects.wake_all(&watched.watch);
        }
        for consumption in consumers.values() {
            audit::step();
            consumption.wake_others(effects);
        }
    }

    /// Begins a sync: takes what it makes visible.
    pub fn begin_visibility(&mut self) -> Vec<Fresh> {
        let Arrivals { watches, touched, .. } = &mut self.arrivals;
        let mut fresh = Vec::with_capacity(touched.len());
        for log in mem::take(touched) {
            audit::step();
            if let Some(watched) = watches.get_mut(&log) {
                fresh.push(Fresh { log, messages: mem::take(&mut watched.fresh) });
            }
        }
        fresh
    }

    /// Ends a sync: wakes those that wait for what it made visible.
    pub fn finish_visibility(&mut self, fresh: Vec<Fresh>) {
        for Fresh { log, messages } in fresh {
            audit::step();
            self.wake_some(log, messages);
        }
    }

    /// Notes the messages with a priority of the last commit.
    pub(super) fn note_prioritized(&mut self) {
        for it in self.store.prioritized() {
            let Some(consumption) = self.consumers.get_mut(&it.cursor) else { continue };
            for offset in it.offsets.clone() {
                audit::step();
                consumption.deliveries.prioritize(Offset(offset), it.priority);
            }
        }
    }

    /// Notes the delayed messages that arrived with the last commit. Messages that were there before, and
    /// failed, were noted when their leases ended.
    pub(super) fn note_deferred(&mut self) {
        let mut cursors: Vec<CursorId> = Vec::new();
        for it in self.store.deferred().iter().filter(|it| it.is_new) {
            audit::step();
            let Some(consumption) = self.consumers.get_mut(&it.cursor) else { continue };
            consumption.deliveries.defer(it.offset, it.due);
            if cursors.last() != Some(&it.cursor) {
                cursors.push(it.cursor);
            }
        }
        for cursor in cursors {
            self.arm(cursor);
        }
    }

    /// Forgets what was deleted, and tells those that wait for it.
    pub fn forget_deleted(&mut self) {
        let Core { consumers, arrivals, store, effects, leases_deleted, .. } = self;
        consumers.retain(|cursor, consumption| {
            audit::step();
            if store.floor(*cursor).is_some() {
                return true;
            }
            if let Some(watched) = arrivals.watches.get(&consumption.info.log) {
                // A subscription may be gone while its topic stays: every waiter of the topic looks.
                effects.wake_all(&watched.watch);
            }
            consumption.wake_others(effects);
            effects.drop_later(consumption.thresholds.drain(..));
            *leases_deleted = consumption.deliveries.last_number().max(*leases_deleted);
            false
        });
        arrivals.watches.retain(|log, watched| {
            audit::step();
            let stays = store.bounds(*log).is_some();
            if !stays {
                effects.wake_all(&watched.watch);
            }
            stays
        });
    }

    /// The first offset of a log that is there, and the one behind its last.
    #[inline]
    pub fn bounds(&self, log: LogId) -> Result<(Offset, Offset)> {
        self.store.bounds(log).ok_or_else(deleted)
    }
}
