//! The rows of the table.

use std::path::Path;

use crate::{
    Result,
    cost::{Cost, Measure::*},
    counted::Bounds,
    target::Target::{self, *},
    work,
};

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    /// The name by which it is chosen.
    pub name: &'static str,
    /// What is measured.
    pub title: &'static str,
    /// The sizes at which it is measured, each ten times the one before.
    pub sizes: &'static [u64],
    /// What it is to reach.
    pub targets: &'static [Target],
    /// The sizes at which it is counted on a simulated disk.
    pub counted: [u64; 3],
    /// What its counts are to keep.
    pub bounds: Option<Bounds>,
    /// How many sizes are measured where it has to be quick.
    pub quick: usize,
    /// Measures it in a new store, at a size.
    pub run: fn(&Path, u64) -> Result<Cost>,
}

impl Row {
    pub fn sizes(&self, is_quick: bool) -> &'static [u64] {
        if is_quick { &self.sizes[..self.quick] } else { self.sizes }
    }
}

/// Where work grows as the number of things does. Caches become too small, and a single time may be too long.
const LINEAR: Target = Growth(Cpu, 13.0);
/// Where work does not depend on the number of things.
const FLAT: Target = Growth(Cpu, 2.0);
/// Work is done in slices.
const SLICES: Target = Most(HoldSteps, 2_000.0);
const MIB: f64 = 1024.0 * 1024.0;

