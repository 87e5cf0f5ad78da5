//! What becomes of messages whose deliveries have failed: they are tried again, at once or later, or
//! belong to the dead letters. Failures that nobody has said are gathered, and counted in one commit.

use std::{collections::VecDeque, time::Duration};

use super::core::{Core, deleted};
use crate::{
    delivery::LeaseKey,
    error::Result,
    format::entity::DeadLetters,
    ids::{CursorId, Now, Offset, Timestamp},
    journal::Urgency,
    store::{Op, Outcome, Source},
};

/// Deliveries that have ended without being settled.
#[derive(Debug)]
pub struct Failing {
    /// To be counted before the next delivery.
    failures: Vec<Failure>,
    /// Messages whose last delivery has ended so: they belong to the dead letters.
    lapsed: VecDeque<(CursorId, Offset)>,
    /// For delays that differ by chance.
    chance: u64,
}

impl Failing {
    pub fn new(chance: u64) -> Failing {
        // A generator that is at zero stays there.
        Failing { failures: Vec::new(), lapsed: VecDeque::new(), chance: chance | 1 }
    }

    /// Any number (xorshift; Marsaglia, 2003).
    fn draw(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }
}

/// A delivery that has failed: how often the message was tried by now, and when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Failure {
    cursor: CursorId,
    offset: Offset,
    attempts: u32,
    due: Timestamp,
}

/// What becomes of a message whose delivery has failed.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Again {
        attempts: u32,
        due: Timestamp,
    },
    Dead(DeadLetters),
    /// It was deleted meanwhile.
    Gone,
}

/// A message that is about to be moved to the dead letters.
#[derive(Debug)]
pub struct Exhumed {
    pub key: LeaseKey,
    pub source: Source,
    pub attempts: u32,
    pub grave: DeadLetters,
}

/// So many failures are counted in one commit at most.
const FAILURES_AT_ONCE: usize = 1000;

/// So long a message is on lease while it is moved to the dead letters.
const MOVING: Duration = Duration::from_secs(60);

impl Core {
    /// What becomes of a message whose delivery has failed, which was the `seen`-th, as far as is known.
    /// `delay` is what its consumer says.
    pub fn fate(
        &mut self,
        cursor: CursorId,
        offset: Offset,
        seen: u32,
        delay: Option<Duration>,
        elapsed: Duration,
    ) -> Result<Fate> {
        let chance = self.failing.draw();
        let acks = self.store.acks(cursor).ok_or_else(deleted)?;
        if acks.is_acked(offset) {
            return Ok(Fate::Gone);
        }
        let tried = acks.attempts(offset);
        let retry = self.consumption(cursor)?.retry;
        // On a full disk it was delivered without being counted.
        let attempts = if retry.counts_first() { tried.max(seen) } else { tried.saturating_add(1) };
        if let Some(grave) = retry.grave(attempts) {
            return Ok(Fate::Dead(grave));
        }
        let delay = delay.unwrap_or_else(|| retry.delay(attempts, chance));
        let due = if delay.is_zero() {
            Timestamp(0)
        } else {
            let ms = delay.as_nanos().div_ceil(1_000_000);
            Timestamp(self.steady(elapsed).0.saturating_add(ms as u64))
        };
        Ok(Fate::Again { attempts, due })
    }

    /// Whether a message was deleted, as by others while it was on lease.
    pub fn is_gone(&self, cursor: CursorId, offset: Offset) -> bool {
        self.store.acks(cursor).is_none_or(|acks| acks.is_acked(offset))
    }

    /// Ends a lease without a commit of its own. The failure is to be counted.
    pub fn give_back(&mut self, cursor: CursorId, key: LeaseKey, elapsed: Duration) {
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(offset) = consumption.deliveries.settle(key)
        {
            self.fail(cursor, offset, elapsed);
            self.note_seats(cursor);
        }
    }

    /// Ends leases whose time has come, and waits that are over. The failures are to be counted.
    #[inline]
    pub fn expire(&mut self, cursor: CursorId, elapsed: Duration) {
        while let Some(consumption) = self.consumers.get_mut(&cursor) {
            let Some(offset) = consumption.deliveries.expire_one(elapsed) else {
                if consumption.deliveries.next_due().is_some() {
                    self.release_due(cursor, elapsed);
                }
                return;
            };
            self.fail(cursor, offset, elapsed);
            self.note_seats(cursor);
        }
    }

