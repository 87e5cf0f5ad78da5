//! The engine: handles, threads, waiting.
//!
//! Everything below this floor is a state machine. Here it is shared: one mutex, the core, holds
//! the store and who has what on lease; commits are made under it and made durable outside it.
//! Invariants: nothing waits for the disk while it holds the core, but for reading a segment's
//! table; wake-ups are decided under the core, so none is lost; a failed sync ends everything.

mod ages;
mod ahead;
mod background;
#[cfg(feature = "cron")]
mod board;
mod browse;
mod builders;
mod closing;
mod consumer;
mod consumption;
mod core;
mod dead;
#[cfg(feature = "stream")]
mod deliveries;
mod delivery;
mod fate;
mod group;
mod grouped;
mod handle;
mod latency;
mod options;
mod queue;
mod reader;
mod record;
mod redrive;
mod room;
#[cfg(feature = "cron")]
mod schedule;
#[cfg(feature = "cron")]
mod scheduler;
mod seat;
mod shared;
mod stream;
mod sync;
#[cfg(all(test, loom))]
mod tests;
mod ticket;
mod time;
mod timetable;
mod topic;
mod transaction;
mod turns;
mod wait;
mod wanted;
mod watching;
mod weights;
mod worker;

pub use browse::{Browse, Browsed};
pub use builders::{GroupBuilder, QueueBuilder, StreamBuilder, SubscriptionBuilder, TopicBuilder};
#[cfg(feature = "stream")]
pub use deliveries::Deliveries;
pub use delivery::Delivery;
pub use group::Group;
pub use handle::Engine;
pub use latency::{Latencies, Latency};
pub use options::Options;
pub use queue::Queue;
pub use reader::{Reader, Start};
pub use record::{OwnedRecord, Record};
pub use redrive::{Redrive, Redriven};
#[cfg(feature = "cron")]
pub use schedule::{Schedule, ScheduleBuilder};
#[cfg(feature = "cron")]
pub use scheduler::{ScheduleFailure, Scheduler, SchedulerBuilder};
pub use stream::{Partition, Position, Stream};
pub use ticket::Ticket;
pub use topic::{Subscription, Topic};
pub use transaction::Transaction;
pub use watching::{ConsumerStats, Crossing, Level, LevelWatch, Rates};
pub use worker::{Worker, WorkerBuilder};
