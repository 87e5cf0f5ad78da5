//! Levels that are crossed are told once.

use std::{
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use posthouse::{Alarm, Engine, Queue, Threshold, ThresholdWatch};

use crate::support::{SECOND, Sim, field, ms, take, texts};

#[test]
fn a_level_that_is_crossed_is_told_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let (tell, told) = channel();
    let watch = queue.watch(Threshold::Depth(3), move |it| tell.send(it).unwrap()).unwrap();
    let heard = || told.try_iter().collect::<Vec<_>>();
    queue.send_batch(["a", "b"]).unwrap();
    assert_eq!(heard(), []);
    queue.send("c").unwrap();
    queue.send("d").unwrap();
    assert_eq!(heard(), [Alarm::Raised(3)]);
    take(&queue).unwrap().ack().unwrap();
    assert_eq!(heard(), []);
    let delivery = take(&queue).unwrap();
    let mut tx = sim.engine.transaction();
    tx.ack(&delivery);
    tx.commit().unwrap();
    assert_eq!(heard(), [Alarm::Cleared(2)]);
    queue.send_batch(["e", "f", "g"]).unwrap();
    assert_eq!(heard(), [Alarm::Raised(5)]);
    queue.purge().unwrap();
    assert_eq!(heard(), [Alarm::Cleared(0)]);

    // What is reached already is told at first; others are not told; a panic is the watcher's own.
    let _panics = queue.watch(Threshold::Depth(1), |_| panic!("a watcher that panics")).unwrap();
    let (tell, in_flight) = channel();
    queue.send("h").unwrap();
    let held = take(&queue).unwrap();
    let watching = queue.watch(Threshold::InFlight(1), move |it| tell.send(it).unwrap()).unwrap();
    assert_eq!(in_flight.try_iter().collect::<Vec<_>>(), [Alarm::Raised(1)]);
    drop(held);
    assert_eq!(in_flight.try_iter().collect::<Vec<_>>(), [Alarm::Cleared(0)]);
    drop(watch);
    queue.send_batch(["i", "j", "k", "l"]).unwrap();
    assert_eq!(heard(), [], "it is not watched any more");
    drop(watching);
}

/// A topic's subscriptions are watched too, and one that watches may use the engine.
#[test]
fn a_watcher_may_use_the_engine() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let slow = topic.subscription("slow").create().unwrap();
    let alerts = sim.engine.queue("alerts").create().unwrap();
    let same = alerts.clone();
    let _watch = slow.watch(Threshold::Ready(2), move |crossing| {
        if let Alarm::Raised(count) = crossing {
            same.send(format!("{count} are waiting")).unwrap();
        }
    });
    topic.publish_batch(["a", "b", "c"]).unwrap();
    assert_eq!(texts(&alerts), ["3 are waiting"]);
}

fn heard(told: &Receiver<Alarm>) -> Vec<Alarm> {
    told.try_iter().collect()
}

fn watch(queue: &Queue, level: Threshold) -> (ThresholdWatch, Receiver<Alarm>) {
    let (tell, told) = channel();
    (queue.watch(level, move |it| tell.send(it).unwrap()).unwrap(), told)
}

