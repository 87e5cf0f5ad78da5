//! Messages whose lives are over, under the core: which ones to look at, and how they leave. `engine/commit/sweep.rs`
//! looks at them.
//!
//! A cursor needs no handle for that: a subscriber may be away.

use std::{collections::BTreeSet, slice, time::Duration};

use super::{
    Core,
    commit::{CommitResult, Receipt},
    consumption::Origin,
    dead_letters::{DeadMessage, EXPIRED, Letter},
    lives::REST,
};
use crate::{
    audit,
    delivery::looks::{Due, Looks},
    error::Result,
    format::entity::{DeadLetters, EntityKind},
    ids::{CursorId, LogId, Now, Offset, OffsetRange, Timestamp},
    store::{Op, Stored, Together},
};

/// The most messages that are looked at in one hold of the core, and leave in one commit.
const AT_ONCE: usize = 256;

/// When to look again at messages that could not leave: they were on lease, or not visible yet.
pub const AGAIN_MS: u64 = 1000;

/// A look at the messages of one cursor.
#[derive(Debug)]
pub struct Walk {
    pub cursor: CursorId,
    pub log: LogId,
    /// The even time of the look.
    pub now: Timestamp,
    /// The time to live of the cursor.
    pub time_to_live_ms: u64,
    /// Where the walk goes on.
    from: Offset,
    /// The end of the log when the walk began.
    end: Offset,
    /// The first time at which another life may be over, as far as the walk has come.
    next: Option<Timestamp>,
}

impl Walk {
    fn expect(&mut self, end: Timestamp) {
        self.next = Some(self.next.map_or(end, |next| next.min(end)));
    }

    /// When to look again at messages that cannot leave now.
    pub fn again(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_add(AGAIN_MS))
    }
}

/// Messages to be read.
#[derive(Debug)]
pub struct Slice {
    of: SliceOf,
    pub places: Vec<Together>,
}

#[derive(Debug)]
enum SliceOf {
    /// The messages of a range that are not acked.
    Range(OffsetRange),
    /// Messages whose lives are over.
    Due(Vec<Offset>),
}

/// What a walk does next.
#[derive(Debug)]
pub enum Step {
    Read(Slice),
    /// Nothing to read was found so far.
    GoOn,
    /// The walk is over. No other life is over before this time.
    End(Option<Timestamp>),
}

/// Messages that have left.
#[derive(Debug, Default)]
pub struct Gone {
    pub offsets: Vec<Offset>,
    /// Whether the last spilled message was among them.
    pub was_last_spilled: bool,
}

/// The queue or the subscription of a cursor, for the letters of its messages.
struct Owner {
    origin: Origin,
    time_to_live_ms: u64,
    dead_letters: Option<DeadLetters>,
}

impl Core {
    /// Sets the timer for the first time at which a life may be over.
    #[inline]
    pub fn arm_lives(&mut self) {
        let Core { store, clock, effects, lives, .. } = self;
        lives.arm(store, clock, effects);
    }

    /// Sets that timer anew: the even time has gone forward.
    pub(super) fn arm_lives_again(&mut self) {
        self.lives.armed = None;
        self.arm_lives();
    }

    /// Begins to look at all messages whose lives may be over, unless that was done a moment ago. A caller that `must`
    /// does not rest.
    pub fn begin_sweep(&mut self, now: Duration, must: bool) -> bool {
        let may = must || self.lives.swept.is_none_or(|swept| now >= swept + REST);
        let even = self.even(now);
        let is_due = may && self.store.first_end().is_some_and(|(end, _)| end <= even);
        if is_due {
            (self.lives.armed, self.lives.swept) = (None, Some(now));
        } else {
            // The timer may have come a moment too early.
            self.arm_lives_again();
        }
        is_due
    }

    /// Notes that the look at all messages was broken off: the next one need not rest.
    pub fn break_off_sweep(&mut self) {
        self.lives.swept = None;
    }

    /// Whether a life in a log may be over.
    #[inline]
    pub fn may_have_expired(&self, log: LogId, elapsed: Duration) -> bool {
        self.store.next_end(log).is_some_and(|end| end <= self.even(elapsed))
    }

    /// Begins to look at the messages of a cursor. `None` if it was deleted, or is no queue and no subscription.
    pub fn begin_walk(&mut self, cursor: CursorId, log: LogId, now: Timestamp) -> Option<Walk> {
        let time_to_live_ms = self.store.time_to_live_ms(cursor);
        let (Some(time_to_live_ms), Some(floor), Some((_, end))) =
            (time_to_live_ms, self.store.floor(cursor), self.store.bounds(log))
        else {
            self.lives.looks.remove(&cursor);
            return None;
        };
        let looks = self.lives.looks.entry(cursor).or_default();
        looks.follow(time_to_live_ms);
        looks.forget_below(floor);
        Some(Walk { cursor, log, now, time_to_live_ms, from: floor, end, next: None })
    }

