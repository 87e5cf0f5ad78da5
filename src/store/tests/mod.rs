//! Tests of this room.

mod acks;
pub mod checkpoint;
mod crowd;
mod settings;
mod tail;
