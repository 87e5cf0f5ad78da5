//! The documented behaviour of streams.

mod backward;
mod batches;
mod bounded;
mod conditional;
mod gaps;
mod group;
mod numbers;
mod read;
mod retention;