#[test]
fn an_age_that_is_reached_and_left_is_told_once() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let (_watch, told) = watch(&queue, Threshold::OldestAge(10 * SECOND));
    queue.send_batch(["a", "b"]).unwrap();
    sim.disk.advance(4 * SECOND);
    queue.send("c").unwrap();
    let look = || _ = queue.stats().unwrap();
    look();
    sim.disk.advance(6 * SECOND - ms(1));
    look();
    assert_eq!(heard(&told), []);
    sim.disk.advance(ms(1));
    look();
    look();
    assert_eq!(heard(&told), [Alarm::Raised(10_000)]);
    // The second is as old as the first.
    take(&queue).unwrap().ack().unwrap();
    sim.disk.advance(SECOND);
    look();
    assert_eq!(heard(&told), []);
    take(&queue).unwrap().ack().unwrap();
    sim.disk.advance(ms(10));
    look();
    assert_eq!(heard(&told), [Alarm::Cleared(7010)]);
    sim.disk.advance(3 * SECOND);
    look();
    assert_eq!(heard(&told), [Alarm::Raised(10_010)]);
    queue.purge().unwrap();
    sim.disk.advance(ms(10));
    look();
    assert_eq!(heard(&told), [Alarm::Cleared(0)]);
    // And the next one that stays.
    queue.send("d").unwrap();
    sim.disk.advance(5 * SECOND);
    look();
    sim.disk.advance(5 * SECOND);
    look();
    assert_eq!(heard(&told), [Alarm::Raised(10_000)]);
}

#[test]
fn ages_that_are_reached_already_are_told_at_once_and_each_watch_has_its_own_level() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send("a").unwrap();
    drop(queue);
    sim = sim.kill();
    sim.disk.advance(60 * SECOND);
    let queue = sim.engine.queue("q").open().unwrap();
    let (low, told_low) = watch(&queue, Threshold::OldestAge(SECOND));
    let (_high, told_high) = watch(&queue, Threshold::OldestAge(90 * SECOND));
    let (_higher, told_higher) = watch(&queue, Threshold::OldestAge(120 * SECOND));
    let (_depth, told_depth) = watch(&queue, Threshold::Depth(2));
    assert_eq!(heard(&told_low), [Alarm::Raised(60_000)]);
    drop(low);
    sim.disk.advance(30 * SECOND);
    queue.stats().unwrap();
    assert_eq!(heard(&told_high), [Alarm::Raised(90_000)]);
    queue.send("b").unwrap();
    assert_eq!(heard(&told_depth), [Alarm::Raised(2)]);
    assert_eq!((heard(&told_low), heard(&told_high)), (vec![], vec![]));
    sim.disk.advance(30 * SECOND);
    queue.stats().unwrap();
    assert_eq!(heard(&told_higher), [Alarm::Raised(120_000)]);
}

/// On a real disk a thread of the engine looks, and nobody has to do anything.
#[test]
fn an_age_is_told_although_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let (_watch, told) = watch(&queue, Threshold::OldestAge(ms(60)));
    let minute = 60 * SECOND;
    for _ in 0..3 {
        queue.send("a").unwrap();
        let Alarm::Raised(age) = told.recv_timeout(minute).unwrap() else {
            panic!("it was not reached")
        };
        assert!(age >= 60, "{age}");
        take(&queue).unwrap().ack().unwrap();
        assert_eq!(told.recv_timeout(minute), Ok(Alarm::Cleared(0)));
    }
    // While they come and go, none of them is old.
    let (_watch, told) = watch(&queue, Threshold::OldestAge(minute));
    thread::scope(|scope| {
        scope.spawn(|| (0..2000).for_each(|_| _ = queue.send_ticket("b").unwrap()));
        for _ in 0..2000 {
            _ = queue.receive(minute).unwrap().unwrap().ack_ticket().unwrap();
        }
    });
    assert_eq!(heard(&told), []);
}

#[test]
fn a_level_of_nothing_is_refused_by_name() {
    let queue = Sim::new().engine.queue("q").create().unwrap();
    let nothing = [
        Threshold::Depth(0),
        Threshold::Ready(0),
        Threshold::Delayed(0),
        Threshold::InFlight(0),
        Threshold::OldestAge(Duration::from_micros(999)),
    ];
    for level in nothing {
        assert_eq!(field(queue.watch(level, |_| {})), "threshold");
    }
    // One that is never reached is no error, and overflows nothing.
    let _watch = queue.watch(Threshold::OldestAge(Duration::MAX), |_| panic!("reached")).unwrap();
    queue.send("a").unwrap();
    queue.stats().unwrap();
}
