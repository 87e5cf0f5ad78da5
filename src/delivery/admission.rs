//! Admission: which consumer of a cursor may lease messages, and how many.
//!
//! A *slot* is the place of one consumer among the consumers of one cursor. A queue with a single active
//! consumer admits one slot at a time; the others stand by, in the order in which they came. A consumer
//! with a prefetch limit is admitted for as many deliveries as it may still hold.

use std::collections::BTreeMap;

use super::SlotId;

/// What one slot may do.
#[derive(Clone, Copy, Debug)]
pub struct SlotRules {
    /// Only one slot may be active.
    pub is_exclusive: bool,
    /// The slot holds at most this many deliveries.
    pub prefetch: u64,
}

/// The answer to a slot that wants to lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The slot may lease up to this many messages, at least one.
    UpTo(u64),
    /// Another slot is active.
    Standby,
    /// The slot holds as many deliveries as its prefetch limit allows.
    Full,
}

/// A place in the order of the slots that stand by. Zero is no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u64);

/// The slots of one cursor.
#[derive(Debug, Default)]
pub struct Admission {
    last_slot: SlotId,
    active: Option<SlotId>,
    standby: BTreeMap<Place, SlotId>,
    last_place: Place,
}

impl Admission {
    /// The state without the slots that stand by, as numbers.
    pub fn to_numbers(&self) -> [u64; 3] {
        let number = |slot: Option<SlotId>| slot.map_or(0, u64::from);
        [u64::from(self.last_slot), number(self.active), self.last_place.0]
    }

    /// The state that [`to_numbers`](Admission::to_numbers) gave.
    pub fn from_numbers(mut next: impl FnMut() -> u64) -> Admission {
        let mut slot = || SlotId::try_from(next()).unwrap_or(0);
        let (last_slot, active) = (slot(), Some(slot()).filter(|slot| *slot > 0));
        Admission { last_slot, active, standby: BTreeMap::new(), last_place: Place(next()) }
    }

    /// Gives out the number of a new slot.
    pub fn open_slot(&mut self) -> SlotId {
        self.last_slot += 1;
        self.last_slot
    }

    /// The active slot. Only exclusive slots become active.
    pub fn active(&self) -> Option<SlotId> {
        self.active
    }

    /// No slot is active any more. The next one that asks becomes active.
    pub fn vacate(&mut self) {
        self.active = None;
    }

    /// Asks whether a slot that holds `held` deliveries may lease more. The first slot that asks becomes
    /// the active one.
    pub fn admit(&mut self, slot: SlotId, rules: SlotRules, held: u64) -> Admitted {
        let is_alone = rules.is_exclusive && !seeded!(TwoConsumersAreActive);
        if is_alone && *self.active.get_or_insert(slot) != slot {
            return Admitted::Standby;
        }
        match rules.prefetch.saturating_sub(held) {
            0 => Admitted::Full,
            left => Admitted::UpTo(left),
        }
    }

    /// Puts a slot behind all others that stand by. It gives up the place that it had.
    pub fn stand_by(&mut self, slot: SlotId, old: Place) -> Place {
        self.standby.remove(&old);
        self.last_place.0 += 1;
        self.standby.insert(self.last_place, slot);
        self.last_place
    }

    /// Removes a slot. If it was the active one, the first slot that still waits becomes active and is
    /// returned: it must be woken. No consumer that comes later takes its place.
    pub fn leave(
        &mut self,
        slot: SlotId,
        place: Place,
        still_waits: impl Fn(SlotId) -> bool,
    ) -> Option<SlotId> {
        self.standby.remove(&place);
        if self.active != Some(slot) {
            return None;
        }
        let next = self.standby.iter().find(|(_, slot)| still_waits(**slot));
        let next = next.map(|(place, slot)| (*place, *slot));
        if let Some((place, _)) = next {
            self.standby.remove(&place);
        }
        self.active = next.map(|(_, slot)| slot);
        self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCLUSIVE: SlotRules = SlotRules { is_exclusive: true, prefetch: u64::MAX };

    #[test]
    fn the_first_that_asks_is_active_and_the_first_that_waits_takes_over() {
        let mut admission = Admission::default();
        let [a, b, c] = [(); 3].map(|()| admission.open_slot());
        assert_eq!(admission.admit(a, EXCLUSIVE, 0), Admitted::UpTo(u64::MAX));
        assert_eq!(admission.admit(b, EXCLUSIVE, 0), Admitted::Standby);
        assert_eq!(admission.admit(c, EXCLUSIVE, 0), Admitted::Standby);
        let c_place = admission.stand_by(c, Place(0));
        let b_place = admission.stand_by(b, Place(0));
        assert_eq!(admission.leave(a, Place(0), |_| true), Some(c));
        assert_eq!(admission.leave(c, c_place, |slot| slot != b), None, "b gave up waiting");
        assert_eq!(admission.admit(b, EXCLUSIVE, 0), Admitted::UpTo(u64::MAX));
        assert_eq!(admission.leave(b, b_place, |_| true), None);
        assert_eq!(admission.active(), None);
    }

    #[test]
    fn a_prefetch_limit_counts_what_the_slot_holds() {
        let mut admission = Admission::default();
        let slot = admission.open_slot();
        let rules = SlotRules { is_exclusive: false, prefetch: 3 };
        assert_eq!(admission.admit(slot, rules, 1), Admitted::UpTo(2));
        assert_eq!(admission.admit(slot, rules, 3), Admitted::Full);
        assert_eq!(admission.active(), None);
    }
}
