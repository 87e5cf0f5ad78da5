//! The work of a thread that wakes others. The store is on a real disk, where the engine has its threads.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use posthouse::{Durability, Options, Start, sim::take_steps};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The steps of one append while tasks wait for it, under the core and in waking them. All are woken.
fn steps_of_an_append(durability: Durability, readers: usize) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(durability);
    let engine = options.open(dir.path().join("store")).unwrap();
    let stream = engine.stream("s").create().unwrap();
    stream.append("first").unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut all: Vec<_> = (0..readers).map(|_| stream.reader(Start::Latest).unwrap()).collect();
    let mut waits: Vec<_> = all.iter_mut().map(|it| Box::pin(it.read_async())).collect();
    waits.iter_mut().for_each(|it| assert!(it.as_mut().poll(&mut context).is_pending()));
    let _ = take_steps();
    stream.append("news").unwrap();
    let steps = take_steps();
    // The others are woken by a thread of the engine.
    while count.0.load(Ordering::Relaxed) < readers {
        thread::sleep(Duration::from_millis(1));
    }
    for mut waiting in waits {
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }
    steps
}

/// To wake those that wait is not the work of the thread that appends.
#[test]
fn an_append_to_a_hundred_readers_takes_at_most_three_times_the_steps_of_one_to_one() {
    for durability in [Durability::Buffered, Durability::Sync] {
        let [one, ten, hundred] =
            [1, 10, 100].map(|readers| steps_of_an_append(durability, readers));
        assert!(one > 1, "the steps are not counted");
        assert!(ten <= 3 * one && hundred <= 3 * one, "{durability:?}: {one}, {ten}, {hundred}");
    }
}

/// The engine is closed while many wait: all of them hear of it.
#[test]
fn a_close_reaches_all_of_a_hundred_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let engine = posthouse::Engine::open(dir.path().join("store")).unwrap();
    let queue = engine.queue("q").create().unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut waits: Vec<_> = (0..100).map(|_| Box::pin(queue.receive_async())).collect();
    waits.iter_mut().for_each(|it| assert!(it.as_mut().poll(&mut context).is_pending()));
    engine.close().unwrap();
    while count.0.load(Ordering::Relaxed) < 100 {
        thread::sleep(Duration::from_millis(1));
    }
    let mut closed = pin!(queue.receive_async());
    assert!(closed.as_mut().poll(&mut context).is_ready());
}
