//! The metalog: the state of the store as a log of entries. The newest entry of a key counts. Compaction begins a new
//! file with the whole state.
//!
//! Invariants: a file gets its real name only once it begins with a complete, durable checkpoint. Entries count once a
//! checkpoint follows them. Nothing is appended to a file of an earlier epoch, nor behind a failed attempt: the next
//! checkpoint begins a new file.

mod reader;
pub mod survey;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

pub use reader::{Loaded, load};
pub use writer::MetaWriter;

use crate::{disk::Disk, layout::Layout};

/// Where the metalog is.
#[derive(Clone, Debug)]
pub struct MetaPlace {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
}
