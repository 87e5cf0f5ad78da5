//! Recurring schedules: what users are told of them, with crashes, on a simulated clock and on a real one.
#![cfg(feature = "cron")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;
mod sim;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake},
    thread,
    time::{Duration, Instant},
};

use model::{rot_first_record, small_options};
use posthouse::{
    Alarm, Backoff, Durability, Engine, ErrorKind, Message, MissedRuns, Options, Overflow, Queue,
    QueueBuilder, Schedule, ScheduleBuilder, Start, Target, Threshold, Timestamp, sim::SimDisk,
};
use sim::{SECOND, Sim, field, kind, take};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const BOARD: &str = "posthouse.schedules";

/// The simulated time at which all begins: 2023-11-14, 22:13:20.
const BEGIN: Timestamp = Timestamp(1_700_000_000_000);

fn minutely(engine: &Engine, queue: &Queue) -> ScheduleBuilder {
    engine.schedule("minutely").cron("* * * * *").to_queue(queue, "tick")
}

fn hourly(engine: &Engine, queue: &Queue) -> ScheduleBuilder {
    engine.schedule("hourly").cron("0 * * * *").to_queue(queue, "tick")
}

fn run_due(engine: &Engine) -> u64 {
    engine.scheduler().run_due().unwrap()
}

/// For which times there are messages in a queue.
fn times(queue: &Queue) -> Vec<String> {
    let time = |browsed: posthouse::Browsed| {
        let time = browsed.header(Schedule::TIME_HEADER).unwrap().to_vec();
        String::from_utf8(time).unwrap()
    };
    queue.browse().unwrap().map(|it| time(it.unwrap())).collect()
}

fn reopen(sim: Sim) -> Sim {
    let Sim { disk, engine } = sim;
    engine.close().unwrap();
    drop(engine);
    let engine = small_options().sim(&disk).open("store").unwrap();
    Sim { disk, engine }
}

#[test]
fn it_runs_at_its_times_and_says_for_which() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("ticks").create().unwrap();
    let message = Message::new("tick").key("k").header("kind", "tick");
    let schedule = engine.schedule("minutely").cron("* * * * *").to_queue(&queue, message);
    let schedule = schedule.create().unwrap();
    assert_eq!(schedule.next_run(), Timestamp(BEGIN.0 + 40_000));
    assert_eq!(run_due(&engine), 0);
    disk.advance(39 * SECOND);
    assert_eq!(run_due(&engine), 0);
    disk.advance(SECOND);
    assert_eq!(run_due(&engine), 1);
    assert_eq!(run_due(&engine), 0);
    let delivery = take(&queue).unwrap();
    assert_eq!((delivery.payload(), delivery.key()), (&b"tick"[..], Some(&b"k"[..])));
    assert_eq!(delivery.header("kind"), Some(&b"tick"[..]));
    assert_eq!(delivery.header(Schedule::NAME_HEADER), Some(&b"minutely"[..]));
    assert_eq!(delivery.header(Schedule::TIME_HEADER), Some(&b"2023-11-14T22:14:00Z"[..]));
    assert_eq!(delivery.timestamp(), Timestamp(BEGIN.0 + 40_000));
    delivery.ack().unwrap();
    for _ in 0..5 {
        disk.advance(MINUTE);
        assert_eq!(run_due(&engine), 1);
    }
    assert_eq!(times(&queue).last().unwrap(), "2023-11-14T22:19:00Z");
    assert_eq!(queue.depth().unwrap(), 5);
}

#[test]
fn topics_and_streams_are_targets_too() {
    let Sim { disk, engine } = Sim::new();
    let topic = engine.topic("hours").create().unwrap();
    let subscription = topic.subscription("all").create().unwrap();
    let stream = engine.stream("hours").partitions(4).create().unwrap();
    engine.schedule("t").cron("@hourly").to_topic(&topic, "hour").create().unwrap();
    engine.schedule("s").cron("@hourly").to_stream(&stream, "hour").create().unwrap();
    for _ in 0..8 {
        disk.advance(HOUR);
        assert_eq!(run_due(&engine), 2);
    }
    assert_eq!(subscription.depth().unwrap(), 8);
    assert_eq!(stream.len().unwrap(), 8);
    // Without a key they go to the partitions in turn, as all records do.
    let of = |partition| {
        let reader = stream.partition(partition).unwrap().reader(Start::Earliest).unwrap();
        reader.count()
    };
    assert!((0..4).filter(|it| of(*it) > 0).count() > 1, "all are in one partition");
    let targets: Vec<Target> =
        engine.schedules().unwrap().iter().map(|it| it.target().clone()).collect();
    assert_eq!(targets, [Target::Stream("hours".into()), Target::Topic("hours".into())]);
}

