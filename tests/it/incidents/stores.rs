//! Incidents of storage engines, tried on this engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{Delivery, Durability, Error, ErrorKind, IoMode, Start, sim::SimDisk};

use super::{after_a_power_cut, texts};
use crate::model::{drain, small_options, state::dump};
use crate::support::{EIO, ENOSPC, open};

/// redb 4.2.0. Recovery wrote a torn commit slot back with a checksum that was right. After a crash in that
/// recovery the next recovery believed the slot, and rolled back a durable commit. Here each recovery is cut
/// off at each step, and the next recovery again, by a kill or by a power cut.
#[test]
fn redb_4_2_0() {
    let mut recoveries = 0;
    for seed in 0..6 {
        let disk = SimDisk::new(seed);
        let engine = open(&disk).unwrap();
        let queue = engine.queue("q").create().unwrap();
        for n in 0..6 {
            queue.send(format!("durable {n}")).unwrap();
        }
        for n in 0..4 {
            queue.durability(Durability::Buffered).send(format!("torn {n}")).unwrap();
        }
        disk.power_cut();
        drop((queue, engine));
        let found = dump(&open(&disk.fork(1)).unwrap()).unwrap();
        let texts = found.queues["q"].unacked.values().map(|it| it.msg.payload.clone());
        let durable = texts.filter(|it| it.starts_with(b"durable")).count();
        assert_eq!(durable, 6, "seed {seed}");

        let cut_off = |disk: &SimDisk| {
            let opened = disk.fork(seed);
            opened.record(1);
            let engine = open(&opened).unwrap();
            let moments = opened.take_moments();
            opened.kill();
            drop(engine);
            moments
        };
        for (n, once) in cut_off(&disk).into_iter().enumerate() {
            if n % 2 == 0 {
                once.power_cut();
            }
            for (m, twice) in cut_off(&once).into_iter().enumerate().step_by(3) {
                if m % 2 == 0 {
                    twice.power_cut();
                }
                let state = dump(&open(&twice).unwrap()).unwrap();
                assert!(state == found, "seed {seed}, cut off at {n}, then at {m}: {state:#?}");
                recoveries += 1;
            }
        }
    }
    assert!(recoveries > 200, "{recoveries}");
}

/// fjall 308. Writing a batch to the journal failed halfway, and the caller got the error. The partial batch
/// stayed where it was. The next batches were written behind it and reported as durable. The reader of the
/// next start stopped at the partial batch, and they were lost.
#[test]
fn fjall_308() {
    let text = |n: u32| format!("{n} {}", "x".repeat(n as usize * 91 % 700));
    let options = small_options().io(IoMode::Calls);
    let run = |disk: &SimDisk| {
        let engine = options.clone().sim(disk).open("store");
        let Ok(engine) = engine else { return (Vec::new(), None) };
        let (mut sent, mut failed) = (Vec::new(), None);
        let Ok(queue) = engine.queue("q").create() else { return (sent, failed) };
        for n in 0..12 {
            match queue.send_batch([text(n), text(n)]) {
                Ok(_) => sent.extend([text(n), text(n)]),
                Err(error) => failed = Some(error.kind()),
            }
        }
        (sent, failed)
    };
    let whole = SimDisk::new(1);
    run(&whole);
    let mut partial = 0;
    for error in [EIO, ENOSPC] {
        for call in 0..whole.calls() {
            let disk = SimDisk::new(1);
            disk.fail_call(call, error, false);
            let (sent, Some(kind)) = run(&disk) else { continue };
            if kind != ErrorKind::Poisoned {
                partial += 1;
            }
            disk.heal();
            let found = after_a_power_cut(&disk);
            for text in &sent {
                assert!(found.contains(text), "call {call}: a batch behind a partial one is lost");
            }
        }
    }
    assert!(partial > 10, "{partial}");
}

