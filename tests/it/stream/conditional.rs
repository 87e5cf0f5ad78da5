//! Appends that happen only if a partition ends where the caller expects it to end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    thread,
};

use posthouse::{
    Durability, Engine, ErrorKind, Message, Offset, Options, Partition, Start, Transaction,
    partition_of, sim::SimDisk,
};

use crate::support::{HOUR, Sim, block_on, everywhere, field, kind, real};

/// More than is encoded under the core.
const LARGE: usize = 64 << 10;

fn conflict(partition: u32, expected: u64, actual: u64) -> ErrorKind {
    ErrorKind::Conflict { partition, expected: Offset(expected), actual: Offset(actual) }
}

fn payloads(partition: &Partition) -> Vec<Vec<u8>> {
    let records = partition.reader(Start::Earliest).unwrap();
    records.map(|record| record.unwrap().payload().to_vec()).collect()
}

#[test]
fn a_record_is_appended_at_the_expected_end_or_not_at_all() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").partitions(3).create().unwrap();
        let partition = stream.partition(1).unwrap();
        assert_eq!(partition.append_if(Offset(0), "0").unwrap(), Offset(0));
        for wrong in [0, 2, u64::MAX] {
            let at = Offset(wrong);
            let large = || Message::new(vec![7; LARGE]);
            assert_eq!(kind(partition.append_if(at, "x")), conflict(1, wrong, 1));
            assert_eq!(kind(partition.append_if(at, large())), conflict(1, wrong, 1));
            assert_eq!(kind(partition.append_batch_if(at, ["x", "y"])), conflict(1, wrong, 1));
            let none: [&str; 0] = [];
            assert_eq!(kind(partition.append_batch_if(at, none)), conflict(1, wrong, 1));
            assert_eq!(kind(partition.append_if_ticket(at, "x")), conflict(1, wrong, 1));
            assert_eq!(kind(partition.append_batch_if_ticket(at, ["x"])), conflict(1, wrong, 1));
            assert_eq!(kind(block_on(partition.append_if_async(at, "x"))), conflict(1, wrong, 1));
            let batch = partition.append_batch_if_async(at, [large(), large()]);
            assert_eq!(kind(block_on(batch)), conflict(1, wrong, 1));
        }
        let error = partition.append_if(Offset(0), "x").unwrap_err().to_string();
        assert!(error.contains("partition 1 of \"s\" ends at 1, and 0 was expected"), "{error}");
        assert!(error.contains("Read what has come"), "{error}");
        let error = partition.append_if(Offset(9), "x").unwrap_err().to_string();
        assert!(error.contains("It has fewer records than that"), "{error}");

        let ends = partition.append_batch_if(Offset(1), ["1", "2"]).unwrap();
        assert_eq!(ends, Offset(1)..Offset(3));
        let none: [&str; 0] = [];
        assert_eq!(partition.append_batch_if(Offset(3), none).unwrap(), Offset(3)..Offset(3));
        let first = partition.append_if_ticket(Offset(3), "3").unwrap();
        let second = partition.append_batch_if_ticket(Offset(4), ["4"]).unwrap();
        assert_eq!(second.wait().unwrap(), Offset(4)..Offset(5));
        assert_eq!(first.wait().unwrap(), Offset(3));
        assert_eq!(block_on(partition.append_if_async(Offset(5), "5")).unwrap(), Offset(5));
        let batch = partition.append_batch_if_async(Offset(6), ["6", "7"]);
        assert_eq!(block_on(batch).unwrap(), Offset(6)..Offset(8));
        let large = partition.append_if(Offset(8), vec![7; LARGE]).unwrap();
        assert_eq!(large, Offset(8));

        // Records that were trimmed count, in segments as in the journal.
        partition.trim_before(Offset(9)).unwrap();
        engine.checkpoint().unwrap();
        drop((engine, stream, partition));
        let engine = open();
        let partition = engine.stream("s").open().unwrap().partition(1).unwrap();
        assert_eq!(kind(partition.append_if(Offset(0), "x")), conflict(1, 0, 9));
        partition.append_if(Offset(9), "9").unwrap();
        engine.sync().unwrap();
        assert_eq!(payloads(&partition), [b"9"]);

        engine.stream("s").delete().unwrap();
        assert_eq!(kind(partition.append_if(Offset(10), "x")), ErrorKind::NotFound);
        let mut tx = engine.transaction();
        tx.expect_end(&partition, Offset(10));
        assert_eq!(kind(tx.commit()), ErrorKind::NotFound);
    });
}

#[test]
fn a_key_stays_in_its_partition() {
    let (engine, _dir) = real();
    let stream = engine.stream("s").partitions(8).create().unwrap();
    let its = partition_of(b"customer-17", 8);
    let message = || Message::new("x").key("customer-17");
    for number in 0..8 {
        let partition = stream.partition(number).unwrap();
        let mut tx = engine.transaction();
        tx.append_if(&partition, Offset(0), message());
        if number == its {
            tx.commit().unwrap();
            partition.append_batch_if(Offset(1), [Message::new("y"), message()]).unwrap();
        } else {
            assert_eq!(field(tx.commit()), "key");
            assert_eq!(field(partition.append_if(Offset(0), message())), "key");
            let batch = [Message::new("y"), message()];
            assert_eq!(field(partition.append_batch_if(Offset(0), batch)), "key");
            assert_eq!(partition.end().unwrap(), Offset(0));
        }
    }
}