#[test]
fn a_message_may_have_an_end_of_life() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("ticks").create().unwrap();
    let message = Message::new("tick").expire_after(MINUTE);
    engine.schedule("h").cron("@hourly").to_queue(&queue, message).create().unwrap();
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
    disk.advance(2 * MINUTE);
    assert!(take(&queue).is_none(), "it has expired");
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
    assert!(take(&queue).is_some(), "each has a life of its own");
}

#[test]
fn it_goes_on_behind_a_restart_and_a_checkpoint() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("ticks").create().unwrap();
    hourly(&sim.engine, &queue).create().unwrap();
    drop(queue);
    for n in 0..6 {
        sim.disk.advance(HOUR);
        if n % 2 == 0 {
            sim.engine.checkpoint().unwrap();
        }
        sim = if n % 3 == 0 { sim.kill() } else { reopen(sim) };
        assert_eq!(run_due(&sim.engine), 1);
    }
    assert_eq!(sim.engine.queue("ticks").open().unwrap().depth().unwrap(), 6);
    assert!(sim.engine.verify().unwrap().is_ok());
}

/// A short life that creates, runs, replaces and deletes schedules, on a disk that takes a copy of itself
/// at each step; the power is cut in each copy, and then life goes on there.
#[test]
fn each_run_is_made_exactly_once_wherever_it_crashes() {
    crash_everywhere(Durability::Sync);
}

#[test]
fn so_it_is_where_nobody_waits_for_the_disk() {
    crash_everywhere(Durability::Buffered);
}

fn crash_everywhere(durability: Durability) {
    let disk = SimDisk::new(11);
    disk.set_now(BEGIN);
    let open =
        |disk: &SimDisk| small_options().durability(durability).sim(disk).open("store").unwrap();
    let engine = open(&disk);
    let queue = engine.queue("ticks").create().unwrap();
    let topic = engine.topic("ticks").create().unwrap();
    topic.subscription("all").create().unwrap();
    minutely(&engine, &queue).missed_runs(MissedRuns::RunAll).create().unwrap();
    let also = engine.schedule("also").cron("*/2 * * * *").missed_runs(MissedRuns::RunAll);
    also.to_topic(&topic, "tick").create().unwrap();
    engine.sync().unwrap();
    disk.record(1);
    for n in 0..12 {
        disk.advance(MINUTE);
        assert!(run_due(&engine) >= 1);
        if n == 5 {
            engine.checkpoint().unwrap();
        }
    }
    disk.record(u64::MAX);
    let expected: Vec<String> = (14..26).map(|n| format!("2023-11-14T22:{n}:00Z")).collect();
    assert_eq!(times(&queue), expected);
    let moments = disk.take_moments();
    assert!(moments.len() > 20, "{}", moments.len());
    for (n, moment) in moments.into_iter().enumerate() {
        match n % 3 {
            0 => moment.kill(),
            _ => moment.power_cut(),
        }
        let engine = open(&moment);
        // By the time at which the original has come to its end.
        moment.set_now(Timestamp(BEGIN.0 + 12 * 60_000));
        engine.close().unwrap();
        drop(engine);
        let engine = open(&moment);
        run_due(&engine);
        let queue = engine.queue("ticks").open().unwrap();
        assert_eq!(times(&queue), expected, "crashed at step {n}");
        let all = engine.topic("ticks").open().unwrap().subscription("all").open().unwrap();
        assert_eq!(all.depth().unwrap(), 6, "crashed at step {n}");
        assert_eq!(engine.schedules().unwrap().len(), 2);
        assert_eq!(engine.queue(BOARD).open().unwrap().depth().unwrap(), 2);
    }
}

#[test]
fn a_replacement_and_an_end_are_whole_wherever_they_crash() {
    let disk = SimDisk::new(12);
    disk.set_now(BEGIN);
    let open = |disk: &SimDisk| small_options().sim(disk).open("store").unwrap();
    let engine = open(&disk);
    let queue = engine.queue("ticks").create().unwrap();
    disk.record(1);
    minutely(&engine, &queue).create().unwrap();
    engine.schedule("minutely").cron("@hourly").to_queue(&queue, "x").replace().unwrap();
    engine.schedule("minutely").delete().unwrap();
    disk.record(u64::MAX);
    let mut seen = [0; 3];
    for moment in disk.take_moments() {
        moment.power_cut();
        let engine = open(&moment);
        let schedules = engine.schedules().unwrap();
        let crons: Vec<&str> = schedules.iter().map(Schedule::cron).collect();
        let depth = engine.queue(BOARD).open().map_or(0, |board| board.depth().unwrap());
        assert_eq!(depth, crons.len() as u64);
        match crons[..] {
            [] => seen[0] += 1,
            ["* * * * *"] => seen[1] += 1,
            ["@hourly"] => seen[2] += 1,
            _ => panic!("{crons:?}"),
        }
    }
    assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
}

