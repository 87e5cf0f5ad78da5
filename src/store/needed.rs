//! Finds the messages that a cursor of a log still needs. It looks at some cursors at a time, so that the work of a topic
//! is as much as it has messages and subscriptions together, and no access to the store is long.

use std::ops::Range;

use roaring::RoaringBitmap;

use super::{
    acks::{CHUNK_OFFSETS, chunk_ranges, chunks_of},
    checkpoint::Shared,
    log::Log,
    ranges::join,
    state::State,
};
use crate::{
    audit,
    ids::{CursorId, LogId, Offset, OffsetRange},
};

/// The most cursors and ranges of acks that are looked at in one access to the store.
const LOOKED_AT_ONCE: usize = 256;

/// In a window of so many chunks of acks, the acks of all cursors are put together chunk by chunk. In a wider one there are
/// few messages that live, and each is looked at.
const CHUNKS_FEW: u64 = 16;

/// The parts of a window that a cursor of a log needs. It may end once they are `enough` messages. What becomes dead
/// meanwhile may be among them.
pub fn needed(
    shared: &impl Shared,
    log: LogId,
    window: OffsetRange,
    enough: u64,
) -> Vec<OffsetRange> {
    if shared.with(|store| store.state.needs_nothing(log, window)) {
        return Vec::new();
    }
    let is_wide = chunks_of(window) > CHUNKS_FEW;
    if is_wide || shared.with(|store| !store.state.has_many_cursors(log)) {
        return needed_by_each(shared, log, window, enough);
    }
    let (mut needed, mut count) = (Vec::new(), 0);
    for (index, lows) in chunk_ranges(window) {
        let acked = acked_by_all_in_slices(shared, log, index, &lows);
        count += u64::from(lows.end - lows.start) - acked.range_cardinality(lows.clone());
        add_gaps(index, &lows, &acked, &mut needed);
        if count >= enough {
            break;
        }
    }
    join(&mut needed);
    needed
}

/// The offsets of a part of a chunk that no cursor of a log needs.
fn acked_by_all_in_slices(
    shared: &impl Shared,
    log: LogId,
    index: u64,
    lows: &Range<u32>,
) -> RoaringBitmap {
    let (mut acked, mut from) = (None, Some(CursorId(0)));
    while let Some(at) = from {
        from = shared.with(|store| store.state.also_acked(log, (index, lows), at, &mut acked));
    }
    acked.unwrap_or_else(|| {
        let mut all = RoaringBitmap::new();
        all.insert_range(lows.clone());
        all
    })
}

/// Adds the offsets of a part of a chunk that are not acked.
fn add_gaps(index: u64, lows: &Range<u32>, acked: &RoaringBitmap, needed: &mut Vec<OffsetRange>) {
    let at = |low: u32| Offset(index * CHUNK_OFFSETS + u64::from(low));
    let mut from = lows.start;
    for low in acked.range(lows.clone()) {
        if low > from {
            needed.push(at(from).to(at(low)));
        }
        from = low + 1;
    }
    if from < lows.end {
        needed.push(at(from).to(at(lows.end)));
    }
}

/// As [`needed`], by a look at each range of each cursor.
fn needed_by_each(
    shared: &impl Shared,
    log: LogId,
    window: OffsetRange,
    enough: u64,
) -> Vec<OffsetRange> {
    let mut place = AcksPlace { cursor: CursorId(0), from: window.start };
    let (mut needed, mut joined) = (Vec::new(), 0);
    while shared.with(|store| store.state.add_needed(log, window, &mut place, &mut needed)) {
        if needed.len() > 2 * joined + LOOKED_AT_ONCE {
            join(&mut needed);
            joined = needed.len();
            if needed.iter().map(|range| range.len()).sum::<u64>() >= enough {
                break;
            }
        }
    }
    join(&mut needed);
    needed
}

/// Where a walk over the acks of a log's cursors goes on: the cursor, and the offset.
#[derive(Clone, Copy)]
struct AcksPlace {
    cursor: CursorId,
    from: Offset,
}