/// Small records, and batches that are encoded before the core is locked, in a journal that is full again and again.
#[test]
fn of_many_writers_that_expect_the_same_end_one_wins() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 120;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().journal_bytes(1 << 20).durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let stream = engine.stream("s").partitions(2).create().unwrap();
    let won = Mutex::new(BTreeMap::new());
    let write = |thread: u64| {
        let partition = stream.partition(1).unwrap();
        let mut at = 0;
        while at < 2 * ROUNDS {
            let first = format!("{thread} at {at}").into_bytes();
            let mut second = first.clone();
            second.resize(if at % 4 == 0 { 20 } else { LARGE }, 7);
            let both = [first, second];
            let ends = match at % 6 {
                0 => partition.append_batch_if(Offset(at), &both),
                2 => block_on(partition.append_batch_if_async(Offset(at), &both)),
                _ => {
                    let mut tx = engine.transaction();
                    tx.append_if(&partition, Offset(at), &both[0]);
                    tx.append_if(&partition, Offset(at + 1), &both[1]);
                    tx.commit().map(|places| places[0].offset..places[1].offset.next())
                }
            };
            match ends {
                Ok(ends) => {
                    assert_eq!(ends, Offset(at)..Offset(at + 2));
                    let mut won = won.lock().unwrap_or_else(PoisonError::into_inner);
                    assert!(won.insert(at, both).is_none(), "two have won");
                    at += 2;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Conflict { partition: 1, expected, actual } => {
                        assert!(expected == Offset(at) && actual > expected, "{error}");
                        at = actual.0;
                    }
                    _ => panic!("{error}"),
                },
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|n| _ = scope.spawn(move || write(n))));
    let won: Vec<_> = won.into_inner().unwrap().into_values().flatten().collect();
    assert_eq!(payloads(&stream.partition(1).unwrap()), won);
    let bytes: usize = won.iter().map(Vec::len).sum();
    assert!(bytes > 3 << 20, "the journal was never full: {bytes} bytes");
}

/// The records that others have appended count at once, and the conflict is answered when they can be read.
#[test]
fn records_count_that_nobody_sees_yet() {
    let disk = SimDisk::new(1);
    let engine = Options::new().sync_interval(HOUR).sim(&disk).open("store").unwrap();
    let stream = engine.stream("s").create().unwrap();
    let buffered = stream.durability(Durability::Buffered).partition(0).unwrap();
    let partition = stream.partition(0).unwrap();
    buffered.append_if(Offset(0), "0").unwrap();
    assert_eq!(partition.end().unwrap(), Offset(0), "it is durable already");
    assert_eq!(kind(buffered.append_if(Offset(0), "x")), conflict(0, 0, 1));
    assert_eq!(kind(partition.append_if_ticket(Offset(0), "x")), conflict(0, 0, 1));
    buffered.append_if(Offset(1), "1").unwrap();
    assert!(payloads(&partition).is_empty(), "they are durable already");
    assert_eq!(kind(partition.append_if(Offset(0), "x")), conflict(0, 0, 2));
    assert_eq!(payloads(&partition), [b"0", b"1"]);

    buffered.append_if(Offset(2), "2").unwrap();
    assert_eq!(partition.end().unwrap(), Offset(2));
    assert_eq!(kind(block_on(partition.append_if_async(Offset(2), "x"))), conflict(0, 2, 3));
    assert_eq!(partition.end().unwrap(), Offset(3));
    buffered.append_if(Offset(3), "3").unwrap();
    let mut tx = engine.transaction();
    tx.expect_end(&partition, Offset(3));
    assert_eq!(kind(tx.commit()), conflict(0, 3, 4));
    assert_eq!(partition.end().unwrap(), Offset(4));
}

#[test]
fn a_transaction_happens_only_at_the_expected_ends() {
    everywhere(|open| {
        let engine = open();
        transactions(&engine, "small", 1);
        transactions(&engine, "large", LARGE);
    });
}

