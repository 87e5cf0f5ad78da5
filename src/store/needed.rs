//! Finds the messages that a cursor of a log still needs. It looks at some cursors at a time, so that the work of a topic
//! is as much as it has messages and subscriptions together, and no access to the store is long.

use super::{
    checkpoint::Shared,
    log::Cursor,
    state::{State, join},
};
use crate::{
    audit,
    ids::{CursorId, LogId, Offset, OffsetRange},
};

/// The most cursors and ranges of acks that are looked at in one access to the store.
const LOOKED_AT_ONCE: usize = 256;

/// The parts of a window that a cursor of a log needs. It may end once they are `enough` messages. What becomes dead
/// meanwhile may be among them.
pub fn needed(
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
            let Some(acks) = self.cursors.get(cursor).and_then(Cursor::acks) else { continue };
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