#[test]
fn missed_runs_are_made_once_or_all_or_not() {
    let sim = Sim::new();
    for (name, missed) in
        [("once", MissedRuns::RunOnce), ("all", MissedRuns::RunAll), ("skip", MissedRuns::Skip)]
    {
        let queue = sim.engine.queue(name).create().unwrap();
        let schedule = sim.engine.schedule(name).cron("0 * * * *").missed_runs(missed);
        schedule.to_queue(&queue, "x").create().unwrap();
    }
    sim.disk.advance(HOUR);
    assert_eq!(run_due(&sim.engine), 2, "13 minutes late, one is skipped");
    let Sim { disk, engine } = reopen(sim);
    disk.advance(5 * HOUR);
    let sim = reopen(Sim { disk, engine });
    assert_eq!(run_due(&sim.engine), 1 + 5);
    let times = |name: &str| times(&sim.engine.queue(name).open().unwrap());
    assert_eq!(times("once"), ["2023-11-14T23:00:00Z", "2023-11-15T04:00:00Z"]);
    let all: Vec<String> = (0..5).map(|n| format!("2023-11-15T0{n}:00:00Z")).collect();
    assert_eq!(times("all")[0], "2023-11-14T23:00:00Z");
    assert_eq!(times("all")[1..], all);
    assert!(times("skip").is_empty());
    // In time, it is not skipped.
    sim.disk.advance(MINUTE * 46 + 41 * SECOND);
    assert_eq!(run_due(&sim.engine), 3);
    assert_eq!(times("skip"), ["2023-11-15T05:00:00Z"]);
}

#[test]
fn a_schedule_with_a_year_comes_to_its_end() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let schedule = engine.schedule("once").cron("0 0 12 24 12 * 2023").to_queue(&queue, "x");
    schedule.create().unwrap();
    disk.advance(41 * DAY);
    assert_eq!(run_due(&engine), 1);
    assert_eq!(times(&queue), ["2023-12-24T12:00:00Z"]);
    assert!(engine.schedules().unwrap().is_empty());
    assert_eq!(field(schedule.create()), "cron", "it would never run");
}

#[test]
fn time_zones_have_their_clocks_changed() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let nightly = engine.schedule("nightly").cron("30 2 * * *").time_zone("Europe/Berlin");
    nightly.to_queue(&queue, "x").create().unwrap();
    let mut days = 0;
    while days < 400 {
        disk.advance(HOUR);
        days += run_due(&engine);
    }
    let times = times(&queue);
    assert_eq!(times.len(), 400);
    assert_eq!(times[0], "2023-11-15T01:30:00Z");
    let of = |day: &str| times.iter().filter(|it| it.starts_with(day)).collect::<Vec<_>>();
    // 02:30 is left out on March 31st 2024, and comes twice on October 27th.
    assert_eq!(of("2024-03-30"), ["2024-03-30T01:30:00Z"]);
    assert_eq!(of("2024-03-31"), ["2024-03-31T01:00:00Z"]);
    assert_eq!(of("2024-04-01"), ["2024-04-01T00:30:00Z"]);
    assert_eq!(of("2024-10-27"), ["2024-10-27T00:30:00Z"]);
    assert_eq!(of("2024-10-28"), ["2024-10-28T01:30:00Z"]);
}

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
    assert_eq!(engine.queue(BOARD).open().unwrap().depth().unwrap(), 1);
    engine.schedule("hourly").delete().unwrap();
    assert_eq!(kind(engine.schedule("hourly").delete()), ErrorKind::NotFound);
    assert_eq!(kind(engine.schedule("hourly").open()), ErrorKind::NotFound);
    assert!(engine.schedules().unwrap().is_empty());
    disk.advance(2 * DAY);
    assert_eq!(run_due(&engine), 0);
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn what_it_says_of_itself() {
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
    let board = engine.queue("o").ordered_by_key(true).create().unwrap();
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
        ("expire_after", timed.clone().to_stream(&stream, Message::new("x").expire_after(SECOND))),
        ("key", timed.clone().to_queue(&board, Message::new("x").key(vec![0; 2000]))),
    ] {
        assert_eq!(field(builder.create()), wrong);
        assert_eq!(field(builder.create_new()), wrong);
        assert_eq!(field(builder.replace()), wrong);
    }
    assert_eq!(field(engine.schedule("").open()), "name");
    assert_eq!(field(engine.schedule("").delete()), "name");
    assert_eq!(kind(engine.schedule("x").open()), ErrorKind::NotFound);
    assert_eq!(kind(engine.schedule("x").delete()), ErrorKind::NotFound);
    assert_eq!(engine.queues().unwrap(), ["o", "q"], "not even a queue for schedules");
    assert_eq!(kind(given(Message::new(vec![0; 65 << 10])).create()), ErrorKind::TooLarge);
    assert_eq!(engine.queues().unwrap(), ["o", "q"]);
    timed.clone().to_topic(&topic, Message::new("x").expire_after(SECOND)).create().unwrap();
    let board = engine.queue(BOARD).open().unwrap();
    assert_eq!(field(timed.clone().to_queue(&board, "x").replace()), "target");
}

