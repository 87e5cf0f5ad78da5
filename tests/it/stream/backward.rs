//! Readers that read a partition backwards.

use std::{collections::BTreeSet, os::unix::fs::FileExt};

use posthouse::{
    BackwardReader, Durability, Engine, ErrorKind, IoMode, Message, Offset, Options, Partition,
    Position, Start, Stream, Timestamp, sim::SimDisk,
};
use proptest::prelude::*;

use super::{
    bounded::{MESSAGES, rot},
    read::end_of_run_header,
};
use crate::{
    model::small_options,
    support::{cases, everywhere, field, kind, open, real},
};

/// All of a record: what it is, and where.
type Seen = (u64, Vec<u8>, Option<Vec<u8>>, Timestamp, usize);

fn forwards(partition: &Partition) -> Vec<Seen> {
    let records = partition.reader(Start::Earliest).unwrap().map(|it| it.unwrap());
    let seen = records.map(|it| {
        let key = it.key().map(<[u8]>::to_vec);
        (it.offset().0, it.payload().to_vec(), key, it.timestamp(), it.headers().count())
    });
    seen.collect()
}

fn backwards(reader: BackwardReader) -> Vec<Seen> {
    let mut reader = reader;
    let mut seen = Vec::new();
    // By turns: as an iterator, and lent.
    loop {
        if seen.len() % 3 == 0 {
            let Some(it) = reader.next() else { break };
            let it = it.unwrap();
            let key = it.key().map(<[u8]>::to_vec);
            let headers = it.headers().count();
            seen.push((it.offset().0, it.payload().to_vec(), key, it.timestamp(), headers));
        } else {
            let Some(it) = reader.try_read().unwrap() else { break };
            let key = it.key().map(<[u8]>::to_vec);
            let headers = it.headers().count();
            seen.push((it.offset().0, it.payload().to_vec(), key, it.timestamp(), headers));
        }
        assert!(
            seen.windows(2).last().is_none_or(|pair| pair[1].0 < pair[0].0),
            "{:?}",
            seen.last()
        );
        let last = Offset(seen[seen.len() - 1].0);
        assert_eq!(reader.place(), Position { partition: 0, offset: last });
    }
    assert!(reader.next().is_none() && reader.try_read().unwrap().is_none());
    seen.reverse();
    seen
}

