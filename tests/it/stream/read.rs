//! Readers of a stream.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use posthouse::{
    Durability, ErrorKind, IoMode, Message, Offset, Options, Record, Start, Threshold, Timestamp,
    sim::SimDisk,
};

use crate::support::{everywhere, kind, open, real};

#[test]
fn a_stream_is_read_from_any_point() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        for n in 0..50u64 {
            let message = Message::new(n.to_string()).timestamp(Timestamp(1000 + n / 2));
            assert_eq!(stream.append(message).unwrap().offset, Offset(n));
            if n == 20 || n == 33 {
                engine.checkpoint().unwrap();
            }
        }
        engine.sync().unwrap();
        let read = |start| -> Vec<u64> {
            let records = stream.reader(start).unwrap();
            records.map(|record| record.unwrap().offset().0).collect()
        };
        assert_eq!(read(Start::Earliest), (0..50).collect::<Vec<_>>());
        assert_eq!(read(Start::Latest), []);
        for offset in [0, 1, 20, 21, 34, 49, 50] {
            assert_eq!(read(Start::Offset(Offset(offset))), (offset..50).collect::<Vec<_>>());
        }
        for (time, first) in [(0, 0), (1000, 0), (1001, 2), (1010, 20), (1024, 48), (1025, 50)] {
            assert_eq!(read(Start::Time(Timestamp(time))), (first..50).collect::<Vec<_>>());
        }
        let partition = stream.partition(0).unwrap();
        partition.trim_before(Offset(10)).unwrap();
        assert_eq!(partition.start().unwrap(), Offset(10));
        assert_eq!(read(Start::Earliest), (10..50).collect::<Vec<_>>());
        let early = stream.reader(Start::Offset(Offset(9)));
        assert_eq!(kind(early), ErrorKind::InvalidInput { field: "start" });
        let beyond = partition.trim_before(Offset(51));
        assert_eq!(kind(beyond), ErrorKind::InvalidInput { field: "offset" });
        assert_eq!(kind(stream.partition(1)), ErrorKind::InvalidInput { field: "partition" });
        assert_eq!(stream.len().unwrap(), 40);
    });
}

#[test]
fn a_reader_goes_on_as_records_come() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(3).create().unwrap();
    let mut reader = stream.reader(Start::Latest).unwrap();
    assert!(reader.try_read().unwrap().is_none());
    let writer = {
        let stream = stream.clone();
        thread::spawn(move || {
            for n in 0..300 {
                let key = format!("key {}", n % 7);
                stream.append(Message::new(n.to_string()).key(key)).unwrap();
            }
        })
    };
    let mut last = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let record = reader.read(Duration::from_secs(60)).unwrap().unwrap();
        let n: u64 = std::str::from_utf8(record.payload()).unwrap().parse().unwrap();
        let before = last.insert(record.key().unwrap().to_vec(), n);
        assert!(before < Some(n), "records of one key come in order");
    }
    assert!(reader.read(Duration::from_millis(1)).unwrap().is_none());
    writer.join().unwrap();
    assert_eq!(stream.len().unwrap(), 300);
}

#[test]
fn a_reader_past_the_end_waits_for_its_offset() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        stream.append_batch(["0", "1", "2"]).unwrap();
        let mut reader = stream.reader(Start::Offset(Offset(5))).unwrap();
        assert!(reader.try_read().unwrap().is_none());
        engine.checkpoint().unwrap();
        assert!(reader.read(Duration::from_millis(1)).unwrap().is_none());
        stream.append_batch(["3", "4"]).unwrap();
        assert!(reader.try_read().unwrap().is_none());
        stream.append_batch(["5", "6"]).unwrap();
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"5");
        engine.checkpoint().unwrap();
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"6");
    });
}

/// The documentation says: "Groups and readers that have not come so far skip them."
#[test]
fn a_reader_skips_what_was_trimmed_meanwhile() {
    for checkpoint in [false, true] {
        let disk = SimDisk::new(1);
        let engine = open(&disk).unwrap();
        let stream = engine.stream("s").create().unwrap();
        stream.append_batch((0..20).map(|n| n.to_string())).unwrap();
        if checkpoint {
            engine.checkpoint().unwrap();
        }
        let mut reader = stream.reader(Start::Earliest).unwrap();
        stream.partition(0).unwrap().trim_before(Offset(10)).unwrap();
        let first = reader.try_read().unwrap().unwrap().offset();
        assert_eq!(first, Offset(10), "checkpointed {checkpoint}");
    }
}

