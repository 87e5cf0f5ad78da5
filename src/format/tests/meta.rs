use proptest::prelude::*;

use super::{
    super::{entity::*, lives::Lives, meta::*, wire::*},
    batter,
    commit::clock,
};
use crate::{
    config::{NAME_BYTES_MAX, PARTITIONS_MAX},
    ids::{CursorId, Due, EntityId, LogId, Lsn, Offset, Timestamp},
};

fn creation(id: u64, name: &str, kind: EntityKind) -> Creation {
    let entity = Entity { id: EntityId(id), name: name.into(), kind };
    let starts = entity.cursors().map(|(cursor, _)| Offset(cursor.0 * 10)).collect();
    Creation { entity, starts }
}

/// All that can be said of how messages are delivered.
fn payments() -> Delivering {
    Delivering {
        lease_ms: 30_000,
        delay_ms: 0,
        backoff: BackoffMs::Exponential { first_ms: 1000, most_ms: 60_000, has_jitter: true },
        time_to_live_ms: 86_400_000,
        dead_letters: Some(DeadLetters { queue: EntityId(12), attempts_max: 5 }),
        is_ordered: true,
        is_exclusive: true,
        limit: Some(Limit { messages: Some(1_000_000), bytes: Some(1 << 30), drops_oldest: false }),
        filter: None,
        is_paused: false,
    }
}

/// One creation of each kind.
pub fn entities() -> Vec<Creation> {
    vec![
        creation(1, "payments", EntityKind::Queue(payments().into())),
        creation(2, "order.created", EntityKind::Topic { retention: None }),
        creation(
            3,
            "shipping",
            EntityKind::Subscription {
                topic: EntityId(2),
                delivering: Delivering::leasing(1000).into(),
            },
        ),
        creation(4, "history", EntityKind::Stream { partitions: 4, retention: None }),
        creation(
            8,
            "billing",
            EntityKind::Group { stream: EntityId(4), partitions: 4, keeps_unread: false },
        ),
        creation(12, "timetable", EntityKind::DelayIndex { queue: EntityId(1) }),
    ]
}

/// The numbers 0 and 2 in the portable Roaring format.
pub const BITMAP: [u8; 20] = [
    0x3A, 0x30, 0, 0, // The cookie of a bitmap without runs.
    1, 0, 0, 0, // One container:
    0, 0, 1, 0, // of the numbers whose upper half is 0, of which there are 1 and one more.
    16, 0, 0, 0, // It begins here:
    0, 0, 2, 0, // the lower halves.
];

/// One entry of each kind.
pub fn entries() -> Vec<(&'static str, MetaEntry)> {
    let (log, cursor, base) = (LogId(1), CursorId(1), Offset(1000));
    let lives =
        Lives { begin: Timestamp(1_699_999_000_000), end: Some(Timestamp(1_699_999_060_000)) };
    vec![
        ("entity", MetaEntry::Entity(entities()[4].entity.clone())),
        ("entity gone", MetaEntry::EntityGone(EntityId(3))),
        (
            "log",
            MetaEntry::Log(LogState {
                log,
                start: Offset(5),
                moved: Offset(1300),
                next: Offset(1311),
            }),
        ),
        ("cursor", MetaEntry::Cursor(CursorState { cursor, floor: Offset(1024), seen: None })),
        (
            "chunk",
            MetaEntry::Chunk(ChunkState {
                cursor,
                chunk: 2,
                acked: BITMAP.to_vec(),
                attempts: vec![BITMAP.to_vec(), vec![]],
                priorities: vec![vec![], BITMAP.to_vec()],
                due: vec![(1, Due::day(Timestamp(1_700_000_060_000)))],
                spilled: BITMAP.to_vec(),
            }),
        ),
        (
            "segment",
            MetaEntry::Segment(SegmentState {
                log,
                base,
                generation: 1,
                end: Offset(1300),
                bytes: 4096,
                records: 250,
                max_time: Timestamp(1_700_000_000_000),
                sealed: true,
                lives: None,
                place: Place::Former,
            }),
        ),
        (
            "segment with lives",
            MetaEntry::Segment(SegmentState {
                log,
                base,
                generation: 1,
                end: Offset(1300),
                bytes: 4096,
                records: 250,
                max_time: Timestamp(1_700_000_000_000),
                sealed: true,
                lives: Some(lives),
                place: Place::Former,
            }),
        ),
        (
            "segment in a file of its own",
            MetaEntry::Segment(SegmentState {
                log,
                base,
                generation: 27,
                end: Offset(1300),
                bytes: 4096,
                records: 250,
                max_time: Timestamp(1_700_000_000_000),
                sealed: false,
                lives: Some(lives),
                place: Place::Own,
            }),
        ),
        (
            "segment in a shared file",
            MetaEntry::Segment(SegmentState {
                log,
                base,
                generation: 27,
                end: Offset(1301),
                bytes: 4280,
                records: 1,
                max_time: Timestamp(1_700_000_000_000),
                sealed: true,
                lives: Some(lives),
                place: Place::Part(4096),
            }),
        ),
        ("segment gone", MetaEntry::SegmentGone { log, base }),
        (
            "checkpoint",
            MetaEntry::Checkpoint(CheckpointState {
                replay_from: Lsn(4096),
                reflects: Lsn(70_000),
                next_id: EntityId(12),
                entries: 7,
            }),
        ),
        ("clocks", MetaEntry::Clock(clock())),
        (
            "cursor with a filter",
            MetaEntry::Cursor(CursorState {
                cursor: CursorId(3),
                floor: Offset(1024),
                seen: Some(Offset(1290)),
            }),
        ),
    ]
}

