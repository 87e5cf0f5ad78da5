//! The journal is short of space, and a task or a dropped delivery does not wait for it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use super::{block_on, config, open};
use crate::{
    Backoff, Engine, Message, Queue, config::Durability, disk::sim::SimDisk,
    engine::commit::space::Round, journal::Urgency, store::Shortage,
};

const FREEING: Shortage = Shortage::Checkpoint { urgency: Urgency::Freeing };

/// Fills the disk and the journal. Then the disk has space again, and the journal has not.
fn fill(disk: &SimDisk, engine: &Engine, other: &Queue) -> Arc<Round> {
    let round = fill_disk(disk, engine, other);
    disk.set_capacity(None);
    round
}

/// Fills the disk and the journal, until commits that free space lack space, too. The helper that makes space for tasks
/// has begun, and ends only when the test ends its round.
pub fn fill_disk(disk: &SimDisk, engine: &Engine, other: &Queue) -> Arc<Round> {
    disk.set_capacity(Some(2 << 20));
    for size in [3000, 300, 30, 1] {
        while other.send(vec![7; size]).is_ok() {}
    }
    disk.set_capacity(Some(disk.bytes_used()));
    let (_wait, round) = engine.committer().space.wait(FREEING);
    let fast = other.durability(Durability::Buffered);
    while let Some(delivery) = fast.try_receive().expect("it can be read") {
        let mut acked = Box::pin(delivery.ack_async());
        if acked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            return round.expect("no other helper runs");
        }
    }
    panic!("the journal never lacked space");
}

pub fn make_space(engine: &Engine, round: &Round) {
    engine.committer().space.finish(FREEING, round, Ok(0));
    engine.checkpoint().expect("the disk has space");
}

/// Looks again and again until a value is as expected. Work of the engine's threads is under way.
fn await_value<T: Copy + PartialEq + std::fmt::Debug>(expected: T, mut look: impl FnMut() -> T) {
    for _ in 0..2000 {
        if look() == expected {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(look(), expected);
}

fn attempts(queue: &Queue) -> u32 {
    let mut browse = queue.browse().expect("the store is open");
    let browsed = browse.next().expect("it is there");
    browsed.expect("it can be read").attempts()
}

const HOUR: Duration = Duration::from_secs(3600);

/// The count was dropped, and the message that kills its process was never counted.
#[test]
fn an_attempt_of_a_batch_in_a_task_is_counted_once_there_is_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(3).lease(HOUR).create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    let batch = block_on(queue.receive_batch_async(2)).unwrap();
    let round = fill(&disk, &engine, &other);
    assert_eq!(batch[0].payload(), b"a");
    make_space(&engine, &round);
    queue.stats().unwrap();
    assert_eq!(attempts(&queue), 1, "the handling has begun");
    drop(batch);
    assert_eq!(attempts(&queue), 1, "it is counted once");
}

/// What ends a lease decides about its attempt: a count that comes later changes nothing.
#[test]
fn an_attempt_that_is_over_is_not_counted_again_later() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(3).lease(HOUR).create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send_batch(["released", "delayed", "acked"]).unwrap();
    let batch = block_on(queue.receive_batch_async(3)).unwrap();
    let round = fill(&disk, &engine, &other);
    batch.iter().for_each(|it| assert!(!it.payload().is_empty()));
    disk.set_capacity(None);
    batch[0].release().unwrap();
    batch[1].nack_after(HOUR).unwrap();
    batch[2].ack().unwrap();
    make_space(&engine, &round);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.ready, stats.delayed), (1, 1));
    let left: Vec<(u32, bool)> = queue
        .browse()
        .unwrap()
        .map(|it| it.unwrap())
        .map(|it| (it.attempts(), it.due().is_some()))
        .collect();
    assert_eq!(left, [(0, false), (1, true)]);
    drop(batch);
    engine.close().unwrap();
}