/// The end of the header of the run whose first record has a payload: the length of the run, and that of the record. Returns
/// the journal file, the place and the bytes.
pub fn end_of_run_header(store: &Path, payload: &[u8]) -> (File, u64, [u8; 6]) {
    use std::os::unix::fs::FileExt;
    let journal = std::fs::read_dir(store.join("journal")).unwrap();
    let mut journal = journal.map(|it| it.unwrap().path());
    let found = journal.find_map(|file| {
        let content = std::fs::read(&file).unwrap();
        content.windows(payload.len()).position(|it| it == payload).map(|at| (file, at))
    });
    let (file, at) = found.unwrap();
    let file = File::options().read(true).write(true).open(file).unwrap();
    let (mut before, at) = ([0; 6], at as u64 - 6);
    file.read_exact_at(&mut before, at).unwrap();
    (file, at, before)
}

/// The journal run is damaged while a reader reads. The reader reports the damage until the run is whole
/// again. A reader that is asked again does not go on behind it.
#[test]
fn a_reader_does_not_skip_a_damaged_run() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Options::new().io(IoMode::Map).open(&path).unwrap();
    let stream = engine.stream("s").create().unwrap();
    for payload in ["the first", "the second", "the third"] {
        stream.append(payload).unwrap();
    }
    let (file, at, before) = end_of_run_header(&path, b"the second");

    let mut reader = stream.reader(Start::Earliest).unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the first");
    file.write_all_at(&[0xFF; 6], at).unwrap();
    for _ in 0..3 {
        assert_eq!(reader.try_read().unwrap_err().kind(), ErrorKind::Corrupt);
    }
    file.write_all_at(&before, at).unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the second");
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the third");
}

/// Records of many commits are read in one piece. Where a part of it cannot be read, the others are.
#[test]
fn a_reader_reads_up_to_a_part_of_the_journal_that_cannot_be_read() {
    let disk = SimDisk::new(1);
    let engine = Options::new().io(IoMode::Calls).sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    let payload = |n: u64| format!("record {n:03}");
    (0..100).for_each(|n| _ = stream.append(payload(n)).unwrap());
    let holds = |path: &std::path::PathBuf| {
        let content = disk.content(path).unwrap();
        content.windows(10).position(|it| it == payload(50).as_bytes())
    };
    let found = disk.files().into_iter().find_map(|it| holds(&it).map(|at| (it, at as u64)));
    let (path, at) = found.unwrap();
    disk.set_unreadable(&path, at..at + 1);
    let mut reader = stream.reader(Start::Earliest).unwrap();
    for n in 0..50 {
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), payload(n).as_bytes());
    }
    for _ in 0..3 {
        assert_eq!(kind(reader.try_read()), ErrorKind::Io);
    }
    disk.heal();
    for n in 50..100 {
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), payload(n).as_bytes());
    }
}

/// The records of one batch are one run of the journal, and a trim ends inside of it.
#[test]
fn a_time_before_a_trim_inside_a_batch_begins_at_the_first_record_that_is_left() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        stream
            .append_batch((0..10).map(|n| Message::new("x").timestamp(Timestamp(100 + n))))
            .unwrap();
        engine.sync().unwrap();
        stream.partition(0).unwrap().trim_before(Offset(5)).unwrap();
        for (time, first) in [(50, 5), (104, 5), (105, 5), (107, 7), (110, 10)] {
            let start = Start::Time(Timestamp(time));
            let read = stream.reader(start).unwrap().map(|it| it.unwrap().offset().0);
            assert_eq!(read.collect::<Vec<_>>(), (first..10).collect::<Vec<_>>(), "{time}");
            let group = stream.group(&format!("from {time}")).start(start).create().unwrap();
            assert_eq!(group.lag().unwrap(), 10 - first, "{time}");
        }
    });
}

