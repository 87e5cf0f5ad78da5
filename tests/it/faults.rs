//! Faults of the disk under the whole engine: every call fails once with every error, the disk is full, syncs
//! fail, files are damaged. Each fault gives a typed error, and durable data are there when the store is
//! opened again.

use std::{collections::BTreeSet, time::Duration};

use posthouse::{Engine, Error, ErrorKind, IoMode, Start, sim::SimDisk};

use crate::model::small_options;
use crate::support::{EACCES, EINTR, EIO, EMFILE, ENOMEM, ENOSPC, one_in, open};

fn open_by(disk: &SimDisk, io: IoMode) -> Result<Engine, Error> {
    small_options().io(io).sim(disk).open("store")
}

/// The results that an application got.
#[derive(Clone, Debug, Default)]
struct Told {
    /// Sends that were reported durable, by number; and sends that failed.
    sent: BTreeSet<u32>,
    unsure: BTreeSet<u32>,
    acked: BTreeSet<u32>,
    /// Acks that failed: the message may be gone or not.
    ack_unsure: BTreeSet<u32>,
    appended: u32,
}

fn number(payload: &[u8]) -> u32 {
    let text = std::str::from_utf8(payload).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn text(number: u32) -> String {
    format!("{number} {}", "x".repeat(number as usize * 53 % 900))
}

/// Uses everything that touches the disk. It notes errors and goes on, as long as the engine does.
fn work(disk: &SimDisk, told: &mut Told, errors: &mut Vec<Error>) {
    work_by(disk, IoMode::Map, told, errors);
}

fn work_by(disk: &SimDisk, io: IoMode, told: &mut Told, errors: &mut Vec<Error>) {
    let mut note = |error: Error| errors.push(error);
    let engine = match open_by(disk, io) {
        Ok(engine) => engine,
        Err(error) => return note(error),
    };
    let (queue, stream) = match (engine.queue("q").create(), engine.stream("s").create()) {
        (Ok(queue), Ok(stream)) => (queue, stream),
        (queue, stream) => {
            queue.err().into_iter().chain(stream.err()).for_each(note);
            return;
        }
    };
    let first = told.sent.len() as u32 + told.unsure.len() as u32;
    for n in first..first + 40 {
        match queue.send(text(n)) {
            Ok(_) => drop(told.sent.insert(n)),
            Err(error) => {
                told.unsure.insert(n);
                note(error);
            }
        }
        if n % 4 == 1 {
            match stream.append(told.appended.to_string()) {
                Ok(_) => told.appended += 1,
                // The message may have been appended: the next message has the same text then.
                Err(error) => note(error),
            }
        }
        if n % 3 != 0 {
            match queue.try_receive() {
                Ok(Some(delivery)) => {
                    let number = number(delivery.payload());
                    assert_eq!(delivery.payload(), text(number).as_bytes());
                    match delivery.ack() {
                        Ok(()) => drop(told.acked.insert(number)),
                        Err(error) => {
                            told.ack_unsure.insert(number);
                            note(error);
                        }
                    }
                }
                Ok(None) => {}
                Err(error) => note(error),
            }
        }
        if n % 15 == 14
            && let Err(error) = engine.checkpoint()
        {
            note(error);
        }
    }
    if let Err(error) = engine.close() {
        note(error);
    }
}

/// The store must hold exactly what the application was told.
fn check(disk: &SimDisk, told: &Told) {
    look(disk, told);
}

/// As [`check`], but the engine is still open. Returns the state that it has shown.
fn look(disk: &SimDisk, told: &Told) -> (Engine, BTreeSet<u32>) {
    let engine = open(disk).unwrap_or_else(|error| panic!("it does not open again: {error}"));
    let mut found = BTreeSet::new();
    if let Ok(queue) = engine.queue("q").open() {
        let mut held = Vec::new();
        while let Some(delivery) = queue.try_receive().unwrap() {
            let number = number(delivery.payload());
            assert_eq!(delivery.payload(), text(number).as_bytes());
            assert!(found.insert(number), "{number} is there twice");
            held.push(delivery);
        }
        std::mem::forget(held);
    }
    for n in told.sent.difference(&told.acked) {
        assert!(found.contains(n) || told.ack_unsure.contains(n), "{n} is lost");
    }
    for n in &found {
        assert!(told.sent.contains(n) || told.unsure.contains(n), "{n} was never sent");
        assert!(!told.acked.contains(n), "{n} was acked and is back");
    }
    if let Ok(stream) = engine.stream("s").open() {
        let records = stream.reader(Start::Earliest).unwrap();
        let numbers: BTreeSet<u32> = records.map(|it| number(it.unwrap().payload())).collect();
        let expected: BTreeSet<u32> = (0..told.appended).collect();
        assert!(expected.is_subset(&numbers), "{expected:?} of {numbers:?}");
    }
    (engine, found)
}

fn is_expected(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::DiskFull | ErrorKind::Poisoned)
}

