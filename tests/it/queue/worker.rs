//! The documented behaviour of workers.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{ErrorKind, Queue};

use crate::support::{block_on, real};

/// Fails, instead of hanging, if the function takes far too long.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn numbers(queue: &Queue) -> BTreeSet<String> {
    let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
    queue.browse().unwrap().map(|it| text(it.unwrap().payload())).collect()
}

#[test]
fn each_message_is_handled_once_and_acked() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let same = Arc::clone(&seen);
    let worker = queue.worker().concurrency(4).start(move |delivery| {
        let text = String::from_utf8(delivery.payload().to_vec()).unwrap();
        same.lock().unwrap().push(text);
        Ok::<(), String>(())
    });
    let worker = worker.unwrap();
    queue.send_batch((0..1000).map(|n| n.to_string())).unwrap();
    until("it is not done", || queue.depth().unwrap() == 0);
    assert_eq!((worker.handled(), worker.failed()), (1000, 0));
    worker.stop().unwrap();
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
}

#[test]
fn errors_and_panics_lead_to_the_dead_letters() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").max_attempts(2).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    let worker = queue.worker().concurrency(2).start(|delivery| match delivery.payload() {
        b"panics" => panic!("on purpose"),
        b"fails" => Err("no money".to_owned()),
        _ => Ok(()),
    });
    let worker = worker.unwrap();
    queue.send_batch(["fine", "fails", "panics", "fine too"]).unwrap();
    until("not all died", || dead.depth().unwrap() == 2 && queue.depth().unwrap() == 0);
    assert_eq!((worker.handled(), worker.failed()), (2, 4));
    drop(worker);
    let letters = dead.browse().unwrap().map(|it| it.unwrap().dead_letter().unwrap().unwrap());
    let reasons: BTreeSet<String> = letters.map(|it| it.reason).collect();
    let expected = ["no money", "the handler panicked: on purpose"].map(str::to_owned);
    assert_eq!(reasons, expected.into());
}

#[test]
fn a_slow_handler_keeps_its_lease() {
    let (engine, _dir) = real();
    let lease = Duration::from_millis(40);
    let queue = engine.queue("q").lease(lease).create().unwrap();
    let runs = Arc::new(AtomicU64::new(0));
    let same = Arc::clone(&runs);
    let worker = queue.worker().concurrency(2).start(move |_| {
        same.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(400));
        Ok::<(), String>(())
    });
    let worker = worker.unwrap();
    queue.send("slow").unwrap();
    until("it is not done", || queue.depth().unwrap() == 0);
    worker.stop().unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1, "it was delivered again meanwhile");
}

#[test]
fn the_handling_time_has_an_end() {
    let (engine, _dir) = real();
    let lease = Duration::from_millis(30);
    let queue = engine.queue("q").lease(lease).create().unwrap();
    let release = Arc::new(AtomicBool::new(false));
    let runs = Arc::new(AtomicU64::new(0));
    let (go, ran) = (Arc::clone(&release), Arc::clone(&runs));
    let worker = queue.worker().concurrency(2).max_handling_time(Duration::from_millis(100));
    let worker = worker.start(move |_| {
        // The first run hangs; the second one shows that the message was delivered again.
        if ran.fetch_add(1, Ordering::SeqCst) == 0 {
            until("it was never delivered again", || go.load(Ordering::SeqCst));
        }
        Ok::<(), String>(())
    });
    let worker = worker.unwrap();
    queue.send("hangs").unwrap();
    until("it is not delivered again", || runs.load(Ordering::SeqCst) == 2);
    release.store(true, Ordering::SeqCst);
    worker.stop().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn stopping_finishes_what_is_under_way_and_takes_no_more() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let (began, has_begun) = mpsc::channel();
    let worker = queue.worker().start(move |_| {
        began.send(()).unwrap();
        thread::sleep(Duration::from_millis(100));
        Ok::<(), String>(())
    });
    let worker = worker.unwrap();
    queue.send("under way").unwrap();
    has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
    queue.send("behind").unwrap();
    worker.stop().unwrap();
    assert_eq!(numbers(&queue), ["behind".to_owned()].into());
    assert_eq!(queue.in_flight().unwrap(), 0);
}

#[test]
fn idle_workers_stop_at_once_and_end_with_the_engine() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    for _ in 0..50 {
        let worker = queue.worker().concurrency(3).start(|_| Ok::<(), String>(())).unwrap();
        worker.stop().unwrap();
    }
    let worker = queue.worker().concurrency(3).start(|_| Ok::<(), String>(())).unwrap();
    engine.close().unwrap();
    worker.stop().unwrap();

    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    engine.queue("q").delete().unwrap();
    // A worker that is stopped before it has received has no error.
    until("a worker does not say that its queue is gone", || {
        let worker = queue.worker().start(|_| Ok::<(), String>(())).unwrap();
        thread::sleep(Duration::from_millis(1));
        worker.stop().is_err_and(|error| error.kind() == ErrorKind::NotFound)
    });
}