fn transactions(engine: &Engine, name: &str, bytes: usize) {
    let queue = engine.queue(name).create().unwrap();
    let stream = engine.stream(name).partitions(2).create().unwrap();
    let group = stream.group("g").create().unwrap();
    let [first, second] = [0, 1].map(|number| stream.partition(number).unwrap());
    queue.send("0").unwrap();
    first.append_if(Offset(0), "a").unwrap();
    engine.sync().unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    let fails = |spoil: &dyn Fn(&mut Transaction)| {
        let mut tx = engine.transaction();
        tx.ack(&held).send(&queue, vec![7; bytes]).append_if(&first, Offset(1), "b");
        tx.commit_offset(&group, 0, Offset(1));
        spoil(&mut tx);
        let failure = kind(tx.commit());
        engine.sync().unwrap();
        assert_eq!((queue.in_flight().unwrap(), queue.depth().unwrap()), (1, 1));
        assert_eq!((stream.len().unwrap(), group.committed(0).unwrap()), (1, Offset(0)));
        failure
    };
    let at = Offset;
    assert_eq!(fails(&|tx| _ = tx.expect_end(&second, at(1))), conflict(1, 1, 0));
    assert_eq!(fails(&|tx| _ = tx.append_if(&second, at(9), "x")), conflict(1, 9, 0));
    let both = |tx: &mut Transaction| {
        tx.append_if(&second, at(3), "x").append_if(&second, at(4), "x").expect_end(&second, at(3));
    };
    assert_eq!(fails(&both), conflict(1, 3, 0));
    // These can never be true.
    let invalid = ErrorKind::InvalidInput { field: "expected_end" };
    assert_eq!(fails(&|tx| _ = tx.append_if(&first, at(1), "x")), invalid);
    assert_eq!(fails(&|tx| _ = tx.append_if(&first, at(3), "x")), invalid);
    assert_eq!(fails(&|tx| _ = tx.expect_end(&first, at(2))), invalid);
    let before_it = |tx: &mut Transaction| {
        tx.append_if(&second, at(0), "x").append_if(&second, at(0), "x");
    };
    assert_eq!(fails(&before_it), invalid);

    // Other records of its own are between them.
    let mut tx = engine.transaction();
    tx.expect_end(&first, at(1)).append_if(&first, at(1), "b").send(&queue, "1");
    let key = (0..).map(|n| n.to_string()).find(|key| partition_of(key.as_bytes(), 2) == 0);
    tx.append(&stream, Message::new("c").key(key.unwrap()));
    tx.append_if(&first, at(3), vec![7; bytes]);
    tx.expect_end(&first, at(1)).expect_end(&second, at(0));
    let offsets: Vec<_> = tx.commit().unwrap().iter().map(|it| it.offset.0).collect();
    assert_eq!([offsets[0], offsets[2], offsets[3]], [1, 2, 3]);
    first.trim_before(at(3)).unwrap();
    assert_eq!(kind(first.append_if(at(3), "x")), conflict(0, 3, 4));
    let mut tx = engine.transaction();
    tx.expect_end(&first, at(4));
    assert!(tx.commit().unwrap().is_empty());
}

#[test]
fn a_partition_of_another_engine_takes_no_part() {
    let (engine, _dir) = real();
    let (other, _other_dir) = real();
    let partition = other.stream("s").create().unwrap().partition(0).unwrap();
    let mut tx = engine.transaction();
    tx.append_if(&partition, Offset(0), "x");
    assert_eq!(field(tx.commit()), "handle");
    let mut tx = engine.transaction();
    tx.expect_end(&partition, Offset(0));
    assert_eq!(field(tx.commit()), "handle");
    assert_eq!(partition.end().unwrap(), Offset(0));
}

/// A writer that gets no answer finds its record, or appends it again: it cannot be there twice.
#[test]
fn a_writer_whose_answer_was_lost_finds_its_record() {
    for is_synced in [false, true] {
        let Sim { disk, engine } = Sim::new();
        let stream = engine.stream("s").create().unwrap();
        stream.append("0").unwrap();
        let partition = stream.durability(Durability::Buffered).partition(0).unwrap();
        partition.append_if(Offset(1), "mine").unwrap();
        if is_synced {
            engine.sync().unwrap();
        }
        drop((stream, partition));
        let Sim { engine, .. } = Sim { disk, engine }.power_cut();
        let partition = engine.stream("s").open().unwrap().partition(0).unwrap();
        let mut reader = partition.reader(Start::Offset(Offset(1))).unwrap();
        let is_there = reader.try_read().unwrap().is_some();
        assert!(is_there || !is_synced);
        let again = partition.append_if(Offset(1), "mine");
        assert_eq!(again.is_ok(), !is_there);
        assert_eq!(payloads(&partition), [&b"0"[..], b"mine"]);
    }
}

/// What a comparison has found to be there is durable when a `Sync` call says so, also if nothing is appended.
#[test]
fn a_comparison_that_appends_nothing_is_durable() {
    for in_transaction in [true, false] {
        let disk = SimDisk::new(1);
        let options = Options::new().sync_interval(HOUR);
        let open = |disk| options.clone().sim(disk).open("store").unwrap();
        let engine = open(&disk);
        let stream = engine.stream("s").create().unwrap();
        stream.durability(Durability::Buffered).append("record").unwrap();
        let partition = stream.partition(0).unwrap();
        if in_transaction {
            let mut tx = engine.transaction();
            tx.expect_end(&partition, Offset(1));
            tx.commit().unwrap();
        } else {
            assert!(partition.append_batch_if(Offset(1), [""; 0]).unwrap().is_empty());
        }
        let cut = disk.fork(2);
        cut.power_cut_with(&mut |_| 0);
        assert_eq!(open(&cut).stream("s").open().unwrap().len().unwrap(), 1);
    }
}
