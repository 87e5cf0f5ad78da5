//! Readers that begin and end at given positions, and the last record of a partition.

use posthouse::{
    BoundedReader, Durability, Engine, ErrorKind, Message, Offset, Position, Start, Stream,
    sim::SimDisk,
};

use crate::{
    model::{rot_first_record, small_options},
    support::{HOUR, SECOND, Sim, Task, block_on, everywhere, field, kind, ms, open, real},
};

fn position(partition: u32, offset: u64) -> Position {
    Position { partition, offset: Offset(offset) }
}

/// Appends records one by one and in batches, of one partition: their payloads are their offsets.
fn fill(stream: &Stream, upto: u64) {
    let mut next = stream.partition(0).unwrap().end().unwrap().0;
    for count in [1, 1, 7, 1, 40, 3].into_iter().cycle() {
        let end = upto.min(next + count);
        if next == end {
            return;
        }
        stream.append_batch((next..end).map(|n| n.to_string())).unwrap();
        next = end;
    }
}

fn offsets(reader: BoundedReader) -> Vec<u64> {
    let mut reader = reader;
    let read = reader.by_ref().map(|record| {
        let record = record.unwrap();
        assert_eq!(record.payload(), record.offset().to_string().as_bytes());
        record.offset().0
    });
    let read = read.collect();
    assert!(reader.is_done(), "{reader:?}");
    assert!(reader.next().is_none() && reader.try_read().unwrap().is_none());
    assert!(
        reader.read(HOUR).unwrap().is_none() && block_on(reader.read_async()).unwrap().is_none()
    );
    read
}

/// Each range of a stream, whether its records are in the journal, in segments or in both.
fn check_ranges(stream: &Stream, first: u64, end: u64) {
    let partition = stream.partition(0).unwrap();
    for until in (0..=end).chain([end]) {
        for from in [first, first + 1, until.saturating_sub(1), until, end] {
            let from = from.clamp(first, end);
            let reader = || stream.reader(Start::Offset(Offset(from))).unwrap();
            let bounded = reader().until([position(0, until)]).unwrap();
            assert_eq!(offsets(bounded), (from..until).collect::<Vec<_>>(), "{from} to {until}");
            let reader = stream.reader_at([position(0, from)]).unwrap();
            let mut bounded = reader.until([position(0, until)]).unwrap();
            _ = bounded.next();
            let rest: Vec<_> = bounded.into_reader().map(|it| it.unwrap().offset().0).collect();
            let first = if from < until { from + 1 } else { from };
            assert_eq!(rest, (first..end).collect::<Vec<_>>(), "{from} to {until}, and on");
        }
    }
    let all = partition.reader(Start::Earliest).unwrap().until_now().unwrap();
    assert_eq!(offsets(all), (first..end).collect::<Vec<_>>());
    let last = partition.last().unwrap().map(|it| (it.offset().0, it.payload().to_vec()));
    let expected = (end > first).then(|| (end - 1, (end - 1).to_string().into_bytes()));
    assert_eq!(last, expected);
}

#[test]
fn a_reader_ends_where_it_is_told_to() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        check_ranges(&stream, 0, 0);
        let mut first = 0;
        for (upto, trimmed) in [(1, 0), (60, 5), (61, 61), (100, 70)] {
            fill(&stream, upto);
            engine.sync().unwrap();
            check_ranges(&stream, first, upto);
            first = trimmed;
            stream.partition(0).unwrap().trim_before(Offset(first)).unwrap();
            check_ranges(&stream, first, upto);
            engine.checkpoint().unwrap();
            check_ranges(&stream, first, upto);
        }
        drop((engine, stream));
        let engine = open();
        let stream = engine.stream("s").open().unwrap();
        check_ranges(&stream, 70, 100);
        engine.stream("s").delete().unwrap();
        assert_eq!(kind(stream.partition(0).and_then(|it| it.last())), ErrorKind::NotFound);
        assert_eq!(kind(stream.reader_at([])), ErrorKind::NotFound);
    });
}

/// The records of one moment are read, and those that come meanwhile are not. Then the reader goes on.
#[test]
fn a_reader_until_now_knows_when_it_is_up_to_date() {
    for partitions in [3, 300] {
        let (engine, _dir) = real();
        let stream = engine.stream("s").partitions(partitions).create().unwrap();
        let group = stream.group("g").create().unwrap();
        let append = |n: u64| _ = stream.append(n.to_string()).unwrap();
        (0..1000).for_each(append);
        let mut reader = stream.reader(Start::Earliest).unwrap();
        let mut read: Vec<u64> = Vec::new();
        let number = |payload: &[u8]| std::str::from_utf8(payload).unwrap().parse().unwrap();
        for round in 1..4 {
            let mut bounded = reader.until_now().unwrap();
            assert!(!bounded.is_done());
            let mut more = 1000 * round;
            while let Some(record) = bounded.try_read().unwrap() {
                read.push(number(record.payload()));
                if more < 1000 * (round + 1) {
                    append(more);
                    more += 1;
                }
                if more % 400 == 0 {
                    engine.checkpoint().unwrap();
                }
            }
            assert!(bounded.is_done());
            assert!(bounded.read(HOUR).unwrap().is_none());
            read.sort_unstable();
            assert!(read.iter().copied().eq(0..1000 * round), "{}", read.len());
            group.commit_reader(bounded.reader()).unwrap();
            assert_eq!(group.lag().unwrap(), 1000);
            reader = bounded.into_reader();
        }
        assert_eq!(reader.by_ref().count(), 1000);
        assert!(reader.until_now().unwrap().is_done());
    }
}

