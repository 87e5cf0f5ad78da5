//! Streams with limits: what leaves, when, and what stays.

use std::{ops::Range, time::Duration};

use posthouse::{
    Engine, ErrorKind, IoMode, Message, Offset, Options, Partition, Start, Stream, Timestamp,
    sim::SimDisk,
};
use proptest::prelude::*;

use crate::support::cases;

const HOUR: Duration = Duration::from_secs(3600);

fn options() -> Options {
    Options::new().io(IoMode::Calls).segment_bytes(16 << 10).block_bytes(1 << 10)
}

fn open(disk: &SimDisk) -> Engine {
    options().sim(disk).open("store").unwrap()
}

fn append(stream: &Stream, numbers: Range<u32>) {
    let record = |n: u32| Message::new(format!("{n:0100}")).key("one key");
    stream.append_batch(numbers.map(record)).unwrap();
}

fn there(partition: &Partition) -> Vec<u32> {
    let records = partition.reader(Start::Earliest).unwrap();
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse().unwrap();
    records.map(|it| number(it.unwrap().payload())).collect()
}

fn only(stream: &Stream) -> Partition {
    stream.partition(0).unwrap()
}

#[test]
fn the_newest_records_stay_exactly_and_a_limit_changes_at_any_time() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").max_records(3).create().unwrap();
    let checkpoint = || engine.checkpoint().unwrap();
    append(&stream, 0..10);
    assert_eq!(there(&only(&stream)).len(), 10, "they leave at checkpoints");
    checkpoint();
    assert_eq!(there(&only(&stream)), [7, 8, 9]);
    append(&stream, 10..12);
    checkpoint();
    assert_eq!(there(&only(&stream)), [9, 10, 11]);

    engine.stream("s").max_records(5).create_or_update().unwrap();
    append(&stream, 12..15);
    checkpoint();
    assert_eq!(there(&only(&stream)), [10, 11, 12, 13, 14]);
    // A lower limit counts although nothing comes.
    engine.stream("s").max_records(1).create_or_update().unwrap();
    append(&engine.stream("another").create().unwrap(), 0..1);
    checkpoint();
    assert_eq!(there(&only(&stream)), [14]);
    engine.stream("s").without_max_records().create_or_update().unwrap();
    append(&stream, 15..20);
    checkpoint();
    assert_eq!(there(&only(&stream)), [14, 15, 16, 17, 18, 19]);
}

#[test]
fn each_partition_has_its_own_limit_and_a_deleted_stream_leaves_none_behind() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").partitions(3).max_records(2).create().unwrap();
    let neighbour = engine.stream("t").create().unwrap();
    for n in 0..30 {
        stream.append(format!("{n}")).unwrap();
    }
    append(&neighbour, 0..9);
    engine.checkpoint().unwrap();
    for number in 0..3 {
        let start = stream.partition(number).unwrap().start().unwrap();
        assert_eq!(start.0, 8, "{number}");
    }
    assert_eq!((stream.len().unwrap(), neighbour.len().unwrap()), (6, 9));
    drop(stream);
    engine.stream("s").delete().unwrap();
    let stream = engine.stream("s").create().unwrap();
    append(&stream, 0..9);
    engine.checkpoint().unwrap();
    assert_eq!(stream.len().unwrap(), 9);
}

#[test]
fn limits_survive_a_crash_and_a_close() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").max_records(4).max_age(HOUR).max_bytes(9000).create().unwrap();
    append(&stream, 0..10);
    drop((stream, engine));
    disk.power_cut();
    let engine = open(&disk);
    let stream = engine.stream("s").open().unwrap();
    let settings = stream.settings().unwrap();
    assert_eq!(
        (settings.max_records, settings.max_age, settings.max_bytes),
        (Some(4), Some(HOUR), Some(9000))
    );
    // It looks at all of it once, although nothing has come since.
    engine.checkpoint().unwrap();
    assert_eq!(there(&only(&stream)), [6, 7, 8, 9]);
    engine.close().unwrap();
    drop(stream);
    drop(engine);
    let engine = open(&disk);
    let stream = engine.stream("s").open().unwrap();
    append(&stream, 10..12);
    engine.checkpoint().unwrap();
    assert_eq!(there(&only(&stream)), [8, 9, 10, 11]);
}

