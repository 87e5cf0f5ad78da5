//! Ack states against plain sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use proptest::prelude::*;

use crate::{
    format::meta::ChunkState,
    ids::{CursorId, Due, Offset, OffsetRange, Timestamp},
    store::acks::{AckSet, CHUNK_OFFSETS, acked_by_all},
};

const CURSOR: CursorId = CursorId(1);

fn of(range: Range<u64>) -> OffsetRange {
    Offset(range.start).to(Offset(range.end))
}

/// Two chunks and a bit: the borders between chunks are where mistakes are made.
const OFFSETS: u64 = 2 * 65_536 + 100;

#[derive(Clone, Debug)]
enum Step {
    Ack(u64, u64),
    /// The attempts and the due time of one message.
    Defer(u64, u32, u64),
    Prioritize(u64, u64, u8),
    /// Into a metalog and back.
    Restore,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..40u64, 65_500..65_600u64, 131_000..131_170u64, 0..OFFSETS,]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (offset(), 1..4u64).prop_map(|(at, len)| Step::Ack(at, len)),
        1 => (offset(), 1..70_000u64).prop_map(|(at, len)| Step::Ack(at, len)),
        4 => (offset(), 0..9u32, 0..3u64).prop_map(|(at, n, due)| Step::Defer(at, n, due)),
        2 => (offset(), 1..70u64, 1..10u8).prop_map(|(at, len, of)| Step::Prioritize(at, len, of)),
        1 => Just(Step::Restore),
    ]
}

/// What the metalog would hold: the newest value of each chunk, and the floor.
#[derive(Default)]
struct Metalog {
    chunks: BTreeMap<u64, ChunkState>,
    floor: Offset,
}

impl Metalog {
    fn capture(&mut self, acks: &mut AckSet) {
        while let Some(chunk) = acks.capture_changed(CURSOR) {
            self.chunks.insert(chunk.chunk, chunk);
        }
        self.floor = acks.floor();
    }

    fn restore(&self) -> AckSet {
        let mut acks = AckSet::default();
        for chunk in self.chunks.values() {
            acks.restore(chunk).expect("it was captured");
        }
        acks.restore_floor(self.floor);
        acks
    }
}

/// The chunk was left out, as it was not there any more, and the metalog still had the attempts: after an open, a message
/// that was given back had lost an attempt, and one that had come back from the delay index was never delivered.
#[test]
fn what_was_cleared_in_a_chunk_that_is_empty_now_does_not_come_back() {
    let (mut acks, mut metalog) = (AckSet::new(Offset(0)), Metalog::default());
    acks.defer(Offset(0), 1, Due::NOW);
    acks.defer(Offset(1), 1, Due::NOW);
    acks.spill(of(2..3));
    metalog.capture(&mut acks);
    acks.defer(Offset(1), 0, Due::NOW);
    acks.defer(Offset(2), 0, Due::NOW);
    acks.ack(of(0..1));
    metalog.capture(&mut acks);
    let restored = metalog.restore();
    assert_eq!((restored.floor(), restored.attempts(Offset(1))), (Offset(1), 0));
    assert!(!restored.is_spilled(Offset(2)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_plain_set(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut acks, mut metalog) = (AckSet::new(Offset(0)), Metalog::default());
        let mut acked = BTreeSet::new();
        let mut deferred: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut priorities: BTreeMap<u64, u8> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Ack(at, len) => {
                    let end = (at + len).min(OFFSETS);
                    acks.ack(of(at..end));
                    acked.extend(at..end);
                    deferred.retain(|offset, _| !(at..end).contains(offset));
                    priorities.retain(|offset, _| !(at..end).contains(offset));
                }
                Step::Defer(at, n, due) => {
                    acks.defer(Offset(at), n, Due::from_stored(due));
                    if !acked.contains(&at) {
                        deferred.insert(at, (n, due));
                    }
                    if (n, due) == (0, 0) {
                        deferred.remove(&at);
                    }
                }
                Step::Prioritize(at, len, priority) => {
                    let range = at..(at + len).min(OFFSETS);
                    acks.prioritize(of(range.clone()), priority);
                    let open = range.filter(|offset| !acked.contains(offset));
                    priorities.extend(open.map(|offset| (offset, priority)));
                }
                Step::Restore => {
                    metalog.capture(&mut acks);
                    acks = metalog.restore();
                }
            }
            let floor = (0..).find(|offset| !acked.contains(offset)).expect("endless");
            prop_assert_eq!(acks.floor(), Offset(floor));
            prop_assert_eq!(acks.unacked(Offset(OFFSETS)), OFFSETS - acked.len() as u64);
            for at in [0, floor, 39, 65_535, 65_536, 131_071, 131_072, OFFSETS - 1] {
                prop_assert_eq!(acks.is_acked(Offset(at)), acked.contains(&at));
                let next = (at..OFFSETS).find(|offset| !acked.contains(offset)).map(Offset);
                prop_assert_eq!(acks.next_unacked(of(at..OFFSETS)), next);
                let range = at..(at + 500).min(OFFSETS);
                let count = range.clone().filter(|offset| acked.contains(offset)).count() as u64;
                prop_assert_eq!(acked_by_all(&[&acks], of(range)), count);
            }
            for (at, (n, _)) in &deferred {
                prop_assert_eq!(acks.attempts(Offset(*at)), *n);
            }
            let waiting: Vec<_> = acks.deferred(Offset(0)).collect();
            let due = deferred.iter().filter(|(_, (_, due))| *due > 0);
            let due: Vec<_> = due.map(|(at, (_, due))| (Offset(*at), Due::from_stored(*due))).collect();
            prop_assert_eq!(waiting, due);
            let told = acks.prioritized_chunks().flat_map(|(index, priority, lows)| {
                lows.into_iter().map(move |low| (index * CHUNK_OFFSETS + u64::from(low), priority))
            });
            let told: BTreeMap<u64, u8> = told.collect();
            prop_assert_eq!(&told, &priorities);
            for at in [0, floor, 39, 65_535, 65_536, OFFSETS - 1] {
                let priority = priorities.get(&at).copied().unwrap_or(0);
                prop_assert_eq!(acks.priority(Offset(at)), priority);
            }
        }
    }

    #[test]
    fn what_all_have_acked_is_what_each_has(
        sets in proptest::collection::vec(
            proptest::collection::vec((offset(), 1..2000u64), 0..12), 0..4),
        start in offset(), len in 1..70_000u64,
    ) {
        let range = start..(start + len).min(OFFSETS);
        let mut cursors = Vec::new();
        let mut plain: Vec<BTreeSet<u64>> = Vec::new();
        for ranges in sets {
            let (mut acks, mut set) = (AckSet::new(Offset(0)), BTreeSet::new());
            for (at, len) in ranges {
                acks.ack(of(at..at + len));
                set.extend(at..at + len);
            }
            cursors.push(acks);
            plain.push(set);
        }
        let all: Vec<&AckSet> = cursors.iter().collect();
        let dead = |offset: &u64| plain.iter().all(|set| set.contains(offset));
        let expected = range.clone().filter(dead).count() as u64;
        prop_assert_eq!(acked_by_all(&all, of(range)), expected);
    }
}

