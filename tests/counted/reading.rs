//! What it costs to read a partition backwards: in bytes and calls of the disk, in steps under the core, and in memory.

use posthouse::{Durability, Engine, IoMode, Options, Start, sim::SimDisk, sim::take_steps};

use super::heap::peak_of;

fn options() -> Options {
    Options::new().io(IoMode::Calls).durability(Durability::Buffered).segment_bytes(256 << 10)
}

/// A stream of so many records in segments, and of some in the journal. The store was opened anew: nothing of it was read.
fn filled(records: usize, in_journal: usize) -> (SimDisk, Engine) {
    let disk = SimDisk::new(7);
    let engine = options().sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    let append = |count: usize| {
        let payload = |n: usize| format!("record {n:9}");
        stream.append_batch((0..count).map(payload)).unwrap();
    };
    for n in 0..records / 1000 {
        append(1000);
        if n % 100 == 99 {
            engine.checkpoint().unwrap();
        }
    }
    engine.checkpoint().unwrap();
    (0..in_journal).for_each(|_| append(1));
    engine.close().unwrap();
    let engine = options().sim(&disk).open("store").unwrap();
    (disk, engine)
}

/// The bytes that are read, the calls of the disk and the steps under the core, to read the last records.
fn cost_of_last(records: usize, in_journal: usize, last: usize) -> [u64; 3] {
    let (disk, engine) = filled(records, in_journal);
    let partition = engine.stream("s").open().unwrap().partition(0).unwrap();
    _ = take_steps();
    let before = (disk.bytes_read(), disk.calls());
    let reader = partition.reader_back(Start::Latest).unwrap();
    assert_eq!(reader.take(last).filter(Result::is_ok).count(), last);
    [disk.bytes_read() - before.0, disk.calls() - before.1, take_steps()]
}

#[test]
fn the_last_records_cost_as_much_however_many_are_before_them() {
    for (in_journal, last) in [(0, 10), (5, 10), (300, 10)] {
        let [few, many] =
            [10_000, 1_000_000].map(|records| cost_of_last(records, in_journal, last));
        println!("{in_journal} in the journal: {few:?} and {many:?}");
        // A block of 64 KiB, or as much of the journal, and the table of a segment.
        assert!(few[0].max(many[0]) < 80_000, "bytes: {few:?} and {many:?}");
        assert!(many[1] <= few[1] + 1 && many[1] < 12, "calls: {few:?} and {many:?}");
        assert_eq!(few[2], many[2], "steps: {few:?} and {many:?}");
    }
}

/// Each block is read once, and so is each part of the journal.
#[test]
fn what_is_read_backwards_is_read_once() {
    for (records, in_journal) in [(20_000, 0), (200_000, 0), (0, 3000)] {
        let (disk, engine) = filled(records, in_journal);
        let partition = engine.stream("s").open().unwrap().partition(0).unwrap();
        let read = |back: bool| {
            let before = (disk.bytes_read(), disk.calls());
            let count = match back {
                true => partition.reader_back(Start::Latest).unwrap().count(),
                false => partition.reader(Start::Earliest).unwrap().count(),
            };
            assert_eq!(count, records + in_journal);
            (disk.bytes_read() - before.0, disk.calls() - before.1)
        };
        let (forwards, backwards) = (read(false), read(true));
        println!("{records}, {in_journal} in the journal: {forwards:?} and {backwards:?}");
        assert!(backwards.0 <= forwards.0 + forwards.0 / 10, "{forwards:?} {backwards:?}");
        assert!(backwards.1 <= forwards.1 + forwards.1 / 10 + 4, "{forwards:?} {backwards:?}");
    }
}

#[test]
fn reading_backwards_takes_as_much_memory_whatever_is_read() {
    alone!();
    let peaks = [20_000, 200_000].map(|records| {
        let (_disk, engine) = filled(records, 2000);
        let partition = engine.stream("s").open().unwrap().partition(0).unwrap();
        let read = || partition.reader_back(Start::Latest).unwrap().count();
        let (peak, count) = peak_of(read);
        assert_eq!(count, records + 2000);
        peak
    });
    println!("{peaks:?}");
    assert!(peaks[1] < peaks[0] + 100_000 && peaks[1] < 1 << 20, "{peaks:?}");
}