    /// The next messages of a walk that are to be read.
    pub fn next_slice(&mut self, walk: &mut Walk) -> Result<Step> {
        let (cursor, now) = (walk.cursor, walk.now);
        let looks = self.lives.looks.entry(cursor).or_default();
        match looks.take_due(now) {
            None => {}
            Some(Due::Chunk(range)) => {
                walk.from = walk.from.min(range.start);
                return Ok(Step::GoOn);
            }
            Some(Due::These(mut offsets)) => {
                let acks = self.store.acks_of(cursor)?;
                let due = offsets.clone();
                offsets.retain(|offset| !acks.is_acked(*offset));
                offsets.sort_unstable();
                let places = self.store.locate_all(walk.log, &offsets)?;
                return Ok(Step::Read(Slice { of: SliceOf::Due(due), places }));
            }
        }
        let Some(range) = self.next_unseen(walk)? else {
            let looks = self.lives.looks.entry(cursor).or_default();
            if walk.from < walk.end {
                return Ok(Step::GoOn);
            }
            looks.next().into_iter().for_each(|next| walk.expect(next));
            return Ok(Step::End(walk.next));
        };
        self.slice_of(walk, range)
    }

    /// The next range of one chunk that was not looked at and that may hold a message whose life is over. It begins with
    /// a message that is not acked. `None` at the end, or after so many parts of the log that it is another's turn.
    fn next_unseen(&self, walk: &mut Walk) -> Result<Option<OffsetRange>> {
        let acks = self.store.acks_of(walk.cursor)?;
        let looks = self.lives.looks.get(&walk.cursor);
        let mut steps = 0;
        let (from, end) = (walk.from, walk.end);
        let parts = self.store.lives_from(walk.log, from);
        for part in parts.take_while(|part| part.range.start < end) {
            audit::step();
            let is_over = match part.lives.earliest_end(walk.time_to_live_ms) {
                Some(next) if next > walk.now => {
                    walk.expect(next);
                    false
                }
                earliest => earliest.is_some(),
            };
            let upto = part.range.end.min(end);
            walk.from = walk.from.max(part.range.start);
            while is_over && let Some(offset) = acks.next_unacked(walk.from.to(upto)) {
                audit::step();
                steps += 1;
                walk.from = offset;
                match looks.and_then(|looks| looks.seen_upto(offset)) {
                    None => {
                        // A chunk was looked at without a gap: parts of it whose lives are not over are read, too.
                        let first = looks.map_or(offset, |looks| looks.goes_on_at(offset));
                        let first = acks.next_unacked(first.to(offset)).unwrap_or(offset);
                        return Ok(Some(first.to(upto.min(Looks::end_of_chunk(offset)))));
                    }
                    Some(upto) => walk.from = upto,
                }
                if steps >= AT_ONCE {
                    return Ok(None);
                }
            }
            walk.from = walk.from.max(upto);
            steps += 1;
            if steps >= AT_ONCE {
                return Ok(None);
            }
        }
        walk.from = walk.from.max(end);
        Ok(None)
    }

    /// The messages of a range that are to be read. The walk goes on behind them.
    fn slice_of(&mut self, walk: &mut Walk, range: OffsetRange) -> Result<Step> {
        let visible = self.visible();
        let Some(view) = self.store.view(walk.cursor, walk.log) else { return Ok(Step::End(None)) };
        let all = view.acks.unacked_up_to(range, AT_ONCE);
        let mut offsets: Vec<Offset> = Vec::new();
        let mut end = range.end;
        for offset in all.into_iter().flatten() {
            audit::step();
            let is_visible =
                view.run(offset).map_or(view.is_moved(offset), |run| run.lsn < visible);
            if !is_visible || offsets.len() == AT_ONCE {
                end = offset;
                break;
            }
            offsets.push(offset);
        }
        if let Some(last) = offsets.last().filter(|_| offsets.len() == AT_ONCE) {
            end = end.min(last.next());
        }
        let Some(last) = offsets.last() else {
            // Messages that are not durable yet are at the end.
            let again = walk.again();
            walk.expect(again);
            walk.from = Offset(u64::MAX);
            return Ok(Step::GoOn);
        };
        debug_assert!(end > *last);
        walk.from = end;
        let damaged = self.consumers.get(&walk.cursor).map(|it| &it.damaged);
        offsets.retain(|offset| damaged.is_none_or(|damaged| !damaged.contains(*offset)));
        let places = self.store.locate_all(walk.log, &offsets)?;
        Ok(Step::Read(Slice { of: SliceOf::Range(range.start.to(end)), places }))
    }