/// A partition read backwards has the records of a partition that is read forwards, from any place.
fn check(partition: &Partition) {
    let all = forwards(partition);
    let back = |start| backwards(partition.reader_back(start).unwrap());
    assert_eq!(back(Start::Latest), all);
    assert_eq!(back(Start::Earliest), []);
    let (first, end) = (partition.start().unwrap().0, partition.end().unwrap().0);
    assert_eq!(back(Start::Offset(Offset(end + 7))), all);
    let places = [first, first + 1, first + (end - first) / 2, end.saturating_sub(1), end];
    for place in places.into_iter().filter(|it| (first..=end).contains(it)) {
        let before: Vec<Seen> = all.iter().take_while(|it| it.0 < place).cloned().collect();
        assert_eq!(back(Start::Offset(Offset(place))), before, "before {place}");
    }
    for time in [0, 1003, 1010, 5000].map(Timestamp) {
        let mut before = partition.reader(Start::Time(time)).unwrap();
        let place = before.try_read().unwrap().map_or(end, |it| it.offset().0);
        let before: Vec<Seen> = all.iter().take_while(|it| it.0 < place).cloned().collect();
        assert_eq!(back(Start::Time(time)), before, "before {time:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// So many records in one commit, of so many bytes.
    Append {
        count: u64,
        bytes: usize,
    },
    /// To another stream, so that there are others between the runs.
    Elsewhere {
        bytes: usize,
    },
    /// Before a record, in thousandths of those that are there.
    Trim(u64),
    Checkpoint,
    Sync,
    Reopen,
    /// So many records of a reader that goes on when the other steps were done.
    Read(usize),
    Check,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![20 => 0..60usize, 4 => 300..900usize, 1 => 5_000..40_000usize];
    let count = prop_oneof![3 => 1..3u64, 2 => 3..90u64];
    let step = prop_oneof![
        12 => (count, bytes.clone()).prop_map(|(count, bytes)| {
            let count = if bytes > 1000 { 1 } else { count };
            Step::Append { count, bytes }
        }),
        2 => bytes.prop_map(|bytes| Step::Elsewhere { bytes }),
        2 => (0..1000u64).prop_map(Step::Trim),
        4 => Just(Step::Checkpoint),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        4 => (0..60usize).prop_map(Step::Read),
        2 => Just(Step::Check),
    ];
    prop::collection::vec(step, 1..60)
}

struct Store {
    disk: SimDisk,
    options: Options,
    engine: Engine,
    next: u64,
}

impl Store {
    fn stream(&self) -> Stream {
        self.engine.stream("s").create().unwrap()
    }

    fn partition(&self) -> Partition {
        self.stream().partition(0).unwrap()
    }

    fn append(&mut self, count: u64, bytes: usize) {
        let message = |n: u64| {
            let message = Message::new(format!("{n} {}", "x".repeat(bytes)));
            let message = if n.is_multiple_of(5) { message.key(n.to_string()) } else { message };
            let message =
                if n.is_multiple_of(7) { message.header("n", n.to_string()) } else { message };
            if n.is_multiple_of(3) { message.timestamp(Timestamp(1000 + n)) } else { message }
        };
        let messages = (self.next..self.next + count).map(message);
        self.stream().append_batch(messages).unwrap();
        self.next += count;
    }

    fn trim(&self, thousandths: u64) {
        let partition = self.partition();
        let (start, end) = (partition.start().unwrap().0, partition.end().unwrap().0);
        let before = Offset(start + (end - start) * thousandths / 1000);
        partition.trim_before(before).unwrap();
    }
}

/// A reader that was opened before others appended, trimmed and made checkpoints.
struct Slow {
    reader: BackwardReader,
    seen: BTreeSet<u64>,
    end: u64,
}

impl Slow {
    fn read(&mut self, most: usize) {
        for _ in 0..most {
            let Some(record) = self.reader.try_read().unwrap() else { break };
            let n = record.offset().0;
            assert!(record.payload().starts_with(format!("{n} ").as_bytes()), "{n}");
            assert!(n < self.end && self.seen.first().is_none_or(|last| n < *last), "{n}");
            self.seen.insert(n);
        }
    }

    /// It has read all that it began with and that is still there.
    fn end(mut self, partition: &Partition) {
        self.read(usize::MAX);
        let start = partition.start().unwrap().0;
        assert!((start..self.end).all(|n| self.seen.contains(&n)), "{:?}", self.seen);
    }
}

fn run(seed: u64, io: IoMode, durability: Durability, steps: &[Step]) {
    let disk = SimDisk::new(seed);
    let options = small_options().io(io).durability(durability);
    let engine = options.clone().sim(&disk).open("store").unwrap();
    let mut store = Store { disk, options, engine, next: 0 };
    let mut slow: Option<Slow> = None;
    for step in steps {
        match step {
            Step::Append { count, bytes } => store.append(*count, *bytes),
            Step::Elsewhere { bytes } => {
                let other = store.engine.stream("other").create().unwrap();
                other.append("y".repeat(*bytes)).unwrap();
            }
            Step::Trim(thousandths) => store.trim(*thousandths),
            Step::Checkpoint => store.engine.checkpoint().unwrap(),
            Step::Sync => store.engine.sync().unwrap(),
            Step::Reopen => {
                if let Some(slow) = slow.take() {
                    slow.end(&store.partition());
                }
                store.engine.close().unwrap();
                store.engine = store.options.clone().sim(&store.disk).open("store").unwrap();
            }
            Step::Read(most) => {
                let slow = slow.get_or_insert_with(|| Slow {
                    reader: store.partition().reader_back(Start::Latest).unwrap(),
                    seen: BTreeSet::new(),
                    end: store.partition().end().unwrap().0,
                });
                slow.read(*most);
            }
            Step::Check => check(&store.partition()),
        }
    }
    if let Some(slow) = slow {
        slow.end(&store.partition());
    }
    store.engine.sync().unwrap();
    check(&store.partition());
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn what_is_read_backwards_is_what_is_read_forwards(
        seed: u64,
        io in prop_oneof![Just(IoMode::Map), Just(IoMode::Calls)],
        durability in prop_oneof![Just(Durability::Sync), Just(Durability::Buffered)],
        steps in steps(),
    ) {
        run(seed, io, durability, &steps);
    }
}

#[test]
fn a_partition_is_read_backwards_from_any_place() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").create().unwrap();
        let partition = stream.partition(0).unwrap();
        check(&partition);
        for n in 0..60u64 {
            stream.append(Message::new(n.to_string()).timestamp(Timestamp(1000 + n / 2))).unwrap();
            if n == 20 || n == 41 {
                engine.checkpoint().unwrap();
            }
        }
        engine.sync().unwrap();
        check(&partition);
        partition.trim_before(Offset(10)).unwrap();
        check(&partition);
        let trimmed = partition.reader_back(Start::Offset(Offset(9)));
        assert_eq!(field(trimmed), "start");
        let mut reader = partition.reader_back(Start::Latest).unwrap();
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"59");
        engine.stream("s").delete().unwrap();
        assert_eq!(kind(partition.reader_back(Start::Latest)), ErrorKind::NotFound);
    });
}

