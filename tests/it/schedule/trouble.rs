//! Full queues, full disks, damage, and clocks that are set.

use std::sync::{Arc, Mutex};

use posthouse::{ErrorKind, Message, MissedRuns, Overflow, Schedule, Threshold, Timestamp};

use super::{BEGIN, REGISTRY, hourly, minutely, reopen, run_due, times};
use crate::model::{rot_first_record, small_options};
use crate::support::{DAY, EMFILE, HOUR, MINUTE, SECOND, Sim, Task, kind, take};

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
        // The run fails, and then waits: it does not spin.
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
    // A queue that drops its oldest is never full.
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
    // Deleting a schedule needs no space that is missing.
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
    // Two hours back: runs that were made are not made again.
    disk.set_now(Timestamp(BEGIN.0 + 3_600_000 - 2 * 3_600_000));
    for _ in 0..12 {
        disk.advance(15 * MINUTE);
        run_due(&engine);
    }
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z", "2023-11-15T00:00:00Z"]);
}

#[test]
fn a_clock_that_is_set_forward_is_followed_at_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    hourly(&sim.engine, &queue).create().unwrap();
    drop(queue);
    sim.disk.set_now(Timestamp(BEGIN.0 + 10 * 3_600_000));
    assert_eq!(run_due(&sim.engine), 1, "one for all that the clock has left out");
    assert_eq!(times(&sim.engine.queue("q").open().unwrap()), ["2023-11-15T08:00:00Z"]);
    sim.disk.advance(46 * MINUTE);
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

/// The clock of a machine that boots without one is set 40 minutes later: from then on no run is late.
#[test]
fn a_clock_that_is_corrected_makes_no_run_late() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    sim.disk.set_now(Timestamp(BEGIN.0 - 40 * 60_000));
    hourly(&sim.engine, &queue).create().unwrap();
    sim.disk.set_now(BEGIN);
    assert_eq!(run_due(&sim.engine), 1, "that of ten o'clock");
    for hour in 0..3 {
        let first = if hour == 0 { 46 } else { 59 };
        assert_eq!(run_due(&sim.engine), 0);
        sim.disk.advance(first * MINUTE);
        assert_eq!(run_due(&sim.engine), 0);
        sim.disk.advance(MINUTE);
        assert_eq!(run_due(&sim.engine), 1, "hour {hour}");
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
    assert!(report.to_string().contains(REGISTRY), "{report}");
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

/// Without the engine's threads, whoever looks for a schedule does first what is due in time, with all that this calls.
#[test]
fn a_callback_that_comes_due_while_a_schedule_is_looked_for_may_look_for_it_too() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let _watch = {
        let (engine, seen) = (engine.clone(), Arc::clone(&seen));
        let look = move |_| {
            let opened = engine.schedule("hourly").open().unwrap();
            let named = hourly(&engine, &engine.queue("q").open().unwrap()).replace().unwrap();
            seen.lock().unwrap().push((opened.name().to_owned(), named.name().to_owned()));
        };
        queue.watch(Threshold::Ready(1), look).unwrap()
    };
    let schedule = || engine.schedule("hourly");
    let calls: [&dyn Fn() -> posthouse::Result<()>; 3] =
        [&|| schedule().open().map(drop), &|| hourly(&engine, &queue).replace().map(drop), &|| {
            schedule().delete()
        }];
    for call in calls {
        queue.send(Message::new("later").deliver_after(MINUTE)).unwrap();
        disk.advance(MINUTE);
        let before = seen.lock().unwrap().len();
        call().unwrap();
        assert!(seen.lock().unwrap().len() > before, "the callback did not end");
        take(&queue).unwrap().ack().unwrap();
    }
}

/// The task ended with the first error that belongs to no run, and all schedules stopped. The thread goes on.
#[test]
fn a_task_goes_on_after_an_error_that_belongs_to_no_run() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    let damaged = engine.schedule("damaged").cron("0 * * * *");
    damaged.to_queue(&queue, "x".repeat(2000)).create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    drop((queue, engine));
    let _ = rot_first_record(&disk);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").open().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let scheduler = engine.scheduler().on_failure(move |failure| {
        tell.lock().unwrap().push((failure.schedule.clone(), failure.error.kind()));
    });
    let mut task = Task::waiting(scheduler.run_async());
    let mut run = |steps: u32| {
        for _ in 0..steps {
            // A call wakes the task, if its time has come.
            let _ = queue.depth();
            assert!(task.poll().is_none(), "it has ended");
            disk.advance(SECOND);
        }
        std::mem::take(&mut *told.lock().unwrap())
    };
    disk.advance(HOUR);
    assert_eq!(run(9), [(None, ErrorKind::Corrupt)], "told once");
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"], "others run");

    // Now the other one cannot be read for a while.
    engine.checkpoint().unwrap();
    disk.advance(HOUR);
    disk.fail_call(disk.calls(), EMFILE, true);
    let failures = run(3);
    assert!(failures.len() > 1, "it is tried again");
    assert!(failures.iter().all(|it| *it == (None, ErrorKind::Io)), "{failures:?}");
    disk.heal();
    assert_eq!(run(9), []);
    assert_eq!(times(&queue).len(), 2, "it goes on");
    engine.close().unwrap();
    assert!(matches!(task.poll(), Some(Ok(()))), "it ends with the engine");
}
