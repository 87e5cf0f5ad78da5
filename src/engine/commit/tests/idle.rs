//! What an idle store leaves on the disk: at most twice the bytes of its live messages, and one segment.

use std::{path::Path, sync::Arc, time::Duration};

use super::super::threads::idle_round;
use crate::{Engine, Queue, config::Config, disk::sim::SimDisk, engine::consume::calls::Consuming};

const SEGMENT: u64 = 64 << 10;
const PAYLOAD: usize = 200;
/// What a message takes up beside its payload.
const RECORD: u64 = 16;
/// What a queue takes up beside its messages: the headers of a part and of its block, and a share of the file's.
const QUEUE: u64 = 160;

struct Idle {
    disk: SimDisk,
    engine: Engine,
}

impl Idle {
    fn new() -> Idle {
        let disk = SimDisk::new(1);
        let engine = open(&disk);
        Idle { disk, engine }
    }

    fn segment_bytes(&self) -> u64 {
        let files = self.disk.files().into_iter();
        let segments = files.filter(|path| path.starts_with("store/segments"));
        segments.map(|path| self.disk.content(&path).expect("it is there").len() as u64).sum()
    }

    /// What the checkpointer does once nobody has committed anything for ten seconds.
    fn ten_seconds_pass(&self) {
        self.disk.advance(Duration::from_secs(10));
        let committer = self.engine.committer();
        let tail = committer.lock("test").store.journal.tail();
        idle_round(committer, tail).expect("the disk is well");
    }

    /// So many messages live, in so many queues.
    fn assert_small(&self, what: &str, live: u64, queues: u64) {
        self.engine.checkpoint().expect("the disk is well");
        let before = self.segment_bytes();
        let written = self.disk.bytes_written("segments");
        self.ten_seconds_pass();
        let (bytes, live) = (self.segment_bytes(), live * (PAYLOAD as u64 + RECORD));
        assert!(
            bytes <= 2 * live + SEGMENT + queues * QUEUE,
            "{what}: {bytes} bytes of which {live} live; {before} before"
        );
        // It writes what is left, and not the same again and again.
        let rewritten = self.disk.bytes_written("segments") - written;
        assert!(rewritten <= 2 * before, "{what}: {rewritten} bytes rewritten of {before}");
        let (calls, files) = (self.disk.calls(), self.disk.files());
        self.ten_seconds_pass();
        assert_eq!((self.disk.calls(), self.disk.files()), (calls, files), "{what}");
        let report = self.engine.verify().expect("it can be read");
        assert!(report.is_ok() && report.unreferenced.is_empty(), "{what}: {report}");
    }
}

fn open(disk: &SimDisk) -> Engine {
    let config = Config { segment_bytes: SEGMENT, block_bytes: 2 << 10, ..super::config() };
    let process = Arc::new(disk.process());
    Engine::open_on(process, Path::new("store"), config, false).expect("the disk is well")
}

fn fill(queue: &Queue, count: usize) {
    for from in (0..count).step_by(100) {
        let some = (from..count.min(from + 100)).map(|_| vec![b'x'; PAYLOAD]);
        queue.send_batch(some).expect("there is space");
    }
}

/// Acks all messages but some. Returns how many stay.
fn ack_but(consumer: &impl Consuming, count: usize, stays: impl Fn(u64) -> bool) -> u64 {
    let consumer = consumer.consumer();
    let (mut n, mut kept) = (0, Vec::new());
    while n < count {
        let batch = consumer.receive_batch(100, Duration::ZERO).expect("they are there");
        assert!(!batch.is_empty());
        n += batch.len();
        let (stay, acked): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|it| stays(it.offset().0));
        consumer.ack_batch(&acked).expect("they are leased");
        kept.extend(stay);
    }
    let live = kept.len() as u64;
    // Nothing is given back.
    std::mem::forget(kept);
    live
}

#[test]
fn an_idle_store_has_at_most_twice_its_live_bytes_and_one_segment() {
    for one_in in [4000, 100, 4, 3, 2] {
        let idle = Idle::new();
        let queue = idle.engine.queue("q").create().expect("there is space");
        fill(&queue, 8000);
        idle.engine.checkpoint().expect("the disk is well");
        let live = ack_but(&queue, 8000, |offset| offset.is_multiple_of(one_in));
        assert_eq!(live, 8000_u64.div_ceil(one_in));
        idle.assert_small(&format!("one in {one_in}"), live, 1);
        drop((queue, idle.engine));
        idle.disk.kill();
        let engine = open(&idle.disk);
        assert_eq!(engine.queue("q").open().expect("it is there").depth().expect("it can"), live);
    }
}

/// Two of three stay: less is dead than a busy store minds, and so it stays.
#[test]
fn an_idle_store_does_not_rewrite_what_mostly_lives() {
    let idle = Idle::new();
    let queue = idle.engine.queue("q").create().expect("there is space");
    fill(&queue, 5000);
    idle.engine.checkpoint().expect("the disk is well");
    let live = ack_but(&queue, 5000, |offset| !offset.is_multiple_of(3));
    let written = idle.disk.bytes_written("segments");
    idle.assert_small("two of three", live, 1);
    // But for a part.
    assert!(idle.disk.bytes_written("segments") <= written + SEGMENT / 8);
}

