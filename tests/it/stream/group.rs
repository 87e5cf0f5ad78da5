//! Groups keep their offsets in a stream.

use posthouse::{ErrorKind, Message, Offset, Start};

use crate::support::{Sim, block_on, everywhere, field, kind};

#[test]
fn a_group_keeps_its_offsets() {
    everywhere(|open| {
        let engine = open();
        let stream = engine.stream("s").partitions(2).create().unwrap();
        let messages = (0..20).map(|n| Message::new(n.to_string()).key(n.to_string()));
        stream.append_batch(messages).unwrap();
        engine.sync().unwrap();
        let group = stream.group("g").create().unwrap();
        let latest = stream.group("latest").start(Start::Latest).create().unwrap();
        assert_eq!((group.lag().unwrap(), latest.lag().unwrap()), (20, 0));
        let mut reader = group.reader().unwrap();
        for _ in 0..12 {
            reader.try_read().unwrap().unwrap();
        }
        group.commit_reader(&reader).unwrap();
        assert_eq!(group.lag().unwrap(), 8);
        assert_eq!(group.lags().unwrap().into_iter().sum::<u64>(), 8);
        let other = engine.stream("other").create().unwrap().reader(Start::Earliest).unwrap();
        let invalid = ErrorKind::InvalidInput { field: "reader" };
        assert_eq!(kind(group.commit_reader(&other)), invalid);
        let mut tx = engine.transaction();
        tx.commit_reader(&group, &other);
        assert_eq!(kind(tx.commit()), invalid);
        drop((stream, group, latest, reader, other, engine));

        let engine = open();
        let stream = engine.stream("s").open().unwrap();
        let group = stream.group("g").open().unwrap();
        assert_eq!(group.lag().unwrap(), 8);
        let mut reader = group.reader().unwrap();
        let mut tx = engine.transaction();
        while let Some(record) = reader.try_read().unwrap() {
            tx.append(&stream, Message::new(record.payload()).key("again"));
        }
        tx.commit_reader(&group, &reader);
        assert_eq!(tx.commit().unwrap().len(), 8);
        engine.sync().unwrap();
        assert_eq!(group.lag().unwrap(), 8, "the records of the transaction itself");
    });
}

#[test]
fn a_commit_has_a_form_for_tasks_and_one_that_does_not_wait() {
    let sim = Sim::new();
    let stream = sim.engine.stream("s").create().unwrap();
    let other = sim.engine.stream("other").create().unwrap();
    let group = stream.group("g").create().unwrap();
    (0..4).for_each(|n| _ = stream.append(n.to_string()).unwrap());
    let committed = || group.committed(0).unwrap();
    let unpolled = group.commit_async(0, Offset(4));
    assert_eq!(committed(), Offset(0), "nothing happens before it is polled");
    drop(unpolled);
    block_on(group.commit_async(0, Offset(1))).unwrap();
    assert_eq!(committed(), Offset(1));
    let ticket = group.commit_ticket(0, Offset(2)).unwrap();
    assert_eq!(committed(), Offset(2));
    ticket.wait().unwrap();
    let mut reader = group.reader().unwrap();
    let _ = reader.try_read().unwrap();
    group.commit_reader_ticket(&reader).unwrap().wait().unwrap();
    assert_eq!(committed(), Offset(3));
    let _ = reader.try_read().unwrap();
    block_on(group.commit_reader_async(&reader)).unwrap();
    assert_eq!(committed(), Offset(4));

    assert_eq!(field(block_on(group.commit_async(1, Offset(0)))), "partition");
    assert_eq!(field(group.commit_ticket(0, Offset(5))), "offset");
    let elsewhere = other.reader(Start::Earliest).unwrap();
    assert_eq!(field(group.commit_reader_ticket(&elsewhere)), "reader");
    assert_eq!(field(block_on(group.commit_reader_async(&elsewhere))), "reader");
    assert_eq!(committed(), Offset(4));
}
