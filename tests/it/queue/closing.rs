//! What is on lease when the engine is closed. Its handling could not be settled, so it is as if it had been given back.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};

use posthouse::{Backoff, Delivery, Engine, ErrorKind, Queue};

use crate::support::{HOUR, MINUTE, SECOND, Sim, Task, kind, open, real, take};

fn queue(engine: &Engine, ordered: bool) -> Queue {
    let queue = engine.queue("q").lease(MINUTE).backoff(Backoff::Fixed(HOUR)).max_attempts(1);
    queue.ordered_by_key(ordered).create().unwrap()
}

fn attempts(queue: &Queue) -> Vec<u32> {
    queue.browse().unwrap().map(|it| it.unwrap().attempts()).collect()
}

/// Asserts that no message has lost an attempt.
fn assert_whole(engine: &Engine, count: usize, what: &str) {
    let queue = engine.queue("q").open().unwrap();
    assert_eq!(attempts(&queue), vec![0; count], "{what}");
    for _ in 0..count {
        let again = take(&queue).expect(what);
        assert_eq!(again.attempt(), 1, "{what}");
        again.ack().unwrap();
    }
    assert_eq!(engine.queue("q.dead").open().unwrap().depth().unwrap(), 0, "{what}");
}

#[test]
fn a_close_burns_no_attempt_of_what_is_on_lease() {
    for ordered in [false, true] {
        for end in ["settled too late", "dropped by a panic", "dropped after the next open"] {
            let Sim { disk, engine } = Sim::new();
            let before = queue(&engine, ordered);
            before.send_batch((0..300).map(|n| n.to_string())).unwrap();
            let held: Vec<Delivery> = (0..200).map(|_| take(&before).unwrap()).collect();
            assert_eq!(attempts(&before)[199..201], [1, 0]);
            engine.close().unwrap();
            let later = match end {
                "settled too late" => {
                    for delivery in held {
                        assert_eq!(kind(delivery.ack()), ErrorKind::Closed);
                        assert_eq!(kind(delivery.nack()), ErrorKind::Closed);
                    }
                    Vec::new()
                }
                "dropped by a panic" => {
                    assert!(thread::spawn(move || panic!("{}", held.len())).join().is_err());
                    Vec::new()
                }
                _ => held,
            };
            drop((before, engine));
            let engine = open(&disk).unwrap();
            drop(later);
            assert_whole(&engine, 300, &format!("{end}, ordered: {ordered}"));
        }
    }
}

/// Attempts were counted when they began. Then the dead letters are taken away, and attempts are counted when they fail.
#[test]
fn attempts_that_began_under_earlier_settings_are_neither_burnt_nor_counted_twice() {
    for ordered in [false, true] {
        let Sim { disk, engine } = Sim::new();
        let before = queue(&engine, ordered);
        before.send_batch((0..300).map(|n| n.to_string())).unwrap();
        let held: Vec<Delivery> = (0..200).map(|_| take(&before).unwrap()).collect();
        assert_eq!(attempts(&before)[199..201], [1, 0]);
        let update = |engine: &Engine| engine.queue("q").without_dead_letters().create_or_update();
        let after = update(&engine).unwrap();
        held[0].release().unwrap();
        held[1].nack_after(HOUR).unwrap();
        assert_eq!(attempts(&after)[..3], [0, 1, 1], "ordered: {ordered}");
        engine.close().unwrap();
        drop((held, before, after, engine));
        let engine = open(&disk).unwrap();
        let mut expected = vec![0; 300];
        expected[1] = 1;
        assert_eq!(attempts(&engine.queue("q").open().unwrap()), expected, "ordered: {ordered}");
    }
}

