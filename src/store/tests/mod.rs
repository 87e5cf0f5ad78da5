//! Tests of this room.

mod acks;
pub mod checkpoint;
mod settings;
mod tail;
