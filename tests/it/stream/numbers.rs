//! The numbers of a partition, a stream and a group: records, bytes and lag.

use std::time::Duration;

use posthouse::{ErrorKind, Message, Offset, Stream, Timestamp, sim::SimDisk};

use crate::{
    model::rot_first_record,
    support::{SECOND, Sim, everywhere, kind, open},
};

fn bytes(stream: &Stream) -> u64 {
    stream.partition(0).unwrap().bytes().unwrap()
}

/// Whether its records are in the journal, in segments or in both, the bytes of a partition are those of its records and
/// little more.
#[test]
fn the_bytes_of_a_partition_follow_its_records() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").partitions(2).create().unwrap();
        let (kept, other) = (stream.partition(0).unwrap(), stream.partition(1).unwrap());
        assert_eq!((kept.bytes().unwrap(), kept.len().unwrap()), (0, 0));
        assert!(kept.is_empty().unwrap());
        let append = |from: u64, count: u64| {
            for n in from..from + count {
                kept.append_if(Offset(n), vec![7; 1000]).unwrap();
            }
        };
        append(0, 50);
        let is_about =
            |records: u64, bytes: u64| (1000 * records..1080 * records + 4096).contains(&bytes);
        assert!(is_about(50, bytes(&stream)), "journal: {}", bytes(&stream));
        assert_eq!(other.bytes().unwrap(), 0);
        engine.checkpoint().unwrap();
        assert!(is_about(50, bytes(&stream)), "segment: {}", bytes(&stream));
        append(50, 350);
        assert!(is_about(400, bytes(&stream)), "both: {}", bytes(&stream));
        engine.sync().unwrap();
        let stats = stream.stats().unwrap();
        assert_eq!((stats.records(), stats.partitions.len()), (400, 2));
        assert_eq!((stats.bytes(), stats.partitions[0].partition), (bytes(&stream), 0));
        let numbers = kept.stats().unwrap();
        assert_eq!(numbers, stats.partitions[0]);
        assert_eq!((numbers.start, numbers.end, numbers.records()), (Offset(0), Offset(400), 400));

        // What is trimmed in the journal does not count, and in segments until a checkpoint gives it back.
        kept.trim_before(Offset(390)).unwrap();
        assert_eq!(kept.len().unwrap(), 10);
        let trimmed = bytes(&stream); // the engine may have made that checkpoint
        assert!(is_about(60, trimmed) || is_about(10, trimmed), "trimmed: {trimmed}");
        kept.trim_before(Offset(400)).unwrap();
        engine.checkpoint().unwrap();
        assert_eq!(bytes(&stream), 0);
        engine.stream("s").delete().unwrap();
        assert_eq!(kind(kept.bytes()), ErrorKind::NotFound);
        assert_eq!(kind(stream.stats()), ErrorKind::NotFound);
    });
}

/// More segments and commits than are counted in one slice, and a reader that gets the same number after a reopen.
#[test]
fn many_segments_and_commits_are_all_counted() {
    let disk = SimDisk::new(3);
    let options = crate::model::small_options();
    let engine = options.clone().sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    const BYTES: u64 = 1000;
    let mut least = 0;
    let mut append = |count| {
        (0..count).for_each(|_| _ = stream.append(vec![7; BYTES as usize]).unwrap());
        least += count * BYTES;
        let counted = bytes(&stream);
        assert!((least..least + least / 10 + 4096).contains(&counted), "{counted} of {least}");
    };
    // The journal is short, so most of them are in segments, of 4 KiB each.
    (0..10).for_each(|_| append(150));
    let segments = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    assert!(segments.count() > 300);
    engine.checkpoint().unwrap();
    append(1);
    engine.checkpoint().unwrap();
    let counted = bytes(&stream);
    engine.close().unwrap();
    let engine = options.sim(&disk).open("store").unwrap();
    assert_eq!(bytes(&engine.stream("s").open().unwrap()), counted);
}

#[test]
fn the_lag_of_a_group_in_time_is_the_age_of_its_next_record() {
    let sim = Sim::new();
    let stream = sim.engine.stream("s").partitions(3).create().unwrap();
    let group = stream.group("g").create().unwrap();
    assert_eq!((group.lag_time().unwrap(), group.lag_times().unwrap()), (None, vec![None; 3]));
    let append = |partition: u32, payload: &str| {
        let partition = stream.partition(partition).unwrap();
        partition.append_if(partition.end().unwrap(), payload).unwrap();
    };
    append(0, "first");
    sim.disk.advance(10 * SECOND);
    append(0, "second");
    append(2, "third");
    sim.disk.advance(5 * SECOND);
    let seconds = |times: [Option<u32>; 3]| times.map(|it| it.map(|it| it * SECOND)).to_vec();
    assert_eq!(group.lag_times().unwrap(), seconds([Some(15), None, Some(5)]));
    sim.engine.checkpoint().unwrap();
    assert_eq!(group.lag_time().unwrap(), Some(15 * SECOND));
    group.commit(0, Offset(1)).unwrap();
    assert_eq!(group.lag_times().unwrap(), seconds([Some(5), None, Some(5)]));
    group.commit(0, Offset(2)).unwrap();
    assert_eq!(group.lag_times().unwrap(), seconds([None, None, Some(5)]));

    // A group that is behind the start goes on there. A time in the future is no time.
    group.commit(0, Offset(0)).unwrap();
    stream.partition(0).unwrap().trim_before(Offset(1)).unwrap();
    assert_eq!(group.lag_time().unwrap(), Some(5 * SECOND));
    group.commit(0, Offset(2)).unwrap();
    group.commit(2, Offset(1)).unwrap();
    let later = Timestamp(sim.now().0 + 60_000);
    stream.append(Message::new("early").timestamp(later)).unwrap();
    assert_eq!(group.lag_time().unwrap(), Some(Duration::ZERO));
    stream.group("g").delete().unwrap();
    assert_eq!(kind(group.lag_time()), ErrorKind::NotFound);
}

/// The next record is damaged, so its age cannot be told, and no other record's age is told in its place.
#[test]
fn the_lag_in_time_before_damage_is_an_error() {
    let disk = SimDisk::new(5);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    let group = stream.group("g").create().unwrap();
    stream.append_batch(["first", "second"]).unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    rot_first_record(&disk);
    let engine = open(&disk).unwrap();
    let group = engine.stream("s").open().unwrap().group(group.name()).open().unwrap();
    assert_eq!(kind(group.lag_time()), ErrorKind::Corrupt);
    assert_eq!(group.lag().unwrap(), 2);
}
