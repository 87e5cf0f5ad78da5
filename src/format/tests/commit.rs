use std::borrow::Cow;

use proptest::prelude::*;

use super::{
    super::{
        clock::ClockState, commit::*, entity::*, fuzzing::put_run, record::RecordParts, wire::*,
    },
    batter,
    meta::entities,
    record::{Owned, any_record},
};
use crate::{
    config::RUN_MESSAGES_MAX,
    ids::{CursorId, Due, EntityId, LogId, Offset, Skew, Timestamp},
};

fn decoded(payload: &[u8]) -> Decoded<Vec<Change<'_>>> {
    changes(payload).map(|change| change.map(|(_, change)| change)).collect()
}

fn run(first: u64, records: &[Owned]) -> Vec<u8> {
    let messages: Vec<_> = records.iter().map(Owned::message).collect();
    let mut out = Vec::new();
    let parts = messages.iter().map(|message| RecordParts::of(message, Timestamp(0)));
    put_run(&mut out, LogId(3), Offset(first), Timestamp(1000), parts);
    out
}

fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

/// One change of each kind.
fn one_of_each() -> Vec<u8> {
    let mut out = run(40, &[Owned { payload: b"hello".to_vec(), ..Owned::default() }]);
    Change::Ack {
        cursor: CursorId(3),
        offsets: OffsetRanges::Listed(&[1, 2, 3, 9, 40].map(Offset)),
    }
    .put(&mut out);
    Change::Defer {
        cursor: CursorId(3),
        offset: Offset(41),
        attempts: u32::MAX,
        due: Due::day(Timestamp(1_700_000_000_000)),
    }
    .put(&mut out);
    Change::Seek { cursor: CursorId(8), next: Offset(u64::MAX) }.put(&mut out);
    Change::Create(Cow::Borrowed(&entities()[1])).put(&mut out);
    Change::Delete { entity: EntityId(5) }.put(&mut out);
    Change::Trim { log: LogId(6), start: Offset(77) }.put(&mut out);
    Change::Prioritize { cursor: CursorId(3), first: Offset(41), count: 2, priority: 9 }
        .put(&mut out);
    Change::Spill { cursor: CursorId(3), offsets: OffsetRanges::Listed(&[4, 5, 8].map(Offset)) }
        .put(&mut out);
    Change::Update(Cow::Borrowed(&entities()[2].entity)).put(&mut out);
    even_deferral().put(&mut out);
    Change::Clock(clock()).put(&mut out);
    acks_of_others().put(&mut out);
    out
}

fn acks_of_others() -> Change<'static> {
    let offsets = OffsetRanges::Listed(&[Offset(40), Offset(41), Offset(43)]);
    Change::AckOthers { log: LogId(3), keeper: CursorId(6), offsets }
}

fn even_deferral() -> Change<'static> {
    let due = Due::even(Timestamp(1_700_000_000_000));
    Change::Defer { cursor: CursorId(3), offset: Offset(41), attempts: 1, due }
}

pub fn clock() -> ClockState {
    ClockState {
        boot: *b"a machine's boot",
        base_ms: 1_699_999_000_000,
        skew: Skew(-3_600_000),
        latest: Timestamp(1_700_000_060_000),
        is_doubtful: true,
    }
}

#[test]
fn impossible_clocks_and_due_times_are_refused() {
    let refused = |change: Change<'_>| {
        let mut out = Vec::new();
        change.put(&mut out);
        assert!(decoded(&out).is_err(), "{change:?}");
    };
    refused(Change::Clock(ClockState { base_ms: i64::MIN, ..clock() }));
    refused(Change::Clock(ClockState { skew: Skew(1 << 62), ..clock() }));
    refused(Change::Clock(ClockState { latest: Timestamp(1 << 62), ..clock() }));
    let mut out = Vec::new();
    Change::Clock(clock()).put(&mut out);
    *out.last_mut().unwrap() = 2;
    assert!(decoded(&out).is_err());
    // An even deferral until 2^63.
    let mut out = vec![11, 3, 41, 1];
    put_varint(&mut out, 1 << 63);
    assert!(decoded(&out).is_err());
}

/// Stores of engines that knew times of day only hold such due times.
#[test]
fn an_old_due_time_is_a_time_of_day() {
    for (stored, due) in [(0, 0), (1_700_000_000_000, 1_700_000_000_000), (u64::MAX, u64::MAX >> 1)]
    {
        let mut out = vec![3, 3, 41, 1];
        put_varint(&mut out, stored);
        let Change::Defer { due: found, .. } = decoded(&out).unwrap()[0] else { panic!() };
        assert_eq!(found, Due::day(Timestamp(due)));
    }
}

