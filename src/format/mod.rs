//! The format on disk: encodes types to bytes and decodes bytes to types. There is no input or output here, no state
//! and no clock. Every byte that the engine writes is laid out here and nowhere else. `docs/FORMAT.md` has the tables.
//!
//! Invariants: for any bytes, a decoder returns a value or [`Malformed`]. It never panics. It checks each length
//! against the bytes that exist before it allocates.

pub mod block;
pub mod clock;
pub mod commit;
pub mod delay_index;
pub mod encoded;
pub mod entity;
pub mod filter;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod header;
pub mod journal;
pub mod lives;
pub mod meta;
pub mod note;
mod offsets;
pub mod pack;
pub mod part;
pub mod record;
mod run;
#[cfg(feature = "cron")]
pub mod schedule;
pub mod segment;
pub mod stored;
pub mod wire;

#[cfg(test)]
mod tests;

pub use wire::Malformed;
