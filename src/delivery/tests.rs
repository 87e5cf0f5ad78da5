//! Tests of `delivery/`.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{Acked, Deliveries, Ended, LeaseKey, PASSED_AT_ONCE};
use crate::{
    ids::{Due, Offset, Skew, Timestamp},
    store::AckSet,
};

/// The acks of a plain model, and the priorities that are not 0.
#[derive(Default)]
struct Acks(BTreeSet<u64>, BTreeMap<u64, u8>);

impl Acked for Acks {
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset> {
        (from.0..end.0).find(|offset| !self.0.contains(offset)).map(Offset)
    }

    fn priority(&self, offset: Offset) -> u8 {
        self.1.get(&offset.0).copied().unwrap_or(0)
    }

    fn due(&self, _: Offset) -> Due {
        AT_ONCE
    }
}

/// The message whose lease ran out.
fn ran_out(ended: Option<Ended>) -> Option<Offset> {
    match ended? {
        Ended::RanOut(expired) => Some(expired.offset),
        Ended::Renewed => panic!("no lease is renewed"),
    }
}

impl<const N: usize> From<[u64; N]> for Acks {
    fn from(acked: [u64; N]) -> Acks {
        Acks(acked.into(), BTreeMap::new())
    }
}

/// The same acks, with a count of the offsets that were visited.
#[derive(Default)]
struct CountedAcks {
    acked: BTreeSet<u64>,
    looks: Cell<u64>,
}

impl Acked for CountedAcks {
    fn next_unacked(&self, from: Offset, end: Offset) -> Option<Offset> {
        let is_unacked = |offset: &u64| {
            self.looks.set(self.looks.get() + 1);
            !self.acked.contains(offset)
        };
        (from.0..end.0).find(is_unacked).map(Offset)
    }

    fn priority(&self, offset: Offset) -> u8 {
        self.looks.set(self.looks.get() + 1);
        (offset.0 % 3) as u8
    }

    fn due(&self, _: Offset) -> Due {
        AT_ONCE
    }
}

const AT_ONCE: Due = Due::NOW;
const SKEW: Skew = Skew(0);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lease(deliveries: &mut Deliveries, acks: &Acks, end: u64) -> Option<(u64, LeaseKey)> {
    let leased = deliveries.lease_next(acks, Offset(end), at(10), |_| true);
    leased.map(|(offset, key)| (offset.0, key))
}

#[test]
fn first_deliveries_are_in_order_and_skip_what_is_acked() {
    let mut deliveries = Deliveries::new(Offset(2));
    let acks = Acks::from([3, 4]);
    let got: Vec<u64> =
        std::iter::from_fn(|| lease(&mut deliveries, &acks, 7)).map(|(offset, _)| offset).collect();
    assert_eq!(got, [2, 5, 6]);
    assert_eq!(deliveries.in_flight(), 3);
}

#[test]
fn what_is_not_visible_is_not_delivered_and_not_skipped() {
    let mut deliveries = Deliveries::new(Offset(0));
    let acks = Acks::default();
    assert!(deliveries.lease_next(&acks, Offset(3), at(1), |_| false).is_none());
    assert_eq!(lease(&mut deliveries, &acks, 3).map(|(offset, _)| offset), Some(0));
}

#[test]
fn a_message_that_fails_for_ever_starves_neither_fresh_nor_failed_ones() {
    let mut deliveries = Deliveries::new(Offset(0));
    let acks = Acks::default();
    let keys: Vec<_> =
        (0..3).map(|_| lease(&mut deliveries, &acks, 100).expect("fresh").1).collect();
    for key in keys {
        deliveries.release(key, AT_ONCE, &acks);
    }
    let mut got = Vec::new();
    for _ in 0..12 {
        let (offset, key) = lease(&mut deliveries, &acks, 100).expect("there are enough");
        got.push(offset);
        if offset < 3 {
            deliveries.release(key, AT_ONCE, &acks);
        }
    }
    // Released and fresh messages alternate, and the released ones go round-robin.
    assert_eq!(got, [0, 3, 1, 4, 2, 5, 0, 6, 1, 7, 2, 8]);
}

