//! What users are told of streams.

mod group;
mod read;