fn segment_bytes(disk: &SimDisk) -> u64 {
    let files = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    files.map(|it| disk.content(&it).unwrap().len() as u64).sum()
}

#[test]
fn at_least_so_many_bytes_stay_and_little_more() {
    const KEPT: u64 = 64 << 10;
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    // What a thousand records take up, with the heads of their blocks.
    append(&engine.stream("measure").create().unwrap(), 0..1000);
    engine.checkpoint().unwrap();
    let record = segment_bytes(&disk);
    let stream = engine.stream("s").max_bytes(KEPT).create().unwrap();
    for round in 0..40 {
        append(&stream, round * 100..(round + 1) * 100);
        engine.checkpoint().unwrap();
        let there = there(&only(&stream));
        assert_eq!(there.last(), Some(&(round * 100 + 99)));
        // What leaves are blocks of 1 KiB.
        let bytes = there.len() as u64 * record / 1000;
        let all = u64::from(round + 1) * 100 * record / 1000;
        assert!(bytes >= KEPT.min(all), "{round}: {bytes}");
        // The measure has the headers of its files, too.
        assert!(bytes <= KEPT * 106 / 100, "{round}: {bytes}");
    }
    let files = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    assert!(files.count() < 30);
}

/// A sixteenth of the age, ten seconds at least and an hour at most, is how late a record may leave.
const LATE: Duration = Duration::from_secs(3600 / 16);

/// It leaves although the segment goes on, and although no checkpoint was made.
#[test]
fn a_record_leaves_when_it_is_too_old_wherever_it_is() {
    for checkpoints in [0, 1, 2] {
        let disk = SimDisk::new(1);
        let engine = open(&disk);
        let stream = engine.stream("s").max_age(HOUR).create().unwrap();
        for round in 0..20u32 {
            append(&stream, round..round + 1);
            if checkpoints == 2 || checkpoints == 1 && round % 5 == 0 {
                engine.checkpoint().unwrap();
            }
            let there = there(&only(&stream));
            assert_eq!(there.last(), Some(&round));
            // Every ten minutes one comes: six or seven are younger than an hour.
            let young = round.saturating_sub(6);
            assert!(there[0] <= young && there[0] + 1 >= young, "{checkpoints} {round}: {there:?}");
            disk.advance(HOUR / 6);
        }
        disk.advance(2 * HOUR);
        assert_eq!(stream.len().unwrap(), 0, "all of it is too old");
        append(&stream, 20..21);
        assert_eq!(only(&stream).end().unwrap().0, 21, "offsets go on");
    }
}

/// The disk gets the space back, although the one segment of a slow stream is never full.
#[test]
fn a_slow_stream_does_not_grow_for_ever() {
    let disk = SimDisk::new(1);
    let engine = options().segment_bytes(64 << 20).sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").max_age(HOUR).create().unwrap();
    let mut most = 0;
    for round in 0..200u32 {
        append(&stream, round * 20..round * 20 + 20);
        engine.checkpoint().unwrap();
        disk.advance(HOUR / 6);
        most = most.max(segment_bytes(&disk));
    }
    // 140 records are young, and a segment is rewritten once less than a quarter of it is.
    assert!(most < 100 << 10, "{most}");
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Advance(u32),
    /// The clock is set, relative to what it shows.
    Set(i32),
    Checkpoint,
    Reopen,
    MaxAge(u32),
}

fn steps(sets: bool) -> impl Strategy<Value = Vec<Step>> {
    let set = if sets { 1 } else { 0 };
    let step = prop_oneof![
        5 => (1..60u8).prop_map(Step::Append),
        4 => (1..2_000_000u32).prop_map(Step::Advance),
        set => (-9_000_000..9_000_000i32).prop_map(Step::Set),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => (1_000..7_200_000u32).prop_map(Step::MaxAge),
    ];
    prop::collection::vec(step, 1..60)
}

