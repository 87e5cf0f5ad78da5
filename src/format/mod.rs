//! Bytes to types and back, and nothing else: no input or output, no state, no clock. Every byte
//! that the engine writes is laid out here, and only here; `docs/FORMAT.md` is the table of it.
//!
//! Invariants: whatever the bytes are, a decoder returns a value or [`Malformed`]. It never
//! panics, and it never allocates by a length that it has not checked against what is there.

pub mod block;
pub mod commit;
pub mod delay_index;
pub mod entity;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod header;
pub mod journal;
pub mod meta;
pub mod note;
mod offsets;
pub mod pack;
pub mod record;
mod run;
#[cfg(feature = "cron")]
pub mod schedule;
pub mod segment;
pub mod wire;

#[cfg(test)]
mod tests;

pub use wire::Malformed;