impl State {
    /// Whether the floors of all cursors of a log are behind a window. They are kept in order.
    fn needs_nothing(&self, log: LogId, window: OffsetRange) -> bool {
        let has_floors = |log: &Log| log.cursors.len() > 1 && !log.keeps_acked;
        let log = self.logs.get(&log).filter(|log| has_floors(log));
        log.is_some_and(|log| log.all_reach(window.end))
    }

    fn has_many_cursors(&self, log: LogId) -> bool {
        let has_many = |log: &Log| log.cursors.len() > 1 && !log.keeps_acked;
        self.logs.get(&log).is_some_and(has_many) && !seeded!(DeadForOneIsDeadForAll)
    }

    /// Leaves of some offsets of a chunk those that some cursors of a log have acked. Returns the cursor to go on with.
    fn also_acked(
        &self,
        log: LogId,
        (index, lows): (u64, &Range<u32>),
        from: CursorId,
        acked: &mut Option<RoaringBitmap>,
    ) -> Option<CursorId> {
        let log = self.logs.get(&log)?;
        let first = log.cursors.partition_point(|cursor| *cursor < from);
        let some = log.cursors[first..].iter().take(LOOKED_AT_ONCE);
        for cursor in some.inspect(|_| audit::step()) {
            if let Some(acks) = self.cursors.get(cursor).and_then(|it| it.acks()) {
                acks.also_acked(index, lows, acked);
            }
            if acked.as_ref().is_some_and(|acked| acked.range_cardinality(lows.clone()) == 0) {
                // The others add nothing to this.
                return None;
            }
        }
        log.cursors.get(first + LOOKED_AT_ONCE).copied()
    }

    /// Adds the parts of a window that cursors of a log need, for some cursors. `false` if that was all.
    fn add_needed(
        &self,
        id: LogId,
        window: OffsetRange,
        place: &mut AcksPlace,
        needed: &mut Vec<OffsetRange>,
    ) -> bool {
        let Some(log) = self.logs.get(&id) else { return false };
        if log.keeps_acked {
            needed.push(log.start.max(window.start).to(window.end));
            return false;
        }
        if seeded!(DeadForOneIsDeadForAll) {
            let offsets = window.into_iter().filter(|offset| !self.is_dead(log, *offset));
            needed.extend(offsets.map(Offset::only));
            return false;
        }
        let first = log.cursors.partition_point(|cursor| *cursor < place.cursor);
        let mut looked = 0;
        for cursor in &log.cursors[first..] {
            let from = if *cursor == place.cursor { place.from } else { window.start };
            *place = AcksPlace { cursor: *cursor, from };
            if looked >= LOOKED_AT_ONCE {
                return true;
            }
            let Some(acks) = self.cursors.get(cursor).and_then(|it| it.acks()) else { continue };
            let unacked = acks.unacked_up_to(from.to(window.end), LOOKED_AT_ONCE);
            looked += 1 + unacked.len();
            audit::step();
            if unacked == [window] {
                // No other cursor adds to this.
                *needed = unacked;
                return false;
            }
            needed.extend(&unacked);
            if unacked.len() == LOOKED_AT_ONCE {
                place.from = unacked[LOOKED_AT_ONCE - 1].end;
                return true;
            }
        }
        false
    }
}

/// Offsets that cursors need, as ranges in their order. They are looked up in their order.
pub struct Needed<'a> {
    rest: &'a [OffsetRange],
}

impl<'a> Needed<'a> {
    pub fn of(ranges: &'a [OffsetRange]) -> Needed<'a> {
        Needed { rest: ranges }
    }

    /// One bit for each message of a run that is needed.
    pub fn bits(&mut self, run: OffsetRange) -> u32 {
        let behind = self.rest.iter().take_while(|range| range.end <= run.start).count();
        self.rest = &self.rest[behind..];
        let mut bits = 0;
        for range in self.rest.iter().take_while(|range| range.start < run.end) {
            let range = range.within(run);
            let ones = u32::MAX >> (u32::BITS - range.len() as u32);
            bits |= ones << (range.start.0 - run.start.0);
        }
        bits
    }
}
