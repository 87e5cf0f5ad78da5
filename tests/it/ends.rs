//! Every iterator, future and loop of the crate ends after an error that cannot pass: the engine was closed, it
//! is poisoned, or the queue, topic or stream was deleted.

use std::{
    pin::Pin,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, channel},
    },
    task::{Context, Poll, Waker},
    thread,
};

use futures_core::Stream;
use posthouse::{Error, ErrorKind, Message, Queue, Start, Subscription};

use crate::support::{EIO, HOUR, MINUTE, SECOND, Sim, block_on, kind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Close,
    Delete,
    Poison,
}

const ENDS: [End; 3] = [End::Close, End::Delete, End::Poison];

impl End {
    fn is_told_by(self, error: &Error) -> bool {
        let expected = match self {
            End::Close => ErrorKind::Closed,
            End::Delete => ErrorKind::NotFound,
            End::Poison => ErrorKind::Poisoned,
        };
        error.kind() == expected
    }
}

/// A store with something of each kind.
struct All {
    sim: Sim,
    queue: Queue,
    dead: Queue,
    full: Queue,
    empty: Queue,
    subscription: Subscription,
    stream: posthouse::Stream,
}

impl All {
    fn new() -> All {
        let sim = Sim::new();
        let engine = &sim.engine;
        let queue = engine.queue("q").max_attempts(1).create().unwrap();
        let dead = engine.queue("q.dead").open().unwrap();
        queue.send_batch(["a", "b", "c", "d"]).unwrap();
        while let Some(delivery) = queue.try_receive().unwrap() {
            delivery.reject("no").unwrap();
        }
        queue.send_batch(["a", "b", "c", "d"]).unwrap();
        let full = engine.queue("full").max_messages(1).create().unwrap();
        full.send("one").unwrap();
        let empty = engine.queue("empty").create().unwrap();
        let topic = engine.topic("t").create().unwrap();
        let subscription = topic.subscription("s").create().unwrap();
        topic.publish("a").unwrap();
        topic.publish("b").unwrap();
        topic.publish("c").unwrap();
        let stream = engine.stream("st").create().unwrap();
        stream.append_batch(["a", "b", "c"]).unwrap();
        All { sim, queue, dead, full, empty, subscription, stream }
    }

    fn end(&self, how: End) {
        end(&self.sim, how);
    }
}

fn end(sim: &Sim, how: End) {
    let engine = &sim.engine;
    match how {
        End::Close => engine.close().unwrap(),
        End::Delete => {
            for queue in ["q", "q.dead", "full", "empty"] {
                engine.queue(queue).delete().unwrap();
            }
            engine.topic("t").delete().unwrap();
            engine.stream("st").delete().unwrap();
        }
        End::Poison => {
            let probe = engine.queue("probe").create().unwrap();
            sim.disk.fail_sync(0, EIO);
            assert_eq!(kind(probe.send("it fails")), ErrorKind::Poisoned);
        }
    }
}

/// Takes the rest of an iterator: the error once, and then nothing for ever.
fn assert_ends<T>(what: &str, how: End, mut rest: impl Iterator<Item = posthouse::Result<T>>) {
    let mut errors = 0;
    // The records of a block that was read before may still come.
    for item in rest.by_ref().take(100) {
        if let Err(error) = item {
            assert!(how.is_told_by(&error), "{what}, {how:?}: {error:?}");
            errors += 1;
        }
    }
    assert_eq!(errors, 1, "{what}, {how:?}");
    for _ in 0..3 {
        assert!(rest.next().is_none(), "{what}, {how:?}: it goes on after its end");
    }
}

#[test]
fn an_iterator_tells_an_error_that_cannot_pass_once_and_ends() {
    for how in ENDS {
        let all = All::new();
        let mut browse = all.queue.browse().unwrap();
        let mut of_subscription = all.subscription.browse().unwrap();
        let mut reader = all.stream.reader(Start::Earliest).unwrap();
        let group = all.stream.group("g").create().unwrap();
        let mut of_group = group.reader().unwrap();
        let of_partition = all.stream.partition(0).unwrap();
        let mut of_partition = of_partition.reader(Start::Earliest).unwrap();
        assert!(browse.next().unwrap().is_ok() && of_subscription.next().unwrap().is_ok());
        for reader in [&mut reader, &mut of_group, &mut of_partition] {
            assert_eq!(reader.by_ref().take(3).flatten().count(), 3);
        }
        all.end(how);
        assert_ends("browse", how, browse);
        assert_ends("browse of a subscription", how, of_subscription);
        assert_ends("reader", how, &mut reader);
        assert_eq!(kind(reader.try_read().map(drop)), kind(all.stream.append("late").map(drop)));
        assert_ends("reader of a group", how, of_group);
        assert_ends("reader of a partition", how, of_partition);
    }
}