#[test]
fn a_reader_waits_for_an_end_that_has_not_come_yet() {
    let Sim { engine, .. } = Sim::new();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let [first, second] = [0, 1].map(|n| stream.partition(n).unwrap());
    first.append_if(Offset(0), "0").unwrap();
    let until = || stream.reader(Start::Earliest).unwrap().until([position(0, 2), position(1, 1)]);
    let mut reader = until().unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"0");
    assert!(reader.try_read().unwrap().is_none() && reader.read(ms(1)).unwrap().is_none());
    assert!(reader.next().is_none() && !reader.is_done());
    let waiting = async move {
        let mut read = Vec::new();
        while let Some(record) = reader.read_async().await.unwrap() {
            read.push(record.payload().to_vec());
        }
        assert!(reader.is_done());
        (read, reader)
    };
    let mut task = Task::waiting(waiting);
    second.append_batch_if(Offset(0), ["a", "b"]).unwrap();
    assert!(task.is_woken() && task.poll().is_none());
    first.append_batch_if(Offset(1), ["1", "2"]).unwrap();
    assert!(task.is_woken());
    let (read, reader) = task.poll().expect("it is done");
    assert_eq!(read, [b"a", b"1"]);
    let mut reader = reader.into_reader();
    let rest: Vec<_> = reader.by_ref().map(|it| it.unwrap().payload().to_vec()).collect();
    assert!(rest.len() == 2 && rest.contains(&b"b".to_vec()) && rest.contains(&b"2".to_vec()));
    // What is trimmed need not be read.
    let mut reader = until().unwrap();
    first.trim_before(Offset(2)).unwrap();
    second.trim_before(Offset(1)).unwrap();
    assert!(reader.read(SECOND).unwrap().is_none() && reader.is_done());
}

#[test]
fn positions_that_do_not_fit_are_refused() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(3).create().unwrap();
    (0..3).for_each(|_| _ = stream.append_batch(["a", "b", "c"]).unwrap());
    let at = |positions: &[Position]| stream.reader_at(positions.iter().copied());
    assert_eq!(field(at(&[position(3, 0)])), "partition");
    assert_eq!(field(at(&[position(1, 0), position(2, 0), position(1, 0)])), "positions");
    stream.partition(1).unwrap().trim_before(Offset(2)).unwrap();
    assert_eq!(field(at(&[position(1, 1)])), "start");
    let reader = at(&[position(2, 1)]).unwrap();
    assert!(reader.positions().eq([position(0, 0), position(1, 2), position(2, 1)]));
    assert!(at(&[position(1, 9)]).unwrap().positions().any(|it| it == position(1, 9)));

    let until =
        |ends: &[Position]| stream.reader(Start::Earliest).unwrap().until(ends.iter().copied());
    assert_eq!(field(until(&[position(3, 0)])), "partition");
    assert_eq!(field(until(&[position(0, 1), position(0, 1)])), "positions");
    let one = stream.partition(1).unwrap().reader(Start::Earliest).unwrap();
    assert_eq!(field(one.until([position(0, 1)])), "partition");
    // Partitions without an end are not read.
    assert_eq!(until(&[position(2, 2)]).unwrap().count(), 2);
    assert!(until(&[]).unwrap().is_done());
}

pub const MESSAGES: u64 = 200;