#[test]
fn a_handler_may_settle_in_a_transaction() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let done = engine.queue("done").create().unwrap();
    let (same, target) = (engine.clone(), done.clone());
    let worker = queue.worker().concurrency(2).start(move |delivery| {
        let mut tx = same.transaction();
        tx.ack(delivery).send(&target, delivery);
        tx.commit().map(drop)
    });
    let worker = worker.unwrap();
    queue.send_batch((0..100).map(|n| n.to_string())).unwrap();
    until("it is not done", || done.depth().unwrap() == 100);
    worker.stop().unwrap();
    assert_eq!((queue.depth().unwrap(), numbers(&done).len()), (0, 100));
}

#[test]
fn bad_settings_are_refused_by_name() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let fine = |_: &posthouse::Delivery| Ok::<(), String>(());
    let day = Duration::from_secs(24 * 3600);
    for (worker, field) in [
        (queue.worker().concurrency(0), "concurrency"),
        (queue.worker().concurrency(4097), "concurrency"),
        (queue.worker().concurrency(usize::MAX), "concurrency"),
        (queue.worker().max_handling_time(Duration::ZERO), "max_handling_time"),
        (queue.worker().max_handling_time(Duration::from_micros(999)), "max_handling_time"),
        (queue.worker().max_handling_time(2 * day), "max_handling_time"),
    ] {
        let in_task = block_on(worker.clone().run_async(async |_| Ok::<(), String>(())));
        assert_eq!(in_task.unwrap_err().kind(), ErrorKind::InvalidInput { field });
        assert_eq!(worker.start(fine).unwrap_err().kind(), ErrorKind::InvalidInput { field });
    }
    queue.send("a").unwrap();
    let delivery = queue.try_receive().unwrap().unwrap();
    let error = delivery.hold(2 * day).unwrap_err().kind();
    assert_eq!(error, ErrorKind::InvalidInput { field: "most" });
    delivery.ack().unwrap();
    assert_eq!(delivery.hold(day).unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[test]
fn tasks_can_work_too() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").max_attempts(2).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send_batch((0..100).map(|n| n.to_string())).unwrap();
    let task = queue.worker().run_async(async |delivery: posthouse::Delivery| {
        let n: u64 = std::str::from_utf8(delivery.payload()).unwrap().parse().unwrap();
        assert!(!n.is_multiple_of(25), "25 divides {n}");
        if n.is_multiple_of(10) { Err("10 divides it") } else { Ok(()) }
    });
    // Runtimes with threads need that.
    fn sends<T: Send>(task: T) -> T {
        task
    }
    let task = sends(task);
    let working = thread::spawn(move || block_on(task));
    until("it is not done", || queue.depth().unwrap() == 0);
    engine.sync().unwrap();
    let reasons: Vec<String> = dead
        .browse()
        .unwrap()
        .map(|it| it.unwrap().dead_letter().unwrap().unwrap().reason)
        .collect();
    let panicked = reasons.iter().filter(|it| it.contains("panicked: 25 divides")).count();
    assert_eq!((reasons.len(), panicked), (12, 4));
    engine.close().unwrap();
    working.join().unwrap().unwrap();
}

#[test]
fn a_handler_may_stop_its_own_worker() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let slot: Arc<Mutex<Option<posthouse::Worker>>> = Arc::default();
    let (tell, told) = mpsc::channel();
    let own = Arc::clone(&slot);
    let mut filled = slot.lock().unwrap();
    let worker = queue.worker().concurrency(2).start(move |_| {
        let worker = own.lock().unwrap().take();
        tell.send(worker.map(posthouse::Worker::stop).is_some_and(|it| it.is_ok())).unwrap();
        Ok::<(), posthouse::Error>(())
    });
    *filled = Some(worker.unwrap());
    drop(filled);
    queue.send("stop").unwrap();
    assert!(
        told.recv_timeout(Duration::from_secs(60)).unwrap(),
        "it was stopped, without an error"
    );
    until("it is acked", || queue.depth().unwrap() == 0);
}

#[test]
fn a_batch_is_acked_as_one() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    queue.send_batch((0..20).map(|n| n.to_string())).unwrap();
    let all = queue.receive_batch(10, Duration::ZERO).unwrap();
    queue.ack_batch(&all).unwrap();
    assert_eq!(queue.depth().unwrap(), 10);
    let rest = queue.receive_batch(10, Duration::ZERO).unwrap();
    rest[3].ack().unwrap();
    assert_eq!(queue.ack_batch(&rest).unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(queue.depth().unwrap(), 9, "none of the others");
    queue.ack_batch([]).unwrap();
}

#[cfg(feature = "stream")]
#[test]
fn deliveries_are_a_stream() {
    use futures_core::Stream;
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let mut deliveries = queue.deliveries();
    let other = queue.clone();
    let sending = thread::spawn(move || (0..100).for_each(|n| drop(other.send(n.to_string()))));
    let mut next = || {
        let pinned = &mut deliveries;
        block_on(std::future::poll_fn(|context| {
            std::pin::Pin::new(&mut *pinned).poll_next(context)
        }))
    };
    for n in 0..100 {
        let delivery = next().unwrap().unwrap();
        assert_eq!(delivery.payload(), n.to_string().as_bytes());
        delivery.ack().unwrap();
    }
    sending.join().unwrap();
    engine.close().unwrap();
    assert!(next().is_none());
    assert!(next().is_none());
}