#[test]
fn each_change_there_and_back() {
    let payload = one_of_each();
    let changes = decoded(&payload).unwrap();
    let Change::Run(run) = &changes[0] else { panic!("{:?}", changes[0]) };
    assert_eq!((run.log, run.first, run.count, run.end()), (LogId(3), Offset(40), 1, Offset(41)));
    let Change::Ack { cursor: CursorId(3), offsets } = &changes[1] else { panic!() };
    let found: Vec<_> = offsets.into_iter().map(|it| it.start.0..it.end.0).collect();
    assert_eq!(found, [1..4, 9..10, 40..41]);
    let Change::Spill { cursor: CursorId(3), offsets } = &changes[8] else { panic!() };
    let found: Vec<_> = offsets.into_iter().map(|it| it.start.0..it.end.0).collect();
    assert_eq!(found, [4..6, 8..9]);
    assert_eq!(changes[9], Change::Update(Cow::Owned(entities()[2].entity.clone())));
    assert_eq!(changes[10..], [even_deferral(), Change::Clock(clock()), acks_of_others()]);
    assert_eq!(
        changes[2..8],
        [
            Change::Defer {
                cursor: CursorId(3),
                offset: Offset(41),
                attempts: u32::MAX,
                due: Due::day(Timestamp(1_700_000_000_000)),
            },
            Change::Seek { cursor: CursorId(8), next: Offset(u64::MAX) },
            Change::Create(Cow::Owned(entities()[1].clone())),
            Change::Delete { entity: EntityId(5) },
            Change::Trim { log: LogId(6), start: Offset(77) },
            Change::Prioritize { cursor: CursorId(3), first: Offset(41), count: 2, priority: 9 },
        ]
    );
}

#[test]
fn impossible_priorities_are_refused() {
    for (first, count, priority) in
        [(1, 0, 1), (1, 1, 0), (1, 1, 10), (u64::MAX, 1, 1), (1, u64::MAX, 1)]
    {
        let mut out = Vec::new();
        Change::Prioritize { cursor: CursorId(3), first: Offset(first), count, priority }
            .put(&mut out);
        assert!(decoded(&out).is_err(), "{count} from {first} on of {priority}");
    }
}

#[test]
fn no_bytes_are_no_changes() {
    assert_eq!(decoded(&[]), Ok(Vec::new()));
}

/// The store reads a run again by its place alone.
#[test]
fn a_change_says_where_it_begins() {
    let payload = one_of_each();
    for change in changes(&payload) {
        let (at, change) = change.unwrap();
        if let Change::Run(run) = change {
            let again = Run::decode(&payload[at..][..run.len()]).unwrap();
            assert_eq!(again, run);
            assert_eq!(payload[at + run.body_at..][..run.body.len()], *run.body);
        } else {
            assert!(Run::decode(&payload[at..]).is_err());
        }
    }
}

#[test]
fn hostile_changes_end_in_an_error() {
    batter(&one_of_each(), |payload| {
        let mut failed = false;
        for change in changes(payload) {
            assert!(!failed, "something follows an error");
            match change {
                Ok((_, Change::Run(run))) => {
                    let _ = run.records().collect::<Vec<_>>();
                    let _ = run.record(run.first);
                }
                Ok((_, Change::Ack { offsets, .. })) => {
                    let mut at = Offset(0);
                    for range in offsets {
                        assert!(at <= range.start && range.start < range.end);
                        at = range.end;
                    }
                }
                Ok(_) => {}
                Err(_) => failed = true,
            }
        }
    });
}

#[test]
fn an_unknown_change_is_refused() {
    for kind in (0..=255).filter(|kind| !(1..=12).contains(kind)) {
        assert!(decoded(&[kind, 1, 1, 1, 1]).is_err(), "{kind}");
    }
}

#[test]
fn a_run_has_between_one_and_the_most_messages() {
    let records = vec![Owned { timestamp: 1000, ..Owned::default() }; RUN_MESSAGES_MAX];
    let full = run(0, &records);
    assert_eq!(Run::decode(&full).unwrap().records().count(), RUN_MESSAGES_MAX);
    // Kind, log and first offset are a byte each here: the count is the fourth.
    for count in [0, RUN_MESSAGES_MAX as u8 + 1, 0x7F] {
        let mut other = full.clone();
        other[3] = count;
        assert!(Run::decode(&other).is_err(), "{count}");
    }
}