/// The errors with which a call may fail. A write leaves half of its bytes then.
const ERRORS: [i32; 5] = [EIO, ENOSPC, EMFILE, ENOMEM, EINTR];

#[test]
fn every_call_may_fail_with_every_error() {
    for io in [IoMode::Map, IoMode::Calls] {
        let whole = SimDisk::new(1);
        work_by(&whole, io, &mut Told::default(), &mut Vec::new());
        let calls = whole.calls();
        assert!(calls > 250, "{calls}");
        let mut failures = 0;
        let step = one_in(17);
        for (n, error) in ERRORS.into_iter().enumerate() {
            // Errors take turns at the calls.
            for call in (0..calls).skip(n % step).step_by(step) {
                failures += fail_once(call, error, io);
            }
        }
        println!("{io:?}: {calls} calls, {failures} failures were seen");
        assert!(failures > 700 / step, "{failures} failures were seen");
    }
}

/// Returns how many errors the application has seen.
fn fail_once(call: u64, error: i32, io: IoMode) -> usize {
    let disk = SimDisk::new(1);
    disk.fail_call(call, error, false);
    let (mut told, mut errors) = (Told::default(), Vec::new());
    work_by(&disk, io, &mut told, &mut errors);
    for error in &errors {
        assert!(is_expected(error), "call {call}: {error:?}");
    }
    let machine_stays_up = disk.fork(2);
    disk.power_cut();
    check(&disk, &told);
    // The test opens the store again as the error says, with the data that the system has cached. Everything
    // that is seen then survives.
    let disk = machine_stays_up;
    let (engine, seen) = look(&disk, &told);
    disk.power_cut();
    drop(engine);
    let (_engine, found) = look(&disk, &told);
    assert_eq!(seen, found, "call {call}, error {error}");
    errors.len()
}

/// Without a descriptor left, a directory could not be opened to be synced, and the engine was poisoned. Whatever
/// else fails than a sync, the engine goes on.
#[test]
fn only_a_sync_that_fails_poisons() {
    let whole = SimDisk::new(1);
    work(&whole, &mut Told::default(), &mut Vec::new());
    let mut poisons = BTreeSet::new();
    let mut harmless = BTreeSet::new();
    for error in [EMFILE, EACCES, EIO] {
        let step = if error == EMFILE { 1 } else { one_in(5) };
        for call in (0..whole.calls()).step_by(step) {
            let disk = SimDisk::new(1);
            disk.fail_call(call, error, false);
            let (mut told, mut errors) = (Told::default(), Vec::new());
            work(&disk, &mut told, &mut errors);
            let failed = disk.failed_call().unwrap();
            let poisoned = errors.iter().any(|error| error.kind() == ErrorKind::Poisoned);
            if poisoned {
                poisons.insert(failed)
            } else {
                harmless.insert(failed)
            };
        }
    }
    assert_eq!(poisons, BTreeSet::from(["sync a directory", "sync a file"]), "{harmless:?}");
    for call in ["create a file", "open a directory", "rename", "write", "map", "list a directory"]
    {
        assert!(harmless.contains(call), "{call} was never made to fail: {harmless:?}");
    }
}

/// What an application sees of a store.
fn seen(engine: &Engine) -> Vec<(String, u64, Vec<usize>)> {
    let names = engine.queues().unwrap().into_iter();
    let state = |name: String| {
        let queue = engine.queue(&name).open().unwrap();
        let length = |it: Result<posthouse::Browsed, Error>| it.unwrap().payload().len();
        let lengths = queue.browse().unwrap().map(length).collect();
        (name, queue.delayed().unwrap(), lengths)
    };
    names.map(state).collect()
}

