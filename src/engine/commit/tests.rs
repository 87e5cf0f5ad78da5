//! The engine with its two threads on a simulated disk.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

mod batch;
mod blocks;
mod clock;
mod deletion;
mod filters;
mod idle;
mod looks;
mod others;
mod passing;
mod preparing;
mod pressure;
mod retention;
mod room;
mod short;
mod taken_back;
mod tasks;

use crate::{
    Engine, ErrorKind, Message, Result, VerifyReport,
    config::{Config, Durability},
    disk::sim::SimDisk,
    engine::core::spill::NAME,
    format::entity::{DeadLetters, EntityKind},
    ids::Offset,
    inspect::{salvage_on, verify_on},
    store::{Op, Space},
};

mod callbacks;

fn config() -> Config {
    Config {
        durability: Durability::Buffered,
        journal_bytes: 64 << 10,
        journal_file_bytes_min: 8 << 10,
        journal_file_bytes_max: 1 << 20,
        ..Config::default()
    }
}

fn open(disk: &SimDisk, config: Config) -> Engine {
    let process = Arc::new(disk.process());
    Engine::open_on(process, Path::new("store"), config, true).expect("the disk is well")
}

/// The checkpointer's failure of a moment ago was returned to commits that waited for it, although there was space
/// again.
#[test]
fn after_space_returns_the_first_send_succeeds() {
    for settings in [config(), Config { journal_bytes: 4 << 20, ..config() }] {
        let disk = SimDisk::new(1);
        let engine = open(&disk, settings);
        let queue = engine.queue("q").create().expect("there is space");
        for round in 0..5 {
            disk.set_capacity(Some(disk.bytes_used() + (300 << 10)));
            let refused = loop {
                if let Err(error) = queue.send(vec![7; 300]) {
                    break error;
                }
            };
            assert_eq!(refused.kind(), ErrorKind::DiskFull, "{refused}");
            disk.set_capacity(None);
            queue.send("again").unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        engine.close().expect("the disk is well");
    }
}

/// With threads, too, consumers go on, and the journal's files stay within the limits of the journal.
#[test]
fn on_a_full_disk_the_acks_of_many_threads_succeed() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").create().expect("there is space");
    disk.set_capacity(Some(2 << 20));
    let mut sent = 0;
    while queue.send(vec![7; 200]).is_ok() {
        sent += 1;
    }
    disk.set_capacity(Some(disk.bytes_used()));
    let acked: u32 = thread::scope(|scope| {
        let consumers = (0..4).map(|_| {
            scope.spawn(|| {
                let mut acked = 0;
                while let Some(delivery) = queue.try_receive().expect("it can be read") {
                    delivery.ack().expect("an ack frees space");
                    acked += 1;
                }
                acked
            })
        });
        let consumers: Vec<_> = consumers.collect();
        consumers.into_iter().map(|consumer| consumer.join().expect("it ends")).sum()
    });
    assert_eq!(acked, sent);
    queue.send("again").expect("the space of acked messages is given back");
    engine.close().expect("the disk is well");
}

/// The last commit that freed space found a place in the journal, so nobody has made a checkpoint since. There is no space
/// for one, but for the reserve.
#[test]
fn on_a_full_disk_a_send_gets_the_space_of_what_was_acked_in_one_commit() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").create().expect("there is space");
    disk.set_capacity(Some(2 << 20));
    let mut sent = 0;
    while queue.send(vec![7; 200]).is_ok() {
        sent += 1;
    }
    disk.set_capacity(Some(disk.bytes_used()));
    let leased = queue.receive_batch(sent, Duration::ZERO).expect("they can be read");
    assert_eq!(leased.len(), sent);
    queue.ack_batch(&leased).expect("acks free space");
    for _ in 0..sent / 2 {
        queue.send(vec![7; 200]).expect("the space of acked messages is given back");
    }
    engine.close().expect("the disk is well");
}