/// All rows.
pub const ROWS: &[Row] = &[
    Row {
        name: "checkpoint-queues",
        title: "checkpoint, one new message in each of N queues",
        sizes: &[1_000, 10_000, 100_000],
        targets: &[Most(Wall, 2.0), Most(Syncs, 100.0), Most(Files, 20.0), LINEAR, SLICES],
        counted: [1_000, 10_000, 100_000],
        bounds: Some(Bounds { syncs: 100, written_each: 350, files: 20, ..Bounds::LINEAR }),
        quick: 2,
        run: work::checkpoint_queues,
    },
    Row {
        name: "beside",
        title: "a producer of 1 KiB messages, as fast as it can for 5 s, beside N queues of one message",
        sizes: &[10, 100, 1_000, 10_000],
        targets: &[Ratio(Stall, 2.0), SLICES],
        counted: [100, 1_000, 10_000],
        bounds: Some(Bounds::LINEAR),
        quick: 1,
        run: work::beside,
    },
    Row {
        name: "checkpoint-one",
        title: "checkpoint with one dirty queue among N",
        sizes: &[1_000, 10_000, 100_000],
        targets: &[FLAT, Most(Stall, 5e-3), SLICES],
        counted: [1_000, 10_000, 100_000],
        bounds: Some(Bounds { syncs: 4, ..Bounds::FLAT }),
        quick: 2,
        run: work::checkpoint_one,
    },
    Row {
        name: "delete",
        title: "delete 100 of N queues",
        sizes: &[1_000, 10_000, 100_000],
        targets: &[FLAT, SLICES],
        counted: [1_000, 10_000, 100_000],
        bounds: Some(Bounds::FLAT),
        quick: 2,
        run: work::delete,
    },
    Row {
        name: "checkpoint-topic",
        title: "checkpoint of a topic, N subscriptions, 100,000 messages, each subscription with acks",
        sizes: &[100, 1_000, 10_000],
        targets: &[LINEAR, SLICES, Most(Stall, 20e-3)],
        counted: [10, 100, 1_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::checkpoint_topic,
    },
    Row {
        name: "catch-up",
        title: "N subscriptions of one topic receive and ack 10 messages each",
        sizes: &[1_000, 10_000, 100_000],
        targets: &[Growth(Cpu, 14.0), SLICES],
        counted: [100, 1_000, 10_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::catch_up,
    },
    Row {
        name: "leases",
        title: "N leases end together",
        sizes: &[10_000, 100_000, 1_000_000],
        targets: &[LINEAR, SLICES],
        counted: [10_000, 100_000, 1_000_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::leases,
    },
    Row {
        name: "delayed",
        title: "the first receive past N delayed messages",
        sizes: &[100_000, 1_000_000, 10_000_000],
        targets: &[LINEAR, SLICES, Most(Wall, 10e-3)],
        counted: [100_000, 1_000_000, 10_000_000],
        bounds: Some(Bounds::FLAT),
        quick: 2,
        run: work::delayed,
    },
    Row {
        name: "purge",
        title: "purge of N messages, every second one acked",
        sizes: &[100_000, 1_000_000, 10_000_000],
        targets: &[LINEAR, SLICES, Most(Stall, 20e-3)],
        counted: [10_000, 100_000, 1_000_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::purge,
    },
    Row {
        name: "readers",
        title: "100,000 appends with N readers waiting",
        sizes: &[1, 10, 100],
        targets: &[Ratio(Wall, 3.0), SLICES],
        counted: [1, 10, 100],
        bounds: Some(Bounds { allocations_each: 1_000, ..Bounds::LINEAR }),
        quick: 3,
        run: work::readers,
    },
    Row {
        name: "partitions",
        title: "one commit of 100,000 records over N partitions",
        sizes: &[40, 400, 4_000],
        targets: &[LINEAR, Most(HoldTime, 20e-3)],
        counted: [40, 400, 4_000],
        bounds: Some(Bounds::ONE_LOOK_EACH),
        quick: 2,
        run: work::partitions,
    },
    Row {
        name: "transaction",
        title: "a transaction that sends to N queues",
        sizes: &[500, 5_000, 50_000],
        targets: &[LINEAR, Most(HoldTime, 50e-3)],
        counted: [500, 5_000, 50_000],
        bounds: Some(Bounds::ONE_LOOK_EACH),
        quick: 2,
        run: work::transaction,
    },
    Row {
        name: "pressure",
        title: "N producers of 4 KiB messages, as fast as they can for 5 s",
        sizes: &[1, 10, 100],
        targets: &[Most(Rare, 50e-3), Most(Stall, 150e-3), SLICES],
        // So many messages in all, whoever sends them.
        counted: [1, 10, 100],
        bounds: Some(Bounds::FLAT),
        quick: 1,
        run: work::pressure,
    },
    Row {
        name: "straggler",
        title: "N messages of 1 KiB, all but one in 10,000 acked, after 12 s idle",
        sizes: &[10_000, 100_000, 1_000_000],
        // Twice the live bytes, and one segment.
        targets: &[EachAnd(Segments, 2.0 * 1024.0 / 10_000.0, 64.0 * MIB), SLICES],
        counted: [1_000, 10_000, 100_000],
        bounds: Some(Bounds { segments: 64 << 10, ..Bounds::LINEAR }),
        quick: 1,
        run: work::straggler,
    },
    Row {
        name: "message",
        title: "a message of N bytes: sent, moved by a checkpoint, received, acked",
        sizes: &[160 << 10, 1600 << 10, 16_000 << 10],
        targets: &[EachAnd(Memory, 2.0, MIB), SLICES],
        counted: [160 << 10, 1600 << 10, 16_000 << 10],
        bounds: Some(Bounds { written_each: 6, ..Bounds::FLAT }),
        quick: 2,
        run: work::message,
    },
    Row {
        name: "handles",
        title: "N queues, opened and used once, handles dropped",
        sizes: &[1_000, 10_000, 100_000],
        targets: &[LINEAR, SLICES, Each(Heap, 1_000.0)],
        counted: [1_000, 10_000, 100_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::handles,
    },
    Row {
        name: "held",
        title: "N queues, used once, idle, handles kept",
        sizes: &[1_000, 10_000, 100_000],
        targets: &[LINEAR, SLICES, Each(Heap, 1_000.0)],
        counted: [1_000, 10_000, 100_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::held,
    },
    Row {
        name: "held-subscriptions",
        title: "N subscriptions of one topic, used once, idle, handles kept",
        sizes: &[100, 1_000, 10_000],
        targets: &[LINEAR, SLICES, Each(Heap, 1_000.0)],
        counted: [100, 1_000, 10_000],
        bounds: Some(Bounds::LINEAR),
        quick: 2,
        run: work::held_subscriptions,
    },
    Row {
        name: "poll",
        title: "100,000 records appended and read one by one, N partitions",
        sizes: &[10, 100, 1_000],
        targets: &[FLAT, SLICES],
        counted: [10, 100, 1_000],
        bounds: Some(Bounds::FLAT),
        quick: 2,
        run: work::poll,
    },
    Row {
        name: "checkpoint-partitions",
        title: "checkpoint, one new record in each of N partitions",
        sizes: &[40, 400, 4_000],
        targets: &[Most(Wall, 2.0), Most(Syncs, 100.0), Most(Files, 20.0), LINEAR, SLICES],
        counted: [40, 400, 4_000],
        bounds: Some(Bounds { syncs: 100, files: 20, ..Bounds::LINEAR }),
        quick: 2,
        run: work::checkpoint_partitions,
    },
];
