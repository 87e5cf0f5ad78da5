//! Clocks that are set while an engine is open: a time to live is a duration, and goes on evenly.

use std::time::Duration;

use posthouse::{Message, Timestamp};

use crate::support::{SECOND, Sim, take};

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

/// The jumps of the clock in milliseconds, forward or back.
const JUMPS: [i64; 6] = [-1, -15_000, -(YEAR_MS as i64), 1, 15_000, 50 * YEAR_MS as i64];

fn set(sim: &Sim, by: i64) {
    let now = sim.now();
    sim.disk.set_now(Timestamp(now.0.checked_add_signed(by).unwrap()));
}

/// A time to live of ten seconds is not over after nine, and is over after eleven, whatever the clock says.
fn assert_lasts_ten_seconds(sim: &Sim, depth: impl Fn() -> u64, what: &str) {
    sim.disk.advance(9 * SECOND);
    assert_eq!(depth(), 1, "{what}: lost before its time");
    sim.disk.advance(2 * SECOND);
    assert_eq!(depth(), 0, "{what}: outlives its time to live");
}

#[test]
fn a_message_sent_after_the_clock_was_set_has_the_time_to_live_of_its_queue() {
    for by in JUMPS {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").time_to_live(10 * SECOND).create().unwrap();
        set(&sim, by);
        queue.send("work").unwrap();
        assert_eq!(take(&queue).unwrap().payload(), b"work", "{by}: lost at once");
        assert_lasts_ten_seconds(&sim, || take(&queue).map_or(0, |_| 1), &by.to_string());
    }
}

#[test]
fn a_message_sent_before_the_clock_was_set_has_it_too() {
    for by in JUMPS {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").time_to_live(10 * SECOND).create().unwrap();
        queue.send("work").unwrap();
        set(&sim, by);
        assert_lasts_ten_seconds(&sim, || take(&queue).map_or(0, |_| 1), &by.to_string());
    }
}

#[test]
fn a_time_to_live_of_its_own_holds_in_a_queue_a_topic_and_a_transaction() {
    for by in JUMPS {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").create().unwrap();
        let topic = sim.engine.topic("t").create().unwrap();
        let subscription = topic.subscription("s").create().unwrap();
        let plain = topic.subscription("plain").time_to_live(10 * SECOND).create().unwrap();
        let other = sim.engine.queue("other").create().unwrap();
        set(&sim, by);
        let message = || Message::new("work").expire_after(10 * SECOND);
        queue.send(message()).unwrap();
        topic.publish(message()).unwrap();
        let mut tx = sim.engine.transaction();
        tx.send(&other, message());
        tx.commit().unwrap();
        let alive = || {
            let all = [
                queue.try_receive().unwrap(),
                other.try_receive().unwrap(),
                subscription.try_receive().unwrap(),
                plain.try_receive().unwrap(),
            ];
            let count = all.iter().flatten().count() as u64;
            assert!(count == 0 || count == 4, "{by}: {count} of 4");
            count / 4
        };
        assert_lasts_ten_seconds(&sim, alive, &by.to_string());
    }
}

#[test]
fn a_time_to_live_from_the_senders_timestamp_goes_on_evenly() {
    for by in JUMPS {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").time_to_live(10 * SECOND).create().unwrap();
        set(&sim, by);
        let Timestamp(now) = sim.now();
        // Half of its time to live is over when it is sent.
        queue.send(Message::new("work").timestamp(Timestamp(now - 5000))).unwrap();
        assert_eq!(take(&queue).unwrap().timestamp(), Timestamp(now - 5000));
        sim.disk.advance(4 * SECOND);
        assert!(take(&queue).is_some(), "{by}: lost before its time");
        sim.disk.advance(2 * SECOND);
        assert!(take(&queue).is_none(), "{by}: outlives its time to live");
    }
}

