//! Tests of this room.

mod acks;
#[cfg(not(loom))]
mod capture;
pub mod checkpoint;
mod crowd;
mod settings;
mod tail;
