//! A task that receives does not block its thread, whatever other threads do.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use super::{
    block_on, config, open,
    short::{fill_disk, make_space},
};
use crate::{
    Backoff, Delivery, Engine, Message, Queue, config::Config, disk::sim::SimDisk, ids::CursorId,
    store::Space,
};
#[cfg(feature = "cron")]
use crate::{
    engine::commit::patience::{Past, ask},
    store::Shortage,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Polls a receive again and again, until there is no message and each poll is pending. This thread looks whether a poll
/// blocks.
fn check_polls(queue: &Queue) -> Vec<Delivery> {
    const POLLS: usize = 100;
    let polls = Arc::new(AtomicUsize::new(0));
    let (counted, queue) = (Arc::clone(&polls), queue.clone());
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        let mut came = Vec::new();
        while counted.load(Ordering::SeqCst) < POLLS {
            match poll(&mut Box::pin(queue.receive_async())) {
                Poll::Ready(delivery) => came.push(delivery.expect("it can be read")),
                Poll::Pending => _ = counted.fetch_add(1, Ordering::SeqCst),
            }
            thread::sleep(Duration::from_millis(5));
        }
        done.send(came).expect("the test waits");
    });
    let in_time = is_done.recv_timeout(Duration::from_secs(10));
    let polls = polls.load(Ordering::SeqCst);
    in_time.unwrap_or_else(|_| panic!("a poll blocks its thread after {polls} others"))
}

fn poll(
    future: &mut (impl Future<Output = crate::Result<Delivery>> + Unpin),
) -> Poll<crate::Result<Delivery>> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn cursor(engine: &Engine, name: &str) -> CursorId {
    let core = engine.committer().lock("test");
    core.store.find(Space::Queues, name).expect("it is there").id.cursor(0)
}

/// The other thread may wait for space in the journal, to commit that the messages are back.
#[test]
fn a_task_does_not_block_while_another_thread_brings_messages_back_from_disk() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Config { delayed_in_memory: 8, ..config() });
    let queue = engine.queue("q").create().unwrap();
    for n in 1..=40u32 {
        queue.send(Message::new(n.to_string()).deliver_after(n * HOUR)).unwrap();
    }
    // Blocks come back in the order of their due times. This thread is the one that has the first.
    let (committer, cursor) = (engine.committer(), cursor(&engine, "q"));
    let first_spilled = {
        let core = committer.lock("test");
        core.store.acks(cursor).unwrap().all_spilled().next().expect("some are spilled")
    };
    disk.advance(u32::try_from(first_spilled.0 + 1).unwrap() * HOUR);
    let mut came = Vec::new();
    let taken = loop {
        let taken = committer.lock("test").take_block(cursor, committer.elapsed()).unwrap();
        if let Some(taken) = taken {
            break taken;
        }
        came.extend(queue.try_receive().unwrap());
    };
    came.extend(check_polls(&queue));
    let mut waiting = Box::pin(queue.receive_async());
    assert!(poll(&mut waiting).is_pending());

    // A worker that waits for the messages can be stopped.
    let is_stopped = Cell::new(false);
    let stop = poll_fn(|_| if is_stopped.get() { Poll::Ready(()) } else { Poll::Pending });
    let mut run = pin!(queue.worker().run_until(stop, async |_| Ok::<(), String>(())));
    let mut context = Context::from_waker(Waker::noop());
    assert!(run.as_mut().poll(&mut context).is_pending());
    is_stopped.set(true);
    assert!(run.as_mut().poll(&mut context).is_ready());

    drop(taken);
    committer.lock("test").end_return(cursor, |index| index.rest_until(Duration::ZERO, None));
    let next = block_on(waiting).unwrap();
    assert_eq!(next.offset(), first_spilled, "it came back");
}

/// One consumer at a time leases from a queue that is ordered by key. It waited for space meanwhile.
#[test]
fn a_task_does_not_block_while_a_thread_that_receives_in_the_order_of_keys_awaits_space() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").ordered_by_key(true).backoff(Backoff::None).create().unwrap();
    let other = engine.queue("other").create().unwrap();
    queue.send(Message::new("a").key("k")).unwrap();
    let held = queue.try_receive().unwrap().expect("it is there");
    let round = fill_disk(&disk, &engine, &other);
    // The failure of this delivery is to be counted before the next one.
    drop(held);
    let checkpointing = engine.committer().checkpointing.lock();
    let own = queue.clone();
    let receiving = thread::spawn(move || own.receive(HOUR));
    assert!(check_polls(&queue).is_empty());
    disk.set_capacity(None);
    drop(checkpointing);
    make_space(&engine, &round);
    let delivery = receiving.join().unwrap().unwrap().expect("it came back");
    assert_eq!((delivery.payload(), delivery.attempt()), (&b"a"[..], 2));
}

