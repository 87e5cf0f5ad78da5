//! Looks at messages whose lives may be over: each cursor has its turn, and no message is read more often than it must be.

use std::{cell::Cell, path::Path, sync::Arc, time::Duration};

use super::{config, open};
use crate::{
    Backoff, Engine, ErrorKind, Message, audit,
    config::{Config, IoMode},
    delivery::LeaseKey,
    disk::sim::SimDisk,
    engine::core::{
        Core,
        sweep::{Seen, Turn},
    },
    ids::{CursorId, Due, Offset},
    journal::Urgency,
    store::Extent,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// An engine whose calls do all the work, and that reads by calls.
fn alone(disk: &SimDisk) -> Engine {
    alone_with(disk, reading_by_calls())
}

fn reading_by_calls() -> Config {
    Config { io: IoMode::Calls, block_bytes: 16 << 10, ..config() }
}

fn alone_with(disk: &SimDisk, config: Config) -> Engine {
    let process = Arc::new(disk.process());
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

/// How many looks that are broken off after a slice it takes until each cursor had a turn, and until all is done, and
/// the steps of all of them.
fn broken_off(engine: &Engine, depths: impl Fn() -> Vec<u64>, full: u64) -> (u32, u32, u64) {
    let _ = audit::take_steps();
    let (mut all_had_one, mut rounds, mut steps) = (0, 0, 0);
    loop {
        let is_whole = engine.committer().sweep(Some(&|| true));
        steps += audit::take_steps();
        rounds += 1;
        if all_had_one == 0 && depths().iter().all(|depth| *depth < full) {
            all_had_one = rounds;
        }
        if is_whole {
            assert!(depths().iter().all(|depth| *depth == 0));
            return (all_had_one, rounds, steps);
        }
    }
}

#[test]
fn a_look_that_breaks_off_goes_on_with_the_next_subscription_where_it_was() {
    let measure = |is_broken_off: bool| {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let topic = engine.topic("t").create().expect("there is space");
        let create = |n: u32| {
            topic.subscription(&format!("s{n}")).time_to_live(MINUTE).create().expect("it is new");
        };
        (0..8).for_each(create);
        for _ in 0..10 {
            topic.publish_batch((0..200).map(|_| "event")).expect("there is space");
        }
        disk.advance(MINUTE);
        let lock = || engine.committer().lock("test");
        let (_, log) = lock().store.first_end().expect("there are messages");
        let left = || {
            let core = lock();
            let left = |it| core.store.acks(it).map_or(0, |acks| acks.unacked(Offset(2000)));
            core.store.cursors_of(log).into_iter().map(left).collect()
        };
        if is_broken_off {
            return broken_off(&engine, left, 2000);
        }
        let _ = audit::take_steps();
        assert!(engine.committer().sweep(None));
        (0, 0, audit::take_steps())
    };
    let (_, _, at_once) = measure(false);
    let (turns, rounds, steps) = measure(true);
    assert!(turns <= 8, "each of 8 subscriptions had a turn after {turns} looks");
    assert!(rounds <= 8 * 8 + 1, "{rounds} looks");
    assert!(steps < at_once * 3 / 2, "{steps} steps, and {at_once} without a break");
}

#[test]
fn a_look_that_breaks_off_goes_on_with_the_next_queue() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let queue = |n: u32| {
        let queue = engine.queue(&format!("q{n}")).time_to_live(MINUTE).create();
        let queue = queue.expect("there is space");
        (0..5).for_each(|_| _ = queue.send_batch((0..200).map(|_| "work")).expect("it fits"));
        queue
    };
    let queues: Vec<_> = (0..8).map(queue).collect();
    disk.advance(MINUTE);
    let depths = || queues.iter().map(|queue| queue.depth().expect("it is there")).collect();
    let (turns, rounds, _) = broken_off(&engine, depths, 1000);
    assert!(turns <= 8, "each of 8 queues had a turn after {turns} looks");
    assert!(rounds <= 8 * 4 + 1, "{rounds} looks");
}

#[test]
fn a_segment_without_lives_is_read_once() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let create = |engine: &Engine, life: Duration| {
        let queue = engine.queue("q").time_to_live(life).max_messages(3000);
        queue.create_or_update().expect("there is space")
    };
    let queue = create(&engine, 100 * HOUR);
    for _ in 0..30 {
        queue.send_batch((0..100).map(|_| vec![7; 100])).expect("it fits");
    }
    engine.checkpoint().expect("there is space");
    // A checkpoint does not look.
    let checkpoint = |engine: &Engine| {
        let made = engine.committer().checkpoint(Extent::Nothing, Urgency::Ordinary);
        made.expect("there is space");
    };
    checkpoint(&engine);
    drop((queue, engine));
    disk.kill();
    let engine = alone(&disk);
    engine.committer().lock("test").store.forget_lives();
    checkpoint(&engine);
    let queue = engine.queue("q").open().expect("it is there");
    let read = |act: &dyn Fn()| {
        let before = disk.bytes_read();
        act();
        disk.bytes_read() - before
    };
    let send = || {
        let error = queue.send("new").expect_err("it is full");
        assert_eq!(error.kind(), ErrorKind::QueueFull);
    };
    let whole = read(&send);
    assert!(whole > 150_000, "{whole} bytes");
    let again = read(&send);
    let changed = read(&|| _ = create(&engine, 99 * HOUR));
    let looked = read(&|| _ = queue.stats().expect("it is there"));
    engine.checkpoint().expect("there is space");
    disk.advance(HOUR);
    let later = read(&send);
    assert!(again + changed + looked + later < 20_000, "{again}, {changed}, {looked}, {later}");
    // What was learned is kept.
    drop((queue, engine));
    disk.kill();
    let engine = alone(&disk);
    let queue = engine.queue("q").open().expect("it is there");
    let reopened = read(&|| assert_eq!(queue.stats().expect("it is there").expired, 0));
    assert!(reopened < 20_000, "{reopened} bytes, and {whole} the first time");
    disk.advance(100 * HOUR);
    assert_eq!(queue.stats().expect("it is there").expired, 3000);
}