    fn release_due(&mut self, cursor: CursorId, elapsed: Duration) {
        let (now, most) = (self.steady(elapsed), self.delayed_most);
        if let Some(consumption) = self.consumers.get_mut(&cursor)
            && let Some(acks) = self.store.acks(cursor)
        {
            // Those that are still in the timetable may be due before the others.
            let most = if consumption.has_blocks() { most } else { u64::MAX };
            let count = consumption.deliveries.release_due(now, most, acks);
            let log = consumption.log;
            self.wake_some(log, count);
        }
    }

    /// A delivery has ended that nobody has settled.
    fn fail(&mut self, cursor: CursorId, offset: Offset, elapsed: Duration) {
        let fate = self.fate(cursor, offset, 1, None, elapsed);
        let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
        let Some(acks) = self.store.acks(cursor) else { return };
        let log = consumption.log;
        consumption.counts.failed += 1;
        match fate {
            Ok(Fate::Again { attempts, due }) => {
                consumption.deliveries.put(offset, due, acks);
                self.failing.failures.push(Failure { cursor, offset, attempts, due });
                self.wake_or_arm(cursor, log, due);
            }
            Ok(Fate::Dead(_)) => {
                consumption.deliveries.put(offset, Timestamp(0), acks);
                self.failing.lapsed.push_back((cursor, offset));
                // Whoever comes to it before it is moved moves it.
                self.wake_one(log);
            }
            Ok(Fate::Gone) | Err(_) => self.end_turn(cursor, offset),
        }
        self.note_returned(cursor);
    }

    pub fn has_lapsed(&self) -> bool {
        !self.failing.lapsed.is_empty()
    }

    /// The next message that belongs to the dead letters because its last lease has run out.
    pub fn next_lapsed(&mut self) -> Option<(CursorId, Offset)> {
        self.failing.lapsed.pop_front()
    }

    /// Leases a message that is to be moved to the dead letters, unless that is being done.
    pub fn exhume(
        &mut self,
        cursor: CursorId,
        offset: Offset,
        elapsed: Duration,
    ) -> Option<Exhumed> {
        let attempts = self.store.acks(cursor)?.attempts(offset);
        let consumption = self.consumers.get_mut(&cursor)?;
        let (log, grave) = (consumption.log, consumption.retry.grave(attempts)?);
        let key = consumption.deliveries.lease_released(
            offset,
            elapsed.saturating_add(MOVING),
            self.store.acks(cursor)?,
        )?;
        match self.store.locate(log, offset) {
            Ok(source) => Some(Exhumed { key, source, attempts, grave }),
            Err(_) => {
                self.put_back(cursor, key);
                None
            }
        }
    }

    #[inline]
    pub fn has_failures(&self) -> bool {
        !self.failing.failures.is_empty()
    }

    /// Counts the failures of deliveries that nobody has settled, in one commit.
    pub fn commit_failures(&mut self, now: Now) -> Result<Outcome> {
        let Core { failing: Failing { failures, .. }, store, .. } = self;
        failures.retain(|it| store.acks(it.cursor).is_some_and(|acks| !acks.is_acked(it.offset)));
        // Of one that has failed twice by now, the last counts.
        failures.sort_unstable();
        failures.reverse();
        failures.dedup_by_key(|it| (it.cursor, it.offset));
        if seeded!(LeaseEndIsNotCounted) {
            failures.clear();
        }
        let defer = |&Failure { cursor, offset, attempts, due }: &Failure| Op::Defer {
            cursor,
            offset,
            attempts,
            due,
            urgency: Urgency::Freeing,
        };
        let rest = failures.len().saturating_sub(FAILURES_AT_ONCE);
        let ops: Vec<Op<'_>> = failures[rest..].iter().map(defer).collect();
        let outcome = store.commit(&ops, now)?;
        if matches!(outcome, Outcome::Done(_)) {
            failures.truncate(rest);
        }
        Ok(outcome)
    }

    /// Gives up counting: the messages are delivered again all the same.
    pub fn forget_failures(&mut self) {
        self.failing.failures.clear();
    }
}
