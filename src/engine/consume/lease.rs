//! Leases messages and reads them.
//!
//! A message is leased under the core, and read after the core was unlocked. A queue that needs a step between
//! reading and delivering (a key to claim, an attempt to count) leases messages one by one (`key_order.rs`).

use std::{
    iter,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{consumer::Consumer, delivery::Delivery};
use crate::{
    delivery::LeaseKey,
    engine::{
        commit::patience::{self, Past},
        core::{Core, expiry::EXPIRED_AT_ONCE, guard::CoreGuard, slots::Admittance},
        runtime::wait::Attempt,
    },
    error::{Error, ErrorKind, Result},
    format::entity::DeadLetters,
    ids::{Offset, Timestamp},
    store::{Source, Stored, Walk},
};

/// A message that was leased, and where to read it.
#[derive(Debug)]
pub struct Leased {
    pub offset: Offset,
    pub source: Source,
    pub delivered: DeliveryInfo,
    /// Set if the message was tried too often: it moves to these dead letters instead.
    pub exhausted: Option<DeadLetters>,
}

/// So many messages are leased in one hold of the core.
const LEASED_AT_ONCE: usize = 512;

/// The facts about a delivery that are not in its message.
#[derive(Clone, Copy, Debug)]
pub struct DeliveryInfo {
    pub key: LeaseKey,
    pub attempt: u32,
    /// Whether an earlier attempt was counted.
    pub was_tried: bool,
    pub priority: u8,
    /// The even time at which a delayed message was due first; 0 for others.
    pub due: Timestamp,
    /// When it was leased.
    pub leased: Duration,
}

impl Consumer {
    /// Leases and reads up to `most` messages, or waits for the first. Their attempts are counted when their handling begins.
    pub(super) fn attempt(self: &Arc<Consumer>, most: usize) -> Result<Attempt<Vec<Delivery>>> {
        let (mut leased, mut all) = (Vec::new(), Vec::new());
        let in_task = patience::is_asking();
        loop {
            if self.info.current.is_ordered() && all.is_empty() {
                return self.attempt_each(most);
            }
            let (before, some) = (all.len(), (most - all.len()).min(LEASED_AT_ONCE));
            let mut attempt = || self.attempt_some(some, &mut leased, &mut all, in_task);
            // With messages in hand the call waits for nothing.
            let attempted = match before {
                0 => attempt(),
                _ => patience::ask(Past::default(), attempt).0,
            };
            match attempted {
                Ok(Attempt::Wait(waiting)) if all.is_empty() => return Ok(Attempt::Wait(waiting)),
                Err(error) if all.is_empty() => return Err(error),
                Err(error) => self.tell(&all, vec![error])?,
                Ok(_) => {}
            }
            // Where one was not delivered, because it cannot be read or has expired, the rest is for the next call.
            if !all.is_empty() && (all.len() - before < some || all.len() == most) {
                return Ok(Attempt::Got(all));
            }
        }
    }

    /// Leases some messages in one hold of the core, and reads them. Some may not be delivered. `leased` is empty before and
    /// afterwards.
    fn attempt_some(
        self: &Arc<Consumer>,
        most: usize,
        leased: &mut Vec<Leased>,
        all: &mut Vec<Delivery>,
        in_task: bool,
    ) -> Result<Attempt<()>> {
        let attempted = self.lease_with(|core, elapsed| match self.info.current.is_ordered() {
            // The settings have just changed.
            true => Ok(Some(())),
            false => self.lease_many(core, elapsed, most, leased),
        })?;
        Ok(match attempted {
            Attempt::Got(()) => Attempt::Got(self.read_all(leased, all, in_task)?),
            Attempt::Wait(waiting) => Attempt::Wait(waiting),
        })
    }

    /// Whether a message that is received alone needs a step between reading and delivering it.
    fn reads_first(&self) -> bool {
        self.info.current.reads_first()
    }

    /// Leases and reads one message, or waits.
    pub(super) fn attempt_one(self: &Arc<Consumer>) -> Result<Attempt<Delivery>> {
        loop {
            if self.reads_first() {
                return self.attempt_read();
            }
            // It is put into its place here: to hand it through would move it each time.
            let mut leased = None;
            let attempted = self.lease_with(|core, elapsed| {
                if self.reads_first() {
                    // The settings have just changed.
                    return Ok(Some(()));
                }
                leased = self.lease_next(core, elapsed)?;
                Ok(leased.as_ref().map(drop))
            })?;
            if let Attempt::Wait(waiting) = attempted {
                return Ok(Attempt::Wait(waiting));
            }
            let Some(leased) = leased else { continue };
            let (offset, delivered) = (leased.offset, leased.delivered);
            match self.read(leased, &mut Walk::default()) {
                Ok(Some(delivery)) => return Ok(Attempt::Got(delivery)),
                Ok(None) => {}
                Err(error) => self.return_unread(offset, delivered, error)?,
            }
        }
    }

    /// Leases by calling `lease` under the core, or begins to wait.
    #[inline(always)]
    pub(super) fn lease_with<T>(
        &self,
        mut lease: impl FnMut(&mut Core, Duration) -> Result<Option<T>>,
    ) -> Result<Attempt<T>> {
        loop {
            let (mut core, elapsed) = self.lock_current("receive")?;
            if let Some(slot) = self.slot_in(&mut core)?
                && let Admittance::Wait(waiting) = core.admit(slot.slot())?
            {
                core.arm(self.cursor());
                return Ok(Attempt::Wait(waiting));
            }
            if let Some(damage) = core.take_untold(self.cursor()) {
                return Err(damage);
            }
            let leased = lease(&mut core, elapsed);
            core.arm(self.cursor());
            if let Some(leased) = leased? {
                return Ok(Attempt::Got(leased));
            }
            if let Some(returning) = core.wait_for_block(self.cursor(), elapsed) {
                // Another thread is bringing messages back that are due, and may wait for space.
                if patience::is_asking() {
                    return Ok(Attempt::Wait(returning));
                }
                drop(core);
                // A call that finds no message says that there is none. So this is no part of its timeout.
                returning.wait(None);
                continue;
            }
            if core.store.awaits_turn(self.cursor(), self.log()) {
                // The core was given away behind the turn, and what came meanwhile wakes nobody any more.
                continue;
            }
            return match self.trouble_with_spilled(&core, elapsed) {
                Some(error) => Err(error),
                None => Ok(Attempt::Wait(core.wait_for_message(&self.info))),
            };
        }
    }

    /// Why messages that are due on disk are not delivered: the damage of a block, once for each block, or an error that
    /// may pass.
    fn trouble_with_spilled(&self, core: &Core, elapsed: Duration) -> Option<Error> {
        let told = self.told().load(Ordering::Relaxed);
        if let Some((number, damage)) = core.spill_damage(self.cursor(), told) {
            self.told().store(number, Ordering::Relaxed);
            return Some(damage);
        }
        core.spill_failure(self.cursor(), elapsed)
    }

    /// Locks the core and brings a cursor up to date: ends leases that have run out, counts their failures,
    /// brings back spilled messages and releases due ones. Without the engine's threads, it does first what is due for all
    /// cursors.
    #[inline(always)]
    pub fn lock_current(&self, operation: &'static str) -> Result<(CoreGuard<'_>, Duration)> {
        let committer = self.committer();
        let core = committer.lock_open(operation)?;
        let elapsed = committer.elapsed();
        if committer.flusher.has_thread() && core.is_quiet(self.cursor(), elapsed) {
            return Ok((core, elapsed));
        }
        self.release(operation, core, elapsed)
    }

    #[inline(never)]
    fn release<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
        mut elapsed: Duration,
    ) -> Result<(CoreGuard<'a>, Duration)> {
        let (cursor, committer) = (self.cursor(), self.committer());
        if core.store.is_passing() {
            core = committer.await_turn(operation, core, (cursor, self.log()))?;
            elapsed = committer.elapsed();
        }
        if core.doubts_clock() || committer.flusher.has_thread() && core.depends_on_clock(cursor) {
            committer.look_at_clock_in(&mut core);
        }
        if !committer.flusher.has_thread() {
            drop(core);
            committer.work_alone();
            core = committer.lock_open(operation)?;
            elapsed = committer.elapsed();
        }
        loop {
            if core.wants_block(cursor, elapsed) {
                drop(core);
                // A block that cannot come back is tried again later. That and damage are told to a consumer that finds no
                // message.
                committer.bring_back(cursor)?;
                core = committer.lock_open(operation)?;
                elapsed = committer.elapsed();
            }
            let has_waited;
            (core, has_waited) = self.expire(operation, core, &mut elapsed)?;
            // Another thread may have brought messages back meanwhile that are due.
            if !has_waited {
                break;
            }
        }
        if core.has_begun() {
            core = committer.count_begun(operation, core);
        }
        if committer.flusher.has_thread() {
            return Ok((core, elapsed));
        }
        // Without a flusher thread, this call does its work.
        if core.has_exhausted() {
            drop(core);
            committer.move_exhausted(usize::MAX);
            core = committer.lock_open(operation)?;
            elapsed = committer.elapsed();
        }
        if core.watches_thresholds() && core.take_check(cursor, elapsed) {
            drop(core);
            committer.check_oldest(cursor);
            core = committer.lock_open(operation)?;
            elapsed = committer.elapsed();
        }
        Ok((core, elapsed))
    }

    /// Ends leases that have run out, releases messages that come due, and counts failures: in slices. A lease is granted
    /// from the time after it. Returns whether it may have waited for space.
    #[inline(always)]
    fn expire<'a>(
        &'a self,
        operation: &'static str,
        mut core: CoreGuard<'a>,
        elapsed: &mut Duration,
    ) -> Result<(CoreGuard<'a>, bool)> {
        let (cursor, committer) = (self.cursor(), self.committer());
        let mut may_have_waited = false;
        // Leases that are granted meanwhile run out later.
        let until = *elapsed;
        loop {
            let is_more = core.expire(cursor, until, EXPIRED_AT_ONCE);
            if core.has_failures() {
                // This may wait for space.
                may_have_waited = true;
                core = committer.count_failures(operation, core);
                committer.check_open(&core)?;
                if core.has_failures() {
                    // The caller awaits space. If it is cancelled meanwhile, another one goes on.
                    core.wake_one(cursor, self.log());
                    return Err(Error::lacks_space());
                }
                *elapsed = committer.elapsed();
            }
            if !is_more {
                return Ok((core, may_have_waited));
            }
            core = committer.give_way(operation, core);
            committer.check_open(&core)?;
            *elapsed = committer.elapsed();
        }
    }

    /// Reads leased messages. A damaged one is set aside: the others are delivered, and the next attempt gets its
    /// error. If one cannot be read for another reason, the messages before it are delivered. That one and the
    /// later ones stay in the queue.
    fn read_all(
        self: &Arc<Consumer>,
        leased: &mut Vec<Leased>,
        deliveries: &mut Vec<Delivery>,
        in_task: bool,
    ) -> Result<()> {
        deliveries.reserve(leased.len());
        let mut damage = Vec::new();
        let (mut leased, mut walk) = (leased.drain(..), Walk::default());
        while let Some(one) = leased.next() {
            let (offset, delivered) = (one.offset, one.delivered);
            let error = match self.read(one, &mut walk) {
                Ok(None) => continue,
                Ok(Some(delivery)) => {
                    delivery.leave_untouched(in_task);
                    deliveries.push(delivery);
                    continue;
                }
                Err(error) => error,
            };
            let is_damaged = error.kind() == ErrorKind::Corrupt;
            let Err(error) = self.return_unread(offset, delivered, error) else { continue };
            damage.push(error);
            if !is_damaged {
                self.put_back(leased.by_ref().map(|one| one.delivered));
            }
        }
        self.tell(deliveries, damage)
    }

    /// Keeps damage for the next attempts. If there is no delivery, returns the first damage at once. An error that is no
    /// damage is met again.
    fn tell(&self, deliveries: &[Delivery], damage: Vec<Error>) -> Result<()> {
        let mut damage = damage.into_iter();
        let first = if deliveries.is_empty() { damage.next() } else { None };
        let later = damage.filter(|error| error.kind() == ErrorKind::Corrupt);
        let mut core = None;
        for error in later {
            let core = core.get_or_insert_with(|| self.committer().lock("tell of damage"));
            core.tell_later(self.cursor(), error);
        }
        first.map_or(Ok(()), Err)
    }

    /// Ends the lease of a message that could not be read. A damaged message is set aside, and its error returned.
    /// A message that was deleted meanwhile is no error: if the queue was, the next round says so.
    pub(super) fn return_unread(
        &self,
        offset: Offset,
        delivered: DeliveryInfo,
        error: Error,
    ) -> Result<()> {
        match error.kind() {
            ErrorKind::Corrupt => {
                let mut core = self.committer().lock("set aside");
                core.note_undelivered(self.cursor(), delivered.was_tried);
                Err(core.set_aside(self.cursor(), offset, delivered.key, &error))
            }
            ErrorKind::NotFound => {
                self.put_back(iter::once(delivered));
                Ok(())
            }
            // The read may succeed later. Until then no later message of its key may overtake it, and which key that is
            // nobody knows, unless it has claimed it.
            _ if self.info.current.is_ordered() => {
                let mut core = self.committer().lock("put back");
                core.note_undelivered(self.cursor(), delivered.was_tried);
                if core.has_claimed_its_key(self.cursor(), offset) {
                    core.put_back(self.cursor(), delivered.key);
                } else {
                    core.take_back(self.cursor(), delivered.key);
                }
                Err(error.while_reading(&self.info.name, offset))
            }
            _ => {
                self.put_back(iter::once(delivered));
                Err(error)
            }
        }
    }

    pub fn load(&self, source: Source, offset: Offset) -> Result<Stored> {
        self.committer().read("receive", self.log(), offset, source)
    }

    /// Reads one leased message. `None` if it was discarded.
    #[inline(always)]
    fn read(self: &Arc<Consumer>, leased: Leased, walk: &mut Walk) -> Result<Option<Delivery>> {
        let Leased { offset, source, delivered, exhausted } = leased;
        let stored = self.committer().read_behind("receive", (self.log(), offset), source, walk)?;
        if self.discards(&stored, delivered, exhausted)? {
            return Ok(None);
        }
        Ok(Some(Delivery::new(Arc::clone(self), stored, delivered)))
    }

    /// Ends the leases of messages that no handler has seen. That is no failed attempt.
    fn put_back(&self, leased: impl Iterator<Item = DeliveryInfo>) {
        let mut core = self.committer().lock("put back");
        for delivered in leased {
            core.note_undelivered(self.cursor(), delivered.was_tried);
            core.put_back(self.cursor(), delivered.key);
        }
    }
}
