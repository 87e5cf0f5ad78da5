//! Creating a schedule, and settings that are refused.

use std::time::Duration;

use posthouse::{ErrorKind, Message, MissedRuns, Schedule, Target, Timestamp, sim::SimDisk};

use super::{BEGIN, REGISTRY, hourly, run_due};
use crate::model::small_options;
use crate::support::{DAY, HOUR, MINUTE, SECOND, Sim, field, kind};

#[test]
fn creating_the_same_again_is_fine_and_another_is_not() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let first = hourly(&engine, &queue).create().unwrap();
    disk.advance(2 * HOUR);
    let again = hourly(&engine, &queue).create().unwrap();
    assert_eq!(again, first, "it goes on");
    assert_eq!(kind(hourly(&engine, &queue).create_new()), ErrorKind::AlreadyExists);
    let other = engine.schedule("hourly").cron("0 0 * * *").to_queue(&queue, "tick");
    assert_eq!(kind(other.create()), ErrorKind::AlreadyExists);
    for other in [
        hourly(&engine, &queue).time_zone("Europe/Berlin"),
        hourly(&engine, &queue).missed_runs(MissedRuns::Skip),
        engine.schedule("hourly").cron("0 * * * *").to_queue(&queue, "tock"),
        hourly(&engine, &engine.queue("r").create().unwrap()),
    ] {
        assert_eq!(kind(other.create()), ErrorKind::AlreadyExists);
    }
    // Settings that are not given are not compared.
    hourly(&engine, &queue).time_zone("Europe/Berlin").replace().unwrap();
    assert_eq!(hourly(&engine, &queue).create().unwrap().time_zone(), "Europe/Berlin");
    let replaced = other.replace().unwrap();
    assert_eq!(replaced.cron(), "0 0 * * *");
    assert_eq!(engine.schedules().unwrap(), std::slice::from_ref(&replaced));
    assert_eq!(engine.schedule("hourly").open().unwrap(), replaced);
    assert_eq!(engine.queue(REGISTRY).open().unwrap().depth().unwrap(), 1);
    engine.schedule("hourly").delete().unwrap();
    assert_eq!(kind(engine.schedule("hourly").delete()), ErrorKind::NotFound);
    assert_eq!(kind(engine.schedule("hourly").open()), ErrorKind::NotFound);
    assert!(engine.schedules().unwrap().is_empty());
    disk.advance(2 * DAY);
    assert_eq!(run_due(&engine), 0);
    assert_eq!(queue.depth().unwrap(), 0);
}

/// The queue of schedules is the engine's. A life there would drop schedules that wait.
#[test]
fn the_settings_of_the_queue_of_schedules_cannot_be_changed() {
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let before = engine.queue(REGISTRY).open().unwrap().settings().unwrap();
    let changed = engine.queue(REGISTRY).time_to_live(MINUTE).create_or_update();
    assert!(matches!(kind(changed), ErrorKind::InvalidInput { .. }));
    assert_eq!(engine.queue(REGISTRY).open().unwrap().settings().unwrap(), before);
    hourly(&engine, &queue).create().unwrap();
}

#[test]
fn a_schedule_is_listed_with_its_settings() {
    let Sim { engine, .. } = Sim::new();
    assert!(engine.schedules().unwrap().is_empty());
    assert!(engine.queues().unwrap().is_empty(), "nothing is made by looking");
    assert_eq!(run_due(&engine), 0);
    assert!(engine.queues().unwrap().is_empty());
    let queue = engine.queue("q").create().unwrap();
    for name in ["b", "a", "Grüße/日本"] {
        let message = Message::new("m").key("k").header("a", "b").expire_after(SECOND);
        let schedule = engine.schedule(name).cron(" 0  3 * * * ").time_zone("europe/berlin");
        schedule.missed_runs(MissedRuns::Skip).to_queue(&queue, message).create().unwrap();
    }
    let schedules = engine.schedules().unwrap();
    let names: Vec<&str> = schedules.iter().map(Schedule::name).collect();
    assert_eq!(names, ["Grüße/日本", "a", "b"]);
    let it = &schedules[1];
    assert_eq!((it.cron(), it.time_zone()), (" 0  3 * * * ", "Europe/Berlin"));
    assert_eq!(it.missed_runs(), MissedRuns::Skip);
    assert_eq!(it.target(), &Target::Queue("q".to_owned()));
    assert_eq!(it.next_run(), Timestamp(1_700_013_600_000));
    assert_eq!(it.failed_attempts(), 0);
    let message = Message::new("m").key("k").header("a", "b").expire_after(SECOND);
    assert_eq!(it.message(), message);
    assert!(format!("{it:?}").contains("Europe/Berlin"));
}