#[test]
fn the_largest_that_is_taken_can_be_run() {
    let disk = SimDisk::new(1);
    disk.set_now(BEGIN);
    // A run is one commit of two messages: that which is sent, and the schedule, which holds it, too.
    let engine = small_options().commit_bytes_max(64 << 10).sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let given = |bytes| {
        let schedule = engine.schedule("large").cron("* * * * *");
        schedule.to_queue(&queue, vec![7; bytes]).replace()
    };
    let mut bytes = 33 << 10;
    while let Err(error) = given(bytes) {
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        bytes -= 1;
    }
    assert!(bytes > 31 << 10);
    disk.advance(MINUTE);
    assert_eq!(run_due(&engine), 1);
}

#[test]
fn a_full_queue_is_told_and_tried_again() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").max_messages(1).create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    queue.send("in the way").unwrap();
    disk.advance(HOUR);
    let told = Arc::new(Mutex::new(Vec::new()));
    let scheduler = engine.scheduler().on_failure({
        let told = Arc::clone(&told);
        move |failure| {
            let name = failure.schedule.clone().unwrap();
            told.lock().unwrap().push((name, failure.attempt, failure.error.kind()));
        }
    });
    for _ in 0..10 {
        // It fails, and then waits: it does not spin.
        assert_eq!(kind(scheduler.run_due()), ErrorKind::QueueFull);
        assert_eq!(scheduler.run_due().unwrap(), 0);
        disk.advance(MINUTE);
    }
    assert_eq!(engine.schedule("hourly").open().unwrap().failed_attempts(), 10);
    let failures = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(failures.len(), 10);
    assert_eq!(failures[9], ("hourly".to_owned(), 10, ErrorKind::QueueFull));
    take(&queue).unwrap().ack().unwrap();
    assert_eq!(scheduler.run_due().unwrap(), 1);
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"]);
    assert_eq!(engine.schedule("hourly").open().unwrap().failed_attempts(), 0);
    // One that makes room by itself is never full.
    let latest = engine.queue("latest").max_messages(1).overflow(Overflow::DropOldest).create();
    let latest = latest.unwrap();
    minutely(&engine, &latest).create().unwrap();
    for _ in 0..3 {
        disk.advance(MINUTE);
        assert_eq!(run_due(&engine), 1);
    }
    assert_eq!(latest.depth().unwrap(), 1);
}

#[test]
fn a_target_that_was_deleted_is_waited_for() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    hourly(&sim.engine, &queue).missed_runs(MissedRuns::RunAll).create().unwrap();
    sim.engine.queue("q").delete().unwrap();
    let others = sim.engine.queue("others").create().unwrap();
    minutely(&sim.engine, &others).create().unwrap();
    sim.disk.advance(HOUR);
    assert_eq!(kind(sim.engine.scheduler().run_due()), ErrorKind::NotFound);
    assert_eq!(others.depth().unwrap(), 1, "others are run all the same");
    drop((queue, others));
    let Sim { disk, engine } = sim.kill();
    disk.advance(HOUR);
    assert_eq!(engine.schedules().unwrap().len(), 2);
    let queue = engine.queue("q").create().unwrap();
    assert_eq!(run_due(&engine), 3);
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z", "2023-11-15T00:00:00Z"]);
}

#[test]
fn a_full_disk_keeps_it_waiting_and_loses_nothing() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let filler = engine.queue("filler").create().unwrap();
    disk.set_capacity(Some(disk.bytes_used()));
    while filler.send(vec![0; 1000]).is_ok() {}
    while filler.send("").is_ok() {}
    disk.advance(HOUR);
    assert_eq!(kind(engine.scheduler().run_due()), ErrorKind::DiskFull);
    assert_eq!(run_due(&engine), 0, "it waits");
    assert_eq!(kind(minutely(&engine, &queue).create()), ErrorKind::DiskFull);
    engine.schedule("hourly").open().unwrap();
    disk.set_capacity(None);
    disk.advance(MINUTE);
    assert_eq!(run_due(&engine), 1);
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"]);
    // An end needs no space that is not there.
    disk.set_capacity(Some(disk.bytes_used()));
    while filler.send(vec![0; 1000]).is_ok() {}
    engine.schedule("hourly").delete().unwrap();
    disk.set_capacity(None);
    disk.advance(DAY);
    assert_eq!(run_due(&engine), 0);
}

#[test]
fn a_clock_that_is_set_back_makes_it_wait_and_runs_nothing_twice() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
    // Two hours back: what was made is not made again.
    disk.set_now(Timestamp(BEGIN.0 + 3_600_000 - 2 * 3_600_000));
    for _ in 0..12 {
        disk.advance(15 * MINUTE);
        run_due(&engine);
    }
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z", "2023-11-15T00:00:00Z"]);
}

