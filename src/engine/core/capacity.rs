//! The capacity of a queue with limits: whether messages fit, and which messages are dropped for them.

use std::time::Duration;

use super::{Core, commit::CommitResult, consumption::Consumption, expiry::EXPIRED_AT_ONCE};
use crate::{
    audit,
    delivery::{
        Groups, merge,
        stats::Counts,
        weights::{Weights, weight_of},
    },
    error::{Error, ErrorKind, Result},
    format::entity::Limit,
    ids::{CursorId, Due, Offset, OffsetRange},
    message::Message,
    store::{AckSet, Refused, Shortage},
};

/// How much is added to a queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub messages: u64,
    /// Counted only where the queue has a limit in bytes.
    pub bytes: u64,
}

impl Load {
    pub fn of<'m>(limit: Limit, messages: impl IntoIterator<Item = &'m Message<'m>>) -> Load {
        let mut load = Load::default();
        messages.into_iter().for_each(|message| load.add(limit, message));
        load
    }

    pub fn add(&mut self, limit: Limit, message: &Message<'_>) {
        self.messages += 1;
        if limit.bytes.is_some() {
            self.bytes += weight_of(message);
        }
    }

    /// Fails if the load does not fit into the empty queue.
    fn check(self, limit: Limit) -> Result<()> {
        let refused = |more: u64, most: u64, unit: &str, field: &str| {
            let what =
                format!("{more} {unit} in one call; the queue holds at most {most} ({field})");
            Err(Error::new(ErrorKind::TooLarge, what))
        };
        match limit {
            Limit { messages: Some(most), .. } if self.messages > most => {
                refused(self.messages, most, "messages", "max_messages")
            }
            Limit { bytes: Some(most), .. } if self.bytes > most => {
                refused(self.bytes, most, "bytes", "max_bytes")
            }
            _ => Ok(()),
        }
    }
}

/// By how much a load would exceed the capacity of a queue.
#[derive(Clone, Copy, Debug)]
struct Excess {
    messages: u64,
    bytes: u64,
}

impl Excess {
    fn is_over(self) -> bool {
        self.messages == 0 && self.bytes == 0
    }

    /// Counts one dropped message.
    fn drop_one(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The messages that are dropped to make capacity.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Sorted, with a gap between any two.
    pub ranges: Vec<OffsetRange>,
    /// Those of the messages that wait, and when they are due.
    pub waiting: Vec<(Due, Offset)>,
}

impl Core {
    /// Finds capacity for `load` in a queue. The messages `acked` leave the queue in the same commit. Returns
    /// the messages that the commit must drop. If there is no capacity, messages whose lives are over leave first: the
    /// caller has them looked at, and tries again. `room.rs` says how far it looks.
    pub fn make_capacity(
        &mut self,
        cursor: CursorId,
        limit: Limit,
        load: Load,
        acked: &[Offset],
        elapsed: Duration,
    ) -> CommitResult<Dropped> {
        load.check(limit)?;
        self.room.allow(load.messages, load.bytes);
        // What has come due, or has run out its lease, can be dropped. Without its thread the engine notes that here. If
        // that is not enough, twice as many more: so many as are dropped, at most.
        let mut at_once = EXPIRED_AT_ONCE;
        loop {
            let is_more = self.expire_some(cursor, elapsed, at_once);
            match self.choose_dropped(cursor, limit, load, acked, elapsed) {
                Err(Refused::Failed(error))
                    if error.kind() == ErrorKind::QueueFull && limit.drops_oldest && is_more =>
                {
                    at_once = at_once.saturating_mul(2);
                }
                chosen => return chosen,
            }
        }
    }