/// The close wakes all that wait. One of them drops its delivery before the close goes on.
#[test]
fn what_is_dropped_while_the_engine_closes_is_no_attempt_either() {
    let Sim { disk, engine } = Sim::new();
    let before = queue(&engine, false);
    before.send("0").unwrap();
    let held = Mutex::new(Some(take(&before).unwrap()));
    struct Drops(Mutex<Option<Delivery>>);
    impl std::task::Wake for Drops {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let waker = std::task::Waker::from(Arc::new(Drops(held)));
    let mut waiting = std::pin::pin!(before.receive_async());
    let mut context = std::task::Context::from_waker(&waker);
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    engine.close().unwrap();
    drop(engine);
    let engine = open(&disk).unwrap();
    assert_whole(&engine, 1, "");
}

#[test]
fn a_close_burns_no_attempt_of_the_handlers_of_a_worker() {
    let (engine, dir) = real();
    let queue = queue(&engine, false);
    queue.send_batch(["0", "1"]).unwrap();
    let ((began, has_begun), (go, goes_on)) = (mpsc::channel(), mpsc::channel::<()>());
    let goes_on = Mutex::new(goes_on);
    let worker = queue.worker().concurrency(2).start(move |_| {
        began.send(()).unwrap();
        let _ = goes_on.lock().unwrap().recv();
        Ok::<(), String>(())
    });
    (0..2).for_each(|_| has_begun.recv_timeout(MINUTE).unwrap());
    engine.close().unwrap();
    drop((go, queue));
    worker.unwrap().stop().unwrap();
    drop(engine);
    let engine = Engine::open(dir.path().join("store")).unwrap();
    assert_whole(&engine, 2, "");
}

#[test]
fn a_close_burns_no_attempt_of_the_handlers_of_a_task() {
    let Sim { disk, engine } = Sim::new();
    let queue = queue(&engine, false);
    queue.send_batch(["0", "1"]).unwrap();
    let closing = engine.clone();
    let worker = queue.worker().concurrency(2).run_async(move |delivery: Delivery| {
        let closing = closing.clone();
        async move {
            if delivery.payload() == b"0" {
                std::future::pending::<()>().await;
            }
            closing.close()
        }
    });
    let mut task = Task::waiting(worker);
    let _ = task.poll();
    assert_eq!(kind(queue.depth()), ErrorKind::Closed);
    drop((task, queue, engine));
    assert_whole(&open(&disk).unwrap(), 2, "");
}

#[test]
fn a_close_takes_back_nothing_that_has_failed_before() {
    let Sim { disk, engine } = Sim::new();
    let before = engine.queue("q").lease(SECOND).max_attempts(3).create().unwrap();
    before.send_batch(["ran out", "dropped", "untouched", "on lease"]).unwrap();
    let ran_out = take(&before).unwrap();
    disk.advance(2 * SECOND);
    let mut rest = before.receive_batch(4, SECOND).unwrap();
    // Its first lease has run out, so the first one comes again.
    let first = rest.iter().position(|it| it.payload() == b"ran out").unwrap();
    rest.remove(first).nack().unwrap();
    let dropped = rest.iter().position(|it| it.offset().0 == 1).unwrap();
    let dropped = rest.remove(dropped);
    let _ = dropped.payload();
    drop(dropped);
    let last = rest.iter().find(|it| it.offset().0 == 3).unwrap();
    last.extend(HOUR).unwrap();
    let _ = last.payload();
    drop(ran_out);
    assert_eq!(attempts(&before), [2, 1, 0, 1]);
    engine.close().unwrap();
    drop((rest, before, engine));
    let engine = open(&disk).unwrap();
    assert_eq!(attempts(&engine.queue("q").open().unwrap()), [2, 1, 0, 0]);
}

/// Nobody has called since the lease has run out, and the close is no late excuse.
#[test]
fn a_lease_that_has_run_out_before_the_close_is_a_failed_attempt() {
    let Sim { disk, engine } = Sim::new();
    let before = queue(&engine, false);
    before.send("0").unwrap();
    let held = take(&before).unwrap();
    disk.advance(HOUR);
    engine.close().unwrap();
    drop((held, before, engine));
    let engine = open(&disk).unwrap();
    assert!(take(&engine.queue("q").open().unwrap()).is_none());
    engine.sync().unwrap();
    assert_eq!(engine.queue("q.dead").open().unwrap().depth().unwrap(), 1);
}

/// What was given back while space was lacking is written by the close, too.
#[test]
fn a_close_on_a_full_disk_burns_no_attempt() {
    let Sim { disk, engine } = Sim::new();
    let before = queue(&engine, false);
    let filler = engine.queue("filler").create().unwrap();
    before.send_batch((0..300).map(|n| n.to_string())).unwrap();
    let held: Vec<Delivery> = (0..300).map(|_| take(&before).unwrap()).collect();
    disk.set_capacity(Some(disk.bytes_used()));
    while filler.send(vec![0; 1000]).is_ok() {}
    while filler.send("").is_ok() {}
    engine.close().unwrap();
    drop((held, before, filler, engine));
    let engine = open(&disk).unwrap();
    assert_whole(&engine, 300, "");
}