#[test]
fn a_clock_that_is_set_forward_is_noticed_with_the_next_run_or_the_next_life() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    hourly(&sim.engine, &queue).create().unwrap();
    drop(queue);
    sim.disk.set_now(Timestamp(BEGIN.0 + 10 * 3_600_000));
    assert_eq!(run_due(&sim.engine), 0, "time goes on evenly");
    sim.disk.advance(47 * MINUTE);
    assert_eq!(run_due(&sim.engine), 1, "one for all that the clock has left out");
    assert_eq!(times(&sim.engine.queue("q").open().unwrap()), ["2023-11-15T09:00:00Z"]);
    // From then on it is right: the next one is due at ten, in this life and in the next.
    sim.disk.advance(59 * MINUTE);
    assert_eq!(run_due(&sim.engine), 0);
    sim.disk.advance(MINUTE);
    assert_eq!(run_due(&sim.engine), 1);
    let sim = reopen(sim);
    sim.disk.advance(59 * MINUTE);
    assert_eq!(run_due(&sim.engine), 0);
    sim.disk.advance(MINUTE);
    assert_eq!(run_due(&sim.engine), 1);
    sim.disk.set_now(Timestamp(BEGIN.0 + 20 * 3_600_000));
    let sim = reopen(sim);
    assert_eq!(run_due(&sim.engine), 1);
    assert_eq!(sim.engine.queue("q").open().unwrap().depth().unwrap(), 4);
}

#[test]
fn what_is_no_schedule_is_told_and_harms_nothing() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let board = engine.queue(BOARD).open().unwrap();
    let copied = board.browse().unwrap().next().unwrap().unwrap();
    let mut cut = copied.payload().to_vec();
    board.send(Message::new(copied.payload())).unwrap();
    for len in [0, 1, 2, 10, cut.len() - 1] {
        board.send(Message::new(cut[..len].to_vec()).key("hourly")).unwrap();
    }
    cut.push(0);
    board.send(Message::new(cut).key("hourly")).unwrap();
    board.send(Message::new(vec![0xFF; 5000]).key(vec![0xFF; 5000])).unwrap();
    board.send(Message::new(vec![2, 1, 2, 3]).key("of a later version")).unwrap();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let scheduler = engine.scheduler().on_failure({
        let kinds = Arc::clone(&kinds);
        move |failure| kinds.lock().unwrap().push(failure.error.kind())
    });
    disk.advance(HOUR);
    assert_eq!(kind(scheduler.run_due()), ErrorKind::InvalidInput { field: "schedule" });
    let kinds = std::mem::take(&mut *kinds.lock().unwrap());
    assert_eq!(kinds.len(), 9);
    let unknown = kinds.iter().filter(|it| **it == ErrorKind::UnsupportedVersion).count();
    assert_eq!(unknown, 1, "{kinds:?}");
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"]);
    assert_eq!(engine.schedules().unwrap().len(), 1);
    assert_eq!(board.depth().unwrap(), 10, "nothing was thrown away");
    assert_eq!(run_due(&engine), 0, "and it does not spin");
}

/// As a salvage may bring them back.
#[test]
fn of_several_with_one_name_the_newest_counts() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    hourly(&sim.engine, &queue).create().unwrap();
    let board = sim.engine.queue(BOARD).open().unwrap();
    let copied = board.browse().unwrap().next().unwrap().unwrap();
    for _ in 0..5 {
        board.send(&copied).unwrap();
    }
    assert_eq!(sim.engine.schedules().unwrap().len(), 1);
    sim.disk.advance(HOUR);
    assert_eq!(run_due(&sim.engine), 1);
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"]);
    assert_eq!(board.depth().unwrap(), 1);
    for _ in 0..5 {
        board.send(&copied).unwrap();
    }
    drop((board, queue));
    let Sim { engine, .. } = sim.kill();
    engine.schedule("hourly").delete().unwrap();
    assert_eq!(engine.queue(BOARD).open().unwrap().depth().unwrap(), 0, "all of them are gone");
}

