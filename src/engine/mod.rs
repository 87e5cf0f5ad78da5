//! The engine: handles, threads, waiting.
//!
//! All lower floors are state machines without threads. The engine shares them between threads. Its folders are storeys,
//! from the ground up: `runtime`, `core`, `commit`, `consume`; then the handles `queue`, `subscription`, `topic` and
//! `stream`; then `transaction` and `schedule`, which use the handles; and on top `open` and `options`. A storey imports
//! only from storeys below it, which `tests/floors.rs` asserts. The head of `core/mod.rs` lists the locks.

mod commit;
mod consume;
mod core;
mod open;
mod options;
mod queue;
mod runtime;
#[cfg(feature = "cron")]
mod schedule;
mod stream;
mod subscription;
#[cfg(all(test, loom))]
mod tests;
mod topic;
mod transaction;

pub use commit::{lifetime::Engine, pressure::EngineStats, ticket::Ticket};
#[cfg(feature = "stream")]
pub use consume::deliveries::Deliveries;
pub use consume::{
    browse::{Browse, Browsed},
    delivery::Delivery,
    watch::ThresholdWatch,
    worker::{Worker, WorkerBuilder},
};
#[cfg(feature = "sim")]
pub use open::{awake, rest, still};
pub use options::Options;
pub use queue::{Queue, QueueBuilder, Redrive, Redriven};
pub use runtime::histogram::{Latencies, Latency};
#[cfg(feature = "cron")]
pub use schedule::{Schedule, ScheduleBuilder, ScheduleFailure, Scheduler, SchedulerBuilder};
#[cfg(feature = "stream")]
pub use stream::Records;
pub use stream::{
    BackwardReader, Batches, BoundedReader, Gap, Group, GroupBuilder, OwnedRecord, Partition,
    PartitionStats, Position, Reader, Record, Skipped, Start, Stream, StreamBuilder,
    StreamSettings, StreamStats,
};
#[cfg(feature = "sim")]
pub use subscription::publish_to;
pub use subscription::{Subscription, SubscriptionBuilder};
pub use topic::{Topic, TopicBuilder, TopicSettings};
pub use transaction::Transaction;
