//! An embedded, persistent messaging engine: queues, topics and streams in one directory. An
//! application links it as it links SQLite. There is no server.
//!
//! - A [`Queue`] leases each message to one consumer, and delivers it again until it is acked.
//! - A [`Topic`] gives a copy of each message to every [`Subscription`], and stores it once.
//! - A [`Stream`] keeps an ordered log. Any number of [`Reader`]s read it from any point, and
//!   [`Group`]s keep their offsets.
//! - A [`Transaction`] commits such operations as one: all of them, or none.
//!
//! Every commit survives the death of the process. A commit with [`Durability::Sync`], the default,
//! survives a power cut. The guide to [durability](guide::durability) lists the guarantees, their
//! limits, and the assumptions about the disk.
//!
//! Guides: [choosing](guide::choosing), [queues](guide::queues), [topics](guide::topics), [streams](guide::streams),
//! [time](guide::time), [durability](guide::durability), and with the feature `cron` recurring schedules.
//!
//! # Features
//!
//! All features are off by default.
//!
//! - `stream`: deliveries, and the records of readers, as a `Stream` of the crate `futures`.
//! - `cron`: recurring schedules, which send messages at the times of cron expressions.
//! - `sim`: a simulated disk and clock, to crash-test handlers.
//!
//! ```
//! use std::time::Duration;
//! use posthouse::{Engine, Message, Start};
//!
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("orders.posthouse");
//! let engine = Engine::open(path)?;
//! let payments = engine.queue("payments").create()?;
//! let created = engine.topic("order.created").create()?;
//! let shipping = created.subscription("shipping").create()?;
//! let history = engine.stream("order-history").partitions(8).create()?;
//!
//! let order = Message::new("order 1: 2 CDs").key("customer-17");
//! let mut tx = engine.transaction(); // one frame: all or nothing
//! tx.send(&payments, &order).publish(&created, &order).append(&history, &order);
//! tx.commit()?; // durable when it returns
//!
//! if let Some(delivery) = payments.receive(Duration::from_secs(1))? {
//!     // Charge; then:
//!     delivery.ack()?;
//! }
//! assert_eq!(shipping.depth()?, 1);
//! for record in history.reader(Start::Earliest)? {
//!     assert_eq!(record?.payload(), b"order 1: 2 CDs");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

// The floors, from the ground up. A floor imports only those above it in this list; the rooms on
// one floor do not import each other. `tests/floors.rs` asserts it.
#[macro_use]
mod seeded;

mod audit;
mod config;
mod error;
mod ids;
mod layout;
mod message;
mod prims;
mod subject;

mod disk;
mod format;

mod journal;
mod metalog;
mod segment;

mod store;

mod delivery;
mod inspect;
#[cfg(feature = "cron")]
mod schedule;
mod stream;

mod engine;

pub use config::{Backoff, Durability, IoMode, Overflow};
pub use delivery::{
    in_force::DeliverySettings,
    stats::{ConsumerStats, Rates},
    thresholds::{Alarm, Threshold},
};
pub use engine::{
    BackwardReader, Batches, BoundedReader, Browse, Browsed, Delivery, Engine, EngineStats, Gap,
    Group, GroupBuilder, Latencies, Latency, Options, OwnedRecord, Partition, PartitionStats,
    Position, Queue, QueueBuilder, Reader, Record, Redrive, Redriven, Skipped, Start, Stream,
    StreamBuilder, StreamSettings, StreamStats, Subscription, SubscriptionBuilder, ThresholdWatch,
    Ticket, Topic, TopicBuilder, TopicSettings, Transaction, Worker, WorkerBuilder,
};
#[cfg(feature = "stream")]
pub use engine::{Deliveries, Records};
#[cfg(feature = "cron")]
pub use engine::{Schedule, ScheduleBuilder, ScheduleFailure, Scheduler, SchedulerBuilder};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "cron")]
pub use format::schedule::{MissedRuns, Target};
pub use format::{filter::HeaderFilter, note::DeadLetter, record::Headers};
pub use ids::{Offset, Timestamp};
pub use inspect::{
    Affected, Amounts, Consumer, Lost, Problem, Renamed, SalvageReport, VerifyReport, salvage,
    verify,
};
pub use message::{IntoBytes, Message};
pub use store::LogName;
pub use stream::partition_of;

#[cfg(seeded_bugs)]
#[doc(hidden)]
pub use seeded::{ALL as SEEDED_BUGS, Bug as SeededBug, switch_on as switch_on_bug};

#[cfg(fuzzing)]
#[doc(hidden)]
pub use format::fuzzing;

/// The guides, as they are in `docs/` of the repository.
#[cfg(any(doc, doctest))]
pub mod guide {
    #[doc = "[queues]: crate::guide::queues\n[topics]: crate::guide::topics\n[streams]: crate::guide::streams\n"]
    #[doc = "[time]: crate::guide::time\n[durability]: crate::guide::durability\n"]
    #[doc = include_str!("../docs/CHOOSING.md")]
    pub mod choosing {}

    #[doc = "[durability]: crate::guide::durability\n[time]: crate::guide::time\n"]
    #[doc = include_str!("../docs/QUEUES.md")]
    pub mod queues {}

    #[doc = "[queues]: crate::guide::queues\n[streams]: crate::guide::streams\n[durability]: crate::guide::durability\n"]
    #[doc = include_str!("../docs/TOPICS.md")]
    pub mod topics {}

    #[doc = "[queues]: crate::guide::queues\n[`partition_of`]: crate::partition_of\n"]
    #[doc = include_str!("../docs/STREAMS.md")]
    pub mod streams {}

    #[cfg(feature = "cron")]
    #[doc = include_str!("../docs/SCHEDULES.md")]
    pub mod schedules {}

    #[doc = include_str!("../docs/TIME.md")]
    pub mod time {}

    #[doc = "[time]: crate::guide::time\n"]
    #[doc = include_str!("../docs/DURABILITY.md")]
    pub mod durability {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// A simulated disk with power cuts and faults, to crash-test handlers. It needs the feature `sim`:
/// `posthouse = { ..., features = ["sim"] }` under `[dev-dependencies]`.
///
/// It simulates the disk and its clocks only. A call that waits, such as `receive` with a timeout,
/// waits in real time. Use `try_receive`, and move the clocks with
/// [`advance`](sim::SimDisk::advance).
#[cfg(feature = "sim")]
pub mod sim {
    #[cfg(all(debug_assertions, not(loom)))]
    #[doc(hidden)]
    pub use crate::audit::{
        OfProcess, take_longest_holds, take_of_process, take_steps, watch_process,
    };
    pub use crate::disk::sim::SimDisk;
    #[doc(hidden)]
    pub use crate::engine::{awake, publish_to, rest, still};
}
