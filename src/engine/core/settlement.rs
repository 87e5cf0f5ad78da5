//! Settlements: acks, nacks and moves to the dead letters, as parts of one commit.
//!
//! A settlement runs in three steps: `plan_settlements` checks the leases and collects the operations, the commit
//! writes them, and `conclude` ends the leases.

use std::{collections::BTreeMap, slice, time::Duration};

use super::{
    Core,
    commit::{CommitResult, Receipt},
    dead_letters::Letter,
};
use crate::{
    audit,
    delivery::{
        LeaseKey,
        disposition::{Disposition, FailedDelivery},
    },
    error::{Error, Result},
    ids::{CursorId, Due, LogId, Now, Offset},
    journal::Urgency,
    message::Message,
    store::Op,
};

/// How one delivery is settled.
#[derive(Debug)]
pub struct Settlement<'a> {
    pub cursor: CursorId,
    pub key: LeaseKey,
    /// The number of the delivery, as its consumer saw it.
    pub attempt: u32,
    /// When the message was leased.
    pub leased: Duration,
    pub how: Settling<'a>,
}

#[derive(Debug)]
pub enum Settling<'a> {
    Ack,
    /// An ack that fails if the message was deleted meanwhile.
    #[cfg(feature = "cron")]
    AckIfThere,
    /// The delivery failed. `letter` is the dead letter, if this was the last attempt.
    Nack {
        delay: Option<Duration>,
        letter: Option<Box<Letter<'a>>>,
    },
    /// The message moves to the dead letters. `has_failed` tells whether this delivery failed and was not
    /// counted before.
    DeadLetter {
        letter: Box<Letter<'a>>,
        has_failed: bool,
    },
    /// The message is dropped without a delivery.
    Drop,
    /// The message is delivered again, and this delivery is no attempt.
    Release,
}

impl Settlement<'_> {
    /// Fails if two settlements settle the same delivery.
    pub fn check_once(settlements: &[Settlement<'_>]) -> Result<()> {
        let mut keys: Vec<_> = settlements.iter().map(|it| (it.cursor, it.key)).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            let what = "the same delivery is settled twice in one commit";
            return Err(Error::invalid("delivery", what));
        }
        Ok(())
    }
}

impl Settling<'_> {
    /// Copies the borrowed parts.
    pub fn into_owned(self) -> Settling<'static> {
        let own = |letter: Box<Letter<'_>>| Box::new(letter.into_owned());
        match self {
            Settling::Ack => Settling::Ack,
            #[cfg(feature = "cron")]
            Settling::AckIfThere => Settling::AckIfThere,
            Settling::Nack { delay, letter } => Settling::Nack { delay, letter: letter.map(own) },
            Settling::DeadLetter { letter, has_failed } => {
                Settling::DeadLetter { letter: own(letter), has_failed }
            }
            Settling::Drop => Settling::Drop,
            Settling::Release => Settling::Release,
        }
    }
}

/// How a lease ends once the commit is made.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Acked {
        took: Duration,
    },
    Dead {
        has_failed: bool,
    },
    /// The message was deleted while it was on lease.
    Gone {
        has_failed: bool,
    },
    Expired,
    Release {
        due: Due,
    },
    Returned,
}

/// The operations that settlements add to a commit.
#[derive(Debug, Default)]
pub struct SettlementPlan<'s> {
    deferred: Vec<Op<'static>>,
    acks: BTreeMap<CursorId, Vec<Offset>>,
    letters: Vec<(LogId, Message<'s>)>,
    endings: Vec<Ending>,
}

impl SettlementPlan<'_> {
    /// The messages of a cursor that are acked, sorted.
    pub fn acked(&self, cursor: CursorId) -> &[Offset] {
        self.acks.get(&cursor).map_or(&[], |offsets| offsets)
    }

    /// Adds the operations for messages that are delivered again.
    pub fn put_deferred<'o>(&'o self, ops: &mut Vec<Op<'o>>) {
        ops.extend(self.deferred.iter().copied());
    }

    /// Adds the operations for messages that leave their cursors.
    pub fn put_acks<'o>(&'o self, ops: &mut Vec<Op<'o>>) {
        let ack =
            |(cursor, offsets): (&CursorId, &'o Vec<Offset>)| Op::Ack { cursor: *cursor, offsets };
        ops.extend(self.acks.iter().map(ack));
    }

    /// Whether messages arrive in dead-letter queues.
    pub fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Adds the operations for messages that arrive in dead-letter queues.
    pub fn put_letters<'o>(&'o self, ops: &mut Vec<Op<'o>>) {
        ops.extend(self.letters.iter().map(|(log, message)| Op::Append {
            log: *log,
            messages: slice::from_ref(message),
            delay_ms: 0,
        }));
    }
}

