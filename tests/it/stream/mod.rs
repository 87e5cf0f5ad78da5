//! The documented behaviour of streams.

mod bounded;
mod conditional;
mod group;
mod read;
mod retention;