    /// Notes that the messages of a slice were looked at. `ends` has those that are there still.
    pub fn end_slice(
        &mut self,
        walk: &Walk,
        slice: &Slice,
        ends: &[(Timestamp, Offset)],
        gone: &[Offset],
    ) {
        let Some(looks) = self.lives.looks.get_mut(&walk.cursor) else { return };
        let again = walk.again();
        let stay: Vec<(Timestamp, Offset)> = ends
            .iter()
            .filter(|(_, offset)| gone.binary_search(offset).is_err())
            .map(|(end, offset)| (if *end <= walk.now { again } else { *end }, *offset))
            .collect();
        audit::steps(stay.len() as u64);
        match &slice.of {
            // A message that is over and stays, as one on lease does, is looked at again alone.
            SliceOf::Range(range) => {
                let expires = ends.iter().any(|(end, _)| *end <= walk.now);
                looks.see(*range, &stay, expires);
            }
            SliceOf::Due(due) => looks.see_again(due, &stay),
        }
        if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
            self.store.note_dead(walk.log, first.to(last.next()));
        }
    }

    /// Drops messages whose lives are over, or moves them to the dead letters, in one commit. Those that are gone, on
    /// lease, or live longer by now stay.
    pub fn expire_messages(
        &mut self,
        walk: &Walk,
        expired: &[Stored],
        now: Now,
    ) -> CommitResult<(Gone, Receipt)> {
        let (cursor, nothing) = (walk.cursor, (Gone::default(), Receipt::NOTHING));
        let Some(owner) =
            self.owner(cursor).filter(|it| it.time_to_live_ms == walk.time_to_live_ms)
        else {
            return Ok(nothing);
        };
        if seeded!(ExpiredIsDroppedWithoutACommit) {
            return Ok(nothing);
        }
        let leased = self.leased_among(cursor, expired);
        let acks = self.store.acks_of(cursor)?;
        let mut letters: Vec<Letter<'_>> = Vec::new();
        let mut offsets = Vec::with_capacity(expired.len());
        for stored in expired {
            audit::step();
            let offset = stored.offset;
            if acks.is_acked(offset) || leased.contains(&offset) {
                continue;
            }
            offsets.push(offset);
            if let Some(to) = owner.dead_letters {
                let (attempts, priority) = (acks.attempts(offset), acks.priority(offset));
                let dead = DeadMessage { stored, attempts, priority, reason: EXPIRED };
                letters.push(dead.letter(&owner.origin, to, now));
            }
        }
        if offsets.is_empty() {
            return Ok(nothing);
        }
        let was_spilled = offsets.iter().any(|offset| acks.is_spilled(*offset));
        let removed = self.removals(cursor, &offsets)?;
        let mut ops = vec![Op::Ack { cursor, offsets: &offsets }];
        ops.extend(letters.iter().map(|letter| Op::Append {
            log: letter.log,
            messages: slice::from_ref(&letter.message),
            delay_ms: 0,
        }));
        if seeded!(SweptLettersAreNotAcked) && ops.len() > 1 {
            ops.remove(0);
        }
        let receipt = self.commit(&ops, now)?;
        self.note_expired(cursor, &removed, !letters.is_empty());
        let was_last_spilled = was_spilled && self.spilled(cursor) == 0;
        Ok((Gone { offsets, was_last_spilled }, receipt))
    }

    fn leased_among(&self, cursor: CursorId, messages: &[Stored]) -> BTreeSet<Offset> {
        let Some(consumption) = self.consumers.get(&cursor) else { return BTreeSet::new() };
        if seeded!(SweepTakesLeasedMessages) {
            return BTreeSet::new();
        }
        let is_one =
            |offset: &Offset| messages.binary_search_by_key(offset, |it| it.offset).is_ok();
        consumption.deliveries.leased_where(is_one)
    }

    /// The queue or the subscription of a cursor, as it is now.
    fn owner(&self, cursor: CursorId) -> Option<Owner> {
        let entity = self.store.entity(cursor.entity())?;
        let delivering = entity.delivering()?;
        let origin = match entity.kind {
            EntityKind::Subscription { topic, .. } => {
                Origin::of_subscription(&self.store.entity(topic)?.name, &entity.name)
            }
            _ => Origin::of_queue(&entity.name),
        };
        let (time_to_live_ms, dead_letters) = (delivering.time_to_live_ms, delivering.dead_letters);
        Some(Owner { origin, time_to_live_ms, dead_letters })
    }
}
