//! Large batches of acks: what happens between the slices, and what others see.

use std::{path::Path, sync::Arc};

use super::*;
use crate::{
    Engine, Queue,
    config::{Backoff, Config, Durability},
    disk::sim::SimDisk,
    ids::Offset,
};

const MANY: usize = 1000;
const LEASE: Duration = Duration::from_secs(30);

/// An engine without threads, so that a test says when a lease runs out.
fn leased(disk: &SimDisk) -> (Engine, Queue, Vec<Delivery>) {
    let process = Arc::new(disk.process());
    let config = Config { durability: Durability::Buffered, ..Config::default() };
    let engine = Engine::open_on(process, Path::new("store"), config, false);
    let engine = engine.expect("the disk is well");
    let queue = engine.queue("q").lease(LEASE).backoff(Backoff::None).max_attempts(2);
    let queue = queue.create().expect("there is space");
    queue.send_batch((0..2 * MANY).map(|n| n.to_string())).expect("there is space");
    let mut all = Vec::new();
    while all.len() < 2 * MANY {
        all.extend(queue.receive_batch(500, Duration::ZERO).expect("they are there"));
    }
    // Looking at a message begins its handling.
    all.iter().for_each(|it| assert!(!it.payload().is_empty()));
    (engine, queue, all)
}

fn counts(queue: &Queue) -> (u64, u64, u64) {
    let stats = queue.stats().expect("it is open");
    assert_eq!((stats.failed, stats.depth), (0, stats.ready + stats.delayed + stats.in_flight));
    (stats.depth, stats.in_flight, stats.acked)
}

/// Something happens to one of the deliveries after a batch of the first half has looked at all leases. Returns what the
/// batch says, which loses leases or fails, and the rest of what there was.
fn beside(
    act: impl Fn(&Engine, &Queue, &[Delivery]),
    may_lose: bool,
) -> (Result<Vec<usize>>, Engine, Queue, Vec<Delivery>) {
    let disk = SimDisk::new(3);
    let (engine, queue, all) = leased(&disk);
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    act(&engine, &queue, &all);
    let lost = looks.commit(may_lose).map(|acked| {
        let _receipt = acked.expect("nothing happens again");
        looks.end_leases()
    });
    drop(looks);
    if let Ok(lost) = &lost {
        batch.note_acked(lost);
    }
    drop(batch);
    (lost, engine, queue, all)
}

#[test]
fn a_lease_that_is_lost_between_the_slices_is_lost_to_the_batch() {
    let (settle, run_out): (&dyn Fn(&Delivery), _) = (&|it| it.ack().expect("it is held"), 7);
    let release: &dyn Fn(&Delivery) = &|it| it.release().expect("it is held");
    let nack: &dyn Fn(&Delivery) = &|it| it.nack_after(LEASE).expect("it is held");
    for act in [settle, release, nack] {
        let act = |_: &Engine, queue: &Queue, all: &[Delivery]| {
            act(&all[run_out]);
            // If it is to be had again, another consumer has it now.
            std::mem::forget(queue.try_receive().expect("it is open"));
        };
        let (error, ..) = beside(act, false);
        let error = error.expect_err("one is lost");
        assert_eq!(error.kind(), ErrorKind::LeaseLost);
        assert!(error.to_string().contains('7'), "{error}");
        let (lost, _engine, queue, _all) = beside(act, true);
        assert_eq!(lost.expect("the others are acked"), [run_out]);
        let depth = queue.depth().expect("it is open");
        assert!([MANY, MANY + 1].contains(&(depth as usize)), "{depth}");
    }
}

#[test]
fn what_happens_to_other_leases_does_not_disturb_a_batch() {
    let act = |_: &Engine, queue: &Queue, all: &[Delivery]| {
        // More than is looked at in one hold.
        all[MANY..MANY + 300].iter().for_each(|it| it.ack().expect("it is held"));
        assert!(queue.remove(Offset(1900)).expect("it is there"));
        assert!(queue.remove(Offset(5)).expect("it is there"), "one of the batch");
    };
    let (lost, engine, queue, all) = beside(act, false);
    assert_eq!(lost.expect("all are held"), []);
    assert_eq!(counts(&queue), (699, 699, MANY as u64 + 300));
    queue.ack_batch(&all[MANY + 300..]).expect("they are held");
    assert_eq!(counts(&queue).1, 0);
    engine.close().expect("the disk is well");
}

