//! Streams with limits, with the engine's threads: age comes by itself.

use std::{path::Path, sync::Arc, thread, time::Duration};

use super::{config, open};
use crate::{
    Engine, Message, Offset,
    disk::sim::SimDisk,
    journal::Urgency,
    store::{Extent, Turn},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Whether its records are in segments by then, or in the journal of a store in which nothing happens.
#[test]
fn what_is_too_old_leaves_although_nobody_calls() {
    for has_checkpoint in [true, false] {
        leaves_by_itself(has_checkpoint);
    }
}

fn leaves_by_itself(has_checkpoint: bool) {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let old = engine.stream("old").max_age(HOUR).create().expect("there is space");
    let kept = engine.stream("kept").max_age(24 * HOUR).create().expect("there is space");
    for stream in [&old, &kept] {
        stream.append_batch((0..100).map(|_| Message::new("record"))).expect("there is space");
    }
    if has_checkpoint {
        engine.checkpoint().expect("the disk is well");
    }
    disk.advance(2 * HOUR);
    // Length is told by the state in memory. Nothing else is called: the disk's clock moves on, and threads sleep in real
    // time.
    let len = || engine.committer().lock("test").store.bounds(old.shape().log(0));
    for _ in 0..5000 {
        let (start, end) = len().expect("it is there");
        if start == end {
            assert_eq!(kept.len().expect("it is there"), 100);
            return engine.close().expect("the disk is well");
        }
        disk.advance(Duration::from_secs(30));
        thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing leaves");
}

/// Limits that were taken away, and streams that were deleted, leave no timer behind: threads would wake for it for ever.
#[test]
fn limits_that_are_gone_call_nobody() {
    let disk = SimDisk::new(1);
    let engine = open_alone(&disk);
    let stream = |name: &str| engine.stream(name).partitions(100).max_age(HOUR);
    for name in ["a", "b", "c"] {
        let stream = stream(name).create().expect("there is space");
        stream.append_batch((0..500).map(|_| Message::new("record"))).expect("there is space");
    }
    engine.checkpoint().expect("the disk is well");
    let due = || engine.committer().lock("test").store.retention_due();
    assert!(due().is_some_and(|due| due > engine.committer().now().stamp));
    stream("a").without_max_age().create_or_update().expect("it is there");
    stream("b").without_max_age().max_records(1).create_or_update().expect("it is there");
    engine.stream("c").delete().expect("it is there");
    engine.checkpoint().expect("the disk is well");
    assert_eq!(due(), None);
}

/// A limit that is raised or taken away between the look and the trim keeps what the look would have taken.
#[test]
fn limits_that_change_during_a_look_count() {
    let disk = SimDisk::new(1);
    let engine = open_alone(&disk);
    let stream = engine.stream("s").max_records(3).create().expect("there is space");
    stream.append_batch((0..100).map(|_| Message::new("record"))).expect("there is space");
    let (committer, log) = (engine.committer(), stream.shape().log(0));
    let turn = Turn { log, is_whole: true };
    let begin = || committer.lock("test").store.begin_retaining(turn).expect("it has limits");
    let look = begin();
    engine.stream("s").max_records(50).create_or_update().expect("it is there");
    assert!(!committer.trim(&look, None).expect("the disk is well"), "it is looked at again");
    assert_eq!(stream.len().expect("it is there"), 100 - 50, "by the new limit");
    let look = begin();
    engine.stream("s").without_max_records().create_or_update().expect("it is there");
    stream.append_batch((0..100).map(|_| Message::new("record"))).expect("there is space");
    assert!(committer.trim(&look, None).expect("the disk is well"), "it has no limits");
    assert_eq!(stream.len().expect("it is there"), 150);
    // A group that goes back before the trim keeps what it reads anew.
    let group = stream.group("g").keeps_unread(true).create().expect("there is space");
    group.commit(0, Offset(190)).expect("it is there");
    engine.stream("s").max_records(20).create_or_update().expect("it is there");
    assert_eq!(stream.len().expect("it is there"), 20);
    stream.append_batch((0..40).map(|_| Message::new("record"))).expect("there is space");
    let look = begin();
    group.commit(0, Offset(185)).expect("it is there");
    assert!(!committer.trim(&look, None).expect("the disk is well"), "it is looked at again");
    assert_eq!(stream.partition(0).and_then(|it| it.start()).expect("it is there"), Offset(185));
}

/// A checkpoint of another thread moves records from the journal into segments during a look. They count once.
#[test]
fn records_that_move_during_a_look_count_once() {
    let disk = SimDisk::new(1);
    let engine = open_alone(&disk);
    let stream = engine.stream("s").max_records(150).create().expect("there is space");
    let append = |count| stream.append_batch((0..count).map(|_| Message::new("record"))).map(drop);
    let (committer, log) = (engine.committer(), stream.shape().log(0));
    let checkpoint = || committer.checkpoint(Extent::All, Urgency::Ordinary);
    append(300).and_then(|()| checkpoint()).expect("the disk is well");
    append(100).expect("there is space");
    let turn = Turn { log, is_whole: true };
    let begun = committer.lock("test").store.begin_retaining(turn);
    let mut look = begun.expect("it has limits");
    checkpoint().expect("the disk is well");
    committer.weigh(&mut look).expect("the disk is well");
    committer.trim(&look, None).expect("the disk is well");
    assert_eq!(stream.len().expect("it is there"), 150);
}

/// A stream with a limit goes on for ever on a disk that has room for what it keeps.
#[test]
fn a_stream_with_a_limit_does_not_fill_the_disk() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let newest = engine.stream("newest").max_records(100).create().expect("there is space");
    // A segment is rewritten once less than a quarter of it is left.
    disk.set_capacity(Some(disk.bytes_used() + (3 << 20)));
    for n in 0..5000 {
        let appended = newest.append(vec![7; 1000]);
        appended.unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    let bytes = engine.stream("bytes").max_bytes(200 << 10).create().expect("there is space");
    for n in 0..5000 {
        let appended = bytes.append(vec![7; 1000]);
        appended.unwrap_or_else(|error| panic!("{n}: {error}"));
    }
    let young = engine.stream("young").max_age(HOUR).create().expect("there is space");
    for round in 0..3 {
        while young.append(vec![7; 1000]).is_ok() {}
        disk.advance(2 * HOUR);
        // What is old leaves by itself, and by the checkpoints that commits ask for.
        let mut tries = 0;
        while young.append("again").is_err() {
            tries += 1;
            assert!(tries < 5000, "{round}: nothing leaves");
            thread::sleep(Duration::from_millis(1));
        }
    }
    engine.close().expect("the disk is well");
}

/// An engine without threads.
fn open_alone(disk: &SimDisk) -> Engine {
    let process = Arc::new(disk.process());
    Engine::open_on(process, Path::new("store"), config(), false).expect("the disk is well")
}
