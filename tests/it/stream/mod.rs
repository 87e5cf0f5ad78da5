//! The documented behaviour of streams.

mod conditional;
mod group;
mod read;
