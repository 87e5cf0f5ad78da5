//! A real process on a real disk, killed with SIGKILL at random moments, again and again over the
//! same store. Everything that it had reported as committed must be there, buffered commits
//! included, and nothing that it had reported as acked may come back.
//!
//! More kills: `POSTHOUSE_KILLS=1000 cargo test --release --test kill`.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use posthouse::{Durability, Engine, Options, Start};

const CHILD: &str = "POSTHOUSE_KILL_CHILD";

fn options(durability: Durability) -> Options {
    Options::new()
        .durability(durability)
        .journal_file_bytes_min(16 << 10)
        .journal_file_bytes_max(64 << 10)
        .journal_bytes(128 << 10)
        .segment_bytes(64 << 10)
}

fn durability() -> Durability {
    match std::env::var("POSTHOUSE_KILL_DURABILITY").as_deref() {
        Ok("sync") => Durability::Sync,
        _ => Durability::Buffered,
    }
}

fn payload(n: u64) -> String {
    format!("{n} {}", "x".repeat((n * 37 % 300) as usize))
}

fn number(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap();
    let number = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(text, payload(number));
    number
}

/// The child: works until it is killed, and says after each commit what it was.
fn work(path: &Path) {
    let engine = options(durability()).open(path).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let topic = engine.topic("t").create().unwrap();
    let subscription = topic.subscription("s").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    let mut out = std::io::stdout().lock();
    let first = stream.len().unwrap();
    for n in first.. {
        let mut tx = engine.transaction();
        tx.send(&queue, payload(n)).publish(&topic, payload(n)).append(&stream, payload(n));
        tx.commit().unwrap();
        writeln!(out, "sent {n}").unwrap();
        for (name, got) in [("q", queue.try_receive()), ("s", subscription.try_receive())] {
            // Some are left behind, so that there is something to checkpoint.
            if let Some(delivery) = got.unwrap()
                && !number(delivery.payload()).is_multiple_of(7)
            {
                delivery.ack().unwrap();
                writeln!(out, "acked-{name} {}", number(delivery.payload())).unwrap();
            }
        }
        if n % 500 == 499 {
            engine.checkpoint().unwrap();
        }
    }
}

#[derive(Default)]
struct Reported {
    sent: u64,
    acked: [BTreeSet<u64>; 2],
}

fn run_and_kill(path: &Path, after: Duration, reported: &mut Reported) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.collect::<Vec<String>>()
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    for line in reader.join().unwrap() {
        let mut words = line.split(' ');
        let (what, n) = (words.next().unwrap(), words.next().and_then(|n| n.parse().ok()));
        match (what, n) {
            ("sent", Some(n)) => reported.sent = reported.sent.max(n + 1),
            ("acked-q", Some(n)) => drop(reported.acked[0].insert(n)),
            ("acked-s", Some(n)) => drop(reported.acked[1].insert(n)),
            // The harness's own output, or a line that was cut off.
            _ => {}
        }
    }
}

fn check(engine: &Engine, reported: &Reported) {
    let Ok(stream) = engine.stream("s").open() else {
        assert_eq!(reported.sent, 0);
        return;
    };
    let records: Vec<u64> =
        stream.reader(Start::Earliest).unwrap().map(|it| number(it.unwrap().payload())).collect();
    assert_eq!(records, (0..records.len() as u64).collect::<Vec<_>>(), "no holes");
    let count = records.len() as u64;
    assert!(count >= reported.sent, "{count} of {} are there", reported.sent);
    let queue = engine.queue("q").open().unwrap();
    let subscription = engine.topic("t").open().unwrap().subscription("s").open().unwrap();
    let mut held = Vec::new();
    for consumer in 0..2 {
        let mut left = BTreeSet::new();
        loop {
            let got = if consumer == 0 { queue.try_receive() } else { subscription.try_receive() };
            let Some(delivery) = got.unwrap() else { break };
            assert!(left.insert(number(delivery.payload())), "delivered twice");
            held.push(delivery);
        }
        let acked = &reported.acked[consumer];
        let back = left.intersection(acked).next();
        assert!(back.is_none(), "{back:?} was acked and is back");
        // What is neither left nor reported was acked at the very moment of a kill.
        let unreported = count - left.len() as u64 - acked.len() as u64;
        assert!(unreported <= 64, "{unreported} messages are neither there nor acked");
    }
    // Held until the engine is closed, so that looking counts no failures.
    engine.close().unwrap();
}

#[test]
fn child() {
    if let Some(path) = std::env::var_os(CHILD) {
        work(Path::new(&path));
    }
}

#[test]
fn whatever_was_reported_survives_kills() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let kills = std::env::var("POSTHOUSE_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(24);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut reported = Reported::default();
    for kill in 0..kills {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let after = Duration::from_micros(u64::from(now.subsec_nanos()) % 150_000);
        run_and_kill(&path, after, &mut reported);
        // Kills in a row, too, without anybody looking in between.
        if kill % 3 != 1 {
            check(&options(durability()).open(&path).unwrap(), &reported);
        }
    }
    check(&options(durability()).open(&path).unwrap(), &reported);
    eprintln!("{kills} kills, {} messages", reported.sent);
    assert!(reported.sent > 0, "the child has worked");
}