#[test]
fn an_idle_store_with_many_queues_is_small() {
    for one_in in [2, 3, 20] {
        let idle = Idle::new();
        let queues: Vec<Queue> = (0..300)
            .map(|n| idle.engine.queue(&format!("q{n}")).create().expect("there is space"))
            .collect();
        queues.iter().for_each(|queue| fill(queue, 20));
        idle.engine.checkpoint().expect("the disk is well");
        let acks = queues.iter().map(|it| ack_but(it, 20, |n| n.is_multiple_of(one_in)));
        let live = acks.sum::<u64>();
        idle.assert_small(&format!("one in {one_in}"), live, 300);
        // Every second one goes.
        for n in (0..300).step_by(2) {
            idle.engine.queue(&format!("q{n}")).delete().expect("it is there");
        }
        idle.assert_small(&format!("one in {one_in} of half of the queues"), live / 2, 150);
    }
}

#[test]
fn an_idle_store_with_subscriptions_is_small() {
    for many in [3, 20] {
        let idle = Idle::new();
        let topic = idle.engine.topic("t").create().expect("there is space");
        let subscriptions: Vec<_> = (0..many)
            .map(|n| topic.subscription(&format!("s{n}")).create().expect("there is space"))
            .collect();
        for _ in 0..40 {
            topic.publish_batch((0..100).map(|_| vec![b'x'; PAYLOAD])).expect("there is space");
        }
        idle.engine.checkpoint().expect("the disk is well");
        for (n, subscription) in subscriptions.iter().enumerate() {
            // Together they need three of nine.
            ack_but(subscription, 4000, |offset| offset % 9 == n as u64 % 3);
        }
        idle.assert_small(&format!("{many} subscriptions"), 4000 / 3, 1);
    }
}

/// What had died before the store was opened was known to nobody.
#[test]
fn a_store_that_was_opened_and_is_idle_is_small() {
    let Idle { disk, engine } = Idle::new();
    let queue = engine.queue("q").create().expect("there is space");
    fill(&queue, 10_000);
    engine.checkpoint().expect("the disk is well");
    let live = ack_but(&queue, 10_000, |offset| offset.is_multiple_of(3));
    drop((queue, engine));
    disk.kill();
    let engine = open(&disk);
    Idle { disk, engine }.assert_small("opened again", live, 1);
}

/// There is space for a part of what would be rewritten. The round began anew for ever.
#[test]
fn an_idle_round_ends_where_there_is_space_for_some() {
    for free in [0, 1, 2, 3, 4, 6, 8, 10, 14, 20] {
        let idle = Idle::new();
        let queues: Vec<Queue> = (0..60)
            .map(|n| idle.engine.queue(&format!("q{n}")).create().expect("there is space"))
            .collect();
        for round in 0..12 {
            queues.iter().skip(round % 3).step_by(3).for_each(|queue| fill(queue, 5));
            idle.engine.checkpoint().expect("the disk is well");
        }
        // Of a shared file, few parts stay.
        for (n, queue) in queues.iter().enumerate() {
            ack_but(queue, 20, |_| n.is_multiple_of(2));
        }
        idle.engine.checkpoint().expect("the disk is well");
        idle.disk.set_capacity(Some(idle.disk.bytes_used() + free * 4096));
        for _ in 0..3 {
            let calls = idle.disk.calls();
            let tail = idle.engine.committer().lock("test").store.journal.tail();
            // Whatever has no end, ends in an error.
            idle.disk.stop_at_step(idle.disk.steps() + 5_000);
            let _ = idle_round(idle.engine.committer(), tail);
            let calls = idle.disk.calls() - calls;
            assert!(calls < 3000, "{calls} calls with {free} pages");
        }
    }
}

/// A full disk, or damage, does not make it try again and again.
#[test]
fn an_idle_round_ends_where_nothing_can_be_rewritten() {
    let idle = Idle::new();
    let queues: Vec<Queue> = (0..100)
        .map(|n| idle.engine.queue(&format!("q{n}")).create().expect("there is space"))
        .collect();
    queues.iter().for_each(|queue| fill(queue, 20));
    fill(&queues[0], 3000);
    idle.engine.checkpoint().expect("the disk is well");
    ack_but(&queues[0], 3020, |offset| offset.is_multiple_of(3));
    queues[1..].iter().for_each(|it| _ = ack_but(it, 20, |n| n.is_multiple_of(2)));
    idle.engine.checkpoint().expect("the disk is well");
    idle.disk.set_capacity(Some(idle.disk.bytes_used()));
    for _ in 0..3 {
        let calls = idle.disk.calls();
        let tail = idle.engine.committer().lock("test").store.journal.tail();
        let _ = idle_round(idle.engine.committer(), tail);
        assert!(idle.disk.calls() - calls < 2000);
    }
    idle.disk.set_capacity(None);
    let files = idle.disk.files().into_iter().filter(|it| it.starts_with("store/segments"));
    for path in files.collect::<Vec<_>>() {
        let mut content = idle.disk.content(&path).expect("it is there");
        content.iter_mut().skip(100).step_by(1000).for_each(|byte| *byte ^= 1);
        idle.disk.plant(&path, Some(content));
    }
    for _ in 0..3 {
        let calls = idle.disk.calls();
        idle.ten_seconds_pass();
        assert!(idle.disk.calls() - calls < 2000);
    }
}
