//! Large batches of acks: what others see between the slices, and batches of which leases are lost.

use super::*;
use crate::{
    Delivery, Queue,
    engine::core::settlement::{Settlement, Settling},
    ids::OffsetRange,
};

const MANY: usize = 200;
const LEASE: Duration = Duration::from_secs(30);

/// An engine without threads, so that a test says when a lease runs out.
fn alone(disk: &SimDisk) -> Engine {
    let process = Arc::new(disk.process());
    let config = Config { journal_bytes: 4 << 20, ..config() };
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

fn leased(engine: &Engine) -> (Queue, Vec<Delivery>) {
    let queue = engine.queue("q").lease(LEASE).backoff(crate::Backoff::None);
    let queue = queue.create().expect("there is space");
    queue.send_batch((0..MANY).map(|n| n.to_string())).expect("there is space");
    let leased = queue.receive_batch(MANY, Duration::ZERO).expect("they are there");
    assert_eq!(leased.len(), MANY);
    (queue, leased)
}

/// The first half of a batch ack: pins the leases of some deliveries.
fn pin<'d>(engine: &Engine, deliveries: &'d [Delivery]) -> Vec<Settlement<'d>> {
    let committer = engine.committer();
    let all: Vec<_> = deliveries.iter().map(|it| it.settlement(Settling::Ack)).collect();
    let mut core = committer.lock("test");
    all.iter().for_each(|it| _ = core.pin(it, committer.elapsed()).expect("it is held"));
    all
}

#[test]
fn nobody_else_settles_a_delivery_between_the_slices_and_no_lease_runs_out() {
    let disk = SimDisk::new(3);
    let engine = alone(&disk);
    let (queue, leased) = leased(&engine);
    let pinned = pin(&engine, &leased[..100]);
    disk.advance(2 * LEASE);
    // The other leases have run out.
    assert_eq!((queue.in_flight().expect("open"), queue.stats().expect("open").ready), (100, 100));
    leased[0].extend(LEASE).expect("it is about to be acked");
    for delivery in &leased[..2] {
        let mut tx = engine.transaction();
        tx.ack(delivery);
        assert_eq!(tx.commit().expect_err("it is settled now").kind(), ErrorKind::LeaseLost);
    }
    let again = queue.receive_batch(MANY, Duration::ZERO).expect("it is open");
    assert_eq!(again.len(), 100, "only the others come again");
    assert!(again.iter().all(|it| it.offset() >= Offset(100)));
    // A purge passes over them.
    drop(again);
    queue.purge().expect("there is space");
    assert_eq!(queue.depth().expect("it is open"), 100);
    let mut core = engine.committer().lock("test");
    pinned.iter().for_each(|it| core.unpin(it));
    drop(core);
    // The first was extended meanwhile, and the others run out.
    let again = queue.receive_batch(MANY, Duration::ZERO).expect("it is open");
    assert_eq!(again.len(), 99);
    leased[0].ack().expect("it is held");
    queue.ack_batch(&again).expect("they are held");
    assert_eq!(queue.depth().expect("it is open"), 0);
    engine.close().expect("the disk is well");
}

#[test]
fn between_the_commit_and_the_ends_of_the_leases_acked_messages_are_in_no_count() {
    let disk = SimDisk::new(3);
    let engine = alone(&disk);
    let (queue, leased) = leased(&engine);
    assert!(queue.remove(Offset(7)).expect("it is there"), "while it is on lease");
    let committer = engine.committer();
    let all: Vec<_> = leased[..100].iter().map(|it| it.settlement(Settling::Ack)).collect();
    let mut core = committer.lock("test");
    let pins: Vec<_> =
        all.iter().map(|it| core.pin(it, Duration::ZERO).expect("it is held")).collect();
    assert_eq!(pins.iter().filter(|pin| !pin.is_in_flight).count(), 1);
    let ranges: Vec<OffsetRange> = vec![Offset(0).to(Offset(100))];
    let acked = crate::engine::core::batch_acks::Acked { ranges, in_flight: 99 };
    let acked = [(all[0].cursor, acked)].into();
    let _receipt = core.ack_pinned(&acked, committer.now_plain()).expect("there is space");
    let counts = |ended: u64| {
        let stats = queue.stats().expect("it is open");
        assert_eq!((stats.depth, stats.in_flight, stats.ready), (100, 100, 0));
        assert_eq!(stats.acked, ended);
    };
    drop(core);
    counts(0);
    for (n, (it, pin)) in all.iter().zip(pins).enumerate() {
        committer.lock("test").end_pinned(it, pin, Duration::ZERO);
        counts(n as u64 + 1);
    }
    queue.ack_batch(&leased[100..]).expect("they are held");
    assert_eq!(queue.in_flight().expect("it is open"), 0);
    engine.close().expect("the disk is well");
}

#[test]
fn a_large_batch_of_which_a_lease_is_lost_acks_nothing_or_the_others() {
    let disk = SimDisk::new(3);
    let engine = alone(&disk);
    let (queue, leased) = leased(&engine);
    leased[70].ack().expect("it is held");
    let error = queue.ack_batch(&leased).expect_err("one was acked before");
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(error.to_string().contains("70"), "{error}");
    let stats = queue.stats().expect("it is open");
    assert_eq!((stats.depth, stats.in_flight, stats.acked), (199, 199, 1));
    assert_eq!(queue.ack_batch_held(&leased).expect("there is space"), [70]);
    let stats = queue.stats().expect("it is open");
    assert_eq!((stats.depth, stats.in_flight, stats.acked), (0, 0, 200));
    assert_eq!(queue.ack_batch_held(&leased).expect("it is open").len(), MANY);
    engine.close().expect("the disk is well");
}

/// Leases that were let go of run out as if nothing had been.
#[test]
fn leases_of_a_large_batch_that_fails_run_out_in_time() {
    let disk = SimDisk::new(3);
    let engine = alone(&disk);
    let (queue, leased) = leased(&engine);
    leased[199].ack().expect("it is held");
    queue.ack_batch(&leased).expect_err("one was acked before");
    disk.advance(LEASE + Duration::from_secs(1));
    let again = queue.receive_batch(MANY, Duration::ZERO).expect("it is open");
    assert_eq!(again.len(), MANY - 1);
    // A queue that is deleted leaves nothing to ack.
    engine.queue("q").delete().expect("it is there");
    assert_eq!(queue.ack_batch(&again).expect_err("it was deleted").kind(), ErrorKind::NotFound);
    assert_eq!(queue.ack_batch_held(&again).expect("it is open").len(), MANY - 1);
    engine.close().expect("the disk is well");
    assert_eq!(queue.ack_batch(&again).expect_err("it is closed").kind(), ErrorKind::Closed);
}
