//! Small logs share segment files: what a checkpoint makes and writes follows the bytes of the messages, and not how many
//! logs they are in.

use posthouse::{
    Durability, Engine, IoMode, Options, Start,
    sim::{SimDisk, take_longest_holds},
};

use super::heap::peak_of;

fn open(disk: &SimDisk) -> Engine {
    let options = Options::new().durability(Durability::Buffered).io(IoMode::Map);
    options.sim(disk).open("store").unwrap()
}

fn segment_files(disk: &SimDisk) -> usize {
    disk.files().iter().filter(|it| it.starts_with("store/segments")).count()
}

fn segment_bytes(disk: &SimDisk) -> usize {
    let files = disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    files.map(|it| disk.content(&it).unwrap().len()).sum()
}

#[derive(Debug)]
struct Made {
    files: usize,
    calls: u64,
    bytes: u64,
}

/// A checkpoint with one new message in each of some queues.
fn checkpoint_of(queues: usize) -> Made {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queues: Vec<_> =
        (0..queues).map(|n| engine.queue(&format!("q{n}")).create().unwrap()).collect();
    // The second one begins a metalog with all queues.
    engine.checkpoint().unwrap();
    engine.queue("one more").create().unwrap();
    engine.checkpoint().unwrap();
    queues.iter().for_each(|queue| _ = queue.send(vec![7; 100]).unwrap());
    let written = || disk.bytes_written("segments") + disk.bytes_written("meta");
    let (files, calls, bytes) = (segment_files(&disk), disk.calls(), written());
    let _ = take_longest_holds();
    engine.checkpoint().unwrap();
    let longest = take_longest_holds().values().max().copied().unwrap_or(0);
    assert!(longest <= 1024, "a hold of {longest} steps");
    let made = Made {
        files: segment_files(&disk) - files,
        // Each message is read once, through a map.
        calls: disk.calls() - calls - queues.len() as u64,
        bytes: written() - bytes,
    };
    for queue in queues {
        assert_eq!(queue.try_receive().unwrap().unwrap().payload(), [7; 100]);
    }
    made
}

#[test]
fn a_checkpoint_of_many_small_queues_makes_as_many_files_and_syncs_as_one_of_few() {
    let (few, many) = (checkpoint_of(200), checkpoint_of(2000));
    assert_eq!((few.files, many.files), (1, 1), "{few:?}, {many:?}");
    // Syncs are among the calls.
    assert!(few.calls < 20 && many.calls <= few.calls + 8, "{few:?}, {many:?}");
    for (made, queues) in [(few, 200), (many, 2000)] {
        assert!(made.bytes <= 3 * 100 * queues, "{made:?}");
    }
}

/// What a stream comes to with a checkpoint behind each record: its segments, and the bytes that were written.
fn record_by_record(records: u64, width: usize) -> (u64, u64) {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let stream = engine.stream("s").create().unwrap();
    let (before, mut segments) = (disk.bytes_written("segments"), 0);
    for n in 0..records {
        stream.append(format!("{n:0width$}")).unwrap();
        engine.checkpoint().unwrap();
        if n % 10 == 9 {
            let report = engine.verify().unwrap();
            assert!(report.is_ok(), "{report}");
            segments = segments.max(report.read.segments);
            assert!(segment_files(&disk) <= 12, "{:?}", disk.files());
        }
    }
    let read = stream.reader(Start::Earliest).unwrap().map(|it| it.unwrap().payload().to_vec());
    assert!(read.eq((0..records).map(|n| format!("{n:0width$}").into_bytes())));
    (segments, disk.bytes_written("segments") - before)
}

#[test]
fn parts_of_one_log_do_not_pile_up_and_each_record_is_written_a_few_times() {
    // The headers of a part take up more than a small record, and much more than a tiny one.
    for width in [100, 20, 1] {
        let (some, twice) = (record_by_record(200, width), record_by_record(400, width));
        assert!(some.0 <= 16 && twice.0 <= 18, "{width} bytes, segments: {some:?}, {twice:?}");
        // A header of the file, of the part and of its block come with each record.
        let each = some.1 / 200;
        assert!(each <= 1000, "{each} bytes a record");
        assert!(twice.1 <= some.1 * 3, "n log n: {some:?}, {twice:?}");
    }
}

/// The most bytes that one of many checkpoints writes, each with one new message in each of some queues.
fn most_written(queues: u64) -> u64 {
    let disk = SimDisk::new(1);
    let options = Options::new().durability(Durability::Buffered).segment_bytes(1 << 20);
    let engine = options.sim(&disk).open("store").unwrap();
    let made = (0..queues).map(|n| engine.queue(&format!("q{n}")).create().unwrap());
    let queues: Vec<_> = made.collect();
    let (mut most, mut all) = (0, Vec::new());
    for _ in 0..30 {
        queues.iter().for_each(|queue| _ = queue.send(vec![7; 100]).unwrap());
        let before = disk.bytes_written("segments");
        engine.checkpoint().unwrap();
        let written = disk.bytes_written("segments") - before;
        all.push(written / queues.len() as u64);
        most = most.max(written);
    }
    println!("{} queues, bytes a queue: {all:?}", queues.len());
    for queue in queues.iter().step_by(50) {
        assert_eq!(queue.receive_batch(100, std::time::Duration::ZERO).unwrap().len(), 30);
    }
    most
}

