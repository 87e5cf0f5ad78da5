//! The documented behaviour of streams.

mod bounded;
mod conditional;
mod group;
mod numbers;
mod read;
mod retention;