#[test]
fn bad_input_is_named_and_nothing_is_stored() {
    let Sim { engine, .. } = Sim::new();
    let other = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let topic = engine.topic("t").create().unwrap();
    let stream = engine.stream("s").create().unwrap();
    let foreign = other.engine.queue("q").create().unwrap();
    let keyed = engine.queue("o").ordered_by_key(true).create().unwrap();
    let slow = engine.queue("d").delay(SECOND).create().unwrap();
    let named = |name: &str| engine.schedule(name).cron("* * * * *").to_queue(&queue, "x");
    let long = "x".repeat(256);
    let bare = engine.schedule("x");
    let timed = bare.clone().cron("* * * * *");
    let given = |message: Message<'static>| timed.clone().to_queue(&queue, message);
    for (wrong, builder) in [
        ("name", named("")),
        ("name", named(&long)),
        ("cron", bare.clone().to_queue(&queue, "x")),
        ("cron", bare.clone().cron("every day").to_queue(&queue, "x")),
        ("cron", bare.clone().cron("0 0 30 2 *").to_queue(&queue, "x")),
        ("time_zone", timed.clone().time_zone("Mars/Olympus").to_queue(&queue, "x")),
        ("target", timed.clone()),
        ("target", timed.clone().to_queue(&foreign, "x")),
        ("deliver_after", given(Message::new("x").deliver_after(SECOND))),
        ("deliver_at", given(Message::new("x").deliver_at(Timestamp(1 << 50)))),
        ("timestamp", given(Message::new("x").timestamp(Timestamp(1)))),
        ("header", given(Message::new("x").header("schedule", "x"))),
        ("header", given(Message::new("x").header("scheduled-for", "x"))),
        ("header", given(Message::new("x").header("", "x"))),
        ("expire_after", given(Message::new("x").expire_after(Duration::ZERO))),
        ("expire_after", timed.clone().to_queue(&slow, Message::new("x").expire_after(SECOND))),
        ("expire_after", timed.clone().to_stream(&stream, Message::new("x").expire_after(SECOND))),
        ("key", timed.clone().to_queue(&keyed, Message::new("x").key(vec![0; 2000]))),
    ] {
        assert_eq!(field(builder.create()), wrong);
        assert_eq!(field(builder.create_new()), wrong);
        assert_eq!(field(builder.replace()), wrong);
    }
    assert_eq!(field(engine.schedule("").open()), "name");
    assert_eq!(field(engine.schedule("").delete()), "name");
    assert_eq!(kind(engine.schedule("x").open()), ErrorKind::NotFound);
    assert_eq!(kind(engine.schedule("x").delete()), ErrorKind::NotFound);
    assert_eq!(engine.queues().unwrap(), ["d", "o", "q"], "not even a queue for schedules");
    assert_eq!(kind(given(Message::new(vec![0; 65 << 10])).create()), ErrorKind::TooLarge);
    assert_eq!(engine.queues().unwrap(), ["d", "o", "q"]);
    timed.clone().to_topic(&topic, Message::new("x").expire_after(SECOND)).create().unwrap();
    let registry = engine.queue(REGISTRY).open().unwrap();
    assert_eq!(field(timed.clone().to_queue(&registry, "x").replace()), "target");
}

/// Its runs would all fail.
#[test]
fn a_message_that_its_queue_can_never_hold_is_refused() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("small").max_bytes(100).create().unwrap();
    let of = |bytes| engine.schedule("s").cron("* * * * *").to_queue(&queue, vec![7; bytes]);
    assert_eq!(kind(of(100).create()), ErrorKind::TooLarge, "it gets two headers");
    assert_eq!(kind(of(100).replace()), ErrorKind::TooLarge);
    let fits = (0..100).rev().find(|bytes| of(*bytes).create().is_ok()).unwrap();
    assert!(fits > 20, "{fits}");
    disk.advance(MINUTE);
    assert_eq!(run_due(&engine), 1);
}

#[test]
fn the_largest_that_is_taken_can_be_run() {
    let disk = SimDisk::new(1);
    disk.set_now(BEGIN);
    // A run is one commit of two messages: the message that is sent, and the schedule, which holds that
    // message, too.
    let engine = small_options().commit_bytes_max(64 << 10).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let given = |bytes| {
        let schedule = engine.schedule("large").cron("* * * * *");
        schedule.to_queue(&queue, vec![7; bytes]).replace()
    };
    let mut bytes = 33 << 10;
    for step in [64, 8, 1] {
        while let Err(error) = given(bytes) {
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            bytes -= step;
        }
        if step > 1 {
            bytes += step - 1;
        }
    }
    assert!(bytes > 31 << 10);
    disk.advance(MINUTE);
    assert_eq!(run_due(&engine), 1);
}