/// The offsets that are there, and their timestamps.
fn stamps(stream: &Stream) -> Vec<(u64, u64)> {
    let records = stream.reader(Start::Earliest).unwrap().map(Result::unwrap);
    records.map(|it| (it.offset().0, it.timestamp().0)).collect()
}

fn ages_hold(steps: Vec<Step>, sets: bool) {
    let disk = SimDisk::new(1);
    let mut engine = open(&disk);
    let (mut age, mut number, mut now) = (3_600_000, 0, 1_800_000_000_000u64);
    disk.set_now(Timestamp(now));
    let builder = |engine: &Engine, age| {
        engine.stream("s").max_age(Duration::from_millis(age)).create_or_update().unwrap()
    };
    let mut stream = engine.stream("s").max_age(HOUR).create().unwrap();
    let mut known = Vec::new();
    for step in steps {
        match step.clone() {
            Step::Append(count) => {
                append(&stream, number..number + u32::from(count));
                number += u32::from(count);
            }
            Step::Advance(ms) => {
                now += u64::from(ms);
                disk.advance(Duration::from_millis(ms.into()));
            }
            Step::Set(ms) => {
                now = now.saturating_add_signed(ms.into());
                disk.set_now(Timestamp(now));
            }
            Step::Checkpoint => engine.checkpoint().unwrap(),
            Step::Reopen => {
                drop(stream);
                engine.close().unwrap();
                drop(engine);
                engine = open(&disk);
                stream = engine.stream("s").open().unwrap();
            }
            Step::MaxAge(ms) => {
                age = ms.into();
                stream = builder(&engine, age);
            }
        }
        // A look lets the engine do what is due.
        stream.len().unwrap();
        let found = stamps(&stream);
        let first = found.first().map_or(u64::from(number), |it| it.0);
        for (offset, stamp) in known.iter().filter(|it: &&(u64, u64)| it.0 < first) {
            assert!(stamp + age < now, "{offset} of {stamp} left at {now}, after {step:?}");
        }
        assert_eq!(found.len() as u64, u64::from(number) - first, "nothing is missing between");
        known = found;
    }
    let late = (age / 16).clamp(10_000, 3_600_000) + 1000;
    if sets {
        // Once the clock is right, all of it leaves in time, also what was written while it was ahead.
        let newest = known.iter().map(|it| it.1).max().unwrap_or(0);
        disk.advance(Duration::from_millis(newest.saturating_sub(now) + 2 * age + 2 * late));
        stream.len().unwrap();
        disk.advance(Duration::from_millis(late));
        assert_eq!(stream.len().unwrap(), 0);
    } else {
        disk.advance(Duration::from_millis(late));
        stream.len().unwrap();
        now += late;
        for (offset, stamp) in stamps(&stream) {
            assert!(stamp + age + late >= now, "{offset} of {stamp} is there at {now}");
        }
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn what_is_young_stays_and_what_is_old_leaves(steps in steps(false)) {
        ages_hold(steps, false);
    }

    #[test]
    fn what_is_young_stays_however_the_clock_is_set(steps in steps(true)) {
        ages_hold(steps, true);
    }
}

/// A machine without a battery knows no date when it boots. What it writes then is not old once the clock is right.
#[test]
fn records_from_before_the_clock_was_right_are_not_old() {
    let disk = SimDisk::new(1);
    disk.set_now(Timestamp(5_000));
    let engine = open(&disk);
    let stream = engine.stream("s").max_age(HOUR).create().unwrap();
    append(&stream, 0..100);
    engine.checkpoint().unwrap();
    append(&stream, 100..120);
    disk.set_now(Timestamp(1_800_000_000_000));
    append(&stream, 120..121);
    engine.checkpoint().unwrap();
    disk.advance(HOUR / 2);
    assert_eq!(stream.len().unwrap(), 121);
    disk.advance(HOUR / 2 + 2 * LATE);
    assert_eq!(stream.len().unwrap(), 0, "they leave with the record behind them");
}

/// They stand behind others, in the same segment or block.
#[test]
fn records_without_a_date_are_not_as_old_as_those_before_them() {
    for (checkpoints, more) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        let disk = SimDisk::new(1);
        disk.set_now(Timestamp(1_800_000_000_000));
        let engine = open(&disk);
        let stream = engine.stream("s").max_age(HOUR).create().unwrap();
        let append = |numbers| {
            append(&stream, numbers);
            if checkpoints {
                engine.checkpoint().unwrap();
            }
        };
        append(0..25);
        disk.set_now(Timestamp(5_000));
        append(25..50);
        disk.set_now(Timestamp(1_800_086_400_000));
        append(50..50 + more);
        assert_eq!(stream.len().unwrap(), 25 + u64::from(more), "{checkpoints}");
        assert_eq!(only(&stream).start().unwrap().0, 25, "{checkpoints}");
    }
}

