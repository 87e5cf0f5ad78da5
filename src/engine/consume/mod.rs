//! Consuming: what a consumer of a queue or a subscription does.
//!
//! `receive.rs` receives, `lease.rs` leases and reads messages (`key_order.rs` one by one), `settle.rs` settles
//! deliveries, and `discard.rs` discards messages that expired or were tried too often. The changes under the core are
//! in `engine/core/`.

pub mod browse;
pub mod calls;
pub mod consumer;
#[cfg(feature = "stream")]
pub mod deliveries;
pub mod delivery;
pub mod discard;
pub mod due_times;
pub mod getters;
pub mod key_order;
pub mod lease;
pub mod receive;
pub mod remove;
pub mod settle;
pub mod slot;
pub mod watch;
pub mod weigh;
pub mod worker;
