//! Findings of a hostile review: syncs that several threads wait for, and wake-ups.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use posthouse::{Delivery, Durability, Engine, ErrorKind, Options, sim::SimDisk};

use crate::model::drain;
use crate::support::{Count, EMFILE, open, poll};

/// `close` lets others in while a checkpoint of another thread goes on in the directory.
#[test]
fn close_waits_for_a_checkpoint_that_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let buffered = || Options::new().durability(Durability::Buffered);
    let engine = buffered().open(&path).unwrap();
    let queue = engine.queue("q").create().unwrap();
    engine.queue("q2").create().unwrap();
    for _ in 0..20 {
        queue.send_batch(std::iter::repeat_n(&[7u8; 100], 1000)).unwrap();
    }
    engine.close().unwrap();
    drop((queue, engine));

    // Small segments make the checkpoint slow. Options may differ from one opening to the next.
    let engine = buffered().segment_bytes(4096).block_bytes(512).open(&path).unwrap();
    let other = engine.clone();
    let checkpoint = thread::spawn(move || other.checkpoint());
    thread::sleep(Duration::from_millis(30));
    engine.close().unwrap();
    // Its thread may not have run since. A checkpoint that goes on takes seconds.
    let closed = Instant::now();
    while !checkpoint.is_finished() && closed.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(1));
    }
    let running = !checkpoint.is_finished();
    // The lock is free: an engine that opens the store now relies on having the directory alone.
    let next = buffered().open(&path).unwrap();
    let q2 = next.queue("q2").open().unwrap();
    q2.durability(Durability::Sync).send_batch(std::iter::repeat_n(&[8u8; 100], 1000)).unwrap();
    next.checkpoint().unwrap();
    let made = checkpoint.join().unwrap();
    next.close().unwrap();
    drop((q2, next, engine));
    eprintln!("running when close had returned: {running}, and then {made:?}");
    let engine = buffered().open(&path).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(engine.queue("q").open().unwrap().depth().unwrap(), 20_000);
    assert_eq!(drain(&engine.queue("q2").open().unwrap()).len(), 1000);
    assert_eq!(drain(&engine.queue("q").open().unwrap()).len(), 20_000);
    assert!(!running, "it was still running");
}

/// A subscription that is opened between a publish and its sync is not woken by that sync.
#[test]
fn a_subscriber_that_comes_before_the_sync_is_woken_by_it() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    engine.topic("t").create().unwrap().subscription("s").create().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk).unwrap();
    let topic = engine.topic("t").open().unwrap();
    let ticket = topic.publish_ticket("a").unwrap();
    let subscription = topic.subscription("s").open().unwrap();
    let (mut received, count) = (subscription.receive_async(), Arc::new(Count::default()));
    assert!(poll(&mut received, &count).is_pending(), "it is not durable yet");
    ticket.wait().unwrap();
    assert_eq!(count.woken(), 1, "it can be received, and the waiting task was not woken");
    assert!(poll(&mut received, &count).is_ready());
}

/// The same with threads: the consumer waits for its whole timeout.
#[test]
fn a_subscriber_that_comes_before_the_sync_is_woken_by_it_with_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let engine = Engine::open(&path).unwrap();
    engine.topic("t").create().unwrap().subscription("s").create().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = Engine::open(&path).unwrap();
    let topic = engine.topic("t").open().unwrap();
    topic.durability(Durability::Buffered).publish("a").unwrap();
    let subscription = topic.subscription("s").open().unwrap();
    let began = Instant::now();
    assert!(subscription.receive(Duration::from_secs(3)).unwrap().is_some());
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
}

/// All threads that wait for a failed sync get its error, and so do all later calls. Nothing hangs.
#[test]
fn a_failed_sync_fails_all_waiting_threads() {
    for (which, sync_time) in (0..20).flat_map(|which| [(which, 0), (which, 100)]) {
        let disk = SimDisk::new(which);
        disk.set_sync_time(Duration::from_millis(sync_time));
        let engine = open(&disk).unwrap();
        let queue = engine.queue("q").create().unwrap();
        disk.fail_sync(which, 5);
        let durable: usize = thread::scope(|scope| {
            let send_until_it_fails = || {
                let mut durable = 0;
                loop {
                    match queue.send("a") {
                        Ok(_) => durable += 1,
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Poisoned);
                            return durable;
                        }
                    }
                }
            };
            let all: Vec<_> = (0..16).map(|_| scope.spawn(send_until_it_fails)).collect();
            all.into_iter().map(|it| it.join().unwrap()).sum()
        });
        disk.power_cut();
        drop((engine, queue));
        let engine = open(&disk).unwrap();
        let there = engine.queue("q").open().unwrap().depth().unwrap();
        assert!(there >= durable as u64, "{durable} were durable, {there} are there");
    }
}

struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

/// A waker that panics harms only itself: other waiters are woken, and the engine goes on.
#[test]
fn a_waker_that_panics_keeps_no_other_asleep() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let topic = engine.topic("t").create().unwrap();
    let subscriptions = ["a", "b"].map(|name| topic.subscription(name).create().unwrap());
    let mut all = subscriptions.each_ref().map(|it| (it.receive_async(), it.receive_async()));
    let count = Arc::new(Count::default());
    let panicking = Waker::from(Arc::new(Panicking));
    for (first, second) in &mut all {
        assert!(Pin::new(first).poll(&mut Context::from_waker(&panicking)).is_pending());
        assert!(poll(second, &count).is_pending());
    }
    topic.publish("a").unwrap();
    assert_eq!(count.woken(), 2);
    for (_, second) in &mut all {
        assert!(poll(second, &count).is_ready());
    }
}

