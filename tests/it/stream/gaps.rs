//! Readers that fail where records were trimmed before they came to them.

use posthouse::{
    Error, ErrorKind, Offset, Partition, Position, Reader, Start, Stream, sim::SimDisk,
};

use crate::support::open;

fn append(partition: &Partition, text: String) {
    partition.append_if(partition.end().unwrap(), text).unwrap();
}

fn filled(disk: &SimDisk, partitions: u32) -> Stream {
    let stream = open(disk).unwrap().stream("s").partitions(partitions).create().unwrap();
    for number in 0..partitions {
        let partition = stream.partition(number).unwrap();
        for n in 0..10 {
            append(&partition, format!("{number}-{n}"));
        }
    }
    stream
}

fn is_gap(error: &Error, of: (u32, u64, u64)) -> bool {
    let (partition, next, start) = (of.0, Offset(of.1), Offset(of.2));
    error.kind() == ErrorKind::Trimmed { partition, next, start }
}

fn texts(reader: &mut Reader) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(record) = reader.try_read().unwrap() {
        texts.push(String::from_utf8_lossy(record.payload()).into_owned());
    }
    texts
}

#[test]
fn a_reader_fails_at_a_gap_until_it_is_to_skip_it() {
    let disk = SimDisk::new(1);
    let stream = filled(&disk, 1);
    let partition = stream.partition(0).unwrap();
    let mut silent = stream.reader(Start::Earliest).unwrap();
    let mut told = stream.reader(Start::Earliest).unwrap().fail_on_trimmed(true);
    assert_eq!(told.skip_trimmed().unwrap(), None);
    partition.trim_before(Offset(4)).unwrap();
    for _ in 0..2 {
        let error = told.try_read().unwrap_err();
        assert!(is_gap(&error, (0, 0, 4)), "{error}");
        assert!(error.to_string().contains("skip_trimmed"), "{error}");
    }
    let gap = told.skip_trimmed().unwrap().unwrap();
    assert_eq!((gap.partition, gap.offsets), (0, Offset(0)..Offset(4)));
    assert_eq!(told.skip_trimmed().unwrap(), None);
    let rest: Vec<String> = (4..10).map(|n| format!("0-{n}")).collect();
    assert_eq!((texts(&mut told), texts(&mut silent)), (rest.clone(), rest));
    // A gap that comes while it waits at the end, and all is gone.
    for n in 10..14 {
        append(&partition, format!("0-{n}"));
    }
    partition.trim_before(Offset(14)).unwrap();
    assert!(is_gap(&told.try_read().unwrap_err(), (0, 10, 14)));
    assert!(silent.try_read().unwrap().is_none());
    told.skip_trimmed().unwrap();
    assert!(told.try_read().unwrap().is_none());
    // Who has read everything is told of nothing.
    append(&partition, "0-14".to_owned());
    assert!(told.try_read().unwrap().is_some());
    partition.trim_before(Offset(15)).unwrap();
    assert!(told.try_read().unwrap().is_none());
}

#[test]
fn a_gap_of_one_partition_keeps_the_others_from_nothing() {
    let disk = SimDisk::new(1);
    let stream = filled(&disk, 3);
    let mut reader = stream.reader(Start::Earliest).unwrap().fail_on_trimmed(true);
    stream.partition(1).unwrap().trim_before(Offset(3)).unwrap();
    let (mut texts, mut failed) = (Vec::new(), 0);
    loop {
        match reader.try_read() {
            Ok(Some(record)) => texts.push(record.partition()),
            Ok(None) => break,
            Err(error) => {
                assert!(is_gap(&error, (1, 0, 3)), "{error}");
                failed += 1;
                if failed == 3 {
                    assert_eq!(reader.skip_trimmed().unwrap().unwrap().partition, 1);
                }
            }
        }
    }
    let count = |number| texts.iter().filter(|it| **it == number).count();
    assert_eq!([count(0), count(1), count(2)], [10, 7, 10]);
}