/// Where attempts could not be counted first, each failure counted from zero, so the number stayed at 1.
#[test]
fn a_delivery_that_ends_unsettled_keeps_the_number_of_its_attempt() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let second = Duration::from_secs(1);
    let queue = engine.queue("q").max_attempts(5).lease(second).backoff(Backoff::None);
    let queue = queue.create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send("a").unwrap();
    queue.try_receive().unwrap().expect("it is there").nack().unwrap();
    let batch = block_on(queue.receive_batch_async(1)).unwrap();
    assert_eq!(batch[0].attempt(), 2);
    let round = fill(&disk, &engine, &other);
    assert_eq!(batch[0].payload(), b"a");
    drop(batch);
    make_space(&engine, &round);
    let third = block_on(queue.receive_async()).unwrap();
    assert_eq!(third.attempt(), 3);
    third.release().unwrap();

    let batch = block_on(queue.receive_batch_async(1)).unwrap();
    let round = fill(&disk, &engine, &other);
    assert_eq!(batch[0].payload(), b"a");
    disk.advance(second * 2);
    make_space(&engine, &round);
    assert_eq!(block_on(queue.receive_async()).unwrap().attempt(), 4, "its lease ran out");
    drop(batch);
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_receive_that_is_cancelled_while_it_awaits_space_passes_its_wake_up_on() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").backoff(Backoff::None).create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send("a").unwrap();
    let held = queue.try_receive().unwrap().expect("it is there");
    let woken: [Arc<Count>; 2] = Default::default();
    let wakers = woken.clone().map(Waker::from);
    let mut waiting = [Box::pin(queue.receive_async()), Box::pin(queue.receive_async())];
    for (future, waker) in waiting.iter_mut().zip(&wakers) {
        assert!(future.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    let round = fill(&disk, &engine, &other);
    drop(held);
    let [mut first, mut second] = waiting;
    await_value(1, || woken[0].0.load(Ordering::SeqCst));
    let polled = first.as_mut().poll(&mut Context::from_waker(&wakers[0]));
    assert!(polled.is_pending(), "it lacks space: {polled:?}");
    drop(first);
    make_space(&engine, &round);
    assert_eq!(woken[1].0.load(Ordering::SeqCst), 1, "the second sleeps on");
    for _ in 0..2000 {
        let polled = second.as_mut().poll(&mut Context::from_waker(&wakers[1]));
        if let Poll::Ready(delivery) = polled {
            assert_eq!(delivery.unwrap().payload(), b"a");
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the second gets no message");
}

/// The one that dropped it forgot it, and it waited for a consumer.
#[test]
fn a_dropped_last_attempt_becomes_a_letter_once_there_is_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send("a").unwrap();
    let last = queue.try_receive().unwrap().expect("it is there");
    let round = fill(&disk, &engine, &other);
    drop(last);
    make_space(&engine, &round);
    await_value((0, 1), || (queue.depth().unwrap(), dead.depth().unwrap()));
}

/// The mover's next try was bound to the queue of the first letter. When that was deleted, nothing called it for the others.
#[test]
fn letters_of_a_deleted_queue_do_not_hold_up_those_of_others() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let [gone, queue] = ["gone", "q"]
        .map(|name| engine.queue(name).max_attempts(1).dead_letter_queue("dead").create().unwrap());
    let other = engine.queue("other").create().unwrap();
    gone.send_batch((0..200).map(|n| n.to_string())).unwrap();
    queue.send_batch(["a", "b"]).unwrap();
    let mut held = gone.receive_batch(200, Duration::ZERO).unwrap();
    assert_eq!(held.len(), 200);
    held.extend(queue.receive_batch(2, Duration::ZERO).unwrap());
    held.iter().for_each(|it| assert!(!it.payload().is_empty(), "its handling begins"));
    let round = fill_disk(&disk, &engine, &other);
    drop(held);
    // The mover has tried all that it tries at once.
    for _ in 0..20 {
        disk.advance(Duration::from_millis(200));
        thread::sleep(Duration::from_millis(5));
    }
    disk.set_capacity(None);
    engine.queue("gone").delete().unwrap();
    make_space(&engine, &round);
    let dead = engine.queue("dead").open().unwrap();
    await_value((0, 2), || {
        disk.advance(Duration::from_secs(1));
        let left = queue.browse().unwrap().count();
        let letters = dead.browse().unwrap().map(|it| it.unwrap().payload().to_vec());
        (left, letters.filter(|payload| payload == b"a" || payload == b"b").count())
    });
}

/// The attempt is the last one, and the disk was full when it was to be counted.
#[test]
fn a_last_attempt_that_was_not_counted_becomes_a_letter_once_there_is_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send("a").unwrap();
    let last = block_on(queue.receive_batch_async(1)).unwrap();
    let round = fill(&disk, &engine, &other);
    assert_eq!(last[0].payload(), b"a");
    drop(last);
    make_space(&engine, &round);
    await_value((0, 1), || (queue.depth().unwrap(), dead.depth().unwrap()));
}

