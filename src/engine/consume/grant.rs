//! Grants leases: chooses the next messages under the core, and finds where they are.

use std::time::Duration;

use super::{
    consumer::Consumer,
    lease::{DeliveryInfo, Leased},
};
use crate::{
    engine::core::{Core, consumption::Consumption, slots::Admittance},
    error::{Error, ErrorKind, Result},
    format::entity::DeadLetters,
    ids::{Lsn, Offset, Skew, Timestamp},
    store::{RunPlace, Source, Store, View},
};

/// A message that was leased, and its run of the journal, unless it is in a segment.
struct Chosen {
    offset: Offset,
    run: Option<RunPlace>,
    delivered: DeliveryInfo,
    exhausted: Option<DeadLetters>,
}

impl Chosen {
    #[inline(always)]
    fn at(self, source: Source) -> Leased {
        let Chosen { offset, run: _, delivered, exhausted } = self;
        Leased { offset, source, delivered, exhausted }
    }
}

/// Counts a delivery.
#[inline(always)]
fn count(consumption: &mut Consumption, delivered: DeliveryInfo) {
    consumption.counts.delivered += 1;
    consumption.counts.redelivered += u64::from(delivered.was_tried);
}

impl Consumer {
    /// Leases the next messages. If one cannot be located, the others are delivered, and the next attempt gets
    /// the error.
    pub(super) fn lease_many(
        &self,
        core: &mut Core,
        elapsed: Duration,
        most: usize,
        leased: &mut Vec<Leased>,
    ) -> Result<Option<()>> {
        let most = match self.slot.get() {
            None => most,
            Some(slot) => match core.admit(slot.slot())? {
                Admittance::UpTo(admitted) => (most as u64).min(admitted) as usize,
                Admittance::Wait(_) => 0,
            },
        };
        while leased.len() < most {
            match self.lease_up_to(core, elapsed, most, leased) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    core.tell_later(self.cursor(), error);
                }
                Err(error) if leased.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        if leased.is_empty() {
            return core.take_untold(self.cursor()).map_or(Ok(None), Err);
        }
        Ok(Some(()))
    }

    /// Leases the next message. It is inlined, so that what it returns is not moved about.
    #[inline(always)]
    pub(super) fn lease_next(&self, core: &mut Core, elapsed: Duration) -> Result<Option<Leased>> {
        let (visible, skew) = (core.visible(), core.skew());
        let (store, consumption) = loop {
            if let Some(both) = core.store_and_awake(self.cursor()) {
                break both;
            }
            core.wake(self.cursor())?;
        };
        let view = self.view(store)?;
        let Some(chosen) = self.choose(consumption, &view, (visible, skew), elapsed) else {
            return Ok(None);
        };
        let located = match chosen.run {
            Some(run) => store.at_run(run),
            None => store.locate(self.log(), chosen.offset),
        };
        match located {
            Ok(source) => {
                count(consumption, chosen.delivered);
                Ok(Some(chosen.at(source)))
            }
            Err(error) => Err(self.not_located(core, &chosen, error)),
        }
    }

    /// Leases the next messages, until there are `most`: those that follow each other in the journal with one look-up of
    /// the queue, or one message in a segment. They are the parts of a batch: their handling has not begun. `false` if there
    /// are no more.
    fn lease_up_to(
        &self,
        core: &mut Core,
        elapsed: Duration,
        most: usize,
        leased: &mut Vec<Leased>,
    ) -> Result<bool> {
        let (visible, skew) = (core.visible(), core.skew());
        let (store, consumption) = core.store_and(self.cursor())?;
        let counts_first = consumption.rules.retry.counts_first();
        let (chosen, error) = loop {
            let view = self.view(store)?;
            let in_segment = loop {
                if leased.len() == most {
                    return Ok(true);
                }
                let Some(chosen) = self.choose(consumption, &view, (visible, skew), elapsed) else {
                    return Ok(false);
                };
                if counts_first {
                    consumption.deliveries.set_untouched(chosen.delivered.key, true);
                }
                let Some(run) = chosen.run else { break chosen };
                let source = match leased.last().map(|last| &last.source) {
                    Some(source @ Source::Run(last)) if last.lsn == run.lsn => source.clone(),
                    _ => match store.at_run(run) {
                        Ok(source) => source,
                        Err(error) => return Err(self.not_located(core, &chosen, error)),
                    },
                };
                count(consumption, chosen.delivered);
                leased.push(chosen.at(source));
            };
            match store.locate(self.log(), in_segment.offset) {
                Ok(source) => {
                    count(consumption, in_segment.delivered);
                    leased.push(in_segment.at(source));
                }
                Err(error) => break (in_segment, error),
            }
        };
        Err(self.not_located(core, &chosen, error))
    }

    #[inline(always)]
    fn view<'s>(&self, store: &'s Store) -> Result<View<'s>> {
        let view = store.view(self.cursor(), self.log());
        view.ok_or_else(|| store.deleted(self.cursor().entity()))
    }

    /// Chooses the next message, and leases it.
    #[inline(always)]
    fn choose(
        &self,
        consumption: &mut Consumption,
        view: &View<'_>,
        (visible, skew): (Lsn, Skew),
        elapsed: Duration,
    ) -> Option<Chosen> {
        let mut run = None;
        let is_visible = |offset| {
            let found = view.run(offset);
            let is_visible = match found {
                Some(run) => run.lsn < visible,
                None => view.is_moved(offset),
            };
            if is_visible {
                // The first visible message is the one that is leased.
                run = found;
            }
            is_visible
        };
        let Consumption { rules, deliveries, .. } = consumption;
        if rules.is_paused && !seeded!(PausedQueuesDeliver) {
            return None;
        }
        let deadline = elapsed + rules.lease;
        let (offset, key) = deliveries.lease_next(view.acks, view.end(), deadline, is_visible)?;
        if let Some(slot) = self.slot.get() {
            deliveries.assign(key, slot.number());
        }
        let tried = view.acks.attempts(offset);
        let exhausted = rules.retry.dead_letters_after(tried);
        let attempt = if exhausted.is_some() { tried } else { tried.saturating_add(1) };
        let due = if tried == 0 { view.acks.due(offset).even_time(skew) } else { Timestamp(0) };
        if exhausted.is_none() {
            // A message that is about to move begins no attempt.
            deliveries.set_attempt(key, attempt);
        }
        let priority = view.acks.priority(offset);
        let was_tried = tried > 0;
        let delivered = DeliveryInfo { key, attempt, was_tried, priority, due, leased: elapsed };
        Some(Chosen { offset, run, delivered, exhausted })
    }

    /// Ends the lease of a message that has no place. Returns the error that tells of it.
    #[cold]
    fn not_located(&self, core: &mut Core, chosen: &Chosen, error: Error) -> Error {
        let key = chosen.delivered.key;
        if error.kind() == ErrorKind::Corrupt {
            return core.set_aside(self.cursor(), chosen.offset, key, &error);
        }
        core.put_back(self.cursor(), key);
        error
    }
}