#[test]
fn a_run_holds_its_records_and_nothing_else() {
    let records = vec![Owned { timestamp: 1000, payload: vec![7; 3], ..Owned::default() }; 3];
    let bytes = run(10, &records);
    let fits = |bytes: &[u8]| Run::decode(bytes)?.records().collect::<Decoded<Vec<_>>>();
    assert_eq!(fits(&bytes).unwrap().len(), 3);
    for count in [1, 2, 4] {
        let mut other = bytes.clone();
        other[3] = count;
        assert!(fits(&other).is_err(), "{count}");
    }
    let run = Run::decode(&bytes).unwrap();
    assert!(run.record(Offset(9)).is_err() && run.record(Offset(13)).is_err());
}

#[test]
fn a_record_of_a_run_bears_no_offset() {
    let record = [8, 5, 1, b'x'];
    let head = [1, 3, 0, 1, 0, record.len() as u8, 0, 0, 0];
    let bytes = [&head[..], &record].concat();
    let run = Run::decode(&bytes).unwrap();
    assert!(run.records().next().unwrap().is_err());
    assert!(run.record(Offset(0)).is_err());
}

#[test]
fn a_run_ends_below_the_ceiling() {
    let at = |first: u64| {
        let mut out = vec![1, 3];
        put_varint(&mut out, first);
        out.extend_from_slice(&[1, 0, 2, 0, 0, 0, 0, 0]);
        out
    };
    assert_eq!(Run::decode(&at(NUMBER_CEILING - 1)).unwrap().end(), Offset(NUMBER_CEILING));
    for first in [NUMBER_CEILING, u64::MAX - 1, u64::MAX] {
        assert!(Run::decode(&at(first)).is_err(), "{first}");
    }
}

#[test]
fn a_run_longer_than_what_is_there_is_refused() {
    let mut bytes = run(0, &[Owned { timestamp: 1000, ..Owned::default() }]);
    let length_at = bytes.len() - 2 - 4;
    assert_eq!(bytes[length_at..length_at + 4], [2, 0, 0, 0]);
    for length in [3, 1 << 30, u32::MAX] {
        bytes[length_at..length_at + 4].copy_from_slice(&u32::to_le_bytes(length));
        assert!(Run::decode(&bytes).is_err());
    }
}

#[test]
fn ranges_are_refused_where_they_end_nowhere() {
    let ranges = |pairs: &[(u64, u64)]| {
        let mut out = vec![2, 1];
        put_varint(&mut out, pairs.len() as u64);
        for (gap, more) in pairs {
            put_varint(&mut out, *gap);
            put_varint(&mut out, *more);
        }
        decoded(&out).map(|changes| changes.len())
    };
    let top = NUMBER_CEILING - 1;
    assert_eq!(ranges(&[(0, top)]), Ok(1), "all there can be");
    assert_eq!(ranges(&[(top, 0)]), Ok(1), "the last there can be");
    for pairs in [&[(top, 1)][..], &[(1, top)], &[(0, u64::MAX)], &[(u64::MAX, 0)]] {
        assert!(ranges(pairs).is_err(), "{pairs:?}");
    }
    assert!(ranges(&[(0, top), (1, 0)]).is_err());
    assert!(ranges(&[(top, top), (top, top), (top, top)]).is_err());
    assert!(ranges(&[(0, 3), (0, 3)]).is_err(), "two that are one");
    // So many ranges are announced, and none is there.
    let mut endless = vec![2, 1];
    put_varint(&mut endless, u64::MAX);
    assert!(decoded(&endless).is_err());
}

