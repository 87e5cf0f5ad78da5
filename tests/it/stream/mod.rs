//! The documented behaviour of streams.

mod group;
mod read;