/// Waits until the flusher has written a watermark frame. The disk's clock moves on, and the flusher sleeps in real
/// time.
fn await_mark(disk: &SimDisk, engine: &Engine) {
    for _ in 0..5000 {
        disk.advance(Duration::from_secs(2));
        let core = engine.committer().lock("test");
        if !core.store.journal.is_dirty() && !core.store.journal.wants_mark() {
            return;
        }
        drop(core);
        thread::sleep(Duration::from_millis(1));
    }
    panic!("there is no watermark frame");
}

/// Only a sync of the flusher's own was followed by the mark that tells a rotten tail from a torn one.
#[test]
fn a_quiet_moment_after_any_sync_writes_the_mark() {
    type Act = fn(&Engine);
    let cases: [(&str, Durability, Act); 4] = [
        ("a durable send", Durability::Sync, |_| ()),
        ("sync", Durability::Buffered, |engine| engine.sync().expect("the disk is well")),
        ("checkpoint", Durability::Buffered, |engine| {
            let queue = engine.queue("q").open().expect("it was made");
            engine.checkpoint().expect("the disk is well");
            queue
                .send_ticket("last words")
                .and_then(crate::Ticket::wait)
                .expect("the disk is well");
        }),
        ("the flusher", Durability::Buffered, |_| ()),
    ];
    for (what, durability, act) in cases {
        let disk = SimDisk::new(1);
        let engine = open(&disk, Config { durability, ..config() });
        let queue = engine.queue("q").create().expect("the disk is well");
        queue.send("last words").expect("the disk is well");
        drop(queue);
        act(&engine);
        await_mark(&disk, &engine);
        disk.kill();
        drop(engine);
        // The last frame rots.
        let mut rotten = 0;
        for path in disk.files().into_iter().filter(|it| it.starts_with("store/journal")) {
            let mut content = disk.content(&path).expect("it is there");
            let place = content.windows(10).rposition(|bytes| bytes == b"last words");
            if let Some(place) = place {
                content[place] ^= 1;
                disk.plant(&path, Some(content));
                rotten += 1;
            }
        }
        assert_eq!(rotten, 1, "{what}");
        let process = Arc::new(disk.process());
        let opened = Engine::open_on(process, Path::new("store"), config(), true);
        let Err(error) = opened else { panic!("{what}: the rot passes for a torn tail") };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }
}

/// Verifies a copy of the disk.
fn verify(disk: &SimDisk) -> VerifyReport {
    let process = Arc::new(disk.fork(1).process());
    verify_on(process, Path::new("store")).expect("it can be read")
}

