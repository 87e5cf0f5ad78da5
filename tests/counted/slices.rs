//! Work that grows with what is there, and is done in slices: no hold of the core is long, and all holds together take
//! as many steps as there is work. The counts are taken at two sizes that are a factor of ten apart. The simulated disk
//! has no threads, so the thread of the test does all the work.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use posthouse::{
    Backoff, Durability, Engine, Message, Offset, Options, Overflow, Queue, Start, Timestamp,
    sim::{SimDisk, take_longest_holds, take_steps},
};

/// The most steps of one hold.
pub const STEPS_MAX: u64 = 1200;

pub const FEW: usize = 1_000;
pub const MANY: usize = 10 * FEW;

pub const SECOND: Duration = Duration::from_secs(1);

/// What a piece of work took.
#[derive(Debug)]
pub struct Work {
    pub longest: BTreeMap<&'static str, u64>,
    pub steps: u64,
}

pub fn count(work: impl FnOnce()) -> Work {
    let _ = (take_longest_holds(), take_steps());
    work();
    Work { longest: take_longest_holds(), steps: take_steps() }
}

/// Asserts that work is linear, and done in slices. `work` does it for a number of things.
pub fn assert_sliced(work: impl Fn(usize) -> Work) {
    let (few, many) = (work(FEW), work(MANY));
    for work in [&few, &many] {
        let longest = work.longest.values().max().copied().unwrap_or(0);
        assert!(longest <= STEPS_MAX, "a hold is long: {:?}", work.longest);
    }
    assert!(few.steps >= FEW as u64, "the steps are not counted: {few:?}");
    assert!(many.steps <= 12 * few.steps, "the work is not linear: {few:?}, {many:?}");
}

pub fn open() -> (SimDisk, Engine) {
    let disk = SimDisk::new(7);
    let options = Options::new().durability(Durability::Buffered);
    let engine = options.sim(&disk).open("store").unwrap();
    (disk, engine)
}

/// Leases `count` messages whose leases have run out when this returns.
fn lease_all(disk: &SimDisk, queue: &Queue, count: usize) {
    for _ in 0..count / 1000 {
        queue.send_batch((0..1000).map(|_| "work")).unwrap();
    }
    for _ in 0..count / 1000 {
        let leased = queue.receive_batch(1000, Duration::ZERO).unwrap();
        assert_eq!(leased.len(), 1000);
        // Looking at a message begins its handling.
        leased.iter().for_each(|it| assert_eq!(it.payload(), b"work"));
        std::mem::forget(leased);
    }
    disk.advance(2 * SECOND);
}

#[test]
fn leases_that_run_out_together_end_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = engine.queue("q").lease(SECOND).backoff(Backoff::None).create().unwrap();
        lease_all(&disk, &queue, many);
        let work = count(|| assert_eq!(queue.stats().unwrap().in_flight, 0));
        assert_eq!(queue.stats().unwrap().ready, many as u64);
        assert_eq!(queue.try_receive().unwrap().unwrap().attempt(), 2);
        work
    });
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// After a setting of the clock the timers of all queues are set anew. The flusher does it, or the next call.
#[test]
fn a_setting_of_the_clock_sets_the_timers_of_many_queues_in_slices() {
    let start = Timestamp(2_000_000_000_000);
    assert_sliced(|many| {
        let (disk, engine) = open();
        disk.set_now(start);
        let queues = (0..many).map(|n| engine.queue(&n.to_string()).create().unwrap());
        let queues: Vec<Queue> = queues.collect();
        let at = Timestamp(start.0 + 3_600_000);
        queues.iter().for_each(|it| _ = it.send(Message::new("work").deliver_at(at)).unwrap());
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut waiting = queues[many - 2].receive_async();
        assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
        disk.set_now(Timestamp(at.0 + 1000));
        let work = count(|| assert_eq!(queues[7].stats().unwrap().ready, 1));
        assert!(woken.0.load(Ordering::Relaxed), "its timer was set and has come");
        assert!(work.longest["timer"] < 600, "{work:?}");
        for queue in [&queues[0], &queues[many - 1]] {
            assert_eq!(queue.try_receive().unwrap().unwrap().payload(), b"work");
        }
        work
    });
}

#[test]
fn messages_whose_last_leases_run_out_together_move_to_the_dead_letters_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let letters = engine.queue("letters").create().unwrap();
        let queue = engine.queue("q").lease(SECOND).max_attempts(1).dead_letter_queue("letters");
        let queue = queue.create().unwrap();
        lease_all(&disk, &queue, many);
        let work = count(|| assert_eq!(queue.stats().unwrap().in_flight, 0));
        assert_eq!(letters.depth().unwrap(), many as u64);
        work
    });
}