/// All queues took their parts along in the same checkpoint, the ninth.
#[test]
fn no_checkpoint_writes_far_more_than_its_new_messages() {
    for queues in [600, 1200] {
        // With its headers a message takes up some 200 bytes.
        let most = most_written(queues);
        assert!(most <= 4 * 200 * queues, "{} bytes a queue", most / queues);
    }
}

/// The calls of the disk that read a message of each of some queues, and then those of checkpoints that rewrite their file.
fn calls_of_parts(queues: u64) -> (u64, u64) {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let made = (0..queues).map(|n| engine.queue(&format!("q{n}")).create().unwrap());
    let queues: Vec<_> = made.collect();
    queues.iter().for_each(|queue| _ = queue.send_batch([vec![7; 100], vec![8; 100]]).unwrap());
    engine.checkpoint().unwrap();
    let before = disk.calls();
    let got: Vec<_> = queues.iter().map(|it| it.try_receive().unwrap().unwrap()).collect();
    let read = disk.calls() - before;
    let few = queues.len() / 8;
    got[few..].iter().for_each(|it| it.ack().unwrap());
    queues[few..].iter().for_each(|it| it.try_receive().unwrap().unwrap().ack().unwrap());
    let before = disk.calls();
    engine.checkpoint().unwrap();
    engine.checkpoint().unwrap();
    assert_eq!(segment_files(&disk), 1);
    (read, disk.calls() - before)
}

/// Each part was opened and mapped by itself, although all of them are in one file.
#[test]
fn the_parts_of_a_file_are_read_through_one_map() {
    let (few, many) = (calls_of_parts(400), calls_of_parts(4000));
    // A header and a block.
    assert!(many.0 - few.0 <= 2 * 3600, "calls of reads: {few:?}, {many:?}");
    // An eighth of the queues have messages that live. The other parts are dropped.
    assert!(many.1 - few.1 <= 2 * 3600 / 8 + 8, "calls of checkpoints: {few:?}, {many:?}");
}

#[test]
fn a_shared_file_of_which_little_is_needed_gives_its_space_back() {
    let disk = SimDisk::new(1);
    let engine = open(&disk);
    let queues: Vec<_> =
        (0..400).map(|n| engine.queue(&format!("q{n}")).create().unwrap()).collect();
    queues.iter().for_each(|queue| _ = queue.send(vec![7; 1000]).unwrap());
    engine.checkpoint().unwrap();
    assert!(segment_bytes(&disk) > 400_000);
    for queue in &queues[40..] {
        queue.try_receive().unwrap().unwrap().ack().unwrap();
    }
    for _ in 0..2 {
        engine.checkpoint().unwrap();
    }
    let (files, bytes) = (segment_files(&disk), segment_bytes(&disk));
    // It is rewritten once less than a quarter is needed, so there is less than four times as much.
    assert!(files == 1 && bytes < 4 * 45_000, "{bytes} bytes in {files} files");
    // So do queues that are deleted.
    for n in 0..39 {
        engine.queue(&format!("q{n}")).delete().unwrap();
    }
    for _ in 0..2 {
        engine.checkpoint().unwrap();
    }
    assert!(segment_bytes(&disk) < 4 * 1_200, "{} bytes", segment_bytes(&disk));
    assert_eq!(queues[39].try_receive().unwrap().unwrap().payload(), [7; 1000]);
    let report = engine.verify().unwrap();
    assert!(report.is_ok() && report.unreferenced.is_empty(), "{report}");
}

/// The most memory that a checkpoint takes whose messages go into so many files.
fn checkpoint_peak(streams: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered).journal_bytes(256 << 20);
    let engine = options.open(dir.path().join("store")).unwrap();
    let stream = |n| engine.stream(&format!("s{n}")).create().unwrap();
    let streams: Vec<_> = (0..streams).map(stream).collect();
    for stream in &streams {
        // More than one piece of a segment for each of them.
        (0..25).for_each(|_| _ = stream.append_batch(vec![vec![7_u8; 1000]; 100]).unwrap());
    }
    let (peak, ()) = peak_of(|| engine.checkpoint().unwrap());
    for stream in streams {
        assert_eq!(stream.reader(Start::Earliest).unwrap().count(), 2500);
    }
    peak
}

#[test]
fn segments_are_written_through_one_buffer_however_many_files_there_are() {
    alone!();
    let (few, many) = (checkpoint_peak(2), checkpoint_peak(12));
    assert!(few <= 3 << 20 && many <= few + (256 << 10), "{few}, {many}");
}