/// A bug that loses a block of a delay index would lose its messages in silence.
#[test]
fn verify_finds_delayed_messages_that_no_block_names() {
    let disk = SimDisk::new(1);
    let process = Arc::new(disk.process());
    let config = Config { delayed_in_memory: 8, ..config() };
    let engine = Engine::open_on(process, Path::new("store"), config.clone(), false)
        .expect("the disk is well");
    let queue = engine.queue("q").create().expect("there is space");
    for n in 1..=40u64 {
        let message = Message::new(n.to_string()).deliver_after(Duration::from_secs(n * 3600));
        queue.send(message).expect("there is space");
    }
    engine.sync().expect("the disk is well");
    assert!(verify(&disk).is_ok(), "{}", verify(&disk));
    assert!(engine.verify().expect("it can be read").is_ok());

    // The block goes, and its messages do not come back.
    let committer = engine.committer();
    let lost = committer.transact("lose a block", |core| {
        let space = Space::DelayIndexes {
            queue: core.store.find(Space::Queues, "q").expect("it is there").id,
        };
        let index = core.store.find(space, NAME).expect("messages are spilled").id;
        let lose = Op::Ack { cursor: index.cursor(0), offsets: &[Offset(0)] };
        Ok(((), core.commit(&[lose], committer.now())?))
    });
    let _ = lost.expect("there is space");
    for checkpointed in [false, true] {
        if checkpointed {
            engine.checkpoint().expect("the disk is well");
        }
        engine.sync().expect("the disk is well");
        let report = verify(&disk);
        assert_eq!(report.problems.len(), 1, "{report}");
        let affected = &report.problems[0].affected;
        assert_eq!(affected.len(), 1, "{report}");
        assert_eq!(affected[0].log.to_string(), "queue \"q\"");
        let offsets: u64 = affected[0].offsets.iter().map(|it| it.end.0 - it.start.0).sum();
        assert!(offsets > 0 && offsets < 40, "{report}");
        let of_engine = engine.verify().expect("it can be read");
        assert_eq!(of_engine.problems, report.problems, "{of_engine}");
    }
    // Salvage makes them deliverable at once.
    disk.kill();
    let process: Arc<dyn crate::disk::Disk> = Arc::new(disk.process());
    salvage_on(&process, Path::new("store"), Path::new("salvaged"), config.clone())
        .expect("it can be salvaged");
    assert!(verify_on(process, Path::new("salvaged")).expect("it can be read").is_ok());
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Tasks that wait for space share the helper that makes it. A task that acks does not get what a task that sends gets.
#[test]
fn on_a_full_disk_the_acks_of_tasks_succeed_beside_sends_of_tasks() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    let queue = engine.queue("q").create().expect("there is space");
    disk.set_capacity(Some(2 << 20));
    let mut sent = 0;
    while queue.send(vec![7; 200]).is_ok() {
        sent += 1;
    }
    disk.set_capacity(Some(disk.bytes_used()));
    let is_over = AtomicBool::new(false);
    let (acked, refused) = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut refused = 0;
            while !is_over.load(Ordering::Relaxed) {
                match block_on(queue.send_async(vec![7; 4000])) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
                        refused += 1;
                    }
                }
            }
            refused
        });
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut acked = 0;
                    for _ in 0..sent / 4 {
                        let Some(delivery) = queue.try_receive().expect("it can be read") else {
                            break;
                        };
                        block_on(delivery.ack_async())?;
                        acked += 1;
                    }
                    Ok(acked)
                })
            })
            .collect();
        let acked: Vec<Result<u32>> =
            consumers.into_iter().map(|consumer| consumer.join().expect("it ends")).collect();
        is_over.store(true, Ordering::Relaxed);
        (acked, producer.join().expect("it ends"))
    });
    let acked: u32 = acked.into_iter().map(|acked| acked.expect("an ack frees space")).sum();
    assert!(acked >= sent / 4, "{acked} of {sent}");
    assert!(refused > 0, "the disk was full");
    engine.close().expect("the disk is well");
}

#[test]
fn a_redrive_of_spilled_messages_leaves_no_block_behind() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Config { delayed_in_memory: 8, ..config() });
    let [from, to] = ["q", "to"].map(|name| engine.queue(name).create().expect("there is space"));
    for n in 1..=40u64 {
        let message = Message::new(n.to_string()).deliver_after(Duration::from_secs(n * 3600));
        from.send(message).expect("there is space");
    }
    let left = || {
        let core = engine.committer().lock("look");
        let queue = core.store.find(Space::Queues, "q").expect("it is there").id;
        let index = core.store.find(Space::DelayIndexes { queue }, NAME).expect("it is there").id;
        (core.spilled(queue.cursor(0)), core.depth(index.cursor(0)))
    };
    assert_eq!(from.redrive().to(&to).most(1).run().expect("there is space").moved, 1);
    let (spilled, blocks) = left();
    assert!(spilled > 0 && blocks > 0, "the blocks of others stay");
    assert_eq!(from.redrive().to(&to).run().expect("there is space").moved, 39);
    assert_eq!(left(), (0, 0));
    assert!(engine.verify().expect("it can be read").is_ok());
}