fn put(entry: &MetaEntry) -> Vec<u8> {
    let mut out = Vec::new();
    entry.put(&mut out);
    out
}

#[test]
fn each_entry_there_and_back() {
    for (name, entry) in entries() {
        assert_eq!(MetaEntry::decode(&put(&entry)), Ok(entry), "{name}");
    }
}

#[test]
fn entries_stand_one_behind_the_other_in_a_frame() {
    let all: Vec<MetaEntry> = entries().into_iter().map(|it| it.1).collect();
    let payload: Vec<u8> = all.iter().flat_map(put).collect();
    let found: Vec<MetaEntry> = super::super::meta::entries(&payload).map(Result::unwrap).collect();
    assert_eq!(found, all);
    for cut in 0..payload.len() {
        let found: Vec<_> = super::super::meta::entries(&payload[..cut]).collect();
        let (last, whole) = found.split_last().expect("there is one, or an error");
        let ends_there = put(&all[whole.len()]).len()
            == cut - whole.iter().flatten().map(|it| put(it).len()).sum::<usize>();
        assert_eq!(last.is_ok(), ends_there, "cut at {cut}");
        assert!(whole.iter().zip(&all).all(|(found, entry)| found.as_ref() == Ok(entry)));
    }
}

/// What the bytes of a chunk mean is for the store; that they are a known format is pinned here.
#[test]
fn bitmaps_are_portable_roaring() {
    let bitmap = roaring::RoaringBitmap::deserialize_from(&BITMAP[..]).unwrap();
    assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 2]);
    let mut again = Vec::new();
    bitmap.serialize_into(&mut again).unwrap();
    assert_eq!(again, BITMAP);
}

#[test]
fn each_creation_there_and_back() {
    for creation in entities() {
        let mut out = vec![9, 9];
        put_value(&mut out, &creation);
        assert_eq!(out[..2], [9, 9], "a value is appended");
        assert_eq!(Creation::decode(&out[2..]), Ok(creation));
    }
}

#[test]
fn hostile_entries_are_refused_or_whole() {
    for (_, entry) in entries() {
        batter(&put(&entry), |bytes| {
            if let Ok(entry) = MetaEntry::decode(bytes) {
                assert_eq!(MetaEntry::decode(&put(&entry)), Ok(entry));
            }
        });
    }
    for creation in entities() {
        let mut out = Vec::new();
        put_value(&mut out, &creation);
        batter(&out, |bytes| {
            if let Ok(creation) = Creation::decode(bytes) {
                assert_eq!(creation.entity.cursors().count(), creation.starts.len());
            }
        });
    }
}

#[test]
fn a_cut_or_a_longer_entry_is_refused() {
    for (name, entry) in entries() {
        let mut bytes = put(&entry);
        for cut in 0..bytes.len() {
            assert!(MetaEntry::decode(&bytes[..cut]).is_err(), "{name} cut at {cut}");
        }
        bytes.push(0);
        assert!(MetaEntry::decode(&bytes).is_err(), "{name} with a byte more");
    }
}

#[test]
fn lengths_beyond_the_input_are_refused() {
    // A chunk whose bitmap has as many bytes as a number can say; so its list of digits.
    let mut endless = vec![4, 1, 2];
    put_varint(&mut endless, u64::MAX);
    assert!(MetaEntry::decode(&endless).is_err());
    let mut endless = vec![4, 1, 2, 0];
    put_varint(&mut endless, u64::MAX);
    assert!(MetaEntry::decode(&endless).is_err());
    // An entity whose name has.
    let mut endless = vec![0, 1];
    put_varint(&mut endless, u64::MAX);
    assert!(MetaEntry::decode(&endless).is_err());
}