#[test]
fn a_full_queue_drops_messages_whose_leases_ran_out_together_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = engine.queue("q").lease(SECOND).backoff(Backoff::None);
        let queue = queue.max_messages(many as u64).overflow(Overflow::DropOldest);
        let queue = queue.create().unwrap();
        lease_all(&disk, &queue, many);
        let work = count(|| {
            for _ in 0..many / 1000 {
                queue.send("more").unwrap();
            }
            queue.stats().unwrap();
        });
        let stats = queue.stats().unwrap();
        assert_eq!((stats.ready, stats.in_flight), (many as u64, 0));
        work
    });
}

#[test]
fn leases_that_are_renewed_together_are_renewed_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = engine.queue("q").lease(SECOND).create().unwrap();
        queue.send_batch((0..many).map(|_| "work")).unwrap();
        let leased = queue.receive_batch(many, Duration::ZERO).unwrap();
        leased.iter().for_each(|it| it.hold(60 * SECOND).unwrap());
        disk.advance(2 * SECOND);
        let work = count(|| assert_eq!(queue.stats().unwrap().in_flight, many as u64));
        queue.ack_batch(&leased).unwrap();
        work
    });
}

#[test]
fn messages_that_come_due_together_do_so_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = engine.queue("q").create().unwrap();
        for _ in 0..many / 1000 {
            let delayed = |_| Message::new("work").deliver_after(SECOND);
            queue.send_batch((0..1000).map(delayed)).unwrap();
        }
        disk.advance(2 * SECOND);
        let work = count(|| assert_eq!(queue.stats().unwrap().ready, many as u64));
        assert!(queue.try_receive().unwrap().is_some());
        work
    });
}

/// A reader of a stream looks at the partitions that have something for it.
#[test]
fn a_reader_of_many_partitions_looks_at_those_that_have_something() {
    let steps = [64, 640].map(|partitions| {
        let (_disk, engine) = open();
        let stream = engine.stream("s").partitions(partitions).create().unwrap();
        let mut reader = stream.reader(Start::Earliest).unwrap();
        assert!(reader.try_read().unwrap().is_none());
        let idle = count(|| assert!(reader.try_read().unwrap().is_none())).steps;
        let mut reads = |key: &str| {
            for _ in 0..10 {
                stream.append(Message::new("news").key(key)).unwrap();
            }
            let work = count(|| {
                for _ in 0..10 {
                    assert_eq!(reader.try_read().unwrap().unwrap().payload(), b"news");
                }
                assert!(reader.try_read().unwrap().is_none());
            });
            work.steps
        };
        (idle, reads("a"), reads("b"))
    });
    assert_eq!(steps[0], steps[1], "the steps grow with the partitions");
    assert!(steps[0].0 <= 4 && steps[0].1 <= 40, "{steps:?}");
}

/// The bytes of a partition are counted by a step for each commit in the journal, and for each segment.
#[test]
fn the_bytes_of_a_partition_are_counted_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let stream = engine.stream("s").create().unwrap();
        (0..many).for_each(|_| _ = stream.append("news").unwrap());
        let work = count(|| assert!(stream.stats().unwrap().bytes() > 8 * many as u64));
        assert!(work.longest["size of a partition"] <= 300, "{work:?}");
        work
    });
}

#[test]
fn a_purge_of_a_queue_with_holes_works_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let queue = engine.queue("q").create().unwrap();
        for _ in 0..2 * many / 1000 {
            queue.send_batch((0..1000).map(|_| "work")).unwrap();
        }
        (0..many as u64).for_each(|n| assert!(queue.remove(Offset(2 * n)).unwrap()));
        let work = count(|| assert_eq!(queue.purge().unwrap(), many as u64));
        assert_eq!(queue.depth().unwrap(), 0);
        work
    });
}

/// What the longest hold takes when the first consumer of a queue is opened after a restart.
fn steps_of_opening(messages: usize, message: impl Fn(usize) -> Message<'static>) -> u64 {
    let disk = SimDisk::new(7);
    let options = Options::new().durability(Durability::Buffered).delayed_in_memory(1024);
    let engine = options.clone().sim(&disk).open("store").unwrap();
    let queue = engine.queue("q").create().unwrap();
    for n in 0..messages / 1000 {
        queue.send_batch((0..1000).map(|m| message(1000 * n + m))).unwrap();
    }
    engine.close().unwrap();
    let engine = options.clone().sim(&disk).open("store").unwrap();
    let work = count(|| _ = engine.queue("q").open().unwrap().depth().unwrap());
    work.longest.values().max().copied().unwrap()
}

