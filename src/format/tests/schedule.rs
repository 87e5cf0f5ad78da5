use proptest::prelude::*;

use super::{super::schedule::*, batter};
use crate::ids::Timestamp;

fn sample() -> Plan {
    Plan {
        cron: "0 3 * * *".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
        target: Target::Topic("ticks".to_owned()),
        missed_runs: MissedRuns::Skip,
        next: Timestamp(1_700_000_000_000),
        template: Template {
            payload: b"go".to_vec(),
            key: Some(b"k".to_vec()),
            headers: vec![("type".to_owned(), b"json".to_vec())],
            time_to_live_ms: Some(60_000),
            priority: 7,
        },
    }
}

/// Schedules lie in stores for years. Whoever changes this writes another version, and reads both.
#[test]
fn the_layout_is_pinned() {
    let mut expected = vec![1]; // the version
    expected.extend(b"\x090 3 * * *");
    expected.extend(b"\x0dEurope/Berlin");
    expected.extend(b"\x01\x05ticks"); // to a topic
    expected.push(2); // skips
    expected.extend([0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31]);
    expected.extend(b"\x02go");
    expected.extend(b"\x01\x01k"); // a key
    expected.extend(b"\x01\x04type\x04json"); // one header
    expected.extend([1, 0xe0, 0xd4, 0x03]); // 60,000 ms to live
    expected.push(7); // its priority
    assert_eq!(sample().encode(), expected);
    assert_eq!(Plan::decode(&expected), Ok(sample()));
    let variants = [
        (Target::Queue(String::new()), MissedRuns::RunOnce, [0, 0, 0]),
        (Target::Topic(String::new()), MissedRuns::RunAll, [1, 0, 1]),
        (Target::Stream(String::new()), MissedRuns::Skip, [2, 0, 2]),
    ];
    for (target, missed_runs, bytes) in variants {
        let plan = Plan { target, missed_runs, ..sample() };
        assert_eq!(plan.encode()[25..28], bytes);
    }
}

#[test]
fn hostile_bytes_are_refused() {
    let bytes = sample().encode();
    batter(&bytes, |bytes| drop(Plan::decode(bytes)));
    for len in 0..bytes.len() {
        let cut = Plan::decode(&bytes[..len]);
        assert_eq!(cut, Err(NoPlan::Malformed), "of {len} bytes");
    }
    assert_eq!(Plan::decode(&[&bytes[..], &[0]].concat()), Err(NoPlan::Malformed));
    assert_eq!(Plan::decode(&[2, 1, 1]), Err(NoPlan::Version(2)));
    assert_eq!(Plan::decode(&[0]), Err(NoPlan::Version(0)));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Plan::decode(&[&[1], &bytes[..]].concat());
    }

    #[test]
    fn there_and_back(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        key in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
        headers in prop::collection::vec(("\\PC{0,6}", prop::collection::vec(any::<u8>(), 0..9)), 0..4),
        time_to_live_ms in prop::option::of(any::<u64>()),
        priority in 0..10u8,
        next: u64,
        cron in "\\PC{0,20}",
    ) {
        let template = Template { payload, key, headers, time_to_live_ms, priority };
        let plan = Plan { cron, next: Timestamp(next), template, ..sample() };
        prop_assert_eq!(Plan::decode(&plan.encode()), Ok(plan));
    }
}
