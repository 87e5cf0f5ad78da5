//! Many threads and schedulers on one name, on a real clock.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use posthouse::{ErrorKind, MissedRuns};

use super::{REGISTRY, run_due, secondly};
use crate::support::{MINUTE, SECOND, Sim, real};

/// The application's callback may do anything.
#[test]
fn a_scheduler_may_be_dropped_by_its_own_function() {
    let (engine, _dir) = real();
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
fn of_many_threads_that_create_one_succeeds() {
    let (engine, _dir) = real();
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
    assert_eq!(engine.queue(REGISTRY).open().unwrap().depth().unwrap(), 20);
}

/// Threads create, replace and delete one name while it is run all the time: there is never more than one
/// schedule, and none comes back.
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
    let registry = engine.queue(REGISTRY).open().unwrap();
    assert!(registry.depth().unwrap() <= 1, "{}", registry.depth().unwrap());
    let _ = engine.schedule("secondly").delete();
    for _ in 0..5 {
        disk.advance(MINUTE);
        assert_eq!(run_due(&engine), 0, "one has come back");
    }
}