#[test]
fn a_lease_is_lost_at_its_deadline_and_its_key_stays_dead() {
    let mut deliveries = Deliveries::new(Offset(0));
    let acks = Acks::default();
    let (_, key) = lease(&mut deliveries, &acks, 1).expect("fresh");
    assert_eq!(deliveries.held(key, at(9)), Some(Offset(0)));
    assert_eq!(deliveries.held(key, at(10)), None, "the deadline itself is too late");
    assert_eq!(ran_out(deliveries.expire_one(at(10))), Some(Offset(0)));
    deliveries.put(Offset(0), AT_ONCE, &acks);
    let (offset, again) = lease(&mut deliveries, &acks, 1).expect("released");
    assert_eq!(offset, 0);
    assert_ne!(key, again, "the slot may be the same, the token is not");
    assert_eq!(deliveries.held(key, at(0)), None);
    assert_eq!(deliveries.release(key, AT_ONCE, &acks), None);
    assert_eq!(deliveries.held(again, at(0)), Some(Offset(0)));
}

#[test]
fn an_extended_lease_outlives_others_and_does_not_delay_them() {
    let mut deliveries = Deliveries::new(Offset(0));
    let acks = Acks::default();
    let (_, first) = lease(&mut deliveries, &acks, 9).expect("fresh");
    let (_, second) = lease(&mut deliveries, &acks, 9).expect("fresh");
    assert!(deliveries.extend(first, at(5), at(60)));
    assert_eq!(deliveries.next_deadline(), Some(at(10)));
    assert_eq!(ran_out(deliveries.expire_one(at(10))), Some(Offset(1)));
    assert_eq!(deliveries.expire_one(at(10)), None);
    assert!(!deliveries.extend(second, at(11), at(99)), "it has run out");
    assert_eq!(ran_out(deliveries.expire_one(at(60))), Some(Offset(0)));
    assert_eq!(deliveries.next_deadline(), None);
}