#[test]
fn the_delayed_messages_of_a_queue_that_is_opened_are_taken_over_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = engine.queue("q").create().unwrap();
        for n in 0..many / 1000 {
            let later = |m| SECOND * (3600 + (n * 7 + m) as u32);
            queue
                .send_batch((0..1000).map(|m| Message::new("work").deliver_after(later(m))))
                .unwrap();
        }
        engine.close().unwrap();
        let engine = Options::new().sim(&disk).open("store").unwrap();
        let work = count(|| _ = engine.queue("q").open().unwrap());
        assert_eq!(engine.queue("q").open().unwrap().delayed().unwrap(), many as u64);
        work
    });
}

#[test]
fn a_large_batch_is_received_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open();
        let queue = engine.queue("q").create().unwrap();
        for _ in 0..many / 1000 {
            queue.send_batch((0..1000).map(|_| "work")).unwrap();
        }
        count(|| assert_eq!(queue.receive_batch(many, Duration::ZERO).unwrap().len(), many))
    });
}

/// Consumers see what is durable: a sync makes the messages of many queues visible, and wakes those who wait for them.
#[test]
fn a_sync_wakes_the_consumers_of_many_queues_in_slices() {
    for watched in [true, false] {
        for many in [FEW / 2, 5 * FEW] {
            let disk = SimDisk::new(7);
            let engine = Options::new().idle_kept(0).sim(&disk).open("store").unwrap();
            let queues: Vec<Queue> =
                (0..many).map(|n| engine.queue(&format!("q{n}")).create().unwrap()).collect();
            if watched {
                for queue in &queues {
                    assert!(queue.try_receive().unwrap().is_none(), "it is watched from here on");
                }
            }
            // Nothing is durable before the sync.
            queues.iter().for_each(|queue| _ = queue.send_ticket("work").unwrap());
            let work = count(|| engine.sync().unwrap());
            for operation in ["begin a sync", "finish a sync"] {
                let longest = work.longest.get(operation).copied().unwrap_or(0);
                assert!(longest <= 300, "{many} queues: {longest} steps in {operation}");
            }
            assert!(work.steps >= many as u64, "{many} queues: {work:?}");
            for queue in &queues {
                assert!(queue.try_receive().unwrap().is_some());
            }
        }
    }
}

/// The keys of the messages that wait for another attempt are claimed before the first message after a restart.
#[test]
fn retries_of_a_queue_that_is_ordered_by_key_are_claimed_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let queue = engine.queue("q").ordered_by_key(true).create().unwrap();
        for n in 0..many {
            queue.send(Message::new("work").key(n.to_string())).unwrap();
            queue.try_receive().unwrap().unwrap().nack_after(3600 * SECOND).unwrap();
        }
        engine.close().unwrap();
        drop(queue);
        let engine = Options::new().sim(&disk).open("store").unwrap();
        let queue = engine.queue("q").open().unwrap();
        count(|| assert!(queue.try_receive().unwrap().is_none()))
    });
}

/// Delayed messages beyond the limit in memory are on disk, in blocks of 64.
#[test]
fn opening_a_queue_takes_a_step_for_each_block_of_delayed_messages() {
    let later = |n| SECOND * (3600 + n as u32);
    let of = |many| steps_of_opening(many, |n| Message::new("work").deliver_after(later(n)));
    let (few, many) = (of(4 * FEW), of(4 * MANY));
    let blocks = 4 * (MANY - FEW) as u64 / 64;
    assert!(many <= few + blocks + 200, "{few} and {many} steps");
}

#[test]
fn opening_a_queue_takes_over_its_messages_with_priorities_together() {
    let of = |many| steps_of_opening(many, |n| Message::new("work").priority(n as u8 % 10));
    let (few, many) = (of(4 * FEW), of(4 * MANY));
    assert!(many <= few + 50 && many <= 64, "{few} and {many} steps");
}

/// A store with so many queues. Every hundredth has dead letters.
fn open_queues(many: usize) -> (SimDisk, Engine) {
    let (disk, engine) = open();
    for n in 0..many {
        let queue = engine.queue(&format!("q{n}"));
        let queue = if n.is_multiple_of(100) { queue.max_attempts(3) } else { queue };
        queue.create().unwrap().send("work").unwrap();
    }
    engine.checkpoint().unwrap();
    (disk, engine)
}

#[test]
fn the_names_of_queues_are_listed_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open_queues(many);
        count(|| assert_eq!(engine.queues().unwrap().len(), many + many / 100))
    });
}

#[test]
fn a_store_in_use_is_verified_in_slices() {
    assert_sliced(|many| {
        let (_disk, engine) = open_queues(many);
        count(|| assert!(engine.verify().unwrap().problems.is_empty()))
    });
}