#[test]
fn a_redrive_ends_although_its_queue_is_closed_deleted_or_poisoned_while_it_runs() {
    for how in ENDS {
        let All { sim, dead, .. } = All::new();
        let mut seen = 0;
        let redrive = dead.redrive().only(|_| {
            seen += 1;
            if seen == 2 {
                end(&sim, how);
            }
            assert!(seen < 100, "it goes on for ever");
            true
        });
        let error = redrive.run().unwrap_err();
        assert!(how.is_told_by(&error), "{how:?}: {error:?}");
    }
}

#[test]
fn a_stream_of_deliveries_ends() {
    for how in ENDS {
        let all = All::new();
        let mut deliveries = all.queue.deliveries();
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = || Pin::new(&mut deliveries).poll_next(&mut context);
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        all.end(how);
        match poll() {
            // A stream that is closed by its owner has ended in order.
            Poll::Ready(None) => assert_eq!(how, End::Close),
            Poll::Ready(Some(Err(error))) => assert!(how.is_told_by(&error), "{how:?}: {error}"),
            other => panic!("{how:?}: {other:?}"),
        }
        for _ in 0..3 {
            assert!(matches!(poll(), Poll::Ready(None)), "{how:?}");
        }
    }
}

type Waits = Box<dyn FnOnce() -> posthouse::Result<()> + Send>;

/// The calls that wait, and those that run until they are stopped.
#[cfg_attr(not(feature = "cron"), allow(unused_variables))]
fn calls_that_wait(all: &All, how: End) -> Vec<(&'static str, Waits)> {
    let All { empty, full, stream, .. } = all;
    let mut calls: Vec<(&'static str, Waits)> = Vec::new();
    let of = |queue: &Queue| queue.clone();
    let it = of(empty);
    calls.push(("receive", Box::new(move || it.receive(HOUR).map(drop))));
    let it = of(empty);
    calls.push(("receive_batch", Box::new(move || it.receive_batch(9, HOUR).map(drop))));
    let it = of(empty);
    calls.push(("receive_async", Box::new(move || block_on(it.receive_async()).map(drop))));
    let it = of(full);
    calls.push(("send_within", Box::new(move || it.send_within("two", HOUR).map(drop))));
    let it = of(empty);
    let worker = it.worker().concurrency(2).start(|_| Ok::<(), String>(())).unwrap();
    calls.push((
        "worker",
        Box::new(move || {
            while it.stats().is_ok() {
                thread::yield_now();
            }
            // Its threads end by themselves, and `stop` tells, unless it was quicker than they.
            worker.stop().and(it.stats().map(drop))
        }),
    ));
    let it = of(empty);
    let worker = move || block_on(it.worker().run_async(async |_| Ok::<(), String>(())));
    calls.push(("run_async", Box::new(worker)));
    let mut reader = stream.reader(Start::Latest).unwrap();
    calls.push(("read", Box::new(move || reader.read(HOUR).map(drop))));
    let mut reader = stream.reader(Start::Latest).unwrap();
    calls.push(("read_async", Box::new(move || block_on(reader.read_async()).map(drop))));
    let subscription = all.subscription.clone();
    calls.push((
        "receive of a subscription",
        Box::new(move || {
            let mut held = Vec::new();
            while let Some(delivery) = subscription.receive(HOUR)? {
                held.push(delivery);
            }
            Ok(())
        }),
    ));
    #[cfg(feature = "cron")]
    if how != End::Delete {
        let scheduler = all.sim.engine.scheduler();
        calls.push(("scheduler", Box::new(move || block_on(scheduler.run_async()))));
    }
    calls
}

#[test]
fn every_call_that_waits_ends() {
    for how in ENDS {
        let all = Arc::new(All::new());
        let (tell, told) = channel();
        let calls = calls_that_wait(&all, how);
        let mut left: Vec<_> = calls.iter().map(|(name, _)| *name).collect();
        let threads: Vec<_> = calls
            .into_iter()
            .map(|(name, call)| {
                let tell = tell.clone();
                thread::spawn(move || tell.send((name, call())).unwrap())
            })
            .collect();
        all.end(how);
        while !left.is_empty() {
            let (name, ended) = match told.recv_timeout(MINUTE) {
                Ok(ended) => ended,
                Err(RecvTimeoutError::Timeout) => panic!("{how:?}: these wait for ever: {left:?}"),
                Err(error) => panic!("{error}"),
            };
            left.retain(|it| *it != name);
            match ended {
                Err(error) => assert!(how.is_told_by(&error), "{name}, {how:?}: {error:?}"),
                // The owner has closed the engine: that is no failure of a worker.
                Ok(()) => assert_eq!(how, End::Close, "{name}"),
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

/// Calls that loop over many messages end, too.
#[test]
fn a_purge_and_a_look_at_the_oldest_message_end() {
    for how in ENDS {
        let all = All::new();
        all.queue.send(Message::new("later").deliver_after(SECOND)).unwrap();
        all.end(how);
        for error in [
            all.queue.purge().unwrap_err(),
            all.queue.oldest_age().unwrap_err(),
            all.queue.stats().unwrap_err(),
            all.queue.browse().unwrap_err(),
            all.dead.redrive().run().unwrap_err(),
        ] {
            assert!(how.is_told_by(&error), "{how:?}: {error:?}");
        }
    }
}