/// A salvage of an older version may have left a circle of dead letters. A change of settings followed it for ever.
#[test]
fn a_circle_of_dead_letters_is_found_and_stops_nothing() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, config());
    engine.queue("b").create().expect("there is space");
    engine.queue("a").max_attempts(2).dead_letter_queue("b").create().expect("there is space");
    let committer = engine.committer();
    let closed = committer.transact("close the circle", |core| {
        let mut b = core.store.find(Space::Queues, "b").expect("it is there").clone();
        let a = core.store.find(Space::Queues, "a").expect("it is there");
        let Some(mut delivering) = a.delivering().cloned() else { panic!("a queue delivers") };
        delivering.dead_letters =
            delivering.dead_letters.map(|it| DeadLetters { queue: a.id, ..it });
        b.kind = EntityKind::Queue(delivering.into());
        Ok(((), core.commit(&[Op::Update { entity: &b }], committer.now_plain())?))
    });
    let _ = closed.expect("there is space");
    engine.queue("c").create().expect("there is space");
    let c = engine.queue("c").max_attempts(2).dead_letter_queue("a");
    c.create_or_update().expect("the circle does not come back to it");
    let refused = engine.queue("a").max_attempts(3).create_or_update();
    let refused = refused.map(drop).expect_err("it is in the circle");
    assert!(refused.to_string().contains("come back to it"), "{refused}");
    engine.sync().expect("the disk is well");
    for report in [verify(&disk), engine.verify().expect("it can be read")] {
        assert_eq!(report.problems.len(), 1, "{report}");
        assert!(report.to_string().contains("go in a circle: b, a"), "{report}");
    }
    engine.close().expect("the disk is well");
    let process: Arc<dyn crate::disk::Disk> = Arc::new(disk.process());
    let (from, to) = (Path::new("store"), Path::new("salvaged"));
    let report = salvage_on(&process, from, to, config()).expect("it can be salvaged");
    assert_eq!(report.old_settings.len(), 1, "{report}");
    assert!(verify_on(process, to).expect("it can be read").is_ok());
}

/// Messages come back and are spilled again while verify reads the blocks.
#[test]
fn verify_of_an_open_store_finds_nothing_while_delayed_messages_come_and_go() {
    let disk = SimDisk::new(1);
    let engine = open(&disk, Config { delayed_in_memory: 8, ..config() });
    let queue = engine.queue("q").create().expect("there is space");
    let send = |n: u64| {
        let due = Duration::from_secs(1 + n * 7919 % 600);
        queue.send(Message::new(n.to_string()).deliver_after(due)).expect("there is space");
    };
    (0..300).for_each(send);
    let done = AtomicBool::new(false);
    let received = thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let (mut n, mut received) = (300, 0);
            while !done.load(Ordering::SeqCst) {
                (n..n + 5).for_each(send);
                n += 5;
                disk.advance(Duration::from_secs(5));
                while let Some(delivery) = queue.try_receive().expect("it can be read") {
                    delivery.ack().expect("there is space");
                    received += 1;
                }
            }
            received
        });
        for _ in 0..50 {
            let report = engine.verify().expect("it can be read");
            assert!(report.is_ok(), "{report}");
        }
        done.store(true, Ordering::SeqCst);
        busy.join().expect("it ends")
    });
    assert!(received > 0, "messages came back");
    engine.close().expect("the disk is well");
}

/// The messages that wait for another attempt are listed, and claim their keys one by one. What leaves meanwhile would be
/// at the head of its key for ever.
#[test]
fn a_message_that_leaves_before_it_claims_its_key_blocks_nothing() {
    let disk = SimDisk::new(1);
    let open = || {
        let process = Arc::new(disk.process());
        Engine::open_on(process, Path::new("store"), config(), false).expect("the disk is well")
    };
    let engine = open();
    let queue = engine.queue("q").ordered_by_key(true).create().expect("there is space");
    queue.send(Message::new("old").key("k")).expect("there is space");
    let delivery = queue.try_receive().expect("it is open").expect("it is there");
    delivery.nack_after(Duration::from_secs(3600)).expect("there is space");
    drop(delivery);
    engine.close().expect("the disk is well");
    let engine = open();
    let queue = engine.queue("q").open().expect("it is there");
    let cursor = queue.cursor();
    let committer = engine.committer();
    let waiting = committer.lock("test").unclaimed_retries(cursor, Offset(0)).expect("it is there");
    assert_eq!(waiting, Some(vec![Offset(0)]));
    assert!(queue.remove(Offset(0)).expect("there is space"));
    let mut core = committer.lock("test");
    core.claim_retry(cursor, 7, Offset(0)).expect("it is there");
    let groups = core.consumption(cursor).expect("it is there").groups.as_ref();
    assert!(groups.expect("it is ordered").heads_from(Offset(0)).eq([]));
}
