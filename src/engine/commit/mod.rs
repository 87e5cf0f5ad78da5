//! Commits and their durability: a commit waits for space in the journal, and one sync serves many commits.
//!
//! `transact.rs` commits, `sync.rs` and `group_commit.rs` make commits durable, and `checkpoint.rs` makes
//! space. The engine's threads, its poison and its shutdown are here, too.

pub mod alone;
pub mod append;
pub mod asking;
pub mod batch;
pub mod checkpoint;
mod closing;
pub mod committer;
pub mod dead_letters;
pub mod definition;
pub mod delivery_settings;
mod existing;
pub mod group_commit;
pub mod lack;
pub mod lifetime;
pub mod oldest;
pub mod patience;
pub mod pressure;
pub mod read;
mod retention;
mod rounds;
pub mod shutdown;
pub mod sleep;
pub mod space;
pub mod spill;
pub mod sweep;
pub mod sync;
#[cfg(all(test, not(loom)))]
mod tests;
pub mod threads;
pub mod ticket;
pub mod transact;
mod updating;
mod verify;