#[test]
fn leases_that_run_out_between_the_slices_are_lost() {
    let disk = SimDisk::new(3);
    let (engine, queue, all) = leased(&disk);
    all[7].extend(3 * LEASE).expect("it is held");
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    // No thread has noticed yet that they have run out.
    let working = consumer.committer().work_alone_first();
    disk.advance(2 * LEASE);
    let _receipt = looks.commit(true).expect("there is space").expect("it is committed");
    drop(working);
    assert_eq!(looks.end_leases().len(), MANY - 1);
    batch.note_acked(&looks.lost());
    drop(looks);
    assert_eq!(queue.depth().expect("it is open"), 2 * MANY as u64 - 1);
    let again = queue.receive_batch(500, Duration::ZERO).expect("it is open");
    assert_eq!((again.len(), again[0].attempt()), (500, 2));
    engine.close().expect("the disk is well");
}

#[test]
fn a_queue_that_is_deleted_or_closed_between_the_slices_is_told() {
    let delete = |engine: &Engine, _: &Queue, _: &[Delivery]| {
        engine.queue("q").delete().expect("it is there");
    };
    let (deleted, ..) = beside(delete, false);
    assert_eq!(deleted.expect_err("it is deleted").kind(), ErrorKind::NotFound);
    let (lost, ..) = beside(delete, true);
    assert_eq!(lost.expect("all are lost").len(), MANY);
    let close = |engine: &Engine, _: &Queue, _: &[Delivery]| engine.close().expect("it is well");
    let (closed, ..) = beside(close, true);
    assert_eq!(closed.expect_err("it is closed").kind(), ErrorKind::Closed);
}

/// Between the commit and the ends of the leases.
#[test]
fn acked_messages_whose_leases_are_yet_to_end_are_in_no_count_and_not_settled_again() {
    let disk = SimDisk::new(3);
    let (engine, queue, all) = leased(&disk);
    assert!(queue.remove(Offset(7)).expect("it is there"), "while it is on lease");
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    let _receipt = looks.commit(false).expect("there is space").expect("it is committed");
    assert_eq!(counts(&queue), (MANY as u64, MANY as u64, 0));
    // Also the message that was deleted.
    for it in [&all[0], &all[7]] {
        assert_eq!(it.nack().expect_err("it is acked").kind(), ErrorKind::LeaseLost);
        assert_eq!(it.extend(LEASE).expect_err("it is acked").kind(), ErrorKind::LeaseLost);
    }
    let key = batch.settlements[2].key;
    let is_given = consumer.committer().lock("test").give_back_uncounted(consumer.cursor(), key, 1);
    assert!(!is_given, "a worker that stops gives it back no more");
    let mut tx = engine.transaction();
    tx.ack(&all[1]).send(&queue, "twice");
    assert_eq!(tx.commit().expect_err("it is acked").kind(), ErrorKind::LeaseLost);
    for it in &all[MANY..] {
        it.extend(3 * LEASE).expect("it is held");
    }
    disk.advance(LEASE + Duration::from_millis(500));
    assert_eq!(counts(&queue), (MANY as u64, MANY as u64, 0), "no acked message has failed");
    assert_eq!(looks.end_leases(), []);
    batch.note_acked(&[]);
    drop(looks);
    assert_eq!(counts(&queue), (MANY as u64, MANY as u64, MANY as u64));
    queue.ack_batch(&all[MANY..]).expect("they are held");
    assert_eq!(counts(&queue), (0, 0, 2 * MANY as u64));
    engine.close().expect("the disk is well");
}

/// The close gives back what is on lease, and what is acked is on lease for a moment longer.
#[test]
fn a_close_before_the_leases_end_keeps_all_acks() {
    let disk = SimDisk::new(3);
    let (engine, queue, all) = leased(&disk);
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    let _receipt = looks.commit(false).expect("there is space").expect("it is committed");
    engine.close().expect("the disk is well");
    assert_eq!(looks.end_leases(), []);
    drop(looks);
    drop(batch);
    drop((all, queue, engine));
    let process = Arc::new(disk.process());
    let engine = Engine::open_on(process, Path::new("store"), Config::default(), false);
    let queue = engine.expect("the disk is well").queue("q").open().expect("it is there");
    assert_eq!(queue.depth().expect("it is open"), MANY as u64);
    let first = queue.try_receive().expect("it is open").expect("the second half is there");
    assert_eq!((first.offset(), first.attempt()), (Offset(MANY as u64), 1));
}

