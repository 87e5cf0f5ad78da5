//! The tail index against a plain list.

use proptest::prelude::*;

use crate::{
    format::lives::Lives,
    ids::{Lsn, Offset},
    store::tail::{RunPlace, Tail},
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn agrees_with_a_plain_list(
        start in 0..100u64,
        runs in proptest::collection::vec((1..33u64, 1..5_000_000_000u64), 1..60),
        repeat in 1..60u64,
        drops in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut tail = Tail::new(Offset(start));
        let mut list: Vec<(RunPlace, Offset)> = Vec::new();
        let (mut offset, mut lsn) = (start, 4096);
        for _ in 0..repeat {
            for (count, distance) in &runs {
                lsn += distance;
                let place = RunPlace { first: Offset(offset), lsn: Lsn(lsn), len: 100 };
                offset += count;
                tail.push(place, Offset(offset), Lives::NONE);
                list.push((place, Offset(offset)));
            }
        }
        prop_assert_eq!(tail.end(), Offset(offset));
        prop_assert_eq!(tail.find(Offset(offset)), None);
        let mut low = start;
        for index in drops {
            low = low.max(start + index.index((offset - start) as usize) as u64);
            tail.drop_below(Offset(low));
            prop_assert!(tail.start() <= Offset(low).max(tail.start().min(tail.end())));
        }
        for (place, end) in &list {
            for probe in [place.first.0, end.0 - 1] {
                if probe >= low {
                    prop_assert_eq!(tail.find(Offset(probe)), Some(*place));
                    let behind: Vec<_> = tail.runs_from(Offset(probe)).take(3).collect();
                    let from = list.iter().position(|(it, _)| it == place).expect("it is listed");
                    let expected: Vec<_> = list[from..].iter().take(3).map(|(it, _)| *it).collect();
                    prop_assert_eq!(behind, expected);
                }
            }
            if place.first >= tail.start() {
                prop_assert_eq!(tail.first_at_or_behind(place.lsn), place.first);
                prop_assert_eq!(tail.first_at_or_behind(Lsn(place.lsn.0 + 1)), *end);
            }
        }
    }
}

#[test]
fn what_is_behind_a_position_starts_at_the_end_if_there_is_nothing() {
    let mut tail = Tail::new(Offset(5));
    assert_eq!(tail.first_at_or_behind(Lsn(0)), Offset(5));
    tail.push(RunPlace { first: Offset(5), lsn: Lsn(100), len: 9 }, Offset(8), Lives::NONE);
    assert_eq!(tail.first_at_or_behind(Lsn(100)), Offset(5));
    assert_eq!(tail.first_at_or_behind(Lsn(101)), Offset(8));
    tail.drop_below(Offset(8));
    assert_eq!(tail.start(), Offset(8));
    assert_eq!(tail.end(), Offset(8));
}
