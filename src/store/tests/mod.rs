//! Tests of this room.

mod acks;
mod capture;
pub mod checkpoint;
mod crowd;
mod settings;
mod tail;
