//! Workers that are told to stop, and workers in tasks: one policy.

use std::{
    cell::Cell,
    fmt,
    future::{self, Future},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use posthouse::{Delivery, Durability, Engine, ErrorKind, Queue, Result};

use super::worker::until;
use crate::support::{MINUTE, SECOND, block_on, ms, real};

/// A switch that a future waits for.
#[derive(Clone, Default)]
struct Switch(Arc<(AtomicBool, Mutex<Vec<Waker>>)>);

impl Switch {
    fn turn(&self) {
        self.0.0.store(true, Ordering::SeqCst);
        self.0.1.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    fn turned(&self) -> impl Future<Output = ()> + Send + use<> {
        let own = self.clone();
        future::poll_fn(move |context| {
            own.0.1.lock().unwrap().push(context.waker().clone());
            if own.0.0.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

/// What a runtime with threads does with a task.
fn spawn(
    task: impl Future<Output = Result<()>> + Send + 'static,
) -> thread::JoinHandle<Result<()>> {
    thread::spawn(move || block_on(task))
}

fn open(engine: &Engine) -> Queue {
    engine.queue("q").max_attempts(3).create().unwrap()
}

fn send(queue: &Queue, count: usize) {
    queue.send_batch((0..count).map(|n| n.to_string())).unwrap();
}

async fn handle(_delivery: Delivery) -> std::result::Result<(), String> {
    Ok(())
}

#[test]
fn each_form_of_a_handler_is_accepted_also_by_a_spawn() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    let client = Arc::new(AtomicU64::new(0));
    let stop = Switch::default();
    let mut tasks = Vec::new();
    // A closure that returns an async block, with its captures cloned.
    let own = Arc::clone(&client);
    tasks.push(spawn(queue.worker().run_until(stop.turned(), move |delivery| {
        let client = Arc::clone(&own);
        async move {
            client.fetch_add(delivery.payload().len() as u64, Ordering::SeqCst);
            Ok::<(), String>(())
        }
    })));
    // A closure without captures.
    let plain = move |delivery: Delivery| async move {
        let _ = delivery.payload();
        Ok::<(), std::io::Error>(())
    };
    tasks.push(spawn(queue.worker().run_until(stop.turned(), plain)));
    // A function, and an async closure.
    tasks.push(spawn(queue.worker().run_until(stop.turned(), handle)));
    let closure = async |delivery: Delivery| handle(delivery).await;
    tasks.push(spawn(queue.worker().run_until(stop.turned(), closure)));
    // Inside of an async block.
    let (same, stopped) = (queue.clone(), stop.turned());
    tasks.push(spawn(async move {
        same.worker()
            .run_until(stopped, move |delivery| async move { handle(delivery).await })
            .await
    }));
    send(&queue, 200);
    until("they are not handled", || queue.depth().unwrap() == 0);
    stop.turn();
    tasks.into_iter().for_each(|task| task.join().unwrap().unwrap());
}

#[test]
fn a_task_that_is_told_to_stop_finishes_what_is_under_way_and_takes_no_more() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    send(&queue, 1);
    let (stop, go) = (Switch::default(), Switch::default());
    let (began, has_begun) = mpsc::channel();
    let gate = go.clone();
    let task = queue.worker().run_until(stop.turned(), move |_delivery| {
        began.send(()).unwrap();
        let gate = gate.turned();
        async move {
            gate.await;
            Ok::<(), String>(())
        }
    });
    let task = spawn(task);
    has_begun.recv_timeout(MINUTE).unwrap();
    stop.turn();
    send(&queue, 1);
    go.turn();
    task.join().unwrap().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.acked, stats.depth, stats.ready), (1, 1, 1));
}

#[test]
fn a_task_handles_as_many_messages_side_by_side_as_it_is_told() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    send(&queue, 20);
    let stop = Switch::default();
    let (at_once, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (now, peak) = (Arc::clone(&at_once), Arc::clone(&most));
    let gate = Switch::default();
    let closed = gate.clone();
    let task = queue.worker().concurrency(7).run_until(stop.turned(), move |_delivery| {
        let (now, peak, closed) = (Arc::clone(&now), Arc::clone(&peak), closed.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if peak.load(Ordering::SeqCst) < 7 {
                // The seventh wakes them.
                future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if peak.load(Ordering::SeqCst) < 7 { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
            }
            closed.turned().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<(), String>(())
        }
    });
    let task = spawn(task);
    until("they do not work side by side", || most.load(Ordering::SeqCst) == 7);
    assert_eq!(queue.in_flight().unwrap(), 7);
    gate.turn();
    until("they do not end", || queue.depth().unwrap() == 0);
    stop.turn();
    task.join().unwrap().unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 7);
}

#[test]
fn a_task_that_is_cancelled_or_whose_grace_is_over_burns_no_attempt() {
    for is_cancelled in [true, false] {
        let (engine, _dir) = real();
        let queue = open(&engine);
        send(&queue, 3);
        let stop = Switch::default();
        let hangs = |_delivery: Delivery| future::pending::<std::result::Result<(), String>>();
        let worker = queue.worker().concurrency(3).grace(ms(20));
        let mut task = Box::pin(worker.run_until(stop.turned(), hangs));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(queue.in_flight().unwrap(), 3);
        if is_cancelled {
            drop(task);
        } else {
            stop.turn();
            block_on(task).unwrap();
        }
        assert_eq!((queue.in_flight().unwrap(), queue.stats().unwrap().failed), (0, 0));
        let again = queue.receive_batch(3, Duration::ZERO).unwrap();
        assert_eq!(again.len(), 3);
        assert!(again.iter().all(|it| it.attempt() == 1));
    }
}

#[test]
fn a_task_that_is_told_to_stop_stops_in_the_middle_of_a_backlog() {
    let (engine, _dir) = real();
    let queue = open(&engine).durability(Durability::Buffered);
    send(&queue, 1000);
    let handled = Cell::new(0);
    let is_enough =
        future::poll_fn(|_| if handled.get() >= 10 { Poll::Ready(()) } else { Poll::Pending });
    let handler = |_delivery| {
        handled.set(handled.get() + 1);
        future::ready(Ok::<(), String>(()))
    };
    let mut task = Box::pin(queue.worker().concurrency(4).run_until(is_enough, handler));
    let mut context = std::task::Context::from_waker(Waker::noop());
    let mut before = 0;
    while task.as_mut().poll(&mut context).is_pending() {
        let now = handled.get();
        assert!(now - before <= 4, "{now} messages, and {before} of them before one poll");
        before = now;
    }
    assert!((10..14).contains(&handled.get()), "{} were handled", handled.get());
    assert_eq!((queue.depth().unwrap(), queue.in_flight().unwrap()), (1000 - handled.get(), 0));
}

/// An error whose text panics.
struct Malicious;

impl fmt::Display for Malicious {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("the text panics")
    }
}

/// It has a text, and panics when it is dropped.
struct PanicsWhenDropped;

impl fmt::Display for PanicsWhenDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("the drop panics");
        }
    }
}