/// A group, too, learns what it has missed since its last commit, also after an open.
#[test]
fn a_reader_of_a_group_fails_at_what_left_since_its_last_commit() {
    let disk = SimDisk::new(1);
    let stream = filled(&disk, 1);
    let group = stream.group("g").create().unwrap();
    group.commit(0, Offset(2)).unwrap();
    stream.partition(0).unwrap().trim_before(Offset(5)).unwrap();
    let mut reader = group.reader().unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().offset(), Offset(5));
    let mut reader = group.reader().unwrap().fail_on_trimmed(true);
    assert!(is_gap(&reader.try_read().unwrap_err(), (0, 2, 5)));
    group.commit_reader(&reader).unwrap();
    assert_eq!(group.committed(0).unwrap(), Offset(2), "nothing was read");
    reader.skip_trimmed().unwrap();
    group.commit_reader(&reader).unwrap();
    assert_eq!((group.committed(0).unwrap(), group.lag().unwrap()), (Offset(5), 5));
    // A reader that is not to say so has its place behind the gap, as one that begins there.
    group.commit(0, Offset(2)).unwrap();
    let positions: Vec<_> = group.reader().unwrap().positions().collect();
    assert_eq!(positions[0].offset, Offset(5));
    assert!(stream.reader_at(positions).unwrap().try_read().unwrap().is_some());
    stream.partition(0).unwrap().trim_before(Offset(10)).unwrap();
    assert!(group.reader().unwrap().until_now().unwrap().is_done());
}

/// What was trimmed is not damaged, and what is behind the end of a reader is no gap of it.
#[test]
fn a_gap_ends_where_the_reader_does() {
    let disk = SimDisk::new(1);
    let stream = filled(&disk, 2);
    let end = |partition, offset| Position { partition, offset: Offset(offset) };
    let reader = stream.reader(Start::Earliest).unwrap().fail_on_trimmed(true);
    let mut reader = reader.until([end(0, 3), end(1, 6)]).unwrap();
    for _ in 0..6 {
        assert!(reader.try_read().unwrap().is_some());
    }
    for number in 0..2 {
        stream.partition(number).unwrap().trim_before(Offset(8)).unwrap();
    }
    let mut gaps = Vec::new();
    while let Some(gap) = reader.skip_trimmed().unwrap() {
        assert!(gap.offsets.end <= Offset([3, 6][gap.partition as usize]), "{gap:?}");
        gaps.push(gap);
    }
    assert!(reader.is_done() && gaps.len() <= 2, "{gaps:?}");
    let mut reader = stream.reader(Start::Earliest).unwrap().fail_on_trimmed(true);
    stream.partition(0).unwrap().trim_before(Offset(9)).unwrap();
    assert_eq!(reader.skip_damaged().unwrap().map(|it| it.offsets), None);
    assert_eq!(reader.skip_trimmed().unwrap().unwrap().offsets, Offset(8)..Offset(9));
}

#[test]
fn readers_with_an_end_iterators_and_batches_fail_there_too() {
    let disk = SimDisk::new(1);
    let stream = filled(&disk, 1);
    let new = || stream.reader(Start::Earliest).unwrap().fail_on_trimmed(true);
    let (mut bounded, mut iterator, mut batches) = (new().until_now().unwrap(), new(), new());
    stream.partition(0).unwrap().trim_before(Offset(6)).unwrap();
    assert!(is_gap(&bounded.try_read().unwrap_err(), (0, 0, 6)));
    assert!(is_gap(&iterator.next().unwrap().unwrap_err(), (0, 0, 6)));
    assert!(iterator.next().is_none() && iterator.next().unwrap().is_err());
    assert!(is_gap(&batches.batches(3).unwrap().next().unwrap().unwrap_err(), (0, 0, 6)));
    stream.partition(0).unwrap().trim_before(Offset(10)).unwrap();
    let gap = bounded.skip_trimmed().unwrap().unwrap();
    assert_eq!(gap.offsets, Offset(0)..Offset(10));
    assert!(bounded.is_done());
}