/// A damaged block does not keep what is behind it for ever, and is not taken before its time.
#[test]
fn damage_leaves_in_its_turn() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").max_age(HOUR).create().unwrap();
    for round in 0..4u32 {
        append(&stream, round * 30..round * 30 + 30);
        engine.checkpoint().unwrap();
        disk.advance(HOUR / 4);
    }
    drop(stream);
    engine.close().unwrap();
    drop(engine);
    for file in disk.files().into_iter().filter(|it| it.starts_with("store/segments")) {
        let mut bytes = disk.content(&file).unwrap();
        (2000..bytes.len()).step_by(1500).for_each(|at| bytes[at] = !bytes[at]);
        disk.plant(&file, Some(bytes));
    }
    let engine = open(&disk);
    let stream = engine.stream("s").open().unwrap();
    append(&stream, 120..121);
    assert!(only(&stream).start().unwrap().0 <= 30, "most of it is young");
    for _ in 0..12 {
        disk.advance(HOUR / 4);
        stream.len().unwrap();
    }
    assert_eq!(stream.len().unwrap(), 0);
}

#[test]
fn a_group_keeps_what_it_has_not_read_if_it_is_to() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").max_records(3).max_age(HOUR).create().unwrap();
    let spared = stream.group("spared").keeps_unread(true).create().unwrap();
    stream.group("other").create().unwrap();
    append(&stream, 0..20);
    engine.checkpoint().unwrap();
    disk.advance(3 * HOUR);
    assert_eq!(there(&only(&stream)).len(), 20);
    spared.commit(0, Offset(12)).unwrap();
    engine.checkpoint().unwrap();
    disk.advance(HOUR / 4);
    assert_eq!(there(&only(&stream)), [12, 13, 14, 15, 16, 17, 18, 19], "all of them are old");
    let reopened = {
        drop((stream, spared));
        engine.close().unwrap();
        drop(engine);
        open(&disk)
    };
    let stream = reopened.stream("s").open().unwrap();
    disk.advance(HOUR);
    assert_eq!(stream.len().unwrap(), 8, "it is kept on disk that the group spares them");
    let error = stream.group("spared").keeps_unread(false).create().unwrap_err();
    assert!(error.to_string().contains("create_or_update"), "{error}");
    stream.group("spared").keeps_unread(false).create_or_update().unwrap();
    disk.advance(HOUR);
    assert_eq!(stream.len().unwrap(), 0);
    // A group that is deleted keeps nothing.
    stream.group("third").keeps_unread(true).create().unwrap();
    append(&stream, 20..30);
    disk.advance(3 * HOUR);
    assert_eq!(stream.len().unwrap(), 10);
    stream.group("third").delete().unwrap();
    disk.advance(HOUR);
    assert_eq!(stream.len().unwrap(), 0);
}

/// A clock that is set back makes nothing older.
#[test]
fn a_clock_that_is_set_back_takes_nothing() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").max_age(HOUR).create().unwrap();
    append(&stream, 0..200);
    engine.checkpoint().unwrap();
    let mut reader = stream.reader(Start::Earliest).unwrap();
    let before = reader.try_read().unwrap().unwrap().timestamp();
    disk.set_now(Timestamp(before.0 - 24 * 3_600_000));
    append(&stream, 200..400);
    engine.checkpoint().unwrap();
    assert_eq!(stream.len().unwrap(), 400);
}

