//! Senders at a full queue look for expired messages: about as far as they need room, and no longer than they have time.

use std::{
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{block_on, config, open};
use crate::{
    Engine, ErrorKind, Message, Queue, Result, audit,
    config::{Config, IoMode},
    disk::sim::SimDisk,
    engine::{
        commit::alone::Working,
        core::sweep::{Seen, Turn},
    },
    ids::{LogId, Offset},
    journal::Urgency,
    store::Shortage,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The messages of which the store notes together when the first life ends.
const PART: u64 = 1024;

/// An engine whose calls do all the work.
fn alone(disk: &SimDisk) -> Engine {
    let process = Arc::new(disk.process());
    let config = Config { io: IoMode::Calls, journal_bytes: 1 << 30, ..config() };
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

/// Until it is dropped, the calls of this thread leave to the senders what has expired.
fn still() -> Working {
    Working::for_all()
}

fn is_full<T: std::fmt::Debug>(sent: Result<T>) -> bool {
    match sent {
        Ok(_) => false,
        Err(error) if error.kind() == ErrorKind::QueueFull => true,
        Err(error) => panic!("{error}"),
    }
}

/// A full queue. The lives of its messages must be looked at, as each part of its log holds a brief one. But these were
/// removed, unless they are in the last part and it `has_expired`.
fn full_queue(disk: &SimDisk, engine: &Engine, parts: u64, has_expired: bool) -> Queue {
    let messages = parts * PART;
    let queue = engine.queue("q").max_messages(messages - parts + u64::from(has_expired)).create();
    let queue = queue.expect("there is space");
    for n in 0..messages {
        let is_brief = n % PART == 0;
        let life = if is_brief { MINUTE } else { 100 * HOUR };
        let offset = queue.send(Message::new("work").expire_after(life)).expect("there is room");
        if is_brief && (!has_expired || n < messages - PART) {
            assert!(queue.remove(offset).expect("it is there"));
        }
    }
    disk.advance(MINUTE);
    queue
}

#[test]
fn a_refused_send_looks_at_a_bounded_part_of_a_large_queue() {
    let _still = still();
    let measure = |parts: u64| {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let queue = full_queue(&disk, &engine, parts, false);
        let (read, _) = (disk.bytes_read(), audit::take_steps());
        assert!(is_full(queue.send("new")));
        let first = (audit::take_steps(), disk.bytes_read() - read);
        // Each try goes on where the last one ended.
        let tries = (0..10 * parts).take_while(|_| {
            assert!(is_full(queue.send("new")));
            audit::take_steps() > 500
        });
        (first, tries.count() as u64)
    };
    let (few, many) = (measure(3), measure(12));
    assert!(many.0.0 < few.0.0 + few.0.0 / 4, "{few:?}, {many:?} steps of the first send");
    assert!(many.0.1 < few.0.1 + few.0.1 / 4, "{few:?}, {many:?} bytes read by the first send");
    assert!((1..=4).contains(&few.1) && (8..=16).contains(&many.1), "{few:?}, {many:?} tries");
}

#[test]
fn a_sender_that_tries_again_finds_the_room_of_what_has_expired() {
    let _still = still();
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let parts = 6;
    let queue = full_queue(&disk, &engine, parts, true);
    let tries = (1..=3 * parts).find(|_| !is_full(queue.send("new")));
    assert!(tries.is_some_and(|tries| tries > 2), "{tries:?}");
}

#[test]
fn a_send_frees_about_what_it_needs() {
    let _still = still();
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let create = |most: u64| {
        let queue = engine.queue("q").time_to_live(MINUTE).max_messages(most);
        queue.create_or_update().expect("there is space")
    };
    let queue = create(20_000);
    for _ in 0..20 {
        queue.send_batch((0..1000).map(|_| "work")).expect("there is room");
    }
    disk.advance(MINUTE);
    queue.send("new").expect("there is room");
    let depth = queue.depth().expect("it is there");
    assert!((19_000..20_000).contains(&depth), "{depth}: one slice is enough");
    queue.send_batch((0..3000).map(|_| "work")).expect("there is room");
    let depth = queue.depth().expect("it is there");
    assert!((19_000..=20_000).contains(&depth), "{depth}: as many as the batch has");
    // A smaller limit counts at once. It takes several tries to come there.
    create(10_000);
    let tries = (1..40).find(|_| {
        let before = queue.depth().expect("it is there");
        let is_refused = is_full(queue.send("new"));
        let freed = before - queue.depth().expect("it is there");
        assert!(freed <= 2000, "{freed} are gone in one call");
        !is_refused
    });
    assert!(tries.is_some_and(|tries| (5..20).contains(&tries)), "{tries:?}");
}

#[test]
fn a_send_that_has_little_time_looks_no_longer() {
    let _still = still();
    let disk = SimDisk::new(1);
    let small = Config { journal_bytes: 64 << 10, ..config() };
    let process = Arc::new(disk.process());
    let engine = Engine::open_on(process, Path::new("store"), small, false).expect("it is well");
    let create = |most: u64| {
        let queue = engine.queue("q").time_to_live(MINUTE).max_messages(most);
        let queue = queue.dead_letter_queue("dead").max_attempts(3);
        queue.create_or_update().expect("there is space")
    };
    let queue = create(5000);
    for _ in 0..50 {
        queue.send_batch((0..100).map(|_| vec![7; 200])).expect("there is room");
    }
    disk.advance(MINUTE);
    create(10);
    // The letters fill the journal again and again, and each checkpoint takes seconds.
    disk.set_sync_time(Duration::from_secs(1));
    let elapsed = || engine.committer().elapsed();
    let begun = elapsed();
    assert!(is_full(queue.send_within("new", Duration::from_secs(5))));
    let took = elapsed() - begun;
    assert!(took < Duration::from_secs(30), "{took:?}");
    let left = queue.depth().expect("it is there");
    assert!((1000..5000).contains(&left), "{left} are left");
    let begun = elapsed();
    queue.send_within("new", HOUR).expect("it has time");
    assert!(elapsed() - begun > took, "it took no time");
}

#[test]
fn a_send_does_not_wait_longer_than_it_may_for_the_slice_of_another_thread() {
    let _still = still();
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let queue = engine.queue("q").time_to_live(MINUTE).max_messages(2000).create();
    let queue = queue.expect("there is space");
    queue.send_batch((0..2000).map(|_| "work")).expect("there is room");
    disk.advance(MINUTE);
    let lock = || engine.committer().lock("test");
    let (now, log) = lock().store.first_end().expect("there are messages");
    let Turn::Read(slice) = lock().take_turn(log, now) else { panic!("there is one") };
    assert!(is_full(queue.send_within("new", Duration::ZERO)));
    lock().end_slice(slice, &Seen::default());
    queue.send_within("new", Duration::ZERO).expect("it looks at one slice at least");
}

fn lives(engine: &Engine) -> Shortage {
    let (_, log) = engine.committer().lock("test").store.first_end().expect("there are messages");
    Shortage::Lives { log, steps: 1 }
}

#[test]
fn tasks_that_free_space_do_not_wait_for_room_in_a_full_queue_nor_the_other_way_round() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").time_to_live(MINUTE).max_messages(500).create();
    let queue = queue.expect("there is space");
    queue.send_batch((0..500).map(|_| "work")).expect("there is room");
    let lives = lives(&engine);
    let freeing = Shortage::Checkpoint { urgency: Urgency::Freeing };
    let space = &engine.committer().space;
    let (_wait, helper) = space.wait(freeing);
    let (_other, room) = space.wait(lives);
    let (helper, room) = (helper.expect("none runs"), room.expect("it is another one"));
    assert!(space.wait(lives).1.is_none(), "one at a time");
    space.finish(lives, &room, Ok(0));
    disk.advance(MINUTE);
    block_on(queue.send_async("new")).expect("there is room");
    space.finish(freeing, &helper, Ok(0));
}

#[test]
fn a_task_at_a_large_full_queue_is_refused_after_a_bounded_look() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Config { journal_bytes: 1 << 30, ..config() });
    let queue = full_queue(&disk, &engine, 4, false);
    let (committer, Shortage::Lives { log, .. }) = (engine.committer(), lives(&engine)) else {
        panic!("it has lives")
    };
    // A room round that ends without room counts for the tasks that wait for it, and for no others.
    let rounds = |steps: u64, of: LogId| {
        let mut sent = pin!(queue.send_async("new"));
        let mut context = Context::from_waker(Waker::noop());
        for round in 0..20 {
            let lacks = Shortage::Lives { log: of, steps: 1 };
            let (_wait, own) = committer.space.wait(lacks);
            let own = own.expect("no other helper runs");
            let polled = sent.as_mut().poll(&mut context);
            committer.space.finish(lacks, &own, Ok(steps));
            if let Poll::Ready(sent) = polled {
                assert!(is_full(sent));
                return round;
            }
        }
        20
    };
    assert_eq!(rounds(600, log), 2);
    assert_eq!(rounds(2000, log), 1);
    assert_eq!(rounds(2000, LogId(log.0 + 1)), 20);
    assert!(queue.remove(Offset(1)).expect("it is there"));
    block_on(queue.send_async("new")).expect("there is room");
}