/// The threads of an engine look, too, while senders want room.
#[test]
fn senders_and_the_thread_that_makes_checkpoints_share_their_looks() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").time_to_live(MINUTE).max_messages(500).create();
    let queue = queue.expect("there is space");
    for _ in 0..20 {
        for _ in 0..5 {
            queue.send_batch((0..100).map(|_| "work")).expect("there is room");
        }
        disk.advance(MINUTE);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..62).for_each(|_| _ = queue.send("new").expect("there is room")));
            }
        });
        disk.advance(MINUTE);
    }
    let stats = queue.stats().expect("it is there");
    assert!(stats.expired >= 19 * 996 && stats.dropped == 0, "{stats:?}");
    engine.close().expect("the disk is well");
}

/// A slice is ended also after an error in its middle: see `Reading` in `sweep.rs`.
#[test]
fn what_has_left_before_a_slice_was_given_up_is_booked() {
    let disk = SimDisk::new(1);
    let engine = alone_with(&disk, Config { segment_bytes: 8192, ..reading_by_calls() });
    let queue = engine.queue("q").time_to_live(MINUTE).create().expect("there is space");
    let send = || _ = queue.send(vec![7; 5000]).expect("it fits");
    // The first two messages fill a segment. The third one has one that is not full, so less died than would be noticed.
    (0..3).for_each(|_| send());
    engine.committer().checkpoint(Extent::All, Urgency::Ordinary).expect("there is space");
    send();
    disk.advance(MINUTE);
    let lock = || engine.committer().lock("test");
    let (now, log) = lock().store.first_end().expect("there are messages");
    let turn = lock().take_turn(log, now);
    let Turn::Read(slice) = turn else { panic!("there is something to read: {turn:?}") };
    let busy = lock().take_turn(log, now);
    let Turn::Busy(waiting) = busy else { panic!("another thread reads: {busy:?}") };
    // All have left but the first two. Then something failed.
    (2..4).for_each(|n| _ = queue.remove(Offset(n)).expect("it is there"));
    let is_dead = |core: &Core| core.store.is_reclaimable();
    let (of, before) = (slice.of, is_dead(&lock()));
    let (ends, gone) = ((0..4).map(|n| (now, Offset(n))), (2..4).map(Offset));
    let seen = Seen { ends: ends.collect(), gone: gone.collect(), ..Seen::default() };
    lock().end_slice(slice, &seen);
    assert_eq!((before, is_dead(&lock())), (false, true));
    assert!(waiting.wait(Some(Duration::ZERO)), "the other thread is woken");
    lock().give_up_walk(&of);
    assert!(!lock().may_have_expired(log, engine.committer().elapsed()));
    disk.advance(MINUTE);
    assert_eq!(queue.stats().expect("it is there").depth, 0);
}

