//! Incidents of message brokers, tried on this engine.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use posthouse::{
    Durability, Error, ErrorKind, IoMode, Message, Offset, Options, Start, Stream, Timestamp,
    sim::SimDisk,
};

use super::{after_a_power_cut, texts};
use crate::model::{drain, small_options};
use crate::support::{one_in, open};

/// LavinMQ 387. After an unclean end the file of acks kept a tail of zeros. The next process appended its
/// acks behind the zeros. The process after it stopped reading at the zeros: acks were lost at the *second*
/// restart.
#[test]
fn lavinmq_387() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let engine = open(&disk).unwrap();
        engine.queue("q").create().unwrap().send_batch((0..60).map(|n| n.to_string())).unwrap();
        disk.kill();
        drop(engine);
        let mut acked = BTreeSet::new();
        for epoch in 0..4 {
            let engine = open(&disk).unwrap();
            let queue = engine.queue("q").open().unwrap();
            for _ in 0..5 {
                let delivery = queue.try_receive().unwrap().unwrap();
                delivery.ack().unwrap();
                let offset = delivery.offset().0;
                assert!(acked.insert(offset), "seed {seed}, epoch {epoch}: {offset} came back");
            }
            // An ack that is not synced: it leaves the tail, in whatever pieces.
            let delivery = queue.durability(Durability::Buffered).try_receive().unwrap().unwrap();
            delivery.ack().unwrap();
            disk.power_cut();
        }
        let queue = open(&disk).unwrap().queue("q").open().unwrap();
        let back = drain(&queue).into_iter().map(|it| String::from_utf8(it).unwrap());
        let back: BTreeSet<u64> = back.map(|it| it.parse().unwrap()).collect();
        assert!(back.is_disjoint(&acked), "seed {seed}: acks are lost");
    }
}

/// RabbitMQ's Ra. A power loss left the newest file of its log empty, because it had just been made. The next
/// start took that for damage, and the broker did not come up.
#[test]
fn rabbitmq_ra() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    engine.queue("q").create().unwrap().send("a").unwrap();
    disk.kill();
    drop(engine);
    let newest = disk.files().into_iter().filter(|it| it.starts_with("store/journal")).max();
    let name = newest.unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let start: u64 = name.trim_start_matches('0').split('.').next().unwrap().parse().unwrap_or(0);
    let next = format!("store/journal/{:020}.journal", start + (64 << 10));
    for path in [next.clone(), format!("{next}.new")] {
        let disk = disk.fork(1);
        disk.plant(Path::new(&path), Some(Vec::new()));
        let engine = open(&disk).unwrap_or_else(|error| panic!("{path}: {error}"));
        let queue = engine.queue("q").open().unwrap();
        assert_eq!(texts(&drain(&queue)), ["a"]);
        queue.send("b").unwrap();
        assert_eq!(after_a_power_cut(&disk), ["a", "b"]);
    }
}

