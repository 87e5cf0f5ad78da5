//! The rows: each makes a number of things, and measures one call beside them.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use posthouse::{Engine, Message, Queue, Start};

use crate::{
    Result,
    cost::{Bench, Cost},
    counted::{self, Bounds},
};

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The name by which it is chosen.
    pub name: &'static str,
    /// What is measured.
    pub title: &'static str,
    /// Three sizes, each ten times the one before.
    pub sizes: [u64; 3],
    /// What its counts are to keep. `None` if they cannot be counted.
    pub bounds: Option<Bounds>,
    /// Measures it in a new store, at a size.
    pub run: fn(&Path, u64) -> Result<Cost>,
}

/// All rows.
pub const ROWS: &[Row] = &[
    Row {
        name: "checkpoint-queues",
        title: "checkpoint, one new message in each of N queues",
        sizes: [1_000, 10_000, 100_000],
        bounds: Some(Bounds { syncs: 100, written_each: 700, files: 20, ..Bounds::LINEAR }),
        run: checkpoint_queues,
    },
    Row {
        name: "checkpoint-one",
        title: "checkpoint with one dirty queue among N",
        sizes: [1_000, 10_000, 100_000],
        bounds: Some(Bounds::FLAT),
        run: checkpoint_one,
    },
    Row {
        name: "delete",
        title: "delete 100 of N queues",
        sizes: [1_000, 10_000, 100_000],
        bounds: Some(Bounds::FLAT),
        run: delete,
    },
    Row {
        name: "checkpoint-topic",
        title: "checkpoint of a topic, N subscriptions, 100,000 messages, each subscription with acks",
        sizes: [10, 100, 1_000],
        bounds: Some(Bounds::LINEAR),
        run: checkpoint_topic,
    },
    Row {
        name: "catch-up",
        title: "N subscriptions of one topic receive and ack 10 messages each",
        sizes: [100, 1_000, 10_000],
        bounds: Some(Bounds::LINEAR),
        run: catch_up,
    },
    Row {
        name: "leases",
        title: "N leases end together",
        sizes: [10_000, 100_000, 1_000_000],
        bounds: Some(Bounds::LINEAR),
        run: leases,
    },
    Row {
        name: "delayed",
        title: "the first receive past N delayed messages",
        sizes: [100_000, 1_000_000, 10_000_000],
        bounds: Some(Bounds::FLAT),
        run: delayed,
    },
    Row {
        name: "purge",
        title: "purge of N messages, every second one acked",
        sizes: [10_000, 100_000, 1_000_000],
        bounds: Some(Bounds::LINEAR),
        run: purge,
    },
    Row {
        name: "readers",
        title: "100,000 appends with N readers waiting",
        sizes: [1, 10, 100],
        bounds: None,
        run: readers,
    },
    Row {
        name: "partitions",
        title: "one commit of 100,000 records over N partitions",
        sizes: [40, 400, 4_000],
        bounds: Some(Bounds::ONE_LOOK_EACH),
        run: partitions,
    },
    Row {
        name: "checkpoint-partitions",
        title: "checkpoint, one new record in each of N partitions",
        sizes: [40, 400, 4_000],
        bounds: Some(Bounds { syncs: 100, files: 20, ..Bounds::LINEAR }),
        run: checkpoint_partitions,
    },
    Row {
        name: "poll",
        title: "100,000 records appended and read one by one, N partitions",
        sizes: [10, 100, 1_000],
        bounds: Some(Bounds::FLAT),
        run: poll,
    },
    Row {
        name: "transaction",
        title: "a transaction that sends to N queues",
        sizes: [500, 5_000, 50_000],
        bounds: Some(Bounds::ONE_LOOK_EACH),
        run: transaction,
    },
    Row {
        name: "handles",
        title: "N queues, opened and used once, handles dropped",
        sizes: [1_000, 10_000, 100_000],
        bounds: Some(Bounds::LINEAR),
        run: handles,
    },
    Row {
        name: "held",
        title: "N queues, used once, idle, handles kept",
        sizes: [1_000, 10_000, 100_000],
        bounds: None,
        run: held,
    },
    Row {
        name: "pressure",
        title: "N producers of 4 KiB messages, as fast as they can for 5 s",
        sizes: [1, 2, 4],
        bounds: None,
        run: pressure,
    },
    Row {
        name: "beside",
        title: "a producer of 1 KiB messages, as fast as it can for 5 s, beside N queues of one message",
        sizes: [100, 1_000, 10_000],
        bounds: None,
        run: beside,
    },
    Row {
        name: "message",
        title: "a message of N bytes: sent, moved by a checkpoint, received, acked",
        sizes: [160 << 10, 1600 << 10, 16_000 << 10],
        bounds: Some(Bounds::FLAT),
        run: message,
    },
    Row {
        name: "straggler",
        title: "N messages of 1 KiB, all but one in 10,000 acked, after 12 s idle",
        sizes: [10_000, 100_000, 1_000_000],
        bounds: None,
        run: straggler,
    },
];

