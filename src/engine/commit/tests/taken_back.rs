//! Attempts that are to be taken back, and could not be: the journal cannot be written for a moment, or is short of space.

use std::{future, path::Path, sync::Arc, time::Duration};

use super::{config, open, short};
use crate::{
    Backoff, Delivery, Engine, Queue, audit,
    config::{Config, IoMode},
    disk::sim::SimDisk,
    ids::Offset,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const EIO: i32 = 5;

/// The most steps of one hold.
const STEPS_MAX: u64 = 1200;

/// An engine whose calls do all the work, and that writes by calls.
fn alone(disk: &SimDisk) -> Engine {
    let process = Arc::new(disk.process());
    let config = Config { io: IoMode::Calls, journal_bytes: 8 << 20, ..config() };
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

/// Receives messages of a new queue, and looks into each. So their attempts are counted.
fn begun(engine: &Engine, many: usize) -> (Queue, Vec<Delivery>) {
    let queue = engine.queue("q").max_attempts(3).lease(HOUR).backoff(Backoff::None);
    let queue = queue.create().expect("there is space");
    queue.send_batch((0..many).map(|_| "work")).expect("there is space");
    let batch = queue.receive_batch(many, Duration::ZERO).expect("they can be read");
    batch.iter().for_each(|it| assert_eq!(it.payload(), b"work"));
    assert_eq!(attempts(&queue), vec![1; many]);
    (queue, batch)
}

fn attempts(queue: &Queue) -> Vec<u32> {
    let browse = queue.browse().expect("the store is open");
    browse.map(|it| it.expect("it can be read").attempts()).collect()
}

/// Has the leases end as if they had not been granted, while the disk fails.
fn give_back_in_vain(disk: &SimDisk, engine: &Engine, queue: &Queue) {
    let committer = engine.committer();
    let elapsed = committer.elapsed();
    while committer.lock("end").end_leases_at_close(queue.cursor(), elapsed, 64) {}
    disk.fail_call(disk.calls(), EIO, true);
    drop(committer.count_failures("count", committer.lock("count")));
    assert!(disk.failed_call().is_some(), "nothing was written");
    disk.heal();
}

fn waits_to_take_back(engine: &Engine, queue: &Queue, offset: u64) -> bool {
    let mut core = engine.committer().lock("test");
    let consumption = core.consumption(queue.cursor()).expect("it is there");
    consumption.deliveries.attempts_left(Offset(offset)).is_some()
}

#[test]
fn attempts_that_cannot_be_taken_back_are_noted_and_taken_back_at_the_close_in_slices() {
    let work = |many: usize| {
        let disk = SimDisk::new(1);
        let engine = alone(&disk);
        let (queue, batch) = begun(&engine, many);
        let _ = (audit::take_longest_holds(), audit::take_steps());
        give_back_in_vain(&disk, &engine, &queue);
        let (noted, steps) = (audit::take_longest_holds(), audit::take_steps());
        assert!(waits_to_take_back(&engine, &queue, many as u64 - 1));
        assert!(steps >= many as u64, "{steps} steps");
        engine.close().expect("the disk is well");
        let closed = audit::take_longest_holds();
        let longest = noted.values().chain(closed.values()).max().copied().unwrap_or(0);
        assert!(longest <= STEPS_MAX, "a hold is long: {noted:?}, {closed:?}");
        drop((batch, queue, engine));
        disk.kill();
        let engine = alone(&disk);
        let queue = engine.queue("q").open().expect("it is there");
        assert_eq!(attempts(&queue), vec![0; many]);
        steps
    };
    let (few, many) = (work(500), work(5000));
    assert!(many <= 12 * few, "the work is not linear: {few}, {many}");
}

/// What was kept of a message that had left stayed until the close.
#[test]
fn of_a_message_that_has_left_no_attempt_is_to_be_taken_back() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (queue, batch) = begun(&engine, 9);
    give_back_in_vain(&disk, &engine, &queue);
    let left = |offset| !waits_to_take_back(&engine, &queue, offset);
    assert!(!left(0) && !left(8));
    assert!(queue.remove(Offset(0)).expect("there is space"));
    assert!(left(0) && !left(1));
    let other = engine.queue("other").create().expect("there is space");
    assert_eq!(queue.redrive().to(&other).most(1).run().expect("it moves").moved, 1);
    assert!(left(1) && !left(2));
    assert_eq!(attempts(&other), [0], "the attempt is taken back");
    assert_eq!(queue.purge().expect("there is space"), 7);
    assert!(left(8));
    drop(batch);
}

/// It is taken back a second later, also of messages of which others were delivered and acked meanwhile.
#[test]
fn an_attempt_is_taken_back_once_its_message_comes_due() {
    let disk = SimDisk::new(1);
    let engine = alone(&disk);
    let (queue, batch) = begun(&engine, 3);
    give_back_in_vain(&disk, &engine, &queue);
    drop(batch);
    assert!(queue.try_receive().expect("it can be read").is_none());
    disk.advance(SECOND);
    let again = queue.receive_batch(9, Duration::ZERO).expect("they can be read");
    assert_eq!(again.iter().map(Delivery::attempt).collect::<Vec<_>>(), [1; 3]);
    assert!(!waits_to_take_back(&engine, &queue, 0));
}

/// The state of the queue went to rest before the attempt was taken back. Then that could not be written, and there was no
/// place to keep it.
#[test]
fn a_queue_does_not_rest_while_an_attempt_is_to_be_taken_back() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Config { idle_kept: 0, ..config() });
    let queue = engine.queue("q").max_attempts(3).lease(HOUR).create().expect("there is space");
    let other = engine.queue("other").create().expect("there is space");
    queue.send("work").expect("there is space");
    let delivery = queue.try_receive().expect("it can be read").expect("it was sent");
    assert_eq!(delivery.payload(), b"work");
    let round = short::fill_disk(&disk, &engine, &other);
    disk.set_capacity(None);
    drop(delivery.handling(future::pending::<()>()));
    assert!(engine.committer().lock("test").has_failures(), "it was counted");
    drop((delivery, queue));
    for n in 0..3 {
        // Each consumer that closes looks at others.
        let name = format!("another {n}");
        drop(engine.queue(&name).open());
        drop(engine.queue("q").open());
    }
    engine.committer().lock("test").forget_failures();
    short::make_space(&engine, &round);
    disk.advance(2 * SECOND);
    let queue = engine.queue("q").open().expect("it is there");
    let again = queue.try_receive().expect("it can be read").expect("it is there");
    assert_eq!(again.attempt(), 1);
}