type Malice = std::result::Result<(), Box<dyn fmt::Display + Send>>;

fn malice(payload: &[u8]) -> Malice {
    match payload {
        b"text" => Err(Box::new(Malicious)),
        b"drop" => Err(Box::new(PanicsWhenDropped)),
        b"payload" => std::panic::panic_any(PanicsWhenDropped),
        _ => Ok(()),
    }
}

/// The end of a thread or a task in silence lost all messages behind these.
#[test]
fn errors_and_panics_that_panic_in_turn_end_no_worker() {
    for in_task in [false, true] {
        let (engine, _dir) = real();
        let queue = engine.queue("q").max_attempts(1).create().unwrap();
        let dead = engine.queue("q.dead").open().unwrap();
        queue.send_batch(["text", "drop", "payload", "future", "good"]).unwrap();
        let stop = Switch::default();
        if in_task {
            let handler = |delivery: Delivery| {
                // The future is dropped after it was ready, and panics.
                let held = (delivery.payload() == b"future").then(|| PanicsWhenDropped);
                let mut result = Some(malice(delivery.payload()));
                future::poll_fn(move |_| {
                    let _ = &held;
                    Poll::Ready(result.take().expect("it is polled once"))
                })
            };
            let task = spawn(queue.worker().run_until(stop.turned(), handler));
            until("they are not handled", || queue.depth().unwrap() == 0);
            stop.turn();
            task.join().expect("it does not panic").unwrap();
        } else {
            let held = PanicsWhenDropped;
            let worker = queue.worker().start(move |delivery| {
                let _ = &held;
                malice(delivery.payload())
            });
            let worker = worker.unwrap();
            until("they are not handled", || queue.depth().unwrap() == 0);
            assert_eq!((worker.handled(), worker.failed()), (2, 3));
            worker.stop().unwrap();
        }
        engine.sync().unwrap();
        let letters = dead.browse().unwrap().map(|it| it.unwrap().dead_letter().unwrap().unwrap());
        let reasons: Vec<String> = letters.map(|it| it.reason).collect();
        let panicked = |text: &str| format!("the handler panicked: {text}");
        let expected = ["the text panics", "the drop panics", "with no message"].map(panicked);
        assert_eq!(reasons, expected);
    }
}