/// Its deadline says how long it waits. It waited for the space of the correction, too.
#[test]
fn a_worker_that_is_stopped_within_a_time_waits_for_no_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(2).lease(HOUR).create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send("a").unwrap();
    let ((began, has_begun), (go, goes_on)) = (mpsc::channel(), mpsc::channel::<()>());
    let goes_on = Mutex::new(goes_on);
    let worker = queue.worker().start(move |_| {
        began.send(()).unwrap();
        let _ = goes_on.lock().unwrap().recv();
        Ok::<(), String>(())
    });
    let worker = worker.unwrap();
    has_begun.recv_timeout(HOUR).unwrap();
    let round = fill_disk(&disk, &engine, &other);
    // A checkpoint takes long.
    let checkpoint = engine.committer().checkpointing.lock();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(worker.stop_within(Duration::ZERO)));
    let given = told.recv_timeout(Duration::from_secs(10));
    drop(checkpoint);
    disk.set_capacity(None);
    assert_eq!(given.expect("it waits for space").unwrap(), 1);
    make_space(&engine, &round);
    await_value(0, || {
        queue.stats().unwrap();
        attempts(&queue)
    });
    let again = queue.try_receive().unwrap().expect("it is given back");
    assert_eq!(again.attempt(), 1);
    drop(go);
}

/// The thread that drops a delivery has its message in hand. It read and moved those of others, too.
#[test]
fn a_dropped_delivery_moves_its_own_message_only() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").max_attempts(1).create().unwrap();
    let dead = engine.queue("q.dead").open().unwrap();
    queue.send("a").unwrap();
    let delivery = queue.try_receive().unwrap().expect("it is there");
    engine.checkpoint().unwrap();
    let reads = disk.bytes_read();
    drop(delivery);
    assert_eq!((queue.depth().unwrap(), dead.depth().unwrap()), (0, 1), "at once");
    assert_eq!(disk.bytes_read(), reads, "nothing is read from the disk");
    let letter = dead.try_receive().unwrap().expect("it moved");
    let origin = letter.dead_letter().unwrap().expect("it is a letter");
    assert_eq!((origin.attempts, letter.payload()), (1, &b"a"[..]));
    let stats = queue.stats().unwrap();
    assert_eq!((stats.failed, stats.dead, stats.in_flight), (1, 1, 0));
}

/// Each attempt to discard it counted as a delivery.
#[test]
fn a_message_that_cannot_be_discarded_for_lack_of_space_is_not_counted_as_delivered() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let second = Duration::from_secs(1);
    let queue = engine.queue("q").time_to_live(second).create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send("a").unwrap();
    let round = fill_disk(&disk, &engine, &other);
    // The delivery with which the journal was filled is not to be counted first.
    engine.committer().lock("test").forget_failures();
    disk.advance(second * 2);
    for _ in 0..3 {
        let mut next = Box::pin(queue.receive_async());
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let stats = queue.stats().unwrap();
    assert_eq!((stats.ready, stats.delivered, stats.redelivered), (1, 0, 0));
    disk.set_capacity(None);
    make_space(&engine, &round);
    assert!(queue.try_receive().unwrap().is_none());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.delivered, stats.redelivered, stats.expired), (0, 0, 1));
}

