//! Where consumers wait for messages of each log.

use std::{collections::BTreeSet, mem, sync::Arc};

use super::effects::Effects;
use crate::{
    audit,
    config::Durability,
    engine::runtime::{
        interest::{Interest, Whom},
        wait::Watch,
    },
    ids::{CursorId, EntityId, IdMap, LogId},
    store::{BatchArrivals, Match},
    stream::recent::Recent,
};

/// Logs whose waiters are woken in one hold of the core.
pub const LOGS_AT_ONCE: usize = 256;

/// Where consumers wait for messages of each log.
#[derive(Debug)]
pub struct Arrivals {
    pub(super) watches: IdMap<LogId, WatchedLog>,
    /// Which partitions got records last, for each stream that has several.
    pub(super) recent: IdMap<EntityId, Recent>,
    /// Messages that become visible with the next sync.
    pub(super) touched: Vec<Fresh>,
    /// Those of them that match the filters of cursors, by the cursor.
    pub(super) matched: IdMap<CursorId, (LogId, usize)>,
    /// The messages of batches that become visible with the next sync.
    pub(super) batches: Vec<BatchArrivals>,
    /// Logs that nobody watched when messages came that become visible with the next sync.
    pub(super) unwatched: BTreeSet<LogId>,
    /// Whether consumers see only durable messages.
    pub(super) hides_unsynced: bool,
}

#[derive(Debug)]
pub struct WatchedLog {
    pub watch: Arc<Watch>,
    pub receivers: Receivers,
    /// The stream and the number of the partition, if the stream has several.
    pub partition: Option<(EntityId, u32)>,
    /// Where the log stands among those that were touched since the last sync, if it does.
    pub place: u32,
}

/// Who receives a message of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receivers {
    /// One waiter, as in a queue.
    One,
    /// One waiter of each subscription of a topic.
    EachSubscription,
    /// All readers of a stream, or of that partition of it.
    Readers,
}

impl Receivers {
    /// What the consumers of a cursor wait for.
    pub fn interest_of(self, cursor: CursorId, is_filtered: bool) -> Interest {
        match self {
            Receivers::EachSubscription if is_filtered => Interest::of_filtered(cursor),
            Receivers::EachSubscription => Interest::of_cursor(cursor),
            Receivers::One | Receivers::Readers => Interest::ALL,
        }
    }
}

impl WatchedLog {
    /// Wakes waiters for messages that have come.
    #[inline]
    pub fn wake(&self, effects: &mut Effects, messages: usize) {
        match (self.receivers, self.partition) {
            (Receivers::One, _) => effects.wake(&self.watch, messages),
            (Receivers::EachSubscription, _) => {
                effects.wake_those(&self.watch, Whom::Unfiltered, messages);
            }
            (Receivers::Readers, None) if messages > 0 => effects.wake_all(&self.watch),
            (Receivers::Readers, Some((_, partition))) if messages > 0 => {
                let whom = Whom::Only(Interest::of_partition(partition));
                effects.wake_those(&self.watch, whom, usize::MAX);
            }
            (Receivers::Readers, _) => {}
        }
    }

    /// Wakes consumers of a cursor.
    pub fn wake_of(&self, effects: &mut Effects, of: (CursorId, bool), most: usize) {
        let whom = Whom::Only(self.receivers.interest_of(of.0, of.1));
        effects.wake_those(&self.watch, whom, most);
    }
}

/// Messages of a log that a sync makes visible.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    pub log: LogId,
    /// The cursor that they are for. `None` for all cursors without a filter.
    pub of: Option<CursorId>,
    pub messages: usize,
}

/// What a sync makes visible.
#[derive(Debug, Default)]
pub struct Visibility {
    pub touched: Vec<Fresh>,
    pub matched: IdMap<CursorId, (LogId, usize)>,
    pub unwatched: BTreeSet<LogId>,
    pub batches: Vec<BatchArrivals>,
}

impl Visibility {
    /// All that becomes visible but batches. Makes a list of what is there for each log and cursor: not under the core.
    pub fn fresh(&mut self) -> Vec<Fresh> {
        let mut fresh = mem::take(&mut self.touched);
        let unwatched = mem::take(&mut self.unwatched).into_iter();
        fresh.extend(unwatched.map(|log| Fresh { log, of: None, messages: usize::MAX }));
        let matched = mem::take(&mut self.matched).into_iter();
        fresh.extend(matched.map(|(of, (log, messages))| Fresh { log, of: Some(of), messages }));
        fresh
    }
}

impl Arrivals {
    /// Notes messages that were committed.
    #[inline]
    pub(super) fn note(&mut self, log: LogId, messages: usize, effects: &mut Effects) {
        audit::step();
        let Some(watched) = self.watches.get_mut(&log) else {
            return self.note_unwatched(log);
        };
        if let Some((stream, partition)) = watched.partition
            && let Some(recent) = self.recent.get_mut(&stream)
        {
            recent.note(partition);
        }
        if self.hides_unsynced {
            match self.touched.get_mut(watched.place as usize) {
                Some(fresh) if fresh.log == log => fresh.messages += messages,
                _ => {
                    watched.place = self.touched.len() as u32;
                    self.touched.push(Fresh { log, of: None, messages });
                }
            }
        } else {
            watched.wake(effects, messages);
        }
    }

    /// Notes messages that match the filter of a cursor.
    pub(super) fn note_match(&mut self, it: &Match, effects: &mut Effects) {
        audit::step();
        let Match { log, cursor, messages, .. } = *it;
        if self.hides_unsynced {
            // Whoever begins to wait before the sync may be the first one to watch the log.
            self.note_unsynced_match((log, cursor), messages);
        } else if let Some(watched) = self.watches.get(&log) {
            watched.wake_of(effects, (cursor, true), messages);
        }
    }

    /// Notes messages for a cursor that the next sync makes visible.
    fn note_unsynced_match(&mut self, (log, cursor): (LogId, CursorId), messages: usize) {
        let (_, noted) = self.matched.entry(cursor).or_insert((log, 0));
        *noted = noted.saturating_add(messages);
    }

    /// Notes that a cursor has another filter, or none any more. Messages that it got before, and that are not visible yet, were
    /// noted for those who waited by the filter that was. The next sync wakes those who wait by then.
    pub(super) fn note_other_filter(&mut self, cursor: CursorId, log: LogId) {
        if self.hides_unsynced {
            self.note_unsynced_match((log, cursor), usize::MAX);
        }
    }

    /// Notes messages of a log that nobody watches.
    pub(super) fn note_unwatched(&mut self, log: LogId) {
        if self.hides_unsynced {
            self.unwatched.insert(log);
        }
    }

    /// Whether messages of a log become visible with the next sync.
    pub(super) fn is_touched(&self, log: LogId, watched: &WatchedLog) -> bool {
        let touched = self.touched.get(watched.place as usize);
        touched.is_some_and(|it| it.log == log)
    }

    /// Watches a log that has no partitions beside it.
    pub(super) fn watch_one(&mut self, log: LogId, receivers: Receivers) {
        let (watch, partition, place) = (Arc::default(), None, 0);
        let watched = WatchedLog { watch, receivers, partition, place };
        self.watches.entry(log).or_insert(watched);
    }

    pub fn new(durability: Durability) -> Arrivals {
        Arrivals {
            watches: IdMap::default(),
            recent: IdMap::default(),
            touched: Vec::new(),
            matched: IdMap::default(),
            batches: Vec::new(),
            unwatched: BTreeSet::new(),
            hides_unsynced: durability == Durability::Sync,
        }
    }
}
