//! Watching queues and subscriptions: statistics, latencies and thresholds.

mod latency;
mod stats;
mod thresholds;
