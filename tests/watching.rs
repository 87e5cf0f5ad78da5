//! What users are told of watching: stats, rates, latencies, and levels that are crossed.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

mod model;
mod sim;

use std::{
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use posthouse::{Alarm, Engine, Latency, Message, Queue, Threshold, ThresholdWatch, Timestamp};
use sim::{SECOND, Sim, field, take, texts};

#[test]
fn stats_tell_what_is_where_and_what_has_happened() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(2).create().unwrap();
    queue.send_batch((0..10).map(|n| n.to_string())).unwrap();
    queue.send(Message::new("later").deliver_after(SECOND)).unwrap();
    let held = queue.receive_batch(3, Duration::ZERO).unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.ready, stats.delayed, stats.in_flight), (11, 7, 1, 3));
    assert_eq!((stats.delivered, stats.redelivered, stats.acked), (3, 0, 0));
    held[0].ack().unwrap();
    held[1].nack().unwrap();
    drop(held);
    for _ in 0..2 {
        // Those two again: now they die.
        let delivery = loop {
            let delivery = take(&queue).unwrap();
            if delivery.attempt() == 2 {
                break delivery;
            }
            delivery.ack().unwrap();
        };
        delivery.nack().unwrap();
    }
    let stats = queue.stats().unwrap();
    assert_eq!((stats.redelivered, stats.failed, stats.dead), (2, 4, 2));
    assert_eq!(stats.acked + stats.dead + stats.depth, 11);
    assert_eq!(stats.delivered, stats.acked + 4);
    sim.disk.advance(SECOND);
    assert_eq!(queue.stats().unwrap().delayed, 0);
}

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

// Rates and ages.

#[test]
fn rates_are_what_has_happened_in_a_second_between_two_stats() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").max_attempts(2).create().unwrap();
    queue.send("before").unwrap();
    let before = queue.stats().unwrap();
    assert_eq!((before.sent, before.rates_since(&before)), (1, posthouse::Rates::default()));
    queue.send_batch((0..19).map(|n| n.to_string())).unwrap();
    for _ in 0..5 {
        take(&queue).unwrap().ack().unwrap();
    }
    take(&queue).unwrap().nack().unwrap();
    take(&queue).unwrap().reject("no").unwrap();
    sim.disk.advance(10 * SECOND);
    take(&queue).unwrap();
    let after = queue.stats().unwrap();
    let rates = after.rates_since(&before);
    assert_eq!((rates.sent, rates.delivered, rates.redelivered, rates.acked), (1.9, 0.8, 0.1, 0.5));
    assert_eq!((rates.failed, rates.dead), (0.3, 0.1));
    assert_eq!(after.uptime - before.uptime, 10 * SECOND);
    assert_eq!(before.rates_since(&after), posthouse::Rates::default(), "the wrong way round");
    // What is moved here counts as well.
    let dead = sim.engine.queue("q.dead").open().unwrap();
    assert_eq!(dead.stats().unwrap().sent, 0, "nobody had opened it then");
    take(&queue).unwrap().reject("no").unwrap();
    assert_eq!(dead.stats().unwrap().sent, 1);
    dead.redrive().run().unwrap();
    assert_eq!(queue.stats().unwrap().sent, 22);
}

#[test]
fn stats_tell_the_age_of_the_oldest_message_that_is_not_acked() {
    let mut sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let age = |queue: &Queue| {
        let age = queue.stats().unwrap().oldest_age;
        assert_eq!(queue.oldest_age().unwrap(), age);
        age
    };
    assert_eq!(age(&queue), None);
    queue.send("a").unwrap();
    sim.disk.advance(3 * SECOND);
    queue.send("b").unwrap();
    sim.disk.advance(2 * SECOND);
    assert_eq!(age(&queue), Some(5 * SECOND));
    let delivery = take(&queue).unwrap();
    assert_eq!(age(&queue), Some(5 * SECOND), "it is not acked");
    delivery.ack().unwrap();
    assert_eq!(age(&queue), Some(2 * SECOND));
    drop((queue, delivery));
    sim = sim.kill();
    sim.disk.advance(SECOND);
    let queue = sim.engine.queue("q").open().unwrap();
    assert_eq!(age(&queue), Some(3 * SECOND), "ages go on in the next life");
    queue.purge().unwrap();
    assert_eq!(age(&queue), None);
}