/// A stream in a segment whose first block is damaged.
fn damaged() -> (SimDisk, Engine) {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    (0..MESSAGES).for_each(|n| _ = stream.append(format!("{n} {}", "x".repeat(20))).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((stream, engine));
    rot_first_record(&disk);
    let engine = open(&disk).unwrap();
    (disk, engine)
}

#[test]
fn damage_stops_a_reader_with_an_end_as_any_other() {
    let (disk, engine) = damaged();
    let stream = engine.stream("s").open().unwrap();
    let partition = stream.partition(0).unwrap();
    let mut reader = stream.reader(Start::Earliest).unwrap().until_now().unwrap();
    assert_eq!(kind(reader.try_read()), ErrorKind::Corrupt);
    let skipped = reader.skip_damaged().unwrap().expect("it stands before damage").offsets;
    assert_eq!(reader.by_ref().count() as u64, MESSAGES - skipped.end.0);
    assert!(reader.is_done());
    // It ends within the damage, and before the others.
    let within = position(0, skipped.end.0 - 1);
    let mut reader = stream.reader(Start::Earliest).unwrap().until([within]).unwrap();
    assert!(reader.next().unwrap().is_err() && !reader.is_done());
    reader.skip_damaged().unwrap().expect("it stands before damage");
    assert!(reader.is_done() && reader.try_read().unwrap().is_none());
    assert!(reader.skip_damaged().unwrap().is_none());
    // Damage behind the end, and before the last record, does not matter.
    assert!(stream.reader(Start::Earliest).unwrap().until([]).unwrap().next().is_none());
    assert_eq!(partition.last().unwrap().unwrap().offset(), Offset(MESSAGES - 1));
    engine.close().unwrap();

    // In the copy, the records are missing.
    small_options().sim(&disk).salvage("store", "copy").unwrap();
    let engine = small_options().sim(&disk).open("copy").unwrap();
    let stream = engine.stream("s").open().unwrap();
    for until in 0..=MESSAGES {
        let reader = stream.reader(Start::Earliest).unwrap();
        let mut reader = reader.until([position(0, until)]).unwrap();
        let count = reader.by_ref().count() as u64;
        assert_eq!(count, until.saturating_sub(skipped.end.0), "{until}");
        assert!(reader.is_done(), "{reader:?}");
    }
}

/// The last block is damaged: no earlier record is returned in its place, and in a copy without it, it is not waited for.
#[test]
fn a_last_record_that_is_damaged_is_an_error() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    stream.append_batch(["the first", "the last"]).unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((stream, engine));
    rot_first_record(&disk);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").open().unwrap();
    let error = stream.partition(0).unwrap().last().unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(Offset(1))));
    assert!(error.to_string().contains("message 1 of \"s\""), "{error}");
    drop((engine, stream));
    small_options().sim(&disk).salvage("store", "copy").unwrap();
    let engine = small_options().sim(&disk).open("copy").unwrap();
    let stream = engine.stream("s").open().unwrap();
    assert!(stream.partition(0).unwrap().last().unwrap().is_none());
    let mut reader = stream.reader(Start::Earliest).unwrap().until_now().unwrap();
    assert!(reader.next().is_none() && reader.is_done(), "{reader:?}");
}

/// Changes a byte of each record that is given by its number.
pub fn rot(disk: &SimDisk, records: &[u64]) {
    for n in records {
        let text = format!("{n} {}", "x".repeat(20));
        for path in disk.files().into_iter().filter(|it| it.starts_with("store/segments")) {
            let mut content = disk.content(&path).unwrap();
            if let Some(at) = content.windows(text.len()).position(|it| it == text.as_bytes()) {
                content[at + 10] ^= 1;
                disk.plant(&path, Some(content));
            }
        }
    }
}

/// A copy of a damaged store lacks records, in the middle and at the end. Blocks have gaps there, and nobody waits for them.
#[test]
fn records_that_are_missing_are_not_waited_for() {
    for lost in [&[100][..], &[MESSAGES - 1], &[50, 120, MESSAGES - 1], &[0, 100]] {
        let disk = SimDisk::new(1);
        let engine = open(&disk).unwrap();
        let stream = engine.stream("s").create().unwrap();
        (0..MESSAGES).for_each(|n| _ = stream.append(format!("{n} {}", "x".repeat(20))).unwrap());
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        drop((stream, engine));
        rot(&disk, lost);
        small_options().sim(&disk).salvage("store", "copy").unwrap();
        let engine = small_options().sim(&disk).open("copy").unwrap();
        let stream = engine.stream("s").open().unwrap();
        let partition = stream.partition(0).unwrap();
        for _ in 0..2 {
            let all: Vec<u64> =
                stream.reader(Start::Earliest).unwrap().map(|it| it.unwrap().offset().0).collect();
            assert!((MESSAGES / 2..MESSAGES).contains(&(all.len() as u64)), "{}", all.len());
            assert_eq!(partition.last().unwrap().unwrap().offset().0, *all.last().unwrap());
            for until in 0..=partition.end().unwrap().0 {
                let reader = stream.reader(Start::Earliest).unwrap();
                let mut reader = reader.until([position(0, until)]).unwrap();
                let read: Vec<u64> = reader.by_ref().map(|it| it.unwrap().offset().0).collect();
                assert!(read.iter().eq(all.iter().take_while(|it| **it < until)), "{until}");
                assert!(reader.is_done() && reader.read(HOUR).unwrap().is_none(), "{reader:?}");
            }
            // Segments are written anew.
            (0..3).for_each(|_| engine.checkpoint().unwrap());
        }
    }
}

/// Records that are not durable are neither read nor waited for.
#[test]
fn now_is_what_can_be_read() {
    let disk = SimDisk::new(1);
    let options = small_options().sync_interval(HOUR);
    let engine = options.sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    stream.append("0").unwrap();
    let buffered = stream.durability(Durability::Buffered);
    buffered.append_batch((1..50).map(|n| Message::new(n.to_string()))).unwrap();
    let last = || stream.partition(0).unwrap().last().unwrap().unwrap().payload().to_vec();
    assert_eq!(last(), b"0");
    let reader = stream.reader(Start::Earliest).unwrap().until_now().unwrap();
    assert_eq!(offsets(reader), [0]);
    engine.sync().unwrap();
    assert_eq!(last(), b"49");
    let reader = stream.reader(Start::Earliest).unwrap().until_now().unwrap();
    assert!(offsets(reader).into_iter().eq(0..50));
}