#[derive(Clone, Debug)]
enum Step {
    /// How many messages, and their priority.
    Send(u64, u8),
    Lease(u64),
    Ack(usize),
    Release(usize),
    /// Which lease ends, and after how many seconds its message is due.
    Wait(usize, u64),
    /// Deletes a message from any place.
    Delete(usize),
    Extend(usize, u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..5u64, prop_oneof![2 => Just(0), 1 => 0..4u8]).prop_map(|(n, of)| Step::Send(n, of)),
        6 => (1..30u64).prop_map(Step::Lease),
        4 => any::<usize>().prop_map(Step::Ack),
        3 => any::<usize>().prop_map(Step::Release),
        3 => (any::<usize>(), 1..30u64).prop_map(|(n, by)| Step::Wait(n, by)),
        1 => any::<usize>().prop_map(Step::Delete),
        2 => (any::<usize>(), 1..50u64).prop_map(|(n, by)| Step::Extend(n, by)),
        2 => (1..20u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Every unacked message is leased, or can be leased. No message is leased twice. No message is leased while
    /// one of a higher priority is free. A lease holds exactly until its deadline.
    #[test]
    fn agrees_with_a_plain_model(steps in proptest::collection::vec(step(), 1..200)) {
        let mut deliveries = Deliveries::new(Offset(0));
        let mut acks = Acks::default();
        let (mut end, mut now) = (0u64, 0u64);
        // Offset, key, deadline.
        let mut leased: Vec<(u64, LeaseKey, u64)> = Vec::new();
        // Offset, due time.
        let mut waiting: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            while let Some(offset) = ran_out(deliveries.expire_one(at(now))) {
                let index = leased.iter().position(|lease| lease.0 == offset.0);
                let (_, key, deadline) = leased.remove(index.expect("it was leased"));
                deliveries.put(offset, AT_ONCE, &acks);
                prop_assert!(deadline <= now);
                prop_assert_eq!(deliveries.held(key, at(0)), None);
            }
            deliveries.release_due(Timestamp(now), SKEW, (u64::MAX, usize::MAX), &acks, |_, _| ());
            waiting.retain(|(_, due)| *due > now);
            prop_assert!(leased.iter().all(|lease| lease.2 > now));
            prop_assert_eq!(deliveries.waiting(), waiting.len() as u64);
            let next = waiting.iter().map(|it| Timestamp(it.1)).min();
            prop_assert_eq!(deliveries.next_due(SKEW), next);
            prop_assert_eq!(deliveries.next_deadline(), leased.iter().map(|it| at(it.2)).min());
            prop_assert_eq!(deliveries.in_flight(), leased.len() as u64);
            match step {
                Step::Send(count, priority) => {
                    for offset in (end..end + count).filter(|_| priority > 0) {
                        acks.1.insert(offset, priority);
                        deliveries.prioritize(Offset(offset), priority);
                    }
                    end += count;
                }
                Step::Lease(seconds) => {
                    let deadline = at(now + seconds);
                    let got = deliveries.lease_next(&acks, Offset(end), deadline, |_| true);
                    let busy = |n: &u64| {
                        leased.iter().any(|it| it.0 == *n) || waiting.iter().any(|it| it.0 == *n)
                    };
                    let free = (0..end).filter(|n| !acks.0.contains(n) && !busy(n));
                    let highest = free.map(|n| acks.priority(Offset(n))).max();
                    prop_assert_eq!(got.map(|(offset, _)| acks.priority(offset)), highest);
                    if let Some((offset, key)) = got {
                        prop_assert!(offset.0 < end && !acks.0.contains(&offset.0));
                        prop_assert!(leased.iter().all(|lease| lease.0 != offset.0));
                        prop_assert!(waiting.iter().all(|it| it.0 != offset.0), "too early");
                        leased.push((offset.0, key, now + seconds));
                    }
                }
                Step::Ack(n) if !leased.is_empty() => {
                    let (offset, key, _) = leased.remove(n % leased.len());
                    prop_assert_eq!(deliveries.held(key, at(now)), Some(Offset(offset)));
                    acks.0.insert(offset);
                    deliveries.settle(key);
                }
                Step::Release(n) if !leased.is_empty() => {
                    let (offset, key, _) = leased.remove(n % leased.len());
                    prop_assert_eq!(deliveries.release(key, AT_ONCE, &acks), Some(Offset(offset)));
                }
                Step::Wait(n, by) if !leased.is_empty() => {
                    let (offset, key, _) = leased.remove(n % leased.len());
                    let due = Due::day(Timestamp(now + by));
                    prop_assert_eq!(deliveries.release(key, due, &acks), Some(Offset(offset)));
                    if !acks.0.contains(&offset) {
                        waiting.push((offset, now + by));
                    } else {
                        deliveries.forget_one(Offset(offset), due);
                    }
                }
                Step::Delete(n) if end > 0 => {
                    let offset = n as u64 % end;
                    acks.0.insert(offset);
                    if let Some(at) = waiting.iter().position(|it| it.0 == offset) {
                        waiting.remove(at);
                        // The stored due time is another one.

                        prop_assert!(deliveries.has(Offset(offset), AT_ONCE, 0));
                        prop_assert!(deliveries.forget_one(Offset(offset), AT_ONCE));
                    }
                }
                Step::Extend(n, by) if !leased.is_empty() => {
                    let index = n % leased.len();
                    leased[index].2 = now + by;
                    prop_assert!(deliveries.extend(leased[index].1, at(now), at(now + by)));
                }
                Step::Pass(seconds) => now += seconds,
                _ => {}
            }
        }
    }
}

fn take_back(deliveries: &mut Deliveries, key: LeaseKey, acks: &Acks) {
    let offset = deliveries.settle(key).expect("the lease holds");
    deliveries.take_back(offset, acks);
}

/// If an attempt cannot be counted, its lease is taken back, and the order stays as it was.
#[test]
fn a_lease_that_is_taken_back_leaves_the_order_as_it_was() {
    let mut deliveries = Deliveries::new(Offset(0));
    let acks = Acks::from([1]);
    let keys: Vec<_> = (0..3).map(|_| lease(&mut deliveries, &acks, 9).expect("fresh")).collect();
    assert_eq!(keys.iter().map(|it| it.0).collect::<Vec<_>>(), [0, 2, 3]);
    for (_, key) in keys.iter().rev() {
        take_back(&mut deliveries, *key, &acks);
    }
    let again: Vec<_> = (0..3).map(|_| lease(&mut deliveries, &acks, 9).expect("fresh")).collect();
    assert_eq!(again.iter().map(|it| it.0).collect::<Vec<_>>(), [0, 2, 3]);
    // Later messages were leased meanwhile. The message comes again all the same.
    take_back(&mut deliveries, again[0].1, &acks);
    let rest: BTreeSet<u64> =
        std::iter::from_fn(|| lease(&mut deliveries, &acks, 9)).map(|it| it.0).collect();
    assert_eq!(rest, [0, 4, 5, 6, 7, 8].into());
}

