//! What the rows do: each makes a number of things, and measures one call beside them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{Engine, Message, Queue, Start, Subscription, Topic};

use crate::{
    Result,
    cost::{Bench, Cost},
    counted,
};

/// Makes so many things. A durable definition is a commit of its own; many threads share its syncs.
fn make<T: Send>(count: u64, one: impl Fn(u64) -> posthouse::Result<T> + Sync) -> Result<Vec<T>> {
    if counted::is_on() {
        return Ok((0..count).map(one).collect::<posthouse::Result<_>>()?);
    }
    let one = &one;
    let made = thread::scope(|scope| {
        let parts: Vec<_> = (0..64)
            .map(|part| {
                let make = move || (part..count).step_by(64).map(one).collect();
                scope.spawn::<_, posthouse::Result<Vec<T>>>(make)
            })
            .collect();
        parts.into_iter().map(|part| part.join().expect("no panic")).collect::<Vec<_>>()
    });
    let mut all = Vec::new();
    for part in made {
        all.extend(part?);
    }
    Ok(all)
}

fn make_queues(engine: &Engine, count: u64) -> Result<Vec<Queue>> {
    make(count, |n| engine.queue(&format!("q{n}")).create())
}

fn make_subscriptions(topic: &Topic, count: u64) -> Result<Vec<Subscription>> {
    make(count, |n| topic.subscription(&format!("s{n}")).create())
}

/// Sends messages in batches.
fn fill(queue: &Queue, count: u64, message: impl Fn(u64) -> Message<'static>) -> Result<()> {
    for first in (0..count).step_by(1000) {
        queue.send_batch((first..count.min(first + 1000)).map(&message))?;
    }
    Ok(())
}

fn payload(bytes: usize) -> Message<'static> {
    Message::new(vec![7; bytes])
}