    /// Chooses the messages that a commit must drop.
    fn choose_dropped(
        &mut self,
        cursor: CursorId,
        limit: Limit,
        load: Load,
        acked: &[Offset],
        elapsed: Duration,
    ) -> CommitResult<Dropped> {
        let log = self.consumption(cursor)?.info.log;
        let end = self.end_for(cursor, log)?;
        let looks = self.may_have_expired(log, elapsed).then(|| self.room.left());
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks_of(cursor)?;
        let excess = excess(consumption, acks, end, limit, load, acked);
        if excess.is_over() {
            return Ok(Dropped::default());
        }
        match looks.filter(|_| !seeded!(FullQueueDropsTheLivingFirst)) {
            None => {}
            Some(0) => self.look_on(),
            Some(steps) => return Err(Refused::NeedsSpace(Shortage::Lives { log, steps })),
        }
        let (store, consumption) = self.store_and(cursor)?;
        let acks = store.acks_of(cursor)?;
        if !limit.drops_oldest {
            return Err(full(&consumption.info.name, limit).into());
        }
        let (mut dropped, mut excess) = drop_ready(consumption, acks, end, excess);
        let mut waiting = Vec::new();
        if !excess.is_over() {
            // Only messages that wait and leased messages are left. Those that wait can be dropped.
            (waiting, excess) = drop_waiting(consumption, acks, excess, &mut dropped);
        }
        if !excess.is_over() {
            return Err(full(&consumption.info.name, limit).into());
        }
        dropped.sort_unstable();
        Ok(Dropped { ranges: ranges(&dropped), waiting })
    }

    /// Notes that the commit dropped the messages that `make_capacity` returned.
    pub fn note_made_capacity(&mut self, cursor: CursorId, dropped: &Dropped) {
        self.note_dropped(cursor, dropped);
        let messages: u64 = dropped.ranges.iter().map(|range| range.len()).sum();
        self.count(cursor, |counts| counts.dropped += messages);
    }

    /// The facts about messages that a commit is about to delete, for [`note_removed`](Core::note_removed).
    pub fn removals(&self, cursor: CursorId, offsets: &[Offset]) -> Result<Vec<Removal>> {
        let acks = self.store.acks_of(cursor)?;
        let removal = |&offset: &Offset| {
            audit::step();
            Removal { offset, due: acks.due(offset), was_spilled: acks.is_spilled(offset) }
        };
        Ok(offsets.iter().filter(|offset| !acks.is_acked(**offset)).map(removal).collect())
    }

    /// Notes that a commit deleted messages, wherever each of them was.
    pub fn note_removed(&mut self, cursor: CursorId, removed: &[Removal]) -> Result<()> {
        self.count(cursor, |counts| counts.removed += removed.len() as u64);
        if !self.consumers.contains_key(&cursor) {
            // Nothing is on lease.
            return Ok(());
        }
        for Removal { offset, due, was_spilled } in removed {
            audit::step();
            let Consumption { deliveries, groups, damaged, .. } = self.consumption(cursor)?;
            let is_parked = groups.as_ref().is_some_and(|groups| groups.is_parked(*offset));
            groups.iter_mut().for_each(|groups| groups.forget_parked(offset.only()));
            if deliveries.forget_one(*offset, *due) || *was_spilled || damaged.forget(*offset) {
                self.advance_key(cursor, *offset);
            } else if !is_parked {
                // It is on lease. The next message of its key goes on when the lease ends.
                deliveries.note_gone(*offset);
            }
        }
        self.note_room(cursor);
        Ok(())
    }

    /// Notes that a commit removed messages whose lives were over. None of them was on lease.
    pub fn note_expired(&mut self, cursor: CursorId, removed: &[Removal], are_moved: bool) {
        let count = removed.len() as u64;
        let add = |counts: &mut Counts| {
            counts.expired += count;
            counts.dead += if are_moved { count } else { 0 };
        };
        if !self.consumers.contains_key(&cursor) {
            return self.dormancy.count(cursor, add);
        }
        for Removal { offset, due, .. } in removed {
            audit::step();
            let Some(consumption) = self.consumers.get_mut(&cursor) else { return };
            let Consumption { deliveries, groups, damaged, .. } = consumption;
            deliveries.forget_one(*offset, *due);
            damaged.forget(*offset);
            groups.iter_mut().for_each(|groups| groups.forget_parked(offset.only()));
            self.advance_key(cursor, *offset);
        }
        self.count(cursor, add);
        self.note_room(cursor);
    }