/// `purge` returned `Io` after it had deleted everything, as it could not clean up behind it. Each call is made to fail
/// at each of its calls of the disk. Where it says that it has failed, nothing has changed.
#[test]
fn an_error_leaves_all_as_it_was_whatever_the_call() {
    type Act = fn(&Engine, &posthouse::Delivery) -> Result<(), Error>;
    let acts: [(&str, Act); 11] = [
        ("purge", |engine, _| engine.queue("q").open()?.purge().map(drop)),
        ("remove", |engine, _| engine.queue("q").open()?.remove(posthouse::Offset(3)).map(drop)),
        ("delete", |engine, _| engine.queue("q").delete()),
        ("create", |engine, _| engine.queue("new").max_attempts(2).create().map(drop)),
        ("send", |engine, _| engine.queue("q").open()?.send(text(17)).map(drop)),
        ("batch", |engine, _| engine.queue("q").open()?.send_batch([text(7), text(8)]).map(drop)),
        ("large", |engine, _| engine.queue("q").open()?.send(vec![1; 30 << 10]).map(drop)),
        ("ack", |_, delivery| delivery.ack()),
        ("nack", |_, delivery| delivery.nack_after(Duration::from_secs(5))),
        ("transaction", |engine, delivery| {
            let other = engine.queue("other").open()?;
            let mut tx = engine.transaction();
            tx.ack(delivery).send(&other, "moved");
            tx.commit().map(drop)
        }),
        ("checkpoint", |engine, _| engine.checkpoint()),
    ];
    for (what, act) in acts {
        let prepare = || {
            let disk = SimDisk::new(1);
            let engine = open(&disk).unwrap();
            engine.queue("other").create().unwrap();
            let queue = engine.queue("q").create().unwrap();
            for n in 0..20 {
                let delay = Duration::from_secs(60 + u64::from(n));
                queue.send(posthouse::Message::new(text(n)).deliver_after(delay)).unwrap();
            }
            queue.send_batch((20..30).map(text)).unwrap();
            engine.checkpoint().unwrap();
            queue.send_batch((30..40).map(text)).unwrap();
            let delivery = queue.try_receive().unwrap().unwrap();
            (disk, engine, delivery)
        };
        let (disk, engine, delivery) = prepare();
        let before = seen(&engine);
        let from = disk.calls();
        act(&engine, &delivery).unwrap();
        let (calls, after) = (disk.calls() - from, seen(&engine));
        let mut failures = 0;
        for error in [EIO, EMFILE, ENOSPC] {
            for call in 0..calls {
                let (disk, engine, delivery) = prepare();
                disk.fail_call(disk.calls() + call, error, false);
                let failed = act(&engine, &delivery).err();
                disk.heal();
                // What follows a commit, like the checkpointer's work, may poison the engine, too.
                let is_poisoned = engine.sync().is_err_and(|it| it.kind() == ErrorKind::Poisoned);
                failures += u32::from(failed.is_some() && !is_poisoned);
                if !is_poisoned {
                    let expected = if failed.is_some() { &before } else { &after };
                    let call = disk.failed_call();
                    assert_eq!(&seen(&engine), expected, "{what}: {call:?}, {failed:?}");
                }
            }
        }
        println!("{what}: {calls} calls of the disk, {failures} failures");
    }
}

/// How many calls of the disk an engine makes to close when all is durable already.
fn calls_of_a_close() -> u64 {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    engine.queue("q").create().unwrap().send("a").unwrap();
    engine.sync().unwrap();
    let before = disk.calls();
    engine.close().unwrap();
    disk.calls() - before
}

#[test]
fn a_disk_that_fails_for_good_is_survived_and_heals() {
    let whole = SimDisk::new(1);
    work(&whole, &mut Told::default(), &mut Vec::new());
    let marking = calls_of_a_close();
    for (n, error) in ERRORS.into_iter().enumerate() {
        for call in (0..whole.calls()).skip(n).step_by(5 * one_in(8)) {
            let disk = SimDisk::new(call);
            let (mut told, mut errors) = (Told::default(), Vec::new());
            disk.fail_call(call, error, true);
            work(&disk, &mut told, &mut errors);
            // All is durable when the engine marks that it was closed. Nothing is lost without that mark, so
            // `close` does not fail over it.
            let is_about_the_mark = call + marking >= whole.calls();
            assert!(
                (!errors.is_empty() || is_about_the_mark) && errors.iter().all(is_expected),
                "{error:?} from call {call} on ({:?}): {errors:?}",
                disk.failed_call()
            );
            disk.power_cut();
            // Opening fails, and changes nothing.
            assert!(is_expected(&open(&disk).expect_err("the disk fails")));
            disk.heal();
            check(&disk, &told);
            disk.power_cut();
            errors.clear();
            work(&disk, &mut told, &mut errors);
            assert_eq!(errors.len(), 0, "{errors:?}");
            check(&disk, &told);
        }
    }
}

