//! Readers that return many records at a time, and readers of partitions side by side.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use futures_core::Stream as _;
use posthouse::{ErrorKind, Message, Offset, OwnedRecord, Partition, Records, Start, sim::SimDisk};

use super::bounded::{MESSAGES, rot};
use crate::support::{HOUR, SECOND, Task, block_on, everywhere, field, kind, open, real};

fn offsets(batch: &[OwnedRecord]) -> Vec<u64> {
    batch.iter().map(|it| it.offset().0).collect()
}

#[test]
fn a_batch_has_what_is_there() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        let mut reader = stream.reader(Start::Earliest).unwrap();
        assert!(reader.read_batch(10, Duration::ZERO).unwrap().is_empty());
        assert_eq!(field(reader.read_batch(0, Duration::ZERO)), "most");
        assert_eq!(field(block_on(reader.read_batch_async(0))), "most");
        assert_eq!(field(reader.batches(0)), "most");
        let append = |from: u64, upto: u64| {
            stream.append_batch((from..upto).map(|n| n.to_string())).unwrap();
        };
        append(0, 20);
        engine.checkpoint().unwrap();
        append(20, 30);
        append(30, 40);
        engine.sync().unwrap();
        assert_eq!(offsets(&reader.read_batch(7, HOUR).unwrap()), (0..7).collect::<Vec<_>>());
        let batch = block_on(reader.read_batch_async(18)).unwrap();
        assert_eq!(offsets(&batch), (7..25).collect::<Vec<_>>(), "from a segment and the journal");
        assert_eq!(reader.positions().next().unwrap().offset, Offset(25));
        let batch = reader.read_batch(usize::MAX, HOUR).unwrap();
        assert_eq!(offsets(&batch), (25..40).collect::<Vec<_>>());
        // They stay valid.
        drop((reader, engine, stream));
        batch.iter().for_each(|it| assert_eq!(it.payload(), it.offset().to_string().as_bytes()));
    });
}

#[test]
fn a_batch_waits_for_its_first_record_only() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").create().unwrap();
    let mut reader = stream.reader(Start::Earliest).unwrap();
    let writer = {
        let stream = stream.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            stream.append("first").unwrap();
        })
    };
    assert_eq!(reader.read_batch(1000, HOUR).unwrap().len(), 1);
    writer.join().unwrap();
    // Its future is polled by hand.
    let mut other = stream.reader(Start::Latest).unwrap();
    let mut task =
        Task::waiting(async move { other.read_batch_async(1000).await.map(|it| it.len()) });
    stream.append_batch(["second", "third"]).unwrap();
    assert_eq!(task.poll().expect("they have come").unwrap(), 2);
    assert_eq!(reader.read_batch(10, SECOND).unwrap().len(), 2);
    engine.close().unwrap();
    assert_eq!(kind(reader.read_batch(1, HOUR)), ErrorKind::Closed);
}

#[test]
fn batches_end_when_all_is_read_and_go_on_later() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(3).create().unwrap();
    let group = stream.group("g").create().unwrap();
    stream.append_batch((0..250).map(|n| n.to_string())).unwrap();
    let mut reader = group.reader().unwrap();
    let sizes: Vec<usize> = reader.batches(100).unwrap().map(|it| it.unwrap().len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    group.commit_reader(&reader).unwrap();
    assert_eq!(group.lag().unwrap(), 0);
    let mut bounded = stream.reader(Start::Earliest).unwrap().until_now().unwrap();
    stream.append("later").unwrap();
    let sizes: Vec<usize> = bounded.batches(240).unwrap().map(|it| it.unwrap().len()).collect();
    assert_eq!((sizes, bounded.is_done()), (vec![240, 10], true));
    let mut batches = reader.batches(100).unwrap();
    assert_eq!(batches.next().unwrap().unwrap().len(), 1);
    assert!(batches.next().is_none());
}

/// The records before damage come first, and then the error, again and again: nothing is skipped.
#[test]
fn a_batch_ends_before_damage() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    (0..MESSAGES).for_each(|n| _ = stream.append(format!("{n} {}", "x".repeat(20))).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    rot(&disk, &[100]);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").open().unwrap();
    let mut reader = stream.reader(Start::Earliest).unwrap();
    let before = reader.read_batch(1000, SECOND).unwrap().len() as u64;
    assert!((50..=100).contains(&before), "{before}");
    for _ in 0..3 {
        assert_eq!(kind(reader.read_batch(1000, SECOND)), ErrorKind::Corrupt);
    }
    let behind = reader.skip_damaged().unwrap().unwrap().offsets.end.0;
    assert_eq!(reader.read_batch(1000, SECOND).unwrap()[0].offset().0, behind);

    let mut reader = stream.reader(Start::Earliest).unwrap();
    let mut batches = reader.batches(before as usize / 2 + 1).unwrap();
    let sizes = batches.by_ref().map(|it| it.map(|it| it.len() as u64).map_err(|it| it.kind()));
    let sizes: Vec<_> = sizes.collect();
    let half = before / 2 + 1;
    assert_eq!(sizes, [Ok(half), Ok(before - half), Err(ErrorKind::Corrupt)]);
    assert_eq!(batches.next().unwrap().unwrap_err().kind(), ErrorKind::Corrupt, "it tries again");
}