#[test]
fn segments_are_verified_without_a_look_at_those_before() {
    let steps = [30, 300].map(|segments| {
        let disk = SimDisk::new(7);
        let options = Options::new().durability(Durability::Buffered).segment_bytes(64 << 10);
        let engine = options.sim(&disk).open("store").unwrap();
        let stream = engine.stream("s").create().unwrap();
        for _ in 0..segments {
            stream.append(vec![7; 64 << 10]).unwrap();
            engine.checkpoint().unwrap();
        }
        let mut read = 0;
        let work = count(|| read = engine.verify().unwrap().read.segments);
        assert!(read >= segments, "{read} segments of {segments}");
        work.steps
    });
    assert!(steps[0] >= 30, "the steps are not counted: {steps:?}");
    assert!(steps[1] <= 12 * steps[0], "the work is not linear: {steps:?}");
}

/// A look at a topic whose messages have expired asks one subscription after the other.
#[test]
fn messages_of_a_topic_expire_for_many_subscriptions_in_slices() {
    assert_sliced(|many| {
        let (disk, engine) = open();
        let topic = engine.topic("t").create().unwrap();
        let all: Vec<_> = (0..many)
            .map(|n| topic.subscription(&n.to_string()).time_to_live(SECOND).create().unwrap())
            .collect();
        topic.publish("news").unwrap();
        disk.advance(2 * SECOND);
        let work = count(|| assert_eq!(all[0].stats().unwrap().expired, 1));
        assert!(all.iter().all(|it| it.stats().unwrap().expired == 1));
        work
    });
}

/// Tables of states become smaller as queues go to rest, and as they are used again. To make one smaller moves all that is left.
#[test]
fn queues_go_to_rest_and_come_back_in_slices() {
    assert_sliced(|queues| {
        let (_disk, engine) = open();
        let make = |n: usize| engine.queue(&format!("q{n}")).create().unwrap();
        let all: Vec<Queue> = (0..queues).map(make).collect();
        let used = |queue: &Queue| {
            queue.send("m").unwrap();
            queue.try_receive().unwrap().unwrap().ack().unwrap();
        };
        count(|| {
            all.iter().for_each(used);
            (0..2).for_each(|_| engine.checkpoint().unwrap());
            all.iter().for_each(used);
        })
    });
}

/// The clock was ahead, and is set back: all that had come due waits again.
#[test]
fn due_messages_wait_again_in_slices_when_the_clock_is_set_back() {
    for priority in [0, 5] {
        assert_sliced(|many| {
            let (disk, engine) = open();
            let begin = Timestamp(1_800_000_000_000);
            disk.set_now(begin);
            let queue = engine.queue("q").create().unwrap();
            let later = Timestamp(begin.0 + 3_600_000);
            for _ in 0..many / 1000 {
                let batch = (0..1000).map(|_| Message::new("work").deliver_at(later));
                queue.send_batch(batch.map(|it| it.priority(priority))).unwrap();
            }
            disk.set_now(Timestamp(later.0 + 1000));
            while (queue.stats().unwrap().ready as usize) < many {
                disk.advance(SECOND);
            }
            disk.set_now(begin);
            let work = count(|| {
                for _ in 0..many / 100 {
                    assert!(queue.try_receive().unwrap().is_none(), "it comes early");
                    disk.advance(SECOND / 100);
                }
            });
            assert_eq!(queue.stats().unwrap().delayed as usize, many);
            work
        });
    }
}

/// Acks as many messages of a queue as stay, in one batch. With gaps it is every other one.
fn ack_many(many: usize, has_gaps: bool) -> Work {
    let (_disk, engine) = open();
    let queue = engine.queue("q").lease(1000 * SECOND).create().unwrap();
    for _ in 0..2 * many / 1000 {
        queue.send_batch((0..1000).map(|_| "work")).unwrap();
    }
    let mut leased = Vec::new();
    while leased.len() < 2 * many {
        leased.extend(queue.receive_batch(1000, Duration::ZERO).unwrap());
    }
    let is_acked = |n: usize| if has_gaps { n.is_multiple_of(2) } else { n < many };
    let batch = leased.iter().enumerate().filter(|(n, _)| is_acked(*n)).map(|it| it.1);
    let work = count(|| queue.ack_batch(batch.clone()).unwrap());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.depth, stats.in_flight, stats.ready), (many as u64, many as u64, 0));
    assert_eq!(stats.acked, many as u64);
    assert_eq!(queue.ack_batch_held(&leased).unwrap().len(), many);
    assert_eq!(queue.depth().unwrap(), 0);
    work
}

#[test]
fn a_batch_of_many_deliveries_is_acked_in_slices() {
    assert_sliced(|many| ack_many(many, false));
}

/// The commit is one hold, and takes a step for each range of messages that follow each other.
#[test]
fn a_batch_of_many_deliveries_that_do_not_follow_each_other_takes_a_step_for_each() {
    let work = ack_many(FEW, true);
    assert!(work.longest["ack a batch"] <= FEW as u64 + 64, "{work:?}");
    assert!(work.steps <= 8 * FEW as u64, "{work:?}");
}