#[test]
fn limits_of_nothing_are_refused_and_others_are_told() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let builder = || engine.stream("s");
    for (builder, name) in [
        (builder().max_age(Duration::ZERO), "max_age"),
        (builder().max_bytes(0), "max_bytes"),
        (builder().max_records(0), "max_records"),
    ] {
        let error = builder.create().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidInput { field } if field == name));
    }
    assert!(engine.streams().unwrap().is_empty());
    builder().max_records(7).create().unwrap();
    builder().create().unwrap();
    let error = builder().max_records(8).create().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(error.to_string().contains("max_records") && error.to_string().contains('7'));
}

/// Groups and readers go on at the first record that is still there.
#[test]
fn who_is_behind_goes_on_where_records_are() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").max_records(3).create().unwrap();
    let group = stream.group("g").create().unwrap();
    let mut reader = stream.reader(Start::Earliest).unwrap();
    append(&stream, 0..10);
    engine.checkpoint().unwrap();
    assert_eq!(group.lag().unwrap(), 3);
    assert_eq!(group.reader().unwrap().try_read().unwrap().unwrap().offset().0, 7);
    assert_eq!(reader.try_read().unwrap().unwrap().offset().0, 7);
    let error = stream.reader(Start::Offset(Offset(3))).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput { field: "start" }, "{error}");
}

/// Records that are missing do not count: a salvaged stream keeps as many as its limit says.
#[test]
fn holes_do_not_count_as_records() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").create().unwrap();
    append(&stream, 0..1000);
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((stream, engine));
    // The records from some hundred on are lost, up to the last one.
    let mut files: Vec<_> =
        disk.files().into_iter().filter(|it| it.starts_with("store/segments")).collect();
    files.sort();
    for file in &files[1..] {
        disk.plant(file, None);
    }
    let report = options().sim(&disk).salvage("store", "new").unwrap();
    assert!(!report.is_complete());
    let engine = options().sim(&disk).open("new").unwrap();
    let stream = engine.stream("s").open().unwrap();
    let left = there(&only(&stream));
    assert!((50..900).contains(&left.len()), "{}", left.len());
    let most = left.len() as u64 / 2;
    let stream = engine.stream("s").max_records(most).create_or_update().unwrap();
    engine.checkpoint().unwrap();
    let kept = there(&only(&stream)).len() as u64;
    assert!((most..most + 20).contains(&kept), "{kept} of {most}");
    append(&stream, 1000..1000 + most as u32 / 2);
    engine.checkpoint().unwrap();
    let kept = there(&only(&stream)).len() as u64;
    assert!((most..most + 20).contains(&kept), "{kept} of {most}");
}

/// An idle store gives the space back of what has left.
#[test]
fn an_idle_store_gives_the_space_back() {
    let disk = SimDisk::new(1);
    let engine = options().segment_bytes(64 << 20).sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").max_age(HOUR).create().unwrap();
    append(&stream, 0..1000);
    disk.advance(HOUR / 2);
    append(&stream, 1000..1010);
    engine.checkpoint().unwrap();
    assert!(segment_bytes(&disk) > 100 << 10);
    disk.advance(HOUR / 2 + LATE);
    posthouse::sim::rest(&engine).unwrap();
    posthouse::sim::rest(&engine).unwrap();
    assert_eq!(stream.len().unwrap(), 10);
    assert!(segment_bytes(&disk) < 10 << 10, "{}", segment_bytes(&disk));
}

/// The clock was years ahead when the stream was empty, or when its first record came.
#[test]
fn a_clock_that_was_ahead_does_not_keep_records_for_years() {
    for has_record in [false, true] {
        let disk = SimDisk::new(1);
        disk.set_now(Timestamp(2_100_000_000_000));
        let engine = open(&disk);
        let stream = engine.stream("s").max_age(HOUR).create().unwrap();
        append(&stream, 0..u32::from(has_record));
        stream.len().unwrap();
        disk.set_now(Timestamp(1_800_000_000_000));
        append(&stream, 1..50);
        only(&stream).trim_before(Offset(u64::from(has_record))).unwrap();
        for _ in 0..3 {
            disk.advance(HOUR + LATE);
            stream.len().unwrap();
        }
        assert_eq!(stream.len().unwrap(), 0, "{has_record}");
    }
}