/// Also for who takes each batch from a new iterator, and while another partition always has more.
#[test]
fn the_error_behind_a_batch_is_not_lost() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let [p0, p1] = [0, 1].map(|number| stream.partition(number).unwrap());
    let append = |to: &Partition| to.append_if(to.end().unwrap(), "a").map(drop).unwrap();
    (0..10).for_each(|_| append(&p0));
    (0..10).for_each(|_| append(&p1));
    let new = || stream.reader(Start::Earliest).unwrap().fail_on_trimmed(true);
    // Partition 1 has its turn before partition 0.
    let [mut batches, mut batch] = [new(), new()];
    let trimmed = Err(ErrorKind::Trimmed { partition: 0, next: Offset(0), start: Offset(4) });
    p0.trim_before(Offset(4)).unwrap();
    let (mut read, mut failed) = (0, 0);
    while let Some(found) = batches.batches(1000).unwrap().next() {
        match found.map(|it| it.len()).map_err(|it| it.kind()) {
            Ok(len) => read += len,
            error => {
                assert_eq!(error.map(drop), trimmed);
                failed += 1;
                break;
            }
        }
    }
    assert_eq!(failed, 1, "after {read} records");
    for _ in 0..20 {
        append(&p1);
        if let Err(error) = batch.read_batch(1000, SECOND) {
            assert_eq!(Err(error.kind()), trimmed);
            batch.skip_trimmed().unwrap();
            let rest = batch.read_batch(1000, SECOND).unwrap();
            assert_eq!(rest.iter().filter(|it| it.partition() == 0).count(), 6);
            return;
        }
    }
    panic!("the error never comes");
}

/// The next record of a stream. `None` if it has none yet; otherwise its payload, the kind of the error, or the end.
fn next(records: &mut Records) -> Option<Option<Result<Vec<u8>, ErrorKind>>> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(records).poll_next(&mut context) {
        Poll::Pending => None,
        Poll::Ready(next) => Some(next.map(|it| match it {
            Ok(record) => Ok(record.payload().to_vec()),
            Err(error) => Err(error.kind()),
        })),
    }
}

#[test]
fn records_are_a_stream_that_waits_and_ends() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let group = stream.group("g").create().unwrap();
    let mut records = group.reader().unwrap().records();
    assert!(next(&mut records).is_none());
    stream.append("first").unwrap();
    assert_eq!(next(&mut records), Some(Some(Ok(b"first".to_vec()))));
    group.commit_reader(records.reader()).unwrap();
    assert_eq!(group.lag().unwrap(), 0);
    stream.append("second").unwrap();
    drop(records); // it skips nothing
    let mut records = group.reader().unwrap().records();
    assert_eq!(next(&mut records), Some(Some(Ok(b"second".to_vec()))));
    assert!(next(&mut records).is_none());
    assert!(records.into_reader().try_read().unwrap().is_none());
    let mut records = stream.reader(Start::Latest).unwrap().records();
    assert!(next(&mut records).is_none());
    engine.close().unwrap();
    assert_eq!((next(&mut records), next(&mut records)), (Some(None), Some(None)));
}

#[test]
fn a_stream_of_records_gives_an_error_once_and_its_reader_goes_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    (0..MESSAGES).for_each(|n| _ = stream.append(format!("{n} {}", "x".repeat(20))).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    rot(&disk, &[0]);
    let engine = open(&disk).unwrap();
    let mut records = engine.stream("s").open().unwrap().reader(Start::Earliest).unwrap().records();
    assert_eq!(next(&mut records), Some(Some(Err(ErrorKind::Corrupt))));
    assert_eq!(next(&mut records), Some(None));
    let mut reader = records.into_reader();
    let behind = reader.skip_damaged().unwrap().unwrap().offsets.end;
    let first = next(&mut reader.records()).unwrap().unwrap().unwrap();
    assert!(first.starts_with(format!("{behind} ").as_bytes()));
}

/// Each partition is read by a thread of its own, and each record once and in order.
#[test]
fn partitions_are_read_side_by_side() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(4).create().unwrap();
    let message = |n: u64| Message::new(n.to_string()).key((n % 10).to_string());
    stream.append_batch((0..1000).map(message)).unwrap();
    engine.checkpoint().unwrap();
    stream.append_batch((1000..2000).map(message)).unwrap();
    let read = |number| {
        let partition = stream.partition(number).unwrap();
        let mut reader = partition.reader(Start::Earliest).unwrap().until_now().unwrap();
        let mut numbers: Vec<u64> = Vec::new();
        for batch in reader.batches(64).unwrap() {
            let text = |it: &OwnedRecord| String::from_utf8(it.payload().to_vec()).unwrap();
            numbers.extend(batch.unwrap().iter().map(|it| text(it).parse::<u64>().unwrap()));
        }
        assert!(reader.is_done() && numbers.is_sorted());
        numbers
    };
    let mut all: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|number| scope.spawn(move || read(number))).collect();
        threads.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert_eq!(all, (0..2000).collect::<Vec<_>>());
}
