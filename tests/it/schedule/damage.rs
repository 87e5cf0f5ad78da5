//! Damaged schedules are set aside at once, each is told once, and the others run.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use posthouse::{Engine, ErrorKind, IoMode, Offset, Options, SchedulerBuilder, sim::SimDisk};

use super::{BEGIN, times};
use crate::support::{HOUR, MINUTE, Task, kind};

const DAMAGED: &[u8] = b"to be damaged";

fn options() -> Options {
    Options::new().io(IoMode::Calls).block_bytes(512)
}

/// Schedules whose time has come, in a segment: `damaged` ones that are due a minute earlier, and `sound` ones.
fn with_damage(damaged: usize, sound: usize) -> (SimDisk, Engine) {
    let disk = SimDisk::new(7);
    disk.set_now(BEGIN);
    let engine = options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    for n in 0..damaged {
        let schedule = engine.schedule(&format!("damaged {n}")).cron("59 22 * * *");
        schedule.to_queue(&queue, DAMAGED.repeat(40)).create().unwrap();
    }
    for n in 0..sound {
        let schedule = engine.schedule(&format!("sound {n}")).cron("0 23 * * *");
        schedule.to_queue(&queue, "x".repeat(500)).create().unwrap();
    }
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    rot_all(&disk);
    let engine = options().sim(&disk).open("store").unwrap();
    disk.advance(HOUR);
    (disk, engine)
}

fn rot_all(disk: &SimDisk) {
    for file in disk.files().iter().filter(|it| it.starts_with(Path::new("store/segments"))) {
        let mut content = disk.content(file).unwrap();
        let wide = DAMAGED.repeat(40);
        let places = content.windows(wide.len()).enumerate().filter(|(_, it)| *it == wide);
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        places.iter().for_each(|place| content[*place] ^= 1);
        disk.plant(file, Some(content));
    }
}

type Told = Arc<Mutex<Vec<(ErrorKind, Option<Offset>)>>>;

/// A scheduler that notes the failures that belong to no schedule.
fn scheduler(engine: &Engine) -> (SchedulerBuilder, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let scheduler = engine.scheduler().on_failure(move |failure| {
        assert_eq!(failure.schedule, None);
        tell.lock().unwrap().push((failure.error.kind(), failure.error.offset()));
    });
    (scheduler, told)
}

/// Each damaged schedule was told, once.
fn check(told: &Told, damaged: usize) {
    let mut told = told.lock().unwrap().clone();
    told.sort_unstable_by_key(|(_, offset)| *offset);
    let expected = (0..damaged as u64).map(|n| (ErrorKind::Corrupt, Some(Offset(n))));
    assert_eq!(told, expected.collect::<Vec<_>>());
}

#[test]
fn a_step_passes_damaged_schedules_and_runs_the_others() {
    let (_disk, engine) = with_damage(20, 5);
    let (scheduler, told) = scheduler(&engine);
    assert_eq!(kind(scheduler.run_due()), ErrorKind::Corrupt);
    assert_eq!(times(&engine.queue("q").open().unwrap()), ["2023-11-14T23:00:00Z"; 5]);
    check(&told, 20);
    assert_eq!(scheduler.run_due().unwrap(), 0);
    check(&told, 20);
}

#[test]
fn a_task_passes_damaged_schedules_without_a_rest() {
    let (_disk, engine) = with_damage(20, 5);
    let (scheduler, told) = scheduler(&engine);
    let mut task = Task::waiting(scheduler.run_async());
    // The clock stands still, so a rest would have no end.
    for _ in 0..200 {
        assert!(task.poll().is_none());
    }
    assert_eq!(times(&engine.queue("q").open().unwrap()), ["2023-11-14T23:00:00Z"; 5]);
    check(&told, 20);
}

#[test]
fn a_step_that_cannot_receive_tells_so() {
    let (disk, engine) = with_damage(0, 1);
    let (scheduler, told) = scheduler(&engine);
    disk.fail_call(disk.calls(), crate::support::EIO, true);
    assert_eq!(kind(scheduler.run_due()), ErrorKind::Io);
    assert_eq!(*told.lock().unwrap(), [(ErrorKind::Io, None)]);
    disk.heal();
    assert_eq!(scheduler.run_due().unwrap(), 1);
}

/// Where each run read all schedules again that are behind a damaged one, twice as many took four times as much.
#[test]
fn a_damaged_schedule_makes_the_runs_of_the_others_no_dearer() {
    let read = |damaged, sound: usize| {
        let (disk, engine) = with_damage(damaged, sound);
        let before = disk.bytes_read();
        let (scheduler, _) = scheduler(&engine);
        let _ = scheduler.run_due();
        assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), sound as u64);
        disk.bytes_read() - before
    };
    for sound in [100, 200] {
        let (without, with) = (read(0, sound), read(1, sound));
        assert!(with < without + without / 4, "{with} bytes were read, {without} without damage");
    }
}

/// It may have any name.
#[test]
fn while_a_schedule_is_damaged_no_other_is_created_or_deleted() {
    let (disk, engine) = with_damage(2, 3);
    let queue = engine.queue("q").open().unwrap();
    let create = || {
        let schedule = engine.schedule("new").cron("@hourly").to_queue(&queue, "x");
        schedule.create().map(drop)
    };
    for _ in 0..2 {
        let _ = engine.scheduler().run_due();
        assert_eq!(kind(create()), ErrorKind::Corrupt);
        assert_eq!(kind(engine.schedule("sound 0").delete()), ErrorKind::Corrupt);
        disk.advance(MINUTE);
    }
    let registry = engine.queue(super::REGISTRY).open().unwrap();
    for offset in 0..2 {
        assert_eq!(kind(create()), ErrorKind::Corrupt);
        assert!(registry.remove(Offset(offset)).unwrap());
    }
    create().unwrap();
    engine.schedule("sound 0").delete().unwrap();
    assert_eq!(engine.schedules().unwrap().len(), 3);
}