impl Core {
    /// Checks settlements and plans their operations. Changes nothing.
    ///
    /// # Errors
    ///
    /// `LeaseLost` if one of the leases is lost.
    pub fn plan_settlements<'s>(
        &mut self,
        settlements: &'s [Settlement<'s>],
        elapsed: Duration,
    ) -> Result<SettlementPlan<'s>> {
        let endings = Vec::with_capacity(settlements.len());
        let mut plan = SettlementPlan { endings, ..SettlementPlan::default() };
        for settlement in settlements {
            audit::step();
            let ending = self.plan_one(settlement, elapsed, &mut plan)?;
            plan.endings.push(ending);
        }
        plan.acks.values_mut().for_each(|offsets| offsets.sort_unstable());
        Ok(plan)
    }

    /// The places of the settlements whose leases are lost.
    pub fn lost(&mut self, settlements: &[Settlement<'_>], elapsed: Duration) -> Vec<usize> {
        audit::steps(settlements.len() as u64);
        let places = settlements.iter().enumerate();
        let lost = places.filter(|(_, it)| self.held(it.cursor, it.key, elapsed).is_err());
        lost.map(|(n, _)| n).collect()
    }

    fn plan_one<'s>(
        &mut self,
        settlement: &'s Settlement<'s>,
        elapsed: Duration,
        plan: &mut SettlementPlan<'s>,
    ) -> Result<Ending> {
        let Settlement { cursor, key, attempt, leased, how } = settlement;
        let offset = self.held(*cursor, *key, elapsed)?;
        // Only an ack is the same whether the message is gone or not.
        let is_gone = !matches!(how, Settling::Ack) && self.is_gone(*cursor, offset);
        let ending = match how {
            Settling::Ack => Ending::Acked { took: elapsed.saturating_sub(*leased) },
            #[cfg(feature = "cron")]
            Settling::AckIfThere if is_gone => return Err(super::errors::lease_lost()),
            #[cfg(feature = "cron")]
            Settling::AckIfThere => Ending::Acked { took: elapsed.saturating_sub(*leased) },
            Settling::Release | Settling::Drop if is_gone => {
                return Ok(Ending::Gone { has_failed: false });
            }
            Settling::Release => {
                self.plan_release(*cursor, offset, *attempt, plan);
                return Ok(Ending::Returned);
            }
            Settling::Nack { .. } if is_gone => return Ok(Ending::Gone { has_failed: true }),
            Settling::DeadLetter { has_failed, .. } if is_gone => {
                return Ok(Ending::Gone { has_failed: *has_failed });
            }
            Settling::Nack { letter: Some(letter), .. } => {
                plan.letters.push((letter.log, letter.dated(self.clock.now())));
                Ending::Dead { has_failed: true }
            }
            Settling::Nack { delay, letter: None } => {
                let failed =
                    FailedDelivery { offset, attempt: *attempt, delay: *delay, ran_out: false };
                let (attempts, due) = match self.disposition(*cursor, failed)? {
                    Disposition::Retry { attempts, due } => (attempts, due),
                    // The settings have just changed. The consumer that leases the message next moves it.
                    Disposition::DeadLetter(_) => {
                        let tried = self.store.acks(*cursor).map_or(0, |it| it.attempts(offset));
                        (tried.max(*attempt), Due::NOW)
                    }
                    Disposition::Gone => return Ok(Ending::Gone { has_failed: true }),
                };
                let urgency = Urgency::Freeing;
                plan.deferred.push(Op::Defer { cursor: *cursor, offset, attempts, due, urgency });
                return Ok(Ending::Release { due });
            }
            Settling::DeadLetter { letter, has_failed } => {
                plan.letters.push((letter.log, letter.dated(self.clock.now())));
                Ending::Dead { has_failed: *has_failed }
            }
            Settling::Drop => Ending::Expired,
        };
        plan.acks.entry(*cursor).or_default().push(offset);
        Ok(ending)
    }

    /// Plans to take back the attempt of a released message, if it was counted.
    fn plan_release(
        &self,
        cursor: CursorId,
        offset: Offset,
        attempt: u32,
        plan: &mut SettlementPlan<'_>,
    ) {
        let tried = self.store.acks(cursor).map_or(0, |acks| acks.attempts(offset));
        if self.was_counted_first(cursor) && attempt > 0 && tried == attempt {
            let (attempts, due, urgency) = (attempt - 1, Due::NOW, Urgency::Freeing);
            plan.deferred.push(Op::Defer { cursor, offset, attempts, due, urgency });
        }
    }

    /// Ends the leases of a plan that was committed.
    pub fn conclude(&mut self, settlements: &[Settlement<'_>], plan: &SettlementPlan<'_>) {
        for (settlement, ending) in settlements.iter().zip(&plan.endings) {
            audit::step();
            let (cursor, key) = (settlement.cursor, settlement.key);
            match *ending {
                Ending::Acked { took } => self.end_acked(cursor, key, took),
                Ending::Dead { has_failed } => self.end_dead(cursor, key, has_failed),
                Ending::Gone { has_failed } => self.end_deleted(cursor, key, has_failed),
                Ending::Expired => self.end_expired(cursor, key),
                Ending::Release { due } => self.release_failed(cursor, key, due),
                Ending::Returned => self.take_back(cursor, key),
            }
        }
    }

    /// Settles deliveries in one commit.
    pub fn settle(
        &mut self,
        settlements: &[Settlement<'_>],
        elapsed: Duration,
        now: Now,
    ) -> CommitResult<Receipt> {
        let plan = self.plan_settlements(settlements, elapsed)?;
        let mut ops = Vec::new();
        plan.put_deferred(&mut ops);
        plan.put_acks(&mut ops);
        plan.put_letters(&mut ops);
        let receipt = if ops.is_empty() { Receipt::NOTHING } else { self.commit(&ops, now)? };
        self.conclude(settlements, &plan);
        Ok(receipt)
    }

    /// Acks one delivery. A fast path of [`settle`](Core::settle) without an allocation.
    #[inline]
    pub fn ack(
        &mut self,
        cursor: CursorId,
        key: LeaseKey,
        leased: Duration,
        elapsed: Duration,
        now: Now,
    ) -> CommitResult<Receipt> {
        let offset = self.held(cursor, key, elapsed)?;
        let receipt = self.ack_one(cursor, offset, now)?;
        self.end_acked(cursor, key, elapsed.saturating_sub(leased));
        Ok(receipt)
    }
}
