//! Commits: made when there is room for them, and made durable by one sync for many. The threads, the
//! poison and the shutdown of the engine are here, too.

pub mod append;
pub mod checkpoint;
pub mod committer;
pub mod dead_letters;
pub mod definition;
pub mod group_commit;
pub mod lifetime;
pub mod oldest;
pub mod read;
pub mod shutdown;
pub mod spill;
pub mod sync;
pub mod threads;
pub mod ticket;
pub mod transact;
