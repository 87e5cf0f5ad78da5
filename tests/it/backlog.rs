//! Ten million queued messages, and ten million delayed messages: the time to open, and the memory to drain
//! them. This is too long for every run. The command is
//!
//! ```text
//! cargo test --release --test it -- --ignored --nocapture backlog::
//! ```
//!
//! Time is printed, not asserted: machines differ. The memory of the whole process is asserted, so each test
//! starts a process of its own.

use std::time::{Duration, Instant};

use posthouse::{Durability, Message, Options};

use crate::support::process::child::alone;

/// The process's anonymous memory in bytes: all memory but mapped files.
fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "takes a minute in a release build"]
fn ten_million_messages() {
    alone(module_path!(), "ten_million_messages", send_open_and_drain);
}

fn send_open_and_drain() {
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

#[test]
#[ignore = "takes ten seconds in a release build"]
fn ten_million_delayed_messages() {
    alone(module_path!(), "ten_million_delayed_messages", send_and_open_delayed);
}

fn send_and_open_delayed() {
    const MESSAGES: u64 = 10_000_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let open = || options.open(dir.path().join("store")).unwrap();
    let begun = Instant::now();
    let engine = open();
    let queue = engine.queue("q").create().unwrap();
    // In no order, due between one hour and eleven hours from now.
    let delay = |n: u64| Duration::from_millis(3_600_000 + n * 2_654_435_761 % 36_000_000);
    for n in 0..MESSAGES / 100 {
        let message = |m| Message::new(&[7; 48]).deliver_after(delay(n * 100 + m));
        queue.send_batch((0..100).map(message)).unwrap();
    }
    let each = begun.elapsed() / MESSAGES as u32;
    let most = anonymous_memory();
    eprintln!("sent {MESSAGES} in {each:?} each; anonymous memory: {} MiB", most >> 20);
    assert!(most < 64 << 20, "{most} bytes");
    drop(queue);
    engine.close().unwrap();
    drop(engine);
    let engine = open();
    let begun = Instant::now();
    let queue = engine.queue("q").open().unwrap();
    let took = begun.elapsed();
    let most = anonymous_memory();
    eprintln!("the queue opened in {took:.1?}; anonymous memory: {} MiB", most >> 20);
    assert_eq!(queue.delayed().unwrap(), MESSAGES);
    assert!(queue.try_receive().unwrap().is_none());
    assert!(most < 64 << 20, "{most} bytes");
    engine.close().unwrap();
}
