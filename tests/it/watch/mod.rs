//! What users are told of watching.

mod latency;
mod levels;
mod stats;