/// Complements `tests/counted/work.rs`, which does not notice a walk over messages in memory.
#[test]
fn how_many_messages_are_looked_at_for_one_does_not_depend_on_how_many_there_are() {
    // `count` messages each are leased, wait, are due, were released and were deleted.
    let looks = |count: u64| {
        let (mut deliveries, mut acks) = (Deliveries::new(Offset(0)), CountedAcks::default());
        let end = Offset(20 * count);
        let lease = |deliveries: &mut Deliveries, acks: &CountedAcks| {
            let is_visible = |_| {
                acks.looks.set(acks.looks.get() + 1);
                true
            };
            deliveries.lease_next(acks, end, at(10), is_visible).expect("there are enough")
        };
        let mut keys = Vec::new();
        for _ in 0..5 * count {
            keys.push(lease(&mut deliveries, &acks).1);
        }
        for (n, key) in keys.into_iter().enumerate() {
            match n % 5 {
                0 => {}
                1 => _ = deliveries.release(key, Due::even(Timestamp(1000)), &acks),
                2 => _ = deliveries.release(key, Due::even(Timestamp(1)), &acks),
                3 => _ = deliveries.release(key, AT_ONCE, &acks),
                _ => _ = deliveries.settle(key).map(|offset| acks.acked.insert(offset.0)),
            }
        }
        deliveries.defer(Offset(6 * count), Due::even(Timestamp(1000)));
        assert_eq!(
            deliveries.release_due(Timestamp(1), SKEW, (u64::MAX, usize::MAX), &acks, |_, _| ())
                as u64,
            count
        );
        let rounds = (0..40).map(|_| {
            let before = acks.looks.get();
            let (offset, key) = lease(&mut deliveries, &acks);
            deliveries.settle(key);
            acks.acked.insert(offset.0);
            acks.looks.get() - before
        });
        rounds.max().expect("there are some")
    };
    assert_eq!(looks(100), looks(10_000));
}

#[test]
fn a_lease_that_is_taken_back_leaves_the_order_of_its_priority_as_it_was() {
    let (mut deliveries, mut acks) = (Deliveries::new(Offset(0)), Acks::default());
    for offset in 0..4 {
        acks.1.insert(offset, 7);
        deliveries.prioritize(Offset(offset), 7);
    }
    for expected in 0..4 {
        let (offset, key) = lease(&mut deliveries, &acks, 4).expect("it is there");
        assert_eq!(offset, expected);
        take_back(&mut deliveries, key, &acks);
        assert_eq!(lease(&mut deliveries, &acks, 4).map(|it| it.0), Some(expected));
    }
}

#[test]
fn those_of_one_priority_that_have_waited_come_in_the_order_in_which_they_are_due() {
    let (mut deliveries, mut acks) = (Deliveries::new(Offset(0)), Acks::default());
    for (offset, due) in [(0, 3), (1, 1), (2, 2)] {
        acks.1.insert(offset, 7);
        deliveries.prioritize(Offset(offset), 7);
        deliveries.defer(Offset(offset), Due::even(Timestamp(due)));
    }
    assert_eq!(
        deliveries.release_due(Timestamp(3), SKEW, (u64::MAX, usize::MAX), &acks, |_, _| ()),
        3
    );
    let got = std::iter::from_fn(|| lease(&mut deliveries, &acks, 3)).map(|it| it.0);
    assert_eq!(got.collect::<Vec<_>>(), [1, 2, 0]);
}

#[test]
fn what_is_known_of_messages_with_a_priority_is_forgotten_with_them() {
    let rounds = 10_000;
    let prioritize = |deliveries: &mut Deliveries, acks: &mut AckSet, offset| {
        acks.prioritize(Offset(offset).only(), 7);
        deliveries.prioritize(Offset(offset), 7);
    };
    // Each message is acked before the next one arrives, or while others are left.
    for ahead in [0, 100] {
        let (mut deliveries, mut acks) = (Deliveries::new(Offset(0)), AckSet::default());
        (0..ahead).for_each(|offset| prioritize(&mut deliveries, &mut acks, offset));
        for offset in ahead..rounds {
            prioritize(&mut deliveries, &mut acks, offset);
            let end = Offset(offset + 1);
            let (offset, key) =
                deliveries.lease_next(&acks, end, at(10), |_| true).expect("it is there");
            deliveries.settle(key);
            acks.ack(offset.only());
        }
        let known = deliveries.known.iter().count() as u64;
        assert!(known <= ahead + PASSED_AT_ONCE, "{known}");
    }
    // The oldest messages are dropped, and no consumer leases any.
    let (mut deliveries, mut acks) = (Deliveries::new(Offset(0)), AckSet::default());
    for offset in 0..rounds {
        prioritize(&mut deliveries, &mut acks, offset);
        if let Some(dropped) = offset.checked_sub(10) {
            let end = Offset(offset + 1);
            assert_eq!(deliveries.ready(&acks, end).next(), Some(Offset(dropped)));
            acks.ack(Offset(dropped).only());
            deliveries.forget_all(&[Offset(dropped).only()], &[]);
        }
    }
    assert_eq!(deliveries.known.iter().count(), 10);
    assert_eq!(deliveries.lanes.iter().count(), 10);
}

