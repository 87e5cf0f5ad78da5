//! The policy of workers, without their threads.

use std::{cell::Cell, path::Path, sync::Arc, time::Duration};

use super::{
    Worker,
    work::{Next, Work},
};
use crate::{
    Engine, Queue,
    config::Config,
    disk::sim::SimDisk,
    engine::consume::calls::Consuming,
    error::{Error, ErrorKind},
    prims::thread,
};

fn open() -> (Engine, Queue) {
    let disk = SimDisk::new(1);
    let process = Arc::new(disk.process());
    let engine = Engine::open_on(process, Path::new("store"), Config::default(), true);
    let engine = engine.expect("the disk is well");
    let queue = engine.queue("q").max_attempts(3).create().expect("there is space");
    (engine, queue)
}

fn work(queue: &Queue) -> Work {
    Work::new(queue.consumer(), Duration::from_secs(60), None)
}

#[test]
fn only_errors_that_cannot_pass_end_a_worker() {
    use ErrorKind::*;
    let (engine, queue) = open();
    let work = work(&queue);
    let judged = |kind| work.judge(Error::new(kind, "for a test")).map_err(|error| error.kind());
    assert_eq!(judged(Closed), Ok(Next::End));
    assert_eq!(judged(Poisoned), Err(Poisoned));
    assert_eq!(judged(NotFound), Ok(Next::Rest), "another queue was deleted");
    assert_eq!(judged(Corrupt), Ok(Next::GoOn));
    let others = [
        Io,
        DiskFull,
        QueueFull,
        TooLarge,
        AlreadyExists,
        UnsupportedVersion,
        LeaseLost,
        InvalidInput { field: "reason" },
        Locked { holder: None },
    ];
    for kind in others {
        assert_eq!(judged(kind), Ok(Next::Rest), "{kind:?}");
    }
    engine.queue("q").delete().expect("it is there");
    assert_eq!(judged(NotFound), Err(NotFound), "the queue was deleted");
}

/// The thread had received the message when the worker was stopped. `stop_within` has seen no handler that runs.
#[test]
fn a_message_that_was_received_at_the_moment_of_a_stop_is_given_back_unhandled() {
    let (_engine, queue) = open();
    let work = work(&queue);
    queue.send("a").expect("there is space");
    let delivery = queue.try_receive().expect("it can be read").expect("it was sent");
    work.stop();
    let is_handled = Cell::new(false);
    let handler = |_: &crate::Delivery| {
        is_handled.set(true);
        Ok::<(), String>(())
    };
    assert_eq!(work.handle(0, &delivery, &handler).expect("it goes on to its end"), Next::GoOn);
    assert!(!is_handled.get(), "a handler began after the stop");
    let again = queue.try_receive().expect("it can be read").expect("it is given back");
    assert_eq!(again.attempt(), 1, "that is no failed attempt");
}

#[test]
fn a_thread_that_panicked_is_an_error_of_stop() {
    let (_engine, queue) = open();
    let mut worker = Worker::start(work(&queue), 1, |_| Ok::<(), String>(())).expect("it starts");
    worker.threads.push(thread::spawn(|| panic!("on purpose")));
    assert_eq!(worker.stop().map_err(|error| error.kind()), Err(ErrorKind::Poisoned));
}