fn make_queues(engine: &Engine, count: u64) -> Result<Vec<Queue>> {
    if counted::is_on() {
        let made = (0..count).map(|n| engine.queue(&format!("q{n}")).create());
        return Ok(made.collect::<posthouse::Result<_>>()?);
    }
    // A durable definition is a commit of its own; many threads share its syncs.
    let made = thread::scope(|scope| {
        let parts: Vec<_> = (0..64)
            .map(|part| {
                scope.spawn(move || {
                    let names = (part..count).step_by(64);
                    let made = names.map(|n| engine.queue(&format!("q{n}")).create());
                    made.collect::<posthouse::Result<Vec<Queue>>>()
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().expect("no panic")).collect::<Vec<_>>()
    });
    let mut queues = Vec::new();
    for part in made {
        queues.extend(part?);
    }
    Ok(queues)
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

fn checkpoint_queues(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    bench.engine.checkpoint()?;
    queues.iter().try_for_each(|queue| queue.send(payload(100)).map(drop))?;
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

fn checkpoint_one(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    bench.engine.checkpoint()?;
    // The metalog that has all definitions is compacted once.
    queues[1].send(payload(100))?;
    bench.engine.checkpoint()?;
    queues[0].send(payload(100))?;
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

fn delete(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    drop(make_queues(&bench.engine, size)?);
    bench.measure(|engine| Ok((0..100).try_for_each(|n| engine.queue(&format!("q{n}")).delete())?))
}

fn checkpoint_topic(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let topic = bench.engine.topic("t").create()?;
    let subscriptions = (0..size).map(|n| topic.subscription(&format!("s{n}")).create());
    let subscriptions = subscriptions.collect::<posthouse::Result<Vec<_>>>()?;
    for _ in 0..100 {
        topic.publish_batch((0..1000).map(|_| payload(100)))?;
    }
    for subscription in &subscriptions {
        let batch = subscription.receive_batch(100, Duration::ZERO)?;
        batch.iter().step_by(2).try_for_each(posthouse::Delivery::ack)?;
    }
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

fn catch_up(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let topic = bench.engine.topic("t").create()?;
    let subscriptions = (0..size).map(|n| topic.subscription(&format!("s{n}")).create());
    let subscriptions = subscriptions.collect::<posthouse::Result<Vec<_>>>()?;
    topic.publish_batch((0..10).map(|_| payload(100)))?;
    bench.measure(|_| {
        for subscription in &subscriptions {
            let batch = subscription.receive_batch(10, Duration::ZERO)?;
            subscription.ack_batch(&batch)?;
        }
        Ok(())
    })
}

fn leases(path: &Path, size: u64) -> Result<Cost> {
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

fn delayed(path: &Path, size: u64) -> Result<Cost> {
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

fn purge(path: &Path, size: u64) -> Result<Cost> {
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

fn readers(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").create()?;
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

fn partitions(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").partitions(size as u32).create()?;
    let keys: Vec<String> = (0..100_000).map(|n| format!("key {n}")).collect();
    bench.measure(|_| {
        let batch = keys.iter().map(|key| Message::new("a record").key(key.as_bytes()));
        Ok(stream.append_batch(batch).map(drop)?)
    })
}

fn checkpoint_partitions(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let stream = bench.engine.stream("s").partitions(size as u32).create()?;
    bench.engine.checkpoint()?;
    // Records without a key go round the partitions.
    stream.append_batch((0..size).map(|_| payload(100)))?;
    bench.measure(|engine| Ok(engine.checkpoint()?))
}

fn poll(path: &Path, size: u64) -> Result<Cost> {
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

fn transaction(path: &Path, size: u64) -> Result<Cost> {
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

fn handles(path: &Path, size: u64) -> Result<Cost> {
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

fn held(path: &Path, size: u64) -> Result<Cost> {
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

fn pressure(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
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

fn beside(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queues = make_queues(&bench.engine, size)?;
    queues.iter().try_for_each(|queue| queue.send(payload(100)).map(drop))?;
    let fast = bench.engine.queue("fast").create()?;
    bench.measure(|_| {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            fast.send(payload(1024))?;
        }
        Ok(())
    })
}

fn message(path: &Path, size: u64) -> Result<Cost> {
    let bench = Bench::open(path)?;
    let queue = bench.engine.queue("q").create()?;
    let message = payload(size as usize);
    bench.measure_peak(|engine| {
        queue.send(message)?;
        engine.checkpoint()?;
        Ok(queue.try_receive()?.ok_or("nothing came")?.ack()?)
    })
}

fn straggler(path: &Path, size: u64) -> Result<Cost> {
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
    let mut cost = bench.measure(|_| {
        thread::sleep(Duration::from_secs(12));
        Ok(())
    })?;
    bench.add_space(&mut cost)?;
    Ok(cost)
}
