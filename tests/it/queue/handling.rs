//! An attempt is counted when the handling of a message begins. What was never looked at, released or cancelled is no
//! failed attempt.

use std::{
    future, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use posthouse::{Backoff, Delivery, Engine, ErrorKind, Queue};

use crate::support::{HOUR, MINUTE, SECOND, Sim, block_on, kind, real, take};

fn open(engine: &Engine, attempts: u32) -> Queue {
    let queue = engine.queue("q").lease(MINUTE).backoff(Backoff::None);
    queue.max_attempts(attempts).create().unwrap()
}

fn send(queue: &Queue, count: usize) {
    queue.send_batch((0..count).map(|n| n.to_string())).unwrap();
}

fn attempts(queue: &Queue) -> Vec<u32> {
    queue.browse().unwrap().map(|it| it.unwrap().attempts()).collect()
}

/// A handler that takes the process down, three times.
#[test]
fn a_message_that_kills_the_process_burns_no_attempt_of_the_others_of_its_batch() {
    for ordered in [false, true] {
        let mut sim = Sim::new();
        let settings = sim.engine.queue("q").max_attempts(3).ordered_by_key(ordered);
        send(&settings.create().unwrap(), 100);
        for _ in 0..3 {
            let queue = sim.engine.queue("q").open().unwrap();
            let batch = queue.receive_batch(100, Duration::ZERO).unwrap();
            assert_eq!(batch.len(), 100);
            assert_eq!(batch[0].payload(), b"0");
            mem::forget(batch);
            drop(queue);
            sim = sim.kill();
        }
        let queue = sim.engine.queue("q").open().unwrap();
        let batch = queue.receive_batch(100, Duration::ZERO).unwrap();
        assert_eq!(batch.len(), 99, "only the one that was looked at is dead");
        assert!(batch.iter().all(|it| it.attempt() == 1 && it.payload() != b"0"));
        let dead = sim.engine.queue("q.dead").open().unwrap();
        sim.engine.sync().unwrap();
        assert_eq!(dead.depth().unwrap(), 1);
        assert_eq!(take(&dead).unwrap().dead_letter().unwrap().unwrap().attempts, 3);
    }
}

#[test]
fn a_batch_whose_lease_runs_out_counts_only_what_was_looked_at() {
    let Sim { disk, engine } = Sim::new();
    let queue = open(&engine, 1);
    send(&queue, 10);
    let batch = queue.receive_batch(10, Duration::ZERO).unwrap();
    let _ = batch[3].payload();
    disk.advance(HOUR);
    assert_eq!(kind(batch[4].ack()), ErrorKind::LeaseLost);
    let dead = engine.queue("q.dead").open().unwrap();
    let again = queue.receive_batch(10, Duration::ZERO).unwrap();
    assert_eq!((again.len(), dead.depth().unwrap()), (9, 1));
    assert!(again.iter().all(|it| it.attempt() == 1));
    assert_eq!(queue.stats().unwrap().failed, 1);
}

#[test]
fn a_batch_that_is_dropped_counts_only_what_was_looked_at() {
    for attempts in [0, 2] {
        let Sim { disk: _, engine } = Sim::new();
        let queue = engine.queue("q").backoff(Backoff::Fixed(MINUTE));
        let queue = if attempts == 0 { queue } else { queue.max_attempts(attempts) };
        let queue = queue.create().unwrap();
        send(&queue, 10);
        let batch = queue.receive_batch(10, Duration::ZERO).unwrap();
        let _ = batch[0].key();
        drop(batch);
        assert_eq!((queue.delayed().unwrap(), queue.stats().unwrap().failed), (1, 1));
        assert_eq!(queue.receive_batch(10, Duration::ZERO).unwrap().len(), 9);
    }
}

#[test]
fn receiving_a_batch_counts_nothing_before_it_is_looked_at() {
    let Sim { disk: _, engine } = Sim::new();
    let queue = open(&engine, 3);
    send(&queue, 100);
    let batch = queue.receive_batch(100, Duration::ZERO).unwrap();
    assert_eq!((batch.len(), attempts(&queue)), (100, vec![0; 100]));
    batch[..3].iter().for_each(|it| _ = it.headers());
    assert_eq!(attempts(&queue)[..5], [1, 1, 1, 0, 0]);
    queue.ack_batch(&batch).unwrap();
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn a_released_delivery_is_no_attempt_in_any_queue() {
    for attempts_max in [None, Some(1)] {
        let mut sim = Sim::new();
        let queue = sim.engine.queue("q").backoff(Backoff::Fixed(HOUR));
        let queue = match attempts_max {
            None => queue,
            Some(most) => queue.max_attempts(most),
        };
        let queue = queue.create().unwrap();
        send(&queue, 3);
        for _ in 0..5 {
            let delivery = take(&queue).unwrap();
            assert_eq!((delivery.payload(), delivery.attempt()), (&b"0"[..], 1), "in its place");
            delivery.release().unwrap();
            assert_eq!(kind(delivery.ack()), ErrorKind::LeaseLost);
        }
        assert_eq!((attempts(&queue), queue.stats().unwrap().failed), (vec![0; 3], 0));
        drop(queue);
        sim = sim.kill();
        let queue = sim.engine.queue("q").open().unwrap();
        assert_eq!((attempts(&queue), queue.depth().unwrap()), (vec![0; 3], 3));
    }
}

#[test]
fn releasing_takes_back_only_its_own_attempt() {
    let Sim { disk: _, engine } = Sim::new();
    let queue = open(&engine, 5);
    send(&queue, 1);
    for expected in [1, 2] {
        let delivery = take(&queue).unwrap();
        assert_eq!(delivery.attempt(), expected);
        delivery.nack().unwrap();
    }
    take(&queue).unwrap().release().unwrap();
    assert_eq!(attempts(&queue), [2]);
    assert_eq!(take(&queue).unwrap().attempt(), 3);
}

#[test]
fn a_message_that_was_removed_while_on_lease_can_be_released() {
    let Sim { disk: _, engine } = Sim::new();
    let queue = engine.queue("q").ordered_by_key(true).create().unwrap();
    for n in 0..2 {
        queue.send(super::keyed("a", n)).unwrap();
    }
    let first = take(&queue).unwrap();
    assert!(queue.remove(first.offset()).unwrap());
    first.release().unwrap();
    let next = take(&queue).expect("the next of its key goes on");
    assert_eq!(next.payload(), b"1");
}

#[test]
fn a_cancelled_handling_is_no_attempt_and_a_panic_in_it_is_one() {
    let (engine, _dir) = real();
    let queue = open(&engine, 3);
    send(&queue, 1);
    for _ in 0..5 {
        let handled = async {
            let delivery = queue.receive_async().await.unwrap();
            assert_eq!(delivery.attempt(), 1);
            delivery.handling(future::pending::<()>()).await;
        };
        let mut handled = Box::pin(handled);
        let mut context = Context::from_waker(Waker::noop());
        assert!(handled.as_mut().poll(&mut context).is_pending());
        drop(handled);
    }
    let panics = AssertUnwindSafe(|| {
        block_on(async {
            let delivery: Delivery = queue.receive_async().await.unwrap();
            delivery.handling(async { panic!("it fails") }).await
        })
    });
    assert!(catch_unwind(panics).is_err());
    let again = queue.receive(SECOND).unwrap().unwrap();
    assert_eq!(again.attempt(), 2);
}

/// Another future of the same task panics, and all of them are dropped while the thread unwinds.
#[test]
fn a_panic_elsewhere_in_the_task_is_no_attempt_of_an_innocent_handler() {
    let (engine, _dir) = real();
    let queue = open(&engine, 3);
    send(&queue, 3);
    let handler = |_: Delivery| future::pending::<Result<(), String>>();
    let mut is_first = true;
    let stop = future::poll_fn(move |_| match mem::take(&mut is_first) {
        true => Poll::<()>::Pending,
        false => panic!("the signal cannot be awaited"),
    });
    let mut task = Box::pin(queue.worker().concurrency(3).run_until(stop, handler));
    let mut context = Context::from_waker(Waker::noop());
    assert!(task.as_mut().poll(&mut context).is_pending());
    assert_eq!((queue.in_flight().unwrap(), attempts(&queue)), (3, vec![1; 3]));
    let polled = AssertUnwindSafe(move || task.as_mut().poll(&mut context).is_ready());
    assert!(catch_unwind(polled).is_err());
    assert_eq!((queue.in_flight().unwrap(), attempts(&queue)), (0, vec![0; 3]));

    // One of two panics, in one future.
    let mut batch = queue.receive_batch(2, SECOND).unwrap();
    let (guilty, innocent) = (batch.remove(1), batch.remove(0));
    let failed = guilty.offset().0;
    let both = async move {
        let _ = (guilty.payload(), innocent.payload());
        let mut waits = Box::pin(innocent.handling(future::pending::<()>()));
        let mut panics = Box::pin(guilty.handling(async { panic!("it fails") }));
        future::poll_fn(|context| {
            let _ = waits.as_mut().poll(context);
            Future::poll(panics.as_mut(), context)
        })
        .await
    };
    assert!(catch_unwind(AssertUnwindSafe(|| block_on(both))).is_err());
    let expected: Vec<u32> = (0..3).map(|offset| u32::from(offset == failed)).collect();
    assert_eq!(attempts(&queue), expected);
}

#[test]
fn a_handling_that_ended_counts_as_usual() {
    let (engine, _dir) = real();
    let queue = open(&engine, 3);
    send(&queue, 1);
    block_on(async {
        let delivery = queue.receive_async().await.unwrap();
        delivery.handling(future::ready(())).await;
        drop(delivery);
        let delivery = queue.receive_async().await.unwrap();
        assert_eq!(delivery.attempt(), 2);
        delivery.handling(delivery.ack_async()).await.unwrap();
    });
    assert_eq!(queue.depth().unwrap(), 0);
}

#[test]
fn ack_batch_held_has_a_form_for_tasks_and_one_that_does_not_wait() {
    for in_task in [false, true] {
        let Sim { disk, engine } = Sim::new();
        let queue = engine.queue("q").lease(SECOND).create().unwrap();
        send(&queue, 5);
        let batch = queue.receive_batch(5, Duration::ZERO).unwrap();
        for held in [0, 2, 4] {
            batch[held].extend(HOUR).unwrap();
        }
        disk.advance(MINUTE);
        let lost = match in_task {
            true => block_on(queue.ack_batch_held_async(&batch)).unwrap(),
            false => queue.ack_batch_held_ticket(&batch).unwrap().wait().unwrap(),
        };
        assert_eq!(lost, [1, 3]);
        assert_eq!(queue.depth().unwrap(), 2);
        let all = [0, 1, 2, 3, 4];
        assert_eq!(block_on(queue.ack_batch_held_async(&batch)).unwrap(), all);
        engine.close().unwrap();
        assert_eq!(kind(block_on(queue.ack_batch_held_async(&batch))), ErrorKind::Closed);
    }
}

#[test]
fn ack_batch_names_the_lost_leases_and_ack_batch_held_acks_the_others() {
    let Sim { disk, engine } = Sim::new();
    let queue = engine.queue("q").lease(SECOND).create().unwrap();
    send(&queue, 5);
    let batch = queue.receive_batch(5, Duration::ZERO).unwrap();
    for held in [0, 2, 4] {
        batch[held].extend(HOUR).unwrap();
    }
    disk.advance(MINUTE);
    let error = queue.ack_batch(&batch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    let text = error.to_string();
    assert!(text.contains("2 of 5 leases are lost: of message 1 of \"q\", 3 of \"q\""), "{text}");
    assert_eq!(queue.depth().unwrap(), 5, "none");
    assert_eq!(queue.ack_batch_held(&batch).unwrap(), [1, 3]);
    assert_eq!(queue.depth().unwrap(), 2);
    let again = queue.receive_batch(5, Duration::ZERO).unwrap();
    let offsets: Vec<u64> = again.iter().map(|it| it.offset().0).collect();
    assert_eq!(offsets, [1, 3]);
    assert!(queue.ack_batch_held(&again).unwrap().is_empty());
    assert_eq!(queue.ack_batch_held(&again).unwrap(), [0, 1], "they were acked before");
}

/// Half of the time a `select` polls the other future first, and that was ready.
#[test]
fn a_handling_that_was_dropped_before_it_was_polled_is_no_failed_attempt() {
    let sim = Sim::new();
    let queue = open(&sim.engine, 1);
    send(&queue, 1);
    for touched in [false, true] {
        let delivery = take(&queue).unwrap();
        if touched {
            assert_eq!(delivery.payload(), b"0");
        }
        drop(delivery.handling(future::pending::<()>()));
        drop(delivery);
        assert_eq!(attempts(&queue), [0]);
    }
    let delivery = take(&queue).unwrap();
    assert_eq!(delivery.attempt(), 1);
    block_on(delivery.handling(future::ready(())));
    delivery.ack().unwrap();
}

/// The write of the correction fails once, and then the disk is well again.
#[test]
fn an_attempt_that_cannot_be_taken_back_at_once_is_taken_back_later() {
    for (attempts, released) in [(1, false), (3, false), (1, true), (3, true)] {
        let disk = posthouse::sim::SimDisk::new(5);
        let calls = posthouse::IoMode::Calls;
        let engine = crate::model::small_options().io(calls).sim(&disk).open("store").unwrap();
        let queue = open(&engine, attempts);
        send(&queue, 2);
        let delivery = take(&queue).unwrap();
        let failed = disk.calls();
        disk.fail_call(failed, crate::support::EIO, false);
        if released {
            assert_eq!(kind(delivery.release()), ErrorKind::Io);
            disk.fail_call(disk.calls(), crate::support::EIO, false);
        } else {
            drop(delivery.handling(future::pending::<()>()));
        }
        drop(delivery);
        assert!(disk.failed_call().is_some(), "nothing was written");
        disk.heal();
        let other = take(&queue).unwrap();
        assert_eq!((other.payload(), other.attempt()), (&b"1"[..], 1));
        assert!(queue.try_receive().unwrap().is_none(), "it waits until that is put right");
        disk.advance(SECOND);
        let again = take(&queue).unwrap();
        assert_eq!((again.payload(), again.attempt()), (&b"0"[..], 1));
        again.ack().unwrap();
    }
}

/// An engine on a disk whose calls can fail, and a queue with one message.
fn with_calls(attempts: u32) -> (posthouse::sim::SimDisk, Engine, Queue) {
    let disk = posthouse::sim::SimDisk::new(5);
    let calls = posthouse::IoMode::Calls;
    let engine = crate::model::small_options().io(calls).sim(&disk).open("store").unwrap();
    let queue = open(&engine, attempts);
    send(&queue, 1);
    (disk, engine, queue)
}

/// The write fails once, and then the disk is well again.
fn release_in_vain(disk: &posthouse::sim::SimDisk, delivery: &Delivery) -> posthouse::Result<()> {
    disk.fail_call(disk.calls(), crate::support::EIO, false);
    let released = delivery.release();
    disk.heal();
    assert_eq!(released.as_ref().unwrap_err().kind(), ErrorKind::Io);
    released
}

/// The worker nacked the message, which became a dead letter, or acked it.
#[test]
fn what_a_handler_could_not_release_is_given_back_uncounted_by_its_worker() {
    for (attempts_max, is_told, in_task) in
        [(1, true, false), (1, false, false), (3, true, true), (1, true, true), (1, false, true)]
    {
        let (disk, engine, queue) = with_calls(attempts_max);
        let (calls, seen) = mpsc::channel();
        let handle = move |delivery: &Delivery| {
            calls.send(delivery.attempt()).unwrap();
            let released = release_in_vain(&disk, delivery);
            if is_told { released } else { Ok(()) }
        };
        if in_task {
            let handler = move |delivery: Delivery| future::ready(handle(&delivery));
            let worker = queue.worker();
            let mut task = Box::pin(worker.run_async(handler));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..3 {
                assert!(task.as_mut().poll(&mut context).is_pending());
            }
        } else {
            let worker = queue.worker().start(handle).unwrap();
            super::worker::until("it was not handled", || worker.handled() + worker.failed() > 0);
            worker.stop().unwrap();
        }
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [1], "it rests before the next one");
        assert_eq!(attempts(&queue), [0], "{attempts_max} {is_told} {in_task}");
        let dead = engine.queue("q.dead").open().unwrap();
        assert_eq!((queue.stats().unwrap().in_flight, dead.depth().unwrap()), (0, 0));
        assert_eq!(take(&queue).unwrap().attempt(), 1);
    }
}

/// What a handler settles after that counts, and its worker goes on at once.
#[test]
fn a_handler_may_settle_what_it_could_not_release() {
    let (disk, _engine, queue) = with_calls(1);
    let worker = queue.worker().start(move |delivery| {
        let _ = release_in_vain(&disk, delivery);
        delivery.ack()
    });
    super::worker::until("it was not handled", || queue.depth().unwrap() == 0);
    worker.unwrap().stop().unwrap();
}

/// The lease ran out before the release, and no timer had run yet. The drop took the attempt back.
#[test]
fn a_release_that_comes_too_late_is_a_failed_attempt() {
    for in_async in [false, true] {
        let Sim { disk, engine } = Sim::new();
        let queue = open(&engine, 3);
        send(&queue, 1);
        let delivery = take(&queue).unwrap();
        disk.advance(MINUTE);
        posthouse::sim::still(|| {
            let released =
                if in_async { block_on(delivery.release_async()) } else { delivery.release() };
            assert_eq!(kind(released), ErrorKind::LeaseLost);
            drop(delivery);
        });
        assert_eq!(attempts(&queue), [1]);
    }
}