/// NATS 7549. One flipped bit in a file of a stream made the server give up the stream with all of its
/// messages. Here the bit costs no more than the data that are read through it: other segments, and blocks
/// before it, are read. Nothing is removed, so that a salvage finds the data behind it.
#[test]
fn nats_7549() {
    const RECORDS: u64 = 60;
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    let text = |n: u64| format!("record {n} {}", "x".repeat(n as usize * 53 % 200));
    for n in 0..RECORDS {
        stream.append(Message::new(text(n)).key("k")).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let segments: Vec<_> =
        disk.files().into_iter().filter(|it| it.starts_with("store/segments")).collect();
    assert!(segments.len() > 1);
    // The header of a segment in a file of its own has the first offset.
    let base = |path: &Path| {
        let content = disk.content(path).unwrap();
        u64::from_le_bytes(content[40..48].try_into().unwrap())
    };
    let (mut whole, mut damaged, mut salvaged) = (0, 0, 0);
    for (n, path) in segments.iter().enumerate() {
        let records = base(path)..segments.get(n + 1).map_or(RECORDS, |next| base(next));
        let content = disk.content(path).unwrap();
        for at in (0..content.len()).step_by(97) {
            let disk = disk.fork(1);
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 8);
            disk.plant(path, Some(flipped.clone()));
            let engine = open(&disk).unwrap();
            let stream = engine.stream("s").open().unwrap();
            let mut lost = Vec::new();
            for n in 0..RECORDS {
                let read = || {
                    let mut reader = stream.reader(Start::Offset(Offset(n)))?;
                    Ok::<_, Error>(reader.try_read()?.unwrap().payload().to_vec())
                };
                match read() {
                    Ok(payload) => assert_eq!(payload, text(n).as_bytes()),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        assert_eq!(error.file(), Some(path.as_path()), "{error}");
                        lost.push(n);
                    }
                }
            }
            assert!(lost.iter().all(|n| records.contains(n)), "{path:?} {at}: {lost:?}");
            whole += usize::from(lost.is_empty());
            damaged += usize::from(!lost.is_empty());
            assert_eq!(disk.content(path), Some(flipped), "nothing is cut or mended");
            engine.close().unwrap();
            drop((stream, engine));
            if at >= 64 {
                // All but one block of 512 bytes.
                let report = small_options().sim(&disk).salvage("store", "to").unwrap();
                let lost = report.lost.iter().flat_map(|it| &it.offsets);
                let lost: u64 = lost.map(|it| it.end.0 - it.start.0).sum();
                assert!(lost < 20, "{path:?} {at}: {report}");
                salvaged += 1;
            }
        }
    }
    assert!(whole > 0 && damaged > 50 && salvaged > 50, "{whole}, {damaged}, {salvaged}");
}

/// NATS 6888. The server was killed, and after its restart streams were gone whose creation had been
/// confirmed long before. Here each moment of making streams and of checkpoints is cut off.
#[test]
fn nats_6888() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let mut moments = 0;
    let mut check = |made: usize, disk: &SimDisk| {
        for moment in disk.take_moments() {
            for power in [false, true] {
                let moment = moment.fork(1);
                if power {
                    moment.power_cut_with(&mut |_| 0);
                }
                let engine = open(&moment).unwrap_or_else(|error| panic!("{made}: {error}"));
                let streams = engine.streams().unwrap();
                for n in 0..made {
                    let name = format!("stream {n}");
                    assert!(streams.contains(&name), "{name} of {made} vanished, power {power}");
                    let stream = engine.stream(&name).open().unwrap();
                    let mut reader = stream.reader(Start::Earliest).unwrap();
                    let first = reader.try_read().unwrap();
                    assert_eq!(first.unwrap().payload(), name.as_bytes());
                }
                moments += 1;
            }
        }
    };
    disk.record(1);
    for n in 0..8 {
        let name = format!("stream {n}");
        engine.stream(&name).create().unwrap().append(name.as_str()).unwrap();
        check(n, &disk);
        if n % 2 == 1 {
            engine.checkpoint().unwrap();
            check(n + 1, &disk);
        }
    }
    engine.close().unwrap();
    drop(engine);
    open(&disk).unwrap();
    check(8, &disk);
    assert!(moments > 150, "{moments}");
}

/// Pulsar 25540. A subscription may ack in any order. Up to 10,000 holes between the acks were stored.
/// Further holes were dropped in silence, and after a restart messages came again that had been acked.
#[test]
fn pulsar_25540() {
    let messages = 30_000 / one_in(15) as u64;
    let disk = SimDisk::new(1);
    let open = |disk: &SimDisk| Options::new().sim(disk).open("store").unwrap();
    let engine = open(&disk);
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch((0..messages).map(|n| n.to_string())).unwrap();
    let held = queue.receive_batch(messages as usize, Duration::ZERO).unwrap();
    assert_eq!(held.len() as u64, messages);
    let mut tx = engine.transaction();
    held.iter().filter(|it| it.offset().0 % 2 == 1).for_each(|it| _ = tx.ack(it));
    tx.commit().unwrap();
    for checkpoint in [false, true] {
        if checkpoint {
            engine.checkpoint().unwrap();
        }
        let disk = disk.fork(1);
        disk.power_cut_with(&mut |_| 0);
        let queue = open(&disk).queue("q").open().unwrap();
        let left = texts(&drain(&queue));
        assert!(left.into_iter().eq((0..messages).step_by(2).map(|n| n.to_string())));
    }
    std::mem::forget(held);
}