/// Two threads ack the same deliveries, and both have looked at them before one commits.
#[test]
fn deliveries_that_two_batches_share_are_acked_by_one_of_them() {
    let disk = SimDisk::new(3);
    let (engine, queue, all) = leased(&disk);
    let consumer = all[0].consumer();
    let one = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let other = consumer.batch(&all[MANY - 10..MANY + 500]).expect("they are of one engine");
    let (mut first, mut second) =
        (Looks::new(consumer.committer(), &one), Looks::new(consumer.committer(), &other));
    first.look_at_all().expect("it is open");
    second.look_at_all().expect("it is open");
    let _receipt = first.commit(false).expect("all are held").expect("it is committed");
    let error = second.commit(false).map(drop).expect_err("ten of them are acked");
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    drop(second);
    let mut second = Looks::new(consumer.committer(), &other);
    second.look_at_all().expect("it is open");
    let _receipt = second.commit(true).expect("the others are held").expect("it is committed");
    assert_eq!(second.end_leases(), (0..10).collect::<Vec<_>>());
    assert_eq!(counts(&queue).1, MANY as u64 - 490 - 10);
    assert_eq!(first.end_leases(), []);
    drop((first, second));
    assert_eq!(counts(&queue), (MANY as u64 - 500, MANY as u64 - 500, MANY as u64 + 500));
    one.note_acked(&[]);
    other.note_acked(&[]);
    queue.ack_batch(&all[MANY + 500..]).expect("they are held");
    assert_eq!(counts(&queue), (0, 0, 2 * MANY as u64));
    engine.close().expect("the disk is well");
}

/// Beside busy consumers it looked again and again, and kept what happened to their leases.
#[test]
fn what_happens_to_leases_of_others_is_nothing_to_a_batch() {
    let disk = SimDisk::new(3);
    let (_engine, queue, all) = leased(&disk);
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    queue.ack_batch(&all[MANY..MANY + 500]).expect("they are held");
    all[MANY + 500..].iter().for_each(|it| it.release().expect("it is held"));
    let again = queue.receive_batch(500, Duration::ZERO).expect("it is open");
    again.iter().for_each(|it| it.extend(LEASE).expect("it is held"));
    let committer = consumer.committer();
    let tried = committer.lock("test").ack_looked(&looks.parts, committer.now_plain());
    assert!(tried.expect("there is space").is_some(), "the first try commits it");
    looks.is_committed = true;
    assert_eq!(looks.end_leases(), []);
    drop(looks);
    assert_eq!(counts(&queue), (500, 500, MANY as u64 + 500));
}

/// A batch that has lost all leases of a queue at rest ended the look of another one.
#[test]
fn a_batch_without_leases_ends_no_look_but_its_own() {
    let disk = SimDisk::new(3);
    let (_engine, queue, all) = leased(&disk);
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[MANY..]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    // The cursor had no state when the other one began.
    let without = Part::default();
    consumer.committer().lock("test").end_batch(consumer.cursor(), &without, None);
    all[MANY].release().expect("it is held");
    std::mem::forget(queue.try_receive().expect("it is there"));
    let error = looks.commit(false).map(drop).expect_err("one is lost");
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
}

#[test]
fn a_lease_that_is_cut_short_between_the_slices_holds_no_longer() {
    let disk = SimDisk::new(3);
    let (_engine, _queue, all) = leased(&disk);
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    all[7].extend(Duration::from_secs(1)).expect("it is held");
    let working = consumer.committer().work_alone_first();
    disk.advance(Duration::from_secs(2));
    let _receipt = looks.commit(true).expect("the others are held").expect("it is committed");
    drop(working);
    assert_eq!(looks.end_leases(), [7]);
}

/// A lease that a batch has lost may end again and again with other consumers.
#[test]
fn a_batch_to_whose_messages_something_happens_each_time_is_acked_in_one_hold() {
    let disk = SimDisk::new(3);
    let (engine, queue, all) = leased(&disk);
    all[5].release().expect("it is held");
    let consumer = all[0].consumer();
    let batch = consumer.batch(&all[..MANY]).expect("they are of one engine");
    let mut looks = Looks::new(consumer.committer(), &batch);
    looks.look_at_all().expect("it is open");
    let mut beside = Looks::new(consumer.committer(), &batch);
    beside.look_at_all().expect("it is open");
    for _ in 0..2000 {
        let other = queue.try_receive().expect("it is open").expect("it is there");
        other.release().expect("it is held");
    }
    let (cursor, part) = beside.parts.first_key_value().expect("it has one");
    let events = consumer.committer().lock("test").take_events(*cursor, part);
    assert!(events.is_none(), "more has happened than is kept");
    drop(beside);
    let _receipt = looks.commit(true).expect("there is space").expect("it is committed");
    assert_eq!(looks.end_leases(), [5]);
    drop(looks);
    // What `ack_batch_held` does if that goes on and on.
    let rest = consumer.batch(&all[MANY..]).expect("they are of one engine");
    let (lost, _receipt) = consumer.ack_held_at_once(&rest).expect("there is space");
    assert_eq!(lost, []);
    assert_eq!(queue.depth().expect("it is open"), 1);
    engine.close().expect("the disk is well");
}