/// okaywal. Several threads waited for one sync, which one of them made for all. When the sync failed, or its
/// thread panicked, no thread took over and no thread got an error: the others waited for ever.
#[test]
fn okaywal() {
    const THREADS: usize = 6;
    for panics in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        // 0: nothing; 1: the next sync goes wrong; 2: it has.
        let fault = Arc::new(AtomicU64::new(0));
        let armed = Arc::clone(&fault);
        let options = small_options().witness(move |when, call, path| {
            let is_journal = path.extension().is_some_and(|it| it == "journal");
            let is_sync = (when, call) == ("before", "sync") && is_journal;
            if !is_sync || armed.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_err()
            {
                return Ok(());
            }
            // The others come, and wait.
            thread::sleep(Duration::from_millis(200));
            assert!(!panics, "the leader panics");
            Err(io::Error::from_raw_os_error(EIO))
        });
        let engine = options.open(&path).unwrap();
        let queue = engine.queue("q").create().unwrap();
        fault.store(1, Ordering::SeqCst);
        let (done, outcomes) = channel();
        for n in 0..THREADS {
            let (queue, done) = (queue.clone(), done.clone());
            thread::spawn(move || {
                let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    if n % 2 == 0 {
                        queue.send(n.to_string()).map(drop)
                    } else {
                        queue.send_ticket(n.to_string()).and_then(posthouse::Ticket::wait).map(drop)
                    }
                }));
                done.send((n, sent)).unwrap();
            });
        }
        let mut sent = Vec::new();
        for _ in 0..THREADS {
            let outcome = outcomes.recv_timeout(Duration::from_secs(20));
            match outcome.expect("nobody is left waiting") {
                (n, Ok(Ok(()))) => sent.push(n.to_string()),
                (_, Ok(Err(error))) => assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}"),
                (_, Err(_)) => assert!(panics),
            }
        }
        assert_eq!(fault.load(Ordering::SeqCst), 2);
        let _ = engine.close();
        drop((queue, engine));
        let queue = small_options().open(&path).unwrap().queue("q").open().unwrap();
        let found = texts(&drain(&queue));
        assert!(sent.iter().all(|it| found.contains(it)), "{sent:?} were sent, {found:?} found");
        assert!(
            panics || sent.is_empty(),
            "the sync failed, and {sent:?} were told that it did not"
        );
    }
}

/// PostgreSQL, until 2018. When a sync had failed, the next checkpoint tried it again. Linux had marked the
/// pages as clean by then and reported success, and the data were gone. Here no sync is tried again after a
/// failure, and no commit is reported durable.
#[test]
fn postgresql_fsync() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("durable").unwrap();
    let held = queue.try_receive().unwrap().unwrap();
    disk.fail_sync(0, EIO);
    let error = queue.send("lost").expect_err("the sync failed");
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.to_string().contains("reopen"), "{error}");
    for _ in 0..3 {
        let poisoned = |result: Result<(), Error>| {
            assert_eq!(result.expect_err("poisoned").kind(), ErrorKind::Poisoned);
        };
        poisoned(queue.send("more").map(drop));
        poisoned(queue.send_ticket("more").map(drop));
        poisoned(queue.try_receive().map(drop));
        poisoned(held.ack());
        poisoned(engine.sync());
        poisoned(engine.checkpoint());
        poisoned(engine.queue("r").create().map(drop));
    }
    assert!(engine.close().is_err());
    let found = after_a_power_cut(&disk);
    // The commit that failed may be there or not, as its sender was told. No other is.
    assert!(found == ["durable"] || found == ["durable", "lost"], "{found:?}");
}

/// The same for the whole engine: it is poisoned, and the application reopens the store as the error says.
/// The pages are clean in the cache and not on the disk.
#[test]
fn postgresql_fsync_when_the_store_is_reopened() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("durable").unwrap();
    disk.fail_sync(0, EIO);
    assert_eq!(queue.send("lost").unwrap_err().kind(), ErrorKind::Poisoned);
    let _ = engine.close();
    drop((queue, engine));
    // The machine is up all the time: same page cache.
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").open().unwrap();
    let mut seen = texts(&drain(&queue));
    queue.send("after").unwrap();
    seen.push("after".to_owned());
    assert_eq!(after_a_power_cut(&disk), seen);
}

/// The same with every call of a checkpoint.
#[test]
fn postgresql_fsync_in_a_checkpoint() {
    let prepare = |disk: &SimDisk| {
        let engine = open(disk).unwrap();
        let queue = engine.queue("q").create().unwrap();
        for n in 0..60 {
            queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
        }
        engine.checkpoint().unwrap();
        for n in 60..130 {
            queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
        }
        engine
    };
    let whole = SimDisk::new(1);
    let engine = prepare(&whole);
    let from = whole.calls();
    engine.checkpoint().unwrap();
    let mut poisoned = 0;
    for call in from..whole.calls() {
        let disk = SimDisk::new(1);
        let engine = prepare(&disk);
        disk.fail_call(call, EIO, false);
        let checkpointed = engine.checkpoint();
        if !checkpointed.is_err_and(|error| error.kind() == ErrorKind::Poisoned) {
            continue;
        }
        let _ = engine.close();
        drop(engine);
        let engine = open(&disk).unwrap();
        engine.queue("q").open().unwrap().send("after").unwrap();
        assert_eq!(after_a_power_cut(&disk).len(), 131, "call {call}");
        poisoned += 1;
    }
    assert!(poisoned > 3, "{poisoned}");
}

