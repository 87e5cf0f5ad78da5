//! The queue that holds the schedules, and other messages in it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use posthouse::{Alarm, ErrorKind, Message, Threshold};

use super::{REGISTRY, hourly, run_due, times};
use crate::support::{DAY, HOUR, Sim, kind};

#[test]
fn a_message_that_is_no_schedule_is_reported_and_harms_nothing() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let registry = engine.queue(REGISTRY).open().unwrap();
    let copied = registry.browse().unwrap().next().unwrap().unwrap();
    let mut cut = copied.payload().to_vec();
    registry.send(Message::new(copied.payload())).unwrap();
    for len in [0, 1, 2, 10, cut.len() - 1] {
        registry.send(Message::new(cut[..len].to_vec()).key("hourly")).unwrap();
    }
    cut.push(0);
    registry.send(Message::new(cut).key("hourly")).unwrap();
    registry.send(Message::new(vec![0xFF; 5000]).key(vec![0xFF; 5000])).unwrap();
    registry.send(Message::new(vec![2, 1, 2, 3]).key("of a later version")).unwrap();
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
    assert_eq!(registry.depth().unwrap(), 10, "nothing was thrown away");
    assert_eq!(run_due(&engine), 0, "and it does not spin");
}

/// A salvage may bring them back like this.
#[test]
fn of_several_with_one_name_the_newest_counts() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    hourly(&sim.engine, &queue).create().unwrap();
    let registry = sim.engine.queue(REGISTRY).open().unwrap();
    let copied = registry.browse().unwrap().next().unwrap().unwrap();
    for _ in 0..5 {
        registry.send(&copied).unwrap();
    }
    assert_eq!(sim.engine.schedules().unwrap().len(), 1);
    sim.disk.advance(HOUR);
    assert_eq!(run_due(&sim.engine), 1);
    assert_eq!(times(&queue), ["2023-11-14T23:00:00Z"]);
    assert_eq!(registry.depth().unwrap(), 1);
    for _ in 0..5 {
        registry.send(&copied).unwrap();
    }
    drop((registry, queue));
    let Sim { engine, .. } = sim.kill();
    engine.schedule("hourly").delete().unwrap();
    assert_eq!(engine.queue(REGISTRY).open().unwrap().depth().unwrap(), 0, "all of them are gone");
}

/// Deleting or replacing a schedule is reliable, also at the moment in which it is run.
#[test]
fn a_schedule_that_ends_while_it_is_run_does_not_come_back() {
    for is_replaced in [false, true] {
        let Sim { disk, engine } = Sim::new();
        let queue = engine.queue("q").create().unwrap();
        hourly(&engine, &queue).create().unwrap();
        let registry = engine.queue(REGISTRY).open().unwrap();
        let (times, replaced) = (Arc::new(AtomicU64::new(0)), queue.clone());
        let watch = registry.watch(Threshold::InFlight(1), {
            let (engine, times) = (engine.clone(), Arc::clone(&times));
            move |alarm| {
                if matches!(alarm, Alarm::Raised(_)) && times.fetch_add(1, Ordering::SeqCst) == 0 {
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
        assert_eq!(registry.depth().unwrap(), u64::from(is_replaced));
        disk.advance(30 * DAY);
        assert_eq!(run_due(&engine), u64::from(is_replaced));
        let texts: Vec<_> = queue.browse().unwrap().map(|it| it.unwrap()).collect();
        assert!(texts.iter().all(|it| it.payload() == b"new"));
    }
}

#[test]
fn a_schedule_that_is_removed_from_the_queue_is_gone() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    let registry = engine.queue(REGISTRY).open().unwrap();
    assert_eq!(registry.purge().unwrap(), 1);
    assert!(engine.schedules().unwrap().is_empty());
    hourly(&engine, &queue).create_new().unwrap();
    engine.queue(REGISTRY).delete().unwrap();
    assert!(engine.schedules().unwrap().is_empty());
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 0);
    hourly(&engine, &queue).create_new().unwrap();
    disk.advance(HOUR);
    assert_eq!(run_due(&engine), 1);
}

#[test]
fn the_engines_own_names_are_reserved() {
    let Sim { engine, .. } = Sim::new();
    let reserved = ErrorKind::InvalidInput { field: "name" };
    for name in [REGISTRY, "posthouse.", "posthouse.anything"] {
        assert_eq!(kind(engine.queue(name).create()), reserved);
        assert_eq!(kind(engine.queue(name).create_new()), reserved);
        assert_eq!(kind(engine.topic(name).create()), reserved);
        assert_eq!(kind(engine.stream(name).create()), reserved);
        let letters = engine.queue("q").dead_letter_queue(name).create();
        assert_eq!(kind(letters), ErrorKind::InvalidInput { field: "dead_letter_queue" });
    }
    assert!(engine.queues().unwrap().is_empty(), "nothing was created");
    engine.queue("posthouse").create().unwrap();
    let queue = engine.queue("a.posthouse.b").create().unwrap();
    hourly(&engine, &queue).create().unwrap();
    // Once it is there, it can be looked into and deleted.
    assert_eq!(engine.queue(REGISTRY).create().unwrap().depth().unwrap(), 1);
    engine.queue(REGISTRY).delete().unwrap();
}