#[test]
fn entities_own_ids_in_a_row() {
    let entities = entities();
    let logs: Vec<Vec<u64>> =
        entities.iter().map(|it| it.entity.logs().map(|log| log.0).collect()).collect();
    assert_eq!(logs, [vec![1], vec![2], vec![], vec![4, 5, 6, 7], vec![], vec![12]]);
    let cursors: Vec<Vec<(u64, u64)>> = entities
        .iter()
        .map(|it| it.entity.cursors().map(|(cursor, log)| (cursor.0, log.0)).collect())
        .collect();
    let of_group = vec![(8, 4), (9, 5), (10, 6), (11, 7)];
    assert_eq!(cursors, [vec![(1, 1)], vec![], vec![(3, 2)], vec![], of_group, vec![(12, 12)]]);
    let ids: Vec<usize> = entities.iter().map(|it| it.entity.ids().count()).collect();
    assert_eq!(ids, [1, 1, 1, 4, 4, 1]);
}

fn refused(entity: Entity) -> bool {
    MetaEntry::decode(&put(&MetaEntry::Entity(entity))).is_err()
}

/// A kind with settings has some, each once.
#[test]
fn impossible_settings_are_refused() {
    let retention: &[u8] = &[0, 0, 0, 1, 9];
    let decode = |kind: &[u8], settings: &[&[u8]]| {
        let count = settings.len() as u8;
        let bytes = [&[1, 1, b's', 6], kind, &[count], &settings.concat()].concat();
        Entity::decode(&bytes)
    };
    let stream: &[u8] = &[3, 2];
    let found = decode(stream, &[retention]).unwrap();
    let limits = Retention { max_records: Some(9), ..Retention::default() };
    let retention_of = Some(Box::new(limits));
    let kind = EntityKind::Stream { partitions: 2, retention: retention_of.clone() };
    assert_eq!(found.kind, kind);
    assert!(decode(stream, &[]).is_err(), "no settings");
    assert!(decode(stream, &[retention, retention]).is_err(), "twice");
    assert!(decode(stream, &[&[0, 0, 0, 0]]).is_err(), "no limit");
    assert!(decode(stream, &[&[99]]).is_err(), "unknown");
    let topic = decode(&[1], &[retention]).unwrap();
    assert_eq!(topic.kind, EntityKind::Topic { retention: retention_of.clone() });
    assert_eq!(topic.cursors().count(), 1);
    assert!(decode(&[1], &[&[1]]).is_err(), "a topic has no unread records");
    assert!(decode(&[4, 0, 1], &[retention]).is_err(), "a group has no retention");
    assert!(decode(stream, &[&[3]]).is_err(), "a stream is not paused");
    assert!(decode(stream, &[&[1]]).is_err(), "a stream reads nothing");
    assert!(decode(&[5, 0], &[&[1]]).is_err(), "a delay index has no settings");
    let group = decode(&[4, 0, 1], &[&[1]]).unwrap().kind;
    let stream = EntityId(0);
    assert_eq!(group, EntityKind::Group { stream, partitions: 1, keeps_unread: true });
}

#[test]
fn impossible_entities_are_refused() {
    let stream = |id, partitions| Entity {
        id: EntityId(id),
        name: "s".into(),
        kind: EntityKind::Stream { partitions, retention: None },
    };
    let limited = |retention| Entity {
        kind: EntityKind::Stream { partitions: 1, retention: Some(Box::new(retention)) },
        ..stream(1, 1)
    };
    let limit = |bytes| Retention { max_bytes: Some(bytes), ..Retention::default() };
    assert!(!refused(limited(limit(1))) && refused(limited(limit(0))), "a limit of 0");
    assert!(!refused(stream(1, 1)) && !refused(stream(1, PARTITIONS_MAX)));
    assert!(refused(stream(1, 0)), "no partitions");
    assert!(refused(stream(1, PARTITIONS_MAX + 1)) && refused(stream(1, u32::MAX)));
    assert!(refused(stream(0, 1)), "ids begin at 1");
    for id in [NUMBER_CEILING - 1, NUMBER_CEILING, u64::MAX - 1, u64::MAX] {
        assert!(refused(stream(id, 1)), "no id is left behind {id}");
    }
    let named = |name: String| Entity {
        id: EntityId(1),
        name: name.into(),
        kind: EntityKind::Topic { retention: None },
    };
    assert!(!refused(named("n".repeat(NAME_BYTES_MAX))));
    assert!(refused(named("n".repeat(NAME_BYTES_MAX + 1))) && refused(named(String::new())));
}

#[test]
fn what_something_belongs_to_was_there_before() {
    let group = |id, stream| Entity {
        id: EntityId(id),
        name: "g".into(),
        kind: EntityKind::Group { stream: EntityId(stream), partitions: 2, keeps_unread: false },
    };
    assert!(!refused(group(9, 7)));
    assert!(refused(group(9, 9)) && refused(group(9, 10)) && refused(group(9, u64::MAX)));
}

