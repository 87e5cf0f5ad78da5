//! The work of a thread that wakes others. The store is on a real disk, where the engine has its threads.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use posthouse::{
    Backoff, Delivery, Durability, Engine, Message, Options, Result, Start, Subscription,
    sim::{SimDisk, take_steps},
};

use super::heap::taken;

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

/// The steps of many appends while so many threads read what comes, all of which read everything.
fn steps_of_appends(readers: usize) -> u64 {
    const APPENDS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let stream = engine.stream("s").create().unwrap();
    thread::scope(|scope| {
        for _ in 0..readers {
            let mut reader = stream.reader(Start::Latest).unwrap();
            scope.spawn(move || {
                for n in 0..APPENDS {
                    let record = reader.read(Duration::from_secs(60)).unwrap().expect("it comes");
                    assert_eq!(record.offset().0, n);
                }
            });
        }
        thread::sleep(Duration::from_millis(20));
        let _ = take_steps();
        (0..APPENDS).for_each(|_| _ = stream.append([7; 100].as_slice()).unwrap());
        take_steps()
    })
}

/// The steps are those under the core, and one for each thread that is woken.
#[test]
fn many_appends_to_a_hundred_threads_take_at_most_three_times_the_steps_of_those_to_one() {
    let [one, ten, hundred] = [1, 10, 100].map(steps_of_appends);
    assert!(ten <= 3 * one && hundred <= 3 * one, "{one}, {ten}, {hundred}");
}

/// A reader looks at the core, and holds the bytes of the journal, once for hundreds of records that were committed one by one.
#[test]
fn a_reader_takes_records_of_many_commits_at_once() {
    const RECORDS: u64 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().durability(Durability::Buffered);
    let engine = options.open(dir.path().join("store")).unwrap();
    let stream = engine.stream("s").create().unwrap();
    (0..RECORDS).for_each(|_| _ = stream.append([7; 100].as_slice()).unwrap());
    let mut reader = stream.reader(Start::Earliest).unwrap();
    let before = taken().0;
    for _ in 0..RECORDS {
        assert_eq!(reader.try_read().unwrap().expect("it is there").payload(), [7; 100]);
    }
    let allocations = taken().0 - before;
    assert!(allocations <= RECORDS / 20, "{allocations} allocations");
}

/// The engine is closed while many wait: all of them hear of it.
#[test]
fn a_close_reaches_all_of_a_hundred_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("store")).unwrap();
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

/// How often a task was woken.
fn woken(count: &Arc<Count>) -> usize {
    count.0.load(Ordering::Relaxed)
}

/// An engine without threads, so that all who are woken are woken when a call returns.
fn alone() -> Engine {
    let disk = SimDisk::new(7);
    Options::new().durability(Durability::Buffered).sim(&disk).open("store").unwrap()
}

/// A message that comes back to one of many subscriptions is news for that one only. S subscriptions with a failure each woke
/// S times S consumers.
#[test]
fn what_concerns_one_subscription_wakes_no_other() {
    const MANY: usize = 50;
    let engine = alone();
    let topic = engine.topic("t").create().unwrap();
    let subscribe = |n: usize| {
        let subscription = topic.subscription(&n.to_string()).backoff(Backoff::None);
        subscription.create().unwrap()
    };
    let all: Vec<_> = (0..MANY).map(subscribe).collect();
    topic.publish("m").unwrap();
    let held: Vec<_> = all.iter().map(|it| it.try_receive().unwrap().unwrap()).collect();
    let counts: Vec<_> = all.iter().map(|_| Arc::new(Count::default())).collect();
    let wakers: Vec<_> = counts.iter().map(|it| Waker::from(Arc::clone(it))).collect();
    let poll = |n: usize, waiting: &mut Pin<Box<dyn Future<Output = Result<Delivery>> + '_>>| {
        waiting.as_mut().poll(&mut Context::from_waker(&wakers[n]))
    };
    let waiting = |it: &_| -> Pin<Box<dyn Future<Output = Result<Delivery>>>> {
        let it: Subscription = Clone::clone(it);
        Box::pin(async move { it.receive_async().await })
    };
    let mut waits: Vec<_> = all.iter().map(waiting).collect();
    waits.iter_mut().enumerate().for_each(|(n, it)| assert!(poll(n, it).is_pending()));
    for (n, it) in held.into_iter().enumerate() {
        it.nack().unwrap();
        let sum: usize = counts.iter().map(woken).sum();
        assert_eq!((sum, woken(&counts[n])), (n + 1, 1), "after nack {n}");
    }
    for (n, it) in waits.iter_mut().enumerate() {
        let Poll::Ready(received) = poll(n, it) else { panic!("it was woken") };
        received.unwrap().ack().unwrap();
    }
    // A second consumer of a subscription does not wake for a message that the first one gets.
    let mut waits: Vec<_> = all.iter().chain(&all).map(waiting).collect();
    waits.iter_mut().enumerate().for_each(|(n, it)| assert!(poll(n % MANY, it).is_pending()));
    topic.publish("news").unwrap();
    assert!(counts.iter().all(|it| woken(it) == 2), "one consumer of each");
    // Who waits for a subscription that is deleted hears of it, and nobody else.
    topic.subscription("7").delete().unwrap();
    let others = counts.iter().enumerate().filter(|(n, _)| *n != 7);
    assert!(others.into_iter().all(|(_, it)| woken(it) == 2));
    assert!(woken(&counts[7]) > 2);
}

/// A record of one partition is news for those who read that partition, and for those who read all.
#[test]
fn a_record_wakes_the_readers_of_its_partition() {
    let engine = alone();
    let stream = engine.stream("s").partitions(50).create().unwrap();
    let reader = |n| stream.partition(n).unwrap().reader(Start::Latest).unwrap();
    let mut readers: Vec<_> = (0..50).map(reader).collect();
    readers.push(stream.reader(Start::Latest).unwrap());
    let counts: Vec<_> = readers.iter().map(|_| Arc::new(Count::default())).collect();
    let mut waits: Vec<_> = readers.iter_mut().map(|it| Box::pin(it.read_async())).collect();
    for (waiting, count) in waits.iter_mut().zip(&counts) {
        let waker = Waker::from(Arc::clone(count));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let partition = stream.append(Message::new("news").key("k")).unwrap().partition as usize;
    let told = counts.iter().enumerate().filter(|(_, it)| woken(it) > 0);
    assert_eq!(told.map(|(n, _)| n).collect::<Vec<_>>(), [partition, 50]);
}