#[test]
fn the_time_to_live_of_dead_letters_starts_by_the_steady_clock() {
    for by in JUMPS {
        let sim = Sim::new();
        let dead = sim.engine.queue("q.dead").time_to_live(10 * SECOND).create().unwrap();
        let queue = sim.engine.queue("q").max_attempts(1).create().unwrap();
        set(&sim, by);
        let moved_at = sim.now();
        queue.send("nacked").unwrap();
        take(&queue).unwrap().nack().unwrap();
        queue.send("nacked in a transaction").unwrap();
        let delivery = take(&queue).unwrap();
        let mut tx = sim.engine.transaction();
        tx.nack(&delivery);
        tx.commit().unwrap();
        queue.send("given up").unwrap();
        drop(take(&queue).unwrap());
        // Nobody waits for that commit, and the simulated disk has no thread that would sync it.
        sim.engine.sync().unwrap();
        let letters = || {
            let letters: Vec<_> = std::iter::from_fn(|| take(&dead)).collect();
            let told = letters.iter().map(|it| it.dead_letter().unwrap().unwrap().died);
            told.for_each(|died| {
                assert!(died.0.abs_diff(moved_at.0) <= 1, "{by}: told by the time of day");
            });
            letters.len()
        };
        sim.disk.advance(9 * SECOND);
        assert_eq!(letters(), 3, "{by}: lost before their time");
        sim.disk.advance(2 * SECOND);
        assert_eq!(letters(), 0, "{by}: outlive their time to live");
    }
}

#[test]
fn the_time_to_live_of_redriven_messages_starts_again_by_the_steady_clock() {
    for by in JUMPS {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").max_attempts(1).time_to_live(10 * SECOND);
        let queue = queue.create().unwrap();
        queue.send("work").unwrap();
        take(&queue).unwrap().nack().unwrap();
        set(&sim, by);
        sim.disk.advance(60 * SECOND);
        let dead = sim.engine.queue("q.dead").open().unwrap();
        assert_eq!(dead.redrive().run().unwrap().moved, 1);
        sim.disk.advance(9 * SECOND);
        assert_eq!(queue.depth().unwrap(), 1);
        let delivery = take(&queue).unwrap_or_else(|| panic!("{by}: lost before its time"));
        delivery.extend(Duration::from_millis(1)).unwrap();
        sim.disk.advance(2 * SECOND);
        drop(delivery);
        assert!(take(&queue).is_none(), "{by}: outlives its time to live");
    }
}

#[test]
fn a_restart_after_the_clock_was_set_back_loses_nothing() {
    for by in [-15_000, -(YEAR_MS as i64)] {
        let sim = Sim::new();
        let queue = sim.engine.queue("q").time_to_live(10 * SECOND).create().unwrap();
        queue.send("before").unwrap();
        set(&sim, by);
        queue.send("after").unwrap();
        let sim = sim.kill();
        let queue = sim.engine.queue("q").open().unwrap();
        sim.disk.advance(Duration::from_secs(9));
        let received = [take(&queue), take(&queue)];
        assert!(received.iter().all(Option::is_some), "{by}: lost before their time");
    }
}

/// The disk was full when the machine had booted, so its clocks were not recorded; a close did not try it again.
#[test]
fn a_clock_that_is_set_while_the_disk_is_full_is_no_time_that_has_passed() {
    const HOUR_MS: u64 = 3_600_000;
    let mut sim = Sim::new();
    let began = sim.now();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("later").deliver_after(Duration::from_secs(3600))).unwrap();
    drop(queue);
    sim = sim.power_cut();
    sim.engine.close().unwrap();
    sim.disk.set_capacity(Some(sim.disk.bytes_used()));
    sim = sim.power_cut();
    sim.disk.set_now(Timestamp(began.0 + 2 * HOUR_MS));
    sim.engine.close().unwrap();
    sim.disk.set_capacity(None);
    sim = sim.power_cut();
    let queue = sim.engine.queue("q").open().unwrap();
    assert!(take(&queue).is_none(), "an hour has not passed");
    sim.disk.advance(Duration::from_secs(3600));
    assert!(take(&queue).is_some());
}
