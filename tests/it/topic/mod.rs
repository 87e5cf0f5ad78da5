//! The documented behaviour of topics.

mod fan_out;
mod filters;
mod nats;
mod retention;