pub fn checkpoint_queues(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    bench.engine.checkpoint()?;
    queues.iter().try_for_each(|queue| queue.send(payload(100)).map(drop))?;
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

pub fn checkpoint_one(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    bench.engine.checkpoint()?;
    // The metalog that has all definitions is compacted once.
    queues[1].send(payload(100))?;
    bench.engine.checkpoint()?;
    queues[0].send(payload(100))?;
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

pub fn delete(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    drop(make_queues(&bench.engine, size)?);
    bench.measure(|engine| Ok((0..100).try_for_each(|n| engine.queue(&format!("q{n}")).delete())?))
}

pub fn checkpoint_topic(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let topic = bench.engine.topic("t").create()?;
    let subscriptions = make_subscriptions(&topic, size)?;
    for _ in 0..100 {
        topic.publish_batch((0..1000).map(|_| payload(100)))?;
    }
    for subscription in &subscriptions {
        let batch = subscription.receive_batch(100, Duration::ZERO)?;
        batch.iter().step_by(2).try_for_each(posthouse::Delivery::ack)?;
    }
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

pub fn catch_up(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let topic = bench.engine.topic("t").create()?;
    let subscriptions = make_subscriptions(&topic, size)?;
    topic.publish_batch((0..10).map(|_| payload(100)))?;
    bench.measure(|_| {
        for subscription in &subscriptions {
            let batch = subscription.receive_batch(10, Duration::ZERO)?;
            subscription.ack_batch(&batch)?;
        }
        Ok(())
    })
}

pub fn leases(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    // All of them are received before the first one ends.
    let lease = Duration::from_secs(1 + size / 100_000);
    let queue = bench.engine.queue("q").lease(lease).create()?;
    fill(&queue, size, |_| payload(100))?;
    let mut held = Vec::new();
    while held.len() < size as usize {
        held.extend(queue.receive_batch(1000, Duration::ZERO)?);
    }
    bench.measure(|_| {
        while queue.in_flight()? > 0 {
            bench.pass(Duration::from_millis(20));
        }
        Ok(())
    })
}

pub fn delayed(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queue = bench.engine.queue("q").create()?;
    let hour = Duration::from_secs(3600);
    fill(&queue, size, |_| payload(10).deliver_after(hour))?;
    queue.send(payload(10))?;
    bench.measure(|_| {
        let delivery = queue.receive(Duration::from_secs(60))?;
        Ok(delivery.ok_or("nothing came")?.ack()?)
    })
}

pub fn purge(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queue = bench.engine.queue("q").create()?;
    fill(&queue, size, |_| payload(10))?;
    let mut left = size;
    while left > 0 {
        let batch = queue.receive_batch(1000, Duration::ZERO)?;
        left -= batch.len() as u64;
        let (acked, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|it| it.offset().0.is_multiple_of(2));
        queue.ack_batch(&acked)?;
        rest.iter().try_for_each(posthouse::Delivery::release)?;
        if left < size / 2 {
            break;
        }
    }
    bench.measure(|_| Ok(queue.purge().map(drop)?))
}

pub fn readers(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").create()?;
    if counted::is_on() {
        // What the readers take. `tests/counted/waking.rs` counts what the thread that appends does for them.
        (0..10_000).try_for_each(|_| stream.append(payload(100)).map(drop))?;
        return bench.measure(|_| {
            for _ in 0..size {
                let mut reader = stream.reader(Start::Earliest)?;
                while reader.try_read()?.is_some() {}
            }
            Ok(())
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..size)
        .map(|_| {
            let (mut reader, stop) = (stream.reader(Start::Latest)?, Arc::clone(&stop));
            Ok(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = reader.read(Duration::from_millis(100));
                }
            }))
        })
        .collect::<Result<_>>()?;
    let cost = bench
        .measure(|_| Ok((0..100_000).try_for_each(|_| stream.append(payload(100)).map(drop))?))?;
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|it| it.join().expect("no panic"));
    Ok(cost)
}

pub fn partitions(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").partitions(size as u32).create()?;
    let keys: Vec<String> = (0..100_000).map(|n| format!("key {n}")).collect();
    bench.measure(|_| {
        let batch = keys.iter().map(|key| Message::new("a record").key(key.as_bytes()));
        Ok(stream.append_batch(batch).map(drop)?)
    })
}

pub fn checkpoint_partitions(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").partitions(size as u32).create()?;
    bench.engine.checkpoint()?;
    // Records without a key go round the partitions.
    stream.append_batch((0..size).map(|_| payload(100)))?;
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

pub fn poll(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").partitions(size as u32).create()?;
    let mut reader = stream.reader(Start::Latest)?;
    let keys: Vec<String> = (0..100_000).map(|n| format!("key {n}")).collect();
    bench.measure(|_| {
        for key in &keys {
            stream.append(Message::new("a record").key(key.as_bytes()))?;
            reader.read(Duration::from_secs(10))?.ok_or("no record came")?;
        }
        Ok(())
    })
}

pub fn transaction(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    bench.measure(|engine| {
        let mut transaction = engine.transaction();
        for queue in &queues {
            transaction.send(queue, "a message");
        }
        Ok(transaction.commit().map(drop)?)
    })
}

pub fn handles(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    // One by one: handles that exist together take memory that the system does not get back.
    (0..size).try_for_each(|n| bench.engine.queue(&format!("q{n}")).create().map(drop))?;
    bench.measure(|engine| {
        for n in 0..size {
            let queue = engine.queue(&format!("q{n}")).open()?;
            queue.send(payload(10))?;
            queue.try_receive()?.ok_or("nothing came")?.ack()?;
        }
        Ok(())
    })
}

pub fn held(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    let cost = bench.measure(|engine| {
        for queue in &queues {
            queue.send(payload(10))?;
            queue.try_receive()?.ok_or("nothing came")?.ack()?;
        }
        engine.checkpoint()?;
        // The memory of an idle queue is asserted in `tests/counted/memory.rs`.
        Ok(engine.checkpoint()?)
    })?;
    drop(queues);
    Ok(cost)
}

pub fn held_subscriptions(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let topic = bench.engine.topic("t").create()?;
    let subscriptions = make_subscriptions(&topic, size)?;
    let cost = bench.measure(|engine| {
        topic.publish(payload(10))?;
        for subscription in &subscriptions {
            subscription.try_receive()?.ok_or("nothing came")?.ack()?;
        }
        engine.checkpoint()?;
        Ok(engine.checkpoint()?)
    })?;
    drop(subscriptions);
    Ok(cost)
}

pub fn pressure(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    if counted::is_on() {
        return bench.measure(|_| {
            let turns = queues.iter().cycle().take(50_000);
            Ok(turns.into_iter().try_for_each(|queue| queue.send(payload(4096)).map(drop))?)
        });
    }
    let cost = bench.measure(|_| {
        let end = Instant::now() + Duration::from_secs(5);
        let send = |queue: &Queue| {
            while Instant::now() < end {
                queue.send(payload(4096))?;
            }
            Ok::<(), posthouse::Error>(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                queues.iter().map(|queue| scope.spawn(move || send(queue))).collect();
            threads.into_iter().try_for_each(|it| it.join().expect("no panic"))
        })?;
        Ok(())
    })?;
    Ok(cost)
}

pub fn beside(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    queues.iter().try_for_each(|queue| queue.send(payload(100)).map(drop))?;
    let fast = bench.engine.queue("fast").create()?;
    if counted::is_on() {
        return bench.measure(|engine| {
            (0..20_000).try_for_each(|_| fast.send(payload(1024)).map(drop))?;
            Ok(engine.checkpoint()?)
        });
    }
    bench.measure(|_| {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            fast.send(payload(1024))?;
        }
        Ok(())
    })
}

pub fn message(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queue = bench.engine.queue("q").create()?;
    let message = payload(size as usize);
    bench.measure_peak(|engine| {
        queue.send(message)?;
        engine.checkpoint()?;
        Ok(queue.try_receive()?.ok_or("nothing came")?.ack()?)
    })
}

pub fn straggler(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queue = bench.engine.queue("q").create()?;
    fill(&queue, size, |_| payload(1024))?;
    let mut held = Vec::new();
    let mut left = size;
    while left > 0 {
        let batch = queue.receive_batch(1000, Duration::ZERO)?;
        left -= batch.len() as u64;
        let (stay, acked): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|it| it.offset().0.is_multiple_of(10_000));
        queue.ack_batch(&acked)?;
        held.extend(stay);
    }
    let mut cost = bench.measure(|engine| {
        bench.pass(Duration::from_secs(12));
        // The thread that does it by itself is not there.
        if counted::is_on() { Ok(engine.checkpoint()?) } else { Ok(()) }
    })?;
    bench.add_space(&mut cost)?;
    Ok(cost)
}
