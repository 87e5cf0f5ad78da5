//! Statistics, and the thresholds that are watched.

use std::{sync::Arc, time::Duration};

use super::{
    Core,
    thresholds::{Callback, OnAlarm, WatchedThreshold},
};
use crate::{
    audit,
    delivery::{
        oldest::Oldest,
        stats::{ConsumerStats, Counts},
        thresholds::{Probe, Threshold},
    },
    error::Result,
    ids::{CursorId, Offset, Timestamp},
};

/// So many damaged messages are passed over in one hold of the core.
const PASSED_AT_ONCE: usize = 32;

impl Core {
    /// The statistics of a cursor, without `oldest_age` and `uptime`.
    pub fn stats(&mut self, cursor: CursorId) -> Result<ConsumerStats> {
        let (spilled, lost) = self.spilled_and_lost(cursor);
        let (store, consumption) = self.store_and(cursor)?;
        let end = store.end_for(cursor, consumption.info.log).unwrap_or_default();
        let depth = store.unacked(store.acks_of(cursor)?, end);
        let Counts {
            delivered,
            redelivered,
            acked,
            failed,
            dead,
            expired,
            dropped,
            removed,
            purged,
            passed_by,
        } = consumption.counts;
        let delayed = consumption.deliveries.waiting() + spilled;
        let in_flight = consumption.deliveries.in_flight();
        let damaged = consumption.damaged.len() + lost;
        Ok(ConsumerStats {
            sent: end.0.saturating_sub(consumption.first.0).saturating_sub(passed_by),
            depth,
            ready: depth.saturating_sub(delayed + in_flight + damaged),
            delayed,
            in_flight,
            damaged,
            delivered,
            redelivered,
            acked,
            failed,
            dead,
            expired,
            dropped,
            removed,
            purged,
            ..ConsumerStats::default()
        })
    }

    /// The offset of the oldest message that a cursor has not acked, behind damaged ones that were passed over.
    pub fn oldest(&mut self, cursor: CursorId) -> Result<Option<Offset>> {
        let log = self.consumption(cursor)?.info.log;
        let end = self.end_for(cursor, log)?;
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks_of(cursor)?;
        Ok(acks.next_unacked(consumption.damaged.search_from(acks.floor()).to(end)))
    }

    /// Passes over damaged messages in front of all others, some at a time. Returns whether there are more.
    pub fn pass_damaged(&mut self, cursor: CursorId) -> Result<bool> {
        for _ in 0..PASSED_AT_ONCE {
            let oldest = self.oldest(cursor)?;
            let damaged = &mut self.consumption(cursor)?.damaged;
            let Some(offset) = oldest.filter(|offset| damaged.contains(*offset)) else {
                return Ok(false);
            };
            audit::step();
            damaged.pass_up_to(offset.next());
        }
        Ok(true)
    }

    /// Passes over the oldest messages, which are damaged, up to an offset.
    pub fn pass_oldest(&mut self, cursor: CursorId, end: Offset) -> Result<()> {
        self.consumption(cursor)?.damaged.pass_up_to(end);
        Ok(())
    }

    /// Begins to watch a threshold. Returns its number.
    pub fn watch_threshold(
        &mut self,
        cursor: CursorId,
        threshold: Threshold,
        call: OnAlarm,
    ) -> Result<u64> {
        let number = self.last_threshold + 1;
        let watched = WatchedThreshold { number, probe: Probe::new(threshold), call };
        self.consumption(cursor)?.thresholds.push(watched);
        self.last_threshold = number;
        self.consumers.set_watched(cursor, Some(self.store.is_filtered(cursor)));
        Ok(number)
    }

    /// Ends the watch over a threshold.
    pub fn unwatch_threshold(&mut self, cursor: CursorId, number: u64) {
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let thresholds = &mut consumption.thresholds;
        let Some(at) = thresholds.iter().position(|watched| watched.number == number) else {
            return;
        };
        let ended = thresholds.remove(at);
        if thresholds.is_empty() {
            self.consumers.set_watched(cursor, None);
        }
        self.effects.drop_later([ended]);
    }

