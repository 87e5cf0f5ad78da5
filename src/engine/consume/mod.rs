//! Consuming: the calls of a consumer of a queue or a subscription, and of its deliveries.

mod ack_batch;
pub mod browse;
pub mod calls;
pub mod consumer;
#[cfg(feature = "stream")]
pub mod deliveries;
pub mod delivery;
pub mod discard;
pub mod due_times;
pub mod getters;
mod grant;
pub mod key_order;
pub mod lease;
mod pause;
pub mod receive;
pub mod remove;
pub mod settle;
pub mod slot;
pub mod state_calls;
pub mod watch;
pub mod weigh;
pub mod worker;