#[test]
fn on_a_full_disk_consumers_go_on_and_producers_do_when_there_is_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    disk.set_capacity(Some(400 << 10));
    let mut sent = 0;
    let error = loop {
        match queue.send(text(sent)) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
    assert!(sent > 100, "{sent}");
    // Nothing of the failed transaction is there.
    assert_eq!(queue.depth().unwrap(), u64::from(sent));
    for n in 0..sent {
        let delivery = queue.try_receive().unwrap().unwrap();
        assert_eq!(number(delivery.payload()), n);
        delivery.ack().unwrap_or_else(|error| panic!("ack {n} of {sent}: {error}"));
    }
    // The queue is empty, so there is space again by itself.
    for n in 0..sent / 2 {
        queue.send(text(n)).unwrap_or_else(|error| panic!("send {n}: {error}"));
    }
    engine.checkpoint().unwrap();
    drop((queue, engine));
    disk.power_cut();
    let queue = open(&disk).unwrap().queue("q").open().unwrap();
    assert_eq!(queue.depth().unwrap(), u64::from(sent / 2));
}

#[test]
fn a_store_on_a_full_disk_opens_when_there_is_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    engine.queue("q").create().unwrap().send("a").unwrap();
    disk.kill();
    drop(engine);
    disk.set_capacity(Some(0));
    for _ in 0..3 {
        let error = open(&disk).expect_err("there is no space for a journal file");
        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
        disk.kill();
    }
    disk.set_capacity(None);
    assert_eq!(open(&disk).unwrap().queue("q").open().unwrap().depth().unwrap(), 1);
}

#[test]
fn a_segment_that_is_missing_or_cut_is_named() {
    let disk = SimDisk::new(1);
    work(&disk, &mut Told::default(), &mut Vec::new());
    disk.power_cut();
    let segments: Vec<_> =
        disk.files().into_iter().filter(|path| path.starts_with("store/segments")).collect();
    assert!(segments.len() > 1);
    for path in segments {
        let content = disk.content(&path).unwrap();
        for spoiled in [None, Some(Vec::new()), Some(content[..100].to_vec())] {
            let disk = disk.fork(1);
            disk.plant(&path, spoiled);
            let error = open(&disk).expect_err("it is damaged");
            assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(path.as_path())));
        }
    }
}

/// Each dropped delivery was counted by a commit of its own, into a journal whose state is no longer known
/// (`--seed 94 --case 1118` of the explorer: three of five were counted).
#[test]
fn a_poisoned_engine_writes_nothing_more_for_deliveries_that_are_dropped() {
    for io in [IoMode::Map, IoMode::Calls] {
        let disk = SimDisk::new(1);
        let engine = open_by(&disk, io).unwrap();
        let queue = engine.queue("q").create().unwrap();
        queue.send_batch(["a", "b", "c"]).unwrap();
        let deliveries = queue.receive_batch(3, Duration::ZERO).unwrap();
        disk.fail_sync(0, EIO);
        assert_eq!(queue.send("d").unwrap_err().kind(), ErrorKind::Poisoned);
        let before = (disk.steps(), disk.calls());
        drop(deliveries);
        assert_eq!((disk.steps(), disk.calls()), before);
        assert_eq!(queue.depth().unwrap_err().kind(), ErrorKind::Poisoned);
        disk.kill();
        drop((queue, engine));
        let queue = open_by(&disk, io).unwrap().queue("q").open().unwrap();
        let attempts: Vec<_> = queue.browse().unwrap().map(|it| it.unwrap().attempts()).collect();
        assert_eq!(attempts[..3], [0, 0, 0]);
    }
}