/// A page goes on where the one before ended, though records have come.
#[test]
fn pages_go_on_where_the_last_one_ended() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").create().unwrap();
    let partition = stream.partition(0).unwrap();
    stream.append_batch((0..25).map(|n| n.to_string())).unwrap();
    let (mut place, mut read) = (Start::Latest, Vec::new());
    loop {
        let mut page = partition.reader_back(place).unwrap();
        let before = read.len();
        read.extend(page.by_ref().take(10).map(|it| it.unwrap().offset().0));
        if read.len() == before {
            break;
        }
        assert!(read.len() <= 25, "{read:?}");
        place = Start::Offset(page.place().offset);
        stream.append("more").unwrap();
        engine.checkpoint().unwrap();
    }
    assert_eq!(read, (0..25).rev().collect::<Vec<_>>());
}

/// In a copy of a damaged store records are missing, and blocks have gaps.
#[test]
fn missing_records_are_passed_over() {
    for lost in [&[100][..], &[MESSAGES - 1], &[50, 120, MESSAGES - 1], &[0, 100]] {
        let disk = SimDisk::new(1);
        fill(&open(&disk).unwrap());
        rot(&disk, lost);
        small_options().sim(&disk).salvage("store", "copy").unwrap();
        let engine = small_options().sim(&disk).open("copy").unwrap();
        for _ in 0..2 {
            let partition = engine.stream("s").open().unwrap().partition(0).unwrap();
            assert!(forwards(&partition).len() < MESSAGES as usize);
            check(&partition);
            (0..3).for_each(|_| engine.checkpoint().unwrap());
        }
    }
}

/// A stream whose records are in segments, and closes the engine.
fn fill(engine: &Engine) {
    let stream = engine.stream("s").create().unwrap();
    (0..MESSAGES).for_each(|n| _ = stream.append(format!("{n} {}", "x".repeat(20))).unwrap());
    engine.checkpoint().unwrap();
    engine.close().unwrap();
}

/// The offsets that are read, and those that are skipped. At each damage the reader is asked more than once.
fn read_all(reader: &mut BackwardReader) -> (Vec<u64>, Vec<(u64, u64)>) {
    let (mut read, mut skipped) = (Vec::new(), Vec::new());
    loop {
        match reader.try_read() {
            Ok(Some(record)) => read.push(record.offset().0),
            Ok(None) => return (read, skipped),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                let last = reader.place().offset.0 - 1;
                assert_eq!(error.offset(), Some(Offset(last)), "{error}");
                assert_eq!(kind(reader.try_read()), ErrorKind::Corrupt);
                assert!(reader.next().unwrap().is_err() && reader.next().is_none());
                let it = reader.skip_damaged().unwrap().expect("it stands before damage");
                assert_eq!((it.partition, it.offsets.end.0), (0, last + 1));
                assert_eq!(it.damage.kind(), ErrorKind::Corrupt);
                skipped.push((it.offsets.start.0, it.offsets.end.0));
            }
        }
        if read.len() % 10 == 0 {
            // The next record is sound, or nothing is skipped before it was reported.
            let place = reader.place();
            if let Ok(Some(it)) = reader.skip_damaged() {
                skipped.push((it.offsets.start.0, it.offsets.end.0));
            } else {
                assert_eq!(reader.place(), place);
            }
        }
    }
}

/// The records that are lost backwards are those that are lost forwards.
#[test]
fn damage_is_reported_and_skipped_on_request() {
    for lost in [&[100][..], &[MESSAGES - 1], &[50, 120, MESSAGES - 1], &[0, 1, 100]] {
        let disk = SimDisk::new(1);
        fill(&open(&disk).unwrap());
        rot(&disk, lost);
        let engine = open(&disk).unwrap();
        let stream = engine.stream("s").open().unwrap();
        let mut reader = stream.reader(Start::Earliest).unwrap();
        let (mut read, mut skipped) = (Vec::new(), Vec::new());
        loop {
            match reader.try_read() {
                Ok(Some(record)) => read.push(record.offset().0),
                Ok(None) => break,
                Err(_) => {
                    let it = reader.skip_damaged().unwrap().unwrap().offsets;
                    skipped.push((it.start.0, it.end.0));
                }
            }
        }
        read.reverse();
        skipped.reverse();
        let partition = stream.partition(0).unwrap();
        let mut back = partition.reader_back(Start::Latest).unwrap();
        let (read_back, skipped_back) = read_all(&mut back);
        assert_eq!(read_back, read);
        // Neighbours may be skipped together forwards.
        let offsets = |ranges: &[(u64, u64)]| -> Vec<u64> {
            ranges.iter().flat_map(|it| (it.0..it.1).rev()).collect()
        };
        assert_eq!(offsets(&skipped_back), offsets(&skipped));
        assert!(back.skip_damaged().unwrap().is_none(), "all is read");
    }
}

