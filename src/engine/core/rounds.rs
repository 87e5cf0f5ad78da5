//! Rounds: they look at all cursors that have their state, and those that are not used go to rest.
//!
//! A checkpoint makes a round. If there are more states than are kept in any case, one is made some seconds after a state
//! was added, and again while rounds find that cursors were used or have gone to rest. So a store that is not used makes
//! none. A round works in slices, and its work follows what was used: a cursor at rest is not looked at again. Nor is one that
//! cannot go to rest, such as one with a delayed message, until its state is borrowed to be changed.

use super::{Core, consumers::Consumers, dormant::Dormancy, effects::Effects};
use crate::audit;

/// The most cursors that are looked at in one hold of the core.
const LOOKS_AT_ONCE: usize = 64;

/// The list of states is tidied up if it is longer than this, and than twice their number.
const LISTED_MIN: usize = 64;

/// A round that is under way.
#[derive(Debug)]
pub struct Round {
    /// How many of the list are left.
    left: usize,
    /// Whether the store is idle: nothing was used for long.
    is_idle: bool,
    /// Whether a cursor was used since the last round, or has gone to rest.
    has_changed: bool,
}

impl Dormancy {
    /// Has a round made in some seconds, if there are more states than are kept in any case.
    /// `loosened` are those that can go to rest again.
    #[inline]
    pub(super) fn ask_for_round(&mut self, loosened: usize, effects: &mut Effects) {
        if self.awake.len() + loosened > self.kept && !self.awaits_round {
            self.awaits_round = true;
            effects.rest_soon();
        }
    }

    /// After a state has gone: looks at two places of the list, so that it does not fill with states that are gone.
    pub(super) fn tidy(&mut self, consumers: &Consumers) {
        for _ in 0..2 {
            if self.awake.len() <= LISTED_MIN.max(2 * consumers.len()) {
                return;
            }
            audit::step();
            let Some((cursor, number)) = self.awake.pop_front() else { return };
            if consumers.get(&cursor).is_some_and(|it| it.number == number) {
                self.awake.push_back((cursor, number));
            }
            if self.awake.capacity() > LISTED_MIN.max(8 * self.awake.len()) {
                self.awake.shrink_to(2 * self.awake.len());
            }
        }
    }
}

impl Core {
    /// How many cursors have their state in memory.
    #[cfg(feature = "sim")]
    pub fn awake(&self) -> usize {
        self.consumers.len()
    }

    /// Begins a round. In an idle store all cursors go that are at rest, whenever they were used.
    pub fn begin_round(&self, is_idle: bool) -> Round {
        let left = self.dormancy.awake.len() + self.consumers.loosened();
        Round { left, is_idle, has_changed: false }
    }

    /// Goes on with a round. Returns whether there is more to look at.
    pub fn go_round(&mut self, round: &mut Round) -> bool {
        for _ in 0..LOOKS_AT_ONCE {
            if round.left == 0 || self.consumers.len() <= self.dormancy.kept {
                return false;
            }
            round.left -= 1;
            audit::step();
            let loosened = self.consumers.take_loosened();
            let next = loosened.or_else(|| self.dormancy.awake.pop_front());
            let Some((cursor, number)) = next else { return false };
            let consumption = self.consumers.get_untouched(cursor).filter(|it| it.number == number);
            let Some(consumption) = consumption else { continue };
            let last = consumption.deliveries.last_number();
            let was_used = consumption.looked_at.replace(last) != Some(last);
            consumption.is_kept = !was_used && consumption.must_stay();
            if consumption.is_kept {
                continue;
            }
            let may_rest = consumption.info.has_consumers() && (round.is_idle || !was_used);
            let rests = may_rest && self.let_rest(cursor);
            round.has_changed |= was_used || rests;
            if !rests {
                self.dormancy.awake.push_back((cursor, number));
            }
        }
        true
    }

    /// Ends a round that was asked for. If it has found something, the next one follows.
    pub fn end_round(&mut self, round: &Round) {
        self.dormancy.awaits_round = false;
        if round.has_changed {
            self.dormancy.ask_for_round(self.consumers.loosened(), &mut self.effects);
        }
    }
}
