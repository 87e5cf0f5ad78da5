//! Goes on with walks, under the core: which messages are read next.

use std::sync::Arc;

use super::{
    Core,
    consumption::Consumption,
    walk::{Walk, WalkOf},
};
use crate::{
    audit,
    delivery::looks::{Due, Looks},
    engine::runtime::wait::Watch,
    error::{Error, Result},
    format::meta::SegmentState,
    ids::{CursorId, LogId, Offset, OffsetRange, Timestamp},
    store::{Located, SegmentSource, Together},
};

/// The most messages that are looked at in one hold of the core, and leave in one commit.
pub const AT_ONCE: usize = 256;

/// A slice of a walk: messages to be read. The thread that took it ends it with [`Core::end_slice`].
#[derive(Debug)]
pub struct Slice {
    pub of: WalkOf,
    pub what: SliceOf,
    pub places: Vec<Together>,
    /// Messages that have no place.
    pub lost: Vec<(Offset, Error)>,
    pub watch: Arc<Watch>,
}

#[derive(Debug)]
pub enum SliceOf {
    /// The messages of a range that are not acked.
    Range(OffsetRange),
    /// Messages whose lives are over.
    Due(Vec<Offset>),
    /// A segment of which it is not known when the lives in it begin and end.
    Segment(Box<(SegmentState, SegmentSource)>),
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

/// What was found that was not looked at.
enum Unseen {
    Messages(OffsetRange),
    /// A segment that says nothing of the lives in it.
    Segment,
    Nothing,
}

impl Core {
    /// Begins to look at the messages of a cursor. `None` if it was deleted, or is no queue and no subscription.
    pub(super) fn begin_walk(
        &mut self,
        (cursor, log): (CursorId, LogId),
        look: u64,
        now: Timestamp,
    ) -> Option<Walk> {
        let time_to_live_ms = self.store.time_to_live_ms(cursor);
        let (floor, end) = (self.store.floor(cursor), self.store.end_for(cursor, log));
        let (Some(time_to_live_ms), Some(floor), Some(end)) = (time_to_live_ms, floor, end) else {
            self.effects.drop_after(self.lives.looks.remove(&cursor));
            return None;
        };
        let looks = self.lives.looks.entry(cursor).or_default();
        self.effects.drop_after(looks.follow(time_to_live_ms));
        let of = WalkOf { cursor, log, now, time_to_live_ms };
        // The cursor is about to see more messages. They are looked at a moment later.
        let next = self.store.awaits_turn(cursor, log).then(|| Timestamp(now.0.saturating_add(1)));
        let (is_busy, watch) = (false, Arc::default());
        let (from, forgotten_below) = (floor, Some(floor));
        Some(Walk {
            look,
            of,
            forgotten_below,
            from,
            end,
            next,
            asked_upto: Offset(0),
            is_busy,
            watch,
        })
    }

    /// Goes on with a walk. It looks for lives that are over at `now`.
    pub(super) fn next_slice(&mut self, walk: &mut Walk, now: Timestamp) -> Result<Step> {
        walk.of.now = walk.of.now.max(now);
        let (cursor, now) = (walk.of.cursor, walk.of.now);
        let looks = self.lives.looks.entry(cursor).or_default();
        if let Some(floor) = walk.forgotten_below {
            if looks.forget_below(floor) {
                return Ok(Step::GoOn);
            }
            walk.forgotten_below = None;
        }
        match looks.take_due(now) {
            None => {}
            Some(Due::Chunk(range)) => {
                walk.go_back_to(range.start);
                return Ok(Step::GoOn);
            }
            Some(Due::These(due)) => return self.slice_of_due(walk, due),
        }
        match self.next_unseen(walk)? {
            Unseen::Messages(range) => self.slice_of(walk, range),
            Unseen::Segment => Ok(match self.unknown_segment(walk.of.log, walk.from) {
                Some(segment) => {
                    let what = SliceOf::Segment(Box::new(segment));
                    Step::Read(self.slice(walk, what, Located::default()))
                }
                None => Step::GoOn,
            }),
            Unseen::Nothing if walk.from < walk.end => Ok(Step::GoOn),
            Unseen::Nothing => {
                let next = self.lives.looks.get(&cursor).and_then(Looks::next);
                next.into_iter().for_each(|next| walk.expect(next));
                Ok(Step::End(walk.next))
            }
        }
    }

    fn slice(&self, walk: &Walk, what: SliceOf, located: Located) -> Slice {
        let Located { places, lost } = located;
        Slice { of: walk.of, what, places, lost, watch: Arc::clone(&walk.watch) }
    }

    /// The messages that are due for a look.
    fn slice_of_due(&mut self, walk: &Walk, due: Vec<Offset>) -> Result<Step> {
        let WalkOf { cursor, log, .. } = walk.of;
        let mut offsets = Vec::with_capacity(due.len());
        for offset in due.iter().copied() {
            audit::step();
            if self.store.acks_of(cursor)?.is_acked(offset) {
                continue;
            }
            match self.is_left_out(cursor, offset) {
                true => self.leave_out(cursor, offset),
                false => offsets.push(offset),
            }
        }
        offsets.sort_unstable();
        offsets.dedup();
        let located = self.store.locate_all(log, &offsets)?;
        Ok(Step::Read(self.slice(walk, SliceOf::Due(due), located)))
    }

