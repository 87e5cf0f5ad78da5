//! A waker is the application's code. It may send, close the engine, or drop the last handle, on any thread
//! of the engine that calls it. Nothing hangs.

use std::{
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use posthouse::{Engine, ErrorKind, sim::SimDisk};

use crate::model::{drain, small_options};

/// Runs a function once.
struct Does(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Does {
    fn wake(self: Arc<Self>) {
        let act = self.0.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
    }
}

fn waker(act: impl FnOnce() + Send + 'static) -> Waker {
    Waker::from(Arc::new(Does(Mutex::new(Some(Box::new(act))))))
}

/// Fails, instead of hanging, if the function takes far too long.
fn in_time<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let acting = thread::spawn(move || done.send(act()));
    let result = result.recv_timeout(Duration::from_secs(60));
    if matches!(result, Err(mpsc::RecvTimeoutError::Disconnected)) {
        acting.join().unwrap().unwrap();
    }
    result.expect("it hangs")
}

/// Makes the engine call a waker when a message that was just sent is durable. The ticket ends with it.
fn when_durable(engine: &Engine, act: impl FnOnce() + Send + 'static) -> mpsc::Receiver<()> {
    let queue = engine.queue("q").create().unwrap();
    let place = Arc::new(Mutex::new(Some(queue.send_ticket("a").unwrap())));
    drop(queue);
    let (done, is_done) = mpsc::channel();
    let same = Arc::clone(&place);
    let waker = waker(move || {
        drop(same.lock().unwrap().take());
        act();
        let _ = done.send(());
    });
    let mut ticket = place.lock().unwrap();
    let polled = Pin::new(ticket.as_mut().unwrap()).poll(&mut Context::from_waker(&waker));
    drop(ticket);
    // A sync may have been faster: then there is nothing to wake.
    if polled.is_ready() {
        waker.wake();
    }
    is_done
}

/// Another engine can open the store: soon, if a thread of the engine lets go of it.
fn depth_for_others(path: &Path) -> u64 {
    for _ in 0..10_000 {
        match Engine::open(path) {
            Ok(engine) => return engine.queue("q").open().unwrap().depth().unwrap(),
            Err(error) if matches!(error.kind(), ErrorKind::Locked { .. }) => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store was never let go of");
}

#[test]
fn a_waker_may_send() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path().join("store")).unwrap();
        let queue = engine.queue("q").create().unwrap();
        let woken = when_durable(&engine, move || {
            let _ = queue.send("from the waker").unwrap();
        });
        woken.recv_timeout(Duration::from_secs(60)).expect("the waker hangs");
        assert_eq!(drain(&engine.queue("q").open().unwrap()).len(), 2);
    }
}

#[test]
fn a_waker_may_close() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let engine = Engine::open(&path).unwrap();
        let same = engine.clone();
        let woken = when_durable(&engine, move || same.close().unwrap());
        woken.recv_timeout(Duration::from_secs(60)).expect("the waker hangs");
        assert_eq!(engine.sync().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(depth_for_others(&path), 1);
    }
}

#[test]
fn a_waker_may_close_while_another_thread_closes() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let engine = Engine::open(&path).unwrap();
        let same = engine.clone();
        let woken = when_durable(&engine, move || same.close().unwrap());
        in_time(move || engine.close().unwrap());
        woken.recv_timeout(Duration::from_secs(60)).expect("the waker hangs");
        assert_eq!(depth_for_others(&path), 1);
    }
}

#[test]
fn a_waker_may_drop_the_last_handle() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let engine = Engine::open(&path).unwrap();
        let last = engine.clone();
        let woken = when_durable(&engine, move || drop(last));
        drop(engine);
        woken.recv_timeout(Duration::from_secs(60)).expect("the waker hangs");
        assert_eq!(depth_for_others(&path), 1);
    }
}

/// A checkpoint syncs commits that were not synced yet. In the middle of it, it wakes the tasks that wait for
/// them.
#[test]
fn a_waker_may_close_in_the_midst_of_a_checkpoint() {
    let disk = SimDisk::new(1);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let mut received = queue.receive_async();
    let same = engine.clone();
    let (closed, is_closed) = mpsc::channel();
    let waker = waker(move || closed.send(same.close()).unwrap());
    assert!(Pin::new(&mut received).poll(&mut Context::from_waker(&waker)).is_pending());
    let ticket = queue.send_ticket("a").unwrap();
    let made = in_time(move || engine.checkpoint());
    is_closed.try_recv().expect("the checkpoint has not woken the one that waits").unwrap();
    eprintln!("the checkpoint: {made:?}");
    drop((received, ticket, queue));
    for _ in 0..10_000 {
        match small_options().sim(&disk).open("store") {
            Ok(engine) => return assert_eq!(drain(&engine.queue("q").open().unwrap()).len(), 1),
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "{error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("the store was never let go of");
}

/// Closing wakes waiting tasks too. A second `close` in a waker does not wait for the first.
#[test]
fn a_waker_that_closing_calls_may_close() {
    let disk = SimDisk::new(1);
    let engine = small_options().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    let mut received = queue.receive_async();
    let same = engine.clone();
    let (closed, is_closed) = mpsc::channel();
    let waker = waker(move || closed.send(same.close()).unwrap());
    assert!(Pin::new(&mut received).poll(&mut Context::from_waker(&waker)).is_pending());
    in_time(move || engine.close().unwrap());
    is_closed.try_recv().expect("nobody was told").unwrap();
}
