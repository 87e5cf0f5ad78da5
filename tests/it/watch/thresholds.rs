//! Thresholds: reaching one raises its alarm once, and leaving it clears the alarm once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use posthouse::{Alarm, Engine, Queue, Threshold, ThresholdWatch};

use crate::support::{SECOND, Sim, field, ms, take, texts};

#[test]
fn a_threshold_raises_and_clears_its_alarm_once() {
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

    // A threshold that is reached already raises its alarm at first. Others raise none. A callback that
    // panics harms no other.
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

/// A subscription can be watched too, and a callback may use the engine.
#[test]
fn a_callback_may_use_the_engine() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let slow = topic.subscription("slow").create().unwrap();
    let alerts = sim.engine.queue("alerts").create().unwrap();
    let same = alerts.clone();
    let _watch = slow.watch(Threshold::Ready(2), move |alarm| {
        if let Alarm::Raised(count) = alarm {
            same.send(format!("{count} are waiting")).unwrap();
        }
    });
    topic.publish_batch(["a", "b", "c"]).unwrap();
    assert_eq!(texts(&alerts), ["3 are waiting"]);
}

fn heard(told: &Receiver<Alarm>) -> Vec<Alarm> {
    told.try_iter().collect()
}

fn watch(queue: &Queue, threshold: Threshold) -> (ThresholdWatch, Receiver<Alarm>) {
    let (tell, told) = channel();
    (queue.watch(threshold, move |it| tell.send(it).unwrap()).unwrap(), told)
}

#[test]
fn an_age_raises_and_clears_its_alarm_once() {
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
    // The second message is as old as the first.
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
    // And the next message that stays.
    queue.send("d").unwrap();
    sim.disk.advance(5 * SECOND);
    look();
    sim.disk.advance(5 * SECOND);
    look();
    assert_eq!(heard(&told), [Alarm::Raised(10_000)]);
}

#[test]
fn an_age_that_is_reached_already_raises_at_once_and_each_watch_has_its_own_threshold() {
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

/// On a real disk a thread of the engine checks the age; the application does nothing.
#[test]
fn an_age_raises_its_alarm_although_nothing_happens() {
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
    // While messages come and go, none of them is old.
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
fn a_threshold_of_zero_is_refused_by_name() {
    let queue = Sim::new().engine.queue("q").create().unwrap();
    let nothing = [
        Threshold::Depth(0),
        Threshold::Ready(0),
        Threshold::Delayed(0),
        Threshold::InFlight(0),
        Threshold::OldestAge(Duration::from_micros(999)),
    ];
    for threshold in nothing {
        assert_eq!(field(queue.watch(threshold, |_| {})), "threshold");
    }
    // A threshold that is never reached is no error, and overflows nothing.
    let _watch = queue.watch(Threshold::OldestAge(Duration::MAX), |_| panic!("reached")).unwrap();
    queue.send("a").unwrap();
    queue.stats().unwrap();
}

/// The messages of a batch were told to thresholds later than its acks: builds with debug assertions took that for a change
/// that nothing had told.
#[test]
fn a_batch_crosses_thresholds_as_single_messages_do() {
    let Sim { disk: _disk, engine } = Sim::new();
    let [a, b] = ["a", "b"].map(|name| engine.queue(name).create().unwrap());
    let raised = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&raised);
    let _watches = (
        a.watch(Threshold::Depth(9), |_| {}).unwrap(),
        b.watch(Threshold::Depth(64), move |_| _ = count.fetch_add(1, Ordering::Relaxed)).unwrap(),
    );
    a.send("m").unwrap();
    let delivery = a.try_receive().unwrap().unwrap();
    let mut tx = engine.transaction();
    tx.ack(&delivery);
    (0..64).for_each(|n| _ = tx.send(&b, n.to_string()));
    tx.commit().unwrap();
    assert_eq!(raised.load(Ordering::Relaxed), 1);
    b.send_batch((0..64).map(|n| n.to_string())).unwrap();
    assert_eq!(b.depth().unwrap(), 128);
}