    /// The next range of one chunk that was not looked at and that may hold a message whose life is over, or the next
    /// segment that says nothing of the lives in it. Nothing at the end, or after so many parts of the log that it is
    /// another's turn.
    fn next_unseen(&self, walk: &mut Walk) -> Result<Unseen> {
        let acks = self.store.acks_of(walk.of.cursor)?;
        let looks = self.lives.looks.get(&walk.of.cursor);
        let WalkOf { log, now, time_to_live_ms, .. } = walk.of;
        let mut steps = 0;
        let (from, end) = (walk.from, walk.end);
        for part in self.store.lives_from(log, from).take_while(|part| part.range.start < end) {
            audit::step();
            walk.from = walk.from.max(part.range.start);
            let upto = part.range.end.min(end);
            if part.is_unknown(walk.asked_upto) && acks.next_unacked(walk.from.to(upto)).is_some() {
                walk.asked_upto = part.range.end;
                return Ok(Unseen::Segment);
            }
            let is_over = match part.lives.earliest_end(time_to_live_ms) {
                Some(next) if next > now => {
                    walk.expect(next);
                    false
                }
                earliest => earliest.is_some(),
            };
            while is_over && let Some(offset) = acks.next_unacked(walk.from.to(upto)) {
                audit::step();
                steps += 1;
                walk.from = offset;
                match looks.and_then(|looks| looks.seen_upto(offset)) {
                    None => {
                        // A chunk was looked at without a gap: parts of it whose lives are not over are read, too.
                        let first = looks.map_or(offset, |looks| looks.goes_on_at(offset));
                        let range = first.to(upto.min(Looks::end_of_chunk(offset)));
                        return Ok(Unseen::Messages(range));
                    }
                    Some(upto) => walk.from = upto,
                }
                if steps >= AT_ONCE {
                    return Ok(Unseen::Nothing);
                }
            }
            walk.from = walk.from.max(upto);
            steps += 1;
            if steps >= AT_ONCE {
                return Ok(Unseen::Nothing);
            }
        }
        walk.from = walk.from.max(end);
        Ok(Unseen::Nothing)
    }

    /// The segment that holds an offset, to be asked for the lives in it. `None` if it could not be read before.
    fn unknown_segment(&mut self, log: LogId, at: Offset) -> Option<(SegmentState, SegmentSource)> {
        let (state, source) = self.store.segment_at(log, at)?;
        let is_opaque = self.lives.opaque.contains(&(log, state.base, state.generation));
        (!is_opaque).then_some((state, source))
    }

    /// The messages of a range that are to be read. The walk goes on behind them.
    fn slice_of(&mut self, walk: &mut Walk, range: OffsetRange) -> Result<Step> {
        let WalkOf { cursor, log, .. } = walk.of;
        let visible = self.visible();
        let Some(view) = self.store.view(cursor, log) else { return Ok(Step::End(None)) };
        let (mut offsets, mut on_lease) = (Vec::new(), Vec::new());
        let (mut end, mut last, mut count) = (range.end, None, 0);
        let damaged = self.consumers.get(&cursor).map(|it| &it.damaged);
        for offset in view.acks.unacked_up_to(range, AT_ONCE).into_iter().flatten() {
            audit::step();
            let is_visible =
                view.run(offset).map_or(view.is_moved(offset), |run| run.lsn < visible);
            if !is_visible || count == AT_ONCE {
                end = offset;
                break;
            }
            (last, count) = (Some(offset), count + 1);
            if self.is_left_out(cursor, offset) {
                on_lease.push(offset);
            } else if damaged.is_none_or(|damaged| !damaged.contains(offset)) {
                offsets.push(offset);
            }
        }
        let Some(last) = last else {
            // Messages that are not durable yet are at the end.
            walk.expect(walk.of.again());
            walk.from = Offset(u64::MAX);
            return Ok(Step::GoOn);
        };
        if count == AT_ONCE {
            end = end.min(last.next());
        }
        debug_assert!(end > last);
        walk.from = end;
        on_lease.into_iter().for_each(|offset| self.leave_out(cursor, offset));
        let located = self.store.locate_all(log, &offsets)?;
        Ok(Step::Read(self.slice(walk, SliceOf::Range(range.start.to(end)), located)))
    }

    /// As [`is_on_lease`](Core::is_on_lease), for walks.
    pub(super) fn is_left_out(&self, cursor: CursorId, offset: Offset) -> bool {
        self.is_on_lease(cursor, offset) && !seeded!(SweepTakesLeasedMessages)
    }

    /// Whether a message that is not acked is on lease: it is in none of the other places. So this takes no walk over the
    /// leases.
    pub fn is_on_lease(&self, cursor: CursorId, offset: Offset) -> bool {
        let (Some(consumption), Some(acks)) =
            (self.consumers.get(&cursor), self.store.acks(cursor))
        else {
            return false;
        };
        if consumption.deliveries.in_flight() == 0 {
            return false;
        }
        let Consumption { deliveries, groups, damaged, .. } = consumption;
        let is_elsewhere = deliveries.has(offset, acks.due(offset), acks.priority(offset))
            || acks.is_spilled(offset)
            || damaged.contains(offset)
            || groups.as_ref().is_some_and(|groups| groups.is_parked(offset));
        !is_elsewhere
    }

    /// Leaves a message out that is on lease.
    pub(super) fn leave_out(&mut self, cursor: CursorId, offset: Offset) {
        if let Some(looks) = self.lives.looks.get_mut(&cursor) {
            looks.leave_out(offset);
        }
    }

    /// Notes that the lease of a message has ended, and that the message is not acked. If it was left out, the next look
    /// reads it.
    #[inline]
    pub(super) fn look_after_lease(&mut self, cursor: CursorId, offset: Offset) {
        if let Some(looks) = self.lives.looks.get_mut(&cursor)
            && looks.end_lease(offset)
            && let Some(consumption) = self.consumers.get(&cursor)
        {
            self.store.look_soon(consumption.info.log);
            self.arm_lives();
        }
    }
}
