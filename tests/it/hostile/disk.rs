//! Findings of a hostile review: damaged files, full disks and mapped files.

use std::time::Duration;

use posthouse::{Durability, ErrorKind, IoMode, Options, sim::SimDisk};

use crate::model::{rot_first_record, small_options};
use crate::support::{EIO, one_in, open};

/// A sync that fails while the engine handles a full disk poisons the engine, as any failed sync does.
#[test]
fn a_failed_sync_on_a_full_disk_poisons() {
    let mut poisoned = 0;
    for missing in (0..48 << 10).step_by(12 << 10) {
        // Messages that are not acked, for which there may be no space in segments. The metalog still has
        // some.
        let prepare = || {
            let disk = SimDisk::new(1);
            let engine = open(&disk).unwrap();
            let queue = engine.queue("q").create().unwrap();
            let other = engine.queue("other").create().unwrap();
            for n in 0..40 {
                other.send(format!("{n} {}", "x".repeat(300))).unwrap();
            }
            engine.checkpoint().unwrap();
            for n in 0..50 {
                queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
            }
            disk.set_capacity(Some(disk.bytes_used() - missing));
            (disk, engine)
        };
        let (disk, engine) = prepare();
        let from = disk.calls();
        let _ = engine.checkpoint();
        for call in (from..disk.calls()).step_by(one_in(2)) {
            let (disk, engine) = prepare();
            disk.fail_call(call, EIO, false);
            let error = engine.checkpoint().err().map(|error| error.kind());
            disk.heal();
            let after = engine.sync().err().map(|error| error.kind());
            let is_poison = after == Some(ErrorKind::Poisoned);
            assert!(!is_poison || error == after, "it was poisoned, and no call said so");
            poisoned += usize::from(is_poison);
        }
    }
    assert!(poisoned >= 2, "the file's sync and the directory's should poison");
}

/// One flipped bit in the header of the newest journal file loses all of its commits silently.
#[test]
fn rot_in_the_header_of_the_newest_journal_file_is_found() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("first life").unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    // A disk without space for the next file.
    let engine = open(&disk).unwrap();
    // The first life has left the reserve.
    disk.set_capacity(Some(disk.bytes_used()));
    let queue = engine.queue("q").open().unwrap();
    for n in 0..10 {
        queue.send(format!("second life {n}")).unwrap();
    }
    engine.close().unwrap();
    drop((queue, engine));
    disk.set_capacity(None);
    let journals = disk.files().into_iter().filter(|it| it.starts_with("store/journal"));
    let newest = journals.max().unwrap();
    let mut content = disk.content(&newest).unwrap();
    content[100] ^= 1;
    disk.plant(&newest, Some(content));
    match open(&disk) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
        Ok(engine) => assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 11),
    }
}