/// Whoever deletes or replaces a schedule relies on it, also in the moment in which it is run.
#[test]
fn what_ends_while_it_is_run_does_not_come_back() {
    for is_replaced in [false, true] {
        let Sim { disk, engine } = Sim::new();
        let queue = engine.queue("q").create().unwrap();
        hourly(&engine, &queue).create().unwrap();
        let board = engine.queue(BOARD).open().unwrap();
        let (times, replaced) = (Arc::new(AtomicU64::new(0)), queue.clone());
        let watch = board.watch(Threshold::InFlight(1), {
            let (engine, times) = (engine.clone(), Arc::clone(&times));
            move |crossing| {
                if matches!(crossing, Alarm::Raised(_)) && times.fetch_add(1, Ordering::SeqCst) == 0
                {
                    let schedule = engine.schedule("hourly").cron("30 0 * * *");
                    match is_replaced {
                        true => drop(schedule.to_queue(&replaced, "new").replace().unwrap()),
                        false => schedule.delete().unwrap(),
                    }
                }
            }
        });
        disk.advance(HOUR);
        assert_eq!(run_due(&engine), 0);
        assert!(times.load(Ordering::SeqCst) > 0, "it was not on lease");
        drop(watch);
        assert_eq!(board.depth().unwrap(), u64::from(is_replaced));
        disk.advance(30 * DAY);
        assert_eq!(run_due(&engine), u64::from(is_replaced));
        let texts: Vec<_> = queue.browse().unwrap().map(|it| it.unwrap()).collect();
        assert!(texts.iter().all(|it| it.payload() == b"new"));
    }
}

#[test]
fn what_is_removed_from_the_queue_itself_is_gone() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let board = engine.queue(BOARD).open().unwrap();
    assert_eq!(board.purge().unwrap(), 1);
    assert!(engine.schedules().unwrap().is_empty());
    hourly(&engine, &queue).create_new().unwrap();
    engine.queue(BOARD).delete().unwrap();
    assert!(engine.schedules().unwrap().is_empty());
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 0);
    hourly(&engine, &queue).create_new().unwrap();
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
}

#[test]
fn a_queue_of_that_name_with_other_settings_is_refused() {
    let like_it = |engine: &Engine| {
        let backoff = Backoff::exponential(SECOND, MINUTE);
        engine.queue(BOARD).single_active_consumer(true).backoff(backoff)
    };
    let Sim { engine, .. } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    like_it(&engine).create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    for settings in [
        |builder: QueueBuilder| builder.single_active_consumer(false),
        |builder: QueueBuilder| builder.max_attempts(3),
        |builder: QueueBuilder| builder.time_to_live(DAY),
        |builder: QueueBuilder| builder.max_messages(10),
    ] {
        let Sim { engine, .. } = Sim::new();
        let queue = engine.queue("q").create().unwrap();
        settings(like_it(&engine)).create().unwrap();
        assert_eq!(kind(hourly(&engine, &queue).create()), ErrorKind::AlreadyExists);
        assert_eq!(kind(engine.scheduler().start()), ErrorKind::AlreadyExists);
    }
}

#[test]
fn a_damaged_schedule_is_told_and_keeps_others_from_nothing() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let damaged = engine.schedule("damaged").cron("0 * * * *");
    damaged.to_queue(&queue, "x".repeat(2000)).create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let (_, _) = rot_first_record(&disk);
    let engine = small_options().sim(&disk).open("store").unwrap();
    assert_eq!(kind(engine.schedules()), ErrorKind::Corrupt);
    assert_eq!(kind(engine.schedule("x").open()), ErrorKind::Corrupt);
    disk.advance(HOUR);
    let queue = engine.queue("q").open().unwrap();
    for _ in 0..4 {
        let _ = engine.scheduler().run_due();
    }
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"]);
    let report = engine.verify().unwrap();
    assert!(!report.is_ok());
    assert!(report.to_string().contains(BOARD), "{report}");
    engine.close().unwrap();
    drop((queue, engine));
    let salvaged = small_options().sim(&disk).salvage("store", "saved").unwrap();
    assert!(!salvaged.is_complete());
    let engine = small_options().sim(&disk).open("saved").unwrap();
    let names: Vec<_> = engine.schedules().unwrap();
    assert_eq!(names.iter().map(Schedule::name).collect::<Vec<_>>(), ["hourly"]);
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
}

#[test]
fn a_salvaged_store_has_its_schedules() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    minutely(&engine, &queue).create().unwrap();
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 2);
    assert!(engine.verify().unwrap().is_ok());
    let before = engine.schedules().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let report = small_options().sim(&disk).salvage("store", "saved").unwrap();
    assert!(report.is_complete(), "{report}");
    let engine = small_options().sim(&disk).open("saved").unwrap();
    assert_eq!(engine.schedules().unwrap(), before);
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 2);
    assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 4);
}

#[test]
fn a_poisoned_engine_says_so() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    disk.advance(HOUR);
    disk.fail_sync(0, 5);
    assert_eq!(kind(engine.scheduler().run_due()), ErrorKind::Poisoned);
    assert_eq!(kind(hourly(&engine, &queue).create()), ErrorKind::Poisoned);
    drop((queue, engine));
    disk.kill();
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    run_due(&engine);
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"], "once, whatever the sync did");
}

// From here on time is real.

struct Real {
    _dir: tempfile::TempDir,
    engine: Engine,
}