    /// Notes that messages were deleted from any place. None of them was on lease.
    pub fn note_dropped(&mut self, cursor: CursorId, dropped: &Dropped) {
        let Dropped { ranges, waiting } = dropped;
        if ranges.is_empty() {
            return;
        }
        if let Some(consumption) = self.consumers.get_mut(&cursor) {
            let Consumption { deliveries, groups, damaged, .. } = consumption;
            deliveries.forget_all(ranges, waiting);
            damaged.forget_all(ranges);
            if let Some(groups) = groups {
                ranges.iter().for_each(|range| groups.forget_parked(*range));
            }
        }
        self.note_deleted(cursor, ranges);
    }
}

/// A message that a commit deletes.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    offset: Offset,
    due: Due,
    was_spilled: bool,
}

fn weight(consumption: &Consumption, offset: Offset) -> u64 {
    consumption.weights.as_ref().map_or(0, |weights| weights.of(offset))
}

fn excess(
    consumption: &Consumption,
    acks: &AckSet,
    end: Offset,
    limit: Limit,
    load: Load,
    acked: &[Offset],
) -> Excess {
    let (mut depth, mut bytes) =
        (acks.unacked(end), consumption.weights.as_ref().map_or(0, Weights::sum));
    for offset in acked {
        audit::step();
        // A message that was deleted while it was leased has freed its capacity already.
        if !acks.is_acked(*offset) {
            depth = depth.saturating_sub(1);
            bytes -= weight(consumption, *offset);
        }
    }
    let over = |amount: u64, most: Option<u64>| amount.saturating_sub(most.unwrap_or(u64::MAX));
    Excess {
        messages: over(depth + load.messages, limit.messages),
        bytes: over(bytes + load.bytes, limit.bytes),
    }
}

/// Chooses messages that could be delivered now: the lowest priority first, then the oldest.
fn drop_ready(
    consumption: &mut Consumption,
    acks: &AckSet,
    end: Offset,
    mut excess: Excess,
) -> (Vec<Offset>, Excess) {
    let Consumption { deliveries, weights, .. } = consumption;
    let mut dropped = Vec::new();
    for offset in deliveries.ready(acks, end) {
        if excess.is_over() {
            break;
        }
        audit::step();
        excess.drop_one(weights.as_ref().map_or(0, |weights| weights.of(offset)));
        dropped.push(offset);
    }
    dropped.sort_unstable();
    (dropped, excess)
}

/// Chooses messages that can be delivered later and are not leased, the oldest first. Returns those that wait until they
/// are due.
fn drop_waiting(
    consumption: &Consumption,
    acks: &AckSet,
    mut excess: Excess,
    dropped: &mut Vec<Offset>,
) -> (Vec<(Due, Offset)>, Excess) {
    let Consumption { deliveries, groups, damaged, .. } = consumption;
    let spilled = (acks.spilled() > 0).then(|| acks.all_spilled()).into_iter().flatten();
    let waiting = merge(deliveries.waits_from(Offset(0)), spilled);
    let parked = groups.iter().flat_map(Groups::all_parked);
    let mut waits = Vec::new();
    for offset in merge(waiting, merge(parked, damaged.from(Offset(0)))) {
        if excess.is_over() {
            break;
        }
        audit::step();
        if !acks.is_acked(offset) {
            excess.drop_one(weight(consumption, offset));
            dropped.push(offset);
            waits.extend(deliveries.waiting_in(offset.only(), acks));
        }
    }
    (waits, excess)
}

/// Joins sorted offsets into ranges.
pub fn ranges(offsets: &[Offset]) -> Vec<OffsetRange> {
    let together = offsets.chunk_by(|a, b| a.next() == *b);
    together.map(|all| all[0].to(all[all.len() - 1].next())).collect()
}

fn full(name: &str, limit: Limit) -> Error {
    let most = |most: Option<u64>, unit: &str, field: &str| {
        most.map(|most| format!("{most} {unit} ({field})"))
    };
    let messages = most(limit.messages, "messages", "max_messages");
    let bytes = most(limit.bytes, "bytes", "max_bytes");
    let both: Vec<String> = messages.into_iter().chain(bytes).collect();
    let what = format!("queue {name:?} is full; it holds at most {}", both.join(", or "));
    Error::new(ErrorKind::QueueFull, what)
}