#[test]
fn contradictions_are_refused() {
    let segment = |change: fn(&mut SegmentState)| {
        let Some(MetaEntry::Segment(mut state)) = entries().into_iter().map(|it| it.1).nth(5)
        else {
            panic!("the sixth is a segment");
        };
        change(&mut state);
        MetaEntry::decode(&put(&MetaEntry::Segment(state))).is_err()
    };
    assert!(!segment(|_| {}) && !segment(|it| it.records = 300));
    assert!(segment(|it| it.records = 301), "more records than offsets");
    assert!(segment(|it| it.end = Offset(999)), "ends before it begins");
    assert!(segment(|it| it.bytes = 63) && segment(|it| it.bytes = 4095));
    assert!(segment(|it| it.bytes = NUMBER_CEILING));
    assert!(segment(|it| it.end = Offset(u64::MAX)) && segment(|it| it.generation = u64::MAX));
    let part = |at, bytes, sealed| {
        let Some(MetaEntry::Segment(mut state)) = entries().into_iter().map(|it| it.1).nth(8)
        else {
            panic!("the ninth is a part");
        };
        (state.place, state.bytes, state.sealed) = (Place::Part(at), bytes, sealed);
        MetaEntry::decode(&put(&MetaEntry::Segment(state))).is_err()
    };
    assert!(!part(64, 88, true) && !part(4096, 8192, true));
    assert!(part(56, 8192, true), "within the file's header");
    assert!(part(68, 8192, true), "no unit begins there");
    assert!(part(4096, 4112, true) && part(u64::MAX, 8192, true), "ends before it begins");
    assert!(part(4096, 8192, false), "nothing is added to a part");

    let checkpoint = |replay_from, reflects, next_id| {
        let (replay_from, reflects) = (Lsn(replay_from), Lsn(reflects));
        let next_id = EntityId(next_id);
        let state = CheckpointState { replay_from, reflects, next_id, entries: 0 };
        MetaEntry::decode(&put(&MetaEntry::Checkpoint(state))).is_err()
    };
    assert!(!checkpoint(0, 0, 1) && !checkpoint(8, 16, 1));
    assert!(checkpoint(16, 8, 1) && checkpoint(0, 0, 0));
    assert!(checkpoint(0, NUMBER_CEILING, 1) && checkpoint(0, 0, NUMBER_CEILING));

    let chunk_of = |chunk, digits, priority_digits| {
        let state = ChunkState {
            cursor: CursorId(1),
            chunk,
            acked: Vec::new(),
            attempts: vec![Vec::new(); digits],
            priorities: vec![Vec::new(); priority_digits],
            due: Vec::new(),
            spilled: Vec::new(),
        };
        MetaEntry::decode(&put(&MetaEntry::Chunk(state))).is_err()
    };
    let chunk = |chunk, digits| chunk_of(chunk, digits, 0);
    assert!(!chunk((NUMBER_CEILING >> 16) - 1, 32));
    assert!(!chunk_of(0, 0, 4) && chunk_of(0, 0, 5));
    assert!(chunk(NUMBER_CEILING >> 16, 0) && chunk(u64::MAX, 0) && chunk(0, 33));
}

#[test]
fn numbers_that_nobody_gave_out_are_refused() {
    let over = NUMBER_CEILING;
    let (log, offset) = (LogId(over), Offset(over));
    let entries = [
        MetaEntry::EntityGone(EntityId(over)),
        MetaEntry::Log(LogState { log, start: Offset(0), moved: Offset(0), next: Offset(0) }),
        MetaEntry::Log(LogState { log: LogId(1), start: offset, moved: offset, next: offset }),
        MetaEntry::Cursor(CursorState { cursor: CursorId(over), floor: Offset(0), seen: None }),
        MetaEntry::SegmentGone { log, base: Offset(0) },
        MetaEntry::SegmentGone { log: LogId(1), base: offset },
    ];
    for entry in entries {
        assert!(MetaEntry::decode(&put(&entry)).is_err(), "{entry:?}");
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_whole(bytes: Vec<u8>) {
        if let Ok(entry) = MetaEntry::decode(&bytes) {
            prop_assert_eq!(MetaEntry::decode(&put(&entry)), Ok(entry));
        }
        let _ = Creation::decode(&bytes);
    }

    #[test]
    fn any_chunk_there_and_back(
        cursor in 0..NUMBER_CEILING,
        chunk in 0..NUMBER_CEILING >> 16,
        acked: Vec<u8>,
        attempts in prop::collection::vec(any::<Vec<u8>>(), 0..32),
        priorities in prop::collection::vec(any::<Vec<u8>>(), 0..4),
        spilled: Vec<u8>,
    ) {
        let cursor = CursorId(cursor);
        let state = ChunkState { cursor, chunk, acked, attempts, priorities, due: Vec::new(), spilled };
        let entry = MetaEntry::Chunk(state);
        prop_assert_eq!(MetaEntry::decode(&put(&entry)), Ok(entry));
    }
}