#[test]
fn a_million_holes_are_kept_and_cost_bits() {
    let (mut acks, mut metalog) = (AckSet::new(Offset(0)), Metalog::default());
    for offset in (1..2_000_000u64).step_by(2) {
        acks.ack(of(offset..offset + 1));
    }
    metalog.capture(&mut acks);
    let bytes: usize = metalog.chunks.values().map(|chunk| chunk.acked.len()).sum();
    assert!(bytes < 2_000_000 / 8 + 5000, "{bytes} bytes");
    let restored = metalog.restore();
    assert_eq!(restored.unacked(Offset(2_000_000)), 1_000_000);
    assert!((0..2_000_000).all(|n| restored.is_acked(Offset(n)) == (n % 2 == 1)));
}

#[test]
fn a_backlog_that_nobody_has_touched_costs_nothing() {
    let mut acks = AckSet::new(Offset(0));
    acks.ack(of(0..1_000_000_000));
    assert_eq!(acks.unacked(Offset(u64::MAX / 2)), u64::MAX / 2 - 1_000_000_000);
    assert_eq!(acks.capture_all(CURSOR), []);
}

#[test]
fn a_chunk_that_was_damaged_on_the_way_is_refused() {
    let mut acks = AckSet::new(Offset(0));
    acks.ack(of(5..9));
    let good = acks.capture_all(CURSOR).remove(0);
    let mut bad = good.clone();
    bad.acked.truncate(bad.acked.len() - 1);
    assert!(AckSet::default().restore(&bad).is_err());
    bad.acked = vec![0xFF; 40];
    assert!(AckSet::default().restore(&bad).is_err());
    let beyond = ChunkState { chunk: u64::MAX, ..good };
    assert!(AckSet::default().restore(&beyond).is_err());
}

#[test]
fn what_is_not_acked_is_told_in_ranges() {
    let mut seed = 7u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    // Around the borders of chunks, and far from them.
    let places = [0, 10, 65_500, 65_536, 131_000, 131_072, 400_000];
    for _ in 0..80 {
        let (mut acks, mut plain) = (AckSet::default(), BTreeSet::new());
        for _ in 0..below(12) {
            let start = places[below(7) as usize] + below(80);
            let end = start + below(60);
            acks.ack(of(start..end));
            plain.extend(start..end);
        }
        assert_eq!(acks.end().0, plain.last().map_or(0, |last| last + 1));
        let from = places[below(7) as usize] + below(80);
        let range = from..from + below(70_000);
        let told = acks.unacked_in(of(range.clone()));
        assert!(told.iter().all(|it| it.start < it.end));
        assert!(told.windows(2).all(|pair| pair[0].end < pair[1].start), "{told:?}");
        let told: BTreeSet<u64> = told.into_iter().flatten().map(|it| it.0).collect();
        assert!(range.filter(|offset| !plain.contains(offset)).eq(told));
    }
}

#[test]
fn a_metalog_with_an_impossible_priority_is_refused() {
    let mut acks = AckSet::new(Offset(0));
    acks.prioritize(of(0..70_000), 9);
    acks.prioritize(of(5..6), 8);
    acks.prioritize(of(7..8), 7);
    let chunks = acks.capture_all(CURSOR);
    for chunk in &chunks {
        AckSet::default().restore(chunk).expect("they are possible");
    }
    for digit in [1, 2] {
        let mut chunk = chunks[0].clone();
        // A number with the digit 8 may not have the digits 2 or 4.
        chunk.priorities[digit] = chunk.priorities[3].clone();
        assert!(AckSet::default().restore(&chunk).is_err());
    }
}

#[test]
fn a_metalog_that_tells_two_places_of_a_message_is_refused() {
    let mut acks = AckSet::new(Offset(0));
    acks.spill(of(2..3));
    acks.defer(Offset(4), 0, Due::day(Timestamp(9)));
    acks.ack(of(6..7));
    let chunk = acks.capture_all(CURSOR).remove(0);
    AckSet::default().restore(&chunk).expect("it is possible");
    let acked = ChunkState { acked: chunk.spilled.clone(), ..chunk.clone() };
    assert!(AckSet::default().restore(&acked).is_err());
    let due = ChunkState { due: vec![(2, Due::day(Timestamp(9)))], ..chunk };
    assert!(AckSet::default().restore(&due).is_err());
}
