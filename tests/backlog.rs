//! Ten million queued messages: how fast they open, and what memory draining them takes. Too long
//! for every run; the command is
//!
//! ```text
//! cargo test --release --test backlog -- --ignored --nocapture
//! ```
//!
//! Time is printed, not asserted: machines differ. Memory is asserted.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use posthouse::{Durability, Options};

/// The process's anonymous memory in bytes: what is not a mapped file.
fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "takes a minute in a release build"]
fn ten_million_messages() {
    const MESSAGES: u64 = 10_000_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let open = || options.open(dir.path().join("store")).unwrap();

    let begun = Instant::now();
    let engine = open();
    let queue = engine.queue("q").create().unwrap();
    for n in 0..MESSAGES / 1000 {
        let payload = |i: u64| format!("{:0100}", n * 1000 + i);
        queue.send_batch((0..1000).map(payload)).unwrap();
    }
    drop(queue);
    engine.close().unwrap();
    drop(engine);
    eprintln!("sent {MESSAGES} messages of 100 B in {:.1?}", begun.elapsed());
    eprintln!("anonymous memory after that: {} MiB", anonymous_memory() >> 20);

    for _ in 0..3 {
        let begun = Instant::now();
        let engine = open();
        let queue = engine.queue("q").open().unwrap();
        assert_eq!(queue.depth().unwrap(), MESSAGES);
        eprintln!("opened in {:.1?}", begun.elapsed());
        engine.close().unwrap();
    }

    let begun = Instant::now();
    let engine = open();
    let queue = engine.queue("q").open().unwrap();
    let (mut expected, mut most) = (0, anonymous_memory());
    loop {
        let batch = queue.receive_batch(100, Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        let mut tx = engine.transaction();
        for delivery in &batch {
            let number: u64 = std::str::from_utf8(delivery.payload()).unwrap().parse().unwrap();
            assert_eq!(number, expected);
            expected += 1;
            tx.ack(delivery);
        }
        tx.commit().unwrap();
        if expected % 100_000 == 0 {
            most = most.max(anonymous_memory());
        }
    }
    assert_eq!(expected, MESSAGES);
    eprintln!(
        "drained in {:.1?}, with at most {} MiB of anonymous memory",
        begun.elapsed(),
        most >> 20
    );
    assert!(most < 64 << 20, "{most} bytes");
}
