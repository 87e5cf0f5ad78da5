//! Costs of the engine's basic operations: append, commit, consume, replay, recover. A row named *limit* does
//! the bare minimum of the work of the row beside it.
//!
//! Each name states the durability: `buffered` survives the death of the process, `sync` survives a power
//! cut. The store lies in the temporary directory: set `TMPDIR` to the disk that you want to measure. A
//! `tmpfs` there would make `sync` look better than it is. Compare only figures of one run.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{fs::File, hint::black_box, os::unix::fs::FileExt, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use posthouse::{Durability, Engine, Message, Options, Start};

const PAYLOAD: [u8; 100] = [7; 100];

struct Store {
    // Closed before the directory is removed.
    engine: Engine,
    dir: tempfile::TempDir,
}

fn open(dir: &tempfile::TempDir, durability: Durability) -> Engine {
    Options::new().durability(durability).open(dir.path().join("store")).unwrap()
}

fn store(durability: Durability) -> Store {
    let dir = tempfile::tempdir().unwrap();
    Store { engine: open(&dir, durability), dir }
}

const BARE_PAGES: u64 = 1024;

/// A file that was written and synced once, as the journal's files are: what is written to it again
/// needs no new blocks.
fn bare_file() -> File {
    let file = tempfile::tempfile().unwrap();
    (0..BARE_PAGES).for_each(|page| file.write_all_at(&[0; 4096], page * 4096).unwrap());
    file.sync_all().unwrap();
    file
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append 100 B");
    group.throughput(Throughput::Elements(1));
    let buffered = store(Durability::Buffered);
    let queue = buffered.engine.queue("q").create().unwrap();
    let topic = buffered.engine.topic("t").create().unwrap();
    // With nobody subscribed, a published message is dead at once: the journal's cost alone.
    group.bench_function("buffered, one commit each", |b| {
        b.iter(|| topic.publish(black_box(&PAYLOAD)).unwrap());
    });
    group.bench_function("buffered, one commit each, into a growing backlog", |b| {
        b.iter(|| queue.send(black_box(&PAYLOAD)).unwrap());
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("buffered, 100 a commit", |b| {
        b.iter(|| topic.publish_batch(std::iter::repeat_n(black_box(&PAYLOAD), 100)).unwrap());
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("limit: checksum and copy of 100 B", |b| {
        let mut file = vec![0; 1 << 20];
        let mut at = 0;
        b.iter(|| {
            at = (at + 128) % (file.len() - 128);
            let sum = crc32fast::hash(black_box(&PAYLOAD));
            file[at..at + 4].copy_from_slice(&sum.to_le_bytes());
            file[at + 4..at + 104].copy_from_slice(black_box(&PAYLOAD));
        });
    });
    group.bench_function("limit: one page written in place and fdatasync", |b| {
        let bare = bare_file();
        let mut page = 0;
        b.iter(|| {
            page = (page + 1) % BARE_PAGES;
            bare.write_all_at(&[7; 4096], page * 4096).unwrap();
            bare.sync_data().unwrap();
        });
    });
    let sync = store(Durability::Sync);
    let topic = sync.engine.topic("t").create().unwrap();
    group.bench_function("sync, one commit each", |b| {
        b.iter(|| topic.publish(black_box(&PAYLOAD)).unwrap());
    });
    group.throughput(Throughput::Elements(1000));
    group.bench_function("sync, 1000 tickets under way", |b| {
        b.iter(|| {
            let ticket = |_| topic.publish_ticket(black_box(&PAYLOAD)).unwrap();
            let tickets: Vec<_> = (0..1000).map(ticket).collect();
            for ticket in tickets {
                ticket.wait().unwrap();
            }
        });
    });
    group.finish();
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("transaction over queue, topic and stream");
    group.throughput(Throughput::Elements(1));
    for (name, durability) in [("buffered", Durability::Buffered), ("sync", Durability::Sync)] {
        let store = store(durability);
        let queue = store.engine.queue("q").create().unwrap();
        let topic = store.engine.topic("t").create().unwrap();
        let stream = store.engine.stream("s").partitions(8).create().unwrap();
        group.bench_function(name, |b| {
            b.iter(|| {
                let message = Message::new(black_box(&PAYLOAD)).key("customer-17");
                let mut tx = store.engine.transaction();
                tx.send(&queue, &message).publish(&topic, &message).append(&stream, &message);
                tx.commit().unwrap();
            });
        });
    }
    group.finish();
}

fn consume(c: &mut Criterion) {
    let mut group = c.benchmark_group("send, receive and ack 100 B, buffered");
    group.throughput(Throughput::Elements(1));
    for backlog in [0, 1_000_000] {
        let store = store(Durability::Buffered);
        let queue = store.engine.queue("q").create().unwrap();
        for _ in 0..backlog / 1000 {
            queue.send_batch(std::iter::repeat_n(&PAYLOAD, 1000)).unwrap();
        }
        group.bench_function(format!("one commit each, on a backlog of {backlog}"), |b| {
            b.iter(|| {
                queue.send(black_box(&PAYLOAD)).unwrap();
                let delivery = queue.try_receive().unwrap().unwrap();
                black_box(delivery.payload());
                delivery.ack().unwrap();
            });
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    const RECORDS: u64 = 2_000_000;
    let mut group = c.benchmark_group("replay 100 B, warm");
    group.throughput(Throughput::Elements(RECORDS)).sample_size(10);
    let store = store(Durability::Buffered);
    let stream = store.engine.stream("s").create().unwrap();
    for _ in 0..RECORDS / 1000 {
        stream.append_batch(std::iter::repeat_n(&PAYLOAD, 1000)).unwrap();
    }
    store.engine.checkpoint().unwrap();
    group.bench_function("limit: checksum of as many bytes", |b| {
        let bytes = vec![7; RECORDS as usize * 100];
        b.iter(|| crc32fast::hash(black_box(&bytes)));
    });
    group.bench_function("borrowed records", |b| {
        b.iter(|| {
            let mut reader = stream.reader(Start::Earliest).unwrap();
            let mut bytes = 0;
            while let Some(record) = reader.try_read().unwrap() {
                bytes += black_box(record.payload()).len();
            }
            assert_eq!(bytes as u64, RECORDS * 100);
        });
    });
    group.bench_function("owned records, as an iterator", |b| {
        b.iter(|| {
            let mut records = 0;
            for record in stream.reader(Start::Earliest).unwrap() {
                black_box(record.unwrap().payload());
                records += 1;
            }
            assert_eq!(records, RECORDS);
        });
    });
    group.finish();
}

fn recover(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let with = |fill: &dyn Fn(&Engine)| {
        let store = store(Durability::Buffered);
        fill(&store.engine);
        store.engine.close().unwrap();
        store.dir
    };
    let reopen = |dir: &tempfile::TempDir| open(dir, Durability::Buffered);
    let empty = with(&|_| {});
    let journal = with(&|engine| {
        let queue = engine.queue("q").create().unwrap();
        for _ in 0..380 {
            queue.send_batch(std::iter::repeat_n(&PAYLOAD, 1000)).unwrap();
        }
    });
    let queues = with(&|engine| {
        let engine = engine.clone();
        (0..10_000).for_each(|n| drop(engine.queue(&format!("queue {n}")).create().unwrap()));
    });
    for (name, dir) in [
        ("an empty store", empty),
        ("40 MB of journal, 380,000 messages", journal),
        ("10,000 queues", queues),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched(|| (), |()| reopen(&dir), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, append, commit, consume, replay, recover);
criterion_main!(benches);
