//! Messages that arrive: when they become visible, and which waiters are woken for them.

use std::{mem, sync::Arc};

use super::{
    Core,
    waiters::{Arrivals, Fresh, Receivers, Visibility, WatchedLog},
};
use crate::{
    audit,
    engine::runtime::wait::Watch,
    error::Result,
    ids::{CursorId, EntityId, LogId, Lsn, Offset},
    store::{Batch, Match},
    stream::recent::Recent,
};

impl Core {
    /// Consumers see commits before this position.
    #[inline]
    pub fn visible(&self) -> Lsn {
        let hides = self.arrivals.hides_unsynced && !seeded!(VisibleBeforeDurable);
        if hides { self.store.journal.durable() } else { self.store.journal.tail() }
    }

    /// The watch for messages of these logs. All logs of a stream share one watch.
    pub fn watch(
        &mut self,
        logs: impl ExactSizeIterator<Item = LogId>,
        receivers: Receivers,
    ) -> Arc<Watch> {
        let partitions = logs.len() as u32;
        let mut shared: Option<Arc<Watch>> = None;
        let mut stream = None;
        for (log, partition) in logs.zip(0..) {
            audit::step();
            // The entity is that of the first log.
            let stream = *stream.get_or_insert_with(|| log.entity());
            let partition = (partitions > 1).then_some((stream, partition));
            if partition == Some((stream, 0)) {
                let recent = &mut self.arrivals.recent;
                recent.entry(stream).or_insert_with(|| Recent::new(partitions));
            }
            let watched = self.arrivals.watches.entry(log).or_insert_with(|| WatchedLog {
                watch: shared.clone().unwrap_or_default(),
                receivers,
                partition,
                place: 0,
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
            arrivals.note(log, offsets.len() as usize, effects);
        }
    }

    /// Notes that one message was committed, as [`note_arrivals`](Core::note_arrivals).
    #[inline]
    pub(super) fn note_arrival(&mut self, log: LogId) {
        self.arrivals.note(log, 1, &mut self.effects);
    }

    /// Keeps a batch that was committed for the sync that makes it visible, if consumers see only what is durable.
    pub(super) fn hide_batch(&mut self, batch: &Batch) {
        if self.arrivals.hides_unsynced {
            self.arrivals.batches.push(batch.arrivals());
        }
    }

    /// Notes some of the logs of a batch that was committed, and wakes their waiters. If the messages are not visible yet,
    /// the sync wakes the waiters again.
    ///
    /// No waiter sleeps on: one that looked before the commit waits in the watch by now, and one that looks later finds
    /// the messages.
    pub fn note_batch(&mut self, logs: &[(LogId, u64)]) {
        let Core { arrivals, effects, .. } = self;
        for (log, messages) in logs {
            audit::step();
            if let Some(watched) = arrivals.watches.get(log) {
                watched.wake(effects, *messages as usize);
            }
        }
    }

    /// Notes the partitions that get records of a batch, in the hold that commits it: a reader of many partitions looks at
    /// no others, and whoever sees that the records are there may call it at once.
    pub(super) fn note_partitions(&mut self, batch: &Batch) {
        let Arrivals { recent, watches, .. } = &mut self.arrivals;
        if recent.is_empty() {
            return;
        }
        for (log, _) in batch.arrivals().iter() {
            audit::step();
            if let Some((stream, partition)) = watches.get(log).and_then(|it| it.partition)
                && let Some(recent) = recent.get_mut(&stream)
            {
                recent.note(partition);
            }
        }
    }

    /// The partitions of a stream that got records after the first `seen` arrivals, newest first, and how many arrivals
    /// there are by now. The records may not be visible yet.
    pub fn arrivals_since(
        &self,
        stream: EntityId,
        seen: u64,
    ) -> Result<(u64, impl Iterator<Item = u32>)> {
        let recent = self.arrivals.recent.get(&stream);
        let recent = recent.ok_or_else(|| self.store.deleted(stream))?;
        Ok((recent.count(), recent.since(seen)))
    }

    /// Wakes a consumer of a cursor: a message is to be delivered again, or a consumer may go on.
    pub fn wake_one(&mut self, cursor: CursorId, log: LogId) {
        self.wake_consumers(cursor, log, 1);
    }

    /// Wakes up to so many consumers of a cursor. Those of other subscriptions have nothing from it.
    pub fn wake_consumers(&mut self, cursor: CursorId, log: LogId, most: usize) {
        if let Some(watched) = self.arrivals.watches.get(&log) {
            let of = (cursor, self.store.is_filtered(cursor));
            watched.wake_of(&mut self.effects, of, most);
        }
    }

    /// Wakes all consumers of a cursor whose filter may have changed.
    pub(super) fn wake_whatever_its_filter(&mut self, cursor: CursorId, log: LogId) {
        self.arrivals.note_other_filter(cursor, log);
        if let Some(watched) = self.arrivals.watches.get(&log) {
            for is_filtered in [false, true] {
                watched.wake_of(&mut self.effects, (cursor, is_filtered), usize::MAX);
            }
        }
    }

    /// Notes what the last commit means to cursors with filters: those that its messages match are woken once they are
    /// visible.
    #[inline]
    pub(super) fn note_matches(&mut self) {
        let matched = self.store.take_matched();
        if !matched.is_empty() {
            self.note_all_matches(&matched);
        }
    }

    #[cold]
    fn note_all_matches(&mut self, matched: &[Match]) {
        for it in matched {
            audit::step();
            // Before this, as many were counted as the log has, so what was rejected is taken away.
            self.count(it.cursor, |counts| counts.passed_by += it.rejected);
            if it.messages > 0 {
                self.arrivals.note_match(it, &mut self.effects);
            }
        }
    }

    /// Wakes all waiters: the engine is closed or poisoned.
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

    /// Begins a sync: takes the messages that the sync makes visible. A consumer that is opened meanwhile may wait for
    /// messages of a log that nobody watched.
    pub fn begin_visibility(&mut self) -> Visibility {
        let Arrivals { touched, matched, unwatched, batches, .. } = &mut self.arrivals;
        Visibility {
            touched: mem::take(touched),
            matched: mem::take(matched),
            unwatched: mem::take(unwatched),
            batches: mem::take(batches),
        }
    }

    /// Wakes the waiters of messages that a sync made visible.
    pub fn wake_fresh(&mut self, fresh: &[Fresh]) {
        let Core { store, arrivals, effects, .. } = self;
        for Fresh { log, of, messages } in fresh {
            audit::step();
            let Some(watched) = arrivals.watches.get(log) else { continue };
            match of {
                // Nobody watched the log when the messages came, so nobody was noted for whom they are.
                None if *messages == usize::MAX => effects.wake_all(&watched.watch),
                None => watched.wake(effects, *messages),
                // Who waits has looked since the filter of the cursor was changed.
                Some(cursor) => {
                    watched.wake_of(effects, (*cursor, store.is_filtered(*cursor)), *messages);
                }
            }
        }
    }

    /// Notes the messages of the last commit that have a priority.
    pub(super) fn note_prioritized(&mut self) {
        let mut dormant = Vec::new();
        for it in self.store.prioritized() {
            let Some(consumption) = self.consumers.get_mut(&it.cursor) else {
                dormant.push(it.cursor);
                continue;
            };
            for offset in it.offsets {
                audit::step();
                consumption.deliveries.prioritize(offset, it.priority);
            }
        }
        self.wake_dormant(dormant);
    }

    /// Wakes those of these cursors that have consumers. The store has what their states are to know.
    fn wake_dormant(&mut self, cursors: Vec<CursorId>) {
        for cursor in cursors {
            audit::step();
            let _ = self.consumption(cursor);
        }
    }

    /// Notes the delayed messages that arrived with the last commit. Messages that were there before, and
    /// failed, were noted when their leases ended.
    pub(super) fn note_deferred(&mut self) {
        let (mut cursors, mut dormant) = (Vec::new(), Vec::new());
        // A message that was moved with its attempts, and does not wait, is a fresh message here.
        for it in self.store.deferred().iter().filter(|it| it.is_new && it.due.waits()) {
            audit::step();
            let consumption = self.consumers.get_mut(&it.cursor);
            let list = if consumption.is_some() { &mut cursors } else { &mut dormant };
            if list.last() != Some(&it.cursor) {
                list.push(it.cursor);
            }
            if let Some(consumption) = consumption {
                consumption.deliveries.defer(it.offset, it.due);
            }
        }
        cursors.extend_from_slice(&dormant);
        self.wake_dormant(dormant);
        for cursor in cursors {
            self.arm(cursor);
        }
    }

    /// The first offset of a log that still exists, and the offset behind the last.
    #[inline]
    pub fn bounds(&self, log: LogId) -> Result<(Offset, Offset)> {
        self.store.bounds(log).ok_or_else(|| self.store.deleted(log.entity()))
    }
}