/// Kafka 8812. A broker died with records in the page cache. The next broker found and served them, and did
/// not sync them first. Then the machine went down: consumers had read records that had never been stored.
#[test]
fn kafka_8812() {
    for io in [IoMode::Map, IoMode::Calls] {
        let options = small_options().io(io);
        let disk = SimDisk::new(1);
        let buffered = options.clone().durability(Durability::Buffered).sim(&disk);
        let engine = buffered.open("store").unwrap();
        let queue = engine.queue("q").create().unwrap();
        engine.sync().unwrap();
        for n in 0..40 {
            queue.send(format!("{n} {}", "x".repeat(400))).unwrap();
        }
        // Before the engine is dropped: that would close it.
        disk.kill();
        drop((queue, engine));

        let engine = options.sim(&disk).open("store").unwrap();
        let seen = texts(&drain(&engine.queue("q").open().unwrap()));
        assert_eq!(seen.len(), 40, "a kill takes nothing");
        assert_eq!(after_a_power_cut(&disk), seen, "{io:?}: what was seen is gone");
    }
}

/// The place where the footer of a sealed segment begins. The footer is the index, which is derived from the
/// blocks before it. `docs/FORMAT.md` has the table.
fn footer_of(segment: &[u8]) -> Option<usize> {
    let mut at = 64;
    while let Some(header) = segment.get(at..at + 64) {
        if header[36] == 2 {
            return Some(at);
        }
        let body = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        at += (64 + body).next_multiple_of(8);
    }
    None
}

/// All records of a stream, read in order, by offset and by time.
fn read_all(stream: &Stream) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for record in stream.reader(Start::Earliest)? {
        all.push(String::from_utf8_lossy(record?.payload()).into_owned());
    }
    for n in (0..all.len() as u64).step_by(13) {
        for start in [Start::Offset(Offset(n)), Start::Time(Timestamp(1000 + n))] {
            let mut reader = stream.reader(start)?;
            let record = reader.try_read()?.expect("it is there");
            assert_eq!(record.payload(), all[n as usize].as_bytes(), "from {start:?}");
        }
    }
    Ok(all)
}

/// Apache Iggy 3970. Log and index were written side by side, so a crash could leave an index that said more
/// than the log. Recovery believed the index, and refused a log that was whole. Here the index is damaged,
/// cut, missing or another's, and nothing is lost by it.
#[test]
fn iggy_3970() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let stream = engine.stream("s").create().unwrap();
    for n in 0..80u64 {
        let text = format!("record {n} {}", "x".repeat(150));
        stream.append(Message::new(text).key("k").timestamp(Timestamp(1000 + n))).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let expected = read_all(&open(&disk.fork(1)).unwrap().stream("s").open().unwrap()).unwrap();
    assert_eq!(expected.len(), 80);
    let segments: Vec<(PathBuf, Vec<u8>, usize)> = disk
        .files()
        .into_iter()
        .filter(|it| it.starts_with("store/segments"))
        .filter_map(|path| {
            let content = disk.content(&path).unwrap();
            let footer = footer_of(&content)?;
            Some((path, content, footer))
        })
        .collect();
    assert!(segments.len() > 1, "some are sealed");
    for (n, (path, content, footer)) in segments.iter().enumerate() {
        let (blocks, index) = content.split_at(*footer);
        let mut tries: Vec<Vec<u8>> = (0..index.len() * 8)
            .step_by(one_in(11))
            .map(|bit| {
                let mut index = index.to_vec();
                index[bit / 8] ^= 1 << (bit % 8);
                index
            })
            .collect();
        let (_, other, of_other) = &segments[(n + 1) % segments.len()];
        tries.push(other[*of_other..].to_vec());
        tries.push(Vec::new());
        tries.push(index[..index.len() / 2].to_vec());
        tries.push(vec![0; index.len()]);
        tries.push([index, index].concat());
        for (number, index) in tries.iter().enumerate() {
            let disk = disk.fork(1);
            disk.plant(path, Some([blocks, index].concat()));
            let stream = open(&disk).unwrap().stream("s").open().unwrap();
            let read = read_all(&stream);
            let read = read.unwrap_or_else(|error| panic!("{path:?}, try {number}: {error}"));
            assert!(read == expected, "{path:?}, try {number}");
        }
    }
}