/// Polls a future again and again while no space can be made, and after `make_space` until it is seen to be `done`. This
/// thread looks whether a poll blocks.
#[cfg(feature = "cron")]
fn poll_without_space(
    mut future: std::pin::Pin<Box<dyn Future<Output = crate::Result<()>> + Send>>,
    make_space: impl FnOnce(),
    done: impl Fn() -> bool,
) {
    const POLLS: usize = 50;
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    thread::spawn(move || {
        let mut context = Context::from_waker(Waker::noop());
        while future.as_mut().poll(&mut context).is_pending() {
            counted.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let await_for = |what: &str, is_so: &dyn Fn() -> bool| {
        for _ in 0..2000 {
            if is_so() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{what} after {} polls", polls.load(Ordering::SeqCst));
    };
    await_for("a poll blocks its thread", &|| polls.load(Ordering::SeqCst) >= POLLS);
    assert!(!done(), "there was space");
    make_space();
    await_for("it does not go on", &done);
}

/// Fills the journal, until commits that free space lack space, too. Nobody makes a checkpoint meanwhile.
#[cfg(feature = "cron")]
fn fill_journal(engine: &Engine, other: &Queue, held: &[Delivery]) {
    let committer = engine.committer();
    // Whether a commit lacks a checkpoint. If it lacks a file, that is made.
    let lacks = |call: &dyn Fn() -> crate::Result<()>| match ask(Past::default(), call) {
        (_, Some(Shortage::Checkpoint { .. })) => true,
        (_, Some(lacks)) => {
            committer.make_space(lacks).expect("the disk has space");
            false
        }
        (done, None) => {
            done.expect("nothing else is wrong");
            false
        }
    };
    while !lacks(&|| other.send_ticket(vec![7; 3000]).map(drop)) {}
    for delivery in held {
        while !delivery.is_settled.load(Ordering::Relaxed) {
            if lacks(&|| delivery.ack_ticket().map(drop)) {
                return;
            }
        }
    }
    panic!("the journal never lacked space");
}

/// Another thread has the right to make a checkpoint until the result is called.
#[cfg(feature = "cron")]
fn hold_checkpoints(engine: &Engine) -> impl FnOnce() {
    let (lock, is_locked) = mpsc::channel();
    let (unlock, is_over) = mpsc::channel();
    let own = engine.clone();
    let holding = thread::spawn(move || {
        let _checkpointing = own.committer().checkpointing.lock();
        lock.send(()).expect("the test waits");
        is_over.recv().expect("the test goes on");
    });
    is_locked.recv().expect("the other thread works");
    move || {
        unlock.send(()).expect("the other thread works");
        holding.join().expect("the other thread works");
    }
}

/// It commits runs and failures of runs, and creates its queue.
#[cfg(feature = "cron")]
#[test]
fn a_scheduler_in_a_task_does_not_block_while_it_awaits_space() {
    for (what, creates, has_target) in
        [("a run", true, true), ("a failure", true, false), ("its queue", false, true)]
    {
        println!("{what}");
        let disk = SimDisk::new(1);
        let engine = open(&disk, config());
        let queue = engine.queue("q").create().expect("the other thread works");
        let other =
            engine.queue("other").lease(24 * HOUR).create().expect("the other thread works");
        let hourly = engine.schedule("hourly").cron("@hourly").to_queue(&queue, "tick");
        if creates {
            hourly.create().expect("the other thread works");
        }
        if !has_target {
            engine.queue("q").delete().unwrap();
        }
        other.send_batch((0..5000).map(|_| "x")).unwrap();
        let held = other.receive_batch(5000, Duration::ZERO).unwrap();
        disk.advance(HOUR);
        let release = hold_checkpoints(&engine);
        fill_journal(&engine, &other, &held);
        let done = || match (creates, has_target) {
            (true, true) => queue.depth().unwrap() == 1,
            (true, false) => engine.schedule("hourly").open().unwrap().failed_attempts() == 1,
            _ => engine.queues().unwrap().len() == 3,
        };
        let task = engine.scheduler().run_async();
        poll_without_space(Box::pin(task), release, done);
        engine.close().unwrap();
    }
}

/// It took the lack of space for a full disk: for half a second nobody got the messages.
#[cfg(feature = "cron")]
#[test]
fn a_call_that_awaits_space_for_overdue_messages_keeps_them_from_nobody() {
    for _ in 0..50 {
        let disk = SimDisk::new(1);
        let engine = open(&disk, Config { delayed_in_memory: 8, ..config() });
        let queue = engine.queue("q").create().unwrap();
        for n in 1..=40u32 {
            queue.send(Message::new(n.to_string()).deliver_after(n * HOUR / 2)).unwrap();
        }
        let other = engine.queue("other").lease(24 * HOUR).create().unwrap();
        other.send_batch((0..5000).map(|_| "x")).unwrap();
        let held = other.receive_batch(5000, Duration::ZERO).unwrap();
        let (committer, cursor) = (engine.committer(), cursor(&engine, "q"));
        let release = hold_checkpoints(&engine);
        fill_journal(&engine, &other, &held);
        disk.advance(20 * HOUR);
        let (outcome, lacks) = ask(Past::default(), || committer.bring_back(cursor));
        let Err(error) = outcome else {
            // The flusher's thread was quicker.
            release();
            continue;
        };
        assert!(error.is_lack_of_space() && lacks.is_some());
        // The flusher's thread may have begun meanwhile.
        let (mut core, now) = (committer.lock("test"), committer.elapsed());
        let is_free = core.wants_block(cursor, now) || core.wait_for_block(cursor, now).is_some();
        drop(core);
        release();
        assert!(is_free, "the next one may bring them back");
        let mut left = 40;
        while queue.receive(HOUR).unwrap().is_some_and(|it| it.ack().is_ok()) {
            left -= 1;
            if left == 0 {
                break;
            }
        }
        return engine.close().unwrap();
    }
    panic!("the flusher's thread was always quicker");
}