#[test]
fn a_segment_that_is_missing_is_skipped_as_a_whole() {
    let disk = SimDisk::new(1);
    fill(&open(&disk).unwrap());
    let segments = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    let segments: Vec<_> = segments.collect();
    assert!(segments.len() > 1, "{segments:?}");
    let engine = open(&disk).unwrap();
    disk.plant(&segments[0], None);
    let partition = engine.stream("s").open().unwrap().partition(0).unwrap();
    let (read, skipped) = read_all(&mut partition.reader_back(Start::Latest).unwrap());
    let lost: u64 = skipped.iter().map(|it| it.1 - it.0).sum();
    assert!(lost > 0 && !read.is_empty());
    assert_eq!(read.len() as u64 + lost, MESSAGES);
}

/// A run of the journal is damaged while it is read, and becomes whole again.
#[test]
fn a_damaged_run_of_the_journal_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Options::new().io(IoMode::Map).open(&path).unwrap();
    let stream = engine.stream("s").create().unwrap();
    for payload in ["the first", "the second", "the third"] {
        stream.append(payload).unwrap();
    }
    let partition = stream.partition(0).unwrap();
    let (file, at, before) = end_of_run_header(&path, b"the second");
    let mut reader = partition.reader_back(Start::Latest).unwrap();
    file.write_all_at(&[0xFF; 6], at).unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the third");
    for _ in 0..3 {
        let error = reader.try_read().unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(Offset(1))));
    }
    file.write_all_at(&before, at).unwrap();
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the second");
    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"the first");
    file.write_all_at(&[0xFF; 6], at).unwrap();
    let (read, skipped) = read_all(&mut partition.reader_back(Start::Latest).unwrap());
    assert_eq!((read, skipped), (vec![2, 0], vec![(1, 2)]));
}

/// The head of a run names other messages than it has: they are not left out in silence, and no read goes on for ever.
#[test]
fn a_run_that_names_other_messages_is_damaged() {
    for (records, of, at, byte) in [(3, 2, 2, 9), (1, 0, 2, 9), (3, 1, 2, 0), (3, 2, 3, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let engine = Options::new().io(IoMode::Map).open(&path).unwrap();
        let stream = engine.stream("s").create().unwrap();
        let payload = |n: u64| format!("the record {n}");
        (0..records).for_each(|n| _ = stream.append(payload(n)).unwrap());
        let (file, header, _) = end_of_run_header(&path, payload(of).as_bytes());
        let mut bytes = [0; 40];
        let from = header.saturating_sub(34);
        file.read_exact_at(&mut bytes, from).unwrap();
        // A run, its log, its first offset, and how many messages it has.
        let head = [1, 1, of as u8, 1];
        let place = bytes.windows(4).rposition(|it| it == head).unwrap() as u64;
        file.write_all_at(&[byte], from + place + at).unwrap();
        let mut reader = stream.partition(0).unwrap().reader_back(Start::Latest).unwrap();
        for n in (of + 1..records).rev() {
            assert_eq!(reader.try_read().unwrap().unwrap().payload(), payload(n).as_bytes());
        }
        for _ in 0..2 {
            let error = reader.try_read().unwrap_err();
            assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(Offset(of))));
        }
    }
}

/// Runs that follow each other are read in one piece. Where a part of it cannot be read, those behind it are.
#[test]
fn a_part_of_the_journal_that_cannot_be_read_stops_only_what_is_before_it() {
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
    let mut reader = stream.partition(0).unwrap().reader_back(Start::Latest).unwrap();
    for n in (51..100).rev() {
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), payload(n).as_bytes());
    }
    for _ in 0..3 {
        let error = reader.try_read().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("message 50 of \"s\""), "{error}");
        assert_eq!(kind(reader.skip_damaged()), ErrorKind::Io);
    }
    disk.heal();
    for n in (0..51).rev() {
        assert_eq!(reader.try_read().unwrap().unwrap().payload(), payload(n).as_bytes());
    }
}

/// In a `Sync` engine a reader begins at what is durable.
#[test]
fn records_that_are_not_durable_are_not_read() {
    let disk = SimDisk::new(1);
    let options = small_options().sync_interval(crate::support::HOUR);
    let engine = options.sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    let partition = stream.partition(0).unwrap();
    stream.append("0").unwrap();
    stream.durability(Durability::Buffered).append_batch(["1", "2"]).unwrap();
    let newest = |start| {
        let mut reader = partition.reader_back(start).unwrap();
        reader.next().unwrap().unwrap().offset().0
    };
    let starts = [Start::Latest, Start::Offset(Offset(2)), Start::Offset(Offset(9))];
    assert_eq!(starts.map(newest), [0, 0, 0]);
    engine.sync().unwrap();
    assert_eq!(starts.map(newest), [2, 1, 2]);
}