/// A task that was woken and is then dropped passes the wake-up on to the next task.
#[test]
fn a_task_that_is_dropped_passes_its_wake_up_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let [first, second] = [(); 2].map(|()| Arc::new(Count::default()));
    let (mut one, mut other) = (queue.receive_async(), queue.receive_async());
    assert!(poll(&mut one, &first).is_pending());
    assert!(poll(&mut other, &second).is_pending());
    queue.send("a").unwrap();
    assert_eq!((first.woken(), second.woken()), (1, 0));
    drop(one);
    assert_eq!(second.woken(), 1, "the message is there, and the one that waits was not told");
    assert!(poll(&mut other, &second).is_ready());
}

/// A waiter that was woken and then fails to read must not swallow the wake-up.
#[test]
fn a_failed_read_passes_its_wake_up_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let queue = engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
    queue.send_batch(["a", "b", "c"].map(|it| it.repeat(400))).unwrap();
    engine.checkpoint().unwrap();
    let first = queue.try_receive().unwrap().unwrap();
    // The two blocks that were read last are kept: those of these messages take the place of the first message's block.
    let _others = [(); 2].map(|()| queue.try_receive().unwrap().unwrap());
    let (mut one, one_count) = (queue.receive_async(), Arc::new(Count::default()));
    let (mut two, two_count) = (queue.receive_async(), Arc::new(Count::default()));
    assert!(poll(&mut one, &one_count).is_pending());
    assert!(poll(&mut two, &two_count).is_pending());
    first.nack().unwrap();
    assert_eq!((one_count.woken(), two_count.woken()), (1, 0));
    disk.fail_call(disk.calls(), EMFILE, false);
    let Poll::Ready(Err(error)) = poll(&mut one, &one_count) else {
        panic!("the read was to fail")
    };
    assert_eq!(error.kind(), ErrorKind::Io);
    drop(one);
    assert_eq!(two_count.woken(), 1, "the message is there, and no task is woken");
    assert!(poll(&mut two, &two_count).is_ready());
}

/// The drop of a handle or a delivery while its thread unwinds changes the core like any other. Those that wait for it
/// are woken.
#[test]
fn a_standby_takes_over_when_the_active_consumer_panics() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let active = engine.queue("q").single_active_consumer(true).create().unwrap();
    let standby = engine.queue("q").open().unwrap();
    let sender = engine.queue("q").open().unwrap();
    sender.send("1").unwrap();
    active.try_receive().unwrap().unwrap().ack().unwrap();
    assert!(standby.try_receive().unwrap().is_none(), "another one is active");
    sender.send("2").unwrap();
    let mut waiting = Box::pin(standby.receive_async());
    let count = Arc::new(Count::default());
    assert!(poll(&mut waiting, &count).is_pending());
    let died = thread::spawn(move || {
        let _active = active;
        panic!("the active consumer dies");
    });
    died.join().expect_err("it panicked");
    assert!(count.woken() > 0, "the standby sleeps on");
    assert!(matches!(poll(&mut waiting, &count), Poll::Ready(Ok(_))));
}

#[test]
fn a_delivery_that_a_panicking_handler_drops_wakes_a_consumer() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").backoff(posthouse::Backoff::None).create().unwrap();
    queue.send("work").unwrap();
    let delivery = queue.try_receive().unwrap().unwrap();
    let mut waiting = Box::pin(queue.receive_async());
    let count = Arc::new(Count::default());
    assert!(poll(&mut waiting, &count).is_pending());
    let died = thread::spawn(move || {
        let _delivery = delivery;
        panic!("the handler dies");
    });
    died.join().expect_err("it panicked");
    assert!(count.woken() > 0, "the consumer sleeps on");
    assert!(matches!(poll(&mut waiting, &count), Poll::Ready(Ok(_))));
}

/// An application may keep a delivery in a thread-local value. When its thread ends, thread-local values of the engine
/// may be gone already.
#[test]
fn a_delivery_in_a_thread_local_value_wakes_a_consumer_when_its_thread_ends() {
    thread_local!(static KEPT: RefCell<Option<Delivery>> = const { RefCell::new(None) });
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    queue.send("work").unwrap();
    let kept = queue.clone();
    let waiting = thread::spawn(move || {
        // Registered first, so dropped last.
        KEPT.with_borrow_mut(|kept| assert!(kept.is_none()));
        let delivery = kept.try_receive().unwrap().unwrap();
        let mut waiting = Box::pin(kept.receive_async());
        let count = Arc::new(Count::default());
        assert!(poll(&mut waiting, &count).is_pending());
        // This wakes the future, so the thread has run effects before it ends.
        kept.send("more").unwrap();
        let Poll::Ready(Ok(more)) = poll(&mut waiting, &count) else { panic!("it was sent") };
        more.ack().unwrap();
        KEPT.set(Some(delivery));
    });
    waiting.join().unwrap();
    let again = queue.receive(Duration::from_secs(60)).unwrap().expect("it is delivered again");
    assert_eq!((again.payload(), again.attempt()), (&b"work"[..], 2));
}