/// Stops the other threads, also on a panic.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// SQLite until 3.51.3. A second checkpoint ran just behind a first one that had moved all of the journal,
/// while a commit restarted the journal. The second checkpoint did not see that, and marked commits as moved
/// that had only just been written: they were never moved. Here checkpoints race with each other, with
/// commits that fill the journal's files again, and with readers that still hold the earlier content of these
/// files. The power is cut all the time.
#[test]
fn sqlite_wal_reset() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    let stop = AtomicBool::new(false);
    // The messages that were reported durable, and those that may be acked.
    let sent: Mutex<BTreeMap<u64, usize>> = Mutex::default();
    let (acking, acked) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
    let appended = AtomicU64::new(0);
    let text = |n: u64, bytes: usize| format!("{n} {}", "x".repeat(bytes));
    let number = |delivery: &Delivery| -> u64 {
        let text = std::str::from_utf8(delivery.payload()).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let going = || !stop.load(Ordering::Relaxed);
    let mut cuts = 0;
    thread::scope(|scope| {
        for thread in 0..2 {
            let (queue, sent, going) = (&queue, &sent, &going);
            scope.spawn(move || {
                let mut n = thread;
                while going() {
                    if queue.depth().unwrap() > 60 {
                        thread::yield_now();
                        continue;
                    }
                    let bytes = (n * 37 % 700) as usize;
                    queue.send(text(n, bytes)).unwrap();
                    sent.lock().unwrap().insert(n, bytes);
                    n += 2;
                }
            });
        }
        scope.spawn(|| {
            // Deliveries are held for a while: the files that they are in cannot be filled again.
            let mut held = Vec::new();
            while going() {
                held.extend(queue.try_receive().unwrap());
                if held.len() > 12 {
                    for delivery in held.drain(..9) {
                        let n = number(&delivery);
                        acking.lock().unwrap().insert(n);
                        delivery.ack().unwrap();
                        acked.lock().unwrap().insert(n);
                    }
                }
                thread::yield_now();
            }
            std::mem::forget(held);
        });
        scope.spawn(|| {
            let mut reader = stream.reader(Start::Earliest).unwrap();
            let mut next = 0;
            while going() {
                stream.append(next.to_string()).unwrap();
                appended.store(next + 1, Ordering::SeqCst);
                let record = reader.try_read().unwrap().expect("it is durable");
                assert_eq!(record.payload(), next.to_string().as_bytes());
                next += 1;
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while going() {
                    engine.checkpoint().unwrap();
                }
            });
        }
        let _stops = Stops(&stop);
        let began = Instant::now();
        // On a busy machine it takes longer until all files were filled again and again.
        while began.elapsed() < Duration::from_secs(2)
            || (!is_refilled(&disk) && began.elapsed() < Duration::from_secs(60))
        {
            // The messages that are known to be durable before the power cut. The messages that may be acked
            // by then are known afterwards.
            let known = sent.lock().unwrap().clone();
            let gone = acked.lock().unwrap().clone();
            let appended = appended.load(Ordering::SeqCst);
            disk.record(5);
            thread::sleep(Duration::from_millis(1));
            disk.record(0);
            let moments = disk.take_moments();
            let maybe_gone = acking.lock().unwrap().clone();
            for moment in moments.into_iter().take(20) {
                moment.power_cut();
                let engine = open(&moment).unwrap_or_else(|error| panic!("cut {cuts}: {error}"));
                let found: BTreeMap<u64, String> =
                    texts(&drain(&engine.queue("q").open().unwrap()))
                        .into_iter()
                        .map(|text| (text.split(' ').next().unwrap().parse().unwrap(), text))
                        .collect();
                for (n, bytes) in &known {
                    match found.get(n) {
                        Some(found) => assert!(*found == text(*n, *bytes), "{cuts}: {n} is wrong"),
                        None => assert!(maybe_gone.contains(n), "cut {cuts}: {n} is lost"),
                    }
                }
                assert!(gone.iter().all(|n| !found.contains_key(n)), "cut {cuts}: acked and back");
                let stream = engine.stream("s").open().unwrap();
                let records = stream.reader(Start::Earliest).unwrap();
                let records: Vec<u64> = records
                    .map(|it| String::from_utf8_lossy(it.unwrap().payload()).parse().unwrap())
                    .collect();
                assert!(records.len() as u64 >= appended, "cut {cuts}: records are lost");
                assert!(records.into_iter().enumerate().all(|(n, record)| n as u64 == record));
                cuts += 1;
            }
        }
    });
    let (written, messages) = (disk.bytes_written("journal"), sent.lock().unwrap().len());
    println!("{cuts} power cuts, {messages} messages, {written} bytes of journal");
    assert!(cuts > 20 && is_refilled(&disk), "{cuts} cuts, {written} bytes written");
}

/// Whether four times as much was written to the journal as there is in it.
fn is_refilled(disk: &SimDisk) -> bool {
    let files = disk.files().into_iter().filter(|it| it.starts_with("store/journal"));
    let bytes = files.filter_map(|path| disk.content(&path)).map(|it| it.len() as u64);
    disk.bytes_written("journal") > 4 * bytes.sum::<u64>()
}
