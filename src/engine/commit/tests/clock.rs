//! A clock that is set back while no timer of the engine is set.

use std::{thread, time::Duration};

use super::{config, open};
use crate::{Engine, Message, Queue, Timestamp, disk::sim::SimDisk};

/// A time of day in 2026.
const NOW: Timestamp = Timestamp(1_800_000_000_000);

const HALF_AN_HOUR: Duration = Duration::from_secs(1800);

/// The machine has booted with a clock that is an hour ahead. The flusher has brought the message, and nothing is left to do.
fn due_by_a_wrong_clock(disk: &SimDisk, priority: u8) -> (Engine, Queue) {
    disk.set_now(NOW);
    let engine = open(disk, config());
    let queue = engine.queue("q").create().expect("there is space");
    let at = Timestamp(NOW.0 + HALF_AN_HOUR.as_millis() as u64);
    queue.send(Message::new("work").deliver_at(at).priority(priority)).expect("there is space");
    drop(queue);
    engine.close().expect("the disk is well");
    disk.kill();
    disk.set_now(Timestamp(NOW.0 + 3_600_000));
    let engine = open(disk, config());
    let queue = engine.queue("q").open().expect("it is there");
    while queue.stats().expect("the store is open").ready == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    (engine, queue)
}

/// Without a timer the flusher looks at no clock, and a receive did not either.
#[test]
fn a_receive_looks_at_the_clock_if_messages_for_a_time_of_day_have_come_due() {
    for (priority, in_batch) in [(0, false), (5, false), (0, true)] {
        let disk = SimDisk::new(1);
        let (engine, queue) = due_by_a_wrong_clock(&disk, priority);
        disk.set_now(NOW);
        let received = match in_batch {
            true => queue.receive_batch(1, Duration::ZERO).expect("it can be read").len(),
            false => usize::from(queue.try_receive().expect("it can be read").is_some()),
        };
        assert_eq!(received, 0, "it came half an hour early");
        assert_eq!(queue.stats().expect("the store is open").delayed, 1);
        disk.advance(HALF_AN_HOUR);
        let delivery = queue.try_receive().expect("it can be read").expect("its time has come");
        delivery.ack().expect("there is space");
        engine.close().expect("the disk is well");
    }
}