fn real() -> Real {
    let dir = tempfile::tempdir().unwrap();
    let engine = Options::new().open(dir.path().join("store")).unwrap();
    Real { _dir: dir, engine }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

fn block_on<T>(task: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut task = pin!(task);
    loop {
        if let Poll::Ready(value) = task.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

fn secondly(engine: &Engine, queue: &Queue) -> ScheduleBuilder {
    engine.schedule("secondly").cron("* * * * * *").to_queue(queue, "tick")
}

#[test]
fn a_scheduler_runs_what_is_due_and_stops() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    let scheduler = engine.scheduler().start().unwrap();
    // It is there first, and asleep: a schedule that comes later wakes it.
    thread::sleep(Duration::from_millis(100));
    secondly(&engine, &queue).create().unwrap();
    for _ in 0..2 {
        let delivery = queue.receive(20 * SECOND).unwrap().expect("it runs each second");
        let late = Timestamp::now().0 - delivery.timestamp().0;
        assert!(late < 10_000, "{late} ms late");
        delivery.ack().unwrap();
    }
    assert!(scheduler.runs() >= 2);
    assert_eq!(scheduler.failed(), 0);
    assert_eq!(engine.scheduler().run_due().unwrap(), 0, "somebody else is active");
    scheduler.stop().unwrap();
    let depth = queue.depth().unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(queue.depth().unwrap(), depth);
    engine.close().unwrap();
}

#[test]
fn a_scheduler_is_a_task_too() {
    fn sends<T: Send>(task: T) -> T {
        task
    }
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    let failed = Arc::new(AtomicU64::new(0));
    let scheduler = engine.scheduler().on_failure({
        let failed = Arc::clone(&failed);
        move |_| {
            failed.fetch_add(1, Ordering::SeqCst);
        }
    });
    let task = sends(scheduler.run_async());
    let running = thread::spawn(move || block_on(task));
    secondly(&engine, &queue).create().unwrap();
    let gone = engine.queue("gone").create().unwrap();
    engine.schedule("fails").cron("* * * * * *").to_queue(&gone, "x").create().unwrap();
    engine.queue("gone").delete().unwrap();
    for _ in 0..2 {
        queue.receive(20 * SECOND).unwrap().expect("it runs each second").ack().unwrap();
    }
    let begun = Instant::now();
    while failed.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < 20 * SECOND, "its failure was not told");
        thread::sleep(Duration::from_millis(1));
    }
    engine.queue(BOARD).delete().unwrap();
    secondly(&engine, &queue).create().unwrap();
    queue.receive(20 * SECOND).unwrap().expect("it goes on").ack().unwrap();
    engine.close().unwrap();
    running.join().unwrap().unwrap();
}

#[test]
fn one_scheduler_of_many_is_active_and_another_takes_over() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    let mut schedulers: Vec<_> = (0..3).map(|_| engine.scheduler().start().unwrap()).collect();
    secondly(&engine, &queue).create().unwrap();
    while !schedulers.is_empty() {
        let delivery = queue.receive(20 * SECOND).unwrap().expect("one of them is active");
        delivery.ack().unwrap();
        let active: Vec<usize> =
            (0..schedulers.len()).filter(|it| schedulers[*it].runs() > 0).collect();
        if let [one] = active[..] {
            drop(schedulers.swap_remove(one));
        } else {
            assert!(active.is_empty(), "{active:?} are active at once");
        }
    }
}

#[test]
fn a_closed_engine_ends_its_scheduler() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    secondly(&engine, &queue).create().unwrap();
    let scheduler = engine.scheduler().start().unwrap();
    engine.close().unwrap();
    scheduler.stop().unwrap();
    assert_eq!(kind(engine.schedules()), ErrorKind::Closed);
    assert_eq!(kind(engine.scheduler().run_due()), ErrorKind::Closed);
    assert_eq!(kind(engine.scheduler().start()), ErrorKind::Closed);
}

/// One that is asleep, and one that stands by.
#[test]
fn schedulers_with_nothing_to_do_stop_at_once() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    engine.schedule("later").cron("0 0 29 2 *").to_queue(&queue, "x").create().unwrap();
    let schedulers: Vec<_> = (0..2).map(|_| engine.scheduler().start().unwrap()).collect();
    thread::sleep(Duration::from_millis(200));
    let (tell, told) = mpsc::channel();
    let stopping = thread::spawn(move || {
        schedulers.into_iter().rev().for_each(drop);
        tell.send(()).unwrap();
    });
    told.recv_timeout(20 * SECOND).expect("they sleep on");
    stopping.join().unwrap();
}

#[test]
fn a_scheduler_goes_on_when_its_queue_was_deleted() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    let scheduler = engine.scheduler().start().unwrap();
    for _ in 0..2 {
        secondly(&engine, &queue).create_new().unwrap();
        queue.receive(20 * SECOND).unwrap().expect("it runs").ack().unwrap();
        engine.queue(BOARD).delete().unwrap();
        let begun = Instant::now();
        while !engine.queues().unwrap().contains(&BOARD.to_owned()) {
            assert!(begun.elapsed() < 20 * SECOND, "it was not made again");
            thread::sleep(Duration::from_millis(1));
        }
    }
    scheduler.stop().unwrap();
}