#[test]
fn an_owned_delivery_may_be_dropped_settled_or_kept_by_its_handler() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    let done = engine.queue("done").create().unwrap();
    send(&queue, 4);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (keep, target, same) = (Arc::clone(&kept), done.clone(), engine.clone());
    let stop = Switch::default();
    let task = queue.worker().run_until(stop.turned(), move |delivery: Delivery| {
        let (keep, target, same) = (Arc::clone(&keep), target.clone(), same.clone());
        async move {
            match delivery.offset().0 {
                0 => drop(delivery),
                1 => delivery.ack_async().await?,
                2 => keep.lock().unwrap().push(delivery),
                _ => {
                    let mut tx = same.transaction();
                    tx.ack(&delivery).send(&target, &delivery);
                    tx.commit().map(drop)?;
                }
            }
            Ok::<(), posthouse::Error>(())
        }
    });
    let task = spawn(task);
    until("they are not handled", || queue.depth().unwrap() == 0);
    stop.turn();
    task.join().unwrap().unwrap();
    let stats = queue.stats().unwrap();
    assert_eq!((stats.acked, stats.failed, done.depth().unwrap()), (4, 0, 1));
    assert_eq!(kept.lock().unwrap().len(), 1);
}

#[test]
fn tasks_end_with_the_error_when_their_queue_is_deleted_and_tell_it() {
    let (engine, _dir) = real();
    let queue = engine.queue("q").create().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let worker =
        queue.worker().concurrency(2).on_error(move |it| tell.lock().unwrap().push(it.kind()));
    let task = spawn(worker.run_async(handle));
    thread::sleep(ms(10));
    engine.queue("q").delete().unwrap();
    assert_eq!(task.join().unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(told.lock().unwrap().contains(&ErrorKind::NotFound));
}

/// A worker of two threads, of which one hangs until the switch is turned.
fn hanging(queue: &Queue) -> (posthouse::Worker, Arc<AtomicBool>) {
    let go = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&go);
    let (began, has_begun) = mpsc::channel();
    let worker = queue.worker().concurrency(2).start(move |_| {
        began.send(()).unwrap();
        until("it was never let go", || gate.load(Ordering::SeqCst));
        Ok::<(), String>(())
    });
    send(queue, 1);
    has_begun.recv_timeout(MINUTE).unwrap();
    (worker.unwrap(), go)
}

#[test]
fn a_handler_that_hangs_does_not_hold_up_a_stop_with_a_deadline() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    let (worker, go) = hanging(&queue);
    assert_eq!(worker.stop_within(ms(30)).unwrap(), 1);
    let again = queue.receive(SECOND).unwrap().expect("it was given back");
    assert_eq!((again.attempt(), queue.stats().unwrap().failed), (1, 0));
    go.store(true, Ordering::SeqCst);
    // What the hanging handler does at last has no effect.
    thread::sleep(ms(20));
    again.ack().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_handler_that_stops_its_worker_with_a_deadline_keeps_its_own_message() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    let (place, go) = (Arc::new(Mutex::new(None::<posthouse::Worker>)), Switch::default());
    let (tell, told) = mpsc::channel();
    let (began, has_begun) = mpsc::channel();
    let (own, gate) = (Arc::clone(&place), go.clone());
    let worker = queue.worker().concurrency(2).start(move |delivery| {
        if delivery.payload() == b"0" {
            began.send(()).unwrap();
            block_on(gate.turned());
            return Ok::<(), String>(());
        }
        let worker = own.lock().unwrap().take().expect("only one message stops it");
        let given = worker.stop_within(ms(30)).unwrap();
        tell.send((given, delivery.ack().map_err(|error| error.to_string()))).unwrap();
        Ok(())
    });
    *place.lock().unwrap() = Some(worker.unwrap());
    send(&queue, 1);
    has_begun.recv_timeout(MINUTE).unwrap();
    queue.send("stop").unwrap();
    assert_eq!(told.recv_timeout(MINUTE).unwrap(), (1, Ok(())), "only the other is given back");
    assert_eq!(queue.depth().unwrap(), 1);
    go.turn();
}

#[test]
fn a_stop_with_a_deadline_returns_as_soon_as_the_handlers_are_done() {
    let (engine, _dir) = real();
    let queue = open(&engine);
    let (worker, go) = hanging(&queue);
    let letting = thread::spawn(move || {
        thread::sleep(ms(20));
        go.store(true, Ordering::SeqCst);
    });
    let began = Instant::now();
    assert_eq!(worker.stop_within(Duration::MAX).unwrap(), 0);
    assert!(began.elapsed() < MINUTE);
    letting.join().unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}