/// Fills the disk and the journal with messages, until none fits.
fn fill_to_the_brim(disk: &SimDisk, other: &Queue) {
    disk.set_capacity(Some(2 << 20));
    for size in [3000, 300, 30, 1] {
        while other.send(vec![7; size]).is_ok() {}
    }
    disk.set_capacity(Some(disk.bytes_used()));
    while other.send("").is_ok() {}
}

/// A call passed over expired messages again and again, and waited for space for each of them. It never returned: the first
/// one was due again before the last one was tried.
#[test]
fn a_receive_on_a_full_disk_waits_once_for_the_space_of_dead_letters_and_counts() {
    const EXPIRE: u64 = 10;
    const LIVE: u64 = 5;
    for in_task in [false, true] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, config());
        let queue = engine.queue("q").max_attempts(3).lease(24 * HOUR).create().unwrap();
        let other = engine.queue("other").create().unwrap();
        for n in 0..EXPIRE + LIVE {
            let message = Message::new("x");
            let is_live = n >= EXPIRE;
            queue.send(if is_live { message } else { message.expire_after(HOUR) }).unwrap();
        }
        fill_to_the_brim(&disk, &other);
        disk.advance(HOUR);
        let rounds = || engine.committer().pressure.waits().0;
        let before = rounds();
        let is_over = Arc::new(AtomicBool::new(false));
        let (clock, stopped) = (disk.clone(), Arc::clone(&is_over));
        let ticking = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                clock.advance(Duration::from_secs(1));
                thread::sleep(Duration::from_millis(150));
            }
        });
        let own = queue.clone();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let mut held = Vec::new();
            for _ in 0..LIVE {
                held.push(if in_task {
                    block_on(own.receive_async()).unwrap()
                } else {
                    own.receive(HOUR).unwrap().expect("one lives")
                });
            }
            assert!(own.try_receive().unwrap().is_none(), "none is left");
            tell.send(held).expect("the test waits");
        });
        let came = told.recv_timeout(Duration::from_secs(20)).expect("a receive does not return");
        assert_eq!(came.len() as u64, LIVE);
        if !in_task {
            let waited = rounds() - before;
            assert!(waited <= 2, "it waited for {waited} rounds");
        }
        came.iter().for_each(|delivery| delivery.ack().unwrap());
        // There is space again, and they are moved.
        disk.set_capacity(None);
        let letters = engine.queue("q.dead").open().unwrap();
        await_value(EXPIRE, || {
            assert!(queue.try_receive().unwrap().is_none());
            letters.depth().unwrap()
        });
        is_over.store(true, Ordering::SeqCst);
        ticking.join().unwrap();
        assert_eq!(queue.depth().unwrap(), 0);
    }
}

/// The time of a send is for capacity. While the journal is short of space the call waits, as that of a thread does.
#[test]
fn a_send_of_a_task_that_has_time_awaits_space_in_the_journal_beyond_it() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").create().unwrap();
    let other = engine.queue("other").create().unwrap();
    let round = fill(&disk, &engine, &other);
    let ordinary = Shortage::Checkpoint { urgency: Urgency::Ordinary };
    let (_wait, held) = engine.committer().space.wait(ordinary);
    let held = held.expect("no other helper runs");
    let mut sent = Box::pin(queue.send_within_async(vec![7; 3000], Duration::from_millis(1)));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        assert!(sent.as_mut().poll(&mut context).is_pending());
        disk.advance(Duration::from_secs(1));
        thread::sleep(Duration::from_millis(5));
    }
    make_space(&engine, &round);
    engine.committer().space.finish(ordinary, &held, Ok(0));
    block_on(sent).expect("there is space");
    assert_eq!(queue.depth().unwrap(), 1);
}