#[test]
fn numbers_that_nobody_gave_out_are_refused() {
    let (over, fine) = (NUMBER_CEILING, NUMBER_CEILING - 1);
    let puts: [fn(&mut Vec<u8>, u64); 10] = [
        |out, n| Change::Delete { entity: EntityId(n) }.put(out),
        |out, n| Change::Trim { log: LogId(n), start: Offset(0) }.put(out),
        |out, n| Change::Trim { log: LogId(0), start: Offset(n) }.put(out),
        |out, n| Change::Seek { cursor: CursorId(n), next: Offset(0) }.put(out),
        |out, n| {
            Change::Defer { cursor: CursorId(n), offset: Offset(0), attempts: 1, due: Due::NOW }
                .put(out);
        },
        |out, n| {
            Change::Defer { cursor: CursorId(0), offset: Offset(n), attempts: 1, due: Due::NOW }
                .put(out);
        },
        |out, n| {
            Change::Ack { cursor: CursorId(n), offsets: OffsetRanges::Listed(&[Offset(0)]) }
                .put(out);
        },
        |out, n| {
            let offsets = OffsetRanges::Listed(&[Offset(0)]);
            Change::AckOthers { log: LogId(n), keeper: CursorId(0), offsets }.put(out);
        },
        |out, n| {
            let offsets = OffsetRanges::Listed(&[Offset(0)]);
            Change::AckOthers { log: LogId(0), keeper: CursorId(n), offsets }.put(out);
        },
        |out, n| {
            Change::Spill { cursor: CursorId(n), offsets: OffsetRanges::Listed(&[Offset(0)]) }
                .put(out);
        },
    ];
    for (n, put) in puts.into_iter().enumerate() {
        assert!(decoded(&bytes(|out| put(out, fine))).is_ok(), "{n}");
        assert!(decoded(&bytes(|out| put(out, over))).is_err(), "{n}");
    }
}

#[test]
fn attempts_have_32_bits() {
    let mut payload = vec![3, 1, 1];
    put_varint(&mut payload, 1 << 32);
    assert!(decoded(&payload).is_err());
}

#[test]
fn a_creation_holds_nothing_else() {
    let payload = bytes(|out| Change::Create(Cow::Borrowed(&entities()[0])).put(out));
    let mut longer = payload.clone();
    longer[1] += 1;
    longer.push(0);
    assert!(decoded(&payload).is_ok());
    assert!(decoded(&longer).is_err(), "a byte is left over");
    let wrong = Creation { starts: vec![Offset(0); 2], ..entities()[0].clone() };
    assert!(
        decoded(&bytes(|out| Change::Create(Cow::Borrowed(&wrong)).put(out))).is_err(),
        "two starts for one cursor"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_plain_run_has_the_bytes_of_any_run(
        log in 0..NUMBER_CEILING,
        first in 0..NUMBER_CEILING,
        time: u64,
        payload in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let (log, first, time) = (LogId(log), Offset(first), Timestamp(time));
        let message = crate::message::Message::new(&payload);
        let parts = std::iter::once(RecordParts::of(&message, time));
        let any = bytes(|out| put_run(out, log, first, time, parts));
        let run = PlainRun::new(log, first, time, &payload);
        let mut plain = vec![0; run.len()];
        run.put(&mut plain);
        prop_assert_eq!(&plain, &any);
        prop_assert_eq!(run.body_at, Run::decode(&any).expect("it decodes").body_at);
    }

    #[test]
    fn any_run_there_and_back(
        records in prop::collection::vec(any_record(), 1..=RUN_MESSAGES_MAX),
        first in 0..NUMBER_CEILING - 64,
    ) {
        let bytes = run(first, &records);
        let run = Run::decode(&bytes).unwrap();
        prop_assert_eq!(run.len(), bytes.len());
        let mut found = Vec::new();
        for record in run.records() {
            let (offset, spans) = record.unwrap();
            prop_assert_eq!(offset, Offset(first + found.len() as u64));
            prop_assert_eq!(run.record(offset), Ok(spans));
            found.push(Owned::of(run.body, &spans));
        }
        prop_assert_eq!(found, records);
    }

    #[test]
    fn any_ack_there_and_back(offsets in prop::collection::btree_set(0..200u64, 0..60), high: bool) {
        let lift = if high { NUMBER_CEILING - 200 } else { 0 };
        let offsets: Vec<_> = offsets.into_iter().map(|n| Offset(n + lift)).collect();
        let cursor = CursorId(1);
        let put = |offsets| bytes(|out| Change::Ack { cursor, offsets }.put(out));
        let payload = put(OffsetRanges::Listed(&offsets));
        let changes = decoded(&payload).unwrap();
        let Change::Ack { offsets: ranges, .. } = &changes[0] else { panic!() };
        let ranges: Vec<_> = ranges.into_iter().collect();
        prop_assert!(ranges.is_sorted_by(|a, b| a.end < b.start), "neighbours are one range");
        prop_assert_eq!(&put(OffsetRanges::Ranges(&ranges)), &payload);
        let Change::Ack { offsets: encoded, .. } = changes[0] else { panic!() };
        prop_assert_eq!(&put(encoded), &payload);
        let found: Vec<_> = ranges.into_iter().flatten().collect();
        prop_assert_eq!(found, offsets);
    }
}
