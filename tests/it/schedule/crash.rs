//! Each run is made exactly once, wherever the store crashes.

use posthouse::{Durability, MissedRuns, Schedule, Timestamp, sim::SimDisk};

use super::{BEGIN, REGISTRY, minutely, run_due, times};
use crate::model::small_options;
use crate::support::MINUTE;

/// A short run that creates, runs, replaces and deletes schedules, on a disk that takes a copy of itself at
/// each step. The power is cut in each copy, and then the run goes on there.
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
        // Up to the time at which the original ended.
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
        assert_eq!(engine.queue(REGISTRY).open().unwrap().depth().unwrap(), 2);
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
        let depth = engine.queue(REGISTRY).open().map_or(0, |registry| registry.depth().unwrap());
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