#[test]
fn those_that_could_be_delivered_are_sorted_by_priority_and_age() {
    let (mut deliveries, mut acks) = (Deliveries::new(Offset(0)), Acks::default());
    for (offset, priority) in [(0, 5), (1, 5), (3, 2), (6, 2)] {
        acks.1.insert(offset, priority);
        deliveries.prioritize(Offset(offset), priority);
    }
    deliveries.defer(Offset(5), Due::even(Timestamp(1)));
    deliveries.defer(Offset(6), Due::even(Timestamp(1)));
    deliveries.defer(Offset(8), Due::even(Timestamp(9)));
    deliveries.release_due(Timestamp(1), SKEW, (u64::MAX, usize::MAX), &acks, |_, _| ());
    for _ in 0..2 {
        let ready: Vec<u64> = deliveries.ready(&acks, Offset(9)).map(|it| it.0).collect();
        assert_eq!(ready, [2, 4, 5, 7, 3, 6, 0, 1]);
    }
    // Taking back a lease makes its message fresh again.
    let mut keys: Vec<_> = std::iter::from_fn(|| lease(&mut deliveries, &acks, 9)).collect();
    let at = keys.iter().position(|it| it.0 == 7).expect("all are there");
    take_back(&mut deliveries, keys.swap_remove(at).1, &acks);
    let ready: Vec<u64> = deliveries.ready(&acks, Offset(9)).map(|it| it.0).collect();
    assert_eq!(ready, [7]);
}

/// The two kinds of due times move against each other when the clock is set.
#[test]
fn a_time_of_day_moves_with_the_clock_and_a_delay_does_not() {
    let acks = Acks::default();
    let mut deliveries = Deliveries::new(Offset(0));
    deliveries.defer(Offset(0), Due::day(Timestamp(1000)));
    deliveries.defer(Offset(1), Due::even(Timestamp(500)));
    assert_eq!(deliveries.next_due(Skew(0)), Some(Timestamp(500)));
    // The clock was set forward by 800: the even time is behind.
    assert_eq!(deliveries.next_due(Skew(-800)), Some(Timestamp(200)));
    let latest: Vec<_> = deliveries.latest(1, Skew(0)).into_iter().map(|it| it.1).collect();
    assert_eq!(latest, [Offset(0)]);
    let latest: Vec<_> = deliveries.latest(1, Skew(-800)).into_iter().map(|it| it.1).collect();
    assert_eq!(latest, [Offset(1)]);
    assert_eq!(
        deliveries.release_due(Timestamp(300), Skew(-800), (9, usize::MAX), &acks, |_, _| ()),
        1
    );
    assert_eq!(
        deliveries.release_due(Timestamp(499), Skew(-800), (9, usize::MAX), &acks, |_, _| ()),
        0
    );
    assert_eq!(
        deliveries.release_due(Timestamp(500), Skew(0), (9, usize::MAX), &acks, |_, _| ()),
        1
    );
}

/// A receive passes over a million messages that wait in some steps, not in a million.
#[test]
fn a_million_delayed_messages_are_passed_over_at_once() {
    let mut deliveries = Deliveries::new(Offset(0));
    let mut spilled = AckSet::default();
    spilled.spill(Offset(0).to(Offset(1_000_000)));
    deliveries.add_spilled(&spilled);
    let acks = CountedAcks::default();
    let leased = deliveries.lease_next(&acks, Offset(1_000_001), at(10), |_| true);
    assert_eq!(leased.map(|(offset, _)| offset), Some(Offset(1_000_000)));
    assert!(acks.looks.get() < 10, "{} offsets were visited", acks.looks.get());
}
