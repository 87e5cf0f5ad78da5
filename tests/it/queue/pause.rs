//! Queues and subscriptions that are paused.

use std::{sync::Arc, thread, time::Duration};

use posthouse::{Durability, ErrorKind, Message, Queue};

use crate::support::{Count, Sim, everywhere, kind, poll, take};

/// Receives all that is delivered, and acks it.
fn taken(queue: &Queue) -> usize {
    std::iter::from_fn(|| take(queue)).map(|it| it.ack().unwrap()).count()
}

#[test]
fn a_paused_queue_takes_messages_and_delivers_none() {
    everywhere(|reopen| {
        let engine = reopen();
        let queue = engine.queue("q").create().unwrap();
        queue.send_batch(["a", "b", "c"]).unwrap();
        let held = take(&queue).unwrap();
        assert!(!queue.settings().unwrap().paused);
        queue.pause().unwrap();
        queue.pause().unwrap();
        assert!(queue.settings().unwrap().paused);
        assert!(take(&queue).is_none());
        assert!(queue.receive_batch(10, Duration::ZERO).unwrap().is_empty());
        queue.send("d").unwrap();
        assert_eq!(queue.depth().unwrap(), 4);
        assert_eq!(queue.browse().unwrap().count(), 4);
        // What is in hand is handled.
        held.ack().unwrap();
        drop(held);
        // What exists stays as it is.
        assert!(engine.queue("q").paused(false).create().unwrap().settings().unwrap().paused);
        drop((queue, engine));
        let engine = reopen();
        let queue = engine.queue("q").open().unwrap();
        assert!(take(&queue).is_none(), "it is paused still");
        engine.checkpoint().unwrap();
        drop((queue, engine));
        let engine = reopen();
        let queue = engine.queue("q").open().unwrap();
        assert!(take(&queue).is_none());
        queue.resume().unwrap();
        assert_eq!(taken(&queue), 3);
        assert!(engine.verify().unwrap().is_ok());
    });
}

#[test]
fn consumers_that_wait_are_woken_when_it_goes_on() {
    for durability in [Durability::Sync, Durability::Buffered] {
        let dir = tempfile::tempdir().unwrap();
        let options = posthouse::Options::new().durability(durability);
        let engine = options.open(dir.path().join("store")).unwrap();
        let queue = engine.queue("q").paused(true).create().unwrap();
        queue.send("a").unwrap();
        queue.send("b").unwrap();
        let waits = queue.clone();
        let waiting = thread::spawn(move || waits.receive(Duration::from_secs(60)).unwrap());
        let (mut task, count) = (queue.receive_async(), Arc::new(Count::default()));
        assert!(poll(&mut task, &count).is_pending());
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        queue.resume().unwrap();
        waiting.join().unwrap().expect("it was sent").ack().unwrap();
        assert!(count.woken() > 0);
        assert!(poll(&mut task, &count).is_ready(), "{durability:?}");
    }
}

#[test]
fn every_kind_of_queue_can_be_paused() {
    let sim = Sim::new();
    let engine = &sim.engine;
    let ordered = engine.queue("ordered").ordered_by_key(true).create().unwrap();
    let alone = engine.queue("alone").single_active_consumer(true).create().unwrap();
    let retried = engine.queue("retried").max_attempts(1).create().unwrap();
    for queue in [&ordered, &alone, &retried] {
        queue.send(Message::new("m").key("k")).unwrap();
        queue.pause().unwrap();
        assert!(take(queue).is_none(), "{}", queue.name());
        queue.resume().unwrap();
        assert_eq!(taken(queue), 1, "{}", queue.name());
    }
    let topic = engine.topic("t").create().unwrap();
    let filtered = topic.subscription("s").pattern("a.*").paused(true).create().unwrap();
    let other = topic.subscription("other").create().unwrap();
    topic.publish(Message::new("m").subject("a.b")).unwrap();
    assert!(filtered.try_receive().unwrap().is_none());
    assert!(other.try_receive().unwrap().is_some(), "the other goes on");
    let settings = filtered.settings().unwrap();
    assert_eq!((settings.paused, settings.patterns), (true, vec!["a.*".to_owned()]));
    topic.subscription("s").paused(false).create_or_update().unwrap();
    assert!(filtered.try_receive().unwrap().is_some());
    // Letters are moved also while their queue is paused.
    retried.send("letter").unwrap();
    take(&retried).unwrap().reject("no").unwrap();
    let dead = engine.queue("retried.dead").open().unwrap();
    dead.pause().unwrap();
    assert_eq!(dead.redrive().run().unwrap().moved, 1);
    assert_eq!(taken(&retried), 1);
    engine.queue("retried").delete().unwrap();
    assert_eq!(kind(retried.pause()), ErrorKind::NotFound);
}

/// A pause of the engine's own queues would stop all schedules.
#[cfg(feature = "cron")]
#[test]
fn the_queues_of_the_engine_are_not_paused() {
    let sim = Sim::new();
    let queue = sim.engine.queue("q").create().unwrap();
    let schedule = sim.engine.schedule("s").cron("0 3 * * *");
    schedule.to_queue(&queue, Message::new("m")).create().unwrap();
    for name in sim.engine.queues().unwrap().iter().filter(|it| it.starts_with("posthouse.")) {
        let own = sim.engine.queue(name).open().unwrap();
        assert_eq!(crate::support::field(own.pause()), "name");
        own.resume().unwrap();
    }
}

/// A worker, and messages that come due meanwhile.
#[test]
fn nothing_is_handled_while_a_queue_is_paused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = posthouse::Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let handled = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let worker = queue.worker().start(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok::<(), String>(())
    });
    let worker = worker.unwrap();
    queue.pause().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    queue.send(Message::new("later").deliver_after(Duration::from_millis(5))).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(handled.load(std::sync::atomic::Ordering::SeqCst), 0);
    queue.resume().unwrap();
    while handled.load(std::sync::atomic::Ordering::SeqCst) < 3 {
        thread::sleep(Duration::from_millis(1));
    }
    worker.stop().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}
