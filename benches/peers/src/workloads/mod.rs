//! All workloads, in the order of the tables: one file each, or one for those of a kind.

mod append;
mod backlog;
mod curves;
mod fan_out;
mod hand_over;
mod long_replay;
mod many;
mod memory;
mod open;
mod queue;
mod replay;
mod sustained;
mod threads;
mod tickets;
mod transaction;
mod written;

use crate::{bench::Bench, outcome::Row, scale::Mode, side::Result};

/// The payload of most workloads, in bytes.
const PAYLOAD: usize = 100;

/// One workload.
pub struct Workload {
    /// Its name, as `--only` takes it.
    pub name: &'static str,
    /// What it does.
    pub title: &'static str,
    /// What is to be reached.
    pub target: &'static str,
    /// Whether it takes too long for a quick run.
    pub is_long: bool,
    /// Runs it.
    pub run: fn(&Bench) -> Result<Row>,
}

impl Workload {
    /// Whether it is part of a run in some mode.
    pub fn is_in(&self, mode: Mode) -> bool {
        mode != Mode::Quick || !self.is_long
    }
}

macro_rules! workloads {
    ($($name:literal, $title:literal, $target:literal, $long:literal, $run:path;)*) => {
        /// All workloads.
        pub const ALL: &[Workload] = &[$(Workload {
            name: $name,
            title: $title,
            target: $target,
            is_long: $long,
            run: $run,
        }),*];
    };
}

workloads! {
    "append-buffered", "Buffered append, a commit each, 1 thread",
        "3 times the fastest peer; 0.5 of the limit", false, append::buffered;
    "append-sustained", "Buffered append, a commit each, until the disk sets the pace",
        "ahead of every peer; 0.35 of the limit", false, sustained::run;
    "append-sync", "Sync append, a commit each, 1 thread",
        "0.95 of bare pwrite + fdatasync; one flush and at most 4.2 KiB a commit", false,
        append::sync;
    "append-sync-64", "Sync append, a commit each, 64 threads",
        "0.9 of 64 threads that share a flush; 50 commits a flush", false, threads::run;
    "append-tickets", "Sync append, 1 thread, tickets pipelined",
        "1 M/s durable", false, tickets::run;
    "queue", "send + receive + ack, Buffered, a commit each, 1 thread",
        "0.25 of the limit; 60 times SQLite", false, queue::run;
    "queue-backlog", "The same on a backlog",
        "0.95 of the empty queue", false, backlog::run;
    "queue-many", "4 producers and 4 consumers on one queue",
        "0.6 of 1 and 1; 1 and 1: 0.9 of one thread", false, many::run;
    "fan-out", "publish with 1, 10 and 100 subscriptions",
        "cost of publish flat within 20%; deliveries: 8 M/s by batches, 5 M/s one by one", false, fan_out::run;
    "transaction", "Transaction over queue, topic and stream, Sync",
        "one flush; 0.9 of a plain Sync append", false, transaction::run;
    "replay-warm", "Replay, warm",
        "100 M/s; 2 times LMDB", false, replay::warm;
    "replay-cold", "Replay, cold",
        "0.9 of the disk's own sequential read at every size", false, replay::cold;
    "hand-over", "publish to receive, with the other thread waiting",
        "p50 and p99.9 within 2 times a bare condvar hand-over", false, hand_over::run;
    "hand-over-long", "publish to receive for ten minutes, with the checkpoints that come by themselves",
        "p99.9 within 2 times a bare condvar hand-over; the longest is shown", true, hand_over::long;
    "open", "Open: a backlog; many queues; a journal to replay",
        "100 ms; 500 ms; 1 GB/s", false, open::run;
    "written", "Bytes written while consumers keep up",
        "1.1 times payload plus header; segments: 0", false, written::run;
    "curve-payload", "Buffered append by size of payload",
        "a curve, beside the limit's", false, curves::payload;
    "curve-batch", "Append by size of batch",
        "a curve, beside the limit's", false, curves::batch;
    "memory", "Anonymous memory at a backlog",
        "under 64 MiB", true, memory::run;
    "long-replay", "Replay of a long stream (48 B), one consumer",
        "runs to the end; anonymous memory under 64 MiB", true, long_replay::run;
}

/// What a child process can be asked to do; see [`crate::child`].
pub const TASKS: &[(&str, crate::child::Task)] = &[
    ("fill-queue", memory::fill),
    ("use-queue", memory::work),
    ("fill-stream", long_replay::fill),
    ("read-stream", long_replay::read),
    ("leave-journal", open::leave_journal),
];