/// A checkpoint may replace a segment while a look reads it. What is not read again then, as it is too much at once, was
/// taken for damaged.
#[test]
fn messages_that_are_moved_while_they_are_read_are_not_damaged() {
    let disk = SimDisk::new(1);
    let engine = alone_with(&disk, Config { segment_bytes: 1 << 20, ..reading_by_calls() });
    let queue = engine.queue("q").time_to_live(HOUR).create().expect("there is space");
    for _ in 0..200 {
        queue.send(vec![7; 16 << 10]).expect("it fits");
    }
    engine.checkpoint().expect("there is space");
    let committer = engine.committer();
    let (_, log) = committer.lock("test").store.first_end().expect("there are messages");
    let stays = |offset: u64| offset.is_multiple_of(5);
    let live: Vec<Offset> = (0..200).filter(|it| stays(*it)).map(Offset).collect();
    let found = committer.lock("test").store.locate_all(log, &live).expect("they are there");
    let place = &found.places[0];
    let count = place.offsets.len();
    assert!(found.lost.is_empty() && count > 5, "{count} messages in the first segment");
    for offset in (0..200).filter(|it| !stays(*it)) {
        assert!(queue.remove(Offset(offset)).expect("it is there"));
    }
    engine.checkpoint().expect("there is space");

    let mut left = 40 << 10;
    let read = committer.read_together(log, place, 0, &mut left).expect("the engine is open");
    assert_eq!(read.len(), count);
    let whole = read.iter().filter(|(_, stored)| stored.is_ok()).count();
    assert!((1..count).contains(&whole), "{whole} of {count}, for the bytes");
    for (offset, stored) in &read {
        let kind = stored.as_ref().err().map(crate::Error::kind);
        assert!(matches!(kind, None | Some(ErrorKind::Io)), "{offset:?}: {kind:?}");
    }
}

fn lease(core: &mut Core, cursor: CursorId) -> LeaseKey {
    let deadline = 100 * HOUR;
    let (store, consumption) = core.store_and(cursor).expect("it is there");
    let acks = store.acks_of(cursor).expect("it is there");
    let leased = consumption.deliveries.lease_next(acks, Offset(3), deadline, |_| true);
    leased.expect("it is there").1
}

/// A message that waits was looked for by the due time that the store has. That is another one if the failure could not be
/// counted, as on a full disk, or if the letter of the message could not be written.
#[test]
fn a_message_that_waits_by_a_time_that_is_not_stored_is_not_taken_for_leased() {
    for is_exhausted in [false, true] {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let queue = engine.queue("q").lease(20 * HOUR).backoff(Backoff::Fixed(10 * HOUR));
        let queue = queue.max_attempts(2).create().expect("there is space");
        let brief = || Message::new("brief").expire_after(HOUR);
        queue.send_batch([brief(), Message::new("stays"), brief()]).expect("there is space");
        let (committer, cursor) = (engine.committer(), queue.cursor());
        let (first, third) = (Offset(0), Offset(2));
        let _held = if is_exhausted {
            // `move_or_wait` releases a message like this.
            let mut core = committer.lock("test");
            let due = Due::even(core.even(committer.elapsed() + 2 * HOUR));
            let keys: Vec<LeaseKey> = (0..3).map(|_| lease(&mut core, cursor)).collect();
            core.release(cursor, keys[0], due);
            core.release(cursor, keys[2], due);
            None
        } else {
            let receive = || queue.try_receive().expect("it can be read").expect("it is there");
            let (_first, held, _third) = (receive(), receive(), receive());
            Some(held)
        };
        committer.lock("test").forget_failures();
        let delayed = || committer.lock("test").due_of(cursor, third);
        assert!(delayed().waits());
        let shown =
            queue.browse().expect("it is there").map(|it| it.expect("it can be read").due());
        let shown = shown.map(|due| due.is_some());
        assert_eq!(shown.collect::<Vec<_>>(), [true, false, true], "{is_exhausted}");
        // What is removed leaves every count.
        assert!(queue.remove(first).expect("it is there"));
        assert_eq!(queue.delayed().expect("it is there"), 1);
        disk.advance(HOUR);
        assert!(committer.sweep(None));
        let stats = queue.stats().expect("it is there");
        assert_eq!((stats.expired, stats.delayed, stats.in_flight), (1, 0, 1), "{is_exhausted}");
    }
}

#[test]
fn a_look_with_many_letters_does_not_make_the_journal_much_longer_than_it_should_be() {
    const JOURNAL: u64 = 1 << 20;
    let disk = SimDisk::new(1);
    let engine = alone_with(&disk, Config { journal_bytes: JOURNAL, ..reading_by_calls() });
    let queue = engine.queue("q").time_to_live(MINUTE).max_attempts(3).create();
    let queue = queue.expect("there is space");
    for _ in 0..150 {
        queue.send_batch((0..100).map(|_| vec![7; 200])).expect("it fits");
    }
    engine.checkpoint().expect("there is space");
    disk.advance(MINUTE);
    let (most, slices) = (Cell::new(0), Cell::new(0));
    let length = || engine.committer().lock("test").store.journal.bytes_behind();
    let after_a_slice = || {
        most.set(length().max(most.get()));
        slices.set(slices.get() + 1);
        false
    };
    assert!(engine.committer().sweep(Some(&after_a_slice)));
    assert!(slices.get() >= 15_000 / 256, "{} slices", slices.get());
    assert!(most.get() < JOURNAL / 4 * 5, "the journal has {} bytes", most.get());
    assert_eq!(queue.stats().expect("it is there").expired, 15_000);
}