/// Notes a record: it is the next one that is there, and was not read before.
fn note(record: &Record<'_>, next: &mut [u64; 5], read: &mut [u64; 5]) {
    let (n, Offset(offset)) = (record.partition() as usize, record.offset());
    // A record that was read ahead may have been trimmed since.
    assert!(read[n] <= offset && offset <= next[n]);
    (read[n], next[n]) = (offset + 1, next[n].max(offset + 1));
}

/// Readers over several partitions get each record once and in order, however appends, syncs, trims and reads mix.
#[test]
fn readers_of_several_partitions_find_all_that_comes() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").partitions(5).create().unwrap();
        let mut readers =
            [stream.reader(Start::Earliest).unwrap(), stream.reader(Start::Latest).unwrap()];
        let mut next = [[0u64; 5]; 2];
        let mut read = [[0u64; 5]; 2];
        let mut ends = [0u64; 5];
        let mut chance = 7u64;
        let mut draw = |among: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (chance >> 33) % among
        };
        for round in 0..2000 {
            let partition = draw(5) as usize;
            match draw(8) {
                0..3 => {
                    // It is not durable yet, and may not be visible.
                    let key = round.to_string();
                    drop(stream.append_ticket(Message::new("news").key(&*key)).unwrap());
                    ends[posthouse::partition_of(key.as_bytes(), 5) as usize] += 1;
                }
                3 => engine.sync().unwrap(),
                4 if round % 5 == 0 => {
                    engine.sync().unwrap();
                    let trimmed = Offset(draw(ends[partition] + 1));
                    stream.partition(partition as u32).unwrap().trim_before(trimmed).unwrap();
                    for next in &mut next {
                        next[partition] = next[partition].max(trimmed.0);
                    }
                }
                5 if round % 50 == 0 => engine.checkpoint().unwrap(),
                _ => {
                    let which = draw(2) as usize;
                    for _ in 0..draw(4) {
                        let Some(record) = readers[which].try_read().unwrap() else { break };
                        note(&record, &mut next[which], &mut read[which]);
                    }
                }
            }
        }
        engine.sync().unwrap();
        for ((reader, mut next), mut read) in readers.iter_mut().zip(next).zip(read) {
            while let Some(record) = reader.try_read().unwrap() {
                note(&record, &mut next, &mut read);
            }
            assert_eq!(next, ends);
        }
        engine.stream("s").delete().unwrap();
        readers.iter_mut().for_each(|it| assert_eq!(kind(it.try_read()), ErrorKind::NotFound));
    });
}

/// The partitions of a batch were noted for readers in a later hold of the core: whoever was told of the commit before found
/// nothing there.
#[test]
fn a_reader_of_many_partitions_finds_a_large_batch_as_soon_as_it_is_committed() {
    for (records, is_sync) in [(10, false), (64, false), (64, true)] {
        let disk = SimDisk::new(1);
        let durability = if is_sync { Durability::Sync } else { Durability::Buffered };
        let engine = Options::new().durability(durability).sim(&disk).open("store").unwrap();
        let stream = engine.stream("s").partitions(2).create().unwrap();
        let queue = engine.queue("q").create().unwrap();
        let mut reader = stream.reader(Start::Earliest).unwrap();
        assert!(reader.try_read().unwrap().is_none());
        let (told, found) = (Arc::new(Mutex::new(None)), stream.clone());
        let (tell, reader) = (Arc::clone(&told), Mutex::new(reader));
        let look = move |_| {
            let (mut reader, mut read) = (reader.lock().unwrap(), 0);
            while reader.try_read().unwrap().is_some() {
                read += 1;
            }
            *tell.lock().unwrap() = Some((found.len().unwrap(), read));
        };
        let _watch = queue.watch(Threshold::Depth(1), look).unwrap();
        let mut tx = engine.transaction();
        (0..records).for_each(|_| _ = tx.append(&stream, "x"));
        tx.send(&queue, "go");
        tx.commit().unwrap();
        let (there, read) = told.lock().unwrap().expect("the queue has a message");
        assert_eq!(read, there, "{records} {is_sync}");
    }
}