    /// Whether any threshold is watched.
    #[inline]
    pub fn watches_thresholds(&self) -> bool {
        self.consumers.watches()
    }

    /// Finds the thresholds that were crossed since the last call. It looks at the cursors that were touched.
    #[inline]
    pub(super) fn check_thresholds(&mut self) {
        if self.consumers.has_touched() {
            self.check_touched();
        }
    }

    #[cold]
    fn check_touched(&mut self) {
        for cursor in self.consumers.take_touched() {
            audit::step();
            if !self.consumers.contains_key(&cursor) {
                continue;
            }
            // The others are passed over by the check.
            _ = self.pass_damaged(cursor);
            let seen = (self.stats(cursor), self.oldest(cursor));
            let Core { consumers, effects, .. } = self;
            let Some(consumption) = consumers.look_at(cursor) else { continue };
            let (Ok(stats), Ok(oldest)) = seen else { continue };
            for WatchedThreshold { probe, call, .. } in &mut consumption.thresholds {
                audit::step();
                if let Some(alarm) = probe.note_stats(&stats) {
                    effects.call(Callback { call: Arc::clone(call), alarm });
                }
            }
            let probes = consumption.thresholds.iter().map(|watched| &watched.probe);
            if consumption.oldest.note_oldest(oldest, probes) {
                self.arm(cursor);
            }
        }
        _ = self.consumers.take_touched();
        #[cfg(all(debug_assertions, feature = "sim"))]
        self.assert_others_untouched();
    }

    /// Fails if a threshold was crossed by a cursor that was not touched. It is a check of the engine for its tests. It looks at
    /// a few watched cursors only.
    #[cfg(all(debug_assertions, feature = "sim"))]
    fn assert_others_untouched(&mut self) {
        const MOST: usize = 8;
        if self.consumers.watched().len() > MOST || std::thread::panicking() {
            return;
        }
        let watched: Vec<CursorId> = self.consumers.watched().collect();
        for cursor in watched {
            let Ok(stats) = self.stats(cursor) else { continue };
            let Some(consumption) = self.consumers.look_at(cursor) else { continue };
            for it in &consumption.thresholds {
                let mut probe = it.probe;
                assert!(probe.note_stats(&stats).is_none(), "{cursor:?} has changed untouched");
            }
        }
        _ = self.consumers.take_touched();
    }

    /// Takes the check of the oldest message that is due. Returns whether there is one; the caller runs it.
    pub fn take_check(&mut self, cursor: CursorId, now: Duration) -> bool {
        self.consumers.get_mut(&cursor).is_some_and(|it| it.oldest.take_check(now))
    }

    /// Begins a check of the oldest message of a cursor. Returns `false` if another thread runs one.
    pub fn begin_check(&mut self, cursor: CursorId, now: Duration) -> bool {
        self.consumers.get_mut(&cursor).is_some_and(|it| it.oldest.begin_check(now))
    }

    /// Ends a check, and sets the next one.
    pub fn finish_check(
        &mut self,
        cursor: CursorId,
        oldest: &Result<Option<Oldest>>,
        time: Timestamp,
        now: Duration,
    ) {
        let Core { consumers, effects, .. } = self;
        let Some(consumption) = consumers.get_mut(&cursor) else { return };
        let Ok(oldest) = *oldest else {
            consumption.oldest.fail_check(now);
            return;
        };
        let (mut probes, mut calls) = (Vec::new(), Vec::new());
        for WatchedThreshold { probe, call, .. } in &mut consumption.thresholds {
            probes.push(probe);
            calls.push(call);
        }
        consumption.oldest.finish_check(oldest, time, now, probes.into_iter(), |n, alarm| {
            effects.call(Callback { call: Arc::clone(calls[n]), alarm });
        });
        self.arm(cursor);
    }
}