#[test]
fn a_function_that_panics_keeps_schedules_from_nothing() {
    let Real { engine, _dir } = real();
    let (queue, gone) = (engine.queue("q").create().unwrap(), engine.queue("gone").create());
    let fails = engine.schedule("fails").cron("* * * * * *");
    fails.to_queue(&gone.unwrap(), "x").create().unwrap();
    engine.queue("gone").delete().unwrap();
    let scheduler = engine.scheduler().on_failure(|failure| panic!("{failure:?}"));
    let scheduler = scheduler.start().unwrap();
    let begun = Instant::now();
    while scheduler.failed() == 0 {
        assert!(begun.elapsed() < 20 * SECOND, "it has not failed");
        thread::sleep(Duration::from_millis(1));
    }
    secondly(&engine, &queue).create().unwrap();
    queue.receive(20 * SECOND).unwrap().expect("it goes on").ack().unwrap();
    scheduler.stop().unwrap();
}

/// A function of the application that is called within may do what it likes.
#[test]
fn a_scheduler_may_be_dropped_by_its_own_function() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    secondly(&engine, &queue).create().unwrap();
    engine.queue("q").delete().unwrap();
    let own = Arc::new(Mutex::new(None));
    let (tell, told) = mpsc::channel();
    let scheduler = engine.scheduler().on_failure({
        let (own, engine) = (Arc::clone(&own), engine.clone());
        move |failure| {
            assert_eq!(failure.error.kind(), ErrorKind::NotFound);
            engine.schedule("secondly").delete().unwrap();
            let queue = engine.queue("r").create().unwrap();
            engine.schedule("x").cron("@daily").to_queue(&queue, "x").replace().unwrap();
            drop(own.lock().unwrap().take());
            tell.send(()).unwrap();
        }
    });
    let mut place = own.lock().unwrap();
    *place = Some(scheduler.start().unwrap());
    drop(place);
    told.recv_timeout(20 * SECOND).unwrap();
    assert_eq!(engine.schedules().unwrap().len(), 1);
}

#[test]
fn of_many_who_create_one_succeeds() {
    let Real { engine, _dir } = real();
    let queue = engine.queue("q").create().unwrap();
    for round in 0..20 {
        let name = format!("round {round}");
        let (won, same) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..4 {
                let (name, engine, queue, won, same) = (&name, &engine, &queue, &won, &same);
                scope.spawn(move || {
                    let schedule = engine.schedule(name).cron("@daily").to_queue(queue, "same");
                    let created = match n % 2 {
                        0 => schedule.create_new(),
                        _ => schedule.create(),
                    };
                    match created {
                        Ok(_) if n % 2 == 0 => won.fetch_add(1, Ordering::SeqCst),
                        Ok(_) => same.fetch_add(1, Ordering::SeqCst),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                            0
                        }
                    };
                });
            }
        });
        assert!(won.into_inner() <= 1);
        assert_eq!(same.into_inner(), 2, "the same again is fine");
    }
    assert_eq!(engine.schedules().unwrap().len(), 20);
    assert_eq!(engine.queue(BOARD).open().unwrap().depth().unwrap(), 20);
}

/// Threads that create, replace and delete one name while it is run all the time: there is never more
/// than one, and none comes back.
#[test]
fn many_threads_and_a_scheduler_on_one_name() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let is_over = AtomicBool::new(false);
    let runs = thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let mut runs = 0;
            while !is_over.load(Ordering::SeqCst) {
                disk.advance(SECOND);
                runs += run_due(&engine);
            }
            runs
        });
        let workers: Vec<_> = (0..3)
            .map(|n| {
                let (engine, queue) = (engine.clone(), queue.clone());
                scope.spawn(move || {
                    for round in 0..60 {
                        let schedule = secondly(&engine, &queue);
                        let schedule = schedule.missed_runs(MissedRuns::RunAll);
                        match (n + round) % 3 {
                            0 => drop(schedule.create().unwrap()),
                            1 => drop(schedule.replace().unwrap()),
                            _ => match schedule.delete() {
                                Ok(()) => {}
                                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
                            },
                        }
                        assert!(engine.schedules().unwrap().len() <= 1);
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|it| it.join().unwrap());
        is_over.store(true, Ordering::SeqCst);
        runner.join().unwrap()
    });
    assert_eq!(queue.depth().unwrap(), runs);
    let board = engine.queue(BOARD).open().unwrap();
    assert!(board.depth().unwrap() <= 1, "{}", board.depth().unwrap());
    let _ = engine.schedule("secondly").delete();
    for _ in 0..5 {
        disk.advance(MINUTE);
        assert_eq!(run_due(&engine), 0, "one has come back");
    }
}