#[test]
fn stats_are_there_although_the_oldest_message_is_damaged() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(vec![b'x'; 300]).unwrap();
    sim.engine.checkpoint().unwrap();
    let segments = sim.disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    for path in segments.collect::<Vec<_>>() {
        let mut content = sim.disk.content(&path).unwrap();
        let at = content.windows(8).position(|it| it == b"xxxxxxxx").unwrap();
        content[at] ^= 1;
        sim.disk.plant(&path, Some(content));
    }
    let error = queue.oldest_age().unwrap_err();
    assert_eq!(error.kind(), posthouse::ErrorKind::Corrupt);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.oldest_age), (1, None));
}

// Latencies.

fn counted(latency: &Latency) -> Vec<(u64, u64)> {
    latency.buckets().map(|(time, count)| (time.as_millis() as u64, count)).collect()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn latencies_count_how_long_messages_have_waited_and_were_handled() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    assert_eq!(queue.latencies().unwrap(), posthouse::Latencies::default());
    queue.send_batch(["a", "b", "c", "d"]).unwrap();
    sim.disk.advance(ms(7));
    let a = take(&queue).unwrap();
    sim.disk.advance(ms(3));
    let rest = queue.receive_batch(2, Duration::ZERO).unwrap();
    a.ack().unwrap();
    let latencies = queue.latencies().unwrap();
    assert_eq!(counted(&latencies.waiting), [(7, 1), (10, 2)]);
    assert_eq!(counted(&latencies.handling), [(3, 1)]);
    sim.disk.advance(ms(2));
    let mut tx = sim.engine.transaction();
    tx.ack(&rest[0]);
    tx.commit().unwrap();
    queue.ack_batch([&rest[1]]).unwrap();
    let later = queue.latencies().unwrap();
    assert_eq!(counted(&later.handling), [(2, 2), (3, 1)]);
    assert_eq!(counted(&later.since(&latencies).handling), [(2, 2)]);
    assert_eq!(later.since(&latencies).waiting.count(), 0);
    assert_eq!((later.waiting.quantile(0.5), later.waiting.mean()), (Some(ms(10)), Some(ms(9))));
    // All handles of a queue tell the same.
    assert_eq!(sim.engine.queue("q").open().unwrap().latencies().unwrap(), later);
}

#[test]
fn only_first_deliveries_have_waited_and_only_acked_ones_were_handled() {
    let sim = Sim::new();
    let topic = sim.engine.topic("t").create().unwrap();
    let subscription = topic.subscription("s").max_attempts(9).create().unwrap();
    topic.publish("a").unwrap();
    for _ in 0..3 {
        sim.disk.advance(ms(5));
        subscription.try_receive().unwrap().unwrap().nack().unwrap();
    }
    sim.disk.advance(ms(5));
    drop(subscription.try_receive().unwrap().unwrap());
    let latencies = subscription.latencies().unwrap();
    assert_eq!(counted(&latencies.waiting), [(5, 1)]);
    assert_eq!(latencies.handling.count(), 0);
    let last = subscription.try_receive().unwrap().unwrap();
    sim.disk.advance(ms(1));
    last.ack().unwrap();
    let latencies = subscription.latencies().unwrap();
    assert_eq!((latencies.waiting.count(), counted(&latencies.handling)), (1, vec![(1, 1)]));
}

#[test]
fn a_delayed_message_has_waited_since_it_was_due() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    queue.send(Message::new("a").deliver_after(60 * SECOND)).unwrap();
    sim.engine.checkpoint().unwrap();
    sim.disk.advance(60 * SECOND + ms(9));
    take(&queue).unwrap().ack().unwrap();
    // One whose timestamp lies ahead has not waited at all.
    queue.send(Message::new("b").timestamp(Timestamp(u64::MAX))).unwrap();
    take(&queue).unwrap().ack().unwrap();
    assert_eq!(counted(&queue.latencies().unwrap().waiting), [(0, 1), (9, 1)]);
}

#[test]
fn a_queue_that_was_deleted_has_no_latencies() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    sim.engine.queue("q").delete().unwrap();
    assert_eq!(queue.latencies().unwrap_err().kind(), posthouse::ErrorKind::NotFound);
}

// Levels of age.

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
