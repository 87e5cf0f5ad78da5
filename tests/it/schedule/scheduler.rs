//! Schedulers that run by themselves, on a real clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{ErrorKind, Timestamp};

use super::{REGISTRY, secondly};
use crate::support::{SECOND, block_on, kind, real};

#[test]
fn a_scheduler_runs_what_is_due_and_stops() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let scheduler = engine.scheduler().start().unwrap();
    // The scheduler is there first, and asleep: a later schedule wakes it.
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
    let (engine, _dir) = real();
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
    engine.queue(REGISTRY).delete().unwrap();
    secondly(&engine, &queue).create().unwrap();
    queue.receive(20 * SECOND).unwrap().expect("it goes on").ack().unwrap();
    engine.close().unwrap();
    running.join().unwrap().unwrap();
}

#[test]
fn one_scheduler_of_many_is_active_and_another_takes_over() {
    let (engine, _dir) = real();
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
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    secondly(&engine, &queue).create().unwrap();
    let scheduler = engine.scheduler().start().unwrap();
    engine.close().unwrap();
    scheduler.stop().unwrap();
    assert_eq!(kind(engine.schedules()), ErrorKind::Closed);
    assert_eq!(kind(engine.scheduler().run_due()), ErrorKind::Closed);
    assert_eq!(kind(engine.scheduler().start()), ErrorKind::Closed);
}

/// One scheduler that is asleep, and one that stands by.
#[test]
fn schedulers_with_nothing_to_do_stop_at_once() {
    let (engine, _dir) = real();
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
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let scheduler = engine.scheduler().start().unwrap();
    for _ in 0..2 {
        secondly(&engine, &queue).create_new().unwrap();
        queue.receive(20 * SECOND).unwrap().expect("it runs").ack().unwrap();
        engine.queue(REGISTRY).delete().unwrap();
        let begun = Instant::now();
        while !engine.queues().unwrap().contains(&REGISTRY.to_owned()) {
            assert!(begun.elapsed() < 20 * SECOND, "it was not made again");
            thread::sleep(Duration::from_millis(1));
        }
    }
    scheduler.stop().unwrap();
}

#[test]
fn a_function_that_panics_keeps_schedules_from_nothing() {
    let (engine, _dir) = real();
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
