//! Tests of this room.

mod acks;
#[cfg(not(loom))]
mod capture;
pub mod checkpoint;
mod crowd;
mod filtered;
#[cfg(not(loom))]
mod filters;
#[cfg(not(loom))]
mod plain;
mod settings;
mod tail;