/// A stray file with a large number in its name.
#[test]
fn a_stray_journal_file_is_no_panic_and_no_loss() {
    let mut failures = Vec::new();
    for number in [u64::MAX, 1 << 63, 1 << 62, (1 << 62) - 4096] {
        let disk = SimDisk::new(1);
        let engine = open(&disk).unwrap();
        engine.queue("q").create().unwrap().send("a").unwrap();
        engine.close().unwrap();
        drop(engine);
        let stray = std::path::PathBuf::from(format!("store/journal/{number:020}.journal"));
        disk.plant(&stray, Some(b"junk".to_vec()));
        let opened = std::panic::catch_unwind(|| open(&disk));
        let Ok(opened) = opened else {
            failures.push(format!("{number}: it panicked"));
            continue;
        };
        let Ok(engine) = opened else { continue };
        let queue = engine.queue("q").open().unwrap();
        queue.send("b").unwrap();
        engine.close().unwrap();
        drop((queue, engine));
        match open(&disk) {
            Err(error) => failures.push(format!("{number}: {error:?}")),
            Ok(engine) => match engine.queue("q").open().unwrap().depth().unwrap() {
                2 => {}
                depth => failures.push(format!("{number}: {depth} of 2 durable messages")),
            },
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One damaged block in a queue that no consumer reads stopped the whole store.
#[test]
fn a_damaged_block_does_not_stop_other_queues() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("rotten").create().unwrap();
    engine.queue("fine").create().unwrap();
    for n in 0..60 {
        queue.send(format!("{n} {}", "x".repeat(300))).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    rot_first_record(&disk);

    let engine = open(&disk).unwrap();
    let queue = engine.queue("rotten").open().unwrap();
    let mut held = Vec::new();
    for _ in 0..200 {
        if let Ok(Some(delivery)) = queue.try_receive() {
            held.push(delivery);
        }
    }
    // All messages are acked but those of the damaged block: most of its segment is no longer needed.
    for delivery in &held {
        delivery.ack().unwrap();
    }
    drop(held);
    let fine = engine.queue("fine").open().unwrap();
    for n in 0..1000 {
        fine.send(vec![1; 300]).unwrap_or_else(|error| panic!("send {n}: {error:?}"));
        let delivery = fine.try_receive().unwrap().unwrap();
        delivery.ack().unwrap_or_else(|error| panic!("ack {n}: {error:?}"));
    }
    engine.checkpoint().unwrap();
}

/// On a full disk a backlog of small messages can be acked, whatever the disk's size.
#[test]
fn on_a_full_disk_acks_always_work() {
    let mut failures = Vec::new();
    for pages in (30..90).step_by(6) {
        for (size, segment) in [(40usize, 1 << 20), (900, 1 << 20), (40, 4096), (900, 4096)] {
            let disk = SimDisk::new(1);
            let options = small_options().segment_bytes(segment).durability(Durability::Buffered);
            let engine = options.sim(&disk).open("store").unwrap();
            let queue = engine.queue("q").create().unwrap();
            disk.set_capacity(Some(pages * 4096));
            let mut sent = 0;
            while queue.send(vec![1; size]).is_ok() {
                sent += 1;
            }
            for n in 0..sent {
                let delivery = match queue.try_receive() {
                    Ok(Some(delivery)) => delivery,
                    other => {
                        failures.push(format!("{pages} pages, {size} B, receive {n}: {other:?}"));
                        break;
                    }
                };
                if let Err(error) = delivery.ack() {
                    let deleted = engine.queue("q").delete();
                    let what = format!("{size} B in segments of {segment}, ack {n} of {sent}");
                    failures.push(format!("{pages} pages, {what}: {error}; delete: {deleted:?}"));
                    std::mem::forget(delivery);
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// A queue that was drained gives its segments back.
#[cfg(target_os = "linux")]
#[test]
fn a_dropped_segment_does_not_stay_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r15-store");
    let engine = Options::new().io(IoMode::Map).open(&path).unwrap();
    for n in 0..20 {
        let queue = engine.queue(&format!("q{n}")).create().unwrap();
        queue.send_batch(std::iter::repeat_n(&[7u8; 1000], 1000)).unwrap();
    }
    engine.checkpoint().unwrap();
    for n in 0..20 {
        let queue = engine.queue(&format!("q{n}")).create().unwrap();
        let mut tx = engine.transaction();
        let all = queue.receive_batch(1000, Duration::ZERO).unwrap();
        assert_eq!(all.len(), 1000);
        all.iter().for_each(|it| _ = tx.ack(it));
        tx.commit().unwrap();
    }
    engine.checkpoint().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let pinned =
        maps.lines().filter(|it| it.contains("r15-store") && it.contains(".seg (deleted)"));
    assert_eq!(pinned.count(), 0, "deleted segments are still mapped, so their space is not free");
}

/// A second `close` returns the outcome, too.
#[test]
fn a_second_close_does_not_say_that_all_is_well() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let _ticket = queue.send_ticket("a").unwrap();
    disk.fail_sync(0, EIO);
    assert_eq!(engine.close().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(engine.close().is_err(), "the second close says Ok, and the message is lost");
}
